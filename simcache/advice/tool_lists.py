"""What changes in tool definitions: their order, their number, the order of their keys, a date in a description."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from .families import Family, Study
from .pieces import canonical_json, change_of

_OFTEN: Final = 0.2
"""Tool sets per conversation from which conversations do not merely belong to different agents."""
_FEW_VERSIONS: Final = 0.05
_KINDS: Final = {
    "timestamp": "timestamp",
    "id": "request-id",
    "counter": "unstable-system",
    "json": "json-order",
    "whitespace": "json-order",
}
_SCHEMAS: Final = ("parameters", "input_schema", "inputSchema", "description", "name")


@dataclass(kw_only=True)
class ToolChange:
    """One kind of change in the tools of a family: where it is seen first, and the requests that differ from the one before."""

    family: int
    kind: str
    path: str
    requests: list[int] = field(default_factory=list)
    detail: str = ""


def tool_changes(study: Study) -> list[ToolChange]:
    """Every change that breaks the prefix at the tools, by family and kind."""
    return [change for number, family in enumerate(study.families) for change in _changes(study, number, family)]


def _changes(study: Study, number: int, family: Family) -> list[ToolChange]:
    found: dict[str, ToolChange] = {}
    sets: set[frozenset[str]] = set()
    moved_sets: list[int] = []
    last: int | None = None
    for index in family.requests:
        if study.tools(index) is not (study.tools(last) if last is not None else None):
            sets.add(frozenset(study.tool_name(part.content) for part in study.tools(index)))
        before = study.previous[index]
        for other, in_thread in ((before, True), (last, False)):
            if other is None or (not in_thread and other == before):
                continue
            for kind, path in _differences(study, other, index):
                if kind == "tool-set" and not in_thread:
                    moved_sets.append(index)
                    found_path = path
                    found.setdefault("sets", ToolChange(family=number, kind="tool-set", path=found_path))
                    continue
                change = found.setdefault(kind, ToolChange(family=number, kind=kind, path=path))
                if not change.requests or change.requests[-1] != index:
                    change.requests.append(index)
        last = index
    across = found.pop("sets", None)
    if across is not None and "tool-set" not in found and len(sets) >= max(3, _OFTEN * len(family.openers)):
        across.requests = moved_sets
        found["tool-set"] = across
    return [change for change in found.values() if change.kind != "tool-text" or _often(study, family, change)]


def _often(study: Study, family: Family, change: ToolChange) -> bool:
    """A definition that changes with every other request, not once with a new version."""
    change.kind = "tool-set"
    return len(change.requests) >= max(2, _FEW_VERSIONS * len(family.requests))


def _differences(study: Study, one: int, other: int) -> Iterator[tuple[str, str]]:
    """(kind, path) of what differs between the tools of two requests."""
    before, after = study.tools(one), study.tools(other)
    if before is after or [part.content for part in before] == [part.content for part in after]:
        return
    names = [[study.tool_name(part.content) for part in parts] for parts in (before, after)]
    if sorted(names[0]) != sorted(names[1]):
        place = next((i for i, (a, b) in enumerate(zip(*names, strict=False)) if a != b), min(map(len, names)))
        parts = after if place < len(after) else before
        yield "tool-set", parts[place].path
        return
    if names[0] != names[1]:
        place = next(i for i, (a, b) in enumerate(zip(*names, strict=True)) if a != b)
        yield "tool-order", after[place].path
    by_name: dict[str, list[int]] = defaultdict(list)
    for part in before:
        by_name[study.tool_name(part.content)].append(part.content)
    for part in after:
        there = by_name[study.tool_name(part.content)]
        if part.content in there or not there:
            continue
        yield from _definition(study, there[0], part.content, part.path)


def _definition(study: Study, one: int, other: int, path: str) -> Iterator[tuple[str, str]]:
    texts = [study.log.contents[content].text for content in (one, other)]
    values = [study.log.contents[content].value() for content in (one, other)]
    where = f"{path}{_where(*values)}"
    if canonical_json(texts[0]) == canonical_json(texts[1]):
        yield "json-order", where
        return
    yield _KINDS.get(change_of(texts), "tool-text"), where


def _where(one: Any, other: Any) -> str:
    """The known key at which two definitions differ, e.g. ".function.parameters"; "" where it is none of these."""
    inner = ".function" if all(isinstance(each, dict) and isinstance(each.get("function"), dict) for each in (one, other)) else ""
    if inner:
        one, other = one["function"], other["function"]
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return inner
    key = next((key for key in _SCHEMAS if repr(one.get(key)) != repr(other.get(key))), None)
    return inner if key is None else f"{inner}.{key}"
