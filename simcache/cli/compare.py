"""``simcache compare``: scenario files against the first of them, seed by seed, and the live test that would confirm it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .sweep import complain, worker_options

if TYPE_CHECKING:
    from ..experiment.comparison import Difference, LiveTest, Pair


@click.command(name="compare")
@click.argument("scenarios", nargs=-1, required=True, metavar="A.toml B.toml ...")
@click.option("--seeds", type=click.IntRange(min=2), default=20, show_default=True, help="Seeds, the same for all.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The first seed.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key of all of them.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="What to compare, as in p95(ttft_s).  [default: eight]")
@click.option("--ab", is_flag=True, help="Say how many requests and days a live test needs to confirm the difference.")
@click.option("--power", type=float, default=0.8, show_default=True, help="Of that test.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@worker_options
def command(
    scenarios: tuple[str, ...],
    seeds: int,
    seed: int,
    overrides: tuple[str, ...],
    metrics: tuple[str, ...],
    ab: bool,
    power: float,
    as_json: bool,
    workers: int | None,
    backend: Any,
    scheduler: str | None,
    store: Path | None,
) -> None:
    """Compare scenarios under the same seeds: paired differences with 95 % intervals.

    Every scenario of every file is compared with the first. The same people type the same keys in all of them, so what differs
    is what was changed.
    """
    from ..experiment.comparison import METRICS, compare
    from ..experiment.workers import Workers
    from ..notes import notes_of
    from ..result import json_text
    from ..scenario_file import load_scenarios
    from .progress import runs_bar
    from .table import print_lines

    asked = [scenario for each in scenarios for scenario in load_scenarios(each, overrides)]
    if len(asked) < 2:
        raise click.UsageError("Give two scenarios or more: the second is compared with the first.")
    who = Workers(processes=workers, backend=backend, scheduler=scheduler)
    with runs_bar() as progress:
        found = compare(
            *asked, seeds=seeds, first_seed=seed, metrics=metrics or METRICS, store=store, workers=who, progress=progress
        )
    if as_json:
        click.echo(json_text(found.document(live=ab)), nl=False)
        complain(found.sweep)
        return
    for pair in found.pairs:
        _show(pair)
        if ab:
            _show_live(pair, power)
    for line in found.headroom_lines():
        print_lines(line)
    if found.headroom:
        click.echo()
    for note in notes_of(run for runs in found.sweep.runs for run in runs.values())[:8]:
        print_lines(f"note: {note}")
    complain(found.sweep)


def _show(pair: Pair) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..experiment.runs import Metric
    from .table import print_answer, print_lines, width

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, title=f"{pair.b} against {pair.a}", title_justify="left")
    for head in ("", "before", "after", "difference", "95 % interval", "by bootstrap"):
        table.add_column(head, justify="left" if not head else "right")
    for found in pair.differences:
        metric = Metric(found.metric)
        table.add_row(metric.label.replace("questions", "q"), *_cells(found, metric))
    Console(width=width(), highlight=False, markup=False).print(table)
    print_lines(f"Differences are paired over {len(pair.a_runs)} seeds; each interval is at 95 % by itself.")
    print_answer(pair.answer())


def _cells(found: Difference, metric: Any) -> list[str]:
    change, boot = found.paired, found.bootstrap
    intervals = []
    for low, high in ((change.low, change.high), (boot.low, boot.high)):
        intervals.append("-" if low is None else f"{metric.text(low, plus=True)}..{metric.text(high, plus=True)}")
    return [metric.text(change.a_mean), metric.text(change.b_mean), metric.text(change.difference, plus=True), *intervals]


def _show_live(pair: Pair, power: float) -> None:
    from ..experiment.comparison import LIVE_METRICS
    from .table import print_lines

    tests = [test for metric in LIVE_METRICS if (test := pair.live_test(metric, power=power))]
    for test in tests:
        print_lines(_live(test))
    if not tests:
        print_lines("No live test: there is no difference to confirm.")
    else:
        print_lines("Every user in one arm, half of the traffic each, and the arms on deployments of their own.")
    click.echo()


def _live(test: LiveTest) -> str:
    from ..experiment.runs import Metric

    metric = Metric(test.metric)
    effect = f"{metric.label}, {metric.text(test.difference, plus=True)}"
    if test.to_requests is None:
        return f"Live test of {effect}: not sized, the simulation itself cannot tell it from nothing."
    days = "" if test.days is None else f" ({_days(test.days)} of all traffic)"
    return (
        f"Live test of {effect}: {test.requests_per_arm:,} requests per arm{days} find it with {test.power * 100:.0f} % power "
        f"({test.from_requests:,} to {test.to_requests:,} over its interval)."
    )


def _days(days: float) -> str:
    if days < 0.1:
        return f"{days * 24 * 60:.0f} minutes" if days * 24 < 1 else f"{days * 24:.1f} hours"
    return f"{days:.1f} days"
