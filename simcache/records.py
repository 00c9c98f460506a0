"""What happened: one frozen record per request, in columns. Money and metrics are computed from these alone."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

NEVER: Final = -(2**63)
"""The integer that stands for None in an integer column; readers see NaN, null or an empty field."""

OUTCOMES: Final = ("ok", "rejected", "abandoned", "cancelled", "failed")

INTEGER_COLUMNS: Final = {
    # name -> what it holds (units in the name; instants count from the run's zero)
    "turn": "index of the turn in its session, from 0",
    "priority": "what the server saw; smaller is more urgent",
    "replica": "index of the replica that served it; null: no replica",
    "submitted_at_ns": "the instant from which the user waits",
    "sent_at_ns": "the instant the client sent it (later than submitted when it waited for its warm-up)",
    "first_scheduled_at_ns": "start of the first step that computed any of it",
    "first_token_at_ns": "the first output token (or, with no output, the end of prefill)",
    "finished_at_ns": "the last output token",
    "cancelled_at_ns": "the instant of cancellation",
    "queue_ns": "time before the first token in which none of it was being computed",
    "prompt_tokens": "tokens of the prompt",
    "hit_tokens": "leading prompt tokens that it did not compute: in the cache, or loaded into it (at its first admission)",
    "prompt_blocks": "blocks of the prompt (partial last block included); at hosted APIs the provider's units",
    "hit_blocks": "leading blocks served from cache",
    "output_tokens": "tokens generated",
    "thinking_tokens": "of those, tokens that the user never sees: they come first",
    "written_5m_tokens": "tokens billed as a cache write with the default lifetime",
    "written_1h_tokens": "tokens billed as a cache write with the one-hour lifetime",
    "stored_token_s": "token-seconds of cache storage that it paid for (where a provider charges for storage)",
    "inserted_tokens": "tokens that this request put into the cache",
    "used_tokens": "of those, tokens that a later user request hit (each counted once)",
    "used_by_row": "row of the first user request that hit any of them; null: none did",
    "dropped_tokens": "of those, tokens that were evicted or expired before any user request hit them",
    "visible_at_ns": "when a warm-up's prefix became hit-able for others; null: never, or no warm-up",
    "attempts": "how often it was sent to a server (1: no retry)",
    "preemptions": "how often it was preempted",
    "warm_row": "row of the warm-up that this question relied on; null: none",
    "residual_warm_ns": "what was left of that warm-up at submit; 0: it was done; null: no warm-up",
    "cold_ns": "estimated time to first token of a person's question had nothing been cached, on an idle backend; null: not asked",
}
TIER_COLUMNS: Final = {
    "load_wait_ns": "time it waited for blocks from lower tiers of memory, in all; part of its queueing time",
    "tier_faults": "lookups that found a tier cut off, and loads that failed for it",
}
"""Only where the backend has tiers below the GPU's memory; beside them ``TIER_HITS`` + name for each tier."""
TIER_HITS: Final = "hit_tokens_"
"""A column per tier: of hit_tokens, those loaded from the tier whose name follows."""
TEXT_COLUMNS: Final = {
    "session": "session name; empty: none",
    "user": "user name; empty: none",
    "kind": "user, warm or keepalive",
    "outcome": "ok, rejected, abandoned, cancelled or failed",
}
_DEFAULTS: Final = {
    **dict.fromkeys(INTEGER_COLUMNS, 0),
    **dict.fromkeys(
        (
            "replica",
            "first_scheduled_at_ns",
            "first_token_at_ns",
            "finished_at_ns",
            "cancelled_at_ns",
            "used_by_row",
            "visible_at_ns",
            "warm_row",
            "residual_warm_ns",
            "cold_ns",
        ),
        NEVER,
    ),
    "attempts": 1,
}
_TEXT_DEFAULTS: Final = {"session": "", "user": "", "kind": "user", "outcome": "failed"}

_ROWS_AT_A_TIME: Final = 512


_RARE: Final = (
    "turn",
    "priority",
    "cancelled_at_ns",
    "thinking_tokens",
    "written_5m_tokens",
    "written_1h_tokens",
    "stored_token_s",
    "visible_at_ns",
    "attempts",
    "preemptions",
    "warm_row",
    "residual_warm_ns",
    "cold_ns",
    "session",
    "user",
    "kind",
)
"""Columns that most runs leave at their defaults: they take memory from the first row on that does not."""


