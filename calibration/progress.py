"""One line on standard error that says how far a long command is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_BETWEEN_LINES_S: Final = 15.0
_WIDTH: Final = 30


@contextmanager
def progress_line() -> Iterator[Callable[[int, int, str], None]]:
    """Call what this yields with (finished, in all, what runs now): a bar on a terminal, elsewhere a line now and then."""
    terminal = sys.stderr.isatty()
    started = said = time.monotonic()

    def say(finished: int, total: int, what: str) -> None:
        nonlocal said
        now = time.monotonic()
        if terminal:
            done = _WIDTH * finished // max(total, 1)
            bar = "#" * done + "." * (_WIDTH - done)
            print(f"\r{bar} {finished}/{total} {now - started:.0f} s  {what[:40]:<40}", end="", file=sys.stderr, flush=True)
        elif now - said >= _BETWEEN_LINES_S:
            said = now
            print(f"{finished} of {total} after {now - started:.0f} s, now {what}", file=sys.stderr, flush=True)

    try:
        yield say
    finally:
        if terminal:
            print(file=sys.stderr)
