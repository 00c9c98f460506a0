"""How much warming can gain at most, and how much of it a policy gets: no warming, this policy, the oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from .. import metrics, stats, units
from ..cache.presets import rules_for
from ..engine.run import simulate
from ..errors import require
from ..result import Result
from ..scenario import HostedApi, Scenario
from ..warming import NoWarming
from ..warming.foresight import Oracle
from .answers import unwarmed
from .runs import Run

MOST_REQUESTS: Final = 20_000
"""Users' requests, over all seeds, up to which a comparison makes the oracle's runs of itself: seconds, not minutes."""
_LEAST_S: Final = 0.01
_MOST_AHEAD_S: Final = 60.0
_LEAD: Final = 6.0
"""On replicas: times the warm-up's own seconds before submit. Later it is in time less often behind what runs already, earlier it
pushes others' prompts out of memory: at 0.5 to 0.9 of what one GPU carries 5 to 10 gave the shortest waits."""


class Figures(NamedTuple):
    """Means over seeds of one variant: mean and 95th percentile of TTFT, and dollars per 1,000 questions (None: not known).

    >>> Figures(ttft_mean_s=1.0, ttft_p95_s=2.0, usd_per_1000_questions=None).ttft_p95_s
    2.0
    """

    ttft_mean_s: float | None
    ttft_p95_s: float | None
    usd_per_1000_questions: float | None


UNKNOWN: Final = Figures(None, None, None)
"""Of a variant that was not run."""


@dataclass(frozen=True, kw_only=True)
class Headroom:
    """The same people without warming, under one policy, and under the oracle.

    >>> one, two, three = (Figures(ttft_s, ttft_s, None) for ttft_s in (3.0, 1.5, 1.0))
    >>> Headroom(none=one, policy=two, oracle=three).gained_share
    0.75
    """

    none: Figures
    policy: Figures
    oracle: Figures

    @property
    def gained_share(self) -> float | None:
        """Of the mean TTFT that the oracle saves, the share that the policy saves; None where it saves less than 10 ms.

        Below 0 the policy makes people wait; above 1 it beats the oracle, which leaves out what saves hardly anything and, under
        load, knows what is asked but not what is in its way.
        """
        if None in (self.none.ttft_mean_s, self.policy.ttft_mean_s, self.oracle.ttft_mean_s):
            return None
        assert self.none.ttft_mean_s is not None
        assert self.policy.ttft_mean_s is not None
        assert self.oracle.ttft_mean_s is not None
        most_s = self.none.ttft_mean_s - self.oracle.ttft_mean_s
        return (self.none.ttft_mean_s - self.policy.ttft_mean_s) / most_s if most_s >= _LEAST_S else None

    def sentence(self) -> str:
        """All three in one line.

        >>> Headroom(none=Figures(3.0, 3.0, None), policy=Figures(1.5, 1.5, None), oracle=Figures(1.0, 1.0, None)).sentence()
        'headroom (none / this policy / oracle): mean TTFT 3.00 s / 1.50 s / 1.00 s, per 1,000 questions - / - / -; 75.0 % used'
        """
        three = (self.none, self.policy, self.oracle)
        waits = " / ".join(units.seconds(figures.ttft_mean_s) for figures in three)
        costs = " / ".join(units.dollars(figures.usd_per_1000_questions) for figures in three)
        used = "" if self.gained_share is None else f"; {units.share(self.gained_share)} used"
        return f"headroom (none / this policy / oracle): mean TTFT {waits}, per 1,000 questions {costs}{used}"

    def document(self) -> dict[str, Any]:
        """The three and the share in plain JSON values.

        >>> found = Headroom(none=Figures(3.0, 3.0, None), policy=Figures(1.5, 1.5, None), oracle=UNKNOWN)
        >>> found.document()["policy"], found.document()["gained_share"]
        ({'ttft_mean_s': 1.5, 'ttft_p95_s': 1.5, 'usd_per_1000_questions': None}, None)
        """
        three = {"none": self.none, "policy": self.policy, "oracle": self.oracle}
        return {**{name: figures._asdict() for name, figures in three.items()}, "gained_share": self.gained_share}


def oracle_for(scenario: Scenario) -> Oracle:
    """The oracle that knows this scenario's lifetime and prices; it pings and warms four fifths of a lifetime ahead.

    On replicas as late as can be relied on, a minute ahead at most, and also what is there already: others' prompts push it out.

    >>> from ..scenario_file import load_scenarios
    >>> oracle_for(load_scenarios("demo")[0]).most_ahead_s
    240.0
    """
    backend = scenario.backend
    if not isinstance(backend, HostedApi):
        ttl_s = backend.ttl_s
        most_ahead_s = _MOST_AHEAD_S if ttl_s is None else min(_MOST_AHEAD_S, 0.8 * ttl_s)
        return Oracle(ttl_s=ttl_s, most_ahead_s=most_ahead_s, write=1.0, read=0.0, evicts=True, lead=_LEAD)
    rules = rules_for(backend.provider, backend.model, backend.rules)
    ttl = backend.cache_ttl or rules.default_ttl
    ttl_s = float(rules.lifetime_of(ttl))
    return Oracle(
        ttl_s=ttl_s,
        most_ahead_s=0.8 * ttl_s,
        write=rules.write_multiplier_of(ttl),
        read=rules.read_multiplier_of(backend.model),
    )


