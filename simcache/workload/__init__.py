"""Who asks what, when: traces, people, and synthetic arrivals. Two protocols; the engine asks which one it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from ..prompt import Request
from .sessions import Person


@runtime_checkable
class OpenLoop(Protocol):
    """Requests at instants fixed in advance: slow answers delay nobody."""

    def requests(self, seed: int) -> Iterator[Request]:
        """Requests in order of ``arrived_at_s``, equal for equal seeds; may stream from a file."""
        ...


@runtime_checkable
class ClosedLoop(Protocol):
    """People who wait for an answer before they go on."""

    def people(self, seed: int, duration_s: float) -> Iterator[Person]:
        """Everybody who arrives before ``duration_s``, in order of arrival, equal for equal seeds."""
        ...


Workload = OpenLoop | ClosedLoop
