"""Figures of caches: hit ratio against how big the cache is, and against how long it keeps what it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..cache.curve import HitCurve
from ..errors import require
from .figures import COLOURS, GREY, save_figure, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_hit_curve(curve: HitCurve, ax: Axes, *, kv_bytes_per_token: float | None = None) -> None:
    """Token hit ratio against capacity (GB where ``kv_bytes_per_token`` is given, else tokens) or lifetime (seconds), knees marked.

    The dotted line is what a cache without a bound would hit.

    >>> curve = HitCurve(over="ttl_ns", steps=np.array([10**9]), hit_blocks=np.array([1]), hit_tokens=np.array([16]),
    ...                  total_blocks=2, total_tokens=32, block_tokens=16, requests=2)
    >>> with sheet() as (figure, (ax,)):
    ...     plot_hit_curve(curve, ax); ax.get_xlabel()
    'TTL since last use (s)'
    """
    if curve.over == "ttl_ns":
        scale, label = 1e-9, "TTL since last use (s)"
    elif kv_bytes_per_token is None:
        scale, label = float(curve.block_tokens), "capacity (tokens)"
    else:
        scale, label = curve.block_tokens * kv_bytes_per_token / 1e9, "capacity (GB of KV cache)"
    ax.set_xlabel(label)
    ax.set_ylabel("token hit ratio")
    ax.set_ylim(0, 1)
    if not len(curve.steps):
        ax.text(0.5, 0.5, "nothing hits at any size", transform=ax.transAxes, ha="center", color=GREY)
        return
    x, y = curve.steps * scale, curve.token_hit_ratio
    positive = x[x > 0]
    if len(positive) and positive[-1] > 30 * positive[0]:
        ax.set_xscale("log")
        x = np.maximum(x, positive[0])  # what hits at a lifetime of 0 stands at the left edge
    end = x[-1] * 1.25
    ax.axhline(y[-1], color=GREY, linestyle=":", linewidth=1, label=f"without a bound: {y[-1]:.1%}")
    ax.step([*x, end], [*y, y[-1]], where="post", color=COLOURS[0])
    knees = curve.knees()
    ax.plot(x[knees], y[knees], "o", color=COLOURS[1], markersize=4, label="more begins to buy less")
    ax.set_xlim(right=end)
    ax.legend(loc="upper left")


def save_curve_figure(curves: Sequence[HitCurve], path: str | Path, *, kv_bytes_per_token: float | None = None) -> Path:
    """The figure of ``simcache replay --curve``: one panel per curve. ``path`` ends in .png, .svg or .pdf."""
    require(bool(curves), "curves", len(curves), "must hold at least one curve")
    with sheet(1, len(curves), width=1.2 + 4.6 * len(curves), height=3.9) as (figure, axes):
        for curve, ax in zip(curves, axes, strict=True):
            plot_hit_curve(curve, ax, kv_bytes_per_token=kv_bytes_per_token)
            ax.set_title("How big must the cache be" if curve.over == "capacity_blocks" else "How long must it keep")
        return save_figure(figure, path)
