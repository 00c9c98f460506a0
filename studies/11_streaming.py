"""Streaming against not: what users perceive, and what is left of warming where they see the answer only when it is complete.

Question
    An application that does not stream shows the answer when its last token is there. How much longer does that feel, at a hosted
    API and on a GPU of one's own that gets busier, and how much of what warming saves can be felt at all?

Setup
    People who type three questions each about a document. Hosted: 100,000 tokens, Claude Sonnet 4.5's rules and the only published
    latency curve of a hosted API, 20 ms a token. Own: 20,000 tokens, Llama-3-8B on one A100 (measured), from 20 to 220 people an
    hour. Each without warming and warmed on focus, the same people typing the same keys. Perceived: the first token where the
    answer streams, the last one where it does not.

What to look at
    Left: without streaming the length of the answer decides, and from a few hundred tokens on what warming saves is a small part of
    the wait. Right: with streaming warming is the difference between 2 s and a moment, until the GPU is so busy that warm-ups
    stand in the way of questions; without streaming neither can be felt much.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from simcache import units
from simcache.engine.run import simulate
from simcache.report.figures import COLOURS, LINES, save_figure, sheet
from simcache.scenario import HostedApi, Scenario, Server
from simcache.warming import NoWarming, WarmOnFocus
from simcache.workload.presets import TypingSessions

FIGURES = Path(__file__).resolve().parent.parent / "figures"
SEED = 1
QUANTILE = 0.95
DURATION_S, QUICK_DURATION_S = 3600.0, 900.0
HOSTED_DOCUMENT_TOKENS, OWN_DOCUMENT_TOKENS, QUESTIONS = 100_000, 20_000, 3
ANSWER_TOKENS = (10, 30, 100, 300, 1_000)
PEOPLE_PER_H = (20, 60, 100, 140, 180, 220)
HOSTED = HostedApi(provider="anthropic", model="claude-sonnet-4-5", profile="openai-figure", jitter=False, prices_at="2026-11-21")
OWN = Server(profile="llama-3-8b/a100/tp1")
WARMING = {"no warming": NoWarming(), "warmed on focus": WarmOnFocus()}
SHOWN = {"streaming": True, "not streaming": False}


def perceived_s(scenario: Scenario, duration_s: float, quantile: float) -> dict[str, float]:
    """A quantile of what users perceive, streaming and not, of one and the same run."""
    result = simulate(scenario, duration_s=duration_s, seed=SEED)
    columns = {"streaming": result.records.ttft_s, "not streaming": result.records.e2e_s}
    asked = (result.records.kind == "user") & (result.records.outcome == "ok")
    return {name: float(np.quantile(values[asked], quantile)) for name, values in columns.items()}


def curves(scenarios: dict[str, list[Scenario]], duration_s: float, quantile: float) -> dict[str, list[float]]:
    """One line per warming and way of showing, over the scenarios of each warming."""
    lines: dict[str, list[float]] = {f"{shown}, {warming}": [] for shown in SHOWN for warming in scenarios}
    for warming, row in scenarios.items():
        for scenario in row:
            for shown, value in perceived_s(scenario, duration_s, quantile).items():
                lines[f"{shown}, {warming}"].append(value)
    return lines


def main(quick: bool) -> str:
    """Run the study; the answer in one sentence."""
    duration_s = QUICK_DURATION_S if quick else DURATION_S
    answers = ANSWER_TOKENS[::2] if quick else ANSWER_TOKENS
    people = PEOPLE_PER_H[::2] if quick else PEOPLE_PER_H
    crowd = TypingSessions(arrivals_per_s=60 / 3600, document_tokens=OWN_DOCUMENT_TOKENS, questions=QUESTIONS)
    hosted = curves(
        {
            name: [
                Scenario(workload=crowd, backend=HOSTED, warming=policy).but(
                    workload__output_tokens=n, workload__document_tokens=HOSTED_DOCUMENT_TOKENS
                )
                for n in answers
            ]
            for name, policy in WARMING.items()
        },
        duration_s,
        QUANTILE,
    )
    own = curves(
        {
            name: [Scenario(workload=crowd, backend=OWN, warming=policy).but(workload__arrivals_per_s=n / 3600) for n in people]
            for name, policy in WARMING.items()
        },
        duration_s,
        QUANTILE,
    )
    with sheet(1, 2, width=11.0, height=4.6) as (figure, (left, right)):
        for ax, xs, lines in ((left, answers, hosted), (right, people, own)):
            for index, (name, values) in enumerate(lines.items()):
                ax.plot(xs, values, label=name, color=COLOURS[index // 2], linestyle=LINES[index % 2], marker="o", markersize=4)
            ax.set_yscale("log")
            ax.set_yticks([0.1, 0.3, 1, 3, 10, 30], ["0.1", "0.3", "1", "3", "10", "30"])
        left.set(
            xscale="log", xlabel="tokens of the answer", ylabel="95th percentile of the wait that is perceived, s", ylim=(0.8, 60)
        )
        left.set_xticks(list(answers), [f"{n:,}" for n in answers])
        left.minorticks_off()
        left.set_title("A hosted API")
        right.set(xlabel="people an hour", ylabel="95th percentile of the wait that is perceived, s")
        right.minorticks_off()
        right.set_title("One A100, Llama-3-8B")
        left.legend(loc="upper left")
        save_figure(figure, (FIGURES / "quick" if quick else FIGURES) / "11_streaming.png")
    at = len(answers) // 2 if quick else answers.index(300)
    said = []
    for shown in SHOWN:
        cold, warm = hosted[f"{shown}, no warming"][at], hosted[f"{shown}, warmed on focus"][at]
        idle, busy = own[f"{shown}, no warming"][0], own[f"{shown}, no warming"][-1]
        said.append(
            f"{units.seconds(cold)} {shown} (warming takes off {units.share(1 - warm / cold)}), and on one A100 "
            f"{units.seconds(idle)} at {people[0]} people an hour and {units.seconds(busy)} at {people[-1]}"
        )
    return f"95 % perceive an answer of {answers[at]} tokens from a hosted API within {said[0]}; within {said[1]}."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer points and a quarter of an hour")
    print(main(parser.parse_args().quick))
