"""How much traffic keeps a prefix warm; and 5 minutes against 1 hour against keep-alive on the pauses that people really take.

Question
    From how many requests per hour on does a shared prefix stay warm by itself? And where one person comes back after real
    pauses: is it cheaper to write again, to pay for an hour's lifetime, or to send pings?

Setup
    Left: Poisson requests over one shared prefix of 20,000 tokens at Claude's rules, 5 minutes and 1 hour; the share that
    hits, against 1 - exp(-rate * ttl). Right: sessions of 6 questions over a context of 100,000 tokens, with the pauses of 237
    coding-agent sessions resampled (878 human pauses; where the trace is absent, their log-normal fit), latency jitter off.
    Pings every 4 minutes; the myopic rule and optimal stopping know the law of the pauses.

What to look at
    Left: how few requests it takes. Right: dollars per 1,000 questions against the cap on pings, beside the 5-minute and 1-hour
    lifetimes without pings; the marks are the two rules' own choices. The pings after a last answer, for somebody who has left,
    are in the bill and not in the rules, so the cheapest cap can lie below theirs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from simcache import theory
from simcache.engine.run import simulate
from simcache.report.figures import COLOURS, GREY, save_figure, sheet
from simcache.report.warming_figures import plot_lines
from simcache.scenario import HostedApi, Scenario
from simcache.warming import NoWarming, WarmingPolicy
from simcache.warming.keep_alive import KeepAlive, KeepAliveMyopic, KeepAliveOptimal
from simcache.workload.distributions import Law, LogNormal
from simcache.workload.empirical import TracePauses, session_gaps
from simcache.workload.presets import TypingSessions
from simcache.workload.synthetic import PoissonRequests

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
TRACE = Path(os.environ.get("SIMCACHE_DATA", ROOT.parent / "shared" / "data")) / "traces" / "claude_code_sessions.jsonl.gz"
FIT = LogNormal(median=224, sigma=2.24)
"""Through the logarithms of the 878 pauses."""
SEED = 1
PREFIX_TOKENS = 20_000
CONTEXT_TOKENS = 100_000
REQUESTS_PER_H = (1, 2, 4, 8, 12, 20, 40, 80)
TTLS_S = {"5m": 300.0, "1h": 3600.0}
QUESTIONS = 6
USERS = 150
INTERVAL_S = 240.0
CAPS = (0, 1, 2, 4, 6, 9, 12, 15, 20)
WRITE, READ = 1.25, 0.1


def api(ttl: str = "5m") -> HostedApi:
    """Claude's rules and prices with one of their lifetimes."""
    return HostedApi(
        provider="anthropic",
        model="claude-sonnet-4-5",
        rules="anthropic",
        profile="openai-figure",
        cache_ttl=ttl,
        jitter=False,
        prices_at="2026-11-21",
    )


def shared_prefix(requests_per_h: float, ttl: str, count: int) -> float:
    """Share of requests that find the shared prefix alive."""
    asked = Scenario(
        workload=PoissonRequests(
            rate_per_s=requests_per_h / 3600,
            count=count,
            prompt_tokens=PREFIX_TOKENS,
            output_tokens=1,
            shared_prefix_tokens=PREFIX_TOKENS,
        ),
        backend=api(ttl),
    )
    hits = simulate(asked, seed=SEED).records["hit_tokens"]
    return float(np.mean(hits[1:] > 0))


def sessions(pauses: Law, users: int) -> Scenario:
    """People who come back to a large context after pauses, and leave after their last question without a word."""
    return Scenario(
        workload=TypingSessions(
            users=users,
            arrive_within_s=3600.0,
            system_tokens=0,
            document_tokens=CONTEXT_TOKENS,
            questions=QUESTIONS,
            question_tokens=20,
            output_tokens=200,
            typing_s=0.0,
            read_think_s=pauses,
        ),
        backend=api(),
    )


def bill(asked: Scenario, policy: WarmingPolicy) -> tuple[float, float]:
    """Dollars per 1,000 questions, and the share of returning questions that find their context alive."""
    result = simulate(asked.but(warming=policy), duration_s=30 * 24 * 3600.0, seed=SEED)
    assert result.bill is not None
    usd = result.bill.usd_per_1000_questions
    assert usd is not None
    back = result.records.where((result.records.kind == "user") & (result.records.turn > 0))
    return usd, float(np.mean(back["hit_tokens"] >= CONTEXT_TOKENS))


