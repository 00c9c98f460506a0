"""vLLM's block pool, one request after the other: runs of the real manager beyond the recorded ones, and a per-block twin."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cache.block_pool import replay_sequential
from simcache.prompt import Request, Segment

# vllm 0.33.0 (wheel of 2026-10): its own KVCacheManager, driven by the recorded protocol; decoding stops where no slot is left.
# (stream, block, usable blocks, sum of hits, prompts refused, blocks evicted, crc32 of both lists).
ENGINE_DIGESTS = [
    ("requests", 1, 6144, 588865, 0, 690860, 812435432),
    ("requests", 8, 640, 521568, 0, 94510, 1161629288),  # 1 answer is cut
    ("requests", 16, 64, 66752, 477, 10449, 3065333449),  # 40 answers are cut
    ("requests", 16, 256, 444064, 15, 47545, 65755960),  # 4 answers are cut
    ("requests", 64, 128, 670080, 0, 9078, 237698880),
    ("requests", 256, 24, 540928, 0, 2469, 1593672026),
    ("requests_drafts", 1, 3000, 591215, 0, 101904, 2654880676),
    ("requests_drafts", 8, 1024, 668328, 0, 1938, 3773540450),
    ("requests_drafts", 16, 128, 333728, 113, 5401, 3877758183),  # 1 answer is cut
    ("requests_drafts", 32, 40, 236928, 167, 2403, 193014143),
    ("requests_drafts", 256, 12, 492032, 0, 263, 493313577),
]


def engine_requests(folder: Path, name: str, *, salted: bool = True) -> list[Request]:
    rows = json.loads(gzip.decompress((folder / "engines" / f"{name}.json.gz").read_bytes()))["requests"]
    return [
        Request(row["t"], tuple(Segment(*pair) for pair in row["segs"]), Segment(*row["out"]), salt=row["salt"])
        for row in rows
        if salted or row["salt"] is None
    ]


@pytest.mark.parametrize(("stream", "block", "usable", "hits", "refused", "evicted", "crc"), ENGINE_DIGESTS)
def test_every_block_size_and_pool_agrees_with_the_engines_own_manager(
    shared_data: Path, stream: str, block: int, usable: int, hits: int, refused: int, evicted: int, crc: int
) -> None:
    replay = replay_sequential(engine_requests(shared_data, stream), usable_blocks=usable, block_tokens=block)
    assert sum(max(hit, 0) for hit in replay.hit_tokens) == hits
    assert (replay.hit_tokens.count(-1), sum(replay.evicted_blocks)) == (refused, evicted)
    assert zlib.crc32(json.dumps([replay.hit_tokens, replay.evicted_blocks]).encode()) == crc


@pytest.mark.parametrize(
    ("usable", "block", "prepended", "appended"),
    [(512, 16, 0.6657, 0.6604), (1024, 16, 0.8488, 0.8430), (32, 256, 0.6141, 0.5543)],
)
def test_appending_freed_partial_blocks_costs_what_was_measured(
    shared_data: Path, usable: int, block: int, prepended: float, appended: float
) -> None:
    """Both kinds of engine on the 733 requests without a salt: vLLM 0.33.0 prepends, nano-vllm bb823b3 appends."""
    requests = engine_requests(shared_data, "requests", salted=False)
    tokens = sum(segment.tokens for request in requests for segment in request.prompt)
    for freed_partial, expected in (("prepend", prepended), ("append", appended)):
        replay = replay_sequential(requests, usable_blocks=usable, block_tokens=block, freed_partial=freed_partial)
        assert round(sum(replay.hit_tokens) / tokens, 4) == expected


def per_block(requests: list[Request], blocks: int, size: int, freed_partial: str, duplicates: str) -> tuple[list[int], list[int]]:
    """The manager written block by block, token by token: a list of free blocks, a list of copies per key."""
    free, keys, copies = list(range(blocks)), [None] * blocks, {}
    hits, evicted = [], []

    def take() -> int:
        block = free.pop(0)
        if keys[block] is not None:
            copies[keys[block]].remove(block)
            keys[block] = None
            lost.append(block)
        return block

    for request in requests:
        prompt = [(s.key, i) for s in request.prompt for i in range(s.tokens)]
        tokens = prompt + [(request.output.key, i) for i in range(request.output.tokens - 1)]
        known = [(request.organisation, request.salt, *tokens[:end]) for end in range(size, len(tokens) + 1, size)]
        lost: list[int] = []
        held: list[int] = []
        for key in known[: max(0, len(prompt) - 1) // size]:
            if not copies.get(key):
                break
            held.append(copies[key][0])
        if -(-len(prompt) // size) > blocks:
            hits.append(-1)
            evicted.append(0)
            continue
        hits.append(len(held) * size)
        for block in held:
            free.remove(block)
        for upto in (len(prompt), *range(len(prompt) + 1, len(tokens) + 1)):
            if -(-upto // size) - len(held) > len(free):
                break  # the answer ends where the pool does
            first = len([block for block in held if keys[block] is not None])
            while len(held) * size < upto:
                held.append(take())
            for index in range(first, upto // size):
                there = copies.setdefault(known[index], [])
                if there and duplicates == "merge":
                    free.remove(there[0])
                    free.insert(0 if freed_partial == "prepend" else len(free), held[index])
                    held[index] = there[0]
                    continue
                keys[held[index]] = known[index]
                there.insert(0 if duplicates == "replace" else len(there), held[index])
        for block in reversed(held):
            if keys[block] is None and freed_partial == "prepend":
                free.insert(0, block)
            else:
                free.append(block)
        evicted.append(len(lost))
    return hits, evicted


@st.composite
def streams(draw: st.DrawFn) -> list[Request]:
    """Turns that grow, edits, regenerations and repeats over few contents; lengths of 0, below, at and beyond a block."""
    requests: list[Request] = []
    for turn in range(draw(st.integers(1, 20))):
        kind = draw(st.sampled_from(("new", "grow", "edit", "repeat"))) if requests else "new"
        prompt: tuple[Segment, ...]
        if kind == "new":
            prompt = (Segment(draw(st.sampled_from("xyz")), draw(st.integers(0, 18))), Segment("p", draw(st.integers(0, 4))))
        else:
            earlier = draw(st.sampled_from(requests))
            prompt = earlier.prompt
            if kind == "grow":
                prompt += (earlier.output, Segment(f"u{turn}", draw(st.integers(0, 6))))
            elif kind == "edit":
                cut = draw(st.integers(0, len(prompt) - 1))
                prompt = (*prompt[:cut], Segment(f"e{turn}", draw(st.integers(0, 6))))
        output = Segment(draw(st.sampled_from((f"a{turn}", "same"))), draw(st.sampled_from((0, 1, 2, 3, 8, 17))))
        requests.append(Request(0.0, prompt, output, salt=draw(st.sampled_from((None, None, "s")))))
    return requests


@settings(max_examples=400, deadline=None)
@given(
    requests=streams(),
    blocks=st.integers(0, 24),
    size=st.sampled_from((1, 2, 3, 4, 8)),
    freed_partial=st.sampled_from(("prepend", "append")),
    duplicates=st.sampled_from(("keep", "merge", "replace")),
)
def test_any_stream_agrees_with_the_pool_written_block_by_block(requests, blocks, size, freed_partial, duplicates) -> None:
    replay = replay_sequential(
        requests, usable_blocks=blocks, block_tokens=size, freed_partial=freed_partial, duplicates=duplicates
    )
    assert (replay.hit_tokens, replay.evicted_blocks) == per_block(requests, blocks, size, freed_partial, duplicates)


def test_a_prompt_too_long_is_refused_and_an_answer_too_long_is_cut() -> None:
    def ask(key: str, prompt: int, answer: int) -> Request:
        return Request(0.0, (Segment(key, prompt),), Segment((key, "answer"), answer))

    cut = ask("d", 30, 1000)
    again = Request(0.0, (*cut.prompt, Segment(("d", "answer"), 1)), Segment("b", 1))
    replay = replay_sequential([ask("d", 33, 1), cut, again, ask("e", 32, 1)], usable_blocks=8, block_tokens=4)
    assert replay.hit_tokens == [-1, 0, 28, 0]
    assert replay.evicted_blocks == [0, 0, 1, 7]
