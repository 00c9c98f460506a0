"""vLLM's scheduler with memory below the GPU's: what lies in host memory or on disk is loaded when that is sooner than computing.

As vLLM's asynchronous KV transfer (vllm/v1/core/sched/scheduler.py, WAITING_FOR_REMOTE_KVS): a request that would be admitted
and loads something holds its GPU blocks and waits beside the batch, without a seat and without a share of the step's budget,
while the engine goes on with others; those behind it in the queue are not blocked. At the first step boundary after its bytes
have come, its blocks are hit-able, and it takes the next seat before everybody who waits. A cancelled one keeps its blocks
until the transfer has ended, and they come back without content. One thing is different: it holds room for its whole prompt,
not only for what it loads, so that what has been loaded can always go on.

Tiers hear of blocks when a prompt is done and when a request leaves, with decoded blocks; and of evictions at the replica's
next of these events, or its next look into the tiers. That is the same instant whether steps are jumped over or not.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ..cache.block_pool import BlockPool, Holding, LetGo, Match
from ..cache.tiers import Tiers
from . import GONE, LOADING, PREFILL, LiveRequest, Plan
from .vllm import VllmScheduler

ComputeS = Callable[[int, int], float]
"""Estimated seconds to compute (new tokens, after so many that are there)."""


class Load:
    """What one admission of a request had to do with the tiers: ``tokens`` from each, on their way between two instants of the
    caller's unit (both the admission's own where nothing is loaded).

    ``cut_off``: a tier that it asked could not be reached. ``failed``: one that it was loading from was cut off meanwhile.
    """

    __slots__ = ("cut_off", "failed", "hit_tokens", "ready_at", "reserved_blocks", "started_at", "tokens", "told_tokens")

    def __init__(self, now: int, tiers: int, hit_tokens: int) -> None:
        self.hit_tokens = hit_tokens  # not computed: found in the GPU, or come from below
        self.started_at = now
        self.ready_at = now
        self.tokens: tuple[int, ...] = (0,) * tiers
        self.reserved_blocks = 0  # taken for the rest of the prompt
        self.told_tokens = 0  # the tiers know of so many
        self.cut_off = False
        self.failed = False

    def fail(self, now: int) -> None:
        """Nothing comes any more: all of it is computed instead."""
        self.failed = True
        self.tokens = (0,) * len(self.tokens)
        self.ready_at = now


class LowerMemory:
    """The tiers as one replica sees them, at its instants: ``ticks_per_ns`` of them a nanosecond.

    ``block_tokens`` is the GPU's block, of which the tiers' is a multiple. ``let_go`` collects what the GPU evicts.
    ``compute_s`` decides, with the tiers' links, whether loading is worth it.

    >>> from simcache.cache.tiers import Tier
    >>> tiers = Tiers([Tier(name="host", capacity_tokens=64, load_bytes_per_s=1e9)], block_tokens=16, kv_bytes_per_token=1)
    >>> LowerMemory(tiers, 0, lambda new, cached: new / 1e4, block_tokens=16).names
    ('host',)
    """

    def __init__(self, tiers: Tiers, replica: int, compute_s: ComputeS, *, block_tokens: int, ticks_per_ns: int = 1) -> None:
        self.names = tuple(tier.name for tier in tiers.tiers)
        self.let_go: list[LetGo] = []
        self._tiers = tiers
        self._replica = replica
        self._compute_s = compute_s
        self._block_tokens = block_tokens
        self._ticks_per_ns = ticks_per_ns

    def find(self, live: LiveRequest, now: int) -> Mapping[int, int] | None:
        """Start loading what lies behind the GPU's own hit, if that ends sooner than computing it; ``live.load`` says what.

        Of that, by the request that computed them, tokens that no user's request had hit before; None: nothing is loaded.
        """
        now_ns = self._flush(now)
        tiers, replica, target, load = self._tiers, self._replica, live.target, live.load
        load.cut_off = not all(instance.reachable for instance in tiers.instances(replica))
        runs = tiers.lookup(replica, live.content, live.root.key, load.hit_tokens, target - 1, now_ns)
        count = tiers.choose(replica, runs, now_ns, lambda cached: self._compute_s(target - cached, cached))
        if not count:
            return None
        ready_at_ns, load.tokens, used = tiers.load(replica, live.content, live.root.key, runs[:count], now_ns, user=live.user)
        load.ready_at = ready_at_ns * self._ticks_per_ns
        return used

    def store(self, live: LiveRequest, tokens: int, now: int) -> None:
        """The first ``tokens`` tokens of ``live`` are in GPU memory."""
        told_tokens = live.load.told_tokens
        if tokens > told_tokens:
            now_ns = self._flush(now)
            self._tiers.store(
                self._replica,
                live.content,
                live.root.key,
                tokens,
                now_ns,
                told_tokens=told_tokens,
                hit_tokens=live.load.hit_tokens,
                origin=live.row,
            )
            live.load.told_tokens = tokens

    def lose(self, now: int) -> None:
        """The replica has crashed: what it let go before is below, what it had is gone."""
        self._flush(now)
        self._tiers.lose(self._replica)

    def _flush(self, now: int) -> int:
        now_ns = -(-now // self._ticks_per_ns)
        for namespace, content, start, end, origin, used in self.let_go:
            span = start * self._block_tokens, end * self._block_tokens
            self._tiers.drop(self._replica, content, namespace, *span, now_ns, origin=origin, used=used)
        self.let_go.clear()
        return now_ns


class TieredVllmScheduler(VllmScheduler):
    """As ``VllmScheduler``, over ``below``.

    >>> from simcache.cache.tiers import Tier
    >>> from simcache.prompt import Request, Segment
    >>> tiers = Tiers([Tier(name="host", capacity_tokens=640, load_bytes_per_s=1e9)], block_tokens=16, kv_bytes_per_token=1)
    >>> below = LowerMemory(tiers, 0, lambda new, cached: new / 1e4, block_tokens=16)
    >>> live = LiveRequest(Request(0.0, (Segment("doc", 100),), Segment("a", 3)), 0)
    >>> tiers.store(0, live.content, None, 96, 0)
    >>> scheduler = TieredVllmScheduler(BlockPool(100, 16), below=below)
    >>> scheduler.add(live), scheduler.schedule().new_tokens, live.load.tokens, live.load.ready_at
    (True, 0, (96,), 96)
    """

    tiered: ClassVar[bool] = True
    loading: list[LiveRequest]
    landed: list[LiveRequest]

    def __init__(self, pool: BlockPool, *, below: LowerMemory, **options: Any) -> None:
        pool.let_go = below.let_go
        super().__init__(pool, **options)
        self.below = below
        self.timed = True
        self.loading = []
        self.landed = []

    def abort(self, live: LiveRequest) -> bool:
        """Give a request up between two plans; what was computed stays hit-able. True: it can let others in."""
        if live.state != LOADING:
            return super().abort(live)
        live.state = GONE  # while its blocks are being written nobody else can have them
        if live not in self.landed:
            return False
        self.landed.remove(live)
        self._give_back(live)
        return True

    def schedule(self) -> Plan:
        """Decide the next step; who has waited for blocks that are there now can be in it."""
        if self.loading:
            self._land()
        plan = super().schedule()
        if not plan.decodes and not plan.chunks and not plan.preempted:
            self._plan = None  # nothing is under way that an arrival could change
        return plan

    def advance(self, steps: int) -> tuple[list[LiveRequest], list[LiveRequest]]:
        """Execute ``steps`` of the plan. Returns who got a first token and who finished at its end, in running order."""
        assert self._plan is not None
        chunks = self._plan.chunks
        reached = super().advance(steps)
        for live in chunks:
            if live.state not in (PREFILL, GONE):
                self._store(live, live.computed)
        return reached

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _load(self, live: LiveRequest, match: Match) -> bool:
        pool, block_tokens, now = self.pool, self.block_tokens, self.pool.now
        hit_tokens = match.blocks * block_tokens
        live.load = load = Load(now, len(self.below.names), hit_tokens)
        used = self.below.find(live, now)
        if used is None:
            return False
        for origin, tokens in used.items():
            if origin not in (-1, live.row):
                pool.credit(origin, tokens, live.row)
        live.holding = holding = Holding(live.content, live.root, live.row)
        pool.hold(holding, match, user=live.user)
        blocks = -(-live.target // block_tokens)
        pool.take(blocks - match.blocks)
        holding.blocks = (hit_tokens + sum(load.tokens)) // block_tokens
        load.reserved_blocks = blocks - holding.blocks
        live.state = LOADING
        self.loading.append(live)
        assert self._plan is not None
        self._plan.loads = [*self._plan.loads, live]
        return True

    def _land(self) -> None:
        """Who waited for blocks that are there by now waits for a seat, or has been cancelled and gives them back."""
        pool = self.pool
        there = [live for live in self.loading if live.load.ready_at <= pool.now]
        if not there:
            return
        self.loading = [live for live in self.loading if live.load.ready_at > pool.now]
        self._hash_now()  # of two copies the first that gets its key is found
        for live in there:
            if live.state == GONE:
                self._give_back(live)
                continue
            holding, load = live.holding, live.load
            if load.failed:
                load.reserved_blocks += holding.blocks - holding.at
                holding.blocks = holding.at
            else:
                pool.insert(holding, holding.blocks)
            live.computed = load.hit_tokens = holding.blocks * self.block_tokens
            if self.priority:
                insort(self.landed, live)
            else:
                self.landed.append(live)

    def _admit(self, plan: Plan, budget: int, capped: bool) -> int:
        while self.landed and budget > 0 and len(self.running) < self.max_num_seqs:
            live = self.landed.pop(0)
            self.pool.give_back(live.load.reserved_blocks)
            self._seat(plan, live, None)
            count = min(live.target - live.computed, budget)
            if capped and count > self.threshold:
                count = self.threshold
            self._chunk(plan, live, count)
            budget -= count
        return super()._admit(plan, budget, capped)

    def _leave(self, live: LiveRequest, computed: int, blocks: int | None = None) -> None:
        there = min(computed, live.computed) if live.state == PREFILL else computed  # less what a step in vain had scheduled
        super()._leave(live, computed, blocks)
        self._store(live, there)

    def _store(self, live: LiveRequest, tokens: int) -> None:
        self.settle()  # what has been evicted by now goes down first
        self.below.store(live, tokens, self.pool.now)

    def _give_back(self, live: LiveRequest) -> None:
        self.pool.give_back(live.load.reserved_blocks)
        self.pool.release(live.holding)
        live.holding = None
