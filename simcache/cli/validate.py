"""simcache validate: a recorded run through the simulator, judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

import click
import numpy as np

from ..benchmark_results import BENCHMARKS
from ..errors import InputError
from ..latency import ServerProfile
from ..latency.catalogue import find_profile
from ..scenario import Engine, Server
from ..units import seconds, share
from ..validation import Floats, RecordedRun, Validation, longest_tokens, read_vllm_requests, validate
from ..workload.traces import FORMATS

LOG_FORMATS: Final = ("vllm-requests", "llamacpp-csv", "simcache", *BENCHMARKS)


@click.command("validate")
@click.option("--profile", help="Name or TOML file of the latency profile under test.")
@click.option("--log", "log_path", metavar="FILE", help="What the real engine did, request by request.")
@click.option("--usage", metavar="FILE", help="Instead: a usage log; has what it says drifted from the profile?")
@click.option("--tolerance", type=float, help="How far that may be, a fraction.  [default: 0.15]")
@click.option("--log-format", type=click.Choice(LOG_FORMATS), default="vllm-requests", show_default=True)
@click.option(
    "--sent", metavar="TRACE", help="Of a benchmark client's results: the requests it was given, in the order of its data set."
)
@click.option("--sent-format", type=click.Choice(FORMATS), help="Format of that trace; told from its first row when left out.")
@click.option("--engine", type=click.Choice(["vllm", "sglang", "llamacpp"]), default="vllm", show_default=True)
@click.option(
    "--kv-blocks", type=click.IntRange(min=1), help="Usable KV blocks of the engine.  [default: what the profile's memory holds]"
)
@click.option("--kv-tokens", type=click.IntRange(min=2), help="The same in tokens; llama.cpp's n_ctx.  [default there: enough]")
@click.option("--slots", type=click.IntRange(min=1), help="Slots of llama.cpp's server.  [default: 1]")
@click.option(
    "--slot-similarity", type=click.FloatRange(0, 1), help="Its --slot-prompt-similarity.  [default: 0.1, as the server's]"
)
@click.option("--block-tokens", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--max-num-seqs", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--max-num-batched-tokens", type=click.IntRange(min=1), default=2048, show_default=True)
@click.option("--async-scheduling", is_flag=True, help="The engine decides the next step while one runs.")
@click.option("--speed-factor", default="auto", show_default=True, metavar="auto|none|X", help="One factor on all step times.")
@click.option(
    "--profile-draws",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Runs with profile and host speed drawn anew, for the intervals.",
)
@click.option("--serving-runs", metavar="FILE.csv", help="Instead of profile and log: benchmark runs known by their means.")
@click.option(
    "--calibrate-rows", type=click.IntRange(0, 3), default=3, show_default=True, help="Low-load rows of each group that calibrate."
)
@click.option("--figure", metavar="FILE", help="Draw simulated against measured: TTFT by quantile, or every serving run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    profile: str | None,
    log_path: str | None,
    usage: str | None,
    tolerance: float | None,
    log_format: str,
    sent: str | None,
    sent_format: str | None,
    engine: Engine,
    kv_blocks: int | None,
    kv_tokens: int | None,
    slots: int | None,
    slot_similarity: float | None,
    block_tokens: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    async_scheduling: bool,
    speed_factor: str,
    profile_draws: int,
    serving_runs: str | None,
    calibrate_rows: int,
    figure: str | None,
    as_json: bool,
) -> None:
    """Simulate the arrivals of a recorded run and say how far TTFT and TPOT are from what was measured.

    TTFT counts from arrival. `--speed-factor auto` fits one factor on the first 20 % of the requests and judges the rest; `none`
    judges everything with the profile as it is. Errors in JSON are signed fractions.

    A scenario that was exported (`simcache convert`) and replayed by a benchmark client is judged with `--log-format vllm-bench` or
    `aiperf`, the client's detailed results as `--log` and the exported trace as `--sent`.

    `--usage` needs no engine: it compares TTFT and hits of a usage log with what the profile says of the same prompts.

    `--serving-runs` takes mean TTFT and TPOT of closed-loop runs, grouped by system, backend, model, tp and precision: low-load
    rows calibrate three numbers of each group, and the mean absolute errors of the other rows are what is printed.
    """
    if serving_runs is not None:
        if not (profile is None and log_path is None and usage is None):
            raise click.UsageError("--serving-runs goes without --profile, --log and --usage.")
        from .serving_runs import print_serving_runs

        print_serving_runs(serving_runs, calibrate_rows, figure, as_json)
        return
    if profile is None:
        raise click.UsageError("Give --profile, or --serving-runs.")
    if (log_path is None) == (usage is None):
        raise click.UsageError("Give --log or --usage, one of them.")
    if usage is not None:
        _drift(usage, profile, tolerance, as_json)
        return
    if tolerance is not None:
        raise click.UsageError("--tolerance goes with --usage.")
    assert log_path is not None
    loaded = find_profile(profile)
    if not isinstance(loaded, ServerProfile):
        raise InputError("profile", profile, "must be the profile of a server")
    if sent is not None and log_format not in BENCHMARKS:
        raise click.UsageError(f"--sent goes with --log-format {' or '.join(BENCHMARKS)}.")
    run, notes = _read(log_path, log_format, block_tokens, sent, sent_format)
    if kv_blocks is not None:
        if kv_tokens is not None:
            raise click.UsageError("Give --kv-blocks or --kv-tokens, not both.")
        kv_tokens = kv_blocks * block_tokens
    if kv_tokens is None and engine == "llamacpp" and loaded.kv_tokens is None:
        kv_tokens = (slots or 1) * longest_tokens(run)
    if kv_tokens is None:
        if loaded.kv_tokens is None:
            way_out = "Give --kv-blocks, or fit the profile with --model and --gpu for what the formula says."
            raise InputError("kv-blocks", None, f"is needed: profile {loaded.name!r} says nothing of KV memory", way_out)
        notes.append(f"KV memory is the profile's {loaded.kv_tokens:,} tokens ({loaded.kv_tokens_source or 'source not told'})")
    options: dict[str, Any] = {"slots": slots, "slot_similarity": slot_similarity}
    server = Server(
        profile=loaded,
        engine=engine,
        kv_tokens=kv_tokens,
        block_tokens=block_tokens,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        async_scheduling=async_scheduling,
        **{name: value for name, value in options.items() if value is not None},
    )
    result = validate(run, server, _factor(speed_factor), draws=profile_draws)
    if figure is not None:
        from ..report.validation_figures import save_quantile_figure

        save_quantile_figure(result.measured_ttft_s, result.simulated_ttft_s, figure)
    if as_json:
        click.echo(json.dumps({"schema_version": 1, **result.as_json(), "notes": notes}, indent=2))
    else:
        click.echo(_text(result, run))
        for note in notes:
            click.echo(f"note: {note}")
        if figure is not None:
            click.echo(f"figure: {figure}")


def _read(
    path: str, log_format: str, block_tokens: int, sent: str | None, sent_format: str | None
) -> tuple[RecordedRun, list[str]]:
    if log_format in BENCHMARKS:
        from ..benchmark_run import read_benchmark_run

        return read_benchmark_run(path, log_format, sent, sent_format)
    if log_format == "llamacpp-csv":
        from ..llamacpp_log import read_llamacpp_csv

        return read_llamacpp_csv(path)
    if log_format == "simcache":
        from ..live_log import read_live_run

        return read_live_run(path)
    return read_vllm_requests(path, block_tokens), []


def _drift(usage: str, profile: str, tolerance: float | None, as_json: bool) -> None:
    from ..drift import TOLERANCE, drift
    from .fit_usage import usage_of

    found = drift(usage_of(Path(usage)), find_profile(profile), TOLERANCE if tolerance is None else tolerance)
    if as_json:
        click.echo(json.dumps({"schema_version": 1, **found.as_json()}, indent=2))
        return
    low, high = (f"{end:+.1%}" for end in found.ttft_error_interval95)
    lines = [
        f"{found.verdict}: {found.requests:,} requests against profile {profile}" + "".join(f"; {why}" for why in found.reasons),
        f"  TTFT p50  measured {seconds(found.measured_ttft_p50_s)}, predicted {seconds(found.predicted_ttft_p50_s)}",
        f"  error     median {found.ttft_error:+.1%} ({low} to {high}), tolerance {share(found.tolerance)}",
        f"  hits      {share(found.hit_ratio)} of the requests, {share(found.cached_share)} of the prompt tokens",
    ]
    if found.repeat_hit_ratio is not None:
        said = "" if found.expected_hit_ratio is None else f"; the profile says {share(found.expected_hit_ratio)}"
        lines.append(f"  repeats   {share(found.repeat_hit_ratio)} of those after another of their session hit{said}")
    if found.in_range_share < 1:
        lines.append(f"  note: {share(1 - found.in_range_share)} of the requests lie outside of what the profile measured")
    lines += [f"  note: {count:,} requests left out: {reason}" for reason, count in found.left_out.items()]
    click.echo("\n".join(lines))


def _factor(text: str) -> float | Literal["auto"] | None:
    if text == "auto":
        return "auto"
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError("speed-factor", text, "must be auto, none or a number") from None


def _text(result: Validation, run: RecordedRun) -> str:
    def signed(value: Any) -> str:
        return "-" if value is None else f"{'+' if value >= 0 else '-'}{share(abs(value))}"

    def p50(ttft_s: Floats) -> float:
        return float(np.median(ttft_s))

    names = [name for name in result.ttft_s if name != "median_ape"]
    ttft = ", ".join(f"{name.removesuffix('_error')} {signed(result.ttft_s[name])}" for name in names)
    judged = f"{result.requests:,} of {len(run.requests):,} requests judged"
    lines = [
        f"grade {result.grade}: {judged}, speed factor {result.speed_factor:.4f}",
        f"  TTFT  {ttft}",
        f"        p50 measured {seconds(p50(result.measured_ttft_s))}, simulated {seconds(p50(result.simulated_ttft_s))}",
        f"        half of the requests are within {share(result.ttft_s['median_ape'])} (bias {signed(result.bias)})",
        f"  TPOT  mean {signed(result.tpot['mean_error'])}, median {signed(result.tpot['median_error'])}",
    ]
    if result.interval95 is not None:
        ends = {name: " to ".join(map(signed, result.interval95[name])) for name in names[:2]}
        said = ", ".join(f"{name.removesuffix('_error')} {text}" for name, text in ends.items())
        lines.insert(3, f"        95 %, with profile and host speed drawn anew: {said}")
    if result.hits_exact_share is not None:
        lines.append(f"  hits  {share(result.hits_exact_share)} of the requests hit exactly what the engine reported")
    if result.service_median_ape is not None:
        lines.append(f"  time in service: half of the requests are within {share(result.service_median_ape)}")
    return "\n".join(lines)
