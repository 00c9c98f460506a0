"""Which points are worth measuring: long contexts with few new tokens, chunks of a long prompt, decode batches, copies."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

from simcache.streams import stream

Kind = Literal["prefill", "decode", "copy"]

# A request after a cache hit computes few tokens over a long context, and kernels change path there: hence the small sizes.
_NEW: Final = (
    1,
    4,
    16,
    32,
    48,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    768,
    1024,
    1536,
    2048,
    3072,
    4096,
    6144,
    8192,
    12288,
    16384,
    32768,
    65536,
)
_CACHED: Final = (0, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072)
_BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_CONTEXTS: Final = (64, 256, 1024, 4096, 16384, 65536)
_COPIES: Final = (16, 256, 4096, 16384)
_QUICK_NEW: Final = (1, 16, 32, 64, 128, 256, 512, 1024)
_QUICK_CACHED: Final = (0, 512, 1024)
_QUICK_BATCHES: Final = (1, 2, 4, 8)
_QUICK_CONTEXTS: Final = (64, 512, 1024)
_QUICK_COPIES: Final = (16, 1024)


@dataclass(frozen=True, kw_only=True, order=True)
class Point:
    """One thing to time. Prefill: ``new_tokens`` behind ``cached_tokens``. Decode: ``batch`` sequences of ``cached_tokens`` each.
    Copy: KV blocks of ``new_tokens`` tokens, ``direction`` "to device" or "to host".

    >>> Point(kind="decode", batch=4, cached_tokens=100).kv_tokens
    400
    """

    kind: Kind
    new_tokens: int = 0
    cached_tokens: int = 0
    batch: int = 0
    direction: str = ""

    @property
    def kv_tokens(self) -> int:
        """KV tokens that a decode step reads, over all its sequences."""
        return self.batch * self.cached_tokens

    @property
    def tokens_held(self) -> int:
        """Tokens whose keys and values must be in memory at once."""
        if self.kind == "decode":
            return self.batch * (self.cached_tokens + 1)
        return self.new_tokens + self.cached_tokens

    def __str__(self) -> str:
        if self.kind == "prefill":
            return f"prefill of {self.new_tokens} after {self.cached_tokens}"
        if self.kind == "decode":
            return f"decode, batch {self.batch} of {self.cached_tokens} each"
        return f"copy of {self.new_tokens} tokens {self.direction}"


def grid(most_tokens: int, chunk_tokens: int, *, quick: bool = False, copies: bool = False, seed: int = 0) -> list[Point]:
    """The points up to ``most_tokens`` of context, in an order shuffled by ``seed`` so that drift of the host looks like noise.

    A prompt longer than ``chunk_tokens`` is computed by engines in chunks: (chunk, k * chunk) is among the points for every k.

    >>> points = grid(4096, 512, quick=True)
    >>> all(Point(kind="prefill", new_tokens=n, cached_tokens=c) in points for n, c in ((16, 1024), (512, 3584)))
    True
    """
    sizes, cached = (_QUICK_NEW, _QUICK_CACHED) if quick else (_NEW, _CACHED)
    batches, contexts = (_QUICK_BATCHES, _QUICK_CONTEXTS) if quick else (_BATCHES, _CONTEXTS)
    prefills = {(new, past) for new, past in product(sizes, cached) if new + past <= most_tokens}
    # The longest context that fits, however it lies between the steps of the grid.
    prefills |= {(new, most_tokens - new) for new in (1, 16, 64) if new < most_tokens}
    prefills |= {(chunk_tokens, k * chunk_tokens) for k in range(most_tokens // chunk_tokens)}
    points = [Point(kind="prefill", new_tokens=new, cached_tokens=past) for new, past in sorted(prefills)]
    points += [
        Point(kind="decode", batch=batch, cached_tokens=context)
        for batch, context in product(batches, contexts)
        if context < most_tokens
    ]
    if copies:
        points += [
            Point(kind="copy", new_tokens=tokens, direction=direction)
            for tokens, direction in product(_QUICK_COPIES if quick else _COPIES, ("to device", "to host"))
            if tokens <= most_tokens
        ]
    return _shuffled(points, seed)


def _shuffled(points: list[Point], seed: int) -> list[Point]:
    """In random order within each kind, and the kinds evenly mixed: what a budget allows of it is a fair part of each."""
    placed: list[tuple[float, Point]] = []
    random = stream(seed, "calibration grid")
    for kind in ("prefill", "decode", "copy"):
        members = [point for point in points if point.kind == kind]
        order = random.permutation(len(members))
        placed += [((rank + 0.5) / len(members), members[i]) for rank, i in enumerate(order)]
    return [point for _, point in sorted(placed)]
