"""Speculative warming over typing time, context length and P(send): what it saves, what it costs, and where it breaks even.

Question
    A warm-up starts with the first key. For which contexts and typing times does the user feel it, what does it cost when
    only a share of the drafts is sent, and from where on is a saved second worth its price?

Setup
    One question per user about a document of their own at Claude's 5-minute rules and prices; latency through the published
    recipe's two points (claude-3.5-sonnet, 20.9 s cold at 151,651 tokens). Typing at an even pace, no jitter. Every
    saving is a simulation with warming against one without; what sent and left drafts cost more comes from two such runs per
    context, in which half of the drafts are sent.

What to look at
    Left: seconds saved; above the dashed line (theory.hiding_typing_s) typing hides the whole warm-up, and more typing
    saves nothing more. Middle: the extra dollars per question that was sent; white lines are theory.warming_extra_cost. Right:
    dollars per second saved by P(send) and typing time; along the black line from theory.py a second costs VALUE_USD_PER_S.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from simcache import theory
from simcache.engine.run import simulate
from simcache.latency import load_profile
from simcache.report.figures import save_figure, sheet
from simcache.report.warming_figures import plot_heat_map
from simcache.scenario import HostedApi, Scenario
from simcache.warming import NoWarming, WarmOnFirstKey
from simcache.workload.presets import TypingSessions

FIGURES = Path(__file__).resolve().parent.parent / "figures"
SEED = 1
PROFILE = "claude-3.5-sonnet/speculative-recipe"
QUESTION_TOKENS = 22
LONGEST_TYPING_S = 30.0
CONTEXTS_TOKENS = (5_000, 160_000)
P_SENDS = (0.3, 1.0)
MIDDLE_CONTEXT_TOKENS = 100_000
USERS = 60
"""People over whom the cost of a sent and of a left draft is averaged, per context."""
WRITE, READ = 1.25, 0.1
INPUT_USD_PER_TOKEN = 3e-6
VALUE_USD_PER_S = 0.05
"""What a second of waiting is taken to be worth: 180 dollars an hour."""


def asked(context_tokens: int, typing_s: float, p_send: float = 1.0, users: int = 1) -> Scenario:
    """People who type for ``typing_s`` about a document each."""
    return Scenario(
        workload=TypingSessions(
            users=users,
            arrive_within_s=0 if users == 1 else 3600,
            system_tokens=0,
            document_tokens=context_tokens,
            questions=1,
            question_tokens=QUESTION_TOKENS,
            typing_s=typing_s,
            p_send=p_send,
            output_tokens=50,
        ),
        backend=HostedApi(
            provider="anthropic",
            model="claude-3-5-sonnet-20241022",
            rules="anthropic",
            profile=PROFILE,
            jitter=False,
            prices_at="2026-11-21",
        ),
        warming=WarmOnFirstKey(),
    )


def saved_s(context_tokens: int, typing_s: float) -> float:
    """Seconds that warming saves one user."""
    waits = []
    for policy in (NoWarming(), WarmOnFirstKey()):
        result = simulate(asked(context_tokens, typing_s).but(warming=policy), seed=SEED)
        waits.append(float(result.records.ttft_s[result.records.kind == "user"][0]))
    return waits[0] - waits[1]


def extra_usd(context_tokens: int) -> tuple[float, float]:
    """Extra dollars of a draft that is sent, and of one that is left: means over people of whom about half send."""
    by_user: list[dict[str, float]] = []
    for policy in (NoWarming(), WarmOnFirstKey()):
        result = simulate(asked(context_tokens, 10.0, 0.5, USERS).but(warming=policy), duration_s=3600, seed=SEED)
        assert result.bill is not None
        assert result.bill.row_usd is not None
        spent: dict[str, float] = {}
        for user, usd in zip(result.records["user"].tolist(), result.bill.row_usd.tolist(), strict=True):
            spent[user] = spent.get(user, 0.0) + usd
        by_user.append(spent)
    cold, warm = by_user
    sent = [warm[user] - usd for user, usd in cold.items()]
    left = [usd for user, usd in warm.items() if user not in cold]
    return float(np.mean(sent)), float(np.mean(left))


def saved_by_theory_s(context_tokens: float, typing_s: float) -> float:
    """The closed form of the left panel."""
    profile = load_profile(PROFILE)
    context = round(context_tokens)
    warm_s, cold_s = profile.ttft_s(context, 0), profile.ttft_s(context + QUESTION_TOKENS, 0)
    return cold_s - theory.ttft_with_warm_s(typing_s, warm_s, profile.ttft_s(QUESTION_TOKENS, context), cold_s)


def extra_by_theory_usd(context_tokens: float, p_send: float) -> float:
    """Extra dollars per question that is sent: those of a draft, over the share of drafts that are."""
    return theory.warming_extra_cost(p_send, write=WRITE, read=READ) * context_tokens * INPUT_USD_PER_TOKEN / p_send


def main(quick: bool) -> str:
    """Run the study; the answer in one sentence."""
    cells = 6 if quick else 16
    typings_s = np.linspace(LONGEST_TYPING_S / cells, LONGEST_TYPING_S, cells)
    contexts = np.linspace(*CONTEXTS_TOKENS, cells).round().astype(int)
    p_sends = np.linspace(*P_SENDS, cells)
    saved = np.array([[saved_s(int(c), float(t)) for c in contexts] for t in typings_s])
    closed = np.array([[saved_by_theory_s(c, t) for c in contexts] for t in typings_s])
    of_sent, of_left = np.array([extra_usd(int(c)) for c in contexts]).T
    extra = of_sent[None, :] + of_left[None, :] * ((1 - p_sends) / p_sends)[:, None]
    middle_sent, middle_left = extra_usd(MIDDLE_CONTEXT_TOKENS)
    middle_usd = middle_sent + middle_left * (1 - p_sends) / p_sends
    middle_s = np.array([saved_s(MIDDLE_CONTEXT_TOKENS, float(t)) for t in typings_s])
    price = middle_usd[None, :] / middle_s[:, None]

    profile = load_profile(PROFILE)
    warm_s, hit_s = profile.ttft_s(MIDDLE_CONTEXT_TOKENS, 0), profile.ttft_s(QUESTION_TOKENS, MIDDLE_CONTEXT_TOKENS)
    # where a second costs its worth: extra(P) = VALUE * saved(typing), and saved = typing - lost until all is hidden
    lost_s = -saved_by_theory_s(MIDDLE_CONTEXT_TOKENS, 0.0)
    breakeven_s = [extra_by_theory_usd(MIDDLE_CONTEXT_TOKENS, p) / VALUE_USD_PER_S + lost_s for p in p_sends]
    path = (FIGURES / "quick" if quick else FIGURES) / "04_warming_map.png"
    with sheet(1, 3, width=14.0, height=4.4) as (figure, (left, centre, right)):
        figure.colorbar(plot_heat_map(contexts / 1e3, typings_s, saved, left, low=0.0), ax=left, label="seconds saved")
        hiding_s = [theory.hiding_typing_s(load_profile(PROFILE).ttft_s(int(c), 0)) for c in contexts]
        left.plot(contexts / 1e3, hiding_s, "--", color="white", linewidth=1.8, label="all hidden from here on (theory)")
        left.set(xlabel="context, thousand tokens", ylabel="typing time, s", title="TTFT saved by warming at the first key")
        left.set_ylim(typings_s[0] / 2, LONGEST_TYPING_S)
        left.legend(loc="lower right", labelcolor="white")

        mesh = plot_heat_map(contexts / 1e3, p_sends, extra, centre, low=0.0)
        figure.colorbar(mesh, ax=centre, label="extra dollars per question sent")
        theory_usd = np.array([[extra_by_theory_usd(c, p) for c in contexts] for p in p_sends])
        lines = centre.contour(
            contexts / 1e3, p_sends, theory_usd, levels=[0.05, 0.1, 0.2, 0.4, 0.8], colors="white", linewidths=1.2
        )
        centre.clabel(lines, fmt=lambda level: rf"\${level:g}", fontsize=8)
        centre.set(xlabel="context, thousand tokens", ylabel="P(send)", title="What it costs more (lines: theory)")

        mesh = plot_heat_map(p_sends, typings_s, np.minimum(price, 0.3), right, low=0.0, high=0.3)
        figure.colorbar(mesh, ax=right, label="dollars per second saved (0.3 and more alike)")
        shown = [(p, t) for p, t in zip(p_sends, breakeven_s, strict=True) if t <= warm_s]
        right.plot(*zip(*shown, strict=True), color="black", linewidth=2, label=rf"\${VALUE_USD_PER_S:g} a second (theory)")
        right.set(xlabel="P(send)", ylabel="typing time, s", title=f"Price of a second, {MIDDLE_CONTEXT_TOKENS // 1000}k context")
        right.set_ylim(typings_s[0] / 2, LONGEST_TYPING_S)
        right.legend(loc="upper right", labelcolor="white")
        save_figure(figure, path)
    worst_s = float(np.abs(saved - closed).max())
    likely = float(np.interp(warm_s, breakeven_s[::-1], p_sends[::-1]))
    return (
        f"Warming saves what the user types less {lost_s:.1f} s (the hit's own time), up to {warm_s - hit_s:.1f} s at "
        f"{MIDDLE_CONTEXT_TOKENS // 1000}k tokens (simulation and closed form agree to {worst_s:.0e} s), and costs "
        f"${extra_by_theory_usd(MIDDLE_CONTEXT_TOKENS, 1.0):.3f} more per question if every draft is sent, "
        f"${extra_by_theory_usd(MIDDLE_CONTEXT_TOKENS, 0.5):.2f} if half are: at ${VALUE_USD_PER_S:g} a second it pays from "
        f"{breakeven_s[-1]:.1f} s of typing at P(send) 1, and at no typing time below P(send) {likely:.2f}."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a coarser grid and fewer people")
    print(main(parser.parse_args().quick))
