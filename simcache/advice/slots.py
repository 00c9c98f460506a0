"""What varies between the fixed pieces of a family: where, how, and whether fixed text stands behind it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import median_low
from typing import Final, NamedTuple

from .families import Family, Place, Study
from .pieces import Change, change_of

BEHIND_TOKENS: Final = 40
"""Fixed tokens behind a variable from which it is a defect: a closing "Answer in JSON." is none."""
FEW_VALUES: Final = 0.05
"""Values per request below which text that varies is a handful of versions, each of which is cached for itself."""
NEW_EACH_TIME: Final = 0.5
"""Values per request from which an instant or id in the head is new with every request, and is told whatever stands behind it."""
REORDERED: Final = 0.7
"""Share of a slot's texts that are another one's lines in another order, from which the order is what varies."""
IN_PLACE: Final = frozenset(("whitespace", "json", "order"))
"""Changes of writing: what varies is fixed text itself, once it is written in one way."""
_MOST_COLUMNS: Final = 8
_MOST_TEXTS: Final = 60
_LONG_TEXT: Final = 160

SlotKey = tuple[int, bool, str, int, int]
"""Family, whether in the head, path, the fixed piece before (-1: none), which piece of the run (-1: all of it)."""


class Run(NamedTuple):
    """Pieces between two fixed ones: the fixed piece before (-1: none), their places, and fixed tokens around them."""

    after: int
    places: tuple[Place, ...]
    before_tokens: int
    behind_tokens: int


@dataclass(kw_only=True)
class Slot:
    """A place of a family's template that varies: its values by request, and what was found out about them."""

    key: SlotKey
    role: str
    values: dict[int, str] = field(default_factory=dict, repr=False)
    before_tokens: int = 0
    behind_tokens: int = 0
    change: Change = "same"
    moving: int = 0
    """Requests whose value is another than that of the request whose conversation they continue."""
    constant: bool = False
    """Whether it belongs to a conversation, session or user: the same in all requests of one."""
    kind: str = ""
    reported: bool = False
    """Whether its variation is a defect wherever breakpoints stand."""

    @property
    def in_head(self) -> bool:
        """Whether it stands in front of the conversation."""
        return self.key[1]

    @property
    def path(self) -> str:
        """The part it stands in."""
        return self.key[2]

    @property
    def distinct(self) -> int:
        """How many values it takes."""
        return len(set(self.values.values()))


def runs_of(study: Study, places: Sequence[Place], fixed: frozenset[int], behind_tokens: int = 0) -> Iterator[Run]:
    """The runs of pieces that are not fixed. ``behind_tokens``: fixed tokens behind all the ``places``."""
    total = sum(study.piece_tokens(place.piece) for place in places if place.piece in fixed)
    before, after = 0, -1
    for (path, free), found in groupby(places, key=lambda place: (place.part.path, place.piece not in fixed)):
        del path
        group = tuple(found)
        if free:
            yield Run(after, group, before, total - before + behind_tokens)
        else:
            before += sum(study.piece_tokens(place.piece) for place in group)
            after = group[-1].piece


def slots_of(study: Study) -> list[Slot]:
    """Every slot of every family that varies, in order of family and place."""
    return [slot for family in study.families if len(family.requests) > 1 for slot in _family_slots(study, family)]


def _family_slots(study: Study, family: Family) -> list[Slot]:
    number = study.family_of[family.requests[0]]
    talk_tokens = sum(study.piece_tokens(piece) for piece in family.talk_fixed)
    slots = _collected(study, number, family.requests, family.head_fixed, True, talk_tokens)
    if family.talk_fixed:
        slots += _collected(study, number, family.openers, family.talk_fixed, False, 0)
    return [slot for slot in slots if _judge(study, family, slot)]


def _collected(
    study: Study, number: int, indices: Sequence[int], fixed: frozenset[int], in_head: bool, behind_tokens: int
) -> list[Slot]:
    """The slots with all their values; a run of as many pieces everywhere is looked at piece by piece."""
    found: dict[tuple[str, int], dict[int, Run]] = {}
    known: dict[tuple[Place, ...], list[Run]] = {}
    for index in indices:
        places = study.head_places(index) if in_head else study.talk_places(index)
        if places not in known:
            known[places] = list(runs_of(study, places, fixed, behind_tokens))
        for run in known[places]:
            found.setdefault((run.places[0].part.path, run.after), {}).setdefault(index, run)
    slots = []
    for (path, after), runs in found.items():
        lengths = {len(run.places) for run in runs.values()}
        by_column = len(lengths) == 1 and max(lengths) <= _MOST_COLUMNS
        for column in range(max(lengths)) if by_column else (-1,):
            some = next(iter(runs.values()))
            slot = Slot(key=(number, in_head, path, after, column), role=some.places[0].part.role)
            for index, run in runs.items():
                chosen = run.places if column < 0 else run.places[column : column + 1]
                slot.values[index] = "".join(study.texts[place.piece] for place in chosen)
            slot.before_tokens = median_low([run.before_tokens for run in runs.values()])
            slot.behind_tokens = median_low([run.behind_tokens for run in runs.values()])
            slots.append(slot)
    return slots


