"""A running server as a backend of the simulator's own client: the same people and warm-ups, real time and real answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from simcache.engine.backend import Ticket, Watch
from simcache.engine.clock import TICKS_PER_S, Clock, nanoseconds, seconds
from simcache.errors import require_number
from simcache.latency import HostedProfile, ServerProfile
from simcache.live_log import LiveRow
from simcache.prompt import Prompt, Request, Segment, prompt_tokens, shared_prefix_tokens
from simcache.records import NEVER, RecordsBuilder

from .streaming import Address, Api, Reply, complete
from .token_book import TokenBook

_REMEMBERED = 512  # prompts that expected hits are guessed from


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where requests go and how long one may stay silent."""

    address: Address
    api: Api
    model: str = ""
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        require_number("timeout_s", self.timeout_s, above=0)


class LiveBackend:
    """Speaks the ``Backend`` protocol of ``simcache.engine``: requests go out as HTTP streams, instants are real ones.

    ``clock`` is the simulator's, driven by somebody in step with real time since ``started_s`` of ``real_s``; ``wake`` tells
    that somebody that an event was put on it. ``log`` is called with one row per request that ended.
    """

    def __init__(
        self,
        clock: Clock,
        target: Target,
        profile: ServerProfile | HostedProfile,
        records: RecordsBuilder,
        tokens: TokenBook,
        log: Callable[[LiveRow], None],
        *,
        real_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.clock, self.target, self.profile, self.records, self.tokens, self.log = clock, target, profile, records, tokens, log
        self.real_s = real_s
        self.started_s = real_s()
        self.wake = asyncio.Event()
        self.running: dict[int, tuple[Ticket, Reply, asyncio.Task[None]]] = {}
        self.prompts: list[Prompt] = []
        self.lags_s: list[float] = []
        self.outcomes: dict[str, int] = {}

    @property
    def now(self) -> int:
        """Real time since the start, in ticks of the simulator's clock."""
        return round((self.real_s() - self.started_s) * 1e9) * (TICKS_PER_S // 10**9)

    def serve(self, request: Request, *, submitted_at: int | None = None, watch: Watch | None = None) -> Ticket:
        """As the protocol says; a request for no output asks for one token, the least a server computes."""
        row = self.records.row(request.session or "", request.user or "", request.kind)
        submitted = int(self.clock.now) if submitted_at is None else submitted_at
        ticket = Ticket(request, row, submitted, watch)
        self.records.turn[row], self.records.priority[row] = request.turn, request.priority
        self.records.submitted_at_ns[row] = nanoseconds(submitted)
        self.records.prompt_tokens[row] = prompt_tokens(request.prompt)
        reply = Reply()
        task = asyncio.get_running_loop().create_task(self._run(ticket, reply, int(self.clock.now)))
        self.running[row] = (ticket, reply, task)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """As the protocol says: the connection is closed, which is how a server learns of it."""
        if ticket.outcome is None:
            _, reply, task = self.running[ticket.row]
            task.cancel()
            reply.outcome = "cancelled"
            reply.ended_at_s = self.real_s()
            ticket.cancelled_at = int(self.clock.now)
            self.records.cancelled_at_ns[ticket.row] = nanoseconds(ticket.cancelled_at)
            self._end(ticket, reply)

    def estimate_ttft_s(self, request: Request, cached_tokens: int) -> float:
        """By the scenario's profile, which may be of another machine."""
        new = max(prompt_tokens(request.prompt) - cached_tokens, 1)
        time_s = self.profile.ttft_s if isinstance(self.profile, HostedProfile) else self.profile.prefill_s
        return float(time_s(new, cached_tokens))

    def expected_hit_tokens(self, request: Request) -> int:
        """The longest prefix shared with a recent prompt, as if the server forgot nothing."""
        shared = max((shared_prefix_tokens(prompt, request.prompt) for prompt in self.prompts), default=0)
        return max(min(shared, prompt_tokens(request.prompt) - 1), 0)

    async def close(self) -> None:
        """Give up what still runs; nothing is left open."""
        for ticket, _, _ in list(self.running.values()):
            self.cancel(ticket)
        await asyncio.sleep(0)

    async def _run(self, ticket: Ticket, reply: Reply, asked_at: int) -> None:
        request, space = ticket.request, (ticket.request.salt, ticket.request.organisation)
        ids = self.tokens.ids(request.prompt, space)
        self.prompts = [*self.prompts[-_REMEMBERED:], request.prompt]
        await complete(
            self.target.address,
            self.target.api,
            ids,
            max(request.output.tokens, 1),
            reply,
            model=self.target.model,
            priority=request.priority,
            timeout_s=self.target.timeout_s,
            clock=self.real_s,
            on_first=lambda: self._tell(self._first, ticket, reply),
        )
        self.lags_s.append(reply.sent_at_s - self.started_s - seconds(asked_at))
        self._tell(self._end, ticket, reply)

    def _tell(self, what: Callable[[Ticket, Reply], None], ticket: Ticket, reply: Reply) -> None:
        """Do ``what`` at this real instant of the simulator's clock."""
        self.clock.call(lambda event: what(ticket, reply), max(self.now - int(self.clock.now), 0))
        self.wake.set()

    def _first(self, ticket: Ticket, reply: Reply) -> None:
        if ticket.outcome is not None:
            return
        # What the server has computed by now is hit-able at the latest; no server tells when it became so.
        ticket.first_token_at = ticket.visible_at = int(self.clock.now)
        self.records.first_token_at_ns[ticket.row] = self._since_start_ns(reply.token_at_s[0])
        if ticket.watch is not None:
            ticket.watch(ticket, "first_token")
            ticket.watch(ticket, "visible")

    def _end(self, ticket: Ticket, reply: Reply) -> None:
        if ticket.outcome is not None:
            return
        assert reply.outcome is not None
        request, row = ticket.request, ticket.row
        generated = min(reply.output_tokens, max(request.output.tokens, 1))
        ticket.outcome, ticket.finished_at = reply.outcome, int(self.clock.now)
        ticket.hit_tokens = reply.cached_tokens
        self.records.outcome[row] = reply.outcome
        self.records.output_tokens[row] = generated
        self.records.hit_tokens[row] = reply.cached_tokens or 0
        self.records.sent_at_ns[row] = self._since_start_ns(reply.sent_at_s) if reply.sent_at_s else NEVER
        self.records.finished_at_ns[row] = self._since_start_ns(reply.ended_at_s)
        if reply.tokens:
            self.tokens.learn(request.output, reply.tokens, (request.salt, request.organisation))
        del self.running[row]
        self.outcomes[reply.outcome] = self.outcomes.get(reply.outcome, 0) + 1
        self.log(self._log_row(ticket, reply, generated))
        if ticket.watch is not None:
            ticket.watch(ticket, "finished")

    def _since_start_ns(self, at_s: float) -> int:
        return round((at_s - self.started_s) * 1e9)

    def _log_row(self, ticket: Ticket, reply: Reply, generated: int) -> LiveRow:
        request = ticket.request
        submitted_s = seconds(ticket.submitted_at)
        sent_s = reply.sent_at_s - self.started_s if reply.sent_at_s else seconds(int(self.clock.now))
        first_s = reply.token_at_s[0] - self.started_s if reply.token_at_s else None
        last_s = reply.token_at_s[-1] - self.started_s if reply.token_at_s and reply.outcome == "ok" else None
        cancelled_s = None if ticket.cancelled_at is None else seconds(ticket.cancelled_at)
        return LiveRow(
            arrived_at_s=sent_s,
            submitted_at_s=submitted_s,
            prompt=request.prompt,
            output=Segment(request.output.key, generated),
            kind=request.kind,
            priority=request.priority,
            session=request.session,
            turn=request.turn,
            user=request.user,
            salt=request.salt,
            organisation=request.organisation,
            outcome=ticket.outcome or "failed",
            ttft_s=None if first_s is None else first_s - submitted_s,
            e2e_s=None if last_s is None else last_s - submitted_s,
            cancelled_after_s=None if cancelled_s is None else max(cancelled_s - submitted_s, 0.0),
            cached_tokens=reply.cached_tokens,
            server={name: value for name, value in reply.server.items() if name != "output_tokens"},
            error=reply.error,
        )
