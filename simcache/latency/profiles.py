"""Profiles as TOML: the shipped catalogue, loading, saving. A key carries its unit; an unknown key is an error."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import InputError, UnknownNameError, require_number
from ..whole_files import whole_file
from .coefficients import Coefficients, Covariance, FitRecord, MeasuredRange
from .profile_kinds import HostedProfile, ServerProfile

if TYPE_CHECKING:
    from .kernel_tables import KernelTables

SCHEMA_VERSION: Final = 1
_FOLDER: Final = Path(__file__).parent.parent / "data" / "profiles"
_LARGEST: Final = 1e9  # seconds: beyond any latency, and far from where sums of floats overflow
_UNITS: Final = ("ns", "us", "ms", "s", "min", "h")
_KINDS: Final[dict[str, type[ServerProfile] | type[HostedProfile]]] = {"server": ServerProfile, "hosted": HostedProfile}
_HOSTED_NUMBERS: Final = ("base_s", "per_token_s", "per_cached_token_s", "hit_s", "jitter_sigma", "seconds_per_output_token")
_REQUIRED: Final = (
    "host_s",
    "host_per_seq_s",
    "floor_s",
    "base_s",
    "per_token_s",
    "attention_s",
    "per_decode_s",
    "per_kv_token_s",
    "per_kv_token_mixed_s",
)
"""A file gives these coefficients of a server, 0 or not; the others belong to one form of the fit, and are 0 where absent."""
_SHARED: Final = ("name", "provenance", "source", "date", "notes", "uncertainty95")
_OWN: Final = {
    "server": ("form", "model", "gpu", "gpus", "kv_bytes_per_token", "kv_tokens", "kv_tokens_source", "defaults"),
    "hosted": ("hit_probability",),
}
_WORDS: Final = ("name", "provenance", "source", "date", "form", "model", "gpu", "kv_tokens_source")


def profile_names() -> list[str]:
    """Names of the shipped profiles, sorted.

    >>> "llama-3-8b/a100/tp1" in profile_names()
    True
    """
    return sorted(path.relative_to(_FOLDER).with_suffix("").as_posix() for path in _FOLDER.rglob("*.toml"))


def load_profile(name_or_path: str | Path) -> ServerProfile | HostedProfile:
    """A shipped profile by name, or any profile by a path that ends in ``.toml``.

    Raises UnknownNameError (with near names) for a name that is not shipped, and InputError, with the path, for a file
    that is unreadable, has another schema version, an unknown key, a missing field, a wrong unit or an impossible value.

    >>> load_profile("llama-3-8b/a100/tp1").provenance
    'measured'
    """
    name = str(name_or_path)
    if name.endswith(".toml"):
        return _read(Path(name))
    if name not in (names := profile_names()):
        raise UnknownNameError("profile", name, names)
    return _read(_FOLDER / f"{name}.toml")


def save_profile(profile: ServerProfile | HostedProfile, path: str | Path) -> None:
    """Write ``profile`` as TOML; ``load_profile`` gives an equal one back (its covariance to 1e-12). Replaces the file at once.

    >>> import tempfile; where = Path(tempfile.mkdtemp()) / "toy.toml"
    >>> save_profile(ServerProfile(name="toy", coefficients=Coefficients(base_s=0.01)), where)
    >>> load_profile(where).prefill_s(1)
    0.01
    """
    if Path(path).suffix != ".toml":
        raise InputError("path", str(path), "must end in .toml")
    with whole_file(path) as partial:
        partial.write_text("\n".join(_written(profile)) + "\n", encoding="utf-8")


class _Table:
    """One TOML table on its way into a dataclass: takes keys one by one, then names what is left over."""

    def __init__(self, table: Any, prefix: str = "") -> None:
        self.prefix = prefix
        if not isinstance(table, dict):
            raise InputError(prefix.rstrip("."), table, "must be a table")
        self.left: dict[str, Any] = dict(table)
        self.known: list[str] = []

    def take(self, key: str, default: Any = MISSING) -> Any:
        self.known.append(key)
        if key in self.left:
            return self.left.pop(key)
        if default is MISSING:
            self._refuse_other_units(key)
            raise InputError(self.prefix + key, None, "is missing", f"The file must give {key}.")
        return default

    def number(self, key: str, default: Any = MISSING) -> Any:
        value = self.take(key, default)
        if value is default:
            return value
        require_number(self.prefix + key, value)
        if abs(value) > _LARGEST:
            raise InputError(self.prefix + key, value, f"must be at most {_LARGEST:g}")
        return float(value)

    def end(self) -> None:
        for known in self.known:
            self._refuse_other_units(known)
        for key in self.left:
            raise UnknownNameError(f"{self.prefix}key", key, self.known)

    def _refuse_other_units(self, key: str) -> None:
        stem, _, unit = key.rpartition("_")
        for other in _UNITS:
            if unit == "s" and other != "s" and f"{stem}_{other}" in self.left:
                wrong = f"{stem}_{other}"
                raise InputError(self.prefix + wrong, self.left[wrong], f"has the wrong unit: give seconds, as {key}")


def _read(path: Path) -> ServerProfile | HostedProfile:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise InputError("profile", str(path), f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, an integer of too many digits, nested too deeply
        raise InputError("profile", path.name, f"is not TOML: {error}", path=path) from error
    try:
        return _profile(_Table(table))
    except InputError as error:
        raise InputError(error.name, error.value, error.rule, error.way_out, path=path) from error


def _profile(top: _Table) -> ServerProfile | HostedProfile:
    version = top.take("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise InputError(
            "schema_version", version, f"must be {SCHEMA_VERSION}", "This release reads no other version of the format."
        )
    kind = top.take("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UnknownNameError("kind", kind, _KINDS)
    values: dict[str, Any] = {}
    for field in fields(_KINDS[kind]):
        if field.name in _SHARED or field.name in _OWN[kind]:
            value = top.take(field.name, field.default)
            if value is field.default and field.default is not MISSING:
                continue
            if field.name in _WORDS and not isinstance(value, str):
                raise InputError(field.name, value, "must be a text in quotes")
            if field.name == "uncertainty95":
                value = _pair(field.name, value)
            values[field.name] = _texts(field.name, value) if field.name in ("notes", "defaults") else value
    coefficients = _Table(top.take("coefficients"), "coefficients.")
    if kind == "server":
        values["coefficients"] = _server_coefficients(coefficients)
    else:
        values |= {name: coefficients.number(name) for name in _HOSTED_NUMBERS}
    coefficients.end()
    values["covariance"] = _covariance(top, coefficients.known)
    if (bounds := top.take("range", None)) is not None:
        values["range"] = _range(_Table(bounds, "range."))
    if (fit := top.take("fit", None)) is not None:
        values["fit"] = _fit(_Table(fit, "fit."))
    if kind == "server" and (tables := top.take("table", None)) is not None:
        values["table"] = _table(_Table(tables, "table."))
    top.end()
    return _KINDS[kind](**values)


def _server_coefficients(table: _Table) -> Coefficients:
    values: dict[str, Any] = {}
    for field in fields(Coefficients):
        default = MISSING if field.name in _REQUIRED else field.default
        take = table.take if field.name.endswith("_tokens") else table.number
        values[field.name] = take(field.name, default)
    return Coefficients(**values)


def _table(table: _Table) -> KernelTables:
    from .kernel_tables import KernelTables, table_rows

    sizes = table.take("graph_sizes")
    if not isinstance(sizes, list):
        raise InputError("table.graph_sizes", sizes, "must be a list of token counts")
    columns = {"dense": 2, "per_sequence": 2, "attention": 5}
    rows: dict[str, Any] = {name: table_rows(name, table.take(name), count) for name, count in columns.items()}
    table.end()
    return KernelTables(graph_sizes=tuple(sizes), **rows)


def _covariance(top: _Table, coefficients: list[str]) -> Covariance | None:
    stderr, correlation = top.take("stderr", None), top.take("correlation", None)
    if stderr is None and correlation is None:
        return None
    if stderr is None or correlation is None:
        raise InputError(
            "stderr" if stderr is None else "correlation", None, "is missing", "Give [stderr] and correlation, or neither."
        )
    errors = _Table(stderr, "stderr.")
    names = tuple(name for name in errors.left if name in coefficients)  # the correlation follows the order of [stderr]
    d = [errors.number(name) for name in names]
    errors.known = list(coefficients)
    errors.end()
    if any(error < 0 for error in d):
        raise InputError("stderr", d, "must be at least 0")
    if not isinstance(correlation, list) or [row for row in correlation if not isinstance(row, list)]:
        raise InputError("correlation", correlation, "must be rows of numbers")
    if len(correlation) != len(d) or any(len(row) != len(d) for row in correlation):
        raise InputError("correlation", correlation, f"must have {len(d)} rows and columns, one per key of [stderr]")
    for i, row in enumerate(correlation):
        for j, value in enumerate(row):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError("correlation", correlation, "must be rows of numbers")
            if not abs(value) <= 1 + 1e-9 or (i == j and abs(value - 1) > 1e-5):
                raise InputError(f"correlation[{i}][{j}]", value, "must lie in -1..1 and be 1 on the diagonal")
    matrix = tuple(tuple(value * d[i] * d[j] for j, value in enumerate(row)) for i, row in enumerate(correlation))
    return Covariance(names=names, matrix=matrix)


def _range(table: _Table) -> MeasuredRange:
    values: dict[str, Any] = {}
    for field in fields(MeasuredRange):
        value = table.take(field.name, field.default)
        values[field.name] = None if value is None else _pair(table.prefix + field.name, value)
    table.end()
    return MeasuredRange(**values)


def _fit(table: _Table) -> FitRecord:
    values: dict[str, Any] = {}
    for field in fields(FitRecord):
        value = table.take(field.name, field.default)
        if field.name == "command" and not isinstance(value, str):
            raise InputError(table.prefix + field.name, value, "must be a text in quotes")
        values[field.name] = value
    table.end()
    return FitRecord(**values)


def _pair(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(name, value, "must be [lowest, highest]")
    return tuple(value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError(name, value, "must be a list of texts")
    return tuple(value)


def _written(profile: ServerProfile | HostedProfile) -> Iterator[str]:
    kind = next(kind for kind, cls in _KINDS.items() if isinstance(profile, cls))
    yield f"schema_version = {SCHEMA_VERSION}"
    yield f"kind = {_toml(kind)}"
    values = {field.name: getattr(profile, field.name) for field in fields(profile)}
    yield from _lines({key: values[key] for key in (*_SHARED, *_OWN[kind])})
    if profile.covariance is not None:
        yield "# of the coefficients under [stderr], in their order"
        yield from _lines({"correlation": profile.covariance.correlation})
    numbers = profile.coefficients if isinstance(profile, ServerProfile) else profile
    own = [
        field.name
        for field in fields(Coefficients)
        if field.name in _REQUIRED or getattr(numbers, field.name, field.default) != field.default
    ]
    yield "\n[coefficients] # seconds; seconds per token, per sequence; attention_s: seconds per token squared"
    yield from _lines({name: getattr(numbers, name) for name in (own if isinstance(profile, ServerProfile) else _HOSTED_NUMBERS)})
    if profile.covariance is not None:
        yield "\n[stderr] # of the coefficients, each in its unit"
        yield from _lines(profile.covariance.standard_errors)
    if profile.range is not None:
        yield "\n[range] # lowest and highest measured, in tokens and sequences"
        yield from _lines({field.name: getattr(profile.range, field.name) for field in fields(MeasuredRange)})
    if isinstance(profile, ServerProfile) and (table := profile.table) is not None:
        from .kernel_tables import table_text

        yield "\n[table] # seconds of all layers; see KernelTables"
        yield from _lines({"graph_sizes": table.graph_sizes})
        for name in ("dense", "per_sequence", "attention"):
            yield f"{name} = '''\n{table_text(getattr(table, name))}'''"
    if profile.fit is not None:
        yield "\n[fit] # errors are fractions"
        yield from _lines({field.name: getattr(profile.fit, field.name) for field in fields(FitRecord)})


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if value is not None and value != ():
            yield f"{key} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (tuple, list)):
        if not value or not isinstance(value[0], (str, tuple, list)):
            return f"[{', '.join(map(_toml, value))}]"
        return "[\n" + "".join(f"    {_toml(item)},\n" for item in value) + "]"
    return repr(float(value)) if isinstance(value, float) else repr(int(value))
