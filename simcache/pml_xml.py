"""The XML that Prompt Markup Language is written in: text -> elements with their lines; nothing reaches outside the file."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from xml.parsers import expat

from .errors import InputError, UnknownNameError

LARGEST_BYTES: Final = 64_000_000
"""A schema of 64 MB holds some 16 million tokens: more than any model has positions for."""
DEEPEST: Final = 64
"""Nesting that people write stays below ten levels."""


class Element:
    """One element: ``children`` are elements and (text, line) pairs in the file's order; text is stripped and never empty."""

    __slots__ = ("attributes", "children", "line", "path", "tag")

    def __init__(self, tag: str, attributes: dict[str, str], path: str | Path, line: int) -> None:
        self.tag, self.attributes, self.path, self.line = tag, attributes, path, line
        self.children: list[Element | tuple[str, int]] = []

    def attribute(self, name: str) -> str:
        """An attribute that must be there and not be empty."""
        value = self.attributes.get(name, "")
        if not value.strip():
            raise self.refusal(name, value, f"must be given in <{self.tag}>")
        return value

    def allow(self, attributes: Iterable[str]) -> None:
        """Refuse every attribute that is not among ``attributes``."""
        known = tuple(attributes)
        for name in self.attributes:
            if name not in known:
                raise UnknownNameError(f"attribute of <{self.tag}>", name, known, path=self.path, line=self.line)

    def refusal(self, name: str, value: object, rule: str, way_out: str = "") -> InputError:
        """The error to raise about this element."""
        return InputError(name, value, rule, way_out, path=self.path, line=self.line)


def read_text(path: str | Path) -> str:
    """A PML file's text. Raises InputError for what is no readable regular file of UTF-8 text below ``LARGEST_BYTES``."""
    try:
        file = Path(path)
        mode = file.stat()
        if not stat.S_ISREG(mode.st_mode):
            raise InputError("path", str(path), "must be a regular file")
        if mode.st_size > LARGEST_BYTES:
            raise InputError("path", str(path), f"must have at most {LARGEST_BYTES:,} bytes")
        raw = file.read_bytes()
    except (OSError, ValueError, TypeError) as problem:
        if isinstance(problem, InputError):
            raise
        raise InputError("path", str(path), f"cannot be read ({getattr(problem, 'strerror', None) or problem})") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = 1 + raw.count(b"\n", 0, problem.start)
        bad = raw[max(0, problem.start - 8) : problem.start + 8]
        raise InputError("text", bad, "must be UTF-8", path=path, line=line) from None


def parse(text: str, path: str | Path) -> Element:
    """The root element of ``text``. Raises InputError, with line, for what is not XML or nested more than ``DEEPEST`` levels.

    A document type declaration is refused as soon as it begins: no entity is ever defined, none is expanded and nothing is
    fetched. So are processing instructions. Comments are skipped.

    >>> parse("<schema name='s'>\\n <module name='m'>Hello</module></schema>", "s.pml").children[0].line
    2
    """
    reader = _Reader(path)
    parser = reader.parser
    if not text.strip():
        raise InputError("file", Path(path).name, "is empty", "A schema begins with <schema>, a prompt with <prompt>.", path, 1)
    try:
        parser.Parse(text.encode(), True)
    except UnicodeEncodeError as problem:
        line = 1 + text.count("\n", 0, problem.start)
        raise InputError("text", text[problem.start], "must be Unicode characters", path=path, line=line) from None
    except expat.ExpatError as problem:
        reason = expat.errors.messages.get(problem.code, "not well-formed")
        lines = text.split("\n")[problem.lineno - 1 : problem.lineno]
        at = lines[0].strip() if lines else ""
        raise InputError("text", at, f"is not XML: {reason}", path=path, line=problem.lineno) from None
    assert reader.root is not None
    return reader.root


class _Reader:
    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.root: Element | None = None
        self.open: list[Element] = []
        self.text: list[str] = []
        self.text_line = 1
        # The encoding given here wins over the one that the file's first line claims.
        self.parser = expat.ParserCreate("utf-8")
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.characters
        self.parser.StartDoctypeDeclHandler = self.doctype
        self.parser.ProcessingInstructionHandler = self.instruction

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.flush()
        element = Element(tag, attributes, self.path, self.parser.CurrentLineNumber)
        if len(self.open) == DEEPEST:
            raise element.refusal("element", tag, f"must not be nested more than {DEEPEST} levels deep")
        if self.open:
            self.open[-1].children.append(element)
        else:
            self.root = element
        self.open.append(element)

    def end(self, tag: str) -> None:
        self.flush()
        self.open.pop()

    def characters(self, text: str) -> None:
        if self.text or text.strip():
            if not self.text:
                self.text_line = self.parser.CurrentLineNumber
            self.text.append(text)

    def flush(self) -> None:
        if (text := "".join(self.text).strip()) and self.open:
            self.open[-1].children.append((text, self.text_line))
        self.text.clear()

    def doctype(self, name: str, *_: object) -> None:
        self._refuse("<!DOCTYPE>", name, "is refused: entities and external references have no place in PML")

    def instruction(self, target: str, _: str) -> None:
        self._refuse("processing instruction", target, "is refused: PML has none")

    def _refuse(self, name: str, value: str, rule: str) -> None:
        raise InputError(name, value, rule, "Remove it.", path=self.path, line=self.parser.CurrentLineNumber)