def lost_shares(path: Path) -> tuple[float, float]:
    """Of the tokens that the next request could reuse: the share behind a gap over 5 minutes, of all and after a human pause."""
    gaps = [gap for session in session_gaps(path) for gap in session]
    tokens, spans_s = np.array([gap.reusable_tokens for gap in gaps]), np.array([gap.start_to_start_s for gap in gaps])
    human = np.array([not gap.after_tool for gap in gaps])
    late = spans_s > TTLS_S["5m"]
    return float(tokens[late].sum() / tokens.sum()), float(tokens[late & human].sum() / tokens[human].sum())


def main(quick: bool) -> str:
    """Run the study; the answer in one sentence."""
    count, users = (400, 40) if quick else (4_000, USERS)
    pauses: Law = TracePauses(path=TRACE) if TRACE.exists() else FIT
    warm = {ttl: [shared_prefix(rate, ttl, count) for rate in REQUESTS_PER_H] for ttl in TTLS_S}
    asked = sessions(pauses, users)
    caps = CAPS[::3] if quick else CAPS
    pinged = [bill(asked, KeepAlive(interval_s=INTERVAL_S, most_pings=cap)) for cap in caps]
    five, hour = bill(asked, NoWarming()), bill(asked.but(backend=api("1h")), NoWarming())
    rules = {
        "myopic rule": KeepAliveMyopic(gap=pauses, interval_s=INTERVAL_S, most_pings=max(CAPS)),
        "optimal stopping": KeepAliveOptimal(gap=pauses, interval_s=INTERVAL_S, most_pings=max(CAPS)),
    }
    chosen = {name: (policy.pings(0.0), *bill(asked, policy)) for name, policy in rules.items()}
    with sheet(1, 2, width=11.5, height=4.4) as (figure, (left, right)):
        plot_lines(REQUESTS_PER_H, {f"{ttl}, simulated": values for ttl, values in warm.items()}, left)
        grid = np.geomspace(REQUESTS_PER_H[0], REQUESTS_PER_H[-1], 100)
        for ttl_s in TTLS_S.values():
            left.plot(grid, [theory.ttl_hit_probability(rate / 3600, ttl_s) for rate in grid], color=GREY, linewidth=0.9)
        left.set_xscale("log")
        left.set_xticks(REQUESTS_PER_H, [str(rate) for rate in REQUESTS_PER_H])
        left.set(xlabel="requests per hour over one prefix", ylabel="share that find it alive", ylim=(0, 1.02))
        left.set_title("How much traffic keeps a prefix warm (grey: theory)")
        left.legend(loc="lower right")
        plot_lines(caps, {"5 minutes and pings": [usd for usd, _ in pinged]}, right)
        for index, (name, (usd, _)) in enumerate({"5 minutes, no pings": five, "1 hour, no pings": hour}.items(), start=1):
            right.axhline(usd, color=COLOURS[index], linestyle="--" if index == 1 else "-.", linewidth=1.5, label=name)
        for (name, (pings, usd, _)), marker in zip(chosen.items(), ("s", "*"), strict=True):
            right.plot([pings], [usd], marker=marker, markersize=10, linestyle="none", color="black", alpha=0.7, label=name)
        right.set_xticks(caps)
        right.set(xlabel="pings after an answer, at most", ylabel="dollars per 1,000 questions", ylim=(0, None))
        right.set_title(f"{CONTEXT_TOKENS // 1000}k tokens, pauses of coding-agent users")
        right.legend(loc="lower right")
        save_figure(figure, (FIGURES / "quick" if quick else FIGURES) / "07_ttl_or_keep_alive.png")
    best_cap, (best_usd, best_warm) = min(zip(caps, pinged, strict=True), key=lambda each: each[1][0])
    myopic, optimal = chosen["myopic rule"], chosen["optimal stopping"]
    source = "real pauses" if TRACE.exists() else "a log-normal fit of real pauses (the trace is absent)"
    of_all = ""
    if TRACE.exists():
        every, human = lost_shares(TRACE)
        of_all = (
            f" {every:.0%} of all reusable tokens, but {human:.0%} of those after a human pause, sit behind a gap over 5 minutes."
        )
    return (
        f"12 requests an hour keep a 5-minute prefix warm {warm['5m'][REQUESTS_PER_H.index(12)]:.0%} of the time and 1 an hour "
        f"a 1-hour prefix {warm['1h'][0]:.0%}. On {source}, 1,000 questions over {CONTEXT_TOKENS // 1000}k tokens cost "
        f"${five[0]:.0f} at 5 minutes ({five[1]:.0%} of returns warm), ${hour[0]:.0f} at 1 hour ({hour[1]:.0%}), and "
        f"${best_usd:.0f} with at most {best_cap} pings ({best_warm:.0%}); the myopic rule sends {myopic[0]} (${myopic[1]:.0f}), "
        f"optimal stopping {optimal[0]} (${optimal[1]:.0f}).{of_all}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer requests, people and caps")
    print(main(parser.parse_args().quick))
