"""The requests of a log as they would be with some of their defects mended: the same parts, moved, sorted and kept."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from itertools import groupby
from typing import Final, Literal, NamedTuple

from ..messages.parts import Part, PartKind
from .families import Place, Study
from .histories import Continuation
from .orders import Reordering
from .pieces import canonical_json
from .slots import IN_PLACE, Slot
from .threads import conversation
from .tool_lists import ToolChange

Region = Literal["tools", "head", "session", "own", "opener", "talk", "tail"]
Key = tuple[Hashable, ...]


class Unit(NamedTuple):
    """A run of a prompt: the number of its text in the study, its tokens, the part that it comes from, and its region: tools and
    head (what all requests of a family share), session (the rest of the system message), own (text of one user or session, moved
    there), opener (fixed text of the conversation's beginning), talk, and the tail, which is new with every request."""

    text: int
    tokens: int
    path: str
    kind: PartKind
    region: Region


def slot_key(slot: Slot) -> Key:
    """The name of a slot among what can be mended."""
    return ("slot", *slot.key)


def tools_key(change: ToolChange) -> Key:
    """The name of a change of tools among what can be mended."""
    return ("tools", change.family, change.kind)


def order_key(order: Reordering) -> Key:
    """The name of a reordering among what can be mended."""
    return ("order", order.family, order.in_head)


HISTORY_KEY: Final[Key] = ("history",)


class Mender:
    """Writes the requests of a study anew, with the defects in ``mend`` (keys as above) mended and all others left."""

    def __init__(
        self,
        study: Study,
        slots: Sequence[Slot],
        changes: Sequence[ToolChange],
        orders: Sequence[Reordering],
        links: Sequence[Continuation],
    ) -> None:
        self.study = study
        self._slots = {slot_key(slot): slot for slot in slots}
        self._changes = list(changes)
        self._orders = {order_key(order): order for order in orders}
        self._links = {link.index: link for link in links}

    def every_key(self) -> list[Key]:
        """All that can be mended."""
        keys = [*self._slots, *(tools_key(change) for change in self._changes), *self._orders]
        return [*keys, *([HISTORY_KEY] if any(link.kinds for link in self._links.values()) else [])]

    def in_place(self, mend: Collection[Key], index: int) -> list[tuple[str, str]]:
        """One request as it is: (path, what varies there: a defect's kind, "" where nothing does), in order; a part of which only a
        piece varies comes in several lines."""
        return _Writer(self.study, frozenset(mend), self._slots, self._changes, self._orders, self._links, False).told(index)

    def sequences(self, mend: Collection[Key], *, split: bool = False, first: int | None = None) -> list[list[Unit]]:
        """Every request (or the ``first`` ones) as units, in the order of the log. ``split``: texts are parted where what all share
        ends, so that a breakpoint can stand there; else a part is one unit unless something in it was mended."""
        return _Writer(self.study, frozenset(mend), self._slots, self._changes, self._orders, self._links, split).written(first)


class _Writer:
    def __init__(
        self,
        study: Study,
        mend: frozenset[Key],
        slots: dict[Key, Slot],
        changes: list[ToolChange],
        orders: dict[Key, Reordering],
        links: dict[int, Continuation],
        split: bool,
    ) -> None:
        self.study, self.mend, self.links, self.orders = study, mend, links, orders
        self.slots = {key: slot for key, slot in slots.items() if key in mend}
        self.tool_kinds: dict[int, set[str]] = {}
        for change in changes:
            if tools_key(change) in mend:
                self.tool_kinds.setdefault(change.family, set()).add(change.kind)
        self.touched = {(slot.key[0], slot.in_head) for slot in self.slots.values()}
        self.touched |= {(order.family, order.in_head) for key, order in orders.items() if key in mend}
        if split:
            families = enumerate(study.families)
            self.touched |= {
                (number, in_head) for number, family in families for in_head in (True, False) if len(family.openers) > 2
            }
        self.known: dict[Hashable, list[Unit]] = {}
        self.wholes: dict[tuple[Part, Region], Unit] = {}
        self.unions: dict[int, list[Part]] = {}
        self.standing: dict[tuple[int, str], Part] = {}

    def written(self, first: int | None) -> list[list[Unit]]:
        talks: list[tuple[Part, ...]] = []
        roots: list[int] = []
        found = []
        for index in range(len(self.study.log.requests[:first])):
            before = self.study.previous[index]
            talks.append(self._talk(index, talks))
            roots.append(index if before is None else roots[before])
            family = self.study.family_of[index]
            head = self._split(family, True, self.study.head_places(index))
            talk = self._talk_units(family, talks[index], roots[index], talks)
            lead = [unit for region in ("head", "session", "own") for unit in head if unit.region == region]
            found.append([*self._tools(family, index), *lead, *talk, *(unit for unit in head if unit.region == "tail")])
        return found

    def told(self, index: int) -> list[tuple[str, str]]:
        """Paths and what varies there, for an outline of one request."""
        family = self.study.family_of[index]
        kinds = sorted(self.tool_kinds.get(family, set()))
        lines = [(part.path, ", ".join(kinds)) for part in self.study.tools(index)]
        for in_head in (True, False):
            places = self.study.head_places(index) if in_head else self.study.talk_places(index)
            home = self.study.families[family]
            fixed = home.head_fixed if in_head else home.talk_fixed
            after = -1
            for (path, free), found in groupby(places, key=lambda place: (place.part.path, place.piece not in fixed)):
                group = list(found)
                if not free:
                    after = group[-1].piece
                    lines.append((path, ""))
                    continue
                for _, _, slot in self._slotted(family, in_head, group, after):
                    lines.append((path, "" if slot is None else slot.kind))
        return [line for line, _ in groupby(lines)]

    # -- tools -----------------------------------------------------------------------------------------------------------------

    def _tools(self, family: int, index: int) -> list[Unit]:
        kinds = self.tool_kinds.get(family, set())
        parts: Sequence[Part] = self.study.tools(index)
        if not kinds:
            return [self._whole(part, "tools") for part in parts]
        if "tool-set" in kinds:
            parts = self._union(family)
        if kinds & {"tool-order", "tool-set"}:
            parts = sorted(parts, key=lambda part: (self.study.tool_name(part.content), part.content))
        if kinds - {"tool-order", "tool-set"}:
            parts = [self.standing.setdefault((family, self.study.tool_name(part.content)), part) for part in parts]
        return [self._whole(part, "tools") for part in parts]

    def _union(self, family: int) -> list[Part]:
        if family not in self.unions:
            by_name: dict[str, Part] = {}
            for index in self.study.families[family].requests:
                for part in self.study.tools(index):
                    by_name.setdefault(self.study.tool_name(part.content), part)
            self.unions[family] = list(by_name.values())
        return self.unions[family]

    # -- texts -----------------------------------------------------------------------------------------------------------------

    def _whole(self, part: Part, region: Region) -> Unit:
        found = self.wholes.get((part, region))
        if found is None:
            found = self.wholes[part, region] = self._made(part, region)
        return found

    def _made(self, part: Part, region: Region) -> Unit:
        number = self.study.number(self.study.log.contents[part.content].text)
        return Unit(number, int(self.study.counts.tokens[part.content]), part.path, part.kind, region)

    def _split(self, family: int, in_head: bool, places: tuple[Place, ...]) -> list[Unit]:
        """Head or opener as units with their regions; where nothing in it is mended, one a part."""
        region: Region = "head" if in_head else "opener"
        sign = (family, in_head, places)
        if sign not in self.known:
            if (family, in_head) in self.touched:
                self.known[sign] = self._regions(family, in_head, places)
            else:
                parts = dict.fromkeys(place.part for place in places)
                self.known[sign] = [self._whole(part, region if in_head else "talk") for part in parts]
        return self.known[sign]

    def _regions(self, family: int, in_head: bool, places: tuple[Place, ...]) -> list[Unit]:
        home = self.study.families[family]
        fixed = home.head_fixed if in_head else home.talk_fixed
        stay: list[tuple[Place, str]] = []
        moved: list[Unit] = []
        settled: set[int] = set()  # pieces that vary in their writing only, now written in one way
        after = -1
        for (_, free), found in groupby(places, key=lambda place: (place.part.path, place.piece not in fixed)):
            group = list(found)
            if not free:
                stay += [(place, self.study.texts[place.piece]) for place in group]
                after = group[-1].piece
                continue
            for place, text, slot in self._slotted(family, in_head, group, after):
                if slot is None:
                    stay.append((place, text))
                elif slot.change in IN_PLACE:
                    settled.add(place.piece)
                    stay.append((place, _in_one_way(text, slot.change)))
                else:
                    region: Region = ("own" if slot.constant else "tail") if in_head else "talk"
                    moved.append(self._unit(text, place.part, region))
        order = self.orders.get(("order", family, in_head)) if ("order", family, in_head) in self.mend else None
        if order is not None:
            stay = self._sorted(stay, order)
            settled |= order.rank.keys()
        lead = next((i for i, (place, _) in enumerate(stay) if place.piece not in fixed and place.piece not in settled), len(stay))
        own: Region = "session" if in_head else "talk"
        return [*self._joined(stay[:lead], "head" if in_head else "opener"), *self._joined(stay[lead:], own), *moved]

    def _sorted(self, texts: list[tuple[Place, str]], order: Reordering) -> list[tuple[Place, str]]:
        """Fixed texts in the order of the family's first request, each ended as it was there: the last one of a list has no gap."""
        ranks = {self.study.texts[piece].strip(): piece for piece in order.rank}
        found = [(place, ranks[text.strip()]) for place, text in texts if text.strip() in ranks]
        found.sort(key=lambda each: order.rank[each[1]])
        rest = iter([(place._replace(piece=piece), self.study.texts[piece]) for place, piece in found])
        return [next(rest) if text.strip() in ranks else (place, text) for place, text in texts]

    def _slotted(self, family: int, in_head: bool, group: list[Place], after: int) -> list[tuple[Place, str, Slot | None]]:
        path = group[0].part.path
        whole = self.slots.get(("slot", family, in_head, path, after, -1))
        if whole is not None:
            return [(group[0], "".join(self.study.texts[place.piece] for place in group), whole)]
        keys = [("slot", family, in_head, path, after, column) for column in range(len(group))]
        return [(place, self.study.texts[place.piece], self.slots.get(key)) for place, key in zip(group, keys, strict=True)]

    def _joined(self, texts: Sequence[tuple[Place, str]], region: Region) -> list[Unit]:
        units = []
        for part, group in groupby(texts, key=lambda each: each[0].part):
            units.append(self._unit("".join(text for _, text in group), part, region))
        return units

    def _unit(self, text: str, part: Part, region: Region) -> Unit:
        whole = self.study.log.contents[part.content]
        tokens = int(self.study.counts.tokens[part.content]) if text == whole.text else self.study.counts.piece_tokens(text)
        return Unit(self.study.number(text), tokens, part.path, part.kind, region)

    # -- the conversation ------------------------------------------------------------------------------------------------------

    def _talk(self, index: int, talks: Sequence[tuple[Part, ...]]) -> tuple[Part, ...]:
        """The conversation's parts: what it was before, appended to, where histories are mended."""
        own = conversation(self.study.log.requests[index])
        link = self.links.get(index)
        if HISTORY_KEY not in self.mend or link is None or link.bond == "other":
            return own
        before = talks[link.before]
        cut = len(conversation(self.study.log.requests[link.before])) - link.kept
        return (*before[: len(before) - cut], *own[link.from_ :])

    def _talk_units(self, family: int, talk: tuple[Part, ...], root: int, talks: Sequence[tuple[Part, ...]]) -> list[Unit]:
        opening = talks[root]
        if (family, False) in self.touched and talk[: len(opening)] == opening:
            lead = self._split(family, False, self.study.talk_places(root))
            return [*lead, *(self._whole(part, "talk") for part in talk[len(opening) :])]
        return [self._whole(part, "talk") for part in talk]


def _in_one_way(text: str, change: str) -> str:
    if change == "json":
        return canonical_json(text)
    if change == "order":
        return "\n".join(sorted(line.strip() for line in text.splitlines()))
    return " ".join(text.split())
