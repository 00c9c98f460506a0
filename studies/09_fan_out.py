"""Fan-out before the first entry is visible: N requests over one prefix, sent at once, each pay for it.

Question
    An evaluation sends 32 gradings of one 50,000-token document. How many of them pay for the whole document, how far apart must
    they be sent so that only the first does, and what does it cost in time to send one first and the rest when its entry is there?

Setup
    Claude Sonnet 4.5 (an entry is visible with the first token) and Qwen 3.5 Plus, explicit (with the last token), latency of the
    only published curve of a hosted API, no jitter, 300 output tokens, no rate limits. Left: 32 requests, evenly spaced. Right: 1
    to 64 requests, all at once; one first, the rest at its first token; a warm-up without output first (Claude allows max_tokens
    0), the rest when it is there.

What to look at
    How fast the left curve falls: the requests that pay are those that start before the first one's entry is there, so one second
    between two requests already saves nine tenths at Claude. And what waiting for the entry costs: the last answer comes later by
    what a hit takes, 1.4 s, for a ninth of the input bill.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from simcache.engine.run import simulate
from simcache.prompt import Request, Segment
from simcache.report.figures import COLOURS, LINES, save_figure, sheet
from simcache.result import Result
from simcache.scenario import HostedApi, Scenario
from simcache.workload.synthetic import RequestList

FIGURES = Path(__file__).resolve().parent.parent / "figures"
DOCUMENT_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS = 50_000, 200, 300
GRADINGS = 32
WIDEST_SPACING_S = 12.0
PRICES_AT = "2026-11-21"
APIS = {
    "Claude Sonnet 4.5, visible at the first token": HostedApi(
        provider="anthropic", model="claude-sonnet-4-5", profile="openai-figure", jitter=False, prices_at=PRICES_AT
    ),
    "Qwen 3.5 Plus explicit, visible at the last": HostedApi(
        provider="qwen", model="qwen3.5-plus", rules="qwen-explicit", profile="openai-figure", jitter=False, prices_at=PRICES_AT
    ),
}


def grading(number: int, at_s: float) -> Request:
    """One request over the common document."""
    prompt = (Segment("document", DOCUMENT_TOKENS), Segment(f"question {number}", QUESTION_TOKENS))
    return Request(at_s, prompt, Segment(f"answer {number}", ANSWER_TOKENS), session=f"g{number}", shared_segments=1)


def run(api: HostedApi, rows: list[Request]) -> Result:
    """The simulated fan-out."""
    return simulate(Scenario(workload=RequestList(rows=tuple(sorted(rows, key=lambda row: row.arrived_at_s))), backend=api))


def input_usd(result: Result) -> float:
    """The bill without its output line, which no order of requests changes."""
    assert result.bill is not None
    return result.bill.total_usd - result.bill.lines["output"]


def done_s(result: Result) -> float:
    """When the last answer is complete."""
    return float(result.records.finished_at_ns.max()) / 1e9


def first_visible_s(api: HostedApi, first: Request) -> float:
    """The instant at which the entry of a request sent alone at 0 is there."""
    return float(run(api, [first]).records.first_token_at_ns[0]) / 1e9


def orders(api: HostedApi, count: int) -> dict[str, Result]:
    """The three orders of ``count`` gradings."""
    ready_s = first_visible_s(api, grading(0, 0.0)) + 1e-3
    warm = grading(0, 0.0)._replace(prompt=(Segment("document", DOCUMENT_TOKENS),), output=Segment("none", 0), kind="warm")
    warmed_s = first_visible_s(api, warm) + 1e-3
    return {
        "all at once": run(api, [grading(i, 0.0) for i in range(count)]),
        "one first, the rest at its first token": run(api, [grading(i, 0.0 if i == 0 else ready_s) for i in range(count)]),
        "a warm-up first, then all": run(api, [warm, *(grading(i, warmed_s) for i in range(count))]),
    }


def main(quick: bool) -> str:
    """Run the study; the answer in one sentence."""
    spacings_s = np.linspace(0, WIDEST_SPACING_S, 13 if quick else 97)
    counts = [1, 8, 32, 64] if quick else [1, 2, 4, 8, 16, 24, 32, 48, 64]
    full_writes = {
        name: [
            int((run(api, [grading(i, i * float(spacing)) for i in range(GRADINGS)]).records.written_5m_tokens > 0).sum())
            for spacing in spacings_s
        ]
        for name, api in APIS.items()
    }
    claude = next(iter(APIS.values()))
    by_count = [orders(claude, count) for count in counts]
    names = list(by_count[0])
    with sheet(1, 3, width=14.0, height=4.4) as (figure, (left, middle, right)):
        for index, (name, writes) in enumerate(full_writes.items()):
            left.plot(spacings_s, writes, label=name, color=COLOURS[index], linestyle=LINES[index], linewidth=1.8)
        left.set(xlim=(0, WIDEST_SPACING_S), ylim=(0, GRADINGS + 3), xlabel="time between two requests, s")
        left.set(ylabel=f"requests that pay a full write, of {GRADINGS}")
        left.set_title("How far apart is far enough")
        left.legend(loc="upper right")
        for index, name in enumerate(names):
            look = {"label": name, "color": COLOURS[index], "linestyle": LINES[index], "linewidth": 1.8}
            middle.plot(counts, [input_usd(results[name]) for results in by_count], **look)
            right.plot(counts, [done_s(results[name]) for results in by_count], **look)
        middle.set(xlabel="requests", ylabel="input bill, US dollars", xlim=(0, counts[-1]), ylim=(0, None))
        middle.set_title("What the order costs (Claude)")
        middle.legend(loc="upper left")
        right.set(xlabel="requests", ylabel="until the last answer is complete, s", xlim=(0, counts[-1]), ylim=(0, None))
        right.set_title("What it takes")
        save_figure(figure, (FIGURES / "quick" if quick else FIGURES) / "09_fan_out.png")
    at_once, ordered = (by_count[counts.index(GRADINGS)][name] for name in names[:2])
    claude_s, qwen_s = (spacings_s[int(np.argmax(np.array(writes) == 1))] for writes in full_writes.values())
    paid, saved, later_s = input_usd(at_once), input_usd(ordered), done_s(ordered) - done_s(at_once)
    return (
        f"All {GRADINGS} gradings sent at once pay for the document ({paid:.2f} dollars of input); one first and the rest at its "
        f"first token costs {saved:.2f} dollars and {later_s:.1f} s more until the last answer; and evenly spaced requests pay "
        f"once from {claude_s:.1f} s apart on at Claude and {qwen_s:.1f} s at Qwen."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a coarser grid")
    print(main(parser.parse_args().quick))
