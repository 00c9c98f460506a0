"""What breaks, when: a schedule, or a rate drawn from a named stream. Values only; engine/ applies them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .errors import InputError, require_count, require_number
from .streams import stream


@dataclass(frozen=True, kw_only=True)
class Crash:
    """A replica dies at ``at_s`` and serves again ``down_s`` later (restart and model load; None: never), its cache empty.

    >>> Crash(at_s=600, replica=2, down_s=90).replica
    2
    """

    at_s: float
    replica: int
    down_s: float | None = 120.0

    def __post_init__(self) -> None:
        require_number("at_s", self.at_s, at_least=0)
        require_count("replica", self.replica, at_least=0)
        if self.down_s is not None:
            require_number("down_s", self.down_s, above=0)


@dataclass(frozen=True, kw_only=True)
class Slow:
    """A replica's steps take ``factor`` times as long from ``at_s`` for ``for_s`` seconds.

    >>> Slow(at_s=600, replica=0, factor=2.0, for_s=300).factor
    2.0
    """

    at_s: float
    replica: int
    factor: float
    for_s: float

    def __post_init__(self) -> None:
        require_number("at_s", self.at_s, at_least=0)
        require_count("replica", self.replica, at_least=0)
        require_number("factor", self.factor, above=0)
        require_number("for_s", self.for_s, above=0)


@dataclass(frozen=True, kw_only=True)
class CrashRate:
    """Every replica crashes after exponential times of mean ``mean_between_s`` of service, and is back after ``down_s``.

    >>> CrashRate(mean_between_s=86_400).down_s
    120.0
    """

    mean_between_s: float
    down_s: float = 120.0

    def __post_init__(self) -> None:
        require_number("mean_between_s", self.mean_between_s, above=0)
        require_number("down_s", self.down_s, above=0)


@dataclass(frozen=True, kw_only=True)
class TierOutage:
    """The memory ``tier`` of that name cannot be reached from ``at_s`` for ``for_s`` seconds, by any replica.

    Loads under way fail and are computed instead; nothing is found or written there until it is back, with what it had.

    >>> TierOutage(at_s=600, tier="host", for_s=30).tier
    'host'
    """

    at_s: float
    tier: str
    for_s: float

    def __post_init__(self) -> None:
        require_number("at_s", self.at_s, at_least=0)
        require_number("for_s", self.for_s, above=0)


Fault = Crash | Slow | CrashRate | TierOutage


class FaultEvent(NamedTuple):
    """At ``at_s`` the replica goes ``down``, comes ``up``, or gets a new ``speed`` (factor on its step times); or the ``tier`` is
    ``cut_off`` or ``back`` (for all replicas: -1).
    """

    at_s: float
    what: str
    replica: int
    factor: float = 1.0
    tier: str = ""


def schedule(faults: Sequence[Fault], *, replicas: int, until_s: float | None, seed: int) -> list[FaultEvent]:
    """All events in order of time. Raises InputError for a replica that is not there, or a rate without an end.

    >>> [event.what for event in schedule([Crash(at_s=5, replica=0, down_s=2)], replicas=1, until_s=None, seed=0)]
    ['down', 'up']
    """
    events: list[FaultEvent] = []
    for number, fault in enumerate(faults):
        if isinstance(fault, CrashRate):
            if until_s is None:
                raise InputError("faults", "CrashRate", "needs an end", "Give the run a duration_s, or list single crashes.")
            for replica in range(replicas):
                rng = stream(seed, "faults", number, replica)
                at_s = float(rng.exponential(fault.mean_between_s))
                while at_s < until_s:
                    events.append(FaultEvent(at_s, "down", replica))
                    at_s += fault.down_s
                    events.append(FaultEvent(at_s, "up", replica))
                    at_s += float(rng.exponential(fault.mean_between_s))
            continue
        if isinstance(fault, TierOutage):
            events.append(FaultEvent(fault.at_s, "cut_off", -1, tier=fault.tier))
            events.append(FaultEvent(fault.at_s + fault.for_s, "back", -1, tier=fault.tier))
            continue
        if fault.replica >= replicas:
            raise InputError(f"faults[{number}].replica", fault.replica, f"must be a replica from 0 to {replicas - 1}")
        if isinstance(fault, Crash):
            events.append(FaultEvent(fault.at_s, "down", fault.replica))
            if fault.down_s is not None:
                events.append(FaultEvent(fault.at_s + fault.down_s, "up", fault.replica))
        else:
            events.append(FaultEvent(fault.at_s, "speed", fault.replica, fault.factor))
            events.append(FaultEvent(fault.at_s + fault.for_s, "speed", fault.replica, 1.0))
    return sorted(events, key=lambda event: event.at_s)
