"""The frozen question of a sweep: which scenarios, under how many seeds, to what precision, and what is asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .. import stats
from ..errors import require, require_count
from .axes import Axis, Cell, grid, latin_hypercube
from .runs import Metric, Run

MOST_RUNS: Final = 1_000_000
METRICS: Final = (
    "ttft_s.p50",
    "ttft_s.p95",
    "ttft_s.p99",
    "slo_share",
    "token_hit_ratio",
    "cost_usd.per_1000_questions",
    "lost_share",
    "warm_ups.wasted_share",
)
"""What a table holds unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Seeds are added to a scenario until the interval of ``metric`` is narrow enough, or there are ``at_most``.

    The rule is ``stats.replications_wanted``: its 95 % intervals cover somewhat less than 95 %.

    >>> Precision(metric="p95(ttft_s)", relative_half_width=0.05).at_least
    10
    """

    metric: str
    half_width: float | None = None
    relative_half_width: float | None = None
    at_least: int = stats.LEAST_REPLICATIONS
    at_most: int = 200

    def __post_init__(self) -> None:
        Metric(self.metric)
        stats.replications_wanted([], **self._rule)

    def wanted(self, runs: Mapping[int, Run]) -> int:
        """How many seeds there should be, judged by the ``runs`` so far."""
        values = [Metric(self.metric).of(run) for run in runs.values()]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return len(values) if len(values) >= self.at_least else self.at_least
        return stats.replications_wanted(known, **self._rule)

    @property
    def _rule(self) -> dict[str, Any]:
        names = ("half_width", "relative_half_width", "at_least", "at_most")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Study:
    """Which scenarios, under which seeds, and what is asked of them. The same seeds for all: differences are paired.

    ``seeds`` from ``first_seed`` on; with ``precision`` as many as it takes. ``metrics``: columns of the table.

    >>> from simcache import Cluster, Scenario, TypingSessions
    >>> from simcache.experiment.axes import cells
    >>> base = Scenario(name="chat", workload=TypingSessions(users=3), backend=Cluster())
    >>> Study(cells=tuple(cells([base], [{}])), seeds=5).seeds
    5
    """

    cells: tuple[Cell, ...]
    name: str = "study"
    seeds: int = 10
    first_seed: int = 0
    precision: Precision | None = None
    metrics: tuple[str, ...] = METRICS
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(len(self.cells) > 0, "cells", 0, "must be at least one")
        require_count("seeds", self.seeds)
        require_count("first_seed", self.first_seed, at_least=0)
        require(len(self.metrics) > 0, "metrics", 0, "must be at least one")
        object.__setattr__(self, "metrics", tuple(Metric(name).name for name in self.metrics))
        runs = len(self.cells) * (self.precision.at_most if self.precision else self.seeds)
        require(runs <= MOST_RUNS, "runs", runs, f"must be at most {MOST_RUNS:,}", "Take fewer points or seeds.")

    @property
    def keys(self) -> tuple[str, ...]:
        """The full keys that differ between the scenarios, in the order of the axes."""
        return tuple(dict.fromkeys(key for cell in self.cells for key in cell.changes))


def sample(axes: Mapping[str, Any] | Sequence[Axis] | None, *, points: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """The points of a study: a grid of all axes, or ``points`` of a Latin hypercube. No axes at all: one point, as it stands.

    >>> sample({"replicas": [1, 2]})
    [{'replicas': 1}, {'replicas': 2}]
    """
    if axes is None:
        require(points is None, "points", points, "goes with axes")
        return [{}]
    way_out = "Name a key and its values, or leave the axes out."
    require(len(axes) > 0, "axes", {}, "must name at least one key", way_out)
    listed = [Axis.of(key, given) for key, given in axes.items()] if isinstance(axes, Mapping) else list(axes)
    return grid(listed) if points is None else latin_hypercube(listed, points, seed)
