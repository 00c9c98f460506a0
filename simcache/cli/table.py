"""The table of ``simcache run``, its sentence and its notes: at most 80 columns wide unless COLUMNS says otherwise."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from .. import units

WIDTH: Final = 80
Entry = Mapping[str, Any]


def width() -> int:
    """Columns to write in: COLUMNS where it is set, else 80, or what a narrower terminal has."""
    if os.environ.get("COLUMNS", "").isdigit():
        return max(40, int(os.environ["COLUMNS"]))
    if not sys.stdout.isatty():
        return WIDTH
    from shutil import get_terminal_size  # with zlib, bz2 and lzma behind it

    return min(WIDTH, get_terminal_size((WIDTH, 24)).columns)


def print_table(entries: Sequence[Entry]) -> None:
    """One row per entry of ``result.summarise``; below each figure half of its 95 % interval where there are several seeds."""
    from rich.console import Console
    from rich.table import Table

    objectives = {entry["slo_ttft_s"] for entry in entries}
    objective = f"{objectives.pop():g} s" if len(objectives) == 1 else "goal"
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("\nvariant", overflow="fold")
    heads = ["TTFT\np50 s", "\np95 s", "\np99 s", f"under\n{objective}", "token\nhits"]
    for head in (*heads, "$ per\n1,000 q", "warm-ups\nsent", "\nwasted"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_row()
    for entry in entries:
        table.add_row(*_cells(entry))
    console = Console(width=width(), highlight=False, markup=False, soft_wrap=False)
    console.print(table)
    several = max(len(entry["seeds"]) for entry in entries)
    lines = ["TTFT: from submit to the first token. wasted: share of warmed tokens that no question used."]
    if several > 1:
        lines.insert(0, f"Means over {several} seeds; below each, half of its 95 % interval.")
    click.echo("\n".join(_filled(" ".join(lines))))
    for entry in entries:
        if "tiers" in entry:
            click.echo("\n".join(_filled(_tier_hits(entry))))


def _tier_hits(entry: Entry) -> str:
    """What the tiers below GPU memory gave, and what was waited for it."""
    given = [f"{units.share(place['token_hit_ratio'])} from {tier}" for tier, place in entry["tiers"].items()]
    waited = entry["load_wait_s"]["mean"]
    wait = "" if waited is None else f", with {units.seconds(waited)} of waiting where something was loaded"
    faults = f"; {units.count(entry['tier_faults'])} tier faults" if entry["tier_faults"] else ""
    return f"{entry['scenario']}: of the prompt tokens {' and '.join(given)}{wait}{faults}."


def print_answer(sentence: str) -> None:
    """The answer, set off by blank lines."""
    click.echo("\n" + "\n".join(_filled(sentence)) + "\n")


def print_uncertainty(entries: Sequence[Entry]) -> None:
    """What the 95 % interval of TTFT is made of, where an entry has ``uncertainty``."""
    for entry in entries:
        for name, parts in entry.get("uncertainty", {}).get("figures", {}).items():
            if name not in ("ttft_s.p50", "ttft_s.p95"):
                continue
            said = [f"{part} ±{units.seconds(parts[part])}" for part in ("seeds", "profile", "model") if parts[part] is not None]
            whole = units.interval(parts["interval95"], units.seconds)
            figure = f"{entry['scenario']}: TTFT {name[-3:]} {units.seconds(parts['mean'])} {whole}"
            click.echo("\n".join(_filled(f"{figure}: {', '.join(said) or 'nothing is known of its error'}")))


def print_notes(own: Sequence[str], entries: Sequence[Entry]) -> None:
    """What the reader must know: how the file was read, and each entry's notes and extrapolation, each said once."""
    notes = [*own, *(note for entry in entries for note in entry["notes"])]
    for note in dict.fromkeys(notes):
        click.echo("\n".join(_filled(f"note: {note}")))


def print_lines(text: str) -> None:
    """A text of any length, in lines of the width."""
    click.echo("\n".join(_filled(text)))


def _filled(text: str) -> list[str]:
    """``text`` in lines of the width, broken at spaces only, so that a path stays whole and can be copied."""
    return textwrap.wrap(text, width(), break_long_words=False, break_on_hyphens=False)


def _cells(entry: Entry) -> list[str]:
    warmed = entry["requests"]["warm"]
    return [
        entry["scenario"],
        *(_cell(entry["ttft_s"], name, _seconds) for name in ("p50", "p95", "p99")),
        _cell(entry, "slo_share", _percent),
        _cell(entry, "token_hit_ratio", _percent),
        _cell(entry["cost_usd"], "per_1000_questions", _dollars),
        _cell(entry["warm_ups"], "sent", lambda value, _: units.count(value)) if warmed else units.NOTHING,
        _cell(entry["warm_ups"], "wasted_share", _percent) if warmed else units.NOTHING,
    ]


def _cell(place: Entry, name: str, text: Any) -> str:
    value, bounds = place[name], place.get(f"{name}_interval95")
    if value is None:
        return units.NOTHING
    if bounds is None:
        return str(text(value, value))
    return f"{text(value, value)}\n±{text(max(bounds[1] - value, value - bounds[0]), value)}"


def _seconds(size: float, beside: float) -> str:
    """With the decimals that fit ``beside``, the figure itself."""
    return f"{size:,.{3 if beside < 0.9995 else 2 if beside < 99.995 else 0}f}"


def _dollars(size: float, beside: float) -> str:
    return f"{size:,.{3 if beside < 0.9995 else 2 if beside < 999.995 else 0}f}"


def _percent(size: float, beside: float) -> str:
    """A share reads as all or nothing only where it is; half an interval is a plain number."""
    return units.share(size).replace("> ", ">").replace("< ", "<") if size == beside else f"{size * 100:.1f} %"
