"""Layouts as requests that the simulator can serve: units become segments, breakpoints counts of segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ..cache.rules import ProviderRules
from ..messages.parts import MessageLog
from ..prompt import Request, Segment
from .families import Study
from .mending import Unit
from .threads import conversation

GAP_S: Final = 10.0
"""Seconds between the requests of a log that knows no instants."""
_SHORTEST_SHARED: Final = 64
"""Characters that two texts must share at their beginning for it to count: less is no block of any provider."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How every request of a log is laid out: its ``units``, and after which of them (counted from 1) breakpoints stand.

    ``ttl``: the lifetime that writes ask for. ``delays_s``: by how much a request is held back by its client.
    """

    name: str
    units: Sequence[Sequence[Unit]]
    marks: Sequence[tuple[int, ...]]
    ttl: str
    delays_s: Mapping[int, float]


def starts_s(log: MessageLog) -> list[float]:
    """Seconds of every request from the first; where an instant is missing, ten seconds after the one before."""
    if log.timed:
        zero_s = min(request.started_at_s or 0.0 for request in log.requests)
        return [(request.started_at_s or 0.0) - zero_s for request in log.requests]
    return [index * GAP_S for index in range(len(log.requests))]


def output_tokens(study: Study) -> list[int | None]:
    """Output tokens of every request: by its usage, its response, or what its conversation repeats next; None: not known."""
    log, counts = study.log, study.counts
    found: list[int | None] = [None] * len(log)
    for index, before in enumerate(study.previous):
        request = log.requests[index]
        if request.usage is not None and request.usage.output_tokens:
            found[index] = request.usage.output_tokens
        elif request.answer is not None:
            found[index] = int(counts.tokens[request.answer])
        if before is not None and found[before] is None:
            old = {part.content for part in conversation(log.requests[before])}
            said = [part for part in conversation(request) if part.role == "assistant" and part.content not in old]
            found[before] = sum(int(counts.tokens[part.content]) for part in said) or None
    return found


def segments(study: Study, units: Sequence[Sequence[Unit]], rules: ProviderRules) -> list[tuple[Segment, ...]]:
    """Every request's units as segments under ``rules``.

    Where prefixes are found at any unit, a text that shares its beginning with another one at the same place is cut there, so that
    the simulator sees the shared tokens. Where they are found at breakpoints, a segment is a position of the provider's count:
    a run of tool calls or of results is one (so ``segment_ends`` says which units end one).
    """
    if rules.matching == "exact at breakpoints":
        return [tuple(_positions(request)) for request in units]
    return _cut(study, units)


def segment_ends(units: Sequence[Unit]) -> list[int]:
    """For every unit of a request at a provider that counts positions: after how many segments it ends."""
    ends, count = [], 0
    for before, unit in zip((None, *units), units, strict=False):
        if not (before is not None and unit.kind in ("call", "result") and before.kind == unit.kind):
            count += 1
        ends.append(count)
    return ends


def _positions(units: Sequence[Unit]) -> Iterator[Segment]:
    run: list[Unit] = []
    for unit in units:
        if run and not (unit.kind in ("call", "result") and run[-1].kind == unit.kind):
            yield _one(run)
            run = []
        run.append(unit)
    if run:
        yield _one(run)


def _one(run: Sequence[Unit]) -> Segment:
    if len(run) == 1:
        return Segment(run[0].text, run[0].tokens)
    return Segment(tuple(unit.text for unit in run), sum(unit.tokens for unit in run))


def _cut(study: Study, units: Sequence[Sequence[Unit]]) -> list[tuple[Segment, ...]]:
    """Cut texts where another one at the same place (behind the same prefix) stops agreeing with them."""
    nodes: dict[tuple[int, int], int] = {}
    children: dict[int, list[int]] = {}
    whole: set[int] = set()
    for request in units:
        node = 0
        for unit in request:
            below = nodes.get((node, unit.text))
            if below is None:
                below = nodes[node, unit.text] = len(nodes) + 1
                children.setdefault(node, []).append(unit.text)
            if unit.kind in ("image", "file"):
                whole.add(unit.text)
            node = below
    cuts = {
        (node, text): places
        for node, texts in children.items()
        if len(texts) > 1
        for text, places in _cuts(study, [text for text in texts if text not in whole]).items()
    }
    ends = {_last_node(request, nodes) for request in units}
    made: dict[tuple[int, tuple[int, ...]], tuple[Segment, ...]] = {}
    found = []
    for request in units:
        node, prompt, run = 0, list[Segment](), list[Unit]()
        for unit in request:
            places = cuts.get((node, unit.text))
            node = nodes[node, unit.text]
            if places is None:
                run.append(unit)
                if len(children.get(node, ())) != 1 or node in ends:  # what always comes together is one segment
                    prompt.append(_one(run))
                    run = []
                continue
            if run:
                prompt.append(_one(run))
                run = []
            if (unit.text, places) not in made:
                made[unit.text, places] = tuple(_pieces(study, unit, places))
            prompt += made[unit.text, places]
        found.append(tuple(prompt))
    return found


def _last_node(request: Sequence[Unit], nodes: Mapping[tuple[int, int], int]) -> int:
    node = 0
    for unit in request:
        node = nodes[node, unit.text]
    return node


def _cuts(study: Study, texts: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Text -> the lengths of beginnings that it shares with others and at which it must be cut."""
    order = sorted(texts, key=lambda number: study.texts[number])
    shared = [_agreeing(study.texts[a], study.texts[b]) for a, b in pairwise(order)]
    found: dict[int, set[int]] = {}
    for way in (range(len(order)), range(len(order) - 1, -1, -1)):
        falling: list[int] = []  # what is shared with those before, the longest last
        step = way.step
        for place in way:
            at = place - 1 if step > 0 else place
            if 0 <= at < len(shared) and place != way.start:
                limit = shared[at]
                while falling and falling[-1] > limit:
                    falling.pop()
                if limit >= _SHORTEST_SHARED and (not falling or falling[-1] < limit):
                    falling.append(limit)
                elif limit < _SHORTEST_SHARED:
                    falling = []
            if falling:
                found.setdefault(order[place], set()).update(falling)
    return {text: tuple(sorted(length for length in lengths if length < len(study.texts[text]))) for text, lengths in found.items()}


