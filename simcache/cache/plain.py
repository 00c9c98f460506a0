"""The plain store of a replay without a clock: every id is a block, no pins, no chains, one block out per block in when full.

It is the store of published block replays: a lookup walks a request's ids until the first one that is absent, then every id of
the request is touched or inserted. An insert may push out even the request's own earlier blocks.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

from ..errors import UnknownNameError, require_count
from .bounds import Min
from .eviction import Access, EvictionPolicy

Touch = Literal["rev", "fwd", "any"]
TOUCHES: Final = ("rev", "fwd", "any")
"""Tail to head (the head is evicted last), head to tail, and head to tail with a hit counted wherever a block is present."""


class PlainStore:
    """``capacity_blocks`` blocks (None: no bound) under ``policy``; a capacity of 0 bypasses every block.

    Counts what ever happened: ``inserted``, ``evicted`` (for room), ``expired`` (by age), ``bypassed`` (not let in). A child may
    outlive its parent: the store knows no chains.

    >>> from simcache.cache.eviction import Lru
    >>> store = PlainStore(Lru(), 2, block_tokens=16)
    >>> store.serve([1, 2]), store.serve([1, 2, 3]), store.serve([1, 2])
    (0, 2, 2)
    """

    def __init__(self, policy: EvictionPolicy, capacity_blocks: int | None, *, block_tokens: int, touch: Touch = "rev") -> None:
        if capacity_blocks is not None:
            require_count("capacity_blocks", capacity_blocks, at_least=0)
        require_count("block_tokens", block_tokens)
        if touch not in TOUCHES:
            raise UnknownNameError("touch", touch, TOUCHES)
        self.policy = policy.fresh(capacity_blocks)
        self.capacity_blocks = self.policy.capacity_blocks
        self.touch = touch
        self.resident: set[int] = set()
        self.inserted = self.evicted = self.expired = self.bypassed = 0
        self._at = Access(block_tokens)
        # MIN knows the next access to each block, so accesses are looked at one by one: a lookup ahead of them all means nothing.
        self._one_by_one = touch == "any" or isinstance(policy, Min)
        self._counts_leading = isinstance(policy, Min) and policy.prefix
        self._step = -1 if touch == "rev" and not self._one_by_one else 1

    def serve(
        self,
        ids: Sequence[int],
        *,
        now_ns: int = 0,
        prompt_tokens: int = 0,
        priority: int | None = None,
        retain_ns: int | None = None,
        next_uses: Sequence[int] | None = None,
    ) -> int:
        """Look up and then take in one request's blocks; returns how many hit.

        ``next_uses``, one per id, is what :func:`~simcache.cache.bounds.next_uses` says of the whole stream; ``Min`` needs it.
        """
        policy, resident, at = self.policy, self.resident, self._at
        # Most policies let nothing expire: a call per touch that always says yes would be a quarter of the time.
        alive = None if type(policy).alive is EvictionPolicy.alive else policy.alive
        touch_block = policy.touch
        at.now_ns, at.prompt_tokens, at.priority, at.retain_ns = now_ns, prompt_tokens, priority, retain_ns
        for block in policy.expire(at):
            self._drop(block)
            self.expired += 1
        leading = 0
        if not self._one_by_one:
            for block in ids:
                if block not in resident or (alive is not None and not alive(block, at)):
                    break
                leading += 1
        hits = 0
        for index in range(len(ids))[:: self._step]:
            block = ids[index]
            at.block_index = index
            if next_uses is not None:
                at.next_use = next_uses[index]
            if block in resident:
                if alive is None or alive(block, at):
                    touch_block(block, at)
                    leading += self._one_by_one and leading == index
                    hits += 1
                    continue
                self._drop(block)
                self.expired += 1
            self._take_in(block)
        return hits if self._one_by_one and not self._counts_leading else leading

    def check(self) -> None:
        """Raise AssertionError where a rule of the store is broken."""
        assert self.capacity_blocks is None or len(self.resident) <= self.capacity_blocks
        assert self.inserted == len(self.resident) + self.evicted + self.expired

    def _take_in(self, block: int) -> None:
        policy, at = self.policy, self._at
        if self.capacity_blocks is not None and len(self.resident) >= self.capacity_blocks:
            if not self.capacity_blocks or not policy.admits(block, at):
                self.bypassed += 1
                return
            self._drop(policy.victim(at))
            self.evicted += 1
        policy.insert(block, at)
        self.resident.add(block)
        self.inserted += 1

    def _drop(self, block: int) -> None:
        self.resident.remove(block)
        self.policy.remove(block)


class FlatRecency:
    """LRU (``moves``) or FIFO over the plain store in one loop: what ``PlainStore`` does, without a call per touch.

    >>> FlatRecency(2, moves=True).serve_all([1, 2, 1, 2, 3, 1, 2], [0, 2, 5, 7], "rev")
    ([0, 2, 2], [0, 3, 0])
    """

    def __init__(self, capacity_blocks: int | None, *, moves: bool) -> None:
        self.moves = moves
        self.order: OrderedDict[int, None] = OrderedDict()
        self._room = sys.maxsize if capacity_blocks is None else capacity_blocks
        self._bypasses = capacity_blocks == 0

    def serve_all(self, ids: list[int], starts: list[int], touch: Touch) -> tuple[list[int], list[int]]:
        """Hit blocks and evicted blocks of requests i with the ids from ``starts[i]`` to ``starts[i + 1]``."""
        requests = len(starts) - 1
        if self._bypasses:
            return [0] * requests, [0] * requests
        order, room, moves = self.order, self._room, self.moves
        move, evict = order.move_to_end, order.popitem
        ahead, rev = touch != "any", touch == "rev"
        hits: list[int] = []
        evicted: list[int] = []
        for start, end in pairwise(starts):
            blocks = ids[start:end]
            leading = 0
            if ahead:
                for block in blocks:
                    if block not in order:
                        break
                    leading += 1
                if rev:
                    blocks.reverse()
            found, had = 0, room
            for block in blocks:
                if block in order:
                    found += 1
                    if moves:
                        move(block)
                else:
                    if room:
                        room -= 1
                    else:
                        evict(False)
                    order[block] = None
            hits.append(leading if ahead else found)
            evicted.append(end - start - found - (had - room))
        self._room = room
        return hits, evicted
