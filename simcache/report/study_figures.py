"""Figures over several runs: TTFT against load, one figure against an axis, dollars against TTFT, what became of warm-ups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from .. import stats, units
from ..records import NEVER, Records
from ..result import Result
from ..stats import Estimate
from ..steady import overload
from .figures import COLOURS, GREY, LINES, MARKERS, label_text, tick_s

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FATES: Final = ("in time", "too late", "evicted or expired", "not asked for", "cancelled", "lost")
"""What can become of a warm-up. In time: visible before the question that used it; too late: its question had to wait for it or
went without; lost: rejected or failed."""
_MOST_TICKS: Final = 6
_FEW_LINES: Final = 3
"""More lines than this have their legend below: above the data there is no room for it."""


def warm_up_fates(records: Records) -> dict[str, int]:
    """How many warm-ups of a run met which of ``FATES``; every warm-up meets one.

    >>> from simcache.records import RecordsBuilder
    >>> b = RecordsBuilder(); _ = b.row(kind="warm", outcome="cancelled"); warm_up_fates(b.freeze())["cancelled"]
    1
    """
    users, late = records["kind"] == "user", np.zeros(len(records), dtype=bool)
    waited = users & (records["warm_row"] != NEVER) & (records["residual_warm_ns"] > 0)
    late[records["warm_row"][waited]] = True
    used = records["used_by_row"] != NEVER
    tests = (
        ("too late", late),
        ("in time", used),
        ("cancelled", records["outcome"] == "cancelled"),
        ("lost", np.isin(records["outcome"], ("rejected", "failed"))),
        ("evicted or expired", records["dropped_tokens"] > 0),
    )
    left = records["kind"] == "warm"
    found = dict.fromkeys(FATES, 0)
    for name, test in tests:
        found[name] = int(np.count_nonzero(left & test))
        left = left & ~np.asarray(test, dtype=bool)
    return found | {"not asked for": int(np.count_nonzero(left))}


def plot_warm_ups(fates_by_variant: Mapping[str, Mapping[str, float]], ax: Axes) -> None:
    """Share of warm-ups per fate as one stacked bar per variant, its number beside it.

    >>> from .figures import sheet
    >>> with sheet() as (figure, (ax,)):
    ...     plot_warm_ups({"a": dict.fromkeys(FATES, 1)}, ax); len(ax.containers)
    6
    """
    colours = (COLOURS[2], COLOURS[4], COLOURS[1], "#B5B5B5", COLOURS[3], COLOURS[6])
    totals = [sum(fates.values()) for fates in fates_by_variant.values()]
    left = np.zeros(len(totals))
    for fate, colour in zip(FATES, colours, strict=True):
        shares = np.array(
            [100 * fates[fate] / (total or 1) for fates, total in zip(fates_by_variant.values(), totals, strict=True)]
        )
        ax.barh(range(len(totals)), shares, left=left, height=0.42, color=colour, label=fate)
        left += shares
    for row, (name, total) in enumerate(zip(fates_by_variant, totals, strict=True)):
        text = f"{label_text(name, 44)} ({units.count(total)})"
        ax.annotate(text, (0, row - 0.27), xytext=(0, 1), textcoords="offset points", va="bottom", fontsize=8)
    ax.set_ylim(len(totals) - 0.5, -0.75)
    ax.set_yticks([])
    ax.set_xlim(0, 100)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("warm-ups, % (in brackets: how many per run)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, handlelength=1.2)


class LoadPoint(NamedTuple):
    """One offered load, requests per second, and the TTFT under it, seconds; ``served_per_s``: what overload let through."""

    offered_per_s: float
    p50_s: Estimate | None
    p95_s: Estimate | None
    served_per_s: float | None


def load_point(results: Sequence[Result]) -> LoadPoint:
    """One scenario under several seeds as a point of ``plot_ttft_by_load``. Means over seeds; quantiles are taken per seed."""
    offered, served = [], []
    for result in results:
        submitted = result.records["submitted_at_ns"]
        span_s = (int(submitted.max()) - int(submitted.min())) / 1e9 if len(submitted) > 1 else 0.0
        if span_s > 0:
            offered.append((len(submitted) - 1) / span_s)
        found = overload(result.records)
        if found is not None:
            served.append(found.served_per_s)
    p50, p95 = (stats.over_seeds([result.quantiles("ttft_s", [q])[0] for result in results], at_least=0.0) for q in (0.5, 0.95))
    return LoadPoint(stats.mean(offered) or 0.0, p50, p95, stats.mean(served))


def plot_ttft_by_load(points: Sequence[LoadPoint], ax: Axes) -> None:
    """The hockey stick: median and 95th percentile of TTFT (logarithmic) against offered requests per second.

    The vertical line is where the backend saturates: what it served per second in the first overloaded run, as
    ``steady.overload`` counts it.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    points = sorted(points, key=lambda point: point.offered_per_s)
    for index, (name, estimates) in enumerate((("median", [p.p50_s for p in points]), ("p95", [p.p95_s for p in points]))):
        known = [(point.offered_per_s, each) for point, each in zip(points, estimates, strict=True) if each is not None]
        _with_band([x for x, _ in known], [each for _, each in known], ax, index, name)
    served = next((point.served_per_s for point in points if point.served_per_s is not None), None)
    if served is not None:
        ax.axvline(served, color=GREY, linestyle=LINES[1], linewidth=1, label=f"saturated at {units.rate(served)}")
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_s(value)))
    ax.set_xlim(left=0)
    ax.set_xlabel("offered requests per second")
    ax.set_ylabel("time to first token, from submit")
    ax.legend(loc="upper left")


