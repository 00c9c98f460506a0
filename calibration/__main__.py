"""``python -m calibration measure`` and ``python -m calibration live``."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simcache.errors import InputError, SimcacheError, require, require_count, require_number

from .architecture import DTYPE_BYTES, load_architecture, preset_names
from .grid import grid
from .live_backend import Target
from .llamacpp_server import LlamaCpp, Started, started
from .measure import Runner, measure
from .points_file import PointsFile
from .progress import progress_line
from .streaming import APIS, ServerInfo, address_of, server_info
from .timing import Patience, cpu_s, runq_wait_s
from .token_book import TokenBook

QUICK_BUDGET_S = 40.0
QUICK_CONTEXT = {"cpu": 1536, "cuda": 16_384}
QUICK = Patience(warm_ups=1, least=6, most=8, tight=0.05, point_s=1.2)
CHUNK = {"cpu": 512, "cuda": 2048}
LIVE_S = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0: done, 2: what was asked for cannot be, 130: interrupted, and what was measured is kept."""
    parser = argparse.ArgumentParser(prog="python -m calibration", description="Measure hardware and servers.")
    verbs = parser.add_subparsers(required=True, metavar="measure|live")
    _measure_options(verbs.add_parser("measure", help="measure prefill and decode points of a model or of a server"))
    _live_options(verbs.add_parser("live", help="play a scenario's people against a running server and log what it did"))
    options = parser.parse_args(arguments)
    options.command = shlex.join(["python", "-m", "calibration", *(sys.argv[1:] if arguments is None else arguments)])
    options.date = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        return int(options.run(options))
    except SimcacheError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept", file=sys.stderr)
        return 130


def _server_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument("--url", metavar="http://127.0.0.1:PORT", help="a streaming server on this machine")
    group.add_argument("--api", choices=APIS, default="openai", help="[openai: vLLM, SGLang; llamacpp is its own /completion]")
    group.add_argument("--start", choices=["llamacpp"], help="start a llama.cpp server with random weights, for this run")
    group.add_argument("--slots", type=int, default=1, help="of the server started [1]")
    group.add_argument("--slot-similarity", type=float, default=0.1, help="of the server started [0.1]")
    group.add_argument("--server-context", type=int, default=4096, metavar="TOKENS", help="per slot, of the server started [4096]")
    group.add_argument("--token-ids", default="1000:30000", metavar="LOW:HIGH", help="ids that prompts are made of [1000:30000]")
    group.add_argument("--timeout-s", type=float, default=60.0, help="a request without a token for so long has failed [60]")


def _measure_options(parser: argparse.ArgumentParser) -> None:
    presets = ", ".join(preset_names())
    parser.add_argument("--model", default="tiny", metavar="NAME|CONFIG.json", help=f"{presets}, or a config.json [tiny]")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda", help="[cpu]")
    parser.add_argument("--dtype", choices=sorted(DTYPE_BYTES), help="[fp32 on cpu, bf16 on cuda]")
    parser.add_argument("--out", type=Path, required=True, metavar="POINTS.csv", help="the certificate stands beside it, as .json")
    parser.add_argument("--quick", action="store_true", help="a small grid, under a minute")
    parser.add_argument("--budget-s", type=float, metavar="S", help="stop after so many seconds; the rest is named")
    parser.add_argument("--max-context", type=int, metavar="TOKENS", help="longest context [what there is, at most 32768]")
    parser.add_argument("--chunk", type=int, metavar="TOKENS", help="chunk of a chunked prefill [512 on cpu, 2048 on cuda]")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads [1: on a busy machine a second one only waits]")
    parser.add_argument("--seed", type=int, default=0, help="order of the points, weights and tokens [0]")
    _server_options(parser)
    parser.set_defaults(run=_measure)


def _live_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scenario", required=True, metavar="S.toml", help="a scenario file or preset; its people are played")
    parser.add_argument("--variant", metavar="NAME", help="which of its variants [the first]")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="change a key of it")
    parser.add_argument("--out", type=Path, required=True, metavar="LOG.jsonl", help="one line per request; certificate beside it")
    parser.add_argument("--usage-out", type=Path, metavar="FILE", help="the same as a usage log, for simcache fit --usage")
    parser.add_argument("--duration-s", type=float, help=f"no turn opens later [the scenario's, else {LIVE_S:g}]")
    parser.add_argument("--seed", type=int, default=0, help="the people, as in simcache run --seed [0]")
    parser.add_argument("--model", default="tiny", metavar="NAME|CONFIG.json", help="shape of the server started [tiny]")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the server started [1]")
    _server_options(parser)
    parser.set_defaults(run=_live)


