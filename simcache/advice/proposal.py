"""Where breakpoints belong in a layout that has been mended, and which lifetime they ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..cache.rules import ProviderRules
from .families import Study
from .layouts import segment_ends
from .mending import Unit
from .playing import Served

PLACES = {
    "head": "the end of tools and system, as far as all requests share them",
    "session": "the end of the system message",
    "opener": "the end of the fixed text at the beginning of the conversation",
    "before": "where the request before ended",
    "talk": "the newest message, in front of what changes with every request",
}
"""Where a breakpoint of the proposal stands, in words."""


def proposed_marks(
    study: Study, units: Sequence[Sequence[Unit]], served: Mapping[str | None, Served]
) -> list[tuple[tuple[int, str], ...]]:
    """For every request the breakpoints to set: after which unit (counted from 1), and why there (a key of ``PLACES``).

    The end of what all share, of what the conversation shares, of the fixed text that opens it, and, where conversations go on, of
    the conversation; one where the request before ended when that is further back than the provider looks.
    """
    goes_on = {number: _goes_on(study, number) for number in range(len(study.families))}
    found: list[tuple[tuple[int, str], ...]] = []
    for index, request in enumerate(study.log.requests[: len(units)]):
        rules, model = served[request.model].rules, served[request.model].api.model
        if rules.matching != "exact at breakpoints" or rules.max_markers <= rules.automatic_marker:
            found.append(())
            continue
        before = study.previous[index]
        shared = 0 if before is None else _shared(units[before], units[index])
        found.append(_marks(units[index], shared, rules, model, goes_on[study.family_of[index]]))
    return found


def _goes_on(study: Study, number: int) -> bool:
    """Whether at least half of a family's conversations are continued."""
    family = study.families[number]
    return len(family.requests) >= 1.5 * len(family.openers)


def _shared(one: Sequence[Unit], other: Sequence[Unit]) -> int:
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a.text != b.text:
            return place
    return min(len(one), len(other))


def _marks(units: Sequence[Unit], shared: int, rules: ProviderRules, model: str, goes_on: bool) -> tuple[tuple[int, str], ...]:
    ends = {"head": 0, "session": 0, "opener": 0, "talk": 0}
    for place, unit in enumerate(units, 1):
        region = {"tools": "head", "own": "session"}.get(unit.region, unit.region)
        if region in ends:
            ends[region] = place
    ends["session"] = max(ends["head"], ends["session"]) if ends["session"] else 0
    ends["opener"] = ends["opener"] if ends["opener"] > ends["head"] else 0
    ends["talk"] = max(ends.values()) if goes_on and not rules.automatic_marker else 0
    positions = [0, *segment_ends(units)]
    reach = rules.lookback_positions
    if reach is not None and shared and ends["talk"] and positions[ends["talk"]] - positions[shared] >= reach:
        ends["before"] = shared
    minimum = rules.min_tokens_of(model)
    tokens = 0
    enough = {0: False}
    for place, unit in enumerate(units, 1):
        tokens += unit.tokens
        enough[place] = tokens >= minimum
    wanted = ("talk", "before", "head", "opener", "session")  # in order of worth where there is not room for all
    chosen: dict[int, str] = {}
    for name in wanted:
        place = ends.get(name, 0)
        if enough[place] and place not in chosen and len(chosen) < rules.max_markers - rules.automatic_marker:
            chosen[place] = name
    return tuple(sorted(chosen.items()))
