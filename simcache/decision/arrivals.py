"""A log's own arrivals as a workload: the same requests at the same instants, with people who type before they send."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

import numpy as np

from ..errors import require_number
from ..prompt import Prompt, Segment, prompt_tokens
from ..streams import stream
from ..workload.distributions import LogNormal, whole
from ..workload.sessions import Person, Turn
from ..workload.typist import DESKTOP, Typing, Typist, delivered, evenly
from .conversations import Conversation, LoggedTurn, Reconstruction

Marks = Literal["as logged", "before the question"]
LEAD_S: Final = 900.0
"""How long before the log's first request a run begins: somebody typed that one too."""
NOBODY_TYPES_WITHIN_S: Final = 2.0
"""What follows an answer sooner was sent by a program."""
MOST_TYPED_TOKENS: Final = 300
"""What a question has beyond (1,200 characters of English) is taken for pasted."""
_TYPED: Final = LogNormal(median=19.4, sigma=1.09)
"""Question tokens where the log does not show them: the default of ``TypingSessions``, and its source."""
_FIRST_DRAFT: Final = 1_000_000  # turn numbers of drafts that were never sent, far from those of the log


@dataclass(frozen=True, eq=False, kw_only=True)
class LogArrivals:
    """The conversations of ``log``, each request sent when the log says so, whatever the simulated answers take.

    What the log leaves open (how much of a prompt stood in the one before, where the entry was dead when it came) is drawn from
    what it shows elsewhere, or is whole with probability ``reuse`` where that is given. ``mended``: every prompt goes on from the
    one before as far as its length allows. ``marks``: where the client sets its markers.

    Before each request its question is typed: by ``typist``, or in ``typing_s`` seconds; squeezed into the time since the answer
    before, and by nobody where that is under two seconds. ``p_send``: of the drafts begun, the share that was sent; the log has
    these only, so the others are added: after the answer before, and by visitors of whom it has nothing.

    >>> LogArrivals(log=Reconstruction(conversations=(), reuse=None, caching=True, ttl="5m")).notes
    ()
    """

    log: Reconstruction
    typist: Typist = DESKTOP
    typing_s: float | None = None
    p_send: float = 1.0
    reuse: float | None = None
    marks: Marks = "as logged"
    mended: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.typing_s is not None:
            require_number("typing_s", self.typing_s, at_least=0)
        require_number("p_send", self.p_send, above=0, at_most=1)
        if self.reuse is not None:
            require_number("reuse", self.reuse, at_least=0, at_most=1)

    def people(self, seed: int, duration_s: float) -> Iterator[Person]:
        """One per conversation, and one per draft of visitors who left; in order of arrival. Equal for equal seeds.

        A user's name is that of the conversation's place in the log, as is the session's: texts of the log stay in it.
        """
        return (person for person in _people(self, seed) if person.arrives_at_s < duration_s)


@lru_cache(maxsize=8)
def _people(arrivals: LogArrivals, seed: int) -> tuple[Person, ...]:
    """Kept, since all scenarios with the same arrivals ask for the same people."""
    people = []
    for number, conversation in enumerate(arrivals.log.conversations):
        made = _Prompts(arrivals, seed, number, conversation)
        turns, opens_at_s = made.turns()
        people.append(Person(user=f"c{number}", arrives_at_s=opens_at_s[0], turns=tuple(turns), opens_at_s=tuple(opens_at_s)))
        for draft, (turn, at_s) in enumerate(made.visitors(turns[0])):
            people.append(Person(user=f"c{number}/visitor{draft}", arrives_at_s=at_s, turns=(turn,), opens_at_s=(at_s,)))
    return tuple(sorted(people, key=lambda person: person.arrives_at_s))


def conversation_of(session: str) -> int:
    """Which conversation of the log a simulated session belongs to.

    >>> conversation_of("c12"), conversation_of("c7/visitor0")
    (12, 7)
    """
    return int(session.partition("/")[0][1:])


