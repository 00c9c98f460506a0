"""A layout in lines of part paths, so that today's and the proposed one can be compared without a word of their text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import unified_diff
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from .mending import Unit
from .proposal import PLACES

if TYPE_CHECKING:
    from .advisor import Advice

_NUMBERED: Final = re.compile(r"(.*)\[(\d+)\](\.content)?$")
_SORTED: Final = "tools: all of them, sorted by name, written the same every time"
_FEW: Final = 3
"""Parts in a row that are named one by one; more become one line."""


def layout_diff(advice: Advice) -> list[str]:
    """What changes from today's layout to the proposed one, as a unified diff of part paths, for the request of the log whose
    template is the most frequent and whose conversation is the longest.

    >>> layout_diff.__name__
    'layout_diff'
    """
    index = typical_request(advice)
    source = advice.log.requests[index]
    today = _lines(advice.mender.in_place(advice.mended, index))
    today = _marked(today, advice.todays.units[index], advice.todays.marks[index], advice.todays.ttl, {})
    units = advice.layout.units[index]
    reasons = dict(advice.marks[index])
    proposed = _lines(_told(advice, units))
    if any(key[0] == "tools" for key in advice.mended):
        proposed = list(dict.fromkeys(_SORTED if line.startswith(("tools[", "functions[")) else line for line in proposed))
    proposed = _marked(proposed, units, advice.layout.marks[index], advice.layout.ttl, reasons)
    return list(unified_diff(today, proposed, f"today (line {source.line})", "proposed", n=100, lineterm=""))


def typical_request(advice: Advice) -> int:
    """Index of the request that stands for the log."""
    study = advice.study
    families = Counter(study.family_of)
    family = max(families, key=lambda number: (families[number], -number))
    return max(study.families[family].requests, key=lambda index: (len(study.log.requests[index].parts), -index))


def _told(advice: Advice, units: Sequence[Unit]) -> list[tuple[str, str]]:
    """Units as lines; what was moved says what it is."""
    kinds = {defect.path: defect.kind for defect in advice.defects if defect.moves}
    return [(unit.path, kinds.get(unit.path, "") if unit.region in ("tail", "own", "talk") else "") for unit in units]


def _lines(parts: Sequence[tuple[str, str]]) -> list[str]:
    """One line a part; more than a few numbered ones in a row become one."""
    lines: list[str] = []
    for (stem, varies), group in groupby(parts, key=lambda each: (_stem(each[0]), each[1])):
        paths = [path for path, _ in group]
        said = f"  <- {varies}" if varies else ""
        if len(paths) > _FEW and stem:
            lines.append(f"{paths[0]} .. {paths[-1]}{said}")
        else:
            lines += [f"{path}{said}" for path in paths]
    return lines


def _stem(path: str) -> str:
    return path.split("[", 1)[0] if "[" in path else path


def _marked(lines: Sequence[str], units: Sequence[Unit], marks: Sequence[int], ttl: str, reasons: dict[int, str]) -> list[str]:
    """Lines with a breakpoint's line behind the last line of its part."""
    out = list(lines)
    for mark in sorted(marks, reverse=True):
        unit = units[mark - 1]
        moved = unit.region == "tail"
        place = max((i for i, line in enumerate(out) if _holds(line, unit.path) and (moved or "<-" not in line)), default=None)
        if place is None and unit.region == "tools" and _SORTED in out:
            place = out.index(_SORTED)
        if place is None:
            place = max((i for i, line in enumerate(out) if _holds(line, unit.path)), default=len(out) - 1)
        out.insert(place + 1, f"== breakpoint, {ttl}" + (f": {PLACES[reasons[mark]]}" if reasons.get(mark) in PLACES else ""))
    return out


def _holds(line: str, path: str) -> bool:
    """Whether a line is that of a part, or of a row of parts that it belongs to."""
    names = line.split("  <- ", maxsplit=1)[0].split(" .. ")
    if len(names) == 1:
        return names[0] == path
    return _stem(names[0]) == _stem(path) and _number(names[0]) <= _number(path) <= _number(names[1])


def _number(path: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\[(\d+)\]", path))


def configuration(advice: Advice) -> dict[str, Any]:
    """What to set: the lifetime, and behind which parts breakpoints go, in how many requests, and why."""
    places: dict[str, Counter[str]] = {}
    for units, marks in zip(advice.layout.units, advice.marks, strict=True):
        for mark, why in marks:
            places.setdefault(why, Counter())[_general(units[mark - 1].path)] += 1
    ttl = advice.layout.ttl
    return {
        "ttl": ttl,
        "breakpoints": [
            {
                "behind": path,
                "place": why,
                "why": PLACES.get(why, "as today"),
                "requests": count,
                "set": marker(advice.provider, ttl),
            }
            for why, counts in places.items()
            for path, count in _most(counts)
        ],
    }


def _most(counts: Counter[str]) -> Iterator[tuple[str, int]]:
    """The paths that make up most of a place."""
    total = counts.total()
    for path, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
        if count >= 0.1 * total:
            yield path, count


def _general(path: str) -> str:
    """The path with message numbers left open: the newest message stands at another number in every request."""
    return re.sub(r"^(messages|input)\[\d+\]", r"\1[*]", path)


def marker(provider: str, ttl: str) -> dict[str, Any]:
    """What a client writes into the part to set a breakpoint, as the provider spells it.

    >>> marker("anthropic", "1h")
    {'cache_control': {'type': 'ephemeral', 'ttl': '1h'}}
    """
    if provider in ("openai", "azure"):
        return {"prompt_cache_breakpoint": {"mode": "explicit"}}
    if provider in ("bedrock", "aws"):
        return {"cachePoint": {"type": "default", **({} if ttl == "5m" else {"ttl": ttl})}}
    return {"cache_control": {"type": "ephemeral", **({} if ttl == "5m" else {"ttl": ttl})}}
