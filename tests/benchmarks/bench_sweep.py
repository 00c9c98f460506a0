"""What a sweep costs beside its simulations, and whether two workers use two cores: 40 runs with one and with two.

    python tests/benchmarks/bench_sweep.py

CPU is user and system time of this process and its children; on a busy machine the wall time says little.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from typing import Any

import simcache as sc
from simcache.experiment.sweeps import Sweep, sweep

RUNS = 40
SCENARIO = sc.Scenario(
    name="chat",
    workload=sc.TypingSessions(users=600, document_tokens=12_000, questions=3),
    backend=sc.Cluster(kv_tokens=200_000, replicas=2),
    duration_s=3600,
)


def cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measured(workers: int, scenario: sc.Scenario) -> tuple[Sweep, dict[str, Any]]:
    """The sweep, and what it took: wall seconds, and CPU seconds per wall second (cores in use)."""
    from joblib.externals.loky import get_reusable_executor

    with tempfile.TemporaryDirectory() as folder:
        before, started = cpu_s(), time.perf_counter()
        found = sweep(scenario, seeds=RUNS, store=folder, workers=workers)
        wall_s = time.perf_counter() - started
        if workers > 1:
            get_reusable_executor().shutdown(wait=True)  # only then are its processes counted
        used_s = cpu_s() - before
    return found, {"workers": workers, "wall_s": round(wall_s, 2), "cpu_s": round(used_s, 2), "cores": round(used_s / wall_s, 2)}


def main() -> None:
    """Print both measurements and the overhead as JSON."""
    measured(2, SCENARIO.but(duration_s=60))  # imports, and the first start of workers
    one, alone = measured(1, SCENARIO)
    two, both = measured(2, SCENARIO)
    assert one == two
    tiny = SCENARIO.but(workload__users=1, duration_s=1.0)
    _, small = measured(1, tiny)
    report = {"runs": RUNS, "one": alone, "two": both, "cpu_ratio": round(both["cores"] / alone["cores"], 2)}
    print(
        json.dumps({**report, "speed_up": round(alone["wall_s"] / both["wall_s"], 2), "overhead_ms": small["wall_s"] / RUNS * 1e3})
    )


if __name__ == "__main__":
    main()
