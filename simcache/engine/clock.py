"""The engine's clock: integer femtoseconds, so that a plan of k steps and k plans of one step end at one instant.

Coefficients are rounded to ticks once, instants given from outside are snapped to nanoseconds; after that every sum is
exact, in any order, at any distance from zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import simpy
from simpy.events import Event

TICKS_PER_S: Final = 10**15
TICKS_PER_NS: Final = 10**6

NORMAL: Final = 1
BOUNDARY: Final = 2
"""SimPy priority of step boundaries: after everything else at the same instant, so that arrivals at a boundary join its batch."""


class Clock(simpy.Environment):
    """A SimPy environment that counts ticks from 0 and can call back without a process.

    >>> clock = Clock(); rang = []
    >>> _ = clock.call(lambda event: rang.append(clock.now), 5); clock.run(); rang
    [5]
    """

    def __init__(self) -> None:
        super().__init__(initial_time=0)

    if TYPE_CHECKING:

        @property
        def now(self) -> int: ...

    def call(self, callback: Callable[[Event], None], delay: int, priority: int = NORMAL) -> Event:
        """Call ``callback(event)`` after ``delay`` ticks; returns the event, so that its owner can tell it from later ones."""
        event = Event(self)
        event._ok = True
        event._value = None
        event.callbacks.append(callback)
        self.schedule(event, priority, delay)  # type: ignore[arg-type]  # BOUNDARY is an int below SimPy's two named priorities
        return event


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
