"""Whether a profile still says what a service does: a usage log of last week against it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, require, require_number
from .latency import HostedProfile, ServerProfile
from .logs import UsageLog
from .stats import t_interval

Verdict = Literal["holds", "drifted", "unclear"]
TOLERANCE: Final = 0.15
"""How far the median TTFT, and the share of hits, may be from what the profile says."""
BATCHES: Final = 20
FEWEST_PER_BATCH: Final = 5
FEWEST: Final = 4 * FEWEST_PER_BATCH


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A verdict and what it rests on; errors are signed fractions, (predicted - measured) / measured.

    ``requests``: rows with a TTFT; ``left_out``: reason -> rows. ``hit_ratio``: share of requests that hit anything;
    ``repeat_hit_ratio``: of those that followed another in their session (None: no sessions), which ``expected_hit_ratio`` of the
    profile speaks of (None: it does not). ``cached_share``: cached tokens over prompt tokens. ``in_range_share``: requests inside
    what the profile's points cover.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    requests: int
    left_out: dict[str, int]
    ttft_error: float
    ttft_error_interval95: tuple[float, float]
    measured_ttft_p50_s: float
    predicted_ttft_p50_s: float
    hit_ratio: float
    repeat_hit_ratio: float | None
    repeat_hit_ratio_interval95: tuple[float, float] | None
    expected_hit_ratio: float | None
    cached_share: float
    in_range_share: float
    tolerance: float

    def as_json(self) -> dict[str, Any]:
        """The document of ``simcache validate --usage --json`` without its frame."""
        repeat = self.repeat_hit_ratio_interval95
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "requests": self.requests,
            "left_out": self.left_out,
            "ttft_s": {
                "p50_error": self.ttft_error,
                "p50_error_interval95": list(self.ttft_error_interval95),
                "measured_p50": self.measured_ttft_p50_s,
                "predicted_p50": self.predicted_ttft_p50_s,
            },
            "hit_ratio": self.hit_ratio,
            "repeat_hit_ratio": self.repeat_hit_ratio,
            "repeat_hit_ratio_interval95": None if repeat is None else list(repeat),
            "expected_hit_ratio": self.expected_hit_ratio,
            "cached_share": self.cached_share,
            "in_range_share": self.in_range_share,
            "tolerance": self.tolerance,
        }


def drift(log: UsageLog, profile: ServerProfile | HostedProfile, tolerance: float = TOLERANCE) -> Drift:
    """Compare TTFT and hits of a log with what ``profile`` says of the same prompts and cached tokens.

    The error of a request is that of its prediction given its own cached tokens; the interval (95 %) of the median error is that
    of t over the medians of up to 20 batches of consecutive requests, since neighbours share a load. "holds": the interval lies
    within ``tolerance``; "drifted": it lies outside, or the share of hits does; "unclear": neither. A server's profile knows no
    queue: waiting shows as drift. Raises InputError below 20 requests with a TTFT.

    >>> from simcache.logs import UsageRow
    >>> api = HostedProfile(name="api", base_s=1.0, per_token_s=0.0, per_cached_token_s=0.0, seconds_per_output_token=0.0)
    >>> rows = [UsageRow(provider="p", model="m", prompt_tokens=9, ttft_s=1.02)] * 20
    >>> drift(UsageLog(rows), api).verdict
    'holds'
    """
    require_number("tolerance", tolerance, above=0, at_most=1)
    ttft_s, prompt, cached = log.column("ttft_s"), log.column("prompt_tokens"), log.column("cached_tokens")
    seen = np.isfinite(ttft_s) & (ttft_s > 0) & (prompt > 0)
    left_out = {"without a TTFT above 0": int((~(ttft_s > 0)).sum()), "without a prompt": int(((ttft_s > 0) & (prompt == 0)).sum())}
    if int(seen.sum()) < FEWEST:
        raise InputError("usage", int(seen.sum()), f"must hold at least {FEWEST} requests with a TTFT to judge a profile")
    started = log.column("started_at_s")
    order = np.argsort(np.where(np.isfinite(started), started, -math.inf), kind="stable")
    rows = order[seen[order]]
    # At least one token is computed even where all of a prompt was cached.
    new = np.maximum(prompt[rows] - cached[rows], 1)
    predicted_s = np.array([_ttft_s(profile, int(n), int(c)) for n, c in zip(new, cached[rows], strict=True)])
    require(bool((predicted_s > 0).all()), "profile", profile.name, "must predict a TTFT above 0 for every request")
    logs = np.log(predicted_s / ttft_s[rows])
    low, high = _median_interval(logs)
    error, ends = math.expm1(float(np.median(logs))), (math.expm1(low), math.expm1(high))

    repeats = _repeats(log, order)
    repeat, repeat_ends = None, None
    expected = profile.hit_probability if isinstance(profile, HostedProfile) else None
    if len(repeats):
        hits = cached[repeats] > 0
        repeat, repeat_ends = float(hits.mean()), _wilson(int(hits.sum()), len(hits))
    reasons = []
    if ends[0] > tolerance or ends[1] < -tolerance:
        reasons.append(f"TTFT is {'under' if error < 0 else 'over'}-predicted by more than {tolerance:.0%}")
    told = None if expected is None or repeat_ends is None else (repeat_ends[0] - expected, repeat_ends[1] - expected)
    if told is not None and (told[0] > tolerance or told[1] < -tolerance):
        reasons.append(f"repeats hit {'more' if told[0] > 0 else 'less'} often than the profile says")
    within = -tolerance <= ends[0] and ends[1] <= tolerance
    inside = np.array([not profile.extrapolates(int(n), int(c)) for n, c in zip(new, cached[rows], strict=True)])
    return Drift(
        verdict="drifted" if reasons else "holds" if within else "unclear",
        reasons=tuple(reasons) if reasons or within else ("too few requests, or too different ones, to tell",),
        requests=len(rows),
        left_out={reason: count for reason, count in left_out.items() if count},
        ttft_error=error,
        ttft_error_interval95=ends,
        measured_ttft_p50_s=float(np.median(ttft_s[rows])),
        predicted_ttft_p50_s=float(np.median(predicted_s)),
        hit_ratio=float((cached > 0).mean()),
        repeat_hit_ratio=repeat,
        repeat_hit_ratio_interval95=repeat_ends,
        expected_hit_ratio=expected,
        cached_share=float(cached.sum() / max(prompt.sum(), 1)),
        in_range_share=float(inside.mean()),
        tolerance=tolerance,
    )


def _ttft_s(profile: ServerProfile | HostedProfile, new: int, cached: int) -> float:
    return float(profile.ttft_s(new, cached) if isinstance(profile, HostedProfile) else profile.prefill_s(new, cached))


def _median_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    batches = min(BATCHES, len(values) // FEWEST_PER_BATCH)
    found = t_interval([float(np.median(batch)) for batch in np.array_split(values, batches)])
    assert found.low is not None
    assert found.high is not None
    half = (found.high - found.low) / 2
    centre = float(np.median(values))
    return centre - half, centre + half


def _repeats(log: UsageLog, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that came after another of their session, in order of time."""
    before: Counter[tuple[str | None, str]] = Counter()
    found = []
    for row in order.tolist():
        usage = log.rows[row]
        if usage.session is not None:
            who = (usage.user, usage.session)
            if before[who]:
                found.append(row)
            before[who] += 1
    return np.array(found, dtype=np.int64)


def _wilson(hits: int, of: int) -> tuple[float, float]:
    """Wilson's score interval (1927), 95 %."""
    z2 = 1.96**2
    centre, spread = (hits + z2 / 2) / (of + z2), 1.96 / (of + z2) * math.sqrt(hits * (of - hits) / of + z2 / 4)
    return max(centre - spread, 0.0), min(centre + spread, 1.0)
