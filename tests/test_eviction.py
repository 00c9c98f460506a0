"""Eviction policies: one contract for all, a slow and obvious twin for each, and the bounds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from simcache.cache import bounds, eviction, retention
from simcache.cache.bounds import Infinite, Min, next_uses
from simcache.cache.eviction import Access, EvictionPolicy, Fifo, Filo, Lfu, LfuPerfect, Lru, Mru, RandomEviction, Sieve, Slru
from simcache.cache.plain import TOUCHES, PlainStore
from simcache.cache.retention import CostAware, Priority, Retention, Ttl
from simcache.errors import InputError, UnknownNameError

ROOT = Path(__file__).resolve().parent.parent

POLICIES: tuple[EvictionPolicy, ...] = (
    Lru(),
    Mru(),
    Fifo(),
    Filo(),
    Lfu(),
    LfuPerfect(),
    Slru(),
    Slru(protected_share=0.0),
    Sieve(),
    RandomEviction(seed=3),
    Priority(),
    Priority(ranges=[Retention(end_tokens=32, priority=80, duration_s=5), Retention(start_tokens=64, priority=10)]),
    Ttl(4),
    Ttl(4, "fixed"),
    CostAware(per_token_s=1e-4, attention_s=1e-8),
    Min(),
    Min(prefix=True),
    Infinite(),
)
"""A new policy joins the contract by being listed."""

ONLINE = [policy for policy in POLICIES if not isinstance(policy, Min)]

Stream = list[tuple[int, list[int]]]  # (nanosecond, ids)


def streams(most_ids: int = 12, requests: int = 40) -> st.SearchStrategy[Stream]:
    """Requests over few ids, so that they meet; a third of them chained, as prompts are; instants that rise."""
    chained = st.builds(lambda root, depth: [root * 10 + i for i in range(depth)], st.integers(0, 3), st.integers(0, 6))
    loose = st.lists(st.integers(0, most_ids), max_size=8)
    gap = st.integers(0, 3)
    return st.lists(st.tuples(gap, st.one_of(chained, loose)), max_size=requests).map(
        lambda parts: [(int(now), ids) for now, (_, ids) in zip(np.cumsum([g for g, _ in parts]) * 10**9, parts, strict=True)]
    )


def served(policy: EvictionPolicy, capacity: int | None, stream: Stream, touch: str = "rev") -> tuple[list[int], PlainStore]:
    """Hits per request, each counted by the rule and not by the store."""
    store = PlainStore(policy, capacity, block_tokens=16, touch=touch)
    flat = np.array([block for _, ids in stream for block in ids], dtype=np.int64)
    uses = next_uses(flat).tolist()
    hits, at = [], 0
    for now_ns, ids in stream:
        hits.append(store.serve(ids, now_ns=now_ns, prompt_tokens=16 * len(ids), next_uses=uses[at : at + len(ids)]))
        at += len(ids)
        store.check()
    return hits, store


def test_every_policy_of_the_package_is_under_contract() -> None:
    def below(base: type) -> Iterator[type]:
        for each in base.__subclasses__():
            yield each
            yield from below(each)

    ours = {each for each in below(EvictionPolicy) if each.__module__.startswith("simcache.")}
    assert ours == {type(policy) for policy in POLICIES}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@given(stream=streams(), capacity=st.one_of(st.integers(0, 9), st.none()), touch=st.sampled_from(TOUCHES))
@settings(max_examples=40, deadline=None)
def test_contract(policy: EvictionPolicy, stream: Stream, capacity: int | None, touch: str) -> None:
    hits, store = served(policy, capacity, stream, touch)
    again, _ = served(policy, capacity, stream, touch)
    assert hits == again, "a run must leave nothing behind in the policy it was given"
    if capacity == 0 and not isinstance(policy, Infinite):
        assert sum(hits) == store.inserted == 0
    seen: set[int] = set()
    for (_, ids), hit in zip(stream, hits, strict=True):
        assert 0 <= hit <= len(ids)
        if touch != "any" and not isinstance(policy, Min):
            assert set(ids[:hit]) <= seen, "a hit is a prefix of blocks that came before"
        seen.update(ids)
    if not isinstance(policy, Ttl):
        roomy, store = served(policy, len(seen), stream, touch)
        assert store.evicted == store.bypassed == store.expired == 0
        if not isinstance(policy, Min):
            assert roomy == served(Infinite(), None, stream, touch)[0]


class StoreMachine(RuleBasedStateMachine):
    """Any policy in the store, told apart from the outside: who is in, who left, who was hit."""

    def __init__(self) -> None:
        super().__init__()
        self.store: PlainStore | None = None
        self.now_ns = 0

    @precondition(lambda self: self.store is None)
    @rule(
        policy=st.sampled_from(ONLINE),
        capacity=st.integers(0, 6),
        touch=st.sampled_from(TOUCHES),
    )
    def build(self, policy: EvictionPolicy, capacity: int, touch: str) -> None:
        self.store = PlainStore(policy, capacity, block_tokens=16, touch=touch)
        self.spy = Spy(self.store.policy)
        self.store.policy = self.spy
        self.touch = touch

    @precondition(lambda self: self.store is not None)
    @rule(
        ids=st.lists(st.integers(0, 9), max_size=7),
        wait_s=st.integers(-1, 3),
        priority=st.one_of(st.none(), st.integers(0, 100)),
        retain_s=st.one_of(st.none(), st.integers(0, 6)),
    )
    def serve(self, ids: list[int], wait_s: int, priority: int | None, retain_s: int | None) -> None:
        assert self.store is not None
        self.now_ns = max(0, self.now_ns + wait_s * 10**9)
        before = set(self.store.resident)
        retain_ns = None if retain_s is None else retain_s * 10**9
        hits = self.store.serve(ids, now_ns=self.now_ns, prompt_tokens=16 * len(ids), priority=priority, retain_ns=retain_ns)
        if self.touch != "any":
            assert set(ids[:hits]) <= before
            if hits < len(ids) and not isinstance(self.spy.inner, Ttl):
                assert ids[hits] not in before, "the walk stops at the first absent block only"
        if ids and self.store.capacity_blocks != 0:
            assert ids[0 if self.touch == "rev" else -1] in self.store.resident, "the block served last is in"

    @invariant()
    def rules_hold(self) -> None:
        if self.store is not None:
            self.store.check()
            assert self.spy.known == self.store.resident, "the policy knows exactly the blocks that may leave"


class Spy(EvictionPolicy):
    """Passes everything on, and raises where the store breaks the protocol."""

    def __init__(self, inner: EvictionPolicy) -> None:
        self.inner = inner
        self.known: set[int] = set()

    def insert(self, block: int, at: Access) -> None:
        assert block not in self.known
        self.known.add(block)
        self.inner.insert(block, at)

    def touch(self, block: int, at: Access) -> None:
        assert block in self.known
        assert self.inner.alive(block, at)
        self.inner.touch(block, at)

    def victim(self, at: Access) -> int:
        assert self.known
        block = self.inner.victim(at)
        assert block in self.known
        assert self.inner.victim(at) == block or isinstance(self.inner, RandomEviction), "asked again, the same"
        return block

    def remove(self, block: int) -> None:
        self.known.remove(block)
        self.inner.remove(block)

    def admits(self, block: int, at: Access) -> bool:
        assert block not in self.known
        return self.inner.admits(block, at)

    def alive(self, block: int, at: Access) -> bool:
        assert block in self.known
        return self.inner.alive(block, at)

    def expire(self, at: Access) -> Sequence[int]:
        dropped = self.inner.expire(at)
        assert set(dropped) <= self.known
        return dropped


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)


# Slow and obvious twins: every block with its own figures, the victim by one sort key.


class Twin(EvictionPolicy):
    """Keeps when each block came in, was last used, and how often."""

    def __init__(self) -> None:
        self.blocks: dict[int, dict[str, float]] = {}
        self.clock = 0

    def insert(self, block: int, at: Access) -> None:
        self.blocks[block] = {"came": self.clock, "uses": 0, **self.first(block, at)}
        self.touch(block, at)

    def touch(self, block: int, at: Access) -> None:
        self.clock += 1
        facts = self.blocks[block]
        facts["last"] = self.clock
        facts["uses"] += 1
        facts.update(self.use(facts, at))

    def victim(self, at: Access) -> int:
        return min(self.blocks, key=lambda block: self.key(self.blocks[block], at))

    def remove(self, block: int) -> None:
        del self.blocks[block]

    def first(self, block: int, at: Access) -> dict[str, float]:
        return {}

    def use(self, facts: dict[str, float], at: Access) -> dict[str, float]:
        return {}

    def key(self, facts: dict[str, float], at: Access) -> tuple[float, ...]:
        raise NotImplementedError


class LruTwin(Twin):
    def key(self, facts: dict[str, float], at: Access) -> tuple[float, ...]:
        return (facts["last"],)


class MruTwin(Twin):
    def key(self, facts: dict[str, float], at: Access) -> tuple[float, ...]:
        return (-facts["last"],)


class FifoTwin(Twin):
    def key(self, facts: dict[str, float], at: Access) -> tuple[float, ...]:
        return (facts["came"],)


class FiloTwin(Twin):
    def key(self, facts: dict[str, float], at: Access) -> tuple[float, ...]:
        return (-facts["came"],)


class LfuTwin(Twin):
    def key(self, facts: dict[str, float], at: Access) -> tuple[float, ...]:
        return (facts["uses"], facts["last"])


class LfuPerfectTwin(LfuTwin):
    def __init__(self) -> None:
        super().__init__()
        self.past: dict[int, float] = {}

    def first(self, block: int, at: Access) -> dict[str, float]:
        return {"uses": self.past.get(block, 0)}

    def remove(self, block: int) -> None:
        self.past[block] = self.blocks[block]["uses"]
        super().remove(block)


class PriorityTwin(Twin):
    """80 for 5 s in the first 32 tokens, 10 from token 64 on, 35 between and afterwards."""

    def use(self, facts: dict[str, float], at: Access) -> dict[str, float]:
        token = at.block_index * 16
        return {"priority": 80 if token < 32 else 10 if token >= 64 else 35, "until": at.now_s + 5 if token < 32 else 1e99}

    def key(self, facts: dict[str, float], at: Access) -> tuple[float, ...]:
        return (facts["priority"] if at.now_s < facts["until"] else 35, facts["last"])


class CostTwin(Twin):
    """Credit = age of the cache + seconds per token of the prompt; the age is the last victim's credit."""

    age = 0.0

    def use(self, facts: dict[str, float], at: Access) -> dict[str, float]:
        return {"credit": max(facts.get("credit", 0.0), self.age + (1e-4 + 1e-8 * at.prompt_tokens / 2))}

    def key(self, facts: dict[str, float], at: Access) -> tuple[float, ...]:
        return (facts["credit"], facts["last"])

    def victim(self, at: Access) -> int:
        block = super().victim(at)
        self.age = self.blocks[block]["credit"]
        return block


