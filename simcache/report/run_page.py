"""What ``simcache run --out DIR`` left behind, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from .. import metrics, units
from ..engine.journal import Journal
from ..engine.run import DURATION_S
from ..errors import InputError
from ..records import Records
from ..warming import NoWarming
from .figures import PROMPT_EDGES, plot_comparison, plot_ttft_by_prompt, plot_ttft_cdf
from .kept_runs import Entry, KeptVariant, kept_variants, read_document, run_again
from .page import Listing, Page, Picture, Points, Section, Table, drawing
from .page_parts import DEFINITIONS, scenario_parts, versions_table
from .study_figures import plot_warm_ups, warm_up_fates
from .time_figures import LivedTurn, lived_turns, occupancy, plot_conversation, plot_occupancy, typical_user

_MOST_PICTURES: Final = 4
"""Pictures of one kind, one per variant; more are left out, and the page says so."""
_VALIDITY: Final = ("overload:", "some latencies were extrapolated", "is not measured on your system", "no dollars:")
"""Notes of a result that hold one of these say how far to trust it; the others say what was assumed."""
_FEW_QUESTIONS: Final = 100
_FEW_IN_A_BIN: Final = 20


def run_page(folder: Path) -> Page:
    """The page of a folder that ``simcache run --out`` wrote. Raises InputError for what it cannot read."""
    document = read_document(folder / "results.json")
    kept = kept_variants(folder, document["results"])
    again, journals = run_again(kept)
    try:
        return _page(document, kept, again, journals)
    except (KeyError, TypeError) as error:
        rule = f"holds a results.json of another version of simcache ({error!s} is missing or another kind of thing)"
        raise InputError("folder", str(folder), rule, "Run it again.") from None


def _page(
    document: Mapping[str, Any], kept: Sequence[KeptVariant], again: Mapping[str, str], journals: Mapping[str, Journal]
) -> Page:
    entries = [variant.entry for variant in kept]
    name = str(document.get("name") or entries[0]["scenario"])
    several = len(entries) > 1
    question = (
        "With this traffic, this backend and this cache: how long do users wait for the first token, and what does it cost"
        f"{f', in each of {len(entries)} variants' if several else ''}?"
    )
    answer = str(document.get("answer") or "This run kept no sentence of answer; the table holds its figures.")
    warnings, assumptions = _said(kept, again)
    sections = [
        *([Section(title="How far to trust it", parts=(Points(lines=tuple(warnings), warn=True),))] if warnings else []),
        Section(title="Figures", parts=tuple(_pictures(kept, journals))),
        Section(title="Results", parts=(_results_table(entries), _outcomes_table(entries))),
        Section(title="The scenario", parts=tuple(scenario_parts([(v.name, str(v.entry["scenario_toml"])) for v in kept]))),
        Section(title="Assumptions", parts=(Points(lines=tuple(assumptions) or ("None beyond the scenario itself.",)),)),
        Section(title="Where every number comes from", parts=(_provenance(entries), DEFINITIONS)),
        Section(title="How to reproduce it", parts=tuple(_reproduce(document, kept, again))),
    ]
    return Page(title=f"simcache run: {name}", question=question, answer=answer, sections=tuple(sections))


def _said(kept: Sequence[KeptVariant], again: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Warnings and assumptions: each sentence once, with the variants that it holds for where it is not all of them."""
    whose: dict[str, list[str]] = {}
    for variant in kept:
        for note in (*variant.entry["notes"], *_doubts(variant, again[variant.name])):
            whose.setdefault(str(note), []).append(variant.name)
    lines = {note: note if len(names) == len(kept) else f"{', '.join(names)}: {note}" for note, names in whose.items()}
    warnings = [line for note, line in lines.items() if note in _own_doubts(kept, again) or any(stem in note for stem in _VALIDITY)]
    return warnings, [line for line in lines.values() if line not in warnings]


def _own_doubts(kept: Sequence[KeptVariant], again: Mapping[str, str]) -> set[str]:
    return {doubt for variant in kept for doubt in _doubts(variant, again[variant.name])}


def _doubts(variant: KeptVariant, again: str) -> list[str]:
    """What the figures themselves say about how far they carry."""
    entry = variant.entry
    found = []
    if len(entry["seeds"]) == 1:
        found.append("one seed, so no interval: nobody can say how much of a difference is luck (run it with --seeds 10)")
    elif len(entry["seeds"]) < 5:
        found.append(f"{len(entry['seeds'])} seeds make wide intervals (run it with --seeds 10)")
    questions = entry["requests"]["user"]
    if questions < _FEW_QUESTIONS:
        found.append(f"{units.count(questions)} question{'' if questions == 1 else 's'} per seed: p99 is one person's luck")
    lost = {name: number for name, number in entry["user_outcomes"].items() if name != "ok" and number}
    if lost:
        said = ", ".join(f"{units.count(number)} {name}" for name, number in lost.items())
        found.append(f"TTFT is of answered questions only: per seed {said} of {units.count(questions)}")
    if "OTHER" in again:
        found.append("this installation gives other records for the same scenario and seed: another version made this folder")
    return found


