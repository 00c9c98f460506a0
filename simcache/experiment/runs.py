"""One run reduced to its figures: what a sweep keeps, what a metric asks of it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .. import metrics, stats, units
from ..engine.run import simulate
from ..errors import ExtrapolationWarning, InputError, SimcacheError, UnknownNameError, require
from ..records import Records
from ..result import SPANS, STATISTICS, Result, run_figures
from ..scenario import Scenario
from ..workload.loaded import loaded_once
from .digests import environment_digest

SCHEMA_VERSION: Final = 1
PERCENTILES: Final = (*range(101), 99.5, 99.9)
"""The quantiles of every span that are kept of a run: a metric may ask for these."""
LOST: Final = ("rejected", "failed")

_OWN: Final = ("lost_share", "user_requests", "user_requests_per_s")
_ALIASES: Final = {"cost": "cost_usd.per_1000_questions", "usd_per_1000_questions": "cost_usd.per_1000_questions"}
_OF_SPAN: Final = re.compile(r"(mean|p(?P<percent>\d+(\.\d+)?))\((?P<span>\w+)\)")


@dataclass(frozen=True, kw_only=True)
class Run:
    """The figures of one run under one seed. Seconds, dollars, shares and counts, by the names of ``Metric``.

    ``quantiles``: span -> its PERCENTILES, absent where no request has it. ``variances``: metric -> variance that the figure
    would have in a live test of one request, requests of one user counted as one cluster (see ``comparison.LiveTest``).

    >>> Run(seed=0, figures={"slo_share": 0.5}, quantiles={}, variances={}).figures["slo_share"]
    0.5
    """

    seed: int
    figures: Mapping[str, float | None]
    quantiles: Mapping[str, tuple[float, ...]]
    variances: Mapping[str, float]
    extrapolated: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``from_json`` gives an equal run back."""
        return {
            "seed": self.seed,
            "figures": dict(self.figures),
            "quantiles": {name: list(values) for name, values in self.quantiles.items()},
            "variances": dict(self.variances),
            "extrapolated": self.extrapolated,
            "provenance": dict(self.provenance),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Run:
        """What ``to_json`` made.

        >>> run = Run(seed=0, figures={"slo_share": 0.5}, quantiles={"ttft_s": (0.1,)}, variances={})
        >>> Run.from_json(run.to_json()) == run
        True
        """
        quantiles = {name: tuple(values) for name, values in table["quantiles"].items()}
        return cls(**{**table, "quantiles": quantiles, "notes": tuple(table["notes"])})


@dataclass(frozen=True)
class Failed:
    """A run that gave no figures, and ``why``, in one line."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run to be made: a scenario under a seed; ``environment``: whose code and packages it needs (empty: any)."""

    scenario: Scenario
    seed: int
    environment: str = ""


def run_task(task: Task) -> Run | Failed:
    """Simulate and reduce to figures; what simcache refuses comes back as Failed, so that other runs go on.

    >>> from simcache import Server, TypingSessions
    >>> scenario = Scenario(workload=TypingSessions(users=2), backend=Server(), duration_s=60)
    >>> run_task(Task(scenario=scenario, seed=1)).figures["slo_share"]
    1.0
    """
    if task.environment and task.environment != environment_digest():
        return Failed("its worker has another simcache, or other versions of the packages below it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # the run says that it extrapolated; a worker's warning is lost
        try:
            scenario = replace(task.scenario, workload=loaded_once(task.scenario.workload))
            return reduced(simulate(scenario, seed=task.seed))
        except InputError as error:
            return Failed(f"{InputError(error.name, error.value, error.rule)}")  # without path: other machines have other ones
        except SimcacheError as error:
            return Failed(" ".join(str(error).split()))


def reduced(result: Result) -> Run:
    """The figures of ``result``.

    >>> from simcache import Server, TypingSessions
    >>> scenario = Scenario(workload=TypingSessions(users=2), backend=Server())
    >>> result = simulate(scenario, duration_s=60, seed=1)
    >>> reduced(result).quantiles["ttft_s"][95] == result.quantiles("ttft_s", [0.95])[0]
    True
    """
    figures = {".".join(place): None if value is None else float(value) for place, value in run_figures(result).items()}
    users = result.records.where(metrics.user_mask(result.records))
    lost = int(np.isin(users["outcome"].astype(str), LOST).sum()) if len(users) else 0
    submitted_ns = users["submitted_at_ns"]
    span_s = float(submitted_ns.max() - submitted_ns.min()) / 1e9 if len(users) else 0.0
    span_s = result.scenario.duration_s or span_s
    figures["lost_share"] = lost / len(users) if len(users) else None
    figures["user_requests"] = float(len(users))
    figures["user_requests_per_s"] = len(users) / span_s if span_s else None
    quantiles = {}
    for span in SPANS:
        values = result.span(span)
        if len(values):
            shares = np.array(PERCENTILES) / 100
            quantiles[span] = tuple(np.quantile(values, shares).tolist())
    source = result.provenance
    return Run(
        seed=result.seed,
        figures=figures,
        quantiles=quantiles,
        variances=_variances(result.judged.where(metrics.user_mask(result.judged)), result.scenario.slo_ttft_s),
        extrapolated=result.extrapolated,
        provenance=dict(source) if isinstance(source, Mapping) else {"all": source},
        notes=result.notes,
    )


def _variances(users: Records, slo_ttft_s: float) -> dict[str, float]:
    """Variance of one request's contribution to a mean, a quantile and a share, requests of one user taken together.

    With the influence e_i of request i (for a q-quantile Q with density f there: (q - 1{x <= Q}) / f) it is
    ``sum over users of (sum of e_i)^2 / n``: divided by n it is the cluster-robust variance of the figure.
    """
    answered = users.where(np.isfinite(users.ttft_s))
    found: dict[str, float] = {}
    if len(answered) > 1:
        ttft_s = answered.ttft_s
        found["ttft_s.mean"] = _clustered(ttft_s - ttft_s.mean(), answered)
        for name, q in STATISTICS.items():
            width = min(q, 1 - q, max(0.01, (1 - q) / 2))
            low, at, high = np.quantile(ttft_s, [q - width, q, min(1.0, q + width)])
            if high > low:
                density = (min(1.0, q + width) - (q - width)) / (high - low)
                found[f"ttft_s.{name}"] = _clustered((q - (ttft_s <= at)) / density, answered)
    if len(users) > 1:
        hits = np.nan_to_num(users.ttft_s, nan=np.inf) < slo_ttft_s
        found["slo_share"] = _clustered(hits - hits.mean(), users)
    return found


def _clustered(influence: NDArray[np.float64], rows: Records) -> float:
    names = [user or session or f"\0{i}" for i, (user, session) in enumerate(zip(rows.user, rows.session, strict=True))]
    _, which = np.unique(np.array(names, dtype=str), return_inverse=True)
    sums = np.bincount(which, weights=influence)
    return float((sums**2).sum() / len(influence))


@dataclass(frozen=True)
class Metric:
    """A figure of a run by name: ``p95(ttft_s)``, ``mean(e2e_s)``, ``slo_share``, ``token_hit_ratio``, ``cost``, ...

    ``name`` is canonical afterwards (``ttft_s.p95``, ``cost_usd.per_1000_questions``). Any whole percentile, 99.5 and 99.9.
    Raises UnknownNameError for a name that no run has.

    >>> Metric("p95(ttft_s)").name, Metric("cost").name
    ('ttft_s.p95', 'cost_usd.per_1000_questions')
    """

    name: str

    def __post_init__(self) -> None:
        require(isinstance(self.name, str), "metric", self.name, "must be a text")
        text = self.name.replace(" ", "")
        match = _OF_SPAN.fullmatch(text)
        if match:
            text = f"{match['span']}.{match[1]}"
        text = _ALIASES.get(text, text)
        object.__setattr__(self, "name", text)
        span, _, statistic = text.partition(".")
        if span in SPANS and statistic.startswith("p"):
            percent = statistic[1:]
            known = percent.replace(".", "", 1).isdigit() and float(percent) in PERCENTILES
            rule = "must be a percentile that is kept"
            require(known, "metric", self.name, rule, "Whole percents from p0 to p100, p99.5 and p99.9.")
        elif text not in metric_names():
            raise UnknownNameError("metric", self.name, [*metric_names(), *_ALIASES, *(f"p95({span})" for span in SPANS)])

    def of(self, run: Run) -> float | None:
        """The value in ``run``; None where it has none (nobody was answered, no price is known)."""
        if self.name in run.figures:
            return run.figures[self.name]
        span, _, statistic = self.name.partition(".")
        if span not in run.quantiles:
            return None
        return run.quantiles[span][PERCENTILES.index(float(statistic[1:]))]

    @property
    def at_most(self) -> float | None:
        """The largest value it can have: 1 for shares and ratios."""
        return 1.0 if self.is_share else None

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 1."""
        return self.name.endswith(("share", "ratio"))

    @property
    def more_is_better(self) -> bool | None:
        """Whether users and owners want it high (True) or low (False); None: neither.

        >>> Metric("slo_share").more_is_better, Metric("cost").more_is_better
        (True, False)
        """
        if self.name.endswith(("ratio", "slo_share")):
            return True
        if self.name.partition(".")[0] in (*SPANS, "cost_usd", "lost_share", "ttft_after_warm_s", "residual_warm_s"):
            return False
        return False if self.name.endswith("wasted_share") else None

    @property
    def label(self) -> str:
        """As a person reads it.

        >>> Metric("p95(ttft_s)").label, Metric("cost").label
        ('TTFT p95', '$ per 1,000 questions')
        """
        span, _, statistic = self.name.partition(".")
        if self.name in _LABELS:
            return _LABELS[self.name]
        if span in SPANS:
            return f"{_LABELS.get(span, span.removesuffix('_s'))} {statistic}"
        return self.name.replace("_", " ").replace(".", " ")

    def text(self, value: float | None, *, plus: bool = False) -> str:
        """A value with its unit; ``plus`` writes the sign of a difference.

        >>> Metric("p95(ttft_s)").text(0.25), Metric("slo_share").text(0.5)
        ('250 ms', '50.0 %')
        """
        if self.is_share:
            return units.share(value, plus=plus)
        if self.name.startswith("cost_usd"):
            return units.dollars(value, plus=plus)
        if self.name.partition(".")[0].endswith("_s") and not self.name.endswith("per_s"):
            return units.seconds(value, plus=plus)
        return units.count(value, plus=plus)

    def over(self, runs: Mapping[int, Run] | list[Run], confidence: float = 0.95) -> stats.Estimate | None:
        """Its mean over runs of several seeds with the t interval, cut to what is possible; None: no run has it."""
        each = runs.values() if isinstance(runs, Mapping) else runs
        return stats.over_seeds([self.of(run) for run in each], confidence, at_least=0.0, at_most=self.at_most)


_LABELS: Final = {
    "ttft_s": "TTFT",
    "e2e_s": "end to end",
    "perceived_s": "perceived",
    "queue_s": "queue",
    "slo_share": "in time",
    "token_hit_ratio": "token hits",
    "block_hit_ratio": "block hits",
    "cost_usd.per_1000_questions": "$ per 1,000 questions",
    "cost_usd.total": "$ in all",
    "lost_share": "lost requests",
    "warm_ups.wasted_share": "warm-ups wasted",
}


def metric_names() -> list[str]:
    """Every figure that a run has, but for the percentiles of spans that are not named one by one.

    >>> "token_hit_ratio" in metric_names()
    True
    """
    spans = [f"{span}.{statistic}" for span in SPANS for statistic in ("mean", *STATISTICS)]
    others = ("slo_share", "token_hit_ratio", "block_hit_ratio", "hit_tokens", "prompt_tokens", "ttft_after_warm_s")
    costs = ("cost_usd.total", "cost_usd.per_1000_questions", "cost_usd.warm_waste")
    return [*spans, *others, "residual_warm_s", *costs, "warm_ups.sent", "warm_ups.wasted_share", *_OWN]
