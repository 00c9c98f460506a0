"""Warming under load: from which traffic on do warm-ups hurt everybody, and those first who do not warm?

Question
    A warm-up competes with the questions of others for one GPU. How does what it saves those who warm, and what it costs those
    who do not, change with traffic? Does a lower priority for warm-ups help?

Setup
    One replica (llama-3-8b on an A100, vLLM-like scheduler, priority scheduling). People arrive at a rate, each with a
    document of their own of 6,000 tokens, and ask one question; 70 % of the drafts are sent. Half of the people warm on focus,
    the same ones in every run; the other half never does. Each run is paired with the same seed without any warming.

What to look at
    Left: mean change of TTFT of those who warm and of those who do not, for warm-ups at the questions' priority and below it.
    Right: what everybody waits on average. Past the crossing, warming makes everybody wait longer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from simcache import metrics
from simcache.engine.run import simulate
from simcache.records import Records
from simcache.report.figures import GREY, save_figure, sheet
from simcache.report.warming_figures import plot_lines
from simcache.scenario import Scenario, Server
from simcache.warm_ledger import slowdown_of_others_s
from simcache.warming import WarmOnFocus
from simcache.warming.limits import ForSome
from simcache.workload.presets import TypingSessions

FIGURES = Path(__file__).resolve().parent.parent / "figures"
RATES_PER_S = (0.4, 0.8, 1.0, 1.2, 1.3, 1.4, 1.5)
SEEDS = 4
DURATION_S = 1500.0
DOCUMENT_TOKENS = 6_000
P_SEND = 0.7
SHARE_WARMING = 0.5
PRIORITIES = {"equal priority": 0, "lower priority": 1}


def asked(rate_per_s: float) -> Scenario:
    """Traffic at ``rate_per_s`` onto one GPU, nobody warming."""
    return Scenario(
        workload=TypingSessions(
            arrivals_per_s=rate_per_s,
            document_tokens=DOCUMENT_TOKENS,
            questions=1,
            p_send=P_SEND,
            paste_share=0.0,
            output_tokens=200,
        ),
        backend=Server(profile="llama-3-8b/a100/tp1", policy="priority"),
    )


def change_s(warm: Records, cold: Records) -> tuple[float, float]:
    """Mean change of TTFT of those who warm and of those who do not."""
    others = slowdown_of_others_s(warm, cold)
    everybody = float(np.mean(metrics.ttft_s(warm)) - np.mean(metrics.ttft_s(cold)))
    users = len(metrics.ttft_s(warm))
    own = (everybody * users - float(others.sum())) / max(users - len(others), 1)
    return own, float(others.mean())


def main(quick: bool) -> str:
    """Run the study; the answer in one sentence."""
    rates = RATES_PER_S[::3] if quick else RATES_PER_S
    seeds = range(1, 3 if quick else SEEDS + 1)
    duration_s = DURATION_S / 3 if quick else DURATION_S
    changes: dict[str, list[np.ndarray]] = {}
    waits: dict[str, list[float]] = {}
    for rate in rates:
        cold = [simulate(asked(rate), duration_s=duration_s, seed=seed) for seed in seeds]
        waits.setdefault("no warming", []).append(float(np.mean([np.mean(metrics.ttft_s(run.records)) for run in cold])))
        for name, priority in PRIORITIES.items():
            policy = ForSome(policy=WarmOnFocus(), share=SHARE_WARMING, priority=priority)
            warm = [simulate(asked(rate).but(warming=policy), duration_s=duration_s, seed=seed) for seed in seeds]
            pairs = np.array([change_s(a.records, b.records) for a, b in zip(warm, cold, strict=True)])
            changes.setdefault(f"who warms, {name}", []).append(pairs[:, 0])
            changes.setdefault(f"who does not, {name}", []).append(pairs[:, 1])
            waits.setdefault(f"half warm, {name}", []).append(float(np.mean([np.mean(metrics.ttft_s(r.records)) for r in warm])))
    with sheet(1, 2, width=11.5, height=4.4) as (figure, (left, right)):
        means = {name: [float(each.mean()) for each in runs] for name, runs in changes.items()}
        bands = {name: ([each.min() for each in runs], [each.max() for each in runs]) for name, runs in changes.items()}
        plot_lines(rates, means, left, bands=bands)
        left.axhline(0, color=GREY, linewidth=1)
        left.set(
            xlabel="people arriving per second", ylabel="change of mean TTFT, s", title="Against the same seed, nobody warming"
        )
        left.set_ylim(-0.7, 1.6)
        left.legend(loc="upper left")
        plot_lines(rates, waits, right)
        right.set(xlabel="people arriving per second", ylabel="mean time to first token, s", title="What everybody waits")
        right.set_ylim(bottom=0)
        right.legend(loc="upper left")
        figure.supxlabel(f"{len(seeds)} seeds; bands: smallest and largest of them", fontsize=8, color=GREY)
        save_figure(figure, (FIGURES / "quick" if quick else FIGURES) / "06_warming_under_load.png")
    own, others = (means[f"who {what}, equal priority"] for what in ("warms", "does not"))
    lower = means["who does not, lower priority"]
    hurt = next(
        (rate for rate, a, b in zip(rates, waits["no warming"], waits["half warm, equal priority"], strict=True) if b > a), None
    )
    crossing = "on average nobody is worse off" if hurt is None else f"from {hurt:g} on people wait longer on average"
    return (
        f"At {rates[0]:g} people per second those who warm save {-own[0]:.2f} s and the others lose {others[0]:.2f} s; at "
        f"{rates[-1]:g} those who warm change by {own[-1]:+.2f} s and the others by {others[-1]:+.2f} s "
        f"({lower[-1]:+.2f} s where warm-ups have the lower priority): {crossing}."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rates, seeds and minutes")
    print(main(parser.parse_args().quick))
