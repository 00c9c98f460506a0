"""From a usage log to a decision: choose the rows, fit, rebuild the prompts, simulate today and its alternatives, judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from .. import stats
from ..cache.presets import rules_for
from ..cache.rates import HostedPrices
from ..cache.rules import ProviderRules
from ..errors import InputError
from ..experiment.comparison import LEAST_REQUESTS, LiveTest
from ..latency import HostedProfile
from ..latency.prediction import draw_profiles
from ..logs import UsageLog
from ..messages.parts import MessageLog
from ..messages.tokens import count_tokens
from ..scenario import HostedApi
from ..workload.typist import DESKTOP, MOBILE
from . import alternatives as other
from .alternatives import Alternative
from .arrivals import LogArrivals
from .conversations import Reconstruction, reconstruct
from .logged import (
    FEWEST_REQUESTS,
    chosen_model,
    chosen_provider,
    latency_of,
    prices_of,
    same_provider,
    span_of,
    usable_rows,
    what_is_missing,
)
from .message_logs import advice_on, chosen_requests, named, reconstruct_messages, usage_rows
from .outcomes import MONTH_S, Chance, Outcome, logged_records, run_outcomes
from .verdict import LEAST_SAVING, Asked, Decision, Reproduction, Row, Warming, Word

SIMULATED_REQUESTS: Final = 60_000
"""How many requests all scenarios together simulate about: the longer the log the fewer replicates, at least one."""
_ALTERNATIVES: Final = 10
_MOST_REPLICATES: Final = 8
_POWER: Final = 0.8
_UNMARKED: Final = 0.05  # of what conversations repeat; with less of it outside the markers nothing is gained by moving them
_MENDED: Final = 0.95  # of follow-ups that hit all that they could; with fewer the layout is worth a look
_SEEMS: Final = 0.05  # a saving of this share that chance could have made asks for a longer log

Progress = Callable[[int, int], None]


def decide(
    log: UsageLog | MessageLog,
    asked: Asked | None = None,
    *,
    progress: Progress | None = None,
    simulated_requests: int | None = None,
) -> Decision:
    """What to change about caching and warming for the traffic of ``log``, in dollars a month and seconds, with intervals.

    ``log`` is of usage counts or of messages. ``progress`` is told how many scenarios of how many have run;
    ``simulated_requests``: how much work (None: the usual). Errors: a provider or model that is not in the log, or has no rules or
    prices; a message log without a provider. A log that is too short or has no instants is no error: the word is "cannot tell", and
    ``missing`` says why.

    >>> from ..logs import UsageRow
    >>> decide(UsageLog((UsageRow(provider="anthropic", model="claude-sonnet-4-5", prompt_tokens=9_000),))).word
    'cannot tell'
    """
    asked = asked or Asked()
    messages = log if isinstance(log, MessageLog) else None
    if messages is not None:
        messages = named(messages, asked.model)
        counts = count_tokens(messages, asked.tokenizer)
        log = UsageLog(usage_rows(messages, asked.provider, counts), messages.notes)
    assert isinstance(log, UsageLog)
    provider = chosen_provider(log.rows, asked.provider)
    own = [row for row in log.rows if same_provider(row.provider, provider)]
    model = chosen_model(own, asked.model)
    rules = rules_for(provider, model, asked.rules)
    kept, left_out = usable_rows(log.rows, own, model)
    rows = [row if rules.bills_writes else replace(row, written_5m_tokens=0, written_1h_tokens=0) for row in kept]
    span_s = span_of(rows)
    known = Decision(
        word="cannot tell",
        provider=provider,
        model=model,
        requests=len(rows),
        conversations=len({(row.user, row.session) for row in rows if row.session is not None}),
        span_s=span_s,
        asked=asked,
        rules=rules,
        left_out=left_out,
        notes=log.notes,
    )
    prices_at, prices = prices_of(rules, model, rows)
    missing = what_is_missing(rows, own, model, span_s, texts=messages is not None)
    known = replace(known, prices=f"{prices.tariff.source} ({prices.tariff.as_of})", missing=tuple(missing))
    if len(rows) < FEWEST_REQUESTS or not span_s:
        return known
    profile, fitted, why = latency_of(rows, asked)
    pace_s = profile.seconds_per_output_token
    if messages is None:
        rebuilt = reconstruct(rows, rules, seconds_per_output_token=pace_s)
    else:
        advice = advice_on(chosen_requests(messages, log.rows, kept), provider, model, asked.rules, counts)
        known = replace(known, advice=advice, notes=tuple(dict.fromkeys([*known.notes, f"tokens: {counts.source}"])))
        rebuilt = reconstruct_messages(advice, rows, rules, seconds_per_output_token=pace_s)
    known = replace(known, conversations=len(rebuilt.conversations) if rebuilt.sessions else 0)
    api = HostedApi(provider=provider, model=model, profile=profile, rules=asked.rules, prices_at=prices_at)
    return _Study(known, rebuilt, api, rules, prices, fitted, why, progress, simulated_requests or SIMULATED_REQUESTS).decision()


class _Study:
    """One decision being made: what was simulated so far."""

    def __init__(
        self,
        known: Decision,
        log: Reconstruction,
        api: HostedApi,
        rules: ProviderRules,
        prices: HostedPrices,
        fitted: bool,
        why: tuple[str, ...],
        progress: Progress | None,
        simulated_requests: int,
    ) -> None:
        assert isinstance(api.profile, HostedProfile)
        self._known, self._log, self._rules, self._prices = known, log, rules, prices
        self._asked = known.asked
        self._progress, self._done, self._planned = progress, 0, _ALTERNATIVES
        wanted = simulated_requests // (max(log.requests, 1) * _ALTERNATIVES)
        self._profiles = [api.profile, *draw_profiles(api.profile, min(max(wanted, 1), _MOST_REPLICATES) - 1)]
        self._chance = Chance(log, len(self._profiles))
        self._outcomes: dict[Alternative, Outcome | InputError] = {}
        self._without_reuse: dict[str, LogArrivals] = {}
        self._notes: list[str] = list(why)
        self._fitted = fitted
        arrivals = LogArrivals(
            log=log,
            typist=MOBILE if self._asked.device == "mobile" else DESKTOP,
            typing_s=self._asked.typing_s,
            p_send=self._asked.p_send,
            reuse=self._asked.reuse,
        )
        self._today = other.today(log, api, rules, self._asked.slo_ttft_s, arrivals)

    def decision(self) -> Decision:
        today, log = self._today, self._log
        caching = list(other.caching_alternatives(today, log, self._rules, wholly_marked=_wholly_marked(log)))
        elsewhere = [other.other_provider(today, asked) for asked in self._asked.also]
        whole_share = log.reuse.whole_share
        layouts = [other.mended(today)] if log.reuse.known and whole_share is not None and whole_share < _MENDED else []
        every = [today, *caching, *layouts, *elsewhere]
        self._planned = len(every) + len(other.TRIGGERS) + 1
        self._simulate(every)
        rows = [row for each in every if (row := self._row(each)) is not None]
        certain = [row for row in rows if row.alternative.kind == "caching" and row.alternative.chosen and row.saves]
        likely = [row for row in rows if row.alternative.kind == "layout" and row.saves]
        likely += [row for row in certain if row.alternative.provided]
        certain = [row for row in certain if not row.alternative.provided]
        if self._reuse_is_assumed():
            whatever = [row for row in certain if self._saves_without_reuse(row.alternative)]
            likely += [row for row in certain if row not in whatever]
            certain = whatever
        best, possible = self._cheapest(certain), self._cheapest(likely)
        if best is not None and possible is not None and possible.usd_a_month.mean >= best.usd_a_month.mean:
            possible = None
        base = best or rows[0]
        warmed = list(other.warming_alternatives(base.alternative))
        self._simulate(warmed)
        triggers = tuple(found for each in warmed if (found := self._warming(each, base)) is not None)
        rows += [each.row for each in triggers]
        reproduction = self._reproduction(rows[0]) if log.counted else None
        return replace(
            self._known,
            word=_word(rows, best, possible, reproduction, self._chance),
            log=log,
            rows=tuple(rows),
            best=best,
            possible=possible,
            warming=triggers,
            phones=self._phones(triggers, base),
            reproduction=reproduction,
            live_test=None if best is None else self._live_test(best),
            replicates=len(self._profiles),
            profile=self._profiles[0],
            fitted=self._fitted,
            notes=tuple(dict.fromkeys([*self._known.notes, *self._notes])),
        )

    def _simulate(self, alternatives: Sequence[Alternative]) -> None:
        """Each of them once, however often its figures are asked for."""
        new = [each for each in alternatives if each not in self._outcomes]
        found = run_outcomes([each.scenario for each in new], self._log, self._profiles) if new else []
        for alternative, outcome in zip(new, found, strict=True):
            self._outcomes[alternative] = outcome
            if isinstance(outcome, InputError):
                self._notes.append(f"{alternative.name} is left out: {outcome}")
            else:
                self._notes += [note for note in outcome.notes if not (self._fitted and "profile" in note)]
        self._done += len(new)
        if self._progress is not None:
            self._progress(self._done, max(self._planned, self._done))

    def _outcome(self, alternative: Alternative) -> Outcome:
        self._simulate([alternative])
        found = self._outcomes[alternative]
        if isinstance(found, InputError):
            raise found
        return found

    def _row(self, alternative: Alternative) -> Row | None:
        """Its figures; None: it cannot be priced, which a note says. Errors: today's cannot."""
        try:
            outcome = self._outcome(alternative)
        except InputError:
            if alternative.kind == "today":
                raise
            return None
        chance, today = self._chance, self._outcome(self._today)
        seconds = alternative.seconds
        return Row(
            alternative=alternative,
            usd_a_month=chance.usd_a_month(outcome),
            change_usd=chance.usd_a_month(outcome, today),
            change_share=chance.share_of_cost(outcome, today),
            ttft_p50_s=chance.ttft_s(outcome, 0.5) if seconds else None,
            ttft_p95_s=chance.ttft_s(outcome, 0.95) if seconds else None,
            slo_share=chance.slo_share(outcome, self._asked.slo_ttft_s) if seconds else None,
            hit_ratio=chance.hit_ratio(outcome),
            warm_ups=outcome.warm_ups * (chance.month or 0.0),
            warm_usd=outcome.warm_usd * (chance.month or 0.0),
        )

    def _cheapest(self, rows: Sequence[Row]) -> Row | None:
        """The one with the fewest changes among those that cost what the cheapest does, but for chance or what is not worth one."""
        if not rows:
            return None
        first = min(rows, key=lambda row: row.usd_a_month.mean)
        against, worth = self._outcome(first.alternative), LEAST_SAVING * self._chance.usd_a_month(self._outcome(self._today)).mean
        equal = []
        for row in rows:
            more = self._chance.usd_a_month(self._outcome(row.alternative), against)
            if row is first or more.low is None or more.low <= 0 or more.mean < worth:
                equal.append(row)
        return min(equal, key=lambda row: (row.alternative.effort, row.usd_a_month.mean))

    def _reuse_is_assumed(self) -> bool:
        """Whether prompts were taken to begin alike without anything in the log that shows it."""
        openly = [turn for each in self._log.conversations for turn in each.turns if turn.kept_tokens is None]
        return bool(openly) and not self._log.reuse.known and self._asked.reuse is None

    def _saves_without_reuse(self, alternative: Alternative) -> bool:
        """Whether it saves even if no prompt begins with the one before where the log does not show it."""

        def without(each: Alternative) -> Outcome:
            marks = each.arrivals.marks
            if marks not in self._without_reuse:
                self._without_reuse[marks] = replace(each.arrivals, reuse=0.0)
            return self._outcome(replace(each, scenario=each.scenario.but(workload=self._without_reuse[marks])))

        change = self._chance.usd_a_month(without(alternative), without(self._today))
        return change.high is not None and change.high < 0

    def _warming(self, alternative: Alternative, base: Row) -> Warming | None:
        row = self._row(alternative)
        if row is None:
            return None
        chance = self._chance
        outcome, before = self._outcome(alternative), self._outcome(base.alternative)
        return Warming(
            row=row,
            base=base.alternative.name,
            change_usd=chance.usd_a_month(outcome, before),
            change_share=chance.share_of_cost(outcome, before),
            p95_change_s=chance.ttft_s(outcome, 0.95, before),
            slo_change=chance.slo_share(outcome, self._asked.slo_ttft_s, before),
        )

    def _phones(self, triggers: Sequence[Warming], base: Row) -> Warming | None:
        chosen = best_trigger(triggers)
        if chosen is None or self._asked.device is not None or self._asked.typing_s is not None:
            return None
        return self._warming(other.on_a_phone(chosen.row.alternative), base)

    def _reproduction(self, today: Row) -> Reproduction:
        """Today's configuration as simulated, against what the log says, at the same prices."""
        records = logged_records(self._log)
        usd = self._prices.bill(records).total_usd
        outcome = self._outcome(today.alternative)
        logged = float(records["hit_tokens"].sum() / max(records["prompt_tokens"].sum(), 1))
        told = ~np.isnan(records.ttft_s)
        quantiles: list[float | None] = [None, None]
        if told.any():
            for place, q in enumerate((0.5, 0.95)):
                simulated = float(np.nanquantile(outcome.ttft_s[:, told], q))
                quantiles[place] = simulated / float(np.quantile(records.ttft_s[told], q)) - 1
        return Reproduction(
            usd=float(outcome.usd.sum(axis=1).mean()) / usd - 1 if usd else None,
            cached=(self._chance.hit_ratio(outcome) or 0.0) - logged,
            logged_cached=logged,
            ttft_p50=quantiles[0],
            ttft_p95=quantiles[1],
        )

    def _live_test(self, best: Row) -> LiveTest | None:
        """The size of a test of dollars per request, with each user in one arm."""
        a_month = self._log.requests * (self._chance.month or 0.0)
        change = best.change_usd
        if not a_month or not change.mean:
            return None
        variances = [self._chance.cost_variance(self._outcome(each)) for each in (self._today, best.alternative)]

        def requests(usd_a_month: float) -> int:
            needed = stats.requests_per_arm(usd_a_month / a_month, *variances, power=_POWER)
            return math.ceil(max(LEAST_REQUESTS * self._log.requests / len(self._log.conversations), needed))

        ends = [end for end in (change.low, change.high) if end]
        per_arm = requests(change.mean)
        return LiveTest(
            metric="cost_usd.per_request",
            difference=change.mean / a_month,
            power=_POWER,
            confidence=0.95,
            requests_per_arm=per_arm,
            from_requests=requests(max(ends, key=abs)) if ends else per_arm,
            to_requests=requests(min(ends, key=abs)) if ends and best.saves else None,
            days=2 * per_arm / (a_month / MONTH_S) / 86_400,
        )


