"""Where the uncertainty of a figure comes from: the seeds, the coefficients of the profile, and what the profile cannot say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from ..engine.run import simulate
from ..errors import require, require_count
from ..latency import HostedProfile, ServerProfile
from ..latency.catalogue import find_profile
from ..latency.prediction import draw_profiles
from ..result import Json, Result, run_figures
from ..scenario import HostedApi, Scenario
from ..stats import t_interval

FIGURES: Final = (
    *(("ttft_s", name) for name in ("mean", "p50", "p90", "p95", "p99")),
    *(("e2e_s", name) for name in ("mean", "p95")),
    ("slo_share",),
    ("token_hit_ratio",),
    ("cost_usd", "per_1000_questions"),
)
"""The figures that are split, by their places in an entry of ``result.summarise``."""
_SHARES: Final = ("slo_share", "token_hit_ratio")
_NORMAL95: Final = 1.96
_SD_OVER_MEAN: Final = math.sqrt(math.pi / 2)  # of |x| for a normal x
_HOSTED_TIMES: Final = ("base_s", "per_token_s", "hit_s", "per_cached_token_s", "seconds_per_output_token")


def model_error(profile: ServerProfile | HostedProfile) -> float | None:
    """Standard deviation of the logarithm of one factor on all times of a profile; None: nobody said.

    From ``uncertainty95`` where there is one; else the mean relative error of the fit as if every time were off by it at once,
    which no average softens: an upper bound.

    >>> from simcache.latency import Coefficients
    >>> round(model_error(ServerProfile(name="toy", coefficients=Coefficients(), uncertainty95=(0.5, 1.5))), 3)
    0.354
    """
    if profile.uncertainty95 is not None:
        low, high = profile.uncertainty95
        return max(math.log(high), -math.log(max(low, 1e-3))) / _NORMAL95
    return None if profile.fit is None else _SD_OVER_MEAN * profile.fit.mape


def split_uncertainty(results: Sequence[Result], draws: int, progress: Callable[[int, int], None] | None = None) -> Json:
    """Half-widths (95 %) of each figure of one scenario's ``results``, by where they come from, from ``draws + 2`` more runs.

    ``seeds``: the t interval over the results' seeds; null with one. ``profile``: ``draws`` profiles drawn from the covariance
    of the fit, draw i under the (i mod seeds)-th seed and compared with what that seed gave before, so that only coefficients
    differ; null where a profile has no covariance, or its kernel table stands for the coefficients. ``model``: all times longer
    and shorter by ``model_error``, under the first seed; null where nobody knows. ``interval95`` of all three: the root of the
    sum of their squares around the mean. ``figures`` go by their places, joined by dots. The results must be of the scenario's own
    ``duration_s``.

    >>> from simcache import TypingSessions, Server
    >>> runs = [simulate(Scenario(workload=TypingSessions(users=2), backend=Server(), duration_s=60), seed=s) for s in (1, 2)]
    >>> sorted(split_uncertainty(runs, 2)["figures"]["ttft_s.p50"])
    ['interval95', 'mean', 'model', 'profile', 'seeds']
    """
    require(len(results) > 0, "results", len(results), "must be at least one")
    require_count("draws", draws)
    scenario = results[0].scenario
    backend = scenario.backend
    profile: Any = find_profile(backend.profile) if isinstance(backend.profile, str) else backend.profile
    before = [run_figures(result) for result in results]
    seeds = [result.seed for result in results]
    fixed = profile.covariance is None or getattr(profile, "table", None) is not None
    off = model_error(profile)
    runs = (
        [] if fixed else [(_with_profile(scenario, drawn), i % len(seeds)) for i, drawn in enumerate(draw_profiles(profile, draws))]
    )
    runs += [] if off is None else [(_slower(scenario, profile, math.exp(sign * off)), 0) for sign in (1, -1)]
    after = []
    for moved, which in runs:
        after.append(run_figures(simulate(moved, seed=seeds[which])))
        if progress is not None:
            progress(len(after), len(runs))

    figures: Json = {}
    for place in FIGURES:
        own = [each[place] for each in before]
        values = [value for value in own if value is not None]
        if not values:
            continue
        estimate = t_interval(values)
        parts: dict[str, float | None] = {"seeds": None, "profile": None, "model": None}
        if estimate.high is not None:
            parts["seeds"] = estimate.high - estimate.mean
        if not fixed:
            moves = [_move(after[i][place], own[which]) for i, (_, which) in enumerate(runs[:draws])]
            known = [move for move in moves if move is not None]
            parts["profile"] = _NORMAL95 * float(np.sqrt(np.mean(np.square(known)))) if known else None
        if off is not None:
            move = _move(after[-2][place], after[-1][place])
            parts["model"] = None if move is None else _NORMAL95 * abs(move) / 2
        half = math.sqrt(sum(part**2 for part in parts.values() if part is not None))
        high = estimate.mean + half
        ends = [max(estimate.mean - half, 0.0), min(high, 1.0) if place[-1] in _SHARES else high]
        figures[".".join(place)] = {"mean": estimate.mean, **parts, "interval95": ends}
    return {"draws": 0 if fixed else draws, "model_error": off, "figures": figures}


def _move(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _with_profile(scenario: Scenario, profile: Any) -> Scenario:
    return replace(scenario, backend=replace(scenario.backend, profile=profile))


def _slower(scenario: Scenario, profile: Any, factor: float) -> Scenario:
    backend = scenario.backend
    if isinstance(backend, HostedApi):
        return _with_profile(scenario, replace(profile, **{name: getattr(profile, name) * factor for name in _HOSTED_TIMES}))
    return replace(scenario, backend=replace(backend, slowness=backend.slowness * factor))
