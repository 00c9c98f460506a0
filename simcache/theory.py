"""Closed forms of warming and of cache lifetimes that tests and users check the simulator with. Seconds, tokens, dollars."""

from __future__ import annotations

import math
from typing import Literal

from .errors import InputError, require, require_number


def residual_warm_s(typing_s: float, warm_s: float) -> float:
    """What is left of a warm-up at submit: ``max(0, warm - typing)``; ``typing_s`` from its start to submit.

    >>> round(residual_warm_s(3.0, 20.87), 2)
    17.87
    """
    require_number("typing_s", typing_s, at_least=0)
    require_number("warm_s", warm_s, at_least=0)
    return max(0.0, warm_s - typing_s)


def ttft_with_warm_s(
    typing_s: float,
    warm_s: float,
    hit_s: float,
    cold_s: float,
    on_unfinished_warm: Literal["wait", "send", "wait_if_shorter"] = "wait",
) -> float:
    """TTFT from submit of one question whose prefix a warm-up began to compute ``typing_s`` before.

    ``warm_s``: from the warm-up's start until its entry can be hit; ``hit_s`` and ``cold_s``: TTFT of the question with and
    without the entry. Once the entry is there, hit_s. Before that "wait" gives ``max(0, warm - typing) + hit``, "send" pays in
    full (cold_s), "wait_if_shorter" takes the smaller. The form assumes that the two requests do not slow each other down.
    Derivation: the question starts at max(typing, warm) where the client waits, at typing where it does not.

    >>> round(ttft_with_warm_s(3.0, 20.867, 1.94, 20.87, "wait"), 3)
    19.807
    """
    require_number("hit_s", hit_s, at_least=0)
    require_number("cold_s", cold_s, at_least=0)
    left_s = residual_warm_s(typing_s, warm_s)
    if not left_s:
        return hit_s
    if on_unfinished_warm == "wait":
        return left_s + hit_s
    if on_unfinished_warm == "send":
        return cold_s
    if on_unfinished_warm == "wait_if_shorter":
        return min(left_s + hit_s, cold_s)
    raise InputError("on_unfinished_warm", on_unfinished_warm, "must be 'wait', 'send' or 'wait_if_shorter'")


def hiding_typing_s(warm_s: float, delay_s: float = 0.0) -> float:
    """The least typing time at which a warm-up hides everything it can: TTFT equals that of a hit.

    ``delay_s``: how long after the start of typing the warm-up is sent.

    >>> hiding_typing_s(20.867)
    20.867
    """
    require_number("warm_s", warm_s, at_least=0)
    require_number("delay_s", delay_s, at_least=0)
    return warm_s + delay_s


def most_saved_s(typing_s: float, warm_s: float) -> float:
    """The most that warming can take off a question's TTFT: no more than the user typed, no more than there was to compute.

    A bound for warm-ups of the same computation as the cold call: cold - (max(0, warm - typing) + hit) with hit >= 0.

    >>> most_saved_s(3.0, 20.87)
    3.0
    """
    residual_warm_s(typing_s, warm_s)
    return min(typing_s, warm_s)


def warming_extra_cost(p_send: float, *, write: float, read: float) -> float:
    """What speculative warming costs over caching on send, per prefix token, in units of the input price.

    ``write`` and ``read`` are prices over the uncached input price. A warm-up writes always and is read when the draft is sent:
    w + s*r; without it a draft that is sent writes: s*w. The difference is ``w*(1 - s) + s*r``.

    >>> [round(warming_extra_cost(s, write=1.25, read=0.1), 3) for s in (1, 0.7, 0.5)]
    [0.1, 0.445, 0.675]
    """
    require_number("p_send", p_send, at_least=0, at_most=1)
    _require_prices(write, read)
    return write * (1 - p_send) + p_send * read


