"""The records of one run and what was asked of them; several seeds of one scenario become one entry of a JSON document."""

from __future__ import annotations

import html
import json
import os
import shutil
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from . import metrics, stats, units
from .errors import InputError, UnknownNameError, require
from .notes import notes_of
from .record_files import save_records
from .records import NEVER, OUTCOMES, TEXT_COLUMNS, Records

if TYPE_CHECKING:
    import pandas as pd

    from .pricing import Bill
    from .scenario import Scenario

SCHEMA_VERSION: Final = 1
STATISTICS: Final = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
"""Quantiles that every span is given with, beside its mean; ``stats.quantile`` says how they interpolate."""
SPANS: Final = ("ttft_s", "e2e_s", "perceived_s", "queue_s", "tpot_s")

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Wall:
    """What the run itself cost: seconds inside the clock (loading excluded), events of the clock, requests simulated.

    >>> Wall(simulate_s=0.5, events=3_000, requests=1_000).requests_per_s
    2000.0
    """

    simulate_s: float
    events: int
    requests: int

    @property
    def requests_per_s(self) -> float | None:
        """Requests simulated per second of computing; None when it took no time that a clock can see."""
        return self.requests / self.simulate_s if self.simulate_s > 0 else None

    @property
    def events_per_request(self) -> float | None:
        """Events of the clock per request; None without requests."""
        return self.events / self.requests if self.requests else None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one scenario did under one seed: its records, its bill, and how far to trust them.

    ``bill`` None: nothing says what it costs. ``extrapolated``: a latency was asked for outside the profile's measured
    range. ``provenance``: where the latencies and prices come from. ``notes``: what was assumed on the way (ticks spread, a
    profile that is not measured, ...). ``transient_s``: what was submitted before it is in no figure.
    Two results are equal when all but ``wall`` and ``bill`` is (the bill follows from records and tariff).

    >>> from simcache import TypingSessions, Scenario, Server, simulate
    >>> result = simulate(Scenario(workload=TypingSessions(users=2), backend=Server()), duration_s=60, seed=1)
    >>> result.quantiles("ttft_s", [0.5])[0] > 0
    True
    """

    scenario: Scenario
    seed: int
    records: Records
    bill: Bill | None = field(compare=False)
    wall: Wall = field(compare=False)
    extrapolated: bool = False
    provenance: str | Mapping[str, Any] = ""
    notes: tuple[str, ...] = ()
    transient_s: float = 0.0

    @cached_property
    def judged(self) -> Records:
        """The records that figures are made of: those submitted from ``transient_s`` on. Counts and dollars are of all."""
        if not self.transient_s:
            return self.records
        return self.records.where(self.records["submitted_at_ns"] >= round(self.transient_s * 1e9))

    def span(self, name: str) -> NDArray[np.float64]:
        """The values of one span (``ttft_s``, ``e2e_s``, ``perceived_s``, ``queue_s``, ``tpot_s``) as ``metrics`` defines it.

        Raises UnknownNameError for another name.
        """
        if name not in SPANS:
            raise UnknownNameError("name", name, SPANS)
        if name == "perceived_s":
            return metrics.perceived_s(self.judged, streams_answer=self.scenario.streams_answer)
        values: NDArray[np.float64] = getattr(metrics, name)(self.judged)
        return values

    def quantiles(self, name: str, qs: Sequence[float]) -> tuple[float | None, ...]:
        """Quantiles of one span, in seconds; None where no request has it. Interpolation as in ``stats.quantile``."""
        values = self.span(name)
        return tuple(stats.quantile(values, q) for q in qs)

    def summary(self) -> str:
        """The run in a few lines for people, at most 80 columns."""
        return summary_text(summarise([self]))

    def to_pandas(self) -> pd.DataFrame:
        """The records as a data frame: a row per request, nullable integers, and ``ttft_s`` and ``e2e_s`` in seconds.

        Raises InputError where pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise InputError("pandas", "None", "is not installed", "It comes with: pip install pandas.") from None
        columns: Json = {name: pd.array(self.records[name].tolist(), dtype="string") for name in TEXT_COLUMNS}
        for name, values in self.records.columns.items():
            if name in TEXT_COLUMNS:
                continue
            columns[name] = pd.arrays.IntegerArray(values.astype("int64"), values == NEVER)
        frame = pd.DataFrame({name: columns[name] for name in self.records.columns})
        return frame.assign(ttft_s=self.records.ttft_s, e2e_s=self.records.e2e_s)

    def _repr_html_(self) -> str:
        """The summary as a notebook shows it."""
        return f"<pre>{html.escape(self.summary())}</pre>"

    def save(self, folder: str | Path) -> Path:
        """Write ``records.parquet``, ``records.csv``, ``scenario.toml`` and ``summary.json`` into ``folder``; return it.

        All four are finished beside the folder before the first is moved in, so that an error or a full disk leaves what
        was there. Raises InputError when the folder cannot be written.
        """
        folder = Path(folder)
        entry = summarise([self])
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            try:
                save_records(self.records, stage / "records.parquet")
                save_records(self.records, stage / "records.csv")
                (stage / "scenario.toml").write_text(entry["scenario_toml"], encoding="utf-8")
                (stage / "summary.json").write_text(json_text(document([entry])), encoding="utf-8")
                folder.mkdir(exist_ok=True)
                for path in sorted(stage.iterdir()):
                    os.replace(path, folder / path.name)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
        except OSError as error:
            raise InputError("folder", folder.name, f"cannot be written: {error.strerror or error}", path=folder) from error
        return folder


