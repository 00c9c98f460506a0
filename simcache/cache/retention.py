"""Eviction policies that weigh more than the order of accesses: lifetimes, priorities, costs, and the future."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, Literal

from ..errors import UnknownNameError, require, require_count, require_number
from .eviction import Access, EvictionPolicy

TtlKind = Literal["sliding", "fixed"]

MOST_PRIORITY: Final = 100
_LONGEST_S: Final = 4e9  # 126 years: with any instant of a trace it fits 64 bits of nanoseconds
DEFAULT_PRIORITY: Final = 35  # TensorRT-LLM, docs/source/features/kvcache.md @0076e93: priorities 0..100, default 35


class Ttl(EvictionPolicy):
    """A block may be hit while at most ``ttl_s`` seconds passed since its last access (sliding) or since it came in (fixed).

    The border belongs to the block's life, as in the reference replay: alive iff ``now - stamp <= ttl_s``, to the nanosecond. An
    expired block that is used comes in anew. Under a capacity the block that expires first goes. Expired blocks are dropped as the
    clock passes them; when it runs backwards (sessions that share no clock) none is dropped any more, since it may be alive again.

    >>> Ttl(300).kind
    'sliding'
    """

    name = "ttl"

    def __init__(self, ttl_s: float, kind: TtlKind = "sliding") -> None:
        require_number("ttl_s", ttl_s, at_least=0)
        if kind not in ("sliding", "fixed"):
            raise UnknownNameError("ttl kind", kind, ("sliding", "fixed"))
        self.ttl_s = ttl_s
        self.kind = kind
        self.drops_expired = True
        self.ttl_ns = round(min(ttl_s, _LONGEST_S) * 1e9)
        self._latest_ns = 0
        self._stamps_ns: OrderedDict[int, int] = OrderedDict()

    def insert(self, block: int, at: Access) -> None:
        self._stamps_ns[block] = at.now_ns

    def touch(self, block: int, at: Access) -> None:
        if self.kind == "sliding":
            self._stamps_ns[block] = at.now_ns
            self._stamps_ns.move_to_end(block)

    def victim(self, at: Access) -> int:
        return next(iter(self._stamps_ns))

    def remove(self, block: int) -> None:
        del self._stamps_ns[block]

    def alive(self, block: int, at: Access) -> bool:
        return at.now_ns - self._stamps_ns[block] <= self.ttl_ns

    def expire(self, at: Access) -> Sequence[int]:
        if at.now_ns < self._latest_ns:
            self.drops_expired = False
        if not self.drops_expired:
            return ()
        self._latest_ns = at.now_ns
        dead_before_ns = at.now_ns - self.ttl_ns
        dropped = []
        for block, stamp_ns in self._stamps_ns.items():  # in order of stamps: the clock has not run backwards
            if stamp_ns >= dead_before_ns:
                break
            dropped.append(block)
        return dropped


class _Queue:
    """Blocks by key, smallest first; a changed key leaves a stale entry behind, swept out when those are the most."""

    __slots__ = ("_entries", "keys")

    def __init__(self) -> None:
        self.keys: dict[int, tuple[float, int]] = {}
        self._entries: list[tuple[tuple[float, int], int]] = []

    def put(self, block: int, key: tuple[float, int]) -> None:
        self.keys[block] = key
        if len(self._entries) > 64 + 2 * len(self.keys):
            self._entries = [(each, known) for known, each in self.keys.items()]
            heapq.heapify(self._entries)
        else:
            heapq.heappush(self._entries, (key, block))

    def first(self) -> int:
        while self.keys.get(self._entries[0][1]) != self._entries[0][0]:
            heapq.heappop(self._entries)
        return self._entries[0][1]


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Blocks that begin in tokens [``start_tokens``, ``end_tokens``) of a prompt have ``priority`` for ``duration_s`` after a use.

    ``end_tokens`` None: to the prompt's end. ``duration_s`` None: for good.

    >>> Retention(end_tokens=4096, priority=80, duration_s=300).start_tokens
    0
    """

    start_tokens: int = 0
    end_tokens: int | None = None
    priority: int = DEFAULT_PRIORITY
    duration_s: float | None = None

    def __post_init__(self) -> None:
        require_count("start_tokens", self.start_tokens, at_least=0)
        if self.end_tokens is not None:
            require_count("end_tokens", self.end_tokens, at_least=self.start_tokens + 1)
        require_count("priority", self.priority, at_least=0)
        require(self.priority <= MOST_PRIORITY, "priority", self.priority, f"must be at most {MOST_PRIORITY}")
        if self.duration_s is not None:
            require_number("duration_s", self.duration_s, at_least=0)


