"""Message logs: JSONL of request bodies, bare or wrapped, with whatever stands beside them; no text of theirs in any error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..errors import InputError
from ..usage_blocks import Counts, read_block
from ..workload.lines import numbered_lines
from .bodies import Body, is_body, parse_body
from .parts import Content, Interned, MessageLog, MessageRequest

LONGEST_REQUEST_LINE: Final = 128_000_000
"""Characters a line may have: a request with many pictures in it is tens of megabytes."""

_WRAPPED_IN: Final = (
    "request",
    "request_body",
    "requestBody",
    "body",
    "params",
    "kwargs",
    "payload",
    "input",
    "data",
    "raw_request",
)
_ANSWERED_IN: Final = ("response", "response_body", "responseBody", "output", "completion", "result", "raw_response")
_INSTANTS: Final = (
    "started_at_s", "started_at", "start_time", "startTime", "request_time", "requested_at", "submitted_at", "timestamp", "ts",
    "time", "created_at", "createdAt", "created", "datetime", "date",
)  # fmt: skip
_SESSIONS: Final = (
    "session", "session_id", "sessionId", "conversation", "conversation_id", "conversationId", "thread", "thread_id", "threadId",
    "chat_id", "chatId",
)  # fmt: skip
_USERS: Final = ("user", "user_id", "userId", "end_user", "safety_identifier", "account", "customer_id", "tenant")
_TTFTS: Final = (
    ("ttft_s", 1.0),
    ("time_to_first_token_s", 1.0),
    ("ttft", 1.0),
    ("ttft_ms", 1e-3),
    ("time_to_first_token_ms", 1e-3),
)
_MODELS: Final = ("model", "model_id", "modelId", "model_name")
_TOO_LATE_S: Final = datetime(2200, 1, 1, tzinfo=UTC).timestamp()


def read_messages(path: str | Path) -> MessageLog:
    """Read a message log, plain or gzip: one request a line, the body bare or under "request", "body", "params" and the like.

    Bodies: OpenAI chat completions and responses, Anthropic messages, Bedrock Converse. Beside or inside the wrapper may stand an
    instant (seconds, milliseconds or ISO 8601), a session, a user, a usage block, a response and ``ttft_s``. Lines that are JSON
    but no such request are counted by reason in ``skipped``. Errors (file and line, never a text of the log): a line that is no
    JSON object, a body that no provider would take, a file without requests.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> body = '{"messages": [{"role": "user", "content": "Hi"}]}'
    >>> _ = path.write_text('{"request": ' + body + ', "timestamp": "2026-11-28T09:00:00Z"}\\n')
    >>> read_messages(path).requests[0].started_at_s
    1795856400.0
    """
    reader = _Reader(Path(path))
    for number, text in _lines(path):
        reader.take(number, text)
    return reader.log()


def holds_messages(path: str | Path) -> bool:
    """Whether the first line of a log is a request to a chat model, bare or wrapped: else the log is one of usage counts.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> _ = path.write_text('{"provider": "openai", "model": "gpt-4o", "prompt_tokens": 9}\\n')
    >>> holds_messages(path)
    False
    """
    for _, text in _lines(path):
        row = _parsed(text)
        return isinstance(row, Mapping) and _unwrap(row) is not None
    return False


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """As ``numbered_lines``, whose errors may show a piece of the line."""
    lines = numbered_lines(path, LONGEST_REQUEST_LINE)
    while True:
        try:
            found = next(lines, None)
        except InputError as error:
            if error.name in ("line", "text"):
                raise InputError("line", None, error.rule, error.way_out, path=error.path, line=error.line) from None
            raise
        if found is None:
            return
        yield found


class _Unwrapped(NamedTuple):
    """A line's body, and the objects in which what is known beside it may stand, the nearest first."""

    body: Body
    beside: tuple[Mapping[str, Any], ...]
    answer: Mapping[str, Any] | None


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._pool = Interned()
        self._requests: list[MessageRequest] = []
        self._skipped: dict[str, tuple[int, int]] = {}
        self._unknown: list[int] = []  # lines with parts of unknown kinds
        self._untold: list[int] = []  # lines with a usage block that is none

    def take(self, number: int, text: str) -> None:
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            raise InputError("line", None, "must be one JSON object", path=self._path, line=number) from None
        if not isinstance(row, Mapping):
            raise InputError("line", None, "must be a JSON object, not another JSON value", path=self._path, line=number)
        found = _unwrap(row)
        if found is None:
            self._skip("not a request to a chat model", number)
            return
        if not (found.body.get("messages") or found.body.get("input")):
            self._skip("a request without messages", number)
            return
        try:
            self._requests.append(self._request(number, found))
        except InputError as error:
            raise InputError(error.name, None, error.rule, error.way_out, path=self._path, line=number) from None

    def _skip(self, reason: str, number: int) -> None:
        count, first = self._skipped.get(reason, (0, number))
        self._skipped[reason] = (count + 1, first)

    def _request(self, number: int, found: _Unwrapped) -> MessageRequest:
        parsed = parse_body(found.body, self._pool)
        if parsed.unknown:
            self._unknown.append(number)
        return MessageRequest(
            line=number,
            style=parsed.style,
            parts=parsed.parts,
            model=_text(found.beside, _MODELS),
            started_at_s=_instant(found.beside),
            session=_text(found.beside, _SESSIONS),
            user=_text(found.beside, _USERS) or _text(_inner(found.beside, "metadata"), ("user_id", *_USERS)),
            usage=self._usage(number, found),
            answer=self._answer(found.answer),
            ttft_s=_ttft_s(found.beside),
            automatic_mark=parsed.automatic_mark,
        )

    def _usage(self, number: int, found: _Unwrapped) -> Counts | None:
        places = (found.answer or {}, *found.beside)
        block = next((place["usage"] for place in places if isinstance(place.get("usage"), Mapping)), None)
        if block is None:
            return None
        try:
            return read_block(block)[0]
        except InputError:
            self._untold.append(number)
            return None

    def _answer(self, answer: Mapping[str, Any] | None) -> int | None:
        """The number of the content that a response says, where the log holds its text."""
        text = "" if answer is None else _said(answer)
        return self._pool.number(Content("text", "assistant", text)) if text else None

    def log(self) -> MessageLog:
        requests, notes = self._requests, []
        if not requests:
            seen = ", ".join(f"{count:,} lines: {reason}" for reason, (count, _) in self._skipped.items()) or "it has no lines"
            raise InputError(
                "log",
                self._path.name,
                f"has no request to a chat model ({seen})",
                "See docs/advise.md for what is read.",
                self._path,
            )
        if self._unknown:
            notes.append(f"{len(self._unknown):,} requests hold parts of a kind that is not known (first: line {self._unknown[0]})")
        if self._untold:
            notes.append(f"{len(self._untold):,} usage blocks are of no known shape (first: line {self._untold[0]})")
        timed = [request for request in requests if request.started_at_s is not None]
        if len(timed) == len(requests):
            in_order = sorted(requests, key=lambda request: request.started_at_s or 0.0)
            if in_order != requests:
                notes.append("the log is not in order of time: its requests were sorted")
            requests = in_order
        elif timed:
            missing = len(requests) - len(timed)
            notes.append(f"{missing:,} of {len(requests):,} requests have no instant: the log is taken in the order of its lines")
        return MessageLog(
            requests=tuple(requests), contents=tuple(self._pool.contents), skipped=dict(self._skipped), notes=tuple(notes)
        )


