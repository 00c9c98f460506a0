"""llama.cpp's iterations: against the per-token oracle, worked examples, and a recorded server."""

from __future__ import annotations

import csv

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simcache.cache.slots import Slots
from simcache.engine.step_cost import step_cost
from simcache.engine.steps import run_steps
from simcache.errors import InputError
from simcache.latency import Coefficients, ServerProfile
from simcache.prompt import Request, Segment
from simcache.scheduler import LiveRequest
from simcache.scheduler.llamacpp import LlamaCppScheduler

from .oracles import llamacpp_steps
from .workloads import laid_out, streams


def ask(key: str, tokens: int, output: int = 1) -> Request:
    return Request(0.0, (Segment(key, tokens),), Segment(("answer", key), output))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    stream=streams,
    slots=st.integers(1, 4),
    similarity=st.sampled_from([0.0, 0.1, 0.5]),
    slot_tokens=st.none() | st.integers(2, 40),
    batch=st.integers(4, 24),
    jump=st.booleans(),
)
def test_any_workload_gives_the_schedule_of_the_per_token_oracle(stream, slots, similarity, slot_tokens, batch, jump):
    asked, arrivals, aborts = laid_out(stream)
    expected = llamacpp_steps.run(
        asked, arrivals, slots=slots, similarity=similarity, slot_tokens=slot_tokens, batch=batch, abort_steps=aborts
    )
    store = Slots(slots, slot_similarity=similarity, slot_tokens=slot_tokens)
    scheduler = LlamaCppScheduler(store, max_num_batched_tokens=batch)
    result = run_steps(asked, arrivals, scheduler, abort_steps=aborts, jump=jump)
    store.check()
    assert result.hit_tokens == expected["hit_tokens"]
    assert result.first_scheduled_step == expected["first_scheduled"]
    assert result.first_token_step == expected["first_token"]
    assert result.finish_step == expected["finish"]
    assert scheduler.held_blocks == 0


def test_prompts_share_an_iteration_in_the_order_of_slots_not_of_arrival():
    scheduler = LlamaCppScheduler(Slots(2), max_num_batched_tokens=100)
    # never-used slots are taken from the last: a, the first to come, sits in slot 1 and waits for b in slot 0
    result = run_steps([ask("a", 150), ask("b", 150)], [0, 0], scheduler)
    assert result.first_token_step == [2, 1]


def test_prompts_that_end_in_one_iteration_get_their_first_token_together():
    scheduler = LlamaCppScheduler(Slots(4))
    assert run_steps([ask("a", 10), ask("b", 900), ask("c", 1000)], [0, 0, 0], scheduler).first_token_step == [0, 0, 0]


def test_all_slots_busy_means_first_come_first_served_and_the_choice_of_a_slot_comes_late():
    requests = [ask("a", 10, 5), ask("b", 10, 20), ask("b", 30), ask("a", 30)]
    result = run_steps(requests, [0, 0, 1, 1], LlamaCppScheduler(Slots(2)))
    # the third wants b's slot, but a's is free first; then the fourth finds its own prefix overwritten
    assert result.first_scheduled_step == [0, 0, 5, 6]
    assert result.hit_tokens == [0, 0, 0, 0]


def test_of_slots_released_together_the_one_called_last_chooses_first():
    requests = [ask("a", 10, 5), ask("b", 10, 5), ask("b", 30), ask("a", 30)]
    scheduler = LlamaCppScheduler(Slots(2))
    result = run_steps(requests, [0, 0, 1, 1], scheduler)
    assert result.first_scheduled_step == [0, 0, 5, 5]
    assert result.hit_tokens == [0, 0, 10, 10]  # each finds its own: whoever chooses, a similar slot is free
    strangers = [ask("a", 10, 5), ask("b", 10, 5), ask("c", 30), ask("d", 30)]
    scheduler = LlamaCppScheduler(Slots(2))
    run_steps(strangers, [0, 0, 1, 1], scheduler)
    # a sat in slot 1, b in slot 0, which is released first: recorded of a server, d took slot 0 and c slot 1
    assert [slot.content.keys[0] for slot in scheduler.slots.slots] == ["d", "c"]


def test_an_answer_ends_where_its_slot_does_and_a_prompt_that_fills_it_is_refused():
    scheduler = LlamaCppScheduler(Slots(1, slot_tokens=20))
    result = run_steps([ask("a", 15, 50), ask("b", 20, 1)], [0, 0], scheduler)
    assert result.finish_step == [5, None]
    assert scheduler.slots.slots[0].tokens == 20


def test_decoding_is_not_taken_step_by_step():
    scheduler = LlamaCppScheduler(Slots(2))
    plans = []
    schedule = scheduler.schedule
    scheduler.schedule = lambda: plans.append(schedule()) or plans[-1]
    run_steps([ask("a", 20, 5_000), ask("b", 20, 3_000)], [0, 0], scheduler)
    assert [plan.steps for plan in plans] == [1, 2_999, 2_000]


def test_a_batch_has_room_for_every_slot():
    with pytest.raises(InputError, match="max_num_batched_tokens"):
        LlamaCppScheduler(Slots(3), max_num_batched_tokens=2)
    LlamaCppScheduler(Slots(3)).add(LiveRequest(ask("a", 1), 0))


def test_a_recorded_server_of_one_slot_comes_out_hit_for_hit(shared_data):
    with (shared_data / "cpu_engine" / "B_hi_1slot.csv").open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["t_submit"]))
    requests = [
        Request(
            0.0,
            tuple(Segment(key, int(n)) for key, n in (part.rsplit(":", 1) for part in row["segments"].split())),
            Segment(row["out_segment"], int(row["predicted_n"])),
        )
        for row in rows
    ]
    scheduler = LlamaCppScheduler(Slots(1, slot_tokens=4096))
    result = run_steps(requests, [0] * len(rows), scheduler)
    assert result.hit_tokens == [int(row["cache_n"]) for row in rows]


def test_prompts_of_several_slots_are_computed_in_parts_of_equal_length():
    scheduler = LlamaCppScheduler(Slots(3))
    for key, tokens in (("a", 20), ("b", 100), ("c", 50)):
        scheduler.add(LiveRequest(ask(key, tokens), 0))
    plan = scheduler.schedule()
    assert plan.new_tokens == 170
    assert plan.micro_batches == [(20, 3 * 20 * 20), (30, 2 * 30 * (40 + 30)), (50, 50 * (100 + 50))]
    assert sum(attention for _, attention in plan.micro_batches) == plan.attention
    # short ones attend as short chunks, however many tokens they are together
    form = Coefficients(base_s=0.5, per_token_s=0.1, attention_s=1e-3, small_below_tokens=64, small_attention_s=2e-3)
    assert step_cost(ServerProfile(name="toy", coefficients=form)).span(plan, 1) == (0.5 + 17.0 + plan.attention * 1e-3) * 1e15
    scheduler.advance(1)
    scheduler.add(LiveRequest(ask("d", 20), 3))
    assert scheduler.schedule().micro_batches == []  # alone: as profiles are fitted
