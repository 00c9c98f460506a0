"""The block pool's cost follows segments and extents, not blocks: counted in instructions, which no busy machine disturbs."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from simcache.cache.block_pool import replay_sequential
from simcache.prompt import Request, Segment


def instructions(work: Callable[[], object]) -> int:
    """Byte code instructions that ``work`` executes in this package."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def conversations(scale: int) -> list[Request]:
    """Turns that grow, shared system prompts, outputs that return: the same segments, each ``scale`` times as long."""
    rng = random.Random(5)
    requests = []
    for talk in range(40):
        prompt = [Segment(("system", talk % 3), 64 * scale)]
        for turn in range(rng.randint(1, 4)):
            prompt.append(Segment(("question", talk, turn), rng.randint(1, 9) * 16 * scale))
            answer = Segment(("answer", talk, turn), rng.randint(1, 9) * 16 * scale)
            requests.append(Request(0.0, tuple(prompt), answer))
            prompt.append(answer)
    rng.shuffle(requests)
    return requests


def replay_cost(scale: int, blocks: int) -> tuple[int, list[int]]:
    requests, hits = conversations(scale), []
    count = instructions(lambda: hits.extend(replay_sequential(requests, usable_blocks=blocks * scale).hit_tokens))
    return count, hits


def test_ten_times_longer_prompts_cost_the_same():
    for blocks in (60, 10_000):  # under eviction, and with room for all
        short, few_hits = replay_cost(1, blocks)
        long, many_hits = replay_cost(10, blocks)
        assert abs(long / short - 1) <= 0.10
        assert sum(many_hits) > 9 * sum(few_hits) > 0


def test_smaller_blocks_cost_little_more():
    requests = conversations(8)  # every segment a multiple of 128 tokens
    small = instructions(lambda: replay_sequential(requests, usable_blocks=8_000, block_tokens=16))
    large = instructions(lambda: replay_sequential(requests, usable_blocks=1_000, block_tokens=128))
    assert small <= 1.3 * large
