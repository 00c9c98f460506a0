"""What a run left in its folder, read back, and run once more to see that it comes out the same."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..engine.journal import Journal
from ..engine.run import simulate
from ..errors import InputError, SimcacheError
from ..record_files import load_records
from ..records import Records
from ..result import Result, Wall
from ..scenario import Scenario
from ..scenario_file import parse_scenarios

Entry = Mapping[str, Any]
_MOST_WALL_S: Final = 20.0
"""Runs that took longer are not run again for a page."""


@dataclass(frozen=True, kw_only=True)
class KeptVariant:
    """One variant of a kept run: its entry of results.json and, where they are there, the records of each seed.

    ``scenario`` None: it cannot be read back from its text; ``why`` says why.
    """

    entry: Entry
    records: tuple[Records, ...]
    scenario: Scenario | None
    why: str = ""

    @property
    def name(self) -> str:
        return str(self.entry["scenario"])

    def results(self) -> list[Result]:
        """The seeds as results without a bill; empty where the scenario cannot be read."""
        if self.scenario is None:
            return []
        wall = Wall(simulate_s=0.0, events=0, requests=0)
        seeds = self.entry["seeds"]
        return [
            Result(scenario=self.scenario, seed=seed, records=records, bill=None, wall=wall)
            for seed, records in zip(seeds, self.records, strict=bool(self.records))
        ]


def read_document(path: Path) -> dict[str, Any]:
    """The JSON document that a command of simcache left. Raises InputError for another file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not JSON in UTF-8"
        raise InputError("folder", str(path.parent), f"holds a {path.name} that cannot be read: {why}", "Run it again.") from None
    if not isinstance(found, dict) or found.get("schema_version") != 1 or not isinstance(found.get("results"), list):
        raise InputError("folder", str(path.parent), f"holds a {path.name} that simcache did not write")
    if not found["results"]:
        raise InputError("folder", str(path.parent), f"holds a {path.name} without a result")
    return found


def kept_variants(folder: Path, entries: Sequence[Entry]) -> list[KeptVariant]:
    """The variants of a folder, with the records of those that have all of theirs."""
    homes: dict[str, Path] = {}
    for summary in sorted(folder.glob("*/seed-*/summary.json")):
        homes.setdefault(str(read_document(summary)["results"][0].get("scenario")), summary.parent.parent)
    found = []
    for entry in entries:
        scenario, why = _scenario(entry)
        home = homes.get(str(entry.get("scenario")))
        paths = [] if home is None else [home / f"seed-{seed}" / "records.parquet" for seed in entry.get("seeds", ())]
        whole = bool(paths) and all(path.is_file() for path in paths)
        records = tuple(load_records(path) for path in paths) if whole else ()
        found.append(KeptVariant(entry=entry, records=records, scenario=scenario, why=why))
    return found


def _scenario(entry: Entry) -> tuple[Scenario | None, str]:
    try:
        return parse_scenarios(str(entry.get("scenario_toml", ""))).scenarios[0], ""
    except (SimcacheError, tomllib.TOMLDecodeError) as error:
        return None, str(error)


def run_again(kept: Sequence[KeptVariant]) -> tuple[dict[str, str], dict[str, Journal]]:
    """The first seed of each variant once more: a sentence per variant on what came out, and the journals of replicas."""
    said: dict[str, str] = {}
    journals: dict[str, Journal] = {}
    for variant in kept:
        if not variant.records:
            said[variant.name] = "not run again: its records are not in the folder"
        elif variant.scenario is None:
            said[variant.name] = f"not run again: {variant.why}"
        elif variant.entry.get("wall", {}).get("simulate_s", 0.0) > _MOST_WALL_S:
            said[variant.name] = f"not run again: a run takes more than {_MOST_WALL_S:g} s"
        else:
            journal = Journal()
            seed = variant.entry["seeds"][0]
            try:
                result = simulate(variant.scenario, seed=seed, journal=journal)
            except (SimcacheError, OSError) as error:
                said[variant.name] = f"not run again: {error}"
                continue
            same = result.records == variant.records[0]
            said[variant.name] = f"seed {seed} run again: {'equal' if same else 'OTHER'} records"
            if same and journal.stretches:
                journals[variant.name] = journal
    return said, journals
