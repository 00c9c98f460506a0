"""Closed forms of warming against hand-worked figures, against each other, and against obvious simulations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from simcache import theory
from simcache.cache.presets import load_rules, rules_names
from simcache.cli import main
from simcache.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.mark.parametrize("rate_per_h", [1.0, 2.9, 3.0, 40.0])
def test_steady_traffic_pays_from_exactly_that_rate_on(rate_per_h):
    write, read, ttl_s = 1.25, 0.1, 300.0
    p = theory.ttl_hit_probability(rate_per_h / 3600, ttl_s)
    pays = p * read + (1 - p) * write < 1
    least = theory.traffic_until_caching_pays(ttl_s, write=write, read=read)
    assert pays == (rate_per_h / 3600 > least)
    assert theory.traffic_until_caching_pays(ttl_s, write=1.0, read=0.5) == 0
    assert theory.traffic_until_caching_pays(ttl_s, write=1.0, read=1.0) is None


@given(p=st.floats(0, 0.999), ttl_s=st.floats(1, 1e5))
def test_traffic_for_hits_is_the_inverse(p, ttl_s):
    assert theory.ttl_hit_probability(theory.traffic_for_hits(p, ttl_s), ttl_s) == pytest.approx(p, abs=1e-12)


@given(n=st.floats(0, 10), write=st.floats(1, 2), read=st.floats(0, 0.9))
def test_a_warm_up_pays_from_exactly_so_many_questions_on(n, write, read):
    least = theory.sent_until_warming_pays(write=write, read=read)
    assert (write + n * read < n) == (n > least) or n == pytest.approx(least)


def test_gemini_storage_pays_from_four_reads_an_hour_on():
    assert theory.reads_per_h_until_storage_pays(storage=4.5 / 1.25, read=0.1) == pytest.approx(4.0)
    assert theory.reads_per_h_until_storage_pays(storage=1.0, read=1.0) is None


# --- the card --------------------------------------------------------------------------------------------------------------


def card(provider: str = "anthropic", **options) -> dict:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in ({"context": 100_000} | options).items()]
    result = CliRunner().invoke(main, ["theory", "breakeven", "--provider", provider, *words, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(("p_send", "extra"), [(1, 0.10), (0.7, 0.445), (0.5, 0.675)])
def test_the_card_says_the_worked_costs(p_send, extra):
    said = card(psend=p_send)
    assert said["extra_cost"] == pytest.approx(extra)
    assert (said["caching_pays_from"], said["ttl_s"]) == (2, 300)
    assert card(psend=p_send, ttl="1h")["caching_pays_from"] == 3


def test_the_card_says_latency_with_and_without_waiting():
    said = card(typing_s=3, context=151_629, profile="claude-3.5-sonnet/speculative-recipe")
    assert said["least_typing_s"] == pytest.approx(20.867, abs=1e-3)
    assert said["ttft_s"] == pytest.approx(19.807, abs=2e-3)
    assert said["saved_s"] == pytest.approx(20.87 - 19.807, abs=2e-3)
    short = card(context=1000, typing_s=30)
    assert (short["cached"], short["saved_s"]) == (False, 0)


def test_the_card_takes_the_rules_that_hold_for_the_model():
    assert card("azure")["rules"] == "azure"
    assert card("azure", model="gpt-5.6-sol")["rules"] == "azure-5.6"
    assert card("openai", model="gpt-4o")["rules"] == "openai-2024"
    assert card("openai-24h", model="gpt-4.1")["rules"] == "openai-24h"


def test_the_card_in_dollars():
    said = card("gemini-explicit", model="gemini-2.5-pro", typing_s=60)
    assert said["storage_reads_per_h"] == pytest.approx(4.0)
    assert said["extra_usd"] == pytest.approx(0.1 * 100_000 * 1.25e-6)
    assert said["usd_per_second_saved"] == pytest.approx(said["extra_usd"] / said["saved_s"])
    assert "genai-prices" in said["prices"]


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_the_command_takes_under_a_tenth_of_a_second(provider, tmp_path):
    words = ["theory", "breakeven", "--provider", provider, "--context", "20000"]
    code = f"import sys; from simcache.cli import main; sys.argv[1:] = {words!r}; main()"
    # An installed package has its bytecode; a test run may be told to write none.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def busy_s() -> float:
        before = os.times()
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
        after = os.times()
        assert (done.returncode, done.stderr) == (0, "")
        assert f"20,000 tokens at {provider}" in done.stdout
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(busy_s() for _ in range(6)) < 0.1  # of the processor; the least of six, for the machine may be busy with others


def test_the_command_loads_neither_numbers_nor_prices():
    heavy = ("numpy", "scipy", "genai_prices", "rich", "simpy", "simcache.latency.model", "shutil", "random", "hashlib", "difflib")
    words = ["theory", "breakeven", "--provider", "openai", "--context", "20000"]
    run = f"from simcache.cli import main; main({words!r}, standalone_mode=False)"
    code = f"{run}; import sys; print([m for m in {heavy!r} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--provider", "antropic"], "Did you mean 'anthropic'"),
        (["--psend", "1.1"], "p_send(=1.1)"),
        (["--psend", "-0.1"], "p_send(=-0.1)"),
        (["--typing-s", "-3"], "typing_s(=-3.0)"),
        (["--context", "0"], "context_tokens(=0)"),
        (["--ttl", "2h"], "cache_ttl"),
        (["--profile", "llama-3-8b/a100/tp1"], "hosted"),
        (["--model", "claude-nobody"], "claude-"),
    ],
)
def test_bad_words_are_one_line(words, said):
    result = CliRunner().invoke(main, ["theory", "breakeven", "--provider", "anthropic", "--context", "9999", *words])
    assert result.exit_code == 2
    assert said in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_the_card_for_people():
    words = ["theory", "breakeven", "--provider", "openai", "--context", "50000", "--model", "gpt-5.6-sol", "--typing-s", "0.1"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0
    for said in ("openai-5.6", "30m", "typing hides all", "lost by waiting: send at once", "a draft", "prices: genai-prices"):
        assert said in result.output


# --- the list of providers ---------------------------------------------------------------------------------------------------


def test_the_list_of_providers():
    plain = CliRunner().invoke(main, ["providers"])
    assert plain.exit_code == 0
    assert all(name in plain.output for name in rules_names())
    document = json.loads(CliRunner().invoke(main, ["providers", "--json"]).stdout)
    assert [entry["name"] for entry in document["providers"]] == rules_names()
    for entry in document["providers"]:
        assert entry["as_of"]
        assert entry["source"]
        assert set(entry["write_multiplier"]) == set(entry["lifetime_s"])
    safe = json.loads(CliRunner().invoke(main, ["providers", "--set", "zero_data_retention=true", "--json"]).stdout)
    assert {entry["name"] for entry in safe["providers"]} == {n for n in rules_names() if not load_rules(n).stores_data}
    for words in ("zero_retention=true", "zero_data_retention=perhaps"):
        assert CliRunner().invoke(main, ["providers", "--set", words]).exit_code == 2


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