def _judge(study: Study, family: Family, slot: Slot) -> bool:
    """Find out whether a slot varies, how, and whether that is a defect."""
    texts = list(dict.fromkeys(slot.values.values()))
    missing = len(family.requests if slot.in_head else family.openers) - len(slot.values)
    if len(texts) + bool(missing) < 2:
        return False
    slot.change = change_of(texts[:_MOST_TEXTS] if len(texts) > 1 else [*texts, ""])
    pairs = [(index, study.previous[index]) for index in slot.values if slot.in_head and study.previous[index] is not None]
    slot.moving = sum(slot.values[index] != slot.values.get(before if before is not None else -1) for index, before in pairs)
    if slot.change == "text" and _reordered(texts):
        slot.change = "order"
    slot.constant = _belongs(study, slot, len(pairs))
    slot.kind = _kind(slot)
    slot.reported = slot.moving > 0 or _is_defect(study, slot, missing)
    return True


def _is_defect(study: Study, slot: Slot, missing: int) -> bool:
    new = slot.distinct >= NEW_EACH_TIME * len(slot.values)
    if slot.in_head and new and slot.change in ("timestamp", "id", "counter"):
        return True  # even where nothing shared stands behind it, as long as no conversation goes on: it costs nothing yet
    few = slot.distinct < max(2, FEW_VALUES * len(slot.values)) or (missing > 0 and slot.distinct < 2)
    if slot.change in ("text", "order", "whitespace", "json") and few:
        return False
    own = study.counts.piece_tokens(next(iter(slot.values.values()))) if slot.change in IN_PLACE else 0
    return slot.behind_tokens + own >= BEHIND_TOKENS


def _reordered(texts: Sequence[str]) -> bool:
    """Whether most of the texts have the lines of another one in another order."""
    groups: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for text in texts:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(lines) > 1:
            groups[tuple(sorted(lines))].add(text)
    return sum(len(group) for group in groups.values() if len(group) > 1) >= REORDERED * len(texts)


def _belongs(study: Study, slot: Slot, pairs: int) -> bool:
    if slot.moving:
        return False
    if pairs:
        return True
    for name in ("session", "user"):
        owners: dict[str, set[str]] = defaultdict(set)
        times: Counter[str] = Counter()
        for index, value in slot.values.items():
            owner = getattr(study.log.requests[index], name)
            if owner is not None:
                owners[owner].add(value)
                times[owner] += 1
        if any(times[owner] > 1 for owner in owners) and all(len(values) == 1 for values in owners.values()):
            return True
    return False


_OWNERS: Final = re.compile(
    r"\b(?:user|customer|client|account|tenant|member|employee|guest|patient|student|organi[sz]ation|company|name|session|conversation|"
    r"thread|chat)s?\b|用户|客户|会话|姓名|账号",
    re.IGNORECASE,
)
_REQUESTS: Final = re.compile(
    r"\b(?:request|req|trace|nonce|span|correlation|message|call|uuid|salt|seed)s?(?:\b|_)|请求", re.IGNORECASE
)


def _named(slot: Slot) -> str | None:
    """Whose a value is by the words around it, where they say so."""
    text = next(iter(slot.values.values()))
    if len(text) > _LONG_TEXT or not slot.in_head:
        return None
    plain = text.replace("_", " ")
    if _REQUESTS.search(plain):
        return "request-id" if slot.change == "id" else None
    return "session-text" if _OWNERS.search(plain) else None


def _kind(slot: Slot) -> str:
    plain = {"whitespace": "unstable-system", "timestamp": "timestamp", "json": "json-order", "order": "document-order"}
    if slot.change in plain:
        return plain[slot.change]
    if slot.constant:
        return "session-text"
    named = None if slot.moving else _named(slot)
    if named is not None:
        return named
    if slot.change == "id":
        return "request-id"
    if slot.change == "counter":
        return "unstable-system" if slot.in_head else "variables-first"
    lengths = sorted(len(value) for value in slot.values.values())
    returns = slot.distinct < 0.8 * len(slot.values)
    short = slot.in_head and not slot.moving and returns and lengths[len(lengths) // 2] <= _LONG_TEXT
    return "session-text" if short else "variables-first"
