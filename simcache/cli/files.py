"""Where a command writes: a folder that appears whole or not at all, and replaces only what simcache wrote."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..errors import InputError

MARK: Final = "results.json"
"""The file by which a folder is known to be simcache's own, so that replacing it can destroy nobody else's work."""


def named_for_files(name: str) -> str:
    """``name`` as a file name of letters, digits, dots and dashes.

    >>> named_for_files("Hosted API, no warming")
    'hosted-api-no-warming'
    """
    return re.sub(r"[^\w.]+", "-", name.lower()).strip("-.")[:80] or "unnamed"


def folder_names(names: Sequence[str]) -> dict[str, str]:
    """A folder name for each of ``names``, all different.

    >>> folder_names(["a b", "a-b"])
    {'a b': 'a-b', 'a-b': 'a-b-2'}
    """
    folders: dict[str, str] = {}
    for name in names:
        base = folder = named_for_files(name)
        number = 1
        while folder in folders.values():
            number += 1
            folder = f"{base}-{number}"
        folders[name] = folder
    return folders


@contextmanager
def output_folder(folder: Path | None) -> Iterator[Path | None]:
    """A new folder to fill, which takes the place of ``folder`` when the block ends well; None: nothing is written.

    Raises InputError at once, before any work is done, where ``folder`` cannot be written or holds somebody else's files.
    """
    if folder is None:
        yield None
        return
    _check_replaceable(folder)
    target = folder.resolve()  # a link to a folder stays a link
    made = _make_parents(target.parent)
    try:
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        _remove_empty(made)
        raise _unwritable(folder, error) from None
    try:
        yield stage
        _swap(stage, target)
    except OSError as error:
        raise _unwritable(folder, error) from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        _remove_empty(made)


def _check_replaceable(folder: Path) -> None:
    try:
        if not folder.is_dir():
            if folder.exists() or folder.is_symlink():
                raise InputError("out", str(folder), "must be a folder")
        elif any(folder.iterdir()) and not (folder / MARK).is_file():
            rule = f"holds files that simcache did not write (it has no {MARK})"
            raise InputError("out", str(folder), rule, "Name a new or an empty folder.")
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError("out", str(folder), f"cannot be written: {error.strerror or error}")


def _make_parents(parent: Path) -> list[Path]:
    """Make ``parent``; the folders that this made, innermost first."""
    missing = [each for each in (parent, *parent.parents) if not each.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(missing)
        raise _unwritable(parent, error) from None
    return missing


def _remove_empty(folders: Sequence[Path]) -> None:
    for each in folders:
        try:
            each.rmdir()
        except OSError:
            return  # not empty: the run succeeded, or somebody else moved in


def _swap(stage: Path, target: Path) -> None:
    """Put ``stage`` in the place of ``target``; at no instant is neither of them there under a name of its own."""
    stage.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only their owner may read
    if not target.exists():
        os.rename(stage, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    os.rename(target, old)
    try:
        os.rename(stage, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def our_folder(folder: Path, marks: Sequence[str]) -> None:
    """Make ``folder``, which keeps what is in it. Raises InputError where it cannot be written, or holds other things than ours.

    ``marks``: names of which one lies in every folder that this command has written.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError("out", str(folder), "must be a folder")
        if folder.is_dir() and any(folder.iterdir()) and not any((folder / mark).exists() for mark in marks):
            rule = f"holds files that simcache did not write (it has no {marks[0]})"
            raise InputError("out", str(folder), rule, "Name a new or an empty folder.")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from None
