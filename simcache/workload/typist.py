"""One question being typed: when the field is opened, focused, keyed into, edited, submitted or left, and what stands in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import require_count, require_number
from .distributions import Geometric, LogNormal, Numbers, distribution, whole


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Typing:
    """One question from open (0 s) to submit or leave. Instants in seconds from open.

    ``event_at_s`` (sorted) are the instants at which the draft changes: keys, deletions, a paste; ``draft_chars_after`` is
    what stands in the field after each. The draft's tokens are its whole ``chars_per_token``. ``revisions`` are pairs
    (index of the first event typed after a deletion, tokens that survived it). Exactly one of ``submit_at_s`` and
    ``left_at_s`` is given. ``first_key_s``: the first key where it comes before the first change (an input method holds text
    back); None: they are one. Made by :class:`Typist`, :func:`evenly` or :func:`delivered`.

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
    first_key_s: float | None = None

    def __post_init__(self) -> None:
        self.event_at_s.setflags(write=False)
        self.draft_chars_after.setflags(write=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Typing) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        arrays = (self.event_at_s.tobytes(), self.draft_chars_after.tobytes())
        return (*arrays, self.focus_at_s, self.chars_per_token, self.revisions, self.submit_at_s, self.left_at_s, self.first_key_s)

    @property
    def first_key_at_s(self) -> float | None:
        """The first key (or the paste); None: left before it."""
        if self.first_key_s is not None:
            return self.first_key_s
        return float(self.event_at_s[0]) if len(self.event_at_s) else None

    @property
    def end_at_s(self) -> float:
        """Submit, or leaving."""
        end = self.left_at_s if self.submit_at_s is None else self.submit_at_s
        assert end is not None
        return end

    def left(self, at_s: float) -> Typing:
        """The same person giving up at ``at_s``, unless the end comes first: what would have followed never happens.

        >>> evenly(4.0, 4).left(1.5).draft_tokens(9.0)
        2
        """
        require_number("at_s", at_s, at_least=0)
        if at_s >= self.end_at_s:
            return self
        done = int(np.searchsorted(self.event_at_s, at_s, side="right"))
        pressed = self.first_key_s is not None and self.first_key_s <= at_s
        return replace(
            self,
            event_at_s=self.event_at_s[:done],
            draft_chars_after=self.draft_chars_after[:done],
            revisions=tuple((event, surviving) for event, surviving in self.revisions if event < done),
            submit_at_s=None,
            left_at_s=float(at_s),
            first_key_s=self.first_key_s if pressed else None,
        )

    def reaches_tokens_at_s(self, tokens: int) -> float | None:
        """The first instant at which at least ``tokens`` tokens stand in the field; None: never.

        >>> evenly(4.0, 4).reaches_tokens_at_s(3)
        2.0
        """
        there = np.flatnonzero(self.draft_chars_after >= tokens * self.chars_per_token)
        return float(self.event_at_s[there[0]]) if len(there) else None

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


def delivered(after_s: float, tokens: int) -> Typing:
    """What no human types: ``tokens`` that a tool returns ``after_s`` seconds after its call, and sends on at once.

    Nothing is opened, focused or keyed before it is there, so no warm-up of a draft can run ahead of it.

    >>> delivered(8.0, 300).draft_tokens(8.0)
    300
    """
    require_number("after_s", after_s, at_least=0)
    require_count("tokens", tokens)
    at = float(after_s)
    return Typing(focus_at_s=at, event_at_s=np.array([at]), draft_chars_after=np.array([tokens]), submit_at_s=at)


