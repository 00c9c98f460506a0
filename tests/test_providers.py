"""Every shipped provider: which rules hold, what they find and forget, and what they charge."""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cache.hosted_store import HostedStore
from simcache.cache.machines import Machines
from simcache.cache.presets import PROVIDERS_FOLDER, load_rules, rules_for, rules_names, rules_of
from simcache.cache.rates import hosted_prices, tariff_of
from simcache.cache.rules import Peak, best_key
from simcache.engine.run import simulate
from simcache.errors import InputError, UnknownNameError
from simcache.latency import HostedProfile
from simcache.price_list import api_tariff
from simcache.pricing import API_LINES, bill
from simcache.prompt import Request, Segment
from simcache.records import Records, RecordsBuilder
from simcache.scenario import HostedApi, Scenario
from simcache.workload.synthetic import RequestList

DAY = date(2026, 11, 21)
PROFILE = HostedProfile(name="toy", base_s=1.0, per_token_s=1e-4, per_cached_token_s=1e-5, seconds_per_output_token=0.02)
EXAMPLES = {
    "anthropic": "claude-sonnet-4-5",
    "azure": "gpt-4o",
    "azure-5.6": "gpt-5.6-sol",
    "bedrock": "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "deepseek": "deepseek-v4-pro",
    "fireworks": "kimi-k3",
    "gemini-explicit": "gemini-2.5-pro",
    "gemini-implicit": "gemini-2.5-pro",
    "groq": "openai/gpt-oss-120b",
    "kimi": "kimi-k3",
    "openai-2024": "gpt-4o",
    "openai-24h": "gpt-5.5",
    "openai-5.6": "gpt-5.6-sol",
    "qwen-explicit": "qwen3.5-plus",
    "qwen-implicit": "qwen3.5-plus",
    "xai": "grok-4.7",
}


def ask(at_s: float, *prompt: tuple[str, int], shared: int | None = None, **fields) -> Request:
    output = Segment(f"answer {at_s}", 10)
    return Request(at_s, tuple(Segment(*s) for s in prompt), output, shared_segments=shared, **fields)


def run(rules: str, *requests: Request, model: str | None = None, seed: int = 0, **api):
    model = model or EXAMPLES[rules]
    backend = HostedApi(
        provider=load_rules(rules).provider,
        model=model,
        rules=rules,
        **{"profile": PROFILE, "jitter": False, "prices_at": "2026-11-21"} | api,
    )
    return simulate(Scenario(workload=RequestList(rows=requests), backend=backend), seed=seed)


# --- which rules hold ----------------------------------------------------------------------------------------------------


def test_every_provider_of_the_list_is_there():
    assert set(rules_names()) == set(EXAMPLES)


@pytest.mark.parametrize(
    ("provider", "model", "name"),
    [
        ("openai", "gpt-4o", "openai-2024"),
        ("openai", "gpt-5.4", "openai-2024"),
        ("openai", "gpt-5.5", "openai-24h"),
        ("openai", "gpt-5.5-pro", "openai-24h"),
        ("openai", "gpt-5.6-sol", "openai-5.6"),
        ("openai", "gpt-6.1-terra", "openai-5.6"),
        ("azure", "gpt-5.5", "azure"),
        ("azure", "gpt-5.6-sol", "azure-5.6"),
        ("gemini", "gemini-2.5-pro", "gemini-implicit"),
        ("google", "gemini-2.5-pro", "gemini-implicit"),
        ("qwen", "qwen3.5-plus", "qwen-implicit"),
        ("bedrock", "amazon.nova-pro-v1:0", "bedrock"),
        ("kimi", "kimi-k3", "kimi"),
        ("xai", "grok-4.7", "xai"),
    ],
)
def test_rules_are_chosen_by_provider_and_model(provider, model, name):
    assert rules_of(provider, model).name == name


def test_every_name_of_a_provider_leads_to_one_set_of_rules():
    for name in rules_names():
        rules = load_rules(name)
        for provider in (rules.provider, *rules.aliases):
            for model in (None, "nobody-knows", *EXAMPLES.values()):
                found = rules_of(provider, model)
                assert found.provider == rules.provider
                assert found.default
            assert rules_for(provider, EXAMPLES[name], name) == rules


