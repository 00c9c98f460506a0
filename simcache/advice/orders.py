"""Fixed texts that come in changing order: examples, documents, sections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from .families import FIXED_SHARE, Place, Study
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
                made = _reordering(study, number, in_head, indices)
                if made is not None:
                    found.append(made)
    return found


def _reordering(study: Study, number: int, in_head: bool, indices: Sequence[int]) -> Reordering | None:
    """What is fixed is judged without the spaces around it: the last of a list has no gap behind it."""
    signs = [study.head_places(index) if in_head else study.talk_places(index) for index in indices]
    times = Counter(signs)
    if len(times) < 2:
        return None
    seen: Counter[str] = Counter()
    for sign, count in times.items():
        for text in {study.texts[place.piece].strip() for place in sign}:
            seen[text] += count
    steady = {text for text, count in seen.items() if count >= FIXED_SHARE * len(indices)}
    ordered = {sign: _firsts(study, sign, steady) for sign in times}
    rank: dict[int, int] = {}
    by_text: dict[str, int] = {}
    for place in ordered[signs[0]]:
        rank[place.piece] = by_text[study.texts[place.piece].strip()] = len(rank)
    agreeing = {sign: _agreeing(study, places, by_text) for sign, places in ordered.items()}
    wrong = [sign for sign in times if agreeing[sign] < len(ordered[sign])]
    if not wrong:
        return None
    moved = max(sum(study.piece_tokens(place.piece) for place in ordered[sign][agreeing[sign] :]) for sign in wrong)
    first = min(wrong, key=lambda sign: agreeing[sign])
    requests = [index for index, one, other in zip(indices[1:], signs, signs[1:], strict=False) if one != other]
    path = ordered[first][agreeing[first]].part.path
    made = Reordering(family=number, in_head=in_head, path=path, rank=rank, requests=requests)
    return made if moved >= BEHIND_TOKENS else None


def _firsts(study: Study, places: Sequence[Place], steady: set[str]) -> list[Place]:
    """The first place of every steady text."""
    found: dict[str, Place] = {}
    for place in places:
        text = study.texts[place.piece].strip()
        if text in steady:
            found.setdefault(text, place)
    return list(found.values())


def _agreeing(study: Study, places: Sequence[Place], rank: dict[str, int]) -> int:
    """How many leading places stand in the order of ``rank``."""
    ranks = [rank[text] for text in (study.texts[place.piece].strip() for place in places) if text in rank]
    return next((i for i, (a, b) in enumerate(zip(ranks, sorted(ranks), strict=True)) if a != b), len(places))
