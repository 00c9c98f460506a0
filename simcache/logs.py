"""Usage logs: one JSONL schema for what providers and servers report, one line per request."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, UnknownNameError, require
from .records import NEVER, Records, RecordsBuilder
from .usage_blocks import read_block
from .whole_files import whole_file

MOST_TOKENS: Final = 10**12
_CALENDAR_FROM_S: Final = datetime(2015, 1, 1, tzinfo=UTC).timestamp()
_CALENDAR_TO_S: Final = datetime(2200, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """One request as its provider or server reports it. ``prompt_tokens`` include cached and written tokens, ``output_tokens``
    include thinking. ``started_at_s``: Unix time, or seconds from any zero. None: not known.

    >>> UsageRow(provider="openai", model="gpt-4o", prompt_tokens=2006, cached_tokens=1920).output_tokens
    0
    """

    provider: str
    model: str
    prompt_tokens: int
    output_tokens: int = 0
    cached_tokens: int = 0
    written_5m_tokens: int = 0
    written_1h_tokens: int = 0
    thinking_tokens: int = 0
    stored_token_hours: float = 0.0
    batch: bool = False
    started_at_s: float | None = None
    ttft_s: float | None = None
    e2e_s: float | None = None
    session: str | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        for name in ("provider", "model"):
            value = getattr(self, name)
            require(isinstance(value, str) and bool(value), name, value, "must be a text that is not empty")
        for name in COUNTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_TOKENS:
                raise InputError(name, value, f"must be a whole number from 0 to {MOST_TOKENS:,}")
        for name in SPANS:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise InputError(name, value, "must be a finite number of at least 0, or null")
        for name in ("session", "user"):
            value = getattr(self, name)
            require(value is None or isinstance(value, str), name, value, "must be a text or null")
        require(isinstance(self.batch, bool), "batch", self.batch, "must be true or false")
        require(self.stored_token_hours is not None, "stored_token_hours", None, "must be a number")
        cached = self.cached_tokens + self.written_5m_tokens + self.written_1h_tokens
        require(
            self.cached_tokens <= self.prompt_tokens,
            "cached_tokens",
            self.cached_tokens,
            f"exceed the prompt's {self.prompt_tokens}",
        )
        require(cached <= self.prompt_tokens, "cached and written tokens", cached, f"exceed the prompt's {self.prompt_tokens}")
        require(
            self.thinking_tokens <= self.output_tokens,
            "thinking_tokens",
            self.thinking_tokens,
            f"exceed the output's {self.output_tokens}",
        )
        if self.started_at_s is not None:
            require(self.started_at_s < _CALENDAR_TO_S, "started_at_s", self.started_at_s, "must be in seconds, not milliseconds")
        if self.ttft_s is not None and self.e2e_s is not None:
            require(self.ttft_s <= self.e2e_s, "ttft_s", self.ttft_s, f"must not exceed e2e_s (={self.e2e_s:g})")

    @property
    def dated(self) -> bool:
        """Whether ``started_at_s`` is a calendar instant (2015 or later), not seconds from some other zero."""
        return self.started_at_s is not None and self.started_at_s >= _CALENDAR_FROM_S


COUNTS: Final = (
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
    "written_5m_tokens",
    "written_1h_tokens",
    "thinking_tokens",
)
SPANS: Final = ("started_at_s", "ttft_s", "e2e_s", "stored_token_hours")
_NAMES: Final = tuple(field.name for field in fields(UsageRow))


@dataclass(frozen=True)
class UsageLog:
    """The rows of one log, in its order, and ``notes`` on how it was read.

    >>> len(UsageLog((UsageRow(provider="openai", model="gpt-4o", prompt_tokens=9),)))
    1
    """

    rows: Sequence[UsageRow]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> NDArray[Any]:
        """One field of every row: int64 for counts, float64 with NaN for null spans, object for texts."""
        values = [getattr(row, name) for row in self.rows]
        if name in COUNTS:
            return np.array(values, dtype=np.int64)
        if name in SPANS:
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        return np.array(values, dtype=object)

    @cached_property
    def records(self) -> Records:
        """The rows as records, so that what prices and judges simulated runs does the same with real ones.

        Instants count from the first start that is known; a row without one stands at 0. Every row ended ``ok``.
        """
        builder = RecordsBuilder()
        zero_s = min((row.started_at_s for row in self.rows if row.started_at_s is not None), default=0.0)
        for usage in self.rows:
            row = builder.row(usage.session or "", usage.user or "", outcome="ok")
            start = 0 if usage.started_at_s is None else round((usage.started_at_s - zero_s) * 1e9)
            builder.submitted_at_ns[row] = builder.sent_at_ns[row] = builder.first_scheduled_at_ns[row] = start
            builder.first_token_at_ns[row] = NEVER if usage.ttft_s is None else start + round(usage.ttft_s * 1e9)
            builder.finished_at_ns[row] = NEVER if usage.e2e_s is None else start + round(usage.e2e_s * 1e9)
            builder.prompt_tokens[row], builder.hit_tokens[row] = usage.prompt_tokens, usage.cached_tokens
            builder.written_5m_tokens[row] = usage.written_5m_tokens
            builder.written_1h_tokens[row] = usage.written_1h_tokens
            builder.output_tokens[row], builder.thinking_tokens[row] = usage.output_tokens, usage.thinking_tokens
            builder.stored_token_s[row] = round(usage.stored_token_hours * 3600)
        return builder.freeze()


def read_usage(path: str | Path) -> UsageLog:
    """Read a usage log, plain or gzip: JSONL of our rows, or of ``{provider, model, usage: {the provider's own block}}``.

    Errors (with file and line): a line that is no such row, unknown fields, impossible numbers, a file without rows.

    >>> from tempfile import NamedTemporaryFile
    >>> line = '{"provider": "openai", "model": "gpt-4o", "usage": {"prompt_tokens": 9, "completion_tokens": 2}}'
    >>> with NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     print(line, file=file, flush=True); read_usage(file.name).rows[0].output_tokens
    2
    """
    path = Path(path)
    rows: list[UsageRow] = []
    remarks: dict[str, int] = {}
    for number, line in _lines(path):
        try:
            row, left = _row(line)
        except InputError as error:
            raise InputError(error.name, error.value, error.rule, error.way_out, path=path, line=number) from None
        rows.append(row)
        for remark in left:
            remarks[remark] = remarks.get(remark, 0) + 1
    require(bool(rows), "log", str(path), "has no rows")
    notes = [f"{remark} ({count:,} row{'s' if count > 1 else ''})" for remark, count in sorted(remarks.items())]
    return UsageLog(tuple(rows), tuple(notes))


def write_usage(rows: Iterable[UsageRow], path: str | Path) -> None:
    """Write rows as JSONL that :func:`read_usage` reads back; what has its default value is left out.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     row = UsageRow(provider="openai", model="gpt-4o", prompt_tokens=9)
    ...     write_usage([row], f"{folder}/log.jsonl"); read_usage(f"{folder}/log.jsonl").rows == (row,)
    True
    """
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        for row in rows:
            kept = {f.name: getattr(row, f.name) for f in fields(row) if getattr(row, f.name) != f.default}
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers."""
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError:
                    raise InputError("line", line[:40], "must be text in UTF-8", path=path, line=number) from None
                if text:
                    yield number, text
    except (OSError, EOFError) as error:
        raise InputError("log", str(path), f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _row(text: str) -> tuple[UsageRow, list[str]]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("line", text, "must be one JSON object") from None
    if not isinstance(raw, Mapping):
        raise InputError("line", text, "must be a JSON object")
    known = (*_NAMES, "usage")
    for name in raw:
        if name not in known:
            raise UnknownNameError("field", name, known)
    values: dict[str, Any] = {name: value for name, value in raw.items() if name != "usage"}
    left: list[str] = []
    if "usage" in raw:
        twice = [name for name in COUNTS if name in raw]
        if twice:
            raise InputError(twice[0], raw[twice[0]], "stands beside a usage block, which counts it")
        counts, left = read_block(raw["usage"])
        values = {**counts._asdict(), "batch": counts.batch or False, **values}
    for name in ("provider", "model", "prompt_tokens"):
        require(name in values, name, None, "must be given")
    for name, default in (("stored_token_hours", 0.0), ("batch", False)):
        if values.get(name, default) is None:
            values[name] = default
    return UsageRow(**values), left
