"""A backend simple enough to compute by hand, over a real SimPy environment."""

from __future__ import annotations

from collections.abc import Iterator

import simpy

from simcache.engine.backend import Ticket, Watch
from simcache.engine.clock import TICKS_PER_S, instant, nanoseconds
from simcache.prompt import Prompt, Request, prompt_tokens, shared_prefix_tokens
from simcache.records import RecordsBuilder


class Linear:
    """Unbounded: ``base_s``, 1 ms a prompt token that is not cached, 10 ms an output token; visible at the first token."""

    def __init__(self, env: simpy.Environment, records: RecordsBuilder, base_s: float, rejects: str) -> None:
        self.env, self.records, self.base_s, self.rejects = env, records, base_s, rejects
        self.stored: list[Prompt] = []
        self.sent: list[Ticket] = []

    def estimate_ttft_s(self, request: Request, cached_tokens: int) -> float:
        return self.base_s + (prompt_tokens(request.prompt) - cached_tokens) / 1e3

    def expected_hit_tokens(self, request: Request) -> int:
        hits = (shared_prefix_tokens(stored, request.prompt) for stored in self.stored)
        return min(max(hits, default=0), prompt_tokens(request.prompt) - 1)

    def serve(self, request: Request, *, submitted_at: int | None = None, watch: Watch | None = None) -> Ticket:
        row = self.records.row(request.session or "", request.user or "", request.kind)
        submitted = self.env.now if submitted_at is None else submitted_at
        self.records.submitted_at_ns[row] = nanoseconds(submitted)
        self.records.sent_at_ns[row] = nanoseconds(self.env.now)
        self.records.prompt_tokens[row] = prompt_tokens(request.prompt)
        ticket = Ticket(request, row, submitted, watch)
        self.sent.append(ticket)
        if request.kind == self.rejects:
            self._end(ticket, "rejected")
            return ticket
        ticket.hit_tokens = self.expected_hit_tokens(request)
        self.records.hit_tokens[row] = ticket.hit_tokens
        self.env.process(self._serve(ticket))
        return ticket

    def _serve(self, ticket: Ticket) -> Iterator[simpy.Event]:
        yield self.env.timeout(instant(self.estimate_ttft_s(ticket.request, ticket.hit_tokens)))
        if ticket.outcome:
            return
        ticket.first_token_at = ticket.visible_at = self.env.now
        self.stored.append(ticket.request.prompt)
        self.records.first_token_at_ns[ticket.row] = nanoseconds(self.env.now)
        for what in ("first_token", "visible"):
            if ticket.watch:
                ticket.watch(ticket, what)
        for done in range(1, ticket.request.output.tokens + 1):
            self.records.output_tokens[ticket.row] = done
            if done < ticket.request.output.tokens:
                yield self.env.timeout(TICKS_PER_S // 100)
            if ticket.outcome:
                return
        self._end(ticket, "ok")

    def _end(self, ticket: Ticket, outcome: str) -> None:
        ticket.outcome, ticket.finished_at = outcome, self.env.now
        self.records.outcome[ticket.row] = outcome
        self.records.finished_at_ns[ticket.row] = nanoseconds(self.env.now)
        if ticket.watch:
            ticket.watch(ticket, "finished")

    def cancel(self, ticket: Ticket) -> None:
        if ticket.outcome is None:
            ticket.cancelled_at = self.env.now
            self.records.cancelled_at_ns[ticket.row] = nanoseconds(self.env.now)
            self._end(ticket, "cancelled")
