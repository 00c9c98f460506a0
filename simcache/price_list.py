"""List prices of hosted models by day and hour, from the bundled data of genai-prices. Offline."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, date, datetime, time
from typing import Any, Final

from .errors import InputError, UnknownNameError
from .pricing import PriceTier, Tariff

TOKENS_PER_MTOK: Final = 1_000_000


def api_tariff(provider: str, model: str, at: date | datetime | None = None, *, bills_cancelled: bool = True) -> Tariff:
    """The list prices of ``model`` at ``provider`` on ``at`` (None: today).

    A date stands for its noon, UTC, so that all runs of a day agree. Errors: unknown provider or model (near names in the error).

    >>> gpt = api_tariff("openai", "gpt-4o"); gpt.cache_read_usd_per_token / gpt.input_usd_per_token
    0.5
    """
    from importlib.metadata import version

    when = price_instant(at)
    found, entry = _entry(provider, model)
    prices = entry.get_prices(when)
    starts = sorted({tier.start for key in _LIBRARY_KEYS.values() for tier in getattr(getattr(prices, key), "tiers", ())})
    return Tariff(
        provider=provider,
        model=model,
        as_of=when.date().isoformat(),
        source=f"genai-prices {version('genai-prices')}: {found.id}/{entry.id}",
        tiers=tuple(PriceTier(above_prompt_tokens=start, **_per_token(prices, start)) for start in starts),
        bills_cancelled=bills_cancelled,
        **_per_token(prices, None),
    )


def priced_by_hour(provider: str, model: str) -> bool:
    """Whether the list has prices for this model that depend on the time of day. Errors: as :func:`api_tariff`.

    >>> priced_by_hour("deepseek", "deepseek-v4-pro"), priced_by_hour("openai", "gpt-4o")
    (True, False)
    """
    prices = _entry(provider, model)[1].prices
    return isinstance(prices, list) and any(hasattr(each.constraint, "start_time") for each in prices)


def _entry(provider: str, model: str) -> tuple[Any, Any]:
    # Imported here: the price data takes 0.25 s to load, a run on own GPUs never needs it.
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    try:
        found = snapshot.find_provider(None, provider, None)
    except LookupError:
        raise UnknownNameError("provider", provider, [each.id for each in snapshot.providers]) from None
    # Gateways and Google write the model behind a path: models/gemini-2.5-pro, anthropic/claude-sonnet-4.5
    for name in dict.fromkeys((model, model.rpartition("/")[2])):
        entry = next((each for each in found.models if each.id == name), None)
        if entry is not None:
            return found, entry
        with suppress(LookupError):
            return found, snapshot.find_provider_model(name, found, None, None)[1]
    raise UnknownNameError("model", model, [each.id for each in found.models])


_LIBRARY_KEYS: Final = {
    "input_usd_per_token": "input_mtok",
    "cache_read_usd_per_token": "cache_read_mtok",
    "cache_write_5m_usd_per_token": "cache_write_mtok",
    "cache_write_1h_usd_per_token": "cache_write_1h_mtok",
    "output_usd_per_token": "output_mtok",
}


def _per_token(prices: Any, tier_start: int | None) -> dict[str, Any]:
    """The library's Decimal (or tiered) $/Mtok as floats per token, at the tier that begins at ``tier_start``."""
    out: dict[str, Any] = {}
    for name, key in _LIBRARY_KEYS.items():
        price = getattr(prices, key)
        if hasattr(price, "tiers"):
            reached = [tier.price for tier in price.tiers if tier_start is not None and tier.start <= tier_start]
            price = reached[-1] if reached else price.base
        out[name] = None if price is None else float(price / TOKENS_PER_MTOK)
    return out


def parse_date(name: str, text: str) -> date | datetime:
    """``text`` in ISO 8601 as a date, or with a time of day (UTC unless it says otherwise) as an instant.

    >>> parse_date("prices_at", "2026-11-21"), parse_date("prices_at", "2026-11-20T02:30").hour
    (datetime.date(2026, 11, 21), 2)
    """
    try:
        return date.fromisoformat(text) if len(text) <= 10 else datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise InputError(name, text, "must be a date such as 2026-11-21, or an instant such as 2026-11-21T02:30") from None


def price_instant(at: date | datetime | None) -> datetime:
    """The instant (UTC) whose prices hold for ``at``: itself, the noon of a date, or None: today's noon.

    >>> price_instant(date(2026, 11, 21)).isoformat()
    '2026-11-21T12:00:00+00:00'
    """
    if isinstance(at, datetime):
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    return datetime.combine(datetime.now(tz=UTC).date() if at is None else at, time(12), tzinfo=UTC)
