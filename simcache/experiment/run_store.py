"""Runs kept under the digest of all they depend on: a sweep that was stopped goes on, two sweeps share, none gets a stale run."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any, Final

from ..errors import InputError
from ..whole_files import whole_file
from .runs import SCHEMA_VERSION, Run

_ENDING: Final = ".json"
_WAY_OUT: Final = "Runs that were finished are kept: the same command goes on from them."


class RunStore:
    """A folder of runs, one small file each, named by key (``digests.run_key``).

    A file appears whole or not at all, so a process may die at any instant, and several may share a folder. A file that is
    not what was written counts as absent, and its name goes into ``corrupted``. Raises InputError where it cannot write.

    >>> from tempfile import TemporaryDirectory
    >>> run = Run(seed=3, figures={"slo_share": 1.0}, quantiles={}, variances={})
    >>> with TemporaryDirectory() as folder:
    ...     store = RunStore(folder); store.put("ab12", run); store.get("ab12") == run, store.get("cd34")
    (True, None)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.corrupted: list[str] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise InputError("store", str(self.folder), f"cannot be written: {error.strerror or error}", _WAY_OUT) from None

    def path(self, key: str) -> Path:
        """Where the run of ``key`` lies; a folder per two letters, so that none holds a million files."""
        return self.folder / key[:2] / f"{key}{_ENDING}"

    def get(self, key: str) -> Run | None:
        """The run of ``key``, or None."""
        path = self.path(key)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError):
            text = ""
        run = _parsed(text, key)
        if run is None:
            self.corrupted.append(path.name)
        return run

    def put(self, key: str, run: Run) -> None:
        """Keep ``run``; what another process kept under the same key is the same run, and is replaced by it."""
        with whole_file(self.path(key), name="store", way_out=_WAY_OUT, make_folder=True) as partial:
            partial.write_text(_text(run, key), encoding="utf-8")


def _text(run: Run, key: str) -> str:
    body = json.dumps(run.to_json(), allow_nan=False, separators=(",", ":"))
    head = {"schema_version": SCHEMA_VERSION, "key": key, "sha256": hashlib.sha256(body.encode()).hexdigest()}
    return f"{json.dumps(head)}\n{body}\n"


def _parsed(text: str, key: str) -> Run | None:
    head, _, body = text.partition("\n")
    try:
        said: Any = json.loads(head)
        body = body.removesuffix("\n")
        sound = said["key"] == key and said["sha256"] == hashlib.sha256(body.encode()).hexdigest()
        if not sound or said["schema_version"] != SCHEMA_VERSION:
            return None
        return Run.from_json(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
