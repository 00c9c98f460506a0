"""simcache replay: what it prints, what it takes, and what it says about bad input."""

from __future__ import annotations

import gzip
import json
import re
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from simcache.cache.engine_presets import cache_preset, replay_preset
from simcache.cache.eviction import Lru
from simcache.cli.replay import command
from simcache.engine.replay import capacity_curve, replay
from simcache.engine.store_replay import file_requests
from simcache.errors import SimcacheError
from simcache.workload.block_traces import TraceWarning, read_block_trace

ROWS = (
    {"timestamp": 0, "input_length": 1400, "output_length": 5, "hash_ids": [0, 1, 2]},
    {"timestamp": 1000, "input_length": 1500, "output_length": 5, "hash_ids": [0, 1, 3]},
    {"timestamp": 1000, "input_length": 600, "output_length": 5, "hash_ids": [4, 5]},
    {"timestamp": 9000, "input_length": 1400, "output_length": 5, "hash_ids": [0, 1, 2]},
)
KEYS = [
    "policy",
    "store",
    "touch",
    "block_tokens",
    "capacity_blocks",
    "ttl_s",
    "requests",
    "total_blocks",
    "hit_blocks",
    "block_hit_ratio",
    "total_tokens",
    "hit_tokens",
    "token_hit_ratio",
]


@pytest.fixture
def trace(tmp_path: Path) -> str:
    return written(tmp_path, ROWS)


def written(folder: Path, rows: Any, name: str = "trace.jsonl") -> str:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def run(*arguments: object) -> Result:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return CliRunner().invoke(command, [str(each) for each in arguments])


