"""Rows of the trace formats -> Requests: pure functions that check one parsed row and say which field breaks which rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from itertools import repeat
from typing import Any, Final

from ..errors import InputError, UnknownNameError
from ..prompt import KINDS, Prompt, Request, Segment

MOST_TOKENS: Final = 1_000_000_000
"""Tokens one segment, prompt or output may have."""

LATEST_S: Final = 4e9
"""The last instant a trace may name, in seconds (the year 2096 as Unix time): the engine counts int64 nanoseconds."""

MOST_ID: Final = 2**63 - 1

Row = dict[str, Any]
RowReader = Callable[[Any, int], Request]
"""(parsed row, index of the row from 0) -> Request; raises InputError with the field's name, value and rule, without a place."""

_new_segment: Final = tuple.__new__


def instant_s(name: str, value: object, per_s: float = 1.0) -> float:
    """A checked instant in seconds from a number of which ``per_s`` make a second.

    >>> instant_s("timestamp", 1500, per_s=1000)
    1.5
    """
    if type(value) is not int and type(value) is not float:
        raise InputError(name, value, "must be a number")
    if not 0 <= value <= LATEST_S * per_s:  # NaN fails too
        rule = "must be at least 0" if value < 0 else f"must be finite and at most {LATEST_S * per_s:g}"
        raise InputError(name, value, rule)
    return value / per_s


def count(name: str, value: object, most: int = MOST_TOKENS) -> int:
    """A checked whole number of at least 0 (bool and 3.0 are none).

    >>> count("input_length", 7)
    7
    """
    if type(value) is not int:
        raise InputError(name, value, "must be a whole number")
    if not 0 <= value <= most:
        raise InputError(name, value, "must be at least 0" if value < 0 else f"must be at most {most:,}")
    return value


def fields(row: object, needed: tuple[str, ...]) -> Row:
    """``row`` as a dict that has every one of ``needed``, else InputError.

    >>> fields({"t": 0}, ("t",))
    {'t': 0}
    """
    if type(row) is not dict:
        raise InputError("row", row, "must be a JSON object")
    for name in needed:
        if name not in row:
            raise InputError(name, None, "is missing", f"A row needs {', '.join(needed)}.")
    return row


def hash_ids(value: object) -> list[int]:
    """A checked list of whole 64-bit block ids.

    >>> hash_ids([0, 1])
    [0, 1]
    """
    if type(value) is not list:
        raise InputError("hash_ids", value, "must be a list of whole numbers")
    if not set(map(type, value)) <= {int}:
        position = next(i for i, each in enumerate(value) if type(each) is not int)
        raise InputError(f"hash_ids[{position}]", value[position], "must be a whole number")
    if value and not (max(value) <= MOST_ID and min(value) >= 0):
        position = next(i for i, each in enumerate(value) if not 0 <= each <= MOST_ID)
        raise InputError(f"hash_ids[{position}]", value[position], "must be at least 0 and below 2**63")
    return value


def block_segments(ids: list[int], block_tokens: int) -> list[Segment]:
    """One segment of ``block_tokens`` tokens per id.

    >>> block_segments([7], 512)
    [Segment(key=7, tokens=512)]
    """
    return list(map(_new_segment, repeat(Segment), zip(ids, repeat(block_tokens))))


MOONCAKE_FIELDS: Final = ("timestamp", "input_length", "output_length", "hash_ids")


def check_mooncake(row: object, block_tokens: int = 512) -> tuple[float, int, int, list[int]]:
    """(instant in s, input tokens, output tokens, ids) of a Mooncake row whose ids cover its input exactly.

    >>> check_mooncake({"timestamp": 1500, "input_length": 600, "output_length": 3, "hash_ids": [4, 9]})
    (1.5, 600, 3, [4, 9])
    """
    row = fields(row, MOONCAKE_FIELDS)
    at_s = instant_s("timestamp", row["timestamp"], 1000)
    tokens = count("input_length", row["input_length"])
    out = count("output_length", row["output_length"])
    ids = hash_ids(row["hash_ids"])
    n = len(ids)
    if not (n - 1) * block_tokens < tokens <= n * block_tokens:
        low = max(0, (n - 1) * block_tokens + 1)
        raise InputError("input_length", tokens, f"must lie in {low}..{n * block_tokens} for {n} hash_ids of {block_tokens} tokens")
    return at_s, tokens, out, ids


