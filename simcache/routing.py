"""Which replica gets a request. A router is a plain function of the request and what each living replica shows of itself.

A user's own router is one function ``(request, replicas) -> index into replicas``, handed in as ``Cluster(router=...)``. A router
that has to remember is a factory listed here: it is made fresh for every run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Final, Protocol

from .errors import InputError, UnknownNameError
from .prompt import Request
from .streams import stream


class ReplicaView(Protocol):
    """What a router may look at."""

    @property
    def index(self) -> int:
        """Which replica of the cluster this is, from 0."""
        ...

    @property
    def outstanding(self) -> int:
        """Requests sent to this replica that have not ended."""
        ...

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens sent to this replica whose prefill has not ended."""
        ...

    @property
    def block_tokens(self) -> int:
        """Tokens of one KV block."""
        ...

    @property
    def active_blocks(self) -> int:
        """KV blocks that requests hold."""
        ...

    def expected_hit_tokens(self, request: Request) -> int:
        """Leading prompt tokens this replica holds now."""
        ...


Route = Callable[[Request, Sequence[ReplicaView]], int]


def round_robin(seed: int) -> Route:
    """In turn, whatever the replicas do; a replica that is down is passed over.

    >>> from types import SimpleNamespace as View
    >>> route = round_robin(0); [route(None, [View(index=0), View(index=1)]) for _ in range(3)]
    [0, 1, 0]
    """
    last = -1

    def route(request: Request, replicas: Sequence[ReplicaView]) -> int:
        nonlocal last
        for place, replica in enumerate(replicas):
            if replica.index > last:
                last = replica.index
                return place
        last = replicas[0].index
        return 0

    return route


def random(seed: int) -> Route:
    """Any replica with equal probability, seeded.

    >>> random(0)(None, "ab") in (0, 1)
    True
    """
    rng = stream(seed, "router")
    return lambda request, replicas: int(rng.integers(len(replicas)))


def least_requests(seed: int) -> Route:
    """The replica with the fewest requests that have not ended; ties go to the first.

    >>> from types import SimpleNamespace as View
    >>> least_requests(0)(None, [View(outstanding=2), View(outstanding=1)])
    1
    """
    return lambda request, replicas: min(range(len(replicas)), key=lambda place: replicas[place].outstanding)


def least_tokens(seed: int) -> Route:
    """The replica with the fewest prompt tokens whose prefill has not ended; ties go to the first.

    >>> from types import SimpleNamespace as View
    >>> least_tokens(0)(None, [View(queued_tokens=900), View(queued_tokens=10)])
    1
    """
    return lambda request, replicas: min(range(len(replicas)), key=lambda place: replicas[place].queued_tokens)


def power_of_two(seed: int) -> Route:
    """The one with fewer unfinished requests of two drawn at random (Mitzenmacher 2001).

    >>> from types import SimpleNamespace as View
    >>> power_of_two(0)(None, [View(outstanding=2), View(outstanding=1)])
    1
    """
    rng = stream(seed, "router")

    def route(request: Request, replicas: Sequence[ReplicaView]) -> int:
        if len(replicas) == 1:
            return 0
        one, other = (int(place) for place in rng.choice(len(replicas), size=2, replace=False))
        return min(one, other, key=lambda place: (replicas[place].outstanding, place))

    return route


def sticky(seed: int) -> Route:
    """Where the conversation was served before; a new one goes where fewest requests wait. Without a session: as a new one.

    >>> from types import SimpleNamespace as View
    >>> from simcache.prompt import Segment
    >>> route, turn = sticky(0), Request(0.0, (), Segment("a", 1), session="s")
    >>> route(turn, [View(index=0, outstanding=1), View(index=1, outstanding=0)])
    1
    >>> route(turn, [View(index=0, outstanding=0), View(index=1, outstanding=9)])
    1
    """
    homes: dict[str, int] = {}
    fewest = least_requests(seed)

    def route(request: Request, replicas: Sequence[ReplicaView]) -> int:
        home = None if request.session is None else homes.get(request.session)
        place = next((place for place, replica in enumerate(replicas) if replica.index == home), None)
        if place is None:
            place = fewest(request, replicas)
            if request.session is not None:
                homes[request.session] = replicas[place].index
        return place

    return route


