"""Measure a list of points with one runner: what does not fit is named, what was measured is kept, the budget holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .grid import Point
from .points_file import PointsFile
from .timing import Patience, Timing

Say = Callable[[int, int, str], None]
"""Told (points finished, points in all, what runs now)."""


class OutOfMemory(Exception):
    """The device had no room for a point, although it looked as if it had."""


class PointFailed(Exception):
    """A point could not be measured; the text says why."""


class Runner(Protocol):
    """What times one point: a transformer on a device, or a server behind a URL."""

    def why_not(self, point: Point) -> str | None:
        """Why ``point`` cannot be measured here; None: it can be tried."""
        ...

    def work(self, point: Point) -> float:
        """How much ``point`` is to do, in any unit: what is left of a budget is compared with it."""
        ...

    def time(self, point: Point, patience: Patience, until_s: float) -> tuple[Timing, int]:
        """Measure ``point`` (not beyond ``until_s`` on the monotonic clock) and say how many bytes it copied.

        Raises OutOfMemory or PointFailed; the next point can be measured all the same.
        """
        ...


@dataclass
class Gaps:
    """Points that were not measured, by reason."""

    reasons: dict[str, list[str]] = field(default_factory=dict)

    def add(self, point: Point, reason: str) -> None:
        """Name one."""
        self.reasons.setdefault(reason, []).append(str(point))

    def sentences(self) -> list[str]:
        """One line per reason.

        >>> gaps = Gaps(); gaps.add(Point(kind="prefill", new_tokens=8), "no memory"); gaps.sentences()
        ['left out 1 point: no memory (prefill of 8 after 0)']
        """
        lines = []
        for reason, points in self.reasons.items():
            shown = "; ".join(points[:4]) + (f"; and {len(points) - 4} more" if len(points) > 4 else "")
            lines.append(f"left out {len(points)} point{'s' if len(points) > 1 else ''}: {reason} ({shown})")
        return lines


def measure(
    points: Sequence[Point],
    runner: Runner,
    file: PointsFile,
    patience: Patience,
    *,
    budget_s: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
    say: Say = lambda finished, total, what: None,
) -> Gaps:
    """Measure every point that ``file`` does not hold yet, in the order given, and certify what came of it.

    A point whose six runs would not fit into what is left of ``budget_s``, judged by the points before it, is left out and
    named, as is one for which there is no memory. The certificate is written even when the run is interrupted.
    """
    started = clock()
    until_s = started + budget_s
    gaps = Gaps()
    per_work_s: float | None = None
    finished, ended = 0, "complete"
    try:
        for number, point in enumerate(points):
            say(number, len(points), str(point))
            if point in file.done:
                finished += 1
                continue
            reason = runner.why_not(point)
            if reason is None and clock() >= until_s:
                reason = "the budget was spent"
            elif reason is None and per_work_s is not None:
                runs = patience.warm_ups + min(patience.least, 3)
                if runs * per_work_s * runner.work(point) > until_s - clock():
                    reason = "it would not have ended within the budget"
            if reason is not None:
                gaps.add(point, reason)
                continue
            try:
                timing, copied = runner.time(point, patience, until_s)
            except OutOfMemory as error:
                gaps.add(point, f"out of memory: {error}")
                continue
            except PointFailed as error:
                gaps.add(point, str(error))
                continue
            file.add(point, timing, copied)
            finished += 1
            if point.kind == "prefill":  # the best rate so far: small points mostly wait for weights
                rate = timing.median_s / runner.work(point)
                per_work_s = rate if per_work_s is None else min(per_work_s, rate)
        say(len(points), len(points), "done")
    except BaseException as error:
        ended = f"interrupted: {type(error).__name__}"
        raise
    finally:
        if ended == "complete" and gaps.reasons:
            ended = "with gaps"
        file.certify(
            ended=ended,
            measured_s=round(file.earlier_s + clock() - started, 3),
            warm_ups_dropped_per_point=patience.warm_ups,
            most_repeats=patience.most,
            resumed_points=file.resumed,
            left_out=gaps.reasons,
        )
    return gaps
