"""Warming policies: when each of them fires, and that none looks ahead."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from simcache.errors import InputError
from simcache.scenario import Scenario, Server
from simcache.scenario_file import parse_scenarios, to_toml
from simcache.streams import stream
from simcache.warming import (
    Coming,
    Moment,
    NoWarming,
    WarmAfterAnswer,
    WarmAfterPause,
    WarmEveryTokens,
    WarmingPolicy,
    WarmOnFirstKey,
    WarmOnFocus,
    WarmOnOpen,
    WarmUp,
)
from simcache.warming.foresight import Adaptive, Oracle
from simcache.warming.keep_alive import KeepAlive, KeepAliveMyopic, KeepAliveOptimal
from simcache.warming.limits import Budgeted, ForSome, Together
from simcache.workload.distributions import Exponential, LogNormal
from simcache.workload.empirical import Empirical
from simcache.workload.presets import TypingSessions
from simcache.workload.typist import Typing, Typist, evenly

POLICIES = [
    NoWarming(),
    WarmOnOpen(),
    WarmOnFocus(),
    WarmOnFirstKey(),
    WarmAfterPause(pause_s=0.4),
    WarmAfterPause(pause_s=0.4, with_draft=True),
    WarmEveryTokens(tokens=5),
]
AHEAD = [
    WarmAfterAnswer(delay_s=2.0),
    KeepAlive(interval_s=100, most_pings=3),
    KeepAliveMyopic(gap=LogNormal(median=200, sigma=1.0)),
    KeepAliveOptimal(gap=Empirical((100.0, 2000.0, 2000.0))),
]
WITH_STATE = [
    Adaptive(),
    Oracle(),
    Together(policies=(WarmOnOpen(), KeepAlive())),
    ForSome(policy=WarmOnFocus(), share=0.3),
    Budgeted(policy=Together(policies=(WarmOnOpen(),)), usd_per_hour=2.0, most_at_once=3),
]


def moment(**fields) -> Moment:
    return Moment(**{"user": "u", "session": "s", "prefix_tokens": 8_000, "warm_s": lambda: 2.0, **fields})


TYPED = Typing(
    focus_at_s=1.0,
    event_at_s=np.array([2.0, 2.5, 4.0, 4.5, 9.0]),
    draft_chars_after=np.array([1, 2, 3, 4, 5]),
    submit_at_s=10.5,
)


@pytest.mark.parametrize(
    ("policy", "warm_ups"),
    [
        (NoWarming(), []),
        (WarmOnOpen(), [WarmUp(0.0)]),
        (WarmOnFocus(), [WarmUp(1.0)]),
        (WarmOnFirstKey(), [WarmUp(2.0)]),
        (WarmAfterPause(pause_s=1.5), [WarmUp(4.0), WarmUp(6.0)]),
        (WarmAfterPause(pause_s=1.4, with_draft=True), [WarmUp(3.9, True), WarmUp(5.9, True), WarmUp(10.4, True)]),
        (WarmEveryTokens(tokens=2), [WarmUp(2.5, True), WarmUp(4.5, True)]),
    ],
    ids=repr,
)
def test_when_each_policy_warms(policy, warm_ups):
    assert list(policy.warm_ups(TYPED, 8_000)) == warm_ups


def test_nothing_was_typed():
    untouched = Typing(focus_at_s=1.0, event_at_s=np.array([]), draft_chars_after=np.array([], dtype=int), left_at_s=3.0)
    counts = [len(policy.warm_ups(untouched, 8_000)) for policy in POLICIES]
    assert counts == [0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_no_policy_looks_ahead(policy):
    """Whatever comes after an instant, the warm-ups up to that instant are the same."""
    for number in range(40):
        whole, cut = (
            Typist(edit_share=0.1).type(stream(1, "t", number), tokens=25, person_key_s=0.2, share=share) for share in (1.0, 0.5)
        )
        last_s = cut.event_at_s[-1]
        assert [w for w in policy.warm_ups(whole, 10) if w.at_s <= last_s] == [
            w for w in policy.warm_ups(cut, 10) if w.at_s <= last_s
        ]


@pytest.mark.parametrize("policy", [*POLICIES, *AHEAD, *WITH_STATE], ids=repr)
def test_policies_are_written_to_files_and_read_back(policy):
    scenario = Scenario(workload=TypingSessions(users=1), backend=Server(), warming=policy)
    assert parse_scenarios(to_toml(scenario)).scenarios[0] == scenario


def test_planned_after_an_answer():
    now = moment(since_sent_s=30.0)
    assert list(WarmAfterAnswer(delay_s=2.0).after_answer(now)) == [WarmUp(2.0)]
    assert [ping.at_s for ping in AHEAD[1].after_answer(now)] == [70.0, 170.0, 270.0]
    assert all(ping.kind == "keepalive" and not ping.supersedes for ping in AHEAD[1].after_answer(now))
    assert [ping.at_s for ping in AHEAD[1].after_answer(moment(since_sent_s=250.0))] == [0.0, 50.0]
    assert [len(policy.after_answer(now)) for policy in AHEAD[2:]] == [policy.pings(30.0) for policy in AHEAD[2:]]
    for policy in POLICIES:
        assert policy.after_answer(now) == ()
    for policy in AHEAD:
        assert list(policy.warm_ups(TYPED, 8_000)) == []


def test_an_adaptive_policy_waits_as_long_as_it_can():
    warmer = Adaptive(typing_quantile=0.0, lead=2.0, enough=3).fresh()
    for span_s in (20.0, 30.0, 40.0):
        warmer.turn_ended(moment(typing=evenly(span_s, 9)))
    assert [w.at_s for w in warmer.on_open(moment(typing=evenly(99.0, 9)))] == [16.0]
    assert [w.at_s for w in warmer.on_open(moment(typing=evenly(99.0, 9), user="new"))] == [16.0]  # everybody's times
    assert [w.at_s for w in warmer.on_open(moment(typing=evenly(99.0, 9, focus_at_s=18.0)))] == [18.0]
    for _ in range(5):
        warmer.turn_ended(moment(typing=evenly(10.0, 9, share=0.5), user="leaves"))
    assert warmer.on_open(moment(typing=evenly(99.0, 9), user="leaves")) == ()
    assert warmer.p_send("leaves") == pytest.approx(1 / 7)
    assert warmer.p_send("u") == pytest.approx(4 / 5)


def test_the_oracle_chooses_the_cheapest_way_to_be_there_in_time():
    oracle = Oracle(ttl_s=300, most_ahead_s=240, write=1.25, read=0.1)
    assert oracle.schedule_s(100.0, 10.0) == [0.0]
    assert oracle.schedule_s(400.0, 10.0) == [160.0]  # the entry lives to 290 s: one refresh, 240 s ahead
    assert oracle.schedule_s(1000.0, 0.0) == [240.0, 480.0, 720.0, 760.0]  # four reads are cheaper than a write
    assert oracle.schedule_s(8000.0, 0.0) == [7760.0]  # a write is cheaper than thirty reads
    assert oracle.schedule_s(8000.0, None) == [7760.0]
    assert Oracle(ttl_s=None).schedule_s(8000.0, 3.0) == [7760.0]
    warmer = oracle.fresh()
    left = Coming(50.0, evenly(10.0, 9, share=0.5))
    sent = Coming(120.0, evenly(10.0, 9))
    assert list(warmer.after_answer(moment(since_sent_s=10.0, future=(left, sent)))) == [WarmUp(0.0)]
    assert list(warmer.after_answer(moment(since_sent_s=10.0, future=(left,)))) == []
    # what is planned already is not planned again when the turn opens
    warmer.after_answer(moment(since_sent_s=10.0, future=(sent,)))
    assert warmer.on_open(moment(typing=sent.typing)) == ()
    warmer.turn_ended(moment(typing=sent.typing))
    assert list(warmer.on_open(moment(typing=sent.typing))) == [WarmUp(0.0)]


def test_the_oracle_leaves_out_what_saves_nothing():
    def fixed(tokens: int) -> float:
        return 10.0 - tokens / 1000

    warmer = Oracle().fresh()
    asked = {"typing": evenly(3.0, 9), "warm_after_s": fixed}
    # 8,000 tokens cold take 10 s and 2 s from the cache: started 3 s ahead, waiting for it takes 7 + 2 s
    assert len(warmer.on_open(moment(**asked, hit_tokens=lambda: 0))) == 1
    assert len(warmer.on_open(moment(**asked, hit_tokens=lambda: 8_000))) == 0
    late = {"typing": evenly(1.0, 9), "warm_after_s": lambda tokens: 10.0 - tokens / 1e6}
    assert len(warmer.on_open(moment(**late, hit_tokens=lambda: 0))) == 0


def test_the_same_users_warm_in_every_run():
    half = ForSome(policy=WarmOnOpen(), share=0.5)
    chosen = [half.warms(f"u{i}") for i in range(2000)]
    assert np.mean(chosen) == pytest.approx(0.5, abs=0.05)
    more = ForSome(policy=WarmOnOpen(), share=0.8)
    assert all(more.warms(f"u{i}") for i in range(2000) if chosen[i])


@pytest.mark.parametrize("policy", [*POLICIES, *AHEAD, *WITH_STATE], ids=repr)
def test_policies_are_frozen_values(policy):
    assert policy == dataclasses.replace(policy)
    assert hash(policy) == hash(dataclasses.replace(policy))
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.priority = 3
    assert (policy.warm_output_tokens, policy.priority, policy.cancel_on_abandon) == (None, 0, True)


def test_a_policy_of_ones_own_needs_one_method():
    class OnlyLongPrompts(WarmingPolicy):
        def warm_ups(self, typing, prefix_tokens):
            return [WarmUp(typing.focus_at_s)] if prefix_tokens >= 1024 else []

    assert OnlyLongPrompts(priority=2).warm_ups(TYPED, 1023) == []
    assert OnlyLongPrompts(priority=2).warm_ups(TYPED, 1024) == [WarmUp(1.0)]
    with pytest.raises(NotImplementedError, match="WarmingPolicy must define warm_ups"):
        WarmingPolicy().warm_ups(TYPED, 0)


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (lambda: WarmAfterPause(pause_s=0), r"pause_s\(=0\) must be above 0"),
        (lambda: WarmEveryTokens(tokens=0), r"tokens\(=0\) must be at least 1"),
        (lambda: WarmEveryTokens(tokens=1.5), r"tokens\(=1.5\) must be a whole number"),
        (lambda: WarmOnOpen(warm_output_tokens=-1), r"warm_output_tokens\(=-1\) must be at least 0"),
        (lambda: WarmAfterAnswer(delay_s=-1), r"delay_s\(=-1\) must be at least 0"),
        (lambda: KeepAlive(interval_s=0), r"interval_s\(=0\) must be above 0"),
        (lambda: KeepAlive(most_pings=-1), "most_pings"),
        (lambda: KeepAliveMyopic(gap=3.0), "gap.* must be a distribution that states its law"),
        (lambda: KeepAliveOptimal(gap=Exponential(mean=3), ttl_s=0), r"ttl_s\(=0\) must be above 0"),
        (lambda: KeepAliveOptimal(gap=Exponential(mean=3), read=-1), "read"),
        (lambda: Adaptive(p_send_at_least=1.1), r"p_send_at_least\(=1.1\) must be at most 1"),
        (lambda: Adaptive(prior_sent=0), "prior_sent"),
        (lambda: Adaptive(typing_quantile=-0.1), "typing_quantile"),
        (lambda: Oracle(ttl_s=0), r"ttl_s\(=0\) must be above 0"),
        (lambda: Oracle(ttl_s=100, most_ahead_s=101), r"most_ahead_s\(=101\) must be at most 100"),
        (lambda: Budgeted(policy=WarmOnOpen()), "usd_per_hour.* or most_at_once must be given"),
        (lambda: Budgeted(policy=WarmOnOpen(), usd_per_hour=-1), r"usd_per_hour\(=-1\) must be at least 0"),
        (lambda: Budgeted(policy="on-open", most_at_once=1), "policy.* must be a warming policy"),
        (lambda: ForSome(policy=WarmOnOpen(), share=2), r"share\(=2\) must be at most 1"),
        (lambda: Together(policies=(3,)), "policies.* must be a warming policy"),
        (lambda: WarmOnOpen(priority=0.5), r"priority\(=0.5\) must be a whole number"),
    ],
)
def test_impossible_policies_are_refused(build, rule):
    with pytest.raises(InputError, match=rule):
        build()
