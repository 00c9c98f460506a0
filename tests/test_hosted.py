"""The hosted API on a bare clock: limits, visibility, cancellation, jitter, and what the records say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cache.presets import load_rules
from simcache.engine import hosted
from simcache.engine.clock import instant
from simcache.errors import InputError, UnknownNameError
from simcache.latency import HostedProfile
from simcache.pricing import Tariff, bill
from simcache.prompt import Request, Segment
from simcache.records import NEVER, RecordsBuilder
from simcache.scenario import HostedApi

PROFILE = HostedProfile(
    name="toy", base_s=1.0, per_token_s=1e-3, per_cached_token_s=1e-4, jitter_sigma=0.2, seconds_per_output_token=0.02
)
DOC = Segment("doc", 2000)
TOY = Tariff(
    provider="toy",
    model="toy",
    as_of="2026-11-21",
    source="made up",
    input_usd_per_token=1.0,
    cache_read_usd_per_token=0.1,
    cache_write_5m_usd_per_token=1.25,
    cache_write_1h_usd_per_token=2.0,
    output_usd_per_token=5.0,
)


class World:
    """A clock, an API and its records; ``send`` plans a request, ``run`` lets the clock run out."""

    def __init__(self, rules: str | object = "anthropic", seed: int = 0, profile: HostedProfile = PROFILE, **api) -> None:
        self.env = simpy.Environment(initial_time=0)
        self.builder = RecordsBuilder()
        name = rules if isinstance(rules, str) else "anthropic"
        settings_ = {
            "provider": "anthropic",
            "model": "claude-sonnet-4-5",
            "profile": profile,
            "rules": name,
            "jitter": False,
        } | api
        self.api = HostedApi(**settings_)
        if isinstance(rules, str):
            self.backend = hosted.build(self.env, self.api, self.builder, seed)
        else:
            self.backend = hosted.HostedBackend(self.env, self.api, rules, profile, self.builder, seed)
        self.tickets: list = []
        self.said: list[tuple[float, int, str]] = []

    def at(self, at_s: float, what) -> None:
        self.env.timeout(instant(at_s)).callbacks.append(lambda _: what())

    def send(self, at_s: float, *prompt: Segment, output: int = 11, cancel_after_s: float | None = None, **fields) -> None:
        request = Request(at_s, prompt, Segment("answer", output), **({"shared_segments": 1} | fields))

        def watch(ticket, what: str) -> None:
            self.said.append((self.env.now / 1e15, ticket.row, what))

        def go() -> None:
            ticket = self.backend.serve(request, watch=watch)
            self.tickets.append(ticket)
            if cancel_after_s is not None:
                self.at(cancel_after_s, lambda: self.backend.cancel(ticket))

        self.at(at_s, go)

    def run(self):
        self.env.run()
        return self.builder.freeze()


def test_a_cold_request_by_hand():
    world = World()
    world.send(2, DOC, Segment("q", 20), output=11)
    r = world.run()
    assert r.ttft_s.tolist() == [pytest.approx(1 + 2.020, abs=1e-9)]
    assert r.e2e_s.tolist() == [pytest.approx(1 + 2.020 + 10 * 0.02, abs=1e-9)]  # eleven tokens, ten gaps
    row = next(iter(r))
    assert row["outcome"] == "ok"
    assert (row["hit_tokens"], row["written_5m_tokens"], row["written_1h_tokens"], row["prompt_tokens"]) == (0, 2000, 0, 2020)
    assert (row["output_tokens"], row["inserted_tokens"], row["queue_ns"], row["attempts"]) == (11, 2000, 0, 1)
    assert row["first_scheduled_at_ns"] == row["sent_at_ns"] == row["submitted_at_ns"] == 2_000_000_000
    assert [(what, at) for at, _, what in world.said] == [
        ("first_token", pytest.approx(5.02)),
        ("visible", pytest.approx(5.02)),
        ("finished", pytest.approx(5.22)),
    ]


def test_a_hit_by_hand_and_the_credit_of_its_origin():
    world = World()
    world.send(0, DOC, kind="warm", output=1)
    world.send(4, DOC, Segment("q", 20))
    r = world.run()
    assert r.ttft_s[1] == pytest.approx(1 + 0.020 + 0.2, abs=1e-9)
    assert r.hit_tokens.tolist() == [0, 2000]
    assert r.written_5m_tokens.tolist() == [2000, 0]
    assert r.used_tokens.tolist() == [2000, 0]
    assert r.inserted_tokens.tolist() == [2000, 0]
    assert bill(r, TOY).warm_waste_usd == 0


def test_warm_ups_hitting_warm_ups_are_no_use():
    world = World()
    world.send(0, DOC, kind="warm", output=1)
    world.send(10, DOC, kind="warm", output=1)
    r = world.run()
    assert r.hit_tokens.tolist() == [0, 1999]
    assert r.used_tokens.tolist() == [0, 0]


@pytest.mark.parametrize(("visibility", "ready_at_s"), [("scheduled", 0.0), ("first_response", 3.0), ("finished", 3.2)])
def test_an_entry_is_visible_when_the_rules_say_so(visibility, ready_at_s):
    rules = replace(load_rules("anthropic"), visibility=visibility)
    for late_s, hit in ((-0.001, 0), (0.001, 2000)):
        if ready_at_s + late_s <= 0:
            continue
        world = World(rules)
        world.send(0, DOC)
        world.send(ready_at_s + late_s, DOC, Segment("q", 20))
        r = world.run()
        assert r.hit_tokens[1] == hit
        assert world.tickets[0].visible_at == instant(ready_at_s)
        assert [at for at, row, what in world.said if (row, what) == (0, "visible")] == [pytest.approx(ready_at_s)]


def test_two_that_miss_at_once_pay_two_writes_and_insert_once():
    world = World()
    world.send(0, DOC, kind="warm", output=1)
    world.send(1, DOC, Segment("q", 20))
    r = world.run()
    assert r.written_5m_tokens.tolist() == [2000, 2000]
    assert r.inserted_tokens.tolist() == [2000, 0]
    assert bill(r, TOY).warm_waste_usd == pytest.approx(2000 * 1.25 + 5)


def test_without_caching_nothing_is_written_read_or_visible():
    world = World(prefix_caching=False)
    world.send(0, DOC)
    world.send(100, DOC, Segment("q", 20))
    r = world.run()
    assert r.hit_tokens.sum() == r.written_5m_tokens.sum() == r.inserted_tokens.sum() == 0
    assert world.tickets[0].visible_at is None
    assert world.backend.expected_hit_tokens(Request(0.0, (DOC,), Segment("a", 1))) == 0


def test_one_hour_writes_stand_in_their_own_column():
    world = World(cache_ttl="1h")
    world.send(0, DOC)
    world.send(3000, DOC, Segment("q", 20))
    r = world.run()
    assert r.written_1h_tokens.tolist() == [2000, 0]
    assert r.written_5m_tokens.tolist() == [0, 0]
    assert r.hit_tokens.tolist() == [0, 2000]
    with pytest.raises(UnknownNameError, match="cache_ttl"):
        World("openai-2024", provider="openai", model="gpt-4o", cache_ttl="1h")


def test_openai_writes_are_free_and_count_in_units():
    world = World("openai-2024", provider="openai", model="gpt-4o")
    world.send(0, DOC, Segment("q", 6))
    world.send(100, DOC, Segment("q", 6))
    r = world.run()
    assert r.hit_tokens.tolist() == [0, 1920]  # the provider's own example: 2,006 prompt tokens
    assert r.prompt_blocks.tolist() == [16, 16]
    assert r.hit_blocks.tolist() == [0, 15]
    assert r.written_5m_tokens.sum() == 0


def test_generation_time_eats_the_lifetime():
    world = World(replace(load_rules("anthropic"), visibility="finished"))
    world.send(0, DOC, output=15_101)  # 3 s + 302 s of generation: over when it would appear
    world.send(310, DOC, Segment("q", 20))
    r = world.run()
    assert r.hit_tokens.tolist() == [0, 0]
    assert r.inserted_tokens[0] == 0


def test_no_output_ends_with_prefill():
    world = World()
    world.send(0, DOC, output=0)
    r = world.run()
    assert r.first_token_at_ns[0] == r.finished_at_ns[0] == 3_000_000_000
    assert r.output_tokens[0] == 0
    assert [what for _, _, what in world.said] == ["first_token", "visible", "finished"]


def test_a_warm_up_pays_for_the_least_output_that_the_provider_allows():
    world = World(replace(load_rules("anthropic"), warm_output_tokens=16))
    world.send(0, DOC, kind="warm", output=1)
    world.send(100, DOC, Segment("q", 20), output=1)
    r = world.run()
    assert r.output_tokens.tolist() == [16, 1]
    assert r.e2e_s[0] - r.ttft_s[0] == pytest.approx(15 * 0.02)


def test_estimates_are_what_happens_without_jitter_and_limits():
    world = World()
    request = Request(0.0, (DOC, Segment("q", 20)), Segment("a", 1), shared_segments=1)
    assert world.backend.estimate_ttft_s(request, 2000) == pytest.approx(1.22)
    assert world.backend.estimate_ttft_s(request, 10**9) == world.backend.estimate_ttft_s(request, 2019)
    world.send(0, DOC)
    world.run()
    assert world.backend.expected_hit_tokens(request) == 2000
    assert world.backend.expected_hit_tokens(request._replace(salt="other")) == 0


# --- the account's limits -----------------------------------------------------------------------------------------------


def test_requests_per_minute_bucket_and_retries():
    world = World(requests_per_minute=2, retry_after_s=1.0)
    for at_s in (0, 0, 0, 0):
        world.send(at_s, DOC)
    r = world.run()
    # two at once, then one every 30 s; both that wait try at the same seconds, the earlier one gets the place
    assert (r.queue_ns / 1e9).tolist() == [0, 0, 30, 60]
    assert r.attempts.tolist() == [1, 1, 31, 61]
    assert r.ttft_s[2] == pytest.approx(30 + 1 + 0.001 + 0.1999)  # by then the document is cached, all but its last token
    assert r.sent_at_ns.tolist() == [0, 0, 0, 0]


def test_skipped_attempts_are_attempts_that_must_fail():
    """The instant of success is the first multiple of retry_after_s at which the bucket holds enough."""
    world = World(requests_per_minute=1, retry_after_s=7.0)
    world.send(0, DOC)
    world.send(1, DOC)
    r = world.run()
    assert r.queue_ns[1] == 63e9  # 60 s after the first is second 59 of the wait; tries at 56 and 63
    assert r.attempts[1] == 10


def test_input_tokens_per_minute_with_cached_reads_free_of_charge():
    free = World(input_tokens_per_minute=2050)
    free.send(0, DOC)
    free.send(4, DOC, Segment("q", 40))
    assert free.run().queue_ns.tolist() == [0, 0]
    counted = World(replace(load_rules("anthropic"), counts_cached_reads_in_rate_limit=True), input_tokens_per_minute=2050)
    counted.send(0, DOC)
    counted.send(4, DOC, Segment("q", 40))
    assert counted.run().queue_ns[1] == 55e9  # 1,990 more tokens at 34.2 a second are there after 58.2 s, so at second 59


def test_each_organisation_has_its_own_account():
    world = World(requests_per_minute=1)
    world.send(0, DOC, organisation="a")
    world.send(0, DOC, organisation="b")
    assert world.run().queue_ns.tolist() == [0, 0]


def test_a_request_that_can_never_pass_is_rejected():
    world = World(input_tokens_per_minute=1000)
    world.send(0, DOC)
    r = world.run()
    assert r.outcome.tolist() == ["rejected"]
    assert r.first_scheduled_at_ns[0] == NEVER
    assert [what for _, _, what in world.said] == ["finished"]
    assert bill(r, TOY).total_usd == 0


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.floats(0, 20), min_size=1, max_size=25),
    rpm=st.integers(1, 20),
    tpm=st.integers(3000, 20_000),
    retry_after_s=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_no_minute_ever_passes_more_than_burst_and_refill(gaps, rpm, tpm, retry_after_s):
    world = World(requests_per_minute=rpm, input_tokens_per_minute=tpm, retry_after_s=retry_after_s, prefix_caching=False)
    at_s = 0.0
    for gap_s in gaps:
        at_s += gap_s
        world.send(at_s, DOC)
    r = world.run()
    passed_s = np.sort(r.seconds("first_scheduled_at_ns"))
    assert not np.isnan(passed_s).any()
    for i, start in enumerate(passed_s):
        for j in range(i, len(passed_s)):
            minutes = (passed_s[j] - start) / 60
            assert j - i + 1 <= rpm * (1 + minutes) + 1e-6
            assert 2000 * (j - i + 1) <= tpm * (1 + minutes) + 1e-3
    assert (r.attempts == 1 + np.rint(r.queue_ns / 1e9 / retry_after_s)).all()


# --- cancellation ----------------------------------------------------------------------------------------------------------


def test_cancelled_before_the_first_token_billed_and_kept():
    world = World()
    world.send(0, DOC, kind="warm", cancel_after_s=1)
    world.send(10, DOC, Segment("q", 20))
    r = world.run()
    row = next(iter(r))
    assert (row["outcome"], row["cancelled_at_ns"]) == ("cancelled", 1_000_000_000)
    assert row["first_token_at_ns"] is None
    assert row["finished_at_ns"] is None
    assert r.hit_tokens[1] == 2000
    assert r.used_tokens[0] == 2000
    assert bill(r, TOY).row_usd[0] == pytest.approx(2000 * 1.25)
    assert [what for _, row, what in world.said if row == 0] == ["finished"]


def test_cancelled_before_the_first_token_free_and_lost():
    world = World(replace(load_rules("anthropic"), bills_cancelled=False))
    world.send(0, DOC, kind="warm", cancel_after_s=1)
    world.send(10, DOC, Segment("q", 20))
    r = world.run()
    assert r.hit_tokens[1] == 0
    assert bill(r, replace(TOY, bills_cancelled=False)).row_usd[0] == 0


@pytest.mark.parametrize(("cancel_after_s", "output"), [(3.0, 1), (3.019, 1), (3.02, 2), (3.1, 6)])
def test_cancelled_while_answering_counts_the_tokens_so_far(cancel_after_s, output):
    world = World()
    world.send(0, DOC, cancel_after_s=cancel_after_s)
    r = world.run()
    assert r.outcome.tolist() == ["cancelled"]
    assert r.output_tokens.tolist() == [output]
    assert r.inserted_tokens.tolist() == [2000]


def test_cancelled_while_answering_where_entries_appear_at_the_end():
    world = World(replace(load_rules("anthropic"), visibility="finished"))
    world.send(0, DOC, cancel_after_s=3.1)
    world.send(3.15, DOC, Segment("q", 20))
    assert world.run().hit_tokens[1] == 2000


def test_cancelled_while_waiting_for_the_limit_costs_nothing():
    world = World(requests_per_minute=1)
    world.send(0, DOC)
    world.send(1, DOC, cancel_after_s=5)
    r = world.run()
    assert r.outcome.tolist() == ["ok", "cancelled"]
    assert r.queue_ns[1] == 5e9
    assert bill(r, TOY).row_usd[1] == 0


def test_cancel_after_the_end_does_nothing():
    world = World()
    world.send(0, DOC, cancel_after_s=100)
    assert world.run().outcome.tolist() == ["ok"]


# --- jitter and determinism --------------------------------------------------------------------------------------------------


def jittered(seed: int, rows: range, **api):
    world = World(seed=seed, jitter=True, **api)
    for i in rows:
        world.send(i * 1000.0, DOC, session=f"s{i}", shared_segments=None, salt=str(i))
    return world.run()


def test_jitter_is_log_normal_with_median_one():
    r = jittered(1, range(2000))
    logs = np.log(r.ttft_s / 3.0)
    assert np.median(logs) == pytest.approx(0, abs=0.02)
    assert logs.std() == pytest.approx(0.2, rel=0.06)


def test_jitter_depends_on_seed_and_question_only():
    assert jittered(1, range(20)) == jittered(1, range(20))
    assert (jittered(1, range(20)).ttft_s != jittered(2, range(20)).ttft_s).all()
    shifted = jittered(1, range(5, 20)).ttft_s
    assert shifted == pytest.approx(jittered(1, range(20)).ttft_s[5:])  # whoever else asks


def test_jitter_of_a_question_is_the_same_with_and_without_a_warm_up():
    def question(warm: bool) -> float:
        world = World(seed=4, jitter=True, prefix_caching=False)
        if warm:
            world.send(0, DOC, kind="warm", session="s", output=1)
        world.send(10, DOC, session="s")
        return world.run().ttft_s[-1]

    assert question(True) == question(False)


def test_shifting_all_times_changes_no_ttft():
    def run(shift_s: float):
        world = World(seed=3, jitter=True, requests_per_minute=4)
        for i in range(12):
            world.send(shift_s + i * 7.0, DOC, session=f"s{i}")
        return world.run()

    near, far = run(0.0), run(1e6)
    assert near.ttft_s.tolist() == far.ttft_s.tolist()
    assert near.attempts.tolist() == far.attempts.tolist()


def test_own_pace_of_output():
    world = World(seconds_per_output_token=0.5)
    world.send(0, DOC, output=3)
    r = world.run()
    assert (r.e2e_s - r.ttft_s).tolist() == [pytest.approx(1.0)]


def test_a_replicas_profile_is_refused():
    with pytest.raises(InputError, match="hosted"):
        World(profile="llama-3-8b/a100/tp1")


def test_rules_default_to_the_providers_own():
    world = World(rules="openai-2024", provider="openai", model="gpt-4o")
    default = hosted.build(world.env, replace(world.api, rules=None), world.builder, 0)
    assert default.rules == world.backend.rules


def test_three_events_a_request_at_most():
    world = World()
    for i in range(100):
        world.send(i * 10.0, DOC, Segment("q", 20))
    events = 0
    while world.env.peek() != math.inf:
        world.env.step()
        events += 1
    assert events <= 3 * 100  # sending, first token, finished
