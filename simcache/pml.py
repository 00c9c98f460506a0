"""Prompt Markup Language: a schema names reusable modules and gives them positions; a prompt says which it takes, and what is new.

The language is that of Prompt Cache (Gim et al., MLSys 2024; github.com/yale-sys/prompt-cache): ``<schema>`` holds text,
``<module>`` (nested at will), ``<union>`` (members share their first position; a prompt takes at most one) and, in modules,
``<param name len>`` (also ``<parameter name length>``). ``<prompt schema>`` holds one element per module taken, arguments as its
attributes, and new text. ``<system>``, ``<user>``, ``<assistant>`` group without a token of their own: a model's markers are not
known here. Positions are contiguous inside a module's text and jump where a prompt leaves something out; new text begins behind
the schema's last position. What such a prompt does to an answer's quality is not asked here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from .errors import InputError, UnknownNameError
from .pml_xml import Element, parse, read_text
from .prompt import Prompt, Segment

CountTokens = Callable[[str], int]

ROLES: Final = ("system", "user", "assistant")
PARAMETERS: Final = ("param", "parameter")
LENGTHS: Final = ("len", "length")
"""The paper's spelling and the published code's, of the element and of the most tokens that an argument may have; mixed by many."""
RESERVED: Final = ("schema", "prompt", "module", "union", *PARAMETERS, *ROLES)
LARGEST_PARAMETER: Final = 10_000_000


class Module(NamedTuple):
    """What is encoded and stored as one: the text of one module of a schema, without that of modules inside it.

    ``version`` names text and positions: stored states are of use only under the version they were encoded for.
    ``tokens`` are stored and loaded; ``encoded_tokens`` (with a placeholder per position of a parameter) are computed.
    """

    name: str
    version: str
    tokens: int
    encoded_tokens: int


class PlacedSegment(NamedTuple):
    """A segment of a prompt, the position id of its first token (the rest follow), and the module that holds its states.

    ``module`` None: computed in every request (new text, arguments, modules with ``cache="false"``).
    """

    segment: Segment
    start: int
    module: Module | None


PlacedPrompt = tuple[PlacedSegment, ...]


def about_tokens(text: str) -> int:
    """Four characters a token, rounded up: the rule of thumb for English; hand in your tokenizer's count for better.

    >>> about_tokens("Hello, world")
    3
    """
    return -(-len(text) // 4)


@dataclass(frozen=True)
class Text:
    """A run of a schema's own text."""

    segment: Segment
    start: int


@dataclass(frozen=True)
class Parameter:
    """A place for an argument of at most ``tokens`` tokens."""

    name: str
    tokens: int
    start: int


@dataclass(frozen=True)
class Scope:
    """A module of a schema, or the schema itself: its parts in order, positions from ``start`` to before ``end``.

    The members of a union are parts too, one after the other; ``union`` numbers the union a scope is a member of.
    ``module`` is what is stored of it; None where there is no text of its own, or ``cache="false"``.
    """

    name: str
    start: int
    end: int
    parts: tuple[Text | Parameter | Scope, ...]
    union: int | None
    module: Module | None

    def inner(self) -> dict[str, Scope]:
        """Modules that may be taken inside this one, by name."""
        return {part.name: part for part in self.parts if isinstance(part, Scope)}


@dataclass(frozen=True)
class Schema:
    """A schema as read: ``tokens`` is the number of position ids it takes, ``modules`` everything that can be stored.

    >>> schema = parse_schema('<schema name="s">Be brief. <module name="doc">A long text.</module></schema>')
    >>> schema.tokens, [module.name for module in schema.modules]
    (6, ['s/', 's/doc'])
    """

    name: str
    root: Scope
    modules: tuple[Module, ...]
    count_tokens: CountTokens

    @property
    def tokens(self) -> int:
        """Position ids of the whole schema: the model must have this many, and more for what is new."""
        return self.root.end


def read_schema(path: str | Path, *, count_tokens: CountTokens = about_tokens) -> Schema:
    """The schema in a file; errors as in :func:`parse_schema`, and InputError for a file that cannot be read.

    >>> import tempfile; where = Path(tempfile.mkdtemp()) / "s.pml"
    >>> _ = where.write_text('<schema name="s"><module name="doc">A long text.</module></schema>')
    >>> read_schema(where).name
    's'
    """
    return parse_schema(read_text(path), count_tokens=count_tokens, path=path)


