"""SGLang's scheduler: against the token-by-token oracle, and the rules one by one."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simcache.cache.radix_tree import RadixTree
from simcache.engine.steps import run_steps
from simcache.errors import InputError
from simcache.prompt import Request, Segment
from simcache.scheduler.sglang import SglangScheduler

from .oracles import sglang_steps
from .workloads import laid_out, streams


def ask(*segments: tuple[str, int], output: int = 1) -> Request:
    return Request(0.0, tuple(Segment(*segment) for segment in segments), Segment(("answer", *segments), output))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    stream=streams,
    capacity=st.integers(20, 120),
    page=st.sampled_from([1, 1, 2, 4]),
    seats=st.integers(1, 5),
    chunk=st.integers(4, 40),
    policy=st.sampled_from(["fcfs", "lpm"]),
    stretch=st.sampled_from([1, 1, 5]),
    longer=st.sampled_from([1, 1, 4]),
    jump=st.booleans(),
)
def test_any_workload_gives_the_schedule_of_the_per_token_oracle(
    stream, capacity, page, seats, chunk, policy, stretch, longer, jump
):
    if stretch * longer > 1:  # long enough to share 32 tokens, and to run out of memory
        capacity *= stretch
        stream = [
            (
                request._replace(
                    prompt=tuple(Segment(s.key, s.tokens * stretch) for s in request.prompt),
                    output=Segment(request.output.key, request.output.tokens * stretch * longer),
                ),
                gap,
                abort,
            )
            for request, gap, abort in stream
        ]
    asked, arrivals, aborts = laid_out(stream)
    expected, oracle_tree = sglang_steps.run(
        asked, arrivals, capacity=capacity, page=page, seats=seats, chunk=chunk, lpm=policy == "lpm", abort_steps=aborts
    )
    tree = RadixTree(page, capacity)
    scheduler = SglangScheduler(tree, max_num_seqs=seats, max_num_batched_tokens=chunk, policy=policy)
    result = run_steps(asked, arrivals, scheduler, abort_steps=aborts, jump=jump)
    tree.check()
    assert result.hit_tokens == expected["hit_tokens"]
    assert result.first_scheduled_step == expected["first_scheduled"]
    assert result.first_token_step == expected["first_token"]
    assert result.finish_step == expected["finish"]
    assert result.preemptions == expected["preemptions"]
    assert result.resume_hit_tokens == expected["resume"]
    assert tree.evicted_tokens == oracle_tree.evicted
    assert tree.free_tokens == oracle_tree.free
    assert tree.locked_tokens == 0


def test_one_prompt_is_cut_at_the_chunk_size_and_decodes_wait_for_all_of_it():
    scheduler = SglangScheduler(RadixTree(1, 10_000), max_num_batched_tokens=100)
    result = run_steps([ask(("a", 50), output=4), ask(("b", 320)), ask(("c", 70))], [0, 1, 1], scheduler)
    # b takes steps 1 to 4 and leaves 80 tokens of the last for c; only then a goes on
    assert result.first_token_step == [0, 4, 4]
    assert result.finish_step == [7, 4, 4]


def test_prompts_of_one_batch_do_not_hit_each_other():
    for arrivals, hits in (([0, 0], [0, 0]), ([0, 1], [0, 99])):
        scheduler = SglangScheduler(RadixTree(1, 10_000))
        assert run_steps([ask(("d", 100)), ask(("d", 100))], arrivals, scheduler).hit_tokens == hits


def queue(count: int, policy: str) -> list[int]:
    """A document in the tree, then ``count`` others and last a question about it at one instant: who goes first?"""
    scheduler = SglangScheduler(RadixTree(1, 10**6), max_num_seqs=1, policy=policy)
    others = [ask((f"o{i}", 10)) for i in range(count)]
    asked = [ask(("doc", 500)), *others, ask(("doc", 500), ("q", 5))]
    result = run_steps(asked, [0] + [1] * (count + 1), scheduler)
    return sorted(range(len(asked)), key=lambda row: result.first_scheduled_step[row])


def test_the_longest_prefix_goes_first_unless_the_queue_is_long():
    assert queue(5, "lpm") == [0, 6, 1, 2, 3, 4, 5]
    assert queue(5, "fcfs") == [0, 1, 2, 3, 4, 5, 6]
    assert queue(127, "lpm")[1] == 128
    # 129 wait at first: fcfs for one step, then longest prefix
    assert queue(128, "lpm")[1:3] == [1, 129]


def test_of_requests_that_share_a_beginning_one_goes_first_and_the_others_hit_it():
    requests = [ask(("doc", 64), ("q1", 5)), ask(("doc", 64), ("q2", 5)), ask(("x", 40)), ask(("doc", 64), ("q3", 5))]
    hits = {}
    for policy in ("fcfs", "lpm"):
        scheduler = SglangScheduler(RadixTree(1, 10_000), max_num_seqs=2, max_num_batched_tokens=10_000, policy=policy)
        result = run_steps(requests, [0] * 4, scheduler)
        hits[policy] = result.hit_tokens
        assert result.first_scheduled_step == ([0, 0, 1, 1] if policy == "fcfs" else [0, 1, 0, 1])
    assert hits == {"fcfs": [0, 0, 0, 64], "lpm": [0, 64, 0, 64]}


def test_a_retracted_request_queues_at_the_end_and_finds_its_prompt():
    scheduler = SglangScheduler(RadixTree(1, 230))
    result = run_steps([ask(("a", 20), output=100), ask(("b", 30), output=100), ask(("c", 20), output=60)], [0, 0, 0], scheduler)
    # all have generated as much when the memory is short: the longest prompt goes
    assert result.preemptions == [0, 1, 0]
    assert result.resume_hit_tokens[1] == [30]
    assert None not in result.finish_step


def test_decoding_is_not_taken_step_by_step():
    scheduler = SglangScheduler(RadixTree(16, 16_000))
    plans = []
    schedule = scheduler.schedule
    scheduler.schedule = lambda: plans.append(schedule()) or plans[-1]
    run_steps([ask(("a", 20), output=5_000), ask(("b", 20), output=3_000)], [0, 0], scheduler)
    assert [plan.steps for plan in plans] == [1, 2_999, 2_000]


@pytest.mark.parametrize(("policy", "plans"), [("fcfs", [8, 1, 3, 1]), ("lpm", [*[1] * 9, 3, 1])])
def test_a_long_prompt_is_not_computed_chunk_by_chunk(policy, plans):
    scheduler = SglangScheduler(RadixTree(16, 16_000), max_num_batched_tokens=512, policy=policy)
    decided = []
    schedule = scheduler.schedule
    scheduler.schedule = lambda: decided.append(schedule()) or decided[-1]
    result = run_steps([ask(("a", 4_500)), ask(("b", 1_900))], [0, 0], scheduler)
    assert result.first_token_step == [8, 12]  # b has what a leaves of step 8, then three chunks and a rest
    assert [plan.steps for plan in decided] == plans
    first = decided[0]
    assert (first.new_tokens, first.attention, first.attention_growth) == (512, 512**2, 2 * 512**2 if first.steps > 1 else 0)


def test_what_can_never_fit_is_refused_and_a_chunk_holds_a_page():
    scheduler = SglangScheduler(RadixTree(1, 100))
    result = run_steps([ask(("a", 60), output=40), ask(("b", 60), output=38)], [0, 0], scheduler)
    assert result.finish_step == [None, 37]
    with pytest.raises(InputError, match="max_num_batched_tokens"):
        SglangScheduler(RadixTree(64, 1000), max_num_batched_tokens=32)