def plot_against(
    lines: Mapping[str, Sequence[tuple[float, Estimate]]], ax: Axes, *, x_label: str, y_label: str, factor: float = 1.0
) -> None:
    """One figure against a numeric axis, a line per name, 95 % bands where there are intervals; ``factor`` scales the figure.

    >>> from .figures import sheet
    >>> with sheet() as (figure, (ax,)):
    ...     plot_against({"a": [(1, Estimate(2.0, 1.5, 2.5, 3)), (2, Estimate(1.0, 0.5, 1.5, 3))]}, ax, x_label="x", y_label="y")
    ...     len(ax.lines), len(ax.collections)
    (1, 1)
    """
    for index, (name, points) in enumerate(lines.items()):
        ordered = sorted(points, key=lambda point: point[0])
        _with_band([x for x, _ in ordered], [each for _, each in ordered], ax, index, name, factor)
    values = sorted({x for points in lines.values() for x, _ in points})
    if len(values) > 1 and values[0] > 0 and values[-1] >= 8 * values[0]:
        ax.set_xscale("log")
    if len(values) <= _MOST_TICKS:
        ax.set_xticks(values, [f"{value:,g}" for value in values])
        ax.set_xticks([], minor=True)
    ax.set_ylim(bottom=0)
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)
    if len(lines) > _FEW_LINES:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, columnspacing=1.0)
    elif len(lines) > 1:
        ax.legend(loc="best")


def _with_band(xs: Sequence[float], estimates: Sequence[Estimate], ax: Axes, index: int, name: str, factor: float = 1.0) -> None:
    look: dict[str, Any] = {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[index % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
    }
    ax.plot(xs, [factor * each.mean for each in estimates], label=label_text(name, 34), markersize=4, linewidth=1.6, **look)
    bounds = [
        (x, each.low, each.high) for x, each in zip(xs, estimates, strict=True) if each.low is not None and each.high is not None
    ]
    if bounds:
        low, high = ([factor * (each[end] or 0.0) for each in bounds] for end in (1, 2))
        ax.fill_between([x for x, _, _ in bounds], low, high, color=look["color"], alpha=0.18, linewidth=0)


class Choice(NamedTuple):
    """A configuration by what it makes people wait, p95 of TTFT in seconds, and what it costs."""

    name: str
    p95_s: float
    usd_per_1000_questions: float


def pareto(choices: Sequence[Choice]) -> list[Choice]:
    """Those that no other one beats in both wait and cost, by wait.

    >>> [each.name for each in pareto([Choice("a", 1.0, 5.0), Choice("b", 2.0, 3.0), Choice("c", 2.0, 6.0)])]
    ['a', 'b']
    """
    front: list[Choice] = []
    for each in sorted(choices, key=lambda choice: (choice.p95_s, choice.usd_per_1000_questions)):
        if not front or each.usd_per_1000_questions < front[-1].usd_per_1000_questions:
            front.append(each)
    return front


def plot_pareto(choices: Sequence[Choice], ax: Axes) -> None:
    """Dollars against p95 TTFT: a point per configuration, a line through those that no other one beats in both."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    front = pareto(choices)
    others = [each for each in choices if each not in front]
    ax.plot([c.p95_s for c in others], [c.usd_per_1000_questions for c in others], "o", color="#B5B5B5", markersize=4)
    ax.step([c.p95_s for c in front], [c.usd_per_1000_questions for c in front], where="post", color=GREY, linewidth=1)
    for index, each in enumerate(front[: len(MARKERS)]):
        look: dict[str, Any] = {"color": COLOURS[index], "marker": MARKERS[index]}
        ax.plot(
            [each.p95_s], [each.usd_per_1000_questions], linestyle="none", markersize=6, label=label_text(each.name, 34), **look
        )
    for each in front[len(MARKERS) :]:
        ax.plot([each.p95_s], [each.usd_per_1000_questions], "o", color=COLOURS[6], markersize=5)
    waits = [each.p95_s for each in choices]
    if max(waits) > 8 * max(min(waits), 1e-9):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_s(value)))
    ax.set_ylim(bottom=0)
    ax.set_xlabel("p95 time to first token, from submit")
    ax.set_ylabel("US dollars per 1,000 questions")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), title="nobody beats these in both", title_fontsize=8)
