"""The replay and curve loops for numba: plain functions over flat arrays, compiled on first use where numba is installed.

The stores and policies beside this file are what these must equal. Block ids are dense here: 0 <= id < n_blocks. ``touch`` is 0
for tail to head, 1 for head to tail, 2 for hits at any position.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

REV: Final = 0
ANY: Final = 2


@functools.cache
def available() -> bool:
    """Whether numba can be imported here; where it cannot, for whatever reason, the plain loops serve.

    >>> available() in (True, False)
    True
    """
    try:
        import numba  # noqa: F401
    except Exception:  # a numba that does not fit its numpy raises more than ImportError
        return False
    return True


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` compiled by numba, kept on disk where that is possible; :func:`available` must hold."""
    import numba

    try:
        loop: Callable[..., Any] = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
        loop = numba.njit(nogil=True)(function)
    return loop


def recency(ids: Ints, starts: Ints, n_blocks: int, capacity: int, moves: bool, touch: int) -> tuple[Ints, Ints]:
    """LRU (``moves``) or FIFO: hit and evicted blocks per request. A ring through entry ``n_blocks``, oldest behind it."""
    newer = np.full(n_blocks + 1, -1, dtype=np.int64)  # -1: not resident
    older = np.full(n_blocks + 1, -1, dtype=np.int64)
    newer[n_blocks] = older[n_blocks] = n_blocks
    requests = len(starts) - 1
    hits = np.zeros(requests, dtype=np.int64)
    evicted = np.zeros(requests, dtype=np.int64)
    if capacity == 0:
        return hits, evicted
    resident = 0
    for r in range(requests):
        start, end = starts[r], starts[r + 1]
        if touch != ANY:
            p = start
            while p < end and newer[ids[p]] >= 0:
                p += 1
            hits[r] = p - start
        for k in range(end - start):
            block = ids[end - 1 - k] if touch == REV else ids[start + k]
            if newer[block] >= 0:
                if touch == ANY:
                    hits[r] += 1
                if not moves or newer[block] == n_blocks:
                    continue
                newer[older[block]] = newer[block]
                older[newer[block]] = older[block]
            elif resident < capacity:
                resident += 1
            else:
                gone = newer[n_blocks]
                newer[n_blocks] = newer[gone]
                older[newer[gone]] = n_blocks
                newer[gone] = -1
                evicted[r] += 1
            newest = older[n_blocks]
            newer[newest] = block
            older[block] = newest
            newer[block] = n_blocks
            older[n_blocks] = block
    return hits, evicted


def frequency(ids: Ints, starts: Ints, n_blocks: int, capacity: int, remembers: bool, touch: int) -> tuple[Ints, Ints]:
    """LFU, with memory or without: hit and evicted blocks per request. One ring per count, through entry ``n_blocks + count``."""
    uses = np.zeros(n_blocks, dtype=np.int64)
    most = 0
    for block in ids:  # no count can pass the block's accesses
        uses[block] += 1
        most = max(most, uses[block])
    uses[:] = 0
    newer = np.full(n_blocks + most + 1, -1, dtype=np.int64)
    older = np.full(n_blocks + most + 1, -1, dtype=np.int64)
    for ring in range(n_blocks, n_blocks + most + 1):
        newer[ring] = older[ring] = ring
    requests = len(starts) - 1
    hits = np.zeros(requests, dtype=np.int64)
    evicted = np.zeros(requests, dtype=np.int64)
    if capacity == 0:
        return hits, evicted
    resident = 0
    fewest = 1
    for r in range(requests):
        start, end = starts[r], starts[r + 1]
        if touch != ANY:
            p = start
            while p < end and newer[ids[p]] >= 0:
                p += 1
            hits[r] = p - start
        for k in range(end - start):
            block = ids[end - 1 - k] if touch == REV else ids[start + k]
            if newer[block] >= 0:
                if touch == ANY:
                    hits[r] += 1
                newer[older[block]] = newer[block]
                older[newer[block]] = older[block]
            elif resident < capacity:
                resident += 1
            else:
                while newer[n_blocks + fewest] == n_blocks + fewest:
                    fewest += 1
                gone = newer[n_blocks + fewest]
                newer[n_blocks + fewest] = newer[gone]
                older[newer[gone]] = n_blocks + fewest
                newer[gone] = -1
                if not remembers:
                    uses[gone] = 0
                evicted[r] += 1
            uses[block] += 1
            fewest = min(fewest, uses[block])
            ring = n_blocks + uses[block]
            newest = older[ring]
            newer[newest] = block
            older[block] = newest
            newer[block] = ring
            older[ring] = block
    return hits, evicted


