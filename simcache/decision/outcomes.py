"""Scenarios on a log's arrivals, simulated several times, and what of their differences is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine.run import simulate
from ..errors import DeadlockError, InputError
from ..experiment.workers import Died, Workers, each_done
from ..latency import HostedProfile
from ..logs import UsageLog
from ..records import Records
from ..result import Result
from ..scenario import Scenario
from ..stats import Estimate, t_quantile
from ..streams import stream
from .arrivals import conversation_of
from .conversations import Reconstruction

Floats = NDArray[np.float64]
MONTH_S: Final = 365.25 / 12 * 86_400
RESAMPLES: Final = 400
_WORTH_PROCESSES: Final = 20_000
"""Simulated requests from which starting processes costs less than it saves."""
_NORMAL975: Final = 1.959964
_BLOCKS: Final = 20
_DAY_S: Final = 86_400.0
_ENOUGH_DAYS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one scenario did, a row per replicate: dollars per conversation (its warm-ups and pings included) and, per request of
    the log in its order of time, seconds to the first token (NaN: never answered) and tokens served from the cache.

    ``warm_ups``, ``warm_usd`` and ``warm_waste_usd``: per replicate on average. ``notes``: what the runs said.
    """

    usd: Floats = field(repr=False)
    ttft_s: Floats = field(repr=False)
    hit_tokens: Floats = field(repr=False)
    warm_ups: float
    warm_usd: float
    notes: tuple[str, ...] = ()


def run_outcomes(
    scenarios: Sequence[Scenario], log: Reconstruction, profiles: Sequence[HostedProfile]
) -> list[Outcome | InputError]:
    """Every scenario, whose workload must be made of ``log``, once per profile: replicate r has profile r and seed r.

    Replicates of long logs run on all cores. A scenario that cannot be priced comes back as the error that says why.
    """
    many = len(scenarios) * len(profiles) * log.requests >= _WORTH_PROCESSES
    workers = Workers(processes=None if many else 1)
    work = partial(_replicate, tuple(scenarios), log)
    done: list[list[_Figures | InputError] | None] = [None] * len(profiles)
    for number, result in each_done(work, list(enumerate(profiles)), workers):
        if isinstance(result, Died):
            raise DeadlockError(f"{result.deaths} worker processes died on this log: is there memory for it?")
        done[number] = result
    outcomes: list[Outcome | InputError] = []
    for place in range(len(scenarios)):
        replicates = [each[place] for each in done if each is not None]
        failed = next((each for each in replicates if isinstance(each, InputError)), None)
        outcomes.append(failed or _gathered([each for each in replicates if not isinstance(each, InputError)]))
    return outcomes


class _Figures(NamedTuple):
    """One scenario's replicate; fields as in Outcome."""

    usd: Floats
    ttft_s: Floats
    hit_tokens: Floats
    warm_ups: int
    warm_usd: float
    notes: tuple[str, ...]


def _replicate(
    scenarios: Sequence[Scenario], log: Reconstruction, numbered: tuple[int, HostedProfile]
) -> list[_Figures | InputError]:
    seed, profile = numbered
    places = {(number, turn): logged.row for number, each in enumerate(log.conversations) for turn, logged in enumerate(each.turns)}
    found: list[_Figures | InputError] = []
    for scenario in scenarios:
        try:
            found.append(_figures(simulate(scenario.but(backend__profile=profile), seed=seed), places, log))
        except InputError as error:
            found.append(error)
    return found


def _figures(result: Result, places: Mapping[tuple[int, int], int], log: Reconstruction) -> _Figures:
    records = result.records
    assert result.bill is not None
    row_usd = result.bill.row_usd
    assert row_usd is not None
    conversations = np.array([conversation_of(session) for session in records["session"]], dtype=np.int64)
    users = np.flatnonzero(records["kind"] == "user")
    rows = [places[key] for key in zip(conversations[users].tolist(), records["turn"][users].tolist(), strict=True)]
    ttft_s, hit_tokens = np.full(log.requests, np.nan), np.zeros(log.requests)
    ttft_s[rows] = records.ttft_s[users]
    hit_tokens[rows] = records["hit_tokens"][users]
    warmed = records["kind"] != "user"
    return _Figures(
        usd=np.bincount(conversations, weights=row_usd, minlength=len(log.conversations)).astype(np.float64),
        ttft_s=ttft_s,
        hit_tokens=hit_tokens,
        warm_ups=int(warmed.sum()),
        warm_usd=float(row_usd[warmed].sum()),
        notes=result.notes,
    )


def _gathered(replicates: Sequence[_Figures]) -> Outcome:
    return Outcome(
        usd=np.stack([each.usd for each in replicates]),
        ttft_s=np.stack([each.ttft_s for each in replicates]),
        hit_tokens=np.stack([each.hit_tokens for each in replicates]),
        warm_ups=sum(each.warm_ups for each in replicates) / len(replicates),
        warm_usd=sum(each.warm_usd for each in replicates) / len(replicates),
        notes=tuple(dict.fromkeys(note for each in replicates for note in each.notes)),
    )