def test_gpt_5_6_is_served_under_its_own_rules():
    backend = HostedApi(provider="openai", model="gpt-5.6-sol", profile=PROFILE, jitter=False)
    rows = (ask(0, ("doc", 2000), ("q1", 5)), ask(10, ("doc", 2000), ("q1", 5), ("a1", 10), ("q2", 5)))
    result = simulate(Scenario(workload=RequestList(rows=rows), backend=backend))
    assert result.records.written_5m_tokens.tolist() == [2005, 15]
    assert result.records.hit_tokens.tolist() == [0, 2005]
    assert result.bill.lines["cache_write_5m"] == pytest.approx(2020 * 5e-6)  # 1.25 times $4


def test_any_unknown_name_lists_near_ones():
    with pytest.raises(UnknownNameError, match="gemini"):
        rules_of("gemni")
    with pytest.raises(UnknownNameError, match="claude-sonnet-4-5"):
        tariff_of(load_rules("anthropic"), "claude-sonet-4-5", DAY)


def test_rules_of_another_provider_are_no_way_around_a_misspelt_one():
    with pytest.raises(UnknownNameError, match="Did you mean 'anthropic'"):
        rules_for("antropic", "claude-sonnet-4-5", "anthropic")
    with pytest.raises(InputError, match="is not the provider of rules 'anthropic'"):
        rules_for("openai", "claude-sonnet-4-5", "anthropic")


def test_what_stores_data_is_ruled_out():
    with pytest.raises(InputError, match="zero_data_retention"):
        rules_of("openai", "gpt-5.5", zero_data_retention=True)
    with pytest.raises(InputError, match="zero_data_retention"):
        rules_for("openai", "gpt-4.1", "openai-24h", zero_data_retention=True)
    assert rules_of("openai", "gpt-4.1", zero_data_retention=True).name == "openai-2024"
    assert rules_of("google", "gemini-2.5-pro", zero_data_retention=True).name == "gemini-implicit"
    backend = HostedApi(provider="deepseek", model="deepseek-v4-pro", profile=PROFILE)
    scenario = Scenario(workload=RequestList(rows=(ask(0, ("doc", 2000)),)), backend=backend, zero_data_retention=True)
    with pytest.raises(InputError, match="stores data"):
        simulate(scenario)
    assert simulate(scenario.but(zero_data_retention=False)).records.outcome.tolist() == ["ok"]


@pytest.mark.parametrize(
    ("model", "key"),
    [("gpt-4.1-mini", "gpt-4.1*"), ("gpt-4o-2024-08-06", "gpt-4o"), ("gpt-4", "gpt-4"), ("o3", None), ("gpt-4x", "gpt-4*")],
)
def test_the_name_that_fits_best(model, key):
    assert best_key(model, ["gpt-4*", "gpt-4.1*", "gpt-4", "gpt-4o"]) == key


# --- every shipped file in a run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", rules_names())
def test_a_long_prefix_is_read_back_and_billed(name):
    rows = (ask(0, ("doc", 8000), ("q1", 10), shared=1), ask(60, ("doc", 8000), ("q2", 10), shared=1))
    result = run(name, *rows)
    assert result.records.hit_tokens[0] == 0
    assert 7900 < result.records.hit_tokens[1] <= 8000
    assert result.bill.lines["cache_read"] > 0
    assert result.bill.total_usd > 0
    assert set(API_LINES) < set(result.bill.lines)
    assert (result.bill.lines["cache_write_5m"] + result.bill.lines["cache_write_1h"] > 0) == load_rules(name).bills_writes
    assert (result.bill.lines["storage"] > 0) == (name == "gemini-explicit")


