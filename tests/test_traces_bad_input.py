"""Whatever is wrong with a trace ends in one InputError with path, line, field, value and rule; never in a traceback."""

from __future__ import annotations

import gzip
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.errors import InputError
from simcache.workload.block_traces import read_block_trace
from simcache.workload.traces import FORMATS, TraceWorkload, guess_format, read_trace

GOOD: dict[str, dict[str, Any]] = {
    "mooncake": {"timestamp": 5, "input_length": 600, "output_length": 3, "hash_ids": [1, 2]},
    "lmcache": {"timestamp": 5, "input_length": 40, "output_length": 3, "hash_ids": [1, 2], "session_id": 0},
    "simcache": {
        "arrived_at_s": 5,
        "session": "s",
        "turn": 0,
        "kind": "user",
        "priority": 0,
        "prompt": [["doc", 30], [7, 2]],
        "output": ["a", 1],
        "salt": None,
    },
}
TIME = {"mooncake": "timestamp", "lmcache": "timestamp", "simcache": "arrived_at_s"}
HUGE = 10**400


def both(path: Path, format: str) -> InputError:
    """The one error that both readers end in."""
    errors = []
    for read in (lambda: list(read_trace(path, format)), lambda: read_block_trace(path, format)):
        with pytest.raises(InputError) as caught:
            read()
        errors.append(caught.value)
    one, other = errors
    assert (one.name, one.line, one.path) == (other.name, other.line, other.path)
    assert len(str(one)) < 500
    return one


def rows(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "t.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


BAD_FIELDS: list[tuple[str, str, Any, str]] = [
    *((format, TIME[format], value, "") for format in GOOD for value in (-1, "5", None, True, [], HUGE, -HUGE, 1e300)),
    *((format, TIME[format], 4, "must not be before the row above it") for format in GOOD),
    *(
        (format, field, value, "")
        for format in ("mooncake", "lmcache")
        for field in ("input_length", "output_length")
        for value in (-1, 3.0, "3", None, True, [], HUGE, 10**10)
    ),
    *((format, "hash_ids", value, "must be a list") for format in ("mooncake", "lmcache") for value in (None, 3, "12", {})),
    *(
        (format, "hash_ids", [1, value], "")
        for format in ("mooncake", "lmcache")
        for value in (2.0, "2", None, True, [2], HUGE, -1, 2**63)
    ),
    ("mooncake", "input_length", 512, "must lie in 513..1024 for 2 hash_ids of 512 tokens"),
    ("mooncake", "input_length", 1025, "must lie in 513..1024"),
    ("lmcache", "input_length", 31, "must be at least 32"),
    *(("lmcache", "session_id", value, "") for value in (None, 1.5, True, [], -1, HUGE)),
    *(
        ("simcache", "prompt", value, "")
        for value in (None, {}, "x", [["doc"]], [["doc", 1, 2]], [[None, 1]], [[1.5, 1]], [[True, 1]], [5])
    ),
    *(("simcache", "prompt", [["doc", value]], "") for value in (-1, 2.0, None, True, "3", HUGE)),
    ("simcache", "prompt", [["a", 10**9], ["b", 1]], "in all"),
    ("simcache", "prompt", [[HUGE, 1]], "64 bits"),
    *(("simcache", "output", value, "") for value in (None, [], ["a", -1], ["a"], "a")),
    *(("simcache", "kind", value, "not known") for value in (None, "usr", 3, ["user"])),
    *(("simcache", "turn", value, "") for value in (-1, 1.0, None, True)),
    *(("simcache", "priority", value, "") for value in (1.0, None, True, HUGE)),
    *(("simcache", field, value, "string or null") for field in ("session", "salt") for value in (3, True, [])),
]


@pytest.mark.parametrize(("format", "field", "value", "rule"), BAD_FIELDS)
def test_a_bad_field_is_named_with_its_line_and_rule(tmp_path: Path, format: str, field: str, value: Any, rule: str) -> None:
    error = both(rows(tmp_path, GOOD[format], {**GOOD[format], field: value}), format)
    assert error.line == 2
    assert error.name.startswith(field)
    assert rule in error.rule


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "-0.5", "9" * 5000])
@pytest.mark.parametrize("format", GOOD)
def test_numbers_that_are_none(tmp_path: Path, format: str, literal: str) -> None:
    text = json.dumps(GOOD[format]).replace(f'"{TIME[format]}": 5', f'"{TIME[format]}": {literal}')
    error = both(rows(tmp_path, GOOD[format], text), format)
    assert error.line == 2
    assert error.name == ("line" if len(literal) == 5000 else TIME[format])