def answer(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    document = json.loads(result.stdout)
    assert document["schema_version"] == 1
    return dict(document)


def refusal(*arguments: object) -> str:
    """The message of the one error in which the command ends, as `simcache` prints it."""
    result = run(*arguments)
    if isinstance(result.exception, SimcacheError):
        return str(result.exception)
    assert result.exit_code == 2, (result.output, result.exception)
    return result.stderr


def test_a_table_of_policies_capacities_and_lifetimes(trace: str) -> None:
    results = answer(trace, "--policy", "lru,infinite,ttl", "--capacity-blocks", "1,4", "--ttl", "1,8")["results"]
    assert [(r["policy"], r["capacity_blocks"], r["ttl_s"]) for r in results] == [
        ("lru", 1, None),
        ("lru", 4, None),
        ("infinite", None, None),
        *(("ttl", capacity, ttl_s) for ttl_s in (1.0, 8.0) for capacity in (None, 1, 4)),
    ]
    assert set(KEYS) <= set(results[0])
    infinite = results[2]
    assert {key: infinite[key] for key in KEYS} == {
        "policy": "infinite",
        "store": "plain",
        "touch": "rev",
        "block_tokens": 512,
        "capacity_blocks": None,
        "ttl_s": None,
        "requests": 4,
        "total_blocks": 11,
        "hit_blocks": 5,
        "block_hit_ratio": 5 / 11,
        "total_tokens": 4900,
        "hit_tokens": 1024 + 1400,
        "token_hit_ratio": 2424 / 4900,
    }
    assert [r["hit_blocks"] for r in results if r["policy"] == "ttl" and r["capacity_blocks"] is None] == [2, 4]


@pytest.mark.parametrize("touch", ["rev", "fwd", "any"])
def test_json_equals_the_library(trace: str, touch: str) -> None:
    ours = answer(trace, "--capacity-blocks", "2,3", "--touch", touch, "--per-request")["results"]
    for entry, row in zip(ours, replay(read_block_trace(trace), [Lru()], [2, 3], touch=touch), strict=True):  # type: ignore[arg-type]
        assert row.hits is not None
        assert row.evicted is not None
        assert (entry["hits"], entry["evicted"]) == (row.hits.tolist(), row.evicted.tolist())
        assert (entry["hit_tokens"], entry["touch"]) == (row.hit_tokens, touch)


def test_every_policy_by_name(trace: str) -> None:
    names = "lru,mru,fifo,filo,lfu,lfu_perfect,slru,sieve,random,priority,cost_aware,min,min_prefix,infinite"
    results = answer(trace, "--policy", names, "--capacity-blocks", "4", "--retain", "0:512:90:5", "--retain", "512::10")["results"]
    assert ",".join(r["policy"] for r in results) == names
    assert answer(trace, "--policy", " Cost-Aware", "--capacity-blocks", "4")["results"][0]["policy"] == "cost_aware"


def test_retention_and_seed_reach_their_policies(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = []
    for second in range(400):
        ids = [int(i) for i in rng.choice(60, size=4, replace=False)]
        rows.append({"timestamp": second * 1000, "input_length": 2048, "output_length": 1, "hash_ids": ids})
    path = written(tmp_path, rows)

    def hits(*options: object) -> int:
        with pytest.warns(TraceWarning):
            return int(answer_with_warnings(path, "--capacity-blocks", "20", *options)["results"][0]["hit_blocks"])

    assert hits("--policy", "priority") == hits("--policy", "lru")
    assert hits("--policy", "priority", "--retain", "0:512:90") != hits("--policy", "lru")
    assert hits("--policy", "random", "--seed", "1") == hits("--policy", "random", "--seed", "1")
    assert len({hits("--policy", "random", "--seed", seed) for seed in range(5)}) > 1


def answer_with_warnings(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(command, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return dict(json.loads(result.stdout))


def test_sizes_beyond_all_reason_are_only_large(trace: str) -> None:
    rows = answer(trace, "--policy", "lru,lfu,ttl", "--ttl", "1e300", "--capacity-blocks", 10**40)["results"]
    assert [row["hit_blocks"] for row in rows] == [5] * 4
    priority = answer(trace, "--policy", "priority", "--retain", "::50:1e300", "--capacity-blocks", 10**40)["results"]
    assert priority[0]["hit_blocks"] == 5


def test_capacity_in_tokens_is_rounded_down_to_blocks(trace: str) -> None:
    rows = answer(trace, "--capacity-tokens", "511,512,2047,inf")["results"]
    assert [row["capacity_blocks"] for row in rows] == [0, 1, 3, None]


def test_the_table_names_its_ratios_and_ends_with_counts(tmp_path: Path) -> None:
    path = written(tmp_path, [*ROWS[:2], "", *ROWS[2:], ""])
    result = run(path, "--policy", "lru,infinite", "--capacity-blocks", "0,3")
    assert result.exit_code == 0
    assert "token_hit_ratio: hit tokens / input tokens. block_hit_ratio: hit blocks / blocks." in result.stdout
    assert "plain store, blocks of 512 tokens, touch rev; evicted blocks." in result.stdout
    assert "Not let in at all: up to 11 blocks in one row." in result.stdout
    assert result.stdout.endswith(
        "read:     4 requests (11 blocks, 4,900 input tokens)\nskipped:  2 (blank line) lines\nrejected: 0 requests\n"
    )
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert answer(path, "--policy", "infinite")["trace"] == {
        "path": path,
        "requests": 4,
        "blocks": 11,
        "input_tokens": 4900,
        "block_tokens": 512,
        "skipped": {"blank line": 2},
        "rejected": 0,
    }


def test_per_request_lines_are_tab_separated(trace: str) -> None:
    lines = run(trace, "--policy", "lru,ttl", "--ttl", "8", "--capacity-blocks", "3", "--per-request").stdout.splitlines()
    assert lines[0] == "request\tlru/3 hit_tokens\tlru/3 evicted\tttl/inf/8s hit_tokens\tttl/inf/8s evicted\t" + (
        "ttl/3/8s hit_tokens\tttl/3/8s evicted"
    )
    assert lines[4] == "3\t512\t3\t1024\t0\t512\t3"


def test_curves_as_json_as_table_and_as_figure(trace: str, tmp_path: Path) -> None:
    figure = tmp_path / "curve.png"
    document = answer(trace, "--curve", "--policy", "lru,ttl", "--figure", figure)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert document["results"] == []
    by_capacity, by_lifetime = document["curves"]
    curve = capacity_curve(read_block_trace(trace))
    assert by_capacity["capacity_blocks"] == curve.steps.tolist()
    assert by_capacity["hit_tokens"] == curve.hit_tokens.tolist()
    assert by_capacity["token_hit_ratio"][-1] == by_lifetime["token_hit_ratio"][-1] == 2424 / 4900
    assert by_lifetime["ttl_s"] == [1.0, 8.0, 9.0]
    text = run(trace, "--curve", "--capacity-blocks", "3", "--figure", figure)
    assert "GB: at 131,072 bytes of KV per token (llama-3-8b/a100/tp1)." in text.stdout
    assert "lru" in text.stdout, "points beside the curve"
    assert text.stdout.endswith(f"figure:  {figure}\n")


def test_a_trace_in_which_nothing_hits_has_a_curve_too(tmp_path: Path) -> None:
    path = written(tmp_path, ROWS[:1])
    result = run(path, "--curve", "--policy", "lru,ttl", "--figure", tmp_path / "curve.svg")
    assert result.exit_code == 0, result.exception
    assert "of 0 capacities" in result.stdout


def test_a_stream_equals_the_whole(trace: str) -> None:
    options = ("--policy", "lru,fifo,sieve,ttl", "--ttl", "5", "--capacity-blocks", "3")
    whole, streamed = answer(trace, *options), answer(trace, *options, "--stream")
    assert streamed == whole
    assert "leave --stream out" in refusal(trace, *options, "--stream", "--per-request")
    assert "policy(='min') must know the future" in refusal(trace, "--stream", "--policy", "min", "--capacity-blocks", "3")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--policy", "lur", "--capacity-blocks", "3"], "policy(='lur') is not known. Did you mean 'lru'"),
        (["--policy", "lur", "--capacity-blocks", "3"], "min_prefix, mru, priority, random, sieve, slru, ttl."),
        (["--capacity-blocks", "-1"], "capacity(=-1) must be at least 0"),
        (["--capacity-blocks", "3,x"], "capacity_blocks(='x') must be a number, or several with commas between"),
        (["--capacity-blocks", " , "], "capacity_blocks(=' , ') must be a number, or several with commas between"),
        (["--policy", "ttl", "--ttl", ","], "ttl(=',') must be a number, or several with commas between"),
        (["--capacity-tokens", "1e6"], "capacity_tokens(='1e6') must be a number"),
        (["--capacity-blocks", "3", "--block-tokens", "0"], "block_tokens(=0) must be at least 1"),
        (["--capacity-blocks", "3", "--capacity-tokens", "3"], "Give --capacity-blocks or --capacity-tokens, not both."),
        ([], "capacity(=None) must be given for the policy lru. Give --capacity-blocks or --capacity-tokens, or --curve"),
        (["--policy", "ttl"], "ttl(=None) must be given for the policy ttl"),
        (["--policy", "ttl", "--ttl", "-5"], "ttl_s(=-5.0) must be at least 0"),
        (["--policy", "ttl", "--ttl", "inf"], "ttl_s(=inf) must be finite"),
        (["--policy", "ttl", "--ttl", "nan"], "ttl_s(=nan) must be finite"),
        (["--policy", "ttl", "--ttl", "soon"], "ttl(='soon') must be a number"),
        (["--capacity-blocks", "3", "--ttl", "5"], "ttl(='5') goes with the policy ttl"),
        (["--capacity-blocks", "3", "--retain", "0::9"], "retain(='0::9') goes with the policy priority"),
        (["--policy", "priority", "--capacity-blocks", "3", "--retain", "0:9"], "retain(='0:9') must be FROM:TO:PRIORITY"),
        (["--policy", "priority", "--capacity-blocks", "3", "--retain", "a::9"], "retain(='a::9') must be made of numbers"),
        (["--policy", "priority", "--capacity-blocks", "3", "--retain", "::101"], "priority(=101) must be at most 100"),
        (["--policy", "lfu", "--curve"], "policy(='lfu') has no curve in one pass"),
        (["--policy", "ttl", "--ttl-kind", "fixed", "--curve"], "policy(='ttl') has no curve in one pass"),
        (["--capacity-blocks", "3", "--figure", "x.png"], "--figure goes with --curve"),
        (["--curve", "--figure", "x.bmp"], "ending of the figure(='.bmp') is not known"),
        (["--curve", "--profile", "openai-figure"], "profile(='openai-figure') must be a server's"),
        (["--store", "vllm"], "capacity(=None) must be given"),
        (["--store", "vllm", "--capacity-blocks", "inf"], "capacity_blocks(='inf') must be a number for the vllm store"),
        (["--store", "vllm", "--capacity-blocks", "9", "--policy", "lfu"], "policy of the vllm store(='lfu') is not known"),
        (["--store", "vllm", "--curve"], "--curve goes with --store plain"),
        (["--store", "vllm", "--capacity-blocks", "9", "--ttl", "60"], "--ttl goes with --store plain"),
        (["--store", "sglang", "--capacity-blocks", "9", "--touch", "fwd"], "--touch goes with --store plain"),
        (
            ["--store", "sglang", "--capacity-blocks", "9", "--policy", "priority", "--retain", "::90"],
            "--retain goes with --store plain and tensorrt-llm",
        ),
        (["--store", "tensorrt-llm", "--capacity-blocks", "9", "--retain", "::90"], "goes with the policy priority"),
        (
            ["--store", "lmcache", "--capacity-blocks", "9", "--policy", "sieve"],
            "policy of the lmcache store(='sieve') is not known",
        ),
        (["--store", "vllm", "--capacity-blocks", "9", "--slots", "2"], "--slots and --slot-similarity go with --store slots"),
        (["--store", "sglang", "--capacity-tokens", "9", "--block-tokens", "0"], "block_tokens(=0) must be at least 1"),
        (["--store", "slots", "--capacity-tokens", "9", "--slots", "0"], "slots(=0) must be at least 1"),
        (["--format", "moncake", "--capacity-blocks", "3"], "format(='moncake') is not known. Did you mean 'mooncake'"),
    ],
)
def test_bad_options_say_name_value_rule_and_way_out(trace: str, arguments: list[str], says: str) -> None:
    assert says in refusal(trace, *arguments)


@pytest.mark.parametrize("store", ["plain", "vllm", "sglang", "slots"])
@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**ROWS[0], "hash_ids": [0, 1.5, 2]}, ":2: hash_ids[1](=1.5) must be a whole number"),
        ({**ROWS[0], "hash_ids": [0, "a", 2]}, ":2: hash_ids[1](='a') must be a whole number"),
        ({**ROWS[0], "hash_ids": None}, ":2: hash_ids(=None) must be a list of whole numbers"),
        ({**ROWS[0], "input_length": -1}, ":2: input_length(=-1) must be at least 0"),
        ({**ROWS[0], "timestamp": "x"}, ":2: timestamp(='x') must be a number"),
        ("{", ":2: "),
    ],
)
def test_bad_rows_say_where(tmp_path: Path, store: str, row: Any, says: str) -> None:
    path = written(tmp_path, [ROWS[0], row])
    assert says in refusal(path, "--format", "mooncake", "--store", store, "--capacity-blocks", "3")


