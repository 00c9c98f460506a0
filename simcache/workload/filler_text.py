"""Text for segments: a benchmark client sends characters where a trace has only keys and counts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np

from ..prompt import Segment

_LIST: Final = """
able about above across act add after again against age ago air all almost alone along also always am among an and animal
another answer any appear are area arm around art as ask at away baby back bad bag ball bank base be bear beat bed been before
began behind being best better between big bird bit black blood blue board boat body book both box boy bring broke brother
brought build built burn business but buy by call came can car care carry case cat catch caught cause cell center certain
chair chance change check child children choose church circle city class clean clear climb clock close cloud coast cold color
come common company complete consider contain continue control cook cool copy corn corner cost could count country course
cover cross cry cup cut dark daughter day dead deal dear death decide deep degree depend describe design develop did differ
dinner direct discuss do doctor does dog dollar done door double down draw dream dress drink drive drop dry during each ear
early earth ease east eat edge effect egg eight either electric else end energy engine enough enter equal even evening event
ever every exact example except experience eye face fact fair fall family far farm fast fat father favor fear feel feet fell
felt few field fight figure fill final find fine finger finish fire first fish
"""
WORDS: Final = tuple(_LIST.split())
"""Common short English words: about a token each, with the space before it, in the vocabularies of today's models."""


@lru_cache(maxsize=64)
def _draws(key: str) -> tuple[np.random.PCG64, list[str]]:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")
    return np.random.PCG64(seed), []


def segment_text(segment: Segment, namespace: str | None = None) -> str:
    """``segment.tokens`` words, equal for equal keys: the shorter of two segments of one key is the beginning of the longer.

    Two namespaces share no words but by chance. Not exact: how many tokens they are is for the model's tokenizer to say.

    >>> long, short = segment_text(Segment("doc", 40)), segment_text(Segment("doc", 4))
    >>> long.startswith(short), len(long.split())
    (True, 40)
    """
    generator, words = _draws(repr((namespace, segment.key)))
    missing = segment.tokens - len(words)
    if missing > 0:
        places = generator.random_raw(missing) % len(WORDS)
        words += [WORDS[place] for place in places.tolist()]
    return " ".join(words[: segment.tokens])


def prompt_text(prompt: Iterable[Segment], namespace: str | None = None) -> str:
    """The segments of a prompt one after the other; two prompts share words as far as they share segments.

    >>> prompt_text([Segment("a", 2), Segment("b", 0), Segment("c", 1)]).count(" ")
    2
    """
    return " ".join(segment_text(segment, namespace) for segment in prompt if segment.tokens)
