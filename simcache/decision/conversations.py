"""What a usage log knows of its prompts: which turns follow which, and how much of a prompt stands in the one before."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from ..cache.rules import ONE_HOUR, ProviderRules
from ..logs import UsageRow
from ..prompt import Prompt

ENOUGH: Final = 5
"""Follow-ups within the lifetime that are needed to say how often a prompt begins with the one before."""
NEARLY_ALL: Final = 0.97
"""A follow-up that hits this share of what could be hit has hit all: counts are rounded to units and message frames."""
_SURELY_VISIBLE_S: Final = 2.0  # after which an entry can be hit, where the log has no time to first token


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedTurn:
    """One request of a log. Instants count from the log's first; ``row`` is its place in the log's order of time.

    ``marked_tokens``: how much of the prompt was found or stored, up to the client's last marker. ``whole_tokens``: how much of
    it stands in the prompt before and its answer, if the conversation goes on unchanged; ``kept_tokens``: how much really does
    (None: nothing shows it). ``free_s``: since the answer before it ended (None: the first). ``ttft_s`` None: not logged.
    """

    row: int
    at_s: float
    prompt_tokens: int
    output_tokens: int
    thinking_tokens: int
    cached_tokens: int
    marked_tokens: int
    whole_tokens: int = 0
    kept_tokens: int | None = 0
    free_s: float | None = None
    ttft_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The requests of one session (a request without one is alone) in order of time.

    ``trunk``: sizes of the nested prefixes that it shares with other conversations, the longest last; None: nothing shows it.
    ``sharers``: with which of those whose longest is as long, since prefixes of one size can differ.
    """

    user: str
    turns: tuple[LoggedTurn, ...]
    trunk: tuple[int, ...] | None = ()
    sharers: int = 0


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """How often prompts begin alike, counted where it shows: in requests that came while what they could hit was alive.

    Of ``in_time`` follow-ups (of ``follow_ups``) ``whole`` hit all that the conversation before had stored and ``partly`` hit
    less; the rest hit nothing. ``trunks``: what first requests hit of other conversations' entries, with how many did (0: nothing).
    """

    follow_ups: int
    in_time: int
    whole: int
    partly: int
    trunks: tuple[tuple[int, int], ...] = ()

    @property
    def known(self) -> bool:
        """Whether there are enough to draw the others from."""
        return self.in_time >= ENOUGH

    @property
    def whole_share(self) -> float | None:
        """Share of follow-ups in time that hit all; None: there are none."""
        return self.whole / self.in_time if self.in_time else None


