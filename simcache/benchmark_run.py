"""A benchmark client's results beside the requests it was given, as a recorded run: an exported scenario compared afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from .benchmark_results import BenchmarkResults, read_benchmark
from .errors import InputError, require
from .prompt import Prompt, Request, Segment, prompt_tokens
from .validation import RecordedRun
from .workload.traces import read_trace

_SAME: Final = 0.005
"""Prompts as long as they were meant to be, but for this fraction, are taken as they are."""
_APART: Final = 0.1
"""A prompt further than this (and than a template adds) from the common length ratio is another prompt: filler varies by less."""
_TEMPLATE_TOKENS: Final = 64


def read_benchmark_run(
    path: str | Path, format: str, sent: str | Path | None = None, sent_format: str | None = None
) -> tuple[RecordedRun, list[str]]:
    """What a server did with the requests of ``sent`` (a trace, in the order the client was given), and notes on how it was read.

    Requests arrive when the client sent them and generate what was generated. The server's tokenizer makes other lengths of
    filler text than the trace has: all prompts are then stretched by one factor, so that equal beginnings stay equal. Without
    ``sent`` every prompt stands alone and nothing can be hit. Raises InputError for results without instants, more results
    than requests, or lengths that do not belong to these prompts (a shuffled data set).
    """
    results = read_benchmark(path, format)
    notes = results.notes[0 if results.tells_cached else 1 :]
    if not results.tells_cached:
        notes.append("the file does not tell what was cached: hits are not judged")
    if sent is None:
        prompts: list[Prompt] = [
            () if row is None else (Segment(("prompt", number), row.prompt_tokens),) for number, row in enumerate(results.rows)
        ]
        notes.append("without --sent the content of prompts is not known: each stands alone, and the simulation hits nothing")
        requests = [Request(0.0, prompt, Segment(("answer", number), 0)) for number, prompt in enumerate(prompts)]
    else:
        requests = list(read_trace(sent, sent_format, spread_ticks=False))
        if len(requests) < len(results.rows):
            rule = f"must be at most the {len(requests)} of {sent}"
            raise InputError("requests", len(results.rows), rule, "Give the trace that was exported.", path=Path(path))
        requests, note = _stretched(requests, results, Path(path))
        notes += [note] if note else []
    rows = [(row, number, request) for number, (row, request) in enumerate(zip(results.rows, requests, strict=False)) if row]
    instants = [row.started_at_s for row, _, _ in rows]
    require(
        None not in instants,
        "start_times",
        None,
        "are missing: arrivals are not known",
        "Use a vLLM whose results hold start_times.",
    )
    start_s = min(instant for instant in instants if instant is not None)
    rows.sort(key=lambda each: each[0].started_at_s or 0.0)
    run = RecordedRun(
        requests=tuple(
            request._replace(
                arrived_at_s=(row.started_at_s or 0.0) - start_s,
                output=Segment(("answer", number), row.output_tokens),  # not what a later prompt of filler holds in its place
            )
            for row, number, request in rows
        ),
        ttft_s=np.array([math.nan if row.ttft_s is None else row.ttft_s for row, _, _ in rows]),
        e2e_s=np.array([math.nan if row.e2e_s is None else row.e2e_s for row, _, _ in rows]),
        hit_tokens=np.array([row.cached_tokens for row, _, _ in rows], dtype=np.int64) if results.tells_cached else None,
    )
    return run, notes


def _stretched(requests: Sequence[Request], results: BenchmarkResults, path: Path) -> tuple[list[Request], str | None]:
    """The requests with prompts as long as the server's tokenizer made them on average, and a note where that changed them."""
    answered = [number for number, row in enumerate(results.rows) if row is not None and prompt_tokens(requests[number].prompt)]
    require(bool(answered), "sent", 0, "must hold prompts of at least one token that were answered")
    meant = np.array([prompt_tokens(requests[number].prompt) for number in answered], dtype=np.float64)
    real = np.array(
        [row.prompt_tokens for row in (results.rows[number] for number in answered) if row is not None], dtype=np.float64
    )
    factor = float(real.sum() / meant.sum())
    apart = np.abs(real - factor * meant) > np.maximum(_APART * factor * meant, _TEMPLATE_TOKENS)
    if apart.mean() > 0.05:
        rule = f"must be the requests of the trace in its order: {int(apart.sum())} of {len(answered)} prompts have other lengths"
        raise InputError("sent", f"request {answered[int(np.argmax(apart))]}", rule, "Run the client without shuffling.", path=path)
    if abs(factor - 1) <= _SAME:
        return list(requests), None
    stretched = [request._replace(prompt=_stretch(request.prompt, factor)) for request in requests]
    return stretched, f"prompts have {factor:.3f} times as many tokens on the server as in the trace: stretched by that"


def _stretch(prompt: Prompt, factor: float) -> Prompt:
    """Every border between segments moves to ``factor`` times its place: the same for all prompts that begin alike."""
    ends = np.rint(np.cumsum([segment.tokens for segment in prompt]) * factor).astype(int).tolist()
    return tuple(segment._replace(tokens=end - start) for segment, start, end in zip(prompt, [0, *ends], ends, strict=False))
