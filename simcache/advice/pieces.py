"""Texts in pieces that can be compared between requests, and what kind of thing changes from one piece to another."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

Change = Literal["same", "whitespace", "timestamp", "id", "counter", "json", "order", "text"]

_LONG_LINE: Final = 200
_LONG_SENTENCE: Final = 320
_SENTENCE: Final = re.compile(r"(?<=[.!?;])(?=\s)|(?<=[。！？；])")  # noqa: RUF001  # Chinese marks end sentences too
_WORD: Final = re.compile(r"[A-Za-z0-9_]+\s*|[^A-Za-z0-9_]\s*")
_CUTS: Final = 24
"""A long run of words without line or sentence ends is cut behind about every 24th word: those whose checksum says so, so that a
word put in or taken out moves no cut but those around it."""


def pieces_of(text: str) -> list[str]:
    """``text`` in pieces (JSON values; lines; of long ones sentences; of long ones of these some dozen words) that make it.

    >>> pieces_of("Be kind.\\n\\nToday is Monday.")
    ['Be kind.\\n\\n', 'Today is Monday.']
    """
    found: list[str] = []
    start = 0
    for first, last, _ in json_blocks(text):
        found += _lines(text[start:first])
        found.append(text[first:last])
        start = last
    return found + _lines(text[start:])


def _lines(text: str) -> list[str]:
    found: list[str] = []
    for line in text.splitlines(keepends=True):
        if found and not line.strip():
            found[-1] += line
        elif len(line) <= _LONG_LINE:
            found.append(line)
        else:
            for sentence in _SENTENCE.split(line):
                if not sentence:
                    continue
                if found and not sentence.strip():
                    found[-1] += sentence
                elif len(sentence) <= _LONG_SENTENCE:
                    found.append(sentence)
                else:
                    found += _cut(sentence)
    return found


def _cut(text: str) -> list[str]:
    found, here = [], ""
    for word in _WORD.findall(text):
        here += word
        if zlib.crc32(word.strip().encode(errors="replace")) % _CUTS == 0 and len(here) >= 40:
            found.append(here)
            here = ""
    return [*found, here] if here else found


_MONTH: Final = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec)[a-z]*\.?"
_DAY: Final = r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?"
_TIMES: Final = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[T ]?\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?)?(?:\s?(?:Z|UTC|GMT|[+-]\d{2}:?\d{2})\b)?"
    r"|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}"
    rf"|\b(?:{_DAY},?\s+)?{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s+\d{{4}})?\b"
    rf"|\b(?:{_DAY},?\s+)?(?:the\s+)?\d{{1,2}}(?:st|nd|rd|th|\.)?\s+(?:of\s+)?{_MONTH}(?:,?\s+\d{{4}})?\b"
    r"|\d{4}\s?年\s?\d{1,2}\s?月\s?\d{1,2}\s?日|\d{1,2}\s?[时時点點]\s?\d{1,2}\s?分(?:\s?\d{1,2}\s?秒)?|(?:星期|周|週)[一二三四五六日天]"
    r"|\b\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:\s?[ap]\.?m\.?\b)?(?:\s?(?:UTC|GMT|[A-Z]{2,4}T)\b)?"
    r"|\b\d{8}T?\d{6}Z?\b|\b1[4-9]\d{8}(?:\d{3}|\d{6}|\d{9})?(?:\.\d+)?\b"
    rf"|\b{_DAY}\b|\b(?:\d+|an?)\s+(?:second|minute|hour|day)s?\s+ago\b",
    re.IGNORECASE,
)
_IDS: Final = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"
    r"|\b[a-z]{2,12}[_-](?=[A-Za-z0-9]*\d)[A-Za-z0-9]{6,}\b"
    r"|\b(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{6,}(?:[-_][A-Za-z0-9]+)*\b"
    r"|\b[0-9a-f]{4,}(?:-[0-9a-f]{2,})+\b|\b[0-9a-f]{8,}(?:\.{3}|…)?|\b\d{7,}\b|\b[0-9A-HJKMNP-TV-Z]{26}\b",
    re.IGNORECASE,
)
_NUMBERS: Final = re.compile(r"\d+")
_SPACES: Final = re.compile(r"\s+")


def without_times(text: str) -> str:
    """Instants and dates taken out.

    >>> without_times("Current time: 2026-11-28T09:31:07Z"), without_times("Today is Saturday, November 28, 2026.")
    ('Current time: <time>', 'Today is <time>.')
    """
    return _TIMES.sub("<time>", text)


def without_ids(text: str) -> str:
    """Random-looking names taken out.

    >>> without_ids("request_id: req_8f3c1a9be07d"), without_ids("Session: 3b9d7c20-5f1e-4a8b-9c3d-0e6f71a2b4c5")
    ('request_id: <id>', 'Session: <id>')
    """
    return _IDS.sub("<id>", text)


def masked(text: str) -> str:
    """What is left when everything that changes by itself is taken out.

    >>> masked("Turn 7  of 9"), masked("at 09:31")
    ('turn <n> of <n>', 'at <time>')
    """
    return _SPACES.sub(" ", _NUMBERS.sub("<n>", without_ids(without_times(text)))).strip().lower()


def change_of(texts: Sequence[str]) -> Change:
    """What it is that changes among ``texts``, by the narrowest mask that makes them equal.

    >>> change_of(["Now: 09:31", "Now: 09:32"]), change_of(["id 8f3c1a9b", "id 77aa00ff"]), change_of(["Turn 1", "Turn 2"])
    ('timestamp', 'id', 'counter')
    >>> change_of(['{"a": 1, "b": 2}', '{"b": 2, "a": 1}']), change_of(["Ann", "Bob"]), change_of(["a b", "a  b"])
    ('json', 'text', 'whitespace')
    """
    distinct = sorted(set(texts))
    if len(distinct) < 2:
        return "same"
    if _one(_SPACES.sub("", text) for text in distinct):
        return "whitespace"
    filled = [text for text in distinct if text.strip()]
    if len(filled) < len(distinct) and len(filled) < 2:
        filled = distinct
    if _one(without_times(text) for text in filled):
        return "timestamp"
    if _one(without_ids(text) for text in filled):
        return "id"
    if _one(without_ids(without_times(text)) for text in filled):
        return "timestamp"
    if _one(_NUMBERS.sub("", text) for text in filled):
        return "counter"
    if _one(canonical_json(text) for text in filled):
        return "json"
    if _one("\n".join(sorted(_items(text))) for text in filled):
        return "order"
    return "text"


def _one(values: Any) -> bool:
    return len(set(values)) == 1


def _items(text: str) -> list[str]:
    """The things that a list in a text lists: blocks set apart by blank lines, else lines, else what commas part."""
    for cut in (r"\n\s*\n", r"\n", r"[,;、，；]"):  # noqa: RUF001  # lists in Chinese
        items = [item.strip() for item in re.split(cut, text) if item.strip()]
        if len(items) > 1:
            return items
    return [text.strip()]


def json_blocks(text: str) -> Iterator[tuple[int, int, Any]]:
    """(first, last, value) of every JSON object or list of some length in a text."""
    at = tries = 0
    while tries < _MOST_TRIES:
        found = _OPENING.search(text, at)
        if found is None:
            return
        tries += 1
        try:
            value, end = _decode(text, found.start())
        except (ValueError, RecursionError):
            at = found.start() + 1
            continue
        if value and end - found.start() >= _SHORTEST_JSON:
            yield found.start(), end, value
        at = end


_decode: Final = json.JSONDecoder().raw_decode
_OPENING: Final = re.compile(r'[{\[](?=\s*["{\[\d])')
_SHORTEST_JSON: Final = 16
_MOST_TRIES: Final = 200


def canonical_json(text: str) -> str:
    """The text with the JSON values in it written in one way: keys sorted, lists of words too, no spaces.

    >>> canonical_json('Set {"b": [2, 1], "a": ["y", "x"]} now')
    'Set {"a":["x","y"],"b":[2,1]} now'
    """
    made, start = "", 0
    for first, last, value in json_blocks(text):
        made += text[start:first] + json.dumps(canonical(value), ensure_ascii=False, separators=(",", ":"))
        start = last
    return made + text[start:]


def canonical(value: Any) -> Any:
    """A JSON value with keys sorted, lists of words sorted, runs of spaces in texts as one, and texts of JSON as JSON."""
    if isinstance(value, dict):
        return {name: canonical(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        inner = [canonical(each) for each in value]
        return sorted(inner) if all(isinstance(each, str) for each in inner) else inner
    if isinstance(value, str):
        text = _SPACES.sub(" ", value).strip()
        if text[:1] in ("{", "[") and text[-1:] in ("}", "]"):
            return canonical_json(text)
        return text
    return value
