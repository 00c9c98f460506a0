"""Traces as requests: the public files, coarse clocks, sessions on one clock, constant memory, doctests of the page."""

from __future__ import annotations

import doctest
import gzip
import json
import tracemalloc
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.errors import InputError
from simcache.prompt import Request, Segment, prompt_tokens, shared_prefix_tokens
from simcache.workload import OpenLoop
from simcache.workload.claude_code import check_session, read_sessions, session_segments
from simcache.workload.distributions import Geometric
from simcache.workload.spreading import find_ticks, spread
from simcache.workload.traces import PoissonRequests, RequestList, TraceWorkload, guess_format, read_trace, trace_ticks

PUBLIC = {
    # file -> format, requests, prompt tokens (data/README.md and reference/block_replay_hits.csv)
    "traces/mooncake_conversation.jsonl.gz": ("mooncake", 12_031, 144_793_823),
    "traces/mooncake_synthetic.jsonl.gz": ("mooncake", 3_993, 61_194_628),
    "traces/lmcache_miniswe.jsonl.gz": ("lmcache", 402, 2_418_842),
    "traces/lmcache_taubench.jsonl.gz": ("lmcache", 471, 78_233),
    "traces/azure_2023_conv.csv.gz": ("azure", 19_366, None),
    "traces/azure_2023_code.csv.gz": ("azure", 8_819, None),
    "traces/claude_code_sessions.jsonl.gz": ("claude-code", 17_274, None),
    "engines/requests.json.gz": ("segments", 876, None),
    "engines/requests_drafts.json.gz": ("segments", 1_200, None),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_traces_read_to_the_end(shared_data: Path, name: str) -> None:
    format, n, tokens = PUBLIC[name]
    path = shared_data / name
    assert guess_format(path) == format
    requests = list(read_trace(path, format, seed=3))
    assert len(requests) == n
    assert all(a.arrived_at_s <= b.arrived_at_s for a, b in pairwise(requests))
    assert tokens is None or sum(prompt_tokens(request.prompt) for request in requests) == tokens


def test_public_traces_say_what_their_rows_say(shared_data: Path) -> None:
    mooncake = next(read_trace(shared_data / "traces/mooncake_conversation.jsonl.gz", spread_ticks=False))
    assert mooncake.prompt[:2] == (Segment(0, 512), Segment(1, 512))
    assert mooncake.prompt[-1] == Segment(13, 6758 - 13 * 512)
    assert mooncake.output.tokens == 500

    azure = list(read_trace(shared_data / "traces/azure_2023_conv.csv.gz", limit=2))
    assert azure[1].arrived_at_s == 4.314579  # 18:15:50.9951690 - 18:15:46.6805900
    assert [prompt_tokens(request.prompt) for request in azure] == [374, 396]

    taubench = list(read_trace(shared_data / "traces/lmcache_taubench.jsonl.gz"))
    assert sum(request.output.tokens == 0 for request in taubench) == 283
    assert len({request.session for request in taubench}) == 24
    assert [(request.session, request.turn) for request in taubench[:4]] == [("0", 0), ("0", 1), ("0", 2), ("1", 0)]

    engines = list(read_trace(shared_data / "engines/requests.json.gz"))
    assert Counter(request.kind for request in engines) == {"user": 682, "warm": 194}
    assert engines[0] == Request(0.0, (Segment(5, 2400), Segment(101, 24)), Segment(102, 77), salt="tenantA")


def test_coarse_ticks_of_a_public_trace_are_spread_and_the_workload_says_so(shared_data: Path) -> None:
    path = shared_data / "traces/mooncake_conversation.jsonl.gz"
    plain = list(read_trace(path, spread_ticks=False))
    reader = read_trace(path, seed=0)
    moved = list(reader)
    assert reader.notes == ("12,031 requests share 1,180 instants; spread within ticks of about 3 s, seed 0",)
    assert TraceWorkload(path=path).notes == ("12,031 requests share 1,180 instants; spread within ticks of about 3 s",)
    assert TraceWorkload(path=path, spread_ticks=False).notes == (
        "12,031 requests share 1,180 instants; not spread within their ticks of about 3 s",
    )
    assert [request.prompt for request in plain] == [request.prompt for request in moved]
    offsets = np.array([b.arrived_at_s - a.arrived_at_s for a, b in zip(plain, moved, strict=True)])
    assert (offsets >= 0).all()
    assert (offsets <= 3.0).all()
    assert abs(offsets.mean() - 1.5) < 0.03  # uniform on 3 s: the mean of 12,031 has a standard error of 0.008 s
    assert len({request.arrived_at_s for request in moved}) == 12_031


@pytest.mark.parametrize("name", ["mooncake_synthetic.jsonl.gz", "azure_2023_conv.csv.gz", "lmcache_miniswe.jsonl.gz"])
def test_fine_clocks_stay_as_they_are(shared_data: Path, name: str) -> None:
    path = shared_data / "traces" / name
    assert trace_ticks(path, guess_format(path)).tick_s is None
    assert TraceWorkload(path=path).notes == ()


TIED = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), min_size=1, max_size=30).map(
    lambda ticks: [tick * 3.0 for tick, n in sorted(dict(ticks).items()) for _ in range(n)]
)


