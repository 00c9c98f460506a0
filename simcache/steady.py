"""Is this a steady state? Overload told from the records, and how much of a run's beginning to leave out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .errors import InputError, require
from .records import NEVER, Records

_FEWEST = 200
"""Fewer requests than this say nothing about growth without bound."""
_FEWEST_FOR_MSER = 20


@dataclass(frozen=True, kw_only=True)
class Overload:
    """Requests came faster than they were served: ``offered_per_s`` against ``served_per_s`` while there was always work.

    >>> Overload(offered_per_s=3.4, served_per_s=2.0, backlog=1_000).load
    1.7
    """

    offered_per_s: float
    served_per_s: float
    backlog: int

    @property
    def load(self) -> float:
        """Offered over served."""
        return self.offered_per_s / self.served_per_s

    def sentence(self, what: str) -> str:
        """For people; ``what`` names the backend.

        >>> Overload(offered_per_s=3.4, served_per_s=2.0, backlog=1_000).sentence("4 replicas")
        'overload: offered 1.70x of what 4 replicas can do (about 2.00 requests/s of this kind); waits grow without bound'
        """
        rate = f"{self.served_per_s:.3g}" if self.served_per_s < 1 else f"{self.served_per_s:,.2f}"
        most = f"offered {self.load:.2f}x of what {what} can do (about {rate} requests/s of this kind)"
        return f"overload: {most}; waits grow without bound"


def overload(records: Records) -> Overload | None:
    """Overload, where those who wait once nine tenths have arrived need over 5 % of the time so far to clear; else None.

    Nine tenths, because the last sessions of a trace may return days later. What is served per second is counted over the second
    half of that time, in which there is always work then, so it estimates the most the backend can do for requests of this mix;
    where arrivals had ebbed away by then, over all of it. Fewer than 200 requests, or arrivals within no time, give None. A day's
    curve can be overloaded at its peak alone and have recovered by then: this does not see it.
    """
    begun = records["submitted_at_ns"]
    if len(begun) < _FEWEST:
        return None
    start, end = int(begun.min()), int(np.quantile(begun, 0.9))
    if end == start:
        return None
    over = records["first_token_at_ns"].copy()
    for column in ("finished_at_ns", "cancelled_at_ns"):
        over = np.where(over == NEVER, records[column], over)
    over = np.where(over == NEVER, np.where(records["outcome"] == "ok", end + 1, begun), over)  # rejected at once, or lost
    backlog = int(((over > end) & (begun <= end)).sum())
    for since in (start + (end - start) // 2, start):
        span_s = (end - since) / 1e9
        served_per_s = int(((over > since) & (over <= end)).sum()) / span_s
        offered_per_s = int(((begun > since) & (begun <= end)).sum()) / span_s
        if not served_per_s or backlog / served_per_s <= 0.05 * (end - start) / 1e9:
            return None
        if offered_per_s > served_per_s:
            return Overload(offered_per_s=offered_per_s, served_per_s=served_per_s, backlog=backlog)
    return None


def transient_end_s(records: Records, rule: Literal["mser5"] | float | None) -> float:
    """What was submitted before this instant figures leave out: given, or found by MSER-5 on users' TTFT in order of submit, or 0.

    Raises InputError where MSER-5 has fewer than 20 answers, and where nothing would be left.

    >>> from .records import RecordsBuilder
    >>> b = RecordsBuilder(); rows = [b.row(outcome="ok") for _ in range(100)]
    >>> for i in rows: b.submitted_at_ns[i], b.first_token_at_ns[i] = i * 10**9, (i + (30 if i < 10 else 1 + i % 2)) * 10**9
    >>> transient_end_s(b.freeze(), "mser5"), transient_end_s(b.freeze(), 3.0), transient_end_s(b.freeze(), None)
    (10.0, 3.0, 0.0)
    """
    if rule is None:
        return 0.0
    if rule != "mser5":
        last_s = float(records["submitted_at_ns"].max()) / 1e9 if len(records) else 0.0
        require(rule <= last_s, "transient", rule, f"leaves out every request: the last one was submitted at {last_s:g} s")
        return rule
    answered = (records["kind"] == "user") & (records["outcome"] == "ok") & (records["first_token_at_ns"] != NEVER)
    begun, ttft_s = records["submitted_at_ns"][answered], records.ttft_s[answered]
    rule_text = f"needs at least {_FEWEST_FOR_MSER} answers to look at; there were {len(begun)}"
    require(len(begun) >= _FEWEST_FOR_MSER, "transient", rule, rule_text, "Simulate longer, or give the seconds to leave out.")
    order = np.argsort(begun, kind="stable")
    left_out = mser5(ttft_s[order])
    return float(begun[order[left_out]]) / 1e9 if left_out else 0.0


def transient_note(records: Records, rule: Literal["mser5"] | float, end_s: float) -> str:
    """What was left out, for people, and whether MSER-5 found an end of it at all.

    >>> from .records import RecordsBuilder
    >>> b = RecordsBuilder(); _ = b.row(); transient_note(b.freeze(), "mser5", 0.0)
    'figures leave out nothing of the beginning (MSER-5)'
    """
    early = records["submitted_at_ns"] < round(end_s * 1e9)
    left_out, why = int(early.sum()), "MSER-5" if rule == "mser5" else "as asked"
    if not left_out:
        return f"figures leave out nothing of the beginning ({why})"
    which = f"{left_out:,} of {len(records):,} requests, submitted in the first {end_s:,.4g} s ({why})"
    said = f"figures leave out {which}; counts and dollars do not"
    users = records["kind"] == "user"
    if rule == "mser5" and 2 * int((early & users).sum()) >= int(users.sum()) - 10:
        said += "; that is as much as MSER-5 may: no end of the transient was found, simulate longer"
    return said


def mser5(values: ArrayLike) -> int:
    """How many leading values to leave out as a transient: MSER-5 (White 1997; White, Cobb and Spratt 2000).

    Means of 5 values; the truncation d that minimises the squared standard error of what is left, ``sum (y - mean)^2 / (n-d)^2``,
    over the first half. Returns a multiple of 5. Raises InputError below 20 values.

    It finds what stands out against the rest: a cold cache, a crowd that builds up, a slow start. Where the values themselves hang
    together as the waits of a loaded queue do, it also cuts long waits that came early by chance: in 400 runs of M/M/1 from
    empty, 3,000 customers each, a mean sojourn that was right at load 0.8 became 4 % too low (at 0.9: 3 %, then 11 %).

    >>> mser5([50.0] * 25 + [1.0, 2.0] * 100)
    25
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) < _FEWEST_FOR_MSER:
        raise InputError("values", f"{array.size} of them", f"must be at least {_FEWEST_FOR_MSER} values in a row")
    if not np.isfinite(array).all():
        raise InputError("values", "some", "must be finite")
    means = array[: len(array) // 5 * 5].reshape(-1, 5).mean(axis=1)
    n = len(means)
    left = n - np.arange(n // 2 + 1)
    sums = np.cumsum(means[::-1])[::-1][: n // 2 + 1]
    squares = np.cumsum(means[::-1] ** 2)[::-1][: n // 2 + 1]
    errors = np.maximum(0.0, squares - sums**2 / left) / left**2
    return 5 * int(np.argmin(errors))
