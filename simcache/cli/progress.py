"""One progress bar on standard error, over the runs of a command."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def progress_bar(runs: int) -> Iterator[Callable[[str, int, float], None]]:
    """Open a bar over ``runs`` runs; call what it yields with (what runs now, runs finished, share of the current one).

    Where standard error is no terminal, one line at the end stands for the bar. A failed command leaves neither.
    """
    started = time.monotonic()
    if not sys.stderr.isatty():
        yield lambda what, finished, share: None
        click.echo(f"simulated {runs} run{'s' if runs > 1 else ''} in {time.monotonic() - started:.1f} s", err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    # Standard output stays as it is: with --json it carries one document, and whoever reads it must not wait for a bar.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False, refresh_per_second=4) as bar:
        task = bar.add_task("simulating", total=runs)

        def advance(what: str, finished: int, share: float) -> None:
            bar.update(task, description=what[:40], completed=finished + min(max(share, 0.0), 1.0))

        try:
            yield advance
        except BaseException:
            bar.live.transient = True  # a bar that stopped half way would stand beside the one line that says why
            raise
        bar.update(task, description="simulated", completed=runs)
