"""How much traffic keeps a shared prefix warm: 5 minutes, 1 hour, and best effort, simulated on the closed form.

Question
    Many people share one system prompt, and nobody pings. How many requests an hour keep it in the cache by themselves, for a
    lifetime of 5 minutes, of 1 hour, and for one that the provider only tries to keep?

Setup
    Poisson requests over one prefix of 20,000 tokens at Claude's rules and prices, latency jitter off. A request restarts the
    lifetime, so it hits iff the gap to the one before is shorter: with probability 1 - exp(-rate * ttl). Best effort: 1 hour
    promised, and an entry dies early at 0.34 per hour idle, the hazard fitted to a log of a coding agent; then it hits with
    rate / (rate + hazard) * (1 - exp(-(rate + hazard) * ttl)).

What to look at
    Left: the simulated points lie on the lines. A lifetime 12 times as long needs a twelfth of the traffic, and early deaths
    matter where requests are rare. Right: input dollars per request over those without a cache. Below the grey line caching pays;
    where traffic is thin, every miss pays for a write (1.25 times the input price, 2 times for the hour).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simcache import theory
from simcache.engine.run import simulate
from simcache.report.figures import COLOURS, GREY, LINES, save_figure, sheet
from simcache.scenario import HostedApi, Scenario
from simcache.workload.synthetic import PoissonRequests

FIGURES = Path(__file__).resolve().parent.parent / "figures"
SEED = 1
PREFIX_TOKENS = 20_000
QUESTION_TOKENS = 100
REQUESTS_PER_H = (0.25, 0.5, 1, 2, 4, 8, 12, 20, 36, 80)
WANTED = 0.95
MARKERS = ("o", "s", "^")
USD_PER_INPUT_TOKEN = 3e-6
READ = 0.1


class Lifetime(NamedTuple):
    """One line of the figure: what is asked for, how often it dies early, and what a write costs over the input price."""

    ttl: str
    ttl_s: float
    early_deaths_per_h: float
    write: float


LIFETIMES = {
    "5 minutes": Lifetime("5m", 300.0, 0.0, 1.25),
    "1 hour": Lifetime("1h", 3600.0, 0.0, 2.0),
    "1 hour, best effort": Lifetime("1h", 3600.0, 0.34, 2.0),
}


def hit_probability(requests_per_h: float, lifetime: Lifetime) -> float:
    """The closed form: the gap is shorter than the lifetime, and than the time to an early death."""
    both_per_h = requests_per_h + lifetime.early_deaths_per_h
    return requests_per_h / both_per_h * theory.ttl_hit_probability(both_per_h / 3600, lifetime.ttl_s)


def cost(hits: float, lifetime: Lifetime) -> float:
    """Input cost of the prefix over that without a cache, when that share of requests reads and the others write."""
    return hits * READ + (1 - hits) * lifetime.write


def simulated(requests_per_h: float, lifetime: Lifetime, count: int) -> tuple[float, float]:
    """Share of requests after the first that find the prefix, and their input dollars for it over those without a cache."""
    asked = Scenario(
        workload=PoissonRequests(
            rate_per_s=requests_per_h / 3600,
            count=count,
            prompt_tokens=PREFIX_TOKENS + QUESTION_TOKENS,
            output_tokens=1,
            shared_prefix_tokens=PREFIX_TOKENS,
        ),
        backend=HostedApi(
            provider="anthropic",
            model="claude-sonnet-4-5",
            rules="anthropic",
            profile="openai-figure",
            cache_ttl=lifetime.ttl,
            breakpoints=(1,),
            mark_shared=False,
            early_deaths_per_h=lifetime.early_deaths_per_h,
            jitter=False,
            prices_at="2026-11-21",
        ),
    )
    result = simulate(asked, seed=SEED)
    assert result.bill is not None
    assert result.bill.row_usd is not None
    lines = result.bill.lines
    prefix_usd = sum(usd for name, usd in lines.items() if name != "output") - count * QUESTION_TOKENS * USD_PER_INPUT_TOKEN
    return float(np.mean(result.records["hit_tokens"][1:] > 0)), prefix_usd / (count * PREFIX_TOKENS * USD_PER_INPUT_TOKEN)


def needed_per_h(wanted: float, lifetime: Lifetime) -> float:
    """Requests per hour from which the closed form gives ``wanted`` hits, by bisection."""
    low, high = 1e-3, 1e5
    while high / low > 1 + 1e-9:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if hit_probability(middle, lifetime) >= wanted else (middle, high)
    return high


def main(quick: bool) -> str:
    """Run the study; the answer in one sentence."""
    count = 400 if quick else 4_000
    points = {name: [simulated(rate, lifetime, count) for rate in REQUESTS_PER_H] for name, lifetime in LIFETIMES.items()}
    grid = np.geomspace(REQUESTS_PER_H[0], REQUESTS_PER_H[-1], 200)
    with sheet(1, 2, width=11.5, height=4.4) as (figure, (left, right)):
        for index, (name, lifetime) in enumerate(LIFETIMES.items()):
            hits = [hit_probability(rate, lifetime) for rate in grid]
            line = {"color": COLOURS[index], "linestyle": LINES[index], "linewidth": 1.5}
            dots = {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": "none", "markersize": 5, "label": name}
            left.plot(grid, hits, **line)
            left.plot(REQUESTS_PER_H, [share for share, _ in points[name]], **dots)
            right.plot(grid, [cost(share, lifetime) for share in hits], **line)
            right.plot(REQUESTS_PER_H, [usd for _, usd in points[name]], **dots)
        right.axhline(1.0, color=GREY, linewidth=0.9)
        for ax in (left, right):
            ax.set_xscale("log")
            ax.set_xticks(REQUESTS_PER_H, [f"{rate:g}" for rate in REQUESTS_PER_H])
            ax.minorticks_off()
            ax.set_xlabel("requests per hour over one prefix")
        left.set(ylabel="share that find it alive", ylim=(0, 1.02))
        left.set_title("Points: simulated. Lines: closed form")
        left.legend(loc="lower right")
        right.set(ylabel="cost of the prefix, without a cache = 1", ylim=(0, None))
        right.set_title("What that is worth")
        right.legend(loc="upper right")
        save_figure(figure, (FIGURES / "quick" if quick else FIGURES) / "15_traffic_keeps_warm.png")
    off = max(
        abs(share - hit_probability(rate, LIFETIMES[name]))
        for name, found in points.items()
        for rate, (share, _) in zip(REQUESTS_PER_H, found, strict=True)
    )
    five, hour, tried = (needed_per_h(WANTED, lifetime) for lifetime in LIFETIMES.values())
    pays = [
        3600 * (theory.traffic_until_caching_pays(LIFETIMES[name].ttl_s, write=LIFETIMES[name].write, read=READ) or 0.0)
        for name in ("5 minutes", "1 hour")
    ]
    return (
        f"{five:.0f} requests an hour keep a 5-minute prefix warm for {WANTED:.0%} of them, {hour:.1f} a 1-hour prefix and "
        f"{tried:.1f} one that may die early; caching all of them is cheaper than none from {pays[0]:.1f} and {pays[1]:.2f} an "
        f"hour on (5 minutes, 1 hour); {count:,} simulated requests per point are off the closed form by {off:.3f} at most."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer requests per point")
    print(main(parser.parse_args().quick))
