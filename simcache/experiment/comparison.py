"""Scenarios compared under the same seeds: paired differences with intervals, and the live test that would confirm them."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from .. import stats, units
from ..errors import require, require_count
from ..notes import notes_of
from ..scenario import Scenario
from .headroom import MOST_REQUESTS, UNKNOWN, Headroom, foreseen, oracle_scenario, run_figures_of, twins
from .run_store import RunStore
from .runs import Metric, Run
from .study import Study
from .sweeps import Progress, Sweep, sweep
from .workers import Workers

SCHEMA_VERSION: Final = 1
METRICS: Final = (
    *("ttft_s.p50", "ttft_s.p95", "ttft_s.p99", "ttft_s.mean", "slo_share"),
    *("token_hit_ratio", "cost_usd.per_1000_questions", "lost_share"),
)
LIVE_METRICS: Final = ("ttft_s.mean", "ttft_s.p95", "slo_share")
"""What a live test may measure: figures whose variance per request is known of every run."""
LEAST_REQUESTS: Final = 30
"""Fewer in an arm and a mean is not normal enough for the test."""
_SECONDS_PER_DAY: Final = 86_400.0
_Runs = Mapping[int, Run]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of ``b`` minus that of ``a``, paired by seed: the t interval, and the bootstrap's beside it."""

    metric: str
    paired: stats.PairedDifference
    bootstrap: stats.Estimate

    @property
    def clear(self) -> bool:
        """Whether the t interval leaves out zero."""
        return self.paired.clear