def _measure(options: argparse.Namespace) -> int:
    require(options.out.suffix == ".csv", "out", str(options.out), "must end in .csv")
    require_count("seed", options.seed, at_least=0)
    for name in ("max_context", "chunk"):
        if getattr(options, name) is not None:
            require_count(name, getattr(options, name), at_least=64 if name == "max_context" else 1)
    if options.budget_s is not None:
        require_number("budget_s", options.budget_s, above=0)
    if options.url or options.start:
        with _server(options) as (target, info, book, server):
            from .server_runner import ServerRunner

            watch = (lambda: runq_wait_s(server.pid)) if server else (lambda: None)
            runner = ServerRunner(target, info, book, runq_wait_s=watch)
            try:
                birth = _server_birth(options, target, info, server)
                # Engines behind the OpenAI protocol cache whole blocks, of 16 tokens or a divisor of it.
                block = 16 if target.api == "openai" else 1
                status = _measure_points(options, runner, birth, info.context_tokens or 32_768, "cpu", block)
                if runner.cached_counts_known is False:
                    print("the server does not tell how much of a prompt was cached: the cached points are taken on trust")
                return status
            finally:
                runner.close()
    shape = load_architecture(options.model)
    try:
        from . import torch_runner
    except ModuleNotFoundError as error:
        return _missing(error)
    dtype = options.dtype or ("bf16" if options.device == "cuda" else "fp32")
    torch_run = torch_runner.build(shape, options.device, dtype, options.threads, options.seed)
    birth = torch_runner.birth(torch_run, options.command, options.date)
    return _measure_points(options, torch_run, birth, shape.max_position_embeddings, options.device)


def _missing(error: ModuleNotFoundError) -> int:
    print(f"error: {error.name} is not installed: pip install 'simcache[calibration]'", file=sys.stderr)
    return 2


