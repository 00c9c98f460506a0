"""What a run means, defined once and computed from records alone. ``None`` and an empty array mean "does not apply".

Which requests count where:

- spans (``ttft_s``, ``e2e_s``, ``tpot_s``, ``queue_s``, ``perceived_s``, ``ttft_after_warm_s``): user requests with outcome ok;
- ``slo_share`` and goodput: every user request; one that never got a first token missed the objective;
- hit ratios: user requests whose computation began (a rejected request never asked the cache);
- ``tier_hit_tokens``: as hit ratios; ``load_wait_s``: answered user requests that loaded something;
- ``warm_ups``: requests of kind warm, whatever became of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, require_number
from .records import NEVER, TIER_HITS, Records

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def _known(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def user_mask(records: Records) -> Mask:
    """Which rows a user asked for (neither warm-up nor keep-alive).

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); _ = b.row(); _ = b.row(kind="warm"); user_mask(b.freeze()).tolist()
    [True, False]
    """
    return np.asarray(records["kind"] == "user", dtype=bool)


def answered(records: Records) -> Records:
    """User requests with outcome ok: the ones that count in TTFT figures.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); _ = b.row(outcome="ok"); _ = b.row(outcome="rejected"); len(answered(b.freeze()))
    1
    """
    return records.where(user_mask(records) & np.asarray(records["outcome"] == "ok", dtype=bool))


def ttft_s(records: Records) -> Floats:
    """First token instant minus submit instant, never minus the end of a warm-up; of answered user requests.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); r = b.row(outcome="ok"); b.first_token_at_ns[r] = 250_000_000; ttft_s(b.freeze()).tolist()
    [0.25]
    """
    return _known(answered(records).ttft_s)


def e2e_s(records: Records) -> Floats:
    """Last token instant minus submit instant, of answered user requests.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); r = b.row(outcome="ok"); b.finished_at_ns[r] = 3 * 10**9; e2e_s(b.freeze()).tolist()
    [3.0]
    """
    return _known(answered(records).e2e_s)


def tpot_s(records: Records) -> Floats:
    """Time per output token after the first, ``(finished - first token) / (output - 1)``; of answers with more than one token.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); r = b.row(outcome="ok"); b.first_token_at_ns[r], b.finished_at_ns[r] = 10**9, 2 * 10**9
    >>> b.output_tokens[r] = 5; tpot_s(b.freeze()).tolist()
    [0.25]
    """
    chosen = answered(records)
    chosen = chosen.where(chosen["output_tokens"] > 1)
    return _known(chosen.span_s("first_token_at_ns", "finished_at_ns") / (chosen["output_tokens"] - 1))


def queue_s(records: Records) -> Floats:
    """Time before the first token in which none of the request was being computed; of answered user requests.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); r = b.row(outcome="ok"); b.queue_ns[r] = 5 * 10**8; queue_s(b.freeze()).tolist()
    [0.5]
    """
    return _known(answered(records).seconds("queue_ns"))


def perceived_s(records: Records, *, streams_answer: bool = True) -> Floats:
    """What the user waits for: the first visible token when the answer streams (``ttft_s`` unless it thinks first), else ``e2e_s``.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); r = b.row(outcome="ok"); b.first_token_at_ns[r], b.finished_at_ns[r] = 10**9, 3 * 10**9
    >>> perceived_s(b.freeze()).tolist(), perceived_s(b.freeze(), streams_answer=False).tolist()
    ([1.0], [3.0])
    """
    return _known(answered(records).first_visible_s) if streams_answer else e2e_s(records)


def _in_time(records: Records, slo_ttft_s: float) -> tuple[int, int]:
    require_number("slo_ttft_s", slo_ttft_s, above=0)
    users = records.where(user_mask(records))
    return int(np.count_nonzero(users.ttft_s < slo_ttft_s)), len(users)  # NaN, no first token, is not below anything


def slo_share(records: Records, slo_ttft_s: float = 1.0) -> float | None:
    """Share of all user requests with ``ttft_s < slo_ttft_s``; rejected, failed and given-up ones are misses. None: no users.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); r = b.row(outcome="ok"); b.first_token_at_ns[r] = 10**8; _ = b.row(outcome="rejected")
    >>> slo_share(b.freeze(), 1.0)
    0.5
    """
    within, users = _in_time(records, slo_ttft_s)
    return within / users if users else None


def goodput_per_s(records: Records, *, slo_ttft_s: float = 1.0, duration_s: float) -> float:
    """User requests per second with ``ttft_s < slo_ttft_s``, over ``duration_s``.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); r = b.row(outcome="ok"); b.first_token_at_ns[r] = 10**8
    >>> goodput_per_s(b.freeze(), duration_s=10.0)
    0.1
    """
    require_number("duration_s", duration_s, above=0)
    return _in_time(records, slo_ttft_s)[0] / duration_s


class Hits(NamedTuple):
    """Prompt tokens and blocks of the user requests whose computation began, and how many of them were hits."""

    hit_tokens: int
    prompt_tokens: int
    hit_blocks: int
    prompt_blocks: int

    @property
    def token_hit_ratio(self) -> float | None:
        """``sum h / sum p``; None when nothing was looked up."""
        return self.hit_tokens / self.prompt_tokens if self.prompt_tokens else None

    @property
    def block_hit_ratio(self) -> float | None:
        """Hit blocks over blocks (the partial last block of each prompt included); None when nothing was looked up."""
        return self.hit_blocks / self.prompt_blocks if self.prompt_blocks else None


def hits(records: Records) -> Hits:
    """Hit and prompt tokens and blocks, summed over user requests whose computation began (or that ended ok).

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); r = b.row(outcome="ok"); b.prompt_tokens[r], b.hit_tokens[r] = 100, 64
    >>> hits(b.freeze()).token_hit_ratio, hits(b.freeze()).block_hit_ratio
    (0.64, None)
    """
    looked_up = _looked_up(records)
    names = ("hit_tokens", "prompt_tokens", "hit_blocks", "prompt_blocks")
    return Hits(*(int(looked_up[name].sum()) for name in names))


def _looked_up(records: Records) -> Records:
    began = (records["outcome"] == "ok") | (records["first_scheduled_at_ns"] != NEVER)
    return records.where(user_mask(records) & np.asarray(began, dtype=bool))


def tier_hit_tokens(records: Records) -> dict[str, int]:
    """Of the hit tokens of ``hits``, those loaded from each tier below GPU memory, nearest first; empty without tiers.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(tiers=("host",)); r = b.row(outcome="ok"); b.tier_hit_tokens[0][r] = 64; tier_hit_tokens(b.freeze())
    {'host': 64}
    """
    looked_up = _looked_up(records)
    return {tier: int(looked_up[f"{TIER_HITS}{tier}"].sum()) for tier in records.tiers}


def load_wait_s(records: Records) -> Floats:
    """Seconds waited for blocks from lower tiers, of answered user requests that did wait; empty without tiers.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(tiers=("host",)); r = b.row(outcome="ok"); b.load_wait_ns[r] = 5 * 10**8
    >>> load_wait_s(b.freeze()).tolist()
    [0.5]
    """
    if not records.tiers:
        return np.array([])
    waited = answered(records).seconds("load_wait_ns")
    return np.asarray(waited[waited > 0])


def token_hit_ratio(records: Records) -> float | None:
    """Tokens served from cache over prompt tokens, ``sum h / sum p`` of ``hits``.

    >>> from simcache.records import RecordsBuilder
    >>> token_hit_ratio(RecordsBuilder().freeze()) is None
    True
    """
    return hits(records).token_hit_ratio


def block_hit_ratio(records: Records) -> float | None:
    """Blocks served from cache over prompt blocks of ``hits``.

    >>> from simcache.records import RecordsBuilder
    >>> block_hit_ratio(RecordsBuilder().freeze()) is None
    True
    """
    return hits(records).block_hit_ratio


def residual_warm_s(records: Records) -> Floats:
    """What was left of the warm-up at submit, of user requests that had one (0: it was done).

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); r = b.row(); b.residual_warm_ns[r] = 2 * 10**9; residual_warm_s(b.freeze()).tolist()
    [2.0]
    """
    return _known(records.where(user_mask(records)).seconds("residual_warm_ns"))


def ttft_after_warm_s(records: Records) -> Floats:
    """First token minus the instant the question was *sent*, of answered questions sent when their warm-up was there.

    The figure that recipes print; it leaves out the wait for an unfinished warm-up, which ``ttft_s`` includes. A question
    that was sent before its warm-up was there gained nothing from it and does not count here.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); _ = b.row(kind="warm"); r = b.row(outcome="ok"); b.warm_row[r] = 0
    >>> b.residual_warm_ns[r] = 18 * 10**9
    >>> b.sent_at_ns[r], b.first_token_at_ns[r] = 18 * 10**9, 20 * 10**9; ttft_after_warm_s(b.freeze()).tolist()
    [2.0]
    """
    chosen = answered(records)
    left = chosen["residual_warm_ns"]
    there = (left != NEVER) & (chosen["sent_at_ns"] - chosen["submitted_at_ns"] >= left)
    return _known(chosen.where(there).span_s("sent_at_ns", "first_token_at_ns"))


def ttft_by_prompt_s(records: Records, edges_tokens: Sequence[int]) -> list[Floats]:
    """``ttft_s`` sorted into bins of prompt length: bin i holds ``edges[i] <= prompt_tokens < edges[i + 1]``.

    Raises InputError unless the edges grow and hold every answered request (the first one outside is named).

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); r = b.row(outcome="ok"); b.prompt_tokens[r], b.first_token_at_ns[r] = 500, 10**9
    >>> [values.tolist() for values in ttft_by_prompt_s(b.freeze(), [0, 100, 1000])]
    [[], [1.0]]
    """
    edges = np.asarray(edges_tokens)
    if len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise InputError("edges_tokens", list(edges_tokens), "must be at least two growing numbers")
    chosen = answered(records)
    chosen = chosen.where(chosen["first_token_at_ns"] != NEVER)
    lengths = chosen["prompt_tokens"]
    outside = lengths[(lengths < edges[0]) | (lengths >= edges[-1])]
    if len(outside):
        raise InputError("prompt_tokens", int(outside[0]), f"must lie within the bins, {edges[0]} to {edges[-1]}", "Add an edge.")
    bins = np.searchsorted(edges, lengths, side="right") - 1
    return [chosen.ttft_s[bins == index] for index in range(len(edges) - 1)]


class WarmUps(NamedTuple):
    """How many warm-ups were sent, how many of them a later user request hit, and the share of their tokens that none did."""

    sent: int
    used: int
    wasted_share: float | None


def warm_ups(records: Records) -> WarmUps:
    """What became of the warm-ups: the wasted share is ``1 - sum used_tokens / sum inserted_tokens`` (by origin).

    Warm-ups that put nothing into the cache weigh nothing in it; when none put anything in, all is wasted. None: none sent.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); r = b.row(kind="warm"); b.inserted_tokens[r], b.used_tokens[r] = 100, 25
    >>> warm_ups(b.freeze())
    WarmUps(sent=1, used=1, wasted_share=0.75)
    """
    warm = records.where(np.asarray(records["kind"] == "warm", dtype=bool))
    if not len(warm):
        return WarmUps(0, 0, None)
    inserted, used = int(warm["inserted_tokens"].sum()), int(warm["used_tokens"].sum())
    return WarmUps(len(warm), int(np.count_nonzero(warm["used_tokens"])), 1 - used / inserted if inserted else 1.0)


class Little(NamedTuple):
    """The two sides of Little's law over a window: ``mean_in_system`` = ``arrivals_per_s * mean_sojourn_s + boundary``."""

    mean_in_system: float
    arrivals_per_s: float
    mean_sojourn_s: float
    boundary: float

    @property
    def error(self) -> float:
        """Left side minus right side; 0 up to rounding."""
        return self.mean_in_system - self.arrivals_per_s * self.mean_sojourn_s - self.boundary


