"""What a step costs: the latency model, its fit to measurements, and the profiles that carry the result."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from .coefficients import Coefficients, Covariance, FitRecord, MeasuredRange
from .profile_kinds import HostedProfile, ServerProfile
from .profiles import load_profile, profile_names, save_profile

if TYPE_CHECKING:
    from .model import LatencyModel as LatencyModel

__all__ = [
    "Coefficients",
    "Covariance",
    "FitRecord",
    "HostedProfile",
    "LatencyModel",
    "MeasuredRange",
    "ServerProfile",
    "load_profile",
    "profile_names",
    "save_profile",
]

_MODEL: Final = "LatencyModel"


def __getattr__(name: str) -> Any:
    # The fit needs numpy, which takes longer to import than a closed form takes to print; a profile is read without it.
    if name != _MODEL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".model", __name__), name)
