"""Decode points alone: what they say of a step, and stated defaults for the prefill that nobody measured."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ..errors import InputError
from .coefficients import Coefficients, Covariance, FitRecord, Floats, MeasuredRange
from .fitting import fit_plane
from .form_choice import splits
from .profile_kinds import ServerProfile

DEFAULTS: Final = {
    "base_s": "0: the floor of a decode step stands for the fixed cost of a prefill, too",
    "per_token_s": "what one more decode costs, per_decode_s",
    "attention_s": "what a kv token costs a decode, per_kv_token_s",
    "per_kv_token_mixed_s": "per_kv_token_s",
}
_NAMES: Final = ("floor_s", "per_decode_s", "per_kv_token_s")


def fit_decode_alone(
    batch: Floats, kv_tokens: Floats, seconds: Floats, name: str, holdout: tuple[str, float]
) -> tuple[ServerProfile, dict[str, Any]]:
    """A profile from decode points, its prefill by default, and the report's figures; ``holdout`` is (kind, share).

    Rows are held out at random, or the largest by batch (extrapolate-new) or by kv tokens (extrapolate-total). Raises InputError
    where the points cannot tell floor, batch and kv apart.
    """
    design = np.column_stack([np.ones_like(batch), batch, kv_tokens])
    values, draws, errors = fit_plane(design, seconds, _NAMES)
    floor_s, per_decode_s, per_kv_s = (float(value) for value in values)
    kind, share = holdout
    held_out: float | None
    try:
        misses = []
        for kept, out in splits((batch, np.maximum(kv_tokens - batch, 0), seconds), kind, share):
            again, _, _ = fit_plane(np.column_stack([np.ones_like(kept[0]), kept[0], kept[0] + kept[1]]), kept[2], _NAMES)
            misses.append(np.abs((again[0] + again[1] * out[0] + again[2] * (out[0] + out[1])) / out[2] - 1).mean())
        held_out = float(np.mean(misses))
    except InputError:
        held_out = None
    figures: dict[str, Any] = {
        "mape": float(errors.mean()),
        "p95_ape": float(np.quantile(errors, 0.95)),
        "max_ape": float(errors.max()),
        "holdout_mape": held_out,
        "n": len(seconds),
        "decode": {"n": len(seconds), "mape": float(errors.mean())},
    }
    profile = ServerProfile(
        name=name,
        provenance="measured",
        coefficients=Coefficients(
            floor_s=floor_s,
            per_token_s=per_decode_s,
            attention_s=per_kv_s,
            per_decode_s=per_decode_s,
            per_kv_token_s=per_kv_s,
            per_kv_token_mixed_s=per_kv_s,
        ),
        range=MeasuredRange(new_tokens=(0, 0), cached_tokens=(0, 0), batch=_bounds(batch), kv_tokens=_bounds(kv_tokens)),
        covariance=Covariance(names=_NAMES, matrix=tuple(map(tuple, np.cov(draws, rowvar=False).tolist()))),
        fit=FitRecord(n=len(seconds), mape=figures["mape"], decode_n=len(seconds), decode_mape=figures["mape"], command=""),
        notes=tuple(f"{each} was not identified by the points: it is {text}." for each, text in DEFAULTS.items()),
        defaults=tuple(DEFAULTS),
    )
    return profile, figures


def _bounds(values: Floats) -> tuple[int, int]:
    return int(np.floor(values.min())), int(np.ceil(values.max()))
