"""Measured points from CSV files: the layouts people have, told by their columns, one row at a time checked and counted."""

from __future__ import annotations

import csv
import gzip
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from ..errors import InputError, UnknownNameError
from .coefficients import Floats

IDENTITY: Final = ("model", "gpu", "system", "tp", "backend")
"""Columns that say what was measured; one fit holds one value of each."""
RUNQ_SHARE: Final = 0.05
"""Rows whose server waited for a CPU longer than this share of their time were disturbed by something else."""
DECODE_TOKENS: Final = 16  # fewer generated tokens say too little about the time of one
Row = Mapping[str, str]


@dataclass
class PointSet:
    """What the files hold: columns of prefill, decode, mixed-step and host points, and what was left out and why.

    ``prefill``: (new tokens, cached tokens, seconds). ``decode``: (batch, kv tokens, seconds per step). ``mixed``: (new, cached,
    batch, kv tokens, seconds). ``host``: (sequences, seconds). ``dropped`` counts rows by reason.
    """

    prefill: list[tuple[float, ...]] = field(default_factory=list)
    decode: list[tuple[float, ...]] = field(default_factory=list)
    mixed: list[tuple[float, ...]] = field(default_factory=list)
    host: list[tuple[float, ...]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    identity: dict[str, list[str]] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    kernel_sums: bool = False

    def columns(self, kind: str) -> list[Floats]:
        """The columns of one kind of point.

        >>> PointSet(decode=[(1.0, 2.0, 3.0)]).columns("decode")[2].tolist()
        [3.0]
        """
        rows: list[tuple[float, ...]] = getattr(self, kind)
        return [np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)]


def read_points(
    paths: Sequence[str | Path],
    where: Mapping[str, str] | None = None,
    *,
    include_interpolated: bool = False,
    min_new: int | None = None,
) -> PointSet:
    """Read CSV files, plain or ``.gz``, in any of the known layouts; rows must match ``where`` (column -> value) exactly.

    Rows whose ``source`` does not begin with "measured" are left out and counted unless asked for, as are prefill rows with
    fewer than ``min_new`` new tokens, rows that only prepare a cache, and rows that waited for a CPU. Raises InputError, with
    file and line, for a file that cannot be read, columns that no layout has, a cell that is no number, is not finite or has the
    wrong sign, rows of several models at once, and a ``where`` that leaves nothing.
    """
    points = PointSet()
    for path in map(Path, paths):
        _read(path, dict(where or {}), include_interpolated, points)
    if min_new is not None:
        kept = [row for row in points.prefill if row[0] >= min_new]
        points.dropped["fewer than --min-new tokens"] += len(points.prefill) - len(kept)
        points.prefill = kept
    for name, values in points.identity.items():
        if len(values) > 1:
            raise InputError(name, ", ".join(values[:8]), "is more than one", f"Choose one with --where {name}={values[0]}.")
    points.dropped = Counter({reason: count for reason, count in points.dropped.items() if count})
    if not (points.prefill or points.decode):
        reasons = "; ".join(f"{count} rows: {reason}" for reason, count in points.dropped.items())
        raise InputError("points", ", ".join(map(str, paths)), f"hold no usable row{f' ({reasons})' if reasons else ''}")
    return points


