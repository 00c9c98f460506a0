"""Overload told from records, and MSER-5, against cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache import steady
from simcache.engine.run import simulate
from simcache.errors import InputError
from simcache.latency import Coefficients, ServerProfile
from simcache.scenario import Cluster, Scenario
from simcache.workload.distributions import Exponential
from simcache.workload.synthetic import PoissonRequests, RequestList

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