@pytest.mark.parametrize(("format", "field"), [(f, n) for f, row in GOOD.items() for n in row])
def test_a_missing_field(tmp_path: Path, format: str, field: str) -> None:
    row = {name: value for name, value in GOOD[format].items() if name != field}
    path = rows(tmp_path, GOOD[format], row)
    if field in ("session", "turn", "kind", "priority", "salt"):
        assert len(list(read_trace(path, format))) == 2
        return
    error = both(path, format)
    assert (error.name, error.line, error.rule) == (field, 2, "is missing")


def test_an_unknown_field_of_our_own_format(tmp_path: Path) -> None:
    error = both(rows(tmp_path, {**GOOD["simcache"], "prioritty": 3}), "simcache")
    assert "Did you mean 'priority'" in str(error)


BAD_LINES = {
    "cut short": '{"timestamp": 0, "input',
    "two values": "{} {}",
    "a list": "[1]",
    "a number": "5",
    "null": "null",
    "a million characters": "x" * 1_000_000,
    "a million brackets": "[" * 999_000,
    "a million characters of JSON": '{"timestamp": 0' + " " * 1_000_000 + "}",
}


@pytest.mark.parametrize("text", BAD_LINES.values(), ids=BAD_LINES)
@pytest.mark.parametrize("format", [*GOOD, "claude-code"])
def test_a_line_that_is_no_row(tmp_path: Path, format: str, text: str) -> None:
    path = rows(tmp_path, *([GOOD[format]] if format in GOOD else []), text)
    assert both(path, format).line == (2 if format in GOOD else 1)


def test_a_long_line_is_never_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b"x" * 100_000_000, compresslevel=1))
    import tracemalloc

    tracemalloc.start()
    error = both(path, "mooncake")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.rule == "must have at most 999,999 characters"
    assert peak < 8_000_000


@pytest.mark.parametrize("format", FORMATS)
def test_files_that_are_no_trace(tmp_path: Path, format: str) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert both(empty, format).rule == "must hold at least one request"
    blank = tmp_path / "blank"
    blank.write_text("\n \n\n")
    assert both(blank, format).line == 1
    junk = tmp_path / "junk"
    junk.write_bytes(bytes(range(256)) * 100)
    assert both(junk, format).line == 2, "a newline is the tenth byte of the junk"
    assert both(tmp_path, format).rule.startswith("is a directory")
    assert both(tmp_path / "missing", format).rule == "does not exist"
    assert both(Path("/dev/null"), format).rule.startswith("must be a regular file")
    assert both(tmp_path / "nul\0name", format).name == "path"
    for path in (empty, junk, tmp_path):
        with pytest.raises(InputError):
            guess_format(path)


def test_a_pipe_is_refused_before_it_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "regular file" in both(pipe, "mooncake").rule
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "s"))
        assert "regular file" in both(tmp_path / "s", "mooncake").rule


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = rows(tmp_path, GOOD["mooncake"])
    path.chmod(0)
    assert "permission" in both(path, "mooncake").rule


