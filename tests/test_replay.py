"""Replay without a clock: the reference's integers, row by row; compiled equals plain; streamed equals whole."""

from __future__ import annotations

import csv
import subprocess
import sys
import textwrap
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cache import kernels
from simcache.cache.bounds import Infinite, Min
from simcache.cache.eviction import EvictionPolicy, Fifo, Lfu, LfuPerfect, Lru, RandomEviction, Sieve, Slru
from simcache.cache.plain import TOUCHES, Touch
from simcache.cache.retention import CostAware, Priority, Ttl
from simcache.engine.replay import ReplayRow, replay, replay_stream
from simcache.errors import InputError, UnknownNameError
from simcache.workload.block_traces import BlockTrace, block_batches, read_block_trace

from .test_curve import traces

COMPILED = [False, pytest.param(True, marks=pytest.mark.skipif(not kernels.available(), reason="numba is not installed"))]
FLAT: tuple[EvictionPolicy, ...] = (
    Lru(),
    Fifo(),
    Lfu(),
    LfuPerfect(),
    Ttl(7),
    Ttl(7, "fixed"),
    Min(),
    Min(prefix=True),
    Infinite(),
)
"""Policies that have a compiled loop."""


def reference_policy(name: str, ttl_s: str) -> tuple[EvictionPolicy, Touch]:
    """What a row of block_replay_hits.csv calls its policy."""
    if name.startswith("ttl_"):
        return Ttl(float(ttl_s), name.removeprefix("ttl_")), "rev"  # type: ignore[arg-type]
    if name == "infinite":
        return Infinite(), "rev"
    if name.startswith("belady"):
        return Min(prefix=name == "belady_block_prefix"), "rev"
    kind, touch = name.rsplit("_", 1)
    return {"lru": Lru, "fifo": Fifo, "lfu": Lfu, "lfu_perfect": LfuPerfect}[kind](), touch  # type: ignore[return-value]


@cache
def reference_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "reference" / "block_replay_hits.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


@cache
def reference_trace(folder: Path, name: str) -> BlockTrace:
    return read_block_trace(folder / "traces" / f"{name}.jsonl.gz", name.split("_")[0])


def mismatches(folder: Path, rows: list[dict[str, str]], compiled: bool) -> list[Any]:
    """Rows of the reference that replay does not give back, integer by integer."""
    wrong = []
    for row in rows:
        policy, touch = reference_policy(row["policy"], row["ttl_s"])
        capacity = None if row["capacity_blocks"] == "inf" else int(row["capacity_blocks"])
        trace = reference_trace(folder, row["trace"])
        (ours,) = replay(trace, [policy], [capacity], touch=touch, compiled=compiled)
        integers = (ours.hit_blocks, ours.total_blocks, ours.hit_tokens, ours.total_tokens, ours.requests, ours.block_tokens)
        names = ("hit_blocks", "total_blocks", "hit_tokens", "total_tokens", "n_requests", "block_size")
        if integers != tuple(int(row[name]) for name in names):
            wrong.append((row, integers))
        assert f"{ours.block_hit_ratio:.6f} {ours.token_hit_ratio:.6f}" == f"{row['block_hit_ratio']} {row['token_hit_ratio']}"
    return wrong


def test_plain_loops_equal_the_reference_on_every_kind_of_row(shared_data: Path) -> None:
    """One capacity of each trace for each policy, the lower ones, where policies differ most; all of them under `slow`."""
    rows = [r for r in reference_rows(shared_data) if r["capacity_blocks"] in ("195", "500", "inf") and r["ttl_s"] != "3600"]
    assert len({(r["trace"], r["policy"]) for r in rows}) == 28
    assert not mismatches(shared_data, rows, compiled=False)


@pytest.mark.skipif(not kernels.available(), reason="numba is not installed")
def test_compiled_loops_equal_the_reference_on_every_row(shared_data: Path) -> None:
    rows = reference_rows(shared_data)
    assert len(rows) == 158
    assert not mismatches(shared_data, rows, compiled=True)


@pytest.mark.slow
def test_plain_loops_equal_the_reference_on_every_row(shared_data: Path) -> None:
    assert not mismatches(shared_data, reference_rows(shared_data), compiled=False)


def same(one: ReplayRow, other: ReplayRow, *, per_request: bool = True) -> None:
    left, right = vars(one).copy(), vars(other).copy()
    for column in ("hits", "evicted"):
        a, b = left.pop(column), right.pop(column)
        if per_request:
            assert a is not None
            assert np.array_equal(a, b)
    assert left == right


