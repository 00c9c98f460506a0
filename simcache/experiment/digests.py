"""What a run depends on, as digests: its scenario by value, the files it reads, this code, the packages below it.

A value is digested by what it is, not by how it prints: dataclasses by class and fields, arrays by their bytes, a text or path
that names a file by the file's content. So a renamed or moved trace is the same trace, and one that changed is another.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..cache.presets import rules_for
from ..cache.rates import hosted_prices
from ..errors import InputError
from ..latency.catalogue import find_profile
from ..price_list import parse_date
from ..scenario import HostedApi, Scenario

_PACKAGE: Final = Path(__file__).resolve().parent.parent
_PACKAGES: Final = ("simcache", "numpy", "scipy", "simpy", "genai-prices", "numba")
"""Distributions whose version may change a figure; one that is not installed counts as such."""
_READ_AT_ONCE: Final = 1 << 20


@dataclass(frozen=True)
class Digested:
    """A scenario ready to be run: its profile loaded, its ``digest``, and the ``files`` it reads as (path, size, mtime in ns).

    ``digest`` None: it holds an object that is known by its code alone (``opaque`` names it), so its runs cannot be kept.
    """

    scenario: Scenario
    digest: str | None
    files: tuple[tuple[str, int, int], ...]
    opaque: str = ""

    def unchanged(self) -> bool:
        """Whether every file is still the one that was digested."""
        return all(_stamp(path) == (size, mtime_ns) for path, size, mtime_ns in self.files)


def digested(scenario: Scenario) -> Digested:
    """``scenario`` with its profile loaded, and the digest of all that its runs depend on but the seed.

    Its name is left out: two studies may call one scenario by two names. Raises InputError for a profile or file that cannot
    be read.

    >>> from simcache import Scenario, Server, TypingSessions
    >>> a = Scenario(workload=TypingSessions(users=3), backend=Server())
    >>> digested(a).digest == digested(a.but(name="b")).digest != digested(a.but(backend__kv_tokens=9_999)).digest
    True
    """
    backend = scenario.backend
    if isinstance(backend.profile, str):
        loaded: Any = find_profile(backend.profile)
        scenario = replace(scenario, backend=replace(backend, profile=loaded))
    hasher, files = hashlib.sha256(), dict[str, tuple[int, int]]()
    try:
        for piece in _pieces(replace(scenario, name=""), files):
            hasher.update(piece)
        for piece in _pieces([_prices(scenario), code_digest(), *package_versions().items()], files):
            hasher.update(piece)
    except _OpaqueError as error:
        return Digested(scenario, None, (), str(error))
    stamps = tuple((path, *stamp) for path, stamp in files.items())
    return Digested(scenario, hasher.hexdigest(), stamps)


def run_key(digest: str, seed: int) -> str:
    """The name under which a run of one seed is kept.

    >>> len(run_key("abc", 1)), run_key("abc", 1) == run_key("abc", 2)
    (64, False)
    """
    return hashlib.sha256(f"{digest} {seed}".encode()).hexdigest()


@cache
def code_digest() -> str:
    """The digest of simcache's own code and data: a price in ``data/`` changes it as a line of code does.

    >>> len(code_digest())
    64
    """
    hasher = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in (".py", ".toml") and path.is_file():
            hasher.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()


@cache
def package_versions() -> Mapping[str, str]:
    """Version of Python, of simcache as installed, and of each package that may change a figure.

    >>> sorted(package_versions())[:2]
    ['genai-prices', 'numba']
    """
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": ".".join(map(str, sys.version_info[:2]))}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    return versions


def environment_digest() -> str:
    """The digest of this code and these packages: what a worker must have too, for its runs to be those that were asked for.

    >>> len(environment_digest())
    64
    """
    return hashlib.sha256(f"{code_digest()} {sorted(package_versions().items())}".encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content, read once while its size and time of change stay. Raises InputError where it cannot be read.

    >>> len(file_digest(__file__))
    64
    """
    try:
        return _file_digest(os.fspath(path), *_stamp(path))
    except OSError as error:
        raise InputError("file", str(path), f"cannot be read: {error.strerror}") from None


def _stamp(path: str | Path) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return (-1, -1)
    return stat.st_size, stat.st_mtime_ns


@cache
def _file_digest(path: str, size: int, mtime_ns: int) -> str:
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_READ_AT_ONCE):
            hasher.update(block)
    return hasher.hexdigest()


def _prices(scenario: Scenario) -> Any:
    """What a hosted model costs: its rules and its prices today or on the scenario's day. None: nobody knows, the run will say."""
    api = scenario.backend
    if not isinstance(api, HostedApi):
        return None
    try:
        rules = rules_for(api.provider, api.model, api.rules, zero_data_retention=scenario.zero_data_retention)
        prices = hosted_prices(
            rules, api.model, None if api.prices_at is None else parse_date("prices_at", api.prices_at), batch=api.batch
        )
    except InputError:
        return None
    # The day itself is no price: a run of yesterday stands while prices do. Only peak hours ask which day of the week it is.
    weekday = prices.starts_at.weekday() if rules.peaks else None
    return [rules, replace(prices.tariff, as_of=""), weekday]


class _OpaqueError(Exception):
    pass


def _pieces(value: Any, files: dict[str, tuple[int, int]]) -> Iterator[bytes]:
    """``value`` as bytes of which no two different values share any: every piece says its kind and its length."""
    if value is None or isinstance(value, (bool, int, float, complex)):
        yield _piece(type(value).__name__, repr(value).encode())
    elif isinstance(value, (str, Path)):
        name = os.fspath(value)
        if _may_be_a_file(value, name) and os.path.isfile(name):
            files[name] = _stamp(name)
            yield _piece("file", file_digest(name).encode())
        else:
            yield _piece("text", name.encode("utf-8", "surrogatepass"))
    elif isinstance(value, bytes):
        yield _piece("bytes", value)
    elif isinstance(value, np.generic):
        yield from _pieces(value.item(), files)
    elif isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise _OpaqueError("an array of Python objects")
        yield _piece("array", f"{value.dtype.str} {value.shape}".encode())
        yield _piece("data", np.ascontiguousarray(value).tobytes())
    elif isinstance(value, type):
        yield _piece("class", _class_name(value).encode())
    elif is_dataclass(value):
        yield _piece("object", _class_name(type(value)).encode())
        for field in fields(value):
            yield _piece("field", field.name.encode())
            yield from _pieces(getattr(value, field.name), files)
    elif isinstance(value, Mapping):
        yield _piece("mapping", str(len(value)).encode())
        for key in sorted(value, key=repr):
            yield from _pieces(key, files)
            yield from _pieces(value[key], files)
    elif isinstance(value, Sequence):
        name = _class_name(type(value)) if type(value) not in (tuple, list) else "sequence"
        yield _piece(name, str(len(value)).encode())
        for each in value:
            yield from _pieces(each, files)
    else:
        raise _OpaqueError(_said(value))


def _may_be_a_file(value: object, name: str) -> bool:
    return (isinstance(value, Path) or "." in name or os.sep in name) and "\0" not in name and len(name) < 4096


def _piece(kind: str, data: bytes) -> bytes:
    return f"{kind}:{len(data)}:".encode() + data


def _class_name(cls: type) -> str:
    # The code of simcache is in the digest, the user's own is not: what their class does may change under the same name.
    if cls.__module__.split(".")[0] not in ("simcache", "builtins"):
        raise _OpaqueError(f"{cls.__module__}.{cls.__qualname__}")
    return f"{cls.__module__}.{cls.__qualname__}"


def _said(value: object) -> str:
    return f"{type(value).__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
