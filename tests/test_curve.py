"""The hit ratio at every capacity and lifetime from one pass: equal to point runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cache import curve as curve_module
from simcache.cache import kernels
from simcache.cache.curve import HitCurve, lru_curve, stack_distances, ttl_curve
from simcache.cache.eviction import Lru
from simcache.cache.plain import TOUCHES, Touch
from simcache.cache.retention import Ttl
from simcache.engine.replay import capacity_curve, lifetime_curve, replay
from simcache.errors import UnknownNameError
from simcache.workload.block_traces import BlockTrace, read_block_trace

COMPILED = [False, pytest.param(True, marks=pytest.mark.skipif(not kernels.available(), reason="numba is not installed"))]


@st.composite
def traces(draw: st.DrawFn, rises: bool = True) -> BlockTrace:
    """Chained and loose requests, repeated ids within one, empty ones, inputs that end inside or behind the last block."""
    tokens = draw(st.integers(1, 20))
    chained = st.builds(lambda root, depth: [root * 10 + i for i in range(depth)], st.integers(0, 4), st.integers(0, 9))
    ids = draw(st.lists(st.one_of(chained, chained, st.lists(st.integers(0, 15), max_size=8)), max_size=40))
    inputs = [draw(st.integers(max(0, len(each) * tokens - tokens), len(each) * tokens + 5)) for each in ids]
    instants = draw(st.lists(st.integers(0, 60), min_size=len(ids), max_size=len(ids)))
    return BlockTrace.of(tokens, ids, inputs, [1] * len(ids), [float(t) for t in (sorted(instants) if rises else instants)])


@pytest.mark.parametrize("compiled", COMPILED)
@given(trace=traces(), touch=st.sampled_from(TOUCHES), seed=st.integers(0, 2**20))
@settings(max_examples=120, deadline=None)
def test_capacity_curve_equals_point_runs(trace: BlockTrace, touch: str, seed: int, compiled: bool) -> None:
    curve = capacity_curve(trace, touch=touch, compiled=compiled)
    capacities = [int(c) for c in np.random.default_rng(seed).integers(0, 70, size=20)]
    for row in replay(trace, [Lru()], capacities, touch=touch, compiled=False):
        assert row.capacity_blocks is not None
        assert curve.at(row.capacity_blocks) == (row.hit_blocks, row.hit_tokens)
    assert (curve.total_blocks, curve.total_tokens, curve.requests) == (len(trace.ids), trace.input_tokens.sum(), len(trace))


@given(trace=traces(rises=False), touch=st.sampled_from(TOUCHES))
@settings(max_examples=120, deadline=None)
def test_lifetime_curve_equals_point_runs(trace: BlockTrace, touch: str) -> None:
    curve = lifetime_curve(trace, touch=touch)
    for row in replay(trace, [Ttl(s) for s in (0, 0.5, 1, 2, 3, 7, 20, 59, 60)], touch=touch, compiled=False):
        assert row.ttl_s is not None
        assert curve.at(round(row.ttl_s * 1e9)) == (row.hit_blocks, row.hit_tokens)


@given(trace=traces(), touch=st.sampled_from(TOUCHES))
@settings(max_examples=80, deadline=None)
def test_stack_distances_by_their_definition(trace: BlockTrace, touch: str) -> None:
    """The distinct blocks used since the block's last use, itself included; both loops agree with a list kept by hand."""
    expected: list[int] = []
    recent: list[int] = []  # most recent first
    never = len(trace.ids) + 1
    for start, end in zip(trace.starts[:-1], trace.starts[1:], strict=True):
        blocks = trace.ids[start:end].tolist()
        if touch != "any":
            expected += [recent.index(block) + 1 if block in recent else never for block in blocks]
        for block in reversed(blocks) if touch == "rev" else blocks:
            if touch == "any":
                expected.append(recent.index(block) + 1 if block in recent else never)
            if block in recent:
                recent.remove(block)
            recent.insert(0, block)
    assert stack_distances(trace.ids, trace.starts, touch).tolist() == expected
    n = int(trace.ids.max(initial=-1)) + 1
    assert kernels.distances(trace.ids, trace.starts, n, TOUCHES.index(touch)).tolist() == expected


def test_a_prompt_that_repeats_one_id_a_million_times() -> None:
    trace = BlockTrace.of(1, [[7] * 1_000_000, [7] * 1_000_000], [10**6, 10**6], [1, 1], [0.0, 1.0])
    assert capacity_curve(trace, compiled=False).at(1) == (10**6, 10**6)
    assert lifetime_curve(trace).at(10**9) == (10**6, 10**6)


def test_curve_of_nothing() -> None:
    for ids in ([], [[]], [[], []]):
        trace = BlockTrace.of(16, ids, [0] * len(ids), [1] * len(ids), [0.0] * len(ids))
        for curve in (capacity_curve(trace), lifetime_curve(trace)):
            assert curve.at(10**6) == (0, 0)
            assert len(curve.steps) == len(curve.knees()) == 0


