"""A run without a clock: what would have hit, per policy and capacity, had every request been served the instant it came.

One global store, file order, every request fully taken in before the next lookup. A trace is loaded once for a whole table of
policies x capacities; the plain loops run at once, the compiled ones (numba, where installed) once the work is worth their start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..cache import kernels
from ..cache.bounds import Infinite, Min, next_uses
from ..cache.curve import HitCurve, lru_curve, ttl_curve
from ..cache.eviction import EvictionPolicy, Fifo, Lfu, LfuPerfect, Lru
from ..cache.plain import TOUCHES, FlatRecency, PlainStore, Touch
from ..cache.retention import Ttl
from ..errors import InputError, UnknownNameError, require
from ..workload.block_traces import BlockTrace

Ints = NDArray[np.int64]

COMPILED_FROM_S: Final = 1.0
"""Seconds of plain loops from which the compiled ones pay for numba's import (0.4 s) and their first compilation (1 s)."""

_PLAIN_S_PER_TOUCH: Final[dict[type[EvictionPolicy], float]] = {
    Lru: 1.2e-7,
    Fifo: 1.2e-7,
    Infinite: 1.2e-7,
    Ttl: 5e-7,
    Lfu: 8e-7,
    LfuPerfect: 1e-6,
    Min: 8e-7,
}
"""Roughly, by tests/benchmarks/bench_replay.py; policies that have a compiled loop."""
_CURVE_S_PER_TOUCH: Final = 2e-7


@dataclass(frozen=True, kw_only=True)
class ReplayRow:
    """One policy at one capacity over one trace. ``hit_tokens`` of a request is min(hit blocks * block tokens, its input).

    ``capacity_blocks`` None: no bound. ``hits`` and ``evicted`` are per request, in order; None where the trace was streamed. Hits
    are tokens, -1 for a rejected request, which counts with its blocks and tokens and without hits. ``evicted`` is in
    ``evicted_unit`` (blocks, or tokens where the store evicts those), in all ``evicted_total``. ``bypassed_blocks`` were not let
    in. A ratio is None where there is nothing to divide by.
    """

    policy: str
    store: str
    touch: Touch
    block_tokens: int
    capacity_blocks: int | None
    ttl_s: float | None
    ttl_kind: str | None
    requests: int
    rejected: int
    total_blocks: int
    hit_blocks: int
    total_tokens: int
    hit_tokens: int
    evicted_total: int
    evicted_unit: str
    bypassed_blocks: int
    hits: Ints | None
    evicted: Ints | None

    @property
    def block_hit_ratio(self) -> float | None:
        """Hit blocks over all blocks."""
        return self.hit_blocks / self.total_blocks if self.total_blocks else None

    @property
    def token_hit_ratio(self) -> float | None:
        """Hit tokens over all input tokens."""
        return self.hit_tokens / self.total_tokens if self.total_tokens else None


def replay(
    trace: BlockTrace,
    policies: Iterable[EvictionPolicy],
    capacities_blocks: Sequence[int | None] = (None,),
    *,
    touch: Touch = "rev",
    compiled: bool | None = None,
) -> list[ReplayRow]:
    """Every policy at every capacity over the plain store, policy by policy (``Infinite`` without one, ``Ttl`` also without one).

    ``compiled``: True and False force the compiled and the plain loops; None: compiled where numba is installed and the work is
    large. Both give equal rows. Raises InputError for a capacity below 0 or an unknown touch.

    >>> trace = BlockTrace.of(16, [[1, 2], [1, 2, 3], [1]], [32, 48, 16], [1, 1, 1], [0.0, 1.0, 2.0])
    >>> [(row.policy, row.hit_tokens) for row in replay(trace, [Lru(), Infinite()], [1])]
    [('lru', 32), ('infinite', 48)]
    """
    table = [(policy, capacity) for policy in policies for capacity in _capacities(policy, capacities_blocks)]
    columns = _Columns(trace)
    if compiled is None:
        plain_s = len(trace.ids) * sum(_PLAIN_S_PER_TOUCH.get(type(policy), 0.0) for policy, _ in table)
        compiled = plain_s >= COMPILED_FROM_S and kernels.available()
    rows = []
    for policy, capacity in table:
        run = _Run(policy, capacity, touch, trace.block_tokens, drops_expired=columns.clock_rises)
        if not (compiled and run.serve_compiled(columns)):
            run.serve(columns)
        rows.append(run.row(per_request=True))
    return rows