class Priority(EvictionPolicy):
    """The lowest priority goes first, within it the least recently used: TensorRT-LLM's prioritized LRU with retention.

    What a request asks for (``Access.priority``, ``retain_ns``) counts before the first of ``ranges`` that holds the block's first
    token; without either a block has priority 35. When its retention is over (``now >= last use + duration``) it falls back to 35.

    >>> Priority(ranges=(Retention(end_tokens=4096, priority=80),)).ranges[0].priority
    80
    """

    name = "priority"

    def __init__(self, ranges: Sequence[Retention] = ()) -> None:
        self.ranges = tuple(ranges)
        self._accesses = 0
        self._priority: dict[int, int] = {}  # of the blocks in the levels
        self._levels: dict[int, OrderedDict[int, int]] = {}  # by priority: block -> its last access, oldest first
        self._retained = _Queue()  # blocks whose retention ends, by when
        # What fell back to the default is older than what is in its level, or not: its last access decides between the two.
        self._fallen = _Queue()

    def insert(self, block: int, at: Access) -> None:
        self._accesses += 1
        priority, retain_ns = self._asked(at)
        if retain_ns is not None:
            self._retained.put(block, (at.now_ns + retain_ns, self._accesses))
        self._priority[block] = priority
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = OrderedDict()
        level[block] = self._accesses

    def touch(self, block: int, at: Access) -> None:
        self.remove(block)
        self.insert(block, at)

    def leaf_victim(self, at: Access, is_leaf: Callable[[int], bool]) -> int:
        """As ``victim``, among the blocks that ``is_leaf`` holds of; at least one is known."""
        first = self.victim(at)
        if is_leaf(first):  # nearly always: who touches a block touches those before it right after
            return first
        for priority in sorted({DEFAULT_PRIORITY, *self._levels}):
            blocks: Iterable[tuple[int, int]] = self._levels.get(priority, {}).items()
            if priority == DEFAULT_PRIORITY and self._fallen.keys:
                fallen = [(block, access) for block, (_, access) in self._fallen.keys.items()]
                blocks = sorted([*blocks, *fallen], key=itemgetter(1))
            found = next((block for block, _ in blocks if is_leaf(block)), None)
            if found is not None:
                return found
        raise AssertionError("every block has another behind it")

    def victim(self, at: Access) -> int:
        while self._retained.keys:
            block = self._retained.first()
            ends_ns, access = self._retained.keys[block]
            if ends_ns > at.now_ns:
                break
            self.remove(block)
            self._fallen.put(block, (DEFAULT_PRIORITY, access))
        lowest = min(self._levels, default=MOST_PRIORITY + 1)
        if self._fallen.keys and lowest >= DEFAULT_PRIORITY:
            fallen = self._fallen.first()
            if lowest > DEFAULT_PRIORITY or self._fallen.keys[fallen][1] < next(iter(self._levels[lowest].values())):
                return fallen
        return next(iter(self._levels[lowest]))

    def remove(self, block: int) -> None:
        self._retained.keys.pop(block, None)
        if self._fallen.keys.pop(block, None) is not None:
            return
        priority = self._priority.pop(block)
        level = self._levels[priority]
        del level[block]
        if not level:
            del self._levels[priority]

    def _asked(self, at: Access) -> tuple[int, int | None]:
        if at.priority is not None:
            return at.priority, at.retain_ns
        token = at.block_index * at.block_tokens
        for each in self.ranges:
            if each.start_tokens <= token and (each.end_tokens is None or token < each.end_tokens):
                return each.priority, None if each.duration_s is None else round(min(each.duration_s, _LONGEST_S) * 1e9)
        return DEFAULT_PRIORITY, None


class CostAware(EvictionPolicy):
    """GreedyDual on recompute seconds saved per byte kept: the block with the least credit goes; ties: least recently used.

    A use in a prompt of n tokens gives ``aged + (per_token_s + attention_s * n/2) / kv_bytes_per_token``: what recomputing the
    prompt costs, over the bytes that hold it (step formula of ``Coefficients``; its constant part is paid in any case). ``aged``
    is the credit of the last victim, so what is never used again leaves in the end (Cao and Irani 1997). Credit never falls, and
    all blocks of a prompt get the same: touched tail to head, a head outlives its tail. The bytes scale all credits alike: with
    one model they change no victim.

    >>> CostAware(per_token_s=8e-5, attention_s=2e-9, kv_bytes_per_token=131_072).attention_s
    2e-09
    """

    name = "cost_aware"

    def __init__(self, *, per_token_s: float, attention_s: float, kv_bytes_per_token: float = 1.0) -> None:
        require_number("per_token_s", per_token_s, at_least=0)
        require_number("attention_s", attention_s, at_least=0)
        require_number("kv_bytes_per_token", kv_bytes_per_token, above=0)
        self.per_token_s = per_token_s
        self.attention_s = attention_s
        self.kv_bytes_per_token = kv_bytes_per_token
        self._queue = _Queue()
        self._accesses = 0
        self._aged = 0.0

    def insert(self, block: int, at: Access) -> None:
        self._credit(block, at, 0.0)

    def touch(self, block: int, at: Access) -> None:
        self._credit(block, at, self._queue.keys[block][0])

    def victim(self, at: Access) -> int:
        block = self._queue.first()
        self._aged = self._queue.keys[block][0]
        return block

    def remove(self, block: int) -> None:
        del self._queue.keys[block]

    def _credit(self, block: int, at: Access, had: float) -> None:
        self._accesses += 1
        saved_s = self.per_token_s + self.attention_s * at.prompt_tokens / 2
        self._queue.put(block, (max(had, self._aged + saved_s / self.kv_bytes_per_token), self._accesses))
