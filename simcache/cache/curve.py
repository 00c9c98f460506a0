"""How big must the cache be, how long must it keep? The hit ratio at every capacity, or every lifetime, from one pass.

LRU is a stack algorithm (Mattson, Gecsei, Slutz, Traiger 1970): at capacity C exactly the C blocks used last are present. So a
block hits from the capacity on that equals its stack distance: the distinct blocks used since its own last use, itself included.
A prompt's block can only hit behind those in front of it, so from the largest distance up to it on: a running maximum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .kernels import Ints
from .plain import TOUCHES, Touch

_PART_ACCESSES: Final = 2**20
"""Accesses that are counted at once: what they need beside the trace stays small."""


@dataclass(frozen=True, kw_only=True)
class HitCurve:
    """Hits as a function of ``over`` (``capacity_blocks`` or ``ttl_ns``): a step function that rises at each of ``steps``.

    From ``steps[i]`` on, up to ``steps[i + 1]``, ``hit_blocks[i]`` blocks and ``hit_tokens[i]`` tokens hit; below it nothing.
    """

    over: str
    steps: Ints
    hit_blocks: Ints
    hit_tokens: Ints
    total_blocks: int
    total_tokens: int
    block_tokens: int
    requests: int

    def at(self, value: int) -> tuple[int, int]:
        """Hit blocks and hit tokens at one capacity in blocks, or one lifetime in nanoseconds."""
        i = int(np.searchsorted(self.steps, value, side="right")) - 1
        return (0, 0) if i < 0 else (int(self.hit_blocks[i]), int(self.hit_tokens[i]))

    @property
    def block_hit_ratio(self) -> NDArray[np.float64]:
        """Hit blocks over all blocks, per step."""
        return self.hit_blocks / max(self.total_blocks, 1)

    @property
    def token_hit_ratio(self) -> NDArray[np.float64]:
        """Hit tokens over all tokens, per step."""
        return self.hit_tokens / max(self.total_tokens, 1)

    def knees(self, most: int = 8) -> Ints:
        """Indices of the steps where more begins to buy less: the ``most`` sharpest corners of the concave hull, with the end.

        A corner's sharpness is how far it lies above the straight line between its neighbours that were found before it, starting
        from the line between nothing and everything.
        """
        if not len(self.steps):
            return np.empty(0, dtype=np.int64)
        corners = _concave_hull(self.steps, self.hit_tokens)
        x = np.concatenate(([0], self.steps[corners])).astype(np.float64)
        y = np.concatenate(([0], self.hit_tokens[corners])).astype(np.float64)
        found = [0, len(x) - 1]
        while len(found) < min(most, len(corners)) + 1:
            above = y - np.interp(x, x[found], y[found])
            above[found] = -1.0
            found = sorted([*found, int(above.argmax())])
        chosen: Ints = corners[np.array(found[1:]) - 1]
        return chosen


def lru_curve(
    ids: Ints, starts: Ints, input_tokens: Ints, *, block_tokens: int, touch: Touch = "rev", compiled: bool = False
) -> HitCurve:
    """LRU over the plain store at every capacity: request i has the ids from ``starts[i]`` to ``starts[i + 1]``.

    ``compiled``: by the compiled loops, which want small ids: their memory grows with the largest.

    >>> curve = lru_curve(np.array([1, 2, 1, 2, 3]), np.array([0, 2, 5]), np.array([32, 48]), block_tokens=16)
    >>> curve.at(1), curve.at(2)
    ((1, 16), (2, 32))
    """
    if compiled:
        distances = kernels.compiled(kernels.distances)(ids, starts, int(ids.max(initial=-1)) + 1, TOUCHES.index(touch))
    else:
        distances = stack_distances(ids, starts, touch)
    return _curve("capacity_blocks", distances, len(ids), starts, input_tokens, block_tokens, touch, compiled)


def ttl_curve(ids: Ints, starts: Ints, input_tokens: Ints, now_ns: Ints, *, block_tokens: int, touch: Touch = "rev") -> HitCurve:
    """Sliding TTL over the plain store without a capacity, at every lifetime; ``now_ns`` per request.

    >>> curve = ttl_curve(np.array([1, 1]), np.array([0, 1, 2]), np.array([16, 16]), np.array([0, 5]), block_tokens=16)
    >>> curve.at(4), curve.at(5)
    ((0, 0), (1, 16))
    """
    request = _request_of(starts)
    before = _last_uses(ids, request, touch == "any")
    gaps_ns = np.zeros(len(ids), dtype=np.int64)
    seen = before >= 0
    # A clock that ran backwards (sessions that share none) gives a negative age, which every lifetime holds.
    gaps_ns[seen] = np.maximum(0, (now_ns[request] - now_ns[request[before]])[seen])
    ranks, order = np.unique(gaps_ns[seen], return_inverse=True)
    rank = np.full(len(ids), len(ranks), dtype=np.int64)
    rank[seen] = order
    curve = _curve("ttl_ns", rank, len(ranks) - 1, starts, input_tokens, block_tokens, touch, False)
    return replace(curve, steps=ranks[curve.steps])


def stack_distances(ids: Ints, starts: Ints, touch: Touch = "rev") -> Ints:
    """LRU stack distance of every access at its lookup; ``len(ids) + 1`` for a block not seen before.

    Touches have places 0, 1, 2...; a place dies when its block is touched again. The distance is the number of living places from
    the block's on: all of them, less those that died. Which died is a count of dominated points, taken bit by bit for all at once.

    >>> stack_distances(np.array([1, 2, 1, 2, 3]), np.array([0, 2, 5])).tolist()
    [6, 6, 1, 2, 6]
    """
    n = len(ids)
    request = _request_of(starts)
    place = np.arange(n, dtype=np.int64)
    if touch == "rev":
        place = (starts[:-1] + starts[1:] - 1)[request] - place
    stream = np.empty_like(ids)
    stream[place] = ids
    died = _last_uses(stream, request, True)  # the place that each touch ends; -1: none
    if touch == "any":
        looked_up_at, last_use = place, died
    else:
        looked_up_at, last_use = starts[:-1][request], _last_uses(stream, request, False)
    deaths = died >= 0
    deaths_before = np.concatenate(([0], np.cumsum(deaths)))
    seen = last_use >= 0
    distance = np.full(n, n + 1, dtype=np.int64)
    behind = _count_above(died[deaths], deaths_before[looked_up_at[seen]], last_use[seen], n.bit_length())
    distance[seen] = looked_up_at[seen] - last_use[seen] - behind
    return distance[place]


def _request_of(starts: Ints) -> Ints:
    return np.repeat(np.arange(len(starts) - 1, dtype=np.int64), np.diff(starts))


def _last_uses(ids: Ints, request: Ints, within: bool) -> Ints:
    """Place of the last use before each access, -1 for none; ``within``: uses in the access's own request count."""
    order = np.argsort(ids, kind="stable")
    known = ids[order]
    last = np.full(len(ids), -1, dtype=np.int64)
    if not len(ids):
        return last
    same_block = known[1:] == known[:-1]
    if within:
        last[order[1:][same_block]] = order[:-1][same_block]
        return last
    asker = request[order]
    first = np.concatenate(([True], ~same_block | (asker[1:] != asker[:-1])))  # of this block in this request
    group = np.maximum.accumulate(np.where(first, np.arange(len(ids)), 0))
    before = group - 1
    known_before = (group > 0) & (known[before] == known)
    last[order[known_before]] = order[before[known_before]]
    return last


