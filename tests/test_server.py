"""One replica on the clock: hand-computed instants, jumping against stepping, cancellation, expiry, queues with known answers."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.engine import cluster
from simcache.engine.clock import BOUNDARY, Clock, instant
from simcache.engine.run import simulate
from simcache.errors import InputError
from simcache.latency import Coefficients, ServerProfile
from simcache.prompt import Request, Segment
from simcache.records import NEVER, RecordsBuilder
from simcache.scenario import Cluster, Scenario, Server
from simcache.workload.synthetic import PoissonRequests
from simcache.workload.traces import RequestList


def profile(**seconds: float) -> ServerProfile:
    seconds.setdefault("per_kv_token_mixed_s", seconds.get("per_kv_token_s", 0.0))
    return ServerProfile(name="test", coefficients=Coefficients(**seconds), kv_tokens=1_000_000)


def ask(at_s: float, key: str, tokens: int, output: int = 1, **more) -> Request:
    return Request(at_s, (Segment(key, tokens),), Segment(("answer", key, at_s), output), **more)


def run(requests, latency: ServerProfile, **server):
    scenario = Scenario(workload=RequestList(rows=tuple(requests)), backend=Server(profile=latency, **server))
    return simulate(scenario).records


def test_a_cold_prompt_takes_its_prefill_and_then_one_step_per_token():
    latency = profile(base_s=0.01, per_token_s=1e-3, per_decode_s=0.001, per_kv_token_s=1e-6)
    records = run([ask(1.0, "doc", 100, output=3)], latency)
    # prefill 10 + 100 ms; decodes read 100 and then 101 tokens: base + 1 ms + K us each
    assert records.ttft_s.tolist() == [0.11]
    assert records.seconds("finished_at_ns").tolist() == pytest.approx([1.11 + 2 * 0.011 + 201e-6], abs=1e-12)


def test_a_hit_saves_its_tokens_but_not_the_attention_to_them():
    latency = profile(per_token_s=1e-3, attention_s=1e-5)
    records = run([ask(0.0, "doc", 160), ask(10.0, "doc", 164)], latency)
    assert records.hit_tokens.tolist() == [0, 160]
    assert records.ttft_s.tolist() == pytest.approx([0.16 + 160 * 80 * 1e-5, 0.004 + 4 * (160 + 2) * 1e-5], abs=1e-12)


def test_a_request_that_arrives_mid_prefill_hits_what_is_scheduled():
    latency = profile(per_token_s=1e-3)
    chunked = {"max_num_batched_tokens": 64, "block_tokens": 16}
    scheduled = run([ask(0.0, "doc", 320), ask(0.1, "doc", 330)], latency, **chunked)
    # five steps of 64 ms; the second waits for budget until the fifth has run, then hits all of the first
    assert scheduled.hit_tokens.tolist() == [0, 320]
    assert scheduled.ttft_s.tolist() == pytest.approx([0.32, 0.33 - 0.1], abs=1e-12)
    together = [ask(0.0, "doc", 48), ask(0.0, "doc", 60)]
    assert run(together, latency, **chunked).hit_tokens.tolist() == [0, 48]
    assert run(together, latency, visibility="computed", **chunked).hit_tokens.tolist() == [0, 0]


def test_queue_time_is_the_time_in_which_nothing_of_a_request_is_computed():
    latency = profile(per_token_s=1e-3)
    records = run([ask(0.0, "a", 100), ask(0.05, "b", 100)], latency, max_num_seqs=1)
    assert records.seconds("queue_ns").tolist() == pytest.approx([0.0, 0.05], abs=1e-12)
    assert records.seconds("first_scheduled_at_ns").tolist() == pytest.approx([0.0, 0.1], abs=1e-12)


def test_caching_off_hits_nothing():
    records = run([ask(0.0, "doc", 160), ask(10.0, "doc", 164)], profile(per_token_s=1e-3), prefix_caching=False)
    assert records.hit_tokens.tolist() == [0, 0]
    assert records.inserted_tokens.tolist() == [0, 0]


@pytest.mark.parametrize(("kind", "hits"), [("sliding", [0, 160, 160, 0]), ("fixed", [0, 160, 0, 160])])
def test_blocks_expire_by_the_second_they_were_last_used_or_written(kind, hits):
    # finished at 0.164, 60.004, 110.004 s: sliding refreshes at each, fixed counts from the write at 0.164 s
    requests = [ask(at, "doc", 164) for at in (0.0, 60.0, 110.0, 211.0)]
    if kind == "fixed":
        requests[3] = requests[3]._replace(arrived_at_s=200.0)
    records = run(requests, profile(per_token_s=1e-3), ttl_s=100.0, ttl_kind=kind)
    assert records.hit_tokens.tolist() == hits


def test_copies_written_at_one_instant_expire_together():
    together = [ask(0.0, "doc", tokens) for tokens in (48, 96, 96)]  # the last one copies both runs of blocks in one go
    lifetime = {"ttl_s": 100.0, "ttl_kind": "fixed", "visibility": "computed"}
    records = run([*together, ask(200.0, "doc", 96)], profile(per_token_s=1e-3), **lifetime)
    assert records.hit_tokens.tolist() == [0, 0, 0, 0]


def test_an_entry_is_alive_strictly_before_its_expiry():
    for arrival, hit in ((100.164 - 1e-9, 160), (100.164, 0)):
        records = run([ask(0.0, "doc", 164), ask(arrival, "doc", 164)], profile(per_token_s=1e-3), ttl_s=100.0)
        assert records.hit_tokens.tolist() == [0, hit]


def test_hits_credit_the_request_that_inserted_the_block_once():
    warm = ask(0.0, "doc", 160, kind="warm")
    records = run([warm, ask(5.0, "doc", 170), ask(9.0, "doc", 170)], profile(per_token_s=1e-3))
    assert records.inserted_tokens.tolist() == [160, 0, 0]
    assert records.used_tokens.tolist() == [160, 0, 0]
    assert run([warm, warm._replace(arrived_at_s=3.0)], profile(per_token_s=1e-3)).used_tokens.tolist() == [0, 0]


def test_a_prompt_larger_than_the_memory_is_rejected_and_recorded():
    records = run([ask(0.0, "big", 500), ask(0.0, "small", 50)], profile(per_token_s=1e-3), kv_tokens=160)
    assert records.outcome.tolist() == ["rejected", "ok"]
    assert records.first_token_at_ns[0] == NEVER


def test_no_output_means_prefill_only():
    records = run([ask(0.0, "doc", 100, output=0)], profile(per_token_s=1e-3, per_decode_s=1.0))
    assert records.finished_at_ns.tolist() == records.first_token_at_ns.tolist() == [100_000_000]


def world(latency: ServerProfile, **server):
    clock, records = Clock(), RecordsBuilder()
    return clock, records, cluster.build(clock, Server(profile=latency, **server), latency, records)


def test_cancelling_a_running_prefill_keeps_what_was_computed():
    clock, records, backend = world(profile(per_token_s=1e-3), max_num_batched_tokens=64)
    tickets = []
    told = []
    clock.call(lambda _: tickets.append(backend.serve(ask(0, "doc", 320), watch=lambda t, what: told.append(what))), 0)
    clock.call(lambda _: backend.cancel(tickets[0]), instant(0.1))  # in the second of five steps of 64 ms
    clock.call(lambda _: tickets.append(backend.serve(ask(1, "doc", 320))), instant(1.0))
    clock.run()
    frozen = records.freeze()
    assert frozen.outcome.tolist() == ["cancelled", "ok"]
    assert frozen.seconds("cancelled_at_ns")[0] == 0.1
    assert frozen.hit_tokens.tolist() == [0, 128]
    assert told == ["finished"]
    backend.replicas[0].scheduler.pool.check()
    assert backend.replicas[0].scheduler.pool.free == backend.replicas[0].scheduler.pool.blocks


def test_cancelling_a_queued_request_lets_the_next_one_in_at_the_next_step():
    latency = profile(per_token_s=1e-3, per_decode_s=0.01)
    clock, records, backend = world(latency, kv_tokens=320, block_tokens=16)
    tickets = {}
    clock.call(lambda _: tickets.update(a=backend.serve(ask(0, "a", 160, output=50))), 0)
    clock.call(lambda _: tickets.update(b=backend.serve(ask(0, "b", 300))), instant(0.2))  # does not fit beside a
    clock.call(lambda _: tickets.update(c=backend.serve(ask(0, "c", 16))), instant(0.2))  # would fit, but waits behind b
    clock.call(lambda _: backend.cancel(tickets["b"]), instant(0.255))
    clock.run()
    frozen = records.freeze()
    assert frozen.outcome.tolist() == ["ok", "cancelled", "ok"]
    # a decodes from 0.16 s in steps of 10 ms: the cancellation counts from the boundary at 0.26 s
    assert frozen.seconds("first_scheduled_at_ns")[2] == pytest.approx(0.26, abs=1e-12)
    assert np.isnan(frozen.seconds("first_scheduled_at_ns")[1])


def test_a_cancelled_answer_counts_the_tokens_that_were_generated():
    clock, records, backend = world(profile(per_token_s=1e-3, per_decode_s=0.01))
    tickets = []
    clock.call(lambda _: tickets.append(backend.serve(ask(0, "a", 100, output=50))), 0)
    clock.call(lambda _: backend.cancel(tickets[0]), instant(0.125))  # first token at 0.1, decodes end at 0.11, 0.12, 0.13
    clock.run()
    assert records.freeze().output_tokens.tolist() == [4]


def test_arrivals_at_a_boundary_join_its_batch():
    clock, records, backend = world(profile(base_s=0.1))
    for at in (0.0, 0.1):
        clock.call(lambda _, at=at: backend.serve(ask(at, f"k{at}", 10, output=5)), instant(at))
    clock.run()
    assert records.freeze().seconds("first_scheduled_at_ns").tolist() == [0.0, 0.1]
    assert BOUNDARY > 1  # SimPy's NORMAL


arrivals = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.01, 0.05, 0.4, 3.0]),  # gaps: ties, bursts, idle time
        st.integers(0, 3),
        st.integers(0, 120),
        st.integers(0, 30),
        st.none() | st.sampled_from([0.0, 0.03, 0.2, 1.0]),  # cancelled after
    ),
    min_size=1,
    max_size=25,
)


def play(workload, latency: ServerProfile, server: Server):
    clock, records = Clock(), RecordsBuilder(tiers=[tier.name for tier in server.tiers])
    backend = cluster.build(clock, server, latency, records)

    def send(request, cancel_after):
        ticket = backend.serve(request)
        if cancel_after is not None:
            clock.call(lambda _: backend.cancel(ticket), instant(cancel_after))

    at = 0.0
    for number, (gap, key, tokens, output, cancel_after) in enumerate(workload):
        at += gap
        request = Request(at, (Segment("system", 20), Segment(key, tokens)), Segment(number % 5, output))
        clock.call(lambda _, r=request, c=cancel_after: send(r, c), instant(at))
    clock.run()
    for replica in backend.replicas:
        replica.scheduler.pool.check()
        assert replica.scheduler.pool.free == replica.scheduler.pool.blocks
        assert replica.outstanding == 0
        assert not replica.scheduler.loading
        assert not replica.scheduler.landed
    if backend.tiers is not None:
        backend.tiers.check()
    return records.freeze()


@settings(max_examples=150, deadline=None)
@given(
    workload=arrivals,
    kv_blocks=st.integers(12, 60),
    seats=st.integers(1, 6),
    budget=st.sampled_from([4, 32, 200]),
    visibility=st.sampled_from(["scheduled", "computed"]),
    floor=st.sampled_from([0.0, 0.012]),
    replicas=st.integers(1, 2),
    async_scheduling=st.booleans(),
    router=st.sampled_from(["round_robin", "cache_aware"]),  # the latter looks inside replicas, between boundaries
)
def test_jumping_gives_the_records_of_stepping(
    workload, kv_blocks, seats, budget, visibility, floor, replicas, async_scheduling, router
):
    latency = profile(
        host_s=0.001, host_per_seq_s=1e-5, floor_s=floor, base_s=0.003, per_token_s=7.1e-5, attention_s=3.3e-7,
        per_decode_s=4.19e-5, per_kv_token_s=7.55e-8, per_kv_token_mixed_s=1.3e-7,
    )  # fmt: skip
    server = Cluster(
        profile=latency, kv_tokens=kv_blocks * 4, block_tokens=4, max_num_seqs=seats, max_num_batched_tokens=budget,
        visibility=visibility, replicas=replicas, async_scheduling=async_scheduling, router=router,
    )  # fmt: skip
    stepped = Cluster(**{**{name: getattr(server, name) for name in server.__dataclass_fields__}, "jump": False})
    jumped = play(workload, latency, server)
    assert jumped == play(workload, latency, stepped)
    assert (jumped.hit_tokens <= np.maximum(0, jumped.prompt_tokens - 1)).all()
    assert set(jumped.outcome.tolist()) <= {"ok", "cancelled", "rejected"}


def test_asynchronous_scheduling_costs_an_arrival_one_step_and_keeps_a_finished_seat_for_one():
    latency = profile(base_s=0.1)
    requests = [ask(0.0, "a", 10, output=5), ask(0.05, "b", 10, output=1), ask(0.05, "c", 10, output=1)]
    sync = run(requests, latency, max_num_seqs=2)
    # b joins the step from 0.1 to 0.2 s; c takes its seat in the next one
    assert sync.seconds("first_scheduled_at_ns").tolist() == pytest.approx([0.0, 0.1, 0.2], abs=1e-12)
    later = run(requests, latency, max_num_seqs=2, async_scheduling=True)
    # seen at 0.1 s, when the step from 0.1 to 0.2 s is decided: b runs from 0.2 s, keeps its seat to 0.4 s, c runs from there
    assert later.seconds("first_scheduled_at_ns").tolist() == pytest.approx([0.0, 0.2, 0.4], abs=1e-12)
    assert later.seconds("finished_at_ns").tolist() == pytest.approx([0.5, 0.3, 0.5], abs=1e-12)
    alone = run([ask(0.0, "a", 10), ask(7.0, "b", 10)], latency, async_scheduling=True)
    assert alone.ttft_s.tolist() == [0.1, 0.1]


def test_shifting_all_times_changes_no_ttft():
    workload = PoissonRequests(rate_per_s=8.0, count=300, prompt_tokens=500, output_tokens=20, shared_prefix_tokens=200)
    requests = list(workload.requests(3))
    latency = profile(host_s=0.002, base_s=0.005, per_token_s=7e-5, per_kv_token_s=1e-7)
    # 1/512 s is a whole number of nanoseconds and exact in a float, at 1e6 s too: the shift itself rounds nothing.
    snapped = [request._replace(arrived_at_s=round(request.arrived_at_s * 512) / 512) for request in requests]
    shifted = [request._replace(arrived_at_s=request.arrived_at_s + 1e6) for request in snapped]
    assert run(snapped, latency).ttft_s.tolist() == run(shifted, latency).ttft_s.tolist()


def test_renaming_every_key_changes_nothing():
    workload = PoissonRequests(rate_per_s=8.0, count=200, prompt_tokens=500, output_tokens=20, shared_prefix_tokens=200)
    requests = list(workload.requests(3))
    renamed = [
        request._replace(
            prompt=tuple(Segment(("other", str(s.key)), s.tokens) for s in request.prompt),
            output=Segment(("other", str(request.output.key)), request.output.tokens),
        )
        for request in requests
    ]
    latency = profile(host_s=0.002, base_s=0.005, per_token_s=7e-5)
    assert run(requests, latency) == run(renamed, latency)


@pytest.mark.parametrize("law", ["deterministic", "exponential"])
def test_one_seat_is_lindleys_queue_customer_by_customer(law):
    """W(i+1) = max(0, W(i) + S(i) - A(i)): the single-server FCFS recursion (Lindley 1952), to the nanosecond."""
    rng = np.random.default_rng(7)
    n = 4_000
    tokens = np.full(n, 700) if law == "deterministic" else 1 + np.floor(rng.exponential(700, n)).astype(int)
    at = np.round(np.cumsum(rng.exponential(1.0, n)), 9)
    requests = [
        Request(float(t), (Segment(i, int(k)),), Segment(-1 - i, 0)) for i, (t, k) in enumerate(zip(at, tokens, strict=True))
    ]
    records = run(requests, profile(per_token_s=1e-3), max_num_seqs=1, max_num_batched_tokens=100_000)
    at_ns, service_ns = np.round(at * 1e9).astype(np.int64), tokens * 1_000_000
    wait_ns = 0
    for i in range(n):
        if i:
            wait_ns = max(0, wait_ns + int(service_ns[i - 1]) - int(at_ns[i] - at_ns[i - 1]))
        assert records.queue_ns[i] == wait_ns
        assert records.first_token_at_ns[i] - records.submitted_at_ns[i] == wait_ns + service_ns[i]


def test_littles_law_holds_exactly_with_its_boundary_terms():
    """The area under the number in system equals the sum of the times in system, each cut at the window's edges."""
    workload = PoissonRequests(rate_per_s=20.0, count=2_000, prompt_tokens=400, output_tokens=30)
    records = run(workload.requests(5), profile(host_s=0.002, base_s=0.005, per_token_s=7e-5))
    start, end = 20_000_000_000, 80_000_000_000
    entered, left = records.submitted_at_ns, records.finished_at_ns
    inside = np.clip(left, start, end) - np.clip(entered, start, end)
    edges = np.unique(np.concatenate([[start, end], entered, left]))
    edges = edges[(edges >= start) & (edges <= end)]
    number = [int(((entered <= t) & (left > t)).sum()) for t in edges[:-1]]
    assert int(np.dot(number, np.diff(edges))) == int(inside.sum())


def test_bad_arrivals_are_refused_before_they_do_harm():
    with pytest.raises(InputError, match="arrived_at_s"):
        run([ask(5.0, "a", 10), ask(1.0, "b", 10)], profile(per_token_s=1e-3))
    with pytest.raises(InputError, match=r"seed\(=-1\) must be at least 0"):
        simulate(Scenario(workload=RequestList(rows=(ask(0, "a", 1),)), backend=Server()), seed=-1)
    with pytest.raises(InputError, match="router"):
        simulate(Scenario(workload=RequestList(rows=(ask(0, "a", 1),)), backend=Cluster(router="rond_robin")))


def test_the_seconds_of_a_run_leave_reading_out_but_never_fall_below_nothing(tmp_path):
    rows = [ask(0.01 * i, f"k{i}", 50) for i in range(40)]

    class Slow:
        def requests(self, seed):
            for row in rows:
                time.sleep(0.002)
                yield row

    began = time.perf_counter()
    wall = simulate(Scenario(workload=Slow(), backend=Server(profile=profile(per_token_s=1e-3)))).wall
    assert 0 < wall.simulate_s < time.perf_counter() - began - 0.08