@dataclass(frozen=True, kw_only=True)
class LiveTest:
    """What a test on real users needs to confirm a predicted difference: two arms of equal size, each user in one of them.

    ``requests_per_arm`` for the difference itself, ``from_requests`` and ``to_requests`` for the ends of its interval (None:
    the interval holds zero, no size is enough). ``days``: of all traffic, split between the arms, at the simulated rate (None:
    it has none). Assumes that arms do not slow each other down, as two deployments would not.
    """

    metric: str
    difference: float
    power: float
    confidence: float
    requests_per_arm: int
    from_requests: int
    to_requests: int | None
    days: float | None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two scenarios under the same seeds: ``b`` against ``a``."""

    a: str
    b: str
    a_runs: tuple[Run, ...]
    b_runs: tuple[Run, ...]
    metrics: tuple[str, ...]

    def difference(self, metric: str, confidence: float = 0.95) -> Difference | None:
        """The paired difference of ``metric``; None: no seed has it in both."""
        asked = Metric(metric)
        values = [(asked.of(a), asked.of(b)) for a, b in zip(self.a_runs, self.b_runs, strict=True)]
        known = [(a, b) for a, b in values if a is not None and b is not None]
        if not known:
            return None
        before, after = [a for a, _ in known], [b for _, b in known]
        return Difference(
            metric=asked.name,
            paired=stats.paired(before, after, confidence),
            bootstrap=stats.bootstrap([b - a for a, b in known], confidence=confidence),
        )

    @property
    def differences(self) -> list[Difference]:
        """One per metric that both have."""
        return [found for metric in self.metrics if (found := self.difference(metric)) is not None]

    def live_test(self, metric: str = "ttft_s.mean", *, power: float = 0.8, confidence: float = 0.95) -> LiveTest | None:
        """The size of a live test of ``metric`` (one of LIVE_METRICS); None: there is no difference or no variance to size it by.

        The variance per request is the larger of two estimates: that between the runs times the requests of a run, which holds
        what requests in one queue share, and that within the runs by users, which a trace replayed under every seed has too.
        """
        asked = Metric(metric)
        require(asked.name in LIVE_METRICS, "metric", metric, f"must be one of {', '.join(LIVE_METRICS)}")
        found = self.difference(asked.name, confidence)
        variances = [_variance_per_request(runs, asked) for runs in (self.a_runs, self.b_runs)]
        if found is None or found.paired.difference == 0 or None in variances:
            return None
        va, vb = (variance or 0.0 for variance in variances)

        def requests(difference: float) -> int:
            needed = stats.requests_per_arm(difference, va, vb, power=power, confidence=confidence)
            return max(LEAST_REQUESTS, math.ceil(needed))

        change = found.paired
        ends = [change.difference] if change.low is None or change.high is None else [change.low, change.high]
        rates = [rate for run in self.a_runs if (rate := run.figures["user_requests_per_s"]) is not None]
        per_arm = requests(change.difference)
        return LiveTest(
            metric=asked.name,
            difference=change.difference,
            power=power,
            confidence=confidence,
            requests_per_arm=per_arm,
            from_requests=requests(max(ends, key=abs)),
            to_requests=requests(min(ends, key=abs)) if found.clear else None,
            days=2 * per_arm / (sum(rates) / len(rates)) / _SECONDS_PER_DAY if rates else None,
        )

    def answer(self) -> str:
        """The pair in one sentence: p95 TTFT and cost, each with its interval, or that the seeds cannot tell."""
        said = [_said(found) for metric in ("ttft_s.p95", "cost_usd.per_1000_questions") if (found := self.difference(metric))]
        if not said:
            return f"Nobody was answered in both {self.a!r} and {self.b!r}."
        return f"{self.b!r} against {self.a!r}: {'; '.join(said)}."


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Scenarios against the first of them, seed by seed. ``print`` it, or ask its ``pairs``.

    ``headroom``: by name, of every scenario that warms and has one beside it that differs in warming alone and does not warm.
    """

    pairs: tuple[Pair, ...]
    sweep: Sweep = field(repr=False)
    headroom: Mapping[str, Headroom] = field(default_factory=dict)

    def answer(self) -> str:
        """One sentence per pair."""
        return " ".join(pair.answer() for pair in self.pairs)

    def __str__(self) -> str:
        lines = []
        for pair in self.pairs:
            lines.append(f"{pair.b} against {pair.a} ({len(pair.a_runs)} seeds)")
            for found in pair.differences:
                lines.append(f"  {Metric(found.metric).label:<22} {_row(found)}")
            lines.append(f"  {pair.answer()}")
        lines += self.headroom_lines()
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The comparison as a notebook shows it."""
        return f"<pre>{html.escape(str(self))}</pre>"

    def headroom_lines(self) -> list[str]:
        """One line per scenario with a headroom."""
        return [f"{name!r}: {found.sentence()}." for name, found in self.headroom.items()]

    def document(self, *, live: bool = False) -> dict[str, Any]:
        """The comparison in plain JSON values; ``live``: with the sizes of live tests."""
        entries = []
        for pair in self.pairs:
            entry: dict[str, Any] = {"a": pair.a, "b": pair.b, "seeds": [run.seed for run in pair.a_runs], "metrics": {}}
            for found in pair.differences:
                change = found.paired
                entry["metrics"][found.metric] = {
                    "a": change.a_mean,
                    "b": change.b_mean,
                    "difference": change.difference,
                    "interval95": None if change.low is None else [change.low, change.high],
                    "bootstrap95": None if found.bootstrap.low is None else [found.bootstrap.low, found.bootstrap.high],
                    "clear": found.clear,
                    "n": change.n,
                }
            if live:
                tests = [test for metric in LIVE_METRICS if (test := pair.live_test(metric))]
                entry["live_tests"] = [{**vars(test)} for test in tests]
            entry["answer"] = pair.answer()
            entries.append(entry)
        failures = [failure._asdict() for failure in self.sweep.failures]
        room = {name: {**found.document(), "answer": found.sentence()} for name, found in self.headroom.items()}
        return {
            "schema_version": SCHEMA_VERSION,
            "comparisons": entries,
            "headroom": room,
            "failures": failures,
            "notes": notes_of(run for runs in self.sweep.runs for run in runs.values()),
        }


def compare(
    a: Scenario,
    b: Scenario,
    *others: Scenario,
    seeds: int = 20,
    first_seed: int = 0,
    metrics: Sequence[str] = METRICS,
    duration_s: float | None = None,
    store: str | Path | RunStore | None = None,
    workers: Workers | int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """``b`` (and ``others``) against ``a`` under the same seeds, so that the same people type the same keys in all.

    A seed whose run fails in one of two counts in neither. For the headroom the oracle is simulated too where users ask no more
    than ``headroom.MOST_REQUESTS`` questions over all seeds. Errors: as :func:`~simcache.experiment.sweeps.sweep`.

    >>> from simcache import Server, TypingSessions, WarmOnFocus
    >>> cold = Scenario(name="cold", workload=TypingSessions(users=3), backend=Server(), duration_s=300)
    >>> found = compare(cold, cold.but(name="warm", warming=WarmOnFocus()), seeds=3, workers=1)
    >>> found.pairs[0].difference("p50(ttft_s)").paired.difference < 0
    True
    """
    require_count("seeds", seeds, at_least=2)
    scenarios = _named_apart([a, b, *others])
    from .axes import cells

    asked = tuple(dict.fromkeys(Metric(metric).name for metric in metrics))
    study = Study(cells=tuple(cells(scenarios, [{}])), name="comparison", seeds=seeds, first_seed=first_seed, metrics=asked)
    found = sweep(study, duration_s=duration_s, store=store, workers=workers, progress=progress)
    first, *rest = found.runs
    pairs = []
    for scenario, runs in zip(scenarios[1:], rest, strict=True):
        both = [seed for seed in first if seed in runs]
        require(len(both) >= 2, "seeds", len(both), f"must be at least 2 that ran in {a.name!r} and {scenario.name!r}", _why(found))
        a_runs, b_runs = (tuple(each[seed] for seed in both) for each in (first, runs))
        pairs.append(Pair(a=scenarios[0].name, b=scenario.name, a_runs=a_runs, b_runs=b_runs, metrics=asked))

    def simulated(oracles: Sequence[Scenario]) -> Sequence[_Runs]:
        named = [oracle.but(name=f"oracle {number}") for number, oracle in enumerate(oracles)]
        more = replace(study, cells=tuple(cells(named, [{}])))
        return sweep(more, duration_s=duration_s, store=store, workers=workers).runs

    return Comparison(pairs=tuple(pairs), sweep=found, headroom=_headrooms(scenarios, found.runs, simulated))


def _headrooms(
    scenarios: Sequence[Scenario], runs: Sequence[_Runs], simulated: Callable[[Sequence[Scenario]], Sequence[_Runs]]
) -> dict[str, Headroom]:
    """By the seeds that ran in all three; the oracle is ``simulated`` where it is not among the scenarios and not too expensive."""
    asked = {scenario.name: scenario for scenario in scenarios}
    ran = {scenario.name: each for scenario, each in zip(scenarios, runs, strict=True)}
    cold = twins(asked)
    oracles = {name: oracle_scenario(asked[name]) for name in cold}
    known = [(scenario.but(name="oracle"), ran[scenario.name]) for scenario in scenarios]
    missing: list[Scenario] = []
    for name, other in cold.items():
        requests = sum(run.figures["user_requests"] or 0 for run in ran[other].values())
        if requests <= MOST_REQUESTS and oracles[name] not in [*missing, *(scenario for scenario, _ in known)]:
            missing.append(oracles[name])
    if missing:
        known += zip(missing, simulated(missing), strict=True)
    rooms = {}
    for name, other in cold.items():
        knowing = next((each for scenario, each in known if scenario == oracles[name]), None)
        three = [ran[other], ran[name], *([] if knowing is None else [knowing])]
        seeds = [seed for seed in three[0] if all(seed in each for each in three)]
        none, policy, *oracle = (run_figures_of([each[seed] for seed in seeds]) for each in three)
        rooms[name] = Headroom(none=none, policy=policy, oracle=foreseen(oracle[0], none) if oracle else UNKNOWN)
    return rooms


def _why(found: Sweep) -> str:
    return f"{found.failures[0].why}" if found.failures else ""


def _named_apart(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """The scenarios, those of one name told apart by letters."""
    names = [scenario.name for scenario in scenarios]
    return [
        scenario if names.count(scenario.name) == 1 else replace(scenario, name=f"{scenario.name} {chr(ord('A') + number)}")
        for number, scenario in enumerate(scenarios)
    ]


def _variance_per_request(runs: Sequence[Run], metric: Metric) -> float | None:
    values = [(value, run.figures["user_requests"] or 0.0) for run in runs if (value := metric.of(run)) is not None]
    if len(values) < 2:
        return None
    centre = sum(value for value, _ in values) / len(values)
    between = sum((value - centre) ** 2 for value, _ in values) / (len(values) - 1)
    requests = sum(count for _, count in values) / len(values)
    within = [run.variances[metric.name] for run in runs if metric.name in run.variances]
    return max(between * requests, sum(within) / len(within) if within else 0.0)


def _said(found: Difference) -> str:
    metric, change = Metric(found.metric), found.paired
    ways = f"{metric.label} {metric.text(change.a_mean)} -> {metric.text(change.b_mean)}"
    bounds = None if change.low is None or change.high is None else (change.low, change.high)
    if change.difference == 0:
        return f"{metric.label} is the same, {metric.text(change.a_mean)}"
    if not found.clear:
        return f"{ways}, no difference that {change.n} seeds can tell {units.interval(bounds, lambda v: metric.text(v, plus=True))}"
    sign, word = (1, "more") if change.difference > 0 else (-1, "less")
    ends = None if bounds is None else (min(sign * bounds[0], sign * bounds[1]), max(sign * bounds[0], sign * bounds[1]))
    return f"{ways}, {metric.text(abs(change.difference))} {word} {units.interval(ends, metric.text)}"


def _row(found: Difference) -> str:
    metric, change = Metric(found.metric), found.paired
    bounds = None if change.low is None or change.high is None else (change.low, change.high)
    text = f"{metric.text(change.a_mean)} -> {metric.text(change.b_mean)}, {metric.text(change.difference, plus=True)}"
    return f"{text} {units.interval(bounds, lambda v: metric.text(v, plus=True))}".rstrip()
