"""What a profile predicts for one request, with an interval: the error of its coefficients and the scatter of its points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np

from ..errors import require_count
from ..streams import stream
from .coefficients import Coefficients
from .profile_kinds import HostedProfile, ServerProfile

DRAWS: Final = 200
_NORMAL95: Final = 1.96
_P95_OVER_MEAN: Final = 2.46  # of |x| for a normal x: 1.96 / sqrt(2/pi)
AnyProfile = TypeVar("AnyProfile", bound=ServerProfile | HostedProfile)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Seconds of a prefill and, where a batch was given, of a decode step; (low, high) of one measurement of each, 95 %.

    ``interval95`` has no key for what nothing is known about. A hosted profile's prefill is its TTFT, its step the time per
    output token.
    """

    prefill_s: float
    decode_step_s: float | None
    interval95: dict[str, tuple[float, float]]
    in_range: bool
    provenance: str


def predict(
    profile: ServerProfile | HostedProfile,
    new_tokens: int,
    cached_tokens: int = 0,
    *,
    batch: int | None = None,
    kv_tokens: int | None = None,
) -> Prediction:
    """Predict the prefill of ``new_tokens`` after ``cached_tokens``, and a decode step of ``batch`` over ``kv_tokens`` in all.

    Host work is included. ``kv_tokens`` None: every sequence of the batch holds the prompt. Raises InputError below 1 new
    token, below 0 cached ones, and below a batch of 1.

    >>> toy = ServerProfile(name="toy", coefficients=Coefficients(base_s=0.01, per_token_s=1e-4))
    >>> predict(toy, 100).prefill_s
    0.02
    """
    require_count("new", new_tokens)
    require_count("cached", cached_tokens, at_least=0)
    inside = not profile.extrapolates(new_tokens, cached_tokens)
    whats = {"prefill_s": _prefill(new_tokens, cached_tokens)}
    if isinstance(profile, HostedProfile):
        whats["decode_step_s"] = _decode(1, 0)
    elif batch is not None:
        require_count("batch", batch)
        read = batch * (new_tokens + cached_tokens) if kv_tokens is None else kv_tokens
        require_count("kv_tokens", read, at_least=0)
        whats["decode_step_s"] = _decode(batch, read)
        inside = inside and (profile.range is None or profile.range.holds(batch=batch, kv_tokens=read))
    values = {name: what(profile) for name, what in whats.items()}
    bounds = {name: _interval95(profile, name, what) for name, what in whats.items()}
    return Prediction(
        prefill_s=values["prefill_s"],
        decode_step_s=values.get("decode_step_s"),
        interval95={name: each for name, each in bounds.items() if each is not None},
        in_range=inside,
        provenance=profile.provenance,
    )


def draw_profiles(profile: AnyProfile, count: int, seed: int = 0) -> list[AnyProfile]:
    """``count`` profiles whose coefficients are drawn from the covariance of the fit (normal, cut off at 0), seeded.

    A profile without covariance gives itself ``count`` times.

    >>> len(draw_profiles(ServerProfile(name="toy", coefficients=Coefficients()), 3))
    3
    """
    require_count("count", count, at_least=0)
    covariance = profile.covariance
    if covariance is None or not covariance.names:
        return [profile] * count
    numbers: Any = profile.coefficients if isinstance(profile, ServerProfile) else profile
    centre = np.array([getattr(numbers, name) for name in covariance.names])
    size = np.sqrt(np.maximum(np.diag(np.array(covariance.matrix)), 0))
    scale = np.where(size > 0, size, 1.0)  # seconds and seconds per token squared lie twelve orders apart
    unit = np.array(covariance.matrix) / np.outer(scale, scale)
    random = stream(seed, "profile")
    steps = random.multivariate_normal(np.zeros(len(centre)), unit, size=count, method="eigh", check_valid="ignore")
    drawn: list[Any] = []
    for row in np.maximum(centre + steps * scale, 0):
        values = dict(zip(covariance.names, row.tolist(), strict=True))
        moved = {"coefficients": _moved(numbers, values)} if isinstance(profile, ServerProfile) else values
        drawn.append(replace(profile, **moved))
    return drawn


def _moved(coefficients: Coefficients, values: Mapping[str, Any]) -> Coefficients:
    """The coefficients with ``values``; a mixed value that was never measured apart keeps its ratio to the pure one."""
    pure, mixed = coefficients.per_kv_token_s, coefficients.per_kv_token_mixed_s
    if "per_kv_token_mixed_s" not in values and pure > 0:
        values = {**values, "per_kv_token_mixed_s": mixed * values.get("per_kv_token_s", pure) / pure}
    if values.get("per_kv_token_mixed_s", mixed) == 0 and values.get("per_kv_token_s", pure) > 0:
        values = {**values, "per_kv_token_mixed_s": values.get("per_kv_token_s", pure)}
    return replace(coefficients, **values)


def _prefill(new_tokens: int, cached_tokens: int) -> Callable[[Any], float]:
    def seconds(profile: ServerProfile | HostedProfile) -> float:
        if isinstance(profile, HostedProfile):
            return float(profile.ttft_s(new_tokens, cached_tokens))
        return float(profile.prefill_s(new_tokens, cached_tokens))

    return seconds


def _decode(batch: int, kv_tokens: int) -> Callable[[Any], float]:
    def seconds(profile: ServerProfile | HostedProfile) -> float:
        if isinstance(profile, HostedProfile):
            return profile.seconds_per_output_token
        return float(profile.decode_step_s(batch, kv_tokens))

    return seconds


def _interval95(profile: ServerProfile | HostedProfile, name: str, what: Callable[[Any], float]) -> tuple[float, float] | None:
    value = what(profile)
    if profile.uncertainty95 is not None:
        low, high = profile.uncertainty95
        return value * low, value * high
    scatter = _scatter(profile, name)
    if scatter is None and profile.covariance is None:
        return None
    moved = np.array([what(each) for each in draw_profiles(profile, DRAWS)])
    variance = float(((moved - value) ** 2).mean()) + ((scatter or 0.0) / _NORMAL95 * value) ** 2
    half = _NORMAL95 * float(np.sqrt(variance))
    return max(value - half, 0.0), value + half


def _scatter(profile: ServerProfile | HostedProfile, name: str) -> float | None:
    """The relative error that 95 % of measurements stay under, from the profile's fit; None: nobody said."""
    jitter = _NORMAL95 * profile.jitter_sigma if isinstance(profile, HostedProfile) and name == "prefill_s" else 0.0
    fit = profile.fit
    if fit is None:
        return jitter or None
    if name == "decode_step_s":
        return None if fit.decode_mape is None else _P95_OVER_MEAN * fit.decode_mape
    points = fit.p95_ape if fit.p95_ape is not None else _P95_OVER_MEAN * fit.mape
    return float(np.hypot(points, jitter))
