"""What it costs: a tariff (dollars per token or per GPU hour) and the bill, computed from records alone."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, UnknownNameError, require, require_count, require_number
from .records import NEVER

if TYPE_CHECKING:
    from .records import Records

GPUS_FOLDER: Final = Path(__file__).parent / "data" / "gpus"
TOKEN_LINES: Final = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
API_LINES: Final = (*TOKEN_LINES, "storage")
LINES: Final = (*API_LINES, "gpu_hours")


@dataclass(frozen=True, kw_only=True)
class TokenPrices:
    """Dollars per token of a hosted API. None: the provider states no such price; needing it is an error, never zero.

    >>> TokenPrices(input_usd_per_token=3e-6).cache_read_usd_per_token is None
    True
    """

    input_usd_per_token: float | None = None
    cache_read_usd_per_token: float | None = None
    cache_write_5m_usd_per_token: float | None = None
    cache_write_1h_usd_per_token: float | None = None
    output_usd_per_token: float | None = None

    def __post_init__(self) -> None:
        for line in TOKEN_LINES:
            if getattr(self, f"{line}_usd_per_token") is not None:
                require_number(f"{line}_usd_per_token", getattr(self, f"{line}_usd_per_token"), at_least=0)


@dataclass(frozen=True, kw_only=True)
class PriceTier(TokenPrices):
    """The prices of every token of a request whose whole prompt is longer than ``above_prompt_tokens`` (a cliff).

    >>> PriceTier(above_prompt_tokens=200_000, input_usd_per_token=6e-6).above_prompt_tokens
    200000
    """

    above_prompt_tokens: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("above_prompt_tokens", self.above_prompt_tokens, at_least=0)


@dataclass(frozen=True, kw_only=True)
class Tariff(TokenPrices):
    """What a provider (per token) or a GPU (per hour) charges, with date and source.

    ``gpus`` is GPUs per replica. ``bills_cancelled``: a request given up after its computation began is billed for its
    input and for the output generated so far. ``storage_usd_per_token_hour`` is charged for cached tokens while they are kept.

    >>> Tariff(provider="p", model="m", as_of="2026-11-21", source="a page", input_usd_per_token=3e-6).per_gpu_hour
    False
    """

    provider: str
    model: str
    as_of: str
    source: str
    tiers: tuple[PriceTier, ...] = ()
    bills_cancelled: bool = True
    storage_usd_per_token_hour: float | None = None
    usd_per_gpu_hour: float | None = None
    gpus: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.source), "source", self.source, "must say where the prices come from")
        require_count("gpus", self.gpus)
        for name in ("usd_per_gpu_hour", "storage_usd_per_token_hour"):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), at_least=0)

    @property
    def per_gpu_hour(self) -> bool:
        """Whether this tariff charges time on GPUs rather than tokens."""
        return self.usd_per_gpu_hour is not None

    def times(self, factor: float) -> Tariff:
        """This tariff with every price per token times ``factor``, as batches and peak hours are charged.

        >>> from simcache.price_list import api_tariff
        >>> api_tariff("openai", "gpt-4o").times(0.5).input_usd_per_token
        1.25e-06
        """
        require_number("factor", factor, at_least=0)
        scaled = _scaled(self, factor)
        return replace(scaled, tiers=tuple(_scaled(tier, factor) for tier in self.tiers))


_P = TypeVar("_P", bound=TokenPrices)


def _scaled(prices: _P, factor: float) -> _P:
    names = [*(f"{line}_usd_per_token" for line in TOKEN_LINES), "storage_usd_per_token_hour"]
    known = {name: getattr(prices, name, None) for name in names}
    return replace(prices, **{name: price * factor for name, price in known.items() if price is not None})


@dataclass(frozen=True, kw_only=True)
class Bill:
    """Dollars by line, computed from records.

    ``row_usd`` is one figure per record (None where GPUs are rented: their hours belong to no request).
    ``warm_waste_usd`` is the cost of warm-ups times the share of their inserted tokens that no later user request hit;
    a warm-up that inserted nothing is all waste, a keep-alive that only refreshed is none; None where GPUs are rented.
    ``usd_per_1000_questions`` counts every user request; None without any.

    >>> Bill(lines={"input": 2.0}, row_usd=None, questions=1000, warm_waste_usd=None).usd_per_1000_questions
    2.0
    """

    lines: Mapping[str, float]
    row_usd: NDArray[np.float64] | None = field(repr=False)
    questions: int
    warm_waste_usd: float | None

    @property
    def total_usd(self) -> float:
        """Sum of all lines."""
        return sum(self.lines.values())

    @property
    def usd_per_1000_questions(self) -> float | None:
        """Dollars per 1,000 user requests, warm-ups included in the dollars."""
        return self.total_usd / self.questions * 1000 if self.questions else None


def bill(
    records: Records,
    tariff: Tariff,
    *,
    replicas: int = 1,
    duration_s: float | None = None,
    row_factor: NDArray[np.float64] | None = None,
) -> Bill:
    """The bill of ``records`` under ``tariff``: uncached input is prompt - hit - written tokens.

    Billed are requests that ended ``ok``, and cancelled or abandoned ones whose computation had begun where the tariff
    says so. ``row_factor`` multiplies each record's prices (peak hours). A replica is paid for ``duration_s`` whatever it
    served. Errors: a price that is needed and missing.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); row = b.row(outcome="ok")
    >>> b.prompt_tokens[row], b.hit_tokens[row], b.written_5m_tokens[row] = 100_000, 90_000, 5_000
    >>> from simcache.price_list import api_tariff
    >>> sonnet = api_tariff("anthropic", "claude-sonnet-4-5")
    >>> round(bill(b.freeze(), sonnet).total_usd, 6)
    0.06075
    """
    questions = int((records["kind"] == "user").sum())
    if tariff.per_gpu_hour:
        return _gpu_bill(tariff, replicas, duration_s, questions)
    tokens = billed_tokens(records, tariff)
    row_usd = np.zeros(len(records))
    lines = dict.fromkeys(LINES, 0.0)
    factor = np.ones(len(records)) if row_factor is None else row_factor
    for line in TOKEN_LINES:
        usd = tokens[line] * _prices(tariff, line, records["prompt_tokens"], tokens[line]) * factor
        row_usd += usd
        lines[line] = float(usd.sum())
    storage_usd = records["stored_token_s"] / 3600 * _storage_price(tariff, records) * factor
    row_usd += storage_usd
    lines["storage"] = float(storage_usd.sum())
    row_usd.setflags(write=False)
    return Bill(lines=lines, row_usd=row_usd, questions=questions, warm_waste_usd=float((row_usd * wasted_share(records)).sum()))


def billed_tokens(records: Records, tariff: Tariff) -> dict[str, NDArray[np.int64]]:
    """Tokens per bill line and record; rows that are not billed count 0.

    >>> from simcache.records import RecordsBuilder
    >>> from simcache.price_list import api_tariff
    >>> billed_tokens(RecordsBuilder().freeze(), api_tariff("openai", "gpt-4o"))["input"].tolist()
    []
    """
    outcome = records["outcome"]
    begun = records["first_scheduled_at_ns"] != NEVER
    given_up = (outcome == "cancelled") | (outcome == "abandoned")
    billed = (outcome == "ok") | (given_up & begun & tariff.bills_cancelled)
    hit, written_5m, written_1h = (records[name] for name in ("hit_tokens", "written_5m_tokens", "written_1h_tokens"))
    counts = {
        "input": records["prompt_tokens"] - hit - written_5m - written_1h,
        "cache_read": hit,
        "cache_write_5m": written_5m,
        "cache_write_1h": written_1h,
        "output": records["output_tokens"],
    }
    if (counts["input"] < 0).any():
        row = int(np.argmax(counts["input"] < 0))
        raise InputError(
            f"hit and written tokens of record {row}",
            int(hit[row] + written_5m[row] + written_1h[row]),
            f"must be at most its {records['prompt_tokens'][row]} prompt tokens",
        )
    return {line: np.where(billed, count, 0) for line, count in counts.items()}


def wasted_share(records: Records) -> NDArray[np.float64]:
    """Per record: share of a warm-up's inserted tokens that no later user request hit; 0 for user requests.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); row = b.row(kind="warm"); b.inserted_tokens[row], b.used_tokens[row] = 100, 25
    >>> wasted_share(b.freeze()).tolist()
    [0.75]
    """
    kind, inserted = records["kind"], records["inserted_tokens"]
    unused = np.where(inserted > 0, 1.0 - records["used_tokens"] / np.maximum(inserted, 1), (kind == "warm").astype(float))
    return np.where((kind == "warm") | (kind == "keepalive"), unused, 0.0)


def _prices(tariff: Tariff, line: str, prompt_tokens: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    name = f"{line}_usd_per_token"
    steps: tuple[TokenPrices, ...] = (tariff, *sorted(tariff.tiers, key=lambda tier: tier.above_prompt_tokens))
    step = np.searchsorted([s.above_prompt_tokens for s in steps if isinstance(s, PriceTier)], prompt_tokens)
    per_step = np.array([np.nan if getattr(s, name) is None else getattr(s, name) for s in steps])
    prices = np.where(tokens > 0, per_step[step], 0.0)
    if np.isnan(prices).any():
        raise InputError(
            name,
            None,
            f"is needed for {int(tokens.sum()):,} tokens, but {tariff.provider} {tariff.model} has no such price ({tariff.source})",
            f"Give the tariff a {name}, or choose rules or a cache lifetime that need none.",
        )
    return prices


def _storage_price(tariff: Tariff, records: Records) -> float:
    if tariff.storage_usd_per_token_hour is not None:
        return tariff.storage_usd_per_token_hour
    if records["stored_token_s"].any():
        rule = f"is needed for stored tokens, but {tariff.provider} {tariff.model} has no such price ({tariff.source})"
        raise InputError("storage_usd_per_token_hour", None, rule, "Give the rules a storage_usd_per_mtok_hour for the model.")
    return 0.0


def _gpu_bill(tariff: Tariff, replicas: int, duration_s: float | None, questions: int) -> Bill:
    require_count("replicas", replicas)
    if duration_s is None:
        raise InputError("duration_s", None, "is needed to bill GPU hours")
    require_number("duration_s", duration_s, at_least=0)
    assert tariff.usd_per_gpu_hour is not None
    lines = dict.fromkeys(LINES, 0.0)
    lines["gpu_hours"] = replicas * tariff.gpus * duration_s / 3600 * tariff.usd_per_gpu_hour
    return Bill(lines=lines, row_usd=None, questions=questions, warm_waste_usd=None)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as data: memory and a dated price with its source.

    >>> load_gpu("a100").memory_gb
    80
    """

    name: str
    title: str
    memory_gb: float
    usd_per_gpu_hour: float
    as_of: str
    source: str
    aliases: tuple[str, ...] = ()


