"""Plans of steps: the closed form against one step at a time, and against the seconds that the profile predicts."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simcache.engine.clock import TICKS_PER_S
from simcache.engine.step_cost import StepCost, TableCost
from simcache.latency import Coefficients
from simcache.latency.kernel_tables import KernelTables
from simcache.scheduler.vllm import LiveRequest, Plan

coefficients = st.builds(
    Coefficients,
    host_s=st.sampled_from([0.0, 0.003]),
    host_per_seq_s=st.sampled_from([0.0, 7.1e-5]),
    floor_s=st.sampled_from([0.0, 0.0101, 0.5]),
    floor_per_token_s=st.sampled_from([0.0, 1e-5]),
    base_s=st.sampled_from([0.0, 0.0049]),
    per_token_s=st.sampled_from([0.0, 6.88e-5]),
    attention_s=st.sampled_from([0.0, 3.2e-9, 1e-6]),
    per_decode_s=st.sampled_from([0.0, 4.19e-5]),
    per_kv_token_s=st.sampled_from([0.0, 7.55e-8]),
    per_kv_token_mixed_s=st.just(1.1e-7),
    small_below_tokens=st.sampled_from([0, 64]),
    small_attention_s=st.just(9e-9),
    knot_1_tokens=st.sampled_from([0, 300]),
    per_token_2_s=st.just(5e-5),
    quadratic_s=st.sampled_from([0.0, 1e-9]),
    decode_s=st.sampled_from([None, 0.002]),
)


TOY_TABLES = KernelTables(
    dense=((1, 0.01), (100, 0.02), (2000, 0.2)),
    per_sequence=((1, 0.001), (64, 0.002)),
    attention=(
        *((0, 0, b, kv, 1e-3 + 1e-7 * b * kv**0.9) for b in (1, 8, 64) for kv in (16, 128, 4096)),
        *(
            (n, c, b, kv, 2e-3 + 1e-8 * n * (c + n) + 2e-7 * b * kv)
            for n in (16, 512)
            for c in (0, 4096)
            for b in (0, 8)
            for kv in (0, 999)
        ),
    ),
)


@settings(max_examples=100, deadline=None)
@given(
    chunk=st.integers(0, 2_048),
    decodes=st.integers(0, 128),
    kv_per_decode=st.integers(1, 9_000),
    steps=st.integers(1, 60),
    cut=st.integers(1, 60),
)
def test_a_table_cut_and_continued_loses_nothing(chunk, decodes, kv_per_decode, steps, cut):
    assume(chunk or decodes)
    cost = TableCost(TOY_TABLES, Coefficients(host_s=2e-4, host_per_seq_s=1e-6), 1.07)

    def plan(step):
        found = plan_of(chunk, 0, decodes, decodes * (kv_per_decode + step))
        for live in found.chunks:
            live.scheduled, live.computed = chunk, chunk * step
        return found

    whole = plan(0)
    cost.span(whole, min(cut, steps))  # asked in two parts
    assert cost.span(whole, steps) == sum(cost.span(plan(step), 1) for step in range(steps))
    elapsed = cost.span(whole, steps) - 1
    assert cost.steps_until(whole, elapsed, steps) == steps


def plan_of(chunk: int, present: int, decodes: int, kv_tokens: int) -> Plan:
    plan = Plan()
    plan.decodes, plan.kv_tokens = decodes, kv_tokens if decodes else 0
    if chunk:
        plan.chunks = [LiveRequest.__new__(LiveRequest)]
        plan.new_tokens = chunk
        plan.attention, plan.attention_growth = chunk * (2 * present + chunk), 2 * chunk * chunk
    return plan


@settings(max_examples=300, deadline=None)
@given(
    form=coefficients,
    chunk=st.integers(0, 2_048),
    present=st.integers(0, 100_000),
    decodes=st.integers(0, 128),
    kv_tokens=st.integers(0, 400_000),
    steps=st.integers(1, 60),
)
def test_k_steps_at_once_take_what_they_take_one_by_one(form, chunk, present, decodes, kv_tokens, steps):
    cost = StepCost(form)
    one_by_one = 0
    for i in range(steps):
        single = plan_of(chunk, present + i * chunk, decodes, kv_tokens + i * decodes)
        one_by_one += cost.span(single, 1)
        seconds = form.step_s(chunk, chunk * (present + i * chunk + chunk / 2), decodes, single.kv_tokens, decodes + (chunk > 0))
        assert cost.span(single, 1) / TICKS_PER_S == pytest.approx(seconds, rel=1e-6, abs=1e-9)
    plan = plan_of(chunk, present, decodes, kv_tokens)
    assert cost.span(plan, steps) == one_by_one


@settings(max_examples=200, deadline=None)
@given(form=coefficients, chunk=st.integers(0, 900), present=st.integers(0, 50_000), decodes=st.integers(0, 64), data=st.data())
def test_the_boundary_found_is_the_first_at_or_after(form, chunk, present, decodes, data):
    cost, most = StepCost(form), data.draw(st.sampled_from([40, 1_000_000]))
    plan = plan_of(chunk, present, decodes, 1_000)
    elapsed = data.draw(st.integers(0, cost.span(plan, most)))
    steps = cost.steps_until(plan, elapsed, most)
    assert 1 <= steps <= most
    assert cost.span(plan, steps) >= elapsed or steps == most
    assert steps == 1 or cost.span(plan, steps - 1) < elapsed
