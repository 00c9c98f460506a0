"""Requests made from one template: which pieces of their texts are fixed, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ..messages.parts import MessageLog, Part
from ..messages.tokens import TokenCounts
from .pieces import pieces_of
from .threads import head_length, predecessors

FIXED_SHARE: Final = 0.9
"""Share of a family's requests in which a piece must stand to be fixed; a tenth may be of another version."""
_FREQUENT_SHARE: Final = 0.02
_ALIKE: Final = 0.5
"""Share of the frequent text that two requests of one family have in common."""
_TOOL_WEIGHT: Final = 40


class Place(NamedTuple):
    """A piece in a request: the part it stands in and its number."""

    part: Part
    piece: int


@dataclass(kw_only=True)
class Family:
    """Requests of one template: all of them, and those that open a conversation; which pieces of their heads, and of the openers'
    conversations, are fixed."""

    requests: list[int] = field(default_factory=list)
    openers: list[int] = field(default_factory=list)
    head_fixed: frozenset[int] = frozenset()
    talk_fixed: frozenset[int] = frozenset()


class Study:
    """A log taken apart: conversations, families, and every text in pieces. What the defects are looked for in."""

    def __init__(self, log: MessageLog, counts: TokenCounts) -> None:
        self.log, self.counts = log, counts
        self.previous = predecessors(log)
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}
        self._pieces: dict[int, tuple[int, ...]] = {}
        self._tokens: dict[int, int] = {}
        self.heads = [head_length(request) for request in log.requests]
        self.head_signs = [tuple(p.content for p in r.parts[:size]) for r, size in zip(log.requests, self.heads, strict=True)]
        self._head_places: dict[tuple[int, ...], tuple[Place, ...]] = {}
        self._tools: dict[tuple[int, ...], tuple[Part, ...]] = {}
        self._tool_names: dict[int, str] = {}
        self.family_of: list[int] = [0] * len(log)
        self.families = self._families()

    # -- pieces ----------------------------------------------------------------------------------------------------------------

    def number(self, text: str) -> int:
        """The number of a piece of text."""
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return found

    def pieces(self, content: int) -> tuple[int, ...]:
        """The pieces of a content, by number; what is no text is one piece."""
        found = self._pieces.get(content)
        if found is None:
            whole = self.log.contents[content]
            texts = pieces_of(whole.text) if whole.kind == "text" else [whole.text]
            found = self._pieces[content] = tuple(map(self.number, texts))
        return found

    def piece_tokens(self, piece: int) -> int:
        """Tokens of a piece, at the scale of the log's usage counts."""
        found = self._tokens.get(piece)
        if found is None:
            found = self._tokens[piece] = self.counts.piece_tokens(self.texts[piece])
        return found

    def head_places(self, request: int) -> tuple[Place, ...]:
        """The pieces of system messages and output schemas, in order; tools are looked at apart."""
        found = self._head_places.get(self.head_signs[request])
        if found is None:
            parts = self.log.requests[request].parts[: self.heads[request]]
            found = tuple(Place(part, piece) for part in parts if part.kind != "tool" for piece in self.pieces(part.content))
            self._head_places[self.head_signs[request]] = found
        return found

    def talk_places(self, request: int) -> tuple[Place, ...]:
        """The pieces of the conversation, in order."""
        talk = self.log.requests[request].parts[self.heads[request] :]
        return tuple(Place(part, piece) for part in talk for piece in self.pieces(part.content))

    def tools(self, request: int) -> tuple[Part, ...]:
        """The tool definitions of a request."""
        found = self._tools.get(self.head_signs[request])
        if found is None:
            parts = self.log.requests[request].parts[: self.heads[request]]
            found = self._tools[self.head_signs[request]] = tuple(part for part in parts if part.kind == "tool")
        return found

    # -- families --------------------------------------------------------------------------------------------------------------

    def _families(self) -> list[Family]:
        openers = [index for index, before in enumerate(self.previous) if before is None]
        signs = {index: self._signs(index) for index in openers}
        seen = Counter(sign for found in signs.values() for sign in found)
        enough = max(2, _FREQUENT_SHARE * len(openers))
        families: list[Family] = []
        stand_for: list[frozenset[str | int]] = []
        known: dict[frozenset[str | int], int] = {}
        for index in openers:
            frequent = frozenset(sign for sign in signs[index] if seen[sign] >= enough)
            if frequent not in known:
                alike = [self._alike(frequent, other) for other in stand_for]
                best = max(range(len(alike)), key=alike.__getitem__, default=-1)
                if best < 0 or alike[best] < _ALIKE:
                    best = len(families)
                    families.append(Family())
                    stand_for.append(frequent)
                known[frequent] = best
            self.family_of[index] = known[frequent]
            families[known[frequent]].openers.append(index)
        for index, before in enumerate(self.previous):
            if before is not None:
                self.family_of[index] = self.family_of[before]
            families[self.family_of[index]].requests.append(index)
        for family in families:
            family.head_fixed = self._fixed(family.requests, self.head_places)
            family.talk_fixed = self._fixed(family.openers, self.talk_places) if len(family.openers) > 2 else frozenset()
        return families

    def _signs(self, index: int) -> set[str | int]:
        signs: set[str | int] = {place.piece for place in (*self.head_places(index), *self.talk_places(index))}
        return signs | {f"tool {self.tool_name(part.content)}" for part in self.tools(index)}

    def tool_name(self, content: int) -> str:
        """The name that a tool is called by; "" where it has none."""
        if content not in self._tool_names:
            self._tool_names[content] = self._named(content)
        return self._tool_names[content]

    def _named(self, content: int) -> str:
        tool = self.log.contents[content].value()
        for place in (tool, tool.get("function"), tool.get("toolSpec")) if isinstance(tool, dict) else ():
            name = place.get("name") if isinstance(place, dict) else None
            if isinstance(name, str):
                return name
        kind = tool.get("type") if isinstance(tool, dict) else None
        return kind if isinstance(kind, str) else ""

    def _alike(self, one: frozenset[str | int], other: frozenset[str | int]) -> float:
        weights = [self._weight(signs) for signs in (one, other, one & other)]
        if not weights[0] and not weights[1]:
            return 1.0
        return weights[2] / min(weights[:2]) if min(weights[:2]) else 0.0

    def _weight(self, signs: Iterable[str | int]) -> int:
        return sum(_TOOL_WEIGHT if isinstance(sign, str) else len(self.texts[sign]) for sign in signs)

    def _fixed(self, indices: Sequence[int], places: Callable[[int], tuple[Place, ...]]) -> frozenset[int]:
        seen: Counter[int] = Counter()
        same = Counter(places(index) for index in indices)
        for found, times in same.items():
            for piece in {place.piece for place in found}:
                seen[piece] += times
        return frozenset(piece for piece, times in seen.items() if times >= FIXED_SHARE * len(indices))
