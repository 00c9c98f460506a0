"""``simcache fit --usage``: the times in a usage log -> the profile of a hosted API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from ..logs import UsageLog

_WHERE: Final = ("provider", "model", "user", "session")


def fit_usage_file(
    path: Path, where: Mapping[str, str], name: str, holdout: float, out: Path | None, as_json: bool, command: str
) -> None:
    """Read what ``path`` holds, fit the rows that ``where`` leaves, say how well, and write the profile."""
    from ..usage_fit import fit_usage

    log = _chosen(usage_of(path), where, path)
    found = fit_usage(log, name, command=command, holdout=holdout)
    profile = found.profile
    coefficients = {
        key: getattr(profile, key)
        for key in ("base_s", "per_token_s", "per_cached_token_s", "jitter_sigma", "seconds_per_output_token", "hit_probability")
    }
    warnings = [f"{key} cannot be identified from this log; it is {text}" for key, text in found.defaults.items()]
    report: dict[str, Any] = {
        "schema_version": 1,
        "form": "hosted",
        "coefficients": coefficients,
        "stderr": profile.covariance.standard_errors if profile.covariance else {},
        "mape": found.mape,
        "median_ape": found.median_ape,
        "p95_ape": found.p95_ape,
        "max_ape": found.max_ape,
        "holdout_mape": found.holdout_mape,
        "tail_p99_over_p50": found.tail,
        "n": found.n,
        "range": {key: list(bounds) for key, bounds in vars(profile.range).items() if bounds is not None},
        "defaults": found.defaults,
        "dropped": found.dropped,
        "notes": list(log.notes),
        "warnings": warnings,
        "provenance": profile.provenance,
    }
    if out is not None:
        from ..latency.profiles import save_profile

        save_profile(profile, out)
        report["out"] = str(out)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        from ..result import json_text

        click.echo(json_text(report), nl=False)
        return
    errors = report["stderr"]
    click.echo(f"{profile.name}, from {found.n} requests")
    for key, value in coefficients.items():
        if value is not None:
            click.echo(f"{key:<26}{value:>12.4g}" + (f"  +- {errors[key]:.2g}" if key in errors else ""))
    held = "" if found.holdout_mape is None else f"; held out {holdout:.0%}: {found.holdout_mape:.1%}"
    click.echo(f"error of one request, jitter included: median {found.median_ape:.1%}, mean {found.mape:.1%}{held}")
    click.echo(f"a slow request (p99) takes {found.tail:.2f} times a usual one")
    for note in log.notes:
        click.echo(f"note: {note}")
    for reason, count in found.dropped.items():
        click.echo(f"left out: {count} rows, {reason}")
    if out is not None:
        click.echo(f"profile: {out}")


def usage_of(path: Path) -> UsageLog:
    """What ``path`` says of tokens and times: a usage log, a live log, or the results of a benchmark."""
    from ..benchmark_results import BENCHMARKS, read_benchmark
    from ..logs import UsageLog, read_usage

    kind = _kind(path)
    if kind in BENCHMARKS:
        return read_benchmark(path, kind).usage()
    if kind == "live":
        from ..live_log import read_live_rows

        rows = tuple(row.usage("live", "log") for row in read_live_rows(path) if row.outcome == "ok")
        return UsageLog(rows, ("requests that did not end well are left out",))
    return read_usage(path)


def _chosen(log: UsageLog, where: Mapping[str, str], path: Path) -> UsageLog:
    """The rows of one provider and model; raises InputError where several are left."""
    from ..errors import InputError, UnknownNameError
    from ..logs import UsageLog

    for column in where:
        if column not in _WHERE:
            raise UnknownNameError("where", column, _WHERE)
    rows = tuple(row for row in log.rows if all(getattr(row, column) == value for column, value in where.items()))
    for column in ("provider", "model"):
        values = sorted({getattr(row, column) for row in rows})
        if not values:
            raise InputError("where", ",".join(f"{key}={value}" for key, value in where.items()), "leaves no row", path=path)
        if len(values) > 1:
            way_out = f"Choose one with --where {column}={values[0]}."
            raise InputError(column, ", ".join(values[:8]), "is more than one", way_out, path=path)
    return UsageLog(rows, log.notes)


def _kind(path: Path) -> str:
    """Which tool wrote the file: told by its first object, as the readers say themselves what is wrong with it."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16).decode("utf-8", "replace")
    except OSError:
        return "usage"
    if '"ttfts"' in head or '"total_input_tokens"' in head:
        return "vllm-bench"
    try:
        first = json.loads(head.splitlines()[0]) if head else None
    except ValueError:
        return "usage"
    if not isinstance(first, dict):
        return "usage"
    if "metadata" in first and "metrics" in first:
        return "aiperf"
    return "live" if "submitted_at_s" in first and "outcome" in first else "usage"