@pytest.mark.parametrize("name", rules_names())
def test_multipliers_of_shipped_files_are_those_of_the_price_list(name):
    rules, model = load_rules(name), EXAMPLES[name]
    if name.startswith("qwen"):
        with pytest.raises(UnknownNameError):
            api_tariff(rules.provider, model, DAY)
        return
    listed = api_tariff(rules.price_list or rules.provider, model, DAY)
    assert listed.cache_read_usd_per_token / listed.input_usd_per_token == pytest.approx(rules.read_multiplier_of(model), abs=1e-3)
    if rules.bills_writes:
        for ttl in rules.lifetime_s:
            price = listed.cache_write_1h_usd_per_token if ttl == "1h" else listed.cache_write_5m_usd_per_token
            assert price / listed.input_usd_per_token == pytest.approx(rules.write_multiplier_of(ttl))


def test_prices_of_a_shipped_file_are_the_lists_for_every_model_of_openai_and_anthropic():
    from genai_prices.data_snapshot import get_snapshot

    for provider in ("openai", "anthropic"):
        for entry in get_snapshot().find_provider(None, provider, None).models:
            listed = api_tariff(provider, entry.id, DAY)
            ours = tariff_of(rules_of(provider, entry.id), entry.id, DAY)
            assert replace(ours, source=listed.source, bills_cancelled=listed.bills_cancelled) == listed


def edited(tmp_path: Path, name: str, *changes: tuple[str, str]) -> str:
    path = tmp_path / f"my-{name}.toml"
    shutil.copy(PROVIDERS_FOLDER / f"{name}.toml", path)
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return str(path)


ROWS = (ask(0, ("doc", 8000), ("q1", 10), shared=1), ask(60, ("doc", 8000), ("q2", 10), shared=1))


@pytest.mark.parametrize(
    ("name", "old", "new", "line", "ttl"),
    [
        ("anthropic", "read_multiplier = 0.1\n", "read_multiplier = 0.2\n", "cache_read", "5m"),
        ("anthropic", "5m = 1.25", "5m = 2.5", "cache_write_5m", "5m"),
        ("anthropic", "1h = 2.0", "1h = 4.0", "cache_write_1h", "1h"),
        ("kimi", "1h = 2.0", "1h = 4.0", "cache_write_1h", "1h"),
        ("openai-2024", '"gpt-4o*" = 0.5', '"gpt-4o*" = 1.0', "cache_read", "5m"),
        ("gemini-explicit", '"*pro*" = 4.5', '"*pro*" = 9.0', "storage", "1h"),
        ("qwen-explicit", "output = 2.40", "output = 4.80", "output", "5m"),
    ],
)
def test_doubling_one_rate_in_a_provider_file_doubles_that_line_and_no_other(tmp_path, name, old, new, line, ttl):
    plain = run(name, *ROWS, cache_ttl=ttl).bill.lines
    doubled = run(edited(tmp_path, name, (old, new)), *ROWS, model=EXAMPLES[name], cache_ttl=ttl).bill.lines
    assert plain[line] > 0
    assert doubled == pytest.approx({**plain, line: 2 * plain[line]}, rel=1e-12)


def test_prices_in_dollars_of_a_file_win_over_the_list(tmp_path):
    path = edited(tmp_path, "groq")
    with open(path, "a", encoding="utf-8") as file:
        file.write('\n[prices_usd_per_mtok."openai/gpt-oss-120b"]\ninput = 7.0\n')
    tariff = tariff_of(load_rules(path), "openai/gpt-oss-120b", DAY)
    assert tariff.input_usd_per_token == pytest.approx(7e-6)
    assert tariff.cache_read_usd_per_token == pytest.approx(3.5e-6)
    assert tariff.output_usd_per_token == api_tariff("groq", "openai/gpt-oss-120b", DAY).output_usd_per_token
    assert "my-groq" in tariff.source


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("source = ", "sauce = ", "source"),
        ('source = "github', 'source = "" # "github', "source"),
        ('as_of = "2026-11-21"', 'as_of = "lately"', "as_of"),
        ("5m = 1.25\n", "", "write_multiplier.5m"),
        ("5m = 1.25\n", "5m = -1\n", "write_multiplier.5m"),
        ("[write_multiplier]\n", "[write_multiplier]\n2h = 3.0\n", "write_multiplier"),
        ("5m = 300", "5m = 0", "lifetime_s.5m"),
        ("batch_multiplier = 0.5", 'batch_multiplier = "half"', "batch_multiplier"),
        ("max_markers = 4", "peaks = [{ from_utc = 1, to_utc = 2 }]", "peaks"),
        ("max_markers = 4", 'peaks = [{ from_utc = "1", to_utc = "02:00", multiplier = 2 }]', "from_utc"),
        ("max_markers = 4", 'aliases = "claude"', "aliases"),
        ("max_markers = 4", "prices_usd_per_mtok = { m = { inputs = 3 } }", "prices_usd_per_mtok.m"),
    ],
)
def test_impossible_rates_are_refused(tmp_path, old, new, said):
    path = edited(tmp_path, "anthropic", (old, new))
    with pytest.raises(InputError, match=said) as caught:
        load_rules(path)
    assert path in str(caught.value)


