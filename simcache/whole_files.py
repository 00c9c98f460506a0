"""A file appears whole or not at all, whatever ends the writing: an error, a full disk, a kill."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError


@contextmanager
def whole_file(path: str | Path, *, name: str = "path", way_out: str = "", make_folder: bool = False) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` when the block ends well, and is gone when it does not.

    It lies beside ``path`` (of a link: beside what that points to), so that taking the place is one renaming. Raises
    InputError ``name`` when something cannot be written, or ``path`` is a folder, a device or a pipe.

    >>> import tempfile; place = Path(tempfile.mkdtemp()) / "page.txt"
    >>> with whole_file(place) as partial: _ = partial.write_text("all of it")
    >>> place.read_text(), [each.name for each in place.parent.iterdir()]
    ('all of it', ['page.txt'])
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name[:40]}.{os.urandom(4).hex()}.part")
    try:
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            raise InputError(name, str(path), "cannot be written: it is no regular file")
        if make_folder:
            target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, target)
    except OSError as problem:
        raise InputError(name, str(path), f"cannot be written: {problem.strerror or problem}", way_out) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
