"""``simcache sweep``: a study file -> many scenarios under many seeds, on all cores or a cluster, and one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..experiment.sweeps import Sweep

RUNS = "runs"
STATUS_RUNS_FAILED = 1
_ROWS_SHOWN = 40
_SHOWN = ("ttft_s.p50", "ttft_s.p95", "slo_share", "token_hit_ratio", "cost_usd.per_1000_questions")


def worker_options(command: Any) -> Any:
    """The options that say who simulates, for every verb that simulates much."""
    options = (
        click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one per core]"),
        click.option("--backend", type=click.Choice(["loky", "dask"]), default="loky", show_default=True, help="Who runs them."),
        click.option("--scheduler", metavar="ADDRESS", help="The Dask scheduler of --backend dask, as in tcp://10.0.0.1:8786."),
        click.option("--store", type=click.Path(path_type=Path), help="Folder that keeps runs, to share between studies."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(name="sweep")
@click.argument("study", metavar="STUDY.toml")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the tables and runs.  [default: simcache-out/NAME/]")
@click.option("--seeds", type=click.IntRange(min=1), help="Seeds per scenario.  [default: the file's]")
@click.option("--seed", type=click.IntRange(min=0), help="The first seed.  [default: the file's, else 0]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the table; no files without --out.")
@worker_options
def command(
    study: str,
    out: Path | None,
    seeds: int | None,
    seed: int | None,
    as_json: bool,
    workers: int | None,
    backend: Any,
    scheduler: str | None,
    store: Path | None,
) -> None:
    """Simulate every scenario of a study under every seed, and sum them up in a table with 95 % intervals.

    Finished runs are kept in OUT/runs: a sweep that was stopped goes on where it was, and only what changed is run anew.
    """
    from ..experiment.study_file import read_study
    from ..experiment.sweeps import sweep
    from ..experiment.workers import Workers
    from .files import named_for_files, our_folder
    from .progress import runs_bar
    from .run import DEFAULT_FOLDER

    asked = read_study(study, seeds=seeds, first_seed=seed)
    who = Workers(processes=workers, backend=backend, scheduler=scheduler)
    folder = out if out is not None or as_json else DEFAULT_FOLDER / named_for_files(asked.name)
    if folder is not None:
        our_folder(folder, ("sweep.json", RUNS))
        store = store or folder / RUNS
    with runs_bar() as progress:
        found = sweep(asked, store=store, workers=who, progress=progress)
    if folder is not None:
        found.write(folder)
    if as_json:
        from ..result import json_text

        click.echo(json_text(found.document()), nl=False)
    else:
        _show(found)
        if folder is not None:
            kept = f" ({found.reused:,} of {found.reused + found.simulated:,} runs kept from before)" if found.reused else ""
            click.echo(f"store: {store}{kept}")
            click.echo(f"table: {folder / 'table.csv'}\nruns:  {folder / 'runs.csv'}")
    complain(found)


def complain(found: Sweep) -> None:
    """Say on standard error what was damaged and what failed; end with status 1 when runs failed."""
    if found.damaged:
        click.echo(f"warning: {len(found.damaged)} damaged run files were simulated anew: {found.damaged[0]}", err=True)
    for failure in found.failures[:10]:
        click.echo(f"failed: {failure.cell}, seed {failure.seed}: {failure.why}", err=True)
    if found.failures:
        click.echo(f"error: {len(found.failures)} of the runs failed; the others are in the tables.", err=True)
        raise click.exceptions.Exit(STATUS_RUNS_FAILED)


def _show(found: Sweep) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..experiment.axes import label
    from ..experiment.runs import Metric
    from ..experiment.study import METRICS
    from ..notes import notes_of
    from .table import print_answer, print_lines, width

    study = found.study
    asked = _SHOWN if study.metrics == METRICS else study.metrics
    metrics = [Metric(name) for name in asked if any(found.estimate(i, name) for i in range(len(found.runs)))]
    several = len({cell.of for cell in study.cells}) > 1 or not study.keys
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    if several:
        table.add_column("scenario", overflow="fold")
    for key in study.keys:
        table.add_column(key.partition(".")[2].replace(".", "\n") or key, overflow="fold")
    for metric in metrics:
        table.add_column(metric.label.replace("questions", "q"), justify="right")
    table.add_column("seeds", justify="right")
    for number, cell in enumerate(study.cells[:_ROWS_SHOWN]):
        changed = [label(cell.changes[key]) if key in cell.changes else "-" for key in study.keys]
        figures = [_cell(found, number, metric) for metric in metrics]
        table.add_row(*([cell.of] if several else []), *changed, *figures, str(len(found.runs[number])))
    Console(width=width(), highlight=False, markup=False).print(table)
    more = len(found.runs) - _ROWS_SHOWN
    print_lines(
        "Means over the seeds; below each, half of its 95 % interval." + (f" {more:,} more rows: table.csv." if more > 0 else "")
    )
    print_answer(found.answer())
    notes = [*found.notes, *notes_of(run for runs in found.runs for run in runs.values())]
    for note in notes[:8]:
        print_lines(f"note: {note}")


def _cell(found: Sweep, number: int, metric: Any) -> str:
    estimate = found.estimate(number, metric.name)
    if estimate is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return str(metric.text(estimate.mean))
    return f"{metric.text(estimate.mean)}\n±{metric.text(max(estimate.high - estimate.mean, estimate.mean - estimate.low))}"
