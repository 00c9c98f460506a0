"""Prompt layout: what a timestamp, shuffled tools or a nonce at the wrong place cost.

Question
    An assistant sends 8 tools (4,000 tokens), a system prompt (2,000), a document (10,000), the history and the question. Somebody
    adds the time of day, builds the tools from an unordered set, or puts a session id on top. What does each cost?

Setup
    200 conversations of 2 to 6 turns within an hour, follow-ups about two minutes after each other, 20 documents of Zipf
    popularity. The same content in seven orders, through OpenAI's rules before GPT-5.6 (gpt-5.4: automatic), Anthropic's (Sonnet
    4.5: markers after tools and system and after the history), and one H100 of one's own with Llama-3.1-8B (kernel sums, not
    measured as a whole). No jitter, prices of one day.

What to look at
    A timestamp costs nothing at the end and nearly everything on top. A marker in front of a text that changes still saves what
    stands before it. A nonce per session leaves each session its own history, and takes what sessions share.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from simcache.engine.run import simulate
from simcache.prompt import Prompt, Request, Segment
from simcache.report.figures import COLOURS, save_figure, sheet
from simcache.result import Result, summarise
from simcache.scenario import HostedApi, Scenario, Server
from simcache.streams import stream
from simcache.workload.synthetic import RequestList

FIGURES = Path(__file__).resolve().parent.parent / "figures"
SEED = 1
CONVERSATIONS, QUICK_CONVERSATIONS = 200, 30
TOOLS, TOOL_TOKENS, SYSTEM_TOKENS, DOCUMENT_TOKENS = 8, 500, 2_000, 10_000
QUESTION_TOKENS, ANSWER_TOKENS, STAMP_TOKENS = 40, 300, 12
DOCUMENTS, MEDIAN_GAP_S, GAP_SIGMA = 20, 120.0, 1.0
PRICES_AT = "2026-11-21"

TOOL_LIST = tuple(Segment(f"tool {i}", TOOL_TOKENS) for i in range(TOOLS))
SYSTEM = Segment("system", SYSTEM_TOKENS)


class Turn:
    """One request, before its parts are put in order."""

    def __init__(self, number: int, session: int, document: Segment, history: Prompt, question: Segment) -> None:
        self.number, self.session, self.document, self.history, self.question = number, session, document, history, question

    @property
    def stamp(self) -> Segment:
        """The time of day, which is never the same twice."""
        return Segment(f"time {self.number}", STAMP_TOKENS)

    def shuffled(self, concern: str, key: int) -> Prompt:
        """The tools in an order of their own."""
        order = stream(SEED, concern, key).permutation(TOOLS)
        return tuple(TOOL_LIST[i] for i in order.tolist())


# What stands before the question, and how many of its segments stand before the marker that sessions might share.
LAYOUTS: dict[str, Callable[[Turn], tuple[Prompt, int]]] = {
    "stable first, time last": lambda t: ((*TOOL_LIST, SYSTEM, t.document, *t.history), TOOLS + 1),
    "time after the system prompt": lambda t: ((*TOOL_LIST, SYSTEM, t.stamp, t.document, *t.history), TOOLS + 1),
    "time on top": lambda t: ((t.stamp, *TOOL_LIST, SYSTEM, t.document, *t.history), TOOLS + 2),
    "tools shuffled per session": lambda t: ((*t.shuffled("session", t.session), SYSTEM, t.document, *t.history), TOOLS + 1),
    "tools shuffled per request": lambda t: ((*t.shuffled("request", t.number), SYSTEM, t.document, *t.history), TOOLS + 1),
    "nonce per session on top": lambda t: (
        (Segment(f"session {t.session}", STAMP_TOKENS), *TOOL_LIST, SYSTEM, t.document, *t.history),
        TOOLS + 2,
    ),
    "document first": lambda t: ((t.document, *TOOL_LIST, SYSTEM, *t.history), TOOLS + 2),
}


def turns(conversations: int) -> list[tuple[float, Turn]]:
    """All requests with their instants, in order; the same for every layout."""
    rng = stream(SEED, "layout study")
    popularity = 1 / np.arange(1, DOCUMENTS + 1)
    out = []
    for session in range(conversations):
        at_s = float(rng.uniform(0, 3600 * conversations / CONVERSATIONS))
        document = Segment(f"document {rng.choice(DOCUMENTS, p=popularity / popularity.sum())}", DOCUMENT_TOKENS)
        history: Prompt = ()
        for turn in range(int(rng.integers(2, 7))):
            question = Segment(f"question {session}/{turn}", QUESTION_TOKENS)
            out.append((at_s, Turn(len(out), session, document, history, question)))
            history += (question, Segment(f"answer {session}/{turn}", ANSWER_TOKENS))
            at_s += float(rng.lognormal(np.log(MEDIAN_GAP_S), GAP_SIGMA))
    return sorted(out, key=lambda pair: pair[0])


def run(layout: str, which: str, asked: list[tuple[float, Turn]]) -> Result:
    """One layout on one backend."""
    rows, marked = [], 0
    for at_s, turn in asked:
        before, marked = LAYOUTS[layout](turn)
        question = (turn.stamp, turn.question) if layout == "stable first, time last" else (turn.question,)
        answer = Segment(f"answer {turn.question.key}", ANSWER_TOKENS)
        rows.append(Request(at_s, (*before, *question), answer, session=f"s{turn.session}", shared_segments=len(before)))
    api = {"profile": "openai-figure", "jitter": False, "prices_at": PRICES_AT}
    backends = {
        "OpenAI gpt-5.4": HostedApi(provider="openai", model="gpt-5.4", **api),
        "Claude Sonnet 4.5": HostedApi(provider="anthropic", model="claude-sonnet-4-5", breakpoints=(marked,), **api),
        "one H100, Llama-3.1-8B": Server(profile="llama-3.1-8b/h100/tp1"),
    }
    return simulate(Scenario(workload=RequestList(rows=tuple(rows)), backend=backends[which], name=layout), seed=SEED)


BACKENDS = ("OpenAI gpt-5.4", "Claude Sonnet 4.5", "one H100, Llama-3.1-8B")


def input_usd_per_1000(result: Result) -> float:
    """Dollars of input per 1,000 requests; NaN where GPUs are rented by the hour."""
    assert result.bill is not None
    if result.bill.lines["gpu_hours"]:
        return float("nan")
    return (result.bill.total_usd - result.bill.lines["output"]) / len(result.records) * 1000


def main(quick: bool) -> str:
    """Run the study; the answer in one sentence."""
    asked = turns(QUICK_CONVERSATIONS if quick else CONVERSATIONS)
    results = {which: {layout: run(layout, which, asked) for layout in LAYOUTS} for which in BACKENDS}
    places = np.arange(len(LAYOUTS))
    with sheet(1, 3, width=14.0, height=4.6) as (figure, axes):
        for index, (which, by_layout) in enumerate(results.items()):
            entries = [summarise([result]) for result in by_layout.values()]
            values = {
                "token hit ratio, %": [100 * entry["token_hit_ratio"] for entry in entries],
                "input, US dollars per 1,000 requests": [input_usd_per_1000(result) for result in by_layout.values()],
                "median time to first token, s": [entry["ttft_s"]["p50"] for entry in entries],
            }
            for ax, (label, bars) in zip(axes, values.items(), strict=True):
                offset = (index - 1) * 0.27
                ax.barh(places + offset, bars, height=0.25, color=COLOURS[index], label=which)
                ax.set_xlabel(label)
        for number, ax in enumerate(axes):
            ax.set_ylim(len(LAYOUTS) - 0.5, -0.5)
            ax.set_yticks(places, list(LAYOUTS) if number == 0 else [])
            ax.grid(axis="y", visible=False)
        axes[0].set_title("What is found")
        axes[1].set_title("What that costs")
        axes[2].set_title("What users wait")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        save_figure(figure, (FIGURES / "quick" if quick else FIGURES) / "10_prompt_layout.png")
    usd = {which: {layout: input_usd_per_1000(result) for layout, result in by.items()} for which, by in results.items()}
    said = []
    for name, which in (("Claude", "Claude Sonnet 4.5"), ("OpenAI", "OpenAI gpt-5.4")):
        best = usd[which]["stable first, time last"]
        top, shuffled, nonce = (
            usd[which][layout] for layout in ("time on top", "tools shuffled per request", "nonce per session on top")
        )
        said.append(
            f"at {name} a timestamp on top instead of at the end multiplies the input bill by {top / best:.1f}, tools shuffled per "
            f"request by {shuffled / best:.1f}, and a nonce per session costs {nonce - best:.2f} dollars more per 1,000 requests"
        )
    sentence = "; ".join(said)
    return f"{sentence[0].upper()}{sentence[1:]}."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_CONVERSATIONS} conversations only")
    print(main(parser.parse_args().quick))