def test_every_file_is_nothing_but_known_keys_with_a_source_for_what_is_assumed():
    for path in PROVIDERS_FOLDER.glob("*.toml"):
        text = path.read_text()
        assert tomllib.loads(text)["source"]
        assert text.startswith("# "), f"{path.name} does not say what it is"


# --- worked figures --------------------------------------------------------------------------------------------------------


def test_usage_example_2006_prompt_tokens_read_1920():
    result = run("openai-2024", ask(0, ("p", 2006)), ask(5, ("p", 2006)))
    assert result.records.hit_tokens.tolist() == [0, 1920]


@pytest.mark.parametrize(("cached_share", "saved"), [(0.5, 0.33), (0.7, 0.55)])
def test_1100_tokens_cached_in_part_against_900_that_never_hit(cached_share, saved):
    """The cookbook's figures: read price 0.1, fractions as given, the unit of 128 ignored."""
    short, cached = 900, round(1100 * cached_share)
    b = RecordsBuilder()
    for prompt, hit in ((short, 0), (1100, cached)):
        row = b.row(outcome="ok")
        b.prompt_tokens[row], b.hit_tokens[row] = prompt, hit
    usd = bill(b.freeze(), tariff_of(rules_of("openai", "gpt-5"), "gpt-5", DAY)).row_usd
    assert 1 - usd[1] / usd[0] == pytest.approx(saved, abs=0.005)


def test_sonnet_4_5_by_its_rules():
    b = RecordsBuilder()
    row = b.row(outcome="ok")
    b.prompt_tokens[row], b.hit_tokens[row], b.written_5m_tokens[row] = 100_000, 90_000, 5_000
    assert bill(b.freeze(), tariff_of(load_rules("anthropic"), "claude-sonnet-4-5", DAY)).total_usd == pytest.approx(0.06075)


@pytest.mark.parametrize(("reads_per_h", "pays"), [(3, False), (5, True)])
def test_gemini_storage_against_reads_per_hour(reads_per_h, pays):
    """$4.50 per Mtok and hour against 1.25 - 0.125 saved by a read: four reads an hour pay the storage."""
    rows = tuple(ask(i * 600.0, ("doc", 100_000), (f"q{i}", 10), shared=1) for i in range(1 + reads_per_h))
    stored, plain = run("gemini-explicit", *rows).bill, run("gemini-explicit", *rows, prefix_caching=False).bill
    assert stored.lines["storage"] == pytest.approx(0.1 * 4.5)
    assert plain.total_usd - stored.total_usd == pytest.approx(0.1 * (reads_per_h * (1.25 - 0.125) - 4.5))
    assert (stored.total_usd < plain.total_usd) == pays


def test_gemini_objects_do_not_slide():
    rows = tuple(ask(at_s, ("doc", 5000), (f"q{at_s}", 10), shared=1) for at_s in (0.0, 3000.0, 3601.0, 3700.0))
    result = run("gemini-explicit", *rows)
    assert result.records.hit_tokens.tolist() == [0, 5000, 0, 5000]
    assert result.records.stored_token_s.tolist() == [5000 * 3600, 0, 5000 * 3600, 0]


