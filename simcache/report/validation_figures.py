"""Predicted against measured, as a person checks it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .figures import COLOURS, GREY, save_figure, sheet

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
