"""Segments of a prompt as real token ids: equal keys give equal tokens, different keys differ from their first token on."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from simcache.errors import require
from simcache.prompt import Segment

_Key = tuple[Hashable, ...]


class TokenBook:
    """Makes up the tokens of every segment, and keeps those that a server generated, so that later prompts can hold them.

    Ids lie in [low, high). ``nonce`` makes the tokens of this run differ from those of another one, whose cache entries may
    still live in the server. ``space``: salt and organisation; equal keys in two spaces have different tokens.

    >>> book = TokenBook(100, 1000)
    >>> book.ids([Segment("doc", 3)]) == book.ids([Segment("doc", 5)])[:3]
    True
    """

    def __init__(self, low: int = 1000, high: int = 30_000, nonce: int = 0) -> None:
        require(0 <= low < high, "token ids", (low, high), "must be a range with the smaller first")
        self.low, self.high, self.nonce = low, high, nonce
        self.made_up: dict[_Key, list[int]] = {}
        self.generated: dict[_Key, list[int]] = {}

    def ids(self, prompt: Iterable[Segment], space: tuple[Hashable, ...] = ()) -> list[int]:
        """The token ids of a prompt."""
        tokens: list[int] = []
        for segment in prompt:
            tokens += self._segment((*space, segment.key), segment.tokens)
        return tokens

    def learn(self, output: Segment, tokens: Sequence[int], space: tuple[Hashable, ...] = ()) -> None:
        """Keep what a server generated under the key of ``output``: prompts that contain it will contain these tokens."""
        self.generated[(*space, output.key)] = list(tokens)

    def _segment(self, key: _Key, tokens: int) -> list[int]:
        known = self.generated.get(key, [])
        if len(known) >= tokens:
            return known[:tokens]
        made = self.made_up.get(key)
        if made is None or len(made) < tokens:
            made = self.made_up[key] = self._make_up(key, max(tokens, 2 * len(made or ())), made)
        return known + made[len(known) : tokens]

    def _make_up(self, key: _Key, tokens: int, before: list[int] | None) -> list[int]:
        # The first token counts the keys up, so that two segments never agree by chance on more than they share.
        span = self.high - self.low
        first = before[0] if before else self.low + (self.nonce + len(self.made_up)) % span
        seed = (self.nonce, zlib.crc32(repr(key).encode()))
        rest = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))).random(tokens)
        return [first, *(self.low + (rest[1:tokens] * span).astype(np.int64)).tolist()][:tokens]