@pytest.mark.parametrize("numba", COMPILED)
@pytest.mark.parametrize("policy", FLAT, ids=lambda policy: policy.name)
@given(trace=st.one_of(traces(), traces(rises=False)), capacity=st.integers(0, 20), touch=st.sampled_from(TOUCHES))
@settings(max_examples=40, deadline=None)
def test_flat_loops_equal_store_and_policy(
    policy: EvictionPolicy, trace: BlockTrace, capacity: int, touch: Touch, numba: bool
) -> None:
    """``numba`` False runs the same loops as plain Python; both equal the store with the policy object, request by request."""
    # A subclass is nobody's fast path: it always goes through the store.
    slow = type("Slow", (type(policy),), {})
    by_policy = slow.__new__(slow)
    by_policy.__dict__.update(policy.__dict__)
    expected = replay(trace, [by_policy], [capacity], touch=touch, compiled=True)
    for row, by_store in zip(replay(trace, [policy], [capacity], touch=touch, compiled=False), expected, strict=True):
        same(row, by_store)
    with pytest.MonkeyPatch.context() as patch:
        if not numba:
            patch.setattr(kernels, "compiled", lambda function: function)
        flat = replay(trace, [policy], [capacity], touch=touch, compiled=True)
    for row, by_store in zip(flat, expected, strict=True):
        same(row, by_store)


@given(trace=traces(), capacity=st.integers(0, 20), touch=st.sampled_from(TOUCHES), cuts=st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=80, deadline=None)
def test_a_stream_in_parts_equals_the_whole(trace: BlockTrace, capacity: int, touch: Touch, cuts: list[int]) -> None:
    policies = [
        Lru(),
        Fifo(),
        Lfu(),
        Sieve(),
        Slru(),
        RandomEviction(4),
        Ttl(9),
        CostAware(per_token_s=1, attention_s=1),
        Infinite(),
    ]
    edges = [0, *sorted(min(cut, len(trace)) for cut in cuts), len(trace)]
    parts = []
    for first, last in pairwise(edges):
        ids = [trace.ids[trace.starts[i] : trace.starts[i + 1]].tolist() for i in range(first, last)]
        columns = (trace.input_tokens[first:last], trace.output_tokens[first:last], trace.arrived_at_s[first:last])
        parts.append(BlockTrace.of(trace.block_tokens, ids, *(column.tolist() for column in columns)))
    whole = replay(trace, policies, [capacity], touch=touch, compiled=False)
    streamed = replay_stream(iter(parts), policies, [capacity], touch=touch)
    assert len(whole) == len(streamed) == len(policies) + 1, "ttl without a bound too"
    for one, other in zip(whole, streamed, strict=True):
        same(one, other, per_request=False)
        assert other.hits is other.evicted is None


def test_batches_of_a_file_equal_the_file(shared_data: Path) -> None:
    path = shared_data / "traces" / "mooncake_synthetic.jsonl.gz"
    policies = [Lru(), Fifo(), Ttl(60)]
    for one, other in zip(
        replay(read_block_trace(path), policies, [1000]), replay_stream(block_batches(path), policies, [1000]), strict=True
    ):
        same(one, other, per_request=False)


def test_per_request_rows_add_up(shared_data: Path) -> None:
    trace = reference_trace(shared_data, "lmcache_miniswe")
    for row in replay(trace, [Lru(), Lfu(), Sieve(), Priority(), Min()], [2000]):
        assert row.hits is not None
        assert row.evicted is not None
        assert len(row.hits) == len(row.evicted) == row.requests == len(trace)
        assert row.hits.sum() == row.hit_tokens
        assert row.evicted.sum() == row.evicted_total
        assert np.all(row.hits <= trace.input_tokens)


def test_all_loops_agree_on_a_whole_trace_with_ids_that_are_not_dense(shared_data: Path) -> None:
    trace = reference_trace(shared_data, "mooncake_synthetic")
    scattered = BlockTrace(
        **{name: getattr(trace, name) for name in trace.__slots__ if name != "ids"},
        ids=(trace.ids * 2_654_435_761 + 2**40) % (2**61 - 1),
    )
    policies = [Lru(), Lfu(), Min(), Ttl(60)]
    for one, other in zip(replay(trace, policies, [1953]), replay(scattered, policies, [1953]), strict=True):
        same(one, other)
    if kernels.available():
        for one, other in zip(replay(trace, policies, [1953]), replay(scattered, policies, [1953], compiled=True), strict=True):
            same(one, other)


def test_the_order_of_a_table_is_policy_by_policy() -> None:
    trace = BlockTrace.of(16, [[1, 2], [1]], [32, 16], [1, 1], [0.0, 1.0])
    rows = replay(trace, [Lru(), Infinite(), Ttl(5)], [1, None])
    assert [(row.policy, row.capacity_blocks, row.ttl_s, row.ttl_kind) for row in rows] == [
        ("lru", 1, None, None),
        ("lru", None, None, None),
        ("infinite", None, None, None),
        ("ttl", None, 5, "sliding"),
        ("ttl", 1, 5, "sliding"),
    ]


def test_inputs_of_length_0_and_a_prompt_of_ten_million_tokens() -> None:
    blocks = 10_000_000 // 16
    trace = BlockTrace.of(16, [[], range(blocks), [], range(blocks), []], [0, 10**7, 8, 10**7, 0], [1] * 5, [0.0] * 5)
    for compiled in (False, None):
        row = replay(trace, [Lru()], [blocks], compiled=compiled)[0]
        assert row.hits is not None
        assert row.hits.tolist() == [0, 0, 0, 10**7, 0]
    assert replay(trace, [Lru()], [blocks - 1])[0].hit_blocks == blocks - 1, "the tail makes room for itself"
    assert replay(trace, [Fifo()], [1000], touch="fwd")[0].hit_blocks == 0


