"""What can go wrong, in one grammar: where, name(=value) rule, way out."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

_SHOWN = 60


def shown(value: object) -> str:
    """The repr of ``value``, cut so that one bad field can never flood a terminal.

    >>> shown("x" * 1000)[-22:]
    'x... (1002 characters)'
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**_SHOWN:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


class SimcacheError(Exception):
    """Base of every error that simcache raises on purpose; the CLI prints it and exits with status 2."""


class InputError(SimcacheError, ValueError):
    """A value that somebody gave breaks a rule: says name, value, rule and way out; file and line for data.

    >>> str(InputError("users", -1, "must be at least 1"))
    'users(=-1) must be at least 1.'
    """

    def __init__(
        self,
        name: str,
        value: object,
        rule: str,
        way_out: str = "",
        path: str | Path | None = None,
        line: int | None = None,
    ) -> None:
        self.name, self.value, self.rule, self.way_out, self.path, self.line = name, value, rule, way_out, path, line
        # args must rebuild the error: SimPy does type(error)(*error.args) when a process fails, and so does pickle
        super().__init__(name, value, rule, way_out, path, line)

    def __str__(self) -> str:
        where = "" if self.path is None else f"{self.path}: " if self.line is None else f"{self.path}:{self.line}: "
        return f"{where}{self.name}(={shown(self.value)}) {self.rule}." + (f" {self.way_out}" if self.way_out else "")


class UnknownNameError(InputError):
    """A name that is not on the list: says the near ones, or all of them when there are few."""

    def __init__(
        self, name: str, value: object, known: Iterable[str], path: str | Path | None = None, line: int | None = None
    ) -> None:
        import difflib  # here: only a misspelt name needs it

        names = sorted(known)
        near = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
        listed = ", ".join(names) if len(names) <= 24 else ", ".join(names[:24]) + f", ... ({len(names)} in all)"
        way_out = (f"Did you mean {' or '.join(map(repr, near))}? " if near else "") + f"Known: {listed}."
        super().__init__(name, value, "is not known", way_out, path=path, line=line)
        self.args = (name, value, names, path, line)


class DeadlockError(SimcacheError):
    """The run cannot go on: says what waits on what."""


class ExtrapolationWarning(UserWarning):
    """A latency was asked for outside the profile's measured range."""


def require(holds: bool, name: str, value: object, rule: str, way_out: str = "") -> None:
    """Raise InputError unless ``holds``.

    >>> require(3 > 0, "replicas", 3, "must be at least 1")
    """
    if not holds:
        raise InputError(name, value, rule, way_out)


def require_number(
    name: str, value: object, *, at_least: float | None = None, above: float | None = None, at_most: float | None = None
) -> None:
    """Raise InputError unless ``value`` is a finite real number inside the bounds (bool is no number).

    >>> require_number("rate", 0.5, above=0)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(name, value, "must be a number")
    if not abs(value) <= sys.float_info.max:  # NaN fails too, and so does an integer that no float can hold
        raise InputError(name, value, "must be finite")
    if at_least is not None and value < at_least:
        raise InputError(name, value, f"must be at least {at_least:g}")
    if above is not None and value <= above:
        raise InputError(name, value, f"must be above {above:g}")
    if at_most is not None and value > at_most:
        raise InputError(name, value, f"must be at most {at_most:g}")


def require_count(name: str, value: object, *, at_least: int = 1) -> None:
    """Raise InputError unless ``value`` is an int of at least ``at_least``.

    >>> require_count("replicas", 4)
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(name, value, "must be a whole number")
    if value < at_least:
        raise InputError(name, value, f"must be at least {at_least}")