def replay_stream(
    batches: Iterable[BlockTrace],
    policies: Iterable[EvictionPolicy],
    capacities_blocks: Sequence[int | None] = (None,),
    *,
    touch: Touch = "rev",
) -> list[ReplayRow]:
    """The same table from a trace that comes in parts: memory holds one part and the resident blocks of every row.

    ``LfuPerfect`` remembers every block it ever saw. Raises InputError for ``Min``, which must know the whole stream, and where
    there is no part at all.

    >>> part = BlockTrace.of(16, [[1, 2]], [32], [1], [0.0])
    >>> replay_stream([part, part], [Lru()], [8])[0].hit_blocks
    2
    """
    table = [(policy, capacity) for policy in policies for capacity in _capacities(policy, capacities_blocks)]
    for policy, _ in table:
        way_out = "Replay the whole trace at once."
        require(not isinstance(policy, Min), "policy", policy.name, "must know the future, a stream's is not known", way_out)
    runs: list[_Run] = []
    for batch in batches:
        if not runs:
            runs = [_Run(policy, capacity, touch, batch.block_tokens, drops_expired=True) for policy, capacity in table]
        columns = _Columns(batch)
        for run in runs:
            run.serve(columns)
    if table and not runs:
        raise InputError("batches", 0, "must hold at least one part of a trace")
    return [run.row(per_request=False) for run in runs]


def capacity_curve(trace: BlockTrace, *, touch: Touch = "rev", compiled: bool | None = None) -> HitCurve:
    """LRU over the plain store at every capacity, in one pass; equal to ``replay`` at each.

    >>> trace = BlockTrace.of(16, [[1, 2], [1, 2, 3], [1]], [32, 48, 16], [1, 1, 1], [0.0, 1.0, 2.0])
    >>> capacity_curve(trace).at(1)
    (2, 32)
    """
    _check_touch(touch)
    columns = _Columns(trace)
    if compiled is None:
        compiled = len(trace.ids) * _CURVE_S_PER_TOUCH >= COMPILED_FROM_S and kernels.available()
    return lru_curve(
        columns.dense, trace.starts, trace.input_tokens, block_tokens=trace.block_tokens, touch=touch, compiled=compiled
    )


def lifetime_curve(trace: BlockTrace, *, touch: Touch = "rev") -> HitCurve:
    """A sliding TTL without a capacity at every lifetime, in one pass; equal to ``replay`` with ``Ttl`` at each.

    >>> trace = BlockTrace.of(16, [[1], [1]], [16, 16], [1, 1], [0.0, 5.0])
    >>> lifetime_curve(trace).at(5 * 10**9)
    (1, 16)
    """
    _check_touch(touch)
    columns = _Columns(trace)
    return ttl_curve(columns.dense, trace.starts, trace.input_tokens, columns.now_ns, block_tokens=trace.block_tokens, touch=touch)


def _check_touch(touch: str) -> None:
    if touch not in TOUCHES:
        raise UnknownNameError("touch", touch, TOUCHES)


def _capacities(policy: EvictionPolicy, capacities_blocks: Sequence[int | None]) -> Sequence[int | None]:
    if isinstance(policy, Infinite):
        return (None,)
    return (None, *(each for each in capacities_blocks if each is not None)) if isinstance(policy, Ttl) else capacities_blocks


class _Columns:
    """A trace, and what is derived from it once for all rows."""

    def __init__(self, trace: BlockTrace) -> None:
        self.trace = trace

    @cached_property
    def ids(self) -> list[int]:
        ids: list[int] = self.trace.ids.tolist()
        return ids

    @cached_property
    def starts(self) -> list[int]:
        starts: list[int] = self.trace.starts.tolist()
        return starts

    @cached_property
    def dense(self) -> Ints:
        """Ids below ``n_blocks``, as the flat loops want them."""
        ids = self.trace.ids
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= 4 * len(ids)):
            return np.unique(ids, return_inverse=True)[1].astype(np.int64, copy=False)
        return ids

    @cached_property
    def n_blocks(self) -> int:
        return int(self.dense.max(initial=-1)) + 1

    @cached_property
    def now_ns(self) -> Ints:
        return np.rint(self.trace.arrived_at_s * 1e9).astype(np.int64)

    @cached_property
    def clock_rises(self) -> bool:
        return bool(np.all(np.diff(self.now_ns) >= 0))

    @cached_property
    def following(self) -> Ints:
        return next_uses(self.dense)