def _measure_points(
    options: argparse.Namespace, runner: Runner, birth: dict[str, Any], longest: int, device: str, block: int = 1
) -> int:
    most = options.max_context or min(longest, QUICK_CONTEXT[device] if options.quick else 32_768)
    chunk = options.chunk or CHUNK[device]
    points = grid(most, chunk, quick=options.quick, copies=device == "cuda", seed=options.seed)
    points = list(dict.fromkeys(replace(point, cached_tokens=point.cached_tokens // block * block) for point in points))
    file = PointsFile(options.out, birth)
    budget_s = options.budget_s or (QUICK_BUDGET_S if options.quick else math.inf)
    with progress_line() as say:
        gaps = measure(points, runner, file, QUICK if options.quick else Patience(), budget_s=budget_s, say=say)
    for sentence in gaps.sentences():
        print(sentence)
    if device == "cpu":
        print("no copies between host and device were measured: there is no device beside the host here")
    if file.disturbed:
        print(f"{file.disturbed} points waited for a CPU all the time: other work runs here, and they are too slow and uneven")
    print(f"{len(file.done)} of {len(points)} points in {options.out}, certificate {file.certificate_path}")
    return 0


@contextmanager
def _server(options: argparse.Namespace) -> Iterator[tuple[Target, ServerInfo, TokenBook, Started | None]]:
    """The server to talk to: the one behind --url, or one started for this command."""
    require_number("timeout_s", options.timeout_s, above=0)
    require(bool(options.url) != bool(options.start), "url", options.url, "or --start must be given, and not both")
    low, _, high = options.token_ids.partition(":")
    require(low.isdecimal() and high.isdecimal() and len(low + high) < 20, "token_ids", options.token_ids, "must be LOW:HIGH")
    nonce = int(time.time()) % 1_000_000_007  # the server may remember an earlier run
    if options.url:
        address = address_of(options.url)
        info = asyncio.run(server_info(address, options.api))
        target = Target(address=address, api=options.api, model=info.model, timeout_s=options.timeout_s)
        yield target, info, TokenBook(int(low), int(high), nonce), None
        return
    settings = LlamaCpp(
        model=options.model,
        slots=options.slots,
        context_tokens=options.server_context,
        slot_similarity=options.slot_similarity,
        threads=options.threads,
    )
    with started(settings) as server:
        address = address_of(server.url)
        info = asyncio.run(server_info(address, "llamacpp"))
        target = Target(address=address, api="llamacpp", model=info.model, timeout_s=options.timeout_s)
        first, end = server.about["plain_token_ids"]
        yield target, info, TokenBook(first, end, nonce), server


def _server_birth(options: argparse.Namespace, target: Target, info: ServerInfo, server: Started | None) -> dict[str, Any]:
    about = dict(server.about) if server else {"engine": target.api, "version": info.version}
    # The started server's file has a new name each time, and its port too: neither says what was measured.
    about["model"] = options.model if server else info.model
    return {
        "date": options.date,
        "command": options.command,
        "model": about["model"],
        "gpu": "",
        "device": "behind HTTP",
        "server": about,
        "timer": "time to the first streamed token at the client, perf_counter",
        "cores": os.cpu_count(),
        "real_time_priority": _real_time(),
    }


def _real_time() -> bool:
    """Whether we, and what we start, go before all ordinary work of this machine."""
    return hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)


def _live(options: argparse.Namespace) -> int:
    from simcache.live_log import LiveRow
    from simcache.logs import write_usage
    from simcache.scenario_file import read_scenarios

    from .live import play

    require(options.out.suffix == ".jsonl", "out", str(options.out), "must end in .jsonl")
    require_count("seed", options.seed, at_least=0)
    scenarios = read_scenarios(options.scenario, options.overrides).scenarios
    names = [each.name for each in scenarios]
    if options.variant is not None and options.variant not in names:
        raise InputError("variant", options.variant, "is not in this file", f"It has {', '.join(names)}.")
    scenario = scenarios[names.index(options.variant) if options.variant else 0]
    duration_s = options.duration_s or scenario.duration_s or LIVE_S
    require_number("duration_s", duration_s, above=0)
    rows: list[LiveRow] = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with _server(options) as (target, info, book, server), options.out.open("w", encoding="utf-8") as file, progress_line() as say:

        def log(row: LiveRow) -> None:
            rows.append(row)
            file.write(json.dumps(row.as_json(), ensure_ascii=False) + "\n")
            file.flush()

        before = _spent(server)
        played = asyncio.run(play(scenario, target, log, duration_s=duration_s, seed=options.seed, tokens=book, say=say))
        spent = {name: _more(now, before[name]) for name, now in _spent(server).items()}
        certificate = {
            "schema_version": 1,
            **_server_birth(options, target, info, server),
            "scenario": scenario.name,
            "seed": options.seed,
            "duration_s": duration_s,
            "elapsed_s": round(played.elapsed_s, 3),
            "requests": len(rows),
            "outcomes": played.outcomes,
            "client_lag_p50_s": round(played.lag_p50_s, 6),
            "client_lag_max_s": round(played.lag_max_s, 6),
            **spent,
            "answers_known": played.answers_known,
        }
    options.out.with_suffix(".json").write_text(json.dumps(certificate, indent=2) + "\n", encoding="utf-8")
    if options.usage_out is not None:
        provider = "llama.cpp" if target.api == "llamacpp" else "openai-compatible"
        write_usage((row.usage(provider, certificate["model"] or "unknown") for row in rows), options.usage_out)
    ended = ", ".join(f"{count} {outcome}" for outcome, count in played.outcomes.items()) or "none"
    print(f"{len(rows)} requests in {played.elapsed_s:.1f} s ({ended}) in {options.out}")
    print(f"the client was late by {played.lag_p50_s * 1e3:.1f} ms (median), {played.lag_max_s * 1e3:.1f} ms (most)")
    if not played.answers_known and played.outcomes.get("ok"):
        print("the server does not tell token ids: answers in later prompts are made-up tokens, so hits end before them")
    if certificate["server_runq_wait_s"] is not None:
        print(f"the server waited {certificate['server_runq_wait_s']:.1f} s for a CPU")
    return 0


def _spent(server: Started | None) -> dict[str, float | None]:
    """What a server started by us has had of its CPU, and waited for it, so far."""
    if server is None:
        return {"server_cpu_s": None, "server_runq_wait_s": None}
    return {"server_cpu_s": cpu_s(server.pid), "server_runq_wait_s": runq_wait_s(server.pid)}


def _more(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else round(now - before, 3)


if __name__ == "__main__":
    sys.exit(main())
