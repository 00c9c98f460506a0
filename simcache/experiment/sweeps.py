"""Many scenarios under many seeds: simulated once each on all cores, kept, and summed up in tables with honest intervals."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from .. import stats, units
from ..errors import InputError, require, require_number
from ..notes import notes_of
from ..scenario import Scenario
from ..scenario_file import to_toml
from ..whole_files import whole_file
from .axes import Cell, cells, label
from .digests import code_digest, digested, environment_digest, package_versions, run_key
from .run_store import RunStore
from .runs import Failed, Metric, Run, Task, run_task
from .study import METRICS, Precision, Study, sample
from .workers import Died, Workers, each_done

SCHEMA_VERSION: Final = 1
Progress = Callable[[int, int], None]


class Failure(NamedTuple):
    """A run that gave no figures."""

    cell: str
    seed: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a study found: per cell its runs by seed, which runs failed, and how many were ``simulated`` and ``reused``.

    ``damaged``: files of the store that were not what had been written, and so were simulated anew.
    """

    study: Study
    runs: tuple[Mapping[int, Run], ...]
    failures: tuple[Failure, ...] = ()
    simulated: int = field(default=0, compare=False)
    reused: int = field(default=0, compare=False)
    damaged: tuple[str, ...] = field(default=(), compare=False)
    notes: tuple[str, ...] = ()

    def estimate(self, cell: int, metric: str) -> stats.Estimate | None:
        """The mean of ``metric`` over the seeds of a cell, with its 95 % t interval; None: no run has it."""
        return Metric(metric).over(self.runs[cell])

    def rows(self) -> Iterator[dict[str, Any]]:
        """The table: a row per cell, its keys, ``seeds`` and ``failed``, and per metric its mean, ``.low`` and ``.high``."""
        failed = [failure.cell for failure in self.failures]
        for number, cell in enumerate(self.study.cells):
            row: dict[str, Any] = {"scenario": cell.name, **self._changes(cell)}
            row |= {"seeds": len(self.runs[number]), "failed": failed.count(cell.name)}
            for metric in self.study.metrics:
                found = self.estimate(number, metric)
                row[metric] = None if found is None else found.mean
                row[f"{metric}.low"] = None if found is None else found.low
                row[f"{metric}.high"] = None if found is None else found.high
            yield row

    def run_rows(self) -> Iterator[dict[str, Any]]:
        """A row per run: scenario, keys, seed, every figure."""
        names = list(dict.fromkeys(name for runs in self.runs for run in runs.values() for name in run.figures))
        for cell, runs in zip(self.study.cells, self.runs, strict=True):
            for seed in sorted(runs):
                figures = runs[seed].figures
                yield {"scenario": cell.name, **self._changes(cell), "seed": seed, **{name: figures.get(name) for name in names}}

    def answer(self) -> str:
        """The sweep in one sentence: which scenario is best by p95 TTFT and which by cost, each with its interval."""
        parts = []
        for metric in (Metric("p95(ttft_s)"), Metric("cost")):
            found = [
                (estimate.mean, number) for number in range(len(self.runs)) if (estimate := self.estimate(number, metric.name))
            ]
            if not found:
                continue
            _, best = min(found)
            estimate = self.estimate(best, metric.name)
            assert estimate is not None
            bounds = None if estimate.low is None or estimate.high is None else (estimate.low, estimate.high)
            said = f"{metric.text(estimate.mean)} {units.interval(bounds, metric.text)}".rstrip()
            parts.append(f"{metric.label} is lowest with {self.study.cells[best].name!r} ({said})")
        if not parts:
            return "Nobody was answered."
        return f"Of {len(self.runs)} scenario{'s' if len(self.runs) > 1 else ''}, {' and '.join(parts)}."

    def _changes(self, cell: Cell) -> dict[str, Any]:
        """A number stays one; what does not apply is None."""
        plain = {key: value if type(value) in (int, float) else label(value) for key, value in cell.changes.items()}
        return {key: plain.get(key) for key in self.study.keys}

    def document(self) -> dict[str, Any]:
        """The sweep in plain JSON values, with every scenario in full, versions and digests; no path and no wall time."""
        results = []
        for number, (cell, row) in enumerate(zip(self.study.cells, self.rows(), strict=True)):
            runs = list(self.runs[number].values())
            entry = {
                **row,
                "scenario_toml": to_toml(cell.scenario),
                "extrapolated": any(run.extrapolated for run in runs),
                "provenance": dict(runs[0].provenance) if runs else {},
                "notes": notes_of(runs),
                "quantiles": {
                    span: [sum(values) / len(values) for values in zip(*each, strict=True)]
                    for span in ("ttft_s", "e2e_s")
                    if (each := [run.quantiles[span] for run in runs if span in run.quantiles])
                },
            }
            results.append(entry)
        return {
            "schema_version": SCHEMA_VERSION,
            "study": self.study.name,
            "answer": self.answer(),
            "keys": list(self.study.keys),
            "first_seed": self.study.first_seed,
            "metrics": list(self.study.metrics),
            "results": results,
            "failures": [failure._asdict() for failure in self.failures],
            "notes": list(self.notes),
            "versions": dict(package_versions()),
            "code_sha256": code_digest(),
        }

    def write(self, folder: str | Path) -> Path:
        """Write ``table.csv`` (a row per scenario), ``runs.csv`` (a row per run) and ``sweep.json``; equal sweeps, equal bytes.

        Each file appears whole or not at all. Raises InputError when the folder cannot be written.
        """
        folder = Path(folder)
        texts = {
            "table.csv": _csv(self.rows()),
            "runs.csv": _csv(self.run_rows()),
            "sweep.json": json.dumps(self.document(), indent=2, allow_nan=False) + "\n",
        }
        for name, text in texts.items():
            with whole_file(folder / name, name="out", make_folder=True) as partial:
                partial.write_text(text, encoding="utf-8", newline="")
        return folder