def test_a_chain_that_contradicts_itself_warns_with_its_first_line(tmp_path: Path) -> None:
    path = written(tmp_path, [*ROWS, {**ROWS[0], "timestamp": 9500, "hash_ids": [4, 1, 2]}])
    with pytest.warns(TraceWarning, match=re.escape(f"{path}:5: hash_ids: id 1 follows id 4, at its first appearance id 0")):
        assert answer_with_warnings(path, "--capacity-blocks", "9")["results"][0]["requests"] == 5


def test_inputs_of_length_0_are_read_and_served(tmp_path: Path) -> None:
    rows = [
        {"timestamp": i, "input_length": 16 * n, "output_length": 0, "hash_ids": [*range(n)], "session_id": 0}
        for i, n in enumerate((0, 3, 0, 3))
    ]
    path = written(tmp_path, rows)
    for store in ("plain", "vllm", "sglang", "slots"):
        document = answer(path, "--store", store, "--capacity-blocks", "8", "--per-request")
        (row,) = document["results"]
        assert document["trace"]["requests"] == row["requests"] == len(row["hits"]) == 4
        assert row["hits"][:3] == [0, 0, 0]
        # The last prompt token is always computed again by an engine; a single slot was emptied by the prompt before.
        assert row["hits"][3] == {"plain": 48, "vllm": 32, "sglang": 32, "slots": 0}[store]