@pytest.mark.parametrize("rate_per_s", [1 / 900, 1 / 300, 1 / 100])
def test_poisson_traffic_keeps_a_sliding_lifetime_warm(rate_per_s):
    from simcache.theory import ttl_hit_probability

    gaps_s = np.random.default_rng(7).exponential(1 / rate_per_s, 6000)
    rows = tuple(ask(at_s, ("doc", 4000), ("q", 1), shared=1) for at_s in np.cumsum(gaps_s).tolist())
    instant = HostedProfile(name="none", base_s=0, per_token_s=0, per_cached_token_s=0, seconds_per_output_token=0)
    hits = run("anthropic", *rows, profile=instant).records.hit_tokens[1:] > 0
    assert hits.mean() == pytest.approx(ttl_hit_probability(rate_per_s, 300), abs=0.02)


# --- lifetimes and early death ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "ttl", "lives_s"),
    [("openai-24h", None, 86_400), ("openai-5.6", "30m", 1800), ("groq", None, 7200), ("kimi", "1h", 3600)],
)
def test_lifetimes_by_name(rules, ttl, lives_s):
    for at_s, hit in ((lives_s - 1, True), (lives_s + 1, False)):
        result = run(rules, ask(0, ("doc", 8000), ("q", 9), shared=1), ask(at_s, ("doc", 8000), ("q2", 9), shared=1), cache_ttl=ttl)
        assert (result.records.hit_tokens[1] > 0) == hit


@pytest.mark.parametrize(("idle_min", "broken"), [(15, 0.08), (25, 0.13), (37.5, 0.21), (52.5, 0.25)])
def test_early_deaths_at_the_measured_rate(idle_min, broken):
    """claude-code issue 94177 breaks 8, 13, 21 and 25 % of 1-hour entries by idle time: 0.34 deaths an hour."""
    rows = []
    for i in range(600):
        rows += [
            ask(1e5 * i, (f"doc{i}", 5000), ("q", 1), shared=1, session=f"s{i}"),
            ask(1e5 * i + 60 * idle_min, (f"doc{i}", 5000), ("q2", 1), shared=1, session=f"s{i}", turn=1),
        ]
    result = run("anthropic", *rows, cache_ttl="1h", early_deaths_per_h=0.34)
    lost = (result.records.hit_tokens[1::2] == 0).mean()
    assert lost == pytest.approx(1 - np.exp(-0.34 * idle_min / 60), abs=0.045)
    assert lost == pytest.approx(broken, abs=0.06)
    assert (result.records.written_1h_tokens[1::2] == np.where(result.records.hit_tokens[1::2] == 0, 5000, 0)).all()
    assert run("anthropic", *rows[:40], cache_ttl="1h").records.hit_tokens[1::2].tolist() == [5000] * 20


# --- breakpoints -----------------------------------------------------------------------------------------------------------


def test_a_marker_after_the_system_prompt_lets_others_share_it():
    rows = (
        ask(0, ("system", 2000), ("doc a", 3000), ("q", 5), shared=2),
        ask(60, ("system", 2000), ("doc b", 3000), ("q", 5), shared=2),
    )
    assert run("anthropic", *rows).records.hit_tokens.tolist() == [0, 0]
    marked = run("anthropic", *rows, breakpoints=(1,)).records
    assert marked.hit_tokens.tolist() == [0, 2000]
    assert marked.written_5m_tokens.tolist() == [5000, 3000]


def test_four_markers_at_most():
    one = ask(0, ("a", 2000), ("b", 10), ("c", 10), ("d", 10), ("e", 10))
    assert run("anthropic", one, breakpoints=(1, 2, 3)).records.written_5m_tokens.tolist() == [2040]
    with pytest.raises(InputError, match="markers"):
        run("anthropic", one, breakpoints=(1, 2, 3, 4))
    with pytest.raises(InputError, match="markers"):  # GPT-5.6 sets one itself
        run("openai-5.6", one, breakpoints=(1, 2, 3))


def test_a_second_marker_bridges_the_lookback():
    old = ask(0, ("doc", 2000))
    grown = ask(60, ("doc", 2000), *((f"m{i}", 10) for i in range(30)))
    assert run("anthropic", old, grown).records.hit_tokens.tolist() == [0, 0]
    assert run("anthropic", old, grown, breakpoints=(15,)).records.hit_tokens.tolist() == [0, 2000]


