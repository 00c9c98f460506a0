"""Coding-agent sessions (one session a line): block ids out of keep/tail, runs of ids as segments, sessions onto one clock."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import InputError
from ..prompt import Request, Segment
from ..streams import stream
from .json_rows import json_lines
from .lines import LONGEST_SESSION_LINE
from .trace_rows import MOST_TOKENS, count, fields, instant_s

Run = tuple[int, int]
"""(first id, number of ids) of consecutive block ids."""

_CELLS: Final = ("t_s", "input_tokens", "output_tokens", "api_time_s", "think_time_s", "type", "stop", "depth", "keep", "tail")
_MOST_PRIVATE_ID: Final = 2**40


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One request of a session: ``at_s`` from the session's start, ``runs`` its block ids as maximal runs, private ids."""

    at_s: float
    input_tokens: int
    output_tokens: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """One session in file order; ``ids`` is one more than its largest block id."""

    name: str
    block_tokens: int
    rows: tuple[SessionRow, ...]
    ids: int


def _kept(runs: tuple[Run, ...], keep: int) -> list[Run]:
    kept: list[Run] = []
    for first, n in runs:
        if keep <= 0:
            break
        kept.append((first, min(n, keep)))
        keep -= n
    return kept


def _append(runs: list[Run], first: int, n: int) -> None:
    if runs and runs[-1][0] + runs[-1][1] == first:
        runs[-1] = (runs[-1][0], runs[-1][1] + n)
    elif n:
        runs.append((first, n))


def check_session(value: object) -> Session:
    """A checked session from its parsed line; sub-task rows (depth 1) get their parent row's time plus their own.

    >>> first = [0.0, 200, 9, 1.0, 0.0, "n", "tool_use", 0, 0, [[1, 3]]]
    >>> second = [5.0, 300, 9, 1.0, None, "n", "end_turn", 0, 2, [[3, 1], [9, 1]]]
    >>> session = check_session({"id": "s", "block_size": 64, "requests": [first, second]})
    >>> [row.runs for row in session.rows]
    [((1, 3),), ((1, 3), (9, 1))]
    """
    row = fields(value, ("id", "block_size", "requests"))
    if type(row["id"]) is not str:
        raise InputError("id", row["id"], "must be a string")
    block_tokens = count("block_size", row["block_size"])
    if block_tokens < 1:
        raise InputError("block_size", block_tokens, "must be at least 1")
    if type(row["requests"]) is not list:
        raise InputError("requests", row["requests"], "must be a list of rows")
    rows: list[SessionRow] = []
    runs: tuple[Run, ...] = ()
    parent_s = 0.0
    largest = -1
    for i, cells in enumerate(row["requests"]):
        where = f"requests[{i}]"
        if type(cells) is not list or len(cells) != len(_CELLS):
            raise InputError(where, cells, f"must be [{', '.join(_CELLS)}]")
        at_s = instant_s(f"{where}.t_s", cells[0])
        input_tokens = count(f"{where}.input_tokens", cells[1])
        output_tokens = count(f"{where}.output_tokens", cells[2])
        if count(f"{where}.depth", cells[7]):
            at_s += parent_s
        elif at_s < parent_s:
            raise InputError(f"{where}.t_s", at_s, f"must not be before the row above it ({parent_s:g})")
        else:
            parent_s = at_s
        blocks = count(f"{where}.keep", cells[8])
        held = sum(n for _, n in runs)
        if blocks > held:
            raise InputError(f"{where}.keep", blocks, f"must be at most the {held} blocks of the row above it")
        grown = _kept(runs, blocks)
        if type(cells[9]) is not list:
            raise InputError(f"{where}.tail", cells[9], "must be a list of [start, count]")
        for run in cells[9]:
            if type(run) is not list or len(run) != 2:
                raise InputError(f"{where}.tail", run, "must be [start, count]")
            first = count(f"{where}.tail start", run[0], _MOST_PRIVATE_ID)
            n = count(f"{where}.tail count", run[1])
            blocks += n
            largest = max(largest, first + n - 1)
            _append(grown, first, n)
        if blocks * block_tokens > input_tokens:
            rule = f"must be at least {blocks * block_tokens}: {blocks} full blocks of {block_tokens} tokens"
            raise InputError(f"{where}.input_tokens", input_tokens, rule)
        runs = tuple(grown)
        rows.append(SessionRow(at_s, input_tokens, output_tokens, runs))
    return Session(row["id"], block_tokens, tuple(rows), largest + 1)