class SlruTwin(EvictionPolicy):
    """Two lists, oldest first."""

    def __init__(self) -> None:
        self.probation: list[int] = []
        self.protected: list[int] = []

    def insert(self, block: int, at: Access) -> None:
        self.probation.append(block)

    def touch(self, block: int, at: Access) -> None:
        (self.protected if block in self.protected else self.probation).remove(block)
        self.protected.append(block)
        if self.capacity_blocks is not None and len(self.protected) > self.capacity_blocks * 8 // 10:
            self.probation.append(self.protected.pop(0))

    def victim(self, at: Access) -> int:
        return (self.probation + self.protected)[0]

    def remove(self, block: int) -> None:
        (self.protected if block in self.protected else self.probation).remove(block)


class SieveTwin(EvictionPolicy):
    """The paper's figure: a list with the newest in front, a hand that walks from the tail to the head and wraps."""

    def __init__(self) -> None:
        self.queue: list[int] = []
        self.visited: dict[int, bool] = {}
        self.hand: int | None = None  # the block under it

    def insert(self, block: int, at: Access) -> None:
        self.queue.insert(0, block)
        self.visited[block] = False

    def touch(self, block: int, at: Access) -> None:
        self.visited[block] = True

    def victim(self, at: Access) -> int:
        place = len(self.queue) - 1 if self.hand is None else self.queue.index(self.hand)
        while self.visited[self.queue[place]]:
            self.visited[self.queue[place]] = False
            place = place - 1 if place else len(self.queue) - 1
        self.hand = self.queue[place]
        return self.hand

    def remove(self, block: int) -> None:
        place = self.queue.index(block)
        if self.hand == block:
            self.hand = self.queue[place - 1] if place else None
        self.queue.remove(block)