def sweep(
    scenarios: Scenario | Sequence[Scenario] | Study,
    axes: Mapping[str, Any] | None = None,
    *,
    points: int | None = None,
    sample_seed: int = 0,
    seeds: int = 10,
    first_seed: int = 0,
    precision: Precision | None = None,
    metrics: Sequence[str] = METRICS,
    duration_s: float | None = None,
    store: str | Path | RunStore | None = None,
    workers: Workers | int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Simulate every scenario at every point of ``axes`` under every seed, on all cores, and return the sweep.

    ``axes``: key -> values, objects included, or ``{"from": 1, "to": 16}`` (see ``Axis.of``); ``points`` None: every
    combination, else a Latin hypercube of so many. ``store``: a folder that keeps runs, so that nothing is simulated twice.
    ``workers``: processes, or a ``Workers``. ``progress`` is called with (runs finished, runs in all). Scenarios may be a Study.
    A run that simcache refuses becomes a Failure. Raises InputError before the first run for what is wrong with the study.

    >>> from simcache import Cluster, TypingSessions
    >>> base = Scenario(name="chat", workload=TypingSessions(users=3), backend=Cluster(), duration_s=60)
    >>> found = sweep(base, {"replicas": [1, 2]}, seeds=2, workers=1)
    >>> [(row["backend.replicas"], row["seeds"]) for row in found.rows()]
    [(1, 2), (2, 2)]
    """
    if isinstance(scenarios, Study):
        require(axes is None, "axes", axes, "must not be given with a Study")
        study = scenarios
    else:
        chosen = [scenarios] if isinstance(scenarios, Scenario) else list(scenarios)
        study = Study(
            cells=tuple(cells(chosen, sample(axes, points=points, seed=sample_seed))),
            name=chosen[0].name if chosen else "study",
            seeds=seeds,
            first_seed=first_seed,
            precision=precision,
            metrics=tuple(metrics),
        )
    if duration_s is not None:
        require_number("duration_s", duration_s, above=0)
        timed = tuple(replace(cell, scenario=replace(cell.scenario, duration_s=duration_s)) for cell in study.cells)
        study = replace(study, cells=timed)
    if not isinstance(store, RunStore | None):
        store = RunStore(store)
    if not isinstance(workers, Workers):
        workers = Workers(processes=workers)
    return _Sweeping(study, store, workers, progress).run()


class _Sweeping:
    """One sweep on its way: which runs are there, which are wanted."""

    def __init__(self, study: Study, store: RunStore | None, workers: Workers, progress: Progress | None) -> None:
        self.study, self.store, self.workers = study, store, workers
        self.report = progress or (lambda done, total: None)
        self.prepared = [digested(cell.scenario) for cell in study.cells]
        self.runs: list[dict[int, Run]] = [{} for _ in study.cells]
        self.failed: dict[tuple[int, int], str] = {}
        self.simulated = self.reused = 0

    def run(self) -> Sweep:
        study = self.study
        notes = list(study.notes)
        opaque = sorted({each.opaque for each in self.prepared if each.digest is None})
        if opaque and self.store is not None:
            notes.append(f"runs with {', '.join(opaque)} are not kept: simcache cannot know when such code changes")
        wanted = [study.precision.at_least if study.precision else study.seeds] * len(study.cells)
        while todo := self._missing(wanted):
            self._simulate(todo)
            if study.precision is not None:
                wanted = [study.precision.wanted(self._ordered(i)) if self._whole(i) else n for i, n in enumerate(wanted)]
        self.report(self.simulated + self.reused, self.simulated + self.reused)
        failures = [Failure(study.cells[i].name, seed, why) for (i, seed), why in sorted(self.failed.items())]
        return Sweep(
            study=study,
            runs=tuple(self._ordered(i) for i in range(len(self.runs))),
            failures=tuple(failures),
            simulated=self.simulated,
            reused=self.reused,
            damaged=tuple(self.store.corrupted) if self.store else (),
            notes=tuple(notes),
        )

    def _ordered(self, cell: int) -> dict[int, Run]:
        return dict(sorted(self.runs[cell].items()))

    def _whole(self, cell: int) -> bool:
        return not any(failed == cell for failed, _ in self.failed)

    def _missing(self, wanted: Sequence[int]) -> list[tuple[int, int]]:
        """(cell, seed) of what is neither here nor in the store; seed by seed, so that a sweep cut short has even columns."""
        todo = []
        first = self.study.first_seed
        for seed in range(first, first + max(wanted)):
            for cell, count in enumerate(wanted):
                if seed - first >= count or seed in self.runs[cell] or (cell, seed) in self.failed:
                    continue
                digest = self.prepared[cell].digest
                kept = self.store.get(run_key(digest, seed)) if self.store is not None and digest is not None else None
                if kept is None:
                    todo.append((cell, seed))
                else:
                    self.runs[cell][seed] = kept
                    self.reused += 1
        return todo

    def _simulate(self, todo: Sequence[tuple[int, int]]) -> None:
        # Cells of one digest (two names of one scenario) are simulated once.
        distinct: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for cell, seed in todo:
            distinct.setdefault((self.prepared[cell].digest or f"cell {cell}", seed), []).append((cell, seed))
        groups = list(distinct.values())
        environment = environment_digest()
        tasks = [Task(scenario=self.prepared[cell].scenario, seed=seed, environment=environment) for (cell, seed), *_ in groups]
        done = self.simulated + self.reused
        total = done + len(tasks)
        self.report(done, total)
        for number, outcome in each_done(run_task, tasks, self.workers):
            self.simulated += 1
            self._take(groups[number], outcome)
            self.report(self.simulated + self.reused, total)

    def _take(self, group: Sequence[tuple[int, int]], outcome: Run | Failed | Died) -> None:
        cell, seed = group[0]
        prepared = self.prepared[cell]
        if isinstance(outcome, Run):
            if not prepared.unchanged():
                changed = ", ".join(path for path, _, _ in prepared.files)
                raise InputError("file", changed, "changed while the sweep ran", "Run the sweep again: it starts from the new one.")
            if self.store is not None and prepared.digest is not None:
                self.store.put(run_key(prepared.digest, seed), outcome)
            for each, same_seed in group:
                self.runs[each][same_seed] = outcome
            return
        why = outcome.why if isinstance(outcome, Failed) else f"its worker process died, {outcome.deaths} times"
        for place in group:
            self.failed[place] = why


def _csv(rows: Iterator[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, row in enumerate(rows):
        if number == 0:
            writer.writerow(row)
        writer.writerow(["" if value is None else repr(value) if isinstance(value, float) else value for value in row.values()])
    return text.getvalue()