def test_gpt_5_6_finds_no_shorter_unmarked_prefix():
    rows = (ask(0, ("system", 2000), ("doc a", 3000)), ask(60, ("system", 2000), ("doc b", 3000)))
    assert run("openai-5.6", *rows).records.hit_tokens.tolist() == [0, 0]
    assert run("openai-2024", *rows).records.hit_tokens.tolist() == [0, 1920]


# --- machines --------------------------------------------------------------------------------------------------------------


def fleet(**changes) -> Machines:
    rules = replace(load_rules("openai-2024"), **changes)
    return Machines(rules, lambda: HostedStore(rules, model="gpt-4o", ttl="5m"), ticks_per_s=1)


def test_overflow_beyond_fifteen_requests_a_minute_misses_once_per_machine():
    rows = tuple(ask(i * 2.0, ("system", 3000), (f"q{i}", 10)) for i in range(90))  # 30 a minute for three minutes
    hits = run("openai-2024", *rows).records.hit_tokens
    assert (hits == 0).sum() == 2  # one first request on each of two machines
    slow = tuple(ask(i * 5.0, ("system", 3000), (f"q{i}", 10)) for i in range(36))  # 12 a minute stay at home
    assert (run("openai-2024", *slow).records.hit_tokens == 0).sum() == 1


def test_a_cache_key_keeps_a_user_on_one_machine():
    rows = tuple(
        ask(i * 0.5, ("system", 3000), (f"user {i % 20}", 500), (f"q{i}", 10), user=f"u{i % 20}", session=f"s{i % 20}")
        for i in range(400)
    )
    spread, pinned = run("openai-2024", *rows).records, run("openai-2024", *rows, cache_key="user").records
    assert pinned.hit_tokens.sum() > spread.hit_tokens.sum()


@settings(max_examples=60, deadline=None)
@given(gaps=st.lists(st.integers(0, 8), min_size=1, max_size=120), limit=st.integers(1, 6), machines=st.integers(2, 4))
def test_no_machine_takes_more_of_a_prefix_than_its_share_while_another_has_room(gaps, limit, machines):
    row = fleet(machines=machines, machine_requests_per_minute=limit)
    taken: list[tuple[int, int]] = []
    now = 0
    for gap in gaps:
        now += gap
        machine = row.take(ask(0, ("p", 2000)), now)
        recent = [m for at, m in taken if at > now - 60]
        assert recent.count(machine) < limit or min(map(recent.count, range(machines))) >= limit
        taken.append((now, machine))


def test_prefixes_spread_evenly_and_agree_on_their_first_256_tokens():
    row = fleet()
    homes = [row.reached(ask(0, (f"p{i}", 2000)), 0) for i in range(800)]
    assert max(np.bincount(homes, minlength=8)) < 140
    assert row.reached(ask(0, ("p", 256), ("x", 900)), 0) == row.reached(ask(0, ("p", 300), ("y", 1)), 0)
    assert len({row.reached(ask(0, (f"head{i}", 10), ("tail", 2000)), 0) for i in range(50)}) > 1


def test_strays_miss_after_one_primer_and_hit_after_many():
    rules = replace(load_rules("openai-2024"), stray_share=0.4, machines=4, machine_requests_per_minute=None)
    row = Machines(rules, lambda: HostedStore(rules, model="gpt-4o", ttl="5m"), ticks_per_s=1)
    rng = np.random.default_rng(1)
    reached = np.array([row.reached(ask(0, ("p", 2000)), 0, stray=s) for s in rng.random(4000)])
    home = row.reached(ask(0, ("p", 2000)), 0)
    assert (reached == home).mean() == pytest.approx(0.6, abs=0.03)
    assert np.bincount(reached[reached != home], minlength=4).max() < 0.2 * 4000


def test_forgetting_idle_prefixes_changes_nothing(monkeypatch):
    from simcache.cache import machines as module

    def machines_taken() -> list[int]:
        row = fleet(machine_requests_per_minute=2)
        return [row.take(ask(0, (f"p{i % 40}", 2000)), i) for i in range(400)]

    plenty = machines_taken()
    monkeypatch.setattr(module, "_MOST_KEYS", 3)
    assert machines_taken() == plenty


