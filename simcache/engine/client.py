"""One person at the keyboard: open, type, warm, submit or leave, wait, read, next turn. The same for every backend."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import simpy

from ..errors import require_number
from ..prompt import Prompt, Request, Segment, prompt_tokens, shared_prefix_tokens
from ..records import NEVER, RecordsBuilder
from ..scenario import HostedApi, Scenario
from ..warming import Ask, Coming, Moment, Warmer, WarmUp
from ..workload.sessions import Person, Turn
from .backend import Backend, Ticket
from .clock import TICKS_PER_NS, instant, nanoseconds, seconds
from .waiting import Question, Tally, WarmUpOnItsWay, World

Steps = Generator[simpy.Event, None, None]


def start(
    env: simpy.Environment,
    backend: Backend,
    person: Person,
    scenario: Scenario,
    records: RecordsBuilder,
    until_ticks: int,
    tally: Tally | None = None,
    warmer: Warmer | None = None,
) -> None:
    """Let ``person`` arrive at their time and live through their turns; no turn is opened at ``until_ticks`` or later.

    ``warmer`` is the warming policy's state, one for all people of a run. What was opened before goes on to its end; pings and
    warm-ups between turns end at ``until_ticks``. Records are those that ``backend`` opens, and one with outcome ``abandoned``
    for a question that was given up while the client still held it back for its warm-up.
    """
    world = World(env, backend, scenario, records, until_ticks, tally or Tally(), warmer or scenario.warming.fresh())
    if person.opens_at_s is None:
        env.process(_Visit(world, person).steps())
        return
    history: Prompt = ()
    opened = tuple(zip(person.turns, person.opens_at_s, strict=True))
    for number, (turn, opens_at_s) in enumerate(opened):  # each on its own: nobody waits for an answer
        alone = replace(person, arrives_at_s=opens_at_s, turns=(turn,), opens_at_s=(opens_at_s,))
        env.process(_Visit(world, alone, history, _until_sent(opened[number + 1 :])).steps())
        if turn.typing.submit_at_s is not None:
            history += (*(turn.question if turn.question_joins else ()), *turn.answer(turn.generated.tokens))


def _until_sent(opened: Sequence[tuple[Turn, float]]) -> tuple[tuple[Turn, float], ...]:
    """The first turns, with their openings, up to one that is sent."""
    sent = next((i for i, (turn, _) in enumerate(opened) if turn.typing.submit_at_s is not None), len(opened))
    return tuple(opened[: sent + 1])


class _Planned(NamedTuple):
    """A warm-up that will be sent at ``at`` (ticks) unless the question comes first."""

    at: int
    warm_up: WarmUp
    turn: Turn
    of_turn: bool


class _Visit:
    """One person's way through their turns; in an open loop through one of them, and ``following`` will open when they say."""

    __slots__ = (
        *("agenda", "backend", "env", "following", "history", "opened_at", "person", "prefix", "records", "sent", "until"),
        *("warm_ups", "world"),
    )

    def __init__(self, world: World, person: Person, history: Prompt = (), following: tuple[tuple[Turn, float], ...] = ()) -> None:
        self.world, self.person, self.history, self.following = world, person, history, following
        self.until = world.until  # the end of what is planned after the last answer
        if following and following[-1][0].typing.submit_at_s is not None:
            turn, opens_at_s = following[-1]
            self.until = min(self.until, instant(opens_at_s) + instant(turn.typing.end_at_s))
        self.env, self.backend, self.records = world.env, world.backend, world.records
        self.prefix: Prompt = ()  # everything before the question, of the turn at hand or of the next one
        self.opened_at = 0
        self.sent = 0  # warm-ups and pings so far, which names their outputs
        self.warm_ups: list[WarmUpOnItsWay] = []  # of the turn at hand
        self.agenda: list[_Planned] = []  # in order of time

    @property
    def now(self) -> int:
        return int(self.env.now)  # whole ticks go in, so whole ticks come out

    def steps(self) -> Steps:
        world, turns = self.world, self.person.turns
        opened_at = instant(self.person.arrives_at_s)
        stopped: Ticket | None = None
        for number, turn in enumerate(turns):
            yield from self._pass_time(min(opened_at, world.until))
            if opened_at >= world.until:
                return
            world.tally.opened_turns += 1
            if stopped is not None or type(world.warmer) is not Warmer:
                # the stopped answer stays on the screen as far as it came, which a replica knows at its next step boundary;
                # and a policy that learns is asked when the turn opens, not before
                yield from self._sleep_until(opened_at)
            if stopped is not None:
                self.history += turns[number - 1].answer(int(self.records.output_tokens[stopped.row]))
            self.prefix = turn.shared + self.history
            self.opened_at = opened_at
            ends_at = opened_at + instant(turn.typing.end_at_s)
            moment = self._moment(turn, seconds(opened_at), typing=turn.typing)
            self._plan(world.warmer.on_open(moment), opened_at, turn, of_turn=True)
            yield from self._pass_time(ends_at)
            yield from self._sleep_until(ends_at)
            question = Question(self.env, self.backend)
            if turn.typed:
                world.warmer.turn_ended(moment)
            if turn.typing.submit_at_s is None:
                world.tally.unsent_turns += 1
                self._drop_warm_ups()
                self.agenda = [planned for planned in self.agenda if not planned.of_turn]
                self.warm_ups = []
            else:
                self.agenda = []
                yield from self._ask(turn, question)
                if question.given_up:
                    self._drop_warm_ups()
                    if _closes(turn):
                        return
                self.warm_ups = []
                answered = question.ticket is not None and question.ticket.outcome == "ok"
                if answered and world.plans_ahead and self.now < self.until:
                    self._plan_ahead(number, question.ticket)
            opened_at = self.now + instant(turn.gap_s)
            stopped = question.ticket if question.given_up and turn.answer_joins else None
        yield from self._pass_time(self.until)

    def _sleep_until(self, at: int) -> Steps:
        if at > self.now:
            yield self.env.timeout(at - self.now)

    def _moment(self, turn: Turn, now_s: float, **more: Any) -> Moment:
        request = self._request(turn, self.prefix, turn.output)
        return Moment(
            user=self.person.user,
            session=turn.session,
            prefix_tokens=prompt_tokens(self.prefix),
            warm_s=lambda: self.backend.estimate_ttft_s(request, 0),
            warm_after_s=lambda tokens: self.backend.estimate_ttft_s(request, tokens),
            hit_tokens=lambda: self.backend.expected_hit_tokens(request),
            now_s=now_s,
            **more,
        )

    def _plan(self, warm_ups: Sequence[WarmUp], since: int, turn: Turn, *, of_turn: bool) -> None:
        for warm_up in warm_ups:
            name = f"{type(self.world.scenario.warming).__name__}.warm_ups at_s"
            require_number(name, warm_up.at_s, at_least=0)
            at = since + instant(warm_up.at_s)
            if not of_turn:  # an answer ends between two nanoseconds; what is due so long after a request is due on one
                at = nanoseconds(at) * TICKS_PER_NS
            self.agenda.append(_Planned(at, warm_up, turn, of_turn))
        self.agenda.sort(key=lambda planned: planned.at)

    def _plan_ahead(self, number: int, ticket: Ticket | None) -> None:
        """What the policy does after the answer to turn ``number``, whose question was served as ``ticket``."""
        assert ticket is not None
        turns = self.person.turns
        turn = turns[number]
        self.prefix = turn.shared + self.history
        self.opened_at = self.now
        coming = [Coming(max(opens_at_s - seconds(self.now), 0.0), each.typing) for each, opens_at_s in self.following]
        after_s = 0.0
        for before, following in pairwise(turns[number:]):
            after_s += before.gap_s
            coming.append(Coming(after_s, following.typing))
            if following.typing.submit_at_s is not None:
                break
            after_s += following.typing.end_at_s
        moment = self._moment(
            turn,
            seconds(self.now),
            since_sent_s=seconds(self.now) - ticket.request.arrived_at_s,
            future=tuple(coming),
        )
        self._plan(self.world.warmer.after_answer(moment), self.now, turn, of_turn=False)

    def _pass_time(self, until: int) -> Steps:
        """Send what is planned before ``until``, each at its instant."""
        while self.agenda and self.agenda[0].at < until:
            planned = self.agenda.pop(0)
            at, warm_up, turn = planned.at, planned.warm_up, planned.turn
            draft = turn.draft_at(seconds(at - self.opened_at)) if warm_up.draft and planned.of_turn else ()
            prompt = self.prefix + draft
            if not prompt_tokens(prompt):
                continue
            yield from self._sleep_until(at)
            last = self.warm_ups[-1] if self.warm_ups and warm_up.kind == "warm" else None
            if last is not None and last.sent_at >= self.opened_at and last.request.prompt == prompt and not last.lost():
                continue
            self._send_warm_up(turn if planned.of_turn else replace(turn, index=turn.index + 1), prompt, warm_up)

    def _send_warm_up(self, turn: Turn, prompt: Prompt, warm_up: WarmUp) -> None:
        scenario = self.world.scenario
        policy = scenario.warming
        tokens = policy.warm_output_tokens
        if tokens is None:
            tokens = 0 if isinstance(scenario.backend, HostedApi) else 1  # a provider's rules may ask for more, and add it
        output = Segment(f"{turn.session}/t{turn.index}/{warm_up.kind}{self.sent}", tokens)
        request = self._request(turn, prompt, output)._replace(kind=warm_up.kind, priority=policy.priority)
        ask = Ask(
            now_s=seconds(self.now),
            kind=warm_up.kind,
            prompt_tokens=prompt_tokens(prompt),
            hit_tokens=lambda: self.backend.expected_hit_tokens(request),
            replaces=len(self._under_way()) if warm_up.supersedes else 0,
        )
        if not self.world.warmer.admits(ask):
            return
        if warm_up.supersedes:
            self._cancel_warm_ups()
        self.world.warmer.sent(ask)
        self.sent += 1
        expected_s = 0.0
        if scenario.on_unfinished_warm == "wait_if_shorter":
            expected_s = self.backend.estimate_ttft_s(request, self.backend.expected_hit_tokens(request))
        on_its_way = WarmUpOnItsWay(request, ask, self.now, expected_s, self.world)
        on_its_way.ticket = ticket = self.backend.serve(request, watch=on_its_way.watch)
        if ticket.visible_at is not None:  # at once, before there was anybody to tell
            on_its_way.watch(ticket, "visible")
        if warm_up.kind == "warm":
            self.warm_ups.append(on_its_way)

    def _request(self, turn: Turn, prompt: Prompt, output: Segment) -> Request:
        return Request(
            arrived_at_s=seconds(self.now),
            prompt=prompt,
            output=output,
            session=turn.session,
            turn=turn.index,
            user=self.person.user,
            salt=self.person.salt,
            organisation=self.person.organisation,
            shared_segments=len(self.prefix),
            breakpoints=None if turn.breakpoints is None else tuple(min(count, len(prompt)) for count in turn.breakpoints),
        )

    def _ask(self, turn: Turn, question: Question) -> Steps:
        """Submit, wait for the end, and let history grow."""
        patience_s = min((s for s in (turn.stop_after_s, turn.close_after_s) if s is not None), default=None)
        if patience_s is not None:
            deadline = self.env.timeout(instant(patience_s))
            assert deadline.callbacks is not None
            deadline.callbacks.append(question.give_up)
        asked = turn.question
        request = self._request(turn, self.prefix + asked, turn.generated)
        warm_up = next((warm_up for warm_up in reversed(self.warm_ups) if not warm_up.lost()), None)
        if warm_up is not None:
            warm_up.question = question
            if not warm_up.settled and self._holds(warm_up, request):
                yield question.sleep()
                request = request._replace(arrived_at_s=seconds(self.now))
        said = asked if turn.question_joins else ()
        if question.given_up:
            self._withdraw(request, question, warm_up)
            self.history += said
            return
        question.ticket = ticket = self.backend.serve(request, submitted_at=question.submitted_at, watch=question.watch)
        self.records.thinking_tokens[ticket.row] = turn.thinking_tokens
        self.records.cold_ns[ticket.row] = round(self.backend.estimate_ttft_s(request, 0) * 1e9)
        self._link(ticket.row, warm_up)
        if ticket.outcome is None:
            yield question.sleep()
        if ticket.outcome in ("ok", "cancelled"):
            self.history += said
            if ticket.outcome == "ok":
                self.history += turn.answer(turn.generated.tokens)

    def _holds(self, warm_up: WarmUpOnItsWay, request: Request) -> bool:
        """Whether the client keeps the question back until its warm-up is visible."""
        choice = self.world.scenario.on_unfinished_warm
        if choice != "wait_if_shorter":
            return choice == "wait"
        residual_s = max(0.0, warm_up.expected_s - seconds(self.now - warm_up.sent_at))
        warmed = shared_prefix_tokens(warm_up.request.prompt, request.prompt)
        held_s = residual_s + self.backend.estimate_ttft_s(request, warmed)
        return held_s < self.backend.estimate_ttft_s(request, self.backend.expected_hit_tokens(request))

    def _link(self, row: int, warm_up: WarmUpOnItsWay | None) -> None:
        if warm_up is not None:
            assert warm_up.ticket is not None
            self.records.warm_row[row] = warm_up.ticket.row
            warm_up.question_row = row
            warm_up.fill_residual()

    def _withdraw(self, request: Request, question: Question, warm_up: WarmUpOnItsWay | None) -> None:
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

    def _under_way(self) -> list[Ticket]:
        """The warm-ups of this user that have not ended."""
        return [each.ticket for each in self.warm_ups if each.ticket is not None and each.ticket.outcome is None]

    def _cancel_warm_ups(self) -> None:
        for ticket in self._under_way():
            self.backend.cancel(ticket)

    def _drop_warm_ups(self) -> None:
        if self.world.scenario.warming.cancel_on_abandon:
            self._cancel_warm_ups()


def _closes(turn: Turn) -> bool:
    """Whether this user's patience ends in a closed tab, not in a pressed stop button."""
    return turn.close_after_s is not None and (turn.stop_after_s is None or turn.close_after_s <= turn.stop_after_s)
