"""Coarse clocks: does a trace tick, how wide is its tick, and its requests spread within it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..prompt import Request
from ..streams import stream

_GAPS = 1000
_TIED = 1.5
_INSTANTS = 3


@dataclass(frozen=True, kw_only=True)
class Ticks:
    """How the arrival instants of a trace are tied; ``tick_s`` is the width of the clock's tick, None for a fine clock."""

    requests: int
    instants: int
    tick_s: float | None

    def note(self, spread: bool, seed: int | None = None) -> str:
        """One sentence for the result.

        >>> Ticks(requests=12031, instants=1180, tick_s=2.999).note(True, 0)
        '12,031 requests share 1,180 instants; spread within ticks of about 3 s, seed 0'
        """
        tied = f"{self.requests:,} requests share {self.instants:,} instants"
        if not spread:
            return f"{tied}; not spread within their ticks of about {self.tick_s:.3g} s"
        return f"{tied}; spread within ticks of about {self.tick_s:.3g} s" + ("" if seed is None else f", seed {seed}")


def find_ticks(instants_s: Iterable[float]) -> Ticks:
    """Count requests and distinct instants of a sorted series and find the clock's tick.

    The clock is coarse when at least 3 instants carry 1.5 requests each on average and lie on a grid: 9 of 10 gaps of up to
    4 ticks (of the first 1,000) are within a tenth of a whole number of ticks, the tick being the 10 % quantile of the
    gaps. Bursts at irregular instants are not a clock and stay as they are.

    >>> find_ticks([0, 0, 0, 3, 3, 3, 6.001, 6.001]).tick_s
    3
    """
    requests = instants = 0
    last = -1.0
    gaps: list[float] = []
    for at_s in instants_s:
        requests += 1
        if at_s != last:
            if instants and len(gaps) < _GAPS:
                gaps.append(at_s - last)
            instants += 1
            last = at_s
    tick_s = None
    if instants >= _INSTANTS and requests >= _TIED * instants:
        candidate = sorted(gaps)[len(gaps) // 10]
        ratios = np.array([gap / candidate for gap in gaps if gap <= 4.1 * candidate])
        if candidate > 0 and np.mean(np.abs(ratios - np.rint(ratios)) <= 0.1) >= 0.9:
            tick_s = candidate
    return Ticks(requests=requests, instants=instants, tick_s=tick_s)


def spread(requests: Iterable[Request], tick_s: float, seed: int) -> Iterator[Request]:
    """Move the requests of each instant to sorted uniform instants between it and the next one, at most ``tick_s`` on.

    An instant is taken as the beginning of its tick. The order of rows is kept. Holds the requests of one instant in memory.

    >>> from simcache.prompt import Segment
    >>> rows = [Request(t, (), Segment("o", 1)) for t in (0.0, 0.0, 3.0)]
    >>> [int(row.arrived_at_s // 3) for row in spread(rows, 3.0, seed=1)]
    [0, 0, 1]
    """
    rng = stream(seed, "ticks")
    tied: list[Request] = []
    for request in requests:
        if tied and request.arrived_at_s != tied[0].arrived_at_s:
            yield from _spread_tick(tied, min(tick_s, request.arrived_at_s - tied[0].arrived_at_s), rng)
            tied = []
        tied.append(request)
    if tied:
        yield from _spread_tick(tied, tick_s, rng)


def _spread_tick(tied: list[Request], width_s: float, rng: np.random.Generator) -> Iterator[Request]:
    offsets_s = np.sort(rng.random(len(tied))) * width_s
    for request, offset_s in zip(tied, offsets_s.tolist(), strict=True):
        yield request._replace(arrived_at_s=request.arrived_at_s + offset_s)
