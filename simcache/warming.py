"""Warming policies: at which moments of a draft a request goes out ahead, so that the prefix is there at submit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .errors import require_count, require_number
from .workload.typist import Typing


class WarmUp(NamedTuple):
    """One warm-up: ``at_s`` seconds after open, over everything before the question, and with ``draft`` over the draft so far.

    ``supersedes``: it cancels this turn's earlier warm-ups that still run.

    >>> WarmUp(0.0).draft
    False
    """

    at_s: float
    draft: bool = False
    supersedes: bool = True


@dataclass(frozen=True, kw_only=True)
class WarmingPolicy:
    """Base of every policy, and of your own: a frozen class with one pure method, :meth:`warm_ups`.

    A warm-up asks for ``warm_output_tokens`` (1: the least most providers allow) at ``priority`` (smaller is more urgent; users
    have 0). ``cancel_on_abandon``: leaving the draft, or giving up the question, cancels warm-ups that still run.

    >>> class WarmAtOneSecond(WarmingPolicy):
    ...     def warm_ups(self, typing, prefix_tokens):
    ...         return [WarmUp(1.0)]
    >>> WarmAtOneSecond().warm_output_tokens
    1
    """

    warm_output_tokens: int = 1
    priority: int = 0
    cancel_on_abandon: bool = True

    def __post_init__(self) -> None:
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


@dataclass(frozen=True, kw_only=True)
class NoWarming(WarmingPolicy):
    """Never warm: the baseline.

    >>> from .workload.typist import evenly
    >>> NoWarming().warm_ups(evenly(3.0, 22), 8000)
    ()
    """

    def warm_ups(self, typing: Typing, prefix_tokens: int) -> Sequence[WarmUp]:
        """None."""
        return ()


@dataclass(frozen=True, kw_only=True)
class WarmOnOpen(WarmingPolicy):
    """Warm as soon as the page or the conversation is open.

    >>> from .workload.typist import evenly
    >>> WarmOnOpen().warm_ups(evenly(3.0, 22), 8000)
    (WarmUp(at_s=0.0, draft=False, supersedes=True),)
    """

    def warm_ups(self, typing: Typing, prefix_tokens: int) -> Sequence[WarmUp]:
        """One, at open."""
        return (WarmUp(0.0),)


@dataclass(frozen=True, kw_only=True)
class WarmOnFocus(WarmingPolicy):
    """Warm when the input field gets focus.

    >>> from .workload.typist import evenly
    >>> WarmOnFocus().warm_ups(evenly(3.0, 22, focus_at_s=0.0), 8000)[0].at_s
    0.0
    """

    def warm_ups(self, typing: Typing, prefix_tokens: int) -> Sequence[WarmUp]:
        """One, at focus."""
        return (WarmUp(typing.focus_at_s),)


@dataclass(frozen=True, kw_only=True)
class WarmOnFirstKey(WarmingPolicy):
    """Warm when typing starts.

    >>> from .workload.typist import evenly
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

    >>> from .workload.typist import evenly
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

    >>> from .workload.typist import evenly
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
