"""Every reader of a file that somebody else wrote, and files that a tired person or a broken tool could give it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from simcache import pml
from simcache.benchmark_results import read_benchmark
from simcache.cache.presets import load_rules
from simcache.cache.snapshot import load_snapshots
from simcache.errors import InputError
from simcache.experiment.study_file import parse_study
from simcache.latency.points import read_points
from simcache.latency.profiles import load_profile
from simcache.latency.shapes import load_shape
from simcache.live_log import read_live_rows
from simcache.llamacpp_log import read_llamacpp_csv
from simcache.logs import read_usage
from simcache.messages.reader import read_messages
from simcache.metrics_page import parse_metrics
from simcache.scenario_file import parse_scenarios
from simcache.serving_runs import read_serving_runs
from simcache.validation import read_vllm_requests
from simcache.workload.block_traces import read_block_trace
from simcache.workload.traces import FORMATS, read_trace

SEEDS = Path(__file__).with_name("seeds")
DATA = Path(__file__).resolve().parents[2] / "simcache" / "data"


def of_text(parse: Callable[[str], object]) -> Callable[[Path], object]:
    return lambda path: parse(path.read_text(encoding="utf-8", errors="replace"))


def traces(path: Path) -> None:
    for format in (None, *FORMATS):
        with suppress(InputError):
            list(read_trace(path, format))


def blocks(path: Path) -> None:
    for format in (None, *FORMATS):
        with suppress(InputError):
            read_block_trace(path, format)


def benchmarks(path: Path) -> None:
    for format in ("vllm-bench", "aiperf"):
        with suppress(InputError):
            read_benchmark(path, format)


def markup(path: Path) -> None:
    text = path.read_text(encoding="utf-8", errors="replace")
    head, _, tail = text.partition("\0")
    pml.parse_prompt(tail or "<prompt schema='s'><m/></prompt>", pml.parse_schema(head))


READERS: dict[str, tuple[str, Callable[[Path], object], str | None]] = {
    # name -> ending of the file, reader, shipped data to start from, beside seeds/NAME*
    "traces": ("jsonl", traces, None),
    "block-traces": ("jsonl", blocks, None),
    "scenario": ("toml", of_text(parse_scenarios), "scenarios"),
    "study": ("toml", of_text(parse_study), None),
    "profile": ("toml", load_profile, "profiles"),
    "shape": ("toml", load_shape, "models"),
    "config": ("json", load_shape, None),
    "rules": ("toml", load_rules, "providers"),
    "pml": ("xml", markup, None),
    "usage": ("jsonl", read_usage, None),
    "messages": ("jsonl", read_messages, None),
    "benchmarks": ("json", benchmarks, None),
    "live": ("jsonl", lambda path: list(read_live_rows(path)), None),
    "vllm-requests": ("jsonl", read_vllm_requests, None),
    "llamacpp": ("csv", read_llamacpp_csv, None),
    "points": ("csv", lambda path: read_points([path]), None),
    "serving-runs": ("csv", read_serving_runs, None),
    "metrics": ("txt", of_text(lambda text: parse_metrics(text).histogram("a")), None),
    "snapshot": ("json", load_snapshots, None),
}


TOKEN = re.compile(rb'"[^"\n]*"|-?\d+(?:\.\d+)?|true|false|null|[A-Za-z_][\w-]*')
ODD = rb'0 -1 -0.0 0.1 1e308 1e999 NaN Infinity true null [] {} "" "\u0000" "\ud800" "x" [[[[[[]]]]]] 1979-05-27 , = " <'.split()
ODD += [b"9" * 40, b"9" * 400, b"9" * 5000, b"[" * 2000, b"\xff", b"\x00", b"\n"]


def mutated(data: bytes, draw: random.Random) -> bytes:
    """One token becomes an odd value or another token of the file, or a line is doubled or lost."""
    tokens = list(TOKEN.finditer(data))
    kind = draw.random()
    if kind < 0.2 or not tokens:
        lines = data.split(b"\n")
        place = draw.randrange(len(lines))
        lines[place : place + 1] = [lines[place]] * draw.choice([0, 2])
        return b"\n".join(lines)
    token = draw.choice(tokens)
    other = draw.choice(tokens)[0] if kind < 0.5 else draw.choice(ODD)
    return data[: token.start()] + other + data[token.end() :]


def seeds(name: str) -> list[Path]:
    """Good files for the reader ``name``."""
    data = READERS[name][2]
    return [*sorted(SEEDS.glob(f"{name.removeprefix('block-')}*")), *(sorted((DATA / data).rglob("*.toml")) if data else ())]
