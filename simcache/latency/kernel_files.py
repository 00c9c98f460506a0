"""Folders of measured kernel tables: their files read and checked, the kernels of a layer and of its experts summed into steps."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import InputError, require
from .kernel_tables import KernelTables, on_curve

ATTENTION_SIDE: Final = {"layernorm": 2, "qkv_proj": 1, "rotary_emb": 1, "o_proj": 1}
DENSE_SIDE: Final = {"gate_up_proj": 1, "act_fn": 1, "down_proj": 1}
"""How often a layer runs each kernel; attention comes from its own table. A model with experts has ``EXPERTS`` for the second."""
EXPERTS: Final = "moe"
KNOWN_TOO: Final = ("qk_norm",)
"""Once per layer, in models that have it."""
ONCE: Final = ("embedding", "final_layernorm")
PER_SEQUENCE: Final = ("lm_head", "sampler")


def read_kernels(folder: str | Path, layers: int) -> tuple[KernelTables, tuple[str, ...]]:
    """The tables of ``folder``, and what had to be assumed about them: dense.csv (layer, tokens, time_us), attention.csv
    (prefill_chunk, kv_prefill, n_decode, kv_decode, time_us), per_sequence.csv (layer, sequences, time_us), and of a model with
    experts moe.csv (tokens, activated_experts, time_us; of a column ``ep``, the rows of the least); plain or .gz, times of one
    layer, summed over ``layers``.

    A kernel of dense.csv that is not known counts once per layer, and is named. Raises InputError, with file and line, for a
    missing file, column or kernel, and for numbers out of range.
    """
    place = Path(folder)
    require(place.is_dir(), "kernels", str(folder), "must be a folder with dense.csv, attention.csv and per_sequence.csv")
    dense = _by_kernel(place, "dense", "tokens")
    heads = _by_kernel(place, "per_sequence", "sequences")
    notes = []
    if _find(place, EXPERTS) is not None:
        dense[EXPERTS], note = _experts(place)
        notes.append(note)
    per_layer = ATTENTION_SIDE | ({EXPERTS: 1} if EXPERTS in dense else DENSE_SIDE)
    others = sorted(set(dense) - set(per_layer) - set(ONCE))
    if unknown := [name for name in others if name not in KNOWN_TOO]:
        notes.append(f"Counted once per layer, as nothing more is known of them: {', '.join(unknown)}.")
    if unused := sorted(set(heads) - set(PER_SEQUENCE)):
        notes.append(f"Left out, as nothing is known of them: {', '.join(unused)} of per_sequence.csv.")
    weights = {name: layers * times for name, times in (per_layer | dict.fromkeys(others, 1)).items()} | dict.fromkeys(ONCE, 1)
    attention = []
    for number in _rows(place, "attention", ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")):
        keys = tuple(int(number(name)) for name in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"))
        attention.append((*keys, number("time_us", above=0) * 1e-6 * layers))
    tables = KernelTables(
        dense=_summed(dense, weights, place / "dense.csv"),
        per_sequence=_summed(heads, dict.fromkeys(PER_SEQUENCE, 1), place / "per_sequence.csv"),
        attention=tuple(attention),
    )
    return tables, tuple(notes)


def _experts(place: Path) -> tuple[dict[int, float], str]:
    """Seconds of one layer's experts by tokens, at the number of them that so many tokens wake, and a sentence that says so."""
    rows: dict[float, dict[int, dict[int, float]]] = {}
    for number in _rows(place, EXPERTS, ("tokens", "activated_experts", "time_us")):
        tokens, awake = (int(number(name, above=0)) for name in ("tokens", "activated_experts"))
        rows.setdefault(number("ep", missing=1.0), {}).setdefault(tokens, {})[awake] = number("time_us", above=0) * 1e-6
    require(bool(rows), "moe.csv", str(place), "must have rows")
    by_tokens = rows[min(rows)]
    experts, each = (pick(awake for known in by_tokens.values() for awake in known) for pick in (max, min))
    seconds = {}
    for tokens, known in by_tokens.items():
        expected = experts * (1 - (1 - each / experts) ** tokens)
        seconds[tokens] = float(np.interp(expected, sorted(known), [known[count] for count in sorted(known)]))
    note = f"Experts: every token is assumed to choose {each} of {experts}, all equally often; a skewed choice wakes fewer."
    return seconds, note


def _by_kernel(place: Path, file: str, size: str) -> dict[str, dict[int, float]]:
    kernels: dict[str, dict[int, float]] = {}
    for number in _rows(place, file, ("layer", size, "time_us")):
        kernels.setdefault(str(number("layer", text=True)), {})[int(number(size, above=0))] = number("time_us", above=0) * 1e-6
    return kernels


def _summed(kernels: dict[str, dict[int, float]], times: dict[str, int], path: Path) -> tuple[tuple[float, float], ...]:
    """(size, seconds) of all kernels together; sizes that not every kernel has are interpolated, or lie on along its last rows."""
    for name in times:
        if name not in kernels:
            raise InputError("layer", name, "is missing", f"The table needs {', '.join(times)}.", path=path)
    sizes = sorted({size for name in times for size in kernels[name]})
    total = np.zeros(len(sizes))
    for name, often in times.items():
        known = [float(size) for size in sorted(kernels[name])]
        curve = known, [kernels[name][size] for size in sorted(kernels[name])]
        total += often * np.array([on_curve(curve, size) for size in sizes])
    return tuple(zip(map(float, sizes), total.tolist(), strict=True))


def _find(place: Path, file: str) -> Path | None:
    return next((path for path in (place / f"{file}.csv", place / f"{file}.csv.gz") if path.is_file()), None)


def _rows(place: Path, file: str, columns: tuple[str, ...]) -> Iterator[Callable[..., Any]]:
    """For each row, a function that gives a column's number, checked."""
    path = _find(place, file)
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
                    missing: float | None = None,
                    row: dict[str, Any] = row,
                    line: int = reader.line_num,
                ) -> Any:
                    if text:
                        return row[name]
                    if missing is not None and name not in row:
                        return missing
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
