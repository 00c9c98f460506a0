"""What a study varies: any key of a scenario, over a list or a range; every combination, or a Latin hypercube of them."""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, Final

import numpy as np

from ..errors import InputError, require, require_count, require_number
from ..scenario import Scenario
from ..scenario_kinds import FAMILIES, INNER_KINDS, NOTHING, Builder, field_types, kind_of
from ..streams import stream

MOST_CELLS: Final = 100_000
_LOOK_FIRST: Final = ("backend", "workload", "warming")
"""Where a bare name such as ``replicas`` is looked for, after the scenario's own fields."""
_STEPS: Final = re.compile("[0-9]{1,9}")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One key and what it takes: ``values``, or anything from ``low`` to ``high`` (whole numbers where both are).

    ``log``: even steps are even factors. ``steps``: how many values a grid takes of a range (None: every whole number).

    >>> Axis(key="replicas", low=1, high=4).grid()
    (1, 2, 3, 4)
    >>> Axis(key="kv_tokens", low=1_000, high=100_000, steps=3, log=True).grid()
    (1000, 10000, 100000)
    """

    key: str
    values: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.values is not None:
            require(len(self.values) > 0, self.key, [], "must have at least one value")
            labels = [label(value) for value in self.values]
            twice = sorted({each for each in labels if labels.count(each) > 1})
            require(not twice, self.key, twice, "must not repeat a value")
            return
        require_number(f"{self.key}.from", self.low)
        require_number(f"{self.key}.to", self.high)
        assert self.low is not None
        assert self.high is not None
        require(self.low < self.high, f"{self.key}.to", self.high, f"must be above from, {self.low:g}")
        require(not self.log or self.low > 0, f"{self.key}.from", self.low, "must be above 0 where log is true")
        if self.steps is not None:
            require_count(f"{self.key}.steps", self.steps, at_least=2)

    @classmethod
    def of(cls, key: str, given: Any) -> Axis:
        """From a list, a Python range, or a table ``{from, to, log, steps}``.

        >>> Axis.of("replicas", [1, 2]).values
        (1, 2)
        """
        if isinstance(given, Mapping) and "from" in given and "to" in given:
            for name in given:
                require(name in ("from", "to", "log", "steps"), f"{key}.{name}", given[name], "is not a key of a range")
            log, steps = given.get("log", False), given.get("steps")
            require(isinstance(log, bool), f"{key}.log", log, "must be true or false")
            return cls(key=key, low=given["from"], high=given["to"], log=log, steps=steps)
        if isinstance(given, (list, tuple, range)):
            return cls(key=key, values=tuple(given))
        raise InputError(key, given, "must be a list of values or a range", "For example [1, 2, 4] or {from = 1, to = 16}.")

    @classmethod
    def parse(cls, text: str) -> Axis:
        """From ``KEY=V1,V2,...`` or ``KEY=LOW..HIGH``, with ``:STEPS`` and ``:log`` behind a range.

        >>> Axis.parse("replicas=1..4").grid(), Axis.parse("warming=none,on-focus").values
        ((1, 2, 3, 4), ('none', 'on-focus'))
        """
        key, equals, rest = text.partition("=")
        key, rest = key.strip(), rest.strip()
        require(bool(equals and key and rest), "--vary", text, "must be KEY=V1,V2,... or KEY=LOW..HIGH", "As in replicas=1..16.")
        bounds, *options = rest.split(":")
        low, dots, high = bounds.partition("..")
        if not dots:
            return cls(key=key, values=tuple(_toml_value(each.strip()) for each in _split(rest)))
        steps = [int(each) for each in options if _STEPS.fullmatch(each)]
        known = all(_STEPS.fullmatch(each) or each == "log" for each in options) and len(steps) <= 1
        require(known, key, rest, "must be LOW..HIGH, :STEPS and :log", "As in kv_tokens=100000..800000:8:log.")
        given = (_toml_value(low.strip()), _toml_value(high.strip()))
        return cls(key=key, low=given[0], high=given[1], log="log" in options, steps=steps[0] if steps else None)

    @property
    def whole(self) -> bool:
        """Whether a range holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def count(self) -> int:
        """How many values a grid takes. Raises InputError for a range of numbers without steps."""
        if self.values is not None:
            return len(self.values)
        if self.steps is not None:
            return self.steps
        assert self.low is not None
        assert self.high is not None
        way_out = "Give steps, or take a Latin hypercube."
        require(self.whole, self.key, [self.low, self.high], "is a range of numbers without end in a grid", way_out)
        return int(self.high - self.low) + 1

    def grid(self) -> tuple[Any, ...]:
        """The values that a grid takes; a step that rounds to the whole number of the one before is left out."""
        if self.values is not None:
            return self.values
        assert self.low is not None
        assert self.high is not None
        if self.steps is None:
            require(self.count <= MOST_CELLS, self.key, self.count, f"must be at most {MOST_CELLS:,} values", "Give steps.")
            return tuple(range(int(self.low), int(self.high) + 1))
        spaced = np.geomspace if self.log else np.linspace
        values = spaced(float(self.low), float(self.high), self.steps).tolist()
        return tuple(dict.fromkeys(round(value) for value in values)) if self.whole else tuple(values)

    def at(self, share: float) -> Any:
        """The value at ``share`` (0 up to 1, exclusive) of the axis.

        >>> Axis(key="replicas", low=1, high=4).at(0.99), Axis(key="x", values=("a", "b")).at(0.5)
        (4, 'b')
        """
        if self.values is not None:
            return self.values[int(share * len(self.values))]
        assert self.low is not None
        assert self.high is not None
        top = self.high + 1 if self.whole else self.high
        value = self.low * (top / self.low) ** share if self.log else self.low + share * (top - self.low)
        return min(int(value), self.high) if self.whole else float(value)


