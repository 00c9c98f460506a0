"""Replicas behind routers, and what happens when they break."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.engine.clock import Clock, instant
from simcache.engine.cluster import MOST_ATTEMPTS, build
from simcache.engine.run import simulate
from simcache.errors import InputError, UnknownNameError
from simcache.faults import Crash, CrashRate, Slow, schedule
from simcache.latency import Coefficients, ServerProfile
from simcache.prompt import Request, Segment
from simcache.records import NEVER, RecordsBuilder
from simcache.routing import ROUTERS
from simcache.scenario import Cluster, Scenario
from simcache.workload.synthetic import PoissonRequests, RequestList

LATENCY = ServerProfile(name="test", coefficients=Coefficients(per_token_s=1e-3, per_decode_s=0.01), kv_tokens=100_000)


def ask(at_s: float, key: str, tokens: int, output: int = 1, **more) -> Request:
    return Request(at_s, (Segment(key, tokens),), Segment(("answer", key, at_s), output), **more)


def run(requests, **cluster):
    cluster.setdefault("profile", LATENCY)
    return simulate(Scenario(workload=RequestList(rows=tuple(requests)), backend=Cluster(**cluster))).records


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_every_router_serves_everything_and_is_seeded(router):
    workload = PoissonRequests(rate_per_s=20, count=200, prompt_tokens=100, output_tokens=5, shared_prefix_tokens=64)
    scenario = Scenario(workload=workload, backend=Cluster(profile=LATENCY, replicas=3, router=router))
    one, again = simulate(scenario, seed=4), simulate(scenario, seed=4)
    assert one.records == again.records
    assert (one.records.outcome == "ok").all()
    assert set(one.records.replica.tolist()) <= {0, 1, 2}


def test_round_robin_goes_in_turn_and_sticky_stays():
    turns = [ask(float(i), f"d{i}", 50, session=f"s{i % 2}") for i in range(6)]
    assert run(turns, replicas=3, router="round_robin").replica.tolist() == [0, 1, 2, 0, 1, 2]
    homes = run(turns, replicas=3, router="sticky").replica.tolist()
    assert homes[0] == homes[2] == homes[4]
    assert homes[1] == homes[3] == homes[5]


def test_least_requests_and_least_tokens_see_what_is_queued():
    requests = [ask(0.0, "long", 5_000), ask(0.1, "a", 10), ask(0.2, "b", 10), ask(0.21, "c", 10)]
    assert run(requests, replicas=2, router="least_tokens").replica.tolist() == [0, 1, 1, 1]
    assert run(requests, replicas=2, router="least_requests").replica.tolist() == [0, 1, 1, 0]
    spread = run([ask(0.0, f"k{i}", 1_000) for i in range(4)], replicas=4, router="least_requests")
    assert sorted(spread.replica.tolist()) == [0, 1, 2, 3]


def test_a_cache_aware_router_finds_the_prefix_where_it_lies():
    first = [ask(0.0, "doc", 800), ask(0.0, "other", 800)]
    again = [ask(10.0 + i, "doc", 800) for i in range(4)]
    records = run([*first, *again], replicas=2, router="cache_aware")
    home = records.replica[0]
    assert (records.replica[2:] == home).all()
    assert (records.hit_tokens[2:] == 784).all()
    round_robin = run([*first, *again], replicas=2, router="round_robin")
    assert round_robin.hit_tokens.sum() < records.hit_tokens.sum()


def test_prefix_affinity_keeps_a_prefix_together_until_its_replica_is_overloaded():
    calm = run([ask(float(10 * i), "doc", 500) for i in range(8)], replicas=4, router="prefix_affinity")
    assert len(set(calm.replica.tolist())) == 1
    rush = run([ask(0.0, "doc", 500) for _ in range(40)], replicas=4, router="prefix_affinity")
    assert len(set(rush.replica.tolist())) == 4
    assert np.bincount(rush.replica).max() <= 1.25 * 10 + 1


def test_a_users_own_router_is_one_function():
    records = run([ask(float(i), "doc", 50) for i in range(4)], replicas=3, router=lambda request, replicas: 2)
    assert records.replica.tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("answer", [3, -1, 1.0, True, None])
def test_a_wrong_index_is_an_error_that_names_the_router(answer):
    def nearest(request, replicas):
        return answer

    with pytest.raises(InputError, match="index from router 'nearest'"):
        run([ask(0.0, "doc", 50)], replicas=3, router=nearest)


def test_a_misspelt_router_is_an_error_with_the_near_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'round_robin'"):
        Cluster(router="rond_robin")


def test_a_crash_during_prefill_costs_what_was_computed_and_the_cache():
    requests = [ask(0.0, "doc", 500), ask(0.0, "doc", 500), ask(5.0, "doc", 500)]
    records = run(requests, replicas=2, faults=(Crash(at_s=0.3, replica=0, down_s=60),))
    assert records.outcome.tolist() == ["ok", "ok", "ok"]
    assert records.attempts.tolist() == [2, 1, 1]
    # lost 300 ms, then waits for the other replica's prefill of the same document (to 0.5 s) and hits it: 4 tokens are left
    assert records.ttft_s.tolist() == pytest.approx([0.504, 0.5, 0.004], abs=1e-12)
    assert records.replica.tolist() == [1, 1, 1]


def test_with_no_replica_left_requests_wait_for_the_restart_or_fail():
    later = ask(1.0, "doc", 100)
    back = run([later], replicas=1, faults=(Crash(at_s=0.5, replica=0, down_s=10),))
    assert back.outcome.tolist() == ["ok"]
    assert back.ttft_s.tolist() == pytest.approx([9.6], abs=1e-12)
    assert back.seconds("queue_ns").tolist() == pytest.approx([9.5], abs=1e-12)
    gone = run([later], replicas=1, faults=(Crash(at_s=0.5, replica=0, down_s=None),))
    assert gone.outcome.tolist() == ["failed"]
    assert gone.first_token_at_ns[0] == NEVER


def test_a_request_that_is_lost_again_and_again_fails():
    crashes = tuple(Crash(at_s=0.05 + 0.2 * i, replica=0, down_s=0.1) for i in range(5))
    records = run([ask(0.0, "doc", 1_000)], replicas=1, faults=crashes)
    assert records.outcome.tolist() == ["failed"]
    assert records.attempts.tolist() == [MOST_ATTEMPTS]


def test_a_first_token_that_the_user_has_seen_stays_seen():
    records = run([ask(0.0, "doc", 100, output=50)], replicas=2, faults=(Crash(at_s=0.3, replica=0, down_s=9),))
    assert records.seconds("first_token_at_ns").tolist() == [0.1]
    assert records.seconds("finished_at_ns").tolist() == pytest.approx([0.3 + 0.1 + 49 * 0.01], abs=1e-12)


def test_a_slow_replica_is_slow_from_the_next_step_until_it_is_not():
    slow = (Slow(at_s=0.1, replica=0, factor=3.0, for_s=10.0),)
    requests = [ask(0.0, "a", 200), ask(1.0, "b", 200), ask(20.0, "c", 200)]
    assert run(requests, replicas=1, faults=slow).ttft_s.tolist() == pytest.approx([0.2, 0.6, 0.2], abs=1e-12)


def test_faults_are_checked_before_the_clock_starts():
    with pytest.raises(InputError, match=r"faults\[0\].replica\(=4\) must be a replica from 0 to 1"):
        run([ask(0.0, "a", 1)], replicas=2, faults=(Crash(at_s=1, replica=4),))
    with pytest.raises(InputError, match="needs an end"):
        run([ask(0.0, "a", 1)], replicas=2, faults=(CrashRate(mean_between_s=10),))
    with pytest.raises(InputError, match="must be above 0"):
        Slow(at_s=0, replica=0, factor=0, for_s=1)


def test_a_rate_of_crashes_has_its_mean():
    events = schedule([CrashRate(mean_between_s=100.0, down_s=50.0)], replicas=40, until_s=10_000.0, seed=3)
    downs = sum(event.what == "down" for event in events)
    assert downs == pytest.approx(40 * 10_000 / 150, rel=0.06)  # 2,667 crashes: standard deviation about 1.3 %
    assert events == schedule([CrashRate(mean_between_s=100.0, down_s=50.0)], replicas=40, until_s=10_000.0, seed=3)


faults = st.lists(
    st.builds(Crash, at_s=st.floats(0, 6), replica=st.integers(0, 2), down_s=st.none() | st.floats(0.1, 5))
    | st.builds(Slow, at_s=st.floats(0, 6), replica=st.integers(0, 2), factor=st.sampled_from([0.5, 4.0]), for_s=st.floats(0.1, 3)),
    max_size=6,
).map(tuple)


@settings(max_examples=100, deadline=None)
@given(
    faults=faults,
    asks=st.lists(
        st.tuples(st.floats(0, 6), st.integers(0, 3), st.integers(0, 900), st.integers(0, 60), st.none() | st.floats(0, 2)),
        min_size=1,
        max_size=25,
    ),
    router=st.sampled_from(sorted(ROUTERS)),
    jump=st.booleans(),
)
def test_every_submitted_request_ends_in_exactly_one_record(faults, asks, router, jump):
    clock, records = Clock(), RecordsBuilder()
    cluster = Cluster(profile=LATENCY, replicas=3, router=router, faults=faults, kv_tokens=1_600, jump=jump)
    backend = build(clock, cluster, LATENCY, records)
    ended: list[int] = []
    tickets = []

    def send(_, request, cancel_after):
        ticket = backend.serve(request, watch=lambda t, what: ended.append(t.row) if what == "finished" else None)
        tickets.append(ticket)
        if cancel_after is not None:
            clock.call(lambda _: backend.cancel(ticket), instant(cancel_after))

    for at_s, key, tokens, output, cancel_after in asks:
        request = ask(at_s, f"k{key}", tokens, output, session=f"s{key}")
        clock.call(lambda _, r=request, c=cancel_after: send(_, r, c), instant(at_s))
    clock.run()
    frozen = records.freeze()
    assert len(frozen) == len(asks)
    assert sorted(ended) == list(range(len(asks)))
    assert all(ticket.outcome == frozen.outcome[ticket.row] for ticket in tickets)
    assert set(frozen.outcome.tolist()) <= {"ok", "cancelled", "rejected", "failed"}
    assert ((frozen.finished_at_ns != NEVER) == (frozen.outcome == "ok")).all()
    assert frozen.attempts.max() <= MOST_ATTEMPTS
    assert backend.waiting_rows() == {}
    for replica in backend.replicas:
        replica.scheduler.pool.check()
        assert (replica.outstanding, replica.queued_tokens) == (0, 0)
