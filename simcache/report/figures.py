"""Figures of runs: each ``plot_x(data, ax)`` draws on the axes it is given; ``save_x`` makes the file.

Colours are Okabe and Ito's, told apart with every kind of colour blindness, and each variant has its own line style too.
No pyplot: nothing here picks a backend, opens a window, or leaves a setting behind.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from .. import metrics, stats, units
from ..errors import UnknownNameError, require
from ..result import Result, summarise
from ..whole_files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES: Final[tuple[Any, ...]] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 3)))
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
PROMPT_EDGES: Final = (0, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000)
GREY: Final = "#595959"
_STYLE: Final = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "savefig.dpi": 150,
    "svg.hashsalt": "simcache",
}
_WITHOUT_DATES: Final[dict[str, dict[str, None]]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
_FEW: Final = 20
"""Below so many requests in a bin its 95th percentile is one request's luck: not drawn."""


def plot_ttft_cdf(data: Mapping[str, Sequence[NDArray[np.float64]]], ax: Axes, *, slo_ttft_s: float | None = None) -> None:
    """Cumulative share of answered requests against TTFT (seconds, logarithmic when wide), one line per variant.

    ``data`` holds per variant one array of ``ttft_s`` per seed. With several seeds the line is the mean of the seeds' curves
    and the band its pointwise 95 % t interval. A variant without any TTFT is named as such in the legend.

    >>> with sheet() as (figure, (ax,)):
    ...     plot_ttft_cdf({"cold": [np.array([1.0, 2.0])]}, ax); len(ax.lines)
    1
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    known = [values for seeds in data.values() for values in seeds if len(values)]
    smallest, largest = (min(map(np.min, known)), max(map(np.max, known))) if known else (0.1, 1.0)
    left = max(float(smallest), 1e-4) * 0.9
    right = max(float(largest), left) * 1.1
    grid = np.geomspace(left, right, 600)
    for index, (name, seeds) in enumerate(data.items()):
        curves = np.array([np.searchsorted(np.sort(values), grid, side="right") / len(values) for values in seeds if len(values)])
        look = {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[(index + index // len(COLOURS)) % len(LINES)]}
        if not len(curves):
            ax.plot([], [], label=f"{label_text(name, 34)} (no first token)", **look)
            continue
        centre = curves.mean(axis=0)
        ax.plot(grid, centre, label=label_text(name, 34), linewidth=1.8, **look)
        if len(curves) > 1:
            half = stats.t_quantile(0.975, len(curves) - 1) * curves.std(axis=0, ddof=1) / len(curves) ** 0.5
            low, high = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
            ax.fill_between(grid, low, high, color=look["color"], alpha=0.18, linewidth=0)
    if slo_ttft_s is not None:
        ax.axvline(slo_ttft_s, color=GREY, linewidth=1, zorder=1)
        ax.annotate(
            f"objective {tick_s(slo_ttft_s)}",
            (slo_ttft_s, 1.02),
            xytext=(3, 2),
            textcoords="offset points",
            color=GREY,
            fontsize=7,
            va="bottom",
            annotation_clip=False,
        )
        left, right = min(left, slo_ttft_s * 0.8), max(right, slo_ttft_s * 1.25)
    ax.set_xlim(left, right)
    if right > 4 * left:  # a logarithmic axis over less has hardly a round number on it
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if right < 500 * left else (1.0,)))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_s(value)))
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 0.95, 1.0])
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.0f} %"))
    ax.set_xlabel("time to first token, from submit")
    ax.set_ylabel("share of answered requests")
    ax.legend(loc="best")


def plot_comparison(
    entries: Sequence[Mapping[str, Any]],
    ax: Axes,
    *,
    figure: Sequence[str] = ("cost_usd", "per_1000_questions"),
    text: Callable[[float | None], str] = units.dollars,
    label: str = "US dollars per 1,000 questions",
) -> None:
    """One figure of several ``summarise`` entries as horizontal bars from zero, with 95 % whiskers over seeds.

    ``figure`` is its place in the entry; ``text`` formats it for people. Null is written as "-" beside an empty bar.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    rows = np.arange(len(entries))
    ends = []
    for row, entry in zip(rows, entries, strict=True):
        place: Any = entry
        for part in figure[:-1]:
            place = place[part]
        value, bounds = place[figure[-1]], place.get(f"{figure[-1]}_interval95")
        length = value or 0.0
        ax.barh(row, length, height=0.42, color=COLOURS[row % len(COLOURS)])
        if bounds is not None:
            ax.hlines(row, bounds[0], bounds[1], color="black", linewidth=1.2)
            ax.vlines(bounds, row - 0.09, row + 0.09, color="black", linewidth=1.2)
        ends.append(max(length, bounds[1] if bounds is not None else 0.0))
        words = f"{text(value)} {units.interval(bounds, text)}".rstrip()
        ax.annotate(_escaped(words), (ends[-1], row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
        ax.annotate(
            label_text(entry["scenario"], 60), (0, row - 0.27), xytext=(0, 1), textcoords="offset points", va="bottom", fontsize=8
        )
    ax.set_ylim(len(entries) - 0.5, -0.75)
    ax.set_yticks([])
    ax.set_xlim(0, (max(ends, default=0.0) or 1.0) * 1.55)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _escaped(re.sub(r"\.0+(?!\d)", "", text(value)))))
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(_escaped(label))