def mooncake_row(row: object, index: int) -> Request:
    """A Mooncake row: id h is ``Segment(h, 512)``, the last one cut to ``input_length``; the output is nobody else's.

    >>> mooncake_row({"timestamp": 0, "input_length": 600, "output_length": 3, "hash_ids": [4, 9]}, 0).prompt
    (Segment(key=4, tokens=512), Segment(key=9, tokens=88))
    """
    at_s, tokens, out, ids = check_mooncake(row)
    segments = block_segments(ids, 512)
    if ids:
        segments[-1] = Segment(ids[-1], tokens - 512 * (len(ids) - 1))
    return Request(at_s, tuple(segments), Segment(f"out{index}", out))


def check_lmcache(row: object, block_tokens: int = 16) -> tuple[float, int, int, list[int], str]:
    """(instant in s, input tokens, output tokens, ids of full blocks, session) of an LMCache agent-trace row.

    >>> check_lmcache({"timestamp": 0.5, "input_length": 20, "output_length": 0, "hash_ids": [3], "session_id": 7})
    (0.0005, 20, 0, [3], '7')
    """
    row = fields(row, (*MOONCAKE_FIELDS, "session_id"))
    at_s = instant_s("timestamp", row["timestamp"], 1000)
    tokens = count("input_length", row["input_length"])
    out = count("output_length", row["output_length"])
    ids = hash_ids(row["hash_ids"])
    if tokens < len(ids) * block_tokens:
        raise InputError(
            "input_length", tokens, f"must be at least {len(ids) * block_tokens}: {len(ids)} full blocks of {block_tokens} tokens"
        )
    session = row["session_id"]
    if type(session) is not int and type(session) is not str:
        raise InputError("session_id", session, "must be a whole number or a string")
    if type(session) is int:
        count("session_id", session, MOST_ID)
    return at_s, tokens, out, ids, str(session)


def lmcache_reader() -> RowReader:
    """A reader of LMCache agent-trace rows: ids of full 16-token blocks, then what no id covers as a segment of its own.

    It counts turns per session, so its memory follows the number of sessions.

    >>> lmcache_reader()({"timestamp": 0, "input_length": 20, "output_length": 0, "hash_ids": [3], "session_id": 7}, 0).prompt
    (Segment(key=3, tokens=16), Segment(key='tail0', tokens=4))
    """
    turns: dict[str, int] = {}

    def read(row: object, index: int) -> Request:
        at_s, tokens, out, ids, session = check_lmcache(row)
        segments = block_segments(ids, 16)
        if tokens > 16 * len(ids):
            segments.append(Segment(f"tail{index}", tokens - 16 * len(ids)))
        turn = turns.get(session, 0)
        turns[session] = turn + 1
        return Request(at_s, tuple(segments), Segment(f"out{index}", out), session=session, turn=turn)

    return read


def _segment(name: str, value: object) -> Segment:
    if type(value) is not list or len(value) != 2:
        raise InputError(name, value, "must be [key, tokens]")
    key, tokens = value
    if type(key) is not str and type(key) is not int:
        raise InputError(f"{name}[0]", key, "must be a string or a whole number")
    if type(key) is int and not -MOST_ID <= key <= MOST_ID:
        raise InputError(f"{name}[0]", key, "must lie within 64 bits")
    return _new_segment(Segment, (key, count(f"{name}[1]", tokens)))


def _prompt(name: str, value: object) -> Prompt:
    if type(value) is not list:
        raise InputError(name, value, "must be a list of [key, tokens]")
    prompt = tuple(_segment(f"{name}[{i}]", each) for i, each in enumerate(value))
    tokens = sum(segment.tokens for segment in prompt)
    if tokens > MOST_TOKENS:
        raise InputError(name, tokens, f"must have at most {MOST_TOKENS:,} tokens in all")
    return prompt


def _text_or_none(name: str, value: object) -> str | None:
    if value is not None and type(value) is not str:
        raise InputError(name, value, "must be a string or null")
    return value


SIMCACHE_FIELDS: Final = ("arrived_at_s", "session", "turn", "kind", "priority", "prompt", "output", "salt")


