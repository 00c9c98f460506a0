"""``simcache bill``: a usage log -> what it cost, and what another lifetime, rule or model would have cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..usage_bill import Alternative, UsageBill

_TITLES = {
    "input": "input, uncached",
    "cache_read": "cache reads",
    "cache_write_5m": "cache writes",
    "cache_write_1h": "cache writes, 1 h",
    "output": "output",
    "storage": "storage",
}


@click.command("bill")
@click.argument("log", metavar="LOG.jsonl")
@click.option("--model", metavar="[PROVIDER/]MODEL", help="Price all requests as if they had gone to this model.")
@click.option("--rules", metavar="NAME | FILE.toml", help="Price them under these rules.  [default: those of provider and model]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(log: str, model: str | None, rules: str | None, as_json: bool) -> None:
    """Price the usage log LOG (JSONL, see docs/usage-logs.md) and say what else it could have cost.

    A line holds our own counts, or the usage block of an OpenAI, Anthropic, Gemini or Bedrock response as it is. Requests are
    priced at the list prices of their day, or today's where no line says when it was.
    """
    from ..logs import read_usage
    from ..usage_bill import alternatives, bill_usage

    usage = read_usage(log)
    found = bill_usage(usage, model=model, rules=rules)
    others = alternatives(usage, model=model) if rules is None else []
    as_logged_usd = None if model is None and rules is None else _as_logged_usd(usage)
    if as_json:
        click.echo(json.dumps(_document(log, found, others, as_logged_usd), indent=2))
        return
    _print(log, found, others, as_logged_usd)


def _as_logged_usd(usage: Any) -> float | None:
    from ..errors import InputError
    from ..usage_bill import bill_usage

    try:
        return bill_usage(usage).total_usd
    except InputError:
        return None  # the model of the log has no price, which is why another one was asked for


def _document(log: str, found: UsageBill, others: list[Alternative], as_logged_usd: float | None) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "log": log,
        "total_usd": found.total_usd,
        "lines": found.lines,
        "requests": found.requests,
        "unpriced": found.unpriced,
        "unpriced_models": [
            {"provider": each.provider, "model": each.model, "requests": each.requests, "why": each.why}
            for each in found.unpriced_models
        ],
        "as_logged_usd": as_logged_usd,
        "alternatives": [
            {"name": each.name, "total_usd": each.total_usd, "change_usd": each.change_usd, "assumes": each.assumes}
            for each in others
        ],
        "prices": list(found.prices),
        "notes": list(found.notes),
    }


def _print(log: str, found: UsageBill, others: list[Alternative], as_logged_usd: float | None) -> None:
    from .. import units
    from .table import print_notes

    click.echo(f"{log}: {units.count(found.requests)} request{'' if found.requests == 1 else 's'}")
    for line, usd in found.lines.items():
        if usd or line in ("input", "output"):
            click.echo(f"  {_TITLES[line]:<20} {units.dollars(usd):>14}")
    click.echo(f"  {'total':<20} {units.dollars(found.total_usd):>14}")
    if as_logged_usd is not None:
        click.echo(f"  {'as logged':<20} {units.dollars(as_logged_usd):>14}")
    if others:
        click.echo("What else it could have cost:")
    for other in others:
        change = units.dollars(other.change_usd, plus=True)
        click.echo(f"  {other.name:<20} {units.dollars(other.total_usd):>14}  {change:>14}")
    lost = [
        f"{each.requests:,} requests of {each.provider} {each.model} are not priced: {each.why}" for each in found.unpriced_models
    ]
    assumed = [f"{other.name}: {other.assumes}" for other in others]
    print_notes([*lost, *(f"prices: {source}" for source in found.prices), *found.notes, *assumed], [])
