"""The identities of warming on a GPU of one's own, where nothing has a price by the token and everybody shares one machine.

A hosted API without limits has them in test_warming_identities.py; contention, there by rate limits, is tested here too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simcache import metrics, theory
from simcache.engine.run import simulate
from simcache.experiment.headroom import Figures, foreseen, headroom, headroom_figures, oracle_for
from simcache.latency import load_profile
from simcache.scenario import HostedApi, Scenario, Server
from simcache.warm_ledger import warm_ledger
from simcache.warming import (
    NoWarming,
    WarmAfterAnswer,
    WarmAfterPause,
    WarmEveryTokens,
    WarmOnFirstKey,
    WarmOnFocus,
    WarmOnOpen,
)
from simcache.warming.foresight import Adaptive, Oracle
from simcache.warming.limits import Budgeted, Together
from simcache.workload.presets import TypingSessions

from .people_who_return import OnePing, Returns

PROFILE = "llama-3-8b/a100/tp1"
SERVER = Server(profile=PROFILE)
TRIGGERS = [WarmOnOpen(), WarmOnFocus(), WarmOnFirstKey(), WarmAfterPause(pause_s=0.5), WarmEveryTokens(tokens=8)]
EVERY = [
    NoWarming(),
    *TRIGGERS,
    WarmAfterAnswer(),
    Adaptive(),
    Budgeted(policy=WarmOnFocus(), most_at_once=1),
    Together(policies=(WarmOnOpen(), WarmAfterAnswer())),
]


def chat(backend: object = SERVER, **fields) -> Scenario:
    people = {"users": 12, "document_tokens": 8_000, "arrive_within_s": 600, "questions": 3, "p_send": 0.8, "read_think_s": 60}
    return Scenario(workload=TypingSessions(**{**people, **fields}), backend=backend)


@pytest.mark.parametrize("policy", TRIGGERS, ids=repr)
def test_nothing_sent_is_all_waste(policy):
    ledger = warm_ledger(simulate(chat(p_send=0.0).but(warming=policy), duration_s=3600, seed=1).records)
    assert len(ledger) > 5
    assert all(entry.used_tokens == 0 and entry.wasted_share == 1 for entry in ledger)


@pytest.mark.parametrize("policy", [*TRIGGERS, Adaptive(), Oracle(ttl_s=None, evicts=True, lead=6.0)], ids=repr)
def test_who_types_no_time_gains_nothing(policy):
    asked = chat(typing_s=0, p_send=1.0, questions=1)
    cold, warm = (simulate(asked.but(warming=each), duration_s=3600, seed=1) for each in (NoWarming(), policy))
    assert warm.records == cold.records


@pytest.mark.parametrize("context", [800, 8_000, 64_000])
@pytest.mark.parametrize("policy", [WarmOnOpen(), WarmOnFocus(), WarmOnFirstKey(), "oracle"], ids=repr)
def test_who_types_long_waits_for_a_hit(policy, context):
    """One person alone, whole blocks of 16: what is computed is the question after the context."""
    asked = chat(users=1, typing_s=60, p_send=1.0, questions=1, document_tokens=context, system_tokens=0, question_tokens=20)
    asked = asked.but(warming=oracle_for(asked) if policy == "oracle" else policy)
    (ttft_s,) = metrics.ttft_s(simulate(asked, duration_s=3600, seed=1).records)
    assert ttft_s == pytest.approx(load_profile(PROFILE).prefill_s(20, context), abs=1e-9)  # the clock ticks in nanoseconds


ALONE_AND_BACK = Returns(0, people_=20, document_tokens=32_000, question_tokens=1, apart_s=10_000.0)


def test_keep_alive_breaks_even_where_the_formula_says():
    """In seconds of the machine: a ping costs a hit, and saves a cold prefill where people return within what it buys."""
    asked = Scenario(workload=ALONE_AND_BACK, backend=Server(profile=PROFILE, ttl_s=300.0))
    seconds = []
    for early in (0, 1):
        runs = [
            simulate(asked.but(workload=replace(ALONE_AND_BACK, early=early), warming=policy), duration_s=200_000, seed=1).records
            for policy in (NoWarming(), OnePing(interval_s=240, most_pings=1))
        ]
        seconds.append([float((records.seconds("finished_at_ns") - records.seconds("sent_at_ns")).sum()) for records in runs])
    gains = [cold - ping for cold, ping in seconds]
    assert gains[0] < 0 < gains[1]
    share = np.interp(0.0, gains, [0, 1 / 20])
    profile, tokens = load_profile(PROFILE), 32_000
    write_s, read_s = profile.prefill_s(tokens + 1, 0), profile.prefill_s(1, tokens)
    assert share == pytest.approx(theory.keep_alive_threshold(write=write_s, read=read_s), rel=0.01)


ALONE = {"users": 20}
CONTENDED = {
    "busy": chat(users=100),
    "little memory": chat(Server(profile=PROFILE, kv_tokens=60_000), users=40),
    "an account with limits": chat(
        HostedApi(
            provider="anthropic",
            model="claude-sonnet-4-5",
            profile="openai-figure",
            jitter=False,
            prices_at="2026-11-21",
            requests_per_minute=40,
        ),
        users=60,
        document_tokens=60_000,
    ),
}


def waits_s(asked: Scenario, seeds=(1, 2)) -> float:
    return headroom_figures([simulate(asked, duration_s=1500, seed=seed) for seed in seeds]).ttft_mean_s


def test_nobody_waits_less_than_under_the_oracle_on_a_machine_with_room():
    asked = chat(users=20)
    oracle_s = waits_s(asked.but(warming=oracle_for(asked)))
    for policy in EVERY:
        assert waits_s(asked.but(warming=policy)) > oracle_s - Oracle().least_gain_s, policy


@pytest.mark.parametrize("where", CONTENDED)
def test_nobody_waits_less_than_under_the_oracle_where_warm_ups_are_in_each_others_way(where):
    """On average over seeds: the oracle knows what will be asked, and warms late enough not to push others out."""
    asked = CONTENDED[where]
    oracle_s = waits_s(asked.but(warming=oracle_for(asked)))
    for policy in EVERY:
        assert waits_s(asked.but(warming=policy)) > oracle_s - Oracle().least_gain_s, policy


def test_an_oracle_that_would_overload_the_machine_warms_nobody():
    asked = chat(users=300).but(warming=WarmOnFocus())
    found = headroom(asked, seeds=(1,), duration_s=900)
    assert waits_s(asked.but(warming=oracle_for(asked)), seeds=(1,)) > found.none.ttft_mean_s
    assert found.oracle == found.none
    assert found.gained_share is None
    assert foreseen(Figures(1.0, 1.0, 5.0), Figures(2.0, 2.0, 4.0)).usd_per_1000_questions == 5.0
