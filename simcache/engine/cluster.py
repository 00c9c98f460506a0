"""Replicas behind a router, alive inside one run; a single server is a cluster of one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from ..cache.snapshot import load_snapshots, restore
from ..cache.tiers import Tiers
from ..errors import InputError
from ..faults import FaultEvent, schedule
from ..latency import ServerProfile
from ..prompt import Request
from ..records import RecordsBuilder
from ..routing import Route, fresh_router
from ..scenario import Cluster, Server
from ..scheduler.tiered import LowerMemory
from ..scheduler.vllm import VllmScheduler
from .backend import Ticket, Watch
from .clock import TICKS_PER_NS, Clock, instant, nanoseconds
from .journal import Journal
from .schedulers import make_scheduler
from .server import ReplicaServer
from .server_ticket import ServerTicket, open_ticket

MOST_ATTEMPTS: Final = 3
"""A request that was lost with a replica this often has failed."""


class ReplicaCluster:
    """Speaks the backend protocol for its replicas; estimates ask the first, since all are built alike."""

    def __init__(
        self,
        env: Clock,
        records: RecordsBuilder,
        replicas: Sequence[ReplicaServer],
        route: Route,
        faults: Sequence[FaultEvent],
        tiers: Tiers | None = None,
    ) -> None:
        self.replicas = replicas
        self.tiers = tiers
        self._outages = [0] * (len(tiers.tiers) if tiers else 0)  # of each tier, how many hold now
        self._env = env
        self._records = records
        self._route = route
        self._alive = list(replicas)
        self._stranded: list[ServerTicket] = []  # no replica is up: they wait for one
        self._ups_to_come = sum(event.what == "up" for event in faults)
        for event in faults:
            env.call(lambda _, event=event: self._apply(event), instant(event.at_s))  # type: ignore[misc]

    def serve(self, request: Request, *, submitted_at: int | None = None, watch: Watch | None = None) -> Ticket:
        """Let the router choose a replica and queue ``request`` there."""
        ticket = open_ticket(self._env, self._records, request, submitted_at, watch)
        self._send(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give the request up where it is."""
        assert isinstance(ticket, ServerTicket)
        if ticket in self._stranded:
            self._stranded.remove(ticket)
            ticket.cancelled_at = self._env.now
            self._records.cancelled_at_ns[ticket.row] = nanoseconds(self._env.now)
            self._close(ticket, "cancelled")
        elif ticket.outcome is None:
            ticket.server.cancel(ticket)

    def estimate_ttft_s(self, request: Request, cached_tokens: int) -> float:
        """Prefill of what is not cached, on an idle replica."""
        return self.replicas[0].estimate_ttft_s(request, cached_tokens)

    def expected_hit_tokens(self, request: Request) -> int:
        """The most any living replica holds of the prompt: what a cache-aware router could reach."""
        return max((replica.expected_hit_tokens(request) for replica in self._alive), default=0)

    def waiting_rows(self) -> dict[str, list[int]]:
        """Rows that wait, by where: what a run that cannot end is stuck with."""
        waiting = {f"replica {replica.index}": replica.waiting_rows() for replica in self.replicas}
        waiting["no replica"] = [ticket.row for ticket in self._stranded]
        return {where: rows for where, rows in waiting.items() if rows}

    def _send(self, ticket: ServerTicket) -> None:
        if self._alive:
            self._alive[self._route(ticket.request, self._alive)].take(ticket)
        elif self._ups_to_come:
            ticket.waiting_since = self._env.now
            self._stranded.append(ticket)
        else:
            self._close(ticket, "failed")

    def _close(self, ticket: ServerTicket, outcome: str) -> None:
        ticket.outcome = self._records.outcome[ticket.row] = outcome
        if ticket.watch is not None:
            ticket.watch(ticket, "finished")

    def _apply_to_tier(self, event: FaultEvent) -> None:
        assert self.tiers is not None
        level = [tier.name for tier in self.tiers.tiers].index(event.tier)
        before = self._outages[level]
        self._outages[level] += 1 if event.what == "cut_off" else -1
        if bool(before) != bool(self._outages[level]):
            self.tiers.set_reachable(level, before > 0, -(-self._env.now // TICKS_PER_NS))
            if not before:
                for replica in self.replicas:
                    replica.lose_tier(level)

    def _apply(self, event: FaultEvent) -> None:
        if event.tier:
            self._apply_to_tier(event)
            return
        replica = self.replicas[event.replica]
        if event.what == "speed":
            replica.set_speed(event.factor)
        elif event.what == "down":
            if replica not in self._alive:
                return  # two faults met: it is down already
            self._alive.remove(replica)
            for ticket in replica.crash():
                if self._records.attempts[ticket.row] == MOST_ATTEMPTS:
                    self._close(ticket, "failed")
                else:
                    self._records.attempts[ticket.row] += 1
                    self._send(ticket)
        else:
            self._ups_to_come -= 1
            if replica not in self._alive:
                self._alive.append(replica)
                self._alive.sort(key=lambda replica: replica.index)
            stranded, self._stranded = self._stranded, []
            for ticket in stranded:
                if ticket.first_token_at is None:
                    self._records.queue_ns[ticket.row] += (self._env.now - ticket.waiting_since) // TICKS_PER_NS
                self._send(ticket)


def build(
    env: Clock,
    server: Server,
    profile: ServerProfile,
    records: RecordsBuilder,
    *,
    seed: int = 0,
    until_s: float | None = None,
    journal: Journal | None = None,
) -> ReplicaCluster:
    """The living counterpart of a ``scenario.Server`` or ``scenario.Cluster``; faults drawn at a rate end at ``until_s``."""
    kv_tokens = server.kv_tokens if server.kv_tokens is not None else profile.kv_tokens
    if kv_tokens is None:
        raise InputError("kv_tokens", None, f"is needed: profile {profile.name!r} does not say how many tokens its memory holds")

    whole = server if isinstance(server, Cluster) else Cluster()
    count = whole.replicas
    tiers = _tiers(server, profile, count)
    lower: list[LowerMemory | None] = [None] * count
    if tiers is not None:
        if records.freeze().tiers != tuple(tier.name for tier in server.tiers):
            raise InputError(
                "records", records.freeze().tiers, "must have columns for the tiers", "Give RecordsBuilder their names."
            )

        def compute_s(new_tokens: int, cached_tokens: int) -> float:
            return server.slowness * profile.prefill_s(new_tokens, cached_tokens)

        lower = [
            LowerMemory(tiers, index, compute_s, block_tokens=server.block_tokens, ticks_per_ns=TICKS_PER_NS)
            for index in range(count)
        ]
    replicas = [
        ReplicaServer(
            env,
            partial(make_scheduler, server, kv_tokens, records, lower[index]),
            profile,
            records,
            index=index,
            jump=server.jump,
            async_scheduling=server.async_scheduling,
            slowness=server.slowness,
            journal=journal,
            below=lower[index],
        )
        for index in range(count)
    ]
    if server.initial_cache is not None:
        saved = load_snapshots(server.initial_cache)
        for replica, contents in zip(replicas, saved, strict=False):
            if not isinstance(replica.scheduler, VllmScheduler):
                raise InputError("initial_cache", server.initial_cache, "needs an engine with a block pool")
            restore(replica.scheduler.pool, contents)
    faults = schedule(whole.faults, replicas=count, until_s=until_s, seed=seed)
    return ReplicaCluster(env, records, replicas, fresh_router(whole.router, seed), faults, tiers)


def _tiers(server: Server, profile: ServerProfile, replicas: int) -> Tiers | None:
    if not server.tiers:
        return None
    if profile.kv_bytes_per_token is None:
        rule = "needs a profile that says kv_bytes_per_token, to know how long a load takes"
        raise InputError("tiers", [tier.name for tier in server.tiers], rule, f"Profile {profile.name!r} does not.")
    return Tiers(
        server.tiers,
        block_tokens=server.tier_block_tokens or server.block_tokens,
        kv_bytes_per_token=profile.kv_bytes_per_token,
        replicas=replicas,
        write=server.tier_write,
    )
