"""Traces of real services as requests: one streaming reader for all formats, and the workload that replays a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from ..errors import InputError, UnknownNameError, require_count, require_number
from ..prompt import Request
from .claude_code import merged_sessions
from .json_rows import document_rows, json_lines, parsed
from .lines import LONGEST_LINE, LONGEST_SESSION_LINE, numbered_lines, open_file, text_chunks
from .spreading import Ticks, find_ticks, spread
from .synthetic import PoissonRequests, RequestList
from .trace_rows import RowReader, azure_reader, lmcache_reader, mooncake_row, segments_row, simcache_row

__all__ = [
    "FORMATS",
    "NOT_READ",
    "PoissonRequests",
    "RequestList",
    "TraceReader",
    "TraceWorkload",
    "guess_format",
    "read_trace",
    "trace_ticks",
]

FORMATS: Final = ("azure", "claude-code", "lmcache", "mooncake", "segments", "simcache")

SESSIONS_PER_S: Final = 1 / 60
"""Rate at which claude-code sessions start unless one is given: one a minute, so the 237 public ones start within four hours."""

NOT_READ: Final = {
    "claude-code": "client and service times, stop reasons and model names",
    "segments": "kinds other than warm (read as a user's)",
}
"""What files of a format hold that a Request does not."""


def guess_format(path: str | Path) -> str:
    """The format that the first row of a file can only belong to, or InputError listing the formats.

    >>> import tempfile
    >>> p = Path(tempfile.mkdtemp()) / "t.csv"; _ = p.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\\n")
    >>> guess_format(p)
    'azure'
    """
    # One document, maybe on one long line: told from its beginning.
    if _SEGMENTS_HEAD.match(next(text_chunks(path), "")):
        return "segments"
    line, text = next(numbered_lines(path, LONGEST_SESSION_LINE), (1, ""))
    if not text:
        raise _empty(path)
    if "ContextTokens" in text.split(","):
        return "azure"
    row = parsed(text, path, line) if text.lstrip()[:1] == "{" else None
    names = set(row) if isinstance(row, dict) else set()
    fits = [format for format, needed in _TELLING_FIELDS.items() if needed <= names]
    if fits == ["lmcache", "mooncake"]:
        fits = ["lmcache"]  # only LMCache's rows carry a session_id
    if len(fits) != 1:
        rule, way_out = "cannot be told from the first row", f"Name one of {', '.join(FORMATS)}."
        raise InputError("format", None, rule, way_out, path=path, line=line)
    return fits[0]


_SEGMENTS_HEAD: Final = re.compile(r'\s*\{\s*("[^"]*"\s*:\s*("[^"\\]*"|\d+)\s*,\s*)*"requests"\s*:\s*\[\s*\{')
_TELLING_FIELDS: Final = {
    "simcache": {"arrived_at_s", "prompt", "output"},
    "claude-code": {"block_size", "requests"},
    "lmcache": {"timestamp", "hash_ids", "session_id"},
    "mooncake": {"timestamp", "hash_ids", "input_length"},
}


def _empty(path: str | Path) -> InputError:
    return InputError("file", Path(path).name, "must hold at least one request", path=path, line=1)


class TraceReader(Iterator[Request]):
    """The requests of a trace in order of time; ``notes`` says what was done to them, ``rows`` how many came so far."""

    def __init__(self, requests: Iterator[Request], format: str, notes: tuple[str, ...]) -> None:
        self._requests, self.format, self.notes, self.rows = requests, format, notes, 0

    def __next__(self) -> Request:
        request = next(self._requests)
        self.rows += 1
        return request


def read_trace(
    path: str | Path,
    format: str | None = None,
    *,
    spread_ticks: bool = True,
    seed: int = 0,
    limit: int | None = None,
    sessions_per_s: float = SESSIONS_PER_S,
) -> TraceReader:
    """The requests of a trace file, plain or gzip, in order of time, row by row: memory does not grow with the file.

    ``format``: one of FORMATS; None: told from the first row. ``spread_ticks``: where the clock ticks coarsely (see
    ``find_ticks``; the file's instants are read once beforehand) spread the requests within their tick, seeded; memory then
    holds the requests of one tick. ``sessions_per_s``: claude-code only. ``limit``: stop after so many requests.
    Raises InputError with path, line, field, value and rule; what lies behind the first bad row is never read.

    >>> import tempfile
    >>> p = Path(tempfile.mkdtemp()) / "t.jsonl"
    >>> _ = p.write_text('{"arrived_at_s": 0, "prompt": [["doc", 300]], "output": ["a", 20]}\\n')
    >>> [request.prompt[0].tokens for request in read_trace(p)]
    [300]
    """
    format = known_format(path, format)
    require_number("sessions_per_s", sessions_per_s, above=0)
    if limit is not None:
        require_count("limit", limit, at_least=0)
    if format == "claude-code":
        gap = f"{1 / sessions_per_s:.4g} s"
        notes = [f"sessions start by a Poisson stream with a mean gap of {gap}, seed {seed}"]
        requests = merged_sessions(path, sessions_per_s, seed)
    else:
        ticks = trace_ticks(path, format)
        requests = file_rows(path, format)
        notes = [] if ticks.tick_s is None else [ticks.note(spread_ticks, seed)]
        if spread_ticks and ticks.tick_s is not None:
            requests = spread(requests, ticks.tick_s, seed)
    requests = _at_least_one(requests, path)
    return TraceReader(requests if limit is None else islice(requests, limit), format, tuple(notes))


def known_format(path: str | Path, format: str | None) -> str:
    """``format`` checked, or told from the first row; the file is opened once to see that it can be.

    >>> known_format(__file__, "mooncake")
    'mooncake'
    """
    open_file(path).close()
    if format is None:
        return guess_format(path)
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    return format


def _at_least_one(requests: Iterator[Request], path: str | Path) -> Iterator[Request]:
    first = next(requests, None)
    if first is None:
        raise _empty(path)
    yield first
    yield from requests


def file_rows(path: str | Path, format: str, *, in_order: bool = True) -> Iterator[Request]:
    """Requests in file order, as they stand there (every format but claude-code); ``in_order``: no row may be before the one above.

    >>> next(file_rows("no-such-file", "mooncake"))
    Traceback (most recent call last):
    simcache.errors.InputError: path(='no-such-file') does not exist.
    """
    lines: Iterator[tuple[int, object]]
    read: RowReader
    if format == "azure":
        lines, read = _azure(path)
    elif format == "segments":
        lines, read = document_rows(path, "requests", LONGEST_LINE), segments_row
    elif format == "lmcache":
        lines, read = json_lines(path, LONGEST_SESSION_LINE), lmcache_reader()
    else:
        lines, read = json_lines(path), mooncake_row if format == "mooncake" else simcache_row
    last_s = 0.0
    for index, (line, row) in enumerate(lines):
        try:
            request = read(row, index)
            if in_order and request.arrived_at_s < last_s:
                rule = f"must not be before the row above it ({last_s:.9g} s)"
                raise InputError(_TIME_FIELD[format], request.arrived_at_s, rule, "Sort the trace by time.")
        except InputError as problem:
            raise InputError(problem.name, problem.value, problem.rule, problem.way_out, path=path, line=line) from None
        last_s = request.arrived_at_s
        yield request


_TIME_FIELD: Final = {
    "azure": "TIMESTAMP",
    "lmcache": "timestamp",
    "mooncake": "timestamp",
    "segments": "t",
    "simcache": "arrived_at_s",
}


def _azure(path: str | Path) -> tuple[Iterator[tuple[int, str]], RowReader]:
    lines = numbered_lines(path)
    line, header = next(lines, (1, ""))
    if not header:
        raise _empty(path)
    try:
        return lines, azure_reader(header)
    except InputError as problem:
        raise InputError(problem.name, problem.value, problem.rule, problem.way_out, path=path, line=line) from None


_NUMBER: Final = r'"\s*:\s*(-?[0-9][-+0-9.eE]{0,40})\s*[,}]'


def trace_ticks(path: str | Path, format: str) -> Ticks:
    """How the arrival instants of a file are tied, from one cheap pass over its instants that checks nothing else.

    >>> import tempfile
    >>> p = Path(tempfile.mkdtemp()) / "t.jsonl"
    >>> _ = p.write_text("".join('{"timestamp": %d}\\n' % t for t in (0, 0, 3000, 3000, 6000, 6000)))
    >>> trace_ticks(p, "mooncake").tick_s
    3.0
    """
    return find_ticks(_instants_s(path, format))


def _instants_s(path: str | Path, format: str) -> Iterator[float]:
    try:
        if format in ("azure", "segments"):
            for request in file_rows(path, format):
                yield request.arrived_at_s
            return
        search = re.compile('"' + _TIME_FIELD[format] + _NUMBER).search
        per_s = 1.0 if format == "simcache" else 1000.0
        for _, text in numbered_lines(path, LONGEST_LINE if format != "lmcache" else LONGEST_SESSION_LINE):
            match = search(text)
            if match:
                yield float(match[1]) / per_s
    except ValueError:  # a broken file or row, or a number that is none: the reader comes to the same place and says so
        return


@dataclass(frozen=True, kw_only=True)
class TraceWorkload:
    """The requests of a trace file at the instants they really came (an open loop); fields as in ``read_trace``.

    >>> TraceWorkload(path="conversation_trace.jsonl", format="mooncake").spread_ticks
    True
    """

    path: str | Path
    format: str | None = None
    spread_ticks: bool = True
    limit: int | None = None
    sessions_per_s: float = SESSIONS_PER_S

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, Path)) or not str(self.path) or "\0" in str(self.path):
            raise InputError("path", self.path, "must name a file")
        if self.format is not None and self.format not in FORMATS:
            raise UnknownNameError("format", self.format, FORMATS)
        if not isinstance(self.spread_ticks, bool):
            raise InputError("spread_ticks", self.spread_ticks, "must be true or false")
        if self.limit is not None:
            require_count("limit", self.limit)
        require_number("sessions_per_s", self.sessions_per_s, above=0)

    @property
    def not_stationary(self) -> str:
        """Its beginning is data."""
        return "a trace replays one stretch of time, and its beginning belongs to it"

    def requests(self, seed: int) -> TraceReader:
        """Requests in order of ``arrived_at_s``, streamed from the file; the reader's ``notes`` say what was done to them."""
        return read_trace(
            self.path,
            self.format,
            spread_ticks=self.spread_ticks,
            seed=seed,
            limit=self.limit,
            sessions_per_s=self.sessions_per_s,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What reading does to the trace, for every seed; reads the file's instants each time it is asked."""
        format = known_format(self.path, self.format)
        if format == "claude-code":
            return (f"sessions start by a Poisson stream with a mean gap of {1 / self.sessions_per_s:.4g} s",)
        ticks = trace_ticks(self.path, format)
        return () if ticks.tick_s is None else (ticks.note(self.spread_ticks),)
