"""The usage blocks of providers' responses, recognised by their keys, as one set of counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from .errors import InputError

Block = Mapping[str, Any]


class Counts(NamedTuple):
    """What one request used: ``prompt_tokens`` include cached and written ones, ``output_tokens`` include thinking.

    ``batch`` None: the block does not say.

    >>> Counts(prompt_tokens=2006, cached_tokens=1920).written_5m_tokens
    0
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    written_5m_tokens: int = 0
    written_1h_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    batch: bool | None = None


def read_block(block: Any) -> tuple[Counts, list[str]]:
    """The counts of a usage block, and what else the bill should say about it (audio priced as text, searches, fast mode, ...).

    Known shapes: OpenAI chat completions (also Azure, xAI, Groq, Fireworks, Kimi, Qwen, DeepSeek; where the total exceeds prompt
    and completion, thinking stood apart and is output), responses and realtime; Anthropic messages (a cache creation without
    a split by lifetime counts as 5 minutes; input excludes what was cached or written); Gemini (camelCase or snake_case; thoughts
    and tool prompts stand apart) and its Interactions; Bedrock Converse. Errors: none of these; a count that is no whole number; no
    count of the prompt, as in the pieces of a stream.

    >>> read_block({"prompt_tokens": 2006, "completion_tokens": 300, "prompt_tokens_details": {"cached_tokens": 1920}})[0]
    Counts(prompt_tokens=2006, cached_tokens=1920, written_5m_tokens=0, written_1h_tokens=0, output_tokens=300, ...)
    """
    if not isinstance(block, Mapping):
        raise InputError("usage", block, "must be an object")
    for needed, reader in _SHAPES:
        if any(name in block for name in needed):
            return reader(_Reader(block))
    keys = ", ".join(map(str, block)) or "no keys"
    raise InputError("usage", keys, "is no usage block of OpenAI, Anthropic, Gemini or Bedrock", "See docs/usage-logs.md.")


class _Reader:
    """Takes counts out of a block and knows what was never taken."""

    def __init__(self, block: Block, prefix: str = "usage.") -> None:
        self._block, self._prefix = block, prefix
        self._taken: set[str] = set()
        self._inner: list[_Reader] = []

    def count(self, *names: str) -> int:
        """The first of ``names`` that is there and not null, else 0."""
        found = 0
        for name in reversed(names):
            self._taken.add(name)
            value = self._block.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InputError(f"{self._prefix}{name}", value, "must be a whole number of at least 0")
            found = value
        return found

    def needed(self, *names: str) -> int:
        """As :meth:`count`, but one of them must be there."""
        if all(self._block.get(name) is None for name in names):
            rule = "is missing: without the prompt's tokens nothing can be priced"
            raise InputError(f"{self._prefix}{names[0]}", None, rule, "Log the whole block: a stream sends it with its last event.")
        return self.count(*names)

    def of_hour(self, name: str, key: str, count: str) -> int:
        """Of a list of objects, the ``count`` of those whose ``key`` is an hour; 0 without the list."""
        self._taken.add(name)
        parts = self._block.get(name) or []
        if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
            raise InputError(f"{self._prefix}{name}", parts, "must be a list of objects")
        return sum(_Reader(part, f"{self._prefix}{name}.").count(count) for part in parts if part.get(key) == "1h")

    def text(self, name: str) -> str | None:
        self._taken.add(name)
        value = self._block.get(name)
        return value if isinstance(value, str) else None

    def inner(self, *names: str) -> _Reader:
        """The first object among ``names``; an empty one where there is none."""
        for name in names:
            self._taken.add(name)
            value = self._block.get(name)
            if value is None:
                continue
            if not isinstance(value, Mapping):
                raise InputError(f"{self._prefix}{name}", value, "must be an object")
            reader = _Reader(value, f"{self._prefix}{name}.")
            self._inner.append(reader)
            return reader
        return _Reader({})

    def left(self) -> list[str]:
        """What the bill should say about numbers above 0 that nobody took, here and inside."""
        said = []
        for name, value in self._block.items():
            if name in self._taken or name in _NO_COUNTS:
                continue
            parts = [part for part in value if isinstance(part, Mapping)] if isinstance(value, list) else []
            if any("modality" in part for part in parts):  # Gemini's counts by kind of content, which are read already
                if any(part["modality"] not in _TEXTS and _numbers(part) for part in parts if "modality" in part):
                    said.append(f"{self._prefix}{name} {_AS_TEXT}")
            elif any(_numbers(part) for part in parts if part.get("type") != "message") or _numbers(value):
                said.append(f"{self._prefix}{name} {_AS_TEXT if name in _KINDS else _NOT_PRICED}")
        return said + [name for reader in self._inner for name in reader.left()]


_AS_TEXT: Final = "is priced as text"
_NOT_PRICED: Final = "is not priced: token prices do not cover it"
_TEXTS: Final = ("TEXT", "DOCUMENT", "text", "document")
_KINDS: Final = ("audio_tokens", "image_tokens", "video_tokens")
_NO_COUNTS: Final = frozenset(
    # Totals, and parts of counts that are read already: by kind of content, or of tokens computed anew.
    (
        "total_tokens", "totalTokenCount", "total_token_count", "totalTokens", "text_tokens", "prompt_cache_miss_tokens",
        "accepted_prediction_tokens", "rejected_prediction_tokens", "cost", "cost_in_usd_ticks", "num_sources_used",
        "cached_tokens_details", "queue_time", "prompt_time", "completion_time", "total_time",
    )
)  # fmt: skip


def _numbers(value: Any) -> bool:
    """Whether ``value`` is a number above 0 or an object that holds one."""
    numbers = value.values() if isinstance(value, Mapping) else [value]
    return any(isinstance(number, (int, float)) and not isinstance(number, bool) and number > 0 for number in numbers)