def _unwrap(row: Mapping[str, Any]) -> _Unwrapped | None:
    """The body in a line, however deep (three wrappers at most); None: there is none."""
    beside: list[Mapping[str, Any]] = []
    answer: Mapping[str, Any] | None = None
    here: Mapping[str, Any] = row
    for _ in range(4):
        beside.insert(0, here)
        found = next((here[name] for name in _ANSWERED_IN if isinstance(here.get(name), Mapping)), None)
        if found is not None and answer is None:
            answer = found.get("body") if isinstance(found.get("body"), Mapping) else found
        if is_body(here):
            return _Unwrapped(here, tuple(beside), answer)
        for name in _WRAPPED_IN:
            inner = here.get(name)
            if isinstance(inner, str) and inner[:1] == "{":
                inner = _parsed(inner)
            if isinstance(inner, Mapping) and (is_body(inner) or any(isinstance(inner.get(each), Mapping) for each in _WRAPPED_IN)):
                here = inner
                break
        else:
            return None
    return None


def _parsed(text: str) -> Any:
    """A body that was logged as a text of JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _inner(places: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return [place[name] for place in places if isinstance(place.get(name), Mapping)]


def _text(places: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str | None:
    """The first of ``names`` that is a text or a whole number, in these places or their metadata."""
    for place in (*places, *_inner(places, "metadata"), *_inner(places, "meta")):
        for name in names:
            value = place.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
            if isinstance(value, str) and value:
                return value
    return None


def _instant(places: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds; numbers of milli-, micro- and nanoseconds since 1970 are told by their size. Errors: no such thing."""
    for place in (*places, *_inner(places, "metadata"), *_inner(places, "meta")):
        for name in _INSTANTS:
            value = place.get(name)
            if value is None or isinstance(value, bool):
                continue
            return _seconds(value, name)
    return None


def _seconds(value: Any, name: str) -> float:
    way_out = "Its value is not shown."
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", text):
            value = float(text)
        else:
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                rule = "must be an instant: seconds, milliseconds, or ISO 8601 such as 2026-11-28T09:00:00Z"
                raise InputError(name, None, rule, way_out) from None
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not isinstance(value, (int, float)) or not abs(value) < 1e19:
        raise InputError(name, None, "must be an instant: a number or a text", way_out)
    for _ in range(3):
        if abs(value) < _TOO_LATE_S:
            break
        value = value / 1000
    if value < 0:
        raise InputError(name, None, "must be at least 0", way_out)
    return float(value)


def _ttft_s(places: Sequence[Mapping[str, Any]]) -> float | None:
    for place in (*places, *_inner(places, "metadata")):
        for name, unit_s in _TTFTS:
            value = place.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value * unit_s < 1e6:
                return float(value * unit_s)
    return None


def _said(answer: Mapping[str, Any]) -> str:
    """The text of a response: OpenAI's choices or output items, Anthropic's content."""
    choices = answer.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        message = choices[0].get("message")
        return _joined(message.get("content") if isinstance(message, Mapping) else None)
    if isinstance(answer.get("output"), list):
        return "".join(_joined(item.get("content")) for item in answer["output"] if isinstance(item, Mapping))
    return _joined(answer.get("content"))


def _joined(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = [block.get("text") for block in content if isinstance(block, Mapping)] if isinstance(content, list) else []
    return "".join(text for text in blocks if isinstance(text, str))
