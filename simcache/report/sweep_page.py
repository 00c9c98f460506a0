"""What ``simcache sweep --out DIR`` left behind, as a page."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .. import units
from ..errors import InputError
from ..stats import Estimate
from .kept_runs import read_document
from .page import Page, Picture, Points, Section, Table, drawing
from .page_parts import DEFINITIONS, scenario_parts, versions_table
from .study_figures import Choice, plot_against, plot_pareto

Row = Mapping[str, Any]
P95: Final = "ttft_s.p95"
MONEY: Final = "cost_usd.per_1000_questions"
_MOST_ROWS: Final = 200
_MOST_LINES: Final = 7
_LABELS: Final = {
    "slo_share": "under the objective, %",
    "token_hit_ratio": "token hit ratio, %",
    "lost_share": "questions lost, %",
    "warm_ups.wasted_share": "warmed tokens wasted, %",
    MONEY: "dollars per 1,000 questions",
}


def sweep_page(folder: Path) -> Page:
    """The page of a folder that ``simcache sweep --out`` wrote. Raises InputError for what it cannot read."""
    document = read_document(folder / "sweep.json")
    try:
        return _page(document)
    except (KeyError, TypeError) as error:
        rule = f"holds a sweep.json of another version of simcache ({error!s} is missing or another kind of thing)"
        raise InputError("folder", str(folder), rule, "Sweep it again.") from None


def _page(document: Mapping[str, Any]) -> Page:
    rows: list[Row] = document["results"]
    keys: list[str] = document["keys"]
    axes = ", ".join(keys) if keys else "the scenarios"
    runs = sum(row["seeds"] for row in rows)
    warnings, assumptions = _said(document, rows)
    sections = [
        *([Section(title="How far to trust it", parts=(Points(lines=tuple(warnings), warn=True),))] if warnings else []),
        Section(title="Figures", parts=tuple(_pictures(document, rows))),
        Section(title="Results", parts=(_table(document, rows),)),
        Section(title="The scenario", parts=tuple(_scenarios(rows))),
        Section(title="Assumptions", parts=(Points(lines=tuple(assumptions) or ("None beyond the scenarios themselves.",)),)),
        Section(title="Where every number comes from", parts=(_provenance(rows), DEFINITIONS)),
        Section(
            title="How to reproduce it",
            parts=(
                f"Run the study again with simcache sweep, seeds from {document['first_seed']} on: equal files give equal tables. "
                f"Every scenario stands complete in sweep.json, under scenario_toml. Code: sha256 {document['code_sha256']}.",
                versions_table(document),
            ),
        ),
    ]
    return Page(
        title=f"simcache sweep: {document['study']}",
        question=f"What changes with {axes}? {units.count(len(rows))} scenarios, {units.count(runs)} runs.",
        answer=str(document["answer"]),
        sections=tuple(sections),
    )


def estimate(row: Row, metric: str) -> Estimate | None:
    """A figure of one row with its interval; None: no run has it."""
    mean = row.get(metric)
    return None if mean is None else Estimate(mean, row[f"{metric}.low"], row[f"{metric}.high"], row["seeds"])


def _text(metric: str) -> Any:
    if metric.startswith("cost_usd"):
        return units.dollars
    if metric.endswith(("share", "ratio")):
        return units.share
    return units.seconds if "_s." in metric or metric.endswith("_s") else units.count


def _said(document: Mapping[str, Any], rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    warnings = [f"{f['cell']}, seed {f['seed']}: this run failed: {f['why']}" for f in document["failures"][:20]]
    if len(document["failures"]) > 20:
        warnings.append(f"{len(document['failures']) - 20:,} more runs failed")
    beyond = [str(row["scenario"]) for row in rows if row["extrapolated"]]
    if beyond:
        shown = ", ".join(beyond[:5]) + (f" and {len(beyond) - 5} more" if len(beyond) > 5 else "")
        where = "in all scenarios" if len(beyond) == len(rows) else shown
        warnings.append(f"some latencies were extrapolated beyond the profile's measured range: {where}")
    fewest = min(row["seeds"] for row in rows)
    if fewest < 5:
        warnings.append(f"some scenarios have {fewest} seeds: their intervals are wide, or there is none")
    whose: dict[str, list[str]] = {}
    for row in rows:
        for note in row["notes"]:
            whose.setdefault(str(note), []).append(str(row["scenario"]))
    notes = [str(note) for note in document["notes"]]
    for note, names in whose.items():
        if "extrapolated" in note:
            continue
        where = "" if len(names) == len(rows) else f"{len(names)} of {len(rows)} scenarios: "
        (warnings if note.startswith("overload:") or "is not measured on your system" in note else notes).append(where + note)
    return warnings, notes


def _pictures(document: Mapping[str, Any], rows: Sequence[Row]) -> list[str | Picture]:
    pictures: list[str | Picture] = []
    choices = [
        Choice(str(row["scenario"]), wait.mean, money.mean)
        for row in rows
        if (wait := estimate(row, P95)) is not None and (money := estimate(row, MONEY)) is not None
    ]
    if choices:
        caption = "Dollars against p95 TTFT: a point per scenario, means over seeds. The line joins those that none beats in both."
        with drawing(caption, height=4.2) as made:
            plot_pareto(choices, made.axes[0])
        pictures.append(made.picture)
    axis = _numeric_axis(document["keys"], rows)
    if axis is not None:
        for metric in document["metrics"]:
            picture = _against(axis, metric, document["keys"], rows)
            if picture is not None:
                pictures.append(picture)
    return pictures or ["There is nothing to draw: no scenario was answered, or no axis is a number."]


def _numeric_axis(keys: Sequence[str], rows: Sequence[Row]) -> str | None:
    """The key with most different numbers, two at least."""
    sizes = {key: {row[key] for row in rows} for key in keys if all(type(row.get(key)) in (int, float) for row in rows)}
    wide = {key: len(values) for key, values in sizes.items() if len(values) > 1}
    return max(wide, key=wide.__getitem__) if wide else None


def _against(axis: str, metric: str, keys: Sequence[str], rows: Sequence[Row]) -> Picture | None:
    others = [key for key in keys if key != axis]
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    for row in rows:
        found = estimate(row, metric)
        if found is not None:
            name = ", ".join(f"{key.rpartition('.')[2]} {units.NOTHING if row[key] is None else row[key]}" for key in others)
            lines.setdefault(name or "all", []).append((float(row[axis]), found))
    if all(len(points) < 2 for points in lines.values()) or not any(each.mean for points in lines.values() for _, each in points):
        return None  # nothing to draw, or nothing but zeros
    shown = dict(itertools.islice(lines.items(), _MOST_LINES))
    label = _label(metric)
    left_out = f" {len(lines) - len(shown)} more lines are left out." if len(lines) > len(shown) else ""
    with drawing(f"{label} against {axis}; bands: 95 % intervals over seeds.{left_out}") as made:
        factor = 100.0 if label.endswith("%") else 1.0
        plot_against(shown, made.axes[0], x_label=axis, y_label=label, factor=factor)
    return made.picture


def _label(metric: str) -> str:
    """A metric as an axis says it: 'TTFT p95, s'."""
    span, _, statistic = metric.partition(".")
    if metric in _LABELS or not span.endswith("_s"):
        return _LABELS.get(metric, metric)
    return f"{'TTFT' if span == 'ttft_s' else span.removesuffix('_s')} {statistic}".rstrip() + ", s"


def _table(document: Mapping[str, Any], rows: Sequence[Row]) -> Table:
    keys, metrics = document["keys"], [m for m in document["metrics"] if any(row.get(m) is not None for row in rows)]
    named = len({tuple(row[key] for key in keys) for row in rows}) < len(rows) or not keys  # else the keys are the name
    made = []
    for row in rows[:_MOST_ROWS]:
        figures = []
        for metric in metrics:
            found, text = estimate(row, metric), _text(metric)
            bounds = None if found is None or found.low is None or found.high is None else (found.low, found.high)
            figures.append(units.NOTHING if found is None else f"{text(found.mean)}\n{units.interval(bounds, text)}".rstrip())
        changed = [units.NOTHING if row[key] is None else str(row[key]) for key in keys]
        made.append((*([str(row["scenario"])] if named else []), *changed, *figures, str(row["seeds"]), str(row["failed"])))
    more = f" {len(rows) - _MOST_ROWS:,} more rows stand in table.csv." if len(rows) > _MOST_ROWS else ""
    names = (*(["scenario"] if named else []), *(key.replace(".", "\n", 1) for key in keys))
    head = (*names, *(_label(metric) for metric in metrics), "seeds", "failed")
    return Table(head=head, rows=tuple(made), note=f"Means over seeds, below them 95 % t intervals.{more}", keys=len(names))


def _scenarios(rows: Sequence[Row]) -> list[Any]:
    """What all scenarios share; what differs stands in the table of results."""
    *_, shared = scenario_parts([(str(row["scenario"]), str(row["scenario_toml"])) for row in rows])
    return [shared]


def _provenance(rows: Sequence[Row]) -> Table:
    said = dict.fromkeys((str(what), str(where)) for row in rows for what, where in row["provenance"].items())
    return Table(head=("what", "from"), rows=tuple(said), keys=2)
