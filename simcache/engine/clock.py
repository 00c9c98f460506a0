"""The engine's clock: integer femtoseconds, so that a plan of k steps and k plans of one step end at one instant.

Coefficients are rounded to ticks once, instants given from outside are snapped to nanoseconds; after that every sum is
exact, in any order, at any distance from zero.
"""

from __future__ import annotations

from typing import Final

TICKS_PER_S: Final = 10**15
TICKS_PER_NS: Final = 10**6


def instant(seconds: float) -> int:
    """Ticks of an instant or a span given in seconds, snapped to a nanosecond.

    >>> instant(1.5)
    1500000000000000
    """
    return round(seconds * 1e9) * TICKS_PER_NS


def nanoseconds(ticks: int) -> int:
    """Whole nanoseconds of an instant in ticks, for records.

    >>> nanoseconds(1_500_000)
    2
    """
    return (ticks + TICKS_PER_NS // 2) // TICKS_PER_NS


def seconds(ticks: int) -> float:
    """Seconds of an instant in ticks.

    >>> seconds(1_500_000_000_000_000)
    1.5
    """
    return ticks / TICKS_PER_S
