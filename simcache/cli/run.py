"""``simcache run``: a scenario file, a preset or a trace -> what users wait and what it costs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

if TYPE_CHECKING:
    from ..engine.journal import Journal
    from ..result import Result
    from ..scenario import Scenario
    from ..scenario_file import ScenarioFile
    from ..warm_ledger import LedgerEntry

DEMO: Final = "demo"
DEFAULT_FOLDER: Final = Path("simcache-out")


@click.command(name="run")
@click.argument("scenario", required=False, metavar="[FILE.toml | PRESET]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The first seed.")
@click.option("--seeds", type=int, help="How many seeds, one after the other.  [default: the file's, else 1]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for records and figure.  [default: simcache-out/NAME/]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the table; no files without --out.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key, for example backend.replicas=4.")
@click.option(
    "--transient",
    metavar="mser5|none|SECONDS",
    help="What of the beginning the figures leave out; mser5 finds it, in stationary workloads.  [default: the file's, else none]",
)
@click.option(
    "--profile-draws",
    type=click.IntRange(min=1),
    help="Split the intervals into seeds, profile and model error, with so many profiles drawn from the covariance.",
)
@click.option("--trace", metavar="FILE", help="Replay the requests of a trace instead of a scenario.")
@click.option("--format", "trace_format", metavar="FORMAT", help="Format of the trace.  [default: told from its first row]")
@click.option("--profile", help="Latency profile: a name or a TOML file.  [default: llama-3-8b/a100/tp1]")
@click.option("--replicas", type=int, help="Servers behind a round robin router.  [default: 1]")
@click.option("--kv-tokens", type=int, help="KV memory per replica in tokens.  [default: the profile's]")
@click.option("--block-tokens", type=int, help="Tokens per cache block.  [default: 16]")
@click.option(
    "--engine", help="vllm, sglang, prefill-first or llamacpp; --set backend.slots=4 and the like say more.  [default: vllm]"
)
@click.option("--spread-ticks", type=bool, help="Spread requests within a coarse clock's tick: 1 or 0.  [default: 1]")
@click.option("--no-prefix-caching", is_flag=True, default=None, help="Serve without a prefix cache.")
@click.option(
    "--explain", type=click.IntRange(min=0), metavar="REQUEST", help="Tell the life of one request, by its record's number."
)
@click.option(
    "--timeline", type=click.Path(path_type=Path), metavar="FILE.json", help="Write the steps in the Chrome trace format."
)
@click.option(
    "--save-cache", type=click.Path(path_type=Path), metavar="FILE.json", help="Save the caches; backend.initial_cache reads them."
)
@click.option("--variant", metavar="NAME", help="Which variant the last three tell.  [default: the first on replicas]")
def command(
    scenario: str | None,
    seed: int,
    seeds: int | None,
    out: Path | None,
    as_json: bool,
    overrides: tuple[str, ...],
    transient: str | None,
    profile_draws: int | None,
    trace: str | None,
    explain: int | None,
    timeline: Path | None,
    save_cache: Path | None,
    variant: str | None,
    **trace_options: Any,
) -> None:
    """Simulate a scenario and say what users wait and what it costs.

    Without arguments: people who type questions about a long document, against a hosted API and against one GPU, each
    without and with speculative warming.
    """
    from ..scenario_file import read_scenarios

    given = {name: value for name, value in trace_options.items() if value is not None}
    if seeds is not None:
        overrides += (f"seeds={seeds}",)
    if transient is not None:
        overrides += (f"transient={transient}",)
    if trace is None:
        if given:
            raise click.UsageError(f"{_flag(next(iter(given)))} goes with --trace; for a scenario use --set.")
        asked = read_scenarios(scenario or DEMO, overrides)
    elif scenario is not None:
        raise click.UsageError("Give a scenario or --trace, not both.")
    else:
        asked = _of_trace(trace, given, overrides)
    _run(asked, range(seed, seed + asked.seeds), out, as_json, _Told(explain, timeline, save_cache, variant), profile_draws)


def _flag(name: str) -> str:
    return f"--{'format' if name == 'trace_format' else name.replace('_', '-')}"


def _of_trace(trace: str, options: Mapping[str, Any], overrides: Sequence[str]) -> ScenarioFile:
    """The scenario of ``--trace``: the requests of one file on equal replicas; ``--set`` reaches into it."""
    from ..scenario import Cluster, Scenario
    from ..scenario_file import parse_scenarios, to_toml
    from ..workload.traces import TraceWorkload

    served = {name: options[name] for name in ("profile", "engine", "replicas", "kv_tokens", "block_tokens") if name in options}
    scenario = Scenario(
        name=Path(trace).name.partition(".")[0] or "trace",
        workload=TraceWorkload(path=trace, format=options.get("trace_format"), spread_ticks=options.get("spread_ticks", True)),
        backend=Cluster(**served, prefix_caching="no_prefix_caching" not in options),
    )
    return parse_scenarios(to_toml(scenario), overrides)


class _Told(NamedTuple):
    """What ``--explain``, ``--timeline``, ``--save-cache`` and ``--variant`` ask for."""

    row: int | None
    timeline: Path | None
    caches: Path | None
    variant: str | None

    @property
    def anything(self) -> bool:
        return self.row is not None or self.timeline is not None or self.caches is not None


def _run(asked: ScenarioFile, seeds: range, out: Path | None, as_json: bool, told: _Told, draws: int | None) -> None:
    from ..experiment.answers import answer
    from ..experiment.digests import package_versions
    from ..experiment.headroom import headrooms
    from ..result import document, json_text, summarise
    from .files import named_for_files, output_folder
    from .story import print_story, story_document, tell, told_scenario
    from .table import print_answer, print_lines, print_notes, print_table, print_uncertainty

    telling = told_scenario(asked.scenarios, told.variant) if told.anything else None
    folder = out if out is not None or as_json else DEFAULT_FOLDER / named_for_files(asked.name)
    with output_folder(folder) as stage:
        results, journal = _simulated(asked, seeds, telling)
        lines: list[str] = []
        if telling is not None:
            lines = tell(results[telling.name][0], journal, told.row, told.timeline, told.caches)
        entries = [summarise(runs) for runs in results.values()]
        if draws is not None:
            for entry, runs in zip(entries, results.values(), strict=True):
                entry["uncertainty"] = _split(runs, draws)
        said = answer(results)
        whole = {**document(entries), "name": asked.name, "answer": said, "versions": dict(package_versions())}
        room = headrooms(results)
        whole["headroom"] = {name: {**found.document(), "answer": found.sentence()} for name, found in room.items()}
        whole["warm_ledger"] = _ledgers(results)
        if stage is not None:
            _write(stage, results, whole)
    if as_json:
        if telling is not None and told.row is not None:
            whole["explained"] = story_document(results[telling.name][0], told.row, lines)
        click.echo(json_text(whole), nl=False)
        for note in asked.notes:
            click.echo(f"note: {note}", err=True)
        return
    print_table(entries)
    print_answer(said)
    print_uncertainty(entries)
    for name, found in room.items():
        print_lines(f"{name!r}: {found.sentence()}.")
    if room:
        click.echo()
    print_notes(asked.notes, entries)
    if telling is not None:
        print_story(results[telling.name][0], told.row, lines, told.timeline, told.caches)
    assert folder is not None
    click.echo(f"figure:  {folder / 'ttft.png'}")
    click.echo(f"records: {folder}{os.sep}")


def _simulated(asked: ScenarioFile, seeds: range, telling: Scenario | None) -> tuple[dict[str, list[Result]], Journal]:
    """Every scenario under every seed, one after the other: a run is too short for a second process to pay.

    And the journal of the first seed of ``telling``.
    """
    from ..engine.journal import Journal
    from ..engine.run import simulate
    from .progress import progress_bar

    results: dict[str, list[Result]] = {scenario.name: [] for scenario in asked.scenarios}
    journal = Journal()
    finished = 0
    with progress_bar(len(asked.scenarios) * len(seeds)) as advance:
        for scenario in asked.scenarios:
            for seed in seeds:
                what = scenario.name if len(seeds) == 1 else f"{scenario.name}, seed {seed}"

                def report(share: float, what: str = what, finished: int = finished) -> None:
                    advance(what, finished, share)

                report(0.0)
                kept = journal if scenario is telling and seed == seeds[0] else None
                results[scenario.name].append(simulate(scenario, seed=seed, progress=report, journal=kept))
                finished += 1
    return results, journal


def _split(runs: Sequence[Result], draws: int) -> dict[str, Any]:
    from ..experiment.uncertainty import split_uncertainty
    from .progress import runs_bar

    with runs_bar() as advance:
        return split_uncertainty(runs, draws, advance)


def _ledgers(results: Mapping[str, Sequence[Result]]) -> dict[str, dict[str, Any]]:
    """What became of the warm-ups and pings of every variant that sent some, over all seeds."""
    from ..warm_ledger import ledger_summary

    entries = {name: [entry for run in runs for entry in _ledger(run)] for name, runs in results.items()}
    return {name: ledger_summary(found) for name, found in entries.items() if found}


def _ledger(result: Result) -> list[LedgerEntry]:
    from ..warm_ledger import warm_ledger

    return warm_ledger(result.records, None if result.bill is None else result.bill.row_usd)


def _write(stage: Path, results: Mapping[str, Sequence[Result]], found: dict[str, Any]) -> None:
    from ..report.figures import save_run_figure
    from ..result import json_text
    from ..warm_ledger import ledger_csv
    from .files import folder_names

    for name, folder in folder_names(list(results)).items():
        for result in results[name]:
            saved = result.save(stage / folder / f"seed-{result.seed}")
            if ledger := _ledger(result):
                (saved / "warm_ledger.csv").write_text(ledger_csv(ledger), encoding="utf-8")
    (stage / "results.json").write_text(json_text(found), encoding="utf-8")
    save_run_figure(results, stage / "ttft.png")
