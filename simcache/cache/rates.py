"""What a provider's rules and the price list together charge for one model, by day and by hour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..price_list import TOKENS_PER_MTOK, api_tariff, price_instant
from ..pricing import TOKEN_LINES, Bill, PriceTier, Tariff, TokenPrices, bill
from ..records import Records
from .presets import load_rules, notes_on, rules_names
from .rules import ONE_HOUR, PRICES_UP_TO, Peak, ProviderRules, best_key

_MINUTE: Final = 60


def tariff_of(rules: ProviderRules, model: str, at: date | datetime | None = None, *, batch: bool = False) -> Tariff:
    """The tariff of ``model`` under ``rules`` on ``at`` (None: today), before peak hours.

    Prices that the rules state for the model in dollars win. Otherwise input and output are the price list's; so are reads and
    writes, except that a file of your own wins over the list with its multipliers (the shipped files' are held against the list
    by the tests). Where the list knows nothing of the provider, multipliers do; so do they for what it lacks of a model that is
    asked for under rules made for others. Errors: an unknown provider or model; a batch at
    a provider that states no price for it.

    >>> round(tariff_of(load_rules("gemini-explicit"), "gemini-2.5-pro", date(2026, 11, 21)).storage_usd_per_token_hour * 1e6, 6)
    4.5
    """
    named = best_key(model, rules.prices_usd_per_mtok)
    stated = {} if named is None else dict(rules.prices_usd_per_mtok[named])
    most_tokens = stated.pop(PRICES_UP_TO, None)
    own = {name: price / TOKENS_PER_MTOK for name, price in stated.items()}
    when = price_instant(at)
    listed = None
    if not {"input", "output"} <= own.keys():
        listed = api_tariff(rules.price_list or rules.provider, model, when.date() if rules.peaks_of(model) else when)
    edited = rules.name not in rules_names() or load_rules(rules.name) != rules
    foreign = bool(rules.models) and best_key(model, rules.models) is None
    storage = best_key(model, rules.storage_usd_per_mtok_hour)

    def prices(step: TokenPrices | None) -> dict[str, Any]:
        return _prices(rules, model, own, step, own_multipliers=edited or listed is None, foreign=foreign)

    sources = [] if listed is None else [listed.source]
    if own or edited or foreign or listed is None or storage is not None:
        sources.append(f"rules {rules.name} of {rules.as_of}")
    tariff = Tariff(
        provider=rules.provider,
        model=model,
        as_of=when.date().isoformat(),
        source="; ".join(sources),
        bills_cancelled=rules.bills_cancelled,
        storage_usd_per_token_hour=None if storage is None else rules.storage_usd_per_mtok_hour[storage] / TOKENS_PER_MTOK,
        tiers=(
            *(PriceTier(above_prompt_tokens=tier.above_prompt_tokens, **prices(tier)) for tier in (listed.tiers if listed else ())),
            *([] if most_tokens is None else [PriceTier(above_prompt_tokens=int(most_tokens))]),
        ),
        **prices(listed),
    )
    if not batch:
        return tariff
    if rules.batch_multiplier is None:
        raise InputError("batch", True, f"has no price in rules {rules.name}", "Give them a batch_multiplier.")
    return tariff.times(rules.batch_multiplier)


def _prices(
    rules: ProviderRules, model: str, own: Mapping[str, float], step: TokenPrices | None, *, own_multipliers: bool, foreign: bool
) -> dict[str, Any]:
    """Dollars per token by field of ``TokenPrices``, at one length of prompt."""
    listed = {line: None if step is None else getattr(step, f"{line}_usd_per_token") for line in TOKEN_LINES}
    input_price = own.get("input", listed["input"])
    multipliers = {"cache_read": rules.read_multiplier_of(model)}
    if rules.bills_writes:
        for ttl in reversed(list(rules.lifetime_s)):  # the first lifetime is the default one
            multipliers["cache_write_1h" if ttl == ONE_HOUR else "cache_write_5m"] = rules.write_multiplier_of(ttl)
    found: dict[str, Any] = {}
    for line in TOKEN_LINES:
        price = listed[line]
        if (own_multipliers or (foreign and price is None)) and line in multipliers and input_price is not None:
            price = multipliers[line] * input_price
        found[f"{line}_usd_per_token"] = own.get(line, price)
    return found


@dataclass(frozen=True, kw_only=True)
class HostedPrices:
    """A tariff and the ``peaks`` at which it is higher, for a run whose zero is ``starts_at``; ``notes`` for its result.

    >>> prices = hosted_prices(load_rules("deepseek"), "deepseek-v4-pro", datetime(2026, 11, 20, 3, 59))
    >>> prices.factors(np.array([0, 59, 60])).tolist()
    [2.0, 2.0, 1.0]
    """

    tariff: Tariff
    starts_at: datetime
    peaks: tuple[Peak, ...] = ()
    notes: tuple[str, ...] = ()

    def factors(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """What every price is multiplied by at ``seconds`` after the run's zero."""
        out = np.ones(len(seconds))
        if not self.peaks:
            return out
        minutes = ((seconds + self.starts_at.second + self.starts_at.microsecond / 1e6) // _MINUTE).astype(np.int64)
        start = self.starts_at.replace(second=0, microsecond=0)
        for minute in np.unique(minutes).tolist():
            now = start + timedelta(minutes=minute)
            held = [peak.multiplier for peak in self.peaks if peak.holds_at(now)]
            out[minutes == minute] = float(np.prod(held)) if held else 1.0
        return out

    def bill(self, records: Records) -> Bill:
        """The bill of a run's records, each at the prices of the instant it was submitted."""
        return bill(records, self.tariff, row_factor=self.factors(records["submitted_at_ns"] / 1e9))


def hosted_prices(rules: ProviderRules, model: str, at: date | datetime | None = None, *, batch: bool = False) -> HostedPrices:
    """What a run at a hosted API is billed with; ``at`` None is today, and a note says how to repeat the run. Errors: as above.

    >>> hosted_prices(load_rules("anthropic"), "claude-sonnet-4-5", date(2026, 11, 21)).notes
    ()
    """
    starts_at = price_instant(at)
    notes = notes_on(rules, model)
    if at is None:
        day = starts_at.date().isoformat()
        notes.append(f'prices are those of {day}, today; prices_at = "{day}" in [backend] repeats this run')
    if rules.peaks_of(model) and not isinstance(at, datetime):
        notes.append(
            f"{rules.name}: prices change by the hour; the run is taken to start at 12:00 UTC (prices_at takes an instant)"
        )
    if batch:
        notes.append("batch prices: the provider answers within hours, the latencies are those of single requests")
    tariff = tariff_of(rules, model, starts_at, batch=batch)
    return HostedPrices(tariff=tariff, starts_at=starts_at, peaks=rules.peaks_of(model), notes=tuple(notes))
