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


def why_not_stationary(workload: Workload) -> str | None:
    """Why the beginning of ``workload`` is not just a start from empty; None: its law is the same at every instant.

    A workload says so itself, in its ``not_stationary``; one that says nothing is not taken for stationary.

    >>> from .synthetic import PoissonRequests
    >>> why_not_stationary(PoissonRequests(rate_per_s=1.0, count=9, prompt_tokens=9, output_tokens=1))
    """
    reason: str | None = getattr(workload, "not_stationary", f"{type(workload).__name__} does not say that it is")
    return reason
