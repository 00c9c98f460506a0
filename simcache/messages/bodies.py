"""Request bodies as parts, in the order in which the model sees them: tools, output schema, system, messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from ..errors import InputError
from .parts import Content, Interned, Part, PartKind, Style

Body = Mapping[str, Any]

_MARKS: Final = ("cache_control", "prompt_cache_breakpoint", "cachePoint", "cache_point")
"""Keys by which a client sets a breakpoint; no part of what the model sees."""
_DIGEST_FROM: Final = 200
"""Characters from which inline data (a picture in base64) are kept as a digest."""
_CACHED_TO: Final = 20_000
"""Characters up to which cleaned JSON is remembered: tools and calls come again with every request of a conversation."""
_IMAGES: Final = frozenset(("image", "image_url", "input_image", "document", "file", "input_file", "input_audio", "video"))
_KINDS: Final[Mapping[str, PartKind]] = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "text",
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "document": "file",
    "file": "file",
    "input_file": "file",
    "input_audio": "file",
    "video": "file",
    "tool_use": "call",
    "server_tool_use": "call",
    "mcp_tool_use": "call",
    "function_call": "call",
    "custom_tool_call": "call",
    "tool_result": "result",
    "web_search_tool_result": "result",
    "mcp_tool_result": "result",
    "function_call_output": "result",
    "custom_tool_call_output": "result",
    "thinking": "thinking",
    "redacted_thinking": "thinking",
    "reasoning": "thinking",
}
_BARE: Final[Mapping[str, str]] = {"toolUse": "tool_use", "toolResult": "tool_result", "image": "image", "document": "document"}
"""Bedrock's content blocks name their kind by their key."""


class Parsed(NamedTuple):
    """A body as parts; ``automatic_mark`` as in ``MessageRequest``, ``unknown`` counts parts of kinds that nobody here knows."""

    style: Style
    parts: tuple[Part, ...]
    automatic_mark: str | None
    unknown: int


def is_body(body: Body) -> bool:
    """Whether a JSON object has what a request to a chat model has.

    >>> is_body({"model": "m", "messages": []}), is_body({"model": "m", "input": "Hi"}), is_body({"embedding": []})
    (True, True, False)
    """
    if isinstance(body.get("messages"), list):
        return True
    asked = body.get("input")
    if isinstance(asked, str):
        return "model" in body
    return isinstance(asked, list) and any(isinstance(item, Mapping) and ("role" in item or "type" in item) for item in asked)


def style_of(body: Body) -> Style:
    """Whose body it is.

    >>> style_of({"messages": [], "system": "Be kind."}), style_of({"messages": []})
    ('messages', 'chat')
    """
    if "messages" not in body:
        return "responses"
    if any(name in body for name in ("toolConfig", "inferenceConfig", "modelId")):
        return "converse"
    if any(name in body for name in ("system", "anthropic_version", "cache_control", "stop_sequences", "thinking")):
        return "messages"
    tools = body.get("tools")
    if isinstance(tools, list) and any(isinstance(tool, Mapping) and "input_schema" in tool for tool in tools):
        return "messages"
    for message in body["messages"] if isinstance(body["messages"], list) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping) and (part.get("type") in ("tool_use", "tool_result") or "cache_control" in part):
                return "messages"
    return "chat"


def parse_body(body: Body, pool: Interned) -> Parsed:
    """The parts of a request body. Errors: values of a kind that no such body holds (named by path, never shown).

    >>> body = {"system": "Be kind.", "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}
    >>> [part.path for part in parse_body(body, Interned()).parts]
    ['system', 'messages[0].content[0]']
    """
    style = style_of(body)
    parts = _Parts(pool)
    _tools(body, parts)
    _schema(body, parts)
    system = body.get("system")
    if system is None:
        system = body.get("systemInstruction") if style == "converse" else body.get("instructions")
    path = "instructions" if "instructions" in body and body.get("system") is None else "system"
    if system is not None:
        _content(system, path, "system", parts)
    if style == "responses":
        _items(body["input"], parts)
    else:
        _messages(body["messages"], parts)
    automatic = None
    if isinstance(body.get("cache_control"), Mapping):
        automatic = _lifetime(body["cache_control"], "cache_control")
    return Parsed(style, tuple(parts.made), automatic, parts.unknown)