def _agreeing(one: str, other: str) -> int:
    """Leading characters on which two texts agree, by halving: texts that share much are compared at the speed of a copy."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _pieces(study: Study, unit: Unit, places: tuple[int, ...]) -> Iterator[Segment]:
    text, start, spent = study.texts[unit.text], 0, 0
    for end in (*places, len(text)):
        until = unit.tokens if end == len(text) else min(unit.tokens, study.counts.piece_tokens(text[:end]))
        if end > start:
            yield Segment(("piece", study.number(text[start:end])), max(0, until - spent))
        start, spent = end, max(spent, until)


def workload_of(study: Study, layout: Layout, rules: ProviderRules, first: int | None = None) -> list[Request]:
    """The requests of a layout (or the ``first`` ones) in order of time, with breakpoints; ``turn`` is the number in the log."""
    exact = rules.matching == "exact at breakpoints"
    prompts = segments(study, layout.units[:first], rules)
    outputs, starts = output_tokens(study), starts_s(study.log)
    made = []
    for index, (prompt, source) in enumerate(zip(prompts, study.log.requests[:first], strict=True)):
        ends = segment_ends(layout.units[index]) if exact else []
        made.append(
            Request(
                arrived_at_s=starts[index] + layout.delays_s.get(index, 0.0),
                prompt=prompt,
                output=Segment(("answer", index), outputs[index] or 0),
                session=source.session,
                user=source.user,
                turn=index,
                breakpoints=tuple(dict.fromkeys(ends[mark - 1] for mark in layout.marks[index] if mark)) if exact else None,
            )
        )
    return sorted(made, key=lambda request: (request.arrived_at_s, request.turn))


def todays_marks(study: Study, units: Sequence[Sequence[Unit]]) -> list[tuple[int, ...]]:
    """After which units the log's own breakpoints stand: behind the last unit of each marked part that is still in its place."""
    found: list[tuple[int, ...]] = []
    for request, sequence in zip(study.log.requests, units, strict=False):
        if not request.marks:
            found.append(())
            continue
        last = {unit.path: place for place, unit in enumerate(sequence, 1) if unit.region not in ("own", "tail")}
        ends = [place for place, unit in enumerate(sequence, 1) if unit.region != "tail"]
        marks = []
        behind = 0
        for part in request.parts:
            behind = last.get(part.path, behind)
            if part.mark is not None and behind:
                marks.append(behind)
        if request.automatic_mark is not None and ends:
            marks.append(ends[-1])
        found.append(tuple(sorted(set(marks))))
    return found


def todays_ttl(log: MessageLog, rules: ProviderRules) -> str:
    """The lifetime that most of the log's breakpoints ask for, of those that the rules know."""
    asked: dict[str, int] = {}
    for request in log.requests:
        for mark in (*(part.mark for part in request.parts), request.automatic_mark):
            if mark is not None:
                name = mark or rules.default_ttl
                asked[name] = asked.get(name, 0) + 1
    known = [name for name in asked if name in rules.lifetime_s]
    return max(known, key=lambda name: (asked[name], name)) if known else rules.default_ttl
