"""Intervals cover what they say, quantiles are the stated ones, and pairing is worth its name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcache import stats
from simcache.errors import InputError

# Student's t, upper 2.5 % points: Fisher and Yates, Statistical Tables (1963), table III.
T_TABLE = {1: 12.706, 2: 4.303, 5: 2.571, 9: 2.262, 19: 2.093, 30: 2.042}


@pytest.mark.parametrize(("degrees", "expected"), T_TABLE.items())
def test_t_quantiles_are_those_of_the_printed_table(degrees, expected):
    assert stats.t_quantile(0.975, degrees) == pytest.approx(expected, abs=6e-4)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(0, 1))
def test_the_quantile_interpolates_at_rank_n_minus_one_q(values, q):
    ranked = sorted(values)
    rank = (len(ranked) - 1) * q
    below = min(int(rank), len(ranked) - 1)
    above = min(below + 1, len(ranked) - 1)
    expected = ranked[below] + (rank - below) * (ranked[above] - ranked[below])
    assert stats.quantile(values, q) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def coverage(interval, draw, truth, rounds=2_000, n=10):
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(rounds):
        estimate = interval(draw(rng, n))
        covered += estimate.low <= truth <= estimate.high
    return covered / rounds


def test_t_intervals_over_ten_normal_seeds_cover_95_percent():
    # Exact for normal values; 2,000 rounds have a standard error of 0.5 %, so the band is four of them.
    assert coverage(stats.t_interval, lambda rng, n: rng.normal(3.0, 2.0, n), 3.0) == pytest.approx(0.95, abs=0.02)


def test_t_intervals_keep_other_confidences_too():
    assert coverage(lambda v: stats.t_interval(v, 0.8), lambda rng, n: rng.normal(0, 1, n), 0.0) == pytest.approx(0.8, abs=0.036)


def test_paired_intervals_cover_although_the_seeds_differ_widely():
    def draw(rng, n):
        return rng.normal(0, 50, n), rng.normal(1.5, 1.0, n)

    def interval(pair):
        seeds, effect = pair
        return stats.paired(seeds, seeds + effect)

    assert coverage(interval, draw, 1.5) == pytest.approx(0.95, abs=0.02)


def test_pairing_sees_what_two_separate_intervals_cannot():
    seeds = np.random.default_rng(1).normal(100, 30, 20)
    slower = seeds + np.random.default_rng(2).normal(2, 0.5, 20)
    difference = stats.paired(seeds, slower)
    assert difference.clear
    assert difference.low == pytest.approx(2, abs=0.5)
    apart = stats.t_interval(slower), stats.t_interval(seeds)
    assert apart[0].low < apart[1].high


def test_a_difference_is_b_minus_a_and_antisymmetric():
    a, b = [1.0, 2.0, 3.5], [2.0, 2.5, 3.0]
    forward, backward = stats.paired(a, b), stats.paired(b, a)
    assert forward.difference == pytest.approx(np.mean(b) - np.mean(a)) == pytest.approx(-backward.difference)
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low))
    assert (forward.a_mean, forward.b_mean) == (backward.b_mean, backward.a_mean)


def test_unequal_lengths_cannot_be_paired():
    with pytest.raises(InputError, match=r"b\(=2\) must be as many values as a, 3\. Pair them by seed"):
        stats.paired([1, 2, 3], [1, 2])


def correlated(rng, n, memory=0.9):
    """A first-order autoregression around 5, started from its stationary law."""
    noise = rng.normal(0, 1, n)
    out = np.empty(n)
    out[0] = noise[0] / (1 - memory**2) ** 0.5
    for i in range(1, n):
        out[i] = memory * out[i - 1] + noise[i]
    return 5 + out


def test_batch_means_cover_a_correlated_series_and_plain_t_does_not():
    def plain(values):
        return stats.t_interval(values)

    assert coverage(stats.batch_means, correlated, 5.0, rounds=400, n=4_000) == pytest.approx(0.95, abs=0.045)
    assert coverage(plain, correlated, 5.0, rounds=400, n=4_000) < 0.5


def test_batches_lose_no_value():
    estimate = stats.batch_means([1.0] * 7 + [100.0], batches=3)
    assert estimate.n == 3
    assert estimate.mean == pytest.approx((1 + 1 + 50.5) / 3)


def test_bootstrap_covers_the_mean_of_a_skewed_law():
    def interval(values):
        return stats.bootstrap(values, seed=3, resamples=400)

    assert coverage(interval, lambda rng, n: rng.gamma(2.0, 1.0, n), 2.0, rounds=500, n=40) == pytest.approx(0.94, abs=0.035)


def test_bootstrap_agrees_with_scipy_on_one_sample():
    from scipy.stats import bootstrap

    values = np.random.default_rng(5).gamma(1.5, 2.0, 60)
    theirs = bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, random_state=1).confidence_interval
    ours = stats.bootstrap(values, seed=1, resamples=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.01)


def test_bootstrap_repeats_under_one_seed_and_not_under_another():
    values = np.random.default_rng(0).normal(size=30)
    assert stats.bootstrap(values, np.median, seed=1) == stats.bootstrap(values, np.median, seed=1)
    assert stats.bootstrap(values, seed=1).low != stats.bootstrap(values, seed=2).low


def replicated(draw, relative, rng):
    """The interval where the sequential rule stops, from a pool of values."""
    pool, n = draw(rng, 400), 10
    while (wanted := stats.replications_wanted(pool[:n], relative_half_width=relative, at_most=400)) > n:
        n = wanted
    return stats.t_interval(pool[:n])


@pytest.mark.parametrize(
    ("draw", "relative"),
    [(lambda rng, n: rng.normal(1.0, 0.3, n), 0.1), (lambda rng, n: rng.exponential(1.0, n), 0.2)],
    ids=["normal", "exponential"],
)
def test_stopping_on_the_width_of_the_interval_costs_a_little_coverage(draw, relative):
    rng = np.random.default_rng(3)
    estimates = [replicated(draw, relative, rng) for _ in range(800)]
    assert stats.coverage(estimates, 1.0) == pytest.approx(0.936, abs=0.026)  # three standard errors of 800
    assert all(estimate.high - estimate.mean <= relative * estimate.mean or estimate.n == 400 for estimate in estimates)


@given(st.lists(st.floats(0.1, 10), min_size=10, max_size=60), st.floats(0.01, 1.0))
def test_more_replications_are_asked_for_exactly_while_the_interval_is_too_wide(values, relative):
    wanted = stats.replications_wanted(values, relative_half_width=relative, at_most=100)
    estimate = stats.t_interval(values)
    narrow = estimate.high - estimate.mean <= relative * abs(estimate.mean)
    assert (wanted == len(values)) == narrow
    assert wanted <= max(len(values) + 1, len(values) * 3 // 2)


def test_a_quantile_over_seeds_is_the_mean_of_their_quantiles():
    estimate = stats.quantile_over([[1, 2, 3], [3, 4, 5], []], 0.5)
    assert (estimate.mean, estimate.n) == (3.0, 2)


def test_requests_per_arm_are_those_of_the_textbook():
    # Two-sided z test at 5 %, 80 % power: 16 s^2 / d^2 by the rule of thumb (Lehr 1992), 15.7 exactly.
    assert stats.requests_per_arm(1.0, 1.0, 1.0) == pytest.approx(15.698, abs=1e-3)
    assert stats.requests_per_arm(-0.5, 1.0, 3.0) == pytest.approx(15.698 * 8, abs=0.01)


@pytest.mark.parametrize("interval", [stats.t_interval, stats.bootstrap])
def test_one_value_has_no_interval_and_equal_values_one_of_no_width(interval):
    assert interval([4.0]) == (4.0, None, None, 1)
    assert interval([4.0] * 12) == (4.0, 4.0, 4.0, 12)


def test_seeds_without_a_figure_are_left_out_and_counted():
    assert stats.over_seeds([None, None]) is None
    assert stats.over_seeds([None, 2.0]) == (2.0, None, None, 1)
    estimate = stats.over_seeds([0.2, None, 0.1], at_least=0.0)
    assert (estimate.n, estimate.low) == (2, 0.0)
    assert estimate.high > 0.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.t_interval([]), r"values\(=0\) must be at least 1 value"),
        (lambda: stats.t_interval([1.0, float("nan")]), r"values\(=nan\) must all be finite"),
        (lambda: stats.t_interval([1.0, 2.0], 1.0), r"confidence\(=1.0\) must be below 1"),
        (lambda: stats.t_interval([[1.0, 2.0]]), r"values\(=\(1, 2\)\) must be one row of numbers"),
        (lambda: stats.quantile([1.0], 1.5), r"q\(=1.5\) must be at most 1"),
        (lambda: stats.batch_means([1.0, 2.0], batches=3), r"values\(=2\) must be at least 3 values"),
        (lambda: stats.replications_wanted([1.0], half_width=0.1, at_least=5), r"at_least\(=5\) must be at least 10"),
        (lambda: stats.replications_wanted([1.0]), r"or relative_half_width must be given"),
        (lambda: stats.requests_per_arm(0.0, 1.0, 1.0), r"must not be 0"),
        (lambda: stats.bootstrap([1.0, 2.0], resamples=5), r"resamples\(=5\) must be at least 100"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