def requests_until_caching_pays(*, write: float, read: float) -> int | None:
    """The number of requests over one prefix from which writing it once and reading it after is cheaper than never caching.

    ``w + (n - 1)*r < n``, so n is the least whole number above ``(w - r)/(1 - r)``; None: reads cost as much as input, never.

    >>> requests_until_caching_pays(write=1.25, read=0.1), requests_until_caching_pays(write=2.0, read=0.1)
    (2, 3)
    """
    _require_prices(write, read)
    if read >= 1:
        return 1 if write < 1 else None
    return max(1, math.floor((write - read) / (1 - read)) + 1)


def ttl_hit_probability(requests_per_s: float, ttl_s: float) -> float:
    """Probability that a request finds the entry of the one before it, for Poisson arrivals and a sliding lifetime.

    The gap to the request before is exponential, and it hits iff the gap is below the lifetime: ``1 - exp(-rate*ttl)``.

    >>> round(ttl_hit_probability(1 / 300, 300), 4)
    0.6321
    """
    require_number("requests_per_s", requests_per_s, at_least=0)
    require_number("ttl_s", ttl_s, at_least=0)
    return -math.expm1(-requests_per_s * ttl_s)


def keep_alive_threshold(*, write: float, read: float) -> float:
    """The probability of a return within the lifetime that a ping buys, above which the ping pays (the myopic rule).

    A ping costs r; if the user returns in the time it buys, it has saved w - r: ping while ``P > r/(w - r)``. Myopic: it looks
    one ping ahead, and sees no worth in the later pings that this one makes possible.

    >>> round(keep_alive_threshold(write=1.25, read=0.1), 4)
    0.087
    """
    _require_prices(write, read)
    require(write > read, "write", write, f"must be above read (={read:g}), or an entry is not worth keeping")
    return read / (write - read)


def traffic_until_caching_pays(ttl_s: float, *, write: float, read: float) -> float | None:
    """Requests per second over one prefix from which caching every one of them is cheaper than caching none; None: never.

    Poisson arrivals, sliding lifetime: a request reads with probability p = 1 - exp(-rate*ttl) and else writes, so it costs
    ``p*r + (1 - p)*w``, which is below 1 from ``p = (w - 1)/(w - r)`` on.

    >>> round(3600 * traffic_until_caching_pays(300, write=1.25, read=0.1), 2)
    2.94
    """
    _require_prices(write, read)
    require_number("ttl_s", ttl_s, above=0)
    if read >= 1:
        return None
    return 0.0 if write <= 1 else -math.log1p(-(write - 1) / (write - read)) / ttl_s


def traffic_for_hits(hit_probability: float, ttl_s: float) -> float:
    """Requests per second that keep a sliding lifetime warm with ``hit_probability``: the inverse of :func:`ttl_hit_probability`.

    >>> round(3600 * traffic_for_hits(0.95, 300), 1)
    35.9
    """
    require_number("ttl_s", ttl_s, above=0)
    require(0 <= hit_probability < 1, "hit_probability", hit_probability, "must be at least 0 and below 1")
    return -math.log1p(-hit_probability) / ttl_s


def sent_until_warming_pays(*, write: float, read: float) -> float | None:
    """How many questions a warm-up must serve on average to cost less than never caching; None: it never does.

    A warm-up writes for w, each of the n questions that follow it (P(send) times the questions of a visit) reads for r instead of
    paying 1: ``w + n*r < n`` from ``n = w/(1 - r)`` on. A visit of one question therefore never pays a write fee in dollars.

    >>> round(sent_until_warming_pays(write=1.25, read=0.1), 3)
    1.389
    """
    _require_prices(write, read)
    return None if read >= 1 else write / (1 - read)


def reads_per_h_until_storage_pays(*, storage: float, read: float) -> float | None:
    """Reads per hour from which stored tokens that are billed by the hour cost less than computing them anew; None: never.

    ``storage`` is the price of one token-hour over the input price: an hour costs ``storage``, each read saves ``1 - r``.

    >>> reads_per_h_until_storage_pays(storage=4.5 / 1.25, read=0.1)
    4.0
    """
    require_number("storage", storage, at_least=0)
    require_number("read", read, at_least=0)
    return None if read >= 1 else storage / (1 - read)


def _require_prices(write: float, read: float) -> None:
    require_number("write", write, at_least=0)
    require_number("read", read, at_least=0)
