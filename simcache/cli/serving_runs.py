"""simcache validate --serving-runs: benchmark runs known by their means, predicted and judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import click

from ..serving_runs import ServingGroup, medians, read_serving_runs, validate_serving_runs
from ..units import share


def print_serving_runs(path: str, calibrate_rows: int, figure: str | None, as_json: bool) -> None:
    """Predict every row of the file and print how far off, as text or as one JSON document; draw where asked."""
    groups = validate_serving_runs(read_serving_runs(path), calibrate_rows)
    whole = medians(groups)
    if figure is not None:
        from ..report.validation_figures import save_serving_figure

        save_serving_figure(_points(groups), figure)
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "groups": [group.as_json() for group in groups], **whole}, indent=2))
        return
    click.echo("Mean absolute error of the rows that did not calibrate:")
    for group in groups:
        first = group.predictions[0].row
        name = " ".join(filter(None, (first.model, first.precision, "on", first.system, f"tp{first.tp}", f"({first.backend})")))
        errors = f"TTFT {share(group.ttft_mape)}, TPOT {share(group.tpot_mape)}" if group.judged else "no row left to judge"
        fitted = ", ".join(f"{scalar} {value:.3g}" for scalar, value in asdict(group.scalars).items())
        click.echo(f"  {name}: {errors}; {len(group.judged)} of {len(group.predictions)} rows\n      fitted: {fitted}")
    full = [each for group in groups for each in group.judged if each.kv_full and each.row.kv_tokens is None]
    if full:
        worst = max(max(each.ttft_s / each.row.ttft_s, each.row.ttft_s / each.ttft_s) for each in full)
        click.echo(
            f"{len(full)} of the rows ask for more KV memory than the formula gives (memory, weights, reserve): TTFT is within "
            f"a factor of {worst:.1f}. A column kv_tokens, what the engine printed, would match it."
        )
    if whole["ttft_mape"] is not None:
        click.echo(f"median over the groups: TTFT {share(whole['ttft_mape'])}, TPOT {share(whole['tpot_mape'])}")
    if figure is not None:
        click.echo(f"figure: {figure}")


def _points(groups: Sequence[ServingGroup]) -> dict[str, list[tuple[float, float, float, float]]]:
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    for group in groups:
        first = group.predictions[0].row
        label = " ".join(filter(None, (first.system, first.model.rpartition("/")[2], first.precision)))
        points.setdefault(label, []).extend((each.row.ttft_s, each.ttft_s, each.row.tpot_s, each.tpot_s) for each in group.judged)
    return {label: rows for label, rows in points.items() if rows}
