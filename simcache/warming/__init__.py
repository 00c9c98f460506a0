"""What to put into the cache before the question comes: one small class per policy, and the user's own."""

from .policies import (
    Ask,
    Coming,
    Moment,
    NoWarming,
    WarmAfterAnswer,
    WarmAfterPause,
    Warmer,
    WarmEveryTokens,
    WarmingPolicy,
    WarmOnFirstKey,
    WarmOnFocus,
    WarmOnOpen,
    WarmUp,
)

__all__ = [
    "Ask",
    "Coming",
    "Moment",
    "NoWarming",
    "WarmAfterAnswer",
    "WarmAfterPause",
    "WarmEveryTokens",
    "WarmOnFirstKey",
    "WarmOnFocus",
    "WarmOnOpen",
    "WarmUp",
    "Warmer",
    "WarmingPolicy",
]
