"""Metrics against figures worked out by hand, and the identities that hold for any records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcache import metrics
from simcache.errors import InputError
from simcache.records import OUTCOMES, RecordsBuilder
from tests.synthetic_runs import answer, records_of

NOTHING = RecordsBuilder().freeze()


def test_the_speculative_recipe_worked_out_by_hand():
    # Claude 3.5 Sonnet, 151,629 tokens: the warm-up starts with the typing at 0 and takes 20.87 s, submit after 3 s.
    records = records_of(
        {"kind": "warm", "outcome": "ok", "first_token_at_s": 20.87, "finished_at_s": 20.87, "prompt_tokens": 151_629},
        answer(
            3.0,
            17.87 + 1.94,
            sent_at_s=20.87,
            output_tokens=330,
            tpot_s=0.01964,
            prompt_tokens=151_651,
            hit_tokens=151_629,
            warm_row=0,
            residual_warm_s=17.87,
        ),
    )
    assert metrics.ttft_s(records) == pytest.approx([19.81])
    assert metrics.ttft_after_warm_s(records) == pytest.approx([1.94])
    assert metrics.residual_warm_s(records) == pytest.approx([17.87])
    assert metrics.e2e_s(records) == pytest.approx([19.81 + 329 * 0.01964])
    assert metrics.tpot_s(records) == pytest.approx([0.01964])
    assert metrics.token_hit_ratio(records) == pytest.approx(151_629 / 151_651)


def test_only_answered_user_requests_have_spans():
    rows = [answer(0.0, 1.0, kind=kind, outcome=outcome) for kind in ("user", "warm", "keepalive") for outcome in OUTCOMES]
    records = records_of(*rows)
    for span in (metrics.ttft_s, metrics.e2e_s, metrics.tpot_s, metrics.queue_s, metrics.perceived_s):
        assert len(span(records)) == 1, span.__name__


def test_a_missing_first_token_is_left_out_of_spans_but_is_a_missed_objective():
    records = records_of(
        answer(0.0, 0.5), answer(0.0, 1.5), {"outcome": "rejected"}, {"outcome": "failed"}, {"outcome": "abandoned"}
    )
    assert metrics.ttft_s(records).tolist() == [0.5, 1.5]
    assert metrics.slo_share(records, 1.0) == pytest.approx(1 / 5)
    assert metrics.slo_share(records, 2.0) == pytest.approx(2 / 5)
    assert metrics.goodput_per_s(records, slo_ttft_s=2.0, duration_s=4.0) == pytest.approx(0.5)


def test_the_objective_itself_is_not_under_the_objective():
    assert metrics.slo_share(records_of(answer(0.0, 1.0)), 1.0) == 0.0


def test_an_answer_of_one_token_has_no_time_per_output_token():
    assert metrics.tpot_s(records_of(answer(0.0, 1.0, output_tokens=1), answer(0.0, 1.0, output_tokens=0))).size == 0


def test_an_answer_that_does_not_stream_is_perceived_whole():
    records = records_of(answer(0.0, 1.0, output_tokens=11, tpot_s=0.1))
    assert metrics.perceived_s(records, streams_answer=True) == pytest.approx([1.0])
    assert metrics.perceived_s(records, streams_answer=False) == pytest.approx([2.0])


def test_hit_ratios_are_ratios_of_sums_over_user_requests_that_began():
    records = records_of(
        answer(0.0, 1.0, prompt_tokens=100, hit_tokens=96, prompt_blocks=7, hit_blocks=6),
        answer(0.0, 1.0, prompt_tokens=900, hit_tokens=0, prompt_blocks=57, hit_blocks=0),
        answer(0.0, 1.0, prompt_tokens=500, hit_tokens=480, prompt_blocks=32, hit_blocks=30, outcome="cancelled"),
        {"outcome": "rejected", "prompt_tokens": 10_000, "prompt_blocks": 625},
        {"kind": "warm", "outcome": "ok", "prompt_tokens": 10_000, "hit_tokens": 10},
    )
    assert metrics.token_hit_ratio(records) == pytest.approx((96 + 480) / (100 + 900 + 500))
    assert metrics.block_hit_ratio(records) == pytest.approx((6 + 30) / (7 + 57 + 32))


def test_a_done_warm_up_leaves_zero_which_is_not_nothing():
    records = records_of(answer(0.0, 1.0, warm_row=0, residual_warm_s=0.0), answer(0.0, 1.0))
    assert metrics.residual_warm_s(records).tolist() == [0.0]


@pytest.mark.parametrize(
    ("inserted_and_used", "expected"),
    [
        ([], (0, 0, None)),
        ([(100, 0)], (1, 0, 1.0)),
        ([(100, 100)], (1, 1, 0.0)),
        ([(100, 100), (300, 0)], (2, 1, 0.75)),
        ([(0, 0)], (1, 0, 1.0)),
        ([(0, 0), (200, 150)], (2, 1, 0.25)),
    ],
)
def test_wasted_warm_ups_count_tokens_not_requests(inserted_and_used, expected):
    rows = [{"kind": "warm", "inserted_tokens": inserted, "used_tokens": used} for inserted, used in inserted_and_used]
    assert metrics.warm_ups(records_of(*rows, {"inserted_tokens": 77})) == expected


def test_nothing_at_all_is_none_and_empty_never_a_number():
    assert metrics.slo_share(NOTHING) is None
    assert metrics.token_hit_ratio(NOTHING) is None
    assert metrics.block_hit_ratio(NOTHING) is None
    assert metrics.warm_ups(NOTHING).wasted_share is None
    assert metrics.ttft_after_warm_s(NOTHING).size == metrics.ttft_s(NOTHING).size == 0
    assert metrics.littles_law(NOTHING, 0.0, 1.0).error == 0.0


def test_prompt_bins_are_closed_below_and_open_above():
    records = records_of(*(answer(0.0, tokens / 100, prompt_tokens=tokens) for tokens in (99, 100, 199, 200)))
    assert [values.tolist() for values in metrics.ttft_by_prompt_s(records, [0, 100, 200, 300])] == [[0.99], [1.0, 1.99], [2.0]]


def test_a_prompt_outside_the_bins_is_refused_not_dropped():
    with pytest.raises(InputError, match=r"prompt_tokens\(=1000\) must lie within the bins, 0 to 500"):
        metrics.ttft_by_prompt_s(records_of(answer(0.0, 1.0)), [0, 500])


def test_littles_law_by_hand():
    # One is there from -1 to 2, one from 1 to 5, one rejected: over [0, 4) the areas are 2 + 3.
    records = records_of(
        {"outcome": "ok", "submitted_at_s": -1.0, "finished_at_s": 2.0},
        {"outcome": "cancelled", "submitted_at_s": 1.0, "cancelled_at_s": 5.0},
        {"outcome": "rejected", "submitted_at_s": 1.0},
    )
    little = metrics.littles_law(records, 0.0, 4.0)
    assert little.mean_in_system == pytest.approx(5 / 4)
    assert (little.arrivals_per_s, little.mean_sojourn_s) == (0.25, 4.0)
    assert little.boundary == pytest.approx((2 - 1) / 4)
    assert little.error == pytest.approx(0.0)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.booleans()), max_size=12),
    st.integers(0, 30),
    st.integers(1, 30),
)
def test_littles_law_holds_and_its_left_side_is_a_head_count(spans, start, length):
    rows = [
        {"submitted_at_s": came, "first_scheduled_at_s": came, **({"finished_at_s": came + stayed} if done else {})}
        for came, stayed, done in spans
    ]
    little = metrics.littles_law(records_of(*rows), start, start + length)
    heads = [
        sum(came <= t < (came + stayed if done else 10**6) for came, stayed, done in spans) for t in range(start, start + length)
    ]
    assert little.mean_in_system == pytest.approx(np.mean(heads))
    assert little.error == pytest.approx(0.0, abs=1e-9)


def test_an_empty_window_is_refused():
    with pytest.raises(InputError, match=r"end_s\(=1.0\) must be after start_s, 1"):
        metrics.littles_law(NOTHING, 1.0, 1.0)


@given(st.lists(st.floats(0.001, 100.0), min_size=1, max_size=30), st.floats(0.01, 50.0))
def test_shares_and_goodput_agree(ttfts, objective_s):
    records = records_of(*(answer(0.0, ttft_s) for ttft_s in ttfts))
    share = metrics.slo_share(records, objective_s)
    assert share is not None
    assert 0 <= share <= 1
    assert metrics.goodput_per_s(records, slo_ttft_s=objective_s, duration_s=10.0) == pytest.approx(share * len(ttfts) / 10.0)
