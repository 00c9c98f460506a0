"""Requests -> trace files of every format, whole or not at all, and a list of what the format could not carry."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, TextIO

from ..errors import InputError, UnknownNameError
from ..prompt import KINDS, Request, Segment, prompt_tokens
from ..whole_files import whole_file
from .block_identity import BlockIdentity
from .filler_text import prompt_text
from .trace_rows import LATEST_S, MOST_TOKENS

_DUMP: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_DEFAULTS: Final = {
    "session": None,
    "turn": 0,
    "kind": "user",
    "priority": 0,
    "salt": None,
    "user": None,
    "organisation": None,
    "shared_segments": None,
    "breakpoints": None,
    "cancelled_after_s": None,
}


def write_trace(requests: Iterable[Request], path: str | Path, format: str) -> list[str]:
    """Write requests in order of time to a new file (gzip when the name ends in .gz) and say what got lost.

    The file appears whole or not at all: it is written beside ``path`` and then renamed. Everything written can be read
    again by ``read_trace``, but for ``aiperf`` and ``vllm-bench``. Memory: that of the requests' distinct content for the
    formats made of block ids, of all rows for claude-code, else constant. Raises InputError for requests out of order, keys
    that JSON cannot hold, and paths that cannot be written.

    >>> import tempfile
    >>> p = Path(tempfile.mkdtemp()) / "t.csv"
    >>> write_trace([Request(0.0, (Segment("doc", 300),), Segment("a", 20))], p, "azure")
    ['content: every prompt becomes its own, nothing is shared']
    """
    if format not in _WRITERS:
        raise UnknownNameError("format", format, _WRITERS)
    checked = _Checked(requests)
    with _text_file(path) as file:
        lost = _WRITERS[format](checked, file)
        if not checked.rows:
            raise InputError("requests", 0, "must be at least one to make a trace")
    return lost


class _Checked(Iterator[Request]):
    """Requests on their way to a file, checked against what the readers accept; counts fields that differ from their default.

    ``answers_return``: some request contains, or generates again, what an earlier one generated.
    """

    def __init__(self, requests: Iterable[Request]) -> None:
        self.requests = iter(requests)
        self.rows = 0
        self.last_s = 0.0
        self.set_fields: Counter[str] = Counter()
        self.answers_return = False
        self._answers: set[Hashable] = set()

    def __next__(self) -> Request:
        request = next(self.requests)
        at_s, where = request.arrived_at_s, f"requests[{self.rows}]"
        if not (type(at_s) in (int, float) and self.last_s <= at_s <= LATEST_S):
            raise InputError(
                f"{where}.arrived_at_s", at_s, f"must be a number from {self.last_s:.9g} (the request before) to {LATEST_S:g}"
            )
        if prompt_tokens(request.prompt) > MOST_TOKENS or request.output.tokens > MOST_TOKENS:
            raise InputError(where, request.prompt, f"must have at most {MOST_TOKENS:,} tokens")
        if request.kind not in KINDS:
            raise UnknownNameError(f"{where}.kind", request.kind, KINDS)
        self.last_s = at_s
        self.rows += 1
        if not self.answers_return:
            known, answer = self._answers, request.output
            self.answers_return = answer.key in known or any(key in known for key, _ in request.prompt)
            if answer.tokens:
                known.add(answer.key)
        for name, default in _DEFAULTS.items():
            if getattr(request, name) != default:
                self.set_fields[name] += 1
        return request

    def lost_fields(self, *kept: str) -> list[str]:
        return [f"{name} of {n:,} requests" for name, n in self.set_fields.items() if name not in kept]


@contextmanager
def _text_file(path: str | Path) -> Iterator[TextIO]:
    with whole_file(path) as partial, open(partial, "xb") as raw:
        zipped = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) if str(path).endswith(".gz") else None
        with io.TextIOWrapper(zipped or raw, encoding="utf-8", newline="\n") as text:
            yield text


def _key(where: str, key: object) -> str | int:
    if type(key) is str or (type(key) is int and abs(key) < 2**63):
        return key
    raise InputError(where, key, "must be a string or a whole number of 64 bits to be written")


def _pairs(i: int, segments: Iterable[Segment]) -> list[list[Any]]:
    return [[_key(f"requests[{i}] segment key", key), tokens] for key, tokens in segments]


def _write_simcache(requests: _Checked, file: TextIO) -> list[str]:
    for i, r in enumerate(requests):
        row = {
            "arrived_at_s": r.arrived_at_s,
            "session": r.session,
            "turn": r.turn,
            "kind": r.kind,
            "priority": r.priority,
            "prompt": _pairs(i, r.prompt),
            "output": _pairs(i, (r.output,))[0],
            "salt": r.salt,
        }
        file.write(_DUMP(row) + "\n")
    return requests.lost_fields("session", "turn", "kind", "priority", "salt")


def _write_segments(requests: _Checked, file: TextIO) -> list[str]:
    file.write('{"doc":"segs = [[segment, tokens], ...]; out = generated segment; salt = cache namespace; t seconds","requests":[')
    keepalives = 0
    for i, r in enumerate(requests):
        keepalives += r.kind == "keepalive"
        row = {
            "kind": "warm" if r.kind == "warm" else "turn",
            "t": r.arrived_at_s,
            "segs": _pairs(i, r.prompt),
            "out": _pairs(i, (r.output,))[0],
            "salt": r.salt,
            "id": i,
        }
        file.write(",\n" * (i > 0) + _DUMP(row))
    file.write("]}\n")
    lost = requests.lost_fields("salt", "kind")
    return lost + ([f"kind keepalive of {keepalives:,} requests (they become turns)"] if keepalives else [])


def _outputs_lost(requests: _Checked) -> list[str]:
    return ["content of outputs: later requests no longer contain them"] if requests.answers_return else []


class _Rounded:
    """Instants in whole units, and how many of them were no such instant before."""

    def __init__(self, per_s: int, unit: str) -> None:
        self.per_s, self.unit, self.changed = per_s, unit, 0

    def of(self, at_s: float) -> int:
        whole = round(at_s * self.per_s)
        self.changed += whole / self.per_s != at_s
        return whole

    def lost(self) -> list[str]:
        return [f"instants of {self.changed:,} requests, rounded to the {self.unit}"] if self.changed else []


def _blocks_lost(block_tokens: int, requests: _Checked, *kept: str) -> list[str]:
    shared = f"what prompts share inside a block: kept are whole blocks of {block_tokens} tokens"
    lost = requests.lost_fields("salt", "organisation", *kept)
    spaces = [f"names of {name}s (their content keeps apart)" for name in ("salt", "organisation") if requests.set_fields[name]]
    return [shared, *_outputs_lost(requests), *lost, *spaces]


def _namespace(request: Request) -> str | None:
    if request.organisation is None:
        return request.salt
    return _DUMP([request.organisation, request.salt])


def _write_mooncake(requests: _Checked, file: TextIO) -> list[str]:
    identity, ms = BlockIdentity(512), _Rounded(1000, "millisecond")
    for r in requests:
        row = {
            "timestamp": ms.of(r.arrived_at_s),
            "input_length": prompt_tokens(r.prompt),
            "output_length": r.output.tokens,
            "hash_ids": identity.ids(r.prompt, _namespace(r)).tolist(),
        }
        file.write(_DUMP(row) + "\n")
    return ms.lost() + _blocks_lost(512, requests)


def _write_lmcache(requests: _Checked, file: TextIO) -> list[str]:
    identity, us = BlockIdentity(16, full_only=True), _Rounded(10**6, "microsecond")
    alone = 0
    for i, r in enumerate(requests):
        session = f"request{i}" if r.session is None else r.session
        alone += r.session is None
        row = {
            "timestamp": us.of(r.arrived_at_s) / 1000,
            "input_length": prompt_tokens(r.prompt),
            "output_length": r.output.tokens,
            "hash_ids": identity.ids(r.prompt, _namespace(r)).tolist(),
            "session_id": int(session)
            if session.isascii() and session.isdigit() and str(int(session[:18])) == session
            else session,
        }
        file.write(_DUMP(row) + "\n")
    lost = us.lost() + _blocks_lost(16, requests, "session", "turn")
    return lost + ([f"that {alone:,} requests belong to no session: each becomes a session of its own"] if alone else [])


def _write_azure(requests: _Checked, file: TextIO) -> list[str]:
    ticks = _Rounded(10**7, "tenth of a microsecond")
    first = None
    file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    for r in requests:
        whole = ticks.of(r.arrived_at_s)
        first = whole if first is None else first
        instant = datetime(1970, 1, 1) + timedelta(seconds=whole // 10**7)
        file.write(f"{instant}.{whole % 10**7:07d},{prompt_tokens(r.prompt)},{r.output.tokens}\n")
    shift = ["time before the first request (instants count from it)"] if first else []
    return (
        shift
        + ticks.lost()
        + ["content: every prompt becomes its own, nothing is shared", *_outputs_lost(requests)]
        + requests.lost_fields()
    )


def _runs(ids: Iterable[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for each in ids:
        if runs and sum(runs[-1]) == each:
            runs[-1][1] += 1
        else:
            runs.append([each, 1])
    return runs


def _write_claude_code(requests: _Checked, file: TextIO) -> list[str]:
    sessions: dict[str, tuple[BlockIdentity, list[int], float, list[list[Any]]]] = {}
    alone = 0
    for i, r in enumerate(requests):
        alone += r.session is None
        name = f"request{i}" if r.session is None else r.session
        if name not in sessions:
            sessions[name] = (BlockIdentity(64, full_only=True), [], r.arrived_at_s, [])
        identity, before, start_s, rows = sessions[name]
        ids = identity.ids(r.prompt, _namespace(r)).tolist()
        keep = next((k for k, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), min(len(before), len(ids)))
        before[:] = ids
        at_s = r.arrived_at_s - start_s
        rows.append([at_s, prompt_tokens(r.prompt), r.output.tokens, None, None, "n", "", 0, keep, _runs(ids[keep:])])
    for name, (_, _, _, rows) in sessions.items():
        file.write(
            _DUMP({"id": name, "block_size": 64, "tool_tokens": 0, "system_tokens": 0, "models": [], "requests": rows}) + "\n"
        )
    lost = ["when each session started, and what sessions share", *_blocks_lost(64, requests, "session", "turn")]
    return lost + ([f"that {alone:,} requests belong to no session: each becomes a session of its own"] if alone else [])


def _filler_lost(requests: _Checked) -> list[str]:
    words = "content: filler words, about one a token, stand for every segment"
    outputs = "content of outputs: later prompts hold filler in their place, which no server has generated"
    return [words, outputs, *requests.lost_fields("salt", "organisation")]


def _write_vllm_bench(requests: _Checked, file: TextIO) -> list[str]:
    """The custom dataset of `vllm bench serve`: prompts without instants."""
    for r in requests:
        row = {"prompt": prompt_text(r.prompt, _namespace(r)), "output_tokens": max(1, r.output.tokens)}
        file.write(_DUMP(row) + "\n")
    rate = f"{requests.rows / requests.last_s:.6g}" if requests.last_s else "inf"
    return [f"instants: on average they come at --request-rate {rate}", *_filler_lost(requests)]


def _write_aiperf(requests: _Checked, file: TextIO) -> list[str]:
    """What AIPerf replays as a Mooncake trace on a fixed schedule, with the text of each prompt."""
    for r in requests:
        at_ms = round(r.arrived_at_s * 1000, 3)
        row = {
            "timestamp": int(at_ms) if at_ms.is_integer() else at_ms,
            "text_input": prompt_text(r.prompt, _namespace(r)),
            "output_length": max(1, r.output.tokens),
        }
        file.write(_DUMP(row) + "\n")
    return _filler_lost(requests)


_WRITERS: Final[dict[str, Callable[[_Checked, TextIO], list[str]]]] = {
    "aiperf": _write_aiperf,
    "azure": _write_azure,
    "claude-code": _write_claude_code,
    "lmcache": _write_lmcache,
    "mooncake": _write_mooncake,
    "segments": _write_segments,
    "simcache": _write_simcache,
    "vllm-bench": _write_vllm_bench,
}
WRITTEN: Final = tuple(_WRITERS)
"""Formats that can be written; aiperf and vllm-bench, made for benchmark clients, cannot be read again."""