@given(TIED, st.integers(0, 5), st.floats(0.1, 3.0))
def test_spreading_keeps_the_order_and_stays_in_the_tick(instants: list[float], seed: int, tick_s: float) -> None:
    rows = [Request(at_s, (), Segment(i, 1)) for i, at_s in enumerate(instants)]
    moved = list(spread(rows, tick_s, seed))
    assert [row.output for row in moved] == [row.output for row in rows]
    assert all(a.arrived_at_s <= b.arrived_at_s for a, b in pairwise(moved))
    assert all(a.arrived_at_s <= b.arrived_at_s <= a.arrived_at_s + tick_s for a, b in zip(rows, moved, strict=True))
    assert moved == list(spread(rows, tick_s, seed))


def test_what_is_a_coarse_clock() -> None:
    assert find_ticks([0, 0, 1, 1, 2, 2]).tick_s == 1
    assert find_ticks([0] * 100).tick_s is None, "one burst is no clock"
    assert find_ticks([0, 0, 5]).tick_s is None, "two instants are no clock"
    assert find_ticks(range(100)).tick_s is None, "a clock without ties is fine enough"
    rng = np.random.default_rng(1)
    bursts = np.cumsum(rng.exponential(1.0, 300))
    assert find_ticks(np.repeat(bursts, 5).tolist()).tick_s is None, "bursts at irregular instants are real"
    sparse = np.sort(rng.integers(0, 300, 900)) * 60.0
    assert find_ticks(sparse.tolist()).tick_s == 60


def test_a_limit_gives_the_first_requests_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "ticks.jsonl"
    path.write_text("".join(mooncake_line(at_ms) for at_ms in (0, 0, 0, 1000, 1000, 2000, 2000)))
    whole = list(read_trace(path, seed=4))
    for limit in range(8):
        assert list(read_trace(path, seed=4, limit=limit)) == whole[:limit]
    assert list(read_trace(path, seed=5)) != whole


def mooncake_line(at_ms: float, ids: tuple[int, ...] = (1,), tokens: int = 100) -> str:
    return json.dumps({"timestamp": at_ms, "input_length": tokens, "output_length": 1, "hash_ids": ids}) + "\n"


def test_gzip_is_told_by_content_and_may_be_concatenated(tmp_path: Path) -> None:
    path = tmp_path / "misnamed.jsonl"
    path.write_bytes(gzip.compress(mooncake_line(0).encode()) + gzip.compress(mooncake_line(7).encode()) + b"\0\0")
    assert [request.arrived_at_s for request in read_trace(path, "mooncake")] == [0, 0.007]


def test_blank_lines_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (mooncake_line(0) + "\n" + mooncake_line(7).rstrip() + "\r\n \n").encode())
    assert len(list(read_trace(path))) == 2


def test_azure_columns_in_any_order_and_time_zones(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "x,GeneratedTokens,ContextTokens,TIMESTAMP\n,1,10,2024-05-10 00:00:00.5+02:00\n,2,0,2024-05-09 22:00:01+00:00\n"
    )
    assert [(r.arrived_at_s, prompt_tokens(r.prompt), r.output.tokens) for r in read_trace(path)] == [(0, 10, 1), (0.5, 0, 2)]


