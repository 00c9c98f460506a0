"""What a usage log cost, and what other lifetimes, rules or models would have made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Final

import numpy as np

from .cache.presets import load_rules, rules_names, rules_of
from .cache.rates import HostedPrices, hosted_prices
from .cache.rules import ONE_HOUR, ProviderRules
from .errors import InputError, UnknownNameError
from .logs import UsageLog, UsageRow
from .price_list import api_tariff, price_instant, priced_by_hour
from .pricing import API_LINES, Tariff, TokenPrices, bill

_DAY_S: Final = 86_400
_HALF_HOUR_S: Final = 1_800
"""Prices by the hour change on the hour or the half hour."""

_COLUMN_OF_PRICE: Final = {
    "cache_read_usd_per_token": "cached_tokens",
    "cache_write_5m_usd_per_token": "written_5m_tokens",
    "cache_write_1h_usd_per_token": "written_1h_tokens",
    "output_usd_per_token": "output_tokens",
    "storage_usd_per_token_hour": "stored_token_hours",
}
"""Which field of a row needs a price, by the name under which ``pricing.bill`` misses it."""


@dataclass(frozen=True, kw_only=True)
class Unpriced:
    """Requests of one model that no price was found for, and why."""

    provider: str
    model: str
    requests: int
    why: str


@dataclass(frozen=True, kw_only=True)
class UsageBill:
    """Dollars by line (those of ``pricing.API_LINES``) over ``requests``, of which ``unpriced_rows`` (by number) are in no line.

    ``prices``: where they come from, with the day. ``notes``: what was assumed.
    """

    lines: dict[str, float]
    requests: int
    unpriced_rows: tuple[int, ...] = field(repr=False)
    unpriced_models: tuple[Unpriced, ...]
    prices: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def total_usd(self) -> float:
        """Sum of all lines."""
        return sum(self.lines.values())

    @property
    def unpriced(self) -> int:
        """Requests that are in no line."""
        return len(self.unpriced_rows)


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """What the same requests would have cost otherwise, and on which assumption."""

    name: str
    total_usd: float
    change_usd: float
    assumes: str


def bill_usage(log: UsageLog, *, model: str | None = None, rules: str | None = None) -> UsageBill:
    """The bill of every row at the prices of its instant; a row that has none is priced as of today, and a note says so.

    ``model`` ("MODEL" or "PROVIDER/MODEL") and ``rules`` (a name or a TOML path) take the place of the logged ones for all rows:
    the same tokens, other prices. Rows whose prices are not known are counted, never taken for free. Errors: an unknown
    ``model`` or ``rules``; a log of which nothing can be priced.

    >>> log = UsageLog((UsageRow(provider="anthropic", model="claude-sonnet-4-5", prompt_tokens=100_000, cached_tokens=90_000,
    ...     written_5m_tokens=5_000, started_at_s=1_790_000_000),))
    >>> bill_usage(log).total_usd
    0.06075
    """
    desk = _PriceDesk(rules)
    rows = list(log.rows) if model is None else desk.moved(log.rows, model)
    groups: dict[tuple[str, str, int | None, bool], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row.provider, row.model, desk.moment(row), row.batch), []).append(index)
    lines = dict.fromkeys(API_LINES, 0.0)
    unpriced: list[int] = []
    causes: dict[tuple[str, str, str], int] = {}
    days: dict[str, list[str]] = {}
    first_error: InputError | None = None
    for (provider, name, moment, batch), chosen in groups.items():
        prices: HostedPrices | None = None
        while chosen:
            try:
                prices = desk.prices(provider, name, moment, batch)
                found = _lines([rows[index] for index in chosen], prices, moment)
            except InputError as error:
                first_error = first_error or error
                needing = {index for index in chosen if prices is None or _needs(rows[index], error, prices.tariff)}
                kept = [index for index in chosen if index not in needing]
                unpriced += [index for index in chosen if index in needing]
                cause = (provider, name, str(error))
                causes[cause] = causes.get(cause, 0) + len(chosen) - len(kept)
                chosen = kept
                continue
            for line in API_LINES:
                lines[line] += found[line]
            days.setdefault(prices.tariff.source + (", today" if moment is None else ""), []).append(prices.tariff.as_of)
            break
    if first_error is not None and len(unpriced) == len(rows):
        raise first_error
    notes = list(log.notes)
    undated = sum(not row.dated for row in rows)
    if undated:
        notes.append(f"{undated:,} of {len(rows):,} rows have no calendar started_at_s: today's prices are applied to them")
    return UsageBill(
        lines=lines,
        requests=len(rows),
        unpriced_rows=tuple(sorted(unpriced)),
        unpriced_models=tuple(
            Unpriced(provider=provider, model=name, requests=count, why=why) for (provider, name, why), count in causes.items()
        ),
        prices=tuple(f"{source} ({_span(sorted(set(each)))})" for source, each in days.items()),
        notes=tuple(notes),
    )


def alternatives(log: UsageLog, *, model: str | None = None) -> list[Alternative]:
    """The bill without caching, with every other lifetime that the providers in the log offer, and under their other rules.

    Where rows carry session and instant, another lifetime changes what is hit: the gap from start to start within the session
    decides, and what the request before had cached or written is what could be hit. Elsewhere it changes prices only. Rows whose
    prices are not known are left out on both sides.

    >>> row = UsageRow(provider="openai", model="gpt-4o", prompt_tokens=2000, cached_tokens=1000)
    >>> alternatives(UsageLog((row,)))[0].name
    'no caching'
    """
    rows = list(log.rows) if model is None else _PriceDesk(None).moved(log.rows, model)
    unpriced = set(bill_usage(UsageLog(tuple(rows))).unpriced_rows)
    rows = [row for index, row in enumerate(rows) if index not in unpriced]
    base = bill_usage(UsageLog(tuple(rows)))
    found = [_alternative("no caching", list(map(_uncached, rows)), base, "every prompt token at the input price")]
    owns = {(row.provider, row.model): _own_rules(row.provider, row.model) for row in rows}
    lifetimes: dict[str, float] = {}
    for own in owns.values():
        if own is not None and own.bills_writes:
            lifetimes.update(own.lifetime_s)
    for ttl, lifetime_s in lifetimes.items() if len(lifetimes) > 1 else ():
        other = _with_lifetime(rows, ttl, lifetime_s)
        found.append(_alternative(f"every write for {ttl}", other, base, _assumed(rows)))
    for rules in _other_rules(list(owns.values())):
        found.append(_alternative(f"rules {rules.name}", _under_rules(rows, rules), base, _assumed(rows), rules=rules.name))
    return found


def _alternative(name: str, rows: Sequence[UsageRow], base: UsageBill, assumes: str, rules: str | None = None) -> Alternative:
    total_usd = bill_usage(UsageLog(tuple(rows)), rules=rules).total_usd
    return Alternative(name=name, total_usd=total_usd, change_usd=total_usd - base.total_usd, assumes=assumes)


@cache
def _own_rules(provider: str, model: str) -> ProviderRules | None:
    """The rules that hold where nothing is said; None: a provider without a file."""
    try:
        return rules_of(provider, model)
    except UnknownNameError:
        return None


class _PriceDesk:
    """Finds prices and remembers them; ``rules`` None: those that hold for each model."""

    def __init__(self, rules: str | None) -> None:
        self._rules = None if rules is None else load_rules(rules)
        self._steps: dict[tuple[str, str], int] = {}
        self._found: dict[tuple[str, str, int | None, bool], HostedPrices] = {}

    def moment(self, row: UsageRow) -> int | None:
        """The start of the span, of equal list prices, in which the row began (Unix seconds); None: not known."""
        if not row.dated or row.started_at_s is None:
            return None
        key = (row.provider, row.model)
        if key not in self._steps:
            self._steps[key] = self._step_s(*key)
        return int(row.started_at_s // self._steps[key]) * self._steps[key]

    def _step_s(self, provider: str, model: str) -> int:
        own = self._rules or _own_rules(provider, model)
        if own is not None and own.peaks_of(model):
            return _DAY_S
        try:
            return _HALF_HOUR_S if priced_by_hour(own.price_list or own.provider if own else provider, model) else _DAY_S
        except InputError:
            return _DAY_S

    def prices(self, provider: str, model: str, moment: int | None, batch: bool) -> HostedPrices:
        """The prices from ``moment`` on. Errors: an unknown provider or model, a batch without a price."""
        key = (provider, model, moment, batch)
        if key not in self._found:
            self._found[key] = self._look_up(*key)
        return self._found[key]

    def _look_up(self, provider: str, model: str, moment: int | None, batch: bool) -> HostedPrices:
        at = None if moment is None else datetime.fromtimestamp(moment, UTC)
        own = self._rules or _own_rules(provider, model)
        if own is None:
            if batch:
                raise InputError("batch", True, f"has no price: there are no rules of {provider}", "Give them with --rules.")
            return HostedPrices(tariff=api_tariff(provider, model, at), starts_at=price_instant(at))
        prices = hosted_prices(own, model, at, batch=batch)
        return prices if at is None else replace(prices, starts_at=at)

    def moved(self, rows: Sequence[UsageRow], model: str) -> list[UsageRow]:
        """The rows as if they had gone to ``model``, at a provider that has it: its own, named before a slash, or any."""
        every = [load_rules(name) for name in rules_names()]
        head, _, rest = model.partition("/")
        candidates = [(row.provider, model) for row in rows] + [(rules.provider, model) for rules in every]
        if rest and any(head in (rules.provider, *rules.aliases) for rules in every):
            candidates.insert(0, (head, rest))
        errors = []
        for provider, name in dict.fromkeys(candidates):
            try:
                self.prices(provider, name, None, False)
            except InputError as error:
                errors.append(error)
                continue
            return [replace(row, provider=provider, model=name) for row in rows]
        raise errors[0]


def _lines(rows: Sequence[UsageRow], prices: HostedPrices, moment: int | None) -> dict[str, float]:
    log = UsageLog(tuple(_as_billed(row, prices.tariff) for row in rows))
    since_s = [0.0 if row.started_at_s is None or moment is None else row.started_at_s - moment for row in rows]
    return dict(bill(log.records, prices.tariff, row_factor=prices.factors(np.array(since_s))).lines)


def _as_billed(row: UsageRow, tariff: Tariff) -> UsageRow:
    """Written tokens of a provider that bills no writes are input."""
    if tariff.cache_write_5m_usd_per_token is None and tariff.cache_write_1h_usd_per_token is None:
        return replace(row, written_5m_tokens=0, written_1h_tokens=0)
    return row


def _needs(row: UsageRow, error: InputError, tariff: Tariff) -> bool:
    """Whether the price that ``error`` misses (where it is about one) is needed for the row."""
    column = _COLUMN_OF_PRICE.get(error.name)
    if column is not None and not getattr(row, column):
        return False
    steps = [step for step in tariff.tiers if step.above_prompt_tokens < row.prompt_tokens]
    step: TokenPrices = max(steps, key=lambda each: each.above_prompt_tokens) if steps else tariff
    return getattr(step, error.name, None) is None


def _span(days: Sequence[str]) -> str:
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _uncached(row: UsageRow) -> UsageRow:
    return replace(row, cached_tokens=0, written_5m_tokens=0, written_1h_tokens=0, stored_token_hours=0.0)


def _stored(row: UsageRow, cached: int, written: int, ttl: str) -> UsageRow:
    """The row with other cache counts, everything written for ``ttl``."""
    hour = ttl == ONE_HOUR
    return replace(row, cached_tokens=cached, written_5m_tokens=0 if hour else written, written_1h_tokens=written if hour else 0)


def _cacheable(row: UsageRow) -> int:
    return row.cached_tokens + row.written_5m_tokens + row.written_1h_tokens


def _with_lifetime(rows: Sequence[UsageRow], ttl: str, lifetime_s: float) -> list[UsageRow]:
    """The rows with all writes for the lifetime ``ttl``, where their provider offers it."""
    out = []
    for row, cached in zip(rows, _hits(rows, lifetime_s), strict=True):
        own = _own_rules(row.provider, row.model)
        offered = own is not None and own.bills_writes and ttl in own.lifetime_s
        out.append(_stored(row, cached, _cacheable(row) - cached, ttl) if offered else row)
    return out


def _under_rules(rows: Sequence[UsageRow], rules: ProviderRules) -> list[UsageRow]:
    """The rows as these rules of the same provider would have cached them.

    Where the log knows no writes and the rules bill them, all of a prompt that is long enough is taken to be written.
    """
    out = []
    for row, cached in zip(rows, _hits(rows, rules.lifetime_s[rules.default_ttl]), strict=True):
        cacheable = _cacheable(row)
        if rules.bills_writes and cacheable == row.cached_tokens and row.prompt_tokens >= rules.min_tokens_of(row.model):
            cacheable = row.prompt_tokens
        out.append(_stored(row, cached, cacheable - cached if rules.bills_writes else 0, rules.default_ttl))
    return out


def _hits(rows: Sequence[UsageRow], lifetime_s: float) -> list[int]:
    """Cached tokens per row had entries lived for ``lifetime_s`` from start to start.

    A gap that the logged lifetime outlived and this one does not loses the hit; one that the logged lifetime did not outlive and
    this one does finds what the session's request before had cached or written, as far as this request caches; where the
    provider bills no writes, the whole prompt before, which this one is taken to begin with.
    """
    cached = [row.cached_tokens for row in rows]
    last: dict[tuple[str, str, str], UsageRow] = {}
    timed = [index for index, row in enumerate(rows) if row.session is not None and row.started_at_s is not None]
    for index in sorted(timed, key=lambda index: (rows[index].started_at_s or 0.0, index)):
        row = rows[index]
        key = (row.provider, row.model, row.session or "")
        previous = last.get(key)
        last[key] = row
        own = _own_rules(row.provider, row.model)
        if previous is None or own is None:
            continue
        gap_s = (row.started_at_s or 0.0) - (previous.started_at_s or 0.0)
        logged_ttl = ONE_HOUR if previous.written_1h_tokens and ONE_HOUR in own.lifetime_s else own.default_ttl
        if gap_s >= lifetime_s:
            cached[index] = 0
        elif gap_s >= own.lifetime_s[logged_ttl]:
            cached[index] = max(row.cached_tokens, _found_again(previous, row, own))
    return cached


def _found_again(previous: UsageRow, row: UsageRow, own: ProviderRules) -> int:
    """Tokens that ``row`` would have hit of the session's ``previous`` request, had its entry lived."""
    if own.bills_writes:
        return min(_cacheable(previous), _cacheable(row))
    # a log without writes does not say what was stored: all that is long enough is
    shared = min(previous.prompt_tokens, row.prompt_tokens - 1) // own.unit_tokens * own.unit_tokens
    return shared if shared >= own.min_tokens_of(row.model) else 0


def _assumed(rows: Sequence[UsageRow]) -> str:
    timed = sum(row.session is not None and row.started_at_s is not None for row in rows)
    if not timed:
        return "the same hits: no row has both session and started_at_s, so what would have expired is not known"
    rest = "" if timed == len(rows) else f", the same hits in the {len(rows) - timed:,} others"
    unwritten = any(own is not None and not own.bills_writes for own in {_own_rules(row.provider, row.model) for row in rows})
    begun = ", each prompt taken to begin with the one before" if unwritten else ""
    return f"hits by the gaps from start to start within each session ({timed:,} rows){begun}{rest}"


def _other_rules(owns: Sequence[ProviderRules | None]) -> list[ProviderRules]:
    """Rules of the log's only provider that no row is under; not those that charge storage, which no usage block counts."""
    names = {own.name for own in owns if own is not None}
    providers = {own.provider if own is not None else "" for own in owns}
    if len(providers) != 1:
        return []
    every = [load_rules(name) for name in rules_names()]
    return [
        rules
        for rules in every
        if {rules.provider} == providers and rules.name not in names and not rules.storage_usd_per_mtok_hour
    ]
