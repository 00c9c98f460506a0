"""Slower memory below the GPU's: host and disk, with capacity, policy, a link that queues, and the choice to load or recompute.

Clock-free: every call gets its instant. The GPU's own store stays outside; it says what it computed (``store``) and what it let
go (``drop``), and asks what lies below a hit (``lookup``). Writing takes no time on the links (copies to the host run beside
computation in the engines); loading does, first come first served per tier.

Write rules and counts as in SGLang 0.5.23 (HiCache: write_through, write_through_selective at a hit count of 2, write_back).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal, NamedTuple

from ..errors import InputError, UnknownNameError, require, require_count, require_number
from .chained import Block, BlockStore, Chains
from .content import Content
from .eviction import EvictionPolicy, Fifo, Lfu, LfuPerfect, Lru, Sieve, Slru

Write = Literal["write_through", "write_through_selective", "write_back"]
WRITES: Final = ("write_through", "write_through_selective", "write_back")
"""To every tier as soon as computed; the same once a second request computes or reuses it; to the next tier when one lets it go."""

POLICIES: Final[dict[str, Callable[[], EvictionPolicy]]] = {
    policy.name: policy for policy in (Lru, Fifo, Lfu, LfuPerfect, Slru, Sieve)
}
"""Name -> eviction policy of a tier, as a scenario file says it."""

SELECTIVE_USES: Final = 2  # SGLang 0.5.23, write_policy write_through_selective


@dataclass(frozen=True, kw_only=True)
class Tier:
    """Memory below the GPU's: ``capacity_tokens`` of KV, loaded at ``load_bytes_per_s`` after ``latency_s``; one instance for
    every ``shared_by`` replicas (None: one for all), whose loads queue on one link.

    ``name`` stands in the records' columns (``hit_tokens_host``), so it is a plain word. ``policy`` names one of ``POLICIES`` or
    is an eviction policy of your own. A tier of one replica (``shared_by`` 1) is memory of that process and lost when it
    crashes; a shared one outlives it. It starts empty.

    >>> Tier(name="host", capacity_tokens=1_000_000, load_bytes_per_s=25e9).latency_s
    0.0
    """

    name: str
    capacity_tokens: int
    load_bytes_per_s: float
    latency_s: float = 0.0
    policy: str | EvictionPolicy = "lru"
    shared_by: int | None = 1

    def __post_init__(self) -> None:
        rule = "must be a word of letters, digits and underscores"
        require(isinstance(self.name, str) and self.name.isidentifier() and self.name.isascii(), "name", self.name, rule)
        if isinstance(self.policy, str) and self.policy not in POLICIES:
            raise UnknownNameError("policy", self.policy, POLICIES)
        require_count("capacity_tokens", self.capacity_tokens, at_least=0)
        require_number("load_bytes_per_s", self.load_bytes_per_s, above=0)
        require_number("latency_s", self.latency_s, at_least=0)
        if self.shared_by is not None:
            require_count("shared_by", self.shared_by)


class Run(NamedTuple):
    """Tokens [start, end) of a prompt that the tier at index ``tier`` (0: nearest to the GPU) has and no nearer one."""

    tier: int
    start: int
    end: int


class Load(NamedTuple):
    """A load under way: when the last of it is in GPU memory, and how many tokens come from each tier.

    ``used``: by the request that computed them, tokens that no user's request had hit before.
    """

    ready_at_ns: int
    tokens: tuple[int, ...]
    used: dict[int, int]


class TierInstance:
    """A tier as one group of replicas has it: its blocks, and when its link is free again."""

    def __init__(self, tier: Tier, chains: Chains) -> None:
        self.tier = tier
        policy = POLICIES[tier.policy]() if isinstance(tier.policy, str) else tier.policy
        self.store = BlockStore(chains, policy, tier.capacity_tokens // chains.block_tokens)
        self.free_at_ns = 0
        self.reachable = True

    def transfer_ns(self, size_bytes: int) -> int:
        return ceil(size_bytes * 1e9 / self.tier.load_bytes_per_s)

    def ready_at_ns(self, size_bytes: int, now_ns: int) -> int:
        return max(now_ns, self.free_at_ns) + self.transfer_ns(size_bytes) + ceil(self.tier.latency_s * 1e9)


class Tiers:
    """The tiers below ``replicas`` GPUs, nearest first, in blocks of ``block_tokens`` tokens.

    >>> host = Tier(name="host", capacity_tokens=4096, load_bytes_per_s=25e9)
    >>> Tiers([host], block_tokens=256, kv_bytes_per_token=131_072).instances(0)[0].store.capacity_blocks
    16
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        *,
        block_tokens: int,
        kv_bytes_per_token: int,
        replicas: int = 1,
        write: Write = "write_through",
    ) -> None:
        require_count("kv_bytes_per_token", kv_bytes_per_token)
        require_count("replicas", replicas)
        if write not in WRITES:
            raise UnknownNameError("write", write, WRITES)
        names = [tier.name for tier in tiers]
        require(len(set(names)) == len(names), "tiers", names, "must have different names")
        self.tiers = tuple(tiers)
        self.chains = Chains(block_tokens)
        self.kv_bytes_per_token = kv_bytes_per_token
        self.write = write
        self._of_replica: list[list[TierInstance]] = [[] for _ in range(replicas)]
        for tier in tiers:
            group = replicas if tier.shared_by is None else tier.shared_by
            made = [TierInstance(tier, self.chains) for _ in range(-(-replicas // group))]
            for replica, instances in enumerate(self._of_replica):
                instances.append(made[replica // group])

    def instances(self, replica: int) -> Sequence[TierInstance]:
        """What one replica is attached to, nearest first."""
        if not 0 <= replica < len(self._of_replica):
            raise InputError("replica", replica, f"must be from 0 to {len(self._of_replica) - 1}")
        return self._of_replica[replica]

    # -- what breaks --------------------------------------------------------------------------------------------------------

    def set_reachable(self, level: int, reachable: bool, now_ns: int) -> None:
        """Cut every instance of one tier off, or let it answer again, with what it had.

        While it is cut off it hits nothing and takes nothing in; loads on its links have ended by then.
        """
        for instances in self._of_replica:
            instances[level].reachable = reachable
            instances[level].free_at_ns = min(instances[level].free_at_ns, now_ns)

    def lose(self, replica: int) -> None:
        """A replica's process has died: gone are the tiers of its own, and the count of what its GPU had."""
        for instance in self.instances(replica):
            if instance.tier.shared_by == 1:
                instance.store.clear()
        for block in self.chains.blocks():
            if block.uses.pop(replica, None) is not None:
                self.chains.loosen(block)
        self.chains.sweep()

    # -- before a request runs ---------------------------------------------------------------------------------------------

    def lookup(self, replica: int, content: Content, namespace: Hashable, start: int, limit: int, now_ns: int) -> list[Run]:
        """What the tiers have of the prompt behind the GPU's own hit of ``start`` tokens, up to the first block that none has.

        ``limit`` is how many tokens may be hit at most (one prompt token is always computed). Changes nothing but what expired.
        """
        instances, block_tokens = self.instances(replica), self.chains.block_tokens
        for instance in instances:
            instance.store.at(now_ns, content.prompt_tokens)
        self.chains.sweep()
        runs: list[Run] = []
        for block in self.chains.walk(content, namespace, limit // block_tokens):
            end = (block.index + 1) * block_tokens
            if end <= start:
                continue
            level = next(
                (level for level, instance in enumerate(instances) if instance.reachable and instance.store.has(block)), None
            )
            if level is None:
                break
            if runs and runs[-1].tier == level:
                runs[-1] = Run(level, runs[-1].start, end)
            else:
                runs.append(Run(level, runs[-1].end if runs else start, end))
        return runs

    def choose(self, replica: int, runs: Sequence[Run], now_ns: int, compute_s: Callable[[int], float]) -> int:
        """How many of the leading runs to load: those with which prompt loading plus computing ends first (ties: the fewest).

        ``compute_s(cached)`` estimates the seconds it takes to compute the rest of the prompt when ``cached`` tokens are there.
        Loading costs a constant per token and recomputing more, the later the token: the best end is always the end of a run.
        """
        if not runs:
            return 0
        best, best_s = 0, compute_s(runs[0].start)
        for count in range(1, len(runs) + 1):
            ready_at_ns = self._ready(replica, runs[:count], now_ns).ready_at_ns
            total_s = (ready_at_ns - now_ns) / 1e9 + compute_s(runs[count - 1].end)
            if total_s < best_s:
                best, best_s = count, total_s
        return best

    def load(
        self, replica: int, content: Content, namespace: Hashable, runs: Sequence[Run], now_ns: int, *, user: bool = False
    ) -> Load:
        """Queue the loads of ``runs`` (from ``lookup``, at this instant); loads from different tiers run beside each other.

        Loaded blocks are touched where they lie, and lie from now on in every tier between there and the GPU. ``user``: the
        first load of a block for a user's request credits who computed it.
        """
        load = self._ready(replica, runs, now_ns)
        for instance, tokens in zip(self.instances(replica), load.tokens, strict=True):
            if tokens:
                instance.free_at_ns = max(now_ns, instance.free_at_ns) + instance.transfer_ns(tokens * self.kv_bytes_per_token)
        if runs:
            block_tokens = self.chains.block_tokens
            path = self.chains.grow(content, namespace, runs[-1].end // block_tokens)
            for block in path[runs[0].start // block_tokens :] if user else ():
                if not block.used:
                    block.used = True
                    load.used[block.origin] = load.used.get(block.origin, 0) + block_tokens
            for run in reversed(runs):
                self._put(replica, run.tier + 1, path[run.start // block_tokens : run.end // block_tokens], content, now_ns)
            self.chains.sweep()
        return load

    # -- what the GPU's store says ------------------------------------------------------------------------------------------

    def store(
        self,
        replica: int,
        content: Content,
        namespace: Hashable,
        tokens: int,
        now_ns: int,
        *,
        told_tokens: int = 0,
        hit_tokens: int = 0,
        origin: int = -1,
    ) -> None:
        """The first ``tokens`` tokens of the request ``origin`` are in GPU memory, ``hit_tokens`` of them not computed by it.

        ``told_tokens``: of those, the ones that an earlier call told of for the same request; a request counts once per block.
        """
        if self.write == "write_back":
            return
        path = self.chains.grow(content, namespace, tokens // self.chains.block_tokens)
        path = path[told_tokens // self.chains.block_tokens :]
        if self.write == "write_through_selective":
            for block in path:
                block.uses[replica] = block.uses.get(replica, 0) + 1
            path = [block for block in path if block.uses[replica] >= SELECTIVE_USES]
        for block in path:
            if not block.holders and block.index * self.chains.block_tokens >= hit_tokens:
                block.origin, block.used = origin, False
        self._put(replica, len(self.tiers), path, content, now_ns)
        self.chains.sweep()

    def drop(
        self,
        replica: int,
        content: Content,
        namespace: Hashable,
        start: int,
        end: int,
        now_ns: int,
        *,
        origin: int = -1,
        used: bool = False,
    ) -> None:
        """The GPU lets tokens [start, end) go and still has those before: written back where that is the rule.

        A block goes with its last token; one whose end the GPU never had is not written. ``origin`` had computed them;
        ``used``: a user's request had hit them.
        """
        first, last = start // self.chains.block_tokens, end // self.chains.block_tokens
        if self.write == "write_through" and not used:
            return  # nothing to write, count or mark
        if self.write == "write_back":
            path = self.chains.grow(content, namespace, last)[first:]
            for block in reversed(path):  # as it is when its turn comes: its own tail may have pushed it out
                if not block.holders:
                    block.origin, block.used = origin, used
                self._put(replica, 1, (block,), content, now_ns)
        else:
            path = list(self.chains.walk(content, namespace, last))[first:]
        for block in path:
            block.used = block.used or used
            if block.uses.pop(replica, None) is not None:
                self.chains.loosen(block)
        self.chains.sweep()

    def check(self) -> None:
        """Assert every invariant; for tests."""
        stores = {id(instance): instance.store for instances in self._of_replica for instance in instances}
        for store in stores.values():
            store.check()
        for block in self.chains.blocks():
            assert block.holders == sum(block.id in store.resident for store in stores.values())

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _ready(self, replica: int, runs: Sequence[Run], now_ns: int) -> Load:
        instances = self.instances(replica)
        tokens = [0] * len(instances)
        for run in runs:
            tokens[run.tier] += run.end - run.start
        ready_at_ns = [
            instance.ready_at_ns(count * self.kv_bytes_per_token, now_ns)
            for instance, count in zip(instances, tokens, strict=True)
            if count
        ]
        return Load(max(ready_at_ns, default=now_ns), tuple(tokens), {})

    def _put(self, replica: int, levels: int, blocks: Sequence[Block], content: Content, now_ns: int) -> None:
        """Into the nearest ``levels`` tiers, tail to head, so that a head leaves after its tail."""
        instances = self.instances(replica)
        for instance in instances:
            instance.store.at(now_ns, content.prompt_tokens)
        for block in reversed(blocks):
            for level in range(min(levels, len(instances))):
                self._put_one(instances, level, block)

    def _put_one(self, instances: Sequence[TierInstance], level: int, block: Block) -> None:
        if not instances[level].reachable:
            return
        gone = instances[level].store.put(block)
        if self.write == "write_back" and level + 1 < len(instances):
            for victim in gone:
                self._put_one(instances, level + 1, victim)
