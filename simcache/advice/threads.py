"""Which request goes on where which other one stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..messages.parts import MessageLog, MessageRequest, Part

HEAD_ROLES: Final = frozenset(("tools", "system", "developer"))
_TELLING: Final = 24
"""Characters from which a message is taken to be said only once; shorter ones ("yes") must follow the same message too."""


def head_length(request: MessageRequest) -> int:
    """How many leading parts are tools, schema and system: what stands before the conversation.

    >>> head_length(MessageRequest(line=1, style="chat", parts=(Part("messages[0]", "text", "system", 0),)))
    1
    """
    for index, part in enumerate(request.parts):
        if part.role not in HEAD_ROLES:
            return index
    return len(request.parts)


def conversation(request: MessageRequest) -> tuple[Part, ...]:
    """The parts behind the head.

    >>> conversation(MessageRequest(line=1, style="chat", parts=(Part("messages[0]", "text", "user", 0),)))[0].path
    'messages[0]'
    """
    return request.parts[head_length(request) :]


def predecessors(log: MessageLog) -> list[int | None]:
    """For every request the index of the one whose conversation it continues; None: it opens one.

    A request continues the latest earlier one (of its session, where sessions are logged) whose newest question it repeats with
    more behind it. Where the newest question was changed, a request of the same session with most of the conversation will do.
    """
    found: list[int | None] = []
    newest: dict[tuple[str | None, int, int | None], int] = {}
    latest: dict[str, list[int]] = {}
    for index, request in enumerate(log.requests):
        talk = conversation(request)
        previous = _continued(log, request, talk, newest)
        if previous is None and request.session is not None:
            previous = _resembling(log, request, talk, latest.get(request.session, []))
        found.append(previous)
        place = _newest(talk)
        if place is not None:
            for before in {_before(talk, place), None}:
                newest[request.session, talk[place].content, before] = index
        if request.session is not None:
            latest.setdefault(request.session, []).append(index)
    return found


def _newest(talk: Sequence[Part]) -> int | None:
    """Index of the last thing that did not come from the model."""
    return next((index for index in range(len(talk) - 1, -1, -1) if talk[index].role != "assistant"), None)


def _before(talk: Sequence[Part], place: int) -> int | None:
    return talk[place - 1].content if place else -1


def _continued(
    log: MessageLog, request: MessageRequest, talk: Sequence[Part], newest: dict[tuple[str | None, int, int | None], int]
) -> int | None:
    last = _newest(talk)
    for place in range((last or 0) - 1, -1, -1):
        if talk[place].role == "assistant":
            continue
        telling = len(log.contents[talk[place].content].text) >= _TELLING
        index = newest.get((request.session, talk[place].content, None if telling else _before(talk, place)))
        if index is not None:
            return index
    return None


def _resembling(log: MessageLog, request: MessageRequest, talk: Sequence[Part], earlier: Sequence[int]) -> int | None:
    """The latest of the ``earlier`` requests of a session that has at least two parts, and half of its own, in common with
    more than a beginning that both may just share; or the last one, where it is shorter and both have one head."""
    here = {part.content for part in talk}
    for index in reversed(earlier[-4:]):
        other = conversation(log.requests[index])
        there = {part.content for part in other}
        common = len(here & there)
        pairs = list(zip(other, talk, strict=False))
        begun = next((i for i, (a, b) in enumerate(pairs) if a.content != b.content), len(pairs))
        if common >= max(2, len(there) / 2) and (len(talk) > len(other) or common > begun):
            return index
    if earlier and len(conversation(log.requests[earlier[-1]])) + 1 < len(talk):
        heads = [each.parts[: head_length(each)] for each in (log.requests[earlier[-1]], request)]
        if [part.content for part in heads[0]] == [part.content for part in heads[1]]:
            return earlier[-1]
    return None