def littles_law(records: Records, start_s: float, end_s: float) -> Little:
    """L = lambda W over ``[start_s, end_s)`` with its boundary terms (Little 1961; finite windows: Stidham 1974).

    The left side integrates the number in the system over its steps; the right side takes the sojourns of those who arrived
    in the window, adds the time in the window of those who were there before, and takes off the time after it of those who
    stayed. A request is in the system from submit until it finished or was cancelled; one that has neither instant is there
    to the end when it was ever scheduled, and never when it was not (rejected, or failed before a server took it).

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); r = b.row(outcome="ok"); b.finished_at_ns[r] = 3 * 10**9
    >>> littles_law(b.freeze(), 0.0, 2.0)
    Little(mean_in_system=1.0, arrivals_per_s=0.5, mean_sojourn_s=3.0, boundary=-0.5)
    """
    if not end_s > start_s:
        raise InputError("end_s", end_s, f"must be after start_s, {start_s:g}")
    start, end = round(start_s * 1e9), round(end_s * 1e9)
    came = records["submitted_at_ns"]
    done, cancelled = records["finished_at_ns"], records["cancelled_at_ns"]
    left = np.where(done != NEVER, done, cancelled)
    open_ended = (left == NEVER) & (records["first_scheduled_at_ns"] != NEVER)
    left = np.where(open_ended, np.maximum(end, came), left)
    inside = left != NEVER
    came, left = came[inside], left[inside]

    instants = np.concatenate([came, left])
    steps = np.concatenate([np.ones(len(came), np.int64), np.full(len(left), -1, np.int64)])
    order = np.argsort(instants, kind="stable")
    borders = np.concatenate([[start], np.clip(instants[order], start, end), [end]])
    present = np.concatenate([[0], np.cumsum(steps[order])])
    area = int((present * np.diff(borders)).sum())

    arrived = (came >= start) & (came < end)
    arrivals = int(np.count_nonzero(arrived))
    sojourns = int((left - came)[arrived].sum())
    before = int(np.maximum(np.minimum(left, end) - start, 0)[came < start].sum())
    after = int(np.maximum(left - end, 0)[arrived].sum())
    window = end - start
    return Little(
        mean_in_system=area / window,
        arrivals_per_s=arrivals / (window / 1e9),
        mean_sojourn_s=sojourns / arrivals / 1e9 if arrivals else 0.0,
        boundary=(before - after) / window,
    )
