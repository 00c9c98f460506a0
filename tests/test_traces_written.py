"""Traces written and read back: exact where the format holds everything, honest where it does not, whole or not at all."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import simcache
from simcache.cli.convert import command
from simcache.errors import InputError, SimcacheError
from simcache.prompt import KINDS, Request, Segment, prompt_tokens, shared_prefix_tokens
from simcache.workload.trace_rows import simcache_row
from simcache.workload.trace_writers import write_trace
from simcache.workload.traces import FORMATS, read_trace

SCHEMA = json.loads((Path(simcache.__file__).parent / "data" / "trace.schema.json").read_text())
ANY_TEXT = st.text(st.characters(), max_size=4)  # lone surrogates too: JSON can hold them, UTF-8 cannot
KEYS = ANY_TEXT | st.integers(-(2**63) + 1, 2**63 - 1)
SEGMENTS = st.builds(Segment, KEYS, st.integers(0, 2000))
TEXTS = st.none() | ANY_TEXT
FIELDS = st.fixed_dictionaries(
    {
        "arrived_at_s": st.floats(0, 4e9),
        "prompt": st.lists(SEGMENTS, max_size=4).map(tuple),
        "output": SEGMENTS,
        "kind": st.sampled_from(KINDS),
        "priority": st.integers(-5, 5),
        "session": TEXTS,
        "turn": st.integers(0, 9),
        "salt": TEXTS,
    }
)
SHARING_FIELDS = st.fixed_dictionaries(
    {
        "arrived_at_s": st.integers(0, 10**6).map(lambda ms: ms / 1000),
        "prompt": st.lists(st.builds(Segment, st.sampled_from("abc"), st.integers(0, 1500)), max_size=3).map(tuple),
        "output": st.builds(Segment, st.just("out"), st.integers(0, 50)),
        "session": st.sampled_from(["3", "s", "t"]),
        "salt": st.sampled_from([None, "tenant"]),
    }
)
REQUESTS = st.lists(
    FIELDS.map(lambda fields: Request(**fields)),
    min_size=1,
    max_size=6,
).map(lambda rows: sorted(rows, key=lambda row: row.arrived_at_s))
SHARING = st.lists(
    SHARING_FIELDS.map(lambda fields: Request(**fields)),
    min_size=1,
    max_size=6,
).map(lambda rows: sorted(rows, key=lambda row: row.arrived_at_s))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


def there_and_back(rows: list[Request], path: Path, format: str) -> tuple[list[Request], list[str]]:
    lost = write_trace(rows, path, format)
    return list(read_trace(path, format, spread_ticks=False)), lost


@settings(max_examples=60, deadline=None)
@given(REQUESTS, st.sampled_from([".jsonl", ".jsonl.gz"]))
def test_our_own_format_holds_every_field_and_every_float(folder: Path, rows: list[Request], suffix: str) -> None:
    path = folder / f"own{suffix}"
    assert there_and_back(rows, path, "simcache") == (rows, [])
    text = gzip.decompress(path.read_bytes()) if suffix.endswith("gz") else path.read_bytes()
    for line in text.decode().splitlines():
        jsonschema.validate(json.loads(line), SCHEMA)


@settings(deadline=None)
@given(REQUESTS)
def test_segments_hold_the_content(folder: Path, rows: list[Request]) -> None:
    back, lost = there_and_back(rows, folder / "segments.json.gz", "segments")
    kept = ("arrived_at_s", "prompt", "output", "salt")
    assert [[getattr(row, name) for name in kept] for row in back] == [[getattr(row, name) for name in kept] for row in rows]
    assert [row.kind == "warm" for row in back] == [row.kind == "warm" for row in rows]
    for name, default in (("session", None), ("turn", 0), ("priority", 0)):
        assert any(line.startswith(name) for line in lost) == any(getattr(row, name) != default for row in rows)
    assert any("keepalive" in line for line in lost) == any(row.kind == "keepalive" for row in rows)


@settings(deadline=None)
@given(SHARING, st.sampled_from([("mooncake", 512), ("lmcache", 16), ("claude-code", 64)]))
def test_formats_of_ids_keep_what_prompts_share_in_whole_blocks(folder: Path, rows: list[Request], target: tuple[str, int]) -> None:
    format, block_tokens = target
    back, lost = there_and_back(rows, folder / "ids.jsonl", format)
    assert any("inside a block" in line for line in lost)
    assert any(line.startswith("names of salts") for line in lost) == any(row.salt for row in rows)
    if format == "claude-code":  # sessions come in the order of their first request, on clocks of their own
        assert sorted(map(lengths, back)) == sorted(map(lengths, rows))
        return
    assert [row.arrived_at_s for row in back] == [row.arrived_at_s for row in rows]
    assert list(map(lengths, back)) == list(map(lengths, rows))
    for i, (a, a_back) in enumerate(zip(rows, back, strict=True)):
        for b, b_back in zip(rows[:i], back, strict=False):
            shared = shared_prefix_tokens(a.prompt, b.prompt) if a.salt == b.salt else 0
            least = shared // block_tokens * block_tokens
            assert least <= shared_prefix_tokens(a_back.prompt, b_back.prompt) <= shared
            if format == "lmcache":
                assert a_back.session == a.session


def lengths(row: Request) -> tuple[int, int]:
    return prompt_tokens(row.prompt), row.output.tokens


def test_sessions_written_keep_their_blocks_and_their_own_clock(tmp_path: Path) -> None:
    rows = [
        Request(5.0, (Segment("doc", 640),), Segment("a", 9), session="s"),
        Request(6.0, (Segment("doc", 640),), Segment("b", 9)),
        Request(7.25, (Segment("doc", 320), Segment("q", 64)), Segment("c", 9), session="s"),
    ]
    path = tmp_path / "s.jsonl"
    lost = write_trace(rows, path, "claude-code")
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row[0], row[1], row[8], row[9]) for row in first["requests"]] == [(0.0, 640, 0, [[0, 10]]), (2.25, 384, 5, [[10, 1]])]
    assert second["id"] == "request1"
    assert any("1 requests belong to no session" in line for line in lost)


@settings(deadline=None)
@given(REQUESTS)
def test_azure_keeps_lengths_and_gaps(folder: Path, rows: list[Request]) -> None:
    back, lost = there_and_back(rows, folder / "lengths.csv", "azure")
    assert list(map(lengths, back)) == list(map(lengths, rows))
    for row, row_back in zip(rows, back, strict=True):
        assert row_back.arrived_at_s == pytest.approx(row.arrived_at_s - rows[0].arrived_at_s, abs=1e-6)
    assert "content: every prompt becomes its own, nothing is shared" in lost


def test_what_is_lost_is_counted(tmp_path: Path) -> None:
    plain = Request(0.0, (Segment("doc", 10),), Segment("a", 1))
    rows = [
        plain,
        plain._replace(user="u", organisation="o", shared_segments=1),
        plain._replace(arrived_at_s=0.0001234, organisation="p"),
    ]
    assert write_trace(rows, tmp_path / "t", "simcache") == [
        "user of 1 requests",
        "organisation of 2 requests",
        "shared_segments of 1 requests",
    ]
    lost = write_trace(rows, tmp_path / "t", "mooncake")
    assert "instants of 1 requests, rounded to the millisecond" in lost
    ids = [json.loads(line)["hash_ids"] for line in (tmp_path / "t").read_text().splitlines()]
    assert ids == [[0], [1], [2]], "organisations share nothing, in no format"


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_half_done_is_left_behind(tmp_path: Path, format: str) -> None:
    def broken() -> Iterator[Request]:
        yield Request(0.0, (Segment("doc", 10),), Segment("a", 1))
        raise InputError("row", 3, "is bad")

    target = tmp_path / "t.gz"
    with pytest.raises(InputError, match="is bad"):
        write_trace(broken(), target, format)
    assert list(tmp_path.iterdir()) == []
    target.write_text("as before")
    with pytest.raises(InputError, match="must be at least one"):
        write_trace([], target, format)
    assert [path.name for path in tmp_path.iterdir()] == ["t.gz"]
    assert target.read_text() == "as before"
    row = Request(0.0, (Segment("doc", 10),), Segment("a", 1))
    write_trace([row], target, format)
    once = target.read_bytes()
    write_trace([row], target, format)
    assert target.read_bytes() == once, "no time stamp in the gzip header"
    assert [path.name for path in tmp_path.iterdir()] == ["t.gz"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([Request(1.0, (), Segment("a", 1)), Request(0.5, (), Segment("a", 1))], r"requests\[1\]\.arrived_at_s\(=0\.5\)"),
        ([Request(float("nan"), (), Segment("a", 1))], r"requests\[0\]\.arrived_at_s\(=nan\)"),
        ([Request(-1.0, (), Segment("a", 1))], "arrived_at_s"),
        ([Request(0.0, (Segment(("a", 1), 3),), Segment("a", 1))], "must be a string or a whole number"),
        ([Request(0.0, (Segment(True, 3),), Segment("a", 1))], "must be a string or a whole number"),
        ([Request(0.0, (Segment("a", 10**10),), Segment("a", 1))], "at most 1,000,000,000 tokens"),
        ([Request(0.0, (), Segment("a", 1), kind="usr")], "Did you mean 'user'"),
    ],
)
def test_requests_that_no_reader_would_take_are_not_written(tmp_path: Path, rows: list[Request], words: str) -> None:
    with pytest.raises(InputError, match=words):
        write_trace(rows, tmp_path / "t", "simcache")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    row = Request(0.0, (), Segment("a", 1))
    for path, words in (
        (tmp_path, "regular file"),
        (Path("/dev/null"), "regular file"),
        (tmp_path / "no" / "such" / "folder", "cannot be written"),
    ):
        with pytest.raises(InputError, match=words):
            write_trace([row], path, "simcache")
    with pytest.raises(InputError, match="Did you mean 'simcache'"):
        write_trace([row], tmp_path / "t", "simcahce")
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_trace([row], tmp_path / "link", "simcache")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").stat().st_size


MAYBE_ROWS = st.fixed_dictionaries(
    {
        "arrived_at_s": st.sampled_from([0, 1.5, -1, "0", None, True, 5e9]),
        "prompt": st.sampled_from(
            [[], [["a", 1]], [[1, 0]], [["a"]], [[1.5, 1]], [["a", -1]], [["a", True]], "a", [["a", 10**10]]]
        ),
        "output": st.sampled_from([["a", 1], [], ["a", "1"], None]),
    },
    optional={
        "session": st.sampled_from([None, "s", 3]),
        "turn": st.sampled_from([0, 3, -1, None]),
        "kind": st.sampled_from([*KINDS, "usr", None]),
        "priority": st.sampled_from([0, -3, "0", 2**70]),
        "salt": st.sampled_from([None, "s", 0]),
        "typo": st.just(1),
    },
)


@settings(max_examples=300)
@given(MAYBE_ROWS)
def test_the_schema_and_the_reader_agree(row: dict[str, Any]) -> None:
    valid = jsonschema.Draft202012Validator(SCHEMA).is_valid(row)
    try:
        simcache_row(row)
    except InputError:
        assert not valid
    else:
        assert valid


def test_public_traces_through_our_format_and_back(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "traces/mooncake_conversation.jsonl.gz"
    write_trace(read_trace(source, spread_ticks=False), tmp_path / "own.jsonl.gz", "simcache")
    write_trace(read_trace(tmp_path / "own.jsonl.gz", spread_ticks=False), tmp_path / "back.jsonl", "mooncake")
    assert (tmp_path / "back.jsonl").read_text() == gzip.decompress(source.read_bytes()).decode().replace(" ", "")


def convert(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, list(words))
    if isinstance(result.exception, SimcacheError):
        raise result.exception
    return result.exit_code, result.output


def test_convert_says_what_is_lost(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.csv"
    rows = [Request(float(i), (Segment("doc", 10),), Segment("a", 1), kind="warm") for i in range(3)]
    write_trace(rows, source, "simcache")
    status, text = convert(str(source), "--from", "simcache", str(target), "--to", "azure")
    assert status == 0
    assert "3 requests" in text
    assert "lost: kind of 3 requests" in text
    status, text = convert(str(source), str(target), "--to", "segments", "--json")
    document = json.loads(text)
    assert document == {
        "schema_version": 1,
        "in": str(source),
        "from": "simcache",
        "out": str(target),
        "to": "segments",
        "requests": 3,
        "lost": [],
        "notes": [],
    }


def test_convert_in_place_and_from_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_trace([Request(0.0, (Segment("doc", 10),), Segment("a", 1))], path, "simcache")
    convert(str(path), str(path), "--to", "mooncake")
    assert json.loads(path.read_text())["hash_ids"] == [0]
    path.write_text(path.read_text() + "junk\n")
    with pytest.raises(InputError, match="t:2: line"):
        convert(str(path), str(tmp_path / "new"), "--from", "mooncake", "--to", "simcache")
    assert [each.name for each in tmp_path.iterdir()] == ["t"]
    assert convert(str(path), str(path), "--to", "no-such-format")[0] == 2


def test_outputs_are_lost_only_where_a_later_request_contains_one(tmp_path: Path) -> None:
    ask = Request(0.0, (Segment("doc", 512),), Segment("a", 20))
    alone = [ask, Request(1.0, (Segment("doc", 512),), Segment("b", 20))]
    turns = [ask, Request(1.0, (*ask.prompt, ask.output), Segment("b", 20))]
    again = [ask, ask]
    for format in ("mooncake", "lmcache", "claude-code", "azure"):
        lost = [
            any("content of outputs" in each for each in write_trace(requests, tmp_path / f"{format}{i}", format))
            for i, requests in enumerate((alone, turns, again))
        ]
        assert lost == [False, True, True], format
