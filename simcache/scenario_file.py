"""Scenario files: TOML text -> frozen scenarios, one per variant, and back.

Top keys are the plain fields of :class:`~simcache.scenario.Scenario` (``name``, ``duration_s``, ``slo_ttft_s``, ...),
``schema_version``, ``seeds``, the tables ``[workload]``, ``[backend]`` and ``[warming]``, each with a ``kind``, and
``[[variants]]`` with a ``name`` and whatever differs. A variant's table of the same kind, or of no kind, is laid over the
file's; a table of another kind takes its place. ``"none"`` stands for None.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from .errors import InputError, require_count, require_number
from .scenario import Scenario
from .scenario_kinds import FAMILIES, INNER_KINDS, NOTHING, Builder, field_types, kind_of

SCHEMA_VERSION: Final = 1
MOST_SEEDS: Final = 100_000
PRESETS: Final = Path(__file__).resolve().parent / "data" / "scenarios"
_FILE_KEYS: Final = ("schema_version", "seeds", "variants")
_NO_WARMING: Final = {"kind": "none"}

Table = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ScenarioFile:
    """What one file asks: its ``name``, one scenario per variant, how many ``seeds``, and ``notes`` on how it was read.

    >>> parse_scenarios('seeds = 5\\nworkload = { kind = "typing-sessions", users = 3 }\\nbackend.kind = "server"').seeds
    5
    """

    name: str
    scenarios: tuple[Scenario, ...]
    seeds: int = 1
    notes: tuple[str, ...] = ()


def load_scenarios(path_or_preset: str | Path, overrides: Sequence[str] = ()) -> list[Scenario]:
    """The scenarios of a TOML file or a shipped preset, one per variant; ``overrides`` are ``key=value`` texts.

    Raises InputError that names the key by its dotted path, the file, and near names.

    >>> [scenario.duration_s for scenario in load_scenarios("demo", ["duration_s=60"])][0]
    60
    """
    return list(read_scenarios(path_or_preset, overrides).scenarios)


def read_scenarios(path_or_preset: str | Path, overrides: Sequence[str] = ()) -> ScenarioFile:
    """As :func:`load_scenarios`, with the file's own name and number of seeds.

    >>> read_scenarios("demo").name
    'demo'
    """
    path = Path(path_or_preset)
    if str(path_or_preset) in preset_names():
        path = PRESETS / f"{path_or_preset}.toml"
    elif not os.path.exists(path):  # also where the name is none that a file can have
        way_out = f"It is neither a file nor a shipped scenario ({', '.join(preset_names())})."
        raise InputError("scenario", str(path_or_preset), "does not exist", way_out)
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("scenario", path.name, "must be TOML text in UTF-8", path=path) from None
    except OSError as error:
        raise InputError("scenario", str(path), f"cannot be read: {error.strerror}") from None
    return parse_scenarios(text, overrides, path=path)


def preset_names() -> list[str]:
    """Names of the shipped scenarios.

    >>> "demo" in preset_names()
    True
    """
    return sorted(preset.stem for preset in PRESETS.glob("*.toml"))


def parse_scenarios(text: str, overrides: Sequence[str] = (), *, path: Path | None = None) -> ScenarioFile:
    """As :func:`read_scenarios`, from TOML text; ``path`` is named in errors, and relative paths inside start beside it.

    >>> parse_scenarios('workload = { kind = "typing-sessions", users = 3 }\\nbackend.kind = "server"').scenarios[0].name
    'scenario'
    """
    try:
        top: Table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a thousand brackets and a number of 5,000 digits are no scenario either
        raise InputError("scenario", path.name if path else "text", f"must be TOML: {error}", path=path) from None
    return _Reader(Builder(path=path, base=path.parent if path else None)).read(top, overrides)


def scenarios_of_table(top: Mapping[str, Any], *, path: Path | None = None) -> ScenarioFile:
    """As :func:`read_scenarios`, from the tables of a file already parsed, which may stand inside the file ``path``.

    >>> workload = {"kind": "typing-sessions", "users": 3}
    >>> scenarios_of_table({"name": "chat", "workload": workload, "backend": {"kind": "server"}}).name
    'chat'
    """
    return _Reader(Builder(path=path, base=path.parent if path else None)).read(dict(top), ())


@dataclass(frozen=True)
class _Reader:
    make: Builder

    def read(self, top: Table, overrides: Sequence[str]) -> ScenarioFile:
        self._check_version(top)
        variants = self._variants(top)
        shared = {key: value for key, value in top.items() if key not in _FILE_KEYS}
        self._check_keys(top, "")
        for family in FAMILIES:
            if "kind" in shared.get(family, ()):  # also where every variant brings another kind: a misspelt key is an error
                self._check_part(family, shared[family])
        shared.setdefault("name", self.make.path.stem if self.make.path else "scenario")
        tables = [{"warming": _NO_WARMING, **_laid_over(shared, variant)} for variant in variants]
        head: Table = {"name": shared["name"], "seeds": top.get("seeds", 1)}
        notes: list[str] = []
        for text in overrides:
            key, change = _override(text)
            if key == "seeds" or (key == "name" and "variants" in top):
                head |= change
            else:
                notes += self._lay_over_all(tables, key, change)
        if "variants" not in top:
            head["name"] = tables[0]["name"]
        name = self.make.value(str, head["name"], "name")
        seeds = self.make.value(int, head["seeds"], "seeds")
        try:
            require_count("seeds", seeds)
            require_number("seeds", seeds, at_most=MOST_SEEDS)
        except InputError as error:
            raise self.make.at(error, "seeds") from None
        return ScenarioFile(name=name, scenarios=tuple(map(self._scenario, tables)), seeds=seeds, notes=tuple(notes))

    def _check_version(self, top: Table) -> None:
        version = top.get("schema_version", SCHEMA_VERSION)
        if type(version) is not int or version != SCHEMA_VERSION:
            rule = f"must be {SCHEMA_VERSION}, the version that this simcache reads"
            raise InputError("schema_version", version, rule, path=self.make.path)

    def _variants(self, top: Table) -> list[Table]:
        if "variants" not in top:
            return [{}]
        variants = top["variants"]
        if not isinstance(variants, list) or not variants or not all(isinstance(variant, dict) for variant in variants):
            raise InputError("variants", variants, "must be tables, each opened by [[variants]]", path=self.make.path)
        names: list[str] = []
        for number, variant in enumerate(variants):
            key = f"variants[{number}]"
            name = variant.get("name")
            if not isinstance(name, str) or not name or name in names:
                rule = "is the name of an earlier variant" if name in names else "must be a text"
                raise InputError(f"{key}.name", name, rule, "Every variant needs a name of its own.", path=self.make.path)
            names.append(name)
            self._check_keys(variant, f"{key}.")
        return variants

    def _check_keys(self, table: Table, prefix: str) -> None:
        known = [*_plain_fields(), *FAMILIES, *(() if prefix else _FILE_KEYS)]
        for key, value in table.items():
            if key not in known:
                inside = [
                    f"{family}.{key}"
                    for family, kinds in FAMILIES.items()
                    if any(key in field_types(cls) for cls in kinds.values())
                ]
                raise self.make.unknown(f"{prefix}{key}", value, "is not a key of a scenario file", known, inside)
            if key in FAMILIES and not isinstance(value, dict):
                raise InputError(f"{prefix}{key}", value, f"must be a table, [{key}]", path=self.make.path)

    def _check_part(self, family: str, table: Table) -> None:
        known = self.make.known(family, table)
        for key, value in table.items():
            if key != "kind" and key not in known:
                raise self.make.unknown(f"{family}.{key}", value, f"is not a key of {family} kind {table['kind']!r}", known)

    def _lay_over_all(self, tables: list[Table], key: str, change: Table) -> list[str]:
        """Lay ``change`` over every variant that knows ``key``; a note where that is not all of them, an error where it is none."""
        family, _, rest = key.partition(".")
        chosen = list(tables)
        if family in FAMILIES and rest and rest != "kind":
            name = rest.partition(".")[0]
            known = [self.make.known(family, table.get(family, {})) for table in tables]
            chosen = [table for table, names in zip(tables, known, strict=True) if name in names]
            if not chosen:
                rule = f"is not a key of this scenario's {family}"
                raise self.make.unknown(key, change[family][name], rule, {key for names in known for key in names})
        else:
            self._check_keys(change, "--set ")
        for table in chosen:
            table |= _laid_over(table, change)
        if len(chosen) == len(tables):
            return []
        return [f"--set {key} applies to {len(chosen)} of {len(tables)} variants: {'; '.join(table['name'] for table in chosen)}"]

    def _scenario(self, table: Table) -> Scenario:
        types = _plain_fields()
        values = {key: self.make.value(types[key], value, key) for key, value in table.items() if key in types}
        values |= {family: self.make.part(family, table[family]) for family in FAMILIES if family in table}
        scenario: Scenario = self.make.construct(Scenario, values, "")
        return scenario


def _plain_fields() -> Mapping[str, Any]:
    """The fields of a scenario that are no tables."""
    return {name: hint for name, hint in field_types(Scenario).items() if name not in FAMILIES}


def _laid_over(base: Table, over: Table) -> Table:
    """``over`` laid over ``base``: tables of one kind, or of no kind, join; a table of another kind takes the other's place."""
    joined = dict(base)
    for key, value in over.items():
        below = base.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and value.get("kind") in (None, below.get("kind")):
            value = _laid_over(below, value)
        joined[key] = value
    return joined


