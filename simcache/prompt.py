"""Prompts: what a request is made of, and where two of them stop agreeing."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

from .errors import InputError


class _Segment(NamedTuple):
    key: Hashable
    tokens: int


class Segment(_Segment):
    """A run of prompt content with an identity and a token count.

    Two segments with one key agree on the tokens of the shorter: ``Segment("doc", 300)`` is a prefix of
    ``Segment("doc", 400)``. Readers that have checked their input may use ``Segment._make`` and skip the check here.

    >>> Segment("doc", 300).tokens
    300
    """

    __slots__ = ()

    def __new__(cls, key: Hashable, tokens: int) -> Segment:
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
            raise InputError("tokens", tokens, "must be a whole number of at least 0")
        return tuple.__new__(cls, (key, tokens))


Prompt = tuple[Segment, ...]


class Request(NamedTuple):
    """A prompt to be computed and an output to be generated, as a workload hands it to a backend.

    ``output`` names the generated content (so that a later prompt can contain it) and counts its tokens.
    ``kind`` (user, warm, keepalive) is a label for accounts: the server sees ``priority`` (smaller is more urgent).
    ``salt`` and ``organisation`` are namespaces: requests that differ in one of them share nothing.
    ``shared_segments`` is how many leading segments the client marks as reusable (a provider's breakpoint); None: all.
    ``breakpoints``: after how many leading segments each the client set one, where that is known (a log); it stands for all that
    ``shared_segments`` and the backend's settings say. None: it is not.
    ``cancelled_after_s``: seconds from arrival after which the client of an open-loop workload gives it up; None: never.

    >>> Request(0.0, (Segment("doc", 300),), Segment("answer", 20)).kind
    'user'
    """

    arrived_at_s: float
    prompt: Prompt
    output: Segment
    kind: str = "user"
    priority: int = 0
    session: str | None = None
    turn: int = 0
    user: str | None = None
    salt: str | None = None
    organisation: str | None = None
    shared_segments: int | None = None
    breakpoints: tuple[int, ...] | None = None
    cancelled_after_s: float | None = None


KINDS = ("user", "warm", "keepalive")


def prompt_tokens(prompt: Iterable[Segment]) -> int:
    """Tokens of a prompt.

    >>> prompt_tokens((Segment("a", 3), Segment("b", 4)))
    7
    """
    return sum(segment.tokens for segment in prompt)


def shared_prefix_tokens(one: Iterable[Segment], other: Iterable[Segment]) -> int:
    """Leading tokens on which two prompts agree. A token is (segment key, offset): boundaries do not matter.

    >>> shared_prefix_tokens((Segment("doc", 300),), (Segment("doc", 400), Segment("q", 9)))
    300
    """
    left = [segment for segment in one if segment.tokens]
    right = [segment for segment in other if segment.tokens]
    shared = 0
    for a, b in zip(left, right, strict=False):
        if a.key != b.key:
            break
        shared += min(a.tokens, b.tokens)
        if a.tokens != b.tokens:
            break  # the longer goes on with (key, n), the other starts a new segment at offset 0: they differ there
    return shared


def draft(session: str, turn: int, revision: int, tokens: int) -> Segment:
    """The unfinished question as a segment: it grows under one key, a deletion raises ``revision``.

    >>> draft("s1", 0, 0, 12)
    Segment(key='s1/t0/draft0', tokens=12)
    """
    return Segment(f"{session}/t{turn}/draft{revision}", tokens)