def _pictures(kept: Sequence[KeptVariant], journals: Mapping[str, Journal]) -> list[str | Picture]:
    entries = [variant.entry for variant in kept]
    whole = [variant for variant in kept if variant.records]
    pictures: list[str | Picture] = []
    if whole:
        objectives = {entry["slo_ttft_s"] for entry in entries}
        caption = "Share of answered questions whose first token came within so long, from submit"
        with drawing(f"{caption}{_bands(entries)}.") as made:
            spans = {v.name: [metrics.ttft_s(records) for records in v.records] for v in whole}
            plot_ttft_cdf(spans, made.axes[0], slo_ttft_s=objectives.pop() if len(objectives) == 1 else None)
        pictures.append(made.picture)
    with drawing(f"Dollars per 1,000 questions{_bands(entries)}.", height=max(2.6, 1.1 + 0.55 * len(entries))) as made:
        plot_comparison(entries, made.axes[0])
    pictures.append(made.picture)
    pictures += _by_prompt(whole)
    warmed = {v.name: _mean_fates(v.records) for v in whole if any((r["kind"] == "warm").any() for r in v.records)}
    if warmed:
        caption = "What became of the warm-ups. In time: there before its question; not asked for: nobody used it."
        with drawing(caption, height=max(2.6, 1.6 + 0.55 * len(warmed))) as made:
            plot_warm_ups(warmed, made.axes[0])
        pictures.append(made.picture)
    pictures += _over_time(whole, journals)
    if len(whole) < len(kept):
        pictures.append(
            "Some figures are missing: the folder has no records of " + ", ".join(v.name for v in kept if not v.records)
        )
    return pictures


def _bands(entries: Sequence[Entry]) -> str:
    seeds = max(len(entry["seeds"]) for entry in entries)
    return f"; mean over {seeds} seeds with its 95 % interval" if seeds > 1 else ""


def _by_prompt(whole: Sequence[KeptVariant]) -> list[str | Picture]:
    """Only where prompts differ enough in length to fill two bins with 20 questions a seed."""
    results = {variant.name: found for variant in whole if (found := variant.results())}
    longest = max((int(r.records["prompt_tokens"].max()) for each in results.values() for r in each if len(r.records)), default=0)
    edges: tuple[int, ...] = PROMPT_EDGES
    while edges[-1] <= longest:
        edges = (*edges, 2 * edges[-1])
    lengths = [metrics.answered(r.records)["prompt_tokens"] for each in results.values() for r in each]
    sizes = np.bincount(np.digitize(np.concatenate(lengths), edges)) if lengths else np.zeros(0)
    if np.count_nonzero(sizes >= _FEW_IN_A_BIN * len(lengths)) < 2:
        return []
    with drawing("Median and 95th percentile of TTFT by prompt length; n: questions per seed.") as made:
        plot_ttft_by_prompt(results, made.axes[0], edges_tokens=edges)
    return [made.picture]


def _mean_fates(seeds: Sequence[Records]) -> dict[str, float]:
    fates = [warm_up_fates(records) for records in seeds]
    return {name: sum(each[name] for each in fates) / len(fates) for name in fates[0]}


def _over_time(whole: Sequence[KeptVariant], journals: Mapping[str, Journal]) -> list[str | Picture]:
    pictures: list[str | Picture] = []
    for name, journal in list(journals.items())[:_MOST_PICTURES]:
        caption = f"{name}: requests waiting, requests running, and KV memory that they hold (first seed)."
        with drawing(caption, rows=3, height=4.2) as made:
            plot_occupancy(occupancy(journal.stretches), made.axes)
        pictures.append(made.picture)
    typed = _lived_by_one(whole)
    for name, user, turns in typed[:_MOST_PICTURES]:
        caption = f"{name}: a typical conversation ({user}, first seed): keys, warm-ups, and in red what the user waits."
        with drawing(caption, height=1.4 + 0.85 * len(turns)) as made:
            plot_conversation(turns, made.axes[0])
        pictures.append(made.picture)
    left_out = max(0, len(journals) - _MOST_PICTURES) + max(0, len(typed) - _MOST_PICTURES)
    if left_out:
        pictures.append(f"{left_out} more figures of the last two kinds are left out.")
    return pictures