TWINS = (
    (Lru(), LruTwin()),
    (Mru(), MruTwin()),
    (Fifo(), FifoTwin()),
    (Filo(), FiloTwin()),
    (Lfu(), LfuTwin()),
    (LfuPerfect(), LfuPerfectTwin()),
    (Slru(), SlruTwin()),
    (Sieve(), SieveTwin()),
    (Priority(), LruTwin()),  # nobody asks for anything
    (
        Priority(ranges=[Retention(end_tokens=32, priority=80, duration_s=5), Retention(start_tokens=64, priority=10)]),
        PriorityTwin(),
    ),
    (CostAware(per_token_s=1e-4, attention_s=1e-8), CostTwin()),
    (CostAware(per_token_s=1e-4, attention_s=0.0), LruTwin()),  # all prompts are worth the same
)


@pytest.mark.parametrize(("policy", "twin"), TWINS, ids=lambda policy: type(policy).__name__)
@given(stream=streams(requests=80), capacity=st.integers(1, 12), touch=st.sampled_from(TOUCHES))
@settings(max_examples=60, deadline=None)
def test_policy_equals_its_slow_twin(
    policy: EvictionPolicy, twin: EvictionPolicy, stream: Stream, capacity: int, touch: str
) -> None:
    ours, store = served(policy, capacity, stream, touch)
    theirs, other = served(twin, capacity, stream, touch)
    assert ours == theirs
    assert (store.evicted, store.resident) == (other.evicted, other.resident)


