"""``simcache predict``: one request on a profile -> seconds, an interval, and whether anybody measured there."""

from __future__ import annotations

from dataclasses import asdict

import click


@click.command("predict")
@click.option("--profile", "name", required=True, help="Latency profile: a name of `simcache profiles` or a TOML file.")
@click.option("--new", "new_tokens", type=click.IntRange(min=1), required=True, help="Tokens to compute.")
@click.option("--cached", "cached_tokens", type=click.IntRange(min=0), default=0, show_default=True, help="Tokens before them.")
@click.option("--batch", type=click.IntRange(min=1), help="Also predict a decode step of this many sequences.")
@click.option("--kv-tokens", type=click.IntRange(min=0), help="What that step reads in all.  [default: the prompt, per sequence]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(name: str, new_tokens: int, cached_tokens: int, batch: int | None, kv_tokens: int | None, as_json: bool) -> None:
    """Predict a prefill and a decode step, host work included, with a 95 % interval for one measurement.

    The interval holds the error of the coefficients and the scatter of the points they were fitted to. No queueing: what users
    wait under load is what `simcache run` answers.
    """
    from .. import units
    from ..latency.catalogue import find_profile
    from ..latency.prediction import predict
    from ..result import json_text

    if kv_tokens is not None and batch is None:
        raise click.UsageError("--kv-tokens goes with --batch.")
    found = predict(find_profile(name), new_tokens, cached_tokens, batch=batch, kv_tokens=kv_tokens)
    prefill95, decode95 = found.interval95.get("prefill_s"), found.interval95.get("decode_step_s")
    if not found.in_range:
        click.echo(f"warning: outside the measured range of {name}: an extrapolation", err=True)
    if as_json:
        document = asdict(found) | {"interval95": prefill95, "decode_interval95": decode95}
        click.echo(json_text({"schema_version": 1, "profile": name, **document}), nl=False)
        return
    click.echo(f"prefill of {new_tokens:,} after {cached_tokens:,} cached tokens: {units.seconds(found.prefill_s)} "
               f"{units.interval(prefill95, units.seconds)}".rstrip())  # fmt: skip
    if found.decode_step_s is not None:
        click.echo(f"decode step: {units.seconds(found.decode_step_s)} {units.interval(decode95, units.seconds)}".rstrip())
    click.echo(f"{found.provenance}{'' if found.in_range else ', outside the measured range'}")
