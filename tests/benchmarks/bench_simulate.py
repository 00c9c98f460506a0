"""How fast ``simulate`` is, as ratios to a bare SimPy queue in the same run: python tests/benchmarks/bench_simulate.py

The yardstick is an M/M/1 of SimPy alone (``Resource``, one process per customer, load 0.7, 20,000 customers). Prints requests per
second, the ratio, events per request, and the peak memory of the process. Needs the public traces (SIMCACHE_DATA).
"""

from __future__ import annotations

import os
import random
import resource
import statistics
import sys
import time
from pathlib import Path

import simpy

from simcache.engine.run import simulate
from simcache.scenario import Cluster, Scenario
from simcache.workload.traces import TraceWorkload

ROOT = Path(__file__).resolve().parent.parent.parent
TRACES = Path(os.environ.get("SIMCACHE_DATA", ROOT.parent / "shared" / "data")) / "traces"
KV_TOKENS = 25_000 * 16
REPEATS = 5
FORCED_REQUESTS = 1_500
FILES = (("mooncake_conversation.jsonl.gz", "mooncake"), ("azure_2023_conv.csv.gz", "azure"))
PROFILES = ("llama-3-8b/a100/tp1", "llama-3.1-8b/h100/tp1")
"""What jumping saves depends on the steps between two decisions: the conversation saturates the A100, not the H100."""


def yardstick_per_s(customers: int = 20_000, load: float = 0.7) -> float:
    """Customers per second of a bare SimPy M/M/1."""
    env = simpy.Environment()
    seat = simpy.Resource(env, 1)
    rng = random.Random(1)

    def customer():
        with seat.request() as turn:
            yield turn
            yield env.timeout(rng.expovariate(1.0))

    def arrivals():
        for _ in range(customers):
            env.process(customer())
            yield env.timeout(rng.expovariate(load))

    env.process(arrivals())
    started = time.perf_counter()
    env.run()
    return customers / (time.perf_counter() - started)


def main() -> None:
    """Print one row per trace."""
    if not TRACES.is_dir():
        sys.exit(f"the public traces are not in {TRACES.name}: point SIMCACHE_DATA at the folder above traces/")
    print(f"{'trace':34} {'requests/s':>10} {'x SimPy M/M/1':>14} {'events/request':>14}")
    for name, form in FILES:
        scenario = Scenario(
            workload=TraceWorkload(path=str(TRACES / name), format=form), backend=Cluster(replicas=4, kv_tokens=KV_TOKENS)
        )
        speeds, ratios = [], []
        for _ in range(REPEATS):
            bare = yardstick_per_s()
            wall = simulate(scenario).wall
            speeds.append(wall.requests_per_s)
            ratios.append(wall.requests_per_s / bare)
        print(f"{name:34} {statistics.median(speeds):10,.0f} {statistics.median(ratios):14.3f} {wall.events_per_request:14.2f}")
    print()
    print(f"{f'first {FORCED_REQUESTS:,}, each step alone':34} {'profile':22} {'events/request':>14} {'jumping is faster by':>20}")
    for name, form in FILES:
        for profile in PROFILES:
            first = Scenario(
                workload=TraceWorkload(path=str(TRACES / name), format=form, limit=FORCED_REQUESTS),
                backend=Cluster(profile=profile, replicas=4, kv_tokens=KV_TOKENS),
            )
            jumping, forced = (
                min((simulate(first.but(backend__jump=jump)).wall for _ in range(3)), key=lambda wall: wall.simulate_s)
                for jump in (True, False)
            )
            faster = forced.simulate_s / jumping.simulate_s
            print(f"{name:34} {profile:22} {forced.events_per_request:14.1f} {faster:19.1f}x")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
