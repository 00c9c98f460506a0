"""The scheduler in lock step with an engine that counts steps instead of seconds: what recorded schedules are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import DeadlockError, InputError
from ..prompt import Request
from ..scheduler import GONE, LiveRequest, Scheduler


@dataclass(frozen=True, slots=True)
class StepsResult:
    """Per request, in the order given; None where a request never got there."""

    hit_tokens: list[int | None]
    first_scheduled_step: list[int | None]
    first_token_step: list[int | None]
    finish_step: list[int | None]
    preemptions: list[int]
    resume_hit_tokens: list[list[int]]


def run_steps(
    requests: Sequence[Request],
    arrival_steps: Sequence[int],
    scheduler: Scheduler,
    *,
    abort_steps: Sequence[int | None] | None = None,
    jump: bool = True,
) -> StepsResult:
    """Feed ``requests`` at ``arrival_steps`` (ties in list order), cancel at ``abort_steps`` (after the step's arrivals, before its
    schedule; no effect on a finished request), and run until everything has ended. When nothing lives the counter jumps.

    ``jump`` False executes every step alone; the result is the same.

    >>> from simcache.cache.block_pool import BlockPool
    >>> from simcache.prompt import Segment
    >>> from simcache.scheduler.vllm import VllmScheduler
    >>> ask = Request(0.0, (Segment("doc", 100),), Segment("a", 3))
    >>> run_steps([ask], [5], VllmScheduler(BlockPool(16, 16))).finish_step
    [7]
    """
    if len(arrival_steps) != len(requests):
        raise InputError("arrival_steps", len(arrival_steps), f"must have one entry per request ({len(requests)})")
    if abort_steps is not None and len(abort_steps) != len(requests):
        raise InputError("abort_steps", len(abort_steps), f"must have one entry per request ({len(requests)})")
    lives = [LiveRequest(request, row) for row, request in enumerate(requests)]
    arrivals = sorted(range(len(requests)), key=lambda row: (arrival_steps[row], row))
    aborts = sorted((step, row) for row, step in enumerate(abort_steps or ()) if step is not None)
    next_arrival = next_abort = 0
    while True:
        if not scheduler.running and not scheduler.waiting:
            if next_arrival == len(arrivals):
                break
            scheduler.step = max(scheduler.step, arrival_steps[arrivals[next_arrival]])
        step = scheduler.step
        while next_arrival < len(arrivals) and arrival_steps[arrivals[next_arrival]] <= step:
            live = lives[arrivals[next_arrival]]
            request = requests[live.row]
            scheduler.add(live, (request.organisation, request.salt))
            next_arrival += 1
        while next_abort < len(aborts) and aborts[next_abort][0] <= step:
            due, row = aborts[next_abort]
            live = lives[row]
            if due == step and live.root is not None and live.state != GONE:
                scheduler.abort(live)
                live.finish_step = step
            next_abort += 1
        if not scheduler.running and not scheduler.waiting:
            continue
        plan = scheduler.schedule()
        if not plan.decodes and not plan.chunks and not plan.preempted:
            if not scheduler.waiting:  # the last one lingered, and found no block to linger in
                continue
            raise DeadlockError(f"step {step}: nothing runs and request {scheduler.waiting[0].row} cannot be admitted")
        steps = plan.steps if jump else 1
        # Arrivals and cancellations are looked at one by one: this driver is a yardstick, not a race.
        if next_arrival < len(arrivals):
            steps = min(steps, max(1, arrival_steps[arrivals[next_arrival]] - step))
        if next_abort < len(aborts):
            steps = min(steps, max(1, aborts[next_abort][0] - step))
        scheduler.advance(steps)
    return StepsResult(
        hit_tokens=[live.hit_tokens for live in lives],
        first_scheduled_step=[live.first_scheduled_step for live in lives],
        first_token_step=[live.first_token_step for live in lives],
        finish_step=[live.finish_step for live in lives],
        preemptions=[live.preemptions for live in lives],
        resume_hit_tokens=[live.resume_hit_tokens for live in lives],
    )
