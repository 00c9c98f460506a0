"""Profiles: what a server or a hosted API is known to cost, by which right, and where that was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from ..errors import UnknownNameError, require, require_count, require_number
from .coefficients import (
    FORMS,
    PROVENANCES,
    Coefficients,
    Covariance,
    FitRecord,
    Floats,
    Form,
    MeasuredRange,
    Provenance,
    Tokens,
    larger,
)

if TYPE_CHECKING:
    from .kernel_tables import KernelTables


@dataclass(frozen=True, kw_only=True)
class _Profile:
    """What every profile says about itself. ``range`` None: nobody stated one, so nothing counts as outside.

    ``uncertainty95``: factors (lowest, highest) on every time that hold the truth with 95 %; None: see ``covariance`` and ``fit``.
    """

    name: str
    provenance: Provenance = "derived"
    source: str = ""
    date: str = ""
    range: MeasuredRange | None = None
    covariance: Covariance | None = None
    fit: FitRecord | None = None
    uncertainty95: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (factors := self.uncertainty95) is not None:
            require(len(factors) == 2, "uncertainty95", factors, "must be [lowest, highest] factor")
            require_number("uncertainty95", factors[0], at_least=0, at_most=1)
            require_number("uncertainty95", factors[1], at_least=1)
        if self.provenance not in PROVENANCES:
            raise UnknownNameError("provenance", self.provenance, PROVENANCES)

    def extrapolates(self, new_tokens: float, cached_tokens: float = 0) -> bool:
        """Whether a request lies outside the measured range: its new (uncached) tokens, its cached tokens, or their sum.

        >>> r = MeasuredRange(new_tokens=(64, 4096), cached_tokens=(0, 4032), total_tokens=(64, 4096))
        >>> ServerProfile(name="toy", coefficients=Coefficients(), range=r).extrapolates(4096, 64)
        True
        """
        return self.range is not None and not self.range.holds(
            new_tokens=new_tokens, cached_tokens=cached_tokens, total_tokens=new_tokens + cached_tokens
        )


@dataclass(frozen=True, kw_only=True)
class ServerProfile(_Profile):
    """Latency of one model on ``gpus`` GPUs of one kind (tensor parallel), and the KV memory those leave.

    ``kv_tokens`` is the usable KV memory in tokens, found as ``kv_tokens_source`` says. ``form`` "linear" means attention 0.
    ``defaults`` names coefficients that no measurement decided: a stated default stands in for each. ``table`` belongs to the
    form "table" and takes the place of the coefficients; they stay beside it, fitted to it, for whoever cannot use a table.

    >>> toy = ServerProfile(name="toy", coefficients=Coefficients(base_s=0.01, per_token_s=1e-4))
    >>> toy.prefill_s(100)
    0.02
    """

    coefficients: Coefficients
    form: Form = "context"
    model: str = ""
    gpu: str = ""
    gpus: int = 1
    kv_bytes_per_token: int | None = None
    kv_tokens: int | None = None
    kv_tokens_source: str = ""
    defaults: tuple[str, ...] = ()
    table: KernelTables | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("gpus", self.gpus)
        if self.form not in FORMS:
            raise UnknownNameError("form", self.form, FORMS)
        if self.form == "linear":
            require(
                self.coefficients.attention_s == 0, "attention_s", self.coefficients.attention_s, "must be 0 in the linear form"
            )
        require((self.table is not None) == (self.form == "table"), "form", self.form, "must be table with a table, and only then")
        for name in ("kv_bytes_per_token", "kv_tokens"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name))

    @overload
    def prefill_s(self, new_tokens: float, cached_tokens: float = 0) -> float: ...
    @overload
    def prefill_s(self, new_tokens: Tokens, cached_tokens: Tokens | float = 0) -> Floats: ...
    @overload
    def prefill_s(self, new_tokens: float, cached_tokens: Tokens) -> Floats: ...
    def prefill_s(self, new_tokens: Tokens | float, cached_tokens: Tokens | float = 0) -> Floats | float:
        """Seconds of one step that computes ``new_tokens`` after ``cached_tokens`` of one sequence alone, host work included.

        Numbers give a float, arrays an array of their common shape. A server that splits a prompt into chunks pays the host
        work and ``base_s`` once per chunk.
        """
        c = self.coefficients
        if self.table is not None:
            steps = _each(lambda n, cached: self.table_step_s([(n, cached)], 0, 0), new_tokens, cached_tokens)
            return c.host_s + c.host_per_seq_s + steps
        step_s: Floats | float = (
            c.host_s + c.host_per_seq_s + c.compute_s(new_tokens, new_tokens * (cached_tokens + new_tokens / 2))
        )
        return step_s

    @overload
    def decode_step_s(self, batch: float, kv_tokens: float) -> float: ...
    @overload
    def decode_step_s(self, batch: Tokens, kv_tokens: Tokens | float) -> Floats: ...
    @overload
    def decode_step_s(self, batch: float, kv_tokens: Tokens) -> Floats: ...
    def decode_step_s(self, batch: Tokens | float, kv_tokens: Tokens | float) -> Floats | float:
        """Seconds of one step in which ``batch`` sequences decode one token each and read ``kv_tokens`` in all, host work included.

        >>> ServerProfile(name="toy", coefficients=Coefficients(floor_s=0.01, per_decode_s=1e-3)).decode_step_s(4, 900)
        0.014
        """
        c = self.coefficients
        if self.table is not None:
            return c.host_s + c.host_per_seq_s * batch + _each(lambda b, kv: self.table_step_s([], b, kv), batch, kv_tokens)
        step_s: Floats | float = (
            c.host_s + c.decode_alone_s + (c.host_per_seq_s + c.per_decode_s) * batch + c.per_kv_token_s * kv_tokens
        )
        return step_s

    def table_step_s(self, chunks: Sequence[tuple[int, int]], decodes: int, kv_tokens: float) -> float:
        """Seconds of a step of the form "table", without host work: chunks (new, cached) beside decodes reading ``kv_tokens``."""
        assert self.table is not None
        return self.table.step_s(chunks, decodes, kv_tokens)


@dataclass(frozen=True, kw_only=True)
class HostedProfile(_Profile):
    """TTFT of a provider's API: ``base_s + per_token_s*uncached + min(hit_s + per_cached_token_s*cached, per_token_s*cached)``.

    ``hit_s`` is the fixed cost of reading the cache at all; the min says that a provider never makes a hit slower than
    computing the same tokens. One request is this times a log-normal factor of median 1 and log-scale ``jitter_sigma``.

    ``hit_probability``: of finding a prefix that one earlier request wrote, where that was measured (each of a provider's
    machines has a cache of its own); None: not measured.

    >>> api = HostedProfile(name="toy", base_s=1.0, per_token_s=1e-4, per_cached_token_s=1e-5, seconds_per_output_token=0.02)
    >>> round(api.ttft_s(1_000, 10_000), 9)
    1.2
    """

    base_s: float
    per_token_s: float
    per_cached_token_s: float
    hit_s: float = 0.0
    jitter_sigma: float = 0.0
    seconds_per_output_token: float
    hit_probability: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("base_s", "per_token_s", "per_cached_token_s", "hit_s", "jitter_sigma", "seconds_per_output_token"):
            require_number(name, getattr(self, name), at_least=0)
        if self.hit_probability is not None:
            require_number("hit_probability", self.hit_probability, at_least=0, at_most=1)

    @overload
    def ttft_s(self, uncached_tokens: float, cached_tokens: float) -> float: ...
    @overload
    def ttft_s(self, uncached_tokens: Tokens, cached_tokens: Tokens | float) -> Floats: ...
    @overload
    def ttft_s(self, uncached_tokens: float, cached_tokens: Tokens) -> Floats: ...
    def ttft_s(self, uncached_tokens: Tokens | float, cached_tokens: Tokens | float) -> Floats | float:
        """Seconds from sending to the first token, before jitter. Numbers give a float, arrays an array.

        >>> HostedProfile(name="a", base_s=1, per_token_s=0.5, per_cached_token_s=0, seconds_per_output_token=0).ttft_s(2, 9)
        2.0
        """
        read_s = -larger(-self.hit_s - self.per_cached_token_s * cached_tokens, -self.per_token_s * cached_tokens)
        ttft_s: Floats | float = self.base_s + self.per_token_s * uncached_tokens + read_s
        return ttft_s


def _each(seconds: Callable[[Any, Any], float], a: Tokens | float, b: Tokens | float) -> Floats | float:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return seconds(a, b)
    import numpy as np

    found: Floats = np.vectorize(seconds, otypes=[np.float64])(a, b)
    return found
