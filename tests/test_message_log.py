"""Message logs: every body that clients send is read, what is refused is named by file and line, and no text gets out."""

# ruff: noqa: RUF001  # paragraphs in their own scripts are what is tested

from __future__ import annotations

import gzip
import json
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcache.errors import InputError
from simcache.messages.reader import read_messages
from simcache.messages.tokens import SCRIPTS, count_tokens, estimate_tokens, weights_of

SECRET = "canary-7f3a"
HI = {"role": "user", "content": f"{SECRET} hello"}


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [HI]},
        {"request": {"messages": [HI]}, "response": {"usage": {"prompt_tokens": 3, "completion_tokens": 1}}},
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [HI]}},
        {"log": 1, "data": {"request": {"messages": [HI]}}},
        {"request": json.dumps({"messages": [HI]})},
        {"model": "gpt-6", "input": f"{SECRET} hello"},
        {"model": "gpt-6", "instructions": "x", "input": [{"role": "user", "content": [{"type": "input_text", "text": "y"}]}]},
        {"modelId": "m", "inferenceConfig": {}, "messages": [{"role": "user", "content": [{"text": "Hi"}, {"cachePoint": {}}]}]},
    ],
)
def test_a_body_is_found_however_it_is_wrapped(log: Path, row: dict[str, Any]) -> None:
    read = read_messages(written(log, row))
    assert len(read) == 1
    assert read.requests[0].parts
    assert not read.skipped


def test_parts_stand_in_the_order_in_which_the_model_sees_them(log: Path) -> None:
    body = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": {"type": "url", "url": "u"}}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {"b": 1, "a": 2}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "42"}]},
        ],
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "tools": [{"name": "look", "input_schema": {}, "cache_control": {"type": "ephemeral"}}],
    }
    request = read_messages(written(log, body)).requests[0]
    assert [(part.path, part.kind, part.mark) for part in request.parts] == [
        ("tools[0]", "tool", ""),
        ("system[0]", "text", "1h"),
        ("messages[0].content[0]", "text", None),
        ("messages[0].content[1]", "image", None),
        ("messages[1].content[0]", "call", None),
        ("messages[2].content[0]", "result", None),
    ]
    assert request.style == "messages"
    assert request.marks == 2


def test_a_breakpoint_is_no_content_and_equal_contents_share_a_number(log: Path) -> None:
    marked = {"system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}], "messages": [HI]}
    bare = {"system": [{"type": "text", "text": "s"}], "messages": [HI]}
    one, two = read_messages(written(log, marked, bare)).requests
    assert [part.content for part in one.parts] == [part.content for part in two.parts]


def test_openai_breakpoints_and_calls(log: Path) -> None:
    mark = {"mode": "explicit"}
    body = {
        "model": "gpt-5.6",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "s", "prompt_cache_breakpoint": mark}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "r"},
        ],
    }
    parts = read_messages(written(log, body)).requests[0].parts
    assert [(part.path, part.mark) for part in parts] == [
        ("messages[0].content[0]", ""),
        ("messages[1].tool_calls[0]", None),
        ("messages[2]", None),
    ]


@pytest.mark.parametrize(
    ("beside", "seconds"),
    [
        ({"started_at_s": 12.5}, 12.5),
        ({"timestamp": 1_795_856_400}, 1_795_856_400),
        ({"timestamp": 1_795_856_400_250}, 1_795_856_400.25),
        ({"ts": 1_795_856_400_000_000}, 1_795_856_400),
        ({"created_at": "2026-11-28T10:00:00+01:00"}, 1_795_856_400),
        ({"time": "2026-11-28 09:00:00"}, 1_795_856_400),
        ({"metadata": {"timestamp": "1795856400"}}, 1_795_856_400),
    ],
)
def test_instants_of_every_unit(log: Path, beside: dict[str, Any], seconds: float) -> None:
    assert read_messages(written(log, {"request": {"messages": [HI]}, **beside})).requests[0].started_at_s == seconds


def test_session_user_usage_and_ttft(log: Path) -> None:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 9}
    row = {
        "request": {"model": "claude-x", "messages": [HI], "metadata": {"user_id": "u9"}},
        "response": {"content": [{"type": "text", "text": "yo"}], "usage": usage},
        "session_id": 7,
        "ttft_ms": 250,
    }
    log_read = read_messages(written(log, row))
    request = log_read.requests[0]
    assert (request.model, request.session, request.user, request.ttft_s) == ("claude-x", "7", "u9", 0.25)
    assert request.usage is not None
    assert (request.usage.prompt_tokens, request.usage.cached_tokens, request.usage.output_tokens) == (8, 5, 9)
    assert request.answer is not None
    assert log_read.contents[request.answer].text == "yo"


def test_what_is_no_request_is_counted_with_its_reason(log: Path) -> None:
    read = read_messages(written(log, {"embedding": [1]}, {"messages": [HI]}, {"messages": []}, {"embedding": [2]}))
    assert len(read) == 1
    assert read.skipped == {"not a request to a chat model": (2, 1), "a request without messages": (1, 3)}


def test_a_log_out_of_order_is_sorted_and_says_so(log: Path) -> None:
    read = read_messages(written(log, {"messages": [HI], "timestamp": 9}, {"messages": [HI], "timestamp": 4}))
    assert [request.line for request in read.requests] == [2, 1]
    assert "sorted" in read.notes[0]


def test_gzip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"messages": [HI]}).encode()))
    assert len(read_messages(path)) == 1


