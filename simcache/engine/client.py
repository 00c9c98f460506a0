"""One person at the keyboard: open, type, warm, submit or leave, wait, read, next turn. The same for every backend."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import simpy

from ..errors import require_number
from ..prompt import Prompt, Request, Segment, prompt_tokens, shared_prefix_tokens
from ..records import NEVER, RecordsBuilder
from ..scenario import Scenario
from ..workload.sessions import Person, Turn
from .backend import Backend, Ticket
from .clock import instant, nanoseconds, seconds

Steps = Generator[simpy.Event, None, None]


@dataclass(slots=True)
class Tally:
    """What leaves no record: turns that were opened, and those of them whose draft was left unsent.

    >>> Tally().unsent_turns
    0
    """

    opened_turns: int = 0
    unsent_turns: int = 0


def start(
    env: simpy.Environment,
    backend: Backend,
    person: Person,
    scenario: Scenario,
    records: RecordsBuilder,
    until_ticks: int,
    tally: Tally | None = None,
) -> None:
    """Let ``person`` arrive at their time and live through their turns; no turn is opened at ``until_ticks`` or later.

    What was opened before goes on to its end. Records are those that ``backend`` opens, and one with outcome ``abandoned`` for
    a question that was given up while the client still held it back for its warm-up.
    """
    env.process(_Visit(env, backend, person, scenario, records, until_ticks, tally or Tally()).steps())


class _WarmUp:
    """A warm-up on its way, and the question that relies on it, if it has come to that."""

    __slots__ = ("expected_s", "question", "question_row", "ready_at", "records", "request", "sent_at", "settled", "ticket")

    def __init__(self, request: Request, sent_at: int, expected_s: float, records: RecordsBuilder) -> None:
        self.request = request
        self.sent_at = sent_at
        self.expected_s = expected_s
        self.records = records
        self.ticket: Ticket | None = None
        self.settled = False
        self.ready_at: int | None = None
        self.question: _Question | None = None
        self.question_row: int | None = None

    def watch(self, ticket: Ticket, what: str) -> None:
        if self.settled or what == "first_token":
            return
        self.settled = True
        if what == "visible":
            self.ready_at = ticket.visible_at
        elif ticket.outcome == "ok":
            self.ready_at = ticket.finished_at  # a prefix too short to be stored is never visible
        self.fill_residual()
        if self.question is not None and self.question.ticket is None:
            self.question.wake()

    def lost(self) -> bool:
        """Whether it ended without leaving anything to rely on."""
        return self.settled and self.ready_at is None

    def fill_residual(self) -> None:
        if self.question is not None and self.question_row is not None and self.ready_at is not None:
            left = max(0, self.ready_at - self.question.submitted_at)
            self.records.residual_warm_ns[self.question_row] = nanoseconds(left)


class _Question:
    """A submitted question: held back, then at the backend, until it ends or the user's patience does."""

    __slots__ = ("backend", "env", "given_up", "sleeping", "submitted_at", "ticket")

    def __init__(self, env: simpy.Environment, backend: Backend) -> None:
        self.env = env
        self.backend = backend
        self.submitted_at = int(env.now)
        self.ticket: Ticket | None = None
        self.given_up = False
        self.sleeping: simpy.Event | None = None

    def sleep(self) -> simpy.Event:
        self.sleeping = self.env.event()
        return self.sleeping

    def wake(self) -> None:
        if self.sleeping is not None and not self.sleeping.triggered:
            self.sleeping.succeed()

    def watch(self, ticket: Ticket, what: str) -> None:
        if what == "finished":
            self.wake()

    def give_up(self, _: simpy.Event) -> None:
        if self.ticket is None:
            self.given_up = True
            self.wake()
        elif self.ticket.outcome is None:
            self.given_up = True
            self.backend.cancel(self.ticket)