def _override(text: str) -> tuple[str, Table]:
    """``key=value`` as (dotted key, the nested tables it stands for); a value that is not TOML is a text."""
    key, equals, value = text.partition("=")
    for spelled in (value, json.dumps(value)):
        try:
            change = tomllib.loads(f"{key} = {spelled}")
        except (ValueError, RecursionError):
            continue
        names: list[str] = []
        inner: Any = change
        for _ in key.split("."):
            if isinstance(inner, dict) and len(inner) == 1:
                names += inner
                inner = inner[names[-1]]
        if equals and names == [name.strip().strip("\"'") for name in key.split(".")]:
            return ".".join(names), change
    raise InputError("--set", text, "must be KEY=VALUE", "For example --set backend.replicas=4.")


def to_toml(scenario: Scenario) -> str:
    """``scenario`` as a scenario file: ``load(to_toml(s)) == s``, every field written out.

    An object that only Python can spell (a policy of the user's own, say) is named in a comment in its place.

    >>> print(to_toml(load_scenarios("demo")[0]).splitlines()[0])
    schema_version = 1
    """
    lines = [f"schema_version = {SCHEMA_VERSION}"]
    plain = _plain_fields()
    for field in fields(Scenario):
        if field.name in plain:
            lines += _line(field.name, getattr(scenario, field.name), field.default)
    for family, kinds in FAMILIES.items():
        part = getattr(scenario, family)
        kind = kind_of(part, kinds)
        lines += ["", f"[{family}]"]
        lines += [f"# {_comment(part)}"] if kind is None else [f"kind = {_spelled(kind)}", *_table(family, part)]
    return "\n".join(lines) + "\n"


