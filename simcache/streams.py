"""Randomness as named streams: one generator per (seed, concern, user, turn), so policies see the same people."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, concern: str, user: int = 0, turn: int = 0) -> np.random.Generator:
    """The generator of one concern of one user's turn; equal arguments give equal draws in any process.

    >>> stream(1, "typing", 7).random() == stream(1, "typing", 7).random()
    True
    """
    # crc32, not hash(): a str's hash differs from process to process.
    entropy = (seed, zlib.crc32(concern.encode()), user, turn)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
