"""Logs of live runs: what a running server did with each request of a scenario, written by ``python -m calibration live``."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from .errors import InputError, UnknownNameError, require, require_count, require_number
from .logs import UsageRow
from .prompt import KINDS, Prompt, Request, Segment, prompt_tokens
from .records import OUTCOMES
from .validation import RecordedRun

_SKEW_S: Final = 1e-6  # rounding of written numbers


@dataclass(frozen=True, kw_only=True)
class LiveRow:
    """One request: sent at ``arrived_at_s``, waited for since ``submitted_at_s`` (earlier where the client held it back).

    ``ttft_s``, ``e2e_s`` and ``cancelled_after_s`` count from submit; None: that never came. ``output`` counts the tokens that were
    generated.
    ``cached_tokens`` None: the server does not tell. ``server`` is what else it told; ``error`` why it is not ``ok``.

    >>> row = LiveRow(arrived_at_s=1.0, submitted_at_s=1.0, prompt=(Segment("q", 9),), output=Segment("a", 0), outcome="failed")
    >>> row.as_json()["outcome"]
    'failed'
    """

    arrived_at_s: float
    submitted_at_s: float
    prompt: Prompt
    output: Segment
    outcome: str
    kind: str = "user"
    priority: int = 0
    session: str | None = None
    turn: int = 0
    user: str | None = None
    salt: str | None = None
    organisation: str | None = None
    ttft_s: float | None = None
    e2e_s: float | None = None
    cancelled_after_s: float | None = None
    cached_tokens: int | None = None
    server: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def __post_init__(self) -> None:
        for name in ("arrived_at_s", "submitted_at_s"):
            require_number(name, getattr(self, name), at_least=0)
        for name in ("ttft_s", "e2e_s", "cancelled_after_s"):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), at_least=0)
        held_s = self.arrived_at_s - self.submitted_at_s
        rule = "must not be before the request was submitted: two clocks were mixed"
        require(held_s >= -_SKEW_S, "arrived_at_s", self.arrived_at_s, rule)
        if self.ttft_s is not None:
            rule = "must not be before the request was sent: two clocks were mixed"
            require(self.ttft_s >= held_s - _SKEW_S, "ttft_s", self.ttft_s, rule)
        if self.e2e_s is not None:
            first_s = math.inf if self.ttft_s is None else self.ttft_s
            require(self.e2e_s >= first_s - _SKEW_S, "e2e_s", self.e2e_s, "must not be before the first token")
        for name, known in (("outcome", OUTCOMES), ("kind", KINDS)):
            if getattr(self, name) not in known:
                raise UnknownNameError(name, getattr(self, name), known)
        if self.cached_tokens is not None:
            require_count("cached_tokens", self.cached_tokens, at_least=0)
            tokens = prompt_tokens(self.prompt)
            require(self.cached_tokens <= tokens, "cached_tokens", self.cached_tokens, f"exceed the prompt's {tokens}")

    def as_json(self) -> dict[str, Any]:
        """The row as it is written: segments as ``[key, tokens]``."""
        row: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("arrived_at_s", "submitted_at_s", "ttft_s", "e2e_s", "cancelled_after_s"):
            row[name] = None if row[name] is None else round(row[name], 9)
        return {**row, "prompt": [list(segment) for segment in self.prompt], "output": list(self.output)}

    def usage(self, provider: str, model: str) -> UsageRow:
        """The same in the schema of usage logs, without its content."""
        return UsageRow(
            provider=provider,
            model=model,
            prompt_tokens=prompt_tokens(self.prompt),
            output_tokens=self.output.tokens,
            cached_tokens=self.cached_tokens or 0,
            started_at_s=self.submitted_at_s,
            ttft_s=self.ttft_s,
            e2e_s=self.e2e_s,
            session=self.session,
            user=self.user,
        )


def read_live_rows(path: str | Path) -> Iterator[LiveRow]:
    """The rows of a log, plain or gzip, in its order; raises InputError with file and line for one that cannot be."""
    place = Path(path)
    number = 0
    try:
        with gzip.open(place, "rt", encoding="utf-8") if place.suffix == ".gz" else place.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield _row(line)
                    except InputError as error:
                        raise InputError(error.name, error.value, error.rule, error.way_out, path=place, line=number) from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError("log", str(place), f"cannot be read: {error}", path=place, line=number + 1) from None


def _row(line: str) -> LiveRow:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError("row", line[:80], "must be one JSON object") from None
    require(isinstance(row, dict), "row", row, "must be one JSON object")
    known = [each.name for each in fields(LiveRow)]
    for name in row:
        if name not in known:
            raise UnknownNameError("field", name, known)
    for name in ("arrived_at_s", "submitted_at_s", "prompt", "output", "outcome"):
        require(name in row, name, None, "is missing")
    require(isinstance(row["prompt"], list), "prompt", row["prompt"], "must be a list of [key, tokens]")
    row["prompt"] = tuple(_segment("prompt", each) for each in row["prompt"])
    row["output"] = _segment("output", row["output"])
    require(isinstance(row.get("server", {}), dict), "server", row.get("server"), "must be an object")
    return LiveRow(**row)


def _segment(name: str, value: object) -> Segment:
    if not isinstance(value, list) or len(value) != 2 or isinstance(value[0], bool) or not isinstance(value[0], (str, int)):
        raise InputError(name, value, "must be [key, tokens]")
    return Segment(value[0], value[1])


def read_live_run(path: str | Path) -> tuple[RecordedRun, list[str]]:
    """A live log as a recorded run to validate a profile with, and notes on what of it was left out.

    Requests count from the instant they were sent. One that failed cannot be simulated and is left out. One that was cancelled is
    cancelled in the simulation too; where the log does not tell when, it stands for as many tokens as it gave.
    """
    rows = sorted(read_live_rows(path), key=lambda row: row.arrived_at_s)
    require(bool(rows), "log", str(path), "must hold at least one request")
    known = [row.ttft_s is not None or row.cancelled_after_s is not None for row in rows]
    kept = [row for row, told in zip(rows, known, strict=True) if row.outcome == "ok" or (row.outcome == "cancelled" and told)]
    notes = []
    for outcome in OUTCOMES:
        missing = sum(row.outcome == outcome for row in rows) - sum(row.outcome == outcome for row in kept)
        if missing:
            notes.append(f"{missing} of {len(rows)} requests were {outcome} and are left out")
    held_s = np.array([row.arrived_at_s - row.submitted_at_s for row in kept])
    spans = [
        np.array([math.nan if getattr(row, name) is None else getattr(row, name) for row in kept]) for name in ("ttft_s", "e2e_s")
    ]
    hits = np.array([-1 if row.cached_tokens is None else row.cached_tokens for row in kept], dtype=np.int64)
    silent = sum(row.cached_tokens is None and row.outcome == "ok" for row in kept)
    if silent:
        notes.append(f"the server did not tell cached tokens of {silent} of {len(kept)} requests: their hits are not judged")
    run = RecordedRun(
        requests=tuple(
            Request(
                arrived_at_s=row.arrived_at_s,
                prompt=row.prompt,
                output=row.output,
                kind=row.kind,
                priority=row.priority,
                session=row.session,
                turn=row.turn,
                user=row.user,
                salt=row.salt,
                organisation=row.organisation,
                cancelled_after_s=_given_up_s(row),
            )
            for row in kept
        ),
        ttft_s=np.maximum(spans[0] - held_s, 0.0),
        e2e_s=np.maximum(spans[1] - held_s, 0.0),
        hit_tokens=hits,
        service_s=np.array([_service_s(row) for row in kept]),
    )
    return run, notes


def _given_up_s(row: LiveRow) -> float | None:
    """Seconds from being sent to being cancelled; None: it was not."""
    if row.cancelled_after_s is None:
        return None
    return max(0.0, row.submitted_at_s + row.cancelled_after_s - row.arrived_at_s)


def _service_s(row: LiveRow) -> float:
    """Seconds in service by llama.cpp's own timings; NaN: the server does not tell."""
    spent_s = 0.0
    for name in ("prompt_ms", "predicted_ms"):
        spent_ms = row.server.get(name)
        if isinstance(spent_ms, bool) or not isinstance(spent_ms, (int, float)):
            return math.nan
        spent_s += spent_ms / 1e3
    return spent_s