def test_what_an_engine_cannot_hold_is_rejected_and_counted(trace: str) -> None:
    for store in ("vllm", "sglang", "slots"):
        document = answer(trace, "--store", store, "--capacity-tokens", "1024", "--per-request")
        (row,) = document["results"]
        assert row["hits"] == [-1, -1, 0, -1]
        assert document["trace"]["rejected"] == row["rejected"] == 3
        assert (row["total_tokens"], row["hit_tokens"]) == (4900, 0), "it counts, and hits nothing"
        text = run(trace, "--store", store, "--capacity-tokens", "1024").stdout
        assert text.endswith("rejected: 3 requests\n")
        assert (document["trace"]["blocks"], document["trace"]["block_tokens"]) == (row["total_blocks"], row["block_tokens"])
        assert row["evicted_unit"] == ("blocks" if store == "vllm" else "tokens")
    assert (
        answer(trace, "--store", "vllm", "--block-tokens", "16", "--capacity-tokens", "4096")["trace"]["blocks"]
        == 88 + 94 + 38 + 88
    )
    assert "rejected: 0 to 4 requests" in run(trace, "--store", "vllm", "--capacity-blocks", "0,4").stdout


def test_presets_of_other_engines_by_name(shared_data: Path) -> None:
    requests = shared_data / "engines" / "requests.json.gz"
    loaded = list(file_requests(requests))
    for store, block_tokens in (("nano-vllm", 256), ("tensorrt-llm", 32), ("lmcache", 256), ("mooncake", 512)):
        (row,) = answer(requests, "--store", store, "--capacity-tokens", "16384", "--per-request")["results"]
        expected = replay_preset(loaded, cache_preset(store), 16384)
        assert (row["store"], row["policy"], row["block_tokens"]) == (store, "lru", block_tokens)
        assert (row["hits"], row["evicted"]) == (expected.hit_tokens, expected.evicted)
    options = ("--store", "tensorrt-llm", "--policy", "lru,priority", "--capacity-tokens", "16384")
    plain, equal = answer(requests, *options)["results"]
    assert plain["hit_tokens"] == equal["hit_tokens"], "one priority for all is LRU"
    _, retained = answer(requests, *options, "--retain", "0:512:90")["results"]
    assert retained["hit_tokens"] != plain["hit_tokens"]
    (small,) = answer(requests, "--store", "nano-vllm", "--block-tokens", "16", "--capacity-blocks", "512")["results"]
    assert small["block_tokens"] == 16


