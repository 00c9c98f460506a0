"""The other engines on the clock: jumping and stepping, faults, accounts, options that go with an engine, warm-ups that yield."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cache.block_pool import BlockPool
from simcache.engine import cluster
from simcache.engine.clock import Clock, instant
from simcache.engine.run import simulate
from simcache.engine.steps import run_steps
from simcache.errors import InputError, UnknownNameError
from simcache.faults import Crash, Slow
from simcache.latency import Coefficients, ServerProfile
from simcache.prompt import Request, Segment
from simcache.records import NEVER, RecordsBuilder
from simcache.scenario import ENGINES, Cluster, Scenario, Server
from simcache.scheduler.idle_warm_ups import IdleWarmUpsScheduler
from simcache.scheduler.vllm import VllmScheduler
from simcache.workload.synthetic import PoissonRequests, RequestList

from .workloads import laid_out, streams

LATENCY = ServerProfile(
    name="test",
    coefficients=Coefficients(
        host_s=0.001, host_per_seq_s=1e-5, floor_s=0.004, base_s=0.003, per_token_s=7.1e-5, attention_s=3.3e-7,
        per_decode_s=4.19e-5, per_kv_token_s=7.55e-8, per_kv_token_mixed_s=1.3e-7,
    ),
    kv_tokens=100_000,
)  # fmt: skip
PLAIN = ServerProfile(name="plain", coefficients=Coefficients(per_token_s=1e-3, per_decode_s=0.01), kv_tokens=100_000)
OPTIONS = {
    "vllm": {"warm_ups": "when_idle"},
    "sglang": {"policy": "lpm"},
    "prefill-first": {},
    "llamacpp": {"slots": 3},
}


def ask(at_s: float, key: str, tokens: int, output: int = 1, **more) -> Request:
    return Request(at_s, (Segment(key, tokens),), Segment(("answer", key, at_s), output), **more)


def run(requests, **server):
    server.setdefault("profile", PLAIN)
    return simulate(Scenario(workload=RequestList(rows=tuple(requests)), backend=Server(**server))).records


def play(workload, server: Cluster):
    """A workload of (gap, key, tokens, output, cancelled after, kind) on the clock; all accounts must end at zero."""
    clock, records = Clock(), RecordsBuilder()
    backend = cluster.build(clock, server, LATENCY, records)
    ended: list[int] = []

    def send(request, cancel_after):
        ticket = backend.serve(request, watch=lambda t, what: ended.append(t.row) if what == "finished" else None)
        if cancel_after is not None:
            clock.call(lambda _: backend.cancel(ticket), instant(cancel_after))

    at = 0.0
    for number, (gap, key, tokens, output, cancel_after, kind) in enumerate(workload):
        at += gap
        request = Request(at, (Segment("system", 20), Segment(key, tokens)), Segment(number % 5, output), kind=kind)
        clock.call(lambda _, r=request, c=cancel_after: send(r, c), instant(at))
    clock.run()
    frozen = records.freeze()
    assert sorted(ended) == list(range(len(workload)))
    for replica in backend.replicas:
        assert (replica.outstanding, replica.queued_tokens) == (0, 0)
        assert not replica.scheduler.running
        if server.engine != "llamacpp":
            assert replica.scheduler.held_blocks == 0
    return frozen


workloads = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.01, 0.05, 0.4, 3.0]),  # gaps: ties, bursts, idle time
        st.integers(0, 3),
        st.integers(0, 120),
        st.integers(0, 30),
        st.none() | st.sampled_from([0.0, 0.03, 0.2, 1.0]),  # cancelled after
        st.sampled_from(["user", "user", "warm"]),
    ),
    min_size=1,
    max_size=25,
)
faults = st.lists(
    st.builds(Crash, at_s=st.floats(0, 4), replica=st.integers(0, 1), down_s=st.none() | st.floats(0.1, 3))
    | st.builds(Slow, at_s=st.floats(0, 4), replica=st.integers(0, 1), factor=st.sampled_from([0.5, 4.0]), for_s=st.floats(0.1, 3)),
    max_size=3,
).map(tuple)


@pytest.mark.parametrize("engine", ["prefill-first", "sglang", "vllm"])
def test_a_router_that_looks_inside_sees_in_a_jump_what_it_sees_in_steps(engine):
    seen = []

    def look(request, replicas):
        seen.append([(replica.active_blocks, replica.expected_hit_tokens(request)) for replica in replicas])
        return min(range(3), key=lambda i: (seen[-1][i][0] - seen[-1][i][1] / 16, replicas[i].outstanding))

    for seed in range(5):
        rng = np.random.default_rng(seed)
        rows = tuple(
            Request(
                float(at),
                (
                    Segment(("doc", int(rng.integers(4))), int(rng.integers(50, 1_500))),
                    Segment(("q", row), int(rng.integers(1, 60))),
                ),
                Segment(("a", row), int(rng.integers(1, 200))),
            )
            for row, at in enumerate(np.sort(rng.uniform(0, 4, 30)).round(3))
        )
        server = Cluster(
            profile=LATENCY, kv_tokens=6_000, replicas=3, router=look, engine=engine, max_num_seqs=8, max_num_batched_tokens=128
        )
        records = []
        for jump in (True, False):
            scenario = Scenario(workload=RequestList(rows=rows), backend=dataclasses.replace(server, jump=jump))
            records.append(simulate(scenario).records)
        assert seen[:30] == seen[30:]
        assert records[0] == records[1]
        seen.clear()


@pytest.mark.parametrize("engine", sorted(ENGINES))
@settings(max_examples=80, deadline=None)
@given(
    workload=workloads,
    kv_blocks=st.integers(45, 120),
    seats=st.integers(1, 6),
    budget=st.sampled_from([4, 32, 200]),
    faults=faults,
    caching=st.booleans(),
    router=st.sampled_from(["round_robin", "least_tokens", "cache_aware"]),
)
def test_jumping_gives_the_records_of_stepping(engine, workload, kv_blocks, seats, budget, faults, caching, router):
    options = dict(OPTIONS[engine])
    if engine != "llamacpp":
        options |= {"block_tokens": 4, "max_num_seqs": seats}
    server = Cluster(
        profile=LATENCY, engine=engine, kv_tokens=kv_blocks * 4, max_num_batched_tokens=budget, replicas=2,
        prefix_caching=caching, faults=faults, router=router, **options,
    )  # fmt: skip
    jumped = play(workload, server)
    assert jumped == play(workload, dataclasses.replace(server, jump=False))
    assert set(jumped.outcome.tolist()) <= {"ok", "cancelled", "rejected", "failed"}
    assert ((jumped.finished_at_ns != NEVER) == (jumped.outcome == "ok")).all()
    assert (jumped.hit_tokens <= np.maximum(0, jumped.prompt_tokens - 1)).all()
    assert (jumped.used_tokens + jumped.dropped_tokens <= jumped.inserted_tokens).all()
    if not caching:
        assert not jumped.hit_tokens.any()
        assert not jumped.inserted_tokens.any()


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_one_prompt_alone_takes_the_same_on_every_engine_and_a_repeat_what_the_store_left(engine):
    records = run([ask(0.0, "doc", 1600, 3), ask(9.0, "doc", 1600, 3)], engine=engine)
    left = {"vllm": 16, "sglang": 16, "prefill-first": 16, "llamacpp": 1}[engine]
    assert records.hit_tokens.tolist() == [0, 1600 - left]
    assert records.ttft_s.tolist() == pytest.approx([1.6, left * 1e-3], abs=1e-12)
    assert records.seconds("finished_at_ns").tolist() == pytest.approx([1.62, 9.02 + left * 1e-3], abs=1e-12)
    assert records.output_tokens.tolist() == [3, 3]


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_events_do_not_follow_output_tokens(engine):
    workload = PoissonRequests(rate_per_s=2, count=200, prompt_tokens=500, output_tokens=400, shared_prefix_tokens=200)
    latency = dataclasses.replace(LATENCY, coefficients=Coefficients(base_s=0.002, per_token_s=2e-5))
    slots = {"slots": 8} if engine == "llamacpp" else {}
    result = simulate(Scenario(workload=workload, backend=Server(profile=latency, engine=engine, **slots)), seed=2)
    assert (result.records.outcome == "ok").all()
    assert result.wall.events < 6 * 200


def test_an_answer_cut_by_its_slot_is_recorded_as_long_as_it_was():
    records = run([ask(0.0, "doc", 90, 50), ask(0.0, "long", 100, 1)], engine="llamacpp", kv_tokens=100)
    assert records.outcome.tolist() == ["ok", "rejected"]
    assert records.output_tokens[0] == 11


def test_a_similar_slot_threshold_decides_what_a_new_conversation_overwrites():
    system = Segment("system", 30)
    turns = [
        Request(float(i), (system, Segment(doc, 170)), Segment(("a", i), 2)) for i, doc in enumerate(("one", "two", "one", "two"))
    ]
    shared = run(turns, engine="llamacpp", slots=2)
    apart = run(turns, engine="llamacpp", slots=2, slot_similarity=0.5)
    assert shared.hit_tokens.tolist() == [0, 30, 30, 30]
    assert apart.hit_tokens.tolist() == [0, 0, 199, 199]


def test_options_go_with_their_engine():
    with pytest.raises(UnknownNameError, match="sglang"):
        Server(engine="sglnag")
    with pytest.raises(InputError, match=r"slots\(=4\) goes with engine 'llamacpp', not 'vllm'"):
        Server(slots=4)
    with pytest.raises(InputError, match="max_num_seqs"):
        Server(engine="llamacpp", max_num_seqs=4)
    with pytest.raises(InputError, match=r"policy\(='lpm'\) must be 'fcfs' or 'priority' for engine 'vllm'"):
        Server(policy="lpm")
    with pytest.raises(InputError, match="max_num_batched_tokens"):
        Server(engine="sglang", block_tokens=64, max_num_batched_tokens=32)
    with pytest.raises(InputError, match="max_num_batched_tokens"):
        Server(engine="llamacpp", slots=4, max_num_batched_tokens=2)
    with pytest.raises(InputError, match="kv_tokens"):
        Server(engine="llamacpp", slots=40, kv_tokens=64)
    with pytest.raises(InputError, match="warm_ups"):
        Server(engine="sglang", warm_ups="when_idle")
    with pytest.raises(InputError, match="slot_similarity"):
        Server(engine="llamacpp", slot_similarity=2)


def test_a_warm_up_yields_to_people_and_goes_on_where_it_was():
    requests = [ask(0.0, "draft", 320, kind="warm"), ask(0.1, "other", 64), ask(5.0, "draft", 330)]
    polite = run(requests, warm_ups="when_idle", max_num_batched_tokens=64)
    # chunks of 64 ms: the user comes in the second one, runs from 0.128 to 0.192 s, then the warm-up hits its own 128 tokens
    assert polite.ttft_s.tolist() == pytest.approx([0.32 + 0.064, 0.092, 0.010], abs=1e-12)
    assert polite.preemptions.tolist() == [1, 0, 0]
    assert polite.hit_tokens.tolist() == [0, 0, 320]
    equal = run(requests, max_num_batched_tokens=64)
    assert equal.ttft_s[1] == pytest.approx(0.22 + 0.064, abs=1e-12)
    assert equal.preemptions.tolist() == [0, 0, 0]


def test_warm_ups_wait_while_anybody_is_being_answered():
    requests = [ask(0.0, "a", 100, 50), ask(0.05, "draft", 100, kind="warm"), ask(0.2, "b", 100)]
    records = run(requests, warm_ups="when_idle")
    assert records.seconds("first_scheduled_at_ns")[1] == records.seconds("finished_at_ns")[0]


@settings(max_examples=200, deadline=None)
@given(
    stream=streams,
    blocks=st.integers(8, 30),
    seats=st.integers(1, 5),
    budget=st.integers(1, 24),
    policy=st.sampled_from(["fcfs", "priority"]),
    linger=st.sampled_from([0, 1]),
    jump=st.booleans(),
)
def test_people_never_notice_warm_ups_except_in_the_cache(stream, blocks, seats, budget, policy, linger, jump):
    """Prompts of warm-ups share nothing with people's: people's steps are those of an engine without warm-ups."""
    stream = [
        (
            request._replace(
                prompt=tuple(Segment((request.kind, s.key), s.tokens) for s in request.prompt),
                output=Segment((request.kind, row), request.output.tokens),
            ),
            gap,
            abort,
        )
        for row, (request, gap, abort) in enumerate(stream)
    ]
    asked, arrivals, aborts = laid_out(stream)

    def scheduled(rows, make):
        pool = BlockPool(blocks, 3, caching=False)
        scheduler = make(pool, max_num_seqs=seats, max_num_batched_tokens=budget, policy=policy, linger_steps=linger)
        chosen = [[column[row] for row in rows] for column in (asked, arrivals, aborts)]
        result = run_steps(chosen[0], chosen[1], scheduler, abort_steps=chosen[2], jump=jump)
        pool.check()
        assert pool.free == blocks
        return result

    people = [row for row, request in enumerate(asked) if request.kind == "user"]
    together = scheduled(range(len(asked)), IdleWarmUpsScheduler)
    fits = [-(-(max(1, sum(s.tokens for s in q.prompt)) + max(0, q.output.tokens - 1)) // 3) <= blocks for q in asked]
    assert [step is not None for step in together.finish_step] == fits
    if people:
        alone = scheduled(people, VllmScheduler)
        assert [together.first_token_step[row] for row in people] == alone.first_token_step
        assert [together.finish_step[row] for row in people] == alone.finish_step
