"""Traces as flat arrays of block ids, for replays without a clock. Loading is half of such a replay: columns, checked in bulk."""

from __future__ import annotations

import json
import warnings
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, require_count
from .block_identity import BlockIdentity
from .claude_code import Session, read_sessions, session_segments
from .json_rows import parsed
from .lines import LONGEST_LINE, LONGEST_SESSION_LINE, line_batches, numbered_lines
from .trace_rows import LATEST_S, MOST_TOKENS, check_lmcache, check_mooncake
from .traces import file_rows, known_format

NATIVE_BLOCK_TOKENS: Final = {"mooncake": 512, "lmcache": 16, "claude-code": 64, "simcache": 16, "segments": 16, "azure": 16}
"""Tokens of a block of each format, taken when no other size is asked for."""

_BATCH_REQUESTS: Final = 4096
_scan = json.scanner.make_scanner(json.JSONDecoder())  # type: ignore[attr-defined]  # public, but missing from the stubs

Ints = NDArray[np.int64]


class TraceWarning(UserWarning):
    """A trace contradicts itself, and it can be read all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTrace:
    """Requests as block ids: those of request i are ``ids[starts[i]:starts[i + 1]]``. All arrays are read-only.

    ``input_tokens``, ``output_tokens`` int64[n], ``arrived_at_s`` float64[n]. ``skipped``: what was no request, reason -> lines.

    >>> one = BlockTrace.of(16, [[7, 8]], [30], [1], [0.0])
    >>> len(one), one.ids[one.starts[0] : one.starts[1]].tolist()
    (1, [7, 8])
    """

    block_tokens: int
    ids: Ints
    starts: Ints
    input_tokens: Ints
    output_tokens: Ints
    arrived_at_s: NDArray[np.float64]
    skipped: dict[str, int]

    def __post_init__(self) -> None:
        for column in (self.ids, self.starts, self.input_tokens, self.output_tokens, self.arrived_at_s):
            column.setflags(write=False)

    def __len__(self) -> int:
        return len(self.input_tokens)

    @classmethod
    def of(
        cls,
        block_tokens: int,
        ids: Iterable[Iterable[int]],
        input_tokens: Iterable[int],
        output_tokens: Iterable[int],
        arrived_at_s: Iterable[float],
    ) -> BlockTrace:
        """From one list of ids per request.

        >>> BlockTrace.of(16, [[], [3]], [0, 9], [1, 1], [0.0, 1.0]).starts.tolist()
        [0, 0, 1]
        """
        lists = [list(each) for each in ids]
        return cls(
            block_tokens=block_tokens,
            ids=np.array(list(chain.from_iterable(lists)), dtype=np.int64),
            starts=_starts(np.array(list(map(len, lists)), dtype=np.int64)),
            input_tokens=np.array(list(input_tokens), dtype=np.int64),
            output_tokens=np.array(list(output_tokens), dtype=np.int64),
            arrived_at_s=np.array(list(arrived_at_s), dtype=np.float64),
            skipped={},
        )

    @property
    def counts(self) -> dict[str, Any]:
        """``{"read": requests, "skipped": {reason: lines}}``."""
        return {"read": len(self), "skipped": dict(self.skipped)}


def _starts(lengths: Ints) -> Ints:
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def read_block_trace(path: str | Path, format: str | None = None, block_tokens: int | None = None) -> BlockTrace:
    """A whole trace file as flat arrays, in file order; instants as in the file, never spread.

    ``block_tokens`` None: the format's own (NATIVE_BLOCK_TOKENS), and ids as the file gives them, the partial last block of a
    Mooncake row included; claude-code ids become unlike those of other sessions. Any other size, and the formats made of
    segments, number the blocks by their content (see BlockIdentity): the partial last block is a block too, except in lmcache
    and claude-code, which name full blocks only. claude-code instants count from their session's start.
    Errors as in ``read_trace``; a hash chain that contradicts itself gets one TraceWarning with its first line.

    >>> import tempfile
    >>> p = Path(tempfile.mkdtemp()) / "t.jsonl"
    >>> _ = p.write_text('{"timestamp": 0, "input_length": 600, "output_length": 3, "hash_ids": [4, 9]}\\n')
    >>> read_block_trace(p).ids.tolist()
    [4, 9]
    """
    format = known_format(path, format)
    if block_tokens is not None:
        require_count("block_tokens", block_tokens)
    own = NATIVE_BLOCK_TOKENS[format]
    if format == "mooncake" and block_tokens is not None and block_tokens < own and own % block_tokens == 0:
        trace = read_block_trace(path, format)
        if int(trace.ids.max(initial=0)) < 2**62 // own:
            return _finer(trace, block_tokens)
    ids, lengths, inputs, outputs, arrived = array("q"), array("q"), array("q"), array("q"), array("d")
    skipped: dict[str, int] = {}
    size = 0
    for batch in block_batches(path, format, block_tokens):
        size = batch.block_tokens
        for whole, part in (
            (ids, batch.ids),
            (lengths, np.diff(batch.starts)),
            (inputs, batch.input_tokens),
            (outputs, batch.output_tokens),
            (arrived, batch.arrived_at_s),
        ):
            whole.frombytes(part.tobytes())
        for reason, lines in batch.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + lines
    trace = BlockTrace(
        block_tokens=size,
        ids=np.frombuffer(ids, dtype=np.int64),
        starts=_starts(np.frombuffer(lengths, dtype=np.int64)),
        input_tokens=np.frombuffer(inputs, dtype=np.int64),
        output_tokens=np.frombuffer(outputs, dtype=np.int64),
        arrived_at_s=np.frombuffer(arrived, dtype=np.float64),
        skipped=skipped,
    )
    if format in ("mooncake", "lmcache") and size == NATIVE_BLOCK_TOKENS[format]:
        _warn_of_contradiction(path, trace)
    return trace


def _finer(trace: BlockTrace, block_tokens: int) -> BlockTrace:
    """Mooncake blocks cut into ``block_tokens`` each: what BlockIdentity would tell apart, in one sweep over arrays."""
    parts = trace.block_tokens // block_tokens
    lengths = -(-trace.input_tokens // block_tokens)
    starts = _starts(lengths)
    fine = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)  # position of each block in its request
    fine += np.repeat(trace.starts[:-1] * parts, lengths)
    ids = trace.ids[fine // parts] * parts + fine % parts
    rest = trace.input_tokens % block_tokens
    partial = np.flatnonzero(rest)
    last = starts[partial + 1] - 1
    # A partial block is another block than the full one, and than one of another length: new numbers above all others.
    _, numbers = np.unique(np.stack([ids[last], rest[partial]]), axis=1, return_inverse=True)
    ids[last] = (int(trace.ids.max(initial=0)) + 1) * parts + numbers.reshape(-1)
    return replace(trace, block_tokens=block_tokens, ids=ids, starts=starts)


def block_batches(path: str | Path, format: str | None = None, block_tokens: int | None = None) -> Iterator[BlockTrace]:
    """The same, some thousand requests at a time: with the format's own block size, memory does not grow with the file.

    >>> next(block_batches("no-such-file", "mooncake"))
    Traceback (most recent call last):
    simcache.errors.InputError: path(='no-such-file') does not exist.
    """
    format = known_format(path, format)
    if block_tokens is not None:
        require_count("block_tokens", block_tokens)
    native = block_tokens is None or block_tokens == NATIVE_BLOCK_TOKENS[format]
    if format in ("mooncake", "lmcache") and native:
        batches = _hashed_batches(path, format)
    elif format == "claude-code":
        batches = _session_batches(path, block_tokens)
    else:
        batches = _identified_batches(path, format, block_tokens or NATIVE_BLOCK_TOKENS[format])
    requests = 0
    for batch in batches:
        requests += len(batch)
        yield batch
    if not requests:
        raise InputError("file", Path(path).name, "must hold at least one request", path=path, line=1)


def _hashed_batches(path: str | Path, format: str) -> Iterator[BlockTrace]:
    longest = LONGEST_LINE if format == "mooncake" else LONGEST_SESSION_LINE
    size = NATIVE_BLOCK_TOKENS[format]
    last_s = 0.0
    for first, lines in line_batches(path, longest):
        batch = _quick_batch(lines, format, size, last_s) or _checked_batch(lines, format, size, last_s, path, first)
        if len(batch):
            last_s = float(batch.arrived_at_s[-1])
        yield batch


def _quick_batch(lines: list[str], format: str, size: int, last_s: float) -> BlockTrace | None:
    """The rows of a batch if every rule of ``check_mooncake`` or ``check_lmcache`` holds for all of them, else None."""
    try:
        scanned = [_scan(line, 0) for line in lines]
        if any(end != len(line) for (_, end), line in zip(scanned, lines, strict=True)):
            return None
        rows = [row for row, _ in scanned]
        arrived = [row["timestamp"] for row in rows]
        inputs = [row["input_length"] for row in rows]
        outputs = [row["output_length"] for row in rows]
        lists = [row["hash_ids"] for row in rows]
        if format == "lmcache" and not all(type(row["session_id"]) is int and 0 <= row["session_id"] < 2**63 for row in rows):
            return None
        flat = list(chain.from_iterable(lists))
        if not (
            set(map(type, arrived)) <= {int, float}
            and set(map(type, inputs)) == set(map(type, outputs)) == {int}
            and set(map(type, lists)) == {list}
            and set(map(type, flat)) <= {int}
        ):
            return None
        batch = BlockTrace(
            block_tokens=size,
            ids=np.array(flat, dtype=np.int64),
            starts=_starts(np.array(list(map(len, lists)), dtype=np.int64)),
            input_tokens=np.array(inputs, dtype=np.int64),
            output_tokens=np.array(outputs, dtype=np.int64),
            arrived_at_s=np.array(arrived, dtype=np.float64) / 1000,
            skipped={},
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, StopIteration):
        return None
    covered = np.diff(batch.starts) * size
    gaps = np.diff(batch.arrived_at_s, prepend=last_s)
    holds = (
        bool(np.all(gaps >= 0))  # false for NaN
        and batch.arrived_at_s[-1] <= LATEST_S
        and int(batch.output_tokens.min()) >= 0
        and max(int(batch.input_tokens.max()), int(batch.output_tokens.max())) <= MOST_TOKENS
        and (not flat or int(batch.ids.min()) >= 0)
        and bool(np.all(batch.input_tokens >= covered if format == "lmcache" else batch.input_tokens <= covered))
        and (format == "lmcache" or bool(np.all(batch.input_tokens > covered - size)))
    )
    return batch if holds else None


def _checked_batch(lines: list[str], format: str, size: int, last_s: float, path: str | Path, first: int) -> BlockTrace:
    """The rows of a batch one by one: raises at the first broken rule, counts blank lines."""
    arrived: list[float] = []
    inputs: list[int] = []
    outputs: list[int] = []
    lists: list[list[int]] = []
    blank = 0
    for line, text in enumerate(lines, first):
        if not text or text.isspace():
            blank += 1
            continue
        row = parsed(text, path, line)
        try:
            at_s, tokens, out, ids = check_mooncake(row) if format == "mooncake" else check_lmcache(row)[:4]
            if at_s < last_s:
                raise InputError("timestamp", row["timestamp"], f"must not be before the row above it ({last_s * 1000:.9g})")
        except InputError as problem:
            raise InputError(problem.name, problem.value, problem.rule, problem.way_out, path=path, line=line) from None
        last_s = at_s
        arrived.append(at_s)
        inputs.append(tokens)
        outputs.append(out)
        lists.append(ids)
    batch = BlockTrace.of(size, lists, inputs, outputs, arrived)
    if blank:
        batch.skipped["blank line"] = blank
    return batch


def _session_batches(path: str | Path, block_tokens: int | None) -> Iterator[BlockTrace]:
    base = 0
    own: int | None = None
    identity: BlockIdentity | None = None
    for session in read_sessions(path):
        if own is None:
            own = session.block_tokens
            if block_tokens is not None and block_tokens != own:
                identity = BlockIdentity(block_tokens, full_only=True)
        if session.block_tokens != own:
            raise InputError("block_size", session.block_tokens, f"must be {own} as in the first session", path=path)
        if identity is None:
            yield _session_batch(session, base)
        else:
            ids = [identity.ids(session_segments(row, session.block_tokens, base)) for row in session.rows]
            inputs, outputs, arrived = zip(*((r.input_tokens, r.output_tokens, r.at_s) for r in session.rows), strict=True)
            yield BlockTrace.of(identity.block_tokens, ids, inputs, outputs, arrived)
        base += session.ids


def _session_batch(session: Session, base: int) -> BlockTrace:
    rows = session.rows
    runs = np.array([run for row in rows for run in row.runs], dtype=np.int64).reshape(-1, 2)
    ends = np.cumsum(runs[:, 1])
    total = int(ends[-1]) if len(ends) else 0
    ids = np.arange(total, dtype=np.int64)
    ids += np.repeat(runs[:, 0] + base - (ends - runs[:, 1]), runs[:, 1])
    return BlockTrace(
        block_tokens=session.block_tokens,
        ids=ids,
        starts=_starts(np.array([sum(n for _, n in row.runs) for row in rows], dtype=np.int64)),
        input_tokens=np.array([row.input_tokens for row in rows], dtype=np.int64),
        output_tokens=np.array([row.output_tokens for row in rows], dtype=np.int64),
        arrived_at_s=np.array([row.at_s for row in rows], dtype=np.float64),
        skipped={},
    )


def _identified_batches(path: str | Path, format: str, block_tokens: int) -> Iterator[BlockTrace]:
    identity = BlockIdentity(block_tokens, full_only=format == "lmcache")
    requests = file_rows(path, format, in_order=format != "segments")
    while batch := list(islice(requests, _BATCH_REQUESTS)):
        lists = [
            identity.ids(r.prompt if format != "lmcache" else [s for s in r.prompt if type(s.key) is int], r.salt) for r in batch
        ]
        inputs = [sum(segment.tokens for segment in request.prompt) for request in batch]
        lengths = np.array(list(map(len, lists)), dtype=np.int64)
        flat = array("q")
        for each in lists:
            flat.extend(each)
        yield BlockTrace(
            block_tokens=block_tokens,
            ids=np.frombuffer(flat, dtype=np.int64),
            starts=_starts(lengths),
            input_tokens=np.array(inputs, dtype=np.int64),
            output_tokens=np.array([request.output.tokens for request in batch], dtype=np.int64),
            arrived_at_s=np.array([request.arrived_at_s for request in batch], dtype=np.float64),
            skipped={},
        )


def _warn_of_contradiction(path: str | Path, trace: BlockTrace) -> None:
    """One warning where an id follows another id, or none, than at its first appearance."""
    ids = trace.ids
    if not len(ids):
        return
    before = np.empty_like(ids)
    before[1:] = ids[:-1]
    before[trace.starts[:-1][np.diff(trace.starts) > 0]] = -1
    place = ids if int(ids.max()) < 4 * len(ids) else np.unique(ids, return_inverse=True)[1]
    first_before = np.empty(int(place.max()) + 1, dtype=np.int64)
    first_before[place[::-1]] = before[::-1]  # of equal places the last one written stays: the first of the file
    wrong = np.flatnonzero(first_before[place] != before)
    if not len(wrong):
        return
    at = int(wrong[0])
    row = int(np.searchsorted(trace.starts, at, side="right")) - 1
    line, _ = next(islice(numbered_lines(path, LONGEST_SESSION_LINE), row, None))
    here, there = (f"id {parent}" if parent >= 0 else "no id" for parent in (int(before[at]), int(first_before[place[at]])))
    warnings.warn(
        f"{path}:{line}: hash_ids: id {int(ids[at])} follows {here}, at its first appearance {there}: "
        f"the hash chain contradicts itself ({len(wrong):,} such places); replayed as it is.",
        TraceWarning,
        stacklevel=3,
    )
