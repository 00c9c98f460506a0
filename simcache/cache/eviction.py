"""Eviction policies: which block leaves when room is needed. A store keeps the blocks, a policy keeps their order.

A policy knows only blocks that may leave: a store that pins a block takes it out (``remove``) and puts it back (``insert``)
when the pin is gone. Every order is total, so that a run repeats: what ties is decided by the order of accesses.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Self

from ..errors import require_count, require_number
from ..streams import stream


class Access:
    """What a policy may know about the access it is told of. One object serves a whole run: read it, do not keep it.

    ``now_ns``: the instant in nanoseconds. ``prompt_tokens``: tokens of the request's prompt. ``block_index``: which block of
    it this is, counted from 0, ``block_tokens`` tokens each. ``priority`` and ``retain_ns`` as the request asks (None: it does
    not). ``next_use``: place of the block's next access in the stream, for policies that know the future; a block without one
    has a place behind the stream's end, later ones farther behind.

    >>> Access(512).now_s
    0.0
    """

    __slots__ = ("block_index", "block_tokens", "next_use", "now_ns", "priority", "prompt_tokens", "retain_ns")

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.now_ns = 0
        self.prompt_tokens = 0
        self.block_index = 0
        self.priority: int | None = None
        self.retain_ns: int | None = None
        self.next_use = 0

    @property
    def now_s(self) -> float:
        """The instant in seconds."""
        return self.now_ns / 1e9


class EvictionPolicy:
    """Base of every policy, and of your own: define ``insert``, ``touch``, ``victim`` and ``remove``.

    The object you hand in carries parameters; each run works on its own :meth:`fresh` copy. ``name`` stands in results.

    >>> class OldestFirst(EvictionPolicy):
    ...     name = "oldest_first"
    ...     def __init__(self): self.blocks = {}
    ...     def insert(self, block, at): self.blocks[block] = None
    ...     def touch(self, block, at): pass
    ...     def victim(self, at): return next(iter(self.blocks))
    ...     def remove(self, block): del self.blocks[block]
    >>> OldestFirst().fresh(8).capacity_blocks
    8
    """

    name: str = ""
    capacity_blocks: int | None = None
    """Blocks of the store that the copy serves; None: no bound."""

    def fresh(self, capacity_blocks: int | None) -> Self:
        """A copy for one run over a store of ``capacity_blocks`` (None: no bound)."""
        run = copy.deepcopy(self)
        run.capacity_blocks = capacity_blocks
        return run

    def insert(self, block: int, at: Access) -> None:
        """``block``, not known before, came in."""
        raise NotImplementedError

    def touch(self, block: int, at: Access) -> None:
        """``block``, known and alive, was used again."""
        raise NotImplementedError

    def victim(self, at: Access) -> int:
        """The block to go next, out of at least one known. The store removes it right after, or asks again later."""
        raise NotImplementedError

    def remove(self, block: int) -> None:
        """``block``, known, is gone: evicted, expired or pinned."""
        raise NotImplementedError

    def admits(self, block: int, at: Access) -> bool:
        """Whether ``block`` may come into a full store; False: it is bypassed."""
        return True

    def alive(self, block: int, at: Access) -> bool:
        """Whether ``block``, known, may still be hit."""
        return True

    def expire(self, at: Access) -> Sequence[int]:
        """Known blocks whose life is over: the store drops them. It asks before each request; ``alive`` decides in between."""
        return ()


class Lru(EvictionPolicy):
    """Least recently used: the longest untouched block goes.

    >>> Lru().name
    'lru'
    """

    name = "lru"

    def __init__(self) -> None:
        self._order: OrderedDict[int, None] = OrderedDict()

    def insert(self, block: int, at: Access) -> None:
        self._order[block] = None

    def touch(self, block: int, at: Access) -> None:
        self._order.move_to_end(block)

    def victim(self, at: Access) -> int:
        return next(iter(self._order))

    def remove(self, block: int) -> None:
        del self._order[block]


class Mru(Lru):
    """Most recently used goes first (SGLang's ``mru``): keeps what came early, for loops longer than the cache.

    >>> Mru().name
    'mru'
    """

    name = "mru"

    def victim(self, at: Access) -> int:
        return next(reversed(self._order))


class Fifo(Lru):
    """First in, first out: the block that came in first goes, used or not.

    >>> Fifo().name
    'fifo'
    """

    name = "fifo"

    def touch(self, block: int, at: Access) -> None:
        pass


class Filo(Fifo):
    """First in, last out (SGLang's ``filo``): the block that came in last goes.

    >>> Filo().name
    'filo'
    """

    name = "filo"

    def victim(self, at: Access) -> int:
        return next(reversed(self._order))


class Lfu(EvictionPolicy):
    """Least frequently used: the block with the fewest accesses since it came in goes; ties: least recently used.

    Each list of blocks with one count is in order of their last access, since an access moves a block to the end of the next list:
    constant time per access.

    >>> Lfu().name
    'lfu'
    """

    name = "lfu"

    def __init__(self) -> None:
        self._uses: dict[int, int] = {}
        self._blocks: dict[int, OrderedDict[int, None]] = {}  # by number of uses
        self._fewest = 0  # no list below is there

    def insert(self, block: int, at: Access) -> None:
        self._append(block, 1)

    def touch(self, block: int, at: Access) -> None:
        uses = self._uses[block]
        self._take(block, uses)
        self._append(block, uses + 1)

    def victim(self, at: Access) -> int:
        while self._fewest not in self._blocks:
            self._fewest += 1
        return next(iter(self._blocks[self._fewest]))

    def remove(self, block: int) -> None:
        self._take(block, self._uses.pop(block))

    def _append(self, block: int, uses: int) -> None:
        self._uses[block] = uses
        blocks = self._blocks.get(uses)
        if blocks is None:
            blocks = self._blocks[uses] = OrderedDict()
        blocks[block] = None
        self._fewest = min(self._fewest, uses)

    def _take(self, block: int, uses: int) -> None:
        blocks = self._blocks[uses]
        del blocks[block]
        if not blocks:
            del self._blocks[uses]


class LfuPerfect(Lfu):
    """LFU that remembers the counts of blocks that left: memory grows with every block ever seen.

    >>> LfuPerfect().name
    'lfu_perfect'
    """

    name = "lfu_perfect"

    def __init__(self) -> None:
        super().__init__()
        self._past: dict[int, int] = {}

    def insert(self, block: int, at: Access) -> None:
        self._append(block, self._past.pop(block, 0) + 1)

    def remove(self, block: int) -> None:
        self._past[block] = self._uses[block]
        super().remove(block)


class Slru(EvictionPolicy):
    """Segmented LRU: a second access protects; the protected part is bounded and its oldest fall back to probation.

    Victims come from probation while it has any (Karedla, Love, Wherry 1994). ``protected_share`` of the capacity is protected.

    >>> Slru(protected_share=0.5).protected_share
    0.5
    """

    name = "slru"

    def __init__(self, protected_share: float = 0.8) -> None:
        require_number("protected_share", protected_share, at_least=0, at_most=1)
        self.protected_share = protected_share
        self._probation: OrderedDict[int, None] = OrderedDict()
        self._protected: OrderedDict[int, None] = OrderedDict()

    def insert(self, block: int, at: Access) -> None:
        self._probation[block] = None

    def touch(self, block: int, at: Access) -> None:
        if block in self._protected:
            self._protected.move_to_end(block)
            return
        del self._probation[block]
        self._protected[block] = None
        if self.capacity_blocks is not None and len(self._protected) > int(self.protected_share * self.capacity_blocks):
            self._probation[self._protected.popitem(last=False)[0]] = None

    def victim(self, at: Access) -> int:
        return next(iter(self._probation or self._protected))

    def remove(self, block: int) -> None:
        del (self._probation if block in self._probation else self._protected)[block]


class Sieve(EvictionPolicy):
    """SIEVE: a hand goes from old to new, spares each used block once and evicts the first unused (Zhang et al., NSDI 2024).

    A used block keeps its place: nothing moves on a hit.

    >>> Sieve().name
    'sieve'
    """

    name = "sieve"

    def __init__(self) -> None:
        self._newer: dict[int | None, int | None] = {None: None}  # a ring; None stands between the newest and the oldest
        self._older: dict[int | None, int | None] = {None: None}
        self._used: dict[int, bool] = {}
        self._hand: int | None = None

    def insert(self, block: int, at: Access) -> None:
        newest = self._older[None]
        self._newer[newest] = self._older[None] = block
        self._older[block], self._newer[block] = newest, None
        self._used[block] = False

    def touch(self, block: int, at: Access) -> None:
        self._used[block] = True

    def victim(self, at: Access) -> int:
        hand = self._hand
        while hand is None or self._used[hand]:
            if hand is not None:
                self._used[hand] = False
            hand = self._newer[hand]
        self._hand = hand
        return hand

    def remove(self, block: int) -> None:
        older, newer = self._older.pop(block), self._newer.pop(block)
        self._newer[older], self._older[newer] = newer, older
        del self._used[block]
        if self._hand == block:
            self._hand = newer


class RandomEviction(EvictionPolicy):
    """Any block, each with the same probability; equal seeds give equal runs.

    >>> RandomEviction(seed=7).seed
    7
    """

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        require_count("seed", seed, at_least=0)
        self.seed = seed
        self._random = stream(seed, "eviction")
        self._draws: list[float] = []
        self._blocks: list[int] = []
        self._place: dict[int, int] = {}

    def insert(self, block: int, at: Access) -> None:
        self._place[block] = len(self._blocks)
        self._blocks.append(block)

    def touch(self, block: int, at: Access) -> None:
        pass

    def victim(self, at: Access) -> int:
        if not self._draws:
            self._draws = self._random.random(1024).tolist()
        return self._blocks[int(self._draws.pop() * len(self._blocks))]

    def remove(self, block: int) -> None:
        place, last = self._place.pop(block), self._blocks.pop()
        if last != block:
            self._blocks[place], self._place[last] = last, place