def parse_schema(text: str, *, count_tokens: CountTokens = about_tokens, path: str | Path = "<schema>") -> Schema:
    """A schema from its text. Raises InputError, with file and line, for whatever PML does not know or allow.

    >>> parse_schema('<schema name="s"><module name="m"/><module name="m"/></schema>', path="s.pml")
    Traceback (most recent call last):
    simcache.errors.InputError: s.pml:1: module(='m') is defined twice in 's'. Give it another name.
    """
    root = parse(text, path)
    if root.tag != "schema":
        raise UnknownNameError("root element", root.tag, ["schema"], path=root.path, line=root.line)
    root.allow(("name",))
    builder = _Builder(root.attribute("name"), count_tokens)
    scope = builder.scope(root, root.attribute("name"), "", 0, None)
    return Schema(scope.name, scope, tuple(builder.modules), count_tokens)


def read_prompt(path: str | Path, schemas: Iterable[Schema] | Schema) -> PlacedPrompt:
    """The prompt in a file; errors as in :func:`parse_prompt`, and InputError for a file that cannot be read."""
    return parse_prompt(read_text(path), schemas, path=path)


def parse_prompt(text: str, schemas: Iterable[Schema] | Schema, *, path: str | Path = "<prompt>") -> PlacedPrompt:
    """A prompt from its text, over one of ``schemas``: segments in the prompt's order, positions as the schema says.

    Modules stand in the order in which the prompt takes them; a schema's text outside modules is always there. An argument
    that is not given leaves its positions empty. Raises InputError, with file and line, for modules and parameters that the
    schema does not have, arguments that are too long, two members of a union, a module taken twice, text inside a module.

    >>> schema = parse_schema('<schema name="s"><module name="a">first</module><module name="b">second</module></schema>')
    >>> [(piece.segment.tokens, piece.start) for piece in parse_prompt('<prompt schema="s"><b/>Which?</prompt>', schema)]
    [(2, 2), (2, 4)]
    """
    known = {schema.name: schema for schema in ([schemas] if isinstance(schemas, Schema) else schemas)}
    root = parse(text, path)
    if root.tag != "prompt":
        raise UnknownNameError("root element", root.tag, ["prompt"], path=root.path, line=root.line)
    root.allow(("schema",))
    name = root.attribute("schema")
    if name not in known:
        raise UnknownNameError("schema", name, known, path=root.path, line=root.line)
    placed = tuple(_Placing(known[name]).prompt(root))
    if not placed:
        raise root.refusal("prompt", name, "holds no token", "Take a module or write some text.")
    return placed


def segments(placed: Iterable[PlacedSegment]) -> Prompt:
    """The prompt as any store sees it: segments in order, without positions and modules.

    >>> schema = parse_schema('<schema name="s"><module name="a">first</module></schema>')
    >>> [segment.tokens for segment in segments(parse_prompt('<prompt schema="s"><a/>Which?</prompt>', schema))]
    [2, 2]
    """
    return tuple(piece.segment for piece in placed)


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()


def _segment(text: str, count_tokens: CountTokens) -> Segment:
    """Identity is the text alone: a store that compares prefixes finds it wherever it comes from."""
    return Segment(f"text:{_digest(text)}", count_tokens(text))


