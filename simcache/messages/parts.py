"""What a message log holds: requests made of positioned parts, whose contents are known by number so that no text need travel."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple, get_args

from ..usage_blocks import Counts

PartKind = Literal["tool", "schema", "text", "image", "file", "call", "result", "thinking", "other"]
PART_KINDS: Final = get_args(PartKind)
Style = Literal["chat", "messages", "responses", "converse"]
"""Whose body it is: OpenAI chat completions, Anthropic messages, OpenAI responses, Bedrock Converse."""


class Content(NamedTuple):
    """What the model sees at one place: equal contents are equal to the model's cache.

    ``text``: as it stands in the body; of tools, calls and results their JSON, keys in the order given. Pictures and files stand
    for themselves by an address or a digest, and are counted in ``images``.
    """

    kind: PartKind
    role: str
    text: str
    images: int = 0

    def __repr__(self) -> str:  # the text of a message reaches no log and no traceback by accident
        return f"Content(kind={self.kind!r}, role={self.role!r}, {len(self.text):,} characters)"

    def value(self) -> Any:
        """The JSON value of a tool, call, result or schema; None where ``text`` is no JSON."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None


class Part(NamedTuple):
    """One place of a request: ``path`` in the body ("tools[3]", "system[0]", "messages[2].content[0]"), what stands there (the
    number of its content in the log), and ``mark``, the lifetime that a breakpoint behind it asks for ("": the default one;
    None: no breakpoint)."""

    path: str
    kind: PartKind
    role: str
    content: int
    mark: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRequest:
    """One request of a message log: its parts in the order in which the model sees them, and what is known beside them.

    ``line`` counts from 1. ``started_at_s``: Unix time, or seconds from any zero. None: not known. ``output_tokens`` are counted
    by ``usage``, or by the text of a response that the log holds. ``automatic_mark``: the lifetime asked for where the client
    lets the provider set a breakpoint at the end (None: it does not).
    """

    line: int
    style: Style
    parts: tuple[Part, ...]
    model: str | None = None
    started_at_s: float | None = None
    session: str | None = None
    user: str | None = None
    usage: Counts | None = None
    answer: int | None = None
    ttft_s: float | None = None
    automatic_mark: str | None = None

    @property
    def marks(self) -> int:
        """How many breakpoints the client sets, the automatic one included."""
        return sum(part.mark is not None for part in self.parts) + (self.automatic_mark is not None)


@dataclass(frozen=True, kw_only=True)
class MessageLog:
    """The requests of one log in order of time (of the file, where no instants are known), and the contents that they name.

    ``skipped``: lines that are JSON but no such request, by reason: (how many, the first one). ``notes``: how it was read.

    >>> from simcache.messages.reader import read_messages
    >>> import tempfile; from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> _ = path.write_text('{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}\\n')
    >>> log = read_messages(path); log.requests[0].parts[0].path, log.contents
    ('messages[0]', (Content(kind='text', role='user', 5 characters),))
    """

    requests: Sequence[MessageRequest]
    contents: Sequence[Content] = field(repr=False)
    skipped: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.requests)

    @cached_property
    def timed(self) -> bool:
        """Whether every request has an instant."""
        return all(request.started_at_s is not None for request in self.requests)

    @property
    def models(self) -> list[str | None]:
        """The models asked, in order of first use."""
        return list(dict.fromkeys(request.model for request in self.requests))


class Interned:
    """Contents by number: equal ones share one."""

    def __init__(self) -> None:
        self.contents: list[Content] = []
        self._numbers: dict[Content, int] = {}

    def number(self, content: Content) -> int:
        """The number of ``content``.

        >>> pool = Interned(); [pool.number(Content("text", "user", word)) for word in ("a", "b", "a")]
        [0, 1, 0]
        """
        found = self._numbers.get(content)
        if found is None:
            found = self._numbers[content] = len(self.contents)
            self.contents.append(content)
        return found
