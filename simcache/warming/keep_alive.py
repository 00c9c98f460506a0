"""Keep-alive pings: small requests that keep a prefix from expiring while its user reads, thinks, or has left for good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, require_count, require_number
from ..workload.distributions import Law
from ..workload.typist import Typing
from . import stopping
from .policies import Moment, WarmingPolicy, WarmUp


@dataclass(frozen=True, kw_only=True)
class KeepAlive(WarmingPolicy):
    """Ping the prefix every ``interval_s`` since it was last used, at most ``most_pings`` times, until the next question.

    Nobody tells the client that a user has left for good, so pings go on to the cap after the last answer too. An interval of a
    lifetime or more is allowed, and pays a write each time (the result's notes say so).

    >>> moment = Moment(user="u", session="s", prefix_tokens=8_000, warm_s=lambda: 2.0, since_sent_s=10.0)
    >>> [ping.at_s for ping in KeepAlive(interval_s=240, most_pings=2).after_answer(moment)]
    [230.0, 470.0]
    """

    interval_s: float = 240.0
    most_pings: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("interval_s", self.interval_s, above=0)
        require_count("most_pings", self.most_pings, at_least=0)

    def warm_ups(self, typing: Typing, prefix_tokens: int) -> Sequence[WarmUp]:
        """None: pings are planned when an answer ends."""
        return ()

    def after_answer(self, moment: Moment) -> Sequence[WarmUp]:
        """The pings; those that would have fallen into the answer go out at its end, as one."""
        since_s = moment.since_sent_s or 0.0
        at_s = np.arange(1, self.pings(since_s) + 1) * self.interval_s - since_s
        return [WarmUp(t_s, supersedes=False, kind="keepalive") for t_s in np.unique(np.maximum(at_s, 0.0)).tolist()]

    def pings(self, elapsed_s: float) -> int:
        """How many pings to plan when the answer ended ``elapsed_s`` after its question was sent."""
        return self.most_pings

    def notes(self, lifetime_s: float | None) -> list[str]:
        """A warning where the interval is not below the lifetime."""
        if lifetime_s is None or self.interval_s < lifetime_s:
            return []
        return [
            f"keep-alive interval {self.interval_s:g} s is not below the lifetime of {lifetime_s:g} s: "
            "every ping finds the entry dead and pays a write"
        ]


@dataclass(frozen=True, kw_only=True)
class _KeepAliveWhileItPays(KeepAlive):
    gap: Law = field(kw_only=True)
    ttl_s: float = 300.0
    write: float = 1.25
    read: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not hasattr(type(self.gap), "cdf"):
            raise InputError("gap", self.gap, "must be a distribution that states its law (cdf)", "For example a LogNormal.")
        require_number("ttl_s", self.ttl_s, above=0)
        require_number("write", self.write, at_least=0)
        require_number("read", self.read, at_least=0)

    def gains(self, elapsed_s: float = 0.0) -> NDArray[np.float64]:
        """Expected gain of each ping up to the cap, in units of the input price per prefix token."""
        return stopping.keep_alive_gains(
            lambda t_s: 1.0 - self.gap.cdf(t_s),
            pings=self.most_pings,
            interval_s=self.interval_s,
            ttl_s=self.ttl_s,
            write=self.write,
            read=self.read,
            elapsed_s=elapsed_s,
        )


@dataclass(frozen=True, kw_only=True)
class KeepAliveMyopic(_KeepAliveWhileItPays):
    """Ping while the next ping pays by itself: while P(return in the time that it buys) > read / (write - read).

    ``gap`` is the law of the time from an answer's end to the next question (reading, thinking and typing), ``ttl_s`` the
    lifetime, ``write`` and ``read`` prices over the uncached input price (defaults: Claude, 5 minutes). The rule looks one ping
    ahead: it stops in a quiet stretch after which returns become likely again.

    >>> from ..workload.distributions import Exponential
    >>> KeepAliveMyopic(gap=Exponential(mean=600)).pings(0.0), KeepAliveMyopic(gap=Exponential(mean=6000)).pings(0.0)
    (12, 0)
    """

    def pings(self, elapsed_s: float) -> int:
        """Up to the first that does not pay."""
        return stopping.myopic_pings(self.gains(elapsed_s))


@dataclass(frozen=True, kw_only=True)
class KeepAliveOptimal(_KeepAliveWhileItPays):
    """Ping as often as the law of pauses makes worth while in all: optimal stopping. Fields as in :class:`KeepAliveMyopic`.

    >>> from ..workload.empirical import Empirical
    >>> after_lunch = Empirical((100.0, 2000.0, 2000.0))
    >>> KeepAliveMyopic(gap=after_lunch).pings(0.0), KeepAliveOptimal(gap=after_lunch).pings(0.0)
    (0, 8)
    """

    def pings(self, elapsed_s: float) -> int:
        """Until the running sum of gains is largest."""
        return stopping.optimal_pings(self.gains(elapsed_s))
