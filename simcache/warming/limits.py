"""Policies around policies: several at once, for some users only, within a budget."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError, require, require_count, require_number
from .policies import Ask, Moment, Warmer, WarmingPolicy, WarmUp

_HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Together(WarmingPolicy):
    """Do what each of ``policies`` does: keep-alive pings and a warm-up on focus, say. A warm-up goes out if all admit it.

    Output, priority and cancelling are this policy's own fields, not those of the parts.

    >>> from .policies import WarmOnFocus, WarmOnOpen
    >>> from ..workload.typist import evenly
    >>> moment = Moment(user="u", session="s", prefix_tokens=9, warm_s=lambda: 1.0, typing=evenly(3.0, 9, focus_at_s=0.5))
    >>> [warm_up.at_s for warm_up in Together(policies=(WarmOnOpen(), WarmOnFocus())).fresh().on_open(moment)]
    [0.0, 0.5]
    """

    policies: tuple[WarmingPolicy, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for policy in self.policies:
            _require_policy("policies", policy)

    def fresh(self) -> Warmer:
        """The parts' states."""
        return _Chorus(self, [policy.fresh() for policy in self.policies])

    def notes(self, lifetime_s: float | None) -> list[str]:
        """The parts' notes."""
        return [note for policy in self.policies for note in policy.notes(lifetime_s)]


@dataclass(frozen=True, kw_only=True)
class ForSome(WarmingPolicy):
    """``policy`` for the given ``share`` of users, none for the others: the same users in every run and under every policy.

    >>> from .policies import WarmOnOpen
    >>> some = ForSome(policy=WarmOnOpen(), share=0.5); [some.warms(f"u{i}") for i in range(4)]
    [True, True, False, False]
    """

    policy: WarmingPolicy
    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_policy("policy", self.policy)
        require_number("share", self.share, at_least=0, at_most=1)

    def warms(self, user: str) -> bool:
        """Whether ``user`` is one of them: by a checksum of the name, alike in every process."""
        return zlib.crc32(user.encode()) < self.share * 2**32

    def fresh(self) -> Warmer:
        """The inner policy's state."""
        return _Chosen(self, [self.policy.fresh()])

    def notes(self, lifetime_s: float | None) -> list[str]:
        """The inner policy's notes."""
        return self.policy.notes(lifetime_s)


@dataclass(frozen=True, kw_only=True)
class Budgeted(WarmingPolicy):
    """``policy`` as far as a budget goes: a warm-up that would break it is not sent.

    ``usd_per_hour``: what warm-ups and pings of any 3,600 s may cost, at ``write_usd_per_mtok`` for prompt tokens that are not
    cached when the warm-up is sent and ``read_usd_per_mtok`` for those that are (defaults: Claude Sonnet 4.5, list price of
    2026-11-21; output, at most 16 tokens, is left out). ``most_at_once``: how many may be under way, those that a new one cancels
    not counted. None: no such limit.

    >>> from .policies import WarmOnOpen
    >>> warmer = Budgeted(policy=WarmOnOpen(), usd_per_hour=0.05).fresh()
    >>> ask = Ask(now_s=0.0, kind="warm", prompt_tokens=10_000, hit_tokens=lambda: 0)
    >>> warmer.admits(ask), warmer.sent(ask), warmer.admits(ask)
    (True, None, False)
    """

    policy: WarmingPolicy
    usd_per_hour: float | None = None
    most_at_once: int | None = None
    write_usd_per_mtok: float = 3.75
    read_usd_per_mtok: float = 0.30

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_policy("policy", self.policy)
        limited = self.usd_per_hour is not None or self.most_at_once is not None
        require(limited, "usd_per_hour", None, "or most_at_once must be given", "A budget without a limit is none.")
        if self.usd_per_hour is not None:
            require_number("usd_per_hour", self.usd_per_hour, at_least=0)
        if self.most_at_once is not None:
            require_count("most_at_once", self.most_at_once, at_least=0)
        require_number("write_usd_per_mtok", self.write_usd_per_mtok, at_least=0)
        require_number("read_usd_per_mtok", self.read_usd_per_mtok, at_least=0)

    def fresh(self) -> Warmer:
        """A full purse, and the inner policy's state."""
        return _Purse(self, [self.policy.fresh()])

    def notes(self, lifetime_s: float | None) -> list[str]:
        """The inner policy's notes."""
        return self.policy.notes(lifetime_s)


class _Chorus(Warmer):
    """Asks its parts and passes on what they should learn."""

    def __init__(self, policy: WarmingPolicy, parts: Sequence[Warmer]) -> None:
        super().__init__(policy)
        self.parts = parts

    def on_open(self, moment: Moment) -> Sequence[WarmUp]:
        return [warm_up for part in self.parts for warm_up in part.on_open(moment)]

    def after_answer(self, moment: Moment) -> Sequence[WarmUp]:
        return [warm_up for part in self.parts for warm_up in part.after_answer(moment)]

    def admits(self, ask: Ask) -> bool:
        return all(part.admits(ask) for part in self.parts)

    def sent(self, ask: Ask) -> None:
        for part in self.parts:
            part.sent(ask)

    def settled(self, ask: Ask) -> None:
        for part in self.parts:
            part.settled(ask)

    def turn_ended(self, moment: Moment) -> None:
        for part in self.parts:
            part.turn_ended(moment)


class _Chosen(_Chorus):
    policy: ForSome

    def on_open(self, moment: Moment) -> Sequence[WarmUp]:
        return super().on_open(moment) if self.policy.warms(moment.user) else ()

    def after_answer(self, moment: Moment) -> Sequence[WarmUp]:
        return super().after_answer(moment) if self.policy.warms(moment.user) else ()


class _Purse(_Chorus):
    policy: Budgeted

    def __init__(self, policy: Budgeted, parts: Sequence[Warmer]) -> None:
        super().__init__(policy, parts)
        self._spent: deque[tuple[float, float]] = deque()  # (instant, dollars) of the last hour
        self._under_way = 0

    def admits(self, ask: Ask) -> bool:
        policy = self.policy
        if policy.most_at_once is not None and self._under_way - ask.replaces >= policy.most_at_once:
            return False
        if policy.usd_per_hour is not None:
            while self._spent and self._spent[0][0] <= ask.now_s - _HOUR_S:
                self._spent.popleft()
            if sum(spent for _, spent in self._spent) + self._usd(ask) > policy.usd_per_hour:
                return False
        return super().admits(ask)

    def sent(self, ask: Ask) -> None:
        if self.policy.usd_per_hour is not None:
            self._spent.append((ask.now_s, self._usd(ask)))
        self._under_way += 1
        super().sent(ask)

    def settled(self, ask: Ask) -> None:
        self._under_way -= 1
        super().settled(ask)

    def _usd(self, ask: Ask) -> float:
        hit = min(ask.hit_tokens(), ask.prompt_tokens)
        return ((ask.prompt_tokens - hit) * self.policy.write_usd_per_mtok + hit * self.policy.read_usd_per_mtok) / 1e6


def _require_policy(name: str, policy: object) -> None:
    if not isinstance(policy, WarmingPolicy):
        raise InputError(name, policy, "must be a warming policy", "For example WarmOnFocus().")
