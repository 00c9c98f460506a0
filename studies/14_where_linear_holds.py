"""Is time to first token linear in the prompt, and what does it do with model, batch and GPU?

Question
    TTFT against model size, prompt length, batch size and GPU: where does a straight line hold, and what does it miss beyond?

Setup
    One prompt on an idle engine, host work included, from the shipped profiles: three models on A100 (measured kernels), and
    Llama-3 8B (the 3.1 of the same shape) on four GPUs (A100 measured, the others kernel sums). No trace, no queue. Dashed:
    the line through 256 and 2,048 tokens. A batch is so many prompts of 1,024 tokens admitted in one step of up to 8,192.

What to look at
    Left of 256 tokens reading the weights is all there is; a line holds to a few thousand tokens; at 128k attention makes it
    2.6 to 5.6 times what the line says. Size and batch scale TTFT almost in proportion, once there is more to compute than to read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from simcache import units
from simcache.latency import ServerProfile, load_profile
from simcache.latency.shapes import load_shape
from simcache.report.figures import save_figure, sheet

FIGURES = Path(__file__).resolve().parent.parent / "figures"
MODELS = ("llama-2-7b/a100/tp1", "llama-3-8b/a100/tp1", "llama-2-70b/a100/tp2")
GPUS = ("llama-3-8b/a100/tp1", "llama-3.1-8b/rtx-4090/tp1", "llama-3.1-8b/rtx-pro-6000/tp1", "llama-3.1-8b/h100/tp1")
WINDOW_TOKENS = (256, 2048)
LONG_TOKENS = 131_072
PROMPTS = (256, 2048, 16_384)
BATCH_PROMPT_TOKENS, MOST_TOKENS = 1024, 8192


def server(name: str) -> ServerProfile:
    """A shipped profile of a server."""
    profile = load_profile(name)
    assert isinstance(profile, ServerProfile)
    return profile


def line_s(profile: ServerProfile, tokens: np.ndarray) -> np.ndarray:
    """The straight line through the two ends of the window."""
    low, high = WINDOW_TOKENS
    slope = (profile.prefill_s(high) - profile.prefill_s(low)) / (high - low)
    return profile.prefill_s(low) + slope * (tokens - low)


def batch_s(profile: ServerProfile, prompts: int) -> float:
    """One step that computes ``prompts`` prompts of BATCH_PROMPT_TOKENS at once."""
    n = BATCH_PROMPT_TOKENS
    return profile.coefficients.step_s(prompts * n, prompts * n * n / 2, 0, 0, prompts)


def main(quick: bool) -> str:
    """Run the study; the table and the answer in one sentence."""
    lengths = np.geomspace(16, LONG_TOKENS, 30 if quick else 200)
    batches = np.arange(1, MOST_TOKENS // BATCH_PROMPT_TOKENS + 1)
    with sheet(2, 2, width=11.0, height=8.0) as (figure, (by_length, by_size, by_batch, by_gpu)):
        for i, name in enumerate(MODELS):
            by_length.plot(lengths, server(name).prefill_s(lengths, 0), color=f"C{i}", label=name)
            by_length.plot(lengths, line_s(server(name), lengths), "--", color=f"C{i}")
            by_batch.plot(batches, [batch_s(server(name), int(b)) for b in batches], "o-", color=f"C{i}", label=name)
        sizes = [load_shape(server(name).model).parameters / 1e9 for name in MODELS]
        for i, tokens in enumerate(PROMPTS):
            gpu_s = [server(name).prefill_s(tokens) * server(name).gpus for name in MODELS]
            by_size.plot(sizes, gpu_s, "o-", color=f"C{i}", label=f"{tokens:,} tokens")
            times = [server(name).prefill_s(tokens) for name in GPUS]
            by_gpu.plot([server(name).gpu for name in GPUS], times, "o-", color=f"C{i}", label=f"{tokens:,} tokens")
        by_length.set(xscale="log", yscale="log", xlabel="prompt tokens", ylabel="TTFT, s", title="Length (dashed: a line)")
        by_size.set(xscale="log", yscale="log", xlabel="parameters, 10^9", ylabel="TTFT x GPUs, s", title="Model size, A100")
        by_size.set_xticks([7, 10, 20, 40, 70], ["7", "10", "20", "40", "70"])
        by_size.minorticks_off()
        by_batch.set(xlabel="prompts of 1,024 tokens in one step", ylabel="TTFT, s", title="Batch, A100")
        by_gpu.set(yscale="log", xlabel="GPU", ylabel="TTFT, s", title="GPU, 8B model")
        for ax in (by_length, by_size, by_batch, by_gpu):
            ax.legend()
        save_figure(figure, (FIGURES / "quick" if quick else FIGURES) / "14_where_linear_holds.png")
    rows = ["| profile | 16 tokens | 2,048 | 16,384 | 131,072 | a line says of 131,072 |", "|---|---|---|---|---|---|"]
    misses = []
    for name in dict.fromkeys((*MODELS, *GPUS)):
        profile = server(name)
        times = [units.seconds(profile.prefill_s(tokens)) for tokens in (16, 2048, 16_384, LONG_TOKENS)]
        miss = float(line_s(profile, np.array([float(LONG_TOKENS)]))[0] / profile.prefill_s(LONG_TOKENS) - 1)
        misses.append(miss)
        mark = "" if not profile.extrapolates(LONG_TOKENS) else " (extrapolated)"
        rows.append(f"| {name} | {' | '.join(times)}{mark} | {units.share(miss, plus=True)} |")
    worst, least = units.share(-min(misses)), units.share(-max(misses))
    low, high = WINDOW_TOKENS
    return "\n".join(rows) + (
        f"\n\nBetween {low} and {high:,} tokens a straight line is as good as any; drawn on to {LONG_TOKENS:,} tokens it falls "
        f"short by {least} to {worst}."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="coarse curves, into figures/quick")
    print(main(parser.parse_args().quick))
