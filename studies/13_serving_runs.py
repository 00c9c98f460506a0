"""How well three low-load rows predict a served model under load: TTFT and TPOT of 213 measured runs.

Question
    Benchmarks of real servers publish means only: so many clients, prompts of so many tokens, mean TTFT and TPOT. If three rows
    of low load calibrate the simulator, how far off are the others, on other lengths, with many clients, and when KV memory is
    full? And does what one GPU taught hold for 2, 4 and 8 of them?

Setup
    gpu/serving_runs.csv of the shared data (SIMCACHE_DATA, default ../shared/data): Llama-3.1-70B fp8 on H200 and B200, Qwen3-32B
    on H100, all vLLM. Per group, three scalars are fitted to three rows: compute efficiency in prefill, work per decoded token,
    seconds per request outside the engine. All else is one set of constants for every GPU and model (simcache/serving_model.py);
    those were chosen on these very H200 and B200 runs, so what is held out here are rows, not constants. Clients send all
    requests at once, then each its next when its last has ended, ten each; lengths are uniform in [0.8, 1] of those stated.

What to look at
    Points outside the grey band. Hopper's TPOT jumps between 16 and 32 clients and then rises less (a kernel's tile path; a
    straight line through 4 and 32 is 15..22 % too high at 64). B200's TTFT on 4 and 8 GPUs falls with load in places (4 clients
    wait longer than 8, and longer than on 2 GPUs): 50..90 ms per request that one GPU does not show, so what one GPU teaches holds
    for several on H200 and not on B200. Qwen3-32B's client is not the one simulated: its TTFT of long prompts is too high for the
    prefill that its own TPOT shows. Where KV memory is full: one capacity for the two such rows of H200 brings both near; the
    formula alone is within a factor of 2 there, and of 3 on B200, which acts as if it had three quarters of the memory. Near the
    edge 5 % less memory is worth 15 % more TTFT, and half as much again in the row of 5.3 s.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from simcache import units
from simcache.report.validation_figures import save_serving_figure
from simcache.serving_model import Scalars
from simcache.serving_runs import (
    Prediction,
    ServingGroup,
    ServingRow,
    medians,
    predict,
    predict_group,
    read_serving_runs,
    validate_serving_runs,
)

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
RUNS = Path(os.environ.get("SIMCACHE_DATA", ROOT.parent / "shared" / "data")) / "gpu" / "serving_runs.csv"
QUICK_SYSTEM = "h200_sxm"
KV_FULL_FACTOR = 3.0
"""A row counts as one of full KV memory when its TTFT is so many times that of half as many clients."""


def error(predictions: Sequence[Prediction]) -> str:
    """Mean absolute error of TTFT / TPOT over rows."""
    ttft, tpot = np.abs([each.errors for each in predictions]).mean(axis=0)
    return f"{units.share(float(ttft))} / {units.share(float(tpot))}"


def label(row: ServingRow) -> str:
    """GPU, model and type."""
    return " ".join(filter(None, (row.system, row.model.rpartition("/")[2], row.precision)))


def transferred(groups: Sequence[ServingGroup]) -> dict[str, list[Prediction]]:
    """Rows of several GPUs, predicted with what the rows of one GPU of that kind taught."""
    found: dict[str, list[Prediction]] = {}
    for one in groups:
        key = one.predictions[0].row
        if key.tp == 1 and one.judged:
            for other in groups:
                row = other.predictions[0].row
                if row.tp > 1 and replace(key, tp=row.tp).key == row.key:
                    found.setdefault(label(row), []).extend(
                        predict_group([each.row for each in other.predictions], one.scalars).predictions
                    )
    return found


def full_rows(group: ServingGroup) -> list[Prediction]:
    """Rows that measured full KV memory: TTFT many times that of half as many clients."""
    ttft_s = {(each.row.isl, each.row.osl, each.row.concurrency): each.row.ttft_s for each in group.predictions}
    half = {each: ttft_s.get((each.row.isl, each.row.osl, each.row.concurrency // 2), math.inf) for each in group.predictions}
    return [each for each, before_s in half.items() if each.row.ttft_s > KV_FULL_FACTOR * before_s]


def matched_kv_tokens(row: ServingRow, scalars: Scalars, formula: int) -> int:
    """The KV memory at which the simulated TTFT of ``row`` is the measured one, within 1 %; more memory, less TTFT."""
    low, high = formula / 2, 2.0 * formula
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        if predict(replace(row, kv_tokens=int(middle)), scalars).ttft_s > row.ttft_s:
            low = middle
        else:
            high = middle
    return int(math.sqrt(low * high))


def full_memory(groups: Sequence[ServingGroup]) -> list[str]:
    """A table of the rows with full KV memory: capacity by formula, and one capacity matched on all such rows of the group.

    Matched: the geometric mean of what each of them asks for. A group with one such row has nothing to hold it against.
    """
    lines = ["| full KV memory | measured | by formula | capacity matched on the group |", "|---|---|---|---|"]
    for group in groups:
        full = full_rows(group)
        asked = [matched_kv_tokens(each.row, group.scalars, each.kv_tokens) for each in full]
        tokens = int(math.exp(sum(map(math.log, asked)) / len(asked))) if asked else 0
        for each in full:
            row = each.row
            found = predict(replace(row, kv_tokens=tokens), group.scalars)
            matched = f"{units.seconds(found.ttft_s)} ({found.errors[0]:+.0%}) with {tokens:,} tokens"
            alone = f"by construction, with {tokens:,} tokens: one row"
            lines.append(
                f"| {label(row)} tp{row.tp}, {row.isl}/{row.osl}, {row.concurrency} clients | {units.seconds(row.ttft_s)} | "
                f"{units.seconds(each.ttft_s)} ({each.errors[0]:+.0%}) with {each.kv_tokens:,} tokens | "
                f"{matched if len(full) > 1 else alone} |"
            )
    return lines


def main(quick: bool = False) -> str:
    """Predict every row, draw the figure, and say how far off."""
    if not RUNS.exists():
        return f"This study needs {RUNS.name} (point SIMCACHE_DATA at the folder above gpu/)."
    rows = [row for row in read_serving_runs(RUNS) if not quick or (row.system == QUICK_SYSTEM and row.tp in (1, 8))]
    groups = [group for group in validate_serving_runs(rows) if group.judged]
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    pooled: dict[str, list[Prediction]] = {}
    lines = ["| group | judged rows | TTFT / TPOT, mean absolute error | compute | decode | outside |", "|---|---|---|---|---|---|"]
    for group in sorted(groups, key=lambda group: group.predictions[0].row.key):
        first, fitted = group.predictions[0].row, group.scalars
        pooled.setdefault(label(first), []).extend(group.judged)
        lines.append(
            f"| {label(first)} tp{first.tp} | {len(group.judged)} | {error(group.judged)} | {fitted.compute_efficiency:.2f} | "
            f"{fitted.decode_work:.1f} | {units.seconds(fitted.outside_s)} |"
        )
    for name, predictions in pooled.items():
        points[name] = [(each.row.ttft_s, each.ttft_s, each.row.tpot_s, each.tpot_s) for each in predictions]
        lines.append(f"| {name}, all | {len(predictions)} | {error(predictions)} | | | |")
    llama = [each for predictions in pooled.values() for each in predictions if "Llama" in each.row.model]
    lines.append(f"| all Llama-3.1-70B | {len(llama)} | {error(llama)} | | | |")
    for name, predictions in transferred(groups).items():
        lines.append(f"| {name}, several GPUs from one alone | {len(predictions)} | {error(predictions)} | | | |")
    save_serving_figure(points, (FIGURES / "quick" if quick else FIGURES) / "13_serving_runs.png")
    lines += ["", *full_memory(groups)]
    whole = medians(groups)
    return "\n".join(lines) + (
        f"\n\nThree low-load rows predict the other rows of a group within {units.share(whole['ttft_mape'])} of mean TTFT and "
        f"{units.share(whole['tpot_mape'])} of mean TPOT (medians over {len(groups)} groups)."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two groups only, into figures/quick")
    print(main(parser.parse_args().quick))