def lifetime(
    ids: Ints, starts: Ints, n_blocks: int, capacity: int, now_ns: Ints, ttl_ns: int, sliding: bool, drops: bool, touch: int
) -> tuple[Ints, Ints]:
    """TTL: hit and evicted blocks per request. The ring of ``recency``, with stamps; ``drops``: what expired leaves by itself."""
    newer = np.full(n_blocks + 1, -1, dtype=np.int64)
    older = np.full(n_blocks + 1, -1, dtype=np.int64)
    newer[n_blocks] = older[n_blocks] = n_blocks
    stamp_ns = np.zeros(n_blocks, dtype=np.int64)
    requests = len(starts) - 1
    hits = np.zeros(requests, dtype=np.int64)
    evicted = np.zeros(requests, dtype=np.int64)
    if capacity == 0:
        return hits, evicted
    resident = 0
    for r in range(requests):
        start, end = starts[r], starts[r + 1]
        dead_before_ns = now_ns[r] - ttl_ns
        while drops and resident > 0 and stamp_ns[newer[n_blocks]] < dead_before_ns:
            gone = newer[n_blocks]
            newer[n_blocks] = newer[gone]
            older[newer[gone]] = n_blocks
            newer[gone] = -1
            resident -= 1
        if touch != ANY:
            p = start
            while p < end and newer[ids[p]] >= 0 and stamp_ns[ids[p]] >= dead_before_ns:
                p += 1
            hits[r] = p - start
        for k in range(end - start):
            block = ids[end - 1 - k] if touch == REV else ids[start + k]
            if newer[block] >= 0:
                if stamp_ns[block] >= dead_before_ns:
                    if touch == ANY:
                        hits[r] += 1
                    if not sliding:
                        continue
                newer[older[block]] = newer[block]
                older[newer[block]] = older[block]
            elif resident < capacity:
                resident += 1
            else:
                gone = newer[n_blocks]
                newer[n_blocks] = newer[gone]
                older[newer[gone]] = n_blocks
                newer[gone] = -1
                evicted[r] += 1
            stamp_ns[block] = now_ns[r]
            newest = older[n_blocks]
            newer[newest] = block
            older[block] = newest
            newer[block] = n_blocks
            older[n_blocks] = block
    return hits, evicted


def offline(ids: Ints, starts: Ints, n_blocks: int, capacity: int, following: Ints, prefix: bool) -> tuple[Ints, Ints, int]:
    """MIN with bypass: hit and evicted blocks per request, and how many were bypassed. A heap of next uses, farthest first."""
    requests = len(starts) - 1
    accesses = len(ids)
    hits = np.zeros(requests, dtype=np.int64)
    evicted = np.zeros(requests, dtype=np.int64)
    if capacity == 0:
        return hits, evicted, accesses
    resident = np.zeros(n_blocks, dtype=np.bool_)
    # A hit leaves its block's old entry behind: that place is past, so it lies below every entry of a resident block.
    heap = np.empty(accesses, dtype=np.int64)
    size = 0
    held = 0
    bypassed = 0
    for r in range(requests):
        leads = True
        for p in range(starts[r], starts[r + 1]):
            block = ids[p]
            key = following[p]
            if resident[block]:
                if leads or not prefix:
                    hits[r] += 1
            else:
                leads = False
                if held == capacity:
                    farthest = heap[0]
                    if farthest <= key:
                        bypassed += 1
                        continue
                    resident[ids[farthest] if farthest < accesses else ids[farthest - accesses]] = False
                    evicted[r] += 1
                    size -= 1
                    last = heap[size]
                    i = 0
                    while True:
                        child = 2 * i + 1
                        if child >= size:
                            break
                        if child + 1 < size and heap[child + 1] > heap[child]:
                            child += 1
                        if heap[child] <= last:
                            break
                        heap[i] = heap[child]
                        i = child
                    heap[i] = last
                else:
                    held += 1
                resident[block] = True
            i = size
            size += 1
            while i > 0 and heap[(i - 1) // 2] < key:
                heap[i] = heap[(i - 1) // 2]
                i = (i - 1) // 2
            heap[i] = key
    return hits, evicted, bypassed


def distances(ids: Ints, starts: Ints, n_blocks: int, touch: int) -> Ints:
    """LRU stack distance of every access at its lookup, ``len(ids) + 1`` for a block not seen before. A Fenwick tree.

    Touches have places 0, 1, 2...; a place dies when its block is touched again. The distance is the number of living places from
    the block's on. Blocks whose places follow each other, as a prompt's do, need one walk through the tree for all.
    """
    n = len(ids)
    place = np.full(n_blocks, -1, dtype=np.int64)
    dead = np.zeros(n + 1, dtype=np.int64)
    out = np.full(n, n + 1, dtype=np.int64)
    died = 0
    for r in range(len(starts) - 1):
        start, end = starts[r], starts[r + 1]
        if touch != ANY:
            before = -2
            distance = 0
            for p in range(start, end):
                at = place[ids[p]]
                if at < 0:
                    before = -2
                    continue
                if at == before - 1:
                    distance += 1
                elif at == before + 1:
                    distance -= 1
                else:
                    i = at + 1
                    behind = died
                    while i > 0:
                        behind -= dead[i]
                        i &= i - 1
                    distance = start - at - behind
                out[p] = distance
                before = at
        for k in range(end - start):
            p = end - 1 - k if touch == REV else start + k
            at = place[ids[p]]
            if at >= 0:
                if touch == ANY:
                    i = at + 1
                    behind = died
                    while i > 0:
                        behind -= dead[i]
                        i &= i - 1
                    out[p] = start + k - at - behind
                died += 1
                i = at + 1
                while i <= n:
                    dead[i] += 1
                    i += i & -i
            place[ids[p]] = start + k
    return out


def count_needs(
    needs: Ints, most: int, reached: int, starts: Ints, input_tokens: Ints, block_tokens: int, touch: int
) -> tuple[Ints, Ints]:
    """Blocks and tokens that begin to hit at each need below ``reached``; a need above ``most`` is never met.

    Under the prefix rule a block needs the most that any block up to it needs.
    """
    blocks = np.zeros(reached, dtype=np.int64)
    tokens = np.zeros(reached, dtype=np.int64)
    for r in range(len(starts) - 1):
        start, end = starts[r], starts[r + 1]
        part = np.sort(needs[start:end]) if touch == ANY else needs[start:end]
        need = np.int64(0)
        left = input_tokens[r]
        for i in range(end - start):
            need = max(need, part[i])
            if need > most:
                break
            blocks[need] += 1
            tokens[need] += min(left, block_tokens)
            left = max(left - block_tokens, 0)
    return blocks, tokens
