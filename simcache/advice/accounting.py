"""Where the reusable tokens of a layout go: expired, not yet visible, below the minimum, or found by no breakpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from .families import Study
from .layouts import Layout, segment_ends, starts_s
from .playing import Served

CAUSES: Final = ("below-minimum", "ttl-gap", "fan-out", "missing-breakpoint", "breakpoint-on-varying", "lookback")


@dataclass(kw_only=True)
class Losses:
    """Tokens that requests had in common with earlier ones (``reusable``; ``sharing``: which did), and by cause what of it
    could not be read: tokens, the requests concerned, and the part at which the first one's prefix ends.

    ``gaps_s``: from the start of the last request with as much of the prefix to the start of the next, where instants are known.
    """

    reusable: int = 0
    sharing: list[int] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)
    requests: dict[str, list[int]] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    gaps_s: list[float] = field(default_factory=list)
    waits_s: dict[int, float] = field(default_factory=dict)
    """Requests that were sent before their prefix was visible: how much later it was."""
    paused: int = 0
    """Tokens lost to gaps inside conversations."""

    def add(self, cause: str, tokens: int, index: int, path: str) -> None:
        """Charge tokens of a request to a cause."""
        if tokens > 0:
            self.tokens[cause] += tokens
            self.requests.setdefault(cause, []).append(index)
            self.paths.setdefault(cause, path)


class _Prefix:
    """A prefix that was sent: when last, from when it is visible, and when a breakpoint last stored or read it."""

    __slots__ = ("last_s", "stop_s", "visible_s", "visits")

    def __init__(self) -> None:
        self.last_s: float | None = None
        self.visible_s = 0.0
        self.stop_s: float | None = None
        self.visits = 0


def losses(study: Study, layout: Layout, served: Mapping[str | None, Served]) -> Losses:
    """Follow every request of a layout down the prefixes that were sent before it, in order of time.

    A prefix is visible to others from the first token on that the profile predicts for who sent it first.
    """
    starts = [start + layout.delays_s.get(index, 0.0) for index, start in enumerate(starts_s(study.log))]
    paths = _paths(study, layout)
    found = Losses()
    for index in sorted(range(len(starts)), key=lambda i: (starts[i], i)):
        _follow(study, layout, served[study.log.requests[index].model], index, starts[index], paths[index], found)
    return found


def _paths(study: Study, layout: Layout) -> list[list[_Prefix]]:
    """Every request's prefixes, the shortest first; equal ones are one, per model."""
    nodes: dict[tuple[str | None, int, int], int] = {}
    prefixes: list[_Prefix] = [_Prefix()]
    found = []
    for request, units in zip(study.log.requests, layout.units, strict=True):
        node, path = 0, []
        for unit in units:
            key = (request.model, node, unit.text)
            node = nodes.setdefault(key, len(prefixes))
            if node == len(prefixes):
                prefixes.append(_Prefix())
            prefixes[node].visits += 1
            path.append(prefixes[node])
        found.append(path)
    return found


def _follow(study: Study, layout: Layout, served: Served, index: int, now: float, path: Sequence[_Prefix], found: Losses) -> None:
    units, rules = layout.units[index], served.rules
    ttl = layout.ttl if layout.ttl in rules.lifetime_s else rules.default_ttl
    lifetime_s = rules.lifetime_s[ttl] if study.log.timed else float("inf")
    minimum = max(1, rules.min_tokens_of(served.api.model))
    ends = [0, *accumulate(unit.tokens for unit in units)]

    def alive(instant: float | None) -> bool:
        return instant is not None and now - instant < lifetime_s

    seen = _leading(path, lambda prefix: prefix.last_s is not None)
    living = _leading(path[:seen], lambda prefix: alive(prefix.last_s))
    visible = _leading(path[:living], lambda prefix: prefix.visible_s <= now or not study.log.timed)
    found.reusable += ends[seen]
    if seen:
        found.sharing.append(index)
    where = [unit.path for unit in units]
    if seen and study.log.timed:
        found.gaps_s.append(now - (path[seen - 1].last_s or 0.0))
    marks = sorted({*layout.marks[index], *([len(units)] if rules.automatic_marker and units else [])})
    if ends[seen] < minimum:
        found.add("below-minimum", ends[seen], index, where[seen - 1] if seen else "")
    else:
        found.add("ttl-gap", ends[seen] - ends[living], index, where[seen - 1])
        found.paused += ends[seen] - ends[living] if study.previous[index] is not None else 0
        found.add("fan-out", ends[living] - ends[visible], index, where[living - 1])
        if living > visible:
            found.waits_s[index] = max(prefix.visible_s for prefix in path[:living]) - now
        if rules.matching == "exact at breakpoints" and ends[visible] >= minimum:
            positions = [0, *segment_ends(units)]
            stops = [place for place in range(1, visible + 1) if alive(path[place - 1].stop_s)]
            reach = rules.lookback_positions or len(positions) + 1
            near = [stop for stop in stops if any(m >= stop and positions[m] - positions[stop] < reach for m in marks)]
            reached = max(near, default=0)
            beyond = max(stops, default=0)
            if beyond > reached and marks:
                found.add("lookback", ends[beyond] - ends[reached], index, where[beyond - 1])
            lost = ends[visible] - ends[max(reached, beyond if marks else 0)]
            alone = bool(marks) and not reached and all(path[mark - 1].visits == 1 for mark in marks)
            if alone:
                found.add("breakpoint-on-varying", lost, index, where[marks[0] - 1])
            else:
                found.add("missing-breakpoint", lost, index, where[visible - 1])
    ttft_s = served.profile.ttft_s(ends[-1] - ends[visible], ends[visible])
    for prefix in path:
        if not alive(prefix.last_s):
            prefix.visible_s = now + ttft_s
        prefix.last_s = now
    for mark in marks:
        if ends[mark] >= minimum:
            path[mark - 1].stop_s = now


def _leading(path: Sequence[_Prefix], holds: Callable[[_Prefix], bool]) -> int:
    """How many prefixes, from the shortest on, something holds for."""
    for place, prefix in enumerate(path):
        if not holds(prefix):
            return place
    return len(path)
