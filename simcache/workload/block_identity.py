"""Prompts as chained block ids: equal ids mean equal content from the first token to the end of the block."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable

from ..errors import require_count
from ..prompt import Segment

Piece = tuple[Hashable, int, int]
"""(segment key, first offset, tokens): a part of a block that crosses segments."""


class BlockIdentity:
    """Numbers blocks of ``block_tokens`` tokens in order of first appearance, from 0.

    A token is (segment key, offset). The partial last block is a block with an id of its own, unless ``full_only``. Work and
    memory follow segments, not blocks, but for the ids themselves; the table grows with distinct content and never forgets.

    >>> identity = BlockIdentity(16)
    >>> identity.ids((Segment("doc", 40),)).tolist(), identity.ids((Segment("doc", 48),)).tolist()
    ([0, 1, 2], [0, 1, 3])
    """

    __slots__ = ("_crossing", "_known", "_roots", "_runs", "block_tokens", "full_only")

    def __init__(self, block_tokens: int, *, full_only: bool = False) -> None:
        require_count("block_tokens", block_tokens)
        self.block_tokens, self.full_only = block_tokens, full_only
        self._known = 0
        self._roots: dict[str | None, int] = {}
        # Consecutive full blocks inside one segment, by (id before them, segment key, offset of the first).
        self._runs: dict[tuple[int, Hashable, int], array[int]] = {}
        self._crossing: dict[tuple[int, tuple[Piece, ...]], int] = {}

    def _block(self, before: int, pieces: list[Piece]) -> int:
        block = self._crossing.setdefault((before, tuple(pieces)), self._known)
        self._known += block == self._known
        return block

    def ids(self, prompt: Iterable[Segment], salt: str | None = None) -> array[int]:
        """The ids of a prompt's blocks in the namespace ``salt``.

        >>> identity = BlockIdentity(16)
        >>> [identity.ids((Segment("doc", 16),), salt).tolist() for salt in (None, "tenant", None)]
        [[0], [1], [0]]
        """
        size = self.block_tokens
        out = array("q")
        before = self._roots.setdefault(salt, -1 - len(self._roots))
        open_pieces: list[Piece] = []
        open_tokens = 0
        for key, tokens in prompt:
            if not tokens:
                continue
            offset = 0
            if open_pieces:
                offset = min(size - open_tokens, tokens)
                open_pieces.append((key, 0, offset))
                open_tokens += offset
                if open_tokens < size:
                    continue
                before = self._block(before, open_pieces)
                out.append(before)
                open_pieces = []
            whole = (tokens - offset) // size
            if whole:
                run = self._runs.setdefault((before, key, offset), array("q"))
                missing = whole - len(run)
                if missing > 0:
                    run.extend(range(self._known, self._known + missing))
                    self._known += missing
                out.extend(run if missing >= 0 else run[:whole])
                before = run[whole - 1]
                offset += whole * size
            if offset < tokens:
                open_pieces = [(key, offset, tokens - offset)]
                open_tokens = tokens - offset
        if open_pieces and not self.full_only:
            out.append(self._block(before, open_pieces))
        return out