class _Visit:
    """One person's way through their turns."""

    __slots__ = ("backend", "env", "history", "person", "records", "scenario", "tally", "until", "warm_ups")

    def __init__(
        self,
        env: simpy.Environment,
        backend: Backend,
        person: Person,
        scenario: Scenario,
        records: RecordsBuilder,
        until: int,
        tally: Tally,
    ) -> None:
        self.env, self.backend, self.person, self.scenario = env, backend, person, scenario
        self.records, self.until, self.tally = records, until, tally
        self.history: Prompt = ()
        self.warm_ups: list[_WarmUp] = []  # of the turn at hand

    @property
    def now(self) -> int:
        return int(self.env.now)  # whole ticks go in, so whole ticks come out

    def steps(self) -> Steps:
        opened_at = instant(self.person.arrives_at_s)
        stopped: Ticket | None = None
        for turn in self.person.turns:
            if opened_at >= self.until:
                return
            self.tally.opened_turns += 1
            if stopped is not None:
                # the stopped answer stays on the screen as far as it came, which a replica knows at its next step boundary
                yield from self._sleep_until(opened_at)
                came = int(self.records.output_tokens[stopped.row])
                self.history += (Segment(stopped.request.output.key, came),) if came else ()
            before = turn.shared + self.history
            ends_at = opened_at + instant(turn.typing.end_at_s)
            self.warm_ups = []
            yield from self._warm(turn, before, opened_at, ends_at)
            yield from self._sleep_until(ends_at)
            question = _Question(self.env, self.backend)
            if turn.typing.submit_at_s is None:
                self.tally.unsent_turns += 1
                self._drop_warm_ups()
            else:
                yield from self._ask(turn, before, question)
                if question.given_up:
                    self._drop_warm_ups()
                    if _closes(turn):
                        return
            opened_at = self.now + instant(turn.gap_s)
            stopped = question.ticket if question.given_up and turn.answer_joins else None

    def _sleep_until(self, at: int) -> Steps:
        if at > self.now:
            yield self.env.timeout(at - self.now)

    def _warm(self, turn: Turn, before: Prompt, opened_at: int, ends_at: int) -> Steps:
        policy = self.scenario.warming
        for warm_up in sorted(policy.warm_ups(turn.typing, prompt_tokens(before)), key=lambda warm_up: warm_up.at_s):
            require_number(f"{type(policy).__name__}.warm_ups at_s", warm_up.at_s, at_least=0)
            at = opened_at + instant(warm_up.at_s)
            if at >= ends_at:
                return
            prompt = before + (turn.draft_at(warm_up.at_s) if warm_up.draft else ())
            last = self.warm_ups[-1] if self.warm_ups else None
            if not prompt_tokens(prompt):
                continue
            yield from self._sleep_until(at)
            if last is not None and last.request.prompt == prompt and not last.lost():
                continue
            if warm_up.supersedes:
                self._cancel_warm_ups()
            self._send_warm_up(turn, prompt, len(before))

    def _send_warm_up(self, turn: Turn, prompt: Prompt, shared_segments: int) -> None:
        policy = self.scenario.warming
        output = Segment(f"{turn.session}/t{turn.index}/warm{len(self.warm_ups)}", policy.warm_output_tokens)
        request = self._request(turn, prompt, output, shared_segments)._replace(kind="warm", priority=policy.priority)
        expected_s = 0.0
        if self.scenario.on_unfinished_warm == "wait_if_shorter":
            expected_s = self.backend.estimate_ttft_s(request, self.backend.expected_hit_tokens(request))
        warm_up = _WarmUp(request, self.now, expected_s, self.records)
        warm_up.ticket = self.backend.serve(request, watch=warm_up.watch)
        if warm_up.ticket.visible_at is not None:  # at once, before there was anybody to tell
            warm_up.watch(warm_up.ticket, "visible")
        self.warm_ups.append(warm_up)

    def _request(self, turn: Turn, prompt: Prompt, output: Segment, shared_segments: int) -> Request:
        return Request(
            arrived_at_s=seconds(self.now),
            prompt=prompt,
            output=output,
            session=turn.session,
            turn=turn.index,
            user=self.person.user,
            salt=self.person.salt,
            organisation=self.person.organisation,
            shared_segments=shared_segments,
        )

    def _ask(self, turn: Turn, before: Prompt, question: _Question) -> Steps:
        """Submit, wait for the end, and let history grow."""
        patience_s = min((s for s in (turn.stop_after_s, turn.close_after_s) if s is not None), default=None)
        if patience_s is not None:
            deadline = self.env.timeout(instant(patience_s))
            assert deadline.callbacks is not None
            deadline.callbacks.append(question.give_up)
        request = self._request(turn, before + turn.question, turn.output, len(before))
        warm_up = next((warm_up for warm_up in reversed(self.warm_ups) if not warm_up.lost()), None)
        if warm_up is not None:
            warm_up.question = question
            if not warm_up.settled and self._holds(warm_up, request):
                yield question.sleep()
                request = request._replace(arrived_at_s=seconds(self.now))
        if question.given_up:
            self._withdraw(request, question, warm_up)
            self.history += turn.question
            return
        question.ticket = ticket = self.backend.serve(request, submitted_at=question.submitted_at, watch=question.watch)
        self._link(ticket.row, warm_up)
        if ticket.outcome is None:
            yield question.sleep()
        if ticket.outcome in ("ok", "cancelled"):
            self.history += turn.question
            if turn.answer_joins and ticket.outcome == "ok":
                self.history += (turn.output,)

    def _holds(self, warm_up: _WarmUp, request: Request) -> bool:
        """Whether the client keeps the question back until its warm-up is visible."""
        if self.scenario.on_unfinished_warm != "wait_if_shorter":
            return self.scenario.on_unfinished_warm == "wait"
        residual_s = max(0.0, warm_up.expected_s - seconds(self.now - warm_up.sent_at))
        warmed = shared_prefix_tokens(warm_up.request.prompt, request.prompt)
        held_s = residual_s + self.backend.estimate_ttft_s(request, warmed)
        return held_s < self.backend.estimate_ttft_s(request, self.backend.expected_hit_tokens(request))

    def _link(self, row: int, warm_up: _WarmUp | None) -> None:
        if warm_up is not None:
            assert warm_up.ticket is not None
            self.records.warm_row[row] = warm_up.ticket.row
            warm_up.question_row = row
            warm_up.fill_residual()

    def _withdraw(self, request: Request, question: _Question, warm_up: _WarmUp | None) -> None:
        """The record of a question that the user gave up before the client had sent it."""
        records = self.records
        row = records.row(request.session or "", request.user or "", "user", "abandoned")
        records.turn[row] = request.turn
        records.priority[row] = request.priority
        records.submitted_at_ns[row] = nanoseconds(question.submitted_at)
        records.sent_at_ns[row] = NEVER
        records.cancelled_at_ns[row] = nanoseconds(self.now)
        records.prompt_tokens[row] = prompt_tokens(request.prompt)
        records.attempts[row] = 0
        self._link(row, warm_up)

    def _cancel_warm_ups(self) -> None:
        for warm_up in self.warm_ups:
            if warm_up.ticket is not None and warm_up.ticket.outcome is None:
                self.backend.cancel(warm_up.ticket)

    def _drop_warm_ups(self) -> None:
        if self.scenario.warming.cancel_on_abandon:
            self._cancel_warm_ups()


def _closes(turn: Turn) -> bool:
    """Whether this user's patience ends in a closed tab, not in a pressed stop button."""
    return turn.close_after_s is not None and (turn.stop_after_s is None or turn.close_after_s <= turn.stop_after_s)
