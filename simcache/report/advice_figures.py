"""The figure of layout advice: what becomes of the prompt tokens today and as proposed, and what each defect costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..advice.advisor import Advice
from ..advice.playing import Played
from .figures import COLOURS, GREY, save_figure, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES: Final = (
    ("cache_read", "read from cache", COLOURS[2]),
    ("cache_write_5m", "written", COLOURS[4]),
    ("cache_write_1h", "written for 1 h", COLOURS[3]),
    ("input", "uncached input", COLOURS[1]),
    ("output", "output", GREY),
)
_MOST_DEFECTS: Final = 8
_FEWEST_ROWS: Final = 3
"""Rows that a figure has room for at least, so that one bar is no wall."""


def plot_layout_costs(advice: Advice, ax: Axes) -> None:
    """Dollars per 1,000 requests of both layouts, by bill line; the token hit ratio beside each bar.

    >>> plot_layout_costs.__name__
    'plot_layout_costs'
    """
    size = len(advice.log) / 1000
    shown = (advice.proposed, advice.today)
    for place, played in enumerate(shown):
        left = 0.0
        for line, label, colour in _LINES:
            usd = played.lines_usd.get(line, 0.0) / size
            used = any(each.lines_usd.get(line, 0.0) for each in shown)
            ax.barh(place, usd, left=left, color=colour, label=label if place == 0 and used else None, height=0.55)
            left += usd
        ax.text(left, place, f"  {_hits(played)}", va="center", fontsize=8, color=GREY)
    ax.set_yticks(range(2), [played.name for played in shown])
    ax.set_xlabel("$ per 1,000 requests")
    ax.set_xlim(right=max(played.total_usd for played in shown) / size * 1.25 or 1.0)
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4)


def _hits(played: Played) -> str:
    return f"{played.token_hit_ratio:.0%} hits"


def plot_defect_costs(advice: Advice, ax: Axes) -> None:
    """What each defect costs by itself, the dearest on top; a defect that no layout mends has no bar.

    >>> plot_defect_costs.__name__
    'plot_defect_costs'
    """
    shown = advice.defects[:_MOST_DEFECTS][::-1]
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("$ per 1,000 requests, if it alone stayed")
    if not shown:
        ax.text(0.5, 0.5, "no defect was found", transform=ax.transAxes, ha="center", color=GREY)
        ax.set_yticks([])
        return
    ax.barh(range(len(shown)), [max(0.0, defect.usd_per_1000 or 0.0) for defect in shown], color=COLOURS[0], height=0.6)
    ax.set_ylim(-0.7, max(len(shown), _FEWEST_ROWS) - 0.3)
    ax.set_yticks(range(len(shown)), [f"{defect.kind}\n{defect.path}" for defect in shown])


def save_advice_figure(advice: Advice, path: str | Path) -> Path:
    """The figure of ``simcache advise --figure``. ``path`` ends in .png, .svg or .pdf."""
    with sheet(1, 2, width=11.0, height=3.2 + 0.2 * min(len(advice.defects), _MOST_DEFECTS)) as (figure, axes):
        plot_layout_costs(advice, axes[0])
        axes[0].set_title("Both layouts on the log's own arrivals")
        plot_defect_costs(advice, axes[1])
        axes[1].set_title("What each defect costs")
        return save_figure(figure, path)
