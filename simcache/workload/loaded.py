"""A trace read once and replayed under many seeds: what a worker process keeps between the runs of a sweep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final

from ..prompt import Request
from . import Workload
from .spreading import spread
from .traces import TraceWorkload, file_rows, known_format, trace_ticks

MOST_SEGMENTS: Final = 2_000_000
"""A trace of more (about 300 MB as objects) is read anew in every run, row by row, so that memory does not grow with it."""


@dataclass(frozen=True, kw_only=True)
class LoadedTrace:
    """The requests of a ``TraceWorkload`` in memory: equal requests and notes for equal seeds, without reading the file."""

    rows: tuple[Request, ...]
    tick_s: float | None
    limit: int | None
    notes: tuple[str, ...]

    def requests(self, seed: int) -> Iterator[Request]:
        """As ``TraceWorkload.requests``."""
        rows = iter(self.rows) if self.tick_s is None else spread(self.rows, self.tick_s, seed)
        return islice(rows, self.limit)


def loaded_once(workload: Workload) -> Workload:
    """``workload`` with its trace in memory, where it is one that fits; the last two traces of this process are kept.

    >>> import tempfile; from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "t.jsonl"
    >>> _ = path.write_text('{"arrived_at_s": 0, "prompt": [["doc", 300]], "output": ["a", 20]}\\n')
    >>> trace = TraceWorkload(path=path)
    >>> list(loaded_once(trace).requests(1)) == list(trace.requests(1))
    True
    """
    if type(workload) is not TraceWorkload:
        return workload
    format = known_format(workload.path, workload.format)
    if format == "claude-code":  # the seed decides when sessions start, so there is nothing that all seeds share
        return workload
    stat = os.stat(workload.path)
    return _loaded(workload, format, stat.st_size, stat.st_mtime_ns) or workload


@lru_cache(maxsize=2)
def _loaded(workload: TraceWorkload, format: str, size: int, mtime_ns: int) -> LoadedTrace | None:
    ticks = trace_ticks(workload.path, format)
    tick_s = ticks.tick_s if workload.spread_ticks else None
    rows: list[Request] = []
    segments = 0
    for request in file_rows(workload.path, format):
        # Of a tick that the limit cuts all is needed, and the row behind it: spreading draws and measures the whole tick.
        if workload.limit is not None and len(rows) > workload.limit and request.arrived_at_s != rows[-1].arrived_at_s:
            rows.append(request)
            break
        rows.append(request)
        segments += len(request.prompt) + 1
        if segments > MOST_SEGMENTS:
            return None
    if not rows:
        return None  # the reader says what is wrong with the file
    return LoadedTrace(rows=tuple(rows), tick_s=tick_s, limit=workload.limit, notes=tuple(workload.notes))
