"""What a provider caches, for whom, from when and for how long, and at what multiples of the input price: dated facts."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from fnmatch import fnmatchcase
from typing import Final, Literal, get_args

from ..errors import InputError, UnknownNameError, require, require_count, require_number
from ..prompt import Request

Matching = Literal["prefix at unit", "exact at breakpoints"]
LifetimeKind = Literal["sliding maximum", "guaranteed minimum", "best effort"]
CountedFrom = Literal["request start", "visible"]
Visible = Literal["scheduled", "first_response", "finished"]
Scope = Literal["organisation", "workspace", "user"]

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
PRICE_NAMES: Final = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
PRICES_UP_TO: Final = "up_to_tokens"
"""Beside prices in dollars: the longest prompt that they hold for. What a longer one costs is not known, and an error."""
ONE_HOUR: Final = "1h"
"""The lifetime whose writes have a bill line of their own; every other one is a provider's default lifetime."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Hours (UTC, half open, on ``weekdays``; none: every day) in which every price is ``multiplier`` times as high.

    ``models``: patterns of those that it holds for; none: all.

    >>> Peak(from_utc="01:00", to_utc="04:00", multiplier=2.0).holds_at(datetime(2026, 11, 20, 3, 59))
    True
    """

    from_utc: str
    to_utc: str
    multiplier: float
    weekdays: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_number("multiplier", self.multiplier, at_least=0)
        for name in ("from_utc", "to_utc"):
            _clock(name, getattr(self, name))
        for day in self.weekdays:
            if day not in WEEKDAYS:
                raise UnknownNameError("weekdays", day, WEEKDAYS)

    def holds_at(self, utc: datetime) -> bool:
        """Whether the instant ``utc`` lies in these hours."""
        start, end, now = _clock("from_utc", self.from_utc), _clock("to_utc", self.to_utc), utc.time()
        inside = start <= now < end if start < end else now >= start or now < end
        return inside and (not self.weekdays or WEEKDAYS[utc.weekday()] in self.weekdays)


@dataclass(frozen=True, kw_only=True)
class ProviderRules:
    """The cache rules of one provider at one date; counts in tokens, spans in seconds, prices as multiples of the input price.

    Who: ``provider`` as genai-prices calls it, or by one of ``aliases``. ``models`` (patterns such as "gpt-6*") are those that
    these rules were made for; none: all that no other rules of the provider name. ``default``: chosen where nothing else is
    asked for. Tables per model take the name that fits best: the exact one (dated names included), else the longest pattern.

    What is found: ``matching`` "prefix at unit" finds the longest stored prefix, floored to ``unit_tokens``; "exact at breakpoints"
    finds what was stored up to a breakpoint, checking ``lookback_positions`` segment ends from every breakpoint of the request
    backwards (None: all of them). The client sets up to ``max_markers`` breakpoints (the provider's own included);
    ``automatic_marker``: the provider sets one at the end of the prompt. ``min_tokens`` is the shortest prefix that is stored.

    How long: ``lifetime_s`` by name, the first is the default; every read refreshes it (``reads_refresh`` False: none does).
    ``lifetime_kind`` says how far to trust it, ``counted_from`` which instant starts it, ``early_deaths_per_h`` how often an entry
    dies before its time. ``visibility``: when a request's entry can be hit by others.

    Where: ``scope`` says who shares entries (a request's ``organisation`` stands for a workspace too). With several ``machines``,
    each with a cache of its own, the hash of the first ``routed_by_tokens`` tokens picks one; what exceeds
    ``machine_requests_per_minute`` per prefix goes on to the next, and the share ``stray_share`` goes anywhere.
    ``stores_data``: ruled out where no data may be retained.

    What it costs: ``bills_writes``: written tokens are a bill line of their own, at ``write_multiplier`` per lifetime. Reads cost
    ``read_multiplier``. ``storage_usd_per_mtok_hour`` by model, ``batch_multiplier`` of every price (None: no batches), ``peaks``
    by the hour. ``price_list``: whose list prices hold (None: the provider's own); ``prices_usd_per_mtok`` by model wins over it,
    for prompts ``up_to_tokens`` where that is given.
    ``bills_cancelled``: a request given up during its computation is billed, and then its entry appears all the same; False:
    neither. ``warm_output_tokens``: the least output that the provider lets a warm-up ask for.

    >>> from simcache.cache.presets import load_rules
    >>> load_rules("openai-2024").min_tokens
    1024
    """

    name: str
    provider: str
    aliases: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    default: bool = True
    as_of: str
    source: str

    matching: Matching
    min_tokens: int
    min_tokens_by_model: Mapping[str, int] = field(default_factory=dict, hash=False)
    unit_tokens: int
    lookback_positions: int | None = None
    max_markers: int = 1
    automatic_marker: bool = False

    lifetime_s: Mapping[str, float] = field(hash=False)
    lifetime_kind: LifetimeKind
    counted_from: CountedFrom
    reads_refresh: bool = True
    early_deaths_per_h: float = 0.0
    visibility: Visible

    scope: Scope
    machines: int = 1
    routed_by_tokens: int = 256
    machine_requests_per_minute: float | None = None
    stray_share: float = 0.0
    stores_data: bool

    bills_writes: bool
    write_multiplier: Mapping[str, float] = field(default_factory=dict, hash=False)
    read_multiplier: float
    read_multiplier_by_model: Mapping[str, float] = field(default_factory=dict, hash=False)
    storage_usd_per_mtok_hour: Mapping[str, float] = field(default_factory=dict, hash=False)
    batch_multiplier: float | None = None
    peaks: tuple[Peak, ...] = ()
    price_list: str | None = None
    prices_usd_per_mtok: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)
    counts_cached_reads_in_rate_limit: bool
    bills_cancelled: bool
    warm_output_tokens: int

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            require(getattr(self, name) in choices, name, getattr(self, name), f"must be one of {', '.join(map(repr, choices))}")
        for name in ("name", "provider", "as_of", "source"):
            value = getattr(self, name)
            require(isinstance(value, str) and bool(value), name, value, "must be a text that is not empty")
        try:
            date.fromisoformat(self.as_of)
        except ValueError:
            raise InputError("as_of", self.as_of, "must be a date such as 2026-11-21") from None
        for name in _FLAGS:
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "must be true or false")
        for name, at_least in _COUNTS.items():
            require_count(name, getattr(self, name), at_least=at_least)
        if self.lookback_positions is not None:
            require_count("lookback_positions", self.lookback_positions)
        if self.machine_requests_per_minute is not None:
            require_number("machine_requests_per_minute", self.machine_requests_per_minute, above=0)
        if self.batch_multiplier is not None:
            require_number("batch_multiplier", self.batch_multiplier, at_least=0)
        require_number("early_deaths_per_h", self.early_deaths_per_h, at_least=0)
        require_number("stray_share", self.stray_share, at_least=0, at_most=1)
        require_number("read_multiplier", self.read_multiplier, at_least=0)
        self._check_tables()

    def _check_tables(self) -> None:
        for table in (*_RATE_TABLES, "min_tokens_by_model", "lifetime_s", "prices_usd_per_mtok"):
            require(isinstance(getattr(self, table), Mapping), table, getattr(self, table), "must be a table")
        for model, tokens in self.min_tokens_by_model.items():
            require_count(f"min_tokens_by_model.{model}", tokens, at_least=0)
        require(bool(self.lifetime_s), "lifetime_s", dict(self.lifetime_s), "must name at least one lifetime")
        for ttl, lifetime_s in self.lifetime_s.items():
            require_number(f"lifetime_s.{ttl}", lifetime_s, above=0)
        for table in _RATE_TABLES:
            for key, rate in getattr(self, table).items():
                require_number(f"{table}.{key}", rate, at_least=0)
        for ttl in self.write_multiplier:
            if ttl not in self.lifetime_s:
                raise UnknownNameError("write_multiplier", ttl, self.lifetime_s)
        for ttl in self.lifetime_s if self.bills_writes else ():
            require(ttl in self.write_multiplier, f"write_multiplier.{ttl}", None, "must be given where writes are billed")
        for model, prices in self.prices_usd_per_mtok.items():
            require(isinstance(prices, Mapping), f"prices_usd_per_mtok.{model}", prices, "must be a table")
            for name, price in prices.items():
                if name not in (*PRICE_NAMES, PRICES_UP_TO):
                    raise UnknownNameError(f"prices_usd_per_mtok.{model}", name, (*PRICE_NAMES, PRICES_UP_TO))
                require_number(f"prices_usd_per_mtok.{model}.{name}", price, at_least=0)

    @property
    def default_ttl(self) -> str:
        """The lifetime that writes get when nothing is asked for.

        >>> from simcache.cache.presets import load_rules
        >>> load_rules("gemini-explicit").default_ttl
        '1h'
        """
        return next(iter(self.lifetime_s))

    def min_tokens_of(self, model: str) -> int:
        """The shortest prefix of ``model`` that is cached.

        >>> from simcache.cache.presets import load_rules
        >>> load_rules("anthropic").min_tokens_of("claude-haiku-4-5-20251001")
        4096
        """
        listed = best_key(model, self.min_tokens_by_model)
        return self.min_tokens if listed is None else self.min_tokens_by_model[listed]

    def lifetime_of(self, ttl: str) -> float:
        """Seconds of the lifetime named ``ttl``. Errors: a name that the provider does not offer.

        >>> from simcache.cache.presets import load_rules
        >>> load_rules("anthropic").lifetime_of("1h")
        3600
        """
        if ttl not in self.lifetime_s:
            raise UnknownNameError("cache_ttl", ttl, self.lifetime_s)
        return self.lifetime_s[ttl]

    def read_multiplier_of(self, model: str) -> float:
        """What a cached token costs, in units of the input price.

        >>> from simcache.cache.presets import load_rules
        >>> load_rules("openai-2024").read_multiplier_of("gpt-4o")
        0.5
        """
        listed = best_key(model, self.read_multiplier_by_model)
        return self.read_multiplier if listed is None else self.read_multiplier_by_model[listed]

    def write_multiplier_of(self, ttl: str) -> float:
        """What a token that is stored costs, in units of the input price; 1 where writes are not billed apart.

        >>> from simcache.cache.presets import load_rules
        >>> load_rules("anthropic").write_multiplier_of("1h"), load_rules("groq").write_multiplier_of("2h")
        (2.0, 1.0)
        """
        self.lifetime_of(ttl)
        return self.write_multiplier[ttl] if self.bills_writes else 1.0

    def peaks_of(self, model: str) -> tuple[Peak, ...]:
        """The hours in which ``model`` costs more.

        >>> from simcache.cache.presets import load_rules
        >>> len(load_rules("deepseek").peaks_of("deepseek-v4-pro")), load_rules("deepseek").peaks_of("deepseek-chat")
        (2, ())
        """
        return tuple(peak for peak in self.peaks if not peak.models or best_key(model, peak.models) is not None)

    def scope_of(self, request: Request) -> Hashable:
        """The namespace in which ``request`` finds and stores entries.

        >>> from simcache.cache.presets import load_rules
        >>> from simcache.prompt import Segment
        >>> r = Request(0.0, (), Segment("a", 1), organisation="acme", user="ann")
        >>> load_rules("anthropic").scope_of(r)
        ('acme', None, None)
        """
        return (request.organisation, request.user if self.scope == "user" else None, request.salt)

    def notes(self, model: str) -> list[str]:
        """What a result under these rules should say about them: guesses and lifetimes that are not sharp.

        >>> from simcache.cache.presets import load_rules
        >>> load_rules("anthropic").notes("claude-sonnet-4-5")
        []
        """
        said = []
        if self.min_tokens_by_model and best_key(model, self.min_tokens_by_model) is None:
            said.append(f"{self.name}: minimum of {model} not listed, {self.min_tokens} tokens assumed")
        if self.lifetime_kind == "guaranteed minimum":
            said.append(f"{self.name}: entries may live longer than simulated (the lifetime is a guaranteed minimum)")
        if self.lifetime_kind == "best effort":
            said.append(f"{self.name}: entries may die earlier or live longer than simulated (best effort)")
        return said


# What a provider appends to a model's name without making it another model.
_MODEL_SUFFIX: Final = re.compile(r"(-0|-latest|[-@]\d{8}|-\d{4}-\d{2}-\d{2})?")
_CHOICES: Final = {
    name: get_args(kind)
    for name, kind in (
        ("matching", Matching),
        ("lifetime_kind", LifetimeKind),
        ("counted_from", CountedFrom),
        ("visibility", Visible),
        ("scope", Scope),
    )
}
_FLAGS: Final = (
    "default",
    "automatic_marker",
    "reads_refresh",
    "stores_data",
    "bills_writes",
    "counts_cached_reads_in_rate_limit",
    "bills_cancelled",
)
_COUNTS: Final = {
    "min_tokens": 0,
    "unit_tokens": 1,
    "max_markers": 0,
    "machines": 1,
    "routed_by_tokens": 1,
    "warm_output_tokens": 0,
}
_RATE_TABLES: Final = ("read_multiplier_by_model", "write_multiplier", "storage_usd_per_mtok_hour")


def best_key(model: str, keys: Iterable[str]) -> str | None:
    """The key that names ``model`` best: its own name (or that of which it is a dated version), else the longest pattern.

    >>> best_key("gpt-4.1-mini", ["*", "gpt-4*", "gpt-4.1*", "gpt-4"])
    'gpt-4.1*'
    """
    fitting = [(0 if "*" in key else 1, len(key), key) for key in keys if _names(key, model)]
    return max(fitting)[2] if fitting else None


def _names(key: str, model: str) -> bool:
    if "*" in key:
        return fnmatchcase(model, key)
    return model.startswith(key) and _MODEL_SUFFIX.fullmatch(model, len(key)) is not None


def _clock(name: str, text: object) -> time:
    try:
        return time.fromisoformat(str(text))
    except ValueError:
        raise InputError(name, text, "must be a time of day such as 01:00") from None
