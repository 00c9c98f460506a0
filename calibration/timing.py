"""How long something takes on a device: warm-ups dropped, repeated until the median is known, disturbed repeats told apart."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

RUNQ_SHARE: Final = 0.05
"""A repeat that waited for a CPU longer than this share of its time was disturbed by something else."""


class Stopwatch(Protocol):
    """What times one piece of work; ``disturbed`` says whether the last one waited for something that is not the device."""

    disturbed: bool

    def time_s(self, work: Callable[[], Any]) -> float:
        """Run ``work`` once and return its seconds on the device."""
        ...


class CpuStopwatch:
    """Wall time by ``clock`` (perf_counter); the kernel says how long the threads stood in the run queue, where it can."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, runq_wait_s: Callable[[], float | None] | None = None
    ) -> None:
        self.clock, self.runq_wait_s = clock, runq_wait_s or own_runq_wait_s
        self.disturbed = False

    def time_s(self, work: Callable[[], Any]) -> float:
        """As the protocol says."""
        waited = self.runq_wait_s()
        start = self.clock()
        work()
        seconds = self.clock() - start
        waited_after = self.runq_wait_s()
        self.disturbed = waited is not None and waited_after is not None and waited_after - waited > RUNQ_SHARE * seconds
        return seconds


class CudaStopwatch:
    """Time between two CUDA events around the work, which the device stamps itself; ``cuda`` is ``torch.cuda`` or stands for it."""

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        self.disturbed = False

    def time_s(self, work: Callable[[], Any]) -> float:
        """As the protocol says. The device is idle before it, so launching the first kernel is part of the time."""
        start, end = self.cuda.Event(enable_timing=True), self.cuda.Event(enable_timing=True)
        self.cuda.synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3  # events count milliseconds


def own_runq_wait_s() -> float | None:
    """Seconds that the threads of this process have waited for a CPU so far; None where the kernel does not say."""
    return runq_wait_s("self")


def runq_wait_s(process: int | str) -> float | None:
    """The same of another process.

    >>> runq_wait_s("no such process") is None
    True
    """
    return _schedstat_s(process, 1)


def cpu_s(process: int | str) -> float | None:
    """Seconds that the living threads of a process have run so far; None where the kernel does not say.

    >>> cpu_s("no such process") is None
    True
    """
    return _schedstat_s(process, 0)


def _schedstat_s(process: int | str, field: int) -> float | None:
    spent_ns = 0
    try:
        for task in Path(f"/proc/{process}/task").iterdir():
            try:
                spent_ns += int((task / "schedstat").read_text().split()[field])
            except (FileNotFoundError, ProcessLookupError):
                continue  # a thread that has just ended
    except (OSError, IndexError, ValueError):
        return None
    return spent_ns / 1e9


@dataclass(frozen=True, kw_only=True)
class Patience:
    """When to stop repeating: the half-width of the median's 95 % interval is at most ``tight`` of it (after ``least`` repeats),
    ``most`` repeats, or ``point_s`` seconds. ``warm_ups`` runs come first and are dropped.

    >>> Patience().least
    6
    """

    warm_ups: int = 2
    least: int = 6
    most: int = 40
    tight: float = 0.02
    point_s: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What repeating told: the median, the half-width of its interval as a fraction (None: too few), how many, how disturbed."""

    median_s: float
    half_width: float | None
    repeats: int
    disturbed: int


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the median from order statistics, free of any law; None below 6 values.

    >>> median_interval([6, 1, 2, 3, 4, 5])
    (1, 6)
    """
    ordered, n = sorted(values), len(values)
    below, rank = 0.0, 0  # the largest rank with P(fewer than so many values lie below the median) <= 2.5 %
    while rank < n // 2 and (below := below + math.comb(n, rank) / 2**n) <= 0.025:
        rank += 1
    return (ordered[rank - 1], ordered[n - rank]) if rank else None


def repeat(
    watch: Stopwatch,
    work: Callable[[], Any],
    patience: Patience,
    clock: Callable[[], float] = time.monotonic,
    until_s: float = math.inf,
) -> Timing:
    """Time ``work`` again and again, as ``patience`` says, and not beyond the instant ``until_s`` of ``clock``; at least once.

    The median is over the undisturbed repeats where there are three of them, else over all.
    """
    for _ in range(patience.warm_ups):
        watch.time_s(work)
        if clock() >= until_s:
            break
    started = clock()
    taken: list[float] = []
    clean: list[float] = []
    while True:
        seconds = watch.time_s(work)
        taken.append(seconds)
        if not watch.disturbed:
            clean.append(seconds)
        used = clean if len(clean) >= 3 else taken
        middle, width = _spread(used)
        spent_s = clock() - started
        enough = len(used) >= patience.least and width is not None and width <= patience.tight
        if enough or len(taken) >= patience.most or spent_s >= patience.point_s or clock() >= until_s:
            return Timing(median_s=middle, half_width=width, repeats=len(used), disturbed=len(taken) - len(clean))


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    ordered, n = sorted(values), len(values)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    interval = median_interval(ordered)
    return middle, None if interval is None else (interval[1] - interval[0]) / 2 / middle
