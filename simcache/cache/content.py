"""Token content as runs: what the stores compare instead of token lists, so that cost follows segments, not tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable
from itertools import accumulate

from ..prompt import Prompt, Segment


class Content:
    """The tokens of a prompt and of what will be generated after it, as keys and cumulative ends.

    A token is (segment key, offset in the segment). So two contents that agree on their first t tokens have the same
    segment boundaries before t, and the segment that holds token t has the same index in both: comparing goes on from there.

    >>> Content((Segment("doc", 300), Segment("q", 9)), Segment("answer", 20)).ends
    (300, 309, 329)
    """

    __slots__ = ("ends", "keys", "prompt_tokens")

    def __init__(self, prompt: Prompt, output: Segment) -> None:
        keys: tuple[Hashable, ...]
        counts: tuple[int, ...]
        keys, counts = zip(*prompt, strict=True) if prompt else ((), ())
        if 0 in counts:  # empty segments hold no token
            keys = tuple(segment[0] for segment in prompt if segment[1])
            counts = tuple(filter(None, counts))
        ends = tuple(accumulate(counts))
        self.prompt_tokens = ends[-1] if ends else 0
        if output[1]:
            keys += (output[0],)
            ends += (self.prompt_tokens + output[1],)
        self.keys = keys
        self.ends = ends

    def block_key(self, block: int, block_tokens: int) -> Hashable:
        """Identity of one full block among the blocks that may follow the same prefix.

        >>> Content((Segment("doc", 300),), Segment("a", 20)).block_key(2, 16)
        ('doc', 32)
        """
        ends, keys = self.ends, self.keys
        first = block * block_tokens
        i = bisect_right(ends, first)
        offset = first - ends[i - 1] if i else first
        last = first + block_tokens
        if ends[i] >= last:
            return (keys[i], offset)
        runs: list[Hashable] = [offset]  # an int first: never equal to the pair above, whatever the keys are
        while ends[i] < last:
            runs.append((keys[i], ends[i] - first))
            first = ends[i]
            i += 1
        runs.append((keys[i], last - first))
        return tuple(runs)

    def agrees_until(self, other: Content, start: int, stop: int) -> int:
        """The first token from ``start`` (before which both agree) where they differ, or ``stop`` if that comes first.

        >>> doc = Content((Segment("doc", 300),), Segment("a", 20))
        >>> doc.agrees_until(Content((Segment("doc", 400),), Segment("b", 1)), 0, 1000)
        300
        """
        i = bisect_right(self.ends, start)
        # Compared as slices in C first: on a hit, which is the common case, everything up to ``stop`` agrees.
        mine, theirs = self.ends, other.ends
        j = bisect_right(mine, stop - 1)  # the segment that holds token stop-1
        if j < len(mine) and j < len(theirs) and theirs[j] >= stop and mine[i:j] == theirs[i:j]:
            k = j + 1
            if self.keys[i:k] == other.keys[i:k]:
                return stop
        at = start
        for key, end, other_key, other_end in zip(self.keys[i:], mine[i:], other.keys[i:], theirs[i:], strict=False):
            if key != other_key:
                break
            at = end if end < other_end else other_end
            if end != other_end or at >= stop:
                break
        return at if at < stop else stop
