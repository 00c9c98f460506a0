"""A run that starts as warm as another one ended."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cache.block_pool import BlockPool, Holding
from simcache.cache.content import Content
from simcache.cache.snapshot import PoolSnapshot, load_snapshots, restore, save_snapshots, snapshot
from simcache.engine.journal import Journal
from simcache.engine.run import simulate
from simcache.errors import InputError
from simcache.latency import Coefficients, ServerProfile
from simcache.prompt import Request, Segment
from simcache.scenario import Cluster, Scenario
from simcache.workload.synthetic import PoissonRequests, RequestList

segments = st.builds(Segment, st.integers(0, 4), st.integers(0, 9))
requests = st.lists(
    st.builds(
        Request,
        arrived_at_s=st.just(0.0),
        prompt=st.lists(segments, min_size=1, max_size=4).map(tuple),
        output=st.builds(Segment, st.integers(5, 9), st.integers(0, 7)),
        salt=st.sampled_from([None, "b"]),
        organisation=st.none(),
    ),
    max_size=12,
)


def serve(pool: BlockPool, stream) -> list[tuple[int, int]]:
    """Hits and evictions of each request, one at a time."""
    told = []
    for row, request in enumerate(stream):
        content = Content(request.prompt, request.output)
        before = pool.evicted
        root = pool.root((request.organisation, request.salt))
        match = pool.match(root, content, max(0, content.prompt_tokens - 1) // pool.block_tokens)
        blocks = -(-(content.prompt_tokens + request.output.tokens) // pool.block_tokens)
        if blocks - match.blocks + match.evictable_blocks > pool.free:
            continue
        holding = Holding(content, root, row)
        pool.hold(holding, match, user=True)
        pool.take(blocks - match.blocks)
        holding.blocks = blocks
        pool.insert(holding, (content.prompt_tokens + request.output.tokens) // pool.block_tokens)
        pool.release(holding)
        told.append((match.blocks, pool.evicted - before))
    return told


@settings(max_examples=150, deadline=None)
@given(before=requests, after=requests, blocks=st.integers(4, 40), size=st.integers(1, 4))
def test_a_restored_pool_goes_on_as_the_saved_one_would(before, after, blocks, size):
    original, again = BlockPool(blocks, size), BlockPool(blocks, size)
    serve(original, before)
    saved = snapshot(original)
    assert restore(again, saved) == saved.blocks
    again.check()
    assert snapshot(again) == saved
    assert serve(again, after) == serve(original, after)
    again.check()


@settings(max_examples=80, deadline=None)
@given(before=requests, blocks=st.integers(8, 40), room=st.integers(1, 40))
def test_a_smaller_pool_keeps_what_would_have_been_evicted_last(before, blocks, room):
    original, smaller = BlockPool(blocks, 2), BlockPool(room, 2)
    serve(original, before)
    saved = snapshot(original)
    assert restore(smaller, saved) == min(room, saved.blocks)
    smaller.check()
    original.take(original.free - min(room, saved.blocks))  # evict the original down to as much
    now = [(c.namespace, c.start, c.blocks) for c in snapshot(original).chains]
    assert [(c.namespace, c.start, c.blocks) for c in snapshot(smaller).chains] == now


LATENCY = ServerProfile(name="test", coefficients=Coefficients(per_token_s=1e-4), kv_tokens=20_000)


def test_a_warm_start_from_a_file_hits_at_once(tmp_path):
    path = tmp_path / "cache.json"
    workload = PoissonRequests(rate_per_s=5, count=60, prompt_tokens=300, output_tokens=5, shared_prefix_tokens=160)
    cold = Scenario(workload=workload, backend=Cluster(profile=LATENCY, replicas=2))
    journal = Journal()
    first = simulate(cold, seed=1, journal=journal)
    save_snapshots(journal.caches, path)
    warm = simulate(cold.but(backend__initial_cache=str(path)), seed=1)
    assert first.records.hit_tokens[0] == 0
    assert warm.records.hit_tokens.min() >= 160
    assert (warm.records.ttft_s <= first.records.ttft_s + 1e-9).mean() > 0.9
    assert warm.records.used_tokens.sum() <= warm.records.inserted_tokens.sum()  # what was there before is credited to nobody


def test_a_file_survives_every_kind_of_key_and_refuses_the_rest(tmp_path):
    path = tmp_path / "cache.json"
    keys = ["text", 7, ("answer", 3, None), None]
    pool = BlockPool(50, 4)
    serve(pool, [Request(0.0, (Segment(key, 9),), Segment("out", 1)) for key in keys])
    save_snapshots([snapshot(pool)], path)
    assert load_snapshots(path) == (snapshot(pool),)
    serve(pool, [Request(0.0, (Segment(frozenset({1}), 9),), Segment("out", 1))])
    with pytest.raises(InputError, match="cannot be saved"):
        save_snapshots([snapshot(pool)], path)
    assert len(load_snapshots(path)) == 1  # the good file stands


TOO_SHORT = {"schema_version": 1, "pools": [{"block_tokens": 4, "chains": [[None, [["a", 3]], 0, 1, 0]]}]}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 2, "pools": []}', json.dumps(TOO_SHORT)])
def test_files_that_are_no_snapshots(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(InputError):
        load_snapshots(tmp_path / "bad.json")
    with pytest.raises(InputError, match="cannot be read"):
        load_snapshots(tmp_path / "missing.json")


def test_another_block_size_is_refused():
    with pytest.raises(InputError, match="block_tokens"):
        restore(BlockPool(8, 16), PoolSnapshot(block_tokens=32, chains=()))


def test_a_missing_file_ends_the_run_before_the_clock_starts(tmp_path):
    ask = Request(0.0, (Segment("a", 5),), Segment("b", 1))
    backend = Cluster(profile=LATENCY, initial_cache=str(tmp_path / "none.json"))
    with pytest.raises(InputError, match="cache snapshot"):
        simulate(Scenario(workload=RequestList(rows=(ask,)), backend=backend))