def best_trigger(triggers: Sequence[Warming]) -> Warming | None:
    """Of those that help the one that takes most off the 95th percentile; None: none helps."""
    helping = [each for each in triggers if each.helps]
    return min(helping, key=lambda each: each.p95_change_s.mean if each.p95_change_s else 0.0, default=None)


def _word(rows: Sequence[Row], best: Row | None, possible: Row | None, reproduction: Reproduction | None, chance: Chance) -> Word:
    holds = reproduction is None or reproduction.holds
    if chance.units < 2 or (reproduction is not None and reproduction.hopeless):
        return "cannot tell"
    if best is not None:
        return "yes" if holds else "it depends"
    if possible is not None:
        return "it depends"
    caching = [row for row in rows if row.alternative.kind == "caching" and row.alternative.chosen]
    seeming = [row for row in caching if row.change_share.mean < -_SEEMS and not row.saves]
    return "cannot tell" if seeming or not holds else "no"


def _wholly_marked(log: Reconstruction) -> bool:
    """Whether the markers stand behind nearly all that conversations repeat."""
    repeated = unmarked = 0
    for each in log.conversations:
        for turn in each.turns[1:]:
            repeated += turn.whole_tokens
            unmarked += max(turn.whole_tokens - turn.marked_tokens, 0)
    return unmarked <= _UNMARKED * repeated
