"""Files that are nearly right: every reader answers with its result or with one InputError that names what is wrong."""

from __future__ import annotations

import random
import warnings
from contextlib import suppress
from pathlib import Path

import pytest

from simcache.errors import InputError
from tests.fuzz.readers import READERS, mutated, seeds

DEEP = b"[" * 100_000
LONG = b"9" * 5_000
FOUND = [
    # by tests/fuzz/fuzz_readers.py: reader, the file that made it raise something else
    ("usage", b'{"provider":"openai","model":"m","prompt_tokens":' + LONG + b"}"),
    ("study", b"seeds = " + LONG),
    ("study", b'scenario = "' + b"x" * 300 + b'"'),
    ("study", b'scenario = "a\\u0000b"'),
    ("vllm-requests", b'{"arrival_s":1,"first_token_s":2,"last_token_s":' + LONG[:400] + b',"input_tokens":1,"output_tokens":1}'),
    (
        "benchmarks",
        b'{"metadata":{"session_num":0,"request_start_ns":1},"metrics":{"request_latency":{"value":' + LONG[:400] + b"}}}",
    ),
    ("rules", b"sources = " + DEEP),
    ("shape", b"layers = " + DEEP),
    ("config", b'{"vocab_size":' + DEEP),
    ("scenario", b'workload = { kind = "typing-sessions", users = 3, questions = 1e308 }\nbackend.kind = "server"'),
    ("messages", b'{"messages":[{"role":"user","content":[{"type":{},"text":"x"}]}]}'),
    ("messages", b'{"system":[{"type":"text","text":"x","a":{"type":{}}}],"messages":[{"role":"user","content":"x"}]}'),
]


def read(name: str, content: bytes, folder: Path) -> None:
    ending, reader, _ = READERS[name]
    path = folder / f"input.{ending}"
    path.write_bytes(content)
    with warnings.catch_warnings(), suppress(InputError):
        warnings.simplefilter("ignore")
        reader(path)


@pytest.mark.parametrize("name", READERS)
def test_good_files_are_read(name: str, tmp_path: Path) -> None:
    ending, reader, _ = READERS[name]
    assert seeds(name)
    for seed in seeds(name):
        path = tmp_path / f"input.{ending}"
        path.write_bytes(seed.read_bytes())
        reader(path)


@pytest.mark.parametrize(("name", "content"), FOUND, ids=[name for name, _ in FOUND])
def test_what_the_fuzzer_found_stays_mended(name: str, content: bytes, tmp_path: Path) -> None:
    read(name, content, tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\xff\xfe\x00", DEEP, b"{" * 5_000, b'{"a":' * 5_000, LONG, b"a = " + DEEP, b"\x1f\x8b\x08junk"]
)
@pytest.mark.parametrize("name", READERS)
def test_junk_is_one_error(name: str, content: bytes, tmp_path: Path) -> None:
    read(name, content, tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_one_wrong_token_is_one_error(name: str, tmp_path: Path) -> None:
    draw = random.Random(name)
    good = [seed.read_bytes() for seed in seeds(name)]
    for _ in range(120):
        read(name, mutated(draw.choice(good), draw), tmp_path)
