"""One progress bar on standard error, over the runs of a command."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click

from .. import units


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


_SECONDS_BETWEEN_LINES: Final = 30.0


@contextmanager
def runs_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar over runs that finish in any order, with the time that is left; call what it yields with (finished, in all).

    Where standard error is no terminal, a line every half a minute and one at the end stand for the bar.
    """
    started = time.monotonic()
    if not sys.stderr.isatty():
        said, at_first, last = started, -1, (0, 0)

        def say(finished: int, total: int) -> None:
            nonlocal said, at_first, last
            now, last = time.monotonic(), (finished, total)
            at_first = finished if at_first < 0 else at_first
            if now - said >= _SECONDS_BETWEEN_LINES and at_first < finished < total:
                said = now
                left_s = (now - started) / (finished - at_first) * (total - finished)
                click.echo(f"{finished:,} of {total:,} runs, about {units.seconds(left_s)} left", err=True)

        yield say
        click.echo(f"{last[0]:,} runs in {time.monotonic() - started:.1f} s", err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    left = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), *left)
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False, refresh_per_second=4) as bar:
        task = bar.add_task("simulating", total=None)
        try:
            yield lambda finished, total: bar.update(task, completed=finished, total=total)
        except BaseException:
            bar.live.transient = True
            raise
