"""Every profile there is by name: shipped ones, files, and derived ones made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..errors import UnknownNameError
from .derived import Known, LeftOut, derive, leave_out, parse_name
from .profile_kinds import HostedProfile, ServerProfile
from .profiles import load_profile, profile_names
from .shapes import gpu_peaks, load_shape, model_names

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
