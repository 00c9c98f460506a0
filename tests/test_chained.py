"""Blocks known by their prefix: against the plain store over ids, and the rule for orphans."""

from __future__ import annotations

from itertools import takewhile

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simcache.cache.chained import BlockStore, Chains, replay_sequential
from simcache.cache.content import Content
from simcache.cache.eviction import Fifo, Filo, Lfu, LfuPerfect, Lru, Mru, RandomEviction, Sieve, Slru
from simcache.cache.plain import PlainStore
from simcache.cache.retention import CostAware, Priority, Retention, Ttl
from simcache.errors import InputError, UnknownNameError
from simcache.prompt import Request, Segment

POLICIES = [Lru(), Mru(), Fifo(), Lfu(), Slru(), Sieve(), RandomEviction(3), Ttl(4), Ttl(4, "fixed"), Priority()]

ALL = [*POLICIES, LfuPerfect(), Filo(), Slru(0.0), CostAware(per_token_s=1e-4, attention_s=1e-8)]


def ask(*segments: tuple[object, int], at: float = 0.0, out: tuple[object, int] = ("a", 1), **more: object) -> Request:
    return Request(at, tuple(Segment(*segment) for segment in segments), Segment(*out), **more)


@st.composite
def streams(draw: st.DrawFn) -> list[Request]:
    requests: list[Request] = []
    for turn in range(draw(st.integers(1, 25))):
        segments: tuple[Segment, ...] = (Segment(draw(st.sampled_from("xy")), draw(st.integers(0, 12))),)
        if requests and draw(st.booleans()):
            earlier = requests[draw(st.integers(0, len(requests) - 1))]
            segments = (*earlier.prompt, earlier.output, Segment(f"u{turn}", draw(st.integers(0, 5))))
        output = Segment(draw(st.sampled_from((f"a{turn}", "same"))), draw(st.integers(0, 6)))
        requests.append(Request(float(turn), segments, output, salt=draw(st.sampled_from((None, None, "s")))))
    return requests


