"""Message logs made to order: clean ones of several shapes, and planters that each put one defect into a clean one."""

# ruff: noqa: RUF001, SIM905  # Chinese has its own marks; a list of words reads better as words

from __future__ import annotations

import copy
import json
import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

Row = dict[str, Any]
Rows = list[Row]
START_S: Final = 1_795_856_400.0
_WORDS: Final = tuple(
    "parcel route depot customer order refund claim label scan driver address window delay status return policy form insured weight"
    " limit tax zone courier pickup locker signature evidence photo invoice account contract tariff region season holiday".split()
)
_HAN: Final = (
    "请先用工具查询包裹如果没有结果就如实说明并主动提出建立工单绝不要猜测在哪里客户退款材料审核时间人工决定语言简短礼貌回答日期承诺"
)


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(count))


def sentence(rng: random.Random) -> str:
    return f"{words(rng, rng.randint(6, 14)).capitalize()}."


def paragraph(rng: random.Random, sentences: int = 4, chinese: bool = False) -> str:
    if chinese:
        return "".join("".join(rng.choice(_HAN) for _ in range(rng.randint(8, 20))) + "。" for _ in range(sentences))
    return " ".join(sentence(rng) for _ in range(sentences))


def text_of(rng: random.Random, paragraphs: int, chinese: bool = False, joint: str = "\n") -> str:
    return joint.join(paragraph(rng, 4, chinese) for _ in range(paragraphs))


def tool(rng: random.Random, number: int) -> Row:
    kinds = ["string", "integer"]
    fields = {f"{rng.choice(_WORDS)}_{i}": {"type": rng.choice(kinds), "description": words(rng, 8)} for i in range(3)}
    schema = {"type": "object", "properties": fields, "required": list(fields)[:2], "additionalProperties": False}
    return {"name": f"{rng.choice(_WORDS)}_tool_{number}", "description": paragraph(rng, 2), "input_schema": schema}


def say(role: str, *texts: str) -> Row:
    return {"role": role, "content": [{"type": "text", "text": text} for text in texts]}


