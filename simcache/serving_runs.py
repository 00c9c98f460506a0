"""Serving runs known by their means only: three low-load rows calibrate a group of rows, closed-loop clients predict the rest."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .engine.closed_loop import ClosedLoopClients, serve_clients
from .errors import DeadlockError, InputError, UnknownNameError, require, require_count
from .scenario import Server
from .serving_model import KV_BYTES, OUTSIDE_PER_TOKEN_S, SPREAD, Scalars, find_peaks, find_shape, serving_profile

COLUMNS: Final = (
    *("system", "backend", "model_path", "precision", "isl", "osl", "tp_size"),
    *("silicon_ttft_ms", "silicon_tpot_ms", "concurrency", "kv_dtype"),
)
"""Columns that a file must have. ``kv_tokens``, the usable KV memory that the engine printed, is read where there is one."""
BACKENDS: Final = ("sglang", "trtllm", "vllm")
"""All are simulated with vLLM's scheduler."""
MAX_CALIBRATION_ROWS: Final = 3
BATCHED_TOKENS: Final = 8192
SEATS: Final = 1024
"""vLLM's token budget per step and seats when it serves on GPUs of this size."""
REQUESTS_PER_CLIENT: Final = 10
MEASURED_SIGMA: Final = 0.05
"""Standard deviation of the logarithm of a measured mean, run to run."""
_RUNS_OF: Final = 32  # clients, over all seeds of a row: a row of few clients is simulated up to four times
_MOST_RUNS: Final = 4
_NEWTON_ROUNDS: Final = 10
_LEAST_GAIN: Final = 0.01
_OUTSIDE_STARTS: Final = (1.0, 3.0)  # times the default
_NEWTON_STEP: Final = 0.15

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ServingRow:
    """One measured run: ``concurrency`` clients in a closed loop, mean TTFT and TPOT in seconds. ``line`` of its file."""

    system: str
    backend: str
    model: str
    precision: str
    tp: int
    kv_dtype: str
    isl: int
    osl: int
    concurrency: int
    ttft_s: float
    tpot_s: float
    kv_tokens: int | None = None
    line: int | None = None

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        """What the rows of one group share: system, backend, model, tp, precision."""
        return self.system, self.backend, self.model, self.tp, self.precision

    @property
    def kv_demand_tokens(self) -> float:
        """KV tokens that all clients would hold at once: nine tenths of prompt and answer, as the lengths have it on average."""
        return 0.9 * self.concurrency * (self.isl + self.osl)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A row, the means that the simulation gives it, and whether it calibrated (then it is not judged)."""

    row: ServingRow
    ttft_s: float
    tpot_s: float
    kv_tokens: int
    calibrates: bool

    @property
    def errors(self) -> tuple[float, float]:
        """(predicted - measured) / measured of TTFT and TPOT."""
        return self.ttft_s / self.row.ttft_s - 1, self.tpot_s / self.row.tpot_s - 1

    @property
    def kv_full(self) -> bool:
        """Whether the clients ask for more KV memory than there is."""
        return self.row.kv_demand_tokens > self.kv_tokens


@dataclass(frozen=True, kw_only=True)
class ServingGroup:
    """Rows of one server, predicted with ``scalars``; the judged ones give the mean absolute errors (None: no row was left)."""

    scalars: Scalars
    predictions: tuple[Prediction, ...]

    @cached_property
    def judged(self) -> tuple[Prediction, ...]:
        """Rows that did not calibrate."""
        return tuple(each for each in self.predictions if not each.calibrates)

    @property
    def ttft_mape(self) -> float | None:
        """Mean absolute error of TTFT over the judged rows, a fraction."""
        return float(np.mean([abs(each.errors[0]) for each in self.judged])) if self.judged else None

    @property
    def tpot_mape(self) -> float | None:
        """Mean absolute error of TPOT over the judged rows, a fraction."""
        return float(np.mean([abs(each.errors[1]) for each in self.judged])) if self.judged else None

    def as_json(self) -> dict[str, Any]:
        """Who it is, how many rows, how far off, what was fitted, and every prediction."""
        first = self.predictions[0].row
        return {
            "system": first.system,
            "backend": first.backend,
            "model": first.model,
            "tp": first.tp,
            "precision": first.precision,
            "rows": len(self.predictions),
            "judged_rows": len(self.judged),
            "ttft_mape": self.ttft_mape,
            "tpot_mape": self.tpot_mape,
            "scalars": {name: getattr(self.scalars, name) for name in SPREAD},
            "predictions": [
                {
                    "isl": each.row.isl,
                    "osl": each.row.osl,
                    "concurrency": each.row.concurrency,
                    "measured_ttft_s": each.row.ttft_s,
                    "ttft_s": each.ttft_s,
                    "measured_tpot_s": each.row.tpot_s,
                    "tpot_s": each.tpot_s,
                    "kv_tokens": each.kv_tokens,
                    "kv_full": each.kv_full,
                    "calibrates": each.calibrates,
                }
                for each in self.predictions
            ],
        }


def read_serving_runs(path: str | Path) -> tuple[ServingRow, ...]:
    """Rows of a CSV with ``COLUMNS``; times in it are milliseconds. Other columns are left alone.

    Raises InputError with path and line for a missing column or value, a length that is no whole number, a time that is not
    above 0, and for systems, models and types that nobody knows.
    """
    place = Path(path)
    try:
        with place.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            heads = list(reader.fieldnames or ())
            for column in COLUMNS:
                if column not in heads:
                    found = f"Columns found: {', '.join(heads) or 'none'}."
                    if column == "kv_dtype":  # nothing else in the file tells it, and it decides how many tokens fit
                        found += f" Add the type of the KV cache: {', '.join(KV_BYTES)} (auto: 16 bits)."
                    raise InputError("column", column, "is missing", found, path=place)
            rows = tuple(_row(cells, place, reader.line_num) for cells in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError("serving-runs", str(place), f"cannot be read: {error}") from None
    if not rows:
        raise InputError("serving-runs", str(place), "must hold at least one row")
    return rows


def validate_serving_runs(
    rows: Sequence[ServingRow], calibrate_rows: int = MAX_CALIBRATION_ROWS, progress: Callable[[float], None] | None = None
) -> list[ServingGroup]:
    """Calibrate and predict every group of ``rows`` (in order of first appearance); at most ``calibrate_rows`` rows of each fit.

    ``progress`` is called with the share of rows done. Raises InputError for a row that the server cannot hold.
    """
    require_count("calibrate_rows", calibrate_rows, at_least=0)
    most = f"must be at most {MAX_CALIBRATION_ROWS}: there are three scalars"
    require(calibrate_rows <= MAX_CALIBRATION_ROWS, "calibrate_rows", calibrate_rows, most)
    members: dict[tuple[str, str, str, int, str], list[ServingRow]] = {}
    for row in rows:
        members.setdefault(row.key, []).append(row)
    groups = []
    done = 0
    for group in members.values():
        chosen = choose_rows(group, calibrate_rows)
        groups.append(predict_group(group, calibrate(chosen), chosen))
        done += len(group)
        if progress is not None:
            progress(done / len(rows))
    return groups


def choose_rows(group: Sequence[ServingRow], count: int) -> list[ServingRow]:
    """At most ``count`` low-load rows that tell the scalars apart, of one answer length: shortest prompt and longest prompt at the
    fewest clients, then the shortest prompt at the most clients that are still low load.

    Low load: at most half of the group's most clients, and at most half of the KV memory. The answer length is the one that
    most prompt lengths have; of several, the longest.
    """
    most = max(row.concurrency for row in group)

    def low(row: ServingRow) -> bool:
        return 2 * row.concurrency <= most and 2 * row.kv_demand_tokens <= _kv_tokens(row)

    lows = [row for row in group if low(row)] or [min(group, key=lambda row: (row.kv_demand_tokens, row.isl))]
    lengths = Counter(osl for _, osl in {(row.isl, row.osl) for row in lows})
    osl = max(lengths, key=lambda osl: (lengths[osl], osl))
    lows = [row for row in lows if row.osl == osl]
    shortest = min(row.isl for row in lows)
    orders: tuple[Callable[[ServingRow], tuple[int, int]], ...] = (
        lambda row: (row.concurrency, row.isl),
        lambda row: (row.concurrency, -row.isl),
        lambda row: (row.isl - shortest, -row.concurrency),
    )
    chosen: list[ServingRow] = []
    for order in orders[:count]:
        row = min(lows, key=order)
        if not any(row is each for each in chosen):
            chosen.append(row)
    return chosen


def calibrate(rows: Sequence[ServingRow]) -> Scalars:
    """The scalars that explain TTFT and TPOT of ``rows`` best, each pulled towards its default as ``SPREAD`` says.

    Least squares in logarithms, Gauss-Newton on the simulation itself; without rows the defaults.
    """
    names = tuple(SPREAD)
    start = Scalars()

    def scalars(logs: Floats) -> Scalars:
        return Scalars(**{name: getattr(start, name) * math.exp(log) for name, log in zip(names, logs, strict=True)})

    def residuals(logs: Floats) -> Floats:
        pulls = [log / spread for log, spread in zip(logs, SPREAD.values(), strict=True)]
        misses = [math.log(1 + error) / MEASURED_SIGMA for row in rows for error in predict(row, scalars(logs)).errors]
        return np.array([*pulls, *misses])

    highest = np.array([-math.log(start.compute_efficiency), math.inf, math.inf])  # nothing computes faster than the peak
    if not rows:
        return start
    ends = []
    for outside in _OUTSIDE_STARTS:  # compute and outside trade off along a valley that one start can be caught in
        logs = np.array([0.0, 0.0, math.log(outside)])
        ends.append(_descend(residuals, logs, highest))
    return scalars(min(ends, key=lambda end: end[0])[1])


def predict_group(group: Sequence[ServingRow], scalars: Scalars, calibrated: Sequence[ServingRow] = ()) -> ServingGroup:
    """Every row of ``group`` simulated with ``scalars``; those of ``calibrated`` are marked."""
    return ServingGroup(
        scalars=scalars,
        predictions=tuple(replace(predict(row, scalars), calibrates=any(row is each for each in calibrated)) for row in group),
    )


def predict(row: ServingRow, scalars: Scalars) -> Prediction:
    """Mean TTFT and TPOT of a row: its clients, ten requests each, against one server; fixed seeds."""
    shape, peaks = find_shape(row.model, row.precision, row.kv_dtype), find_peaks(row.system)
    profile = serving_profile(shape, peaks, row.tp, scalars, row.kv_tokens)
    kv_tokens = profile.kv_tokens
    assert kv_tokens is not None
    server = Server(
        profile=profile,
        kv_tokens=kv_tokens,
        prefix_caching=False,
        max_num_seqs=SEATS,
        max_num_batched_tokens=BATCHED_TOKENS,
    )
    clients = ClosedLoopClients(
        clients=row.concurrency,
        requests=REQUESTS_PER_CLIENT * row.concurrency,
        prompt_tokens=row.isl,
        output_tokens=row.osl,
        outside_s=scalars.outside_s,
        outside_per_token_s=OUTSIDE_PER_TOKEN_S,
    )
    means = []
    for seed in range(min(_MOST_RUNS, max(1, _RUNS_OF // row.concurrency))):
        try:
            records = serve_clients(clients, server, profile, seed=seed)
        except DeadlockError as error:
            raise InputError("row", row.line, f"cannot be simulated: {error}") from None
        gaps = np.maximum(records["output_tokens"] - 1, 1)
        means.append((records.ttft_s.mean(), ((records.e2e_s - records.ttft_s) / gaps).mean()))
    ttft_s, tpot_s = np.mean(means, axis=0)
    return Prediction(row=row, ttft_s=float(ttft_s), tpot_s=float(tpot_s), kv_tokens=kv_tokens, calibrates=False)


def medians(groups: Sequence[ServingGroup]) -> dict[str, float | None]:
    """Medians over the groups that had rows to judge; None where none had.

    >>> medians([])
    {'ttft_mape': None, 'tpot_mape': None}
    """
    judged = [group for group in groups if group.judged]
    return {
        name: float(np.median([getattr(group, name) for group in judged])) if judged else None
        for name in ("ttft_mape", "tpot_mape")
    }


def _descend(residuals: Callable[[Floats], Floats], logs: Floats, highest: Floats) -> tuple[float, Floats]:
    """Gauss-Newton from ``logs``, never above ``highest``: sum of squares and where."""
    here = residuals(logs)
    for _ in range(_NEWTON_ROUNDS):
        slopes = np.array([_slope(residuals, logs, each) for each in np.eye(len(logs))]).T
        step = np.clip(np.linalg.lstsq(slopes, -here, rcond=None)[0], -1, 1)
        ways = (np.minimum(logs + share * step, highest) for share in (1, 0.5, 0.25, 0.1, 0.03))
        better = ((way, residuals(way)) for way in ways)
        found = next(((way, there) for way, there in better if there @ there < 0.999 * (here @ here)), None)
        if found is None:
            break
        gain = 1 - (found[1] @ found[1]) / (here @ here)
        logs, here = found
        if gain < _LEAST_GAIN:
            break
    return float(here @ here), logs


def _slope(residuals: Callable[[Floats], Floats], logs: Floats, direction: Floats) -> Floats:
    """Central difference, wide enough to see past the steps that a simulation has."""
    return (residuals(logs + _NEWTON_STEP * direction) - residuals(logs - _NEWTON_STEP * direction)) / (2 * _NEWTON_STEP)


def _kv_tokens(row: ServingRow) -> int:
    profile = serving_profile(
        find_shape(row.model, row.precision, row.kv_dtype), find_peaks(row.system), row.tp, Scalars(), row.kv_tokens
    )
    assert profile.kv_tokens is not None
    return profile.kv_tokens


def _row(cells: dict[str, Any], path: Path, line: int) -> ServingRow:
    def text(name: str) -> str:
        found = cells.get(name)
        if found is None:
            raise InputError(name, None, "is missing", path=path, line=line)
        return str(found).strip()

    def number(name: str) -> float:
        try:
            value = float(text(name))
        except ValueError:
            raise InputError(name, text(name), "must be a number", path=path, line=line) from None
        if not (math.isfinite(value) and value > 0):
            raise InputError(name, text(name), "must be finite and above 0", path=path, line=line)
        return value

    def count(name: str) -> int:
        value = number(name)
        if value != int(value):
            raise InputError(name, text(name), "must be a whole number", path=path, line=line)
        return int(value)

    if cells.get(None):  # type: ignore[call-overload]  # csv files what is beyond the heads under None
        raise InputError("row", len(cells), "has more cells than the first line has names", path=path, line=line)
    row = ServingRow(
        system=text("system"),
        backend=text("backend"),
        model=text("model_path"),
        precision=text("precision"),
        tp=count("tp_size"),
        kv_dtype=text("kv_dtype"),
        isl=count("isl"),
        osl=count("osl"),
        concurrency=count("concurrency"),
        ttft_s=number("silicon_ttft_ms") / 1e3,
        tpot_s=number("silicon_tpot_ms") / 1e3,
        kv_tokens=count("kv_tokens") if cells.get("kv_tokens") else None,
        line=line,
    )
    try:
        if row.backend not in BACKENDS:
            raise UnknownNameError("backend", row.backend, BACKENDS)
        holds = _kv_tokens(row)
    except UnknownNameError as error:
        raise UnknownNameError(error.name, error.value, error.args[2], path=path, line=line) from None
    except InputError as error:
        raise InputError(error.name, error.value, error.rule, error.way_out, path=path, line=line) from None
    if row.isl + row.osl > holds:
        rule = f"must leave room for one request of {row.isl} + {row.osl} tokens in {holds:,} tokens of KV memory"
        raise InputError("tp_size", row.tp, rule, path=path, line=line)
    return row
