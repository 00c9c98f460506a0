"""Which replica gets a request. A router is a plain function of the request and what each replica shows of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from .errors import UnknownNameError
from .prompt import Request


class ReplicaView(Protocol):
    """What a router may look at."""

    @property
    def outstanding(self) -> int:
        """Requests sent to this replica that have not ended."""
        ...


Route = Callable[[Request, Sequence[ReplicaView]], int]
"""Returns the index of the replica; made fresh for every run, so it may remember."""


def round_robin() -> Route:
    """In turn, whatever the replicas do.

    >>> route = round_robin(); [route(None, "ab") for _ in range(3)]
    [0, 1, 0]
    """
    last = -1

    def route(request: Request, replicas: Sequence[ReplicaView]) -> int:
        nonlocal last
        last = (last + 1) % len(replicas)
        return last

    return route


def least_requests() -> Route:
    """The replica with the fewest requests that have not ended; ties go to the lowest index.

    >>> from types import SimpleNamespace as View
    >>> least_requests()(None, [View(outstanding=2), View(outstanding=1)])
    1
    """

    def route(request: Request, replicas: Sequence[ReplicaView]) -> int:
        return min(range(len(replicas)), key=lambda index: replicas[index].outstanding)

    return route


ROUTERS: Final[dict[str, Callable[[], Route]]] = {"round_robin": round_robin, "least_requests": least_requests}


def fresh_router(name: str) -> Route:
    """A router by name with a state of its own.

    >>> fresh_router("round_robin")(None, "ab")
    0
    """
    if name not in ROUTERS:
        raise UnknownNameError("router", name, ROUTERS)
    return ROUTERS[name]()