def recorded(shared_data: Path, name: str) -> Any:
    with gzip.open(shared_data / "engines" / f"{name}.json.gz", "rt") as text:
        return json.load(text)["runs"]


def test_engine_stores_equal_what_the_engines_did(shared_data: Path) -> None:
    """Every recorded run through the command, as somebody would type it."""
    requests = shared_data / "engines" / "requests.json.gz"
    for ran in recorded(shared_data, "vllm_sequential"):
        size = ("--block-tokens", ran["block_size"], "--capacity-blocks", ran["usable_blocks"])
        (row,) = answer(requests, "--format", "segments", "--store", "vllm", *size, "--per-request")["results"]
        assert (row["hits"], row["evicted"]) == (ran["hit_tokens"], ran["evicted_blocks"])
    for ran in recorded(shared_data, "sglang_sequential"):
        size = ("--block-tokens", ran["page_size"], "--capacity-tokens", ran["capacity_tokens"])
        (row,) = answer(requests, "--store", "sglang", "--policy", ran["policy"], *size, "--per-request")["results"]
        assert (row["hits"], row["evicted"]) == (ran["hit_tokens"], ran["evicted_tokens"])


def test_the_mooncake_run_of_the_engine_from_the_traces_first_rows(shared_data: Path, tmp_path: Path) -> None:
    (ran,) = recorded(shared_data, "vllm_mooncake2000")
    path = tmp_path / "rows.jsonl"
    with gzip.open(shared_data / "traces" / "mooncake_conversation.jsonl.gz", "rt") as lines:
        path.write_text("".join(islice(lines, 2000)))
    (row,) = answer(path, "--store", "vllm", "--capacity-blocks", ran["usable_blocks"], "--per-request")["results"]
    assert (row["hits"], row["evicted"]) == (ran["hit_tokens"], ran["evicted_blocks"])


def test_every_public_trace_replays(shared_data: Path) -> None:
    for name, size in (("mooncake_synthetic", 512), ("lmcache_taubench", 16), ("azure_2023_code", 16)):
        (file,) = (shared_data / "traces").glob(f"{name}.*")
        row = answer(file, "--policy", "infinite")["results"][0]
        assert row["block_tokens"] == size
        assert (row["token_hit_ratio"] == 0) == name.startswith("azure"), "no content identity, no hits"


def test_docs_name_every_key_and_every_option(trace: str) -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "replay.md").read_text(encoding="utf-8")
    document = answer(trace, "--policy", "lru,ttl", "--capacity-blocks", "3", "--curve", "--per-request")
    for part in (document, document["trace"], document["results"][0], *document["curves"]):
        for key in part:
            assert f"`{key}`" in text, key
    for line in re.findall(r"^simcache replay \S+ (.*)$", text, re.M):
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in line.split() if word.startswith("--")} <= known
