"""Tariffs and bills: figures worked by hand, and a second, slower way to the same dollars."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcache.errors import InputError, UnknownNameError
from simcache.price_list import api_tariff
from simcache.pricing import (
    LINES,
    PriceTier,
    Tariff,
    bill,
    billed_tokens,
    gpu_names,
    gpu_tariff,
    load_gpu,
)
from simcache.records import NEVER, Records, RecordsBuilder


def records(*rows: dict) -> Records:
    b = RecordsBuilder()
    for fields in rows:
        row = b.row(kind=fields.get("kind", "user"), outcome=fields.get("outcome", "ok"))
        for name, value in fields.items():
            if name not in ("kind", "outcome"):
                getattr(b, name)[row] = value
    return b.freeze()


SONNET = api_tariff("anthropic", "claude-sonnet-4-5", date(2026, 11, 21))
TOY = Tariff(
    provider="toy",
    model="toy",
    as_of="2026-11-21",
    source="made up",
    input_usd_per_token=1.0,
    cache_read_usd_per_token=0.1,
    cache_write_5m_usd_per_token=1.25,
    cache_write_1h_usd_per_token=2.0,
    output_usd_per_token=5.0,
)

# --- tariffs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [None, date(2026, 11, 21), datetime(2026, 11, 21, 3), datetime(2026, 11, 21, tzinfo=UTC)])
def test_recipe_model_prices(at):
    tariff = api_tariff("anthropic", "claude-3-5-sonnet-20241022", at)
    per_mtok = [
        getattr(tariff, f"{line}_usd_per_token") * 1e6
        for line in ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output")
    ]
    assert per_mtok == pytest.approx([3, 3.75, 6, 0.30, 15])
    assert "genai-prices" in tariff.source
    assert at is None or tariff.as_of == "2026-11-21"


def test_gpt_4o_reads_at_half_price_and_has_no_write_price():
    tariff = api_tariff("openai", "gpt-4o")
    assert tariff.cache_read_usd_per_token == tariff.input_usd_per_token / 2
    assert tariff.cache_write_5m_usd_per_token is None


def test_prices_follow_the_date():
    before, after = (api_tariff("anthropic", "claude-opus-4-6", date(2026, 3, day)) for day in (12, 13))
    assert [tier.above_prompt_tokens for tier in before.tiers] == [200_000]
    assert after.tiers == ()


def test_unknown_names_list_near_ones():
    with pytest.raises(UnknownNameError, match="'anthropic'"):
        api_tariff("antropic", "claude-sonnet-4-5")
    with pytest.raises(UnknownNameError, match="claude-"):
        api_tariff("anthropic", "sonett")
    with pytest.raises(UnknownNameError, match="h100"):
        gpu_tariff("h10")


@pytest.mark.parametrize("name", gpu_names())
def test_every_gpu_preset_is_dated_and_sourced(name):
    gpu = load_gpu(name)
    date.fromisoformat(gpu.as_of)
    assert gpu.source
    assert gpu.usd_per_gpu_hour > 0
    assert gpu.memory_gb > 1
    for alias in gpu.aliases:
        assert load_gpu(alias.upper()) == gpu


@pytest.mark.parametrize("change", [{"source": ""}, {"gpus": 0}, {"input_usd_per_token": -1.0}, {"usd_per_gpu_hour": float("nan")}])
def test_impossible_tariffs(change):
    with pytest.raises(InputError):
        replace(TOY, **change)


# --- bills by hand -------------------------------------------------------------------------------------------------------


def test_sonnet_90k_read_5k_written():
    made = bill(records({"prompt_tokens": 100_000, "hit_tokens": 90_000, "written_5m_tokens": 5_000}), SONNET)
    assert made.lines["input"] == pytest.approx(5_000 * 3e-6)
    assert made.lines["cache_read"] == pytest.approx(90_000 * 0.3e-6)
    assert made.lines["cache_write_5m"] == pytest.approx(5_000 * 3.75e-6)
    assert made.total_usd == pytest.approx(0.06075)
    assert set(made.lines) == set(LINES)


def test_the_price_library_agrees_on_random_usage():
    from genai_prices import Usage, calc_price

    rng = np.random.default_rng(3)
    when = datetime(2026, 11, 21, 12, tzinfo=UTC)
    for _ in range(50):
        parts = rng.integers(0, 120_000, 5).tolist()
        prompt, (_uncached, hit, five, hour, output) = sum(parts[:4]), parts
        row = {
            "prompt_tokens": prompt,
            "hit_tokens": hit,
            "written_5m_tokens": five,
            "written_1h_tokens": hour,
            "output_tokens": output,
        }
        usage = Usage(
            input_tokens=prompt,
            cache_read_tokens=hit,
            cache_write_tokens=five + hour,
            cache_write_1h_tokens=hour,
            output_tokens=output,
        )
        theirs = calc_price(usage, "claude-sonnet-4-5", provider_id="anthropic", genai_request_timestamp=when)
        assert bill(records(row), SONNET).total_usd == pytest.approx(float(theirs.total_price), rel=1e-12)


@given(
    st.lists(
        st.tuples(*[st.integers(0, 10**6)] * 5, st.sampled_from(["ok", "cancelled", "rejected", "abandoned"]), st.booleans()),
        max_size=8,
    )
)
def test_bill_equals_a_few_independent_lines(rows):
    made = bill(
        records(
            *(
                {
                    "prompt_tokens": a + b + c + d,
                    "hit_tokens": b,
                    "written_5m_tokens": c,
                    "written_1h_tokens": d,
                    "output_tokens": e,
                    "outcome": outcome,
                    "first_scheduled_at_ns": 0 if begun else NEVER,
                }
                for a, b, c, d, e, outcome, begun in rows
            )
        ),
        TOY,
    )
    usd = [
        (a + 0.1 * b + 1.25 * c + 2 * d + 5 * e) * (outcome == "ok" or (outcome in ("cancelled", "abandoned") and begun))
        for a, b, c, d, e, outcome, begun in rows
    ]
    assert made.row_usd == pytest.approx(usd)
    assert made.total_usd == pytest.approx(sum(usd))


def test_doubling_one_rate_doubles_that_line_and_no_other():
    some = records(
        {"prompt_tokens": 1000, "hit_tokens": 100, "written_5m_tokens": 200, "written_1h_tokens": 300, "output_tokens": 50},
        {"prompt_tokens": 500, "output_tokens": 5},
    )
    plain = bill(some, TOY).lines
    for line in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output"):
        name = f"{line}_usd_per_token"
        doubled = bill(some, replace(TOY, **{name: 2 * getattr(TOY, name)})).lines
        assert doubled == {**plain, line: 2 * plain[line]}


def test_a_missing_price_is_an_error_when_needed_and_never_zero():
    gpt = api_tariff("openai", "gpt-4o")
    assert bill(records({"prompt_tokens": 10}), gpt).total_usd == pytest.approx(10 * 2.5e-6)
    with pytest.raises(InputError, match="cache_write_5m_usd_per_token"):
        bill(records({"prompt_tokens": 10, "written_5m_tokens": 10}), gpt)
    with pytest.raises(InputError, match="input_usd_per_token"):
        bill(records({"prompt_tokens": 10}), replace(TOY, input_usd_per_token=None))


def test_a_tier_holds_for_the_whole_request_above_its_length():
    tiered = replace(TOY, tiers=(PriceTier(above_prompt_tokens=100, input_usd_per_token=3.0, output_usd_per_token=7.0),))
    made = bill(records({"prompt_tokens": 100, "output_tokens": 1}, {"prompt_tokens": 101, "output_tokens": 1}), tiered)
    assert made.row_usd.tolist() == [105, 101 * 3 + 7]
    with pytest.raises(InputError, match="cache_read"):  # the tier states no such price
        bill(records({"prompt_tokens": 200, "hit_tokens": 50}), tiered)


def test_cancelled_requests_are_billed_where_the_tariff_says_so():
    cancelled = records({"prompt_tokens": 100, "outcome": "cancelled", "first_scheduled_at_ns": 5})
    assert bill(cancelled, TOY).total_usd == 100
    assert bill(cancelled, replace(TOY, bills_cancelled=False)).total_usd == 0
    assert billed_tokens(records({"prompt_tokens": 100, "outcome": "cancelled"}), TOY)["input"].sum() == 0  # never begun


def test_warm_waste_is_the_share_nobody_used():
    some = records(
        {"kind": "warm", "prompt_tokens": 100, "written_5m_tokens": 100, "inserted_tokens": 100, "used_tokens": 25},
        {"kind": "warm", "prompt_tokens": 10, "written_5m_tokens": 10},  # a duplicate: inserted nothing
        {"kind": "keepalive", "prompt_tokens": 101, "hit_tokens": 100},  # only refreshed
        {"kind": "user", "prompt_tokens": 100, "hit_tokens": 25, "inserted_tokens": 75},
    )
    made = bill(some, TOY)
    assert made.warm_waste_usd == pytest.approx(125 * 0.75 + 12.5)
    assert made.questions == 1
    assert made.usd_per_1000_questions == pytest.approx(1000 * made.total_usd)


def test_no_questions_no_figure_per_question():
    assert bill(records(), TOY).usd_per_1000_questions is None
    assert bill(records(), TOY).total_usd == 0


def test_more_hit_than_prompt_is_refused():
    with pytest.raises(InputError, match="record 0"):
        bill(records({"prompt_tokens": 10, "hit_tokens": 11}), TOY)


def test_gpu_hours():
    tariff = gpu_tariff("a100", 2, usd_per_gpu_hour=1.5)
    made = bill(records({"prompt_tokens": 10}, {"prompt_tokens": 10}), tariff, replicas=4, duration_s=1800)
    assert made.lines["gpu_hours"] == made.total_usd == pytest.approx(4 * 2 * 0.5 * 1.5)
    assert made.usd_per_1000_questions == pytest.approx(3000)
    assert made.row_usd is None
    assert made.warm_waste_usd is None
    assert gpu_tariff("A100-80GB").usd_per_gpu_hour == load_gpu("a100").usd_per_gpu_hour
    with pytest.raises(InputError, match="duration_s"):
        bill(records(), tariff)
