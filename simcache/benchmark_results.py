"""What benchmark clients write down, request by request: the results of ``vllm bench serve`` and of AIPerf."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import InputError, UnknownNameError, require
from .logs import UsageLog, UsageRow

BENCHMARKS: Final = ("vllm-bench", "aiperf")
_VLLM_COLUMNS: Final = ("input_lens", "output_lens", "ttfts", "itls")


@dataclass(frozen=True, kw_only=True)
class BenchmarkResults:
    """One row per request in the order of the data set that the client was given; None: it failed, or was never sent.

    ``tells_cached``: the server said of each answer how much of its prompt came from the cache (else ``cached_tokens`` is 0).

    >>> row = UsageRow(provider="vllm", model="m", prompt_tokens=9)
    >>> len(BenchmarkResults(rows=(None, row), tells_cached=False).usage())
    1
    """

    rows: tuple[UsageRow | None, ...]
    tells_cached: bool

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers has to know."""
        failed = sum(row is None for row in self.rows)
        notes = [] if self.tells_cached else ["the file does not tell what was cached: cached tokens stand at 0"]
        return notes + ([f"{failed} of {len(self.rows)} requests failed and are left out"] if failed else [])

    def usage(self) -> UsageLog:
        """The answered requests as a usage log."""
        return UsageLog(tuple(row for row in self.rows if row is not None), tuple(self.notes))


def read_benchmark(path: str | Path, format: str) -> BenchmarkResults:
    """Read the detailed results of a benchmark client; ``format`` is one of ``BENCHMARKS``.

    ``vllm-bench``: the one JSON object of ``vllm bench serve --save-result --save-detailed``. ``aiperf``: AIPerf's
    ``profile_export.jsonl``, one record per request (docs.nvidia.com/aiperf, Working with Profile Export Files, read 2026-11).
    Raises InputError, with the path (and line), for a file without the details, an impossible number, or no answered request.
    """
    if format not in BENCHMARKS:
        raise UnknownNameError("format", format, BENCHMARKS)
    place = Path(path)
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("log", str(place), f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    found = _vllm(text, place) if format == "vllm-bench" else _aiperf(text, place)
    if not any(found.rows):
        raise InputError("requests", len(found.rows), "hold none that was answered", path=place)
    return found


def _vllm(text: str, place: Path) -> BenchmarkResults:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("log", str(place), f"is not JSON: {error}") from None
    require(isinstance(found, dict), "log", str(place), "must be one JSON object")
    columns = {name: found.get(name) for name in _VLLM_COLUMNS}
    for name, column in columns.items():
        if not isinstance(column, list):
            way_out = "Run vllm bench serve with --save-result --save-detailed."
            raise InputError(name, column, "is missing or no list", way_out, path=place)
        if len(column) != len(columns["input_lens"] or ()):
            raise InputError(name, len(column), "must be as long as input_lens", path=place)
    count = len(columns["input_lens"] or ())
    errors, starts = (_optional(found, name, count, place) for name in ("errors", "start_times"))
    rows: list[UsageRow | None] = []
    for number in range(count):
        prompt, output, ttft_s, gaps_s = (column[number] for column in columns.values() if column is not None)
        if (errors is not None and errors[number]) or not output:
            rows.append(None)
            continue
        try:
            _check_gaps(gaps_s)
            rows.append(
                UsageRow(
                    provider="vllm",
                    model=str(found.get("model_id") or "unknown"),
                    prompt_tokens=prompt,
                    output_tokens=output,
                    started_at_s=None if starts is None else starts[number],
                    ttft_s=ttft_s,
                    e2e_s=ttft_s + math.fsum(gaps_s),
                )
            )
        except (InputError, TypeError) as error:
            name, rule = (error.name, error.rule) if isinstance(error, InputError) else ("request", "has a wrong type")
            value = error.value if isinstance(error, InputError) else ttft_s
            raise InputError(f"request {number}: {name}", value, rule, path=place) from None
    return BenchmarkResults(rows=tuple(rows), tells_cached=False)


def _optional(found: Mapping[str, Any], name: str, count: int, path: Path) -> list[Any] | None:
    column = found.get(name)
    if column is None:
        return None
    if not isinstance(column, list) or len(column) != count:
        raise InputError(name, column, "must be a list as long as input_lens", path=path)
    return column


def _check_gaps(gaps_s: object) -> None:
    numbers = isinstance(gaps_s, list) and all(isinstance(gap, (int, float)) and gap >= 0 for gap in gaps_s)
    require(numbers, "itls", gaps_s, "must be a list of seconds of at least 0")


def _aiperf(text: str, place: Path) -> BenchmarkResults:
    numbered: dict[int, UsageRow | None] = {}
    tells_cached = True
    for line, written in enumerate(text.splitlines(), 1):
        if not written.strip():
            continue
        try:
            record = json.loads(written)
            metadata = record["metadata"]
            if metadata.get("benchmark_phase", "profiling") != "profiling":
                continue  # AIPerf's own warm-up requests, which are no part of the data set
            number = metadata["session_num"]
            require(type(number) is int and number >= 0, "session_num", number, "must be a whole number of at least 0")
            if number in numbered:
                rule = "stands twice: records of conversations with several turns cannot be told apart by it"
                raise InputError("session_num", number, rule, "Export prompts of one turn each: simcache convert --to aiperf.")
            row, told = _aiperf_row(record)
        except InputError as error:
            raise InputError(error.name, error.value, error.rule, error.way_out, path=place, line=line) from None
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            rule = "must be a record of profile_export.jsonl: an object with metadata, metrics and error"
            raise InputError("record", written[:60], rule, path=place, line=line) from None
        numbered[number] = row
        tells_cached &= told
    return BenchmarkResults(
        rows=tuple(numbered.get(number) for number in range(max(numbered, default=-1) + 1)), tells_cached=tells_cached
    )


def _aiperf_row(record: Mapping[str, Any]) -> tuple[UsageRow | None, bool]:
    """The row of one record, and whether it tells what was cached (a failed one has nothing to tell)."""
    if record.get("error") or record["metadata"].get("was_cancelled"):
        return None, True
    metrics = record["metrics"]

    def number(*names: str) -> float | None:
        for name in names:
            if name in metrics:
                value = metrics[name]["value"]
                real = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
                require(real, name, value, "must be a finite number")
                return float(value)
        return None

    lengths = number("usage_prompt_tokens", "input_sequence_length"), number("output_sequence_length", "output_token_count")
    ttft_ms, latency_ms, cached = (
        number(name) for name in ("time_to_first_token", "request_latency", "usage_prompt_cache_read_tokens")
    )
    for name, value in zip(
        ("input_sequence_length", "output_sequence_length", "time_to_first_token"), (*lengths, ttft_ms), strict=True
    ):
        require(value is not None, name, None, "is missing", "AIPerf measures it with --streaming.")
    started_ns = record["metadata"]["request_start_ns"]
    require(type(started_ns) is int and 0 <= started_ns < 2**63, "request_start_ns", started_ns, "must be nanoseconds since 1970")
    assert lengths[0] is not None
    assert lengths[1] is not None
    assert ttft_ms is not None
    row = UsageRow(
        provider="aiperf",
        model="unknown",
        prompt_tokens=round(lengths[0]),
        output_tokens=round(lengths[1]),
        cached_tokens=round(cached or 0),
        started_at_s=started_ns / 1e9,
        ttft_s=ttft_ms / 1e3,
        e2e_s=None if latency_ms is None else latency_ms / 1e3,
    )
    return row, cached is not None
