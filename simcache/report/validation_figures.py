"""Predicted against measured, as a person checks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from .figures import COLOURS, GREY, MARKERS, save_figure, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_quantiles(measured_s: NDArray[np.float64], simulated_s: NDArray[np.float64], ax: Axes) -> None:
    """Simulated over measured quantiles, seconds, both logarithmic: on the diagonal the distributions agree; a band of +-10 %."""
    shares = np.linspace(0.01, 0.99, 99)
    real, ours = np.quantile(measured_s, shares), np.quantile(simulated_s, shares)
    low, high = min(real.min(), ours.min()) * 0.8, max(real.max(), ours.max()) * 1.25
    line = np.array([low, high])
    ax.fill_between(line, line * 0.9, line * 1.1, color=GREY, alpha=0.2, linewidth=0, label="within 10 %")
    ax.plot(line, line, color=GREY, linewidth=1)
    ax.plot(real, ours, marker="o", markersize=3, linestyle="none", color=COLOURS[0], label="1 % to 99 %")
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    ax.set_xlabel("measured time to first token, s")
    ax.set_ylabel("simulated, s")
    ax.legend(loc="upper left")


def save_quantile_figure(measured_s: NDArray[np.float64], simulated_s: NDArray[np.float64], path: str | Path) -> Path:
    """The figure of ``simcache validate``. Raises InputError when it cannot be written."""
    with sheet(1, 1, width=5.2, height=4.8) as (figure, (ax,)):
        plot_quantiles(measured_s, simulated_s, ax)
        ax.set_title("Quantile by quantile")
        return save_figure(figure, path)


def plot_points(points: Mapping[str, Sequence[tuple[float, float]]], ax: Axes) -> None:
    """(measured, predicted) of every row, seconds, both logarithmic; one colour and marker per label; a band of +-10 %."""
    values = np.array([pair for pairs in points.values() for pair in pairs])
    line = np.array([values.min() * 0.8, values.max() * 1.25])
    ax.fill_between(line, line * 0.9, line * 1.1, color=GREY, alpha=0.2, linewidth=0, label="within 10 %")
    ax.plot(line, line, color=GREY, linewidth=1)
    for i, (label, pairs) in enumerate(points.items()):
        measured, predicted = np.array(pairs).T
        marker, colour = MARKERS[i % len(MARKERS)], COLOURS[i % len(COLOURS)]
        ax.plot(measured, predicted, marker=marker, color=colour, markersize=4, linestyle="none", alpha=0.8, label=label)
    ax.set(xscale="log", yscale="log", xlim=tuple(line), ylim=tuple(line))


def save_serving_figure(points: Mapping[str, Sequence[tuple[float, float, float, float]]], path: str | Path) -> Path:
    """Rows of measured TTFT, predicted TTFT, measured TPOT, predicted TPOT, by label. Raises InputError without a row."""
    require(any(points.values()), "rows", 0, "must be left to judge for a figure")
    with sheet(1, 2, width=10.4, height=4.8) as (figure, axes):
        for first, name, ax in zip((0, 2), ("time to first token", "time per output token"), axes, strict=True):
            plot_points({label: [(row[first], row[first + 1]) for row in rows] for label, rows in points.items()}, ax)
            ax.set_title(f"Mean {name} of a run")
            ax.set_xlabel("measured, s")
            ax.set_ylabel("predicted, s")
        axes[0].legend(loc="upper left")
        return save_figure(figure, path)