class _Builder:
    """Turns the elements of one schema into scopes, handing out positions."""

    def __init__(self, schema: str, count_tokens: CountTokens) -> None:
        self.schema, self.count_tokens = schema, count_tokens
        self.modules: list[Module] = []
        self.unions = 0

    def scope(self, element: Element, name: str, path: str, start: int, union: int | None) -> Scope:
        cache = element.attributes.get("cache", "true")
        if cache not in ("true", "false"):
            raise element.refusal("cache", cache, "must be 'true' or 'false'")
        at = len(self.modules)
        parts, end = self.parts(element, path, start)
        seen: set[tuple[bool, str]] = set()
        for part, source in parts:
            if not isinstance(part, Text):
                kind = "module" if isinstance(part, Scope) else "parameter"
                if (isinstance(part, Scope), part.name) in seen:
                    raise source.refusal(kind, part.name, f"is defined twice in {name!r}", "Give it another name.")
                seen.add((isinstance(part, Scope), part.name))
        own = [part for part, _ in parts if isinstance(part, Text)]
        tokens = sum(part.segment.tokens for part in own)
        module = None
        if tokens and cache == "true":
            holes = [(part.start, part.tokens) for part, _ in parts if isinstance(part, Parameter)]
            version = _digest([(part.segment, part.start) for part in own], holes)
            module = Module(f"{self.schema}/{path}", version, tokens, tokens + sum(length for _, length in holes))
            self.modules.insert(at, module)
        return Scope(name, start, end, tuple(part for part, _ in parts), union, module)

    def parts(self, element: Element, path: str, start: int) -> tuple[list[tuple[Text | Parameter | Scope, Element]], int]:
        """Everything directly inside one element, each with the element to blame, and the position behind it all."""
        found: list[tuple[Text | Parameter | Scope, Element]] = []
        for child in element.children:
            if isinstance(child, tuple):
                segment = _segment(child[0], self.count_tokens)
                if segment.tokens:
                    found.append((Text(segment, start), element))
                start += segment.tokens
            elif child.tag == "module":
                child.allow(("name", "cache"))
                scope = self.module(child, path, start, None)
                found.append((scope, child))
                start = scope.end
            elif child.tag == "union":
                members = self.union(child, path, start)
                found += members
                start = max(scope.end for scope, _ in members)
            elif child.tag in PARAMETERS:
                if not path:
                    raise child.refusal("element", child.tag, "is allowed inside a <module> only")
                parameter = self.parameter(child, start)
                found.append((parameter, child))
                start += parameter.tokens
            elif child.tag in ROLES:
                child.allow(())
                inside, start = self.parts(child, path, start)
                found += inside
            else:
                raise UnknownNameError("element", child.tag, ["module", "union", *PARAMETERS, *ROLES], child.path, child.line)
        return found, start

    def module(self, element: Element, path: str, start: int, union: int | None) -> Scope:
        name = _name(element)
        if name in RESERVED:
            way_out = "A prompt names a module by an element of its own."
            raise element.refusal("module", name, "is a word of the language", way_out)
        return self.scope(element, name, f"{path}/{name}" if path else name, start, union)

    def union(self, element: Element, path: str, start: int) -> list[tuple[Scope, Element]]:
        element.allow(("scaffold",))
        self.unions += 1
        number, members = self.unions, []
        for child in element.children:
            if isinstance(child, tuple) or child.tag != "module":
                what, line = child if isinstance(child, tuple) else (child.tag, child.line)
                rule = "must not stand in a <union>: it holds <module> elements only"
                raise InputError("element" if isinstance(child, Element) else "text", what, rule, path=element.path, line=line)
            child.allow(("name", "cache"))
            members.append((self.module(child, path, start, number), child))
        if not members:
            raise element.refusal("union", "", "must hold at least one <module>")
        scaffold = element.attributes.get("scaffold")
        names = [scope.name for scope, _ in members]
        if scaffold is not None and scaffold not in names:
            raise UnknownNameError("scaffold", scaffold, names, path=element.path, line=element.line)
        return members

    def parameter(self, element: Element, start: int) -> Parameter:
        element.allow(("name", *LENGTHS, "scaffold"))
        word, *second = [each for each in LENGTHS if each in element.attributes] or LENGTHS[:1]
        if second:
            raise element.refusal(
                "length", element.attributes["length"], "stands beside len, which says the same", "Give one of them."
            )
        if element.children:
            raise element.refusal("element", element.tag, "must be empty", "Give the words it stands for as scaffold.")
        name, length = _name(element), element.attribute(word)
        if not (length.isascii() and length.isdigit() and 1 <= len(length) <= 8 and 1 <= int(length) <= LARGEST_PARAMETER):
            raise element.refusal(word, length, f"must be a whole number from 1 to {LARGEST_PARAMETER:,}")
        scaffold = self.count_tokens(element.attributes.get("scaffold", ""))
        if scaffold > int(length):
            raise element.refusal("scaffold", element.attributes["scaffold"], f"has {scaffold} tokens, more than {word} {length}")
        return Parameter(name, int(length), start)


