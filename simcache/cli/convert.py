"""simcache convert: one trace format into another, saying what gets lost."""

from __future__ import annotations

import json

import click

from ..workload.trace_writers import write_trace
from ..workload.traces import FORMATS, NOT_READ, read_trace


@click.command("convert")
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--from", "source_format", type=click.Choice(FORMATS), help="Format of IN; told from its first row when left out.")
@click.option("--to", "target_format", type=click.Choice(FORMATS), required=True, help="Format of OUT.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="When claude-code sessions start.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(source: str, target: str, source_format: str | None, target_format: str, seed: int, as_json: bool) -> None:
    """Write the requests of trace IN to OUT in another format (gzip when OUT ends in .gz) and say what gets lost.

    Arrival instants stay as they are: coarse ticks are not spread. Sessions of claude-code, which share no clock, start by
    a seeded Poisson stream. OUT appears whole or not at all.
    """
    reader = read_trace(source, source_format, spread_ticks=False, seed=seed)
    lost = write_trace(reader, target, target_format)
    lost = [NOT_READ[reader.format], *lost] if reader.format in NOT_READ else lost
    if as_json:
        document = {
            "schema_version": 1,
            "in": source,
            "from": reader.format,
            "out": target,
            "to": target_format,
            "requests": reader.rows,
            "lost": lost,
            "notes": list(reader.notes),
        }
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(f"{reader.rows:,} requests: {source} ({reader.format}) -> {target} ({target_format})")
    for note in reader.notes:
        click.echo(f"  note: {note}")
    for line in lost or ["nothing"]:
        click.echo(f"  lost: {line}")