class _RareColumn:
    """A column that reads as its default up to the last row that was given a value, and costs nothing behind it."""

    __slots__ = ("default", "values")

    def __init__(self, default: Any) -> None:
        self.default = default
        self.values: Any = array("q") if isinstance(default, int) else []

    def __getitem__(self, row: int) -> Any:
        return self.values[row] if row < len(self.values) else self.default

    def __setitem__(self, row: int, value: Any) -> None:
        missing = row + 1 - len(self.values)
        if missing > 0:
            self.values.extend([self.default] * missing)
        self.values[row] = value


class RecordsBuilder:
    """Grows records row by row: ``row()`` opens one with defaults, ``builder.column[row] = value`` fills it, ``freeze()`` ends it.

    ``tiers`` names the memory below the GPU's; ``tier_hit_tokens`` are its columns in that order.

    >>> b = RecordsBuilder(); r = b.row(); b.prompt_tokens[r] = 8; b.freeze().prompt_tokens.tolist()
    [8]
    """

    __slots__ = (*INTEGER_COLUMNS, *TEXT_COLUMNS, *TIER_COLUMNS, "_defaults", "_room", "_tiers", "rows", "tier_hit_tokens")

    def __init__(self, tiers: Sequence[str] = ()) -> None:
        self.rows = 0
        self._room = 0  # rows that the columns have room for
        self._defaults: list[tuple[Any, Any]] = []
        for name in _RARE:
            setattr(self, name, _RareColumn(_DEFAULTS[name] if name in _DEFAULTS else _TEXT_DEFAULTS[name]))
        for name in INTEGER_COLUMNS:
            if name not in _RARE:
                column = array("q")
                setattr(self, name, column)
                self._defaults.append((column, array("q", [_DEFAULTS[name]]) * _ROWS_AT_A_TIME))
        self._tiers = tuple(tiers)
        self.tier_hit_tokens = tuple(array("q") for _ in tiers)
        self.load_wait_ns: array[int] | None = array("q") if tiers else None
        self.tier_faults: array[int] | None = array("q") if tiers else None
        for column in self._tier_columns().values():
            self._defaults.append((column, array("q", [0]) * _ROWS_AT_A_TIME))
        self.outcome: list[str] = []
        self._defaults.append((self.outcome, [_TEXT_DEFAULTS["outcome"]] * _ROWS_AT_A_TIME))

    if TYPE_CHECKING:  # the slots above are set in __init__ by name

        def __getattr__(self, name: str) -> Any: ...

    def row(self, session: str = "", user: str = "", kind: str = "user", outcome: str = "failed") -> int:
        """Open a row with defaults and return its index; a row nobody closes stays ``failed``.

        >>> RecordsBuilder().row()
        0
        """
        row = self.rows
        if row == self._room:
            for column, defaults in self._defaults:
                column.extend(defaults)
            self._room += _ROWS_AT_A_TIME
        if session:
            self.session[row] = session
        if user:
            self.user[row] = user
        if kind != "user":
            self.kind[row] = kind
        if outcome != "failed":
            self.outcome[row] = outcome
        self.rows = row + 1
        return row

    def freeze(self) -> Records:
        """The rows as read-only columns: the builder's own memory where it can be, so nothing may be written afterwards.

        >>> len(RecordsBuilder().freeze())
        0
        """
        columns = {name: getattr(self, name) for name in (*TEXT_COLUMNS, *INTEGER_COLUMNS)} | self._tier_columns()
        return Records({name: self._frozen(column) for name, column in columns.items()})

    def _frozen(self, column: Any) -> NDArray[Any]:
        rows = self.rows
        if isinstance(column, _RareColumn):
            if not column.values:
                kind = np.int64 if isinstance(column.default, int) else object
                return np.broadcast_to(np.array(column.default, dtype=kind), (rows,))
            if rows:
                column[rows - 1] = column[rows - 1]
            column = column.values
        if not isinstance(column, array):
            return np.array(column[:rows], dtype=object)
        return np.frombuffer(column, dtype=np.int64, count=rows) if rows else np.empty(0, dtype=np.int64)

    def _tier_columns(self) -> dict[str, array[int]]:
        if self.load_wait_ns is None or self.tier_faults is None:
            return {}
        hits = {f"{TIER_HITS}{name}": column for name, column in zip(self._tiers, self.tier_hit_tokens, strict=True)}
        return {**hits, "load_wait_ns": self.load_wait_ns, "tier_faults": self.tier_faults}


