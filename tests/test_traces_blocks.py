"""Traces as block ids: what the file says, what content means, and both ways of cutting blocks judged by brute force."""

from __future__ import annotations

import csv
import gzip
import json
import tracemalloc
import warnings
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.errors import InputError
from simcache.prompt import Segment
from simcache.workload.block_identity import BlockIdentity
from simcache.workload.block_traces import BlockTrace, TraceWarning, block_batches, read_block_trace
from simcache.workload.traces import read_trace

PROMPTS = st.lists(
    st.tuples(
        st.sampled_from([None, "tenant"]),
        st.lists(st.builds(Segment, st.sampled_from("abc"), st.integers(0, 9)), max_size=5).map(tuple),
    ),
    max_size=8,
)


def lists(trace: BlockTrace) -> list[list[int]]:
    return [trace.ids[a:b].tolist() for a, b in zip(trace.starts, trace.starts[1:], strict=False)]


def same_up_to_names(one: list[list[int]], other: list[list[int]]) -> bool:
    pairs = {(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@given(PROMPTS, st.integers(1, 6), st.booleans())
def test_ids_are_equal_exactly_where_all_content_up_to_the_blocks_end_is(
    prompts: list[tuple[str | None, tuple[Segment, ...]]], block_tokens: int, full_only: bool
) -> None:
    identity = BlockIdentity(block_tokens, full_only=full_only)
    content: dict[int, Hashable] = {}
    for salt, prompt in prompts:
        tokens = [(key, offset) for key, n in prompt for offset in range(n)]
        ids = identity.ids(prompt, salt).tolist()
        assert len(ids) == (len(tokens) // block_tokens if full_only else -(-len(tokens) // block_tokens))
        for i, block in enumerate(ids):
            assert content.setdefault(block, (salt, *tokens[: (i + 1) * block_tokens])) == (salt, *tokens[: (i + 1) * block_tokens])
    assert len(set(content.values())) == len(content)
    assert sorted(content) == list(range(len(content))), "dense, from 0"


TREES = st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 512)), max_size=4), min_size=1, max_size=8)


def mooncake_file(path: Path, trees: list[list[tuple[int, int]]]) -> Path:
    """Rows whose ids are numbered along a tree of choices, as a service that hashes prefixes would."""
    known: dict[tuple[int, ...], int] = {}
    with path.open("w") as file:
        for row, choices in enumerate(trees):
            ids = [known.setdefault(tuple(c for c, _ in choices[: i + 1]), len(known)) for i in range(len(choices))]
            tokens = 512 * (len(ids) - 1) + choices[-1][1] if ids else 0
            file.write(json.dumps({"timestamp": row, "input_length": tokens, "output_length": 1, "hash_ids": ids}) + "\n")
    return path


@settings(max_examples=60, deadline=None)
@given(TREES, st.sampled_from([1, 2, 16, 64, 256, 48, 100, 513, 1024]))
def test_other_block_sizes_number_content(tmp_path_factory: Any, trees: list[list[tuple[int, int]]], block_tokens: int) -> None:
    path = mooncake_file(tmp_path_factory.getbasetemp() / "tree.jsonl", trees)
    trace = read_block_trace(path, "mooncake", block_tokens)
    identity = BlockIdentity(block_tokens)
    expected = [identity.ids(request.prompt).tolist() for request in read_trace(path, "mooncake", spread_ticks=False)]
    assert trace.block_tokens == block_tokens
    assert same_up_to_names(lists(trace), expected)


@settings(max_examples=30, deadline=None)
@given(TREES)
def test_batches_are_the_whole_in_parts(tmp_path_factory: Any, trees: list[list[tuple[int, int]]]) -> None:
    path = mooncake_file(tmp_path_factory.getbasetemp() / "parts.jsonl", trees)
    whole = read_block_trace(path, "mooncake")
    parts = list(block_batches(path, "mooncake"))
    assert lists(whole) == [ids for part in parts for ids in lists(part)]


def test_public_traces_hold_the_counts_and_infinite_hits_of_the_reference(shared_data: Path) -> None:
    with (shared_data / "reference/block_replay_hits.csv").open() as file:
        reference = {row["trace"]: row for row in csv.DictReader(file) if row["policy"] == "infinite"}
    assert set(reference) == {"mooncake_synthetic", "lmcache_miniswe"}
    for name, row in reference.items():
        trace = read_block_trace(shared_data / f"traces/{name}.jsonl.gz")
        assert trace.counts == {"read": int(row["n_requests"]), "skipped": {}}
        assert (trace.block_tokens, len(trace.ids), trace.input_tokens.sum()) == (
            int(row["block_size"]),
            int(row["total_blocks"]),
            int(row["total_tokens"]),
        )
        known: set[int] = set()
        hit_blocks = hit_tokens = 0
        for ids, tokens in zip(lists(trace), trace.input_tokens.tolist(), strict=True):
            hits = next((i for i, each in enumerate(ids) if each not in known), len(ids))
            hit_blocks += hits
            hit_tokens += min(hits * trace.block_tokens, tokens)
            known.update(ids)
        assert (hit_blocks, hit_tokens) == (int(row["hit_blocks"]), int(row["hit_tokens"]))


