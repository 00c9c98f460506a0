"""What a step costs: the latency model, its fit to measurements, and the profiles that carry the result."""

from .model import (
    Coefficients,
    Covariance,
    FitRecord,
    HostedProfile,
    LatencyModel,
    MeasuredRange,
    ServerProfile,
    load_profile,
    profile_names,
    save_profile,
)

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