class _Run:
    """One row in the making."""

    def __init__(
        self, policy: EvictionPolicy, capacity_blocks: int | None, touch: Touch, block_tokens: int, *, drops_expired: bool
    ) -> None:
        self.policy = policy
        self.capacity_blocks = capacity_blocks
        self.touch: Touch = touch
        # Made in any case: it checks what was given.
        self.store = PlainStore(policy, capacity_blocks, block_tokens=block_tokens, touch=touch)
        if isinstance(self.store.policy, Ttl):
            self.store.policy.drops_expired = drops_expired
        # Exactly these types: a subclass may decide otherwise.
        self.flat = FlatRecency(capacity_blocks, moves=type(policy) is not Fifo) if type(policy) in (Lru, Fifo, Infinite) else None
        self.block_tokens = block_tokens
        self.requests = self.total_blocks = self.hit_blocks = self.total_tokens = self.hit_tokens = 0
        self.evicted_blocks = self.bypassed_blocks = 0
        self.hits: Ints | None = None
        self.evicted: Ints | None = None

    def serve(self, columns: _Columns) -> None:
        """Take in a part of the trace by the plain loops."""
        trace = columns.trace
        if self.flat is not None:
            hits, evicted = self.flat.serve_all(columns.ids, columns.starts, self.touch)
            bypassed = len(trace.ids) if self.capacity_blocks == 0 else 0
        else:
            hits, evicted, bypassed = self._serve_each(columns)
        self._count(trace, np.array(hits, dtype=np.int64), np.array(evicted, dtype=np.int64), bypassed)

    def _serve_each(self, columns: _Columns) -> tuple[list[int], list[int], int]:
        store, ids, trace = self.store, columns.ids, columns.trace
        following = columns.following.tolist() if isinstance(self.policy, Min) else None
        hits: list[int] = []
        evicted: list[int] = []
        bypassed_before = store.bypassed
        parts = zip(columns.starts, columns.starts[1:], columns.now_ns.tolist(), trace.input_tokens.tolist(), strict=False)
        for start, end, now_ns, tokens in parts:
            before = store.evicted
            uses = None if following is None else following[start:end]
            hits.append(store.serve(ids[start:end], now_ns=now_ns, prompt_tokens=tokens, next_uses=uses))
            evicted.append(store.evicted - before)
        return hits, evicted, store.bypassed - bypassed_before

    def serve_compiled(self, columns: _Columns) -> bool:
        """Take in the whole trace by a compiled loop; False where there is none for this policy."""
        trace, policy, kind = columns.trace, self.policy, type(self.policy)
        blocks = (columns.dense, trace.starts, columns.n_blocks)
        capacity = len(trace.ids) if self.capacity_blocks is None else min(self.capacity_blocks, len(trace.ids))
        touch = TOUCHES.index(self.touch)
        bypassed = len(trace.ids) if self.capacity_blocks == 0 else 0
        if kind in (Lru, Fifo, Infinite):
            hits, evicted = kernels.compiled(kernels.recency)(*blocks, capacity, kind is not Fifo, touch)
        elif kind in (Lfu, LfuPerfect):
            hits, evicted = kernels.compiled(kernels.frequency)(*blocks, capacity, kind is LfuPerfect, touch)
        elif isinstance(policy, Ttl) and kind is Ttl:
            timed = (columns.now_ns, policy.ttl_ns, policy.kind == "sliding", columns.clock_rises)
            hits, evicted = kernels.compiled(kernels.lifetime)(*blocks, capacity, *timed, touch)
        elif isinstance(policy, Min) and kind is Min:
            loop = kernels.compiled(kernels.offline)
            hits, evicted, bypassed = loop(*blocks, capacity, columns.following, policy.prefix)
        else:
            return False
        self._count(trace, hits, evicted, bypassed)
        return True

    def _count(self, trace: BlockTrace, hits: Ints, evicted: Ints, bypassed: int) -> None:
        hit_tokens = np.minimum(hits * self.block_tokens, trace.input_tokens)
        self.requests += len(trace)
        self.total_blocks += len(trace.ids)
        self.hit_blocks += int(hits.sum())
        self.total_tokens += int(trace.input_tokens.sum())
        self.hit_tokens += int(hit_tokens.sum())
        self.evicted_blocks += int(evicted.sum())
        self.bypassed_blocks += bypassed
        self.hits, self.evicted = hit_tokens, evicted

    def row(self, *, per_request: bool) -> ReplayRow:
        ttl = self.policy if isinstance(self.policy, Ttl) else None
        return ReplayRow(
            policy=self.policy.name or type(self.policy).__name__,
            store="plain",
            touch=self.touch,
            block_tokens=self.block_tokens,
            capacity_blocks=self.capacity_blocks,
            ttl_s=None if ttl is None else ttl.ttl_s,
            ttl_kind=None if ttl is None else ttl.kind,
            requests=self.requests,
            rejected=0,
            total_blocks=self.total_blocks,
            hit_blocks=self.hit_blocks,
            total_tokens=self.total_tokens,
            hit_tokens=self.hit_tokens,
            evicted_total=self.evicted_blocks,
            evicted_unit="blocks",
            bypassed_blocks=self.bypassed_blocks,
            hits=self.hits if per_request else None,
            evicted=self.evicted if per_request else None,
        )