def test_the_conversation_trace(shared_data: Path) -> None:
    path = shared_data / "traces/mooncake_conversation.jsonl.gz"
    trace = read_block_trace(path)
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert lists(trace) == [row["hash_ids"] for row in rows]
    assert trace.arrived_at_s.tolist() == [row["timestamp"] / 1000 for row in rows]
    assert trace.output_tokens.tolist() == [row["output_length"] for row in rows]
    fine = read_block_trace(path, block_tokens=16)
    assert len(fine.ids) == sum(-(-row["input_length"] // 16) for row in rows)
    for column in (fine.ids, fine.starts, trace.ids, trace.input_tokens):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


def test_sessions_in_file_order_with_ids_of_their_own(shared_data: Path) -> None:
    path = shared_data / "traces/claude_code_sessions.jsonl.gz"
    expected: list[list[int]] = []
    base = 0
    sessions = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()][:20]
    for session in sessions:
        ids: list[int] = []
        largest = -1
        for *_, keep, tail in session["requests"]:
            ids = ids[:keep] + [i for first, n in tail for i in range(first, first + n)]
            largest = max([largest, *ids])
            expected.append([base + i for i in ids])
        base += largest + 1
    got: list[list[int]] = []
    batches = block_batches(path)
    for _ in sessions:
        got += lists(next(batches))
    assert got == expected


def test_sessions_at_another_block_size_keep_full_blocks(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    rows = [[0.0, 200, 9, 1.0, 0.0, "n", "", 0, 0, [[1, 3]]], [1.0, 330, 9, 1.0, 0.0, "n", "", 0, 2, [[8, 2], [11, 1]]]]
    path.write_text(json.dumps({"id": "a", "block_size": 64, "requests": rows}) + "\n")
    assert lists(read_block_trace(path, block_tokens=32)) == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]]
    assert lists(read_block_trace(path, block_tokens=128)) == [[0], [0, 1]]
    assert lists(read_block_trace(path)) == [[1, 2, 3], [1, 2, 8, 9, 11]]


def test_recorded_engine_streams_keep_file_order_and_number_partial_blocks(shared_data: Path, tmp_path: Path) -> None:
    trace = read_block_trace(shared_data / "engines/requests.json.gz")
    assert (trace.block_tokens, len(trace)) == (16, 876)
    assert len(trace.ids) == int((-(-trace.input_tokens // 16)).sum())
    path = tmp_path / "back.json"
    path.write_text(json.dumps({"requests": [{"t": t, "segs": [[1, 20]], "out": [2, 1]} for t in (5, 3)]}))
    assert read_block_trace(path).arrived_at_s.tolist() == [5, 3]
    with pytest.raises(InputError, match="must not be before"):
        list(read_trace(path))


def test_the_unhashed_tail_of_lmcache_rows_is_no_block(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    row = {"timestamp": 0, "input_length": 60, "output_length": 1, "hash_ids": [5, 6, 9], "session_id": "x"}
    path.write_text(json.dumps(row) + "\n")
    assert lists(read_block_trace(path)) == [[5, 6, 9]]
    assert lists(read_block_trace(path, block_tokens=32)) == [[0]]
    assert lists(read_block_trace(path, block_tokens=8)) == [[0, 1, 2, 3, 4, 5]]


def chain_file(path: Path, chains: list[list[int]], blank_before: int | None = None) -> Path:
    with path.open("w") as file:
        for i, ids in enumerate(chains):
            file.write("\n" * (i == blank_before))
            row = {"timestamp": 0, "input_length": 512 * len(ids), "output_length": 1, "hash_ids": ids}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.mark.parametrize(
    ("chains", "blank", "line", "words"),
    [
        ([[1, 2], [1, 2, 3], [4, 2]], None, 3, "id 2 follows id 4, at its first appearance id 1"),
        ([[1, 2], [2]], None, 2, "id 2 follows no id, at its first appearance id 1"),
        ([[1], [7, 1], [8, 1]], None, 2, "id 1 follows id 7, at its first appearance no id"),
        ([[1, 1]], None, 1, "id 1 follows id 1"),
        ([[10**15, 2], [3, 2]], 1, 3, "id 2 follows id 3"),
    ],
)
def test_a_chain_that_contradicts_itself_gets_one_warning(
    tmp_path: Path, chains: list[list[int]], blank: int | None, line: int, words: str
) -> None:
    path = chain_file(tmp_path / "t.jsonl", chains, blank)
    with pytest.warns(TraceWarning, match=words) as caught:
        trace = read_block_trace(path, "mooncake")
    assert len(caught) == 1
    assert f"t.jsonl:{line}:" in str(caught[0].message)
    assert lists(trace) == chains, "replayed as it is"


def test_a_chain_that_holds_gets_no_warning_and_blank_lines_are_counted(tmp_path: Path) -> None:
    path = chain_file(tmp_path / "t.jsonl", [[1, 2], [], [1, 2, 3], [4]], 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_block_trace(path, "mooncake").counts == {"read": 4, "skipped": {"blank line": 1}}


@pytest.mark.parametrize("block_tokens", [0, -1, 1.5, True])
def test_impossible_block_sizes(tmp_path: Path, block_tokens: Any) -> None:
    path = chain_file(tmp_path / "t.jsonl", [[1, 2]])
    with pytest.raises(InputError, match="block_tokens"):
        read_block_trace(path, "mooncake", block_tokens)


def test_all_inputs_empty(tmp_path: Path) -> None:
    trace = read_block_trace(chain_file(tmp_path / "t.jsonl", [[], []]), "mooncake", 16)
    assert (len(trace), len(trace.ids), trace.starts.tolist()) == (2, 0, [0, 0, 0])
    assert trace.ids.dtype == np.int64


def test_memory_of_batches_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(n: int) -> int:
        path = tmp_path / f"{n}.jsonl"
        with path.open("w") as file:
            for i in range(n):
                file.write(f'{{"timestamp": {i}, "input_length": 900, "output_length": 1, "hash_ids": [{2 * i}, {2 * i + 1}]}}\n')
        tracemalloc.start()
        try:
            assert sum(len(batch) for batch in block_batches(path, "mooncake")) == n
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(3_000), peak(12_000)
    assert large - small < 40_000, f"{(large - small) / 9_000:.1f} bytes a row"
