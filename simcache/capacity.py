"""How far a configuration goes: the highest rate at which it keeps to its objectives, and what it takes to lose a replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from . import stats
from .errors import InputError, require_count
from .experiment.axes import Axis, Cell, cell_name, cells, full_key, value_at, varied
from .experiment.run_store import RunStore
from .experiment.sweeps import Progress
from .experiment.workers import Workers
from .faults import Crash
from .objective import Objective
from .planner import FRESH_SEED, Simulator, objectives_of
from .racing import Price, Race, Runner
from .scenario import Cluster, Scenario

_POINTS: Final = 8
_MOST_STEPS: Final = 8
_HOUR_S: Final = 3600.0


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The highest value of ``key`` that was shown to keep to the objectives; None: the lowest does not.

    ``fails_at``: the lowest value above it that does not keep to them (None: the highest does). ``estimate``: of the first
    objective's metric at ``value``, under fresh seeds.
    """

    key: str
    value: float | None
    fails_at: float | None
    estimate: stats.Estimate | None
    simulations: int


@dataclass(frozen=True, kw_only=True)
class Spare:
    """The fewest ``replicas`` that keep to the objectives although one of them is lost at ``at_s``; None: not even ``tried``."""

    replicas: int | None
    tried: int
    at_s: float
    estimate: stats.Estimate | None
    simulations: int


def highest_rate(
    scenario: Scenario,
    objectives: str | Objective | Sequence[str | Objective],
    axis: Axis,
    *,
    confidence: float = 0.95,
    at_most: int = 60,
    store: str | Path | RunStore | None = None,
    workers: Workers | int | None = None,
    progress: Progress | None = None,
) -> Rate:
    """The highest value of ``axis`` (a rate, a number of users) at which ``scenario`` keeps to the objectives.

    A race over 8 values and the scenario's own finds between which two it lies; between those the value at which the mean
    crosses the bound is found by ``scipy.optimize.brentq`` under common random numbers, and the highest value tried that surely
    meets is returned.

    >>> from simcache import PoissonRequests, Server
    >>> load = PoissonRequests(rate_per_s=1, count=50, prompt_tokens=4_000, output_tokens=1)
    >>> base = Scenario(name="api", workload=load, backend=Server(prefix_caching=False))
    >>> found = highest_rate(base, "p50(ttft_s) < 1", Axis(key="rate_per_s", low=0.1, high=10.0), at_most=8, workers=1)
    >>> 1 < found.value < found.fails_at
    True
    """
    from scipy.optimize import brentq

    asked = objectives_of(objectives)
    key = full_key(scenario, axis.key)
    if key is None:
        raise InputError(axis.key, None, "is not a key of the scenario")
    steps = axis if axis.values is not None else replace(axis, steps=axis.steps or _POINTS, log=axis.log or bool(axis.low))
    simulator = Simulator(store, workers, progress)
    price = Price(name=key, sign=-1)
    values = steps.grid()
    own = value_at(scenario, key)
    if axis.values is None and isinstance(own, (int, float)) and values[0] < own < values[-1] and own not in values:
        values = tuple(sorted((*values, own)))  # a plan's answer was shown to hold there
    configurations = cells([scenario], [{axis.key: value} for value in values])
    race = Race(configurations, asked, price, simulator, confidence=confidence, at_most=at_most, indifference=0.0)
    race.run()

    def at(runner: Runner) -> float:
        return float(runner.cell.changes[key])

    best = race.best()
    if best is not None and axis.values is None:
        limit = min((at(runner) for runner in race.runners if at(runner) > at(best)), default=None)
        seeds = len(best.runs)
        if limit is not None:

            def excess(value: float) -> float:
                runner = next((each for each in race.runners if at(each) == value), None)
                if runner is None:
                    number = round(value) if axis.whole else value
                    made = replace(varied(scenario, key, number), name=cell_name(scenario.name, {key: number}))
                    runner = Runner(Cell(made, {key: number}, scenario.name))
                    race.runners.append(runner)
                race.simulate_up_to([runner], seeds)
                runner.status = race.verdict(runner)
                runs = runner.in_order
                found = [each.estimate(runs) for each in asked]
                return max(10.0 if e is None else o.excess(e.mean) for o, e in zip(asked, found, strict=True))

            if excess(at(best)) < 0 < excess(limit):
                brentq(excess, at(best), limit, xtol=0.01 * limit, maxiter=_MOST_STEPS, disp=False)
    best = race.best()
    while best is not None:
        fresh = list(simulator([best.cell], FRESH_SEED, 20)[0].values())
        if all(each.verdict(fresh, 0.95) == "meets" for each in asked):
            break
        race.refuse(best)
        best = max((each for each in race.runners if race.verdict(each) == "meets"), key=at, default=None)
    beyond = [runner for runner in race.runners if (best is None or at(runner) > at(best)) and runner.status != "meets"]
    return Rate(
        key=key,
        value=None if best is None else at(best),
        fails_at=min(map(at, beyond), default=None),
        estimate=None if best is None else asked[0].estimate(fresh),
        simulations=simulator.simulations,
    )


def with_one_lost(
    scenario: Scenario,
    objectives: str | Objective | Sequence[str | Objective],
    *,
    more: int = 4,
    confidence: float = 0.95,
    at_most: int = 60,
    store: str | Path | RunStore | None = None,
    workers: Workers | int | None = None,
    progress: Progress | None = None,
) -> Spare:
    """How many replicas keep to the objectives when one crashes at a quarter of the run and never comes back (N+1).

    Tries the scenario's own number of replicas and up to ``more`` on top. Raises InputError for a backend without replicas.

    >>> from simcache import TypingSessions
    >>> base = Scenario(name="chat", workload=TypingSessions(users=3), backend=Cluster(), duration_s=300)
    >>> with_one_lost(base, "p95(ttft_s) < 30", at_most=8, workers=1).replicas
    2
    """
    if not isinstance(scenario.backend, Cluster):
        raise InputError("backend", type(scenario.backend).__name__, "has no replicas to lose", "Take a cluster.")
    require_count("more", more, at_least=0)
    asked = objectives_of(objectives)
    at_s = (scenario.duration_s or _HOUR_S) / 4
    simulator = Simulator(store, workers, progress)
    first = max(2, scenario.backend.replicas)  # of one replica, losing one leaves none
    tried = max(first, scenario.backend.replicas + more)
    crash = Crash(at_s=at_s, replica=0, down_s=None)
    for replicas in range(first, tried + 1):
        backend = replace(scenario.backend, replicas=replicas, faults=(*scenario.backend.faults, crash))
        changes = {"backend.replicas": replicas}
        cell = Cell(replace(scenario, backend=backend, name=cell_name(scenario.name, changes)), changes, scenario.name)
        price = Price(name="backend.replicas")
        race = Race([cell], asked, price, simulator, confidence=confidence, at_most=at_most)
        race.run()
        best = race.best()
        if best is not None:
            estimate = asked[0].estimate(best.in_order)
            return Spare(replicas=replicas, tried=tried, at_s=at_s, estimate=estimate, simulations=simulator.simulations)
    return Spare(replicas=None, tried=tried, at_s=at_s, estimate=None, simulations=simulator.simulations)
