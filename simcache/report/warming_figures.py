"""Figures of warming: heat maps with break-even lines, and waiting against money; each draws on the axes it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..errors import require
from .figures import COLOURS, LINES, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh


class WaitAndPrice(NamedTuple):
    """One policy: seconds waited on average and dollars per 1,000 questions.

    >>> WaitAndPrice(1.5, 20.0).wait_s
    1.5
    """

    wait_s: float
    usd_per_1000_questions: float


def plot_heat_map(
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    ax: Axes,
    *,
    low: float | None = None,
    high: float | None = None,
    diverging: bool = False,
) -> QuadMesh:
    """``values[i, j]`` at (``x[j]``, ``y[i]``) as coloured cells; ``diverging``: white at 0, so ``low`` and ``high`` lie around it.

    Returns the mesh, for a colour bar.

    >>> from .figures import sheet
    >>> with sheet() as (figure, (ax,)):
    ...     plot_heat_map([1, 2, 4], [1, 2], [[0, 1, 2], [1, 2, 3]], ax).get_array().size
    6
    """
    from matplotlib.colors import Normalize, TwoSlopeNorm

    cells = np.asarray(values, dtype=float)
    require(cells.shape == (np.size(y), np.size(x)), "values", cells.shape, "must be as many rows as y and columns as x")
    low = float(cells.min()) if low is None else low
    high = float(cells.max()) if high is None else high
    norm = TwoSlopeNorm(0.0, min(low, -1e-9), max(high, 1e-9)) if diverging else Normalize(low, high)
    mesh = ax.pcolormesh(np.asarray(x), np.asarray(y), cells, norm=norm, cmap="RdBu" if diverging else "viridis", shading="nearest")
    ax.grid(visible=False)
    return mesh


def plot_lines(
    x: ArrayLike,
    lines: Mapping[str, ArrayLike],
    ax: Axes,
    *,
    bands: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    markers: bool = True,
) -> None:
    """One line per name over ``x``, each with its colour, style and marker; ``bands`` are (low, high) around some of them.

    >>> from .figures import sheet
    >>> with sheet() as (figure, (ax,)):
    ...     plot_lines([1, 2], {"none": [3, 3], "on focus": [2, 1]}, ax); len(ax.lines)
    2
    """
    for index, (name, heights) in enumerate(lines.items()):
        look: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index % len(LINES)]}
        if bands is not None and name in bands:
            low, high = bands[name]
            ax.fill_between(np.asarray(x), np.asarray(low), np.asarray(high), color=look["color"], alpha=0.18, linewidth=0)
        marker = MARKERS[index % len(MARKERS)] if markers else None
        ax.plot(x, heights, label=name, marker=marker, markersize=4.5, linewidth=1.8, **look)


def plot_wait_against_price(points: Mapping[str, Sequence[WaitAndPrice]], ax: Axes, *, oracle: str | None = None) -> None:
    """Each policy as a point (mean over its runs): how long people wait against what it costs; the ``oracle`` stands out.

    Thin lines show the spread over runs.

    >>> from .figures import sheet
    >>> with sheet() as (figure, (ax,)):
    ...     plot_wait_against_price({"none": [WaitAndPrice(3.0, 10.0)], "oracle": [WaitAndPrice(1.0, 11.0)]}, ax, oracle="oracle")
    ...     len(ax.lines)
    2
    """
    for index, (name, runs) in enumerate(points.items()):
        costs, waits = [run.usd_per_1000_questions for run in runs], [run.wait_s for run in runs]
        usd, wait_s = float(np.mean(costs)), float(np.mean(waits))
        colour = "black" if name == oracle else COLOURS[index % (len(COLOURS) - 1)]
        if len(runs) > 1:
            ax.hlines(wait_s, min(costs), max(costs), color=colour, linewidth=0.8)
            ax.vlines(usd, min(waits), max(waits), color=colour, linewidth=0.8)
        marker = "*" if name == oracle else MARKERS[index % len(MARKERS)]
        size = 12 if name == oracle else 7
        ax.plot([usd], [wait_s], marker=marker, color=colour, markersize=size, linestyle="none", label=name, alpha=0.85)
    ax.set_ylim(bottom=0)
    ax.margins(x=0.15)
    ax.legend(loc="best")
