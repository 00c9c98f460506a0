"""5 minutes against 1 hour against keep-alive, on the pauses that people really take.

Question
    Where one person comes back to a long context after real pauses: is it cheaper to write it again, to pay for an hour's
    lifetime, or to send pings? (How much traffic of many people keeps a prefix warm without any of that: study 15.)

Setup
    Left: 237 real coding-agent sessions, read as they are: the tokens that a request could reuse of the one before it, by the gap
    between their starts. Right: sessions of 6 questions over a context of 100,000 tokens at Claude's rules and prices, with the
    878 human pauses of those sessions resampled (where the trace is absent, their log-normal fit stands in on both sides), latency
    jitter off. Pings every 4 minutes; the myopic rule and optimal stopping know the law of the pauses.

What to look at
    Left: tools answer within seconds, so that few of all tokens wait long; after a human pause nearly half of them outlive 5
    minutes, and few an hour. Right: dollars per 1,000 questions against the cap on pings, beside the 5-minute and 1-hour
    lifetimes without pings; the marks are the two rules' own choices. The pings after a last answer, for somebody who has left,
    are in the bill and not in the rules, so the cheapest cap can lie below theirs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from simcache.engine.run import simulate
from simcache.report.figures import COLOURS, GREY, LINES, save_figure, sheet
from simcache.report.warming_figures import plot_lines
from simcache.scenario import HostedApi, Scenario
from simcache.warming import NoWarming, WarmingPolicy
from simcache.warming.keep_alive import KeepAlive, KeepAliveMyopic, KeepAliveOptimal
from simcache.workload.distributions import Law, LogNormal
from simcache.workload.empirical import TracePauses, session_gaps
from simcache.workload.presets import TypingSessions

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
TRACE = Path(os.environ.get("SIMCACHE_DATA", ROOT.parent / "shared" / "data")) / "traces" / "claude_code_sessions.jsonl.gz"
FIT = LogNormal(median=224, sigma=2.24)
"""Through the logarithms of the 878 pauses."""
SEED = 1
CONTEXT_TOKENS = 100_000
TTLS_S = {"5m": 300.0, "1h": 3600.0}
GAPS_S = np.geomspace(1.0, 86_400.0, 200)
GAP_TICKS_S = {1: "1 s", 10: "10 s", 60: "1 min", 300: "5 min", 3600: "1 h", 86_400: "1 day"}
QUESTIONS = 6
USERS = 150
INTERVAL_S = 240.0
CAPS = (0, 1, 2, 4, 6, 9, 12, 15, 20)


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


def reusable(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tokens that the next request could reuse and its gap from start to start in seconds: of all, and after a human pause."""
    gaps = [gap for session in session_gaps(path) for gap in session]
    tokens, spans_s = np.array([gap.reusable_tokens for gap in gaps]), np.array([gap.start_to_start_s for gap in gaps])
    human = np.array([not gap.after_tool for gap in gaps])
    return {"all requests": (tokens, spans_s), "after a human pause": (tokens[human], spans_s[human])}


def share_behind(tokens: np.ndarray, spans_s: np.ndarray, gap_s: float) -> float:
    """Share of the tokens that sit behind a gap longer than ``gap_s``."""
    return float(tokens[spans_s > gap_s].sum() / tokens.sum())


def main(quick: bool) -> str:
    """Run the study; the answer in one sentence."""
    users = 40 if quick else USERS
    pauses: Law = TracePauses(path=TRACE) if TRACE.exists() else FIT
    asked = sessions(pauses, users)
    caps = CAPS[::3] if quick else CAPS
    pinged = [bill(asked, KeepAlive(interval_s=INTERVAL_S, most_pings=cap)) for cap in caps]
    five, hour = bill(asked, NoWarming()), bill(asked.but(backend=api("1h")), NoWarming())
    rules = {
        "myopic rule": KeepAliveMyopic(gap=pauses, interval_s=INTERVAL_S, most_pings=max(CAPS)),
        "optimal stopping": KeepAliveOptimal(gap=pauses, interval_s=INTERVAL_S, most_pings=max(CAPS)),
    }
    chosen = {name: (policy.pings(0.0), *bill(asked, policy)) for name, policy in rules.items()}
    real = reusable(TRACE) if TRACE.exists() else {}
    behind = {name: [share_behind(*each, gap_s) for gap_s in GAPS_S.tolist()] for name, each in real.items()}
    if not behind:
        behind = {"pauses, log-normal fit": (1 - np.asarray(FIT.cdf(GAPS_S))).tolist()}
    with sheet(1, 2, width=11.5, height=4.4) as (figure, (left, right)):
        for index, (name, shares) in enumerate(behind.items()):
            left.plot(GAPS_S, np.array(shares) * 100, label=name, color=COLOURS[index], linestyle=LINES[index], linewidth=1.8)
        for ttl_s in TTLS_S.values():
            left.axvline(ttl_s, color=GREY, linewidth=0.9)
        left.set_xscale("log")
        left.set_xticks(list(GAP_TICKS_S), list(GAP_TICKS_S.values()))
        left.minorticks_off()
        left.set(xlabel="gap from start to start", ylabel="reusable tokens behind a longer gap, %", ylim=(0, 102))
        left.set_title("What a lifetime loses (grey: 5 minutes, 1 hour)")
        left.legend(loc="upper right")
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
    most = f"at most {best_cap} ping" + ("" if best_cap == 1 else "s")
    source = "real pauses" if TRACE.exists() else "a log-normal fit of real pauses (the trace is absent)"
    lost = ""
    if real:
        every, human = (share_behind(*each, TTLS_S["5m"]) for each in real.values())
        lost = (
            f"{every:.0%} of all reusable tokens, but {human:.0%} of those after a human pause, sit behind a gap over 5 minutes. "
        )
    return (
        f"{lost}On {source}, 1,000 questions over {CONTEXT_TOKENS // 1000}k tokens cost "
        f"${five[0]:.0f} at 5 minutes ({five[1]:.0%} of returns warm), ${hour[0]:.0f} at 1 hour ({hour[1]:.0%}), and "
        f"${best_usd:.0f} with {most} ({best_warm:.0%}); the myopic rule sends {myopic[0]} (${myopic[1]:.0f}), "
        f"optimal stopping {optimal[0]} (${optimal[1]:.0f})."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer people and caps")
    print(main(parser.parse_args().quick))
