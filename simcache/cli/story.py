"""What happened inside one run: ``run --explain``, ``--timeline`` and ``--save-cache``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..cache.snapshot import save_snapshots
from ..engine.journal import Journal, explain, timeline
from ..errors import InputError, UnknownNameError
from ..scenario import HostedApi, Scenario
from ..whole_files import whole_file

if TYPE_CHECKING:
    from ..result import Result


def told_scenario(scenarios: Sequence[Scenario], variant: str | None) -> Scenario:
    """The variant that is told about: the one named, else the first that runs on replicas (a hosted API has no steps to tell)."""
    if variant is not None:
        chosen = next((scenario for scenario in scenarios if scenario.name == variant), None)
        if chosen is None:
            raise UnknownNameError("variant", variant, (scenario.name for scenario in scenarios))
        return chosen
    return next((scenario for scenario in scenarios if not isinstance(scenario.backend, HostedApi)), scenarios[0])


def tell(result: Result, journal: Journal, row: int | None, timeline_path: Path | None, caches_path: Path | None) -> list[str]:
    """The explained request's life, line by line, after writing the timeline and the caches where they were asked for."""
    if caches_path is not None:
        if not journal.caches:
            raise InputError(
                "save-cache", str(caches_path), "needs a variant on replicas with a block pool (engine vllm or prefill-first)"
            )
        save_snapshots(journal.caches, caches_path)
    if timeline_path is not None:
        with whole_file(timeline_path, name="timeline", make_folder=True) as partial:
            partial.write_text(json.dumps(timeline(result.records, journal)), encoding="utf-8")
    return [] if row is None else explain(result.records, journal, row)


def print_story(
    result: Result, row: int | None, lines: Sequence[str], timeline_path: Path | None, caches_path: Path | None
) -> None:
    """Lines for people, under the table."""
    if row is not None:
        click.echo(f"request {row} of {result.scenario.name!r}, seed {result.seed}:")
        for line in lines:
            click.echo(line)
    if timeline_path is not None:
        click.echo(f"timeline: {timeline_path}")
    if caches_path is not None:
        click.echo(f"caches: {caches_path}")


def story_document(result: Result, row: int | None, lines: Sequence[str]) -> Mapping[str, object]:
    """What ``--json`` adds under ``explained``."""
    return {"scenario": result.scenario.name, "seed": result.seed, "request": row, "lines": list(lines)}
