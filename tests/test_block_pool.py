"""vLLM's block pool, one request after the other: runs of the real manager beyond the recorded ones, and a per-block twin."""

from __future__ import annotations

import gzip
import json
import zlib
from array import array
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from simcache.cache.block_pool import BlockPool, Holding, replay_sequential
from simcache.cache.content import Content
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


class BlockByBlock:
    """The pool written block by block: a list of free blocks, a list of copies per key, a key and an expiry per block."""

    def __init__(self, blocks: int, freed_partial: str, duplicates: str, ttl: int | None = None, ttl_kind: str = "sliding") -> None:
        self.free = list(range(blocks))
        self.keys: list[object] = [None] * blocks
        self.refs = [0] * blocks
        self.expires: list[int | None] = [None] * blocks
        self.copies: dict[object, list[int]] = {}
        self.prepends, self.duplicates = freed_partial == "prepend", duplicates
        self.ttl, self.ttl_kind = ttl, ttl_kind
        self.now = self.evicted = 0

    def match(self, keys: Sequence[object]) -> list[int]:
        return [self.copies[key][0] for key in takewhile(self.copies.get, keys)]

    def touch(self, blocks: list[int]) -> None:
        for block in blocks:
            if not self.refs[block]:
                self.free.remove(block)
            self.refs[block] += 1

    def lose_key(self, block: int) -> None:
        self.copies[self.keys[block]].remove(block)
        self.keys[block] = None
        self.evicted += 1

    def take(self, count: int) -> list[int]:
        taken, self.free = self.free[:count], self.free[count:]
        for block in taken:
            if self.keys[block] is not None:
                self.lose_key(block)
            self.refs[block] = 1
        return taken

    def give_back(self, block: int) -> None:
        self.refs[block] -= 1
        if not self.refs[block]:
            self.free.insert(0 if self.keys[block] is None and self.prepends else len(self.free), block)
            if self.ttl is not None and self.ttl_kind == "sliding":
                self.expires[block] = self.now + self.ttl

    def insert(self, held: list[int], index: int, key: object) -> None:
        """Give ``key`` to the block at ``index`` of ``held``, or change it for the copy that is there."""
        there = self.copies.setdefault(key, [])
        if there and self.duplicates == "merge":
            self.touch(there[:1])
            self.give_back(held[index])
            held[index] = there[0]
            return
        self.keys[held[index]] = key
        there.insert(0 if self.duplicates == "replace" else len(there), held[index])
        if self.ttl is not None and self.ttl_kind == "fixed":
            self.expires[held[index]] = self.now + self.ttl

    def expire(self, now: int) -> None:
        self.now = now
        for block, key in enumerate(self.keys):
            if key is None or self.expires[block] is None or self.expires[block] > now:
                continue
            if not self.refs[block]:
                self.free.remove(block)
                self.free.insert(0, block)
            elif self.ttl_kind == "sliding":
                continue
            self.lose_key(block)


def tokens_of(request: Request) -> tuple[list[object], int]:
    """Prompt and answer token by token, and how many of them are the prompt's."""
    prompt = [(s.key, i) for s in request.prompt for i in range(s.tokens)]
    return prompt + [(request.output.key, i) for i in range(request.output.tokens)], len(prompt)


