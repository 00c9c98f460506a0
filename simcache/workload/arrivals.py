"""When people come: a Poisson stream or a number of people over a window, evenly or by hour of the day and day of the week."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import require, require_number
from ..streams import stream

HOUR_S: Final = 3600.0
WEEK_HOURS: Final = 168
_CHUNK: Final = 256


@dataclass(frozen=True, kw_only=True)
class DayAndWeek:
    """How many come at which hour: 24 weights for the hours of a day and 7 for the days from Monday, each of any scale.

    The run's zero is ``starts_at_hour`` (0 to 24) of day ``starts_on_day`` (0: Monday). The mean over a week is 1. The default
    is an office's day (an assumption: quiet nights, a dip at noon, a fifth of the traffic at weekends); set your own.

    >>> curve = DayAndWeek(); bool(curve.factor(2 * 3600) > curve.factor(14 * 3600)), round(curve.mean_factor(), 12)
    (True, 1.0)
    """

    hours: tuple[float, ...] = (1, 1, 1, 1, 1, 2, 4, 8, 14, 18, 19, 17, 13, 16, 18, 17, 15, 11, 7, 5, 4, 3, 2, 1)
    days: tuple[float, ...] = (5, 5, 5, 5, 4.5, 1, 1)
    starts_on_day: int = 0
    starts_at_hour: float = 9.0

    def __post_init__(self) -> None:
        for name, length in (("hours", 24), ("days", 7)):
            weights = getattr(self, name)
            require(len(weights) == length, name, weights, f"must be {length} weights")
            for weight in weights:
                require_number(name, weight, at_least=0)
            require(sum(weights) > 0, name, weights, "must not all be 0")
        require(self.starts_on_day in range(7), "starts_on_day", self.starts_on_day, "must be 0 (Monday) to 6")
        require_number("starts_at_hour", self.starts_at_hour, at_least=0, at_most=24)

    def factor(self, at_s: ArrayLike) -> NDArray[np.float64]:
        """The rate at ``at_s`` over its mean."""
        hour = np.floor(self._hours_in(at_s)).astype(np.int64) % WEEK_HOURS
        return self._week()[hour]

    def mean_factor(self) -> float:
        """1, up to rounding."""
        return float(self._week().mean())

    def expected_s(self, at_s: ArrayLike) -> NDArray[np.float64]:
        """Seconds of the mean rate that [0, at_s) is worth: the integral of the factor."""
        upto = np.concatenate(([0.0], np.cumsum(self._week()))) * HOUR_S

        def since_monday(hours: NDArray[np.float64]) -> NDArray[np.float64]:
            weeks, rest = np.divmod(hours, WEEK_HOURS)
            return np.asarray(weeks * upto[-1] + np.interp(rest, np.arange(WEEK_HOURS + 1), upto))

        return since_monday(self._hours_in(at_s)) - since_monday(self._hours_in(0.0))

    def instants_s(self, shares: NDArray[np.float64], window_s: float) -> NDArray[np.float64]:
        """The instants in [0, window_s) by which these shares of the window's people have come."""
        hours = np.arange(0.0, math.floor(window_s / HOUR_S) + 1) - self.starts_at_hour % 1.0
        edges = np.unique(np.clip(np.concatenate((hours * HOUR_S, [0.0, window_s])), 0.0, window_s))
        come = self.expected_s(edges)
        require(bool(come[-1] > 0), "hours", self.hours, f"must let somebody come within the first {window_s:g} s")
        return np.asarray(np.interp(shares * come[-1], come, edges))

    def _hours_in(self, at_s: ArrayLike) -> NDArray[np.float64]:
        return np.asarray(at_s, dtype=np.float64) / HOUR_S + 24 * self.starts_on_day + self.starts_at_hour

    def _week(self) -> NDArray[np.float64]:
        week = np.outer(self.days, self.hours).ravel()
        return np.asarray(week / week.mean())


def poisson_instants(seed: int, rate_per_s: float, duration_s: float, curve: DayAndWeek | None = None) -> Iterator[float]:
    """Instants of a Poisson stream of mean rate ``rate_per_s`` before ``duration_s``; ``curve`` moves the rate (by thinning).

    A shorter duration gives the beginning of a longer one.

    >>> len(list(poisson_instants(1, 0.5, 100.0))) > 20
    True
    """
    rng = stream(seed, "arrivals")
    if curve is None:
        at_s = rng.exponential(1 / rate_per_s)
        while at_s < duration_s:
            yield at_s
            at_s += rng.exponential(1 / rate_per_s)
        return
    kept = stream(seed, "arrivals kept")
    peak = float(curve.factor(np.arange(WEEK_HOURS) * HOUR_S).max())
    at_s = 0.0
    while at_s < duration_s:
        candidates_s: NDArray[np.float64] = at_s + np.cumsum(rng.exponential(1 / (rate_per_s * peak), _CHUNK))
        at_s = float(candidates_s[-1])
        comes = kept.random(_CHUNK) * peak < curve.factor(candidates_s)
        yield from (t_s for t_s in candidates_s[comes].tolist() if t_s < duration_s)


def spread_instants(seed: int, users: int, window_s: float, curve: DayAndWeek | None = None) -> list[float]:
    """``users`` independent instants in [0, window_s), in order.

    >>> len(spread_instants(1, 3, 60.0))
    3
    """
    shares = np.sort(stream(seed, "arrivals").random(users))
    if curve is None or not window_s:
        return [share * window_s for share in shares.tolist()]
    return curve.instants_s(shares, window_s).tolist()  # type: ignore[no-any-return]