@settings(max_examples=200, deadline=None)
@given(streams(), st.sampled_from(POLICIES), st.integers(0, 9), st.sampled_from((1, 2, 3)), st.booleans())
def test_keeping_orphans_is_the_plain_store_over_chained_ids(requests, policy, capacity, block_tokens, caches_output) -> None:
    store = PlainStore(policy, capacity, block_tokens=block_tokens)
    ids: dict[object, int] = {}
    hits, evicted = [], []
    for request in requests:
        answer = request.output.tokens - 1 if caches_output else 0
        prompt = [(s.key, i) for s in request.prompt for i in range(s.tokens)]
        everything = prompt + [(request.output.key, i) for i in range(answer)]
        chain = [
            ids.setdefault((request.salt, *everything[:end]), len(ids))
            for end in range(block_tokens, len(everything) + 1, block_tokens)
        ]
        before = store.evicted
        leading = store.serve(chain, now_ns=round(request.arrived_at_s * 1e9), prompt_tokens=len(prompt))
        leading = min(leading, len(prompt) // block_tokens)
        hits.append(max(0, min(leading * block_tokens, len(prompt) - 1)))
        evicted.append(store.evicted - before)
    replay = replay_sequential(
        requests, policy=policy, capacity_blocks=capacity, block_tokens=block_tokens, caches_output=caches_output
    )
    assert replay.hit_tokens == hits
    assert replay.evicted_blocks == evicted


@settings(max_examples=150, deadline=None)
@given(streams(), st.sampled_from(ALL), st.integers(0, 9), st.sampled_from(("keep", "drop", "none")))
def test_every_policy_keeps_the_store_whole_with_and_without_orphans(requests, policy, capacity, orphans) -> None:
    """Capacity, accounts, the rule for orphans as declared, and a hit that is a prefix of what was resident."""
    chains = Chains(2)
    assume(orphans != "none" or type(policy) in (Lru, Priority))
    store = BlockStore(chains, policy, capacity, orphans=orphans)
    for request in requests:
        content = Content(request.prompt, request.output)
        store.at(round(request.arrived_at_s * 1e9), content.prompt_tokens)
        before = set(store.resident)
        path = list(chains.walk(content, request.salt, content.prompt_tokens // 2))
        leading = [block.id for block in takewhile(store.has, path)]
        assert set(leading) <= before
        assert [block.index for block in path] == list(range(len(path)))
        if orphans != "keep" and not store.expired:
            assert set(leading) == {block.id for block in path} & before, "nothing is out of reach"
        for block in reversed(chains.grow(content, request.salt, content.prompt_tokens // 2)):
            gone = store.put(block)
            assert not {each.id for each in gone} & set(store.resident)
        chains.sweep()
        store.check()


def test_under_lru_no_block_outlives_its_parent_anyway() -> None:
    turns = [ask((f"d{i % 5}", 4 + i % 7), (f"q{i % 3}", 5)) for i in range(60)]
    keep, drop = (
        replay_sequential(turns, policy=Lru(), capacity_blocks=12, block_tokens=2, orphans=orphans) for orphans in ("keep", "drop")
    )
    assert keep == drop


def test_a_less_retained_head_takes_its_tail_with_it() -> None:
    policy = Priority(ranges=(Retention(end_tokens=32, priority=10), Retention(start_tokens=32, priority=80)))
    turns = [ask(("d", 96)), ask(("e", 32)), ask(("d", 97))]
    for orphans, gone in (("keep", 1), ("drop", 3)):
        replay = replay_sequential(turns, policy=policy, capacity_blocks=3, block_tokens=32, orphans=orphans)
        assert replay.evicted_blocks[1] == gone
        assert replay.hit_tokens == [0, 0, 0]


def test_only_leaves_go_however_little_their_heads_are_retained() -> None:
    policy = Priority(ranges=(Retention(end_tokens=32, priority=10), Retention(start_tokens=32, priority=80)))
    turns = [ask(("d", 96)), ask(("e", 32)), ask(("d", 97))]
    replay = replay_sequential(turns, policy=policy, capacity_blocks=3, block_tokens=32, orphans="none")
    assert replay.evicted_blocks == [0, 1, 1]  # the tail of d, though its head would have to go first
    assert replay.hit_tokens == [0, 0, 64]


@settings(max_examples=200, deadline=None)
@given(
    streams(),
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(1, 8), st.sampled_from([0, 20, 35, 90]), st.sampled_from([None, 3])), max_size=3
    ),
    st.integers(1, 9),
)
def test_leaf_victims_are_those_of_a_list_searched_anew_each_time(requests, asked, capacity) -> None:
    """The lowest priority among resident blocks without a resident one behind them, then the least recently used."""
    ranges = tuple(Retention(start_tokens=a, end_tokens=a + n, priority=p, duration_s=s) for a, n, p, s in asked)
    found = replay_sequential(requests, policy=Priority(ranges), capacity_blocks=capacity, block_tokens=2, orphans="none")
    chains, accesses = Chains(2), 0
    known: dict[int, list] = {}  # block -> [block, priority, until when, last access]
    hits, evicted = [], []
    for request in requests:
        content, now_ns = Content(request.prompt, request.output), round(request.arrived_at_s * 1e9)
        space = (request.organisation, request.salt)
        path = list(takewhile(lambda block: block.id in known, chains.walk(content, space, content.prompt_tokens // 2)))
        hits.append(max(0, min(2 * len(path), content.prompt_tokens - 1)))
        gone = 0
        for block in reversed(chains.grow(content, space, content.prompt_tokens // 2)):
            accesses += 1
            if block.id not in known and len(known) >= capacity:
                leaves = [each for each in known.values() if not any(child.id in known for child in each[0].children.values())]
                for each in known.values():
                    if each[2] is not None and each[2] <= now_ns:
                        each[1], each[2] = 35, None
                victim = min(leaves, key=lambda each: (each[1], each[3]))
                del known[victim[0].id]
                gone += 1
            held = next((r for r in ranges if r.start_tokens <= 2 * block.index < (r.end_tokens or 10**9)), None)
            until = None if held is None or held.duration_s is None else now_ns + round(held.duration_s * 1e9)
            known[block.id] = [block, 35 if held is None else held.priority, until, accesses]
        evicted.append(gone)
    assert found.hit_tokens == hits
    assert found.evicted_blocks == evicted


def test_only_full_chunks_and_never_the_last_token() -> None:
    turns = [ask(("d", 512)), ask(("d", 512)), ask(("d", 600)), ask(("d", 768))]
    assert replay_sequential(turns, policy=Lru(), capacity_blocks=9, block_tokens=256).hit_tokens == [0, 511, 512, 512]


def test_retention_ends_by_the_requests_own_instants() -> None:
    policy = Priority(ranges=(Retention(end_tokens=4, priority=90, duration_s=10),))

    def turns(later: float) -> list[Request]:
        return [ask(("d", 5)), ask(("x", 4), ("y", 9), at=later), ask(("d", 5), at=later)]

    assert replay_sequential(turns(5), policy=policy, capacity_blocks=3, block_tokens=4).hit_tokens[2] == 4
    assert replay_sequential(turns(50), policy=policy, capacity_blocks=3, block_tokens=4).hit_tokens[2] == 0


def test_bad_sizes_and_names() -> None:
    with pytest.raises(InputError, match="block_tokens"):
        Chains(0)
    with pytest.raises(InputError, match="capacity_blocks"):
        BlockStore(Chains(1), Lru(), -1)
    with pytest.raises(UnknownNameError, match="keep"):
        BlockStore(Chains(1), Lru(), 1, orphans="kept")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="goes with lru and priority"):
        BlockStore(Chains(1), Fifo(), 1, orphans="none")
