"""How fast a replay without a clock is, as ratios to a bare OrderedDict LRU in one run: python tests/benchmarks/bench_replay.py

The yardstick touches every block of the conversation trace (288,500 at 512 tokens), and does nothing but LRU. Every row is the
best of five, loading excluded but shown. `--stream 10000000` instead replays a generated trace of so many requests and prints
the peak memory, beside that of a hundredth of it. Needs the public traces (SIMCACHE_DATA).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from simcache.cache import block_pool, kernels, radix_replay
from simcache.cache.bounds import Infinite, Min
from simcache.cache.curve import stack_distances
from simcache.cache.eviction import EvictionPolicy, Fifo, Lfu, LfuPerfect, Lru, RandomEviction, Sieve, Slru
from simcache.cache.retention import CostAware, Priority, Ttl
from simcache.engine.replay import capacity_curve, lifetime_curve, replay, replay_stream
from simcache.engine.store_replay import file_requests
from simcache.workload.block_traces import BlockTrace, read_block_trace

ROOT = Path(__file__).resolve().parent.parent.parent
TRACES = Path(os.environ.get("SIMCACHE_DATA", ROOT.parent / "shared" / "data")) / "traces"
CAPACITY_BLOCKS = 10_000
REPEATS = 5

PLAIN: tuple[EvictionPolicy, ...] = (
    Lru(),
    Fifo(),
    Lfu(),
    LfuPerfect(),
    Slru(),
    Sieve(),
    RandomEviction(),
    Priority(),
    CostAware(per_token_s=8e-5, attention_s=2e-9),
    Min(),
    Ttl(60),
    Infinite(),
)
COMPILED: tuple[EvictionPolicy, ...] = (Lru(), Fifo(), Lfu(), LfuPerfect(), Min(), Ttl(60))


def best_s(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Seconds of the fastest of several runs."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def bare_lru(ids: list[int], capacity: int) -> None:
    """The yardstick: an OrderedDict, one touch per block, nothing counted."""
    order: OrderedDict[int, None] = OrderedDict()
    for block in ids:
        if block in order:
            order.move_to_end(block)
        else:
            if len(order) >= capacity:
                order.popitem(last=False)
            order[block] = None


def compare() -> None:
    """Print one row per loop."""
    if not TRACES.is_dir():
        sys.exit(f"the public traces are not in {TRACES.name}: point SIMCACHE_DATA at the folder above traces/")
    path = TRACES / "mooncake_conversation.jsonl.gz"
    trace = read_block_trace(path, "mooncake")
    ids = trace.ids.tolist()
    yardstick_s = best_s(lambda: bare_lru(ids, CAPACITY_BLOCKS))

    def show(what: str, seconds: float) -> float:
        print(f"{what:58} {seconds * 1e3:9.2f} ms {seconds / yardstick_s:8.3f} x")
        return seconds

    def point(policy: EvictionPolicy, compiled: bool) -> float:
        capacities = [None] if isinstance(policy, Ttl) else [CAPACITY_BLOCKS]
        return best_s(lambda: replay(trace, [policy], capacities, compiled=compiled))

    show(f"bare OrderedDict LRU, {len(ids):,} touches, {CAPACITY_BLOCKS:,} blocks", yardstick_s)
    show("loading the trace", best_s(lambda: read_block_trace(path, "mooncake"), 3))
    plain_s = {policy.name: show(f"plain: {policy.name}", point(policy, False)) for policy in PLAIN}
    curve_s = show("plain: lru at every capacity", best_s(lambda: capacity_curve(trace, compiled=False)))
    show("plain: sliding ttl at every lifetime", best_s(lambda: lifetime_curve(trace)))
    if kernels.available():
        for policy in COMPILED:
            point(policy, True)  # compiles
            seconds = show(f"compiled: {policy.name}", point(policy, True))
            print(f"{'':58} plain is {plain_s[policy.name] / seconds:.0f} times slower")
        capacity_curve(trace, compiled=True)
        seconds = show("compiled: lru at every capacity", best_s(lambda: capacity_curve(trace, compiled=True)))
        print(f"{'':58} plain is {curve_s / seconds:.0f} times slower")
        n = int(trace.ids.max()) + 1
        loop = kernels.compiled(kernels.distances)
        seconds = show("compiled: stack distances alone", best_s(lambda: loop(trace.ids, trace.starts, n, 0)))
        slow_s = show("plain: stack distances alone", best_s(lambda: stack_distances(trace.ids, trace.starts)))
        same_s = show("the same Fenwick loop in plain Python", best_s(lambda: kernels.distances(trace.ids, trace.starts, n, 0), 1))
        print(f"{'':58} plain is {slow_s / seconds:.0f}, the same loop {same_s / seconds:.0f} times slower")
    table = [Lru(), Fifo(), Lfu(), LfuPerfect(), Min(), *(Ttl(s) for s in (10, 60, 300, 600, 1800, 3600))]
    capacities = [1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000]
    rows = len(replay(trace, table, capacities))
    show(f"a table of {rows} rows from one call", best_s(lambda: replay(trace, table, capacities), 2))
    requests = list(file_requests(path, "mooncake"))
    for tokens in (512, 16):
        blocks = CAPACITY_BLOCKS * 512 // tokens
        pool_s = best_s(lambda: block_pool.replay_sequential(requests, usable_blocks=blocks, block_tokens=tokens))  # noqa: B023
        show(f"vllm store, {tokens}-token blocks, prompts and answers", pool_s)
        tree_s = best_s(lambda: radix_replay.replay_sequential(requests, capacity_tokens=CAPACITY_BLOCKS * 512, page_tokens=tokens))  # noqa: B023
        show(f"sglang store, {tokens}-token pages, prompts and answers", tree_s)


def generated(requests: int, part: int = 1000) -> Iterator[BlockTrace]:
    """Sessions of seven turns whose prompts have 4 to 12 blocks; never in memory at once."""
    for first in range(0, requests, part):
        turn = np.arange(first, min(first + part, requests))
        lengths = 4 + turn % 9
        starts = np.concatenate(([0], np.cumsum(lengths)))
        ids = np.repeat(turn // 7 * 16, lengths) + np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        yield BlockTrace(
            block_tokens=16,
            ids=ids,
            starts=starts,
            input_tokens=lengths * 16,
            output_tokens=lengths,
            arrived_at_s=turn / 10,
            skipped={},
        )


def stream(requests: int) -> None:
    """Replay a generated trace part by part and print its peak memory."""
    started = time.perf_counter()
    rows = replay_stream(generated(requests), [Lru(), Ttl(60)], [20_000])
    seconds = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ratio = rows[0].block_hit_ratio
    print(
        f"{requests:>12,} requests  {rows[0].total_blocks:>12,} blocks  {ratio:.4f} hit  {seconds:7.1f} s  {peak_mb:6.0f} MB peak"
    )


def main() -> None:
    """Compare loops, or measure the memory of a stream."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stream", type=int, metavar="REQUESTS")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stream is None:
        compare()
        return
    if not arguments.alone:  # a process of its own: peak memory is the process's
        subprocess.run([sys.executable, __file__, "--alone", "--stream", str(max(1, arguments.stream // 100))], check=True)
    stream(arguments.stream)


if __name__ == "__main__":
    main()
