"""Every profile there is by name: shipped ones, files, and derived ones made on the spot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..errors import UnknownNameError, require
from .derived import Known, LeftOut, derive, leave_out, parse_name
from .profile_kinds import HostedProfile, ServerProfile
from .profiles import load_profile, profile_names
from .shapes import SMALL_RESERVE_BYTES, UTILISATION, ModelShape, gpu_peaks, load_shape, model_names, usable_kv_tokens

DECODE_DERIVED: Final = ("llama-3.1-8b/h100/tp1",)
"""Shipped profiles whose decode is itself scaled from another GPU: no witness of a decode."""


def known_profiles() -> list[Known]:
    """The shipped profiles that derived ones learn from: measured, or sums of measured kernels.

    >>> {each.peaks.name for each in known_profiles()} >= {"a100", "h100"}
    True
    """
    peaks = gpu_peaks()
    known = []
    for name in profile_names():
        profile = load_profile(name)
        if isinstance(profile, ServerProfile) and profile.provenance in ("measured", "kernel sum"):
            known.append(
                Known(
                    profile=profile,
                    shape=load_shape(profile.model),
                    peaks=peaks[profile.gpu],
                    decode=name not in DECODE_DERIVED,
                )
            )
    return known


def derive_named(model: str, gpu: str, gpus: int) -> ServerProfile:
    """A derived profile: ``model`` is a shipped shape, a TOML file or a ``config.json``; ``gpu`` one of ``gpu_peaks``.

    >>> derive_named("llama-2-7b", "h200", 1).provenance
    'derived'
    """
    peaks = gpu_peaks()
    if gpu not in peaks:
        raise UnknownNameError("gpu", gpu, peaks)
    return derive(load_shape(model), peaks[gpu], gpus, known_profiles())


def on_gpu(profile: ServerProfile, shape: ModelShape, gpu: str) -> ServerProfile:
    """``profile`` with the KV memory that ``shape`` leaves on one ``gpu``, by formula, at 2,048 tokens a step.

    Raises UnknownNameError for a GPU, InputError where the weights leave nothing.

    >>> from .coefficients import Coefficients
    >>> on_gpu(ServerProfile(name="toy", coefficients=Coefficients()), load_shape("llama-3.1-8b"), "rtx-4090").kv_tokens
    41376
    """
    peaks = gpu_peaks()
    if gpu not in peaks:
        raise UnknownNameError("gpu", gpu, peaks)
    kv_tokens = usable_kv_tokens(shape, peaks[gpu].memory_bytes, reserve_bytes=SMALL_RESERVE_BYTES)
    require(kv_tokens > 0, "gpu", gpu, f"leaves no memory for a KV cache beside {shape.weight_bytes / 1e9:.1f} GB of weights")
    source = f"formula: {UTILISATION:g} * memory - {SMALL_RESERVE_BYTES / 1e9:g} GB - weights, per token, whole 16-token blocks"
    named: dict[str, Any] = {"model": shape.name, "gpu": gpu, "kv_bytes_per_token": shape.kv_bytes_per_token}
    return replace(profile, kv_tokens=kv_tokens, kv_tokens_source=source, **named)


def find_profile(name: str | Path) -> ServerProfile | HostedProfile:
    """A profile by name, by path (``.toml``), or by ``derived/MODEL/GPU/tpN``. Raises InputError as the loaders do.

    >>> find_profile("derived/llama-3.1-8b/h200/tp1").gpu
    'h200'
    """
    text = str(name)
    return derive_named(*parse_name(text)) if text.startswith("derived/") else load_profile(text)


def derived_names() -> list[str]:
    """Names of derived profiles of every shipped model on every GPU, at the fewest GPUs (1, 2, 4, 8) that hold it.

    Those that were measured at all are left out.
    """
    measured = {(each.shape.name, each.peaks.name) for each in known_profiles()}
    names = []
    for model in model_names():
        shape = load_shape(model)
        for gpu, peaks in gpu_peaks().items():
            fits = [gpus for gpus in (1, 2, 4, 8) if gpus * 0.75 * peaks.memory_bytes > shape.weight_bytes]
            if fits and (model, gpu) not in measured:
                names.append(f"derived/{model}/{gpu}/tp{fits[0]}")
    return names


def left_out() -> list[LeftOut]:
    """The table of leave-one-GPU-out and leave-one-model-out errors over the shipped profiles."""
    return leave_out(known_profiles())