def test_hits_grow_with_capacity_up_to_the_unbounded_cache(shared_data: Path) -> None:
    trace = read_block_trace(shared_data / "traces" / "mooncake_conversation.jsonl.gz", "mooncake")
    curve = capacity_curve(trace, compiled=False)
    assert np.all(np.diff(curve.steps) > 0)
    assert np.all(np.diff(curve.hit_blocks) > 0)
    assert np.all(np.diff(curve.hit_tokens) > 0)
    unbounded = replay(trace, [Lru()])[0]
    assert curve.at(len(trace.ids)) == (unbounded.hit_blocks, unbounded.hit_tokens)
    assert curve.block_hit_ratio[-1] == unbounded.block_hit_ratio
    assert curve.token_hit_ratio[-1] == unbounded.token_hit_ratio
    for capacity in (1, 100, 5_000, 40_000):
        row = replay(trace, [Lru()], [capacity])[0]
        assert curve.at(capacity) == (row.hit_blocks, row.hit_tokens)


def curve_through(points: list[tuple[int, int]]) -> HitCurve:
    x, y = (np.array(column, dtype=np.int64) for column in zip(*points, strict=True))
    return HitCurve(
        over="capacity_blocks", steps=x, hit_blocks=y, hit_tokens=y, total_blocks=100, total_tokens=100, block_tokens=1, requests=1
    )


def test_knees_are_where_the_slope_breaks() -> None:
    """80 hits by 10 blocks, 10 more by 60, nothing more until 100, then 5: a step that is no corner is left out."""
    curve = curve_through([(5, 40), (10, 80), (30, 81), (60, 90), (100, 95)])
    assert curve.knees().tolist() == [1, 3, 4]
    assert curve.knees(most=2).tolist() == [1, 4], "the sharpest and the end"
    assert curve.knees(most=1).tolist() == [4]
    assert curve_through([(5, 10)]).knees().tolist() == [0]
    assert curve_through([(1, 1), (2, 2), (3, 3)]).knees().tolist() == [2], "a straight line has no knee"


@given(points=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=30), most=st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_knees_lie_on_the_concave_hull(points: list[tuple[int, int]], most: int) -> None:
    x, y = np.cumsum([p[0] for p in points]), np.cumsum([p[1] for p in points])
    curve = curve_through([(int(a), int(b)) for a, b in zip(x, y, strict=True)])
    knees = curve.knees(most)
    assert 1 <= len(knees) <= most
    assert knees[-1] == len(points) - 1
    assert np.all(np.diff(knees) > 0)
    slopes = np.diff(np.concatenate(([0], y[knees]))) / np.diff(np.concatenate(([0], x[knees])))
    assert np.all(np.diff(slopes) < 0), "each further one buys less"
    if len(knees) < most:
        assert np.all(np.interp(x, np.concatenate(([0], x[knees])), np.concatenate(([0], y[knees]))) >= y - 1e-9)


def test_unknown_touch() -> None:
    trace = BlockTrace.of(16, [[1]], [16], [1], [0.0])
    for curve in (capacity_curve, lifetime_curve):
        with pytest.raises(UnknownNameError, match="touch\\(='both'\\) is not known"):
            curve(trace, touch="both")


def test_lower_level_curves_take_plain_arrays() -> None:
    ids, starts, tokens = np.array([1, 2, 1, 2, 3]), np.array([0, 2, 5]), np.array([32, 48])
    assert lru_curve(ids, starts, tokens, block_tokens=16).hit_blocks.tolist() == [1, 2]
    assert ttl_curve(ids, starts, tokens, np.array([0, 7]), block_tokens=16).steps.tolist() == [7]


def test_a_clock_that_runs_backwards_asks_for_no_lifetime_below_0() -> None:
    columns = (np.array([1, 1]), np.array([0, 1, 2]), np.array([16, 16]), np.array([5, 0]))
    curve = curve_module.ttl_curve(*columns, block_tokens=16)
    assert (curve.steps.tolist(), curve.at(0)) == ([0], (1, 16))


@given(trace=traces(), touch=st.sampled_from(TOUCHES), part=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_counting_in_parts_changes_nothing(trace: BlockTrace, touch: Touch, part: int) -> None:
    whole = capacity_curve(trace, touch=touch, compiled=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curve_module, "_PART_ACCESSES", part)
        parts = capacity_curve(trace, touch=touch, compiled=False)
    assert (parts.steps.tolist(), parts.hit_blocks.tolist()) == (whole.steps.tolist(), whole.hit_blocks.tolist())
    assert parts.hit_tokens.tolist() == whole.hit_tokens.tolist()
