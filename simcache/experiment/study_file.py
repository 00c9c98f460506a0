"""Study files: TOML text -> a frozen study.

Top keys: ``schema_version``, ``name``, ``seeds``, ``first_seed``, ``metrics``; ``scenario``, a file beside this one, a shipped
scenario, or a table as in scenario files; ``[axes]``, key -> values, or a range ``{from, to, steps, log}``; ``[sample]`` with
``points`` and ``seed`` for a Latin hypercube; ``[precision]``, the fields of ``study.Precision``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..errors import InputError, require_count
from ..scenario_file import ScenarioFile, preset_names, read_scenarios, scenarios_of_table
from ..scenario_kinds import Builder
from .axes import Axis, cells
from .study import METRICS, Precision, Study, sample

SCHEMA_VERSION: Final = 1
_KEYS: Final = ("schema_version", "name", "seeds", "first_seed", "metrics", "scenario", "axes", "sample", "precision")
_SAMPLE: Final = ("points", "seed")


def read_study(path: str | Path, *, seeds: int | None = None, first_seed: int | None = None) -> Study:
    """The study in a TOML file; ``seeds`` and ``first_seed`` win over the file's. Raises InputError with file and dotted key.

    >>> read_study("nowhere.toml")
    Traceback (most recent call last):
    simcache.errors.InputError: study(='nowhere.toml') cannot be read: No such file or directory.
    """
    where = Path(path)
    try:
        text = where.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("study", where.name, "must be TOML text in UTF-8", path=where) from None
    except OSError as error:
        raise InputError("study", str(path), f"cannot be read: {error.strerror}") from None
    return parse_study(text, path=where, seeds=seeds, first_seed=first_seed)


def parse_study(text: str, *, path: Path | None = None, seeds: int | None = None, first_seed: int | None = None) -> Study:
    """As :func:`read_study`, from TOML text; relative paths inside start beside ``path``.

    >>> study = parse_study('scenario = "demo"\\nseeds = 3\\naxes."workload.users" = [5, 10]')
    >>> len(study.cells), study.seeds
    (8, 3)
    """
    try:
        top: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("study", path.name if path else "text", f"must be TOML: {error}", path=path) from None
    make = Builder(path=path, base=path.parent if path else None)
    _known(top, _KEYS, "", make)
    version = top.get("schema_version", SCHEMA_VERSION)
    if type(version) is not int or version != SCHEMA_VERSION:
        raise InputError("schema_version", version, f"must be {SCHEMA_VERSION}, the version that this simcache reads", path=path)
    asked = _scenario(top.get("scenario"), make)
    try:
        study = _study(top, asked, make)
        if seeds is not None or first_seed is not None:
            study = replace(
                study,
                seeds=study.seeds if seeds is None else seeds,
                first_seed=study.first_seed if first_seed is None else first_seed,
                precision=study.precision if seeds is None else None,
            )
    except InputError as error:
        raise make.at(error, error.name) from None
    return study


def _study(top: dict[str, Any], asked: ScenarioFile, make: Builder) -> Study:
    axes = _axes(top.get("axes"), make)
    plan = _table(top, "sample", make)
    _known(plan, _SAMPLE, "sample.", make)
    points = sample(axes, points=plan.get("points"), seed=_count(plan, "seed", 0, "sample.", at_least=0))
    precision = _table(top, "precision", make)
    name = top.get("name", make.path.stem if make.path else asked.name)
    if not isinstance(name, str):
        raise InputError("name", name, "must be a text")
    metrics = top.get("metrics", list(METRICS))
    if not isinstance(metrics, list):
        raise InputError("metrics", metrics, "must be a list of names")
    return Study(
        cells=tuple(cells(asked.scenarios, points, make)),
        name=name,
        seeds=_count(top, "seeds", asked.seeds, ""),
        first_seed=_count(top, "first_seed", 0, "", at_least=0),
        precision=make.make(Precision, precision, "precision", "[precision]") if precision else None,
        metrics=tuple(metrics),
        notes=asked.notes,
    )


def _scenario(given: Any, make: Builder) -> ScenarioFile:
    if isinstance(given, dict):
        return scenarios_of_table(given, path=make.path)
    if not isinstance(given, str):
        raise InputError("scenario", given, "must be a file, a shipped scenario, or a table [scenario]", path=make.path)
    if given in preset_names() or make.base is None:
        return read_scenarios(given)
    return read_scenarios(make.base / given)


def _axes(given: Any, make: Builder) -> list[Axis] | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        raise InputError("axes", given, "must be a table, [axes]", path=make.path)
    return [Axis.of(key, values) for key, values in _flat(given)]


def _flat(table: dict[str, Any], prefix: str = "") -> Sequence[tuple[str, Any]]:
    """``backend.replicas = [1, 2]`` and ``"backend.replicas" = [1, 2]`` are one key."""
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, dict) and not ("from" in value and "to" in value):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _table(top: dict[str, Any], key: str, make: Builder) -> dict[str, Any]:
    value = top.get(key, {})
    if not isinstance(value, dict):
        raise InputError(key, value, f"must be a table, [{key}]", path=make.path)
    return value


def _count(table: dict[str, Any], key: str, default: int, prefix: str, at_least: int = 1) -> int:
    value = table.get(key, default)
    require_count(f"{prefix}{key}", value, at_least=at_least)
    count: int = value
    return count


def _known(table: dict[str, Any], known: Sequence[str], prefix: str, make: Builder) -> None:
    for key, value in table.items():
        if key not in known:
            raise make.unknown(f"{prefix}{key}", value, "is not a key of a study file", known)
