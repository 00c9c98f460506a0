"""``simcache fit``: measured points or kernel tables -> a latency profile, with how far to trust it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from ..latency import LatencyModel
    from ..latency.points import PointSet
    from ..latency.profile_kinds import ServerProfile

POINT_FORMS: Final = ("auto", "linear", "context", "quadratic", "context-small", "piecewise")
TABLE_FORMS: Final = ("table", "context")


@click.command("fit")
@click.argument("points", nargs=-1, metavar="POINTS.csv...")
@click.option("--out", type=click.Path(path_type=Path), metavar="PROFILE.toml", help="Write the profile here.")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE[,...]", help="Only these rows: model=Llama-2-7b,tp=1.")
@click.option("--min-new", type=click.IntRange(min=0), help="Leave out prefills of fewer new tokens.")
@click.option("--form", type=click.Choice((*POINT_FORMS, "table")), help="Form of the curve.  [default: the best on held-out rows]")
@click.option("--holdout", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.3, show_default=True,
              help="Share of the rows to hold out.")  # fmt: skip
@click.option("--holdout-kind", type=click.Choice(("random", "extrapolate-new", "extrapolate-total")), default="random",
              show_default=True, help="Which rows: five seeded shuffles, or the largest by new or by total tokens.")  # fmt: skip
@click.option("--include-interpolated", is_flag=True, help="Take rows whose source does not begin with 'measured', too.")
@click.option(
    "--host-s",
    type=click.FloatRange(min=0),
    help="Host work per engine step, seconds.  [default: measured, else 0; 0.0002 with --kernels]",
)
@click.option("--kernels", type=click.Path(path_type=Path), metavar="DIR", help="Fit a folder of kernel tables instead of points.")
@click.option("--layers", type=click.IntRange(min=1), help="Layers of the model that the kernel tables hold one of.")
@click.option("--model", help="Model of the kernel tables: a shipped shape, TOML or config.json; with --gpu, KV memory by formula.")
@click.option("--gpu", help="GPU of the kernel tables.")
@click.option("--usage", type=click.Path(path_type=Path), metavar="LOG", help="Fit a usage log's times: a hosted API's profile.")
@click.option("--name", help="Name of the profile.  [default: the file name of --out]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    points: tuple[str, ...],
    out: Path | None,
    where: tuple[str, ...],
    min_new: int | None,
    form: str | None,
    holdout: float,
    holdout_kind: str,
    include_interpolated: bool,
    host_s: float | None,
    kernels: Path | None,
    layers: int | None,
    model: str | None,
    gpu: str | None,
    usage: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Fit prefill and decode times, say how good the fit is on rows it has not seen, and write a profile.

    POINTS are CSV files, plain or .gz: columns kind, new_tokens, cached_tokens, batch, kv_tokens, seconds, or one of the public
    layouts (docs/latency.md). Errors are relative. With --usage, a usage log, the log of `python -m calibration live`, or the
    detailed result of `vllm bench serve`. With --kernels, a folder with dense.csv, attention.csv and per_sequence.csv.
    """
    if out is not None and out.suffix != ".toml":
        raise click.UsageError("--out must end in .toml.")
    named = name or (out.stem if out is not None else "fit")
    if usage is not None:
        if points or form or kernels is not None or min_new is not None or include_interpolated or host_s is not None:
            raise click.UsageError("--usage goes with --where, --holdout, --out, --name and --json only.")
        from .fit_usage import fit_usage_file

        fit_usage_file(usage, _conditions(where), named, holdout, out, as_json, _command_line())
        return
    if kernels is not None:
        if points or where or min_new is not None or include_interpolated:
            raise click.UsageError("--kernels goes with --layers, --model, --gpu, --form, --out, --name and --host-s only.")
        if layers is None and model is None:
            raise click.UsageError("--kernels needs --layers (or --model, which knows them): the tables hold one layer.")
        if gpu is not None and model is None:
            raise click.UsageError("--gpu needs --model: KV memory is what the weights leave.")
        if form not in (None, *TABLE_FORMS):
            raise click.UsageError(f"--form must be {' or '.join(TABLE_FORMS)} with --kernels.")
        _fit_kernels(kernels, layers, model, gpu, form or "table", named, host_s, out, as_json)
        return
    if layers is not None or model is not None or gpu is not None:
        raise click.UsageError("--layers, --model and --gpu go with --kernels.")
    if not points:
        raise click.UsageError("Give a CSV file with points, or --kernels DIR.")
    if form == "table":
        raise click.UsageError("--form table goes with --kernels DIR: single points make no table of a step.")
    from ..latency.points import read_points

    conditions = _conditions(where)
    found = read_points(points, conditions, include_interpolated=include_interpolated, min_new=min_new)
    if not found.prefill:
        _fit_decode(found, named, (holdout_kind, holdout), host_s, out, as_json)
        return
    fitted = _fit(found, form or "auto", host_s)
    profile = _profile(fitted, found, named)
    report = _report(fitted, profile, found, holdout, holdout_kind)
    if out is not None:
        from ..latency.profiles import save_profile

        save_profile(profile, out)
        report["out"] = str(out)
    _say(report, fitted, as_json)