def run_figures(result: Result) -> dict[tuple[str, ...], float | None]:
    """Every figure of one run that gets an interval over seeds, by its place in the entry of ``summarise``.

    >>> from simcache import TypingSessions, Scenario, Server, simulate
    >>> result = simulate(Scenario(workload=TypingSessions(users=2), backend=Server()), duration_s=60, seed=1)
    >>> run_figures(result)["ttft_s", "p95"] == result.quantiles("ttft_s", [0.95])[0]
    True
    """
    figures: dict[tuple[str, ...], float | None] = {}
    for name in SPANS:
        values = result.span(name)
        figures[name, "mean"] = stats.mean(values)
        for statistic, q in STATISTICS.items():
            figures[name, statistic] = stats.quantile(values, q)
    hits = metrics.hits(result.judged)
    warm, bill = metrics.warm_ups(result.judged), result.bill
    figures["slo_share",] = metrics.slo_share(result.judged, result.scenario.slo_ttft_s)
    figures["token_hit_ratio",] = hits.token_hit_ratio
    figures["block_hit_ratio",] = hits.block_hit_ratio
    figures["hit_tokens",] = hits.hit_tokens
    figures["prompt_tokens",] = hits.prompt_tokens
    figures["ttft_after_warm_s",] = stats.mean(metrics.ttft_after_warm_s(result.judged))
    figures["residual_warm_s",] = stats.mean(metrics.residual_warm_s(result.judged))
    figures["cost_usd", "total"] = bill.total_usd if bill else None
    figures["cost_usd", "per_1000_questions"] = bill.usd_per_1000_questions if bill else None
    figures["cost_usd", "warm_waste"] = bill.warm_waste_usd if bill else None
    for tier, tokens in metrics.tier_hit_tokens(result.records).items():
        figures["tiers", tier, "hit_tokens"] = tokens
        figures["tiers", tier, "token_hit_ratio"] = tokens / hits.prompt_tokens if hits.prompt_tokens else None
    if result.records.tiers:
        figures["load_wait_s", "mean"] = stats.mean(metrics.load_wait_s(result.records))
        figures["tier_faults",] = int(result.records["tier_faults"].sum())
    figures["warm_ups", "sent"] = warm.sent
    figures["warm_ups", "wasted_share"] = warm.wasted_share
    return figures


_SHARES: Final = ("slo_share", "token_hit_ratio", "block_hit_ratio", "wasted_share")
_COUNTS: Final = ("hit_tokens", "prompt_tokens", "sent", "tier_faults")


def _plain(value: float) -> float | int:
    """A mean of counts as an int where it is whole."""
    return int(value) if value == int(value) else value


def _place(entry: Json, place: tuple[str, ...], values: Sequence[float | None]) -> None:
    """Put the mean of a figure over seeds where it belongs, and beside it its interval when there are several seeds."""
    name = place[-1]
    for part in place[:-1]:
        entry = entry.setdefault(part, {})
    found = stats.over_seeds(values, at_least=0.0, at_most=1.0 if name in _SHARES else None)
    entry[name] = None if found is None else _plain(found.mean) if name in _COUNTS else found.mean
    if len(values) > 1:
        entry[f"{name}_interval95"] = None if found is None or found.low is None else [found.low, found.high]


def _mean_count(results: Sequence[Result], column: str, value: str, *, users_only: bool = False) -> float | int:
    counts = []
    for result in results:
        matches = result.records[column] == value
        counts.append(int(np.count_nonzero(matches & metrics.user_mask(result.records) if users_only else matches)))
    return _plain(sum(counts) / len(counts))