@pytest.mark.parametrize("kind", ["sliding", "fixed"])
@given(
    requests=st.lists(st.tuples(st.integers(0, 30), st.lists(st.integers(0, 6), max_size=6)), max_size=40),
    ttl_s=st.integers(0, 12),
    touch=st.sampled_from(TOUCHES),
    rises=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_ttl_is_its_formula(requests: list[tuple[int, list[int]]], ttl_s: int, touch: str, rises: bool, kind: str) -> None:
    """Resident iff now - stamp <= ttl, whichever way the clock runs."""
    if rises:
        requests = sorted(requests, key=lambda each: each[0])
    store = PlainStore(Ttl(ttl_s, kind), None, block_tokens=16, touch=touch)
    assert isinstance(store.policy, Ttl)
    store.policy.drops_expired = rises
    stamps: dict[int, int] = {}
    for now_s, ids in requests:
        leading = any_position = 0
        before = dict(stamps)
        for block in ids:
            if not (block in before and now_s - before[block] <= ttl_s):
                break
            leading += 1
        for block in ids:
            alive = block in stamps and now_s - stamps[block] <= ttl_s
            any_position += alive
            if kind == "sliding" or not alive:
                stamps[block] = now_s
        assert store.serve(ids, now_ns=now_s * 10**9) == (any_position if touch == "any" else leading)
        store.check()


def test_ttl_drops_what_expired_and_stops_when_the_clock_runs_backwards() -> None:
    store = PlainStore(Ttl(10), None, block_tokens=16)
    for second in range(1000):
        store.serve([second], now_ns=second * 10**9)
        assert len(store.resident) <= 11, "memory follows what is alive"
    assert store.expired == 1000 - 11
    store.serve([5000], now_ns=0)  # another session's clock
    store.serve([5001], now_ns=5000 * 10**9)
    assert store.serve([999], now_ns=1005 * 10**9) == 1


def test_ttl_under_a_capacity_evicts_what_expires_first() -> None:
    def resident(kind: str) -> set[int]:
        store = PlainStore(Ttl(100, kind), 2, block_tokens=16)
        for now_s, block in enumerate([1, 2, 1, 3]):
            store.serve([block], now_ns=now_s * 10**9)
        return store.resident

    assert resident("sliding") == {1, 3}
    assert resident("fixed") == {2, 3}


def test_a_request_priority_counts_before_the_policy_ranges() -> None:
    store = PlainStore(Priority(ranges=[Retention(priority=90)]), 2, block_tokens=16)
    store.serve([1], priority=10)
    store.serve([2])
    store.serve([3])
    assert store.resident == {2, 3}
    store = PlainStore(Priority(), 2, block_tokens=16)
    store.serve([1], priority=80, retain_ns=5)
    store.serve([2], now_ns=1)
    store.serve([3], now_ns=4)
    assert store.resident == {1, 3}, "retained"
    store.serve([4], now_ns=5)
    assert store.resident == {3, 4}, "the retention is over at its end, not after it"


def test_cost_aware_keeps_what_is_dear_until_it_ages() -> None:
    """One 8-block prompt against a flow of one-block prompts: LRU forgets it at once, cost-aware holds it, but not for ever."""

    def survives(policy: EvictionPolicy, flow: int) -> int:
        store = PlainStore(policy, 10, block_tokens=16)
        dear = list(range(8))
        store.serve(dear, prompt_tokens=8 * 4096)
        for i in range(flow):
            store.serve([100 + i], prompt_tokens=16)
        return store.serve(dear, prompt_tokens=8 * 4096)

    policy = CostAware(per_token_s=1e-4, attention_s=1e-7)
    assert survives(Lru(), 12) == 0
    assert survives(policy, 12) == 8
    assert survives(policy, 200) == 0


def test_cost_aware_touched_tail_to_head_leaves_no_orphan() -> None:
    rng = np.random.default_rng(5)
    store = PlainStore(CostAware(per_token_s=1e-4, attention_s=1e-8), 30, block_tokens=16)
    for _ in range(2000):
        root, depth = int(rng.integers(8)), int(rng.integers(1, 20))
        store.serve([root * 100 + i for i in range(depth)], prompt_tokens=16 * depth)
        for block in store.resident:
            assert block % 100 == 0 or block - 1 in store.resident


def test_one_model_s_bytes_change_no_victim() -> None:
    rng = np.random.default_rng(6)
    stream = [(i, rng.integers(0, 40, size=rng.integers(1, 9)).tolist()) for i in range(400)]
    one = served(CostAware(per_token_s=1e-4, attention_s=1e-8), 20, stream)[0]
    assert one == served(CostAware(per_token_s=1e-4, attention_s=1e-8, kv_bytes_per_token=2.0**17), 20, stream)[0]


def best_possible(accesses: tuple[int, ...], capacity: int) -> int:
    """Most hits any cache with bypass can have: every choice tried."""
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for block in accesses:
        after: dict[frozenset[int], int] = {}
        for held, hits in states.items():
            if block in held:
                choices = [(held, hits + 1)]
            elif len(held) < capacity:
                choices = [(held, hits), (held | {block}, hits)]
            else:
                choices = [(held, hits), *((held - {gone} | {block}, hits) for gone in held)]
            for state, count in choices:
                after[state] = max(after.get(state, 0), count)
        states = after
    return max(states.values())


@given(stream=streams(most_ids=5, requests=5), capacity=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_min_is_the_best_possible(stream: Stream, capacity: int) -> None:
    hits, _ = served(Min(), capacity, stream)
    assert sum(hits) == best_possible(tuple(block for _, ids in stream for block in ids), capacity)


@given(stream=streams(), capacity=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_no_policy_beats_min_at_any_position(stream: Stream, capacity: int) -> None:
    most = sum(served(Min(), capacity, stream)[0])
    assert sum(served(Min(prefix=True), capacity, stream)[0]) <= most
    for policy in POLICIES:
        if not isinstance(policy, (Min, Infinite)):
            assert sum(served(policy, capacity, stream, "any")[0]) <= most


@given(stream=streams(requests=60))
@settings(max_examples=60, deadline=None)
def test_a_bigger_lru_cache_never_hits_less(stream: Stream) -> None:
    for touch in TOUCHES:
        totals = [sum(served(Lru(), capacity, stream, touch)[0]) for capacity in range(13)]
        assert totals == sorted(totals)


def test_random_follows_its_seed() -> None:
    rng = np.random.default_rng(1)
    stream = [(i, rng.integers(0, 40, size=5).tolist()) for i in range(200)]
    runs = [served(RandomEviction(seed), 20, stream)[1].resident for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_random_draws_every_resident_block_alike() -> None:
    policy = RandomEviction(seed=11).fresh(None)
    at = Access(16)
    for block in range(10):
        policy.insert(block, at)
    drawn = np.bincount([policy.victim(at) for _ in range(20_000)], minlength=10)
    assert np.abs(drawn - 2000).max() < 5 * np.sqrt(2000)


def test_slru_and_sieve_by_hand() -> None:
    store = PlainStore(Slru(protected_share=0.5), 4, block_tokens=16)
    for block in (1, 2, 3, 1, 2, 3):  # 1, 2, 3 protected in turn; 1 falls back behind nobody
        store.serve([block])
    store.serve([4])
    store.serve([5])
    assert store.resident == {2, 3, 4, 5}
    store = PlainStore(Sieve(), 3, block_tokens=16)
    for block in (1, 2, 3, 1, 4):  # the hand spares 1, takes 2, and stands at 3
        store.serve([block])
    assert store.resident == {1, 3, 4}
    store.serve([5])
    assert store.resident == {1, 4, 5}


def test_heaps_do_not_grow_with_accesses() -> None:
    cost, priority = CostAware(per_token_s=1.0, attention_s=0.0), Priority(ranges=[Retention(duration_s=9, priority=50)])
    for policy, queue in ((cost, "_queue"), (priority, "_retained")):
        store = PlainStore(policy, 10, block_tokens=16)
        for i in range(20_000):
            store.serve([i % 7], now_ns=i)
        assert len(getattr(store.policy, queue)._entries) < 100


def test_docs_example_recreates_lfu() -> None:
    text = (ROOT / "docs" / "eviction.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    for block in blocks:
        exec(compile(block, "docs/eviction.md", "exec"), names)
    own = names["MyLfu"]
    assert isinstance(own, type)
    assert len([line for line in blocks[0].splitlines() if line.strip()]) <= 17
    rng = np.random.default_rng(2)
    stream = [(i, rng.zipf(1.4, size=rng.integers(1, 9)).clip(max=60).tolist()) for i in range(600)]
    for touch in TOUCHES:
        for capacity in (1, 5, 20):
            assert served(own(), capacity, stream, touch)[0] == served(Lfu(), capacity, stream, touch)[0]


def test_docs_list_every_policy() -> None:
    text = (ROOT / "docs" / "eviction.md").read_text(encoding="utf-8")
    for policy in POLICIES:
        assert f"`{policy.name}`" in text
        assert f"`{type(policy).__name__}`" in text


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Ttl(-1), "ttl_s(=-1) must be at least 0"),
        (lambda: Ttl(float("nan")), "ttl_s(=nan) must be finite"),
        (lambda: Ttl(1, "rolling"), "ttl kind(='rolling') is not known"),
        (lambda: Slru(protected_share=1.5), "protected_share(=1.5) must be at most 1"),
        (lambda: RandomEviction(seed=-1), "seed(=-1) must be at least 0"),
        (lambda: Retention(priority=101), "priority(=101) must be at most 100"),
        (lambda: Retention(start_tokens=9, end_tokens=9), "end_tokens(=9) must be at least 10"),
        (lambda: Retention(duration_s=-1.0), "duration_s(=-1.0) must be at least 0"),
        (lambda: CostAware(per_token_s=-1.0, attention_s=0.0), "per_token_s(=-1.0) must be at least 0"),
        (lambda: CostAware(per_token_s=1.0, attention_s=0.0, kv_bytes_per_token=0), "kv_bytes_per_token(=0) must be above 0"),
        (lambda: PlainStore(Lru(), -1, block_tokens=16), "capacity_blocks(=-1) must be at least 0"),
        (lambda: PlainStore(Lru(), 1, block_tokens=0), "block_tokens(=0) must be at least 1"),
        (lambda: PlainStore(Lru(), 1, block_tokens=16, touch="both"), "touch(='both') is not known"),
    ],
)
def test_bad_parameters_say_name_value_and_rule(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises((InputError, UnknownNameError), match=re.escape(says)):
        make()


def test_the_rooms_name_their_policies_once() -> None:
    names = [policy.name for policy in POLICIES]
    kinds = {type(policy) for policy in POLICIES}
    assert all(names)
    assert len(set(names)) == len(kinds) + 1, "Min has two names, the others one"
    assert {each.__module__ for each in kinds} == {eviction.__name__, retention.__name__, bounds.__name__}
