"""Usage logs: every provider's block, the schema, bad lines, and what a log costs and would have cost."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cache.presets import rules_of
from simcache.cache.rates import tariff_of
from simcache.cli import main
from simcache.errors import InputError, UnknownNameError
from simcache.logs import UsageLog, UsageRow, read_usage, write_usage
from simcache.pricing import API_LINES, bill
from simcache.usage_bill import alternatives, bill_usage
from simcache.usage_blocks import Counts, read_block

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((ROOT / "simcache" / "data" / "usage-log.schema.json").read_text())
NOV_21 = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()


def log_of(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(line + "\n" if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def sonnet(**fields) -> UsageRow:
    return UsageRow(
        **{"provider": "anthropic", "model": "claude-sonnet-4-5", "prompt_tokens": 10_000, "started_at_s": NOV_21} | fields
    )


# --- blocks ------------------------------------------------------------------------------------------------------------------

BLOCKS = {
    "openai chat": (
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 64, "audio_tokens": 0, "accepted_prediction_tokens": 0},
        },
        Counts(2006, 1920, 0, 0, 300, 64),
    ),
    "openai chat, gpt-5.6": (
        {
            "prompt_tokens": 5000,
            "completion_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 3500},
        },
        Counts(5000, 1000, 3500, 0, 9),
    ),
    "openai responses": (
        {
            "input_tokens": 2006,
            "input_tokens_details": {"cached_tokens": 1920},
            "output_tokens": 300,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 2306,
        },
        Counts(2006, 1920, 0, 0, 300),
    ),
    "deepseek": (
        {"prompt_tokens": 100, "completion_tokens": 5, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
        Counts(100, 64, 0, 0, 5),
    ),
    "kimi": ({"prompt_tokens": 100, "completion_tokens": 5, "cached_tokens": 60}, Counts(100, 60, 0, 0, 5)),
    "qwen explicit": (
        {
            "prompt_tokens": 3000,
            "completion_tokens": 7,
            "prompt_tokens_details": {
                "cached_tokens": 0,
                "cache_creation_input_tokens": 2800,
                "cache_creation": {"ephemeral_5m_input_tokens": 2800},
                "cache_type": "ephemeral",
            },
        },
        Counts(3000, 0, 2800, 0, 7),
    ),
    "anthropic, split": (
        {
            "input_tokens": 5000,
            "cache_creation_input_tokens": 3000,
            "cache_read_input_tokens": 90_000,
            "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000},
            "output_tokens": 400,
            "service_tier": "batch",
        },
        Counts(98_000, 90_000, 1000, 2000, 400, 0, True),
    ),
    "anthropic, no split": (
        {"input_tokens": 5000, "cache_creation_input_tokens": 5000, "cache_read_input_tokens": 90_000, "output_tokens": 0},
        Counts(100_000, 90_000, 5000, 0, 0),
    ),
    "anthropic, nothing cached": (
        {"input_tokens": 8, "cache_creation_input_tokens": None, "cache_read_input_tokens": 0, "output_tokens": 3},
        Counts(8, 0, 0, 0, 3),
    ),
    "gemini": (
        {
            "promptTokenCount": 5000,
            "cachedContentTokenCount": 4000,
            "candidatesTokenCount": 100,
            "thoughtsTokenCount": 50,
            "toolUsePromptTokenCount": 30,
            "totalTokenCount": 5180,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 5000}],
        },
        Counts(5030, 4000, 0, 0, 150, 50),
    ),
    "gemini, python": ({"prompt_token_count": 12, "candidates_token_count": 3, "total_token_count": 15}, Counts(12, 0, 0, 0, 3)),
    "gemini, live": ({"promptTokenCount": 12, "responseTokenCount": 3, "totalTokenCount": 15}, Counts(12, 0, 0, 0, 3)),
    "gemini, interactions": (
        {
            "total_input_tokens": 5000,
            "total_cached_tokens": 4000,
            "total_output_tokens": 100,
            "total_thought_tokens": 50,
            "total_tool_use_tokens": 30,
            "total_tokens": 5180,
            "input_tokens_by_modality": [{"modality": "text", "tokens": 5000}],
        },
        Counts(5030, 4000, 0, 0, 150, 50),
    ),
    "gemini, as openai chat": ({"completion_tokens": 102, "prompt_tokens": 758, "total_tokens": 1725}, Counts(758, 0, 0, 0, 967)),
    "xai": (
        {
            "prompt_tokens": 37,
            "completion_tokens": 30,
            "total_tokens": 367,
            "prompt_tokens_details": {"text_tokens": 37, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 300, "audio_tokens": 0},
            "num_sources_used": 0,
        },
        Counts(37, 8, 0, 0, 330, 300),
    ),
    "xai, without a total": (
        {"prompt_tokens": 37, "completion_tokens": 30, "completion_tokens_details": {"reasoning_tokens": 300}},
        Counts(37, 0, 0, 0, 330, 300),
    ),
    "openai realtime": (
        {
            "input_tokens": 100,
            "output_tokens": 20,
            "total_tokens": 120,
            "input_token_details": {"text_tokens": 100, "cached_tokens": 64, "cached_tokens_details": {"text_tokens": 64}},
            "output_token_details": {"text_tokens": 20},
        },
        Counts(100, 64, 0, 0, 20),
    ),
    "openai embeddings": ({"prompt_tokens": 8, "total_tokens": 8}, Counts(8)),
    "a proxy's openai chat for claude": (
        {
            "prompt_tokens": 3000,
            "completion_tokens": 7,
            "total_tokens": 3007,
            "cache_creation_input_tokens": 1000,
            "cache_read_input_tokens": 1500,
        },
        Counts(3000, 1500, 1000, 0, 7),
    ),
    "anthropic, last event of a stream": (
        {
            "input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 5000,
            "output_tokens": 3,
            "iterations": [{"type": "message", "input_tokens": 8, "output_tokens": 3}],
            "speed": "standard",
            "inference_geo": "not_available",
        },
        Counts(5008, 5000, 0, 0, 3),
    ),
    "bedrock, an hour": (
        {
            "inputTokens": 10,
            "outputTokens": 5,
            "cacheReadInputTokens": 0,
            "cacheWriteInputTokens": 1000,
            "cacheDetails": [{"ttl": "1h", "inputTokens": 600}, {"ttl": "5m", "inputTokens": 400}],
        },
        Counts(1010, 0, 400, 600, 5),
    ),
    "bedrock": (
        {"inputTokens": 10, "outputTokens": 5, "totalTokens": 3015, "cacheReadInputTokens": 2000, "cacheWriteInputTokens": 1000},
        Counts(3010, 2000, 1000, 0, 5),
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_is_recognised_by_its_keys(name):
    block, counts = BLOCKS[name]
    assert read_block(block) == (counts, [])


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (
            {"prompt_tokens": 9, "prompt_tokens_details": {"audio_tokens": 4}},
            "usage.prompt_tokens_details.audio_tokens is priced as",
        ),
        (
            {"input_tokens": 9, "cache_read_input_tokens": 0, "server_tool_use": {"web_search_requests": 2}},
            "usage.server_tool_use is not priced",
        ),
        (
            {
                "promptTokenCount": 9,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 5}, {"modality": "AUDIO", "tokenCount": 4}],
            },
            "usage.promptTokensDetails is priced as text",
        ),
        (
            {"input_tokens": 9, "cache_read_input_tokens": 0, "iterations": [{"type": "compaction", "input_tokens": 5}]},
            "usage.iterations is not priced",
        ),
        ({"input_tokens": 9, "cache_read_input_tokens": 0, "speed": "fast"}, "usage.speed 'fast'"),
        ({"input_tokens": 9, "service_tier": "priority"}, "usage.service_tier 'priority'"),
    ],
)
def test_what_token_prices_do_not_cover_is_said(tmp_path, block, said):
    (found,) = read_block(block)[1]
    assert found.startswith(said)
    row = {"provider": "openai", "model": "gpt-4o", "usage": block}
    assert f"{found} (2 rows)" in read_usage(log_of(tmp_path, row, row)).notes


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"tokens": 5}, "no usage block"),
        ([], "object"),
        ({"prompt_tokens": -1}, "prompt_tokens"),
        ({"output_tokens": 15}, "usage.input_tokens.* is missing"),
        ({"completion_tokens": 15}, "usage.prompt_tokens.* is missing"),
        ({"totalTokenCount": 15}, "usage.promptTokenCount.* is missing"),
        ({"inputTokens": 5, "cacheWriteInputTokens": 3, "cacheDetails": [{"ttl": "1h", "inputTokens": 4}]}, "cacheDetails"),
        ({"inputTokens": 5, "cacheDetails": {"ttl": "1h"}}, "list of objects"),
        ({"prompt_tokens": 1.5}, "whole number"),
        ({"prompt_tokens": True}, "whole number"),
        ({"prompt_tokens": 5, "prompt_tokens_details": 3}, "object"),
        ({"input_tokens": 5, "cache_creation_input_tokens": 9, "cache_creation": {"ephemeral_5m_input_tokens": 4}}, "sum"),
    ],
)
def test_impossible_blocks(block, said):
    with pytest.raises(InputError, match=said):
        read_block(block)


# --- lines -------------------------------------------------------------------------------------------------------------------

rows = st.builds(
    lambda parts, output, thinking, **rest: UsageRow(
        prompt_tokens=sum(parts),
        cached_tokens=parts[1],
        written_5m_tokens=parts[2],
        written_1h_tokens=parts[3],
        output_tokens=output + thinking,
        thinking_tokens=thinking,
        **rest,
    ),
    st.tuples(*[st.integers(0, 10**6)] * 4),
    st.integers(0, 10**4),
    st.integers(0, 10**4),
    provider=st.sampled_from(["anthropic", "openai"]),
    model=st.text(min_size=1, max_size=5),
    started_at_s=st.one_of(st.none(), st.floats(0, 4e9)),
    ttft_s=st.one_of(st.none(), st.floats(0, 10)),
    e2e_s=st.one_of(st.none(), st.floats(10, 20)),
    session=st.one_of(st.none(), st.text(max_size=4)),
    user=st.one_of(st.none(), st.text(max_size=4)),
    batch=st.booleans(),
    stored_token_hours=st.floats(0, 1e9),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(rows, min_size=1, max_size=5))
def test_what_is_written_is_read_back_and_fits_the_schema(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    write_usage(written, path)
    assert read_usage(path).rows == tuple(written)
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        jsonschema.validate(json.loads(line), SCHEMA)


def test_the_documented_line_fits_schema_and_reader(tmp_path):
    text = (ROOT / "docs" / "usage-logs.md").read_text()
    line = text.split("```json\n")[1].split("\n```")[0]
    jsonschema.validate(json.loads(line), SCHEMA)
    assert read_usage(log_of(tmp_path, line)).rows[0].user == "ann"


def test_gzip_blank_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "log.jsonl.gz"
    line = json.dumps({"provider": "openai", "model": "gpt-4o", "prompt_tokens": 5})
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + f"{line}\n\n{line}\n".encode()))
    assert len(read_usage(path)) == 2


GOOD = {"provider": "openai", "model": "gpt-4o", "prompt_tokens": 50}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "JSON"),
        ("[1]", "object"),
        ({"provider": "openai", "model": "gpt-4o"}, "prompt_tokens"),
        ({"model": "gpt-4o", "prompt_tokens": 5}, "provider"),
        ({**GOOD, "provider": ""}, "provider"),
        ({**GOOD, "cached_tokens": 51}, "cached_tokens"),
        ({**GOOD, "cached_tokens": 30, "written_5m_tokens": 21}, "cached and written"),
        ({**GOOD, "thinking_tokens": 1}, "thinking_tokens"),
        ({**GOOD, "prompt_tokens": -1}, "prompt_tokens"),
        ({**GOOD, "prompt_tokens": 5.5}, "prompt_tokens"),
        ({**GOOD, "prompt_tokens": 10**30}, "prompt_tokens"),
        ({**GOOD, "started_at_s": NOV_21 * 1000}, "milliseconds"),
        ({**GOOD, "started_at_s": float("nan")}, "started_at_s"),
        ({**GOOD, "ttft_s": 5, "e2e_s": 4}, "e2e_s"),
        ({**GOOD, "session": 7}, "session"),
        ({**GOOD, "cached_token": 5}, "cached_tokens"),
        ({**GOOD, "usage": {"prompt_tokens": 5}}, "beside a usage block"),
        (
            {"provider": "openai", "model": "m", "usage": {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}}},
            "cached_tokens",
        ),
        ({"provider": "google", "model": "m", "usage": {"promptTokenCount": 5, "cachedContentTokenCount": 6}}, "cached_tokens"),
    ],
)
def test_a_bad_line_is_one_error_with_file_and_line(tmp_path, line, said):
    path = log_of(tmp_path, GOOD, line)
    with pytest.raises(InputError, match=said) as caught:
        read_usage(path)
    assert f"{path}:2" in str(caught.value)
    result = CliRunner().invoke(main, ["bill", str(path)], standalone_mode=True)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no rows"):
        read_usage(log_of(tmp_path))
    with pytest.raises(InputError, match="cannot be read"):
        read_usage(tmp_path / "nowhere.jsonl")
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(json.dumps(GOOD).encode() * 1000)[:40])
    with pytest.raises(InputError):
        read_usage(broken)
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_usage(tmp_path / "latin.jsonl")


def test_records_carry_what_the_log_says():
    records = UsageLog(
        (sonnet(), sonnet(started_at_s=NOV_21 + 60, cached_tokens=9000, ttft_s=1.5, e2e_s=4.0, output_tokens=7))
    ).records
    assert records.hit_tokens.tolist() == [0, 9000]
    assert records.ttft_s.tolist()[1] == pytest.approx(1.5)
    assert records.e2e_s.tolist()[1] == pytest.approx(4.0)
    assert records.submitted_at_ns.tolist() == [0, 60 * 10**9]


# --- bills -------------------------------------------------------------------------------------------------------------------


def billed(path: Path, *options: str) -> dict:
    result = CliRunner().invoke(main, ["bill", str(path), *options, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_worked_bill_from_the_providers_own_block(tmp_path):
    usage = {"input_tokens": 5000, "cache_creation_input_tokens": 5000, "cache_read_input_tokens": 90_000, "output_tokens": 0}
    path = log_of(tmp_path, {"provider": "anthropic", "model": "claude-sonnet-4-5", "started_at_s": NOV_21, "usage": usage})
    document = billed(path)
    assert document["total_usd"] == pytest.approx(0.06075)
    assert list(document["lines"]) == list(API_LINES)
    assert document["lines"]["cache_write_5m"] == pytest.approx(5000 * 3.75e-6)
    assert (document["requests"], document["unpriced"]) == (1, 0)
    assert any("2026-11-21" in source for source in document["prices"])


def test_the_price_library_agrees_on_every_block(tmp_path):
    from genai_prices import Usage, calc_price

    when = datetime(2026, 11, 21, 12, tzinfo=UTC)
    models = {"openai": "gpt-5.6-sol", "anthropic": "claude-opus-5", "google": "gemini-2.5-pro", "deepseek": "deepseek-v4-pro"}
    for name, (block, counts) in BLOCKS.items():
        provider = next((p for p in ("anthropic", "deepseek") if name.startswith(p)), "google" if "gemini" in name else "openai")
        if name.startswith(("bedrock", "kimi", "qwen", "a proxy")) or counts.batch:
            continue
        row = {"provider": provider, "model": models[provider], "started_at_s": when.timestamp(), "usage": block}
        usage = Usage(
            input_tokens=counts.prompt_tokens,
            cache_read_tokens=counts.cached_tokens,
            cache_write_tokens=counts.written_5m_tokens + counts.written_1h_tokens,
            cache_write_1h_tokens=counts.written_1h_tokens,
            output_tokens=counts.output_tokens,
        )
        theirs = calc_price(usage, models[provider], provider_id=provider, genai_request_timestamp=when).total_price
        assert billed(log_of(tmp_path, row))["total_usd"] == pytest.approx(float(theirs), rel=1e-9), name


@pytest.mark.parametrize(
    ("name", "provider", "flavor", "root"),
    [
        ("openai chat", "openai", "chat", "usage"),
        ("openai chat, gpt-5.6", "openai", "chat", "usage"),
        ("openai responses", "openai", "responses", "usage"),
        ("anthropic, split", "anthropic", "default", "usage"),
        ("anthropic, no split", "anthropic", "default", "usage"),
        ("anthropic, nothing cached", "anthropic", "default", "usage"),
        ("anthropic, last event of a stream", "anthropic", "default", "usage"),
        ("gemini", "google", "default", "usageMetadata"),
        ("xai", "x-ai", "chat", "usage"),
        ("bedrock", "aws", "default", "usage"),
        ("bedrock, an hour", "aws", "default", "usage"),
    ],
)
def test_the_price_library_reads_the_same_counts(name, provider, flavor, root):
    from genai_prices import extract_usage

    block, counts = BLOCKS[name]
    model = {
        "openai": "gpt-4o",
        "anthropic": "claude-opus-5",
        "google": "gemini-2.5-pro",
        "x-ai": "grok-4.7",
        "aws": "amazon.nova-pro-v1:0",
    }
    response = {"model": model[provider], "modelVersion": model[provider], root: block}
    theirs = extract_usage(response, provider_id=provider, api_flavor=flavor).usage
    names = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens", "output_tokens")
    read = {each: getattr(theirs, each, None) or 0 for each in names}
    assert read == dict(
        zip(
            names,
            (
                counts.prompt_tokens,
                counts.cached_tokens,
                counts.written_5m_tokens + counts.written_1h_tokens,
                counts.written_1h_tokens,
                counts.output_tokens,
            ),
            strict=True,
        )
    )


def test_prices_are_those_of_the_day_and_the_hour(tmp_path):
    old = datetime(2026, 8, 1, tzinfo=UTC).timestamp()  # GPT-5.6 cost 5, and 4 from 2026-08-21 on
    row = {"provider": "openai", "model": "gpt-5.6-sol", "prompt_tokens": 1000}
    document = billed(log_of(tmp_path, {**row, "started_at_s": old}, {**row, "started_at_s": NOV_21}))
    assert document["total_usd"] == pytest.approx(1000 * (5 + 4) * 1e-6)
    peak = datetime(2026, 11, 20, 2, 30, tzinfo=UTC).timestamp()
    row = {"provider": "deepseek", "model": "deepseek-v4-pro", "prompt_tokens": 1000}
    document = billed(log_of(tmp_path, {**row, "started_at_s": peak}, {**row, "started_at_s": peak + 2 * 3600}))
    assert document["total_usd"] == pytest.approx(1000 * (1.32 + 0.66) * 1e-6)


def test_without_an_instant_todays_prices_hold_and_the_bill_says_so(tmp_path):
    document = billed(log_of(tmp_path, GOOD, {**GOOD, "started_at_s": 12.5}))
    assert any("2 of 2 rows" in note and "today" in note for note in document["notes"])
    assert "today" in document["prices"][0]
    assert not any("today" in note for note in billed(log_of(tmp_path, {**GOOD, "started_at_s": NOV_21}))["notes"])


def test_an_unknown_model_is_counted_and_never_free(tmp_path):
    path = log_of(tmp_path, {**GOOD, "started_at_s": NOV_21}, {**GOOD, "model": "gpt-4p", "started_at_s": NOV_21})
    document = billed(path)
    assert (document["requests"], document["unpriced"]) == (2, 1)
    assert document["total_usd"] == pytest.approx(50 * 2.5e-6)
    assert "gpt-4o" in document["unpriced_models"][0]["why"]
    for lost in ({"model": "gpt-4p"}, {"provider": "opnai"}):
        result = CliRunner().invoke(main, ["bill", str(log_of(tmp_path, {**GOOD, **lost}))])
        assert result.exit_code == 2
        assert "Did you mean" in result.output


@pytest.mark.parametrize(
    ("provider", "model", "usd"),
    [
        ("anthropic", "claude-sonnet-4-5-20250929", 3e-3),
        ("Anthropic", "anthropic/claude-sonnet-4.5", 3e-3),
        ("OpenAI", "gpt-4o-2024-08-06", 2.5e-3),
        ("google", "models/gemini-2.5-pro", 1.25e-3),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", 3.3e-3),
        ("azure", "gpt-4o-2024-11-20", 2.5e-3),
    ],
)
def test_models_by_the_names_that_logs_have(provider, model, usd):
    row = UsageRow(provider=provider, model=model, prompt_tokens=1000, started_at_s=NOV_21)
    assert bill_usage(UsageLog((row,))).total_usd == pytest.approx(usd)


@pytest.mark.parametrize(
    ("provider", "model", "limit"),
    [("anthropic", "claude-sonnet-4-5", 200_000), ("google", "gemini-2.5-pro", 200_000), ("x-ai", "grok-4.7", 199_999)],
)
def test_a_tier_by_length_holds_for_all_of_a_longer_prompt(provider, model, limit):
    """At the limit and one above it, cached and written tokens counted, as the price library has it."""
    from genai_prices import Usage, calc_price

    for prompt in (limit, limit + 1):
        written = 5_000 if provider == "anthropic" else 0
        row = UsageRow(
            provider=provider,
            model=model,
            prompt_tokens=prompt,
            cached_tokens=150_000,
            written_5m_tokens=written,
            output_tokens=700,
            started_at_s=NOV_21,
        )
        usage = Usage(input_tokens=prompt, cache_read_tokens=150_000, cache_write_tokens=written, output_tokens=700)
        when = datetime.fromtimestamp(NOV_21, UTC)
        theirs = calc_price(usage, model, provider_id=provider, genai_request_timestamp=when).total_price
        assert bill_usage(UsageLog((row,))).total_usd == pytest.approx(float(theirs), rel=1e-12)


def test_prices_hold_for_prompts_as_long_as_their_source_says():
    rows_ = [UsageRow(provider="qwen", model="qwen3.5-plus", prompt_tokens=n, started_at_s=NOV_21) for n in (256_000, 256_001)]
    found = bill_usage(UsageLog(tuple(rows_)))
    assert found.unpriced_rows == (1,)
    assert found.total_usd == pytest.approx(0.256 * 0.4)


def test_a_missing_price_counts_the_rows_that_need_it():
    row = UsageRow(provider="openai", model="gpt-5.5-pro", prompt_tokens=1000, started_at_s=NOV_21)
    found = bill_usage(UsageLog((row, UsageRow(**{**_fields(row), "cached_tokens": 500}))))
    assert found.unpriced == 1
    assert "cache_read" in found.unpriced_models[0].why
    assert found.total_usd == pytest.approx(1000 * 30e-6)


def _fields(row: UsageRow) -> dict:
    return {name: getattr(row, name) for name in UsageRow.__dataclass_fields__}


def test_a_provider_without_rules_is_priced_by_the_list():
    found = bill_usage(
        UsageLog((UsageRow(provider="mistral", model="mistral-large-2512", prompt_tokens=1000, started_at_s=NOV_21),))
    )
    assert found.total_usd > 0
    with pytest.raises(InputError, match="batch"):
        bill_usage(UsageLog((UsageRow(provider="mistral", model="mistral-large-2512", prompt_tokens=9, batch=True),)))


def test_storage_and_batches_have_their_prices():
    row = UsageRow(provider="google", model="gemini-2.5-pro", prompt_tokens=0, stored_token_hours=2e6, started_at_s=NOV_21)
    with pytest.raises(InputError, match="storage"):
        bill_usage(UsageLog((row,)))
    assert bill_usage(UsageLog((row,)), rules="gemini-explicit").lines["storage"] == pytest.approx(9.0)
    plain, batch = (bill_usage(UsageLog((sonnet(batch=batch),))).total_usd for batch in (False, True))
    assert batch == pytest.approx(plain / 2)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.integers(0, 10**5)] * 5), min_size=1, max_size=6))
def test_a_log_is_priced_as_the_simulator_prices_records(parts):
    usage = [
        sonnet(prompt_tokens=a + b + c + d, cached_tokens=b, written_5m_tokens=c, written_1h_tokens=d, output_tokens=e)
        for a, b, c, d, e in parts
    ]
    log = UsageLog(tuple(usage))
    tariff = tariff_of(rules_of("anthropic", "claude-sonnet-4-5"), "claude-sonnet-4-5", datetime(2026, 11, 21))
    assert bill_usage(log).total_usd == pytest.approx(bill(log.records, tariff).total_usd)


def test_another_model_prices_the_same_tokens(tmp_path):
    row = {
        "provider": "anthropic",
        "model": "claude-sonnet-4-5",
        "prompt_tokens": 1000,
        "written_5m_tokens": 400,
        "started_at_s": NOV_21,
    }
    path = log_of(tmp_path, row)
    haiku = billed(path, "--model", "claude-haiku-4-5")
    assert haiku["total_usd"] == pytest.approx(billed(path)["total_usd"] / 3)
    assert haiku["as_logged_usd"] == pytest.approx(billed(path)["total_usd"])
    gpt = billed(path, "--model", "openai/gpt-4o")  # no write fee there
    assert gpt["total_usd"] == pytest.approx(1000 * 2.5e-6) == billed(path, "--model", "gpt-4o")["total_usd"]
    result = CliRunner().invoke(main, ["bill", str(path), "--model", "claude-hiku-4-5"])
    assert result.exit_code == 2
    assert "claude-haiku-4-5" in result.output


# --- what it would have cost -----------------------------------------------------------------------------------------------


def cost_of(log: UsageLog) -> dict[str, float]:
    return {each.name: each.total_usd for each in alternatives(log)}


def session(*gaps_s: float, ttl: str = "5m", hour: bool = False) -> UsageLog:
    """A session of 10,000 shared tokens and 100 new ones a turn, as Anthropic would log it under one lifetime."""
    lifetime_s = 3600 if hour else 300
    out, at_s = [], NOV_21
    for turn, gap_s in enumerate((0.0, *gaps_s)):
        at_s += gap_s
        whole = 10_000 + 100 * turn
        cached = whole - 100 if turn and gap_s < lifetime_s else 0
        written = {("written_1h_tokens" if hour else "written_5m_tokens"): whole - cached}
        out.append(sonnet(prompt_tokens=whole + 20, cached_tokens=cached, session="s", started_at_s=at_s, **written))
    return UsageLog(tuple(out))


@pytest.mark.parametrize("gaps", [(60, 60, 60), (60, 900, 60), (4000, 60), (301, 299, 3599, 3601)])
def test_another_lifetime_gives_the_log_that_it_would_have_left(gaps):
    five, hour = session(*gaps), session(*gaps, hour=True)
    assert cost_of(five)["every write for 1h"] == pytest.approx(bill_usage(hour).total_usd)
    assert cost_of(hour)["every write for 5m"] == pytest.approx(bill_usage(five).total_usd)
    assert cost_of(five)["every write for 5m"] == pytest.approx(bill_usage(five).total_usd)


def test_without_caching_everything_is_input():
    log = session(60, 60)
    tokens = sum(row.prompt_tokens for row in log.rows)
    assert cost_of(log)["no caching"] == pytest.approx(tokens * 3e-6)


def test_without_sessions_only_prices_change_and_it_says_so():
    log = UsageLog((sonnet(written_5m_tokens=8000), sonnet(cached_tokens=8000)))
    hour = next(each for each in alternatives(log) if each.name == "every write for 1h")
    assert hour.change_usd == pytest.approx(8000 * (6 - 3.75) * 1e-6)
    assert "same hits" in hour.assumes


def test_another_rule_of_the_same_provider():
    row = UsageRow(provider="openai", model="gpt-4o", prompt_tokens=2000, cached_tokens=1000, started_at_s=NOV_21)
    found = cost_of(UsageLog((row,)))
    assert found["rules openai-24h"] == pytest.approx(bill_usage(UsageLog((row,))).total_usd)
    with pytest.raises(KeyError):
        found["rules gemini-explicit"]


def test_a_log_without_writes_does_not_say_what_was_stored():
    """Ten minutes between turns: the in-memory entry is gone, one of a day is hit up to its last whole unit, one of 30 minutes
    too, but its writes cost 1.25 times the input."""
    rows_ = [
        UsageRow(provider="openai", model="gpt-4o", prompt_tokens=tokens, session="s", started_at_s=NOV_21 + 600 * turn)
        for turn, tokens in enumerate((10_000, 10_100))
    ]
    found = cost_of(UsageLog(tuple(rows_)))
    hit = 10_000 // 128 * 128
    assert found["rules openai-24h"] == pytest.approx((20_100 - hit) * 2.5e-6 + hit * 1.25e-6)
    assert found["rules openai-5.6"] == pytest.approx((20_100 - hit) * 1.25 * 2.5e-6 + hit * 1.25e-6)
    day = next(each for each in alternatives(UsageLog(tuple(rows_))) if each.name == "rules openai-24h")
    assert "begin with the one before" in day.assumes


def test_no_alternatives_for_what_has_no_price():
    log = UsageLog((sonnet(), UsageRow(provider="anthropic", model="claude-nobody", prompt_tokens=10**9)))
    assert all(each.total_usd < 1 for each in alternatives(log))


def test_the_table_for_people(tmp_path):
    write_usage(session(60, 900).rows, tmp_path / "log.jsonl")
    result = CliRunner().invoke(main, ["bill", str(tmp_path / "log.jsonl")], catch_exceptions=False)
    assert result.exit_code == 0
    for words in ("3 requests", "cache reads", "total", "no caching", "every write for 1h", "prices: genai-prices"):
        assert words in result.output


def test_a_hundred_thousand_rows_take_seconds():
    import time

    rows_ = tuple(sonnet(started_at_s=NOV_21 - 600 * i, session=f"s{i % 5000}") for i in range(100_000))
    begun = time.process_time()
    bill_usage(UsageLog(rows_))
    assert time.process_time() - begun < 15  # about 3 s on the machine this was written on


def test_unknown_provider_lists_near_names():
    with pytest.raises(UnknownNameError, match="anthropic"):
        bill_usage(UsageLog((UsageRow(provider="antropic", model="claude-sonnet-4-5", prompt_tokens=5),)))
