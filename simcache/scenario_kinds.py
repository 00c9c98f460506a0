"""The kinds that a scenario file may name, and how a TOML value becomes a field of one of their classes."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import Any, Final, Literal, Union

from .cache.tiers import Tier
from .errors import InputError, UnknownNameError
from .faults import Crash, CrashRate, Slow, TierOutage
from .scenario import Cluster, HostedApi, Server
from .warming import (
    NoWarming,
    WarmAfterAnswer,
    WarmAfterPause,
    WarmEveryTokens,
    WarmOnFirstKey,
    WarmOnFocus,
    WarmOnOpen,
)
from .warming.foresight import Adaptive, Oracle
from .warming.keep_alive import KeepAlive, KeepAliveMyopic, KeepAliveOptimal
from .warming.limits import Budgeted, ForSome, Together
from .workload.arrivals import DayAndWeek
from .workload.distributions import DISTRIBUTIONS
from .workload.empirical import Empirical, TracePauses
from .workload.presets import TypingSessions
from .workload.synthetic import PoissonRequests, RequestList
from .workload.traces import TraceWorkload
from .workload.typist import Typist

FAMILIES: Final[Mapping[str, Mapping[str, type]]] = {
    "workload": {
        "typing-sessions": TypingSessions,
        "trace": TraceWorkload,
        "poisson": PoissonRequests,
        "requests": RequestList,
    },
    "backend": {"server": Server, "cluster": Cluster, "hosted-api": HostedApi},
    "warming": {
        "none": NoWarming,
        "on-open": WarmOnOpen,
        "on-focus": WarmOnFocus,
        "on-first-key": WarmOnFirstKey,
        "after-pause": WarmAfterPause,
        "every-tokens": WarmEveryTokens,
        "after-answer": WarmAfterAnswer,
        "keep-alive": KeepAlive,
        "keep-alive-myopic": KeepAliveMyopic,
        "keep-alive-optimal": KeepAliveOptimal,
        "adaptive": Adaptive,
        "oracle": Oracle,
        "together": Together,
        "for-some": ForSome,
        "budgeted": Budgeted,
    },
}
"""Family -> kind -> class, for the tables of a scenario. A new class joins by being listed: its fields are its keys."""
INNER_KINDS: Final[Mapping[str, type]] = {
    **{name.replace("_", "-"): cls for name, cls in DISTRIBUTIONS.items()},
    "empirical": Empirical,
    "trace-pauses": TracePauses,
    "typist": Typist,
    "day-and-week": DayAndWeek,
    **FAMILIES["warming"],
    "crash": Crash,
    "crash-rate": CrashRate,
    "slow": Slow,
    "tier-outage": TierOutage,
    "tier": Tier,
}
"""Kind -> class, for a field's value that is a table, such as a distribution."""
NOTHING: Final = "none"
_MOST_LISTED: Final = 40
"""How a file says None, which TOML lacks: ``kv_tokens = "none"``."""

_WORDS: Final[Mapping[Any, str]] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    Hashable: "a text or a whole number",
}
Kinds = Mapping[str, type]


def kind_of(part: object, kinds: Kinds) -> str | None:
    """The kind under which a file names the class of ``part``; None: it has none, it lives in Python only.

    >>> kind_of(Cluster(), FAMILIES["backend"])
    'cluster'
    """
    return next((kind for kind, cls in kinds.items() if type(part) is cls), None)


@cache
def field_types(cls: type) -> Mapping[str, Any]:
    """Name -> type of everything that the constructor of a dataclass or a named tuple takes.

    >>> field_types(HostedApi)["jitter"]
    <class 'bool'>
    """
    from .latency.kernel_tables import KernelTables  # a type that the profiles' module names without importing it

    hints = typing.get_type_hints(cls, localns={"KernelTables": KernelTables})
    names = [field.name for field in fields(cls) if field.init] if is_dataclass(cls) else list(cls._fields)  # type: ignore[attr-defined]
    return {name: hints[name] for name in names}