@dataclass(frozen=True, kw_only=True)
class Typist:
    """How people type a question; every field a number or a distribution (seconds unless the name says otherwise).

    Open, ``focus_s`` until the field has focus, ``think_s`` until the first key, keys, ``review_s`` until submit. A person's
    mean inter-key time is one draw of ``person_key_s``: median 0.216 s, sigma 0.445, the log-normal with the mean 0.2387 s
    and standard deviation 0.1116 s between the 168,000 people of Dhakal et al. (CHI 2018), who copied text. Around it keys
    scatter by ``key_over_mean`` (mean 1; log-normal, nearly as good on free text as the log-logistic that fits best:
    Gonzalez et al., Heliyon 2021, doi 10.1016/j.heliyon.2021.e08413). Composing is slower than copying: at each word border
    (every ``word_keys`` keys), a thinking pause of ``pause_s`` with probability ``pause_share``, and with ``edit_share`` the
    last ``deleted_chars`` characters are deleted, one key each, and typed anew. A sentence border is every ``sentence_words``-th
    word border; there ``sentence_pause_share`` and ``sentence_pause_s`` come on top (pauses are longer before sentences than
    before words, and before words than within them: Roeser et al., Reading and Writing 2021, doi 10.1007/s11145-021-10203-z;
    between-word pauses have two components: doi 10.18413/2313-8912-2024-10-4-0-8). These shares and sizes, and focus, think and
    review, have no public source: they are assumptions. ``chars_per_token`` 4 is the usual figure for English.

    An input method keeps keys back: with ``committed_chars`` (characters per chunk; None: every key shows at once) text reaches
    the field in chunks, each when its last key is pressed, and ``keys_per_char`` keys make one character. Deletions show at once.
    Populations ready to use: :data:`DESKTOP`, :data:`MOBILE`, :data:`INPUT_METHOD`.

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
    sentence_words: int = 12
    sentence_pause_share: float = 0.3
    sentence_pause_s: Numbers = LogNormal(median=3.0, sigma=0.8)
    edit_share: float = 0.02
    deleted_chars: Numbers = 8
    review_s: Numbers = LogNormal(median=1.0, sigma=0.6)
    chars_per_token: int = 4
    committed_chars: Numbers | None = None
    keys_per_char: int = 1

    def __post_init__(self) -> None:
        for name in _SPANS:
            distribution(name, getattr(self, name), at_least=0)
        if self.committed_chars is not None:
            distribution("committed_chars", self.committed_chars, at_least=0)
        for name in ("pause_share", "sentence_pause_share", "edit_share"):
            require_number(name, getattr(self, name), at_least=0, at_most=1)
        for name in ("word_keys", "sentence_words", "chars_per_token", "keys_per_char"):
            require_count(name, getattr(self, name))

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
        gaps = self._gaps(rng, len(changes), person_key_s)
        gaps[0] *= 0 if pasted_tokens else 1 - 1 / self.keys_per_char  # the first key is pressed when thinking ends
        at = focus_s + think_s + np.cumsum(gaps)
        drafted = np.cumsum(changes)
        first_key_s = None
        if self.committed_chars is not None:
            shown = self._shown(rng, changes)
            at, drafted = at[shown], drafted[shown]
            # the keys of the first character come before it shows; a paste shows at once
            first_key_s = focus_s + think_s if not pasted_tokens else None
            revisions = tuple((int(np.searchsorted(shown, event)), surviving) for event, surviving in revisions)
        n = len(at)
        whole_turn = Typing(
            focus_at_s=focus_s,
            event_at_s=at,
            draft_chars_after=drafted,
            chars_per_token=self.chars_per_token,
            revisions=revisions,
            submit_at_s=float(at[-1]) + review_s,
            first_key_s=first_key_s,
        )
        if share >= 1:
            return whole_turn
        done = int(share * (n + 1))
        left_at_s = float(at[done - 1]) if done else focus_s + think_s
        return Typing(
            focus_at_s=focus_s,
            event_at_s=at[:done],
            draft_chars_after=drafted[:done],
            chars_per_token=self.chars_per_token,
            revisions=tuple((event, surviving) for event, surviving in revisions if event < done),
            left_at_s=left_at_s + review_s,
            first_key_s=first_key_s if done else None,
        )

    def _gaps(self, rng: np.random.Generator, n: int, person_key_s: float) -> NDArray[np.float64]:
        """Seconds before each of ``n`` changes: the keys it takes, and the pauses at borders."""
        law = distribution("key_over_mean", self.key_over_mean)
        gaps: NDArray[np.float64] = law.draw(rng, n * self.keys_per_char).reshape(n, -1).sum(axis=1) * person_key_s
        words = np.arange(self.word_keys, n, self.word_keys)
        sentences = words[self.sentence_words - 1 :: self.sentence_words]
        for borders, share, name in (
            (words, self.pause_share, "pause_s"),
            (sentences, self.sentence_pause_share, "sentence_pause_s"),
        ):
            pausing = borders[rng.random(len(borders)) < share]
            gaps[pausing] += distribution(name, getattr(self, name)).draw(rng, len(pausing))
        return gaps

    def _shown(self, rng: np.random.Generator, changes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of the changes at which the field changes: the last character of each chunk, and every deletion."""
        assert self.committed_chars is not None
        n = len(changes)
        sizes = whole(distribution("committed_chars", self.committed_chars).draw(rng, n), at_least=1)
        ends = np.zeros(n, dtype=bool)
        ends[np.minimum(np.cumsum(sizes), n) - 1] = True
        ends[-1] = True
        ends |= changes != 1  # a paste or a deletion
        ends[:-1] |= changes[1:] != 1  # what was being composed is committed before it
        return np.flatnonzero(ends)

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


_SPANS = (
    "person_key_s",
    "key_over_mean",
    "focus_s",
    "think_s",
    "pause_s",
    "sentence_pause_s",
    "deleted_chars",
    "review_s",
)

DESKTOP: Final = Typist()
"""A physical keyboard: 51.6 words a minute on average, inter-key mean 0.2387 s (Dhakal et al., CHI 2018, 168,000 people)."""

MOBILE: Final = Typist(person_key_s=LogNormal.of_mean(60 / (5 * 36.2), 0.445), edit_share=0.04, deleted_chars=4)
"""A phone: 36.2 words a minute on average (Palin et al., MobileHCI 2019, 37,370 people), so 0.3315 s a key; the scatter between
people is the desktop's. Phones edit twice as often here: an assumption (2.3 % uncorrected errors against about 1.2 %)."""

INPUT_METHOD: Final = Typist(committed_chars=Geometric(mean=2.2), keys_per_char=3, word_keys=2, chars_per_token=1, deleted_chars=2)
"""Chinese by phonetic input: about 3 keys a character, selection included, and words of about two characters committed whole.
The desktop's pace per key. Keys, chunks and 1 character a token are assumptions: no public source was found."""
