"""What happens to a conversation between one request and the next: appended to, or cut, rewritten, re-encoded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from ..messages.parts import Part
from .families import Study
from .pieces import Change, canonical_json, change_of, pieces_of
from .threads import conversation

Bond = Literal["appended", "edited last", "cut", "changed", "other"]
RARELY: Final = 0.05
"""Share of a log's continuations that may be cut or rewritten: a summary once in a while is no defect."""
_KINDS: Final = {"timestamp": "timestamp", "id": "request-id", "json": "json-order"}


@dataclass(kw_only=True)
class Continuation:
    """How request ``index`` continues ``before``: its conversation is the first ``kept`` parts of the other one and, from part
    ``from_`` of its own on, what is new. ``kinds``: the defects seen, each with the path of the first part that shows it."""

    index: int
    before: int
    bond: Bond
    kept: int
    from_: int
    kinds: dict[str, str] = field(default_factory=dict)


def continuations(study: Study) -> list[Continuation]:
    """Every request that continues another one, with what was done to the history."""
    return [_continuation(study, index, before) for index, before in enumerate(study.previous) if before is not None]


def _continuation(study: Study, index: int, before: int) -> Continuation:
    old, new = (conversation(study.log.requests[each]) for each in (before, index))
    ids = [[part.content for part in parts] for parts in (old, new)]
    place = next((i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b), min(map(len, ids)))
    made = Continuation(index=index, before=before, bond="appended", kept=len(old), from_=len(old))
    if place == len(old):
        return made
    if place >= _last_turn(old):  # asked again, in other words: what is before it is still there
        made.bond, made.kept, made.from_ = "edited last", place, place
        if len(new) > len(old):
            made.kinds = dict(_changes(study, old, new, place))
            made.kinds.pop("history-edited", None)
            if made.kinds:
                made.bond, made.kept, made.from_ = "changed", len(old), len(old)
        return made
    start = _resumed(ids[0], ids[1], place)
    if start is not None:
        made.bond, made.from_ = "cut", place + len(old) - start
        made.kinds["history-edited"] = new[place].path if place < len(new) else old[place].path
        return made
    if len(new) >= len(old):
        made.kinds = dict(_changes(study, old, new, place))
        made.bond = "changed"
        return made
    made.bond, made.kept, made.from_ = "other", place, place
    made.kinds["history-edited"] = new[min(place, len(new) - 1)].path if new else "messages"
    return made


def _last_turn(parts: Sequence[Part]) -> int:
    """Index of the first part behind the last thing that the model said: the newest question and what stands with it."""
    return next((index + 1 for index in range(len(parts) - 1, -1, -1) if parts[index].role == "assistant"), 0)


def _resumed(old: Sequence[int], new: Sequence[int], place: int) -> int | None:
    """Where in ``old`` the conversation goes on that ``new`` continues at ``place``: parts in between were dropped."""
    for start in range(place + 1, len(old)):
        left = len(old) - start
        if left + place < len(new) + 1 and list(new[place : place + left]) == list(old[start:]):
            return start
    return None


def _changes(study: Study, old: Sequence[Part], new: Sequence[Part], place: int) -> Iterator[tuple[str, str]]:
    """(kind, path) of every part that stands where it stood but has changed; one kind once, at its first place."""
    seen = set()
    differing = [i for i in range(place, len(old)) if i < len(new) and old[i].content != new[i].content]
    if sorted(old[i].content for i in differing) == sorted(new[i].content for i in differing):
        yield "document-order", new[place].path
        return
    for i in differing:
        kind = _change(study, old[i], new[i])
        if kind not in seen:
            seen.add(kind)
            yield kind, new[i].path


_SIGNED: Final = re.compile(r"(https?://[^\s\"?#]+)[?#][^\s\"]*")


def _change(study: Study, old: Part, new: Part) -> str:
    before, after = (study.log.contents[part.content] for part in (old, new))
    if old.kind != new.kind or old.role != new.role:
        return "history-edited"
    if old.kind in ("image", "file"):
        return "image-changed"
    if before.images and _SIGNED.sub(r"\1", before.text) == _SIGNED.sub(r"\1", after.text):
        return "image-changed"
    if old.kind != "text" and canonical_json(before.text) == canonical_json(after.text):
        return "json-order"
    change = change_of([before.text, after.text])
    if change == "text" and old.kind == "text":
        change = _narrowed(before.text, after.text)
    if change == "order":
        return "document-order"
    if change == "text" and _SIGNED.sub(r"\1", before.text) == _SIGNED.sub(r"\1", after.text):
        return "image-changed"
    return _KINDS.get(change, "history-edited")


def _narrowed(one: str, other: str) -> Change:
    """What changed in the pieces that two texts do not share: a reordering shares them all."""
    pieces = [pieces_of(text) for text in (one, other)]
    if sorted(piece.strip() for piece in pieces[0]) == sorted(piece.strip() for piece in pieces[1]):
        return "order"
    left = [[piece for piece in mine if piece not in set(theirs)] for mine, theirs in (pieces, pieces[::-1])]
    return change_of(["".join(each) for each in left])
