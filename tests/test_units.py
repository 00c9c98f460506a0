"""What people read: one scale per number, chosen after rounding, and a share that never rounds to all or nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcache import units


@pytest.mark.parametrize(
    ("value_s", "text"),
    [
        (0.0, "0 s"),
        (0.99949, "999 ms"),
        (0.9996, "1.00 s"),
        (0.0009996, "1.00 ms"),
        (99.99, "99.99 s"),
        (99.996, "100.0 s"),
        (9_999.4, "9,999 s"),
        (9_999.6, "2.78 h"),
        (-0.25, "-250 ms"),
    ],
)
def test_spans_change_their_unit_after_rounding(value_s, text):
    assert units.seconds(value_s) == text


@given(st.floats(1e-9, 1e7))
def test_a_span_reads_as_itself_within_its_digits(value_s):
    number, unit = units.seconds(value_s).split()
    scale = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "h": 3600.0}[unit]
    assert float(number.replace(",", "")) * scale == pytest.approx(value_s, rel=6e-3)
    assert not (unit in ("us", "ms") and float(number.replace(",", "")) >= 1000)


@given(st.floats(1e-9, 1e9))
def test_an_amount_reads_as_itself_and_never_in_exponents(value_usd):
    text = units.dollars(value_usd)
    assert re.fullmatch(r"\$[\d,]+(\.\d+)?", text)
    assert float(text[1:].replace(",", "")) == pytest.approx(value_usd, rel=6e-3)


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_a_share_that_is_not_all_never_reads_as_all_nor_one_that_is_not_nothing_as_nothing(value):
    assert units.share(value) not in ("100 %", "100.0 %", "0 %", "0.0 %")


def test_differences_carry_their_sign_and_none_is_a_dash_everywhere():
    assert (units.seconds(1.5, plus=True), units.dollars(-0.5, plus=True), units.share(0.25, plus=True)) == (
        "+1.50 s",
        "-$0.500",
        "+25.0 %",
    )
    for text in (
        units.seconds,
        units.dollars,
        units.usd_per_mtok,
        units.count,
        units.tokens,
        units.gigabytes,
        units.share,
        units.rate,
    ):
        assert text(None) == "-"


def test_counts_are_whole_or_say_their_decimal():
    assert [units.count(value) for value in (0, 7, 7.5, 12_345.6, -3)] == ["0", "7", "7.5", "12,346", "-3"]
    assert [units.tokens(value) for value in (1, 2)] == ["1 token", "2 tokens"]
