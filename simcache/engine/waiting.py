"""What a client keeps in mind while it waits: the run it lives in, warm-ups on their way, and a question that was asked."""

from __future__ import annotations

from dataclasses import dataclass

import simpy

from ..prompt import Request
from ..records import RecordsBuilder
from ..scenario import Scenario
from ..warming import Ask, Warmer, WarmingPolicy
from .backend import Backend, Ticket
from .clock import nanoseconds


@dataclass(slots=True)
class Tally:
    """What leaves no record: turns that were opened, and those of them whose draft was left unsent.

    >>> Tally().unsent_turns
    0
    """

    opened_turns: int = 0
    unsent_turns: int = 0


@dataclass(frozen=True, slots=True)
class World:
    """What all visits of a run share."""

    env: simpy.Environment
    backend: Backend
    scenario: Scenario
    records: RecordsBuilder
    until: int
    tally: Tally
    warmer: Warmer

    @property
    def plans_ahead(self) -> bool:
        """Whether the policy has anything to say between an answer and the next turn."""
        own = type(self.warmer.policy).after_answer is not WarmingPolicy.after_answer
        return own or type(self.warmer) is not Warmer


class WarmUpOnItsWay:
    """A warm-up on its way, and the question that relies on it, if it has come to that."""

    __slots__ = (
        "ask",
        "expected_s",
        "question",
        "question_row",
        "ready_at",
        "records",
        "request",
        "sent_at",
        "settled",
        "ticket",
        "warmer",
    )

    def __init__(self, request: Request, ask: Ask, sent_at: int, expected_s: float, world: World) -> None:
        self.request = request
        self.ask = ask
        self.warmer = world.warmer
        self.sent_at = sent_at
        self.expected_s = expected_s
        self.records = world.records
        self.ticket: Ticket | None = None
        self.settled = False
        self.ready_at: int | None = None
        self.question: Question | None = None
        self.question_row: int | None = None

    def watch(self, ticket: Ticket, what: str) -> None:
        """Told by the backend."""
        if what == "finished":
            self.warmer.settled(self.ask)
        if self.settled or what == "first_token":
            return
        self.settled = True
        if what == "visible":
            assert ticket.visible_at is not None
            self.ready_at = ticket.visible_at
            self.records.visible_at_ns[ticket.row] = nanoseconds(ticket.visible_at)
        elif ticket.outcome == "ok":
            self.ready_at = ticket.finished_at  # a prefix too short to be stored is never visible
        self.fill_residual()
        if self.question is not None and self.question.ticket is None:
            self.question.wake()

    def lost(self) -> bool:
        """Whether it ended without leaving anything to rely on."""
        return self.settled and self.ready_at is None

    def fill_residual(self) -> None:
        """Write what was left at submit into the question's record, once both are known."""
        if self.question is not None and self.question_row is not None and self.ready_at is not None:
            left = max(0, self.ready_at - self.question.submitted_at)
            self.records.residual_warm_ns[self.question_row] = nanoseconds(left)


class Question:
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
        """An event that :meth:`wake` ends."""
        self.sleeping = self.env.event()
        return self.sleeping

    def wake(self) -> None:
        """End the sleep, if anybody sleeps."""
        if self.sleeping is not None and not self.sleeping.triggered:
            self.sleeping.succeed()

    def watch(self, ticket: Ticket, what: str) -> None:
        """Told by the backend."""
        if what == "finished":
            self.wake()

    def give_up(self, _: simpy.Event) -> None:
        """The user's patience ends."""
        if self.ticket is None:
            self.given_up = True
            self.wake()
        elif self.ticket.outcome is None:
            self.given_up = True
            self.backend.cancel(self.ticket)
