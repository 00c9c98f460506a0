"""Play a scenario's own people in real time against a running server, and log what it did, request by request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import numpy as np

import simcache.engine.client as client
from simcache.engine.clock import TICKS_PER_S, Clock, instant
from simcache.errors import InputError
from simcache.latency import load_profile
from simcache.live_log import LiveRow
from simcache.prompt import Request
from simcache.records import Records, RecordsBuilder
from simcache.scenario import Scenario
from simcache.workload import ClosedLoop

from .live_backend import LiveBackend, Target
from .token_book import TokenBook

Say = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Played:
    """What a live run gave: its records, how often each outcome, and by how much the client itself was late (seconds)."""

    records: Records
    outcomes: dict[str, int]
    lag_p50_s: float
    lag_max_s: float
    elapsed_s: float
    answers_known: bool


async def play(
    scenario: Scenario,
    target: Target,
    log: Callable[[LiveRow], None],
    *,
    duration_s: float,
    seed: int = 0,
    tokens: TokenBook | None = None,
    say: Say = lambda finished, total, what: None,
) -> Played:
    """Let everybody of ``scenario`` arrive, type, warm, ask and wait in real time; no turn opens after ``duration_s``.

    What was asked runs to its end or to the target's timeout, so the run is bounded whatever the server does. An open-loop
    workload is sent at its own instants. ``log`` is told each request when it ends.
    """
    profile = scenario.backend.profile
    clock, records = Clock(), RecordsBuilder()
    living: list[Any] = []
    begin = clock.process

    def process(steps: Any) -> Any:
        living.append(begin(steps))
        return living[-1]

    clock.process = process  # type: ignore[method-assign,assignment]  # so that we know when the last person has left
    book = tokens or TokenBook()
    backend = LiveBackend(clock, target, load_profile(profile) if isinstance(profile, str) else profile, records, book, log)
    until = instant(duration_s)
    workload = scenario.workload
    if isinstance(workload, ClosedLoop):
        warmer = scenario.warming.fresh()
        for person in workload.people(seed, duration_s):
            client.start(clock, backend, person, scenario, records, until, None, warmer)
        open_loop = 0
    else:
        asked = [request for request in workload.requests(seed) if request.arrived_at_s < duration_s]
        for request in asked:
            clock.call(partial(_send, backend, request), instant(request.arrived_at_s))
        open_loop = instant(asked[-1].arrived_at_s) + 1 if asked else 0
    if not living and not open_loop:
        raise InputError("duration_s", duration_s, "ends before anybody arrives")
    try:
        while True:
            while clock.peek() <= backend.now:
                clock.step()
            ended = sum(backend.outcomes.values())
            say(min(backend.now, until) // TICKS_PER_S, until // TICKS_PER_S, f"{ended} requests ended, {len(backend.running)} run")
            people_left = any(person.is_alive for person in living) or backend.now < open_loop
            if not backend.running and not people_left:
                break
            backend.wake.clear()
            due = clock.peek()
            wait_s = 1.0 if due == inf else min(max((due - backend.now) / TICKS_PER_S, 0.0), 1.0)
            try:
                await asyncio.wait_for(backend.wake.wait(), wait_s)
            except TimeoutError:
                continue
    finally:
        await backend.close()
    lags = np.array(backend.lags_s or [0.0])
    return Played(
        records=records.freeze(),
        outcomes=dict(sorted(backend.outcomes.items())),
        lag_p50_s=float(np.median(lags)),
        lag_max_s=float(lags.max()),
        elapsed_s=backend.now / TICKS_PER_S,
        answers_known=bool(book.generated),
    )


def _send(backend: LiveBackend, request: Request, event: object) -> None:
    backend.serve(request)
