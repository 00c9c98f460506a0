"""Policies that look ahead: one that learns what to expect of each user, and one that knows."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import require_count, require_number
from .policies import Coming, Moment, Warmer, WarmingPolicy, WarmUp


@dataclass(frozen=True, kw_only=True)
class Adaptive(WarmingPolicy):
    """Learn, per user, how likely a draft is sent and how long it is typed; warm the likely ones, no earlier than needed.

    P(send) has a Beta(``prior_sent``, ``prior_left``) prior and is updated by every turn; a turn is warmed when its mean reaches
    ``p_send_at_least``. The warm-up goes out at the user's ``typing_quantile`` of open-to-submit times less ``lead`` times the
    warm-up's own estimated time, never before focus: drafts left early cost nothing then. Until a user has sent ``enough``
    drafts everybody's times stand in for theirs, and before anybody has, focus does.

    >>> from ..workload.typist import evenly
    >>> moment = Moment(user="u", session="s", prefix_tokens=8_000, warm_s=lambda: 2.0, typing=evenly(30.0, 22))
    >>> warmer = Adaptive().fresh(); warmer.on_open(moment)[0].at_s
    0.0
    >>> warmer.turn_ended(moment); warmer.on_open(moment)[0].at_s
    27.0
    """

    p_send_at_least: float = 0.5
    prior_sent: float = 1.0
    prior_left: float = 1.0
    typing_quantile: float = 0.1
    lead: float = 1.5
    enough: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("p_send_at_least", self.p_send_at_least, at_least=0, at_most=1)
        require_number("prior_sent", self.prior_sent, above=0)
        require_number("prior_left", self.prior_left, above=0)
        require_number("typing_quantile", self.typing_quantile, at_least=0, at_most=1)
        require_number("lead", self.lead, at_least=0)
        require_count("enough", self.enough)

    def fresh(self) -> Warmer:
        """Nothing learned yet."""
        return _Learner(self)


class _Learner(Warmer):
    policy: Adaptive

    def __init__(self, policy: Adaptive) -> None:
        super().__init__(policy)
        self._sent: dict[str, int] = {}
        self._left: dict[str, int] = {}
        self._everybody_s: list[float] = []
        self._own_s: dict[str, list[float]] = {}

    def p_send(self, user: str) -> float:
        """The posterior mean."""
        sent = self.policy.prior_sent + self._sent.get(user, 0)
        return sent / (sent + self.policy.prior_left + self._left.get(user, 0))

    def on_open(self, moment: Moment) -> Sequence[WarmUp]:
        typing, policy = moment.typing, self.policy
        assert typing is not None
        if self.p_send(moment.user) < policy.p_send_at_least:
            return ()
        own_s = self._own_s.get(moment.user, [])
        known_s = own_s if len(own_s) >= policy.enough else self._everybody_s
        if not known_s:
            return (WarmUp(typing.focus_at_s),)
        typed_s = known_s[int(policy.typing_quantile * (len(known_s) - 1))]
        return (WarmUp(max(typing.focus_at_s, typed_s - policy.lead * moment.warm_s())),)

    def turn_ended(self, moment: Moment) -> None:
        assert moment.typing is not None
        sent = moment.typing.submit_at_s is not None
        counts = self._sent if sent else self._left
        counts[moment.user] = counts.get(moment.user, 0) + 1
        if sent:
            insort(self._everybody_s, moment.typing.end_at_s)
            insort(self._own_s.setdefault(moment.user, []), moment.typing.end_at_s)


_LEAST_AHEAD_S: Final = 1.0  # however short a warm-up is, what runs already may be in its way


@dataclass(frozen=True, kw_only=True)
class Oracle(WarmingPolicy):
    """Know the future: the shortest waits that warming can give, at the least cost for them. A bound, not a policy to deploy.

    It warms what will be sent and nothing else: a first question from open, a later one from the end of the answer before it,
    ``most_ahead_s`` before submit at most, or ``lead`` times what the warm-up itself takes (None: as early as that), for what is
    warmed long before is in others' way; but nothing that saves less than ``least_gain_s`` of waiting, be it because the prefix
    is there already or because the warm-up would come too late. Over a longer pause it keeps the entry alive with pings where
    their reads cost less than one write. ``ttl_s`` is the lifetime (None: until evicted), ``write`` and ``read`` prices over the
    uncached input price. ``evicts``: others' prompts can push an entry out, so what is there now is warmed all the same, to be
    there at submit. It estimates as on an idle backend: under load it is a good policy, no strict bound.

    >>> from ..workload.typist import evenly
    >>> moment = Moment(user="u", session="s", prefix_tokens=8_000, warm_s=lambda: 2.0, typing=evenly(30.0, 22, share=0.5))
    >>> Oracle().fresh().on_open(moment)
    ()
    """

    ttl_s: float | None = 300.0
    most_ahead_s: float = 240.0
    least_gain_s: float = 0.01
    write: float = 1.25
    read: float = 0.1
    evicts: bool = False
    lead: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("most_ahead_s", self.most_ahead_s, above=0)
        require_number("least_gain_s", self.least_gain_s, at_least=0)
        if self.ttl_s is not None:
            require_number("ttl_s", self.ttl_s, above=0)
            require_number("most_ahead_s", self.most_ahead_s, at_most=self.ttl_s)
        require_number("write", self.write, at_least=0)
        require_number("read", self.read, at_least=0)
        if self.lead is not None:
            require_number("lead", self.lead, above=0)

    def fresh(self) -> Warmer:
        """One that remembers which sessions it has planned ahead for."""
        return _Seer(self)

    def ahead_s(self, moment: Moment) -> float:
        """How long before submit the warm-up goes out.

        >>> Oracle(lead=6).ahead_s(Moment(user="u", session="s", prefix_tokens=8_000, warm_s=lambda: 2.0))
        12.0
        """
        return self.most_ahead_s if self.lead is None else min(self.most_ahead_s, max(_LEAST_AHEAD_S, self.lead * moment.warm_s()))

    def schedule_s(self, submit_s: float, since_sent_s: float | None, ahead_s: float | None = None) -> list[float]:
        """Seconds from now at which to touch a prefix whose question comes in ``submit_s``: pings, and last the warm-up.

        >>> Oracle().schedule_s(30.0, None), Oracle().schedule_s(700.0, 0.0), Oracle().schedule_s(9000.0, 0.0)
        ([0.0], [240.0, 460.0], [8760.0])
        """
        last_s = max(0.0, submit_s - (self.most_ahead_s if ahead_s is None else ahead_s))
        if self.ttl_s is None or since_sent_s is None:
            return [last_s]
        pings: list[float] = []
        ping_s = self.most_ahead_s - since_sent_s
        while 0 <= ping_s < last_s and (len(pings) + 2) * self.read < self.write:
            pings.append(ping_s)
            ping_s += self.most_ahead_s
        alive_s = (pings[-1] if pings else -since_sent_s) + self.ttl_s
        return [*pings, last_s] if last_s < alive_s else [last_s]


class _Seer(Warmer):
    policy: Oracle

    def __init__(self, policy: Oracle) -> None:
        super().__init__(policy)
        self._planned: set[str] = set()  # only asked for membership, never walked

    def on_open(self, moment: Moment) -> Sequence[WarmUp]:
        assert moment.typing is not None
        submit_s = moment.typing.submit_at_s
        if submit_s is None or moment.session in self._planned or self._gain_s(moment, submit_s) < self.policy.least_gain_s:
            return ()
        return [WarmUp(self.policy.schedule_s(submit_s, None, self.policy.ahead_s(moment))[-1])]

    def after_answer(self, moment: Moment) -> Sequence[WarmUp]:
        submit_s = _submit_s(moment.future)
        self._planned.discard(moment.session)
        if submit_s is None:
            return ()
        self._planned.add(moment.session)
        if self._gain_s(moment, submit_s) < self.policy.least_gain_s:
            return ()
        *pings, last_s = self.policy.schedule_s(submit_s, moment.since_sent_s, self.policy.ahead_s(moment))
        return [*(WarmUp(ping_s, supersedes=False, kind="keepalive") for ping_s in pings), WarmUp(last_s)]

    def turn_ended(self, moment: Moment) -> None:
        assert moment.typing is not None
        if moment.typing.submit_at_s is not None:
            self._planned.discard(moment.session)

    def _gain_s(self, moment: Moment, submit_s: float) -> float:
        """Seconds of waiting that a warm-up saves a question ``submit_s`` from now, by the backend's own estimates."""
        if moment.warm_after_s is None or moment.hit_tokens is None:
            return math.inf
        ttl_s, since_s = self.policy.ttl_s, moment.since_sent_s or 0.0
        cached = moment.hit_tokens()
        survives = not self.policy.evicts and (ttl_s is None or since_s + submit_s < ttl_s)
        without_s = moment.warm_after_s(cached if survives else 0)
        late_s = max(0.0, moment.warm_after_s(cached) - submit_s)
        return without_s - late_s - moment.warm_after_s(moment.prefix_tokens)


def _submit_s(future: Sequence[Coming]) -> float | None:
    """Seconds from now to the next submit; None: nothing is sent any more."""
    for coming in future:
        if coming.typing is not None and coming.typing.submit_at_s is not None:
            return coming.after_s + coming.typing.submit_at_s
    return None
