"""People and their turns: what one person will type, read and wait for, fixed before anything is served."""

from __future__ import annotations

from dataclasses import dataclass

from ..prompt import Prompt, Segment, draft
from .typist import Typing


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question and answer. ``shared`` (tools, system, document) stands before history and question.

    ``gap_s`` is the read-and-think time after the answer (or after leaving an unsent draft). ``question_joins``,
    ``answer_joins``: they are part of later prompts. ``thinking_tokens`` are generated (and billed) before the answer; they go
    into later prompts only if ``thinking_joins``, else the answer joins without them, and what was cached behind them is of no
    use. ``typed`` False: no human's turn but what a tool returned (:func:`~simcache.workload.typist.delivered`). Patience, in
    seconds from submit: ``stop_after_s`` presses the stop button, ``close_after_s`` closes the tab, which ends the session;
    None: never. Of a log: ``breakpoints`` of the request (None: as the backend's settings say), and ``asked``, the question as it
    was sent (None: what stands in the field at submit), of which drafts before it are no part.

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
    question_joins: bool = True
    answer_joins: bool = True
    thinking_tokens: int = 0
    thinking_joins: bool = False
    typed: bool = True
    stop_after_s: float | None = None
    close_after_s: float | None = None
    breakpoints: tuple[int, ...] | None = None
    asked: Prompt | None = None

    def draft_at(self, t_s: float) -> Prompt:
        """The draft ``t_s`` seconds after open, one segment per revision that still stands in it."""
        return tuple(draft(self.session, self.index, revision, tokens) for revision, tokens in self.typing.draft_pieces(t_s))

    @property
    def generated(self) -> Segment:
        """What the model generates: the thinking, then the answer. Without thinking to drop, it is the answer that joins."""
        if not self.thinking_tokens:
            return self.output
        key = self.output.key if self.thinking_joins else f"{self.output.key}/thinking"
        return Segment(key, self.thinking_tokens + self.output.tokens)

    def answer(self, generated_tokens: int) -> Prompt:
        """What of the answer joins later prompts once ``generated_tokens`` (thinking included) have come.

        >>> from .typist import evenly
        >>> turn = Turn(session="s", index=0, typing=evenly(3.0, 9), shared=(), output=Segment("a", 9), thinking_tokens=30)
        >>> turn.generated, turn.answer(34)
        (Segment(key='a/thinking', tokens=39), (Segment(key='a', tokens=4),))
        """
        if not self.answer_joins:
            return ()
        tokens = generated_tokens - (0 if self.thinking_joins else self.thinking_tokens)
        return (Segment(self.output.key, tokens),) if tokens > 0 else ()

    @property
    def question(self) -> Prompt:
        """What stands in the field at submit (or was left in it)."""
        return self.draft_at(self.typing.end_at_s) if self.asked is None else self.asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who arrives, goes through ``turns`` one after the other, and leaves.

    ``salt`` and ``organisation`` are namespaces: people who differ in one of them share no cache entry. ``opens_at_s``: the
    instants at which the turns open whatever the answers take (open loop); None: each turn opens after the answer before it.

    >>> Person(user="u0", arrives_at_s=0.0, turns=()).organisation
    """

    user: str
    arrives_at_s: float
    turns: tuple[Turn, ...]
    salt: str | None = None
    organisation: str | None = None
    opens_at_s: tuple[float, ...] | None = None
