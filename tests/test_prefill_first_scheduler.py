"""Prefill before decode: against the per-block oracle, and what it means for a person whose answer is being written."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simcache.cache.block_pool import BlockPool
from simcache.engine.steps import run_steps
from simcache.prompt import Request, Segment
from simcache.scheduler.prefill_first import PrefillFirstScheduler

from .oracles import prefill_first_steps
from .workloads import laid_out, streams


def ask(key: str, tokens: int, output: int) -> Request:
    return Request(0.0, (Segment(key, tokens),), Segment(("answer", key), output))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    stream=streams,
    blocks=st.integers(3, 30),
    size=st.integers(1, 5),
    seats=st.integers(1, 5),
    budget=st.integers(1, 40),
    freed_partial=st.sampled_from(["prepend", "append"]),
    jump=st.booleans(),
)
def test_any_workload_gives_the_schedule_of_the_per_block_oracle(stream, blocks, size, seats, budget, freed_partial, jump):
    asked, arrivals, aborts = laid_out(stream)
    expected, oracle_pool = prefill_first_steps.run(
        asked, arrivals, blocks=blocks, size=size, seats=seats, budget=budget, abort_steps=aborts,
        prepend=freed_partial == "prepend",
    )  # fmt: skip
    pool = BlockPool(blocks, size, freed_partial=freed_partial)
    scheduler = PrefillFirstScheduler(pool, max_num_seqs=seats, max_num_batched_tokens=budget)
    result = run_steps(asked, arrivals, scheduler, abort_steps=aborts, jump=jump)
    pool.check()
    assert result.hit_tokens == expected["hit_tokens"]
    assert result.first_scheduled_step == expected["first_scheduled"]
    assert result.first_token_step == expected["first_token"]
    assert result.finish_step == expected["finish"]
    assert result.preemptions == expected["preemptions"]
    assert result.resume_hit_tokens == expected["resume"]
    assert pool.evicted == oracle_pool.evicted
    assert pool.free == len(oracle_pool.queue) == blocks


def test_a_prompt_stops_every_answer_for_a_step():
    scheduler = PrefillFirstScheduler(BlockPool(100, 16))
    result = run_steps([ask("a", 20, 5), ask("b", 20, 2)], [0, 2], scheduler)
    # a: prompt at 0, decode at 1, waits at 2 for b's prompt, then three decodes
    assert result.first_token_step == [0, 2]
    assert result.finish_step == [5, 3]


def test_a_step_takes_prompts_until_the_budget_and_at_least_one():
    scheduler = PrefillFirstScheduler(BlockPool(100, 16), max_num_batched_tokens=50)
    result = run_steps([ask("a", 300, 1), ask("b", 30, 1), ask("c", 30, 1)], [0, 0, 0], scheduler)
    assert result.first_token_step == [0, 1, 2]


def test_prompts_of_one_step_do_not_hit_each_other():
    ample = PrefillFirstScheduler(BlockPool(100, 16))
    assert run_steps([ask("d", 100, 1), ask("d", 100, 1)], [0, 0], ample).hit_tokens == [0, 0]
    ample = PrefillFirstScheduler(BlockPool(100, 16))
    assert run_steps([ask("d", 100, 1), ask("d", 100, 1)], [0, 1], ample).hit_tokens == [0, 96]


def test_decoding_is_not_taken_step_by_step():
    scheduler = PrefillFirstScheduler(BlockPool(1000, 16))
    plans = []
    schedule = scheduler.schedule
    scheduler.schedule = lambda: plans.append(schedule()) or plans[-1]
    run_steps([ask("a", 20, 5_000), ask("b", 20, 3_000)], [0, 0], scheduler)
    assert [plan.steps for plan in plans] == [1, 2_999, 2_000]