def _lived_by_one(whole: Sequence[KeptVariant]) -> list[tuple[str, str, list[LivedTurn]]]:
    """The same person in every variant, so that keys are the same and only the waits differ; who warms comes first.

    Chosen where there is a warm-up to see, if anywhere.
    """
    first = [(variant.name, results[0]) for variant in whole if (results := variant.results())]
    first.sort(key=lambda pair: isinstance(pair[1].scenario.warming, NoWarming))
    user = next((found for _, result in first if (found := typical_user(result)) is not None), None)
    if user is None:
        return []
    lived = [(name, user, lived_turns(result, user, result.scenario.duration_s or DURATION_S)) for name, result in first]
    return [each for each in lived if each[2]]


def cell(place: Mapping[str, Any], name: str, text: Any) -> str:
    """A figure, and on a second line its interval."""
    bounds = place.get(f"{name}_interval95")
    return f"{text(place[name])}\n{units.interval(bounds, text)}".rstrip()


def _results_table(entries: Sequence[Entry]) -> Table:
    objectives = {entry["slo_ttft_s"] for entry in entries}
    under = f"under {objectives.pop():g} s" if len(objectives) == 1 else "under the objective"
    rows = []
    for entry in entries:
        waits = [cell(entry["ttft_s"], name, units.seconds) for name in ("p50", "p95", "p99")]
        shares = [cell(entry, name, units.share) for name in ("slo_share", "token_hit_ratio")]
        warmed = entry["requests"]["warm"]
        warm = [cell(entry["warm_ups"], "sent", units.count), cell(entry["warm_ups"], "wasted_share", units.share)]
        money = cell(entry["cost_usd"], "per_1000_questions", units.dollars)
        rows.append((str(entry["scenario"]), *waits, *shares, money, *(warm if warmed else [units.NOTHING] * 2)))
    seeds = max(len(entry["seeds"]) for entry in entries)
    head = ("variant", "TTFT p50", "p95", "p99", under, "token hits", "$ per 1,000 questions", "warm-ups sent", "wasted")
    note = f"Means over {seeds} seeds, below them 95 % t intervals. " if seeds > 1 else "One seed: no intervals. "
    return Table(head=head, rows=tuple(rows), note=f"{note}TTFT: from submit to the first token.")


def _outcomes_table(entries: Sequence[Entry]) -> Table:
    rows = []
    for entry in entries:
        lost = [f"{units.count(n)} {name}" for name, n in entry["user_outcomes"].items() if name != "ok" and n]
        kinds = [units.count(entry["requests"][kind]) for kind in ("user", "warm", "keepalive")]
        rows.append(
            (
                str(entry["scenario"]),
                *kinds,
                ", ".join(lost) or "none",
                cell(entry["e2e_s"], "p50", units.seconds),
                cell(entry["queue_s"], "p95", units.seconds),
                cell(entry["cost_usd"], "total", units.dollars),
            )
        )
    head = ("variant", "questions", "warm-ups", "keep-alives", "questions lost", "end to end p50", "queue p95", "cost of a run")
    return Table(head=head, rows=tuple(rows), note="Per seed.")


def _provenance(entries: Sequence[Entry]) -> Table:
    rows = []
    for entry in entries:
        given = entry["provenance"]
        sources = given if isinstance(given, list) else [given]
        for source in sources:
            pairs = source.items() if isinstance(source, Mapping) else [("latency and prices", source)]
            rows += [(str(entry["scenario"]), str(what), str(where)) for what, where in pairs]
    return Table(head=("variant", "what", "from"), rows=tuple(rows), keys=3)


def _reproduce(
    document: Mapping[str, Any], kept: Sequence[KeptVariant], again: Mapping[str, str]
) -> list[str | Table | Listing | Points]:
    parts: list[str | Table | Listing | Points] = [
        "Equal scenario, seed and versions give equal records. Save a text below under the name that stands above it, then:"
    ]
    commands, texts = [], []
    for number, variant in enumerate(kept, start=1):
        seeds = variant.entry["seeds"]
        file = f"variant-{number}.toml"
        commands.append(f"simcache run {file} --seed {seeds[0]} --seeds {len(seeds)}")
        texts.append(Listing(text=str(variant.entry["scenario_toml"]), label=f"{file}: {variant.name}"))
    parts.append(Listing(text="\n".join(commands)))
    parts.append(Points(lines=tuple(f"{name}: {said}" for name, said in again.items())))
    return [*parts, versions_table(document), *texts]
