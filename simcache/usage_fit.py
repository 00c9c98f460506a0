"""From a usage log to a profile: what a hosted API's first token costs per uncached and per cached token, and how it scatters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .errors import require
from .latency.coefficients import Covariance, FitRecord, Floats, MeasuredRange
from .latency.profile_kinds import HostedProfile
from .logs import UsageLog
from .streams import stream

FEWEST: Final = 10
CACHED_SHARE: Final = 0.095
"""Cost of a cached token in uncached ones where the log has no hits: 1.9 against 20.1 ms per 1,000 (the OpenAI figure, 2026)."""
_SCALE: Final = 0.1  # log-residuals beyond this count by their size, not by its square: tails are heavy
_MAD_TO_SIGMA: Final = 1.4826  # of a normal law
_NAMES: Final = ("base_s", "per_token_s", "per_cached_token_s")
_BOOTSTRAPS: Final = 200
_SPLITS: Final = 5


@dataclass(frozen=True, kw_only=True)
class UsageFit:
    """A fitted profile and how good it is; errors are fractions of the measured TTFT, jitter included.

    ``tail``: p99/p50 of measured over predicted, 1.26 where the jitter was log-normal of sigma 0.1.
    """

    profile: HostedProfile
    n: int
    mape: float
    median_ape: float
    p95_ape: float
    max_ape: float
    holdout_mape: float | None
    tail: float
    defaults: dict[str, str]
    dropped: dict[str, int]


def fit_usage(log: UsageLog, name: str, *, command: str = "simcache fit --usage", holdout: float = 0.3) -> UsageFit:
    """Fit ``base + per_token*uncached + per_cached_token*cached`` to the TTFTs of ``log``, robustly, no coefficient negative.

    Residuals are taken in logarithms, as jitter is log-normal, and large ones lose weight (soft L1). The covariance is a
    bootstrap's. Also found: ``jitter_sigma`` (from the median absolute residual), seconds per output token (the median), and
    ``hit_probability``: of a session's later requests with a prompt at least as long, the share that had anything cached.
    Raises InputError where fewer than ten rows have a TTFT, or all prompts are of one length.
    """
    spans, prompts, hits = log.column("ttft_s"), log.column("prompt_tokens"), log.column("cached_tokens")
    usable = np.isfinite(spans) & (spans > 0) & (prompts > 0)
    dropped = {"no time to first token": int((~usable).sum())} if not usable.all() else {}
    ttft_s = spans[usable]
    cached = hits[usable].astype(np.float64)
    uncached = prompts[usable] - cached
    require(len(ttft_s) >= FEWEST, "log", len(ttft_s), f"must hold at least {FEWEST} requests with a time to first token")
    lengths = np.unique(prompts[usable])
    require(len(lengths) > 1, "prompt_tokens", int(lengths[0]), "are all the same: nothing tells a token's cost from the fixed one")
    has_hits = bool((cached > 0).any())
    values = _solve(uncached, cached, ttft_s, has_hits)
    defaults: dict[str, str] = {}
    if not has_hits:
        values[2] = CACHED_SHARE * values[1]
        defaults["per_cached_token_s"] = f"{CACHED_SHARE:g} of per_token_s: no request of the log had a hit"
    pace_s = _pace_s(log)
    if pace_s is None:
        pace_s = 0.02
        defaults["seconds_per_output_token"] = "0.02 s: no request tells both its first and its last of two tokens or more"
    probability = _hit_probability(log)
    residuals = np.log(ttft_s / _predict(values, uncached, cached))
    errors = np.abs(np.exp(-residuals) - 1)
    sigma = float(_MAD_TO_SIGMA * np.median(np.abs(residuals - np.median(residuals))))
    profile = HostedProfile(
        name=name,
        provenance="measured",
        source=f"usage log of {len(ttft_s)} requests, {', '.join(sorted({f'{row.provider} {row.model}' for row in log.rows})[:4])}",
        notes=(*log.notes, *(f"{key} is {text}" for key, text in defaults.items())),
        range=MeasuredRange(
            new_tokens=(int(uncached.min()), int(uncached.max())),
            cached_tokens=(int(cached.min()), int(cached.max())),
            total_tokens=(int(lengths[0]), int(lengths[-1])),
        ),
        covariance=_covariance(uncached, cached, ttft_s, has_hits),
        fit=FitRecord(
            n=len(ttft_s),
            mape=float(errors.mean()),
            max_ape=float(errors.max()),
            p95_ape=float(np.percentile(errors, 95)),
            command=command,
        ),
        base_s=float(values[0]),
        per_token_s=float(values[1]),
        per_cached_token_s=float(values[2]),
        jitter_sigma=round(sigma, 4),
        seconds_per_output_token=pace_s,
        hit_probability=probability,
    )
    low, high = np.percentile(residuals, [50, 99])
    return UsageFit(
        profile=profile,
        n=len(ttft_s),
        mape=float(errors.mean()),
        median_ape=float(np.median(errors)),
        p95_ape=float(np.percentile(errors, 95)),
        max_ape=float(errors.max()),
        holdout_mape=_held_out(uncached, cached, ttft_s, has_hits, holdout),
        tail=math.exp(high - low),
        defaults=defaults,
        dropped=dropped,
    )


def _predict(values: Sequence[float] | Floats, uncached: Floats, cached: Floats) -> Floats:
    predicted: Floats = np.maximum(values[0] + values[1] * uncached + values[2] * cached, 1e-9)
    return predicted


def _solve(uncached: Floats, cached: Floats, ttft_s: Floats, has_hits: bool) -> Floats:
    """Base, per uncached and per cached token (0 without hits), each at least 0."""
    from scipy.optimize import least_squares, nnls

    design = np.column_stack([np.ones_like(uncached), uncached, *([cached] if has_hits else [])])
    # Every column in units of its mean, every value in units of the median TTFT: all unknowns are then near 1.
    columns = np.maximum(design.mean(axis=0), 1e-12)
    middle = float(np.median(ttft_s))
    scaled = design / columns
    start, _ = nnls(scaled / (ttft_s / middle)[:, None], np.ones_like(ttft_s))
    target = np.log(ttft_s / middle)

    def residuals(x: Floats) -> Floats:
        return np.asarray(np.log(np.maximum(scaled @ x, 1e-12)) - target)

    def slopes(x: Floats) -> Floats:
        return np.asarray(scaled / np.maximum(scaled @ x, 1e-12)[:, None])

    found = least_squares(
        residuals, np.maximum(start, 1e-6), jac=slopes, bounds=(0, np.inf), loss="soft_l1", f_scale=_SCALE, x_scale=1.0
    )
    values: Floats = found.x * middle / columns
    return values if has_hits else np.append(values, 0.0)


def _covariance(uncached: Floats, cached: Floats, ttft_s: Floats, has_hits: bool) -> Covariance:
    random = stream(0, "usage bootstrap")
    draws = np.array(
        [
            _solve(uncached[rows], cached[rows], ttft_s[rows], has_hits)
            for rows in (random.integers(len(ttft_s), size=len(ttft_s)) for _ in range(_BOOTSTRAPS))
        ]
    )
    names = _NAMES if has_hits else _NAMES[:2]
    matrix = np.cov(draws[:, : len(names)], rowvar=False)
    return Covariance(names=names, matrix=tuple(map(tuple, matrix.tolist())))


def _held_out(uncached: Floats, cached: Floats, ttft_s: Floats, has_hits: bool, share: float) -> float | None:
    """Mean relative error on rows that the fit has not seen, over five seeded splits; None: too few rows."""
    held = int(share * len(ttft_s))
    if held < 1 or len(ttft_s) - held < FEWEST:
        return None
    errors = []
    for split in range(_SPLITS):
        order = stream(split, "usage holdout").permutation(len(ttft_s))
        out, known = order[:held], order[held:]
        values = _solve(uncached[known], cached[known], ttft_s[known], has_hits)
        errors.append(np.abs(_predict(values, uncached[out], cached[out]) / ttft_s[out] - 1).mean())
    return float(np.mean(errors))


def _pace_s(log: UsageLog) -> float | None:
    output, ttft_s, e2e_s = log.column("output_tokens"), log.column("ttft_s"), log.column("e2e_s")
    seen = np.isfinite(ttft_s) & np.isfinite(e2e_s) & (output > 1)
    if not seen.any():
        return None
    return float(np.median((e2e_s[seen] - ttft_s[seen]) / (output[seen] - 1)))


def _hit_probability(log: UsageLog) -> float | None:
    longest: dict[tuple[Any, ...], int] = {}
    could, did = 0, 0
    for row in sorted(log.rows, key=lambda row: -1.0 if row.started_at_s is None else row.started_at_s):
        if row.session is None:
            continue
        key = (row.provider, row.model, row.session)
        before = longest.get(key)
        if before is not None and row.prompt_tokens >= before:
            could += 1
            did += row.cached_tokens > 0
        longest[key] = max(row.prompt_tokens, before or 0)
    return did / could if could else None