def _count_above(values: Ints, firsts: Ints, thresholds: Ints, bits: int) -> Ints:
    """Per query, how many of the first ``firsts`` of ``values`` lie above its threshold: a wavelet matrix walked by all queries."""
    above = np.zeros(len(firsts), dtype=np.int64)
    low, high = np.zeros(len(firsts), dtype=np.int64), firsts
    for bit in range(bits - 1, -1, -1):
        ones = (values >> bit) & 1
        zeros_before = np.concatenate(([0], np.cumsum(1 - ones)))
        low_zeros, high_zeros = zeros_before[low], zeros_before[high]
        one = ((thresholds >> bit) & 1).astype(np.bool_)
        above += np.where(one, 0, (high - high_zeros) - (low - low_zeros))
        zeros = zeros_before[-1]
        low = np.where(one, zeros + low - low_zeros, low_zeros)
        high = np.where(one, zeros + high - high_zeros, high_zeros)
        values = np.concatenate((values[ones == 0], values[ones == 1]))
    return above


def _curve(
    over: str, needs: Ints, most: int, starts: Ints, input_tokens: Ints, block_tokens: int, touch: Touch, compiled: bool
) -> HitCurve:
    """The curve from what each access needs to hit: ``needs`` above ``most`` means it never does."""
    reached = int(needs[needs <= most].max(initial=-1)) + 1
    if compiled:
        count = kernels.compiled(kernels.count_needs)
        hit_blocks, hit_tokens = count(needs, most, reached, starts, input_tokens, block_tokens, TOUCHES.index(touch))
    else:
        hit_blocks, hit_tokens = _count_needs(needs, most, reached, starts, input_tokens, block_tokens, touch)
    steps = np.flatnonzero(hit_blocks)
    return HitCurve(
        over=over,
        steps=steps,
        hit_blocks=np.cumsum(hit_blocks)[steps],
        hit_tokens=np.cumsum(hit_tokens)[steps],
        total_blocks=len(needs),
        total_tokens=int(input_tokens.sum()),
        block_tokens=block_tokens,
        requests=len(input_tokens),
    )