class _Parts:
    """Collects parts; every content goes into the pool once."""

    def __init__(self, pool: Interned) -> None:
        self.made: list[Part] = []
        self.unknown = 0
        self._pool = pool

    def add(self, path: str, kind: PartKind, role: str, text: str, mark: str | None = None, images: int = 0) -> None:
        self.made.append(Part(path, kind, role, self._pool.number(Content(kind, role, text, images)), mark))

    def mark_last(self, mark: str) -> None:
        """A breakpoint that stands for itself belongs to what is before it; at the very beginning it marks nothing."""
        if self.made:
            self.made[-1] = self.made[-1]._replace(mark=mark)


def _bad(path: str, rule: str) -> InputError:
    return InputError(path, None, rule, "Its value is not shown: texts of a message log stay out of outputs.")


def _list(value: Any, path: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise _bad(path, f"must be a list, not {_kind_of(value)}")
    return value


def _object(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _bad(path, f"must be an object, not {_kind_of(value)}")
    return value


def _kind_of(value: Any) -> str:
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (type(None), "null"),
        (bool, "true or false"),
        ((int, float), "a number"),
        (str, "a text"),
        (list, "a list"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "an object")


def _lifetime(mark: Any, path: str) -> str:
    ttl = mark.get("ttl") if isinstance(mark, Mapping) else None
    if ttl is None:
        return ""
    if not isinstance(ttl, str) or not 0 < len(ttl) <= 8:
        raise _bad(f"{path}.ttl", "must be a lifetime such as 5m or 1h")
    return ttl


def _mark(block: Mapping[str, Any], path: str) -> str | None:
    for name in _MARKS:
        if block.get(name) is not None:
            return _lifetime(block[name], f"{path}.{name}")
    return None


@lru_cache(maxsize=4096)
def _cleaned(raw: str) -> tuple[str, int]:
    images = 0

    def seen(each: Any) -> Any:
        nonlocal images
        if isinstance(each, Mapping):
            source = each.get("source")
            told = isinstance(source, Mapping) and source.get("type") in ("text", "content")
            kind = each.get("type")
            images += isinstance(kind, str) and kind in _IMAGES and not told
            return {name: seen(inner) for name, inner in each.items() if name not in _MARKS}
        if isinstance(each, list):
            return [seen(inner) for inner in each]
        return _digest(each) if isinstance(each, str) and len(each) > _DIGEST_FROM and _is_inline(each) else each

    return json.dumps(seen(json.loads(raw)), ensure_ascii=False), images


def _dumped(value: Any) -> tuple[str, int]:
    """JSON without breakpoints and with inline data as digests, keys in their order; how many pictures and files are in it."""
    raw = json.dumps(value, ensure_ascii=False)
    return _cleaned(raw) if len(raw) < _CACHED_TO else _cleaned.__wrapped__(raw)


def _is_inline(text: str) -> bool:
    """Whether a long string is encoded data and no text: one run without spaces, or a data address."""
    return text.startswith("data:") or (len(text) > 4 * _DIGEST_FROM and not any(space in text[:2000] for space in " \n\t"))


def _digest(text: str) -> str:
    head = text[: text.index(",")] if text.startswith("data:") and "," in text[:100] else ""
    return f"{head}#{blake2b(text.encode(errors='replace'), digest_size=12).hexdigest()}"


def _tools(body: Body, parts: _Parts) -> None:
    for name in ("tools", "functions"):
        if body.get(name) is not None:
            for index, tool in enumerate(_list(body[name], name)):
                path = f"{name}[{index}]"
                text, _ = _dumped(_object(tool, path))
                parts.add(path, "tool", "tools", text, _mark(tool, path))
    config = body.get("toolConfig")
    if config is not None:
        for index, tool in enumerate(_list(_object(config, "toolConfig").get("tools", []), "toolConfig.tools")):
            path = f"toolConfig.tools[{index}]"
            if _object(tool, path).keys() & {"cachePoint"}:
                parts.mark_last(_lifetime(tool["cachePoint"], path))
            else:
                parts.add(path, "tool", "tools", _dumped(tool)[0])


def _schema(body: Body, parts: _Parts) -> None:
    """A schema of the answer stands before the system message (developers.openai.com, guide to prompt caching)."""
    for name in ("response_format", "text", "output_format", "output_config"):
        value = body.get(name)
        if isinstance(value, Mapping) and '"schema"' in json.dumps(value):
            parts.add(name, "schema", "tools", _dumped(value)[0])


def _messages(messages: Any, parts: _Parts) -> None:
    for index, message in enumerate(_list(messages, "messages")):
        _message(message, f"messages[{index}]", parts)


def _message(message: Any, path: str, parts: _Parts) -> None:
    message = _object(message, path)
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise _bad(f"{path}.role", "must be a text that is not empty")
    role = role if role in _ROLES else "other"
    name = message.get("name")
    if isinstance(name, str) and name:
        parts.add(f"{path}.name", "text", role, name)
    for thought in ("reasoning_content", "reasoning"):
        if isinstance(message.get(thought), str) and message[thought]:
            parts.add(f"{path}.{thought}", "thinking", role, message[thought])
    content = message.get("content")
    calls = message.get("tool_calls")
    if role in ("tool", "function"):
        text, images = _dumped({key: value for key, value in message.items() if key in ("tool_call_id", "content")})
        parts.add(path, "result", role, text, _mark(message, path) or _mark_inside(content, path), images)
    elif content is not None:
        _content(content, path, role, parts, mark=_mark(message, path))
    elif calls is None and message.get("function_call") is None:
        raise _bad(f"{path}.content", "must be given")
    if message.get("function_call") is not None:
        parts.add(f"{path}.function_call", "call", role, _dumped(message["function_call"])[0])
    for index, call in enumerate(_list(calls, f"{path}.tool_calls") if calls is not None else ()):
        parts.add(f"{path}.tool_calls[{index}]", "call", role, _dumped(call)[0])


_ROLES: Final = frozenset(("system", "developer", "user", "assistant", "tool", "function"))


def _mark_inside(content: Any, path: str) -> str | None:
    marks = [_mark(block, path) for block in content if isinstance(block, Mapping)] if isinstance(content, list) else []
    return next((mark for mark in reversed(marks) if mark is not None), None)


def _content(content: Any, path: str, role: str, parts: _Parts, mark: str | None = None) -> None:
    """A text, or a list of blocks; ``system`` lists are numbered themselves, message lists inside ``content``."""
    if isinstance(content, str):
        parts.add(path, "text", role, content, mark)
        return
    inner = path if role == "system" and not path.startswith("messages") else f"{path}.content"
    for index, block in enumerate(_list(content, inner)):
        _block(block, f"{inner}[{index}]", role, parts)
    if mark is not None:
        parts.mark_last(mark)


def _block(block: Any, path: str, role: str, parts: _Parts) -> None:
    if isinstance(block, str):
        parts.add(path, "text", role, block)
        return
    block = _object(block, path)
    kind = block.get("type")
    if kind is None:
        if block.keys() & {"cachePoint"}:
            parts.mark_last(_lifetime(block["cachePoint"], path))
            return
        kind = "text" if "text" in block else next((name for key, name in _BARE.items() if key in block), None)
    known = _KINDS.get(kind) if isinstance(kind, str) else None
    if known == "text":
        text = block.get("text", block.get("refusal"))
        if not isinstance(text, str):
            raise _bad(f"{path}.text", f"must be a text, not {_kind_of(text)}")
        parts.add(path, "text", role, text, _mark(block, path))
        return
    if known is None:
        parts.unknown += 1
    text, images = _dumped(block)
    parts.add(path, known or "other", role, text, _mark(block, path), images)


def _items(items: Any, parts: _Parts) -> None:
    """The input of a responses request: a text, or messages and calls in one list."""
    if isinstance(items, str):
        parts.add("input", "text", "user", items)
        return
    for index, item in enumerate(_list(items, "input")):
        path = f"input[{index}]"
        item = _object(item, path)
        if "role" in item:
            _message(item, path, parts)
        else:
            known = _KINDS.get(str(item.get("type")))
            parts.unknown += known is None
            text, images = _dumped(item)
            parts.add(path, known or "other", "tool" if known == "result" else "assistant", text, _mark(item, path), images)
