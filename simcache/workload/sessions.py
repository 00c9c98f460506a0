"""People and their turns: what one person will type, read and wait for, fixed before anything is served."""

from __future__ import annotations

from dataclasses import dataclass

from ..prompt import Prompt, Segment, draft
from .typist import Typing


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question and answer. ``shared`` (tools, system, document) stands before history and question.

    ``gap_s`` is the read-and-think time after the answer (or after leaving an unsent draft). ``answer_joins``: the answer is
    part of later prompts. Patience, in seconds from submit: ``stop_after_s`` presses the stop button, ``close_after_s``
    closes the tab, which ends the session; None: never.

    >>> from .typist import evenly
    >>> Turn(session="s", index=0, typing=evenly(3.0, 22), shared=(), output=Segment("a", 9)).draft_at(1.5)
    (Segment(key='s/t0/draft0', tokens=12),)
    """

    session: str
    index: int
    typing: Typing
    shared: Prompt
    output: Segment
    gap_s: float = 0.0
    answer_joins: bool = True
    stop_after_s: float | None = None
    close_after_s: float | None = None

    def draft_at(self, t_s: float) -> Prompt:
        """The draft ``t_s`` seconds after open, one segment per revision that still stands in it."""
        return tuple(draft(self.session, self.index, revision, tokens) for revision, tokens in self.typing.draft_pieces(t_s))

    @property
    def question(self) -> Prompt:
        """What stands in the field at submit (or was left in it)."""
        return self.draft_at(self.typing.end_at_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who arrives, goes through ``turns`` one after the other, and leaves.

    ``salt`` and ``organisation`` are namespaces: people who differ in one of them share no cache entry.

    >>> Person(user="u0", arrives_at_s=0.0, turns=()).organisation
    """

    user: str
    arrives_at_s: float
    turns: tuple[Turn, ...]
    salt: str | None = None
    organisation: str | None = None