def _count_needs(
    needs: Ints, most: int, reached: int, starts: Ints, input_tokens: Ints, block_tokens: int, touch: Touch
) -> tuple[Ints, Ints]:
    """Blocks and tokens that begin to hit at each need below ``reached``."""
    hit_blocks = np.zeros(reached, dtype=np.int64)
    hit_tokens = np.zeros(reached, dtype=np.int64)
    edges = np.searchsorted(starts, np.arange(0, len(needs), _PART_ACCESSES), side="left")
    for first, last in pairwise([*np.unique(edges).tolist(), len(starts) - 1]):
        part = needs[starts[first] : starts[last]]
        request = _request_of(starts[first : last + 1])
        # Ordered within each request: under the prefix rule a block needs what any block before it needs.
        span = int(part.max(initial=0)) + 1
        keyed = request * span + part
        keyed = np.sort(keyed) if touch == "any" else np.maximum.accumulate(keyed)
        part = keyed - request * span
        rank = np.arange(starts[first], starts[last]) - starts[first:last][request]
        tokens = np.clip(input_tokens[first:last][request] - rank * block_tokens, 0, block_tokens)
        hits = part <= most
        hit_blocks += np.bincount(part[hits], minlength=reached)
        # Sums of whole numbers far below 2**53 are exact in the floats that bincount weighs with.
        hit_tokens += np.bincount(part[hits], tokens[hits], minlength=reached).astype(np.int64)
    return hit_blocks, hit_tokens


def _concave_hull(x: Ints, y: Ints) -> Ints:
    """Indices of the corners of the least concave function above the points and (0, 0), ending with the last point."""
    hull: list[int] = []
    xs, ys = x.tolist(), y.tolist()
    for i in range(len(xs)):
        while hull:
            x0, y0 = (xs[hull[-2]], ys[hull[-2]]) if len(hull) > 1 else (0, 0)
            top = hull[-1]
            if (ys[top] - y0) * (xs[i] - x0) > (ys[i] - y0) * (xs[top] - x0):
                break
            hull.pop()
        hull.append(i)
    return np.array(hull, dtype=np.int64)
