"""From measured kernel tables to a profile: the closed form fitted to steps composed of them, and the tables themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from ..errors import require
from .coefficients import FitRecord, Floats, MeasuredRange
from .kernel_tables import KernelTables
from .model import LatencyModel
from .profile_kinds import ServerProfile

HOST_S: Final = 2e-4
"""Host work between two steps that asynchronous scheduling cannot hide (launch, swap of buffers): assumed, not measured.

Against the two recorded runs it moves mean TTFT by +0.8 % (RTX 4090, whose sums need nothing) and by +1.4 % (RTX PRO 6000, whose
sums fall 11 % short of the measured mean without it)."""
REAL_STEPS: Final = (0.95, 1.1)
"""A real step over its kernel sum: 1.00 to 1.07 in recorded runs of vLLM 0.19, and a few percent for interpolating tile steps."""
MOST_KV_TOKENS: Final = 2**19  # decode rows that read more fit in no GPU that the tables were measured on: 64 GB at 128 KiB a token


def fit_kernels(tables: KernelTables, form: str, name: str, notes: Sequence[str] = ()) -> tuple[ServerProfile, dict[str, Any]]:
    """A profile from kernel tables, and how well the closed form meets them: fractions ``prefill_mape``, ``decode_mape``, ...

    ``form`` "context": the coefficients alone, with a regime of small chunks, which wait for the weights and for a long context
    one after the other. "table": the tables too; the coefficients stand beside them, for whoever cannot
    use a table. ``notes``: what reading the tables had to assume. Both hold decode steps and the mixed value of per_kv_token.
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
                *notes,
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
