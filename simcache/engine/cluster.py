"""Replicas behind a router, alive inside one run; a single server is a cluster of one."""

from __future__ import annotations

from collections.abc import Sequence

from ..cache.block_pool import BlockPool
from ..errors import InputError
from ..latency import ServerProfile
from ..prompt import Request
from ..records import RecordsBuilder
from ..routing import Route, fresh_router
from ..scenario import Cluster, Server
from ..scheduler.vllm import VllmScheduler
from .backend import Ticket, Watch
from .clock import Clock, instant
from .server import ReplicaServer, ServerTicket


class ReplicaCluster:
    """Speaks the backend protocol for its replicas; estimates ask the first, since all are built alike."""

    def __init__(self, replicas: Sequence[ReplicaServer], route: Route) -> None:
        self.replicas = replicas
        self._route = route

    def serve(self, request: Request, *, submitted_at: int | None = None, watch: Watch | None = None) -> Ticket:
        """Let the router choose a replica and queue ``request`` there."""
        return self.replicas[self._route(request, self.replicas)].serve(request, submitted_at=submitted_at, watch=watch)

    def cancel(self, ticket: Ticket) -> None:
        """Give the request up where it is."""
        assert isinstance(ticket, ServerTicket)
        ticket.server.cancel(ticket)

    def estimate_ttft_s(self, request: Request, cached_tokens: int) -> float:
        """Prefill of what is not cached, on an idle replica."""
        return self.replicas[0].estimate_ttft_s(request, cached_tokens)

    def expected_hit_tokens(self, request: Request) -> int:
        """The most any replica holds of the prompt: what a cache-aware router could reach."""
        return max(replica.expected_hit_tokens(request) for replica in self.replicas)


def build(env: Clock, server: Server, profile: ServerProfile, records: RecordsBuilder) -> ReplicaCluster:
    """The living counterpart of a ``scenario.Server`` or ``scenario.Cluster``."""
    kv_tokens = server.kv_tokens if server.kv_tokens is not None else profile.kv_tokens
    if kv_tokens is None:
        raise InputError("kv_tokens", None, f"is needed: profile {profile.name!r} does not say how many tokens its memory holds")
    replicas = []
    for index in range(server.replicas if isinstance(server, Cluster) else 1):
        pool = BlockPool(
            kv_tokens // server.block_tokens,
            server.block_tokens,
            caching=server.prefix_caching,
            ttl=None if server.ttl_s is None else instant(server.ttl_s),
            ttl_kind=server.ttl_kind,
            used_tokens=records.used_tokens,
            inserted_tokens=records.inserted_tokens,
        )
        scheduler = VllmScheduler(
            pool,
            max_num_seqs=server.max_num_seqs,
            max_num_batched_tokens=server.max_num_batched_tokens,
            visibility=server.visibility,
        )
        replicas.append(ReplicaServer(env, scheduler, profile, records, index=index, jump=server.jump))
    return ReplicaCluster(replicas, fresh_router(server.router if isinstance(server, Cluster) else "round_robin"))