class Shape:
    """Requests in Anthropic's form; ``rows`` writes them as logged, in that or in OpenAI's form."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.requests: Rows = []

    def ask(self, at_s: float, system: str, messages: Rows, tools: Rows = (), session: str | None = None, user: str | None = None,
            model: str = "small") -> None:  # fmt: skip
        body = {"model": model, "system": [{"type": "text", "text": system}], "tools": list(tools), "messages": messages}
        if not system:
            body.pop("system")
        self.requests.append(copy.deepcopy({"started_at_s": START_S + at_s, "session": session, "user": user, "request": body}))

    def rows(self) -> Rows:
        return sorted(self.requests, key=lambda row: row["started_at_s"])


def chat(seed: int = 1, *, sessions: int = 12, turns: int = 5, chinese: bool = False, joint: str = "\n", tools: int = 0) -> Rows:
    """People who chat, each conversation with its own history."""
    shape = Shape(seed)
    rng = shape.rng
    system = text_of(rng, 40 if chinese else 30, chinese, joint)
    declared = [tool(rng, i) for i in range(tools)]
    for number in range(sessions):
        at_s, messages = number * 97.0 + rng.uniform(0, 20), []
        for _ in range(turns):
            messages.append(say("user", paragraph(rng, 1, chinese) if chinese else words(rng, rng.randint(4, 25)) + "?"))
            shape.ask(at_s, system, messages, declared, f"s{number}", f"u{number % 4}")
            messages.append(say("assistant", paragraph(rng, 3, chinese)))
            at_s += rng.uniform(20, 70)
    return shape.rows()


def agent(seed: int = 2, *, sessions: int = 8, steps: int = 8, tools: int = 12) -> Rows:
    """Agents that call tools, several at a time."""
    shape = Shape(seed)
    rng = shape.rng
    system, declared = text_of(rng, 15), [tool(rng, i) for i in range(tools)]
    for number in range(sessions):
        at_s, messages = number * 45.0, [say("user", paragraph(rng, 2))]
        for step in range(steps):
            shape.ask(at_s, system, messages, declared, f"run-{number}")
            calls = [
                {"type": "tool_use", "id": f"toolu_{number}_{step}_{i}", "name": rng.choice(declared)["name"],
                 "input": {"order": rng.randint(1, 9999), "note": words(rng, 4)}}
                for i in range(rng.randint(1, 3))
            ]  # fmt: skip
            results = [{"type": "tool_result", "tool_use_id": call["id"], "content": paragraph(rng, 3)} for call in calls]
            messages += [{"role": "assistant", "content": [{"type": "text", "text": sentence(rng)}, *calls]}]
            messages += [{"role": "user", "content": results}]
            at_s += rng.uniform(4, 15)
    return shape.rows()


def fan_out(seed: int = 3, *, requests: int = 60, rubric: int = 40, in_system: bool = False, gap_s: float = 4.0) -> Rows:
    """One rubric, many submissions to grade by it; the rubric first."""
    shape = Shape(seed)
    rng = shape.rng
    fixed = text_of(rng, rubric)
    for number in range(requests):
        varies = f"Question: {words(rng, 12)}?\nExpert answer: {paragraph(rng, 2)}\nSubmission: {paragraph(rng, 3)}"
        messages = [say("user", varies)] if in_system else [say("user", fixed, varies)]
        shape.ask(number * gap_s, fixed if in_system else "", messages)
    return shape.rows()


def documents(seed: int = 4, *, sessions: int = 10, turns: int = 3) -> Rows:
    """Questions about documents that stand in front of the conversation."""
    shape = Shape(seed)
    rng = shape.rng
    system = text_of(rng, 10)
    library = [text_of(rng, 10) for _ in range(4)]
    for number in range(sessions):
        chosen = [library[0], library[1 + number % 3]]
        at_s, messages = number * 60.0, []
        for turn in range(turns):
            question = words(rng, 12) + "?"
            messages.append(say("user", *chosen, question) if not turn else say("user", question))
            shape.ask(at_s, system, messages, (), f"d{number}")
            messages.append(say("assistant", paragraph(rng, 3)))
            at_s += rng.uniform(15, 60)
    return shape.rows()


def shots(seed: int = 5, *, requests: int = 60, gap_s: float = 5.0) -> Rows:
    """Examples as messages, then one question."""
    shape = Shape(seed)
    rng = shape.rng
    system = text_of(rng, 4)
    examples = [(paragraph(rng, 5), paragraph(rng, 8)) for _ in range(12)]
    for number in range(requests):
        messages = [message for ask, answer in examples for message in (say("user", ask), say("assistant", answer))]
        shape.ask(number * gap_s, system, [*messages, say("user", words(rng, 20) + "?")])
    return shape.rows()


# -- how they are logged --


def openai(rows: Rows, *, model: str = "gpt-4o", strings: bool = True) -> Rows:
    """As chat completions."""
    return [{**row, "request": {"model": _model(row, model, "gpt-4.1"), **_chat_body(row["request"], strings)}} for row in rows]


def _model(row: Row, model: str, other: str) -> str:
    return model if row["request"]["model"] == "small" else other


def _chat_body(body: Row, strings: bool) -> Row:
    messages: Rows = []
    for block in body.get("system", ()):
        messages.append({"role": "system", "content": block["text"]})
    for message in body["messages"]:
        texts = [block for block in message["content"] if block["type"] not in ("tool_use", "tool_result")]
        calls = [block for block in message["content"] if block["type"] == "tool_use"]
        for block in message["content"]:
            if block["type"] == "tool_result":
                messages.append({"role": "tool", "tool_call_id": block["tool_use_id"], "content": block["content"]})
        if texts or calls:
            plain = strings and all(block["type"] == "text" for block in texts)
            content: Any = "\n".join(block["text"] for block in texts) if plain else [_chat_block(block) for block in texts]
            made: Row = {"role": message["role"], "content": content}
            if calls:
                made["tool_calls"] = [
                    {"id": call["id"], "type": "function",
                     "function": {"name": call["name"], "arguments": json.dumps(call["input"])}}
                    for call in calls
                ]  # fmt: skip
            messages.append(made)
    out: Row = {"messages": messages}
    if body.get("tools"):
        out["tools"] = [
            {"type": "function",
             "function": {"parameters" if name == "input_schema" else name: value for name, value in each.items()}}
            for each in body["tools"]
        ]  # fmt: skip
    return out


def _chat_block(block: Row) -> Row:
    if block["type"] == "image":
        source = block["source"]
        url = source.get("url") or f"data:image/png;base64,{source['data']}"
        return {"type": "image_url", "image_url": {"url": url}}
    return {name: value for name, value in block.items() if name != "cache_control"}


MARK: Final = {"type": "ephemeral"}


def anthropic(
    rows: Rows, *, model: str = "claude-sonnet-4-5", system: bool = True, newest: bool = True, lead: bool = False
) -> Rows:
    """As messages, with breakpoints behind the system message, the newest message, and the lead of the first message."""
    out = copy.deepcopy(rows)
    for row in out:
        body = row["request"]
        body["model"], body["max_tokens"] = _model(row, model, "claude-opus-4-5"), 500
        if system and body.get("system"):
            body["system"][-1]["cache_control"] = MARK
        if lead:
            body["messages"][0]["content"][-2 if len(body["messages"][0]["content"]) > 1 else 0]["cache_control"] = MARK
        if newest:
            body["messages"][-1]["content"][-1]["cache_control"] = MARK
    return out


def written(rows: Rows, path: Path) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


# -- planters: each changes clean rows (in the common form) in place --

Planter = Callable[[Rows, random.Random], None]


def _system(row: Row) -> Row:
    return row["request"]["system"][0]


def _moment(row: Row) -> datetime:
    return datetime.fromtimestamp(row["started_at_s"], UTC)


def _prepend(line: Callable[[Row, random.Random, int], str]) -> Planter:
    def plant(rows: Rows, rng: random.Random) -> None:
        for number, row in enumerate(rows):
            _system(row)["text"] = f"{line(row, rng, number)}\n{_system(row)['text']}"

    return plant


def _append(line: Callable[[Row, random.Random, int], str]) -> Planter:
    def plant(rows: Rows, rng: random.Random) -> None:
        for number, row in enumerate(rows):
            _system(row)["text"] += f"\n{line(row, rng, number)}"

    return plant


def _amid(line: Callable[[Row, random.Random, int], str]) -> Planter:
    def plant(rows: Rows, rng: random.Random) -> None:
        for number, row in enumerate(rows):
            lines = _system(row)["text"].split("\n")
            _system(row)["text"] = "\n".join([*lines[:3], line(row, rng, number), *lines[3:]])

    return plant


TIMES: Final[dict[str, Callable[[Row], str]]] = {
    "iso": lambda row: f"Current time: {_moment(row):%Y-%m-%dT%H:%M:%SZ}",
    "long": lambda row: f"Today is {_moment(row):%A, %B %d, %Y}, {_moment(row):%I:%M:%S %p}.",
    "epoch": lambda row: f"now={row['started_at_s']:.0f}",
    "micro": lambda row: f"<time>{_moment(row).isoformat()}</time>",
    "chinese": lambda row: f"当前时间：{_moment(row):%Y年%m月%d日 %H时%M分%S秒}",
    "minutes": lambda row: f"It is {_moment(row):%H:%M} UTC.",
}
IDS: Final[dict[str, Callable[[random.Random], str]]] = {
    "uuid": lambda rng: f"request_id: {uuid.UUID(int=rng.getrandbits(128))}",
    "hex": lambda rng: f"Trace {rng.getrandbits(64):016x}.",
    "named": lambda rng: f"[nonce req_{rng.getrandbits(48):012x}]",
    "long number": lambda rng: f"Request {rng.randint(10**9, 10**10)} follows.",
    "base62": lambda rng: "id=" + "".join(rng.choice("ABCDEFGHabcdefgh0123456789") for _ in range(22)),
}


def name_of_user(rows: Rows, rng: random.Random) -> None:
    names = {f"u{i}": name for i, name in enumerate(("Ann Miller", "Bob Stone", "Carla Diaz", "Dmitri Weiss"))}
    _prepend(lambda row, _, __: f"The user is called {names[row['user']]} and has the plan gold.")(rows, rng)


def session_name(rows: Rows, rng: random.Random) -> None:
    salt = rng.getrandbits(32)
    _prepend(lambda row, _, __: "Session: " + uuid.uuid5(uuid.NAMESPACE_DNS, f"{salt} {row['session']}").hex)(rows, rng)


def shuffled_tools(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        rng.shuffle(row["request"]["tools"])


def changing_tools(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        row["request"]["tools"] = [each for each in row["request"]["tools"] if rng.random() < 0.8] or row["request"]["tools"]


def one_tool_more(rows: Rows, rng: random.Random) -> None:
    late = tool(rng, 99)
    for row in rows:
        if len(row["request"]["messages"]) > 4:
            row["request"]["tools"].insert(1, late)


def shuffled_keys(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        row["request"]["tools"] = [_shuffled(each, rng) for each in row["request"]["tools"]]


def _shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        names = list(value)
        rng.shuffle(names)
        return {name: _shuffled(value[name], rng) for name in names}
    return [_shuffled(each, rng) for each in value] if isinstance(value, list) else value


def spaces_in_descriptions(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        for each in row["request"]["tools"][:2]:
            each["description"] = each["description"].replace(". ", "." + " " * rng.randint(1, 3))


def dated_tool(rows: Rows, rng: random.Random) -> None:
    del rng
    for row in rows:
        row["request"]["tools"][2]["description"] += f" Valid at {_moment(row):%Y-%m-%d %H:%M:%S}."


def variables_first(rows: Rows, rng: random.Random) -> None:
    del rng
    for row in rows:
        row["request"]["messages"][0]["content"].reverse()


def context_first(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        _system(row)["text"] = text_of(rng, 6) + "\n\n" + _system(row)["text"]


def windowed(rows: Rows, rng: random.Random) -> None:
    del rng
    for row in rows:
        row["request"]["messages"] = row["request"]["messages"][-5:]


def window_behind_the_first(rows: Rows, rng: random.Random) -> None:
    del rng
    for row in rows:
        messages = row["request"]["messages"]
        row["request"]["messages"] = messages if len(messages) < 6 else [*messages[:2], *messages[-3:]]


def rewritten(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        for message in row["request"]["messages"][:-2]:
            message["content"][0]["text"] = words(rng, 30)


def spaces(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        _system(row)["text"] += "\n" * rng.randint(0, 3) + " " * rng.randint(0, 3)


def inner_spaces(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        _system(row)["text"] = _system(row)["text"].replace("\n", "\n" * rng.randint(1, 2), 1)


def counter(rows: Rows, rng: random.Random) -> None:
    _append(lambda row, _, number: f"This is call number {number}.")(rows, rng)


def signed_pictures(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        url = f"https://cdn.example.com/scan-{row['session']}.png?X-Expires=300&sig={rng.getrandbits(64):x}"
        row["request"]["messages"][0]["content"].insert(0, {"type": "image", "source": {"type": "url", "url": url}})


def encoded_pictures(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        data = "".join(rng.choice("ABCDEFGHabcdefgh0123456789+/") for _ in range(3_000))
        picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
        row["request"]["messages"][0]["content"].insert(0, picture)


def at_once(rows: Rows, rng: random.Random) -> None:
    del rng
    for number, row in enumerate(rows):
        row["started_at_s"] = START_S + (number // 15) * 900.0 + (number % 15) * 0.01


def switching(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        if rng.random() < 0.3 and len(row["request"]["messages"]) > 2:
            row["request"]["model"] = "large"


def shuffled_documents(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        content = row["request"]["messages"][0]["content"]
        if rng.random() < 0.5:
            content[0], content[1] = content[1], content[0]


def shuffled_shots(rows: Rows, rng: random.Random) -> None:
    for row in rows:
        messages = row["request"]["messages"]
        pairs = [messages[i : i + 2] for i in range(0, len(messages) - 1, 2)]
        rng.shuffle(pairs)
        row["request"]["messages"] = [message for pair in pairs for message in pair] + messages[-1:]


def slow(rows: Rows, rng: random.Random) -> None:
    """One conversation after the other, each with long pauses."""
    del rng
    first: dict[Any, float] = {}
    order: dict[Any, int] = {}
    for row in rows:
        start = first.setdefault(row["session"], row["started_at_s"])
        number = order.setdefault(row["session"], len(order))
        row["started_at_s"] = START_S + number * 9_000.0 + (row["started_at_s"] - start) * 15


def daily_date(rows: Rows, rng: random.Random) -> None:
    for number, row in enumerate(rows):
        row["started_at_s"] += 86_400.0 * (number * 3 // len(rows))
    _prepend(lambda row, _, __: f"Date: {_moment(row):%Y-%m-%d}")(rows, rng)
