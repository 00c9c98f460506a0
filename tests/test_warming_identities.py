"""What must hold of warming whatever the numbers: waste, gain, bounds, break-even points, accounts."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest

from simcache import theory
from simcache.engine.run import simulate
from simcache.experiment.headroom import Figures, Headroom, headroom, headroom_figures, oracle_for
from simcache.latency import load_profile
from simcache.records import NEVER
from simcache.scenario import HostedApi, Scenario, Server
from simcache.warm_ledger import ledger_csv, ledger_summary, others, slowdown_of_others_s, warm_ledger
from simcache.warming import (
    NoWarming,
    WarmAfterAnswer,
    WarmAfterPause,
    WarmEveryTokens,
    WarmOnFirstKey,
    WarmOnFocus,
    WarmOnOpen,
    stopping,
)
from simcache.warming.foresight import Adaptive, Oracle
from simcache.warming.keep_alive import KeepAlive, KeepAliveMyopic, KeepAliveOptimal
from simcache.warming.limits import Budgeted, ForSome, Together
from simcache.workload.distributions import Exponential, LogNormal
from simcache.workload.empirical import Empirical
from simcache.workload.presets import TypingSessions

from .people_who_return import OnePing, Returns

API = HostedApi(
    provider="anthropic",
    model="claude-sonnet-4-5",
    rules="anthropic",
    profile="openai-figure",
    jitter=False,
    prices_at="2026-11-21",
)
TRIGGERS = [WarmOnOpen(), WarmOnFocus(), WarmOnFirstKey(), WarmAfterPause(pause_s=0.5), WarmEveryTokens(tokens=8)]


def chat(**fields) -> Scenario:
    people = {"users": 12, "document_tokens": 60_000, "arrive_within_s": 600, "questions": 3, "p_send": 0.8}
    return Scenario(workload=TypingSessions(**{**people, **fields}), backend=API)


def ttft_s(result) -> np.ndarray:
    return result.records.ttft_s[result.records.kind == "user"]


@pytest.mark.parametrize("policy", TRIGGERS, ids=repr)
def test_nothing_sent_is_all_waste(policy):
    result = simulate(chat(p_send=0.0).but(warming=policy), duration_s=3600, seed=1)
    assert set(result.records["kind"].tolist()) == {"warm"}
    assert result.bill.total_usd > 0
    assert result.bill.warm_waste_usd == pytest.approx(result.bill.total_usd, rel=1e-12)
    assert all(entry.used_tokens == 0 and entry.wasted_share == 1 for entry in warm_ledger(result.records))


@pytest.mark.parametrize("policy", [*TRIGGERS, Oracle(), Adaptive()], ids=repr)
def test_who_types_no_time_gains_nothing(policy):
    asked = chat(typing_s=0, p_send=1.0, questions=1)
    cold, warm = (simulate(asked.but(warming=each), duration_s=3600, seed=1) for each in (NoWarming(), policy))
    assert warm.records == cold.records
    assert headroom(asked.but(warming=policy), duration_s=3600).gained_share is None


@pytest.mark.parametrize("policy", [WarmOnOpen(), WarmOnFocus(), WarmOnFirstKey(), Oracle()], ids=repr)
@pytest.mark.parametrize("context", [2_000, 60_000, 150_000])
def test_who_types_long_waits_for_a_hit(policy, context):
    asked = chat(typing_s=30, p_send=1.0, questions=1, document_tokens=context, system_tokens=0, question_tokens=20)
    result = simulate(asked.but(warming=policy), duration_s=3600, seed=1)
    hit_s, cold_s = (load_profile("openai-figure").ttft_s(context + 20 - hit, hit) for hit in (context, 0))
    expected_s = cold_s if isinstance(policy, Oracle) and cold_s - hit_s < policy.least_gain_s else hit_s
    assert ttft_s(result) == pytest.approx(expected_s, abs=1e-6)


def test_no_policy_beats_the_oracle_on_both_counts():
    """On or beyond the front of all policies lies the oracle: nothing as cheap is faster by more than it cares for."""
    asked = chat(read_think_s=LogNormal(median=150, sigma=1.4), questions=4, users=25)
    ping = KeepAlive(interval_s=240, most_pings=4)
    gap = LogNormal(median=180, sigma=1.2)
    policies = [
        NoWarming(),
        *TRIGGERS,
        WarmAfterAnswer(),
        Adaptive(),
        ping,
        KeepAliveMyopic(gap=gap),
        KeepAliveOptimal(gap=gap),
        Together(policies=(WarmOnOpen(), ping)),
        Budgeted(policy=WarmOnFocus(), usd_per_hour=3.0),
    ]
    for seed in (1, 2, 3):
        oracle = headroom_figures([simulate(asked.but(warming=oracle_for(asked)), duration_s=7200, seed=seed)])
        for policy in policies:
            other = headroom_figures([simulate(asked.but(warming=policy), duration_s=7200, seed=seed)])
            faster = other.ttft_mean_s < oracle.ttft_mean_s - Oracle().least_gain_s
            cheaper = other.usd_per_1000_questions < oracle.usd_per_1000_questions * (1 - 1e-9)
            slower = other.ttft_mean_s > oracle.ttft_mean_s + Oracle().least_gain_s
            assert not (faster and not other.usd_per_1000_questions > oracle.usd_per_1000_questions), policy
            assert not (cheaper and not slower), policy


def test_keep_alive_breaks_even_where_the_formula_says():
    """Sweep the share of people who return within what one ping buys (300 to 540 s), and find where it pays."""
    gains = []
    for early in range(11):
        asked = Scenario(workload=Returns(early), backend=API)
        cold, ping = (
            simulate(asked.but(warming=policy), duration_s=5000, seed=1).bill.total_usd
            for policy in (NoWarming(), OnePing(interval_s=240, most_pings=1, warm_output_tokens=0))
        )
        gains.append(cold - ping)
    shares = np.arange(11) / 40
    assert np.all(np.diff(gains) > 0)
    assert gains[0] < 0 < gains[-1]
    assert np.interp(0.0, gains, shares) == pytest.approx(theory.keep_alive_threshold(write=1.25, read=0.1), rel=2e-4)


def test_pings_at_the_lifetime_or_later_pay_a_write_each_and_the_result_says_so():
    asked = Scenario(workload=Returns(0, people_=2), backend=API)
    late = simulate(asked.but(warming=KeepAlive(interval_s=300, most_pings=3)), duration_s=3000, seed=1)
    pings = late.records["kind"] == "keepalive"
    assert late.records["written_5m_tokens"][pings].tolist() == [100_000] * pings.sum()
    assert any("is not below the lifetime of 300 s" in note for note in late.notes)
    kept = simulate(asked.but(warming=KeepAlive(interval_s=299, most_pings=3)), duration_s=3000, seed=1)
    assert kept.records["written_5m_tokens"][kept.records["kind"] == "keepalive"].sum() == 0
    assert not any("keep-alive" in note for note in kept.notes)
    nested = Together(policies=(WarmOnOpen(), ForSome(policy=KeepAlive(interval_s=900))))
    assert nested.notes(300.0)[0].startswith("keep-alive interval 900 s")
    assert nested.notes(None) == []


@pytest.mark.parametrize("law", [LogNormal(median=224, sigma=2.24), Exponential(mean=400), Empirical((100.0, 2000.0, 2000.0))])
def test_expected_gains_of_pings_equal_what_pings_gain_on_drawn_pauses(law):
    policy = KeepAliveOptimal(gap=law, most_pings=20)
    gaps_s = law.draw(np.random.default_rng(1), 200_000)
    expected = np.cumsum(policy.gains())
    for pings in (0, 1, 5, 20):
        sent = np.minimum(pings, np.floor(gaps_s / 240 - 1e-12))
        with_pings = 0.1 * sent + np.where(gaps_s < 240 * sent + 300, 0.1, 1.25)
        without = np.where(gaps_s < 300, 0.1, 1.25)
        gain = (without - with_pings).mean()
        assert gain == pytest.approx(expected[pings - 1] if pings else 0.0, abs=0.01)
    best = policy.pings(0.0)
    assert (expected[best - 1] if best else 0.0) == max(0.0, float(expected.max()))
    myopic = KeepAliveMyopic(gap=law, most_pings=20).pings(0.0)
    assert (expected[myopic - 1] if myopic else 0.0) <= (expected[best - 1] if best else 0.0) + 1e-12


def test_the_myopic_rule_is_the_closed_threshold():
    law = Exponential(mean=1500)
    gains = KeepAliveMyopic(gap=law, most_pings=5).gains()
    at = np.arange(1, 6) * 240.0
    returns = (law.cdf(at + 300) - law.cdf(at + 60)) / (1 - law.cdf(at))
    assert (gains > 0).tolist() == (returns > theory.keep_alive_threshold(write=1.25, read=0.1)).tolist()
    # memoryless: all or nothing, so the rule loses nothing
    assert stopping.myopic_pings(gains) == stopping.optimal_pings(gains)


def test_time_already_spent_answering_shifts_the_pings():
    law = Exponential(mean=600)
    policy = KeepAliveOptimal(gap=law, most_pings=3)
    assert policy.gains(100.0)[0] == pytest.approx(
        -0.1 * (1 - law.cdf(140.0)) + 1.15 * (law.cdf(440.0) - law.cdf(200.0)),
    )
    # an answer of 400 s outlived the entry: the first ping pays a write
    assert policy.gains(400.0)[0] == pytest.approx(-1.25 + 1.15 * law.cdf(300.0))


def test_budget_in_dollars_is_kept_in_every_hour():
    asked = chat(users=60, arrive_within_s=6000, questions=1).but(warming=Budgeted(policy=WarmOnOpen(), usd_per_hour=1.0))
    result = simulate(asked, duration_s=7200, seed=1)
    warm = result.records["kind"] == "warm"
    at_s, usd = result.records.seconds("sent_at_ns")[warm], result.bill.row_usd[warm]
    spent = [usd[(at_s > t_s - 3600) & (at_s <= t_s)].sum() for t_s in at_s]
    assert 0.6 < max(spent) <= 1.0
    free = simulate(asked.but(warming=WarmOnOpen()), duration_s=7200, seed=1)
    assert (free.records["kind"] == "warm").sum() > warm.sum()


def test_the_ledger_accounts_for_every_dollar():
    asked = chat(document_tokens=8_000, read_think_s=400)
    policy = Together(policies=(WarmOnFocus(), KeepAlive(interval_s=240, most_pings=2)))
    result = simulate(asked.but(warming=policy), duration_s=3600, seed=1)
    records = result.records
    ledger = warm_ledger(records, result.bill.row_usd)
    assert len(ledger) == (records["kind"] != "user").sum() > 20
    users = result.bill.row_usd[records["kind"] == "user"].sum()
    assert sum(entry.cost_usd for entry in ledger) == pytest.approx(result.bill.total_usd - users)
    assert sum(entry.cost_usd * entry.wasted_share for entry in ledger) == pytest.approx(result.bill.warm_waste_usd)
    assert {entry.fate for entry in ledger} >= {"used", "refreshed"}
    for entry in ledger:
        assert (entry.used_by_row is None) == (entry.used_tokens == 0)
        assert entry.used_tokens + entry.dropped_tokens <= entry.inserted_tokens
        if entry.used_by_row is not None:
            assert records["kind"][entry.used_by_row] == "user"
            assert records["session"][entry.used_by_row] == entry.session
            assert records.seconds("sent_at_ns")[entry.used_by_row] >= entry.visible_at_s
        if entry.late_s:
            row = int(np.flatnonzero(records["warm_row"] == entry.row)[0])
            assert entry.late_s == pytest.approx(entry.visible_at_s - records.seconds("submitted_at_ns")[row], abs=1e-6)
    cold_s = records.seconds("cold_ns")[records["kind"] == "user"]
    assert np.all(cold_s > 1.0)
    assert np.all(records["cold_ns"][records["kind"] != "user"] == NEVER)


def test_servers_tell_who_used_a_warm_up_and_what_was_evicted():
    asked = Scenario(
        workload=TypingSessions(users=12, document_tokens=6_000, arrive_within_s=300, questions=2, read_think_s=60, p_send=0.6),
        backend=Server(kv_tokens=24_000),
        warming=WarmOnFocus(),
    )
    result = simulate(asked, duration_s=1200, seed=2)
    ledger = warm_ledger(result.records)
    assert {entry.cost_usd for entry in ledger} == {None}
    used = [entry for entry in ledger if entry.fate == "used"]
    assert used
    assert all(result.records["user"][entry.used_by_row] == entry.user for entry in used)
    assert sum(entry.dropped_tokens for entry in ledger) > 0
    assert all(entry.used_tokens + entry.dropped_tokens <= entry.inserted_tokens for entry in ledger)


def test_those_who_do_not_warm_are_slowed_down_by_those_who_do():
    asked = Scenario(
        workload=TypingSessions(users=60, document_tokens=20_000, arrive_within_s=60, questions=1, p_send=0.5), backend=Server()
    )
    cold = simulate(asked, duration_s=600, seed=3)

    def slowdown_s(policy) -> np.ndarray:
        return slowdown_of_others_s(simulate(asked.but(warming=policy), duration_s=600, seed=3).records, cold.records)

    assert slowdown_s(ForSome(policy=WarmOnFocus(), share=0.0)).tolist() == [0.0] * len(cold.records)
    assert slowdown_s(ForSome(policy=WarmOnFocus(), share=1.0)).tolist() == []
    half = slowdown_s(ForSome(policy=WarmOnFocus(), share=0.5))
    assert 5 < len(half) < len(cold.records)
    assert half.mean() > 0
    late = slowdown_s(ForSome(policy=WarmOnFocus(priority=5), share=0.5))
    assert len(late) == len(half)


def test_on_a_provider_without_limits_nobody_slows_anybody_down():
    cold = simulate(chat(), duration_s=3600, seed=1)
    warm = simulate(chat().but(warming=ForSome(policy=WarmOnFocus(), share=0.5)), duration_s=3600, seed=1)
    assert np.abs(slowdown_of_others_s(warm.records, cold.records)).max() == 0
    assert others(cold.records).all()


def test_headroom_in_one_line():
    found = headroom(chat(document_tokens=150_000).but(warming=WarmOnFirstKey()), seeds=(1, 2), duration_s=1200)
    assert 0 < found.gained_share <= 1.0
    assert found.oracle.ttft_mean_s <= found.policy.ttft_mean_s < found.none.ttft_mean_s
    assert found.sentence().startswith("headroom (none / this policy / oracle): mean TTFT")
    unknown = Figures(None, None, None)
    assert Headroom(none=unknown, policy=unknown, oracle=unknown).gained_share is None
    assert oracle_for(Scenario(workload=TypingSessions(users=1), backend=Server(ttl_s=100.0))).most_ahead_s == 60.0
    assert oracle_for(Scenario(workload=TypingSessions(users=1), backend=Server(ttl_s=50.0))).most_ahead_s == 40.0
    assert math.isclose(oracle_for(chat().but(backend__cache_ttl="1h")).write, 2.0)


def test_the_ledger_in_a_few_figures_and_as_a_table():
    policy = Together(policies=(WarmOnFocus(), KeepAlive(interval_s=240, most_pings=2)))
    result = simulate(chat(p_send=0.6).but(warming=policy), duration_s=3600, seed=1)
    ledger = warm_ledger(result.records, result.bill.row_usd)
    found = ledger_summary(ledger)
    assert sum(found["fates"].values()) == found["sent"] == len(ledger)
    assert found["waste_usd"] == pytest.approx(result.bill.warm_waste_usd)
    assert 0 < found["wasted_share"] < 1
    assert 0 <= found["late"] <= found["relied_on"] <= found["sent"]
    lines = list(csv.DictReader(io.StringIO(ledger_csv(ledger))))
    assert [int(line["row"]) for line in lines] == [entry.row for entry in ledger]
    assert sum(float(line["cost_usd"]) for line in lines) == pytest.approx(found["cost_usd"])
    assert [line["visible_at_s"] == "" for line in lines] == [entry.visible_at_s is None for entry in ledger]
    assert ledger_summary(warm_ledger(result.records))["cost_usd"] is None


def test_an_oracle_that_knows_of_evictions_warms_what_is_there():
    """On one small GPU others push prefixes out while people type; the oracle waits least of all then, too."""
    asked = chat(document_tokens=20_000, users=12, questions=2).but(backend=Server(kv_tokens=60_000))
    room = headroom(asked.but(warming=WarmOnFocus()), seeds=range(1, 9), duration_s=1200)
    assert room.oracle.ttft_mean_s < room.none.ttft_mean_s * 0.7
    assert room.oracle.ttft_mean_s < room.policy.ttft_mean_s * 0.8