def plot_ttft_by_prompt(
    results_by_variant: Mapping[str, Sequence[Result]], ax: Axes, *, edges_tokens: Sequence[int] = PROMPT_EDGES
) -> None:
    """Median and 95th percentile of TTFT (seconds, logarithmic) per bin of prompt length, one colour per variant.

    A quantile is taken per seed and averaged over seeds; a bin with fewer than 20 requests per seed shows no 95th percentile.
    Bins that no variant reaches are left out; the number of requests per bin stands under it (mean over seeds and variants).
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    binned = {
        name: [metrics.ttft_by_prompt_s(result.records, edges_tokens) for result in results]
        for name, results in results_by_variant.items()
    }
    sizes = np.array([[len(values) for values in bins] for seeds in binned.values() for bins in seeds])
    require(bool(sizes.size) and bool(sizes.any()), "results_by_variant", len(binned), "must hold at least one answered request")
    shown = np.flatnonzero(sizes.any(axis=0))
    for index, (name, seeds) in enumerate(binned.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        for q, line, fewest in ((0.5, "-", 1), (0.95, ":", _FEW)):
            heights = []
            for number in shown:
                found = [stats.quantile(bins[number], q) for bins in seeds if len(bins[number]) >= fewest]
                heights.append(stats.mean([value for value in found if value is not None]) if found else None)
            ax.plot(
                range(len(shown)),
                [np.nan if height is None else height for height in heights],
                color=colour,
                linestyle=line,
                marker=marker,
                markersize=5,
                markerfacecolor=colour if q == 0.5 else "white",
                label=f"{label_text(name, 34)}, {'median' if q == 0.5 else 'p95'}",
            )
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_s(value)))
    ax.set_xticks(range(len(shown)), [_bin_label(edges_tokens, int(number), sizes[:, number].mean()) for number in shown])
    ax.set_xlim(-0.5, len(shown) - 0.5)
    ax.set_xlabel("prompt length in tokens; n requests")
    ax.set_ylabel("time to first token, from submit")
    ax.legend(loc="best")


def save_run_figure(results_by_variant: Mapping[str, Sequence[Result]], path: str | Path) -> Path:
    """The figure of ``simcache run``: TTFT per variant on the left, dollars per 1,000 questions on the right.

    ``path`` ends in .png, .svg or .pdf; equal results give equal bytes. Raises InputError when it cannot be written.
    """
    require(bool(results_by_variant), "results_by_variant", len(results_by_variant), "must hold at least one variant")
    entries = [{**summarise(results), "scenario": name} for name, results in results_by_variant.items()]
    objectives = {results[0].scenario.slo_ttft_s for results in results_by_variant.values()}
    seeds = max(len(results) for results in results_by_variant.values())
    with sheet(1, 2, width=10.5, height=max(3.9, 1.4 + 0.62 * len(entries))) as (figure, axes):
        plot_ttft_cdf(
            {name: [result.span("ttft_s") for result in results] for name, results in results_by_variant.items()},
            axes[0],
            slo_ttft_s=objectives.pop() if len(objectives) == 1 else None,
        )
        axes[0].set_title("How long users wait", pad=14)
        plot_comparison(entries, axes[1])
        axes[1].set_title("What it costs", pad=14)
        if seeds > 1:
            figure.supxlabel(f"{seeds} seeds; bands and whiskers are 95 % intervals of the mean", fontsize=8, color=GREY)
        return save_figure(figure, path)


@contextmanager
def sheet(rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 4.2) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of ``width`` x ``height`` inches and its axes, row by row, in the house's look whatever the user's settings.

    The look holds inside the block and leaves nothing behind.

    >>> with sheet(2, 1) as (figure, axes):
    ...     len(axes)
    2
    """
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as NewFigure

    with matplotlib.style.context(_STYLE, after_reset=True):
        figure = NewFigure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, list(np.ravel(figure.subplots(rows, columns, squeeze=False)))


def require_figure(path: str | Path) -> Path:
    """The path of a figure to be; raises UnknownNameError unless it ends in .png, .svg or .pdf.

    >>> require_figure("curve.png").suffix
    '.png'
    """
    path = Path(path)
    if path.suffix.lower() not in _WITHOUT_DATES:
        raise UnknownNameError("ending of the figure", path.suffix, _WITHOUT_DATES)
    return path


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as .png, .svg or .pdf, without dates in it, and only when it is complete; return the path."""
    path = require_figure(path)
    with whole_file(path, name="figure", make_folder=True) as partial:
        figure.savefig(partial, format=path.suffix[1:].lower(), metadata=_WITHOUT_DATES[path.suffix.lower()])
    return path


def _escaped(text: str) -> str:
    """Text that stands as it is: matplotlib reads dollar signs as mathematics and drops labels that begin with ``_``."""
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")


def label_text(name: str, width: int) -> str:
    return _escaped("\n".join(textwrap.wrap(textwrap.shorten(name, 3 * width, placeholder=" ..."), width)) or "-")


def tick_s(value_s: float) -> str:
    """A round number of seconds without the decimals that a measured one has."""
    return f"{value_s:g} s" if value_s >= 1 else f"{value_s * 1e3:g} ms"


def _bin_label(edges: Sequence[int], number: int, requests: float) -> str:
    low, high = (f"{edge / 1000:g}k" if edge else "0" for edge in edges[number : number + 2])
    return f"{low}-{high}\nn {units.count(round(requests))}"
