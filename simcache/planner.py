"""The cheapest configuration that meets an objective, with stated confidence; how far it goes, and what it depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from . import stats, units
from .errors import require, require_count, require_number
from .experiment.axes import Axis, Cell, cell_name, cells, grid, varied
from .experiment.run_store import RunStore
from .experiment.runs import Metric, Run
from .experiment.study import Study
from .experiment.sweeps import Progress, sweep
from .experiment.workers import Workers
from .objective import Objective
from .racing import Price, Race, Runner, Status
from .scenario import Scenario

MOST_CONFIGURATIONS: Final = 10_000
FRESH_SEED: Final = 1_000_000
"""The first seed of the verification: far from all that the race has seen."""
LOST: Final = "lost_share < 0.01"
"""Kept to beside what is asked: a TTFT of the few who were answered is no answer."""
_COARSE: Final = 6
_MANY: Final = 20
_VERIFY: Final = 3


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One configuration and what was found: estimates at 95 %, by metric; its ``price``; and how the race ended for it.

    ``status``: meets (surely), fails (surely), dearer (surely, than one that meets), open (the seeds could not tell).
    """

    name: str
    changes: Mapping[str, Any]
    scenario: Scenario
    status: Status
    seeds: int
    estimates: Mapping[str, stats.Estimate | None]
    price: stats.Estimate | None


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The answer once more under ``seeds`` fresh seeds: it ``holds`` when each objective's 95 % interval lies on the right side."""

    name: str
    seeds: int
    estimates: Mapping[str, stats.Estimate | None]
    holds: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer to "which is the cheapest configuration that meets the objectives?".

    ``best`` None: none was shown to; then ``nearest`` is the one least far from it. ``pareto``: the candidates that no other
    beats in both the first objective's metric and the price, by means, cheapest first. ``simulations`` counts all, the
    verification's included.
    """

    objectives: tuple[Objective, ...]
    price: Price
    confidence: float
    best: Candidate | None
    nearest: Candidate | None
    candidates: tuple[Candidate, ...]
    pareto: tuple[Candidate, ...]
    verifications: tuple[Verification, ...]
    simulations: int
    stopped: str

    def answer(self) -> str:
        """The plan in words: what to take, how sure that is, what it took."""
        goal = " and ".join(map(str, self.objectives))
        took = f"{self.simulations:,} simulations of {len(self.candidates):,} configurations; {self.stopped}"
        if self.best is None:
            if self.nearest is None:
                return f"No configuration gave an answer to {goal} ({took})."
            reached = "; ".join(_reached(self.nearest, each) for each in self.objectives)
            return f"No configuration was shown to meet {goal}. The best reached: {self.nearest.name!r} with {reached} ({took})."
        price = _priced(self.best.price, self.price)
        reached = "; ".join(_reached(self.best, each) for each in self.objectives)
        fresh = self.verifications[-1]
        proof = "; ".join(_reached(fresh, each) for each in self.objectives)
        verdict = "holds" if fresh.holds else "DOES NOT HOLD"
        return (
            f"Take {self.best.name!r}: {reached}, {price}. It is the cheapest that meets {goal}, with "
            f"{units.share(self.confidence)} confidence ({took}). Under {fresh.seeds} fresh seeds it {verdict}: {proof}."
        )


def plan(
    scenarios: Scenario | Sequence[Scenario],
    objectives: str | Objective | Sequence[str | Objective],
    vary: Mapping[str, Any] | Sequence[Axis],
    *,
    minimize: str = "cost",
    confidence: float = 0.95,
    at_most: int = 100,
    most_runs: int | None = None,
    verify_seeds: int = 20,
    indifference: float = 0.01,
    store: str | Path | RunStore | None = None,
    workers: Workers | int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Race all combinations of ``vary`` and return the cheapest that meets every objective.

    ``objectives``: texts such as "p95(ttft_s) < 1.0"; that at most 1 % of the requests are lost is one of them unless
    ``lost_share`` is. ``minimize``: a metric, or a varied key with numbers. ``at_most`` seeds per configuration, ``most_runs``
    in all. Nothing is taken to be monotone: hit ratio and TTFT are not, in replicas. A wide range (more than 20 whole numbers, or
    any of floats) is raced on 6 points and then refined around the best one by ``scipy.optimize.minimize_scalar``.
    ``indifference``: prices that differ by less count as equal. The answer is verified under fresh seeds; where it does not
    hold the next cheapest is, three times. Raises InputError before the first run for what is wrong with the question.

    >>> from simcache import Cluster, TypingSessions
    >>> base = Scenario(name="chat", workload=TypingSessions(users=3), backend=Cluster(), duration_s=300)
    >>> found = plan(base, "p95(ttft_s) < 30", {"replicas": [1, 2]}, at_most=12, verify_seeds=5, workers=1)
    >>> found.best.changes, found.verifications[-1].holds
    ({'backend.replicas': 1}, True)
    """
    asked = objectives_of(objectives)
    chosen = [scenarios] if isinstance(scenarios, Scenario) else list(scenarios)
    axes = [Axis.of(key, given) for key, given in vary.items()] if isinstance(vary, Mapping) else list(vary)
    coarse = [_coarse(axis) for axis in axes]
    count = len(chosen) * math.prod(axis.count for axis in coarse)
    require(count <= MOST_CONFIGURATIONS, "vary", count, f"must be at most {MOST_CONFIGURATIONS:,} configurations")
    configurations = cells(chosen, grid(coarse) if coarse else [{}])
    require_number("confidence", confidence, above=0.5)
    require(confidence < 1, "confidence", confidence, "must be below 1", "0.95 is usual.")
    require_count("at_most", at_most, at_least=5)
    require_count("verify_seeds", verify_seeds, at_least=2)
    price = _price(minimize, configurations)
    simulator = Simulator(store, workers, progress)
    race = Race(
        configurations,
        asked,
        price,
        simulator,
        confidence=confidence,
        at_most=at_most,
        most_runs=most_runs,
        indifference=indifference,
    )
    race.run()
    best = race.best()
    if best is not None:
        for axis in axes:
            if _is_wide(axis) and price.metric is not None:
                best = _refined(race, best, axis, simulator)
    verifications: list[Verification] = []
    while best is not None and len(verifications) < _VERIFY:
        fresh = simulator([best.cell], FRESH_SEED, verify_seeds)[0]
        verifications.append(_verified(best.cell.name, list(fresh.values()), verify_seeds, asked))
        if verifications[-1].holds:
            break
        race.refuse(best)
        race.run()
        best = race.best()
    candidates = [_candidate(runner, asked, price) for runner in race.runners]
    places = {id(runner): candidate for runner, candidate in zip(race.runners, candidates, strict=True)}
    nearest = race.nearest()
    return Plan(
        objectives=asked,
        price=price,
        confidence=confidence,
        best=places[id(best)] if best is not None and verifications[-1].holds else None,
        nearest=None if nearest is None else places[id(nearest)],
        candidates=tuple(candidates),
        pareto=_pareto(candidates, asked[0]),
        verifications=tuple(verifications),
        simulations=simulator.simulations,
        stopped=race.stopped,
    )