def per_block(requests: list[Request], blocks: int, size: int, freed_partial: str, duplicates: str) -> tuple[list[int], list[int]]:
    """One request after the other, token by token."""
    pool = BlockByBlock(blocks, freed_partial, duplicates)
    hits, evicted = [], []
    for request in requests:
        tokens, prompt_tokens = tokens_of(request)
        keys = [(request.organisation, request.salt, *tokens[:end]) for end in range(size, len(tokens) + 1, size)]
        before = pool.evicted
        held = pool.match(keys[: max(0, prompt_tokens - 1) // size])
        if -(-prompt_tokens // size) > blocks:
            hits.append(-1)
            evicted.append(0)
            continue
        hits.append(len(held) * size)
        inserted = len(held)
        pool.touch(held)
        for upto in (prompt_tokens, *range(prompt_tokens + 1, len(tokens))):
            if -(-upto // size) - len(held) > len(pool.free):
                break  # the answer ends where the pool does
            held += pool.take(-(-upto // size) - len(held))
            for index in range(inserted, upto // size):
                pool.insert(held, index, keys[index])
            inserted = max(inserted, upto // size)
        for block in reversed(held):
            pool.give_back(block)
        evicted.append(pool.evicted - before)
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


class OverlappingRequests(RuleBasedStateMachine):
    """Requests that overlap, prefill in chunks and are given up at any point; pool and twin agree, every invariant holds."""

    live = Bundle("live")

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[Holding, list[int], list[object]]] = []
        self.counts = {name: array("q", [0] * 200) for name in ("used_tokens", "inserted_tokens", "dropped_tokens")}
        self.rows = self.now = 0

    @initialize(
        blocks=st.integers(1, 20),
        size=st.integers(1, 4),
        freed_partial=st.sampled_from(("prepend", "append")),
        duplicates=st.sampled_from(("keep", "merge", "replace")),
        ttl=st.none() | st.integers(1, 6),
        ttl_kind=st.sampled_from(("sliding", "fixed")),
    )
    def build(self, blocks: int, size: int, freed_partial: Any, duplicates: Any, ttl: int | None, ttl_kind: Any) -> None:
        switches = {"freed_partial": freed_partial, "duplicates": duplicates, "ttl": ttl, "ttl_kind": ttl_kind}
        self.pool = BlockPool(blocks, size, **switches, **self.counts)
        self.twin = BlockByBlock(blocks, **switches)

    def asked(self, data: st.DataObject) -> tuple[Content, list[object], str | None]:
        head = Segment(data.draw(st.sampled_from("xy")), data.draw(st.integers(0, 14)))
        tail = Segment(data.draw(st.sampled_from("pq")), data.draw(st.integers(1, 9)))
        output, salt = Segment(data.draw(st.sampled_from("ab")), 30), data.draw(st.sampled_from((None, None, "s")))
        tokens, _ = tokens_of(Request(0.0, (head, tail), output))
        size = self.pool.block_tokens
        keys = [(salt, *tokens[:end]) for end in range(size, len(tokens) + 1, size)]
        return Content((head, tail), output), keys, salt

    @rule(target=live, data=st.data(), user=st.booleans())
    def start(self, data: st.DataObject, user: bool) -> Any:
        content, keys, salt = self.asked(data)
        root = self.pool.root(salt)
        match = self.pool.match(root, content, (content.prompt_tokens - 1) // self.pool.block_tokens)
        there = self.twin.match(keys[: (content.prompt_tokens - 1) // self.pool.block_tokens])
        assert (match.blocks, match.evictable_blocks) == (len(there), sum(not self.twin.refs[block] for block in there))
        holding = Holding(content, root, self.rows)
        self.rows += 1
        self.pool.hold(holding, match, user=user)
        self.twin.touch(there)
        self.held.append((holding, there, keys))
        return self.held[-1]

    @rule(request=live, more=st.integers(1, 12))
    def compute(self, request: Any, more: int) -> None:
        holding, blocks, keys = request
        size = self.pool.block_tokens
        upto = min(holding.at * size + more, holding.content.ends[-1])
        missing = max(0, -(-upto // size) - holding.blocks)
        if missing > self.pool.free:
            return
        self.pool.take(missing)
        holding.blocks += missing
        blocks += self.twin.take(missing)
        for index in range(holding.at, upto // size):
            self.twin.insert(blocks, index, keys[index])
        self.pool.insert(holding, upto // size)

    @rule(request=consumes(live))
    def finish(self, request: Any) -> None:
        holding, blocks, _ = request
        self.pool.release(holding)
        for block in reversed(blocks):
            self.twin.give_back(block)
        self.held = [each for each in self.held if each is not request]

    @rule(wait=st.integers(0, 4))
    def tick(self, wait: int) -> None:
        self.now += wait
        before = self.twin.evicted
        self.twin.expire(self.now)
        assert self.pool.expire(self.now) == self.twin.evicted - before

    @invariant()
    def blocks_add_up(self) -> None:
        if self.rows:
            assert self.pool.free == len(self.twin.free)
            assert all(holding.blocks == len(blocks) for holding, blocks, _ in self.held)

    # The pool puts its work off until somebody looks: looking after every step would hide what that may break.
    @precondition(lambda self: self.rows)
    @rule()
    def look(self) -> None:
        self.pool.check()
        assert self.pool.evicted == self.twin.evicted
        for holding, _, keys in self.held:  # what somebody holds stays, and is found unless it expired
            found = self.pool.match(holding.root, holding.content, holding.at).blocks
            assert found == len(self.twin.match(keys[: holding.at]))
            assert found == holding.at or self.pool.ttl_kind == "fixed"
        used, inserted, dropped = self.counts.values()
        assert sum(inserted) == self.pool.inserted * self.pool.block_tokens
        assert all(u + d <= i for u, d, i in zip(used, dropped, inserted, strict=True))

    def teardown(self) -> None:
        if self.rows:
            self.look()


TestOverlappingRequests = OverlappingRequests.TestCase
TestOverlappingRequests.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


def test_what_is_computed_after_its_beginning_expired_is_found_again_behind_a_new_beginning() -> None:
    pool = BlockPool(8, 4, ttl=10, ttl_kind="fixed")
    content = Content((Segment("d", 30),), Segment("a", 1))

    def compute(holding: Holding, blocks: int) -> None:
        pool.take(blocks - holding.blocks)
        holding.blocks = blocks
        pool.insert(holding, blocks)

    slow, quick = (Holding(content, pool.root(None), origin) for origin in (0, 1))
    compute(slow, 1)
    assert pool.expire(10) == 1
    compute(slow, 3)
    pool.check()
    assert pool.match(pool.root(None), content, 7).blocks == 0
    compute(quick, 1)
    assert pool.match(pool.root(None), content, 7).blocks == 3
    assert pool.expire(20) == 3
    for holding in (slow, quick):
        pool.release(holding)
    pool.check()
    assert (pool.free, pool.blank) == (8, 8)


def test_a_prompt_too_long_is_refused_and_an_answer_too_long_is_cut() -> None:
    def ask(key: str, prompt: int, answer: int) -> Request:
        return Request(0.0, (Segment(key, prompt),), Segment((key, "answer"), answer))

    cut = ask("d", 30, 1000)
    again = Request(0.0, (*cut.prompt, Segment(("d", "answer"), 1)), Segment("b", 1))
    replay = replay_sequential([ask("d", 33, 1), cut, again, ask("e", 32, 1)], usable_blocks=8, block_tokens=4)
    assert replay.hit_tokens == [-1, 0, 28, 0]
    assert replay.evicted_blocks == [0, 0, 1, 7]
