"""The server against queueing theory, as equivalence: a tight interval around the mean, and the mean close to the formula.

Each replication starts from the stationary law: by Pollaczek and Khinchine the stationary work in an M/G/1 queue is a sum of a
geometric number of residual services, which one first request brings along. So nothing has to be thrown away as warm-up.
Half-width of the 95 % interval at most 2 % of theory, mean within 3 %; at the sizes below a right engine fails either with
probability under 1e-4 (the standard error is about 0.7 % of theory), and the seeds are fixed.
"""

from __future__ import annotations

import numpy as np
import pytest

from simcache import queueing, stats
from simcache.engine.run import simulate
from simcache.latency import Coefficients, ServerProfile
from simcache.prompt import Request, Segment
from simcache.scenario import Scenario, Server
from simcache.workload.synthetic import RequestList

TOKENS_PER_S = 100_000
SEAT = ServerProfile(name="one seat", coefficients=Coefficients(per_token_s=1 / TOKENS_PER_S), kv_tokens=10**9)
BACKEND = Server(profile=SEAT, max_num_seqs=1, max_num_batched_tokens=10**9, prefix_caching=False)


def mean_sojourn_s(rho: float, law: str, customers: int, seed: int) -> float:
    """Mean time in system of ``customers`` with mean service 1 s, after a first one that brings the stationary work."""
    rng = np.random.default_rng((seed, 20261121))
    residuals = rng.geometric(1 - rho) - 1
    draw = {"exponential": lambda n: rng.exponential(1.0, n), "deterministic": lambda n: np.ones(n)}[law]
    residual = {"exponential": lambda n: rng.exponential(1.0, n), "deterministic": lambda n: rng.random(n)}[law]
    service = np.concatenate([[residual(residuals).sum()], draw(customers)])
    at = np.concatenate([[0.0], np.cumsum(rng.exponential(1 / rho, customers))])
    tokens = np.maximum(1, np.round(service * TOKENS_PER_S)).astype(int)
    rows = tuple(
        Request(float(t), (Segment(i, int(n)),), Segment(-1 - i, 0)) for i, (t, n) in enumerate(zip(at, tokens, strict=True))
    )
    records = simulate(Scenario(workload=RequestList(rows=rows), backend=BACKEND)).records
    return float(records.e2e_s[1:].mean())


def check_equivalence(rho: float, law: str, theory_s: float, replications: int, customers: int) -> None:
    means = [mean_sojourn_s(rho, law, customers, seed) for seed in range(replications)]
    mean, low, high, _ = stats.t_interval(means)
    assert low is not None
    assert high is not None
    assert (high - low) / 2 <= 0.02 * theory_s
    assert abs(mean - theory_s) <= 0.03 * theory_s


def test_m_d_1():
    check_equivalence(0.5, "deterministic", 1.0 + queueing.md1_wait_s(0.5, 1.0), replications=16, customers=3_000)


def test_m_m_1():
    check_equivalence(0.3, "exponential", 1.0 + queueing.mm1_wait_s(0.3, 1.0), replications=16, customers=5_000)


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.5, 0.7])
def test_m_m_1_at_higher_load(rho):
    check_equivalence(
        rho, "exponential", 1.0 + queueing.mm1_wait_s(rho, 1.0), replications=40, customers=int(20_000 * (rho / 0.5) ** 4)
    )


@pytest.mark.slow
def test_m_d_1_at_higher_load():
    check_equivalence(0.8, "deterministic", 1.0 + queueing.md1_wait_s(0.8, 1.0), replications=40, customers=20_000)