class Simulator:
    """Sweeps for a race: counts, and passes progress on."""

    def __init__(self, store: str | Path | RunStore | None, workers: Workers | int | None, progress: Progress | None) -> None:
        self.store = store if isinstance(store, RunStore | None) else RunStore(store)
        self.workers, self.progress = workers, progress
        self.simulations = 0

    def __call__(self, configurations: Sequence[Cell], first_seed: int, seeds: int) -> list[dict[int, Run]]:
        before = self.simulations
        total = before + len(configurations) * seeds
        study = Study(cells=tuple(configurations), seeds=seeds, first_seed=first_seed)
        report = self.progress

        def shifted(done: int, _: int) -> None:
            if report is not None:
                report(before + done, total)

        found = sweep(study, store=self.store, workers=self.workers, progress=shifted)
        self.simulations = total
        return [dict(runs) for runs in found.runs]


def objectives_of(given: str | Objective | Sequence[str | Objective]) -> tuple[Objective, ...]:
    """The objectives in ``given``, and that hardly any request is lost.

    >>> [str(each) for each in objectives_of("p95(ttft_s) < 1")]
    ['TTFT p95 below 1.00 s', 'lost requests below 1.0 %']
    """
    listed = [given] if isinstance(given, str | Objective) else list(given)
    require(len(listed) > 0, "objective", None, "must be given", "As in 'p95(ttft_s) < 1.0'.")
    asked = [each if isinstance(each, Objective) else Objective.parse(each) for each in listed]
    if all(each.metric.name != "lost_share" for each in asked):
        asked.append(Objective.parse(LOST))
    return tuple(asked)


def _price(name: str, configurations: Sequence[Cell]) -> Price:
    full = next((key for cell in configurations for key in cell.changes if name in (key, key.partition(".")[2])), None)
    if full is None:
        return Price(name=Metric(name).name, metric=Metric(name))
    for cell in configurations:
        value = cell.changes.get(full)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        require(number, "minimize", name, f"must be a metric or a key with numbers, but {cell.name!r} has {value!r} there")
    return Price(name=full, metric=None)


