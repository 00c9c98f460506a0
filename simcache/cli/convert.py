"""simcache convert: a trace, or what a scenario sends, into a trace of another format, saying what gets lost."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import UnknownNameError
from ..scenario_file import load_scenarios, preset_names
from ..workload.trace_writers import WRITTEN, write_trace
from ..workload.traces import FORMATS, NOT_READ, read_trace


@click.command("convert")
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--from", "source_format", type=click.Choice(FORMATS), help="Format of IN; told from its first row when left out.")
@click.option("--to", "target_format", type=click.Choice(WRITTEN), required=True, help="Format of OUT.")
@click.option("--variant", metavar="NAME", help="Which variant of the scenario IN.  [default: the first]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of claude-code starts and of scenarios.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    source: str, target: str, source_format: str | None, target_format: str, variant: str | None, seed: int, as_json: bool
) -> None:
    """Write the requests of trace IN to OUT in another format (gzip when OUT ends in .gz) and say what gets lost.

    IN may be a scenario file (.toml) or a preset: then OUT holds what one simulated run of it sends, warm-ups included, to be
    replayed on the real deployment. Arrival instants stay as they are: coarse ticks are not spread. Sessions of claude-code,
    which share no clock, start by a seeded Poisson stream. OUT appears whole or not at all.
    """
    if source.endswith(".toml") or (source in preset_names() and not Path(source).is_file()):
        if source_format is not None:
            raise click.UsageError("--from goes with a trace, not with a scenario.")
        _convert_scenario(source, target, target_format, variant, seed, as_json)
        return
    if variant is not None:
        raise click.UsageError("--variant goes with a scenario, not with a trace.")
    reader = read_trace(source, source_format, spread_ticks=False, seed=seed)
    lost = write_trace(reader, target, target_format)
    lost = [NOT_READ[reader.format], *lost] if reader.format in NOT_READ else lost
    _say(source, reader.format, target, target_format, reader.rows, lost, list(reader.notes), as_json)


def _convert_scenario(source: str, target: str, target_format: str, variant: str | None, seed: int, as_json: bool) -> None:
    from ..engine.sent import sent_requests

    scenarios = {scenario.name: scenario for scenario in load_scenarios(source)}
    name = next(iter(scenarios)) if variant is None else variant
    if name not in scenarios:
        raise UnknownNameError("variant", name, scenarios)
    sent = sent_requests(scenarios[name], seed=seed)
    lost = write_trace(sent, target, target_format)
    notes = [f"what {name!r} sends in one simulated run, seed {seed}: people wait for the simulated answers"]
    _say(source, "scenario", target, target_format, len(sent), lost, notes, as_json)


def _say(
    source: str, source_format: str, target: str, target_format: str, rows: int, lost: list[str], notes: list[str], as_json: bool
) -> None:
    if as_json:
        document = {
            "schema_version": 1,
            "in": source,
            "from": source_format,
            "out": target,
            "to": target_format,
            "requests": rows,
            "lost": lost,
            "notes": notes,
        }
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(f"{rows:,} requests: {source} ({source_format}) -> {target} ({target_format})")
    for note in notes:
        click.echo(f"  note: {note}")
    for line in lost or ["nothing"]:
        click.echo(f"  lost: {line}")
