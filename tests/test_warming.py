"""Warming policies: when each of them fires, and that none looks ahead."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from simcache.errors import InputError
from simcache.streams import stream
from simcache.warming import (
    NoWarming,
    WarmAfterPause,
    WarmEveryTokens,
    WarmingPolicy,
    WarmOnFirstKey,
    WarmOnFocus,
    WarmOnOpen,
    WarmUp,
)
from simcache.workload.typist import Typing, Typist

POLICIES = [
    NoWarming(),
    WarmOnOpen(),
    WarmOnFocus(),
    WarmOnFirstKey(),
    WarmAfterPause(pause_s=0.4),
    WarmAfterPause(pause_s=0.4, with_draft=True),
    WarmEveryTokens(tokens=5),
]

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


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
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
        (lambda: WarmOnOpen(priority=0.5), r"priority\(=0.5\) must be a whole number"),
    ],
)
def test_impossible_policies_are_refused(build, rule):
    with pytest.raises(InputError, match=rule):
        build()