def _is_wide(axis: Axis) -> bool:
    return axis.values is None and axis.steps is None and (not axis.whole or axis.count > _MANY)


def _coarse(axis: Axis) -> Axis:
    if not _is_wide(axis):
        return axis
    assert axis.low is not None
    assert axis.high is not None
    return replace(axis, steps=_COARSE, log=axis.log or (axis.low > 0 and axis.high / axis.low >= 10))


def _refined(race: Race, best: Runner, axis: Axis, simulate: Simulator) -> Runner:
    """A cheaper point between the neighbours of ``best`` on a wide axis, where there is one; it joins the race's runners."""
    from scipy.optimize import minimize_scalar

    key = next((full for full in best.cell.changes if axis.key in (full, full.partition(".")[2])), None)
    if key is None:
        return best
    levels = sorted(_coarse(axis).grid())
    here = levels.index(best.cell.changes[key])
    low, high = levels[max(0, here - 1)], levels[min(len(levels) - 1, here + 1)]
    seeds = len(best.runs)
    tried: dict[Any, Runner] = {best.cell.changes[key]: best}
    start = race.mean_price(best)

    def cost(x: float) -> float:
        value = round(x) if axis.whole else float(x)
        if value not in tried:
            scenario = varied(best.cell.scenario, key, value)
            changes = {**best.cell.changes, key: value}
            runner = Runner(Cell(replace(scenario, name=cell_name(best.cell.of, changes)), changes, best.cell.of))
            race.simulate_up_to([runner], seeds)
            runner.status = race.verdict(runner)
            race.runners.append(runner)
            tried[value] = runner
        runner = tried[value]
        excess = max(0.0, *(each.excess(_upper(each, runner, race.each_confidence)) for each in race.objectives))
        return race.mean_price(runner) + 10 * start * excess

    minimize_scalar(cost, bounds=(low, high), method="bounded", options={"maxiter": 8, "xatol": 0.01 * (high - low)})
    found = race.best()
    return best if found is None else found


def _upper(objective: Objective, runner: Runner, confidence: float) -> float:
    """The end of the interval that is worst for the objective; far off where there is none."""
    found = None if runner.failed or not runner.runs else objective.estimate(runner.in_order, confidence)
    worst = None if found is None else found.low if objective.above else found.high
    return worst if worst is not None else objective.bound + (-1 if objective.above else 1) * 10 * (abs(objective.bound) or 1.0)


def _candidate(runner: Runner, objectives: Sequence[Objective], price: Price) -> Candidate:
    runs = runner.in_order
    prices = [price.of(runner.cell, run) for run in runs]
    return Candidate(
        name=runner.cell.name,
        changes=runner.cell.changes,
        scenario=runner.cell.scenario,
        status=runner.status,
        seeds=len(runs),
        estimates={each.metric.name: each.estimate(runs) if runs else None for each in objectives},
        price=stats.over_seeds(prices, at_least=0.0),
    )


def _verified(name: str, runs: Sequence[Run], seeds: int, objectives: Sequence[Objective]) -> Verification:
    estimates = {each.metric.name: each.estimate(runs) if runs else None for each in objectives}
    holds = len(runs) == seeds and all(each.verdict(runs, 0.95) == "meets" for each in objectives)
    return Verification(name=name, seeds=seeds, estimates=estimates, holds=holds)


def _pareto(candidates: Sequence[Candidate], objective: Objective) -> tuple[Candidate, ...]:
    sign = -1.0 if objective.above else 1.0
    known = [
        (each.price.mean, sign * found.mean, each)
        for each in candidates
        if each.price is not None and (found := each.estimates[objective.metric.name]) is not None
    ]
    front: list[Candidate] = []
    least = float("inf")
    for _, value, each in sorted(known, key=lambda entry: entry[:2]):
        if value < least:
            front.append(each)
            least = value
    return tuple(front)


def _reached(found: Candidate | Verification, objective: Objective) -> str:
    metric = objective.metric
    estimate = found.estimates[metric.name]
    if estimate is None:
        return f"{metric.label} unknown"
    bounds = None if estimate.low is None or estimate.high is None else (estimate.low, estimate.high)
    return f"{metric.label} {metric.text(estimate.mean)} {units.interval(bounds, metric.text)}".rstrip()


def _priced(price: stats.Estimate | None, what: Price) -> str:
    if price is None:
        return "at a price that is not known"
    bounds = None if price.low is None or price.high is None or price.low == price.high else (price.low, price.high)
    return f"{what.label} {what.text(price.mean)} {units.interval(bounds, what.text)}".rstrip()