class Chance:
    """Resamples a log: its conversations (each as often as a Poisson draw of mean 1 says, so that their number varies too), and
    with each resample one replicate, which carries seeds and the error of the latency fit. All scenarios share the resamples.

    Where no row has a session the units are days, or 20 spans of the log where it has fewer than five. With n units an interval
    is stretched from its middle by t(n - 1) over the normal quantile: few units say little of their own spread. Below two: none.
    """

    def __init__(self, log: Reconstruction, replicates: int, *, confidence: float = 0.95) -> None:
        self._log = log
        self._tails = ((1 - confidence) / 2, (1 + confidence) / 2)
        self._prompt_tokens = np.array([row.prompt_tokens for row in log.rows], dtype=np.float64)
        conversation = np.zeros(log.requests, dtype=np.int64)
        for number, each in enumerate(log.conversations):
            conversation[[turn.row for turn in each.turns]] = number
        self._conversation = conversation
        units = self._units()
        self.units = int(units.max()) + 1 if len(units) else 0
        draws = stream(0, "decision resamples")
        self._weights = draws.poisson(1.0, size=(RESAMPLES, self.units)).astype(np.float64)[:, units]
        self._replicate = draws.integers(0, replicates, size=RESAMPLES)
        self.month = MONTH_S / log.span_s if log.span_s else None
        self._stretch = t_quantile(0.975, self.units - 1) / _NORMAL975 if self.units > 1 else 1.0

    def _units(self) -> NDArray[np.int64]:
        """The unit of each conversation."""
        if self._log.sessions:
            return np.arange(len(self._log.conversations))
        first_s = np.array([each.turns[0].at_s for each in self._log.conversations])
        days = self._log.span_s / _DAY_S
        step_s = _DAY_S if days >= _ENOUGH_DAYS else max(self._log.span_s / _BLOCKS, 1e-9)
        return np.unique((first_s // step_s).astype(np.int64), return_inverse=True)[1]

    def usd_a_month(self, outcome: Outcome, against: Outcome | None = None) -> Estimate:
        """Dollars a month at the log's rate, or how many more than ``against``."""
        usd = outcome.usd if against is None else outcome.usd - against.usd
        month = self.month or 0.0
        drawn = np.einsum("bu,bu->b", self._weights, usd[self._replicate])
        return self._estimate(float(usd.sum(axis=1).mean()) * month, drawn * month)

    def share_of_cost(self, outcome: Outcome, against: Outcome) -> Estimate:
        """How much more it costs than ``against``, as a share of that."""
        both = [np.einsum("bu,bu->b", self._weights, each.usd[self._replicate]) for each in (outcome, against)]
        whole = against.usd.sum(axis=1)
        value = float((outcome.usd.sum(axis=1) / whole).mean() - 1) if whole.all() else 0.0
        return self._estimate(value, both[0] / np.maximum(both[1], 1e-300) - 1)

    def ttft_s(self, outcome: Outcome, q: float, against: Outcome | None = None) -> Estimate | None:
        """The q-quantile of TTFT, or how much longer than ``against``; None: nobody was answered."""
        found = self._quantiles(outcome, q)
        if found is None or against is None:
            return None if found is None else self._estimate(*found)
        other = self._quantiles(against, q)
        return None if other is None else self._estimate(found[0] - other[0], found[1] - other[1])

    def slo_share(self, outcome: Outcome, slo_ttft_s: float, against: Outcome | None = None) -> Estimate:
        """Share of requests under the objective, or how much more than ``against``."""
        within = (outcome.ttft_s < slo_ttft_s).astype(np.float64)  # NaN is not below anything
        if against is not None:
            within -= against.ttft_s < slo_ttft_s
        weights = self._weights[:, self._conversation]
        drawn = np.einsum("bu,bu->b", weights, within[self._replicate]) / np.maximum(weights.sum(axis=1), 1)
        return self._estimate(float(within.mean()), drawn)

    def hit_ratio(self, outcome: Outcome) -> float | None:
        """Tokens served from the cache over prompt tokens."""
        total = float(self._prompt_tokens.sum())
        return float(outcome.hit_tokens.mean(axis=0).sum()) / total if total else None

    def cost_variance(self, outcome: Outcome) -> float:
        """Variance of a request's dollars with what requests of one conversation share counted in: users are randomised whole."""
        usd = outcome.usd.mean(axis=0)
        sizes = np.bincount(self._conversation, minlength=len(usd)).astype(np.float64)
        left = usd - usd.sum() / sizes.sum() * sizes
        return float((left**2).sum() / max(len(usd) - 1, 1) / sizes.mean())

    def _quantiles(self, outcome: Outcome, q: float) -> tuple[float, Floats] | None:
        values, drawn = [], np.full(RESAMPLES, np.nan)
        for replicate, ttft_s in enumerate(outcome.ttft_s):
            order = np.argsort(ttft_s)[: int(np.count_nonzero(~np.isnan(ttft_s)))]
            if not len(order):
                continue
            ranked = ttft_s[order]
            values.append(float(np.quantile(ranked, q)))
            chosen = np.flatnonzero(self._replicate == replicate)
            upto = np.cumsum(self._weights[chosen][:, self._conversation[order]], axis=1)
            place = (upto < q * upto[:, -1:]).sum(axis=1)
            drawn[chosen] = ranked[np.minimum(place, len(order) - 1)]
        return (float(np.mean(values)), drawn) if values else None

    def _estimate(self, value: float, drawn: Floats) -> Estimate:
        known = drawn[~np.isnan(drawn)]
        if self.units < 2 or len(known) < 2:
            return Estimate(value, None, None, self.units)
        low, high = np.quantile(known, self._tails)
        return Estimate(
            value, value + (float(low) - value) * self._stretch, value + (float(high) - value) * self._stretch, self.units
        )


def logged_records(log: Reconstruction) -> Records:
    """The log's own rows as records, to be billed and judged as simulated ones are."""
    return UsageLog(log.rows).records