def _conditions(where: Sequence[str]) -> dict[str, str]:
    conditions: dict[str, str] = {}
    for part in (each for text in where for each in text.split(",")):
        column, equals, value = part.partition("=")
        if not (column.strip() and equals and value.strip()):
            raise click.UsageError(f"--where {part!r} must be COLUMN=VALUE.")
        conditions[column.strip()] = value.strip()
    return conditions


def _fit(found: PointSet, form: str, host_s: float | None) -> LatencyModel:
    from ..latency import LatencyModel

    new, cached, seconds = found.columns("prefill")
    model = LatencyModel().fit(new, cached, seconds, form)  # type: ignore[arg-type]
    if found.decode:
        model.fit_decode(*found.columns("decode"))
    if found.mixed:
        model.fit_mixed(*found.columns("mixed"))
    if found.host:
        model.fit_host(*found.columns("host"))
    if host_s is not None:
        model.set_host(host_s)
    return model


def _command_line() -> str:
    return shlex.join(["simcache", *sys.argv[1:]]) if "simcache" in Path(sys.argv[0]).name else "simcache fit"


def _about(found: PointSet) -> dict[str, Any]:
    """What the files say of themselves, as fields of a profile."""
    about: dict[str, Any] = {
        "provenance": "kernel sum" if found.kernel_sums else "measured",
        "source": ", ".join(found.sources),
        "notes": tuple(f"{count} rows left out: {reason}." for reason, count in found.dropped.items()),
    }
    for column, field in (("model", "model"), ("gpu", "gpu")):
        if found.identity.get(column):
            about[field] = found.identity[column][0]
    tp = found.identity.get("tp", [""])[:1]
    if tp and tp[0].isdecimal() and len(tp[0]) < 5 and int(tp[0]) > 0:
        about["gpus"] = int(tp[0])
    return about


def _profile(model: LatencyModel, found: PointSet, name: str) -> ServerProfile:
    return model.profile(name, fit=model.record(_command_line()), **_about(found))