class Laid(NamedTuple):
    """One prompt of a layout: its segments, breakpoints (None: none are the client's), and how many segments are ``known`` before
    its question is begun."""

    prompt: Prompt
    breakpoints: tuple[int, ...] | None
    known: int


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A log as conversations, what it shows of their prefixes, and how caching was set: ``caching`` False is never used.

    ``marked``: the provider stores up to the client's markers, so where these stand matters. ``sessions``: whether any row has one.
    ``layouts``: of a message log, every row's prompt as it was ("logged") and as is proposed ("mended").
    ``counted``: the rows hold the provider's own counts.
    ``mixed_ttl_share``: tokens written for another lifetime than ``ttl``. ``seconds_per_output_token`` dates the ends of answers
    that the log does not tell.
    """

    conversations: tuple[Conversation, ...]
    reuse: Reuse
    caching: bool
    ttl: str
    mixed_ttl_share: float = 0.0
    marked: bool = True
    sessions: bool = True
    counted: bool = True
    layouts: Mapping[str, tuple[Laid, ...]] = field(default_factory=dict, repr=False)
    rows: tuple[UsageRow, ...] = field(default=(), repr=False)

    @property
    def requests(self) -> int:
        """Requests in all."""
        return len(self.rows)

    @property
    def span_s(self) -> float:
        """From the first request to the last, and the mean gap that follows it: so n requests at a rate span n / rate."""
        if self.requests < 2:
            return 0.0
        last_s = max(turn.at_s for each in self.conversations for turn in each.turns)
        return last_s * self.requests / (self.requests - 1)

    def pauses_s(self) -> list[float]:
        """From each answer to the next request of its conversation."""
        return [turn.free_s for each in self.conversations for turn in each.turns if turn.free_s is not None]


def reconstruct(rows: Sequence[UsageRow], rules: ProviderRules, *, seconds_per_output_token: float = 0.02) -> Reconstruction:
    """The conversations in ``rows``, all of one model under ``rules`` and each with its ``started_at_s``.

    A usage log counts tokens and shows no content. So within a session a prompt that is longer than the one before and its
    answer is taken to go on from them; what a request hit while the entry was alive says how much of that is true; and what
    first requests hit is shared between conversations. A follow-up that came after the lifetime shows nothing and stays open.

    >>> from ..cache.presets import load_rules
    >>> def row(at_s, prompt, cached, written):
    ...     return UsageRow(provider="anthropic", model="m", prompt_tokens=prompt, cached_tokens=cached, written_5m_tokens=written,
    ...         started_at_s=at_s, session="s", output_tokens=100)
    >>> found = reconstruct([row(0, 9_000, 0, 8_900), row(60, 9_300, 8_900, 200)], load_rules("anthropic"))
    >>> [turn.kept_tokens for turn in found.conversations[0].turns], found.reuse.whole
    ([0, 9100], 1)
    """
    ordered = sorted(rows, key=lambda row: row.started_at_s or 0.0)
    zero_s = (ordered[0].started_at_s or 0.0) if ordered else 0.0
    written_5m, written_1h = (sum(getattr(row, f"written_{ttl}_tokens") for row in ordered) for ttl in ("5m", "1h"))
    hourly = ONE_HOUR in rules.lifetime_s and written_1h > written_5m
    ttl = ONE_HOUR if hourly else rules.default_ttl
    by_session: dict[tuple[str | None, str], list[tuple[int, UsageRow]]] = {}
    for number, row in enumerate(ordered):
        key = (row.user, row.session) if row.session is not None else (None, f"\0{number}")
        by_session.setdefault(key, []).append((number, row))
    model = ordered[0].model if ordered else ""
    reader = _Reader(rules, model, rules.lifetime_of(ttl), seconds_per_output_token, zero_s, written_5m + written_1h > 0)
    found = [reader.conversation(each) for each in by_session.values()]
    trunks = _Trunks(found, rules.lifetime_of(ttl))
    return Reconstruction(
        conversations=trunks.placed(found),
        reuse=Reuse(
            follow_ups=sum(len(each.turns) - 1 for each in found),
            in_time=reader.in_time,
            whole=reader.whole,
            partly=reader.partly,
            trunks=tuple(sorted(trunks.seen.items())),
        ),
        caching=any(row.cached_tokens or row.written_5m_tokens or row.written_1h_tokens for row in ordered),
        ttl=ttl,
        mixed_ttl_share=(written_5m if hourly else written_1h) / max(written_5m + written_1h, 1),
        marked=rules.matching == "exact at breakpoints",
        sessions=any(row.session is not None for row in ordered),
        rows=tuple(ordered),
    )


class _Reader:
    """Reads one session after the other and counts what the follow-ups show."""

    def __init__(
        self, rules: ProviderRules, model: str, lifetime_s: float, pace_s: float, zero_s: float, writes_logged: bool
    ) -> None:
        self._rules, self._lifetime_s, self._pace_s, self._zero_s = rules, lifetime_s, pace_s, zero_s
        self._least = max(rules.min_tokens_of(model), 1)
        self._stores_all = rules.matching == "prefix at unit" and not writes_logged
        self.in_time = self.whole = self.partly = 0

    def conversation(self, rows: Sequence[tuple[int, UsageRow]]) -> Conversation:
        turns: list[LoggedTurn] = []
        ended_s = 0.0
        for number, row in rows:
            turn = self._turn(number, row)
            if turns:
                turn = self._following(turns[-1], turn, ended_s)
            turns.append(turn)
            ended_s = turn.at_s + (row.e2e_s if row.e2e_s is not None else (row.ttft_s or 0.0) + row.output_tokens * self._pace_s)
        user = rows[0][1].user
        return Conversation(user="" if user is None else user, turns=tuple(turns))

    def _turn(self, number: int, row: UsageRow, **more: int | float | None) -> LoggedTurn:
        unit = self._rules.unit_tokens
        stored = row.cached_tokens + row.written_5m_tokens + row.written_1h_tokens
        return LoggedTurn(
            row=number,
            at_s=(row.started_at_s or 0.0) - self._zero_s,
            prompt_tokens=max(row.prompt_tokens, 1),
            output_tokens=row.output_tokens,
            thinking_tokens=row.thinking_tokens,
            cached_tokens=row.cached_tokens,
            marked_tokens=max(stored, row.prompt_tokens // unit * unit if self._stores_all else 0),
            ttft_s=row.ttft_s,
            **more,  # type: ignore[arg-type]
        )

    def _following(self, before: LoggedTurn, turn: LoggedTurn, ended_s: float) -> LoggedTurn:
        most = turn.prompt_tokens - 1  # a last token is always computed
        whole = min(max(_goes_on(before, turn), turn.cached_tokens), most)
        could_hit = min(before.marked_tokens, whole) // self._rules.unit_tokens * self._rules.unit_tokens
        gap_s = turn.at_s - before.at_s
        visible_s = _SURELY_VISIBLE_S if before.ttft_s is None else before.ttft_s
        shows = could_hit >= self._least and visible_s < gap_s < self._lifetime_s
        hit_all = turn.cached_tokens >= NEARLY_ALL * could_hit
        kept: int | None = None
        if shows:
            self.in_time += 1
            self.whole += hit_all
            self.partly += not hit_all and turn.cached_tokens > 0
            kept = whole if hit_all else turn.cached_tokens
        elif turn.cached_tokens and hit_all:
            kept = whole  # alive for longer than promised
        return replace(turn, whole_tokens=whole, kept_tokens=kept, free_s=max(turn.at_s - ended_s, 0.0))


def _goes_on(before: LoggedTurn, turn: LoggedTurn) -> int:
    """How much of ``turn`` is the prompt before and its answer, if nothing was changed in what was said."""
    answered = before.prompt_tokens + before.output_tokens - before.thinking_tokens
    if turn.prompt_tokens > answered:
        return answered
    if turn.prompt_tokens > before.prompt_tokens:
        return before.prompt_tokens
    return min(before.marked_tokens, turn.marked_tokens)  # no history: the same material under another question


class _Trunks:
    """Prefixes that conversations share, known by what their first requests hit: ``seen`` counts it where it shows."""

    def __init__(self, found: Sequence[Conversation], lifetime_s: float) -> None:
        starts = sorted(turn.at_s for each in found for turn in each.turns)
        self._lifetime_s = lifetime_s
        self._in_time = {id(each): _any_within(starts, each.turns[0], lifetime_s) for each in found}
        hits = Counter(each.turns[0].cached_tokens for each in found if each.turns[0].cached_tokens)
        self._levels = set(hits)
        self.seen = Counter(each.turns[0].cached_tokens for each in found if self._in_time[id(each)])
        parents: dict[int, Counter[int]] = {}
        for each in found:  # who wrote a level, and on top of which one
            first = each.turns[0]
            if first.marked_tokens in self._levels and first.cached_tokens < first.marked_tokens:
                parents.setdefault(first.marked_tokens, Counter())[first.cached_tokens] += 1
        self._parent = {
            level: max((size for size in below if size in self._levels), key=lambda size, below=below: below[size], default=0)  # type: ignore[misc]
            for level, below in parents.items()
        }

    def placed(self, found: Sequence[Conversation]) -> tuple[Conversation, ...]:
        """Every conversation with its trunk, and with sharers so few that what was hit and missed while it was alive agrees.

        Who hit is with the sharers seen last; who missed is with none whose prefix was alive.
        """
        groups: dict[tuple[int, ...], list[list[float]]] = {}
        placed = []
        for each in found:  # in order of their first requests
            trunk = self._of(each)
            if not trunk:
                placed.append(replace(each, trunk=trunk))
                continue
            first, others = each.turns[0], groups.setdefault(trunk, [])
            last = [_last_within(touches, first, self._lifetime_s) for touches in others]
            hit = first.cached_tokens >= trunk[-1]
            fitting = [number for number, at_s in enumerate(last) if (at_s is not None) == hit]
            chosen = max(fitting, key=lambda number, last=last: (last[number] or 0.0, -number), default=None)  # type: ignore[misc]
            if chosen is None and hit and others:
                chosen = 0  # alive for longer than promised, or written by a request that the log lacks
            if chosen is None:
                chosen = len(others)
                others.append([])
            others[chosen] = sorted([*others[chosen], *(turn.at_s for turn in each.turns)])
            placed.append(replace(each, trunk=trunk, sharers=chosen))
        return tuple(placed)

    def _of(self, conversation: Conversation) -> tuple[int, ...] | None:
        first = conversation.turns[0]
        later = [turn.cached_tokens for turn in conversation.turns if turn.cached_tokens in self._levels]
        if first.marked_tokens in self._levels:
            return tuple(self._nested(first.marked_tokens))
        if first.cached_tokens or later:
            return tuple(self._nested(first.cached_tokens or min(later)))
        if not self._levels or self._in_time[id(conversation)]:
            return ()  # where nothing was ever hit nothing is taken for shared
        return None

    def _nested(self, level: int) -> Iterator[int]:
        below = self._parent.get(level, 0)
        if below:
            yield from self._nested(below)
        yield level


def _any_within(starts: Sequence[float], turn: LoggedTurn, lifetime_s: float) -> bool:
    """Whether any request began in the lifetime before ``turn``, early enough to be visible."""
    return _last_within(starts, turn, lifetime_s) is not None


def _last_within(starts: Sequence[float], turn: LoggedTurn, lifetime_s: float) -> float | None:
    """The last of the (sorted) ``starts`` in the lifetime before ``turn``, early enough to be visible; None: there is none."""
    place = bisect_left(starts, turn.at_s - _SURELY_VISIBLE_S) - 1
    return starts[place] if place >= 0 and starts[place] > turn.at_s - lifetime_s else None
