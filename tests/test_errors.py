"""Errors survive being rebuilt from their args: by pickle, and by SimPy when a process fails."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from simcache.errors import InputError, UnknownNameError

ERRORS = [
    InputError("users", -1, "must be at least 1"),
    InputError("time", "x" * 999, "must be a number", "Look at the file.", path=Path("a.jsonl"), line=3),
    UnknownNameError("profile", "lama", ["llama", "other"], path="b.toml"),
    UnknownNameError("profile", "zzz", [f"name{i}" for i in range(30)]),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("rebuilt", [lambda e: pickle.loads(pickle.dumps(e)), lambda e: type(e)(*e.args)], ids=["pickle", "simpy"])
def test_an_error_can_be_rebuilt(error, rebuilt):
    again = rebuilt(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert (again.name, again.rule, again.path, again.line) == (error.name, error.rule, error.path, error.line)


def test_an_error_says_where_what_and_which_rule():
    assert str(ERRORS[1]) == f"a.jsonl:3: time(='{'x' * 59}... (1001 characters)) must be a number. Look at the file."
    assert str(ERRORS[2]) == "b.toml: profile(='lama') is not known. Did you mean 'llama'? Known: llama, other."
