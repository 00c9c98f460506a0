"""What no policy can beat: Belady's MIN with bypass, which knows the future, and a cache without a bound."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from .eviction import Access, EvictionPolicy

Ids = NDArray[np.int64]


def next_uses(ids: Ids) -> Ids:
    """Place of the next access to the same block, per access of a stream; a last access has a place behind the end.

    Those are all different, and later for later accesses, so that "farthest" is never a tie.

    >>> next_uses(np.array([7, 8, 7])).tolist()
    [2, 4, 5]
    """
    n = len(ids)
    order = np.argsort(ids, kind="stable")
    following = np.arange(n, 2 * n, dtype=np.int64)
    again = ids[order[:-1]] == ids[order[1:]]
    following[order[:-1][again]] = order[1:][again]
    return following


class Min(EvictionPolicy):
    """Belady's MIN: the block whose next use is farthest goes, and one that comes in with a farther one is not let in.

    The most hits that a cache of this size can have, counted at any position of a prompt (``min``), and how many of those lead
    their prompt (``min_prefix``, which is therefore no bound). Looks at accesses from head to tail whatever the touch order.

    >>> Min(prefix=True).name
    'min_prefix'
    """

    def __init__(self, *, prefix: bool = False) -> None:
        self.prefix = prefix
        self.name = "min_prefix" if prefix else "min"
        self._next: dict[int, int] = {}
        self._farthest: list[tuple[int, int]] = []

    def insert(self, block: int, at: Access) -> None:
        self.touch(block, at)

    def touch(self, block: int, at: Access) -> None:
        self._next[block] = at.next_use
        heapq.heappush(self._farthest, (-at.next_use, block))

    def victim(self, at: Access) -> int:
        while self._next.get(self._farthest[0][1]) != -self._farthest[0][0]:
            heapq.heappop(self._farthest)
        return self._farthest[0][1]

    def remove(self, block: int) -> None:
        del self._next[block]

    def admits(self, block: int, at: Access) -> bool:
        return at.next_use < self._next[self.victim(at)]


class Infinite(EvictionPolicy):
    """Nothing ever leaves: every block that was seen before hits. Asked for a capacity, it takes none.

    >>> Infinite().fresh(8).capacity_blocks is None
    True
    """

    name = "infinite"

    def fresh(self, capacity_blocks: int | None) -> Infinite:
        return Infinite()

    def insert(self, block: int, at: Access) -> None:
        pass

    def touch(self, block: int, at: Access) -> None:
        pass

    def remove(self, block: int) -> None:
        pass
