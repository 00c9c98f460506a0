"""One replica: the SimPy loop around a pure scheduler. It sleeps through whole plans and wakes when something can change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simpy.events import Event

from ..errors import DeadlockError
from ..latency import ServerProfile
from ..prompt import Request
from ..records import RecordsBuilder
from ..scheduler import GONE, LOADING, WAITING, LiveRequest, Scheduler
from ..scheduler.tiered import LowerMemory
from .backend import Ticket, Watch
from .clock import BOUNDARY, TICKS_PER_NS, Alarm, Clock, nanoseconds
from .journal import Journal, Moment, Stretch
from .server_ticket import ServerTicket, open_ticket
from .step_cost import step_cost


class ReplicaServer:
    """One engine with its own KV memory, alive inside one run."""

    def __init__(
        self,
        env: Clock,
        make_scheduler: Callable[[], Scheduler],
        profile: ServerProfile,
        records: RecordsBuilder,
        *,
        index: int = 0,
        jump: bool = True,
        async_scheduling: bool = False,
        slowness: float = 1.0,
        journal: Journal | None = None,
        below: LowerMemory | None = None,
    ) -> None:
        self.env = env
        self._below = below
        self._make_scheduler = make_scheduler  # also after a crash: an empty cache
        self.scheduler = make_scheduler()
        self.profile = profile
        self.records = records
        self.index = index
        self.jump = jump
        self.async_scheduling = async_scheduling
        self._journal = journal
        self.outstanding = 0
        self.queued_tokens = 0  # prompt tokens whose prefill has not ended
        self.block_tokens = self.scheduler.block_tokens
        self._timed = self.scheduler.timed
        self._at_schedule = self.scheduler.at_schedule
        self._slowness = slowness
        self._cost = step_cost(profile, slowness)
        self._plan_cost = self._cost  # of the plan under way: a change of speed counts from the next step on
        # Replicas that share a tier and meet at one instant use it in the order of their indices.
        self._boundary = Alarm(env, self._on_boundary, BOUNDARY + index)
        self._idle = True  # no step boundary is to come
        self._stepping = False  # a step is under way, or the boundary between two
        self._started = 0
        self._steps = 0
        self._plan: Any = None
        self._cancelled: list[LiveRequest] = []
        self._incoming: list[LiveRequest] = []  # asynchronous scheduling: arrived during the step under way, queued at its end

    # -- the protocol ------------------------------------------------------------------------------------------------------

    @property
    def active_blocks(self) -> int:
        """KV blocks that requests hold."""
        self._catch_up()
        return self.scheduler.held_blocks

    def serve(self, request: Request, *, submitted_at: int | None = None, watch: Watch | None = None) -> Ticket:
        """Queue ``request`` now."""
        ticket = open_ticket(self.env, self.records, request, submitted_at, watch)
        self.take(ticket)
        return ticket

    def take(self, ticket: ServerTicket) -> None:
        """Queue a ticket that is new, or that another replica lost."""
        row, records, now = ticket.row, self.records, self.env.now
        live = ticket.live = LiveRequest(ticket.request, row, ticket)
        ticket.server = self
        records.replica[row] = self.index
        records.prompt_tokens[row] = live.asked_tokens
        records.prompt_blocks[row] = -(-live.asked_tokens // self.block_tokens)
        live.waiting_since = now
        self.outstanding += 1
        self.queued_tokens += live.asked_tokens
        if self.async_scheduling and self._stepping:
            self._incoming.append(live)
            if self._plan is not None:
                self._cut()
            return
        self._add(live)
        if live.state == WAITING:
            if self._idle:
                self._idle = False
                self._boundary.set(0)
            elif self.scheduler.matters(live):
                self._cut()

    def _add(self, live: LiveRequest) -> None:
        request = live.ticket.request
        if not self.scheduler.add(live, (request.organisation, request.salt)):
            self._end(live, "rejected")

    def cancel(self, ticket: Ticket) -> None:
        """Give the request up: out of the queue at once, out of a running batch at the next step boundary."""
        assert isinstance(ticket, ServerTicket)
        if ticket.outcome is not None:
            return
        live, now = ticket.live, self.env.now
        ticket.cancelled_at = now
        self.records.cancelled_at_ns[ticket.row] = nanoseconds(now)
        if live in self._incoming:
            self._incoming.remove(live)
        elif live.state == WAITING:
            if self.scheduler.abort(live) and self._plan is not None:
                self._cut()
        else:
            self._cancelled.append(live)
            if self._plan is not None:
                self._cut()
            if live.state == LOADING:
                self._write_load(live, now)
        self._end(live, "cancelled")

    def estimate_ttft_s(self, request: Request, cached_tokens: int) -> float:
        """Prefill of what is not cached, on an idle replica."""
        prompt_tokens = sum(segment.tokens for segment in request.prompt)
        return float(self.profile.prefill_s(max(1, prompt_tokens - cached_tokens), cached_tokens))

    def expected_hit_tokens(self, request: Request) -> int:
        """Hit tokens if admitted now; output that is still being generated is not counted."""
        self._catch_up()
        return self.scheduler.peek(LiveRequest(request, -1), (request.organisation, request.salt))

    def waiting_rows(self) -> list[int]:
        """Rows of the requests that are queued: what a run that cannot end is stuck with."""
        return [live.row for live in self.scheduler.waiting]

    # -- faults ------------------------------------------------------------------------------------------------------------

    def crash(self) -> list[ServerTicket]:
        """Lose everything: the step under way, the cache, and the requests, which are returned in order of service."""
        self._catch_up()  # what the steps before the one under way put into the cache is on record
        scheduler = self.scheduler
        scheduler.settle()
        if self._below is not None:
            self._below.lose(self.env.now)
            for live in (*scheduler.landed, *scheduler.loading):
                if live.state == LOADING:
                    self._write_load(live, self.env.now)
        lives = [*scheduler.running, *scheduler.landed, *scheduler.loading, *scheduler.waiting, *self._incoming]
        lost = [live.ticket for live in lives if live.ticket.outcome is None]
        for ticket in lost:
            if self._journal is not None:
                self._journal.moments.append(Moment(self.env.now, ticket.row, "lost with a crash", self.index))
            self.records.preemptions[ticket.row] += ticket.live.preemptions
            ticket.live.state = GONE
        self._boundary.stop()
        self._idle = True
        self._plan = None
        self._stepping = False
        self._cancelled.clear()
        self._incoming.clear()
        self.outstanding = self.queued_tokens = 0
        self.scheduler = self._make_scheduler()
        return lost

    def set_speed(self, factor: float) -> None:
        """Let steps take ``factor`` times as long, from the next step on."""
        self._cost = step_cost(self.profile, self._slowness * factor)
        if self._plan is not None:
            self._cut()

    def lose_tier(self, level: int) -> None:
        """A tier is cut off: what it was sending is not coming, and is computed instead."""
        now = self.env.now
        for live in self.scheduler.loading:
            if live.load.tokens[level] and live.load.ready_at > now:
                live.load.fail(now)
                self._wake()

    # -- the loop ----------------------------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Execute the steps of the plan that have ended, for whoever looks inside: jumping must show what stepping shows.

        The boundary under way stays: what is left of the plan is decided anew and comes out the same.
        """
        if self._plan is None:
            return
        steps = self._plan_cost.steps_until(self._plan, self.env.now - self._started, self._steps) - 1
        if not steps:
            return
        scheduler, until = self.scheduler, self._started + self._plan_cost.span(self._plan, steps)
        if self._journal is not None:
            self._write_stretch(self._journal, steps, until)
        self._started = until
        scheduler.set_time(self._started)
        scheduler.advance(steps)
        scheduler.expire()
        self._plan = scheduler.schedule()
        self._steps -= steps

    def _cut(self) -> None:
        """End the plan under way at its next step boundary."""
        elapsed = self.env.now - self._started
        steps = self._plan_cost.steps_until(self._plan, elapsed, self._steps)
        if steps < self._steps:
            self._steps = steps
            self._boundary.set(self._plan_cost.span(self._plan, steps) - elapsed)

    def _wake(self, _: Event | None = None) -> None:
        """Let the scheduler look at the next step boundary, or now when nothing runs: bytes have come, or will not."""
        if self._plan is not None:
            self._cut()
        elif self._idle and self.scheduler.loading:
            self._idle = False
            self._boundary.set(0)

    def _on_boundary(self, event: Event) -> None:
        scheduler, now = self.scheduler, self._boundary.at
        if self._timed:
            scheduler.set_time(now)
        if self._plan is not None:
            if self._journal is not None:
                self._write_stretch(self._journal, self._steps, now)
            first_tokens, finished = scheduler.advance(self._steps)
            self._plan = None
            for live in first_tokens:
                ticket = live.ticket
                if ticket.outcome is not None:
                    continue  # cancelled in this very step
                self.queued_tokens -= live.asked_tokens
                if ticket.first_token_at is None:  # else another replica showed it before it crashed
                    ticket.first_token_at = now
                    self.records.first_token_at_ns[live.row] = nanoseconds(now)
                if ticket.visible_at is None:
                    ticket.visible_at = now
                    self._tell(ticket, "visible")
                if ticket.watch is not None:
                    self._tell(ticket, "first_token")
            for live in finished:
                self._end(live, "ok")
        if self._cancelled:
            for live in sorted(self._cancelled, key=lambda live: live.row):
                generated = scheduler.generated_tokens(live)
                self.records.output_tokens[live.row] = generated
                scheduler.abort(live)
            self._cancelled.clear()
        incoming = self._incoming
        if incoming:
            self._incoming = []
            if not scheduler.running and not scheduler.waiting:
                for live in incoming:
                    self._add(live)
                incoming = []
        if not scheduler.running and not scheduler.waiting and not scheduler.loading and not scheduler.landed:
            self._fall_idle()
            return
        self._start()
        for live in incoming:  # the step that starts now was decided before they were seen: they can join the next one
            self._add(live)
            if self._plan is None:
                self._start()
            elif live.state == WAITING and scheduler.matters(live):
                self._cut()

    def _fall_idle(self) -> None:
        self._idle = True
        self._stepping = False
        self.scheduler.settle()

    def _start(self) -> None:
        scheduler, now = self.scheduler, self._boundary.at
        if self._timed:
            scheduler.expire()
        plan = scheduler.schedule()
        for live in plan.loads:
            self._await_load(live)
        if not plan.decodes and not plan.chunks and not plan.preempted:
            # Only bytes on their way are left; or the last one lingered, and found no block to linger in.
            if scheduler.loading or not (scheduler.running or scheduler.waiting):
                self._fall_idle()
                return
            raise DeadlockError(
                f"replica {self.index} runs nothing and cannot admit request {scheduler.waiting[0].row}: {scheduler.shortage()}"
            )
        self._stepping = True
        self._plan = plan
        self._plan_cost = cost = self._cost
        self._started = now
        self._steps = steps = plan.steps if self.jump else 1
        self._boundary.set(cost.span(plan, steps))
        for live in plan.admitted:
            if live.sampled == 0:
                records, row = self.records, live.row
                if now != live.waiting_since:
                    records.queue_ns[row] += (now - live.waiting_since) // TICKS_PER_NS
                if not live.preemptions:
                    records.first_scheduled_at_ns[row] = nanoseconds(now)
                    live.ticket.hit_tokens = hit_tokens = live.hit_tokens
                    if hit_tokens:
                        records.hit_tokens[row] = hit_tokens
                        records.hit_blocks[row] = hit_tokens // self.block_tokens
                    if live.load is not None:
                        for column, tokens in zip(records.tier_hit_tokens, live.load.tokens, strict=True):
                            column[row] = tokens
            if live.load is not None:
                self._write_load(live, live.load.ready_at)
        for live in plan.preempted:
            live.waiting_since = now
        if self._journal is not None:
            for live in plan.preempted:
                self._journal.moments.append(Moment(now, live.row, "preempted", self.index))
            for live in plan.admitted:
                hit_tokens = live.resume_hit_tokens[-1] if live.resume_hit_tokens else live.hit_tokens or 0
                loaded, waited = self._loaded(live)
                self._journal.moments.append(Moment(now, live.row, "admitted", self.index, hit_tokens, loaded, waited))
        if self._at_schedule and plan.steps == 1:  # the last chunk of a prompt has a step of its own
            for live in plan.chunks:
                if live.computed + live.scheduled == live.prompt_tokens and live.sampled == 0:
                    live.ticket.visible_at = now
                    if live.ticket.watch is not None:
                        self._tell(live.ticket, "visible")

    def _await_load(self, live: LiveRequest) -> None:
        now, load = self.env.now, live.load
        self.env.call(self._wake, load.ready_at - now)
        if self._journal is not None:
            loaded, waited = self._loaded(live)
            moment = Moment(now, live.row, "loading", self.index, sum(load.tokens), loaded, waited)
            self._journal.moments.append(moment)

    def _write_load(self, live: LiveRequest, until: int) -> None:
        """What the request waited for its load until then, or until its bytes were there, and what broke on the way."""
        load, row, records = live.load, live.row, self.records
        assert records.load_wait_ns is not None
        assert records.tier_faults is not None
        records.load_wait_ns[row] += (min(until, load.ready_at) - load.started_at) // TICKS_PER_NS
        records.tier_faults[row] += load.cut_off + load.failed

    def _loaded(self, live: LiveRequest) -> tuple[tuple[tuple[str, int], ...], int]:
        """Tokens by tier, and the ticks waited for them; the last load's."""
        if self._below is None:
            return (), 0
        tokens = zip(self._below.names, live.load.tokens, strict=True)
        return tuple((name, count) for name, count in tokens if count), live.load.ready_at - live.load.started_at

    def _write_stretch(self, journal: Journal, steps: int, until: int) -> None:
        plan, scheduler = self._plan, self.scheduler
        chunks = tuple((live.row, live.scheduled) for live in plan.chunks)
        queue, held = len(scheduler.waiting), scheduler.held_blocks
        stretch = Stretch(self.index, self._started, until, steps, plan.decodes, chunks, queue, held, scheduler.blocks)
        journal.stretches.append(stretch)

    def _tell(self, ticket: Ticket, what: str) -> None:
        if ticket.watch is not None and ticket.outcome is None:
            ticket.watch(ticket, what)

    def _end(self, live: LiveRequest, outcome: str) -> None:
        """Close the record; the first outcome stands."""
        ticket, row, records = live.ticket, live.row, self.records
        if ticket.outcome is not None:
            return
        ticket.outcome = records.outcome[row] = outcome
        del ticket.live  # what has ended is freed at once: the two do not hold each other
        if live.preemptions:
            records.preemptions[row] += live.preemptions
        self.outstanding -= 1
        if outcome == "ok":
            ticket.finished_at = now = self.env.now
            records.finished_at_ns[row] = nanoseconds(now)
            records.output_tokens[row] = live.output_tokens
        elif live.first_token_step is None:  # cancelled or rejected
            self.queued_tokens -= live.asked_tokens
        if ticket.watch is not None:
            ticket.watch(ticket, "finished")
