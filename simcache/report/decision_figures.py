"""Figures of a decision: what each alternative changes a month, and what its users wait."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..decision.verdict import Decision, Row
from .figures import COLOURS, GREY, label_text, save_figure, sheet, tick_s

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAME_WIDTH: Final = 30
_BETTER, _WORSE, _EVEN = COLOURS[2], COLOURS[1], GREY


def plot_savings(rows: Sequence[Row], ax: Axes) -> None:
    """Dollars a month against today's (the first of ``rows``), a row per alternative, with 95 % intervals.

    Filled: the interval leaves out zero. Hollow: chance alone could have made the difference.
    """
    for place, row in enumerate(rows[1:]):
        change = row.change_usd
        clear = change.low is not None and change.high is not None and not change.low <= 0 <= change.high
        colour = _EVEN if not clear else _BETTER if change.mean < 0 else _WORSE
        if change.low is not None and change.high is not None:
            ax.plot([change.low, change.high], [place, place], color=colour, linewidth=2)
        ax.plot([change.mean], [place], "o", color=colour, markersize=7, markerfacecolor=colour if clear else "white")
    ax.axvline(0, color=GREY, linewidth=1)
    _named(rows[1:], ax)
    ax.set_xlabel("dollars a month, against today")


def plot_waits(rows: Sequence[Row], ax: Axes, *, slo_ttft_s: float) -> None:
    """Median (dot) and 95th percentile (triangle) of TTFT per alternative, with 95 % intervals; the objective as a line."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    labelled = False
    for place, row in enumerate(rows):
        for estimate, marker, colour, label in (
            (row.ttft_p50_s, "o", COLOURS[0], "median"),
            (row.ttft_p95_s, "^", COLOURS[4], "p95"),
        ):
            if estimate is None:
                continue
            if estimate.low is not None and estimate.high is not None:
                ax.plot([max(estimate.low, 1e-4), estimate.high], [place, place], color=colour, linewidth=2)
            ax.plot([estimate.mean], [place], marker, color=colour, markersize=6, label=None if labelled else label, linestyle="")
        labelled = labelled or row.ttft_p95_s is not None
    ax.axvline(slo_ttft_s, color=GREY, linestyle="--", linewidth=1)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_s(value)))
    _named(rows, ax)
    ax.set_xlabel("time to first token, from submit")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def save_decision(decision: Decision, path: str | Path) -> Path:
    """Both figures of a decision that simulated something, as .png, .svg or .pdf. Raises InputError when it cannot be written."""
    rows = decision.rows
    with sheet(1, 2, width=11.0, height=1.6 + 0.5 * len(rows)) as (figure, axes):
        plot_savings(rows, axes[0])
        axes[0].set_title("What it costs", pad=10)
        plot_waits(rows, axes[1], slo_ttft_s=decision.asked.slo_ttft_s)
        axes[1].set_title("What users wait", pad=10)
        figure.supxlabel("lines are 95 % intervals; hollow: chance alone could have made it", fontsize=8, color=GREY)
        return save_figure(figure, path)


def _named(rows: Sequence[Row], ax: Axes) -> None:
    ax.set_yticks(range(len(rows)), [label_text(row.alternative.name, _NAME_WIDTH) for row in rows], fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
