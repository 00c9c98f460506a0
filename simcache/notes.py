"""What the reader of a figure must know, said once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Protocol

_NUMBER: Final = re.compile(r"\d[\d,.]*")


class Noted(Protocol):
    """What has notes: a result, or what is kept of it."""

    @property
    def seed(self) -> int: ...

    @property
    def notes(self) -> tuple[str, ...]: ...


def notes_of(runs: Iterable[Noted]) -> list[str]:
    """Each note once; of those that differ between runs in their numbers alone, the first one."""
    said: dict[str, dict[str, int]] = {}
    for run in runs:
        for note in run.notes:
            said.setdefault(_NUMBER.sub("#", note), {}).setdefault(note, run.seed)
    firsts = [(*next(iter(notes.items())), len(notes)) for notes in said.values()]
    return [note if count == 1 else f"{note} (seed {seed}; others alike)" for note, seed, count in firsts]
