"""The closed forms against brute force: Lindley's recursion, a heap of servers, processor sharing by its own clock.

Equivalence tests: the interval over replications must be narrow (half-width at most 2 % of theory) and its mean within 3 %.
Single-server runs start from the stationary law (Benes 1957: the wait is a geometric sum of residual services).
"""

from __future__ import annotations

import heapq
from fractions import Fraction
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcache import queueing
from simcache.errors import InputError
from simcache.stats import t_interval

SERVICES = {
    "deterministic": (0.0, lambda rng, size: np.ones(size), lambda rng, size: rng.random(size)),
    "exponential": (1.0, lambda rng, size: rng.exponential(1.0, size), lambda rng, size: rng.exponential(1.0, size)),
    # Erlang-4: its residual is an Erlang with 1..4 phases, each equally likely.
    "erlang-4": (
        0.25,
        lambda rng, size: rng.gamma(4.0, 0.25, size),
        lambda rng, size: rng.gamma(rng.integers(1, 5, size), 0.25),
    ),
    # 20 % long (3.0), 80 % short (0.5): the residual falls into a long one in proportion to its length.
    "two sizes": (
        0.2 * 9 + 0.8 * 0.25 - 1,
        lambda rng, size: np.where(rng.random(size) < 0.2, 3.0, 0.5),
        lambda rng, size: np.where(rng.random(size) < 0.6, 3.0, 0.5) * rng.random(size),
    ),
}


def assert_equivalent(measured, theory):
    estimate = t_interval(measured, 0.9999)
    assert estimate.high - estimate.mean <= 0.02 * theory
    assert estimate.mean == pytest.approx(theory, rel=0.03)


@pytest.mark.parametrize("name", SERVICES)
def test_pollaczek_khinchine_against_lindley(name):
    cv2, service, residual = SERVICES[name]
    busy, replications, customers = 0.7, 20_000, 150
    rng = np.random.default_rng(11)
    ahead = rng.geometric(1 - busy, replications) - 1
    wait = np.array([residual(rng, count).sum() for count in ahead])
    total = np.zeros(replications)
    for _ in range(customers):
        total += wait
        wait = np.maximum(0.0, wait + service(rng, replications) - rng.exponential(1 / busy, replications))
    assert_equivalent(total / customers, queueing.mg1_wait_s(busy, 1.0, cv2))


@pytest.mark.parametrize(("servers", "busy"), [(2, 0.6), (4, 0.8)])
def test_mmc_against_servers_in_a_heap(servers, busy):
    means = []
    for replication in range(30):
        rng = np.random.default_rng([servers, replication])
        n = 12_000
        arrivals = np.cumsum(rng.exponential(1 / (busy * servers), n)).tolist()
        services = rng.exponential(1.0, n).tolist()
        free_at = [0.0] * servers
        waits = []
        for at, service in zip(arrivals, services, strict=True):
            start = max(at, free_at[0])
            waits.append(start - at)
            heapq.heapreplace(free_at, start + service)
        means.append(np.mean(waits[2_000:]))
    estimate = t_interval(means, 0.9999)
    theory = queueing.mmc_wait_s(busy * servers, 1.0, servers)
    assert estimate.low <= theory <= estimate.high
    assert estimate.mean == pytest.approx(theory, rel=0.05)


def processor_sharing(arrivals, services):
    """Sojourns when all present share one server equally: each leaves when the common attained service reaches its own mark."""
    marks, attained, now = [], 0.0, 0.0
    left = [0.0] * len(arrivals)
    for index in range(len(arrivals) + 1):
        until = arrivals[index] if index < len(arrivals) else float("inf")
        while marks and now + (marks[0][0] - attained) * len(marks) <= until:
            mark, who = marks[0]
            now += (mark - attained) * len(marks)
            attained = mark
            heapq.heappop(marks)
            left[who] = now
        if index < len(arrivals):
            attained += (until - now) / len(marks) if marks else 0.0
            now = until
            heapq.heappush(marks, (attained + services[index], index))
    return np.array(left) - np.array(arrivals)


@pytest.mark.parametrize("name", ["deterministic", "two sizes"])
def test_processor_sharing_depends_on_the_mean_service_only(name):
    _, service, _ = SERVICES[name]
    busy, all_means, short_means = 0.6, [], []
    for replication in range(30):
        rng = np.random.default_rng([3, replication])
        n = 8_000
        arrivals = np.cumsum(rng.exponential(1 / busy, n)).tolist()
        services = service(rng, n)
        sojourns = processor_sharing(arrivals, services.tolist())[1_000:]
        all_means.append(sojourns.mean())
        short_means.append(sojourns[services[1_000:] == services.min()].mean())
    assert t_interval(all_means).mean == pytest.approx(queueing.ps_sojourn_s(busy, 1.0), rel=0.03)
    shortest = float(services.min())
    assert t_interval(short_means).mean == pytest.approx(queueing.ps_sojourn_s(busy, 1.0, service_s=shortest), rel=0.03)


@pytest.mark.parametrize(("servers", "offered"), [(1, "1/2"), (2, "1"), (5, "3"), (20, "15"), (60, "59")])
def test_erlang_c_against_its_series_in_exact_fractions(servers, offered):
    a = Fraction(offered)
    waiting = a**servers / factorial(servers) * servers / (servers - a)
    exact = waiting / (sum(a**k / factorial(k) for k in range(servers)) + waiting)
    assert queueing.erlang_c(servers, float(a)) == pytest.approx(float(exact), rel=1e-12)


@given(st.floats(0.001, 0.999), st.floats(1e-4, 1e3))
def test_one_server_of_many_is_one_server(busy, service_s):
    assert queueing.erlang_c(1, busy) == pytest.approx(busy)
    rate = busy / service_s
    assert queueing.mmc_wait_s(rate, service_s, 1) == pytest.approx(queueing.mm1_wait_s(rate, service_s), rel=1e-6)
    assert queueing.md1_wait_s(rate, service_s) == pytest.approx(queueing.mm1_wait_s(rate, service_s) / 2, rel=1e-9)
    sojourn_s = queueing.mm1_wait_s(rate, service_s) + service_s
    assert queueing.ps_sojourn_s(rate, service_s) == pytest.approx(sojourn_s, rel=1e-6)


@given(st.integers(1, 60), st.floats(0.05, 0.95))
def test_one_fast_server_beats_many_slow_ones_in_sojourn_and_never_in_wait(servers, busy):
    slow_s, rate = 1.0, busy * servers
    pooled = queueing.mmc_wait_s(rate, slow_s, servers)
    fast = queueing.mm1_wait_s(rate, slow_s / servers)
    assert pooled <= fast + 1e-12
    assert fast + slow_s / servers <= pooled + slow_s + 1e-12


def test_thousands_of_servers_neither_overflow_nor_cancel():
    assert 0 < queueing.erlang_c(5_000, 4_950.0) < 1


def test_an_overloaded_queue_has_no_mean_wait():
    for wait in (queueing.mm1_wait_s, queueing.md1_wait_s, queueing.ps_sojourn_s):
        with pytest.raises(InputError, match=r"load\(=1\.0\) must be below 1\. The queue grows without end"):
            wait(10.0, 0.1)
    with pytest.raises(InputError, match=r"offered_load\(=3\.0\) must be below the number of servers, 3"):
        queueing.erlang_c(3, 3.0)