def _read(path: Path, where: dict[str, str], include_interpolated: bool, points: PointSet) -> None:
    try:
        with gzip.open(path, "rt", newline="", encoding="utf-8") if path.suffix == ".gz" else path.open(newline="") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            layout = _layout(path, header)
            for name in where:
                if name not in header:
                    raise UnknownNameError("where", name, header, path=path)
            table = []
            for row in reader:
                if None in row or None in row.values():
                    text = ",".join(filter(None, row.values()))[:60] if None not in row else "a longer line"
                    raise InputError("row", text, "must have one cell per column", path=path, line=reader.line_num)
                table.append((reader.line_num, row))
    except OSError as error:
        raise InputError("points", str(path), f"cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error, EOFError) as error:
        raise InputError("points", str(path), f"is not CSV: {error}") from error
    seen = {name: sorted({row[name] for _, row in table}) for name in where}
    chosen = [(line, row) for line, row in table if all(_same(row[name], value) for name, value in where.items())]
    if table and not chosen:
        held = "; ".join(f"{name}: {', '.join(values[:12])}" for name, values in seen.items())
        raise InputError(
            "where", ",".join(f"{k}={v}" for k, v in where.items()), f"leaves no row of {path.name}", f"It holds {held}."
        )
    usable = []
    for line, row in chosen:
        if not include_interpolated and "source" in row and not row["source"].startswith("measured"):
            points.dropped["source does not begin with measured"] += 1
        else:
            usable.append((line, row))
    for name in IDENTITY:
        if name in header:
            held_before = points.identity.setdefault(name, [])
            held_before.extend(value for value in dict.fromkeys(row[name] for _, row in usable) if value not in held_before)
    points.sources.append(path.name)
    points.kernel_sums |= layout is _kernel_sum
    layout(_Cells(path, usable), points)


def _same(cell: str, value: str) -> bool:
    if cell == value:
        return True
    try:
        return float(cell) == float(value)
    except ValueError:
        return False


class _Cells:
    """The rows of one file; numbers are checked as they are taken, and an error knows its line."""

    def __init__(self, path: Path, rows: Sequence[tuple[int, Row]]) -> None:
        self.path, self.rows = path, rows
        self.line = 0
        self.row: Row = {}

    def __iter__(self) -> Iterator[Row]:
        for line, row in self.rows:
            self.line, self.row = line, row
            yield row

    def number(self, name: str, above: float | None = None) -> float:
        """The cell of the current row as a finite number, at least 0, or above ``above``."""
        try:
            value = float(self.row[name])
        except ValueError:
            raise InputError(name, self.row[name], "must be a number", path=self.path, line=self.line) from None
        if not math.isfinite(value):
            raise InputError(name, value, "must be finite", path=self.path, line=self.line)
        if value < 0 or (above is not None and value <= above):
            rule = "must be at least 0" if above is None else f"must be above {above:g}"
            raise InputError(name, value, rule, path=self.path, line=self.line)
        return value

    def numbers(self, name: str) -> list[float]:
        """The cell of the current row as numbers with spaces between, at least one."""
        try:
            values = [float(word) for word in self.row[name].split()]
        except ValueError:
            values = []
        if not values or not all(math.isfinite(value) and value >= 0 for value in values):
            raise InputError(name, self.row[name], "must be numbers with spaces between", path=self.path, line=self.line)
        return values


def _ours(cells: _Cells, points: PointSet) -> None:
    for row in cells:
        kind = row["kind"]
        if kind == "prefill":
            points.prefill.append((cells.number("new_tokens", 0), cells.number("cached_tokens"), cells.number("seconds", 0)))
        elif kind == "decode":
            points.decode.append((cells.number("batch", 0), cells.number("kv_tokens"), cells.number("seconds", 0)))
        elif kind == "mixed":
            new = (cells.number("new_tokens", 0), cells.number("cached_tokens"))
            points.mixed.append((*new, cells.number("batch", 0), cells.number("kv_tokens", 0), cells.number("seconds", 0)))
        elif kind == "host":
            points.host.append((cells.number("batch", 0), cells.number("seconds", 0)))
        elif kind == "copy":
            points.dropped["copies of KV blocks have no place in a step"] += 1
        else:
            known = ("prefill", "decode", "mixed", "host", "copy")
            raise UnknownNameError("kind", kind, known, path=cells.path, line=cells.line)


def _plain_prefill(cells: _Cells, points: PointSet) -> None:
    for _ in cells:
        points.prefill.append((cells.number("new_tokens", 0), cells.number("context_tokens"), cells.number("latency_s", 0)))


def _plain_decode(cells: _Cells, points: PointSet) -> None:
    for _ in cells:
        points.decode.append((cells.number("batch", 0), cells.number("total_kv_tokens"), cells.number("latency_s", 0)))


def _kernel_sum(cells: _Cells, points: PointSet) -> None:
    for row in cells:
        prompt, cached = cells.number("isl", 0), cells.number("prefix")
        if cached >= prompt:
            raise InputError("prefix", row["prefix"], f"must be below isl (={row['isl']})", path=cells.path, line=cells.line)
        points.prefill.append((prompt - cached, cached, cells.number("ttft_ms", 0) / 1e3))


def _engine_prompts(cells: _Cells, points: PointSet) -> None:
    for _ in cells:
        points.prefill.append((cells.number("isl", 0), 0.0, cells.number("prompt_time_ms_median", 0) / 1e3))


def _server(cells: _Cells, points: PointSet) -> None:
    for row in cells:
        if row["kind"] == "prime":
            points.dropped["kind=prime only creates a prefix"] += 1
            continue
        seconds = cells.number("ttft_ms", 0) / 1e3
        if cells.number("server_runq_wait_ms") / 1e3 > RUNQ_SHARE * seconds:
            points.dropped["the server waited for a CPU for more than 5 % of the time"] += 1
            continue
        points.prefill.append((cells.number("prompt_n", 0), cells.number("cache_n"), seconds))
        generated = cells.number("predicted_n")
        if row["kind"] == "decode" and generated >= DECODE_TOKENS:
            # The first token comes with the prompt; the others read the prompt and, on average, half of themselves.
            step_s = cells.number("predicted_ms", 0) / 1e3 / (generated - 1)
            points.decode.append((1.0, cells.number("prompt_tokens") + generated / 2, step_s))


def _server_batches(cells: _Cells, points: PointSet) -> None:
    """k prompts sent at once: one alone is a prefill; once all have begun, the gaps between tokens are decode steps."""
    groups: dict[tuple[str, str, str], list[tuple[float, float, list[float]]]] = {}
    for row in cells:
        times = cells.numbers("token_times_ms")
        group = groups.setdefault((row["rep"], row["n"], row["k"]), [])
        group.append((cells.number("n", 0), cells.number("ttft_ms", 0), times))
        if row["k"] == "1":
            cached = cells.number("cache_n")
            points.prefill.append((cells.number("n", 0) - cached, cached, cells.number("ttft_ms", 0) / 1e3))
    for group in groups.values():
        begun = max(ttft for _, ttft, _ in group)
        over = min(times[-1] for _, _, times in group)
        last = max(group, key=lambda each: each[1])[2]  # nobody's prompt is computed between the tokens of the last one
        inside = [time for time in last if begun - 0.2 <= time <= over + 0.2]
        if len(inside) < DECODE_TOKENS:
            points.dropped["too few tokens while all requests of a batch decode"] += len(group)
            continue
        at = [sum(n + sum(1 for time in times if time <= middle) for n, _, times in group) for middle in (inside[0], inside[-1])]
        step_s = float(np.median(np.diff(inside))) / 1e3
        points.decode.append((float(len(group)), sum(at) / 2, step_s))


_LAYOUTS: Final[dict[tuple[str, ...], Callable[[_Cells, PointSet], None]]] = {
    ("kind", "new_tokens", "cached_tokens", "batch", "kv_tokens", "seconds"): _ours,
    ("new_tokens", "context_tokens", "latency_s"): _plain_prefill,
    ("batch", "total_kv_tokens", "latency_s"): _plain_decode,
    ("isl", "prefix", "ttft_ms"): _kernel_sum,
    ("isl", "prompt_time_ms_median"): _engine_prompts,
    (
        *("kind", "prompt_tokens", "prompt_n", "cache_n", "ttft_ms"),
        *("predicted_n", "predicted_ms", "server_runq_wait_ms"),
    ): _server,
    ("rep", "n", "k", "ttft_ms", "cache_n", "token_times_ms"): _server_batches,
}
"""The columns that make a layout; more columns than these do no harm."""


def _layout(path: Path, header: list[str]) -> Callable[[_Cells, PointSet], None]:
    if len(set(header)) != len(header):
        raise InputError("columns", ", ".join(header), "must have different names", path=path)
    needed = max(_LAYOUTS, key=lambda columns: (len(set(columns) & set(header)) / len(columns), len(columns)))
    missing = [name for name in needed if name not in header]
    stems = {name.removesuffix(unit): name for name in needed for unit in ("_ms", "_s") if name.endswith(unit)}
    for name in header:
        for unit in ("_s", "_ms", "_us", "_ns", "_min"):
            right = stems.get(name.removesuffix(unit)) if name.endswith(unit) else None
            if right is not None and name not in needed:
                also = "stands beside" if right in header else "has the wrong unit: the column must be"
                raise InputError("column", name, f"{also} {right}", "Give one time per row, in one unit.", path=path)
    if "seconds" in needed:
        for name in ("ms", "milliseconds", "us"):
            if name in header:
                raise InputError("column", name, "has the wrong unit: the column must be seconds", path=path)
    if missing:
        known = "; ".join(", ".join(columns) for columns in _LAYOUTS)
        rule = f"has no column {', '.join(missing)}"
        raise InputError("points", path.name, rule, f"The layouts that can be read have the columns: {known}.", path=path)
    return _LAYOUTS[needed]
