"""Trace files as numbered lines: plain or gzip, never more than one line and one chunk in memory, every failure with its place."""

from __future__ import annotations

import codecs
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError

CHUNK_BYTES = 1 << 16
"""Bytes of text taken from the file or out of the decompressor at a time."""

_ZIPPED_BYTES = 1 << 14

LONGEST_LINE = 999_999
"""Characters a line may have where one line is one request (some 70 million tokens in Mooncake's 512-token blocks)."""

LONGEST_SESSION_LINE = 16_000_000
"""Characters a line may have where it lists 16-token blocks (10^7 tokens are 5 MB) or a whole session."""

_GZIP_MAGIC = b"\x1f\x8b"


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading bytes, or raise InputError saying why it cannot be read.

    >>> open_file("no-such-trace.jsonl")
    Traceback (most recent call last):
    simcache.errors.InputError: path(='no-such-trace.jsonl') does not exist.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError("path", path, "must name a file")
    try:
        mode = os.stat(path).st_mode
        file = open(path, "rb") if stat.S_ISREG(mode) else None  # noqa: SIM115  # the caller closes it
    except FileNotFoundError:
        raise InputError("path", str(path), "does not exist") from None
    except PermissionError:
        raise InputError("path", str(path), "may not be read (permission denied)") from None
    except (OSError, ValueError) as problem:  # ValueError: a NUL byte in the name
        raise InputError("path", str(path), f"cannot be opened ({getattr(problem, 'strerror', None) or problem})") from None
    if stat.S_ISDIR(mode):
        raise InputError("path", str(path), "is a directory, not a trace file")
    if file is None:
        raise InputError("path", str(path), "must be a regular file: traces are read twice", "Save the stream to a file first.")
    return file


class _Broken(Exception):
    """The compressed stream ended or stopped making sense; what came before it has been handed out."""


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    head = file.read(_ZIPPED_BYTES)
    if not head.startswith(_GZIP_MAGIC):
        while head:
            yield head
            head = file.read(CHUNK_BYTES)
        return
    # zlib itself, not gzip.open: on a truncated file everything before the cut still comes out, so the line number is right.
    inflate = zlib.decompressobj(31)
    pending = head
    while True:
        try:
            out = inflate.decompress(pending, CHUNK_BYTES)
        except zlib.error as problem:
            raise _Broken(f"is a damaged gzip file ({problem})") from None
        if out:
            yield out
        pending = inflate.unconsumed_tail
        if inflate.eof:
            pending = (inflate.unused_data or file.read(_ZIPPED_BYTES)).lstrip(b"\0")
            if not pending:
                return
            inflate = zlib.decompressobj(31)  # gzip files may be concatenated
        elif not pending and not out:
            pending = file.read(_ZIPPED_BYTES)
            if not pending:
                raise _Broken("is a truncated gzip file")
        elif not pending:
            pending = file.read(_ZIPPED_BYTES)


def _text(raw: bytes, first_line: int, path: str | Path) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as problem:
        line = first_line + raw.count(b"\n", 0, problem.start)
        rule = "must be UTF-8 text"
        raise InputError("line", raw[max(0, problem.start - 8) : problem.start + 8], rule, path=path, line=line) from None


def _guarded(file: BinaryIO, path: str | Path, lines_before: list[int]) -> Iterator[bytes]:
    chunks = _chunks(file)
    first = True
    while True:
        try:
            chunk = next(chunks, None)
        except _Broken as problem:
            raise InputError("file", Path(path).name, str(problem), path=path, line=lines_before[0]) from None
        except OSError as problem:
            raise InputError(
                "file", Path(path).name, f"cannot be read ({problem.strerror})", path=path, line=lines_before[0]
            ) from None
        if chunk is None:
            return
        yield chunk.removeprefix(b"\xef\xbb\xbf") if first else chunk
        first = False


def line_batches(path: str | Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines without their newline), batch after batch; blank lines are kept as empty strings.

    Raises InputError with path and line for text that is not UTF-8, a line of more than ``longest`` characters and a
    truncated or damaged gzip stream, after the lines before it have been yielded.

    >>> import tempfile, pathlib
    >>> p = pathlib.Path(tempfile.mkdtemp()) / "t.txt"; _ = p.write_text("a\\n\\nb")
    >>> list(line_batches(p))
    [(1, ['a', '']), (3, ['b'])]
    """
    line, rest = [1], b""
    with open_file(path) as file:
        for chunk in _guarded(file, path, line):
            cut = chunk.rfind(b"\n")
            if cut < 0:
                rest += chunk
            else:
                # Only the line that began in an earlier chunk can be longer than a chunk.
                _check_length(rest, chunk.find(b"\n"), longest, path, line[0])
                lines = _text(rest + chunk[:cut], line[0], path).split("\n")
                yield line[0], lines
                line[0] += len(lines)
                rest = chunk[cut + 1 :]
            _check_length(rest, 0, longest, path, line[0])
        if rest:
            yield line[0], [_text(rest, line[0], path)]


def text_chunks(path: str | Path) -> Iterator[str]:
    """The file's text in chunks that ignore lines; errors as in ``line_batches``.

    >>> import tempfile, pathlib
    >>> p = pathlib.Path(tempfile.mkdtemp()) / "t.txt"; _ = p.write_text("a\\nb")
    >>> list(text_chunks(p))
    ['a\\nb']
    """
    line = [1]
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_file(path) as file:
        for chunk in _guarded(file, path, line):
            try:
                text = decoder.decode(chunk)
            except UnicodeDecodeError:
                _text(chunk, line[0], path)
                raise InputError("text", chunk[:16], "must be UTF-8 text", path=path, line=line[0]) from None
            line[0] += text.count("\n")
            yield text


def _check_length(rest: bytes, more: int, longest: int, path: str | Path, line: int) -> None:
    if len(rest) + more > longest:
        shown = rest[:40].decode(errors="replace") + "..."
        raise InputError("line", shown, f"must have at most {longest:,} characters", path=path, line=line)


def numbered_lines(path: str | Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, str]]:
    """(line number from 1, line) of every line that is not blank; errors as in ``line_batches``.

    >>> import tempfile, pathlib
    >>> p = pathlib.Path(tempfile.mkdtemp()) / "t.txt"; _ = p.write_text("a\\n\\nb\\n")
    >>> list(numbered_lines(p))
    [(1, 'a'), (3, 'b')]
    """
    for first, lines in line_batches(path, longest):
        for line, text in enumerate(lines, first):
            if text and not text.isspace():
                yield line, text
