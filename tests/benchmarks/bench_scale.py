"""Whether the cost of a request stays flat as runs grow, and what memory they take: python tests/benchmarks/bench_scale.py

Three tables: more requests (10^4 to 10^6, each size in a process of its own, for its peak memory), longer answers and longer
prompts. Utilisation stays, and nothing is preempted. CPU seconds per request are given beside those of the first row, as the
least of several runs that take turns; at 10^6 one run. `--most 100000` leaves the longest run out.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from simcache.engine.run import simulate
from simcache.prompt import Request, Segment
from simcache.scenario import Cluster, Scenario

PROFILE = "llama-3.1-8b/h100/tp1"
REPLICAS = 4
REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Poisson arrivals of prompts that share one of fifty beginnings; made one by one, never in memory at once."""

    count: int
    per_s: float
    prompt_tokens: int
    output_tokens: int
    notes: tuple[str, ...] = ()

    def requests(self, seed: int) -> Iterator[Request]:
        rng, at_s, shared = random.Random(seed), 0.0, self.prompt_tokens * 4 // 5
        for number in range(self.count):
            at_s += rng.expovariate(self.per_s)
            prompt = (Segment(("system", number % 50), shared), Segment(("question", number), self.prompt_tokens - shared))
            yield Request(at_s, prompt, Segment(("answer", number), self.output_tokens))


def measured(questions: Questions, kv_tokens: int) -> tuple[float, float, int]:
    """CPU microseconds per request (making the requests included), events per request, preemptions."""
    scenario = Scenario(workload=questions, backend=Cluster(profile=PROFILE, replicas=REPLICAS, kv_tokens=kv_tokens))
    started = time.process_time()
    result = simulate(scenario)
    spent_s = time.process_time() - started
    return spent_s / questions.count * 1e6, result.wall.events_per_request, int(result.records.preemptions.sum())


def rows(title: str, cases: list[tuple[str, Questions, int]]) -> None:
    """A table whose cases take turns, so that a busy minute hits all of them."""
    best = [float("inf")] * len(cases)
    events, preemptions = [0.0] * len(cases), [0] * len(cases)
    for _ in range(REPEATS):
        for place, (_, questions, kv_tokens) in enumerate(cases):
            spent_us, events[place], preemptions[place] = measured(questions, kv_tokens)
            best[place] = min(best[place], spent_us)
    print(f"{title:28} {'us/request':>10} {'x first':>8} {'events/request':>14} {'preemptions':>12}")
    for place, (name, _, _) in enumerate(cases):
        print(f"{name:28} {best[place]:10.1f} {best[place] / best[0]:8.2f} {events[place]:14.2f} {preemptions[place]:12,}")


def one(count: int) -> None:
    """One size, in a process of its own."""
    questions = Questions(count=count, per_s=8.0, prompt_tokens=1_000, output_tokens=100)
    repeats = 1 if count >= 1_000_000 else REPEATS
    spent_us, events, _ = min(measured(questions, 400_000) for _ in range(repeats))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count:>28,} {spent_us:10.1f} {events:14.2f} {peak_mb:13.0f}")


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=1_000_000, metavar="REQUESTS")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        one(arguments.one)
        return
    print(f"{'requests':>28} {'us/request':>10} {'events/request':>14} {'peak MB':>13}", flush=True)
    for count in (10_000, 100_000, 1_000_000):
        if count <= arguments.most:
            subprocess.run([sys.executable, __file__, "--one", str(count)], check=True)
    answers = []
    for output_tokens in (100, 1_000, 10_000, 100_000):
        asked = Questions(count=3_000, per_s=800 / output_tokens, prompt_tokens=200, output_tokens=output_tokens)
        answers.append((f"{output_tokens:,} output tokens", asked, 40_000_000))
    rows("longer answers", answers)
    prompts = []
    for prompt_tokens in (1_000, 10_000, 100_000):
        asked = Questions(count=3_000, per_s=8_000 / prompt_tokens, prompt_tokens=prompt_tokens, output_tokens=100)
        prompts.append((f"{prompt_tokens:,} prompt tokens", asked, 40_000_000))
    rows("longer prompts", prompts)


if __name__ == "__main__":
    main()