def read_sessions(path: str | Path) -> Iterator[Session]:
    """Sessions in file order; InputError with path and line for a broken one, or when there is none.

    >>> next(read_sessions("no-such-file"))
    Traceback (most recent call last):
    simcache.errors.InputError: path(='no-such-file') does not exist.
    """
    for line, value in json_lines(path, LONGEST_SESSION_LINE):
        try:
            yield check_session(value)
        except InputError as problem:
            raise InputError(problem.name, problem.value, problem.rule, problem.way_out, path=path, line=line) from None


def session_segments(row: SessionRow, block_tokens: int, base: int) -> list[Segment]:
    """Each maximal run of block ids as one segment, keyed by ``base`` plus its first id.

    Two prompts share exactly the blocks whose ids agree: inside a run ids go up by one, so equal first ids agree on the shorter
    run, and where one run stops the other's next id is a different one. ``base`` makes the ids unlike other sessions'.

    >>> session_segments(SessionRow(0.0, 200, 9, ((1, 3),)), 64, 100)
    [Segment(key=101, tokens=192)]
    """
    return [Segment(base + first, n * block_tokens) for first, n in row.runs]


def session_requests(session: Session, base: int, start_s: float) -> list[Request]:
    """The requests of one session in order of time: its blocks as segments, then the tokens that no block covers.

    >>> s = Session("s", 64, (SessionRow(0.0, 200, 9, ((1, 3),)),), 4)
    >>> session_requests(s, 100, 0.0)[0].prompt
    (Segment(key=101, tokens=192), Segment(key='s/tail0', tokens=8))
    """
    requests: list[Request] = []
    for i, row in enumerate(session.rows):
        prompt = session_segments(row, session.block_tokens, base)
        rest = row.input_tokens - sum(segment.tokens for segment in prompt)
        if rest:
            prompt.append(Segment(f"{session.name}/tail{i}", rest))
        output = Segment(f"{session.name}/out{i}", row.output_tokens)
        requests.append(Request(start_s + row.at_s, tuple(prompt), output, session=session.name, turn=i))
    requests.sort(key=_arrival)  # stable: rows of one instant keep the file's order
    return requests


def _arrival(request: Request) -> float:
    return request.arrived_at_s


def merged_sessions(path: str | Path, sessions_per_s: float, seed: int) -> Iterator[Request]:
    """All sessions on one clock: in file order they start by a Poisson stream; memory holds the sessions under way.

    >>> next(merged_sessions("no-such-file", 0.1, 0))
    Traceback (most recent call last):
    simcache.errors.InputError: path(='no-such-file') does not exist.
    """
    rng = stream(seed, "session-starts")
    heap: list[tuple[float, int, int, list[Request]]] = []  # (instant, session, row, its requests): ties in file order
    start_s, base = 0.0, 0
    for number, session in enumerate(read_sessions(path)):
        start_s += float(rng.exponential(1 / sessions_per_s))
        while heap and heap[0][0] < start_s:
            yield _advance(heap)
        requests = session_requests(session, base, start_s)
        base += session.ids
        if base > MOST_TOKENS * 10**9:
            raise InputError("block ids", base, "must stay below 10**18 over all sessions", path=path)
        if requests:
            heapq.heappush(heap, (requests[0].arrived_at_s, number, 0, requests))
    while heap:
        yield _advance(heap)


def _advance(heap: list[tuple[float, int, int, list[Request]]]) -> Request:
    _, number, i, requests = heap[0]
    if i + 1 < len(requests):
        heapq.heapreplace(heap, (requests[i + 1].arrived_at_s, number, i + 1, requests))
    else:
        heapq.heappop(heap)
    return requests[i]