class _Prompts:
    """The turns of one conversation under one seed, made one after the other."""

    def __init__(self, arrivals: LogArrivals, seed: int, number: int, conversation: Conversation) -> None:
        self._asked, self._seed, self._number, self._conversation = arrivals, seed, number, conversation
        self._name = f"c{number}"
        self._luck = stream(seed, "log prefixes", number)
        self._trunk = self._drawn_trunk()
        self._person_key_s = arrivals.typist.person(stream(seed, "person_key_s", number))
        self._before: Prompt = ()  # the prompt before and its answer
        self._drafts = stream(seed, "log drafts", number)

    def turns(self) -> tuple[list[Turn], list[float]]:
        """The turns in order of opening, and when they open; a draft that was left stands before the question that was sent."""
        turns: list[Turn] = []
        opens_at_s: list[float] = []
        for index, logged in enumerate(self._conversation.turns):
            turn, opened_s = self._turn(index, logged)
            for at_s, left in self._left_before(turn, logged, opened_s) if index else ():
                turns.append(left)
                opens_at_s.append(at_s)
            turns.append(turn)
            opens_at_s.append(opened_s)
        return turns, opens_at_s

    def visitors(self, first: Turn) -> Iterator[tuple[Turn, float]]:
        """Drafts of first questions that were never sent, by people who saw another material of the same size, at any time."""
        for draft in range(self._unsent()):
            share, at = self._drafts.random(2).tolist()
            name = f"{self._name}/visitor{draft}"
            shared = tuple(
                segment if _is_trunk(segment) else Segment(f"{name}/{place}", segment.tokens)
                for place, segment in enumerate(first.shared)
            )
            left = first.typing.left(share * first.typing.end_at_s)
            yield replace(first, session=name, typing=left, shared=shared), LEAD_S + at * self._asked.log.span_s

    def _unsent(self) -> int:
        """How many drafts were left for one that was sent."""
        p_send = self._asked.p_send
        return 0 if p_send >= 1 else int(self._drafts.geometric(p_send)) - 1

    def _left_before(self, turn: Turn, logged: LoggedTurn, opened_s: float) -> list[tuple[float, Turn]]:
        """Drafts left between the answer before and the opening of ``turn``, as far as there is time."""
        room_s = (logged.free_s or 0.0) - (LEAD_S + logged.at_s - opened_s)
        left = []
        for draft in range(self._unsent()):
            share, at = self._drafts.random(2).tolist()
            typing = turn.typing.left(share * turn.typing.end_at_s)
            if turn.typed and typing.submit_at_s is None and room_s > typing.end_at_s:
                at_s = opened_s - room_s + at * (room_s - typing.end_at_s)
                number = _FIRST_DRAFT * (draft + 1) + turn.index
                left.append((at_s, replace(turn, index=number, typing=typing)))
        return sorted(left, key=lambda each: each[0])

    def _turn(self, index: int, logged: LoggedTurn) -> tuple[Turn, float]:
        turn = self._rebuilt(index, logged) if not self._asked.log.layouts else self._laid(index, logged)
        return turn, max(LEAD_S + logged.at_s - turn.typing.end_at_s, 0.0)

    def _laid(self, index: int, logged: LoggedTurn) -> Turn:
        """A turn whose prompt is known: what changed with it is typed or pasted."""
        laid = self._asked.log.layouts["mended" if self._asked.mended else "logged"][logged.row]
        typing = self._typing(index, logged, max(prompt_tokens(laid.prompt[laid.known :]), 1))
        return Turn(
            session=self._name,
            index=index,
            typing=typing,
            shared=laid.prompt[: laid.known],
            asked=laid.prompt[laid.known :],
            output=Segment(f"{self._name}/t{index}/answer", logged.output_tokens - logged.thinking_tokens),
            question_joins=False,
            answer_joins=False,
            thinking_tokens=logged.thinking_tokens,
            typed=typing.end_at_s > 0,
            breakpoints=None if self._asked.marks == "before the question" else laid.breakpoints,
        )

    def _rebuilt(self, index: int, logged: LoggedTurn) -> Turn:
        kept = min(self._kept(index, logged), logged.prompt_tokens - 1)
        before = self._before
        if not index or (logged.cached_tokens in self._trunk and before and not _is_trunk(before[0])):
            before, kept = self._trunk_segments(logged.prompt_tokens - 1), logged.prompt_tokens - 1  # begins, or begins again
        shared = _cut(before, kept)
        new = logged.prompt_tokens - prompt_tokens(shared)
        before_question = self._asked.marks == "before the question" or not self._asked.log.marked
        marked = 0 if before_question else min(logged.marked_tokens, logged.prompt_tokens)
        unmarked = logged.prompt_tokens - marked if prompt_tokens(shared) <= marked < logged.prompt_tokens else 0
        question = min(new, unmarked or self._question_tokens(index, new))
        fresh = new - question
        if fresh and prompt_tokens(shared) < marked < prompt_tokens(shared) + fresh:  # the marker stands inside what is new
            split = marked - prompt_tokens(shared)
            shared += (Segment(f"{self._name}/t{index}/new", split), Segment(f"{self._name}/t{index}/unmarked", fresh - split))
        elif fresh:
            shared += (Segment(f"{self._name}/t{index}/new", fresh),)
        typing = self._typing(index, logged, question)
        typed = typing.end_at_s > 0
        turn = Turn(
            session=self._name,
            index=index,
            typing=typing,
            shared=shared,
            output=Segment(f"{self._name}/t{index}/answer", logged.output_tokens - logged.thinking_tokens),
            question_joins=False,  # what later prompts keep is in their own shared part
            answer_joins=False,
            thinking_tokens=logged.thinking_tokens,
            typed=typed,
        )
        prompt = shared + turn.question
        if not before_question:
            trunk = sum(_is_trunk(segment) for segment in shared)
            turn = replace(turn, breakpoints=tuple(dict.fromkeys((*range(1, trunk + 1), _segments_up_to(prompt, marked)))))
        self._before = (*prompt, *((turn.output,) if turn.output.tokens else ()))
        return turn

    def _kept(self, index: int, logged: LoggedTurn) -> int:
        if not index:
            return 0
        if self._asked.mended:
            return logged.whole_tokens
        luck = float(self._luck.random())
        if logged.kept_tokens is not None:
            return logged.kept_tokens
        reuse = self._asked.log.reuse
        whole_share, some_share = 1.0, 0.0
        if self._asked.reuse is not None:
            whole_share = self._asked.reuse
        elif reuse.known:
            whole_share, some_share = reuse.whole / reuse.in_time, reuse.partly / reuse.in_time
        if luck < whole_share:
            return logged.whole_tokens
        trunk = self._trunk[-1] if self._trunk else 0
        return max(trunk if luck < whole_share + some_share else 0, logged.cached_tokens)

    def _drawn_trunk(self) -> tuple[int, ...]:
        """The nested prefixes that the conversation shares with others; where nothing shows them, as often as they show."""
        if self._conversation.trunk is not None:
            return self._conversation.trunk
        seen = self._asked.log.reuse.trunks
        total = sum(count for _, count in seen)
        if not total:
            return ()
        luck = stream(self._seed, "log trunk", self._number).random() * total
        for size, count in seen:
            luck -= count
            if luck < 0:
                return (size,) if size else ()
        return ()

    def _trunk_segments(self, most: int) -> Prompt:
        segments: list[Segment] = []
        below = 0
        for size in self._trunk:
            if size > most:
                break
            sharers = self._conversation.sharers if size == self._trunk[-1] else 0
            segments.append(Segment(("trunk", below, size, sharers), size - below))
            below = size
        return tuple(segments)

    def _question_tokens(self, index: int, new: int) -> int:
        """What of the ``new`` tokens somebody typed: all of them in a conversation that goes on, else a usual question."""
        if index and prompt_tokens(self._before) and new <= MOST_TYPED_TOKENS:
            return new
        drawn = whole(_TYPED.draw(stream(self._seed, "log question", self._number, index), 1), at_least=1)[0]
        return min(drawn, new)

    def _typing(self, index: int, logged: LoggedTurn, tokens: int) -> Typing:
        free_s = logged.free_s
        if free_s is not None and free_s < NOBODY_TYPES_WITHIN_S:
            return delivered(0.0, tokens)
        if self._asked.typing_s is not None:
            typing = evenly(self._asked.typing_s, tokens)
        else:
            typed = min(tokens, MOST_TYPED_TOKENS)
            typing = self._asked.typist.type(
                stream(self._seed, "typing", self._number, index),
                tokens=typed,
                person_key_s=self._person_key_s,
                pasted_tokens=tokens - typed,
            )
        room_s = LEAD_S if free_s is None else free_s
        return typing if typing.end_at_s <= room_s else _squeezed(typing, room_s / typing.end_at_s)


def _squeezed(typing: Typing, factor: float) -> Typing:
    assert typing.submit_at_s is not None
    return replace(
        typing,
        focus_at_s=typing.focus_at_s * factor,
        event_at_s=typing.event_at_s * factor,
        submit_at_s=typing.submit_at_s * factor,
        first_key_s=None if typing.first_key_s is None else typing.first_key_s * factor,
    )


def _cut(prompt: Prompt, tokens: int) -> Prompt:
    """The first ``tokens`` tokens."""
    kept: list[Segment] = []
    for segment in prompt:
        if tokens <= 0:
            break
        kept.append(segment if segment.tokens <= tokens else Segment(segment.key, tokens))
        tokens -= segment.tokens
    return tuple(kept)


def _segments_up_to(prompt: Prompt, tokens: int) -> int:
    """After how many segments a marker at ``tokens`` stands; it moves back to the end of a segment."""
    ends = np.cumsum([segment.tokens for segment in prompt])
    return int(np.searchsorted(ends, tokens, side="right"))


def _is_trunk(segment: Segment) -> bool:
    key: Hashable = segment.key
    return isinstance(key, tuple) and key[0] == "trunk"
