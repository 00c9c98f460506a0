"""Rows parsed from JSON lines, and from one JSON document that holds a long list, without holding the document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from .lines import LONGEST_LINE, numbered_lines, text_chunks

_decode = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\r\n]*")


def parsed(text: str, path: str | Path, line: int) -> Any:
    """``text`` as JSON, or InputError with its place.

    >>> parsed("[1]", "t.jsonl", 1)
    [1]
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:  # ValueError: also a number of more than 4,300 digits
        why = "nested too deeply" if isinstance(problem, RecursionError) else str(problem).split(": line 1")[0].split("; use")[0]
        raise InputError("line", text, f"must be one JSON value ({why})", path=path, line=line) from None


def json_lines(path: str | Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, Any]]:
    """(line number, parsed value) of every line that is not blank.

    >>> import tempfile, pathlib
    >>> p = pathlib.Path(tempfile.mkdtemp()) / "t.jsonl"; _ = p.write_text('{"t": 0}\\n')
    >>> list(json_lines(p))
    [(1, {'t': 0})]
    """
    loads = json.loads
    for line, text in numbered_lines(path, longest):
        try:
            row = loads(text)
        except (ValueError, RecursionError):
            row = parsed(text, path, line)
        yield line, row


class _Document:
    """A moving window on a JSON text: values are decoded at ``at``, more text is fetched when one does not end in it."""

    def __init__(self, path: str | Path, longest: int) -> None:
        self.path, self.longest = path, longest
        self.chunks = text_chunks(path)
        self.text, self.at, self.ended = "", 0, False
        self.line, self.counted = 1, 0

    def more(self) -> bool:
        chunk = next(self.chunks, None)
        if chunk is None:
            self.ended = True
            return False
        self.here()
        self.text, self.at, self.counted = self.text[self.at :] + chunk, 0, 0
        return True

    def here(self) -> int:
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line

    def error(self, rule: str) -> InputError:
        return InputError("text", self.text[self.at : self.at + 80], rule, path=self.path, line=self.here())

    def peek(self) -> str:
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # the pattern matches everywhere
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, mark: str) -> None:
        if self.peek() != mark:
            raise self.error(f"must be JSON: {mark!r} belongs here")
        self.at += 1

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = _decode(self.text, self.at)
            except RecursionError:
                raise self.error("must be JSON that is not nested too deeply") from None
            except ValueError:
                if len(self.text) - self.at > self.longest:
                    raise self.error(f"must be JSON, at most {self.longest:,} characters a value") from None
                if self.ended or not self.more():
                    raise self.error("must be JSON, whole and not cut short") from None
                continue
            # A number at the very end of the window may go on in the next chunk.
            if end < len(self.text) or self.ended or not self.more():
                self.at = end
                return value


def document_rows(path: str | Path, name: str, longest: int) -> Iterator[tuple[int, Any]]:
    """(line number, value) of the members of the list ``name`` in a file that is one JSON object.

    ``longest`` bounds the characters of one member.

    >>> import tempfile, pathlib
    >>> p = pathlib.Path(tempfile.mkdtemp()) / "t.json"; _ = p.write_text('{"doc": "x", "requests": [{"t": 0},\\n{"t": 1}]}')
    >>> list(document_rows(p, "requests", 1000))
    [(1, {'t': 0}), (2, {'t': 1})]
    """
    document = _Document(path, longest)
    if not document.peek():
        return
    document.take("{")
    found = False
    while document.peek() != "}":
        key = document.value()
        document.take(":")
        if key != name:
            document.value()
        else:
            found = True
            yield from _members(document)
        if document.peek() != ",":
            break
        document.take(",")
    document.take("}")
    if document.peek():
        raise document.error("must not go on after the JSON document")
    if not found:
        raise InputError(name, None, "is missing from the JSON document", path=path, line=1)


def _members(document: _Document) -> Iterator[tuple[int, Any]]:
    document.take("[")
    if document.peek() == "]":
        document.take("]")
        return
    while True:
        document.peek()
        line = document.here()
        yield line, document.value()
        if document.peek() == "]":
            document.take("]")
            return
        document.take(",")