def grid(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Every combination, the last axis fastest. Raises InputError, with the count, for more than MOST_CELLS.

    >>> grid([Axis(key="a", values=(1, 2)), Axis(key="b", values=(3,))])
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    count = math.prod(axis.count for axis in axes)
    way_out = "Take fewer values, or a Latin hypercube of so many points as you can afford."
    require(count <= MOST_CELLS, "grid", count, f"must be at most {MOST_CELLS:,} points", way_out)
    return [dict(zip([axis.key for axis in axes], values, strict=True)) for values in itertools.product(*(a.grid() for a in axes))]


def latin_hypercube(axes: Sequence[Axis], points: int, seed: int = 0) -> list[dict[str, Any]]:
    """``points`` combinations of which each axis, cut into so many equal slices, has one in every slice.

    McKay, Beckman and Conover (1979): a permutation per axis, uniform within the slice.

    >>> sorted(point["a"] for point in latin_hypercube([Axis(key="a", low=1, high=4)], 4))
    [1, 2, 3, 4]
    """
    require_count("points", points)
    require(points <= MOST_CELLS, "points", points, f"must be at most {MOST_CELLS:,}")
    require(len(axes) > 0, "axes", 0, "must be at least one for a Latin hypercube")
    columns = []
    for number, axis in enumerate(axes):
        rng = stream(seed, "latin hypercube", number)
        shares = (rng.permutation(points) + rng.random(points)) / points
        columns.append([axis.at(min(float(share), 1 - 1e-12)) for share in shares])
    return [dict(zip([axis.key for axis in axes], row, strict=True)) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Cell:
    """One scenario of a study, the ``changes`` that made it (full key -> value), and the name ``of`` what was changed."""

    scenario: Scenario
    changes: Mapping[str, Any]
    of: str

    @property
    def name(self) -> str:
        """The scenario's own name, unique in its study."""
        return self.scenario.name


def cells(scenarios: Sequence[Scenario], points: Sequence[Mapping[str, Any]], make: Builder | None = None) -> list[Cell]:
    """Every scenario at every point, each once, named by what was changed.

    A key that a scenario does not have (``replicas`` of a hosted API) leaves it as it is, and points that agree in all others
    are one cell. Raises InputError for a key that none has, or a value that a scenario refuses.

    >>> from simcache import Cluster, TypingSessions
    >>> base = Scenario(name="chat", workload=TypingSessions(users=3), backend=Cluster())
    >>> [cell.name for cell in cells([base], grid([Axis(key="replicas", values=(1, 2))]))]
    ['chat, replicas=1', 'chat, replicas=2']
    """
    make = make or Builder()
    found: dict[tuple[int, tuple[tuple[str, str], ...]], Cell] = {}
    applied: set[str] = set()
    for number, base in enumerate(scenarios):
        for point in points:
            scenario, changes = base, {}
            for key, value in point.items():
                full = full_key(scenario, key)
                if full is None:
                    continue
                applied.add(key)
                scenario = varied(scenario, full, value, make)
                changes[full] = value
            name = cell_name(base.name, changes)
            identity = (number, tuple((full, label(value)) for full, value in changes.items()))
            found.setdefault(identity, Cell(replace(scenario, name=name), changes, base.name))
    for key in points[0] if points else ():
        if key not in applied:
            known = sorted({name for scenario in scenarios for name in keys(scenario)})
            raise make.unknown(key, points[0][key], "is not a key of the scenario", known)
    names = [cell.name for cell in found.values()]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, "scenarios", twice, "must have different names")
    return list(found.values())


def cell_name(base: str, changes: Mapping[str, Any]) -> str:
    """What a cell is called: the scenario it was made of, and what was changed.

    >>> cell_name("chat", {"backend.replicas": 2})
    'chat, replicas=2'
    """
    return ", ".join([base, *(f"{full.rpartition('.')[2]}={label(value)}" for full, value in changes.items())])


def keys(scenario: Scenario) -> list[str]:
    """The keys that can be varied, dotted, down to the parts of parts.

    >>> from simcache import Server, TypingSessions
    >>> "backend.kv_tokens" in keys(Scenario(workload=TypingSessions(users=3), backend=Server()))
    True
    """

    def below(part: Any, prefix: str) -> Iterator[str]:
        cls: Any = type(part)
        if is_dataclass(part) or hasattr(part, "_fields"):
            for name in field_types(cls):
                yield f"{prefix}{name}"
                yield from below(getattr(part, name), f"{prefix}{name}.")

    return [*below(scenario, ""), *(f"{family}.kind" for family in FAMILIES)]


def full_key(scenario: Scenario, key: str) -> str | None:
    """``key`` as it is spelled in full: ``replicas`` is ``backend.replicas``. None: the scenario does not have it.

    >>> from simcache import Cluster, TypingSessions
    >>> full_key(Scenario(workload=TypingSessions(users=3), backend=Cluster()), "replicas")
    'backend.replicas'
    """
    known = set(keys(scenario))
    return next((full for full in (key, *(f"{part}.{key}" for part in _LOOK_FIRST)) if full in known), None)


def value_at(scenario: Scenario, key: str) -> Any:
    """What ``scenario`` has at the full ``key``.

    >>> from simcache import Cluster, TypingSessions
    >>> value_at(Scenario(workload=TypingSessions(users=3), backend=Cluster()), "workload.users")
    3
    """
    part: Any = scenario
    for name in key.split("."):
        part = getattr(part, name)
    return part


def varied(scenario: Scenario, key: str, value: Any, make: Builder | None = None) -> Scenario:
    """``scenario`` with the field at the full ``key`` changed to a Python object, or to what a scenario file would say.

    A text for a whole part names its kind: ``warming`` = "on-focus". Raises InputError, with the full key.

    >>> from simcache import Server, TypingSessions
    >>> scenario = Scenario(workload=TypingSessions(users=3), backend=Server())
    >>> type(varied(scenario, "warming", "on-focus").warming).__name__
    'WarmOnFocus'
    """
    changed: Scenario = _varied(scenario, key.split("."), value, key, make or Builder())
    return changed


def _varied(part: Any, path: Sequence[str], value: Any, key: str, make: Builder) -> Any:
    name, rest = path[0], path[1:]
    now = getattr(part, name)
    new: Any
    if isinstance(part, Scenario) and name in FAMILIES and rest in ([], ["kind"]):
        if isinstance(value, str):
            new = now if kind_of(now, FAMILIES[name]) == value else make.part(name, {"kind": value})
        else:
            new = make.part(name, value) if isinstance(value, dict) else value
    elif rest:
        new = _varied(now, rest, value, key, make)
    elif value is None or not isinstance(value, (str, int, float, list, dict)):
        new = value
    else:
        cls: Any = type(part)
        new = make.value(field_types(cls)[name], value, key)
    try:
        return replace(part, **{name: new}) if is_dataclass(part) else part._replace(**{name: new})  # type: ignore[type-var]
    except InputError as error:
        above = key[: len(key) - len(".".join(path))]
        raise make.at(error, error.name if error.name.startswith(above) else f"{above}{error.name}") from None


def label(value: Any) -> str:
    """A value of an axis as a table says it: numbers and texts as they are, objects as a scenario file spells them.

    >>> from simcache.warming import WarmOnFocus
    >>> label(4), label("none"), label(None), label(WarmOnFocus())
    ('4', 'none', 'none', 'on-focus')
    """
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(label, value))}]"
    if isinstance(value, Mapping):
        inside = [f"{name}={label(each)}" for name, each in value.items() if name != "kind"]
        return f"{value.get('kind', '')}({', '.join(inside)})" if inside else str(value.get("kind", "{}"))
    kind = next((found for kinds in (*FAMILIES.values(), INNER_KINDS) if (found := kind_of(value, kinds))), None)
    if kind is None or not is_dataclass(value):
        return str(value)
    inside = [f"{f.name}={label(getattr(value, f.name))}" for f in fields(value) if _differs(f, getattr(value, f.name))]
    return f"{kind}({', '.join(inside)})" if inside else kind


def _differs(field: Any, value: Any) -> bool:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return default is MISSING or value != default


def _toml_value(text: str) -> Any:
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
    return value


def _split(text: str) -> Iterator[str]:
    """``text`` at the commas that stand in no bracket and no quote."""
    depth, quote, start = 0, "", 0
    for i, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            yield text[start:i]
            start = i + 1
    yield text[start:]