BAD = (
    f'{{"messages": [{{"role": "user", "content": "{SECRET}"}}',  # cut off
    f'"{SECRET}"',
    f'["{SECRET}"]',
    SECRET,
    json.dumps({"messages": [SECRET]}),
    json.dumps({"messages": [{"role": SECRET, "content": {"text": SECRET}}]}),
    json.dumps({"messages": [{"role": "user"}]}),
    json.dumps({"messages": [{"content": SECRET}]}),
    json.dumps({"messages": [{"role": "user", "content": [{"type": "text", "text": {"x": SECRET}}]}]}),
    json.dumps({"messages": [HI], "tools": SECRET}),
    json.dumps({"messages": [HI], "tools": [SECRET]}),
    json.dumps({"messages": [HI], "timestamp": SECRET}),
    json.dumps({"messages": [HI], "system": [{"type": "text", "text": "a", "cache_control": {"ttl": {"x": SECRET}}}]}),
)


@pytest.mark.parametrize("bad", BAD)
def test_a_refused_line_is_named_and_never_shown(log: Path, bad: str) -> None:
    with pytest.raises(InputError) as caught:
        read_messages(written(log, {"messages": [HI]}, bad))
    assert (caught.value.line, str(caught.value).startswith(f"{log}:2: ")) == (2, True)
    assert SECRET not in f"{caught.value}{caught.value.args}{caught.value.value}"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_text_that_is_not_utf_8_and_an_endless_line_are_not_shown(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_bytes(b'{"messages": []}\n' + SECRET.encode() + b"\xff\n")
    with pytest.raises(InputError) as caught:
        read_messages(log)
    assert SECRET not in f"{caught.value}{caught.value.args}"
    monkeypatch.setattr("simcache.messages.reader.LONGEST_REQUEST_LINE", 1_000)
    with pytest.raises(InputError, match="at most 1,000 characters") as caught:
        read_messages(written(log, {"messages": [{"role": "user", "content": SECRET * 9_000}]}))
    assert SECRET not in f"{caught.value}{caught.value.args}"


@pytest.mark.parametrize("text", ["", "\n\n", '{"embedding": [1]}\n'])
def test_a_log_without_requests_is_an_error(log: Path, text: str) -> None:
    log.write_text(text)
    with pytest.raises(InputError, match="has no request to a chat model"):
        read_messages(log)


def test_no_repr_shows_a_text(log: Path) -> None:
    read = read_messages(written(log, {"messages": [HI], "system": SECRET, "tools": [{"name": SECRET}]}))
    assert SECRET not in f"{read!r}{read.requests!r}{read.contents!r}{read}"


NAMES = st.sampled_from(["type", "text", "role", "content", "messages", "tools", "system", "ttl", "input"])
LEAVES = st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=4)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12)


@given(VALUES)
def test_any_json_is_read_skipped_or_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = written(tmp_path_factory.mktemp("any") / "log.jsonl", {"messages": value, "tools": value, "system": value})
    with suppress(InputError):
        assert len(read_messages(path)) == 1


# -- tokens --

PARAGRAPHS = {
    # text -> tokens by o200k_base, Qwen's and Claude 2's tokeniser, counted 2026-11-28
    "You are the support assistant of a parcel service. Answer briefly and politely, in the language of the customer. Before you "
    "promise a date, look the parcel up with the tool; when the tool returns nothing, say so and offer to open a case.": (
        51,
        51,
        51,
    ),
    "你是一家快递公司的客服助手。请用客户的语言简短、礼貌地回答。在承诺送达日期之前，请先用工具查询包裹；"
    "如果工具没有返回结果，就如实说明，并主动提出建立工单。绝不要猜测包裹在哪里。": (62, 52, 88),
    "Вы помощник службы поддержки компании по доставке посылок. Отвечайте кратко и вежливо на языке клиента. Прежде чем обещать "
    "дату, найдите посылку с помощью инструмента; если он ничего не вернул, скажите об этом и предложите открыть обращение.": (
        61,
        80,
        126,
    ),
}


@pytest.mark.parametrize("text", PARAGRAPHS)
def test_the_estimate_lies_among_three_tokenisers(text: str) -> None:
    counted = PARAGRAPHS[text]
    assert min(counted) * 0.9 <= estimate_tokens(text) <= max(counted) * 1.1


def test_chinese_is_not_four_characters_a_token() -> None:
    assert estimate_tokens("查" * 1000) == 740
    assert estimate_tokens("parcel " * 1000) == pytest.approx(1_458, rel=0.01)


def test_every_script_s_estimate_lies_between_its_tokenisers() -> None:
    assert all(script.least <= script.tokens <= script.most for script in SCRIPTS)
    assert all(one.last < two.first for one, two in pairwise(SCRIPTS))


@given(st.text(max_size=40), st.text(max_size=40))
def test_an_estimate_adds_up(one: str, other: str) -> None:
    assert np.isclose(weights_of(one + other).sum(), weights_of(one).sum() + weights_of(other).sum())
    assert (estimate_tokens(one) == 0) == (not one)


def test_an_estimate_meets_the_log_s_own_usage(log: Path) -> None:
    rows = [{"messages": [HI], "usage": {"prompt_tokens": 18, "completion_tokens": 1}} for _ in range(3)]
    counts = count_tokens(read_messages(written(log, *rows)))
    assert counts.tokens[0] == 18
    assert "times" in counts.source


def test_a_tokenizer_file_counts(log: Path, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the extra `tokens` is not installed")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"hello": 0, "?": 1}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    read = read_messages(written(log, {"messages": [{"role": "user", "content": "hello hello there"}]}))
    assert count_tokens(read, tmp_path / "tokenizer.json").tokens.tolist() == [3]
    (tmp_path / "bad.json").write_text(SECRET)
    with pytest.raises(InputError, match="is no tokeniser file"):
        count_tokens(read, tmp_path / "bad.json")