def headroom(
    scenario: Scenario, *, seeds: Sequence[int] = (0,), duration_s: float | None = None, oracle: Oracle | None = None
) -> Headroom:
    """Run ``scenario`` under no warming, its own policy and the oracle (None: :func:`oracle_for`), each under every seed.

    Where the oracle's warm-ups make people wait longer than none, it sends none.

    >>> from ..scenario_file import load_scenarios
    >>> found = headroom(load_scenarios("demo")[1].but(workload__users=4), duration_s=300.0)
    >>> found.oracle.ttft_mean_s <= found.none.ttft_mean_s
    True
    """
    require(len(seeds) > 0, "seeds", list(seeds), "must be at least one")
    policies = (NoWarming(), scenario.warming, oracle or oracle_for(scenario))
    none, policy, best = (
        headroom_figures([simulate(scenario.but(warming=each), duration_s=duration_s, seed=seed) for seed in seeds])
        for each in policies
    )
    return Headroom(none=none, policy=policy, oracle=foreseen(best, none))


def headrooms(results_by_variant: Mapping[str, Sequence[Result]], *, most_requests: int = MOST_REQUESTS) -> dict[str, Headroom]:
    """Headroom of every variant that warms and has a twin that differs in warming alone and does not warm; from runs at hand.

    The oracle is a variant where one has :func:`oracle_for`'s policy. Else it is simulated under the same seeds, for as long as
    the scenario says, if the twin's runs have ``most_requests`` users' requests at most; with more it stays UNKNOWN.

    >>> from ..scenario_file import load_scenarios
    >>> cold, warm = (each.but(workload__users=4, duration_s=300.0) for each in load_scenarios("demo")[:2])
    >>> found = headrooms({each.name: [simulate(each, seed=1)] for each in (cold, warm)})
    >>> list(found) == [warm.name], found[warm.name].oracle.ttft_mean_s <= found[warm.name].none.ttft_mean_s
    (True, True)
    """
    runs = {name: results for name, results in results_by_variant.items() if results}
    found: dict[str, Headroom] = {}
    seen: list[tuple[Scenario, Figures]] = []
    for name, twin in twins({name: results[0].scenario for name, results in runs.items()}).items():
        asked = oracle_scenario(runs[name][0].scenario)
        oracle = next((figures for scenario, figures in seen if scenario == asked), None)
        if oracle is None:
            made = next((results for results in runs.values() if results[0].scenario.but(name="oracle") == asked), [])
            if not made and sum(int(metrics.user_mask(result.records).sum()) for result in runs[twin]) <= most_requests:
                made = [simulate(asked, seed=result.seed) for result in runs[twin]]
            oracle = headroom_figures(made)
            seen.append((asked, oracle))
        none = headroom_figures(runs[twin])
        found[name] = Headroom(none=none, policy=headroom_figures(runs[name]), oracle=foreseen(oracle, none))
    return found


def foreseen(oracle: Figures, none: Figures) -> Figures:
    """The oracle's figures, or those without warming where its warm-ups overload the backend: to know the future is to know that.

    >>> foreseen(Figures(9.0, 9.0, None), Figures(3.0, 3.0, None)).ttft_mean_s
    3.0
    """
    if oracle.ttft_mean_s is None or none.ttft_mean_s is None or oracle.ttft_mean_s <= none.ttft_mean_s:
        return oracle
    return none


def run_figures_of(runs: Sequence[Run]) -> Figures:
    """The figures of one variant, from runs reduced to their figures.

    >>> run_figures_of([Run(seed=0, figures={"ttft_s.mean": 1.0}, quantiles={}, variances={})]).ttft_mean_s
    1.0
    """
    names = ("ttft_s.mean", "ttft_s.p95", "cost_usd.per_1000_questions")
    return Figures(*(_mean([run.figures.get(name) for run in runs]) for name in names))


def twins(scenarios: Mapping[str, Scenario]) -> dict[str, str]:
    """Per variant that warms: the first variant without warming that is equal in all else; variants without one are left out.

    >>> from ..scenario_file import load_scenarios
    >>> twins({each.name: each for each in load_scenarios("demo")[:2]})
    {'hosted API, warmed': 'hosted API, no warming'}
    """
    cold = {name: unwarmed(scenario) for name, scenario in scenarios.items() if isinstance(scenario.warming, NoWarming)}
    warm = {name: unwarmed(scenario) for name, scenario in scenarios.items() if name not in cold}
    pairs = {name: next((other for other, same in cold.items() if same == asked), None) for name, asked in warm.items()}
    return {name: other for name, other in pairs.items() if other is not None}


def oracle_scenario(scenario: Scenario) -> Scenario:
    """The scenario under its oracle, named "oracle".

    >>> from ..scenario_file import load_scenarios
    >>> oracle_scenario(load_scenarios("demo")[1]).warming.most_ahead_s
    240.0
    """
    return scenario.but(name="oracle", warming=oracle_for(scenario))


def headroom_figures(results: Sequence[Result]) -> Figures:
    """The figures of one variant, from runs that were made already.

    >>> headroom_figures([])
    Figures(ttft_mean_s=None, ttft_p95_s=None, usd_per_1000_questions=None)
    """
    waits = [metrics.ttft_s(result.judged) for result in results]
    costs = [None if result.bill is None else result.bill.usd_per_1000_questions for result in results]
    return Figures(
        ttft_mean_s=_mean([stats.mean(values) for values in waits]),
        ttft_p95_s=_mean([stats.quantile(values, 0.95) for values in waits]),
        usd_per_1000_questions=_mean(costs),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    return stats.mean([value for value in values if value is not None])
