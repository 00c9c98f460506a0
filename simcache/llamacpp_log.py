"""Logs of a llama.cpp server: one CSV row per request, with the server's own timings, as a recorded run to validate with."""

from __future__ import annotations

import csv
import gzip
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from .errors import InputError, require
from .prompt import Prompt, Request, Segment, prompt_tokens
from .validation import RecordedRun

_COLUMNS: Final = (
    *("t_submit", "segments", "out_segment", "predicted_n", "ttft_s", "t_finish", "cache_n"),
    *("server_prompt_ms", "server_predicted_ms"),
)
_USER: Final = ("user", "chat", "question", "")
_WARM: Final = ("warm", "prewarm", "pre-warm", "pre_warm", "prefetch", "prime", "spec")
_PINGS: Final = ("keepalive", "keep-alive", "keep_alive", "ping")
_SKEW_S: Final = 1e-3  # rounding of written numbers


class _Row(NamedTuple):
    request: Request
    ttft_s: float
    e2e_s: float
    hit_tokens: int
    service_s: float


def read_llamacpp_csv(path: str | Path) -> tuple[RecordedRun, list[str]]:
    """A CSV file (also .gz) of one row per request as a recorded run, and notes on what of it was left out.

    Columns: ``t_submit`` and ``t_finish`` (seconds on one clock), ``ttft_s`` from submit, ``segments`` ("key:tokens ...": equal
    keys are equal tokens), ``out_segment``, and the server's own ``cache_n``, ``predicted_n``, ``server_prompt_ms``,
    ``server_predicted_ms``. Where there are: ``prompt_tokens`` (checked), ``session``, ``turn``, and ``kind``: "warm", "prewarm"
    and the like are warm-ups, "keepalive" pings, all others people's questions (a note names those other than "user"). Every
    request is sent at its recorded instant, whatever came of the one before: in a closed loop, too, the people's pauses are in
    those instants, and the error of an answer moves no later request. The time in service is prompt and predicted time together.
    A request that was never answered, or without the server's own counts, is left out.

    Raises InputError with file and line for a missing column, a value that cannot be, and clocks that were mixed.
    """
    place = Path(path)
    rows: list[_Row] = []
    left: Counter[str] = Counter()
    strange: Counter[str] = Counter()
    for number, cells in _cells(place):
        try:
            if not cells["t_finish"] and not cells["ttft_s"]:
                left["never answered"] += 1
                continue
            if not cells["cache_n"] and not cells["predicted_n"]:
                left["without the server's counts"] += 1
                continue
            told = cells.get("kind", "").strip().lower()
            if told not in _USER and _kind(told) == "user":
                strange[told] += 1
            rows.append(_row(cells))
        except InputError as error:
            raise InputError(error.name, error.value, error.rule, error.way_out, path=place, line=number) from None
    rows.sort(key=lambda row: row.request.arrived_at_s)
    require(bool(rows), "log", str(path), "must hold at least one request that was answered")
    start_s = min(0.0, rows[0].request.arrived_at_s)
    run = RecordedRun(
        requests=tuple(row.request._replace(arrived_at_s=row.request.arrived_at_s - start_s) for row in rows),
        ttft_s=np.array([row.ttft_s for row in rows]),
        e2e_s=np.array([row.e2e_s for row in rows]),
        hit_tokens=np.array([row.hit_tokens for row in rows], dtype=np.int64),
        service_s=np.array([row.service_s for row in rows]),
    )
    notes = [f"{count} of {count + len(rows)} requests were {what} and are left out" for what, count in left.items()]
    return run, notes + [f"{count} requests of kind {told!r} are taken for people's questions" for told, count in strange.items()]


def _cells(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    number = 1
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            header = reader.fieldnames or []
            missing = [name for name in _COLUMNS if name not in header]
            if missing:
                raise InputError("log", path.name, f"has no column {', '.join(missing)}", path=path, line=1)
            for cells in reader:
                number = reader.line_num
                if None in cells or None in cells.values():
                    raise InputError("row", len(cells), f"must have the {len(header)} fields of its header", path=path, line=number)
                yield number, cells
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise InputError("log", str(path), f"cannot be read: {error}", path=path, line=number) from None


def _row(cells: dict[str, str]) -> _Row:
    submitted_s = _number(cells, "t_submit", least=-math.inf)
    ttft_s, finished_s = _number(cells, "ttft_s", empty=math.nan), _number(cells, "t_finish", empty=math.nan, least=-math.inf)
    e2e_s = finished_s - submitted_s
    rule = "must not be before the first token: two clocks were mixed"
    require(not e2e_s < (0 if math.isnan(ttft_s) else ttft_s) - _SKEW_S, "t_finish", finished_s, rule)
    prompt = _prompt(cells["segments"])
    tokens, hit_tokens = prompt_tokens(prompt), _whole(cells, "cache_n")
    require(tokens > 0, "segments", cells["segments"], "must hold a token at least")
    require(hit_tokens <= tokens, "cache_n", hit_tokens, f"exceeds the prompt's {tokens} tokens")
    if cells.get("prompt_tokens"):
        told = _whole(cells, "prompt_tokens")
        require(told == tokens, "prompt_tokens", told, f"must be the sum of the segments, {tokens}")
    request = Request(
        arrived_at_s=submitted_s,
        prompt=prompt,
        output=Segment(cells["out_segment"], _whole(cells, "predicted_n")),
        kind=_kind(cells.get("kind", "").strip().lower()),
        session=cells.get("session") or None,
        turn=_whole(cells, "turn") if cells.get("turn") else 0,
    )
    service_s = (_number(cells, "server_prompt_ms", empty=math.nan) + _number(cells, "server_predicted_ms", empty=math.nan)) / 1e3
    return _Row(request, ttft_s, e2e_s, hit_tokens, service_s)


def _kind(told: str) -> str:
    if told in _PINGS:
        return "keepalive"
    return "warm" if told.startswith(_WARM) else "user"


def _prompt(text: str) -> Prompt:
    segments = []
    for part in text.split():
        key, colon, count = part.rpartition(":")
        if not colon or not key or not (count.isascii() and count.isdigit() and len(count) < 12):
            raise InputError("segments", part, "must be key:tokens, separated by spaces")
        segments.append(Segment(key, int(count)))
    return tuple(segments)


def _number(cells: dict[str, str], name: str, *, empty: float | None = None, least: float = 0.0) -> float:
    text = cells[name]
    if not text and empty is not None:
        return empty
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= least):
        raise InputError(name, text, "must be a finite number" + ("" if least == -math.inf else f" of at least {least:g}"))
    return value


def _whole(cells: dict[str, str], name: str) -> int:
    value = _number(cells, name)
    require(value == int(value), name, cells[name], "must be a whole number")
    return int(value)
