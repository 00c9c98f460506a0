"""Distributions that are somebody's measurements: values drawn with replacement, given or read from a trace of real pauses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, require, require_number
from .json_rows import json_lines
from .lines import LONGEST_SESSION_LINE

HUMAN_STOP: Final = "end_turn"
TOOL_STOP: Final = "tool_use"


@dataclass(frozen=True, slots=True)
class Empirical:
    """The measured ``values``, each as likely as any other.

    >>> Empirical((1.0, 2.0, 6.0)).mean
    3.0
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        require(bool(self.values), "values", self.values, "must hold at least one number")
        for value in self.values:
            require_number("values", value)

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        """``n`` values, drawn with replacement."""
        return _drawn(np.array(self.values, dtype=np.float64), rng, n)

    def cdf(self, x: ArrayLike) -> NDArray[np.float64]:
        """Share of the values at or below x."""
        return _share_upto(np.sort(np.array(self.values, dtype=np.float64)), x)

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return float(np.mean(self.values))

    @property
    def median(self) -> float:
        """Middle of the values."""
        return float(np.median(self.values))

    @property
    def low(self) -> float:
        """The least value."""
        return float(min(self.values))

    @property
    def high(self) -> float:
        """The largest value."""
        return float(max(self.values))


class Gap(NamedTuple):
    """One step of a coding-agent session: the client's delay before a request, and what came before it.

    ``after_tool`` False: the model had ended its turn, so the delay is a human's. ``start_to_start_s`` is the time since the
    request before was sent, which is what a sliding lifetime counts; ``reusable_tokens`` are the full blocks of its prompt that
    this one begins with.

    >>> Gap(delay_s=112.0, start_to_start_s=133.0, after_tool=False, reusable_tokens=96_768).after_tool
    False
    """

    delay_s: float
    start_to_start_s: float
    after_tool: bool
    reusable_tokens: int


def session_gaps(path: str | Path) -> list[list[Gap]]:
    """Per session of a coding-agent trace in the compact format, its gaps in order (sub-tasks on clocks of their own left out).

    Errors: InputError with path and line for a file that is none.
    """
    sessions = []
    for number, line in json_lines(path, longest=LONGEST_SESSION_LINE):
        try:
            sessions.append(list(_gaps(line["requests"], int(line["block_size"]))))
        except (KeyError, TypeError, IndexError, ValueError) as error:
            rule = "must be a session of the compact coding-agent format"
            raise InputError("session", type(error).__name__, rule, path=Path(path), line=number) from None
    return sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePauses:
    """Real pauses, drawn with replacement from the coding-agent sessions in the file at ``path``.

    ``after`` "answer": what people take between an ended answer and their next request (median 210 s, 44 % above 5 minutes,
    10 % above an hour in the 878 pauses of kv-cache-tester @94f6046d); "tool": what tools take (median 8 s, 14,526 delays).
    The file is read when first drawn from.

    >>> TracePauses(path="claude_code_sessions.jsonl.gz").after
    'answer'
    """

    path: str | Path
    after: str = "answer"

    def __post_init__(self) -> None:
        require(self.after in ("answer", "tool"), "after", self.after, "must be 'answer' or 'tool'")

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        """``n`` pauses in seconds."""
        return _drawn(_pauses(str(self.path), self.after), rng, n)

    def cdf(self, x: ArrayLike) -> NDArray[np.float64]:
        """Share of the pauses at or below x."""
        return _share_upto(np.sort(_pauses(str(self.path), self.after)), x)

    @property
    def mean(self) -> float:
        """Mean pause in seconds."""
        return float(_pauses(str(self.path), self.after).mean())

    @property
    def median(self) -> float:
        """Median pause in seconds."""
        return float(np.median(_pauses(str(self.path), self.after)))

    @property
    def low(self) -> float:
        """0."""
        return 0.0

    @property
    def high(self) -> float:
        """No upper bound is promised."""
        return math.inf


def _gaps(requests: list[list[Any]], block_tokens: int) -> Iterator[Gap]:
    before: list[Any] | None = None
    for cells in requests:
        at_s, _, _, _, delay_s, _, _, depth, keep = cells[:9]
        if depth:
            continue
        if before is not None and before[6] in (HUMAN_STOP, TOOL_STOP) and delay_s is not None:
            yield Gap(float(delay_s), float(at_s) - float(before[0]), before[6] == TOOL_STOP, int(keep) * block_tokens)
        before = cells


@lru_cache(maxsize=4)
def _pauses(path: str, after: str) -> NDArray[np.float64]:
    tool = after == "tool"
    values = np.array([gap.delay_s for session in session_gaps(path) for gap in session if gap.after_tool == tool])
    require(bool(len(values)), "path", path, f"must hold pauses after {'a tool call' if tool else 'an answer'}")
    values.setflags(write=False)
    return values


def _drawn(values: NDArray[np.float64], rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return values[np.minimum((rng.random(n) * len(values)).astype(np.int64), len(values) - 1)]


def _share_upto(ordered: NDArray[np.float64], x: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(np.searchsorted(ordered, x, side="right") / len(ordered))
