"""``simcache profiles``: every latency profile there is, by which right it is known, and derived ones on request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..latency.profile_kinds import HostedProfile, ServerProfile


@click.command("profiles")
@click.option("--derive", "model", metavar="MODEL", help="Derive a profile: a shipped model, a shape in TOML, or a config.json.")
@click.option("--gpu", help="On this GPU.")
@click.option("--gpus", type=click.IntRange(min=1), default=1, show_default=True, help="On so many of them.")
@click.option("--out", type=click.Path(path_type=Path), metavar="PROFILE.toml", help="Write the derived profile here.")
@click.option("--errors", is_flag=True, help="Show what deriving misses on GPUs and models that it has not seen.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(model: str | None, gpu: str | None, gpus: int, out: Path | None, errors: bool, as_json: bool) -> None:
    """List the latency profiles: measured, sums of kernels, published figures, and derived ones (uncalibrated).

    Derived profiles are named derived/MODEL/GPU/tpN; any such name works wherever a profile is asked for here and in predict.
    With --derive, --gpu and --out, one is written to a file that every command takes.
    """
    from ..latency.catalogue import derive_named, derived_names, find_profile, left_out
    from ..latency.profiles import profile_names, save_profile
    from ..result import json_text

    if (model is None) != (gpu is None):
        raise click.UsageError("--derive MODEL goes with --gpu GPU.")
    if model is None and out is not None:
        raise click.UsageError("--out goes with --derive MODEL --gpu GPU.")
    if model is not None and gpu is not None:
        found: list[ServerProfile | HostedProfile] = [derive_named(model, gpu, gpus)]
        if out is not None:
            save_profile(found[0], out)
    else:
        found = [find_profile(name) for name in [*profile_names(), *derived_names()]]
    table = left_out() if errors or as_json else []
    if as_json:
        document: dict[str, Any] = {"schema_version": 1, "profiles": [_entry(profile) for profile in found]}
        document["left_out"] = [vars(row) for row in table]
        click.echo(json_text(document), nl=False)
        return
    width = max(len(profile.name) for profile in found)
    click.echo(f"{'name':<{width}}  {'known by':<17} {'form':<13} {'error':>6}  {'prompts measured':<19} KV tokens")
    for entry in map(_entry, found):
        cells = (
            f"{entry['name']:<{width}}  {entry['provenance']:<17} {entry['form']:<13} {_percent(entry):>6}  {_reach(entry):<19} "
        )
        click.echo(f"{cells}{entry['kv_tokens'] or '-'}")
    click.echo("error: mean relative error of the fit; of derived profiles, the 95 % interval that leaving out has shown.")
    if errors:
        click.echo(f"\n{'left out':<38}{'profile':<32}{'prefill':>8}{'decode':>8}")
        for row in table:
            decode = "-" if row.decode_rms is None else f"{row.decode_rms:.0%}"
            click.echo(f"{row.what + ' ' + row.left_out:<38}{row.profile:<32}{row.prefill_rms:>8.0%}{decode:>8}")
        click.echo("root mean square of the log ratio, derived from the profiles that share no GPU, no model, with it")
    if out is not None:
        click.echo(f"profile: {out}")


def _entry(profile: ServerProfile | HostedProfile) -> dict[str, Any]:
    from ..latency.profile_kinds import ServerProfile

    own: dict[str, Any] = {"kind": "hosted", "form": "hosted", "model": "", "gpu": "", "gpus": None, "kv_tokens": None}
    if isinstance(profile, ServerProfile):
        own = {"kind": "server"} | {name: getattr(profile, name) for name in ("form", "model", "gpu", "gpus", "kv_tokens")}
        own["kv_bytes_per_token"] = profile.kv_bytes_per_token
        own["defaults"] = list(profile.defaults)
    return {
        "name": profile.name,
        "provenance": profile.provenance,
        **own,
        "mape": None if profile.fit is None else profile.fit.mape,
        "uncertainty95": profile.uncertainty95,
        "range": None if profile.range is None else {name: bounds for name, bounds in vars(profile.range).items() if bounds},
        "source": profile.source,
        "date": profile.date,
        "notes": list(profile.notes),
    }


def _percent(entry: dict[str, Any]) -> str:
    if entry["uncertainty95"] is not None and entry["mape"] is None:
        return f"x{entry['uncertainty95'][1]:.2f}"
    return "-" if entry["mape"] is None else f"{entry['mape']:.1%}"


def _reach(entry: dict[str, Any]) -> str:
    if entry["range"] is None or entry["provenance"] == "derived":
        return "-"
    low, high = entry["range"].get("total_tokens", entry["range"]["new_tokens"])
    return f"{low:,} to {high:,}"