def _table(key: str, part: Any) -> list[str]:
    """The fields of ``part`` as the lines of the table ``[key]``; parts without a kind follow as tables of their own."""
    lines: list[str] = []
    below: list[str] = []
    for field in fields(part):
        value = getattr(part, field.name)
        if is_dataclass(value) and kind_of(value, INNER_KINDS) is None and not isinstance(value, type):
            below += ["", f"[{key}.{field.name}]", *_table(f"{key}.{field.name}", value)]
        elif field.init:
            lines += _line(field.name, value, field.default)
    return lines + below


class _PythonOnlyError(Exception):
    pass


def _line(name: str, value: object, default: object) -> list[str]:
    if value is None and default is None:
        return []
    try:
        return [f"{name} = {_spelled(value)}"]
    except _PythonOnlyError:
        return [f"# {name}: {_comment(value)}"]


def _comment(value: object) -> str:
    return f"{' '.join(repr(value).split())} (a Python object that a file cannot spell)"


def _spelled(value: object) -> str:
    """A value in TOML."""
    if value is None:
        return json.dumps(NOTHING)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, Path)):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_spelled, value))}]"
    kind = kind_of(value, INNER_KINDS)
    if kind is None or not is_dataclass(value) or isinstance(value, type):
        raise _PythonOnlyError
    pairs = [f"{field.name} = {_spelled(getattr(value, field.name))}" for field in fields(value)]
    return f"{{ {', '.join([f'kind = {_spelled(kind)}', *pairs])} }}"