SESSION = {
    "id": "s",
    "block_size": 64,
    "requests": [
        [0.0, 200, 9, 1.0, 0.0, "n", "tool_use", 0, 0, [[1, 3]]],
        [10.0, 300, 9, 1.0, 1.0, "n", "tool_use", 0, 3, [[4, 1]]],
        [0.0, 70, 9, 1.0, 0.0, "n", "tool_use", 1, 0, [[90, 1]]],
        [4.0, 140, 9, 1.0, 0.0, "n", "end_turn", 1, 1, [[91, 1]]],
        [12.0, 400, 9, 1.0, None, "s", "end_turn", 0, 0, [[1, 2], [3, 2], [7, 2]]],
    ],
}


def test_a_sub_task_comes_at_its_parents_time_and_prompts_share_the_blocks_of_equal_ids(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps(SESSION) + "\n" + json.dumps({**SESSION, "id": "r"}) + "\n")
    requests = list(read_trace(path, sessions_per_s=1e9, seed=1))
    one = [request for request in requests if request.session == "s"]
    start_s = one[0].arrived_at_s
    assert [round(request.arrived_at_s - start_s, 6) for request in one] == [0, 10, 10, 12, 14]
    assert [request.turn for request in one] == [0, 1, 2, 4, 3]
    first, second, _, last, _ = one
    assert shared_prefix_tokens(first.prompt, second.prompt) == 3 * 64
    assert shared_prefix_tokens(second.prompt, last.prompt) == 4 * 64
    assert all(shared_prefix_tokens(a.prompt, b.prompt) == 0 for a in requests for b in requests if a.session != b.session)
    assert all(a.arrived_at_s <= b.arrived_at_s for a, b in pairwise(requests))


RUNS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), max_size=4)


