"""What the pages of runs and sweeps share: scenarios as tables, definitions, versions."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .. import units
from .page import Listing, Table

_MOST_COLUMNS: Final = 6
DEFINITIONS: Final = Table(
    head=("figure", "what it is, and what it is computed from"),
    rows=(
        ("TTFT", "first token minus submit, never minus the end of a warm-up; answered questions of people, from the records"),
        ("under the objective", "share of all questions with a TTFT below it; those never answered count as misses"),
        ("token hits", "prompt tokens served from the cache over all prompt tokens of questions"),
        ("cost", "tokens of every record at the prices above, warm-ups included, or GPU hours of the whole run"),
        ("wasted", "share of the tokens put into the cache by warm-ups that no later question read"),
        ("[low, high]", "95 % t interval of the mean over seeds; a quantile is taken per seed first"),
    ),
    keys=2,
)


def flat(table: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """A TOML table as dotted keys with their values as text.

    >>> flat({"a": {"b": 1, "c": {"kind": "fixed", "value": 2}}})
    {'a.b': '1', 'a.c': 'fixed, value 2'}
    """
    found: dict[str, str] = {}
    for key, value in table.items():
        name = f"{above}{key}"
        if isinstance(value, dict) and (not above or "kind" not in value or any(isinstance(v, dict) for v in value.values())):
            found |= flat(value, f"{name}.")
        elif isinstance(value, dict):
            found[name] = ", ".join(
                [str(value["kind"]), *(f"{inner} {_value(each)}" for inner, each in value.items() if inner != "kind")]
            )
        else:
            found[name] = _value(value)
    return found


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value):,} values" if len(value) > 8 else ", ".join(map(_value, value)) or "none"
    return f"{value:,}" if type(value) is int else f"{value:.6g}" if isinstance(value, float) else str(value)


def scenario_parts(named_texts: Sequence[tuple[str, str]]) -> list[str | Table | Listing]:
    """What differs between scenarios given as TOML texts, then what they share."""
    flats = []
    for _, text in named_texts:
        try:
            flats.append(flat(tomllib.loads(text)))
        except tomllib.TOMLDecodeError:
            return [Listing(text=text, label=name) for name, text in named_texts]
    keys = [key for key in dict.fromkeys(key for each in flats for key in each) if key not in ("name", "schema_version")]
    differing = [key for key in keys if len({each.get(key) for each in flats}) > 1]
    parts: list[str | Table | Listing] = []
    if differing and len(flats) > 1:
        names = [name for name, _ in named_texts]
        cells = [[each.get(key, units.NOTHING) for key in differing] for each in flats]
        if len(names) <= _MOST_COLUMNS:
            rows = tuple((key, *(each[place] for each in cells)) for place, key in enumerate(differing))
            parts.append(Table(head=("what differs", *names), rows=rows))
        else:
            heads = (key.replace(".", "\n", 1) for key in differing)
            parts.append(Table(head=("what differs", *heads), rows=tuple((n, *each) for n, each in zip(names, cells, strict=True))))
    shared = tuple((key, flats[0][key]) for key in keys if key not in differing)
    parts.append(Table(head=("all have" if len(flats) > 1 else "key", "value"), rows=shared, keys=2))
    return parts


def versions_table(document: Mapping[str, Any]) -> str | Table:
    """Which versions made a document; a sentence where it does not say."""
    versions = document.get("versions")
    if not isinstance(versions, Mapping):
        return "The folder does not say which versions made it."
    return Table(head=("package", "version"), rows=tuple((str(k), str(v)) for k, v in versions.items()), keys=2)
