"""Automatic prompt caching: what is cached of a prompt, and how much of the first token's wait that saves.

Question
    OpenAI's 2024 announcement shows a bot whose second question finds 1,024 of 1,136 tokens in the cache, and promises up
    to 80 % less latency beyond 10,000 tokens. How many tokens are cached at which length, and what do measurements say of the 80 %?

Setup
    Left: a prompt of n tokens asked twice under the 2024 rules (at least 1,024 tokens, steps of 128), for n up to 3,000.
    Right: the share of TTFT that a fully cached prefix saves, by prompt length: the promise; OpenAI's own later figure, bin by
    bin; the speculative recipe as printed and as its user sees it; and Llama-3-8B on an A100 (measured kernels) with all but
    128 tokens cached.

What to look at
    The stairs, and that 926 tokens never hit; that OpenAI's own figure reaches 67 % only beyond 150,000 tokens and saves
    10 % near 14,000; that a GPU of one's own saves more, because nothing but the prefill stands before its first token.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from simcache.engine.run import simulate
from simcache.latency import load_profile
from simcache.prompt import Request, Segment
from simcache.report.figures import COLOURS, GREY, save_figure, sheet
from simcache.scenario import HostedApi, Scenario
from simcache.workload.synthetic import RequestList

FIGURES = Path(__file__).resolve().parent.parent / "figures"
LONGEST_TOKENS = 3_000
SECONDS_BETWEEN = 7.0
# openai/openai-cookbook, images/prompt-caching-201/figure-2.svg @85b8171d, polylines read by the axis ticks (2026-02):
# prompt tokens, cold TTFT s, cached TTFT s
OPENAI_BINS = (
    (13_600, 1.436, 1.276), (38_400, 1.880, 1.363), (63_200, 2.314, 1.442), (88_000, 2.849, 1.626),
    (112_800, 3.286, 1.573), (137_600, 3.957, 1.612), (162_400, 4.418, 1.564), (187_200, 4.872, 1.626),
)  # fmt: skip
PROMISED_SHARE, PROMISED_FROM_TOKENS = 0.80, 10_000
RECIPE_TOKENS, RECIPE_PRINTED_SHARE, RECIPE_HONEST_SHARE = 151_629, 1 - 1.94 / 20.87, 1 - 19.81 / 20.87
REST_TOKENS = 128
"""What is left to compute after a hit in the Llama line: one step of the 2024 rules."""


def cached_tokens(prompt_tokens: int) -> int:
    """What the second of two equal questions finds in the cache, seven seconds after the first."""
    ask = Request(0.0, (Segment("prompt", prompt_tokens),), Segment("answer 1", 60))
    again = ask._replace(arrived_at_s=SECONDS_BETWEEN, output=Segment("answer 2", 60))
    api = HostedApi(provider="openai", model="gpt-4o", rules="openai-2024", profile="openai-figure", jitter=False)
    records = simulate(Scenario(workload=RequestList(rows=(ask, again)), backend=api)).records
    return int(records.hit_tokens[1])


def main(quick: bool) -> str:
    """Run the study; the answer in one sentence."""
    lengths = np.unique([*np.arange(100, LONGEST_TOKENS + 1, 100 if quick else 10), 926, 1_136])
    cached = [cached_tokens(int(n)) for n in lengths]
    llama = load_profile("llama-3-8b/a100/tp1")
    measured_to = 16_000
    prompts = np.linspace(1_024, measured_to, 60)
    llama_share = np.array([1 - llama.prefill_s(REST_TOKENS, n - REST_TOKENS) / llama.prefill_s(n, 0) for n in prompts])
    shares = {tokens: 1 - hit_s / cold_s for tokens, cold_s, hit_s in OPENAI_BINS}
    with sheet(1, 2, width=11.0, height=4.4) as (figure, (left, right)):
        left.step(lengths, cached, where="post", color=COLOURS[0], linewidth=1.8)
        left.axline((0, 0), slope=1, color=GREY, linewidth=1)
        for n in (926, 1_136):
            hit = cached[int(np.searchsorted(lengths, n))]
            left.plot([n], [hit], marker="o", color="black", markersize=6)
            right_of, above = (9, -9) if hit else (-9, 6)
            side = "left" if hit else "right"
            left.annotate(
                f"{n:,} tokens: {hit:,}", (n, hit), xytext=(right_of, above), textcoords="offset points", fontsize=8, ha=side
            )
        left.set(xlim=(0, LONGEST_TOKENS), ylim=(-120, LONGEST_TOKENS), xlabel="prompt tokens", ylabel="cached tokens, second time")
        left.set_title("What is cached (2024 rules)")
        right.plot(prompts, 100 * llama_share, color=COLOURS[2], label=f"Llama-3-8B on A100, all but {REST_TOKENS} tokens cached")
        right.plot(list(shares), [100 * s for s in shares.values()], marker="s", color=COLOURS[0], label="OpenAI's own figure")
        right.hlines(
            100 * PROMISED_SHARE,
            PROMISED_FROM_TOKENS,
            200_000,
            color=GREY,
            linestyle="--",
            label="promised: up to 80 % beyond 10,000",
        )
        for share, what in ((RECIPE_PRINTED_SHARE, "recipe, as printed"), (RECIPE_HONEST_SHARE, "recipe, from submit")):
            right.plot([RECIPE_TOKENS], [100 * share], marker="o", color="black", markersize=6, linestyle="none")
            right.annotate(
                f"{what}: {100 * share:.1f} %",
                (RECIPE_TOKENS, 100 * share),
                xytext=(-8, 0),
                textcoords="offset points",
                fontsize=8,
                ha="right",
                va="center",
            )
        right.set(
            xscale="log", xlim=(1_000, 210_000), ylim=(0, 100), xlabel="prompt tokens", ylabel="TTFT saved by a cached prefix, %"
        )
        right.set_xticks([1_000, 10_000, 100_000], ["1,000", "10,000", "100,000"])
        right.set_title("What that saves")
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1, fontsize=8)
        save_figure(figure, (FIGURES / "quick" if quick else FIGURES) / "02_openai_demo.png")
    passes_at = int(prompts[np.argmax(llama_share >= PROMISED_SHARE)])
    return (
        f"A prompt of 926 tokens is never cached and one of 1,136 finds {cached_tokens(1_136):,}; OpenAI's own figure saves "
        f"{100 * shares[13_600]:.0f} % of TTFT at 13,600 tokens and {100 * shares[187_200]:.0f} % at 187,200, short of the "
        f"promised 80 %, which Llama-3-8B on an A100 passes at {passes_at:,} tokens."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a coarser grid")
    print(main(parser.parse_args().quick))
