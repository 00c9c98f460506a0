"""Fixed texts that come in changing order: examples, documents, sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .families import Place, Study
from .slots import BEHIND_TOKENS


@dataclass(kw_only=True)
class Reordering:
    """Fixed pieces of a family that some requests hold in another order than the first: ``rank`` is the order of the first."""

    family: int
    in_head: bool
    path: str
    rank: dict[int, int]
    requests: list[int] = field(default_factory=list)


def reorderings(study: Study) -> list[Reordering]:
    """Every family whose fixed pieces change their order, in the head or in what opens its conversations."""
    found = []
    for number, family in enumerate(study.families):
        for in_head, indices, fixed in ((True, family.requests, family.head_fixed), (False, family.openers, family.talk_fixed)):
            if len(fixed) > 1:
                made = _reordering(study, number, in_head, indices, fixed)
                if made is not None:
                    found.append(made)
    return found


def _reordering(study: Study, number: int, in_head: bool, indices: Sequence[int], fixed: frozenset[int]) -> Reordering | None:
    rank: dict[int, int] = {}
    made: Reordering | None = None
    moved_tokens = 0
    known: set[tuple[int, ...]] = set()
    early = len(fixed)
    last: tuple[int, ...] | None = None
    for index in indices:
        places = [place for place in (study.head_places(index) if in_head else study.talk_places(index)) if place.piece in fixed]
        order = tuple(place.piece for place in places)
        if not rank:
            for piece in order:
                rank.setdefault(piece, len(rank))
        if order not in known:
            firsts = list({place.piece: place for place in reversed(places) if place.piece in rank}.values())[::-1]
            agreeing = _agreeing(firsts, rank)
            if agreeing < len(firsts):
                early = min(early, agreeing)
                if made is None or agreeing == early:
                    path = firsts[agreeing].part.path
                    made = made or Reordering(family=number, in_head=in_head, path=path, rank=rank)
                    made.path = path
                moved_tokens = max(moved_tokens, sum(study.piece_tokens(place.piece) for place in firsts[agreeing:]))
            known.add(order)
        if made is not None and last is not None and order != last:
            made.requests.append(index)
        last = order
    return made if made is not None and moved_tokens >= BEHIND_TOKENS and made.requests else None


def _agreeing(places: Sequence[Place], rank: dict[int, int]) -> int:
    """How many leading places stand in the order of ``rank``."""
    pieces = [place.piece for place in places]
    expected = sorted(pieces, key=rank.__getitem__)
    return next((i for i, (a, b) in enumerate(zip(pieces, expected, strict=True)) if a != b), len(pieces))