@dataclass(frozen=True, slots=True)
class Records:
    """One record per request: ``records.ttft_s``, ``records["hit_tokens"]``; row i is the i-th request submitted.

    Integer columns are int64 with ``NEVER`` for null; ``seconds("first_token_at_ns")`` gives float64 with NaN for null.

    >>> b = RecordsBuilder(); _ = b.row(); Records(b.freeze().columns).seconds("finished_at_ns").tolist()
    [nan]
    """

    columns: dict[str, NDArray[Any]]

    def __post_init__(self) -> None:
        for column in self.columns.values():
            column.setflags(write=False)

    def __len__(self) -> int:
        return len(self.columns["kind"])

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def __getattr__(self, name: str) -> NDArray[Any]:
        try:
            return self.columns[name]
        except KeyError:
            raise AttributeError(name) from None

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Records)
            and self.columns.keys() == other.columns.keys()
            and all(np.array_equal(column, other.columns[name]) for name, column in self.columns.items())
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Rows as dicts with None for null."""
        names = list(self.columns)
        for values in zip(*(self.columns[name].tolist() for name in names), strict=True):
            yield {name: None if value == NEVER else value for name, value in zip(names, values, strict=True)}

    @property
    def tiers(self) -> tuple[str, ...]:
        """Names of the memory tiers below the GPU's that the run had, nearest first.

        >>> RecordsBuilder(tiers=("host",)).freeze().tiers
        ('host',)
        """
        return tuple(name.removeprefix(TIER_HITS) for name in self.columns if name.startswith(TIER_HITS))

    def where(self, mask: NDArray[np.bool_]) -> Records:
        """The rows where ``mask`` is true (``warm_row`` goes on pointing at rows of the whole).

        >>> b = RecordsBuilder(); _ = b.row(); r = b.freeze(); len(r.where(r.kind == "warm"))
        0
        """
        return Records({name: column[mask] for name, column in self.columns.items()})

    def seconds(self, name: str) -> NDArray[np.float64]:
        """A ``_ns`` column in seconds, NaN for null.

        >>> RecordsBuilder().freeze().seconds("queue_ns").tolist()
        []
        """
        column = self.columns[name]
        return np.where(column == NEVER, np.nan, column / 1e9)

    def span_s(self, start: str, end: str) -> NDArray[np.float64]:
        """Seconds from instant column ``start`` to instant column ``end``, NaN where either is null; exact to the ns.

        >>> RecordsBuilder().freeze().span_s("submitted_at_ns", "finished_at_ns").tolist()
        []
        """
        a, b = self.columns[start], self.columns[end]
        never = (a == NEVER) | (b == NEVER)
        return np.where(never, np.nan, (np.where(never, 0, b) - np.where(never, 0, a)) / 1e9)

    @property
    def ttft_s(self) -> NDArray[np.float64]:
        """First token instant minus submit instant; NaN where there was no first token."""
        return self.span_s("submitted_at_ns", "first_token_at_ns")

    @property
    def first_visible_s(self) -> NDArray[np.float64]:
        """First token that is no thinking, minus submit: ``ttft_s`` where nothing was thought; NaN where none came.

        Tokens after the first are taken to come at an even pace.
        """
        gaps = np.maximum(self.columns["output_tokens"] - 1, 1)
        thought = np.minimum(self.columns["thinking_tokens"], gaps) / gaps
        spent_s = np.where(thought > 0, thought * self.span_s("first_token_at_ns", "finished_at_ns"), 0.0)
        return np.asarray(self.ttft_s + spent_s)

    @property
    def e2e_s(self) -> NDArray[np.float64]:
        """Last token instant minus submit instant; NaN where it never finished."""
        return self.span_s("submitted_at_ns", "finished_at_ns")
