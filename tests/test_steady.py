"""Overload told from records, and MSER-5, against cases with known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache import queueing, steady
from simcache.engine.run import simulate
from simcache.errors import InputError
from simcache.faults import Slow
from simcache.latency import Coefficients, ServerProfile
from simcache.result import summarise
from simcache.scenario import Cluster, Scenario
from simcache.workload.arrivals import DayAndWeek
from simcache.workload.distributions import Exponential
from simcache.workload.presets import TypingSessions
from simcache.workload.synthetic import PoissonRequests, RequestList
from simcache.workload.traces import TraceWorkload

SEATS = ServerProfile(name="seats", coefficients=Coefficients(per_token_s=1e-3), kv_tokens=10**9)


def run(load: float, replicas: int = 4, count: int = 6_000):
    """``replicas`` single-seat servers with mean service 1 s."""
    workload = PoissonRequests(rate_per_s=load * replicas, count=count, prompt_tokens=Exponential(mean=1_000), output_tokens=0)
    backend = Cluster(profile=SEATS, replicas=replicas, max_num_seqs=1, max_num_batched_tokens=10**7, prefix_caching=False)
    return simulate(Scenario(workload=workload, backend=backend), seed=2).records


@pytest.mark.parametrize("load", [1.15, 1.5, 3.0])
def test_overload_is_recognised_with_its_factor_and_the_rate_that_would_do(load):
    found = steady.overload(run(load))
    assert found is not None
    assert found.load == pytest.approx(load, rel=0.05)
    assert found.served_per_s == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("load", [0.3, 0.8, 0.9])
def test_a_stable_queue_is_no_overload(load):
    assert steady.overload(run(load)) is None


def test_a_few_late_comers_do_not_hide_the_queue_before_them():
    flow = [*PoissonRequests(rate_per_s=8.0, count=3_000, prompt_tokens=Exponential(mean=1_000), output_tokens=0).requests(2)]
    last = flow[-1].arrived_at_s
    late = PoissonRequests(rate_per_s=0.01, count=100, prompt_tokens=1_000, output_tokens=0).requests(3)
    flow += [request._replace(arrived_at_s=request.arrived_at_s + last) for request in late]
    backend = Cluster(profile=SEATS, replicas=4, max_num_seqs=1, max_num_batched_tokens=10**7, prefix_caching=False)
    found = steady.overload(simulate(Scenario(workload=RequestList(rows=tuple(flow)), backend=backend)).records)
    assert found is not None
    assert found.load == pytest.approx(2.0, rel=0.1)


def test_a_rush_at_one_instant_and_a_handful_say_nothing():
    assert steady.overload(run(5.0, count=100)) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=20, max_size=120))
def test_mser5_minimises_what_it_says(values):
    means = np.array(values[: len(values) // 5 * 5]).reshape(-1, 5).mean(axis=1)
    n = len(means)
    errors = [((means[d:] - means[d:].mean()) ** 2).sum() / (n - d) ** 2 for d in range(n // 2 + 1)]
    chosen = steady.mser5(values)
    assert chosen % 5 == 0
    assert errors[chosen // 5] == pytest.approx(min(errors), abs=1e-9)


def test_mser5_refuses_too_few_and_what_is_no_number():
    with pytest.raises(InputError, match="at least 20"):
        steady.mser5([1.0] * 19)
    with pytest.raises(InputError, match="finite"):
        steady.mser5([float("nan")] * 30)


# -- what figures leave out ----------------------------------------------------------------------------------------------------

STREAM = PoissonRequests(rate_per_s=0.5, count=3_000, prompt_tokens=Exponential(mean=1_000), output_tokens=0)
ONE_SEAT = Cluster(profile=SEATS, max_num_seqs=1, max_num_batched_tokens=10**7, prefix_caching=False)
SLOW_START = replace(ONE_SEAT, faults=(Slow(at_s=0, replica=0, factor=4.0, for_s=300),))


def mean_sojourns_s(backend: Cluster, transient, seeds: int = 12) -> list[float]:
    scenario = Scenario(workload=STREAM, backend=backend, transient=transient)
    return [float(simulate(scenario, seed=seed).span("ttft_s").mean()) for seed in range(seeds)]


def test_a_known_transient_is_left_out_and_the_stationary_law_is_left():
    law_s = 1.0 + queueing.mm1_wait_s(0.5, 1.0)
    # Twice overloaded for 300 s: 75 wait, and it takes 150 s more until nobody does.
    assert np.mean(mean_sojourns_s(SLOW_START, None)) > 4 * law_s
    assert np.mean(mean_sojourns_s(SLOW_START, "mser5")) == pytest.approx(law_s, rel=0.06)
    assert np.mean(mean_sojourns_s(SLOW_START, 700.0)) == pytest.approx(law_s, rel=0.06)
    result = simulate(Scenario(workload=STREAM, backend=SLOW_START, transient="mser5"), seed=1)
    assert 300 < result.transient_s < 900
    entry = summarise([result])
    assert entry["transient"] == {
        "rule": "mser5",
        "until_s": result.transient_s,
        "left_out": len(result.records) - len(result.judged),
    }
    assert entry["requests"]["user"] == 3_000
    assert f"figures leave out {entry['transient']['left_out']:,} of 3,000 requests" in " ".join(result.notes)


def test_a_queue_that_starts_empty_stays_near_its_law():
    law_s = 1.0 + queueing.mm1_wait_s(0.5, 1.0)
    assert np.mean(mean_sojourns_s(ONE_SEAT, "mser5")) == pytest.approx(law_s, rel=0.05)


def test_nothing_is_left_out_unless_asked_for():
    result = simulate(Scenario(workload=STREAM, backend=SLOW_START), seed=1)
    assert result.judged is result.records
    assert summarise([result])["transient"] == {"rule": None, "until_s": 0.0, "left_out": 0}
    assert "leave out" not in " ".join(result.notes)


@pytest.mark.parametrize(
    ("workload", "reason"),
    [
        (TraceWorkload(path="t.jsonl", format="mooncake"), "a trace replays"),
        (RequestList(rows=()), "one stretch of time"),
        (TypingSessions(users=50), "come once and leave"),
        (TypingSessions(arrivals_per_s=0.1, day_and_week=DayAndWeek()), "by the hour"),
        (object(), "object does not say"),
    ],
)
def test_mser5_is_refused_with_the_reason_where_the_beginning_is_not_a_start(workload, reason):
    with pytest.raises(InputError, match=reason):
        Scenario(workload=workload, backend=ONE_SEAT, transient="mser5")
    assert Scenario(workload=workload, backend=ONE_SEAT, transient=60.0).transient == 60.0


def test_a_transient_that_leaves_nothing_or_has_no_end_is_said():
    for wrong in (-1.0, "soon", float("nan")):
        with pytest.raises(InputError, match="transient"):
            Scenario(workload=STREAM, backend=ONE_SEAT, transient=wrong)
    few = replace(STREAM, count=19)
    for workload, transient, text in ((few, "mser5", "at least 20 answers"), (few, 1e6, "leaves out every request")):
        with pytest.raises(InputError, match=text):
            simulate(Scenario(workload=workload, backend=ONE_SEAT, transient=transient))
    growing = replace(STREAM, rate_per_s=3.0, count=400)
    assert "simulate longer" in " ".join(simulate(Scenario(workload=growing, backend=ONE_SEAT, transient="mser5")).notes)


def test_people_who_come_in_a_stream_are_stationary():
    people = TypingSessions(arrivals_per_s=0.05)
    result = simulate(Scenario(workload=people, backend=Cluster(), transient="mser5"), duration_s=3_600, seed=2)
    assert "figures leave out" in " ".join(result.notes)