def simcache_row(row: object, index: int = 0) -> Request:
    """A row of our own JSONL; ``arrived_at_s``, ``prompt`` and ``output`` are needed, the rest defaults as in Request.

    >>> simcache_row({"arrived_at_s": 0, "prompt": [["doc", 300]], "output": ["a", 20]}).prompt
    (Segment(key='doc', tokens=300),)
    """
    row = fields(row, ("arrived_at_s", "prompt", "output"))
    for name in row:
        if name not in SIMCACHE_FIELDS:
            raise UnknownNameError("field", name, SIMCACHE_FIELDS)
    kind = row.get("kind", "user")
    if kind not in KINDS or type(kind) is not str:
        raise UnknownNameError("kind", kind, KINDS)
    priority = row.get("priority", 0)
    if type(priority) is not int or not -MOST_ID <= priority <= MOST_ID:
        raise InputError("priority", priority, "must be a whole number of 64 bits")
    return Request(
        instant_s("arrived_at_s", row["arrived_at_s"]),
        _prompt("prompt", row["prompt"]),
        _segment("output", row["output"]),
        kind,
        priority,
        _text_or_none("session", row.get("session")),
        count("turn", row.get("turn", 0), MOST_ID),
        None,
        _text_or_none("salt", row.get("salt")),
    )


def segments_row(row: object, index: int = 0) -> Request:
    """A row of the engine streams (``kind, t, segs, out, salt``): ``warm`` stays a warm-up, every other kind is a user's.

    >>> segments_row({"kind": "warm", "t": 1, "segs": [[5, 24]], "out": [6, 1], "salt": None}).kind
    'warm'
    """
    row = fields(row, ("t", "segs", "out"))
    kind = row.get("kind")
    return Request(
        instant_s("t", row["t"]),
        _prompt("segs", row["segs"]),
        _segment("out", row["out"]),
        "warm" if kind == "warm" else "user",
        salt=_text_or_none("salt", row.get("salt")),
    )


AZURE_COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def azure_reader(header: str) -> RowReader:
    """A reader of Azure LLM-trace CSV lines: one segment of its own per request, seconds from the first row.

    >>> read = azure_reader("TIMESTAMP,ContextTokens,GeneratedTokens")
    >>> read("2023-11-16 18:15:46.6805900,374,44", 0), read("2023-11-16 18:15:50.9951690,396,109", 1).arrived_at_s
    (Request(arrived_at_s=0.0, prompt=(Segment(key='in0', tokens=374),), output=Segment(key='out0', tokens=44), ...), 4.314579)
    """
    names = [name.strip() for name in header.split(",")]
    for name in AZURE_COLUMNS:
        if names.count(name) != 1:
            raise InputError("header", header, f"must have one column {name}", f"Expected {','.join(AZURE_COLUMNS)}.")
    stamp, context, generated = (names.index(name) for name in AZURE_COLUMNS)
    first_ns: int | None = None
    zoned = False

    def number(name: str, text: str) -> int:
        text = text.strip()
        if not (text.isascii() and text.isdigit()):
            raise InputError(name, text, "must be a whole number of at least 0")
        return count(name, int(text) if len(text) < 20 else MOST_ID)

    def read(row: object, index: int) -> Request:
        nonlocal first_ns, zoned
        cells = str(row).split(",")
        if len(cells) != len(names):
            raise InputError("row", row, f"must have {len(names)} columns")
        text = cells[stamp].strip()
        match = _STAMP.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            instant = datetime.fromisoformat(match[1] + (match[3] or ""))
        except ValueError:
            raise InputError("TIMESTAMP", text, "must be a date and time like 2023-11-16 18:15:46.6805900") from None
        if first_ns is None:
            zoned = match[3] is not None
        if zoned != (match[3] is not None):
            raise InputError("TIMESTAMP", text, "must carry a time zone in all rows or in none")
        since = instant - (_EPOCH_UTC if zoned else _EPOCH)
        ns = (since.days * 86400 + since.seconds) * 10**9 + int((match[2] or "0").ljust(9, "0"))
        if first_ns is None:
            first_ns = ns
        at_s = (ns - first_ns) / 1e9
        if at_s < 0:
            raise InputError("TIMESTAMP", text, "must not lie before the first row")
        instant_s("TIMESTAMP", at_s)
        tokens = number("ContextTokens", cells[context])
        return Request(at_s, (Segment(f"in{index}", tokens),), Segment(f"out{index}", number("GeneratedTokens", cells[generated])))

    return read
