"""vLLM's scheduler and block pool: recorded schedules of the real one, and a per-block, per-token oracle."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simcache.cache.block_pool import BlockPool, replay_sequential
from simcache.engine.steps import run_steps
from simcache.errors import DeadlockError, InputError
from simcache.prompt import Request, Segment
from simcache.scheduler.vllm import LiveRequest, VllmScheduler

from .oracles import vllm_steps


def engine_file(folder: Path, name: str) -> dict:
    return json.loads(gzip.decompress((folder / "engines" / f"{name}.json.gz").read_bytes()))


def engine_requests(folder: Path, name: str) -> list[Request]:
    return [
        Request(row["t"], tuple(Segment(*pair) for pair in row["segs"]), Segment(*row["out"]), salt=row["salt"])
        for row in engine_file(folder, name)["requests"]
    ]


@pytest.mark.parametrize("jump", [True, False])
@pytest.mark.parametrize(("stream", "schedule"), [("requests", "vllm_scheduler"), ("requests_drafts", "vllm_scheduler_drafts")])
def test_recorded_schedules_of_the_real_scheduler_come_out_step_for_step(shared_data, stream, schedule, jump):
    requests = engine_requests(shared_data, stream)
    runs = engine_file(shared_data, schedule)["runs"]
    assert runs
    for run in runs:
        ranked = requests
        if run.get("priority"):
            ranked = [request._replace(priority=rank) for request, rank in zip(requests, run["priority"], strict=True)]
        pool = BlockPool(run["usable_blocks"], run["block_size"])
        scheduler = VllmScheduler(
            pool,
            max_num_seqs=run["max_num_seqs"],
            max_num_batched_tokens=run["max_num_batched_tokens"],
            policy=run.get("policy", "fcfs"),
            long_prefill_token_threshold=run.get("long_prefill_token_threshold", 0),
            watermark=run.get("watermark", 0.0),
        )
        result = run_steps(ranked, run["arrival_step"], scheduler, abort_steps=run.get("abort_step"), jump=jump)
        pool.check()
        assert result.hit_tokens == run["hit_tokens"]
        assert result.first_scheduled_step == run["first_sched_step"]
        assert result.first_token_step == run["first_token_step"]
        assert result.finish_step == run["finish_step"]
        assert result.preemptions == run["preemptions"]
        assert {row: hits for row, hits in enumerate(result.resume_hit_tokens) if hits} == dict(run["resume_hits"])


def test_recorded_sequential_runs_of_the_real_cache_manager_come_out_hit_for_hit(shared_data):
    requests = engine_requests(shared_data, "requests")
    for run in engine_file(shared_data, "vllm_sequential")["runs"]:
        replay = replay_sequential(requests, usable_blocks=run["usable_blocks"], block_tokens=run["block_size"])
        assert replay.hit_tokens == run["hit_tokens"]
        assert replay.evicted_blocks == run["evicted_blocks"]


def test_the_recorded_mooncake_run_comes_out_hit_for_hit(shared_data):
    run = engine_file(shared_data, "vllm_mooncake2000")["runs"][0]
    with gzip.open(shared_data / "traces" / "mooncake_conversation.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, run["hit_tokens"], strict=False)]
    requests = [
        Request(
            0.0,
            tuple(Segment(key, min(512, row["input_length"] - 512 * i)) for i, key in enumerate(row["hash_ids"])),
            Segment(("output", number), row["output_length"]),
        )
        for number, row in enumerate(rows)
    ]
    replay = replay_sequential(requests, usable_blocks=run["usable_blocks"], block_tokens=run["block_size"])
    assert replay.hit_tokens == run["hit_tokens"]
    assert replay.evicted_blocks == run["evicted_blocks"]


# Few keys and short segments, so that prompts share, split, repeat, and contain each other's outputs.
segments = st.builds(Segment, st.integers(0, 4), st.integers(0, 9))
requests = st.builds(
    Request,
    arrived_at_s=st.just(0.0),
    prompt=st.lists(segments, max_size=4).map(tuple),
    output=st.builds(Segment, st.integers(0, 6), st.integers(0, 7)),
    priority=st.integers(0, 2),
    salt=st.sampled_from([None, None, "b"]),
)
streams = st.lists(st.tuples(requests, st.integers(0, 5), st.none() | st.integers(0, 12)), min_size=1, max_size=14)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    stream=streams,
    blocks=st.integers(3, 30),
    size=st.integers(1, 5),
    seats=st.integers(1, 5),
    budget=st.integers(1, 24),
    priority=st.booleans(),
    threshold=st.sampled_from([0, 0, 3]),
    watermark=st.sampled_from([0.0, 0.0, 0.2]),
    visibility=st.sampled_from(["scheduled", "computed"]),
    freed_partial=st.sampled_from(["prepend", "append"]),
    jump=st.booleans(),
)
def test_any_workload_gives_the_schedule_of_the_per_block_oracle(
    stream, blocks, size, seats, budget, priority, threshold, watermark, visibility, freed_partial, jump
):
    asked = [request for request, _, _ in stream]
    steps, at = [], 0
    for _, gap, _ in stream:
        at += gap
        steps.append(at)
    aborts = [None if after is None else start + after for start, (_, _, after) in zip(steps, stream, strict=True)]
    expected, oracle_pool = vllm_steps.run(
        asked, steps, blocks=blocks, size=size, seats=seats, budget=budget, abort_steps=aborts, priority=priority,
        threshold=threshold, watermark=watermark, at_schedule=visibility == "scheduled", prepend=freed_partial == "prepend",
    )  # fmt: skip
    pool = BlockPool(blocks, size, freed_partial=freed_partial)
    scheduler = VllmScheduler(
        pool,
        max_num_seqs=seats,
        max_num_batched_tokens=budget,
        policy="priority" if priority else "fcfs",
        visibility=visibility,
        long_prefill_token_threshold=threshold,
        watermark=watermark,
    )
    result = run_steps(asked, steps, scheduler, abort_steps=aborts, jump=jump)
    pool.check()
    assert result.hit_tokens == expected["hit_tokens"]
    assert result.first_scheduled_step == expected["first_scheduled"]
    assert result.first_token_step == expected["first_token"]
    assert result.finish_step == expected["finish"]
    assert result.preemptions == expected["preemptions"]
    assert result.resume_hit_tokens == expected["resume"]
    assert pool.evicted == oracle_pool.evicted
    assert pool.free == len(oracle_pool.queue) == blocks


@settings(max_examples=200, deadline=None)
@given(stream=st.lists(requests, max_size=12), size=st.integers(1, 4))
def test_an_ample_pool_hits_exactly_what_earlier_prompts_share(stream, size):
    """Without eviction a hit is the longest prefix shared with anything computed before, in full blocks, one token short."""
    replay = replay_sequential(stream, usable_blocks=10_000, block_tokens=size)

    def tokens(request: Request, computed: int) -> list:
        prompt = [(s.key, i) for s in request.prompt for i in range(s.tokens)]
        return ([*prompt, *((request.output.key, i) for i in range(request.output.tokens))])[:computed]

    for number, request in enumerate(stream):
        prompt_tokens = sum(segment.tokens for segment in request.prompt)
        mine = tokens(request, prompt_tokens)
        best = 0
        for other in stream[:number]:
            if (other.organisation, other.salt) != (request.organisation, request.salt):
                continue
            other_prompt = sum(segment.tokens for segment in other.prompt)
            theirs = tokens(other, other_prompt + max(0, other.output.tokens - 1))
            theirs = theirs[: len(theirs) // size * size]
            same = 0
            while same < min(len(mine), len(theirs)) and mine[same] == theirs[same]:
                same += 1
            best = max(best, same)
        assert replay.hit_tokens[number] == min(best, max(0, prompt_tokens - 1)) // size * size


def test_a_request_that_can_never_fit_is_refused_and_the_rest_goes_on():
    fits = Request(0.0, (Segment("a", 20),), Segment("x", 2))
    too_long = Request(0.0, (Segment("b", 20),), Segment("y", 200))
    scheduler = VllmScheduler(BlockPool(8, 4))
    result = run_steps([too_long, fits], [0, 0], scheduler)
    assert result.finish_step == [None, 1]


def test_a_wrong_number_of_arrival_steps_is_an_error_that_says_so():
    with pytest.raises(InputError, match=r"arrival_steps\(=0\) must have one entry per request \(1\)"):
        run_steps([Request(0.0, (), Segment("x", 1))], [], VllmScheduler(BlockPool(8, 4)))


def test_a_step_that_can_do_nothing_ends_in_an_error_not_in_a_loop():
    scheduler = VllmScheduler(BlockPool(2, 4))
    scheduler.waiting.append(LiveRequest(Request(0.0, (Segment("a", 100),), Segment("x", 1)), 0))  # past add()'s refusal
    scheduler.waiting[0].root = scheduler.pool.root(None)
    with pytest.raises(DeadlockError, match="request 0 cannot be admitted"):
        run_steps([], [], scheduler)


def test_merged_duplicates_keep_one_copy():
    ask = Request(0.0, (Segment("a", 16),), Segment("x", 1))  # block-aligned: the last block is computed again
    assert replay_sequential([ask, ask], usable_blocks=8, block_tokens=4).hit_tokens == [0, 12]
    kept, merged = (BlockPool(8, 4, duplicates=kind) for kind in ("keep", "merge"))
    for pool in (kept, merged):
        run_steps([ask, ask], [0, 1], VllmScheduler(pool))
        pool.check()
    assert (kept.inserted, merged.inserted) == (5, 4)


def test_without_caching_freed_blocks_go_to_the_end_of_the_queue_and_are_taken_in_part():
    pool = BlockPool(8, 4, caching=False, freed_partial="append")
    requests = [Request(0.0, (Segment(key, 20),), Segment("x", 1)) for key in "abc"]
    assert run_steps(requests, [0, 1, 2], VllmScheduler(pool)).finish_step == [0, 1, 2]
    pool.check()
    assert pool.free == 8
