"""``simcache providers``: what every shipped provider caches, for how long, and at what multiple of the input price."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from ..errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from ..cache.rules import ProviderRules

_CONDITION: Final = "zero_data_retention"


@click.command("providers")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=f"{_CONDITION}=true leaves out what stores data.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document: every rule with its date and source.")
def command(overrides: tuple[str, ...], as_json: bool) -> None:
    """List the cache rules of all shipped providers, one row per lifetime.

    A scenario takes the rules that hold for its provider and model, or those that backend.rules names: one of these, or a TOML
    file of your own, for which any file in simcache/data/providers is a pattern.
    """
    from ..cache.presets import load_rules, rules_names

    every = [load_rules(name) for name in rules_names()]
    shown = [rules for rules in every if not (_zero_data_retention(overrides) and rules.stores_data)]
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "providers": [_entry(rules) for rules in shown]}, indent=2))
        return
    _print(shown)
    if len(shown) < len(every):
        left_out = ", ".join(rules.name for rules in every if rules.stores_data)
        click.echo(f"ruled out, because they store data or do not say that they do not: {left_out}")


def _zero_data_retention(overrides: Sequence[str]) -> bool:
    asked = False
    for text in overrides:
        key, _, value = text.partition("=")
        if key.strip() != _CONDITION:
            raise UnknownNameError("--set", key, [_CONDITION])
        if value.strip() not in ("true", "false"):
            raise InputError(f"--set {key}", value, "must be true or false")
        asked = value.strip() == "true"
    return asked


def _entry(rules: ProviderRules) -> dict[str, Any]:
    from dataclasses import asdict

    entry = asdict(rules)
    for table in (name for name, value in entry.items() if isinstance(value, dict)):
        entry[table] = dict(entry[table])
    entry["write_multiplier"] = {ttl: rules.write_multiplier_of(ttl) for ttl in rules.lifetime_s}
    return entry


def _print(every: Sequence[ProviderRules]) -> None:
    from rich.console import Console
    from rich.table import Table

    from .. import units
    from .table import width

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for head, justify in (
        ("rules", "left"),
        ("min", "right"),
        ("unit", "right"),
        ("lives", "left"),
        ("write", "right"),
        ("read", "right"),
        ("visible", "left"),
        ("scope", "left"),
        ("stores", "left"),
        ("as of", "left"),
    ):
        table.add_column(head, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for rules in every:
        for number, ttl in enumerate(rules.lifetime_s):
            first = number == 0
            lives = f"{_KINDS[rules.lifetime_kind]}{ttl}"
            row = [rules.name, _span(rules.min_tokens_by_model, rules.min_tokens, units.count)]
            row += ["mark" if rules.matching == "exact at breakpoints" else units.count(rules.unit_tokens)]
            tail = [
                _span(rules.read_multiplier_by_model, rules.read_multiplier, lambda value: f"{value:g}"),
                _VISIBLE[rules.visibility],
                _SCOPES[rules.scope],
                "yes" if rules.stores_data else "no",
                rules.as_of,
            ]
            cells = row if first else [""] * len(row)
            cells = [*cells, lives, f"{rules.write_multiplier_of(ttl):g}", *(tail if first else [""] * len(tail))]
            table.add_row(*cells)
    Console(width=max(width(), 98), highlight=False, markup=False).print(table)
    click.echo("min, unit: tokens; mark: exactly what was marked. lives: < at most, > at least, ~ not promised.")
    click.echo("write, read: multiples of the input price, ranges over models. Sources and all rules: --json.")


_KINDS: Final = {"sliding maximum": "< ", "guaranteed minimum": "> ", "best effort": "~ "}
_SCOPES: Final = {"organisation": "org", "workspace": "workspace", "user": "user"}
_VISIBLE: Final = {"scheduled": "at once", "first_response": "first token", "finished": "last token"}


def _span(by_model: Any, default: float, text: Any) -> str:
    values = [*by_model.values(), default]
    low, high = min(values), max(values)
    return str(text(low)) if low == high else f"{text(low)}-{text(high)}"
