"""API or own GPUs: dollars per 1,000 questions, by how many are asked.

Question
    An API is paid by the token, a GPU by the hour whether anybody asks or not. From how many questions an hour on does renting
    pay, and which knob moves that point?

Setup
    People who ask three questions about an 8,000-token document (20 documents shared by all), answers of 300 tokens. Own:
    replicas of Llama-3.1-8B on an H100 (kernel sums, not measured as a whole), as many as keep 95 % of first tokens under 1 s; what
    one replica carries is found by bisection over simulated arrival rates, with and without prefix caching, and n replicas are
    taken to carry n times that. APIs: list prices of one day, the bill of the same people simulated. Groq serves the very same
    model without a price for cached reads, the others are models that one might use instead. Nothing here says that their answers
    are as good, nor as fast: a hosted API's first token takes over a second by the only published curve, and the bound is that of
    the replicas alone.

What to look at
    The saw of whole GPUs falls as 1/volume and ends on the floor of a full replica. Where a flat line crosses it, renting begins
    to pay. Without prefix caching the floor lies above what the same model costs at Groq: renting never pays.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from simcache.engine.run import simulate
from simcache.pricing import load_gpu
from simcache.report.figures import COLOURS, GREY, LINES, save_figure, sheet
from simcache.scenario import HostedApi, Scenario, Server
from simcache.workload.presets import TypingSessions

FIGURES = Path(__file__).resolve().parent.parent / "figures"
SEED = 1
DURATION_S, QUICK_DURATION_S = 1_800.0, 300.0
SLO_TTFT_S, SHARE = 1.0, 0.95
QUESTIONS = 3
CROWD = TypingSessions(
    arrivals_per_s=1.0, document_tokens=8_000, documents=20, questions=QUESTIONS, output_tokens=300, question_tokens=30
)
OWN = "llama-3.1-8b/h100/tp1"
API = {"profile": "openai-figure", "jitter": False, "prices_at": "2026-11-21"}
APIS = {
    "Groq, Llama-3.1-8B": HostedApi(provider="groq", model="llama-3.1-8b-instant", prefix_caching=False, **API),
    "OpenAI gpt-5-nano": HostedApi(provider="openai", model="gpt-5-nano", **API),
    "OpenAI gpt-5-mini": HostedApi(provider="openai", model="gpt-5-mini", **API),
    "Claude Haiku 4.5": HostedApi(provider="anthropic", model="claude-haiku-4-5", breakpoints=(2,), **API),
}
API_PEOPLE_PER_S = 0.2
MOST_PEOPLE_PER_S = 40.0


def holds(people_per_s: float, *, prefix_caching: bool, duration_s: float) -> bool:
    """Whether one replica gives 95 % of the questions a first token within a second."""
    workload = replace(CROWD, arrivals_per_s=people_per_s)
    backend = Server(profile=OWN, prefix_caching=prefix_caching)
    records = simulate(Scenario(workload=workload, backend=backend), duration_s=duration_s, seed=SEED).records
    return bool(np.mean(records.ttft_s <= SLO_TTFT_S) >= SHARE)


def capacity_per_h(*, prefix_caching: bool, duration_s: float) -> float:
    """Questions an hour that one replica carries, by bisection to 5 %."""
    low, high = 0.1, 0.2
    while high < MOST_PEOPLE_PER_S and holds(high, prefix_caching=prefix_caching, duration_s=duration_s):
        low, high = high, 2 * high
    while high / low > 1.05:
        middle = math.sqrt(low * high)
        if holds(middle, prefix_caching=prefix_caching, duration_s=duration_s):
            low = middle
        else:
            high = middle
    return low * QUESTIONS * 3600


def api_usd_per_1000(api: HostedApi, duration_s: float) -> float:
    """Dollars per 1,000 questions of the same people at a hosted API."""
    workload = replace(CROWD, arrivals_per_s=API_PEOPLE_PER_S)
    bill = simulate(Scenario(workload=workload, backend=api), duration_s=duration_s, seed=SEED).bill
    assert bill is not None
    assert bill.usd_per_1000_questions is not None
    return bill.usd_per_1000_questions


def own_usd_per_1000(volumes_per_h: np.ndarray, capacity: float, usd_per_h: float) -> np.ndarray:
    """Dollars per 1,000 questions of the fewest whole replicas that carry each volume."""
    return np.ceil(volumes_per_h / capacity) * usd_per_h / volumes_per_h * 1000


def two_digits(value: float) -> str:
    """As sure as a bisection to 5 % is."""
    return f"{float(f'{value:.1e}'):,.0f}"


def pays(volumes_per_h: np.ndarray, own_usd: np.ndarray, api_usd: float) -> str:
    """From which volume on renting is cheaper, and whether it stays so when the next replica begins empty."""
    cheaper = own_usd <= api_usd
    if not cheaper.any():
        return "never"
    first = int(np.argmax(cheaper))
    if cheaper[first:].all():
        return f"from {two_digits(volumes_per_h[first])} questions an hour on"
    return f"only while replicas are nearly full, first at {two_digits(volumes_per_h[first])} questions an hour"


def main(quick: bool) -> str:
    """Run the study; the answer in one sentence."""
    duration_s = QUICK_DURATION_S if quick else DURATION_S
    usd_per_h = load_gpu("h100").usd_per_gpu_hour
    capacities = {caching: capacity_per_h(prefix_caching=caching, duration_s=duration_s) for caching in (True, False)}
    flat = {name: api_usd_per_1000(api, duration_s) for name, api in APIS.items()}
    volumes = np.geomspace(10, 100_000, 2_000)
    own = {caching: own_usd_per_1000(volumes, capacity, usd_per_h) for caching, capacity in capacities.items()}
    crossings = {
        name: next((v for v, usd in zip(volumes, own[True], strict=True) if usd <= price), None) for name, price in flat.items()
    }
    with sheet(1, 1, width=8.5, height=5.0) as (figure, (ax,)):
        for caching, usd in own.items():
            how = f"{'with' if caching else 'without'} prefix caching"
            name = f"own H100s, {how} ({two_digits(capacities[caching])} questions an hour each)"
            ax.plot(volumes, usd, label=name, color="black" if caching else GREY, linestyle="-" if caching else "--", linewidth=1.5)
        for index, (name, price) in enumerate(flat.items()):
            ax.axhline(price, color=COLOURS[index], linestyle=LINES[index], label=f"{name}: {price:.2f} dollars", linewidth=1.6)
            crossing = crossings[name]
            if crossing is not None:
                ax.plot([crossing], [price], marker="o", color=COLOURS[index], markersize=6)
                ax.annotate(
                    two_digits(crossing), (crossing, price), xytext=(-6, -11), textcoords="offset points", fontsize=8, ha="right"
                )
        ax.set(xscale="log", yscale="log", xlim=(10, 100_000), xlabel="questions an hour", ylabel="US dollars per 1,000 questions")
        ax.set_xticks([10, 100, 1_000, 10_000, 100_000], ["10", "100", "1,000", "10,000", "100,000"])
        ax.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        ax.set_title(f"95 % of first tokens within {SLO_TTFT_S:g} s; 8,000-token documents, answers of 300 tokens")
        ax.legend(loc="upper right")
        save_figure(figure, (FIGURES / "quick" if quick else FIGURES) / "12_api_or_own_gpus.png")
    said = "; ".join(
        f"against {name} ({price:.2f} dollars per 1,000) {pays(volumes, own[True], price)}" for name, price in flat.items()
    )
    return (
        f"One H100 at {usd_per_h:.2f} dollars an hour carries {two_digits(capacities[True])} such questions an hour with prefix "
        f"caching and {two_digits(capacities[False])} without, so that renting pays {said}."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="five simulated minutes instead of thirty")
    print(main(parser.parse_args().quick))
