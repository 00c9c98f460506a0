"""When to warm: on open, on focus, on the first key, after a pause, every few tokens, or as an oracle would.

Question
    Each trigger trades waiting against money: the earlier it fires, the more it hides, and the more drafts it warms that are never
    sent. Which of them should a client choose?

Setup
    People who talk to long documents of their own (60,000 tokens at the median) and type as measured, 80 % of the drafts
    sent, the others left at a uniform point. Claude's 5-minute rules and prices, latency through the published recipe's two
    points (0.13 ms a token) with its jitter off. Every policy sees the same people; the questions wait for their warm-up.

What to look at
    Left: the distributions of TTFT from submit. Right: mean TTFT against dollars per 1,000 questions; the oracle knows
    which drafts will be sent, and no policy lies left of and below it. A debounce saves some money and gives away much time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from simcache import metrics
from simcache.engine.run import simulate
from simcache.experiment.headroom import oracle_for
from simcache.report.figures import plot_ttft_cdf, save_figure, sheet
from simcache.report.warming_figures import WaitAndPrice, plot_wait_against_price
from simcache.result import Result
from simcache.scenario import HostedApi, Scenario
from simcache.warming import NoWarming, WarmAfterPause, WarmEveryTokens, WarmingPolicy, WarmOnFirstKey, WarmOnFocus, WarmOnOpen
from simcache.warming.foresight import Adaptive
from simcache.workload.distributions import LogNormal
from simcache.workload.presets import TypingSessions

FIGURES = Path(__file__).resolve().parent.parent / "figures"
SEEDS = 5
USERS = 100
DURATION_S = 7200.0
P_SEND = 0.8
PAUSE_S = 2.0
TOKENS = 16

SCENARIO = Scenario(
    workload=TypingSessions(users=USERS, document_tokens=LogNormal(median=60_000, sigma=0.5), p_send=P_SEND, paste_share=0.0),
    backend=HostedApi(
        provider="anthropic",
        model="claude-3-5-sonnet-20241022",
        rules="anthropic",
        profile="claude-3.5-sonnet/speculative-recipe",
        jitter=False,
        prices_at="2026-11-21",
    ),
)


def policies() -> dict[str, WarmingPolicy]:
    """Every trigger, and the two bounds."""
    return {
        "no warming": NoWarming(),
        "on open": WarmOnOpen(),
        "on focus": WarmOnFocus(),
        "first key": WarmOnFirstKey(),
        f"pause of {PAUSE_S:g} s": WarmAfterPause(pause_s=PAUSE_S),
        f"every {TOKENS} tokens": WarmEveryTokens(tokens=TOKENS),
        "adaptive": Adaptive(),
        "oracle": oracle_for(SCENARIO),
    }


def point(result: Result) -> WaitAndPrice:
    """Mean TTFT and dollars per 1,000 questions of one run."""
    assert result.bill is not None
    usd = result.bill.usd_per_1000_questions
    assert usd is not None
    return WaitAndPrice(float(np.mean(metrics.ttft_s(result.records))), usd)


def main(quick: bool) -> str:
    """Run the study; the answer in one sentence."""
    seeds = range(1, 2 if quick else SEEDS + 1)
    asked = SCENARIO.but(workload__users=USERS // 4) if quick else SCENARIO
    runs = {
        name: [simulate(asked.but(warming=policy), duration_s=DURATION_S, seed=seed) for seed in seeds]
        for name, policy in policies().items()
    }
    points = {name: [point(result) for result in results] for name, results in runs.items()}
    with sheet(1, 2, width=12.0, height=4.8) as (figure, (left, right)):
        shown = ("no warming", "on focus", "first key", f"pause of {PAUSE_S:g} s", f"every {TOKENS} tokens", "oracle")
        plot_ttft_cdf({name: [metrics.ttft_s(result.records) for result in runs[name]] for name in shown}, left)
        left.set_title("How long people wait")
        plot_wait_against_price(points, right, oracle="oracle")
        right.set(xlabel="dollars per 1,000 questions", ylabel="mean time to first token, s", title="What it costs")
        save_figure(figure, (FIGURES / "quick" if quick else FIGURES) / "05_when_to_warm.png")
    wait = {name: float(np.mean([run.wait_s for run in each])) for name, each in points.items()}
    usd = {name: float(np.mean([run.usd_per_1000_questions for run in each])) for name, each in points.items()}
    key, pause = "first key", f"pause of {PAUSE_S:g} s"
    return (
        f"On focus people wait {wait['on focus']:.2f} s on average instead of {wait['no warming']:.2f} s for "
        f"${usd['on focus'] - usd['no warming']:.0f} more per 1,000 questions; waiting for the first key takes "
        f"{wait[key] - wait['on focus']:.2f} s longer at ${usd[key] - usd['on focus']:+.0f}, for a pause of {PAUSE_S:g} s "
        f"{wait[pause] - wait['on focus']:.2f} s longer at ${usd[pause] - usd['on focus']:+.0f}; an oracle reaches "
        f"{wait['oracle']:.2f} s for ${usd['oracle'] - usd['no warming']:+.0f}: focus is early enough, and what is to be gained "
        f"lies in not warming what is warm or will not be sent."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed and a quarter of the people")
    print(main(parser.parse_args().quick))