def summarise(results: Sequence[Result]) -> Json:
    """One entry of the JSON document: the figures of one scenario under one or several seeds, in plain JSON values.

    With several seeds each figure is the mean over them (a quantile is taken per seed first) and ``<name>_interval95`` beside
    it is its 95 % t interval, null when fewer than two seeds have the figure. ``requests`` and ``outcomes`` count requests
    of all kinds, ``user_outcomes`` those of users. Raises InputError for no results, a repeated seed, or two scenarios.

    >>> summarise([])
    Traceback (most recent call last):
    simcache.errors.InputError: results(=0) must be at least one.
    """
    from .scenario_file import to_toml  # here, because only documents need it

    require(len(results) > 0, "results", len(results), "must be at least one")
    first = results[0]
    seeds = [result.seed for result in results]
    require(len(set(seeds)) == len(seeds), "seeds", seeds, "must differ", "Two runs of one seed are one observation.")
    names = sorted({result.scenario.name for result in results})
    require(len(names) == 1, "results", names, "must be of one scenario", "Summarise each scenario on its own.")

    entry: Json = {
        "scenario": first.scenario.name,
        "scenario_toml": to_toml(first.scenario),
        "seed": seeds[0] if len(seeds) == 1 else None,
        "seeds": seeds,
        "requests": {kind: _mean_count(results, "kind", kind) for kind in ("user", "warm", "keepalive")},
        "outcomes": {outcome: _mean_count(results, "outcome", outcome) for outcome in OUTCOMES},
        "user_outcomes": {outcome: _mean_count(results, "outcome", outcome, users_only=True) for outcome in OUTCOMES},
    }
    per_seed = [run_figures(result) for result in results]
    for place in per_seed[0]:
        _place(entry, place, [figures[place] for figures in per_seed])
    wall = Wall(
        simulate_s=sum(result.wall.simulate_s for result in results),
        events=sum(result.wall.events for result in results),
        requests=sum(result.wall.requests for result in results),
    )
    entry["wall"] = {
        "simulate_s": wall.simulate_s / len(results),
        "requests_per_s": wall.requests_per_s,
        "events_per_request": wall.events_per_request,
    }
    left_out = sum(len(result.records) - len(result.judged) for result in results) / len(results)
    until_s = sum(result.transient_s for result in results) / len(results)
    entry["transient"] = {"rule": first.scenario.transient, "until_s": until_s, "left_out": _plain(left_out)}
    entry["slo_ttft_s"] = first.scenario.slo_ttft_s
    entry["extrapolated"] = any(result.extrapolated for result in results)
    sources = [dict(r.provenance) if isinstance(r.provenance, Mapping) else r.provenance for r in results]
    entry["provenance"] = sources[0] if all(source == sources[0] for source in sources) else sources
    entry["notes"] = notes_of(results)
    return entry


def document(entries: Sequence[Json]) -> Json:
    """The JSON document of several entries: ``{"schema_version": 1, "results": [...]}``.

    >>> document([])
    {'schema_version': 1, 'results': []}
    """
    return {"schema_version": SCHEMA_VERSION, "results": list(entries)}


def json_text(value: Json) -> str:
    """A document as strict JSON text: NaN and Infinity raise ValueError instead of being written.

    >>> json_text({"seed": 1})
    '{\\n  "seed": 1\\n}\\n'
    """
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def summary_text(entry: Json) -> str:
    """One entry of ``summarise`` in a few lines for people; intervals in brackets where there are several seeds."""

    def figure(place: Json, name: str, text: Any) -> str:
        return f"{text(place[name])} {units.interval(place.get(f'{name}_interval95'), text)}".rstrip()

    seeds, requests, failures = entry["seeds"], entry["requests"], dict(entry["outcomes"])
    answered = failures.pop("ok")
    sent = ", ".join(f"{units.count(requests[kind])} {kind}" for kind in requests if requests[kind] or kind == "user")
    lost = "".join(f", {units.count(number)} {outcome}" for outcome, number in failures.items() if number)
    which = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"
    lines = [
        f"{entry['scenario']} ({which}{', extrapolated' if entry['extrapolated'] else ''})",
        f"  requests       {sent}: {units.count(answered)} ok{lost}",
    ]
    ttft = entry["ttft_s"]
    lines += [f"  TTFT {name}       {figure(ttft, name, units.seconds)}" for name in ("p50", "p95", "p99")]
    objective = f"under {units.seconds(entry['slo_ttft_s']).replace('.00', '')}"
    lines.append(f"  {objective:<14} {figure(entry, 'slo_share', units.share)} of users' requests")
    lines.append(f"  token hits     {figure(entry, 'token_hit_ratio', units.share)}")
    lines += [
        f"  from {tier:<9} {figure(place, 'token_hit_ratio', units.share)} of prompt tokens"
        for tier, place in entry.get("tiers", {}).items()
    ]
    if "tiers" in entry:
        lines.append(f"  wait for load  {figure(entry['load_wait_s'], 'mean', units.seconds)} where something was loaded")
        if entry["tier_faults"]:
            lines.append(f"  tier faults    {units.count(entry['tier_faults'])}")
    lines.append(f"  per 1,000 q.   {figure(entry['cost_usd'], 'per_1000_questions', units.dollars)}")
    if requests["warm"]:
        wasted = figure(entry["warm_ups"], "wasted_share", units.share)
        lines.append(f"  warm-ups       {units.count(requests['warm'])} sent, {wasted} of their tokens wasted")
        lines.append(f"  after warm-up  {figure(entry, 'ttft_after_warm_s', units.seconds)} from send (TTFT above is from submit)")
    lines += [f"  note: {note}" for note in entry["notes"]]
    # A path must stay whole, to be copied: no word is broken.
    return "\n".join(
        textwrap.fill(line, 80, subsequent_indent=" " * 4, break_long_words=False, break_on_hyphens=False) for line in lines
    )
