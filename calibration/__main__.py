"""``python -m calibration measure`` and ``python -m calibration live``."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from simcache.errors import SimcacheError, require, require_count, require_number

from .architecture import DTYPE_BYTES, load_architecture, preset_names
from .timing import Patience

QUICK_BUDGET_S = 40.0
QUICK_CONTEXT = {"cpu": 1536, "cuda": 16_384}
QUICK = Patience(warm_ups=1, least=6, most=8, tight=0.05, point_s=1.2)
CHUNK = {"cpu": 512, "cuda": 2048}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0: done, 2: what was asked for cannot be, 130: interrupted, and what was measured is kept."""
    parser = argparse.ArgumentParser(prog="python -m calibration", description="Measure hardware and servers.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="measure|live")
    _measure_options(verbs.add_parser("measure", help="measure prefill and decode points of a model or of a server"))
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except SimcacheError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept, and the same command goes on from there", file=sys.stderr)
        return 130


def _measure_options(parser: argparse.ArgumentParser) -> None:
    presets = ", ".join(preset_names())
    parser.add_argument("--model", default="tiny", metavar="NAME|CONFIG.json", help=f"{presets}, or a config.json [tiny]")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda", help="[cpu]")
    parser.add_argument("--dtype", choices=sorted(DTYPE_BYTES), help="[fp32 on cpu, bf16 on cuda]")
    parser.add_argument("--out", type=Path, required=True, metavar="POINTS.csv", help="the certificate stands beside it, as .json")
    parser.add_argument("--quick", action="store_true", help="a small grid, under a minute")
    parser.add_argument("--budget-s", type=float, metavar="S", help="stop after so many seconds; the rest is named")
    parser.add_argument("--max-context", type=int, metavar="TOKENS", help="longest context [the model's, at most 32768]")
    parser.add_argument("--chunk", type=int, metavar="TOKENS", help="chunk of a chunked prefill [512 on cpu, 2048 on cuda]")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads [1: on a busy machine a second one waits for the first]"
    )
    parser.add_argument("--seed", type=int, default=0, help="order of the points, weights and tokens [0]")
    parser.set_defaults(run=_measure)


def _measure(options: argparse.Namespace) -> int:
    require(options.out.suffix == ".csv", "out", str(options.out), "must end in .csv")
    require_count("seed", options.seed, at_least=0)
    if options.budget_s is not None:
        require_number("budget_s", options.budget_s, above=0)
    shape = load_architecture(options.model)
    try:
        from . import torch_runner
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed. pip install 'simcache[calibration]'", file=sys.stderr)
        return 2
    from .grid import grid
    from .measure import measure
    from .points_file import PointsFile
    from .progress import progress_line

    dtype = options.dtype or ("bf16" if options.device == "cuda" else "fp32")
    runner = torch_runner.build(shape, options.device, dtype, options.threads, options.seed)
    most = min(shape.max_position_embeddings, QUICK_CONTEXT[options.device] if options.quick else 32_768)
    if options.max_context is not None:
        require_count("max_context", options.max_context, at_least=64)
        most = options.max_context
    chunk = CHUNK[options.device] if options.chunk is None else options.chunk
    require_count("chunk", chunk, at_least=1)
    points = grid(most, chunk, quick=options.quick, copies=options.device == "cuda", seed=options.seed)
    command = shlex.join(["python", "-m", "calibration", *sys.argv[1:]])
    file = PointsFile(options.out, torch_runner.birth(runner, command, datetime.now(UTC).isoformat(timespec="seconds")))
    budget_s = options.budget_s or (QUICK_BUDGET_S if options.quick else math.inf)
    with progress_line() as say:
        gaps = measure(points, runner, file, QUICK if options.quick else Patience(), budget_s=budget_s, say=say)
    for sentence in gaps.sentences():
        print(sentence)
    if options.device == "cpu":
        print("no copies between host and device were measured: a CPU has none")
    if file.disturbed:
        print(f"{file.disturbed} points waited for a CPU all the time: other work runs here, and they are too slow and uneven")
    print(f"{len(file.done)} of {len(points)} points in {options.out}, certificate {file.certificate_path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
