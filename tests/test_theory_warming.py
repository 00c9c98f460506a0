"""Closed forms of warming against hand-worked figures, against each other, and against obvious simulations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcache import theory
from simcache.errors import InputError

spans = st.floats(0, 1e4)


def test_the_recipe():
    assert theory.residual_warm_s(3, 20.87) == pytest.approx(17.87)
    assert theory.ttft_with_warm_s(3, 20.87, 1.94, 20.87, "wait") == pytest.approx(19.81)
    assert theory.ttft_with_warm_s(3, 20.87, 1.94, 20.87, "send") == 20.87
    assert theory.ttft_with_warm_s(3, 20.87, 1.94, 20.87, "wait_if_shorter") == pytest.approx(19.81)
    # 90.7 % is reached only where typing takes as long as the warm-up; at 3 s it is 5 %
    assert 1 - theory.ttft_with_warm_s(theory.hiding_typing_s(20.87), 20.87, 1.94, 20.87) / 20.87 == pytest.approx(0.907, abs=5e-4)
    assert 1 - theory.ttft_with_warm_s(3, 20.87, 1.94, 20.87) / 20.87 == pytest.approx(0.05, abs=2e-3)


@given(typing_s=spans, warm_s=spans, hit_s=spans, cold_s=spans)
def test_choices_order_and_limits(typing_s, warm_s, hit_s, cold_s):
    by = {how: theory.ttft_with_warm_s(typing_s, warm_s, hit_s, cold_s, how) for how in ("wait", "send", "wait_if_shorter")}
    assert by["wait_if_shorter"] == min(by["wait"], by["send"])
    assert by["wait"] == max(0.0, warm_s - typing_s) + hit_s
    if typing_s >= theory.hiding_typing_s(warm_s):
        assert set(by.values()) == {hit_s}
    if cold_s == warm_s:
        assert cold_s - by["wait"] <= theory.most_saved_s(typing_s, warm_s) + 1e-9


@given(typing_s=spans, warm_s=spans, hit_s=spans)
def test_saving_is_bounded_by_typing_and_computing(typing_s, warm_s, hit_s):
    saved_s = warm_s - theory.ttft_with_warm_s(typing_s, warm_s, hit_s, warm_s, "wait")
    assert saved_s <= theory.most_saved_s(typing_s, warm_s) + 1e-9


@pytest.mark.parametrize(("p_send", "extra"), [(1, 0.10), (0.7, 0.445), (0.5, 0.675), (0, 1.25)])
def test_extra_cost_of_warming_claude_5m(p_send, extra):
    assert theory.warming_extra_cost(p_send, write=1.25, read=0.1) == pytest.approx(extra)


@given(p_send=st.floats(0, 1), write=st.floats(1, 2), read=st.floats(0, 1))
def test_extra_cost_is_warm_minus_on_send(p_send, write, read):
    warm, on_send = write + p_send * read, p_send * write
    assert theory.warming_extra_cost(p_send, write=write, read=read) == pytest.approx(warm - on_send)


@given(write=st.floats(1, 3), read=st.floats(0, 0.95))
def test_caching_pays_from_exactly_that_request_on(write, read):
    n = theory.requests_until_caching_pays(write=write, read=read)
    assert write + (n - 1) * read < n + 1e-9
    assert n == 1 or write + (n - 2) * read >= n - 1 - 1e-9


def test_caching_pays():
    assert theory.requests_until_caching_pays(write=1.25, read=0.1) == 2
    assert theory.requests_until_caching_pays(write=2.0, read=0.1) == 3
    assert theory.requests_until_caching_pays(write=1.0, read=0.5) == 2
    assert theory.requests_until_caching_pays(write=1.25, read=1.0) is None


@pytest.mark.parametrize("gaps_per_ttl", [0.2, 1.0, 3.0])
def test_sliding_ttl_under_poisson_traffic(gaps_per_ttl):
    gaps = np.random.default_rng(5).exponential(1.0, 400_000)
    assert theory.ttl_hit_probability(1.0, gaps_per_ttl) == pytest.approx((gaps < gaps_per_ttl).mean(), abs=4e-3)


def test_keep_alive_threshold_is_the_break_even():
    write, read = 1.25, 0.1
    p = theory.keep_alive_threshold(write=write, read=read)
    # pay r, and with probability p read instead of write
    assert read + p * read + (1 - p) * 0 == pytest.approx(p * write)
    with pytest.raises(InputError, match="above read"):
        theory.keep_alive_threshold(write=0.1, read=0.1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: theory.ttft_with_warm_s(-1, 1, 1, 1),
        lambda: theory.ttft_with_warm_s(1, float("nan"), 1, 1),
        lambda: theory.ttft_with_warm_s(0, 1, 1, 1, "perhaps"),
        lambda: theory.warming_extra_cost(1.1, write=1, read=1),
        lambda: theory.ttl_hit_probability(-1, 1),
    ],
)
def test_bad_input(call):
    with pytest.raises(InputError):
        call()
