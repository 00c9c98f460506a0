"""simcache steps: the schedule of an engine that counts steps, to compare with a recorded one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..cache.block_pool import BlockPool
from ..engine.steps import run_steps
from ..errors import InputError
from ..scheduler.vllm import VllmScheduler
from ..workload.traces import FORMATS, read_trace


@click.command("steps")
@click.argument("requests_path", metavar="REQUESTS")
@click.option("--format", "trace_format", type=click.Choice(FORMATS), default="segments", show_default=True, help="Of REQUESTS.")
@click.option("--arrival-steps", required=True, metavar="FILE.json", help="The step at which each arrives: a bare JSON list.")
@click.option("--abort-steps", metavar="FILE.json", help="The step at which each is cancelled, null: never.")
@click.option("--priorities", metavar="FILE.json", help="The priority of each, smaller first; null: 0.")
@click.option("--policy", type=click.Choice(["fcfs", "priority"]), default="fcfs", show_default=True)
@click.option("--blocks", type=click.IntRange(min=1), required=True, help="Usable KV blocks (without vLLM's null block).")
@click.option("--block-tokens", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--max-num-seqs", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--max-num-batched-tokens", type=click.IntRange(min=1), default=2048, show_default=True)
@click.option("--long-prefill-token-threshold", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--watermark", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share of blocks kept free.")
@click.option("--no-jump", is_flag=True, help="Execute every step alone; the answer is the same.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    requests_path: str,
    trace_format: str,
    arrival_steps: str,
    abort_steps: str | None,
    priorities: str | None,
    policy: Any,
    blocks: int,
    block_tokens: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    long_prefill_token_threshold: int,
    watermark: float,
    no_jump: bool,
    as_json: bool,
) -> None:
    """Run REQUESTS through vLLM V1's scheduler in lock step: every engine step counts one, whatever it computes.

    When nothing lives the counter jumps to the next arrival. A request that never got to a point has null there; the
    finish step of a cancelled one is the step of its cancellation.
    """
    requests = list(read_trace(requests_path, trace_format, spread_ticks=False))
    arrivals: list[int] = []
    for number, step in enumerate(_column(arrival_steps, "arrival-steps", len(requests))):
        if step is None:
            raise InputError(f"arrival-steps[{number}]", None, "must be a step: every request arrives", path=arrival_steps)
        arrivals.append(step)
    aborts = None if abort_steps is None else _column(abort_steps, "abort-steps", len(requests))
    if priorities is not None:
        ranks = _column(priorities, "priorities", len(requests))
        requests = [request._replace(priority=rank or 0) for request, rank in zip(requests, ranks, strict=True)]
    scheduler = VllmScheduler(
        BlockPool(blocks, block_tokens),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        policy=policy,
        long_prefill_token_threshold=long_prefill_token_threshold,
        watermark=watermark,
    )
    result = run_steps(requests, arrivals, scheduler, abort_steps=aborts, jump=not no_jump)
    document = {
        "schema_version": 1,
        "hit_tokens": result.hit_tokens,
        "first_scheduled_step": result.first_scheduled_step,
        "first_token_step": result.first_token_step,
        "finish_step": result.finish_step,
        "preemptions": result.preemptions,
        "resume_hit_tokens": result.resume_hit_tokens,
    }
    if as_json:
        click.echo(json.dumps(document))
        return
    reached = sum(step is not None for step in result.finish_step)
    last = max((step for step in result.finish_step if step is not None), default=0)
    click.echo(f"{reached:,} of {len(requests):,} requests ended, the last at step {last:,}")
    click.echo(f"{sum(filter(None, result.hit_tokens)):,} prompt tokens hit; {sum(result.preemptions):,} preemptions")
    click.echo("--json prints every request's steps")


def _column(path: str, name: str, length: int) -> list[int | None]:
    """A bare JSON list of whole numbers or nulls, one per request."""
    try:
        values = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(name, path, f"cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise InputError(name, path, "must be a file with one JSON list") from None
    if not isinstance(values, list):
        raise InputError(name, type(values).__name__, "must be one JSON list", path=path)
    if len(values) != length:
        raise InputError(name, len(values), f"must have one entry per request ({length})", path=path)
    for number, value in enumerate(values):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise InputError(f"{name}[{number}]", value, "must be a whole number of at least 0, or null", path=path)
    return values