def _openai_chat(usage: _Reader) -> tuple[Counts, list[str]]:
    details, spent = usage.inner("prompt_tokens_details"), usage.inner("completion_tokens_details")
    nested = details.count("cached_tokens")
    cached = nested or usage.count("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
    split = details.inner("cache_creation")
    written_1h = split.count("ephemeral_1h_input_tokens")
    written = details.count("cache_write_tokens", "cache_creation_input_tokens", "cache_creation_tokens")
    written = max(written, written_1h + split.count("ephemeral_5m_input_tokens"), usage.count("cache_creation_input_tokens"))
    prompt, thinking = usage.needed("prompt_tokens"), spent.count("reasoning_tokens")
    # xAI and Gemini's compatible endpoint leave thinking out of the completion, though it is billed: the total tells
    output = max(usage.count("completion_tokens"), usage.count("total_tokens") - prompt)
    if thinking > output:
        output += thinking
    counts = Counts(
        prompt_tokens=prompt,
        cached_tokens=cached,
        written_5m_tokens=written - written_1h,
        written_1h_tokens=written_1h,
        output_tokens=output,
        thinking_tokens=thinking,
    )
    return counts, usage.left()


def _openai_responses(usage: _Reader) -> tuple[Counts, list[str]]:
    details = usage.inner("input_tokens_details", "input_token_details")  # the realtime API says token
    spent = usage.inner("output_tokens_details", "output_token_details")
    counts = Counts(
        prompt_tokens=usage.needed("input_tokens"),
        cached_tokens=details.count("cached_tokens"),
        written_5m_tokens=details.count("cache_write_tokens"),
        output_tokens=usage.count("output_tokens"),
        thinking_tokens=spent.count("reasoning_tokens"),
    )
    return counts, usage.left()


def _anthropic(usage: _Reader) -> tuple[Counts, list[str]]:
    read, created = usage.count("cache_read_input_tokens"), usage.count("cache_creation_input_tokens")
    split = usage.inner("cache_creation")
    written_5m, written_1h = split.count("ephemeral_5m_input_tokens"), split.count("ephemeral_1h_input_tokens")
    if created and written_5m + written_1h not in (0, created):
        rule = f"must be the sum of its parts by lifetime (={written_5m + written_1h})"
        raise InputError("usage.cache_creation_input_tokens", created, rule)
    if not written_5m + written_1h:
        written_5m = created
    tier = usage.text("service_tier")
    counts = Counts(
        prompt_tokens=usage.needed("input_tokens") + read + written_5m + written_1h,
        cached_tokens=read,
        written_5m_tokens=written_5m,
        written_1h_tokens=written_1h,
        output_tokens=usage.count("output_tokens"),
        thinking_tokens=usage.inner("output_tokens_details").count("thinking_tokens"),
        batch=None if tier is None else tier == "batch",
    )
    apart = [
        ("service_tier", tier, "priority"),
        ("speed", usage.text("speed"), "fast"),
        ("inference_geo", usage.text("inference_geo"), "us"),
    ]
    said = [
        f"usage.{name} {value!r} may have prices of its own: list prices are applied"
        for name, value, dear in apart
        if value == dear
    ]
    return counts, said + usage.left()


def _gemini(usage: _Reader) -> tuple[Counts, list[str]]:
    thoughts = usage.count("thoughtsTokenCount", "thoughts_token_count")
    counts = Counts(
        prompt_tokens=usage.needed("promptTokenCount", "prompt_token_count")
        + usage.count("toolUsePromptTokenCount", "tool_use_prompt_token_count"),
        cached_tokens=usage.count("cachedContentTokenCount", "cached_content_token_count"),
        output_tokens=usage.count("candidatesTokenCount", "candidates_token_count", "responseTokenCount", "response_token_count")
        + thoughts,
        thinking_tokens=thoughts,
    )
    return counts, usage.left()


def _gemini_interactions(usage: _Reader) -> tuple[Counts, list[str]]:
    thoughts = usage.count("total_thought_tokens", "total_reasoning_tokens")
    counts = Counts(
        prompt_tokens=usage.needed("total_input_tokens") + usage.count("total_tool_use_tokens"),
        cached_tokens=usage.count("total_cached_tokens"),
        output_tokens=usage.count("total_output_tokens") + thoughts,
        thinking_tokens=thoughts,
    )
    return counts, usage.left()


def _bedrock(usage: _Reader) -> tuple[Counts, list[str]]:
    read, written = usage.count("cacheReadInputTokens"), usage.count("cacheWriteInputTokens")
    written_1h = usage.of_hour("cacheDetails", "ttl", "inputTokens")
    if written_1h > written:
        raise InputError("usage.cacheDetails", written_1h, f"exceeds usage.cacheWriteInputTokens (={written})")
    counts = Counts(
        prompt_tokens=usage.needed("inputTokens") + read + written,
        cached_tokens=read,
        written_5m_tokens=written - written_1h,
        written_1h_tokens=written_1h,
        output_tokens=usage.count("outputTokens"),
    )
    return counts, usage.left()


_SHAPES: Final = (
    # (keys of which one is enough, reader), the telling ones first
    (("promptTokenCount", "prompt_token_count", "totalTokenCount", "total_token_count"), _gemini),
    (("total_input_tokens", "total_output_tokens"), _gemini_interactions),
    (("inputTokens", "outputTokens"), _bedrock),
    (("prompt_tokens", "completion_tokens"), _openai_chat),
    (("input_tokens_details", "input_token_details"), _openai_responses),
    (("cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation", "server_tool_use", "service_tier"), _anthropic),
    (("input_tokens", "output_tokens"), _openai_responses),
)
