"""Measure everything and write docs/performance.md: python tests/benchmarks/write_performance.py (about ten minutes)

Each benchmark runs in a process of its own; what it prints goes into the page as it stands. Names of benchmarks as arguments:
only those are measured anew, the other sections stay.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "docs" / "performance.md"
SECTIONS = (
    (
        "Simulating",
        "bench_simulate.py",
        "`simulate` on public traces: four replicas, round robin, 25,000 blocks of 16 tokens each, batching, caching and records",
        "on; reading the trace is not counted. Bars: at least 10,000 requests/s on one core, at least 0.20 times the yardstick for",
        "the conversation and 0.22 for Azure, at most 5 events per request, jumping at least 8 times as fast as stepping.",
    ),
    (
        "Larger runs",
        "bench_scale.py",
        "CPU per request as runs, answers and prompts grow, making the requests included. Bars: within 20 % from 10^4 to 10^6",
        "requests and from 10^2 to 10^5 output tokens, less than in proportion to prompts, under 300 MB for 10^6 requests with",
        "records.",
    ),
    (
        "Replaying without a clock",
        "bench_replay.py",
        "Multiples of a bare `OrderedDict` LRU that does nothing else. Bars: flat replay at most 2, the vLLM store at most 4,",
        "16-token blocks at most 1.3 times the time of 512-token blocks, the curve at every capacity at most 0.5 s plain.",
    ),
    ("People", "bench_typing.py", "Bar: at most 50 microseconds per turn for a warming policy's triggers."),
    ("Sweeps", "bench_sweep.py", "Bars: at most 50 ms of overhead per run, two workers use at least 1.8 times the CPU of one."),
)


def main() -> None:
    """Run every benchmark and write the page."""
    lines = [
        "# Performance",
        "",
        "Written by `python tests/benchmarks/write_performance.py`; every block is the output of the command in its first line.",
        "Ratios within one run are the evidence: seconds differ from machine to machine and, on a busy one, by the minute.",
    ]
    about = f"Python {platform.python_version()}, {os.cpu_count()} cores, {date.today().isoformat()}."
    before = {part.split("\n", 1)[0]: part.rstrip() for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]}
    for title, script, *text in SECTIONS:
        if sys.argv[1:] and script not in sys.argv[1:] and title in before:
            lines += ["", f"## {before[title]}"]
            continue
        print(script, "...", flush=True)
        done = subprocess.run([sys.executable, str(HERE / script)], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{script} failed:\n{done.stderr}")
        told = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
        lines += ["", f"## {title}", "", *text, about, "", "```text", f"$ python tests/benchmarks/{script}", told, "```"]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
