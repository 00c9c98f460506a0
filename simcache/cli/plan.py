"""``simcache plan``: the cheapest configuration that meets an objective, how far it goes, and what it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .sweep import worker_options

if TYPE_CHECKING:
    from ..capacity import Rate, Spare
    from ..experiment.axes import Axis
    from ..planner import Candidate, Plan
    from ..scenario import Scenario
    from ..sensitivity import Bar

STATUS_NOT_MET = 1
_ROWS_SHOWN = 12


@click.command(name="plan")
@click.argument("scenario", metavar="SCENARIO")
@click.option("--objective", "objectives", multiple=True, required=True, metavar="TEXT", help="As in 'p95(ttft_s) < 1.0'.")
@click.option("--minimize", default="cost", show_default=True, metavar="NAME", help="A metric, or a varied key with numbers.")
@click.option("--vary", "vary", multiple=True, metavar="KEY=...", help="KEY=V1,V2 or KEY=LOW..HIGH[:STEPS][:log]; repeat it.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="That the answer is right.")
@click.option("--at-most", type=click.IntRange(min=5), default=100, show_default=True, help="Seeds per configuration.")
@click.option("--budget", type=click.IntRange(min=1), help="Simulations in the race, in all.  [default: none]")
@click.option("--max-rate", metavar="KEY=LOW..HIGH", help="Find the highest rate that the answer sustains.")
@click.option("--n-plus-one", is_flag=True, help="Find how many replicas it takes when one is lost.")
@click.option("--tornado", is_flag=True, help="Show what the answer depends on, one key at a time.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key of the scenario.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@worker_options
def command(
    scenario: str,
    objectives: tuple[str, ...],
    minimize: str,
    vary: tuple[str, ...],
    confidence: float,
    at_most: int,
    budget: int | None,
    max_rate: str | None,
    n_plus_one: bool,
    tornado: bool,
    overrides: tuple[str, ...],
    as_json: bool,
    **who: Any,
) -> None:
    """Find the cheapest configuration of SCENARIO that meets the objectives.

    All combinations race under the same seeds, the beaten ones stop early, and the answer is verified under fresh seeds.
    """
    from ..experiment.axes import Axis
    from ..experiment.workers import Workers
    from ..planner import plan
    from ..scenario_file import load_scenarios
    from .progress import runs_bar

    axes = [Axis.parse(each) for each in vary]
    rate_axis = None if max_rate is None else Axis.parse(max_rate)
    shared = {
        "store": who["store"],
        "workers": Workers(processes=who["workers"], backend=who["backend"], scheduler=who["scheduler"]),
    }
    with runs_bar() as progress:
        shared["progress"] = progress
        found = plan(
            load_scenarios(scenario, overrides),
            objectives,
            axes,
            minimize=minimize,
            confidence=confidence,
            at_most=at_most,
            most_runs=budget,
            **shared,
        )
        rate, spare, bars = _more(found, axes, rate_axis, n_plus_one, tornado, at_most, shared)
    if as_json:
        from ..result import json_text

        click.echo(json_text(_document(found, rate, spare, bars)), nl=False)
    else:
        _show(found, rate, spare, bars)
    if found.best is None:
        raise click.exceptions.Exit(STATUS_NOT_MET)


def _more(
    found: Plan,
    axes: Sequence[Axis],
    rate_axis: Axis | None,
    n_plus_one: bool,
    with_tornado: bool,
    at_most: int,
    shared: dict[str, Any],
) -> tuple[Rate | None, Spare | None, list[Bar] | None]:
    """What was asked about the answer, or about the one nearest to it where there is none."""
    from ..capacity import highest_rate, with_one_lost
    from ..sensitivity import tornado

    about = found.best or found.nearest
    if about is None:
        return None, None, None
    chosen: Scenario = about.scenario
    return (
        None if rate_axis is None else highest_rate(chosen, found.objectives, rate_axis, at_most=min(60, at_most), **shared),
        with_one_lost(chosen, found.objectives, at_most=min(60, at_most), **shared) if n_plus_one else None,
        tornado(chosen, axes, found.objectives[0].metric.name, **shared) if with_tornado and axes else None,
    )


def _show(found: Plan, rate: Rate | None, spare: Spare | None, bars: list[Bar] | None) -> None:
    from .table import print_answer, print_lines

    _table("Not beaten in both" if found.best else "Nearest", found.pareto, found)
    counts = {status: sum(each.status == status for each in found.candidates) for status in ("meets", "fails", "dearer", "open")}
    print_lines(
        f"Of {len(found.candidates):,} configurations {counts['meets']:,} surely meet the objectives, {counts['fails']:,} surely "
        f"fail, {counts['dearer']:,} surely cost more than one that meets them, {counts['open']:,} could not be told."
    )
    print_answer(found.answer())
    metric = found.objectives[0].metric
    about = "the answer" if found.best else "the nearest"
    if rate is not None:
        at = "-" if rate.estimate is None else metric.text(rate.estimate.mean)
        held = (
            f"{rate.value:,.4g} ({metric.label} {at} under fresh seeds)" if rate.value is not None else "none of the values given"
        )
        end = "" if rate.fails_at is None else f", not {rate.fails_at:,.4g}"
        print_lines(f"Highest {rate.key} that {about} sustains: {held}{end}.")
    if spare is not None:
        takes = f"{spare.replicas} replicas" if spare.replicas is not None else f"more than {spare.tried} replicas"
        print_lines(f"With one replica lost at {spare.at_s:,.0f} s and not coming back it takes {takes}.")
    for bar in bars or []:
        from ..experiment.axes import label

        change = bar.difference.paired
        bounds = "" if change.low is None else f" [{metric.text(change.low, plus=True)}, {metric.text(change.high, plus=True)}]"
        print_lines(f"{bar.key} = {label(bar.value)}: {metric.label} {metric.text(change.difference, plus=True)}{bounds}")


def _table(title: str, candidates: Sequence[Candidate], found: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    from .table import width

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, title=title, title_justify="left")
    table.add_column("configuration", overflow="fold")
    metric = found.objectives[0].metric
    for head in (metric.label, found.price.label.replace("questions", "q"), "seeds", ""):
        table.add_column(head, justify="right" if head else "left")
    for each in candidates[:_ROWS_SHOWN]:
        value = each.estimates[metric.name]
        price = None if each.price is None else each.price.mean
        mark = "<- chosen" if each is found.best else each.status
        table.add_row(each.name, metric.text(None if value is None else value.mean), found.price.text(price), str(each.seeds), mark)
    Console(width=width(), highlight=False, markup=False).print(table)


def _document(found: Plan, rate: Rate | None, spare: Spare | None, bars: list[Bar] | None) -> dict[str, Any]:
    from ..experiment.axes import label
    from ..scenario_file import to_toml

    def candidate(each: Candidate | None) -> dict[str, Any] | None:
        if each is None:
            return None
        return {
            "name": each.name,
            "changes": {key: value if type(value) in (int, float) else label(value) for key, value in each.changes.items()},
            "status": each.status,
            "seeds": each.seeds,
            "estimates": {name: None if value is None else value._asdict() for name, value in each.estimates.items()},
            "price": None if each.price is None else each.price._asdict(),
            "scenario_toml": to_toml(each.scenario),
        }

    document: dict[str, Any] = {
        "schema_version": 1,
        "objectives": [
            {"metric": each.metric.name, "bound": each.bound, "above": each.above, "text": str(each)} for each in found.objectives
        ],
        "minimize": found.price.name,
        "confidence": found.confidence,
        "best": candidate(found.best),
        "nearest": candidate(found.nearest),
        "pareto": [candidate(each) for each in found.pareto],
        "candidates": [candidate(each) for each in found.candidates],
        "verifications": [
            {"name": each.name, "seeds": each.seeds, "holds": each.holds}
            | {"estimates": {name: None if value is None else value._asdict() for name, value in each.estimates.items()}}
            for each in found.verifications
        ],
        "simulations": found.simulations,
        "stopped": found.stopped,
        "answer": found.answer(),
    }
    if rate is not None:
        document["max_rate"] = {"key": rate.key, "value": rate.value, "fails_at": rate.fails_at, "simulations": rate.simulations}
    if spare is not None:
        document["n_plus_one"] = {"replicas": spare.replicas, "tried": spare.tried, "lost_at_s": spare.at_s}
    if bars is not None:
        document["tornado"] = [
            {"key": bar.key, "value": label(bar.value), "difference": bar.difference.paired.difference}
            | {"interval95": [bar.difference.paired.low, bar.difference.paired.high]}
            for bar in bars
        ]
    return document