def _name(element: Element) -> str:
    name = element.attribute("name")
    if not name.replace("-", "_").replace(".", "_").isidentifier() or name[0] in "-.":
        rule = "must begin with a letter and hold letters, digits, '_', '-' and '.' only"
        raise element.refusal("name", name, rule, "A prompt uses it as the name of an element or attribute.")
    return name


class _Placing:
    """Lays one prompt out over its schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.count_tokens = schema.count_tokens
        self.end = schema.tokens

    def prompt(self, root: Element) -> Iterator[PlacedSegment]:
        items = list(_flat(root))
        last = max((index for index, item in enumerate(items) if isinstance(item, Element)), default=-1)
        yield from self.scope(self.schema.root, root, items[: last + 1])
        for item in items[last + 1 :]:
            assert isinstance(item, tuple)
            yield from self.new_text(item[0])

    def scope(self, scope: Scope, element: Element, items: list[Element | tuple[str, int]]) -> Iterator[PlacedSegment]:
        """What is taken stands in the prompt's order, text of the scope's own as soon as all that it precedes allows."""
        arguments = self.arguments(scope, element)
        inner = scope.inner()
        taken: set[str] = set()
        chosen: dict[int, str] = {}  # which member of a union is taken
        done = 0
        for item in items:
            if isinstance(item, tuple):
                if scope is not self.schema.root:
                    rule = f"must not stand inside <{element.tag}>: new text goes between or behind modules"
                    raise InputError("text", item[0], rule, path=element.path, line=item[1])
                yield from self.new_text(item[0])
                continue
            if item.tag not in inner:
                raise UnknownNameError(f"module of {scope.name!r}", item.tag, inner, path=item.path, line=item.line)
            child = inner[item.tag]
            if child.name in taken:
                raise item.refusal("module", item.tag, "is taken twice", "Its positions hold it once.")
            if child.union is not None and (rival := chosen.setdefault(child.union, child.name)) != child.name:
                raise item.refusal("module", item.tag, f"stands in one union with {rival!r}, which is taken", "Take one of them.")
            taken.add(child.name)
            place = scope.parts.index(child)
            yield from self.own(scope, scope.parts[done:place], arguments)
            done = max(done, place + 1)
            yield from self.scope(child, item, item.children)
        yield from self.own(scope, scope.parts[done:], arguments)

    def own(
        self, scope: Scope, parts: Iterable[Text | Parameter | Scope], arguments: dict[str, Segment]
    ) -> Iterator[PlacedSegment]:
        for part in parts:
            if isinstance(part, Text):
                yield PlacedSegment(part.segment, part.start, scope.module)
            elif isinstance(part, Parameter) and part.name in arguments:
                yield PlacedSegment(arguments[part.name], part.start, None)

    def arguments(self, scope: Scope, element: Element) -> dict[str, Segment]:
        if scope is self.schema.root:
            return {}
        parameters = {part.name: part for part in scope.parts if isinstance(part, Parameter)}
        found = {}
        for name, value in element.attributes.items():
            if name not in parameters:
                raise UnknownNameError(f"parameter of {scope.name!r}", name, parameters, path=element.path, line=element.line)
            segment, most = _segment(value.strip(), self.count_tokens), parameters[name].tokens
            if segment.tokens > most:
                rule = f"has {segment.tokens} tokens, more than the {most} that the schema gives it"
                raise element.refusal(name, value, rule)
            if segment.tokens:
                found[name] = segment
        return found

    def new_text(self, text: str) -> Iterator[PlacedSegment]:
        segment = _segment(text, self.count_tokens)
        if segment.tokens:
            yield PlacedSegment(segment, self.end, None)
        self.end += segment.tokens


def _flat(element: Element) -> Iterator[Element | tuple[str, int]]:
    """A prompt's items with the role elements opened up."""
    for child in element.children:
        if isinstance(child, Element) and child.tag in ROLES:
            child.allow(())
            yield from _flat(child)
        else:
            yield child