def _fit_decode(
    found: PointSet, name: str, holdout: tuple[str, float], host_s: float | None, out: Path | None, as_json: bool
) -> None:
    """Decode points without a prefill: a profile whose prefill is by stated defaults."""
    from ..latency.decode_fit import DEFAULTS, fit_decode_alone
    from ..latency.profiles import save_profile
    from ..result import json_text

    batch, kv_tokens, seconds = found.columns("decode")
    profile, figures = fit_decode_alone(batch, kv_tokens, seconds, name, holdout)
    assert profile.fit is not None
    about = _about(found)
    about["notes"] = (*about["notes"], *profile.notes)
    settled = replace(profile.coefficients, host_s=host_s or 0.0)
    profile = replace(profile, coefficients=settled, fit=replace(profile.fit, command=_command_line()), **about)
    report = {
        "schema_version": 1,
        "form": profile.form,
        "coefficients": {key: value for key, value in vars(profile.coefficients).items() if value is not None},
        "stderr": profile.covariance.standard_errors if profile.covariance is not None else {},
        **figures,
        "range": _range(profile),
        "holdout": {"share": holdout[1], "kind": holdout[0]},
        "defaults": DEFAULTS,
        "dropped": dict(found.dropped),
        "warnings": [f"{each} cannot be identified from decode points; it is {text}" for each, text in DEFAULTS.items()],
        "provenance": profile.provenance,
    }
    for warning in report["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    if out is not None:
        save_profile(profile, out)
        report["out"] = str(out)
    if as_json:
        click.echo(json_text(report), nl=False)
        return
    click.echo(f"{profile.name}: {report['n']} decode points, no prefill; mean relative error {report['mape']:.1%}")
    for key, error in report["stderr"].items():
        click.echo(f"{key:<20}{report['coefficients'][key]:>12.4g}{error:>12.2g}")
    if out is not None:
        click.echo(f"profile: {out}")


def _report(model: LatencyModel, profile: ServerProfile, found: PointSet, share: float, kind: str) -> dict[str, Any]:
    """The JSON document; the keys up to ``range`` are the promise, the others explain."""
    coefficients = {key: value for key, value in vars(profile.coefficients).items() if value is not None}
    warnings = [f"{name} cannot be identified from these points; it is {text}" for name, text in model.unidentified_.items()]
    held_out = model.holdout_mape(kind, share)  # type: ignore[arg-type]
    if held_out is None:
        warnings.append(f"too few rows to hold out {share:.0%} of them ({kind}): no held-out error")
    return {
        "schema_version": 1,
        "form": model.form_,
        "coefficients": coefficients,
        "stderr": profile.covariance.standard_errors if profile.covariance is not None else {},
        "mape": model.mape_,
        "p95_ape": model.p95_ape_,
        "max_ape": model.max_ape_,
        "holdout_mape": held_out,
        "n": model.n_,
        "range": _range(profile),
        "holdout": {"share": share, "kind": kind},
        "mape_below_256": _below(model),
        "decode": {"n": model.decode_n_, "mape": model.decode_mape_},
        "forms": _forms(model, share),
        "linear_holds": model.linear_window_,
        "residuals": model.residuals_,
        "defaults": model.unidentified_,
        "dropped": dict(found.dropped),
        "warnings": warnings,
        "provenance": profile.provenance,
    }


def _range(profile: ServerProfile) -> dict[str, list[int]]:
    assert profile.range is not None
    return {name: list(bounds) for name, bounds in vars(profile.range).items() if bounds is not None}


def _below(model: LatencyModel) -> float | None:
    return model.mape_below_min_new_


def _forms(model: LatencyModel, share: float) -> dict[str, dict[str, float | None]]:
    """Held-out errors of every form, of a table that is interpolated, and of the form chosen: both kinds of holding out."""
    from ..errors import InputError
    from ..latency.fitting import FITTED_FORMS
    from ..latency.form_choice import HOLDOUT_KINDS, interpolation_mape, splits

    table: dict[str, dict[str, float | None]] = {}
    try:
        list(splits(model.points_, "random", share))
    except InputError:
        return table
    for form in FITTED_FORMS:
        table[form] = {kind: model.holdout_mape(kind, share, form=form) for kind in HOLDOUT_KINDS}
    table["interpolated table"] = {kind: interpolation_mape(model.points_, kind, share) for kind in HOLDOUT_KINDS}
    return {form: each for form, each in table.items() if any(value is not None for value in each.values())}


def _say(report: dict[str, Any], model: LatencyModel, as_json: bool) -> None:
    from ..result import json_text

    for warning in report["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        click.echo(json_text(report), nl=False)
        return
    click.echo(model.summary())
    held = report["holdout_mape"]
    if held is not None:
        click.echo(f"held out {report['holdout']['share']:.0%} ({report['holdout']['kind']}): mean relative error {held:.1%}")
    click.echo("\nheld-out error       random  largest new  largest total")
    for form, errors in report["forms"].items():
        cells = [f"{value:.1%}" if value is not None else "-" for value in errors.values()]
        mark = " <- this fit" if form == report["form"] else ""
        click.echo(f"{form:<20}{cells[0]:>7}{cells[1]:>13}{cells[2]:>15}{mark}")
    click.echo("\n" + linear_sentence(report["linear_holds"]))
    for reason, count in report["dropped"].items():
        click.echo(f"left out: {count} rows, {reason}")
    if "out" in report:
        click.echo(f"profile: {report['out']}")


def linear_sentence(window: dict[str, Any] | None) -> str:
    """Where a straight line holds, in words.

    >>> linear_sentence({"new_tokens": [256, 2048], "cached_tokens": 0, "tolerance": 0.05, "mape": 0.031})
    'A straight line holds within 5% for n in [256, 2048] at context 0 (mean error 3.1%).'
    """
    if window is None:
        return "A straight line holds nowhere: no three lengths at one context lie within 5% of one."
    low, high = window["new_tokens"]
    return (
        f"A straight line holds within {window['tolerance']:.0%} for n in [{low}, {high}] at context {window['cached_tokens']} "
        f"(mean error {window['mape']:.1%})."
    )


def _fit_kernels(
    folder: Path,
    layers: int | None,
    model: str | None,
    gpu: str | None,
    form: str,
    name: str,
    host_s: float | None,
    out: Path | None,
    as_json: bool,
) -> None:
    from ..errors import require
    from ..latency.catalogue import on_gpu
    from ..latency.kernel_files import read_kernels
    from ..latency.kernel_fit import fit_kernels
    from ..latency.profiles import save_profile
    from ..latency.shapes import load_shape
    from ..result import json_text

    shape = None if model is None else load_shape(model)
    if shape is not None:
        require(layers in (None, shape.layers), "layers", layers, f"must be the {shape.layers} of {shape.name}")
        layers = shape.layers
    assert layers is not None
    tables, notes = read_kernels(folder, layers)
    profile, report = fit_kernels(tables, form, name, notes)
    if shape is not None:
        profile = replace(profile, model=shape.name) if gpu is None else on_gpu(profile, shape, gpu)
    if host_s is not None:
        profile = replace(profile, coefficients=replace(profile.coefficients, host_s=host_s))
    assert profile.fit is not None
    profile = replace(profile, fit=replace(profile.fit, command=_command_line()), source=folder.name)
    document: dict[str, Any] = {
        "schema_version": 1,
        "form": form,
        "coefficients": {key: value for key, value in vars(profile.coefficients).items() if value is not None},
        "stderr": profile.covariance.standard_errors if profile.covariance is not None else {},
        **report,
        "range": _range(profile),
        "warnings": list(notes),
        "kv_tokens": profile.kv_tokens,
        "provenance": profile.provenance,
    }
    for note in notes:
        click.echo(f"warning: {note}", err=True)
    if out is not None:
        save_profile(profile, out)
        document["out"] = str(out)
    if as_json:
        click.echo(json_text(document), nl=False)
        return
    click.echo(f"{profile.name}, form {form}, {layers} layers of {folder.name}")
    for key, value in document["coefficients"].items():
        if value:
            click.echo(f"{key:<22}{value:>12.4g}")
    for kind in ("prefill", "decode", "mixed"):
        click.echo(f"{kind} steps: the coefficients miss the composed tables by {document[f'{kind}_mape']:.1%} on average")
    if profile.kv_tokens is not None:
        click.echo(f"KV memory: {profile.kv_tokens:,} tokens, by {profile.kv_tokens_source}")
    if out is not None:
        click.echo(f"profile: {out}")