@given(RUNS, RUNS)
def test_runs_as_segments_share_exactly_the_leading_equal_ids(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    def row(runs: list[tuple[int, int]]) -> tuple[list[int], list[Segment]]:
        cells = [0.0, 10_000, 1, 0.0, None, "n", "", 0, 0, [list(run) for run in runs]]
        session = check_session({"id": "s", "block_size": 64, "requests": [cells]})
        return [i for first, n in runs for i in range(first, first + n)], session_segments(session.rows[0], 64, 0)

    (ids, segments), (other_ids, other_segments) = row(one), row(other)
    equal = next((i for i, (a, b) in enumerate(zip(ids, other_ids, strict=False)) if a != b), min(len(ids), len(other_ids)))
    assert shared_prefix_tokens(segments, other_segments) == 64 * equal


def test_sessions_start_by_a_poisson_stream(shared_data: Path) -> None:
    path = shared_data / "traces/claude_code_sessions.jsonl.gz"
    assert sum(1 for _ in read_sessions(path)) == 237
    starts: dict[str | None, float] = {}
    for request in read_trace(path, sessions_per_s=0.1, seed=2):
        starts.setdefault(request.session, request.arrived_at_s)
    assert len(starts) == 237
    # Not all sessions begin at 0 on their own clock, so this is the rate up to those few offsets.
    gaps = np.diff(sorted(starts.values()))
    assert abs(gaps.mean() - 10) < 2.6  # four standard errors of the mean of 236 exponential gaps


@pytest.mark.parametrize("rows", [(5_000, 11_000), pytest.param((10_000, 100_000), marks=pytest.mark.slow)], ids=["short", "long"])
@pytest.mark.parametrize("format", ["mooncake", "simcache", "lmcache", "azure", "segments"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, format: str, rows: tuple[int, int]) -> None:
    def peak(n: int) -> int:
        path = tmp_path / f"{n}"
        with gzip.open(path, "wt", compresslevel=1) as file:
            if format == "azure":
                file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
            if format == "segments":
                file.write('{"requests": [')
            for i in range(n):
                file.write(long_trace_row(format, i, n))
        tracemalloc.start()
        try:
            count = sum(1 for _ in read_trace(path, format))
            assert count == n
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)  # what a first read imports and compiles
    small, large = map(peak, rows)
    assert large - small < 100_000, f"{(large - small) / (rows[1] - rows[0]):.1f} bytes a row"


def long_trace_row(format: str, i: int, n: int) -> str:
    at_s = i // 4 * 3  # a coarse clock, so that the spreading runs too
    if format == "azure":
        return f"2023-11-{1 + at_s // 86400:02d} {at_s // 3600 % 24:02d}:{at_s // 60 % 60:02d}:{at_s % 60:02d}.0000000,100,7\n"
    row: dict[str, object] = {"timestamp": at_s * 1000, "input_length": 600, "output_length": 7, "hash_ids": [i, i + 1]}
    if format == "simcache":
        row = {"arrived_at_s": at_s, "prompt": [["system", 300], [i, 24]], "output": [f"a{i}", 9]}
    if format == "lmcache":
        row["session_id"] = i // 10_000
    if format == "segments":
        return json.dumps({"t": at_s, "segs": [[1, 30], [i, 9]], "out": [i, 1]}) + ("]}" if i == n - 1 else ", ")
    return json.dumps(row) + "\n"


def test_a_list_of_requests_checks_its_rows() -> None:
    rows = [
        {"arrived_at_s": 1, "prompt": [["doc", 300]], "output": ["a", 20]},
        {"arrived_at_s": 2, "prompt": [], "output": ["b", 0]},
    ]
    workload = RequestList.from_rows(rows)
    assert isinstance(workload, OpenLoop)
    assert list(workload.requests(seed=1)) == list(workload.rows)
    with pytest.raises(InputError, match=r"rows\[1\]\.kind\(='usr'\) is not known\. Did you mean 'user'"):
        RequestList.from_rows([rows[0], {**rows[1], "kind": "usr"}])
    with pytest.raises(InputError, match=r"rows\[1\]\.arrived_at_s\(=1\.0\) must not be before"):
        RequestList.from_rows([rows[1], rows[0]])
    with pytest.raises(InputError, match="rows"):
        RequestList(rows=("no request",))  # type: ignore[arg-type]


def test_poisson_requests_have_their_rate_and_lengths() -> None:
    workload = PoissonRequests(
        rate_per_s=5.0, count=20_000, prompt_tokens=Geometric(mean=40), output_tokens=7, shared_prefix_tokens=10
    )
    assert isinstance(workload, OpenLoop)
    requests = list(workload.requests(seed=1))
    gaps = np.diff([request.arrived_at_s for request in requests])
    tokens = np.array([prompt_tokens(request.prompt) for request in requests])
    assert abs(gaps.mean() * 5 - 1) < 0.03  # four standard errors
    assert abs(gaps.std() * 5 - 1) < 0.06
    assert abs(tokens.mean() / 40 - 1) < 0.03
    assert {request.output.tokens for request in requests} == {7}
    assert all(shared_prefix_tokens(requests[0].prompt, request.prompt) <= 10 for request in requests[1:])
    assert prompt_tokens(requests[0].prompt) > 10
    assert {type(request.prompt[0].tokens) for request in requests} == {int}


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 5_000), st.integers(0, 3))
def test_fewer_poisson_requests_are_the_first_of_more(count: int, seed: int) -> None:
    def requests(n: int) -> list[Request]:
        return list(PoissonRequests(rate_per_s=1.0, count=n, prompt_tokens=Geometric(mean=3), output_tokens=1).requests(seed))

    assert requests(count) == requests(5_000)[:count]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate_per_s": 0},
        {"rate_per_s": float("nan")},
        {"count": 0},
        {"count": True},
        {"prompt_tokens": -1},
        {"output_tokens": 10**10},
    ],
)
def test_poisson_requests_check_their_fields(wrong: dict[str, float]) -> None:
    fields: dict[str, float] = {"rate_per_s": 1.0, "count": 3, "prompt_tokens": 5, "output_tokens": 1, **wrong}
    with pytest.raises(InputError, match=next(iter(wrong))):
        PoissonRequests(**fields)  # type: ignore[arg-type]


def test_the_page_on_trace_formats_runs() -> None:
    page = Path(__file__).resolve().parent.parent / "docs" / "trace-formats.md"
    failed, attempted = doctest.testfile(str(page), module_relative=False)
    assert attempted
    assert not failed
