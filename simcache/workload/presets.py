"""Populations ready to use: people who type questions about documents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, require, require_count, require_number
from ..prompt import Prompt, Segment
from ..streams import stream
from .distributions import Fixed, Geometric, LogNormal, Numbers, Zipf, distribution, whole
from .sessions import Person, Turn
from .typist import Typing, Typist, evenly

_COUNTS: Final = {
    "document_tokens": 0,
    "system_tokens": 0,
    "tools_tokens": 0,
    "questions": 1,
    "question_tokens": 1,
    "pasted_tokens": 0,
    "output_tokens": 1,
}
"""Whole numbers, and the least each may be; a draw is rounded and raised to it."""

_SPANS: Final = ("typing_s", "read_think_s", "stop_after_s", "close_after_s")


@dataclass(frozen=True, kw_only=True)
class TypingSessions:
    """People who open a document, type questions about it, read the answers, and leave. Counts and spans: number or distribution.

    *Who comes*: ``users`` people at independent uniform instants within ``arrive_within_s`` (None: the scenario's duration; 0:
    all at zero), or a Poisson stream of ``arrivals_per_s``. Dealt in turn to ``organisations``, which share nothing.

    *What they send*: tools, system prompt, document, history, question. ``documents`` None: each person has their own document;
    n: one of n shared ones, of popularity rank^-``zipf``. ``answer_joins``: the answer is part of the next prompt.

    *How they type*: ``typist`` simulates it; ``typing_s`` instead gives the span from open to submit, at a constant pace.
    ``p_send`` is the probability that a draft is sent; otherwise it is left at a uniform point of its typing. Of first messages
    the share ``paste_share`` begins with ``pasted_tokens`` of pasted text (simulated typing only).

    *What follows*: ``read_think_s`` after the answer, then the next question. ``stop_after_s`` from submit the user presses stop,
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

    document_tokens: Numbers = 8_000
    documents: int | None = None
    zipf: float = 1.0
    system_tokens: Numbers = 500
    tools_tokens: Numbers = 0

    questions: Numbers = Geometric(mean=3.51)
    question_tokens: Numbers = LogNormal(median=19.4, sigma=1.09)
    output_tokens: Numbers = LogNormal.of_mean(343, 0.6)
    answer_joins: bool = True

    typist: Typist = Typist()
    typing_s: Numbers | None = None
    paste_share: float = 0.07
    pasted_tokens: Numbers = LogNormal(median=600, sigma=1.1)
    p_send: Numbers = 1.0

    read_think_s: Numbers = LogNormal(median=70, sigma=1.4)
    stop_after_s: Numbers | None = None
    close_after_s: Numbers | None = None

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
            distribution(name, value, at_least=at_least if isinstance(value, (int, float)) else 0)
            require(not isinstance(value, float) or value.is_integer(), name, value, "must be a whole number, or a distribution")
        for name in _SPANS:
            if getattr(self, name) is not None or name == "read_think_s":
                distribution(name, getattr(self, name), at_least=0)

    def people(self, seed: int, duration_s: float) -> Iterator[Person]:
        """Everybody who arrives before ``duration_s``, in order of arrival.

        Every draw has a stream of its own, keyed by concern and person: changing one thing leaves all others as they are.

        >>> crowd = TypingSessions(arrivals_per_s=0.1)
        >>> list(crowd.people(1, 60.0)) == list(crowd.people(1, 120.0))[: len(list(crowd.people(1, 60.0)))]
        True
        """
        tools = Segment("tools", self._counts("tools_tokens", seed)[0])
        system = Segment("system", self._counts("system_tokens", seed)[0])
        library = None
        if self.documents is not None:
            sizes = self._counts("document_tokens", seed, n=self.documents)
            library = [Segment(f"document/{rank}", tokens) for rank, tokens in enumerate(sizes)]
        for number, arrives_at_s in enumerate(self._arrivals(seed, duration_s)):
            if library is None:
                document = Segment(f"document/u{number}", self._counts("document_tokens", seed, number)[0])
            else:
                popularity = Zipf(n=len(library), exponent=self.zipf)
                document = library[int(popularity.draw(stream(seed, "document", number), 1)[0])]
            shared = tuple(segment for segment in (tools, system, document) if segment.tokens)
            yield self._person(seed, number, arrives_at_s, shared)

    def _arrivals(self, seed: int, duration_s: float) -> Iterator[float]:
        rng = stream(seed, "arrivals")
        if self.arrivals_per_s is not None:
            require(duration_s < math.inf, "duration_s", duration_s, "must be given where people arrive at a rate")
            at_s = rng.exponential(1 / self.arrivals_per_s)
            while at_s < duration_s:
                yield at_s
                at_s += rng.exponential(1 / self.arrivals_per_s)
            return
        assert self.users is not None
        window_s = duration_s if self.arrive_within_s is None else self.arrive_within_s
        way_out = "Or give arrive_within_s."
        require(window_s < math.inf, "duration_s", duration_s, "must be given where people arrive over it", way_out)
        for at_s in np.sort(rng.random(self.users)).tolist():
            if at_s * window_s < duration_s:
                yield at_s * window_s

    def _draws(self, name: str, seed: int, number: int = 0, n: int = 1) -> NDArray[np.float64]:
        law = distribution(name, getattr(self, name))
        return law.draw(stream(seed, name, number), n) if not isinstance(law, Fixed) else np.full(n, law.mean)

    def _counts(self, name: str, seed: int, number: int = 0, n: int = 1) -> list[int]:
        return whole(self._draws(name, seed, number, n), at_least=_COUNTS[name])

    def _person(self, seed: int, number: int, arrives_at_s: float, shared: Prompt) -> Person:
        user = f"u{number}"
        turns = self._counts("questions", seed, number)[0]

        def patience(name: str) -> list[float | None]:
            return [None] * turns if getattr(self, name) is None else self._draws(name, seed, number, turns).tolist()

        typings = self._typings(seed, number, self._counts("question_tokens", seed, number, turns))
        outputs = self._counts("output_tokens", seed, number, turns)
        gaps = self._draws("read_think_s", seed, number, turns).tolist()
        stops, closes = patience("stop_after_s"), patience("close_after_s")
        return Person(
            user=user,
            arrives_at_s=arrives_at_s,
            organisation=None if self.organisations is None else f"org{number % self.organisations}",
            turns=tuple(
                Turn(
                    session=user,
                    index=index,
                    typing=typings[index],
                    shared=shared,
                    output=Segment(f"{user}/t{index}/answer", outputs[index]),
                    gap_s=gaps[index],
                    answer_joins=self.answer_joins,
                    stop_after_s=stops[index],
                    close_after_s=closes[index],
                )
                for index in range(turns)
            ),
        )

    def _typings(self, seed: int, number: int, question_tokens: list[int]) -> list[Typing]:
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
