"""Clients that keep a server busy as load generators do: all at once, then each its next request when its last has ended."""

from __future__ import annotations

from dataclasses import dataclass

from simpy.core import EmptySchedule
from simpy.events import Event

from ..errors import DeadlockError, require, require_count, require_number
from ..latency.profile_kinds import ServerProfile
from ..prompt import Request, Segment
from ..records import Records, RecordsBuilder
from ..scenario import Server
from ..streams import stream
from . import cluster
from .backend import Ticket
from .clock import TICKS_PER_S, Clock, instant


@dataclass(frozen=True, kw_only=True)
class ClosedLoopClients:
    """``clients`` that send ``requests`` in all, of prompts that share nothing.

    Lengths are uniform in [``shortest_share``, 1] of ``prompt_tokens`` and of ``output_tokens``. On its way to the engine each
    request waits ``outside_s``, behind a front end that reads one prompt after the other at ``outside_per_token_s``; both are
    part of its TTFT.

    >>> ClosedLoopClients(clients=4, requests=40, prompt_tokens=1024, output_tokens=128).shortest_share
    0.8
    """

    clients: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    shortest_share: float = 0.8
    outside_s: float = 0.0
    outside_per_token_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("clients", "requests", "prompt_tokens", "output_tokens"):
            require_count(name, getattr(self, name))
        require(self.requests >= self.clients, "requests", self.requests, f"must be at least clients (={self.clients})")
        require_number("shortest_share", self.shortest_share, above=0, at_most=1)
        require_number("outside_s", self.outside_s, at_least=0)
        require_number("outside_per_token_s", self.outside_per_token_s, at_least=0)


def serve_clients(clients: ClosedLoopClients, server: Server, profile: ServerProfile, *, seed: int = 0) -> Records:
    """The records of all requests, served by ``server`` with the latency of ``profile``; equal for equal seeds.

    Raises DeadlockError where a request can never be served.

    >>> from simcache.latency.coefficients import Coefficients
    >>> toy = ServerProfile(name="toy", coefficients=Coefficients(base_s=0.01))
    >>> two = ClosedLoopClients(clients=1, requests=2, prompt_tokens=10, output_tokens=3, shortest_share=1.0)
    >>> serve_clients(two, Server(kv_tokens=64), toy).span_s("submitted_at_ns", "finished_at_ns").tolist()
    [0.03, 0.03]
    """
    run = _Run(clients, server, profile, seed)
    try:
        while True:
            run.env.step()
    except EmptySchedule:
        pass
    records = run.records.freeze()
    if (records["outcome"] != "ok").any():
        raise DeadlockError(
            f"{int((records['outcome'] != 'ok').sum())} of {clients.requests} requests of up to {clients.prompt_tokens} + "
            f"{clients.output_tokens} tokens cannot be served with {server.kv_tokens} tokens of KV memory"
        )
    return records


class _Run:
    """One call: no process per client, one event on each request's way to the engine."""

    def __init__(self, clients: ClosedLoopClients, server: Server, profile: ServerProfile, seed: int) -> None:
        rng = stream(seed, "closed loop")
        self.env = Clock()
        self.records = RecordsBuilder()
        self._serve = cluster.build(self.env, server, profile, self.records, seed=seed).serve
        self._prompts, self._outputs = (
            rng.integers(max(1, round(clients.shortest_share * most)), most + 1, clients.requests).tolist()
            for most in (clients.prompt_tokens, clients.output_tokens)
        )
        self._outside = instant(clients.outside_s)
        self._per_token = round(clients.outside_per_token_s * TICKS_PER_S)
        self._front_end_free = 0
        self._sent = 0
        for _ in range(clients.clients):
            self._send()

    def _send(self) -> None:
        number, now = self._sent, self.env.now
        if number == len(self._prompts):
            return
        self._sent += 1
        self._front_end_free = max(now, self._front_end_free) + self._per_token * self._prompts[number]
        request = Request(
            now / TICKS_PER_S,
            (Segment(("prompt", number), self._prompts[number]),),
            Segment(("answer", number), self._outputs[number]),
        )

        def arrive(_: Event) -> None:
            self._serve(request, submitted_at=now, watch=self._watch)

        self.env.call(arrive, self._front_end_free + self._outside - now)

    def _watch(self, ticket: Ticket, what: str) -> None:
        if what == "finished":
            self._send()
