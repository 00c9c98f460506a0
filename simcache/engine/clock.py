"""The engine's clock: integer femtoseconds, so that a plan of k steps and k plans of one step end at one instant.

Coefficients are rounded to ticks once, instants given from outside are snapped to nanoseconds; after that every sum is
exact, in any order, at any distance from zero.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from operator import attrgetter
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
        self.moved: set[int] = set()  # numbers of the queue's entries that do not fire: their alarm has been set anew

    if TYPE_CHECKING:

        @property
        def now(self) -> int: ...

    else:
        now = property(attrgetter("_now"))  # SimPy's own, without a Python frame: a run asks a dozen times a request

    def call(self, callback: Callable[[Event], None], delay: int, priority: int = NORMAL) -> Event:
        """Call ``callback(event)`` after ``delay`` ticks; returns the event, so that its owner can tell it from later ones."""
        event = Event(self)
        event._ok = True
        event._value = None
        event.callbacks.append(callback)
        self.schedule(event, priority, delay)  # type: ignore[arg-type]  # BOUNDARY is an int below SimPy's two named priorities
        return event

    def step(self) -> None:
        """Process the next event; raises simpy's EmptySchedule when there is none."""
        if self.moved:
            self.drop_moved()
        super().step()

    def drop_moved(self) -> None:
        """Take entries that do not fire from the front of the queue; a loop of its own asks ``moved`` before each SimPy step."""
        moved, queue = self.moved, self._queue
        while queue and queue[0][2] in moved:
            moved.remove(heappop(queue)[2])


class Alarm(Event):
    """The next instant of one callback: it can be set again and again, also while it is set; then only the last one fires.

    >>> clock = Clock(); alarm = Alarm(clock, lambda event: print("at", clock.now))
    >>> alarm.set(9); alarm.set(5); clock.run()
    at 5
    """

    env: Clock

    def __init__(self, clock: Clock, callback: Callable[[Event], None], priority: int = NORMAL) -> None:
        super().__init__(clock)
        self._ok = True
        self._value = None
        self.callbacks = None  # type: ignore[assignment]  # as SimPy leaves those of an event that has fired
        self._when_set = [callback]
        self._priority = priority
        self._number = 0
        self.at = 0  # the instant at which it fires

    def set(self, delay: int) -> None:
        """Fire after ``delay`` ticks, and not when it was to fire before."""
        clock = self.env
        if self.callbacks is not None:
            clock.moved.add(self._number)
        self.callbacks = self._when_set
        self._number = number = next(clock._eid)  # as Environment.schedule does, but the entry can be told by its number
        self.at = at = clock._now + delay  # type: ignore[assignment]  # ticks are whole
        heappush(clock._queue, (at, self._priority, number, self))  # type: ignore[misc]

    def stop(self) -> None:
        """Do not fire."""
        if self.callbacks is not None:
            self.env.moved.add(self._number)
            self.callbacks = None  # type: ignore[assignment]


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
