"""From a folder of measured kernel tables to a profile: reading, composing layers into steps, fitting the closed form to them."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import InputError, require
from .coefficients import FitRecord, Floats, MeasuredRange
from .kernel_tables import KernelTables
from .model import LatencyModel
from .profile_kinds import ServerProfile

PER_LAYER: Final = {
    "layernorm": 2,
    "qkv_proj": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
"""How often a layer runs each kernel; attention comes from its own table."""
ONCE: Final = ("embedding", "final_layernorm")
PER_SEQUENCE: Final = ("lm_head", "sampler")
HOST_S: Final = 2e-4
"""Host work between two steps that asynchronous scheduling cannot hide (launch, swap of buffers): assumed, not measured.

Against the two recorded runs it moves mean TTFT by +0.8 % (RTX 4090, whose sums need nothing) and by +1.4 % (RTX PRO 6000, whose
sums fall 11 % short of the measured mean without it)."""
REAL_STEPS: Final = (0.95, 1.1)
"""A real step over its kernel sum: 1.00 to 1.07 in recorded runs of vLLM 0.19, and a few percent for interpolating tile steps."""
MOST_KV_TOKENS: Final = 2**19  # decode rows that read more fit in no GPU that the tables were measured on: 64 GB at 128 KiB a token


def read_kernels(folder: str | Path, layers: int) -> KernelTables:
    """The tables of ``folder``: dense.csv (layer, tokens, time_us), attention.csv (prefill_chunk, kv_prefill, n_decode, kv_decode,
    time_us) and per_sequence.csv (layer, sequences, time_us), plain or .gz, times of one layer; summed over ``layers``.

    Raises InputError, with file and line, for a missing file, column or kernel, and for numbers out of range.
    """
    place = Path(folder)
    require(place.is_dir(), "kernels", str(folder), "must be a folder with dense.csv, attention.csv and per_sequence.csv")
    dense = _by_kernel(place, "dense", "tokens")
    heads = _by_kernel(place, "per_sequence", "sequences")
    weights = {name: layers * times for name, times in PER_LAYER.items()} | dict.fromkeys(ONCE, 1)
    attention = []
    for number in _rows(place, "attention", ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")):
        keys = tuple(int(number(name)) for name in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"))
        attention.append((*keys, number("time_us", above=0) * 1e-6 * layers))
    return KernelTables(
        dense=_summed(dense, weights, place / "dense.csv"),
        per_sequence=_summed(heads, dict.fromkeys(PER_SEQUENCE, 1), place / "per_sequence.csv"),
        attention=tuple(attention),
    )


def fit_kernels(tables: KernelTables, form: str, name: str) -> tuple[ServerProfile, dict[str, Any]]:
    """A profile from kernel tables, and how well the closed form meets them: fractions ``prefill_mape``, ``decode_mape``, ...

    ``form`` "context": the coefficients alone, with a regime of small chunks, which wait for the weights and for a long context
    one after the other. "table": the tables too; the coefficients stand beside them, for whoever cannot
    use a table. Both hold decode steps and the mixed value of per_kv_token.
    """
    chunks = sorted({int(row[0]) for row in tables.attention if row[0] > 0})
    contexts = sorted({int(row[1]) for row in tables.attention if row[0] > 0 and row[2] == 0})
    # The shortest chunk measured stands for every shorter one: a step is never cheaper than its launches.
    short = [size for size in (1, 2, 4, 8) if size < chunks[0]]
    prefill = [(n, c, tables.step_s([(n, c)], 0, 0)) for n in [*short, *chunks] for c in contexts]
    pure = sorted({(int(row[2]), int(row[3])) for row in tables.attention if row[0] == 0})
    decode = [(b, b * kv, tables.step_s([], b, b * kv)) for b, kv in pure if b * kv <= MOST_KV_TOKENS]
    beside = sorted({(int(n), int(c), int(b), int(kv)) for n, c, b, kv, _ in tables.attention if n > 0 and b > 0})
    mixed = [(n, c, b, b * kv, tables.step_s([(n, c)], b, b * kv)) for n, c, b, kv in beside if b * kv <= MOST_KV_TOKENS]
    require(bool(decode) and bool(mixed), "kernels", name, "must hold decodes alone and decodes beside a chunk")
    new, cached, alone_s = _columns(prefill)
    model = LatencyModel().fit(new, cached, alone_s, "context-small").fit_decode(*_columns(decode)).fit_mixed(*_columns(mixed))
    values = model.profile(name).coefficients
    n, c, b, kv, seconds = _columns(mixed)
    closed = values.compute_s(n, n * (c + n / 2)) + values.per_decode_s * b + values.per_kv_token_mixed_s * kv
    errors = np.abs(model.errors_)
    report: dict[str, Any] = {
        "mape": float(errors.mean()),
        "p95_ape": model.p95_ape_,
        "max_ape": model.max_ape_,
        "holdout_mape": None,
        "n": len(prefill),
        "prefill_mape": float(errors.mean()),
        "decode_mape": model.decode_mape_,
        "mixed_mape": float(np.abs(closed / seconds - 1).mean()),
        "decode_n": len(decode),
        "mixed_n": len(mixed),
        "attention_rows": len(tables.attention),
    }
    exact = form == "table"
    return (
        ServerProfile(
            name=name,
            provenance="kernel sum",
            coefficients=replace(values, host_s=HOST_S),
            form="table" if exact else "context",
            table=tables if exact else None,
            uncertainty95=REAL_STEPS if exact else None,
            range=_range(chunks, contexts, decode),
            covariance=model.covariance_,
            fit=FitRecord(
                n=len(prefill),
                mape=0.0 if exact else float(errors.mean()),
                max_ape=None if exact else model.max_ape_,
                p95_ape=None if exact else model.p95_ape_,
                decode_n=len(decode),
                decode_mape=0.0 if exact else model.decode_mape_,
                command="",
            ),
            notes=(
                "Sums of measured kernels: real engine steps take 1.00 to 1.07 times as long.",
                f"Host work that asynchronous scheduling cannot hide is assumed to be {HOST_S * 1e3:g} ms a step (host_s); where "
                "an engine hides none of it, more comes on top.",
                f"The closed form misses the composed tables by {report['prefill_mape']:.1%} (prefill), "
                f"{report['decode_mape']:.1%} (decode) and {report['mixed_mape']:.1%} (mixed steps) on average.",
            ),
        ),
        report,
    )


def _range(chunks: list[int], contexts: list[int], decode: list[tuple[int, int, float]]) -> MeasuredRange:
    return MeasuredRange(
        new_tokens=(1, chunks[-1]),
        cached_tokens=(contexts[0], contexts[-1]),
        total_tokens=(1, chunks[-1] + contexts[-1]),
        batch=(min(b for b, _, _ in decode), max(b for b, _, _ in decode)),
        kv_tokens=(min(kv for _, kv, _ in decode), max(kv for _, kv, _ in decode)),
    )


def _columns(rows: list[tuple[Any, ...]]) -> list[Floats]:
    return [np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)]


def _by_kernel(place: Path, file: str, size: str) -> dict[str, dict[int, float]]:
    kernels: dict[str, dict[int, float]] = {}
    for number in _rows(place, file, ("layer", size, "time_us")):
        kernels.setdefault(str(number("layer", text=True)), {})[int(number(size, above=0))] = number("time_us", above=0) * 1e-6
    return kernels


def _summed(kernels: dict[str, dict[int, float]], times: dict[str, int], path: Path) -> tuple[tuple[float, float], ...]:
    """(size, seconds) of all kernels together; sizes that not every kernel has are interpolated."""
    for name in times:
        if name not in kernels:
            raise InputError("layer", name, "is missing", f"The table needs {', '.join(times)}.", path=path)
    sizes = sorted({size for name in times for size in kernels[name]})
    total = np.zeros(len(sizes))
    for name, often in times.items():
        known = sorted(kernels[name])
        total += often * np.interp(sizes, known, [kernels[name][size] for size in known])
    return tuple(zip(map(float, sizes), total.tolist(), strict=True))


def _rows(place: Path, file: str, columns: tuple[str, ...]) -> Iterator[Callable[..., Any]]:
    """For each row, a function that gives a column's number, checked."""
    path = next((path for path in (place / f"{file}.csv", place / f"{file}.csv.gz") if path.is_file()), None)
    if path is None:
        raise InputError("kernels", str(place), f"has no {file}.csv")
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as lines:
            reader = csv.DictReader(lines)
            missing = [name for name in columns if name not in (reader.fieldnames or [])]
            if missing:
                raise InputError("columns", ", ".join(missing), "are missing", f"It needs {', '.join(columns)}.", path=path)
            for row in reader:

                def number(
                    name: str,
                    above: float | None = None,
                    text: bool = False,
                    row: dict[str, Any] = row,
                    line: int = reader.line_num,
                ) -> Any:
                    if text:
                        return row[name]
                    try:
                        value = float(row[name])
                    except (TypeError, ValueError):
                        raise InputError(name, row[name], "must be a number", path=path, line=line) from None
                    if not math.isfinite(value) or value < 0 or (above is not None and value <= above):
                        rule = "must be finite and at least 0" if above is None else f"must be finite and above {above:g}"
                        raise InputError(name, value, rule, path=path, line=line)
                    return value

                yield number
    except (OSError, UnicodeDecodeError, csv.Error, EOFError) as error:
        raise InputError("kernels", str(path), f"cannot be read: {error}") from error