@dataclass(frozen=True)
class Builder:
    """Makes objects of TOML tables; every error names the key by its dotted path, and ``path``, the file.

    Relative paths inside the file start at ``base``.

    >>> Builder().part("backend", {"kind": "cluster", "replicas": 2}).replicas
    2
    """

    path: Path | None = None
    base: Path | None = None

    def part(self, family: str, table: Mapping[str, Any]) -> Any:
        """The object that the table ``[family]`` describes."""
        return self._of_kind(FAMILIES[family], table, family)

    def known(self, family: str, table: Mapping[str, Any]) -> Mapping[str, Any]:
        """Name -> type of the keys that ``table`` may have, by its kind."""
        return field_types(self._class(FAMILIES[family], table, family))

    def make(self, cls: type, table: Mapping[str, Any], key: str, what: str) -> Any:
        """``cls`` from the fields in ``table``, which stands at ``key`` and is called ``what`` in errors."""
        prefix = f"{key}." if key else ""
        types_ = field_types(cls)
        for name, value in table.items():
            if name not in types_:
                raise self.unknown(f"{prefix}{name}", value, f"is not a key of {what}", types_)
        return self.construct(
            cls, {name: self.value(types_[name], value, f"{prefix}{name}") for name, value in table.items()}, prefix
        )

    def construct(self, cls: type, values: Mapping[str, Any], prefix: str) -> Any:
        """``cls(**values)``, its errors with ``prefix`` before the names."""
        for name in _required(cls):
            if name not in values:
                raise InputError(f"{prefix}{name}", None, "must be given", path=self.path)
        try:
            return cls(**values)
        except InputError as error:
            raise self.at(error, f"{prefix}{error.name}") from None

    def at(self, error: InputError, key: str) -> InputError:
        """``error`` once more, with the place in the file."""
        return InputError(key, error.value, error.rule, error.way_out, path=error.path or self.path, line=error.line)

    def unknown(self, key: str, value: object, rule: str, known: typing.Iterable[str], better: Sequence[str] = ()) -> InputError:
        """The error about a key that is not known: the near names, then all; of dotted ones only those outside of other parts."""
        names = sorted(known)
        near = [*better, *difflib.get_close_matches(key.rpartition(".")[2], names, n=3, cutoff=0.6)]
        near = near or difflib.get_close_matches(key, names, n=3, cutoff=0.6)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        if len(names) > _MOST_LISTED:
            names = [name for name in names if name.count(".") < 2 and name.rpartition(".")[0] in ("", key.rpartition(".")[0])]
        return InputError(key, value, rule, f"{hint}Known: {', '.join(names) or 'no keys at all'}.", path=self.path)

    def value(self, hint: Any, value: Any, key: str) -> Any:
        """``value`` as TOML has it, as a field of type ``hint``."""
        members = _members(hint)
        if value == NOTHING and type(None) in members:
            return None
        if isinstance(value, dict):
            made = self._of_table(members, value, key)
        elif isinstance(value, list):
            made = self._of_list(members, value, key)
        else:
            made = _leaf(members, value)
        if made is _UNFIT:
            raise InputError(key, value, f"must be {_said(members)}", path=self.path)
        return str(self.base / made) if Path in members and self.base is not None else made

    def _class(self, kinds: Kinds, table: Mapping[str, Any], key: str) -> type:
        kind = table.get("kind")
        if kind is None:
            raise InputError(f"{key}.kind", None, "must be given", f"Known: {', '.join(sorted(kinds))}.", path=self.path)
        if not isinstance(kind, str) or kind not in kinds:
            raise UnknownNameError(f"{key}.kind", kind, kinds, path=self.path)
        return kinds[kind]

    def _of_kind(self, kinds: Kinds, table: Mapping[str, Any], key: str) -> Any:
        cls = self._class(kinds, table, key)
        rest = {name: value for name, value in table.items() if name != "kind"}
        return self.make(cls, rest, key, f"{key.rpartition('.')[2]} kind {table['kind']!r}")

    def _of_table(self, members: Sequence[Any], table: Mapping[str, Any], key: str) -> Any:
        records = [member for member in members if _is_record(member)]
        if "kind" in table and not any("kind" in field_types(record) for record in records):
            made = self._of_kind(INNER_KINDS, table, key)
            return made if any(isinstance(member, type) and isinstance(made, member) for member in members) else _UNFIT
        return self.make(records[0], table, key, f"[{key}]") if records else _UNFIT

    def _of_list(self, members: Sequence[Any], values: Sequence[Any], key: str) -> Any:
        for member in members:
            inner = typing.get_args(member)
            if typing.get_origin(member) is tuple:
                if len(inner) == 2 and inner[1] is Ellipsis:
                    return tuple(self.value(inner[0], value, f"{key}[{i}]") for i, value in enumerate(values))
                if len(inner) == len(values):
                    return tuple(
                        self.value(hint, value, f"{key}[{i}]") for i, (hint, value) in enumerate(zip(inner, values, strict=True))
                    )
            elif member is Hashable:
                return tuple(self.value(Hashable, value, f"{key}[{i}]") for i, value in enumerate(values))
            elif (
                _is_record(member)
                and issubclass(member, tuple)
                and len(_required(member)) <= len(values) <= len(field_types(member))
            ):
                return self.make(member, dict(zip(field_types(member), values, strict=False)), key, f"[{key}]")
        return _UNFIT


class _Unfit:
    pass


_UNFIT: Final = _Unfit()


@cache
def _required(cls: type) -> tuple[str, ...]:
    if not is_dataclass(cls):
        return tuple(name for name in field_types(cls) if name not in cls._field_defaults)  # type: ignore[attr-defined]
    bare = [field for field in fields(cls) if field.init and field.default is MISSING and field.default_factory is MISSING]
    return tuple(field.name for field in bare)


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_record(member: Any) -> bool:
    return isinstance(member, type) and (is_dataclass(member) or (issubclass(member, tuple) and hasattr(member, "_fields")))


def _leaf(members: Sequence[Any], value: Any) -> Any:
    """A scalar, checked strictly: 3 is a number, "3" and true are not."""
    plain = [member for member in members if member in _WORDS or typing.get_origin(member) is Literal]
    if Hashable in plain:
        plain = [str, int]
    if not plain or not isinstance(value, (str, int, float)):
        return _UNFIT
    if float in plain and type(value) is int:
        return value  # a whole number stays one: it reads better in the file that is written of it
    from pydantic import ValidationError

    try:
        return _adapter(reduce(or_, plain)).validate_json(json.dumps(value))
    except ValidationError:
        return _UNFIT


@cache
def _adapter(hint: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(hint, config=ConfigDict(strict=True))


def _said(members: Sequence[Any]) -> str:
    """What a value must be, in words."""
    words: list[str] = []
    for member in members:
        if typing.get_origin(member) is Literal:
            words += map(repr, typing.get_args(member))
        elif typing.get_origin(member) is tuple:
            words.append("a list")
        elif member is type(None):
            words.append(repr(NOTHING))
        elif _is_record(member):
            words.append(f"a list [{', '.join(field_types(member))}]" if issubclass(member, tuple) else "a table")
        elif getattr(member, "_is_protocol", False) and member is not Hashable:
            words.append(f"a table whose kind is {', '.join(sorted(INNER_KINDS))}")
        else:
            words.append(_WORDS[member])
    return " or ".join(dict.fromkeys(words))
