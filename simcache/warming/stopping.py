"""How many keep-alive pings pay: expected gain of each over a law of pauses, the myopic rule, and optimal stopping."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..errors import require_count, require_number


def keep_alive_gains(
    survival: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    pings: int,
    interval_s: float,
    ttl_s: float,
    write: float,
    read: float,
    elapsed_s: float = 0.0,
) -> NDArray[np.float64]:
    """Expected gain of each of ``pings`` pings, in units of the input price per prefix token; their running sum is the policy's.

    Ping k goes out ``k * interval_s`` after the entry was last used (at once where that has passed) if the user has not
    returned; ``survival(t)`` is P(no return within t seconds), t counted from ``elapsed_s`` after that use. A ping on a living
    entry (interval below the lifetime) costs r and moves its death from ``(k-1)*interval + ttl`` to ``k*interval + ttl``; a
    return in between then reads (r) where it would have written (w): ``-r*S(k) + (w - r)*(S(old death) - S(new death))``. With
    an interval of a lifetime or more each ping finds the entry dead and pays w.

    >>> never = lambda t: np.ones_like(t)
    >>> keep_alive_gains(never, pings=2, interval_s=240, ttl_s=300, write=1.25, read=0.1).round(6).tolist()
    [-0.1, -0.1]
    """
    require_count("pings", pings, at_least=0)
    require_number("interval_s", interval_s, above=0)
    require_number("ttl_s", ttl_s, above=0)
    require_number("elapsed_s", elapsed_s, at_least=0)
    require_number("write", write, at_least=0)
    require_number("read", read, at_least=0)
    sent = np.maximum(np.arange(1, pings + 1) * interval_s, elapsed_s)
    before = np.concatenate(([0.0], sent[:-1])) + ttl_s
    alive = sent < before
    price = np.where(alive, read, write)
    bought_from = np.where(alive, before, sent)

    def still_away(at_s: NDArray[np.float64]) -> NDArray[np.float64]:
        return survival(np.maximum(at_s - elapsed_s, 0.0))

    saved = (write - read) * (still_away(bought_from) - still_away(sent + ttl_s))
    return np.asarray(saved - price * still_away(sent))


def myopic_pings(gains: NDArray[np.float64]) -> int:
    """How many pings the myopic rule sends: it stops at the first that does not pay by itself.

    >>> myopic_pings(np.array([0.2, -0.1, 0.4]))
    1
    """
    losing = np.flatnonzero(gains <= 0)
    return int(losing[0]) if len(losing) else len(gains)


def optimal_pings(gains: NDArray[np.float64]) -> int:
    """How many pings optimal stopping sends: until the running sum of expected gains is largest (the least such number).

    Nothing is learned between two pings but that the user has not returned, so the best rule is a number fixed in advance.

    >>> optimal_pings(np.array([0.2, -0.1, 0.4])), optimal_pings(np.array([-0.1, 0.05]))
    (3, 0)
    """
    return int(np.argmax(np.concatenate(([0.0], np.cumsum(gains)))))
