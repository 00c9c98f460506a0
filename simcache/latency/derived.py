"""Profiles that nobody measured: model shape x GPU, from work, bytes and peak rates, at the efficiency that measured ones reach."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..errors import UnknownNameError, require, require_count
from .coefficients import Coefficients, MeasuredRange
from .profile_kinds import ServerProfile
from .shapes import GpuPeaks, ModelShape, usable_kv_tokens

LEARNED: Final = ("per_token_s", "attention_s", "floor_s", "per_decode_s", "per_kv_token_s", "per_kv_token_mixed_s")
"""Coefficients that have an ideal; ``base_s`` is learned as a share of the floor."""
_PREFILL: Final = [(n, c) for n in (128, 512, 2048, 8192) for c in (0, 2048, 16384)]
_DECODE: Final = [(b, b * kv) for b in (1, 8, 64) for kv in (512, 4096)]
_NORMAL95: Final = 1.96


@dataclass(frozen=True, kw_only=True)
class Known:
    """One measured profile with the shape and the GPU it was measured on; ``decode``: its decode was measured too."""

    profile: ServerProfile
    shape: ModelShape
    peaks: GpuPeaks
    decode: bool = True

    @property
    def family(self) -> str:
        """Models of one size count as one: leaving one of them out must leave all of them out."""
        return f"{self.shape.layers}x{self.shape.heads}x{self.shape.head_size}, {self.shape.kv_heads} kv heads"


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """How a derivation misses a profile that it has not seen: mean log ratio and root mean square, prefill and decode."""

    what: str
    left_out: str
    profile: str
    prefill_rms: float
    decode_rms: float | None


def ideals(shape: ModelShape, peaks: GpuPeaks, gpus: int) -> dict[str, float]:
    """What each coefficient would be at the peak rates of ``gpus`` GPUs, in its own unit.

    Tokens and pairs of tokens: operations over peak operations per second. Floor: all weights read once. A decode: as a token.
    KV: bytes over peak bytes per second.
    """
    flops, bytes_per_s = gpus * peaks.flops, gpus * peaks.bytes_per_s
    token_s, kv_s = shape.flop_per_token / flops, shape.kv_bytes_per_token / bytes_per_s
    return {
        "per_token_s": token_s,
        "attention_s": shape.attention_flop / flops,
        "floor_s": shape.weight_bytes / bytes_per_s,
        "per_decode_s": token_s,
        "per_kv_token_s": kv_s,
        "per_kv_token_mixed_s": kv_s,
    }


def derive(shape: ModelShape, peaks: GpuPeaks, gpus: int, known: Sequence[Known], name: str = "") -> ServerProfile:
    """A profile of ``shape`` on ``gpus`` GPUs, always labelled derived, with the interval that leaving out has shown.

    Each coefficient is its ideal times the geometric mean of actual over ideal among ``known``. Raises InputError where weights
    and cache of one block do not fit into the memory.
    """
    require_count("gpus", gpus)
    kv_tokens = usable_kv_tokens(shape, peaks.memory_bytes, gpus)
    rule = f"leave no memory for a KV cache on {gpus} GPUs: {shape.weight_bytes / 1e9:.1f} GB of weights"
    require(kv_tokens > 0, "gpus", gpus, rule, "Take more GPUs or a smaller type.")
    spread = interval(known)
    return ServerProfile(
        name=name or f"derived/{shape.name}/{peaks.name}/tp{gpus}",
        provenance="derived",
        source=f"data sheet of the GPU ({peaks.source}) and shape of the model, efficiency of {len(known)} measured profiles",
        uncertainty95=spread,
        notes=(
            "Uncalibrated: nobody measured this model on this GPU. Coefficients are peak rates times the mean efficiency of "
            "measured profiles; uncertainty95 is what leaving out a GPU or a model has shown.",
            "No host work, no output head, no network between GPUs beyond what the measured profiles hold.",
        ),
        range=MeasuredRange(new_tokens=(1, 16_384), cached_tokens=(0, 16_384), total_tokens=(1, 32_768)),
        coefficients=_scaled(shape, peaks, gpus, known),
        model=shape.name,
        gpu=peaks.name,
        gpus=gpus,
        kv_bytes_per_token=shape.kv_bytes_per_token,
        kv_tokens=kv_tokens,
        kv_tokens_source="(0.9 * memory - 3 GB reserve) * GPUs - weights, per token, whole 16-token blocks",
    )


def leave_out(known: Sequence[Known]) -> list[LeftOut]:
    """The error of deriving each profile from those that share no GPU with it, and from those that share no model with it."""
    table = []
    keys: dict[str, Callable[[Known], str]] = {"gpu": lambda each: each.peaks.name, "model": lambda each: each.family}
    for what, key in keys.items():
        for target in known:
            others = [each for each in known if key(each) != key(target)]
            if not others:
                continue
            guess = _scaled(target.shape, target.peaks, target.profile.gpus, others)
            prefill = [np.log(guess.compute_s(n, n * (c + n / 2)) / _prefill_s(target, n, c)) for n, c in _PREFILL]
            decode = [np.log(guess.step_s(0, 0.0, b, kv, b) / _decode_s(target, b, kv)) for b, kv in _DECODE if target.decode]
            table.append(
                LeftOut(
                    what=what,
                    left_out=key(target),
                    profile=target.profile.name,
                    prefill_rms=float(np.sqrt(np.mean(np.square(prefill)))),
                    decode_rms=float(np.sqrt(np.mean(np.square(decode)))) if decode else None,
                )
            )
    return table


def interval(known: Sequence[Known]) -> tuple[float, float]:
    """Factors around a derived time that hold the truth with 95 %: 1.96 times the error that leaving out has shown."""
    errors = [error for row in leave_out(known) for error in (row.prefill_rms, row.decode_rms) if error is not None]
    wide = float(np.exp(_NORMAL95 * np.sqrt(np.mean(np.square(errors)))))
    return round(1 / wide, 3), round(wide, 3)


def parse_name(name: str) -> tuple[str, str, int]:
    """Model, GPU and number of GPUs of ``derived/MODEL/GPU/tpN``.

    >>> parse_name("derived/llama-2-7b/h100/tp2")
    ('llama-2-7b', 'h100', 2)
    """
    parts = name.split("/")
    if len(parts) != 4 or parts[0] != "derived" or not re.fullmatch(r"tp[0-9]{1,4}", parts[3]):
        raise UnknownNameError("profile", name, ["derived/MODEL/GPU/tpN"])
    return parts[1], parts[2], int(parts[3][2:])


def _scaled(shape: ModelShape, peaks: GpuPeaks, gpus: int, known: Sequence[Known]) -> Coefficients:
    ideal = ideals(shape, peaks, gpus)
    values: dict[str, Any] = {}
    for name in LEARNED:
        logs = []
        for each in known:
            actual = each.profile.coefficients.decode_alone_s if name == "floor_s" else getattr(each.profile.coefficients, name)
            if name in ("per_decode_s", "per_kv_token_s", "per_kv_token_mixed_s") and not each.decode:
                continue
            if name == "per_kv_token_mixed_s" and actual == each.profile.coefficients.per_kv_token_s:
                continue  # a stand-in, not a measurement
            if actual > 0:
                logs.append(np.log(actual / ideals(each.shape, each.peaks, each.profile.gpus)[name]))
        fallback = values.get("per_kv_token_s", ideal[name]) / ideal[name]
        values[name] = ideal[name] * (float(np.exp(np.mean(logs))) if logs else fallback)
    shares = [each.profile.coefficients.base_s / each.profile.coefficients.decode_alone_s for each in known]
    values["base_s"] = values["floor_s"] * float(np.mean(shares))
    values["per_kv_token_mixed_s"] = max(values["per_kv_token_mixed_s"], values["per_kv_token_s"])
    rounded: dict[str, Any] = {name: float(f"{value:.4g}") for name, value in values.items()}
    return Coefficients(**rounded)


def _prefill_s(known: Known, n: int, c: int) -> float:
    return float(known.profile.coefficients.compute_s(n, n * (c + n / 2)))


def _decode_s(known: Known, batch: int, kv_tokens: int) -> float:
    k = known.profile.coefficients
    return k.decode_alone_s + k.per_decode_s * batch + k.per_kv_token_s * kv_tokens