def test_capacity_0_bypasses_and_counts() -> None:
    trace = BlockTrace.of(16, [[1, 2], [1, 2]], [32, 32], [1, 1], [0.0, 1.0])
    for policy in (Lru(), Lfu(), Min(), Sieve()):
        for compiled in (False, True) if kernels.available() else (False,):
            row = replay(trace, [policy], [0], compiled=compiled)[0]
            assert (row.hit_blocks, row.evicted_total, row.bypassed_blocks) == (0, 0, 4)


@pytest.mark.skipif(not kernels.available(), reason="numba is not installed")
def test_sizes_beyond_64_bits_are_only_large() -> None:
    trace = BlockTrace.of(16, [[1, 2], [1, 2]], [32, 32], [1, 1], [0.0, 4e9])
    for policy in (Lru(), Lfu(), Min(), Ttl(1e300)):
        for row in replay(trace, [policy], [10**40, None], compiled=True):
            assert row.hit_blocks == 2


def test_ratios_of_nothing_are_none() -> None:
    row = replay(BlockTrace.of(16, [[]], [0], [1], [0.0]), [Lru()], [8])[0]
    assert row.block_hit_ratio is None
    assert row.token_hit_ratio is None


def test_what_cannot_be_replayed_says_why() -> None:
    trace = BlockTrace.of(16, [[1]], [16], [1], [0.0])
    with pytest.raises(InputError, match="capacity_blocks\\(=-1\\) must be at least 0"):
        replay(trace, [Lru()], [-1])
    with pytest.raises(UnknownNameError, match="touch\\(='both'\\) is not known"):
        replay(trace, [Lru()], [1], touch="both")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="policy\\(='min'\\) must know the future"):
        replay_stream([trace], [Min()], [1])
    with pytest.raises(InputError, match="batches\\(=0\\) must hold at least one part"):
        replay_stream([], [Lru()], [1])


def test_without_numba_the_plain_loops_serve() -> None:
    """A numba that cannot be imported, for whatever reason, changes no result and says nothing."""
    script = """
        import sys
        class Broken:
            def find_spec(self, name, path=None, target=None):
                if name == "numba":
                    raise SystemError("numba does not fit this numpy")
        sys.meta_path.insert(0, Broken())
        import simcache.engine.replay as module
        from simcache.cache.eviction import Lru
        from simcache.workload.block_traces import BlockTrace
        module.COMPILED_FROM_S = 0.0
        trace = BlockTrace.of(16, [[1, 2], [1, 2]], [32, 32], [1, 1], [0.0, 1.0])
        print(module.replay(trace, [Lru()], [2])[0].hit_tokens, module.capacity_curve(trace).at(2))
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("32 (2, 32)\n", "")


@pytest.mark.skipif(not kernels.available(), reason="numba is not installed")
def test_a_large_table_takes_the_compiled_loops_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def spy(function: Any) -> Any:
        used.append(function.__name__)
        return function

    monkeypatch.setattr(kernels, "compiled", spy)
    trace = BlockTrace.of(16, [[1, 2], [1]], [32, 16], [1, 1], [0.0, 1.0])
    replay(trace, [Lru()], [1])
    assert used == []
    monkeypatch.setattr("simcache.engine.replay.COMPILED_FROM_S", 3 * 1.2e-7)
    replay(trace, [Lru(), Slru()], [1])
    assert used == ["recency"], "slru has none and goes through the store"


GROWTH = """
import resource, sys
import numpy as np
from simcache.cache.eviction import Lru, Fifo
from simcache.cache.retention import Ttl
from simcache.engine.replay import replay_stream
from simcache.workload.block_traces import BlockTrace

requests, size = int(sys.argv[1]), 1000

def parts():
    for first in range(0, requests, size):
        turn = np.arange(first, first + size)
        lengths = 4 + turn % 9
        starts = np.concatenate(([0], np.cumsum(lengths)))
        session = np.repeat(turn // 7, lengths)
        ids = session * 16 + np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        yield BlockTrace(block_tokens=16, ids=ids, starts=starts, input_tokens=lengths * 16, output_tokens=lengths,
                         arrived_at_s=turn / 10, skipped={})

rows = replay_stream(parts(), [Lru(), Fifo(), Ttl(60)], [20_000])
assert all(row.requests == requests for row in rows)
assert 0.1 < rows[0].block_hit_ratio < 0.9
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_of_a_stream_does_not_grow_with_its_length() -> None:
    def peak_kib(requests: int) -> int:
        done = subprocess.run([sys.executable, "-c", GROWTH, str(requests)], capture_output=True, text=True, check=True)
        return int(done.stdout)

    short, long = peak_kib(100_000), peak_kib(1_000_000)
    assert long - short < 8 * 1024, f"{short} KiB at 10^5 requests, {long} KiB at 10^6"
