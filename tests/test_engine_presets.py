"""The table of real caches: every entry replays, says where it was read, and nano-vllm's agrees with its own rules."""

from __future__ import annotations

import gzip
import json
from collections import deque
from dataclasses import FrozenInstanceError, replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cache.content import Content
from simcache.cache.engine_presets import PRESETS, cache_preset, replay_preset
from simcache.cache.eviction import Lru
from simcache.cache.plain import PlainStore
from simcache.cache.retention import Priority, Retention
from simcache.errors import InputError, UnknownNameError
from simcache.prompt import Request, Segment


def ask(*segments: tuple[object, int], out: tuple[object, int] = ("a", 1), **more: object) -> Request:
    return Request(0.0, tuple(Segment(*segment) for segment in segments), Segment(*out), **more)


TURNS = [
    ask(
        ("sys", 700),
        (f"u{i % 9}", 300 + 40 * (i % 4)),
        (f"q{i}", 20),
        out=(f"a{i}", 1 + 30 * (i % 3)),
        salt=("s" if i % 5 else None),
    )
    for i in range(60)
]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_replays_and_hits_no_more_than_the_prompt(name: str) -> None:
    preset = cache_preset(name)
    assert preset.name == name
    assert preset.source
    assert preset.version
    for capacity_tokens in (0, 900, 6_000, 1_000_000):
        replay = replay_preset(TURNS, preset, capacity_tokens)
        assert len(replay.hit_tokens) == len(replay.evicted) == len(TURNS)
        for hit, request in zip(replay.hit_tokens, TURNS, strict=True):
            assert -1 <= hit <= sum(segment.tokens for segment in request.prompt)
    assert max(replay.hit_tokens) > 0
    assert sum(replay.evicted) == 0 or preset.store == "slots"


def nano_vllm(requests: list[Request], blocks: int, block_tokens: int) -> list[int]:
    """Its block manager at bb823b3, block by block: one block per key, a later duplicate takes the key over."""
    free, refs, keys = deque(range(blocks)), [0] * blocks, [None] * blocks
    table: dict[object, int] = {}
    hits = []
    for request in requests:
        content = Content(request.prompt, request.output)
        prompt = content.prompt_tokens
        total = min(prompt + max(0, request.output.tokens - 1), blocks * block_tokens)
        chain, link = [], (request.organisation, request.salt)
        for index in range(total // block_tokens):
            link = (link, content.block_key(index, block_tokens))
            chain.append(link)
        if prompt > blocks * block_tokens:
            hits.append(-1)
            continue
        held = []
        for link in islice(chain, max(0, -(-prompt // block_tokens) - 1)):
            if link not in table:
                break
            held.append(table[link])
        hit = len(held)
        for block in held:
            if not refs[block]:
                free.remove(block)
            refs[block] += 1
        for _ in range(-(-total // block_tokens) - hit):
            block = free.popleft()
            if keys[block] is not None and table.get(keys[block]) == block:
                del table[keys[block]]
            keys[block] = None
            refs[block] = 1
            held.append(block)
        for index in range(hit, len(chain)):
            keys[held[index]] = chain[index]
            table[chain[index]] = held[index]
        for block in reversed(held):
            refs[block] -= 1
            if not refs[block]:
                free.append(block)
        hits.append(hit * block_tokens)
    return hits


@st.composite
def streams(draw: st.DrawFn) -> list[Request]:
    requests: list[Request] = []
    for turn in range(draw(st.integers(1, 25))):
        segments: tuple[Segment, ...] = (Segment(draw(st.sampled_from("xy")), draw(st.integers(0, 12))),)
        if requests and draw(st.booleans()):
            earlier = requests[draw(st.integers(0, len(requests) - 1))]
            segments = (*earlier.prompt, earlier.output, Segment(f"u{turn}", draw(st.integers(0, 5))))
        output = Segment(draw(st.sampled_from((f"a{turn}", "same"))), draw(st.integers(0, 6)))
        requests.append(Request(float(turn), segments, output, salt=draw(st.sampled_from((None, None, "s")))))
    return requests


@settings(max_examples=200, deadline=None)
@given(streams(), st.integers(0, 12), st.sampled_from((1, 2, 3)))
def test_nano_vllm_hits_what_its_own_block_manager_hits(requests: list[Request], blocks: int, block_tokens: int) -> None:
    preset = replace(cache_preset("nano-vllm"), block_tokens=block_tokens)
    assert replay_preset(requests, preset, blocks * block_tokens).hit_tokens == nano_vllm(requests, blocks, block_tokens)


def test_nano_vllm_on_the_recorded_stream(shared_data: Path) -> None:
    rows = json.loads(gzip.decompress((shared_data / "engines" / "requests_drafts.json.gz").read_bytes()))["requests"]
    requests = [
        Request(row["t"], tuple(Segment(*pair) for pair in row["segs"]), Segment(*row["out"]), salt=row["salt"]) for row in rows
    ]
    assert replay_preset(requests, cache_preset("nano-vllm"), 32 * 256).hit_tokens == nano_vllm(requests, 32, 256)


def test_plain_is_the_plain_store_over_a_traces_own_ids(shared_data: Path) -> None:
    with gzip.open(shared_data / "traces" / "mooncake_conversation.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in islice(lines, 400)]
    requests = [
        ask(*((block, min(512, row["input_length"] - 512 * i)) for i, block in enumerate(row["hash_ids"])), out=(("o", n), 5))
        for n, row in enumerate(rows)
    ]
    store = PlainStore(Lru(), 2000, block_tokens=512)
    expected = [min(512 * store.serve(row["hash_ids"]), row["input_length"]) for row in rows]
    replay = replay_preset(requests, cache_preset("plain"), 2000 * 512)
    assert replay.hit_tokens == expected
    assert sum(replay.evicted) == store.evicted > 0


def test_tensorrt_llm_keeps_the_heads_that_were_asked_to_stay() -> None:
    preset = cache_preset("tensorrt-llm")
    retaining = replace(preset, policy=Priority(ranges=(Retention(end_tokens=32, priority=80),)))
    turns = [ask(("keep", 33)), *(ask((f"d{i}", 32), (f"e{i}", 97)) for i in range(2)), ask(("keep", 33))]
    assert replay_preset(turns, preset, 5 * 32).hit_tokens[-1] == 0
    assert replay_preset(turns, retaining, 5 * 32).hit_tokens[-1] == 32


def test_a_preset_is_a_value() -> None:
    with pytest.raises(FrozenInstanceError):
        cache_preset("vllm").block_tokens = 32  # type: ignore[misc]
    with pytest.raises(TypeError):
        cache_preset("vllm").switches["duplicates"] = "merge"  # type: ignore[index]
    with pytest.raises(UnknownNameError, match="vllm"):
        cache_preset("vlm")
    with pytest.raises(InputError, match="capacity_tokens"):
        replay_preset([], cache_preset("vllm"), -1)
