"""Latency of prefill and decode: the form, its fit to measurements, and the profiles that carry the result."""

from __future__ import annotations

from .coefficients import Coefficients, Covariance, FitRecord, HostedProfile, MeasuredRange, ServerProfile
from .profiles import load_profile, profile_names, save_profile

__all__ = [
    "Coefficients",
    "Covariance",
    "FitRecord",
    "HostedProfile",
    "MeasuredRange",
    "ServerProfile",
    "load_profile",
    "profile_names",
    "save_profile",
]