def gpu_names() -> list[str]:
    """Names of the GPUs in ``data/gpus``.

    >>> "h100" in gpu_names()
    True
    """
    return sorted(path.stem for path in GPUS_FOLDER.glob("*.toml"))


def load_gpu(name: str) -> Gpu:
    """The GPU called ``name`` or one of its aliases, whatever the case. Errors: an unknown name.

    >>> load_gpu("H100-SXM").name
    'h100'
    """
    wanted = str(name).lower().replace("_", "-").replace(" ", "-")
    path = GPUS_FOLDER / f"{wanted}.toml"
    candidates = [path] if wanted in gpu_names() else sorted(GPUS_FOLDER.glob("*.toml"))
    for candidate in candidates:
        raw = tomllib.loads(candidate.read_text(encoding="utf-8"))
        gpu = Gpu(name=candidate.stem, **{**raw, "aliases": tuple(raw.get("aliases", ()))})
        if wanted in (gpu.name, *gpu.aliases):
            return gpu
    raise UnknownNameError("gpu", name, gpu_names())


def gpu_tariff(gpu: str, gpus: int = 1, usd_per_gpu_hour: float | None = None) -> Tariff:
    """What one replica of ``gpus`` GPUs charges per hour; None takes the dated preset of ``data/gpus``.

    Errors: an unknown GPU without a price given.

    >>> gpu_tariff("a100", 2, usd_per_gpu_hour=1.5).gpus
    2
    """
    if usd_per_gpu_hour is not None:
        return Tariff(provider="gpu", model=gpu, as_of="", source="given by the user", usd_per_gpu_hour=usd_per_gpu_hour, gpus=gpus)
    preset = load_gpu(gpu)
    return Tariff(
        provider="gpu",
        model=preset.name,
        as_of=preset.as_of,
        source=preset.source,
        usd_per_gpu_hour=preset.usd_per_gpu_hour,
        gpus=gpus,
    )
