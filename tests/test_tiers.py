"""Tiers below the GPU: links that queue, the choice to load, the three write rules; against lists of prefixes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cache.content import Content
from simcache.cache.eviction import Fifo, Lfu, Lru, RandomEviction, Sieve
from simcache.cache.retention import Ttl
from simcache.cache.tiers import Load, Run, Tier, Tiers
from simcache.errors import InputError, UnknownNameError
from simcache.prompt import Segment

MS = 1_000_000


def content(*segments: tuple[str, int], out: tuple[str, int] = ("a", 50)) -> Content:
    return Content(tuple(Segment(*segment) for segment in segments), Segment(*out))


def host(capacity_tokens: int = 1000, **more) -> Tier:
    """1,000 bytes a token at 1 MB/s: a token a millisecond."""
    return Tier(**{"name": "host", "capacity_tokens": capacity_tokens, "load_bytes_per_s": 1e6, **more})


def disk(capacity_tokens: int = 1000, **more) -> Tier:
    """Ten times slower, and half a second before the first byte."""
    return Tier(**{"name": "disk", "capacity_tokens": capacity_tokens, "load_bytes_per_s": 1e5, "latency_s": 0.5, **more})


def tiers(*levels: Tier, **more) -> Tiers:
    return Tiers(levels, **{"block_tokens": 10, "kv_bytes_per_token": 1000, **more})


DOC = content(("doc", 95), ("q", 10))


def test_write_through_keeps_a_copy_in_every_tier_and_hits_the_nearest() -> None:
    below = tiers(host(), disk())
    below.store(0, DOC, None, 105, 0)
    assert below.lookup(0, DOC, None, 0, 104, 1) == [Run(0, 0, 100)]
    assert below.lookup(0, DOC, None, 35, 104, 1) == [Run(0, 35, 100)]  # behind a GPU hit that ends inside a block
    assert below.lookup(0, content(("doc", 400)), None, 0, 399, 1) == [Run(0, 0, 90)]  # whole blocks only
    assert below.lookup(0, DOC, "salt", 0, 104, 1) == []


def test_a_load_takes_bytes_over_bandwidth_plus_latency_and_queues_behind_others() -> None:
    below = tiers(host(latency_s=0.002))
    below.store(0, DOC, None, 105, 0)
    runs = below.lookup(0, DOC, None, 0, 104, 0)
    assert below.load(0, DOC, None, runs, 5 * MS) == Load(107 * MS, (100,), {})
    # The link is busy until 105 ms; its latency does not occupy it.
    assert below.load(0, DOC, None, runs, 50 * MS) == Load(207 * MS, (100,), {})
    assert below.load(0, DOC, None, runs, 300 * MS) == Load(402 * MS, (100,), {})


def test_replicas_contend_where_they_share_a_tier_and_only_there() -> None:
    for shared_by, second in ((1, 100), (2, 200), (None, 200)):
        below = tiers(host(shared_by=shared_by), replicas=3)
        for replica in (0, 1):
            below.store(replica, DOC, None, 105, 0)
        ready = [below.load(replica, DOC, None, [Run(0, 0, 100)], 0).ready_at_ns for replica in (0, 1)]
        assert ready == [100 * MS, second * MS]
        found = below.lookup(2, DOC, None, 0, 104, 0)
        assert bool(found) == (shared_by is None)


def test_different_tiers_load_beside_each_other() -> None:
    below = tiers(host(40), disk(), write="write_through")
    below.store(0, DOC, None, 105, 0)  # the host keeps the head: the tail was evicted for it
    runs = below.lookup(0, DOC, None, 0, 104, 0)
    assert runs == [Run(0, 0, 40), Run(1, 40, 100)]
    load = below.load(0, DOC, None, runs, 0)
    assert load.tokens == (40, 60)
    assert load.ready_at_ns == 60 * 10 * MS + 500 * MS


def test_what_comes_from_disk_lies_in_the_host_afterwards() -> None:
    below = tiers(host(20), disk())
    below.store(0, DOC, None, 20, 0)
    below.store(0, content(("other", 20)), None, 20, 0)
    runs = below.lookup(0, DOC, None, 0, 104, 0)
    assert runs == [Run(1, 0, 20)]
    below.load(0, DOC, None, runs, 0)
    assert below.lookup(0, DOC, None, 0, 104, 0) == [Run(0, 0, 20)]
    below.check()


def test_selective_writes_on_the_second_request_that_uses_a_block() -> None:
    below = tiers(host(), write="write_through_selective")
    longer = content(("doc", 95), ("q", 10), ("a", 50), ("r", 5))
    below.store(0, DOC, None, 105, 0)
    below.store(0, DOC, None, 150, 0, told_tokens=105)  # the same request when it has finished
    assert below.lookup(0, longer, None, 0, 159, 0) == []
    below.store(0, content(("doc", 50), ("x", 9)), None, 59, 0)
    assert below.lookup(0, longer, None, 0, 159, 0) == [Run(0, 0, 50)]
    below.drop(0, DOC, None, 0, 150, 0)  # gone from the GPU: counting starts again
    below.store(0, longer, None, 160, 0)
    assert below.lookup(0, longer, None, 0, 159, 0) == [Run(0, 0, 50)]
    below.store(0, longer, None, 160, 0)
    assert below.lookup(0, longer, None, 0, 159, 0) == [Run(0, 0, 150)]
    below.check()


def test_write_back_moves_down_what_a_tier_lets_go() -> None:
    below = tiers(host(30), disk(30), write="write_back")
    below.store(0, DOC, None, 105, 0)
    assert below.lookup(0, DOC, None, 0, 104, 0) == []
    below.drop(0, DOC, None, 75, 105, 0)  # its tail first; the block of tokens 70..79 was whole until now
    assert below.lookup(0, DOC, None, 75, 104, 0) == [Run(0, 75, 100)]
    below.drop(0, DOC, None, 35, 75, 0)  # blocks 3..6: the host lets 7..9 go, tail first
    assert below.lookup(0, DOC, None, 35, 104, 0) == [Run(0, 35, 60), Run(1, 60, 90)]
    below.check()


def compute_s(cached: int) -> float:
    """105 prompt tokens at two milliseconds a token."""
    return (105 - cached) * 0.002


def test_loads_what_ends_sooner_than_computing_it() -> None:
    below = tiers(host(40), disk())
    below.store(0, DOC, None, 105, 0)
    runs = below.lookup(0, DOC, None, 0, 104, 0)
    assert below.choose(0, runs, 0, compute_s) == 1  # the host is twice as fast as computing, the disk five times slower
    assert below.choose(0, runs, 0, lambda cached: (105 - cached) * 0.02) == 2
    assert below.choose(0, runs, 0, lambda cached: 0.0) == 0
    assert below.choose(0, [], 0, compute_s) == 0
    below.load(0, DOC, None, runs[:1], 0)
    assert below.choose(0, runs, 0, compute_s) == 0  # its link is busy for another 40 ms: a tie, and nothing is loaded
    assert below.choose(0, runs, 1 * MS, compute_s) == 1


def test_a_ttl_policy_expires_by_the_instants_handed_in() -> None:
    below = tiers(host(policy=Ttl(10)))
    below.store(0, DOC, None, 105, 0)
    assert below.lookup(0, DOC, None, 0, 104, 10_000 * MS) == [Run(0, 0, 100)]
    assert below.lookup(0, DOC, None, 0, 104, 10_000 * MS + 1) == []
    below.check()
    assert list(below.chains.blocks()) == []


class PrefixLists:
    """One replica, LRU everywhere: each tier a list of prefixes, least recent first."""

    def __init__(self, capacities: list[int], write: str) -> None:
        self.held: list[list[tuple]] = [[] for _ in capacities]
        self.capacities, self.write = capacities, write
        self.uses: dict[tuple, int] = {}

    def put(self, level: int, block: tuple) -> None:
        held = self.held[level]
        if block in held:
            held.remove(block)
        elif not self.capacities[level]:
            return
        elif len(held) == self.capacities[level]:
            gone = held.pop(0)
            if self.write == "write_back" and level + 1 < len(self.held):
                self.put(level + 1, gone)
        held.append(block)

    def runs(self, blocks: list[tuple]) -> list[int]:
        found = []
        for block in blocks:
            level = next((level for level, held in enumerate(self.held) if block in held), None)
            if level is None:
                break
            found.append(level)
        return found


@settings(max_examples=200, deadline=None)
@given(
    st.data(),
    st.lists(st.integers(0, 6), min_size=1, max_size=3),
    st.sampled_from(("write_through", "write_through_selective", "write_back")),
)
def test_agrees_with_lists_of_prefixes(data: st.DataObject, capacities: list[int], write: str) -> None:
    levels = [Tier(name=f"t{i}", capacity_tokens=2 * c, load_bytes_per_s=1e6) for i, c in enumerate(capacities)]
    below = Tiers(levels, block_tokens=2, kv_bytes_per_token=1, write=write)
    lists = PrefixLists(capacities, write)
    for _ in range(data.draw(st.integers(1, 25))):
        asked = content((data.draw(st.sampled_from("xy")), data.draw(st.integers(1, 7))), (data.draw(st.sampled_from("pq")), 6))
        tokens = [
            (key, i) for key, end, start in zip(asked.keys, asked.ends, (0, *asked.ends), strict=False) for i in range(end - start)
        ]
        blocks = [tuple(tokens[:end]) for end in range(2, len(tokens) + 1, 2)]
        match data.draw(st.sampled_from(("store", "drop", "load"))):
            case "store":
                until = data.draw(st.integers(0, len(blocks)))
                below.store(0, asked, None, 2 * until, 0)
                if write != "write_back":
                    for block in blocks[:until]:
                        lists.uses[block] = lists.uses.get(block, 0) + 1
                    for block in reversed(blocks[:until]):
                        if write == "write_through" or lists.uses[block] >= 2:
                            for level in range(len(levels)):
                                lists.put(level, block)
            case "drop":
                start = data.draw(st.integers(0, len(blocks)))
                below.drop(0, asked, None, 2 * start, 2 * len(blocks), 0)
                for block in reversed(blocks[start:]):
                    lists.uses.pop(block, None)
                    if write == "write_back":
                        lists.put(0, block)
            case "load":
                limit = asked.prompt_tokens - 1
                expected = lists.runs(blocks[: limit // 2])
                runs = below.lookup(0, asked, None, 0, limit, 0)
                assert [run.tier for run in runs for _ in range(run.start, run.end, 2)] == expected
                count = data.draw(st.integers(0, len(runs)))
                load = below.load(0, asked, None, runs[:count], 0)
                assert sum(load.tokens) == sum(run.end - run.start for run in runs[:count])
                for index in reversed(range(sum(load.tokens) // 2)):
                    for level in range(expected[index] + 1):
                        lists.put(level, blocks[index])
        below.check()
        for instance, held in zip(below.instances(0), lists.held, strict=True):
            assert len(instance.store.resident) == len(held)


@settings(max_examples=80, deadline=None)
@given(
    st.data(),
    st.sampled_from([Lru(), Fifo(), Lfu(), Sieve(), RandomEviction(1), Ttl(3)]),
    st.sampled_from(("write_through", "write_through_selective", "write_back")),
)
def test_every_policy_keeps_every_invariant_with_shared_tiers(data: st.DataObject, policy, write: str) -> None:
    levels = [
        Tier(name="host", capacity_tokens=12, load_bytes_per_s=1e6, policy=policy, shared_by=2),
        Tier(name="disk", capacity_tokens=20, load_bytes_per_s=1e5, policy=policy, shared_by=None),
    ]
    below = Tiers(levels, block_tokens=2, kv_bytes_per_token=1, write=write, replicas=3)
    for step in range(data.draw(st.integers(1, 25))):
        now_ns = step * 1000 * MS
        replica = data.draw(st.integers(0, 2))
        asked = content((data.draw(st.sampled_from("xy")), data.draw(st.integers(1, 7))), (data.draw(st.sampled_from("pq")), 6))
        runs = below.lookup(replica, asked, None, data.draw(st.integers(0, 5)), asked.prompt_tokens - 1, now_ns)
        assert all(before.end == run.start and before.tier != run.tier for before, run in pairwise(runs))
        load = below.load(replica, asked, None, runs[: below.choose(replica, runs, now_ns, lambda cached: 1.0 - cached)], now_ns)
        assert (load.ready_at_ns > now_ns) == any(load.tokens)
        below.store(replica, asked, None, asked.prompt_tokens, now_ns)
        below.drop(replica, asked, None, data.draw(st.integers(0, 9)), asked.prompt_tokens, now_ns)
        below.check()


def test_bad_tiers_say_what_is_wrong() -> None:
    with pytest.raises(InputError, match="capacity_tokens"):
        host(-1)
    with pytest.raises(InputError, match="load_bytes_per_s"):
        host(load_bytes_per_s=0)
    with pytest.raises(InputError, match="shared_by"):
        host(shared_by=0)
    with pytest.raises(InputError, match="different names"):
        tiers(host(), host())
    with pytest.raises(UnknownNameError, match="write_back"):
        tiers(host(), write="write_around")
    with pytest.raises(InputError, match="replica"):
        tiers(host()).lookup(1, DOC, None, 0, 1, 0)