def test_a_truncated_gzip_names_the_line_it_broke_in(tmp_path: Path) -> None:
    # Random ids: the compressed bytes are spread evenly over the lines, and half a file ends about half way.
    import random

    rng = random.Random(1)
    lines = [json.dumps({**GOOD["mooncake"], "hash_ids": [rng.getrandbits(60), rng.getrandbits(60)]}) + "\n" for _ in range(20_000)]
    whole = gzip.compress("".join(lines).encode())
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    error = both(path, "mooncake")
    assert error.rule == "is a truncated gzip file"
    assert error.line is not None
    assert 9_000 < error.line < 11_000

    path.write_bytes(whole[: len(whole) // 2] + b"junk" + whole[len(whole) // 2 + 4 :])
    assert both(path, "mooncake").line in range(9_000, 11_000), "whether junk inflates to junk or to nothing"
    path.write_bytes(whole[:-8] + b"\0" * 8)
    assert "gzip" in both(path, "mooncake").rule
    path.write_bytes(whole[:5])
    assert both(path, "mooncake").line == 1


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("2023-11-16 18:15:45.0000000,374,44", "TIMESTAMP"),
        ("2023-11-31 18:15:47.0000000,374,44", "TIMESTAMP"),
        ("nan,374,44", "TIMESTAMP"),
        ("12.5,374,44", "TIMESTAMP"),
        ("2023-11-16 18:15:47.0000000+00:00,374,44", "TIMESTAMP"),
        ("2199-11-16 18:15:47.0000000,374,44", "TIMESTAMP"),
        ("2023-11-16 18:15:47.0000000,-374,44", "ContextTokens"),
        ("2023-11-16 18:15:47.0000000,1_000,44", "ContextTokens"),
        ("2023-11-16 18:15:47.0000000,374,4.0", "GeneratedTokens"),
        ("2023-11-16 18:15:47.0000000,374,", "GeneratedTokens"),
        ("2023-11-16 18:15:47.0000000,374," + "9" * 5000, "GeneratedTokens"),
        ("2023-11-16 18:15:47.0000000,374", "row"),
        ("2023-11-16 18:15:47.0000000,374,44,5", "row"),
        ("x" * 1_000_000, "line"),
    ],
)
def test_bad_azure_rows(tmp_path: Path, line: str, field: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(AZURE + line + "\n")
    error = both(path, "azure")
    assert (error.name, error.line) == (field, 3)


def test_bad_azure_files(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("TIMESTAMP,ContextTokens\n1,2\n")
    assert both(path, "azure").rule == "must have one column GeneratedTokens"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    assert both(path, "azure").rule == "must hold at least one request"


SESSION_ROW = [0.0, 200, 9, 1.0, 0.0, "n", "tool_use", 0, 0, [[1, 3]]]


@pytest.mark.parametrize(
    ("cell", "value", "field"),
    [
        (0, -1, "t_s"),
        (0, "0", "t_s"),
        (1, 191, "input_tokens"),
        (1, 200.0, "input_tokens"),
        (2, -1, "output_tokens"),
        (7, None, "depth"),
        (8, 1, "keep"),
        (8, True, "keep"),
        (9, None, "tail"),
        (9, [[1]], "tail"),
        (9, [[-1, 3]], "tail start"),
        (9, [[1, HUGE]], "tail count"),
        (9, [[1, 10**9]], "input_tokens"),
    ],
)
def test_bad_sessions(tmp_path: Path, cell: int, value: Any, field: str) -> None:
    row = [value if i == cell else each for i, each in enumerate(SESSION_ROW)]
    session = {"id": "s", "block_size": 64, "requests": [row]}
    error = both(rows(tmp_path, {**session, "requests": [SESSION_ROW]}, session), "claude-code")
    assert (error.name, error.line) == (f"requests[0].{field}", 2)


@pytest.mark.parametrize(
    "change", [{"id": 3}, {"block_size": 0}, {"block_size": 64.0}, {"requests": None}, {"requests": [5]}, {"requests": [[0.0]]}]
)
def test_bad_session_lines(tmp_path: Path, change: dict[str, Any]) -> None:
    error = both(rows(tmp_path, {"id": "s", "block_size": 64, "requests": [], **change}), "claude-code")
    assert error.name.startswith(next(iter(change)))


def test_sessions_of_different_block_sizes_make_no_block_trace(tmp_path: Path) -> None:
    session = {"id": "s", "block_size": 64, "requests": [SESSION_ROW]}
    path = rows(tmp_path, session, {**session, "block_size": 32})
    assert len(list(read_trace(path, "claude-code"))) == 2
    with pytest.raises(InputError, match=r"block_size\(=32\) must be 64 as in the first session"):
        read_block_trace(path, "claude-code")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"doc": 1}',
        '{"requests": 5}',
        '{"requests": []}',
        '{"requests": [{"t": 0, "segs": [], "out": [1, 1]}',
        '{"requests": [{"t": 0, "segs": [], "out": [1, 1]}]} more',
        '{"requests": [{"t": 0, "segs": [], "out": [1, 1]} {}]}',
        '{"requests": [{"t": 0, "segs": [], "out": [1, 1]}], "rest": }',
        '{"requests": [{"t": 0, "segs": [[1, 2, 3]], "out": [1, 1]}]}',
        '{"requests": [{"t": 0, "segs": [], "out": [1, true]}]}',
        '{"requests": [{"t": 0, "segs": []}]}',
        '{"requests": [7]}',
        '{"requests": [' + "[" * 100_000,
        '{"requests": ["' + "x" * 1_300_000,
    ],
)
def test_bad_segment_documents(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    assert both(path, "segments").line == 1


def test_a_segment_document_names_the_line_of_the_bad_member(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"doc": "x",\n "requests": [\n{"t": 1, "segs": [], "out": [1, 1]},\n{"t": -1, "segs": [], "out": [1, 1]}]}')
    error = both(path, "segments")
    assert (error.name, error.line) == ("t", 4)


def test_what_cannot_be_told_or_is_not_known(tmp_path: Path) -> None:
    path = rows(tmp_path, {"timestamp": 0})
    with pytest.raises(InputError, match=r"cannot be told from the first row.*azure, claude-code"):
        read_trace(path)
    with pytest.raises(InputError, match="Did you mean 'mooncake'"):
        read_trace(path, "moncake")
    with pytest.raises(InputError, match="format"):
        TraceWorkload(path=path, format="moncake")
    with pytest.raises(InputError, match="limit"):
        TraceWorkload(path=path, limit=0)
    with pytest.raises(InputError, match="path"):
        read_trace(None)  # type: ignore[arg-type]


def test_equal_instants_and_empty_inputs_are_fine(tmp_path: Path) -> None:
    empty = {"timestamp": 5, "input_length": 0, "output_length": 0, "hash_ids": []}
    requests = list(read_trace(rows(tmp_path, empty, empty, GOOD["mooncake"]), "mooncake"))
    assert [request.prompt for request in requests[:2]] == [(), ()]
    assert read_block_trace(rows(tmp_path, empty, empty), "mooncake").starts.tolist() == [0, 0, 0]


def test_a_prompt_of_ten_million_tokens(tmp_path: Path) -> None:
    n = -(-(10**7) // 512)
    path = rows(tmp_path, {**GOOD["mooncake"], "input_length": 10**7, "hash_ids": list(range(n))})
    assert sum(segment.tokens for segment in next(read_trace(path)).prompt) == 10**7
    assert len(read_block_trace(path).ids) == n
    path = rows(tmp_path, {**GOOD["lmcache"], "input_length": 10**7, "hash_ids": list(range(10**7 // 16))})
    assert len(read_block_trace(path).ids) == 10**7 // 16
    path = rows(tmp_path, {**GOOD["simcache"], "prompt": [["doc", 10**7]]})
    assert len(read_block_trace(path).ids) == 10**7 // 16


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMATS), st.binary(max_size=200), st.booleans())
def test_junk_never_ends_in_anything_but_an_input_error(tmp_path_factory: Any, format: str, junk: bytes, zipped: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "junk"
    path.write_bytes(b"\x1f\x8b" + junk if zipped else junk)
    both(path, format)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(sorted(GOOD)))
def test_both_readers_judge_a_row_alike(tmp_path_factory: Any, data: st.DataObject, format: str) -> None:
    row = dict(GOOD[format])
    for field in data.draw(st.lists(st.sampled_from(sorted(row)), max_size=2)):
        row[field] = data.draw(JSON)
    path = rows(tmp_path_factory.getbasetemp(), GOOD[format], row, {**GOOD[format], TIME[format]: 4e9})
    try:
        read = len(list(read_trace(path, format)))
    except InputError:
        both(path, format)
    else:
        assert read == len(read_block_trace(path, format)) == 3