def prefix_affinity(seed: int, bound: float = 1.25) -> Route:
    """The replica that the prompt's first segment hashes to, unless it has more than ``bound`` times the mean load; then the next.

    Consistent in the sense of a fixed order of preference per prefix (rendezvous hashing), with the bounded loads of Mirrokni,
    Thorup and Zadimoghaddam (2018).

    >>> from types import SimpleNamespace as View
    >>> from simcache.prompt import Segment
    >>> asks = [Request(0.0, (Segment("doc", 9),), Segment(i, 1)) for i in range(2)]
    >>> route, views = prefix_affinity(0), [View(index=i, outstanding=0) for i in range(4)]
    >>> route(asks[0], views) == route(asks[1], views)
    True
    """

    def route(request: Request, replicas: Sequence[ReplicaView]) -> int:
        prefix = repr((request.organisation, request.salt, request.prompt[0].key if request.prompt else None))
        order = sorted(range(len(replicas)), key=lambda place: zlib.crc32(f"{replicas[place].index} {prefix}".encode()))
        most = bound * (sum(replica.outstanding for replica in replicas) + 1) / len(replicas)
        return next((place for place in order if replicas[place].outstanding + 1 <= max(most, 1)), order[0])

    return route


def cache_aware(seed: int) -> Route:
    """Lowest cost, as Dynamo's router weighs it: blocks still to prefill there, less the overlap, plus blocks being decoded.

    ai-dynamo/dynamo lib/kv-router/src/scheduling/selector/default.rs @07a6c9c with its defaults (prefill load scale 1, overlap
    credit 1, no decay, no weight on request counts); ties are drawn at random, seeded. Active blocks stand for decode blocks.

    >>> from types import SimpleNamespace as View
    >>> from simcache.prompt import Segment
    >>> ask = Request(0.0, (Segment("doc", 160),), Segment("a", 1))
    >>> views = [View(queued_tokens=0, block_tokens=16, active_blocks=0, expected_hit_tokens=lambda r, n=n: n) for n in (0, 96)]
    >>> cache_aware(0)(ask, views)
    1
    """
    rng = stream(seed, "router")

    def route(request: Request, replicas: Sequence[ReplicaView]) -> int:
        tokens = sum(segment.tokens for segment in request.prompt)
        costs = []
        for replica in replicas:
            block = replica.block_tokens
            to_prefill = (replica.queued_tokens + tokens) / block - replica.expected_hit_tokens(request) / block
            costs.append(max(0.0, to_prefill) + replica.active_blocks)
        lowest = min(costs)
        ties = [place for place, cost in enumerate(costs) if cost == lowest]
        return ties[0] if len(ties) == 1 else ties[int(rng.integers(len(ties)))]

    return route


ROUTERS: Final[dict[str, Callable[[int], Route]]] = {
    "cache_aware": cache_aware,
    "least_requests": least_requests,
    "least_tokens": least_tokens,
    "power_of_two": power_of_two,
    "prefix_affinity": prefix_affinity,
    "random": random,
    "round_robin": round_robin,
    "sticky": sticky,
}


def fresh_router(router: str | Route, seed: int) -> Route:
    """A router with a state of its own; whatever it answers is checked, and a wrong index is an error that names it.

    >>> fresh_router(lambda request, replicas: 7, 0)(None, "ab")
    Traceback (most recent call last):
    simcache.errors.InputError: index from router '<lambda>'(=7) must be a whole number from 0 to 1.
    """
    if isinstance(router, str):
        if router not in ROUTERS:
            raise UnknownNameError("router", router, ROUTERS)
        return ROUTERS[router](seed)
    name = getattr(router, "__name__", type(router).__name__)

    def checked(request: Request, replicas: Sequence[ReplicaView]) -> int:
        place = router(request, replicas)
        whole = isinstance(place, Integral) and not isinstance(place, bool)  # numpy's whole numbers are some, too
        if not whole or not 0 <= place < len(replicas):
            raise InputError(f"index from router {name!r}", place, f"must be a whole number from 0 to {len(replicas) - 1}")
        return int(place)

    return checked
