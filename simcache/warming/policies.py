"""Warming policies: at which moments of a draft a request goes out ahead, so that the prefix is there at submit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..errors import require_count, require_number
from ..workload.typist import Typing


class WarmUp(NamedTuple):
    """One warm-up: ``at_s`` seconds after open (or, of those planned after an answer, after the answer's end).

    It covers everything before the question, and with ``draft`` the draft so far. ``supersedes``: it cancels this turn's earlier
    warm-ups that still run. ``kind`` "keepalive": a ping, sent whatever was sent before; no question waits for it.

    >>> WarmUp(0.0).draft
    False
    """

    at_s: float
    draft: bool = False
    supersedes: bool = True
    kind: Literal["warm", "keepalive"] = "warm"


class Coming(NamedTuple):
    """A turn that is still to come: ``after_s`` from now to its opening (its own answers not yet waited for), and its typing.

    >>> Coming(after_s=60.0, typing=None).after_s
    60.0
    """

    after_s: float
    typing: Typing | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What a policy is asked about: a turn that opens (``typing`` given), or an answer that has just ended (``typing`` None).

    ``prefix_tokens`` stand before the (next) question. ``since_sent_s``: seconds since the session's last request over that
    prefix was sent, from which providers count lifetimes; None: there was none. ``warm_s()`` estimates what computing the whole
    prefix takes on an idle backend, ``warm_after_s(tokens)`` with so many tokens of it cached, of which ``hit_tokens()`` are now.
    ``future`` is for oracles only: the turns that follow, until one is sent.

    >>> Moment(user="u", session="s", prefix_tokens=8_000, warm_s=lambda: 2.0).since_sent_s
    """

    user: str
    session: str
    prefix_tokens: int
    warm_s: Callable[[], float]
    now_s: float = 0.0
    typing: Typing | None = None
    since_sent_s: float | None = None
    warm_after_s: Callable[[int], float] | None = None
    hit_tokens: Callable[[], int] | None = None
    future: tuple[Coming, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A warm-up about to be sent: how long its prompt is, and how much of it is in the cache already (an estimate).

    ``replaces``: how many that are still under way it cancels.

    >>> Ask(now_s=1.0, kind="warm", prompt_tokens=8_000, hit_tokens=lambda: 0).hit_tokens()
    0
    """

    now_s: float
    kind: str
    prompt_tokens: int
    hit_tokens: Callable[[], int]
    replaces: int = 0


@dataclass(frozen=True, kw_only=True)
class WarmingPolicy:
    """Base of every policy, and of your own: a frozen class with one pure method, :meth:`warm_ups`.

    A warm-up asks for ``warm_output_tokens`` (None: the least that the backend allows: 0 or 16 at providers that say so, else 1)
    at ``priority`` (smaller is more urgent; users have 0). ``cancel_on_abandon``: leaving the draft, or giving up the question,
    cancels warm-ups that still run. A policy that learns or counts keeps that in the :class:`Warmer` that :meth:`fresh` makes.

    >>> class WarmAtOneSecond(WarmingPolicy):
    ...     def warm_ups(self, typing, prefix_tokens):
    ...         return [WarmUp(1.0)]
    >>> WarmAtOneSecond().priority
    0
    """

    warm_output_tokens: int | None = None
    priority: int = 0
    cancel_on_abandon: bool = True

    def __post_init__(self) -> None:
        if self.warm_output_tokens is not None:
            require_count("warm_output_tokens", self.warm_output_tokens, at_least=0)
        require_count("priority", self.priority, at_least=-(2**31))

    def warm_ups(self, typing: Typing, prefix_tokens: int) -> Sequence[WarmUp]:
        """The warm-ups of one turn, in order of time. ``prefix_tokens`` stand before the question.

        A policy may use the typing's triggers (open at 0, ``focus_at_s``, ``first_key_at_s``, ``pauses_at_s``,
        ``every_tokens_at_s``) and ``draft_tokens(t)`` for a warm-up at t or later. It must not look ahead: whether and when the
        question is sent (``submit_at_s``, ``left_at_s``, ``end_at_s``) only an oracle knows. What falls on the end of the
        turn or after it is never sent, so a policy need not know the end.
        """
        raise NotImplementedError(f"{type(self).__name__} must define warm_ups(typing, prefix_tokens)")

    def after_answer(self, moment: Moment) -> Sequence[WarmUp]:
        """The warm-ups and pings between an answer and the next question; what falls on that question or later is never sent."""
        return ()

    def fresh(self) -> Warmer:
        """This policy's state for one run."""
        return Warmer(self)

    def notes(self, lifetime_s: float | None) -> list[str]:
        """What a result should say about this policy where cache entries live for ``lifetime_s`` (None: until evicted)."""
        return []


class Warmer:
    """A policy inside one run: asked by every client of the run, so what it remembers is shared. This one remembers nothing.

    >>> Warmer(NoWarming()).after_answer(Moment(user="u", session="s", prefix_tokens=9, warm_s=lambda: 0.0))
    ()
    """

    def __init__(self, policy: WarmingPolicy) -> None:
        self.policy = policy

    def on_open(self, moment: Moment) -> Sequence[WarmUp]:
        """The warm-ups of the turn that opens now."""
        assert moment.typing is not None
        return self.policy.warm_ups(moment.typing, moment.prefix_tokens)

    def after_answer(self, moment: Moment) -> Sequence[WarmUp]:
        """The warm-ups and pings planned at the end of an answer."""
        return self.policy.after_answer(moment)

    def admits(self, ask: Ask) -> bool:
        """Whether this warm-up may be sent now; asked right before it would be. What was admitted may still not be sent."""
        return True

    def sent(self, ask: Ask) -> None:
        """A warm-up that was admitted is sent now."""

    def settled(self, ask: Ask) -> None:
        """A warm-up that was sent has ended, whatever became of it."""

    def turn_ended(self, moment: Moment) -> None:
        """The turn of ``moment.typing`` was sent or left."""


@dataclass(frozen=True, kw_only=True)
class NoWarming(WarmingPolicy):
    """Never warm: the baseline.

    >>> from ..workload.typist import evenly
    >>> NoWarming().warm_ups(evenly(3.0, 22), 8000)
    ()
    """

    def warm_ups(self, typing: Typing, prefix_tokens: int) -> Sequence[WarmUp]:
        """None."""
        return ()


@dataclass(frozen=True, kw_only=True)
class WarmOnOpen(WarmingPolicy):
    """Warm as soon as the page or the conversation is open.

    >>> from ..workload.typist import evenly
    >>> WarmOnOpen().warm_ups(evenly(3.0, 22), 8000)
    (WarmUp(at_s=0.0, draft=False, supersedes=True, kind='warm'),)
    """

    def warm_ups(self, typing: Typing, prefix_tokens: int) -> Sequence[WarmUp]:
        """One, at open."""
        return (WarmUp(0.0),)


@dataclass(frozen=True, kw_only=True)
class WarmOnFocus(WarmingPolicy):
    """Warm when the input field gets focus.

    >>> from ..workload.typist import evenly
    >>> WarmOnFocus().warm_ups(evenly(3.0, 22, focus_at_s=0.0), 8000)[0].at_s
    0.0
    """

    def warm_ups(self, typing: Typing, prefix_tokens: int) -> Sequence[WarmUp]:
        """One, at focus."""
        return (WarmUp(typing.focus_at_s),)


@dataclass(frozen=True, kw_only=True)
class WarmOnFirstKey(WarmingPolicy):
    """Warm when typing starts.

    >>> from ..workload.typist import evenly
    >>> WarmOnFirstKey().warm_ups(evenly(3.0, 22), 8000)[0].at_s
    0.0
    """

    def warm_ups(self, typing: Typing, prefix_tokens: int) -> Sequence[WarmUp]:
        """One, at the first key; none where it never came."""
        return () if typing.first_key_at_s is None else (WarmUp(typing.first_key_at_s),)


@dataclass(frozen=True, kw_only=True)
class WarmAfterPause(WarmingPolicy):
    """Warm whenever nothing was typed for ``pause_s`` seconds (debounce); the draft is part of it only ``with_draft``.

    Without the draft every pause of a turn asks for the same prefix, and only the first is sent.

    >>> from ..workload.typist import evenly
    >>> [warm_up.at_s for warm_up in WarmAfterPause(pause_s=0.5).warm_ups(evenly(3.0, 3), 8000)]
    [0.5, 1.5, 2.5]
    """

    pause_s: float = 1.0
    with_draft: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("pause_s", self.pause_s, above=0)

    def warm_ups(self, typing: Typing, prefix_tokens: int) -> Sequence[WarmUp]:
        """One per pause."""
        return tuple(WarmUp(at_s, draft=self.with_draft) for at_s in typing.pauses_at_s(self.pause_s).tolist())


@dataclass(frozen=True, kw_only=True)
class WarmEveryTokens(WarmingPolicy):
    """Warm, draft included, each time ``tokens`` more tokens have been typed; the next one cancels the last.

    >>> from ..workload.typist import evenly
    >>> [warm_up.at_s for warm_up in WarmEveryTokens(tokens=2).warm_ups(evenly(4.0, 4), 8000)]
    [1.0, 3.0]
    """

    tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("tokens", self.tokens)

    def warm_ups(self, typing: Typing, prefix_tokens: int) -> Sequence[WarmUp]:
        """One per ``tokens`` typed."""
        return tuple(WarmUp(at_s, draft=True) for at_s in typing.every_tokens_at_s(self.tokens).tolist())


@dataclass(frozen=True, kw_only=True)
class WarmAfterAnswer(WarmingPolicy):
    """Prefill question and answer into the cache ``delay_s`` after the answer's end, before the next turn opens.

    Where the provider stores a request only up to its breakpoint, or the thinking was dropped, the next prompt's tail is not
    cached by the answer itself.

    >>> moment = Moment(user="u", session="s", prefix_tokens=8_000, warm_s=lambda: 2.0)
    >>> WarmAfterAnswer(delay_s=1.0).after_answer(moment)[0].at_s
    1.0
    """

    delay_s: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("delay_s", self.delay_s, at_least=0)

    def warm_ups(self, typing: Typing, prefix_tokens: int) -> Sequence[WarmUp]:
        """None: by the time a turn opens it is done."""
        return ()

    def after_answer(self, moment: Moment) -> Sequence[WarmUp]:
        """One."""
        return (WarmUp(self.delay_s),)
