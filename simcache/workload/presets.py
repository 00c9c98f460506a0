"""Populations ready to use: people who type questions about documents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, require, require_count, require_number
from ..prompt import Prompt, Segment
from ..streams import stream
from .arrivals import DayAndWeek, poisson_instants, spread_instants
from .distributions import Fixed, Geometric, LogNormal, Numbers, Zipf, distribution, whole
from .sessions import Person, Turn
from .typist import Typing, Typist, delivered, evenly

_COUNTS: Final = {
    "document_tokens": 0,
    "system_tokens": 0,
    "tools_tokens": 0,
    "questions": 1,
    "question_tokens": 1,
    "pasted_tokens": 0,
    "output_tokens": 1,
    "document_images": 0,
    "image_tokens": 1,
    "tool_calls": 0,
    "tool_call_tokens": 1,
    "tool_result_tokens": 1,
    "thinking_tokens": 0,
    "leave_at_tokens": 1,
}
"""Whole numbers, and the least each may be; a draw is rounded and raised to it."""

_SPANS: Final = (
    "typing_s",
    "read_think_s",
    "stop_after_s",
    "close_after_s",
    "leave_after_s",
    "open_loop_answer_s",
    "tool_delay_s",
)
_OPTIONAL: Final = ("typing_s", "stop_after_s", "close_after_s", "leave_after_s", "leave_at_tokens", "open_loop_answer_s")


@dataclass(frozen=True, kw_only=True)
class TypingSessions:
    """People who open a document, type questions about it, read the answers, and leave. Counts and spans: number or distribution.

    *Who comes*: ``users`` people at independent uniform instants within ``arrive_within_s`` (None: the scenario's duration; 0:
    all at zero), or a Poisson stream of ``arrivals_per_s``; ``day_and_week`` moves either by the hour. Dealt in turn to
    ``organisations``, which share nothing.

    *What they send*: tools, system prompt, document, history, question. ``documents`` None: each person has their own document;
    n: one of n shared ones, of popularity rank^-``zipf``. A document is text and ``document_images`` images of ``image_tokens``
    each, all of them segments. ``question_joins``, ``answer_joins``: they are part of the next prompt.

    *How they type*: ``typist`` simulates it; ``typing_s`` instead gives the span from open to submit, at a constant pace.
    ``p_send`` is the probability that a draft is sent; otherwise it is left at a uniform point of its typing. Of first messages
    the share ``paste_share`` begins with ``pasted_tokens`` of pasted text (simulated typing only). A draft is also left when it
    takes longer than ``leave_after_s`` or grows to ``leave_at_tokens`` (None: never).

    *What the model does*: ``tool_calls`` per question, each ``tool_call_tokens`` of output; ``tool_delay_s`` later its result of
    ``tool_result_tokens`` goes in by itself; in the end the answer. ``thinking_tokens`` before every output are billed and delay
    what the user sees; without ``thinking_joins`` later prompts lack them.

    *What follows*: ``read_think_s`` after the answer, then the next question (closed loop: a slow answer delays it; with
    ``open_loop_answer_s`` it comes as if each answer took that long). ``stop_after_s`` from submit the user presses stop,
    ``close_after_s`` closes the tab (None: patience without end).

    Where the defaults come from: ``questions`` mean 3.51 per conversation (ShareGPT: 94,145 conversations, 330,239 turns, arXiv
    2512.17843). ``question_tokens`` log-normal with sigma 1.09 and 77 characters at the median (ShareGPT user messages up to
    1,000 characters, 4 characters a token); the 7 % longer ones are taken for pastes, about 2,400 characters at the median.
    ``output_tokens`` mean 343 (Mooncake conversation trace, 2024; the log-normal is ours). ``read_think_s`` is fitted so that
    follow-ups, with the typing here and 40 tokens/s of generation, come start to start as in that trace: p5 30, p25 69,
    p50 126, p75 273, p90 483 s, each met within 15 %. No public figure exists for chat drafts that are never sent: ``p_send`` 1
    is the neutral choice. Document, system and tool sizes are assumptions; set your own.

    >>> people = list(TypingSessions(users=3, document_tokens=8_000).people(seed=1, duration_s=3600))
    >>> len(people), people[0].turns[0].shared
    (3, (Segment(key='system', tokens=500), Segment(key='document/u0', tokens=8000)))
    """

    users: int | None = None
    arrivals_per_s: float | None = None
    arrive_within_s: float | None = None
    organisations: int | None = None
    day_and_week: DayAndWeek | None = None

    document_tokens: Numbers = 8_000
    documents: int | None = None
    zipf: float = 1.0
    system_tokens: Numbers = 500
    tools_tokens: Numbers = 0
    document_images: Numbers = 0
    image_tokens: Numbers = 1_500

    questions: Numbers = Geometric(mean=3.51)
    question_tokens: Numbers = LogNormal(median=19.4, sigma=1.09)
    output_tokens: Numbers = LogNormal.of_mean(343, 0.6)
    question_joins: bool = True
    answer_joins: bool = True
    tool_calls: Numbers = 0
    tool_delay_s: Numbers = LogNormal(median=8, sigma=1.23)
    tool_call_tokens: Numbers = LogNormal(median=208, sigma=0.9)
    tool_result_tokens: Numbers = LogNormal(median=340, sigma=1.8)
    thinking_tokens: Numbers = 0
    thinking_joins: bool = False

    typist: Typist = Typist()
    typing_s: Numbers | None = None
    paste_share: float = 0.07
    pasted_tokens: Numbers = LogNormal(median=600, sigma=1.1)
    p_send: Numbers = 1.0
    leave_after_s: Numbers | None = None
    leave_at_tokens: Numbers | None = None

    read_think_s: Numbers = LogNormal(median=70, sigma=1.4)
    stop_after_s: Numbers | None = None
    close_after_s: Numbers | None = None
    open_loop_answer_s: Numbers | None = None

    def __post_init__(self) -> None:
        if (self.users is None) == (self.arrivals_per_s is None):
            raise InputError("users", self.users, "or else arrivals_per_s must be given, and only one of them")
        if self.users is not None:
            require_count("users", self.users)
        if self.arrivals_per_s is not None:
            require_number("arrivals_per_s", self.arrivals_per_s, above=0)
            require(self.arrive_within_s is None, "arrive_within_s", self.arrive_within_s, "goes with users, not arrivals_per_s")
        if self.arrive_within_s is not None:
            require_number("arrive_within_s", self.arrive_within_s, at_least=0)
        for name in ("organisations", "documents"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name))
        require_number("zipf", self.zipf, at_least=0)
        require_number("paste_share", self.paste_share, at_least=0, at_most=1)
        distribution("p_send", self.p_send, at_least=0, at_most=1)
        for name, at_least in _COUNTS.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            distribution(name, value, at_least=at_least if isinstance(value, (int, float)) else 0)
            require(not isinstance(value, float) or value.is_integer(), name, value, "must be a whole number, or a distribution")
        for name in _SPANS:
            if getattr(self, name) is not None or name not in _OPTIONAL:
                distribution(name, getattr(self, name), at_least=0)

    @property
    def not_stationary(self) -> str | None:
        """A crowd that comes and goes is not, nor is one that follows the hour."""
        if self.day_and_week is not None:
            return "day_and_week moves the rate by the hour, so that a mean over the rest of the run is the mean of those hours"
        if self.arrivals_per_s is None:
            return "users is a number of people who come once and leave; arrivals_per_s is a stream of them"
        return None

    def people(self, seed: int, duration_s: float) -> Iterator[Person]:
        """Everybody who arrives before ``duration_s``, in order of arrival.

        Every draw has a stream of its own, keyed by concern and person: changing one thing leaves all others as they are.

        >>> crowd = TypingSessions(arrivals_per_s=0.1)
        >>> list(crowd.people(1, 60.0)) == list(crowd.people(1, 120.0))[: len(list(crowd.people(1, 60.0)))]
        True
        """
        tools = Segment("tools", self._counts("tools_tokens", seed)[0])
        system = Segment("system", self._counts("system_tokens", seed)[0])
        library = None if self.documents is None else [self._document(seed, rank, f"{rank}") for rank in range(self.documents)]
        for number, arrives_at_s in enumerate(self._arrivals(seed, duration_s)):
            if library is None:
                document = self._document(seed, number, f"u{number}")
            else:
                popularity = Zipf(n=len(library), exponent=self.zipf)
                document = library[int(popularity.draw(stream(seed, "document", number), 1)[0])]
            shared = tuple(segment for segment in (tools, system, *document) if segment.tokens)
            yield self._person(seed, number, arrives_at_s, shared)

    def _document(self, seed: int, number: int, name: str) -> Prompt:
        """The text of one document, then its images."""
        text = Segment(f"document/{name}", self._counts("document_tokens", seed, number)[0])
        images = self._counts("document_images", seed, number)[0]
        sizes = self._counts("image_tokens", seed, number, images) if images else []
        return (text, *(Segment(f"document/{name}/image{i}", tokens) for i, tokens in enumerate(sizes)))

    def _arrivals(self, seed: int, duration_s: float) -> Iterator[float]:
        if self.arrivals_per_s is not None:
            require(duration_s < math.inf, "duration_s", duration_s, "must be given where people arrive at a rate")
            yield from poisson_instants(seed, self.arrivals_per_s, duration_s, self.day_and_week)
            return
        assert self.users is not None
        window_s = duration_s if self.arrive_within_s is None else self.arrive_within_s
        way_out = "Or give arrive_within_s."
        require(window_s < math.inf, "duration_s", duration_s, "must be given where people arrive over it", way_out)
        for at_s in spread_instants(seed, self.users, window_s, self.day_and_week):
            if at_s < duration_s:
                yield at_s

    def _draws(self, name: str, seed: int, number: int = 0, n: int = 1, turn: int = 0) -> NDArray[np.float64]:
        law = distribution(name, getattr(self, name))
        return law.draw(stream(seed, name, number, turn), n) if not isinstance(law, Fixed) else np.full(n, law.mean)

    def _counts(self, name: str, seed: int, number: int = 0, n: int = 1, turn: int = 0) -> list[int]:
        return whole(self._draws(name, seed, number, n, turn), at_least=_COUNTS[name])

    def _person(self, seed: int, number: int, arrives_at_s: float, shared: Prompt) -> Person:
        user = f"u{number}"
        questions = self._counts("questions", seed, number)[0]

        def patience(name: str) -> list[float | None]:
            return [None] * questions if getattr(self, name) is None else self._draws(name, seed, number, questions).tolist()

        typings = self._typings(seed, number, self._counts("question_tokens", seed, number, questions))
        outputs = self._counts("output_tokens", seed, number, questions)
        gaps = self._draws("read_think_s", seed, number, questions).tolist()
        calls = self._counts("tool_calls", seed, number, questions)
        stops, closes = patience("stop_after_s"), patience("close_after_s")
        turns: list[Turn] = []

        def turn(typing: Typing, output_tokens: int, **more: Any) -> Turn:
            index = len(turns)
            return Turn(
                session=user,
                index=index,
                typing=typing,
                shared=shared,
                output=Segment(f"{user}/t{index}/answer", output_tokens),
                question_joins=self.question_joins,
                answer_joins=self.answer_joins,
                thinking_joins=self.thinking_joins,
                **more,
            )

        for q in range(questions):
            asked = {"stop_after_s": stops[q], "close_after_s": closes[q]}
            if not calls[q] or typings[q].submit_at_s is None:
                turns.append(turn(typings[q], outputs[q], gap_s=gaps[q], **asked))
                continue
            outs = self._counts("tool_call_tokens", seed, number, calls[q], turn=q)
            delays = self._draws("tool_delay_s", seed, number, calls[q], turn=q).tolist()
            results = self._counts("tool_result_tokens", seed, number, calls[q], turn=q)
            turns.append(turn(typings[q], outs[0], **asked))
            for i, (delay_s, tokens) in enumerate(zip(delays, results, strict=True), start=1):
                last = i == calls[q]
                output_tokens = outputs[q] if last else outs[i]
                turns.append(turn(delivered(delay_s, tokens), output_tokens, gap_s=gaps[q] if last else 0.0, typed=False))
        if self.thinking_tokens != 0:
            thought = self._counts("thinking_tokens", seed, number, len(turns))
            turns = [replace(turn, thinking_tokens=tokens) for turn, tokens in zip(turns, thought, strict=True)]
        return Person(
            user=user,
            arrives_at_s=arrives_at_s,
            organisation=None if self.organisations is None else f"org{number % self.organisations}",
            turns=tuple(turns),
            opens_at_s=None if self.open_loop_answer_s is None else self._opens_at_s(seed, number, arrives_at_s, turns),
        )

    def _opens_at_s(self, seed: int, number: int, arrives_at_s: float, turns: list[Turn]) -> tuple[float, ...]:
        answers_s = self._draws("open_loop_answer_s", seed, number, len(turns)).tolist()
        spans_s = [
            turn.typing.end_at_s + turn.gap_s + (0.0 if turn.typing.submit_at_s is None else answer_s)
            for turn, answer_s in zip(turns, answers_s, strict=True)
        ]
        return tuple((arrives_at_s + np.concatenate(([0.0], np.cumsum(spans_s[:-1])))).tolist())

    def _typings(self, seed: int, number: int, question_tokens: list[int]) -> list[Typing]:
        """One typing per question, cut short where patience or the draft's length says so."""
        typings = self._typed(seed, number, question_tokens)
        if self.leave_after_s is not None:
            spans_s = self._draws("leave_after_s", seed, number, len(typings)).tolist()
            typings = [typing.left(span_s) for typing, span_s in zip(typings, spans_s, strict=True)]
        if self.leave_at_tokens is not None:
            most = self._counts("leave_at_tokens", seed, number, len(typings))
            reached_s = [typing.reaches_tokens_at_s(tokens) for typing, tokens in zip(typings, most, strict=True)]
            typings = [typing if t_s is None else typing.left(t_s) for typing, t_s in zip(typings, reached_s, strict=True)]
        return typings

    def _typed(self, seed: int, number: int, question_tokens: list[int]) -> list[Typing]:
        """One typing per turn. Whether it is sent is drawn apart from how, so that P(send) changes no key."""
        turns = len(question_tokens)
        p_send = float(self._draws("p_send", seed, number)[0])
        fates = stream(seed, "sent", number).random((turns, 2))
        shares = [1.0 if luck < p_send else share for luck, share in fates.tolist()]
        if self.typing_s is not None:
            spans = self._draws("typing_s", seed, number, turns).tolist()
            return [evenly(span, tokens, share=share) for span, tokens, share in zip(spans, question_tokens, shares, strict=True)]
        person_key_s = self.typist.person(stream(seed, "person_key_s", number))
        pastes = stream(seed, "paste", number).random() < self.paste_share
        pasted_tokens = self._counts("pasted_tokens", seed, number)[0] if pastes else 0
        return [
            self.typist.type(
                stream(seed, "typing", number, index),
                tokens=question_tokens[index],
                person_key_s=person_key_s,
                pasted_tokens=0 if index else pasted_tokens,
                share=shares[index],
            )
            for index in range(turns)
        ]