# --- prices by the clock ---------------------------------------------------------------------------------------------------


def usage(*submitted_h: float) -> Records:
    b = RecordsBuilder()
    for at_h in submitted_h:
        row = b.row(outcome="ok")
        b.prompt_tokens[row], b.submitted_at_ns[row] = 1_000_000, round(at_h * 3.6e12)
    return b.freeze()


def test_deepseek_costs_twice_at_peak_on_weekdays():
    rules = load_rules("deepseek")
    friday = hosted_prices(rules, "deepseek-v4-pro", datetime(2026, 11, 20, tzinfo=UTC))
    assert friday.bill(usage(0.5, 1, 3.999, 4, 6, 9.5, 10, 23)).row_usd == pytest.approx(np.array([1, 2, 2, 1, 2, 2, 1, 1]) * 0.66)
    assert friday.bill(usage(25)).total_usd == pytest.approx(0.66)  # Saturday
    noon = hosted_prices(rules, "deepseek-v4-pro", DAY)
    assert any("by the hour" in note for note in noon.notes)


def test_a_peak_holds_for_the_models_that_its_source_names():
    """What the price list says of older models by the hour is not doubled on top of it."""
    for hour in (2, 12, 20):
        at = datetime(2026, 11, 20, hour, tzinfo=UTC)
        listed = api_tariff("deepseek", "deepseek-chat", at)
        prices = hosted_prices(load_rules("deepseek"), "deepseek-chat", at)
        assert prices.tariff.input_usd_per_token == listed.input_usd_per_token
        assert prices.factors(np.array([0.0])).tolist() == [1.0]


def test_what_the_list_lacks_of_a_model_under_rules_made_for_others_is_their_multiple():
    tariff = tariff_of(load_rules("openai-5.6"), "gpt-4o", DAY)
    assert tariff.cache_write_5m_usd_per_token == pytest.approx(1.25 * 2.5e-6)
    assert tariff.cache_read_usd_per_token == pytest.approx(0.5 * 2.5e-6)  # listed
    assert tariff_of(load_rules("openai-5.6"), "gpt-5.6-sol", DAY).source.startswith("genai-prices")


def test_a_peak_over_midnight():
    night = Peak(from_utc="22:00", to_utc="02:00", multiplier=0.5)
    held = [night.holds_at(datetime(2026, 11, 20, hour)) for hour in (21, 22, 23, 0, 1, 2)]
    assert held == [False, True, True, True, True, False]


def test_batches_cost_half_where_there_are_batches():
    plain, batch = run("anthropic", *ROWS).bill, run("anthropic", *ROWS, batch=True).bill
    assert batch.lines == pytest.approx({line: usd / 2 for line, usd in plain.lines.items()})
    with pytest.raises(InputError, match="batch"):
        run("groq", *ROWS, batch=True)


def test_a_run_says_whose_prices_and_can_be_repeated():
    dated = run("anthropic", *ROWS, prices_at="2026-03-12", model="claude-opus-4-6")
    assert "2026-03-12" in dated.provenance["prices"]
    assert not any("today" in note for note in dated.notes)
    assert any("prices_at" in note for note in run("anthropic", *ROWS, prices_at=None).notes)
    with pytest.raises(InputError, match="prices_at"):
        HostedApi(provider="anthropic", model="claude-sonnet-4-5", profile=PROFILE, prices_at="lately")


def test_tiers_by_length_hold_at_the_multipliers_too():
    tariff = tariff_of(load_rules("openai-5.6"), "gpt-5.6-sol", DAY)
    (tier,) = tariff.tiers
    assert tier.above_prompt_tokens == 272_000
    assert tier.cache_write_5m_usd_per_token == pytest.approx(1.25 * tier.input_usd_per_token)


def test_stored_tokens_without_a_price_are_an_error():
    b = RecordsBuilder()
    b.stored_token_s[b.row(outcome="ok")] = 3600
    with pytest.raises(InputError, match="storage"):
        bill(b.freeze(), tariff_of(load_rules("anthropic"), "claude-sonnet-4-5", DAY))
