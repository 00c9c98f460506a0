"""One question being typed: when the field is opened, focused, keyed into, edited, submitted or left, and what stands in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import require_count, require_number
from .distributions import LogNormal, Numbers, distribution, whole


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Typing:
    """One question from open (0 s) to submit or leave. Instants in seconds from open.

    ``event_at_s`` (sorted) are the instants at which the draft changes: keys, deletions, a paste; ``draft_chars_after`` is
    what stands in the field after each. The draft's tokens are its whole ``chars_per_token``. ``revisions`` are pairs
    (index of the first event typed after a deletion, tokens that survived it). Exactly one of ``submit_at_s`` and
    ``left_at_s`` is given. Made by :class:`Typist` or :func:`evenly`.

    >>> evenly(3.0, 22).draft_tokens(1.5)
    12
    """

    focus_at_s: float
    event_at_s: NDArray[np.float64]
    draft_chars_after: NDArray[np.int64]
    chars_per_token: int = 1
    revisions: tuple[tuple[int, int], ...] = ()
    submit_at_s: float | None = None
    left_at_s: float | None = None

    def __post_init__(self) -> None:
        self.event_at_s.setflags(write=False)
        self.draft_chars_after.setflags(write=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Typing) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        arrays = (self.event_at_s.tobytes(), self.draft_chars_after.tobytes())
        return (*arrays, self.focus_at_s, self.chars_per_token, self.revisions, self.submit_at_s, self.left_at_s)

    @property
    def first_key_at_s(self) -> float | None:
        """The first key (or the paste); None: left before it."""
        return float(self.event_at_s[0]) if len(self.event_at_s) else None

    @property
    def end_at_s(self) -> float:
        """Submit, or leaving."""
        end = self.left_at_s if self.submit_at_s is None else self.submit_at_s
        assert end is not None
        return end

    @overload
    def draft_tokens(self, t_s: float) -> int: ...
    @overload
    def draft_tokens(self, t_s: NDArray[np.float64]) -> NDArray[np.int64]: ...
    def draft_tokens(self, t_s: ArrayLike) -> int | NDArray[np.int64]:
        """Whole tokens that stand in the field ``t_s`` seconds after open, an event at ``t_s`` included; an array for an array.

        >>> evenly(2.0, 2).draft_tokens(np.array([-1.0, 0.0, 0.5, 1.0])).tolist()
        [0, 1, 1, 2]
        """
        happened = np.searchsorted(self.event_at_s, t_s, side="right")
        chars = np.concatenate(([0], self.draft_chars_after))[happened]
        tokens = chars // self.chars_per_token
        return int(tokens) if np.ndim(t_s) == 0 else tokens

    def draft_pieces(self, t_s: float) -> tuple[tuple[int, int], ...]:
        """The draft at ``t_s`` as (revision, tokens) pairs, front first: a surviving head keeps the revision it was typed in.

        >>> evenly(2.0, 2).draft_pieces(5.0)
        ((0, 2),)
        """
        tokens = self.draft_tokens(t_s)
        happened = int(np.searchsorted(self.event_at_s, t_s, side="right"))
        heads = [(0, 0)]  # (revision, tokens before it)
        for revision, (event, surviving) in enumerate(self.revisions, start=1):
            if event >= happened:
                break
            while heads and heads[-1][1] >= surviving:
                heads.pop()
            heads.append((revision, surviving))
        ends = [start for _, start in heads[1:]] + [tokens]
        lengths = [(revision, min(end, tokens) - start) for (revision, start), end in zip(heads, ends, strict=True)]
        return tuple((revision, length) for revision, length in lengths if length > 0)

    def pauses_at_s(self, pause_s: float) -> NDArray[np.float64]:
        """Every instant at which nothing was typed for ``pause_s`` seconds (the debounce of a text field), before the end.

        >>> evenly(3.0, 3, focus_at_s=0.0).pauses_at_s(0.5).tolist()
        [0.5, 1.5, 2.5]
        """
        require_number("pause_s", pause_s, above=0)
        at = self.event_at_s
        quiet = at + pause_s
        following = np.append(at[1:], np.inf)
        return quiet[(quiet <= following) & (quiet < self.end_at_s)]

    def every_tokens_at_s(self, tokens: int) -> NDArray[np.float64]:
        """Every instant at which ``tokens`` more tokens have been typed or pasted (deleted ones stay counted), before the end.

        >>> evenly(4.0, 4).every_tokens_at_s(2).tolist()
        [1.0, 3.0]
        """
        require_count("tokens", tokens)
        chars = self.draft_chars_after
        typed = np.cumsum(np.maximum(np.diff(chars, prepend=0), 0)) // (tokens * self.chars_per_token)
        fires = (np.diff(typed, prepend=0) > 0) & (self.event_at_s < self.end_at_s)
        return self.event_at_s[fires]


def evenly(typing_s: float, tokens: int, *, focus_at_s: float = 0.0, share: float = 1.0) -> Typing:
    """A question typed at a constant pace, one token at a time, from open to submit ``typing_s`` later.

    ``share`` < 1: left, unsent, after that share of the time.

    >>> evenly(3.0, 22).submit_at_s
    3.0
    """
    require_number("typing_s", typing_s, at_least=0)
    require_count("tokens", tokens)
    at = typing_s * np.arange(tokens) / tokens
    drafted = np.arange(1, tokens + 1)
    if share >= 1:
        return Typing(focus_at_s=focus_at_s, event_at_s=at, draft_chars_after=drafted, submit_at_s=float(typing_s))
    left_at_s = typing_s * share
    done = int(np.searchsorted(at, left_at_s, side="right"))
    return Typing(focus_at_s=focus_at_s, event_at_s=at[:done], draft_chars_after=drafted[:done], left_at_s=left_at_s)


@dataclass(frozen=True, kw_only=True)
class Typist:
    """How people type a question; every field a number or a distribution (seconds unless the name says otherwise).

    Open, ``focus_s`` until the field has focus, ``think_s`` until the first key, keys, ``review_s`` until submit. A person's
    mean inter-key time is one draw of ``person_key_s``: median 0.216 s, sigma 0.445, the log-normal with the mean 0.2387 s
    and standard deviation 0.1116 s between the 168,000 people of Dhakal et al. (CHI 2018), who copied text. Around it keys
    scatter by ``key_over_mean`` (mean 1; log-normal, nearly as good on free text as the log-logistic that fits best:
    Gonzalez et al., Heliyon 2021, doi 10.1016/j.heliyon.2021.e08413). Composing is slower than copying: at each word border
    (every ``word_keys`` keys), a thinking pause of ``pause_s`` with probability ``pause_share``, and with ``edit_share`` the
    last ``deleted_chars`` characters are deleted, one key each, and typed anew. These shares, and focus, think and review, have no
    public source: they are assumptions with sensible sizes. ``chars_per_token`` 4 is the usual figure for English.

    >>> Typist().type(np.random.default_rng(1), tokens=20, person_key_s=0.2).draft_tokens(1e9)
    20
    """

    person_key_s: Numbers = LogNormal(median=0.2163, sigma=0.445)
    key_over_mean: Numbers = LogNormal.of_mean(1.0, 0.45)
    focus_s: Numbers = LogNormal(median=1.5, sigma=0.6)
    think_s: Numbers = LogNormal(median=2.0, sigma=0.8)
    word_keys: int = 5
    pause_share: float = 0.05
    pause_s: Numbers = LogNormal(median=2.5, sigma=0.8)
    edit_share: float = 0.02
    deleted_chars: Numbers = 8
    review_s: Numbers = LogNormal(median=1.0, sigma=0.6)
    chars_per_token: int = 4

    def __post_init__(self) -> None:
        for name in ("person_key_s", "key_over_mean", "focus_s", "think_s", "pause_s", "deleted_chars", "review_s"):
            distribution(name, getattr(self, name), at_least=0)
        for name in ("pause_share", "edit_share"):
            require_number(name, getattr(self, name), at_least=0, at_most=1)
        require_count("word_keys", self.word_keys)
        require_count("chars_per_token", self.chars_per_token)

    def person(self, rng: np.random.Generator) -> float:
        """One person's mean inter-key time in seconds.

        >>> Typist(person_key_s=0.2).person(np.random.default_rng(1))
        0.2
        """
        return float(distribution("person_key_s", self.person_key_s).draw(rng, 1)[0])

    def type(
        self, rng: np.random.Generator, *, tokens: int, person_key_s: float, pasted_tokens: int = 0, share: float = 1.0
    ) -> Typing:
        """Type ``tokens`` after pasting ``pasted_tokens``; ``share`` < 1: give up, unsent, after that share of the events.

        Equal generators give equal keys whatever ``share`` is.

        >>> Typist(think_s=0, focus_s=0).type(np.random.default_rng(1), tokens=9, person_key_s=0.2).first_key_at_s
        0.0
        """
        focus_s, think_s, review_s = (
            float(distribution(name, getattr(self, name)).draw(rng, 1)[0]) for name in ("focus_s", "think_s", "review_s")
        )
        changes, revisions = self._edited(rng, tokens, pasted_tokens)
        n = len(changes)
        gaps = distribution("key_over_mean", self.key_over_mean).draw(rng, n) * person_key_s
        borders = np.arange(self.word_keys, n, self.word_keys)
        pausing = borders[rng.random(len(borders)) < self.pause_share]
        gaps[pausing] += distribution("pause_s", self.pause_s).draw(rng, len(pausing))
        gaps[:1] = 0.0
        at = focus_s + think_s + np.cumsum(gaps)
        drafted = np.cumsum(changes)
        if share >= 1:
            end = float(at[-1]) + review_s
            return Typing(
                focus_at_s=focus_s,
                event_at_s=at,
                draft_chars_after=drafted,
                chars_per_token=self.chars_per_token,
                revisions=revisions,
                submit_at_s=end,
            )
        done = int(share * (n + 1))
        return Typing(
            focus_at_s=focus_s,
            event_at_s=at[:done],
            draft_chars_after=drafted[:done],
            chars_per_token=self.chars_per_token,
            revisions=tuple((event, surviving) for event, surviving in revisions if event < done),
            left_at_s=(float(at[done - 1]) if done else focus_s + think_s) + review_s,
        )

    def _edited(
        self, rng: np.random.Generator, tokens: int, pasted_tokens: int
    ) -> tuple[NDArray[np.int64], tuple[tuple[int, int], ...]]:
        """Characters that each event adds or takes away, and the revisions that deletions begin."""
        paste = pasted_tokens * self.chars_per_token
        chars = tokens * self.chars_per_token
        borders = np.arange(self.word_keys, chars + 1, self.word_keys)
        edited = borders[rng.random(len(borders)) < self.edit_share]
        runs: list[NDArray[np.int64]] = [np.array([paste], dtype=np.int64)] if paste else []
        revisions: list[tuple[int, int]] = []
        events, typed = len(runs), 0
        deleted = whole(distribution("deleted_chars", self.deleted_chars).draw(rng, len(edited)), at_least=1)
        for border, want in zip(edited.tolist(), deleted, strict=True):
            cut = min(want, border)
            runs += [np.ones(border - typed, np.int64), np.full(cut, -1, np.int64), np.ones(cut, np.int64)]
            surviving = (paste + border - cut) // self.chars_per_token
            if surviving < (paste + border) // self.chars_per_token:  # else no whole token was touched
                revisions.append((events + border - typed + cut, surviving))
            events += border - typed + 2 * cut
            typed = border
        runs.append(np.ones(chars - typed, np.int64))
        return np.concatenate(runs), tuple(revisions)
