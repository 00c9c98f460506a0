"""One person at the keyboard against a backend simple enough to compute by hand."""

from __future__ import annotations

import numpy as np
import pytest

from simcache.engine.client import start
from simcache.engine.clock import Clock, instant, seconds
from simcache.engine.waiting import Tally
from simcache.errors import InputError
from simcache.prompt import Segment
from simcache.records import NEVER, Records, RecordsBuilder
from simcache.scenario import HostedApi, Scenario, Server
from simcache.warming import (
    NoWarming,
    WarmAfterAnswer,
    WarmAfterPause,
    Warmer,
    WarmEveryTokens,
    WarmingPolicy,
    WarmOnFirstKey,
    WarmOnOpen,
    WarmUp,
)
from simcache.warming.foresight import Adaptive, Oracle
from simcache.warming.keep_alive import KeepAlive
from simcache.warming.limits import Budgeted, ForSome, Together
from simcache.workload.presets import TypingSessions
from simcache.workload.sessions import Person, Turn
from simcache.workload.typist import evenly
from tests.linear_backend import Linear

DOCUMENT = Segment("document", 8_000)


def person(
    *typings, arrives_at_s=0.0, shared=(DOCUMENT,), output_tokens=101, gap_s=60.0, user="u", opens_at_s=None, **turn
) -> Person:
    turns = tuple(
        Turn(session="s", index=i, typing=typing, shared=shared, output=Segment(f"a{i}", output_tokens), gap_s=gap_s, **turn)
        for i, typing in enumerate(typings)
    )
    return Person(user=user, arrives_at_s=arrives_at_s, turns=turns, salt="x", organisation="o", opens_at_s=opens_at_s)


def live(
    *people: Person, until_s: float = 1e6, base_s: float = 0.0, rejects: str = "", **scenario
) -> tuple[Records, Linear, Tally]:
    env, records, tally = Counting(), RecordsBuilder(), Tally()
    backend = Linear(env, records, base_s, rejects)
    asked = Scenario(workload=TypingSessions(users=1), **{"backend": Server(), **scenario})
    warmer = asked.warming.fresh()
    for somebody in people:
        start(env, backend, somebody, asked, records, instant(until_s), tally, warmer)
    env.run()
    return records.freeze(), backend, tally


def kinds(records: Records) -> list[tuple[str, str]]:
    return list(zip(records["kind"].tolist(), records["outcome"].tolist(), strict=True))


def test_a_cold_question_takes_the_whole_prompt_from_submit():
    records, backend, _ = live(person(evenly(3.0, 20), arrives_at_s=7.0))
    assert records.seconds("submitted_at_ns").tolist() == [10.0]
    assert records.ttft_s.tolist() == [8.02]
    assert records["warm_row"].tolist() == records["residual_warm_ns"].tolist() == [NEVER]
    sent = backend.sent[0].request
    assert (sent.salt, sent.organisation, sent.user, sent.session, sent.turn, sent.kind) == ("x", "o", "u", "s", 0, "user")
    assert sent.shared_segments == 1
    assert sent.prompt == (DOCUMENT, Segment("s/t0/draft0", 20))


@pytest.mark.parametrize(
    ("choice", "typing_s", "ttft_s", "sent_at_s", "hit_tokens", "residual_s"),
    [
        # the warm-up takes 8 s from 0 s on; a hit leaves 20 tokens = 0.02 s; cold is 8.02 s
        ("wait", 3.0, 5.02, 8.0, 8_000, 5.0),
        ("wait", 7.999, 0.021, 8.0, 8_000, 0.001),
        ("wait", 9.0, 0.02, 9.0, 8_000, 0.0),
        ("send", 3.0, 8.02, 3.0, 0, 5.0),
        ("send", 9.0, 0.02, 9.0, 8_000, 0.0),
        ("wait_if_shorter", 3.0, 5.02, 8.0, 8_000, 5.0),
    ],
)
def test_three_choices_while_the_warm_up_is_unfinished(choice, typing_s, ttft_s, sent_at_s, hit_tokens, residual_s):
    records, _, _ = live(person(evenly(typing_s, 20)), warming=WarmOnOpen(), on_unfinished_warm=choice)
    assert kinds(records) == [("warm", "ok"), ("user", "ok")]
    assert records.ttft_s[1] == pytest.approx(ttft_s, abs=1e-9)
    assert records.seconds("sent_at_ns")[1] == sent_at_s
    assert records["hit_tokens"][1] == hit_tokens
    assert records["warm_row"].tolist() == [NEVER, 0]
    assert records.seconds("residual_warm_ns")[1] == pytest.approx(residual_s, abs=1e-9)


class DocumentThenDraft(WarmingPolicy):
    """The document at open, and the draft as it stands at 9 s."""

    def warm_ups(self, typing, prefix_tokens):
        return [WarmUp(0.0), WarmUp(9.0, draft=True)]


@pytest.mark.parametrize(
    ("choice", "typing_s", "ttft_s", "residual_s", "hit_tokens"),
    [
        # each request has 0.1 s of its own. 398 of 400 tokens stand at 9 s: their warm-up takes 0.498 s, of which 0.448 s are left
        ("wait", 9.05, 0.448 + 0.1 + 0.002, 0.448, 8_398),
        ("send", 9.05, 0.1 + 0.4, 0.448, 8_000),
        ("wait_if_shorter", 9.05, 0.1 + 0.4, 0.448, 8_000),
        # 392 of them, 0.492 s, of which 0.292 s are left: now waiting is shorter
        ("wait", 9.2, 0.292 + 0.1 + 0.008, 0.292, 8_392),
        ("send", 9.2, 0.1 + 0.4, 0.292, 8_000),
        ("wait_if_shorter", 9.2, 0.292 + 0.1 + 0.008, 0.292, 8_392),
    ],
)
def test_wait_if_shorter_weighs_what_is_left_against_what_is_cached(choice, typing_s, ttft_s, residual_s, hit_tokens):
    records, _, _ = live(person(evenly(typing_s, 400)), base_s=0.1, warming=DocumentThenDraft(), on_unfinished_warm=choice)
    assert kinds(records) == [("warm", "ok"), ("warm", "ok"), ("user", "ok")]
    assert records.ttft_s[2] == pytest.approx(ttft_s, abs=1e-9)
    assert records.seconds("residual_warm_ns")[2] == pytest.approx(residual_s, abs=1e-9)
    assert (records["hit_tokens"][2], records["warm_row"][2]) == (hit_tokens, 1)


def test_a_warm_up_at_the_instant_of_submit_is_never_sent():
    records, _, _ = live(person(evenly(0.0, 20)), warming=WarmOnFirstKey())
    assert kinds(records) == [("user", "ok")]
    assert records.ttft_s.tolist() == [8.02]


def test_the_next_turn_comes_after_answer_and_reading_and_sends_what_was_said():
    records, backend, tally = live(person(evenly(3.0, 20), evenly(2.0, 30), evenly(1.0, 10)))
    # 8.02 s to the first token, 100 gaps of 10 ms, 60 s of reading, 2 s of typing; then 101 + 30 new tokens
    assert records.seconds("submitted_at_ns").tolist() == pytest.approx([3.0, 3 + 8.02 + 1 + 62, 74.02 + 0.131 + 1 + 61], abs=1e-9)
    assert backend.sent[2].request.prompt == (
        DOCUMENT,
        Segment("s/t0/draft0", 20),
        Segment("a0", 101),
        Segment("s/t1/draft0", 30),
        Segment("a1", 101),
        Segment("s/t2/draft0", 10),
    )
    assert backend.sent[2].request.shared_segments == 5
    assert tally == Tally(opened_turns=3, unsent_turns=0)
    assert records["turn"].tolist() == [0, 0, 0]  # the fake fills no turn; the request says it
    assert [ticket.request.turn for ticket in backend.sent] == [0, 1, 2]


def test_a_question_sent_at_once_waits_for_its_own_answer():
    """Its warm-up becomes visible at 8 s, in the middle of it."""
    somebody = person(evenly(3.0, 20), evenly(2.0, 30))
    records, backend, _ = live(somebody, warming=WarmOnOpen(), on_unfinished_warm="send")
    assert kinds(records) == [("warm", "ok"), ("user", "ok")] * 2
    assert records.seconds("submitted_at_ns")[[1, 3]].tolist() == pytest.approx([3.0, 3 + 8.02 + 1 + 62], abs=1e-9)
    assert backend.sent[3].request.prompt[:3] == (DOCUMENT, Segment("s/t0/draft0", 20), Segment("a0", 101))


def test_a_slow_backend_delays_the_next_question_and_nothing_else():
    fast, _, _ = live(person(evenly(3.0, 20), evenly(2.0, 30)))
    slow, _, _ = live(person(evenly(3.0, 20), evenly(2.0, 30)), base_s=5.0)
    assert (slow.seconds("submitted_at_ns") - fast.seconds("submitted_at_ns")).tolist() == pytest.approx([0.0, 5.0])


def test_the_answer_joins_only_if_it_is_told_to():
    _, backend, _ = live(person(evenly(3.0, 20), evenly(2.0, 30), answer_joins=False))
    assert backend.sent[1].request.prompt == (DOCUMENT, Segment("s/t0/draft0", 20), Segment("s/t1/draft0", 30))


def test_no_turn_opens_at_the_end_or_after_it():
    somebody = person(evenly(3.0, 20), evenly(2.0, 30))
    opens_at_s = 3 + 8.02 + 1 + 60
    assert len(live(somebody, until_s=opens_at_s)[0]) == 1
    assert len(live(somebody, until_s=opens_at_s + 1e-9)[0]) == 2
    assert len(live(person(evenly(3.0, 20), arrives_at_s=50.0), until_s=50.0)[0]) == 0


def test_an_unsent_draft_sends_nothing_cancels_its_warm_up_and_leaves_history_alone():
    records, backend, tally = live(person(evenly(3.0, 20, share=0.5), evenly(2.0, 30)), warming=WarmOnOpen())
    assert kinds(records) == [("warm", "cancelled"), ("warm", "ok"), ("user", "ok")]
    assert records.seconds("cancelled_at_ns")[0] == 1.5
    assert records.seconds("submitted_at_ns")[1:].tolist() == [61.5, 69.5 - 6.0]
    assert backend.sent[2].request.prompt == (DOCUMENT, Segment("s/t1/draft0", 30))
    assert tally == Tally(opened_turns=2, unsent_turns=1)


def test_a_warm_up_of_an_unsent_draft_may_be_let_run():
    records, _, _ = live(person(evenly(3.0, 20, share=0.5)), warming=WarmOnOpen(cancel_on_abandon=False))
    assert kinds(records) == [("warm", "ok")]


def test_a_growing_draft_supersedes_its_last_warm_up():
    records, backend, _ = live(person(evenly(4.0, 40)), warming=WarmEveryTokens(tokens=15, warm_output_tokens=2, priority=3))
    assert kinds(records) == [("warm", "cancelled"), ("warm", "ok"), ("user", "ok")]
    # the 15th token is typed at 1.4 s, the 30th at 2.9 s
    assert records.seconds("submitted_at_ns")[:2].tolist() == [1.4, 2.9]
    assert records.seconds("cancelled_at_ns")[0] == 2.9
    first, second, question = (ticket.request for ticket in backend.sent)
    assert first.prompt == (DOCUMENT, Segment("s/t0/draft0", 15))
    assert second.prompt == (DOCUMENT, Segment("s/t0/draft0", 30))
    assert [request.shared_segments for request in (first, second, question)] == [1, 1, 1]
    assert (second.output.tokens, second.priority, question.priority) == (2, 3, 0)
    assert len({first.output.key, second.output.key, question.output.key}) == 3
    assert records["hit_tokens"][2] == 8_030


def test_what_is_warm_already_is_not_warmed_again():
    records, _, _ = live(person(evenly(4.0, 40)), warming=WarmAfterPause(pause_s=0.05))
    assert kinds(records) == [("warm", "ok"), ("user", "ok")]


def test_nothing_to_warm_is_no_warm_up():
    records, _, _ = live(person(evenly(4.0, 40), shared=()), warming=WarmOnOpen())
    assert kinds(records) == [("user", "ok")]


def test_a_rejected_warm_up_holds_nobody_back_and_is_tried_again():
    records, _, _ = live(person(evenly(4.0, 4)), rejects="warm", warming=WarmAfterPause(pause_s=0.5))
    assert kinds(records) == [*[("warm", "rejected")] * 4, ("user", "ok")]
    assert records.seconds("sent_at_ns")[-1] == 4.0
    assert records["warm_row"][-1] == records["residual_warm_ns"][-1] == NEVER


def test_a_rejected_question_leaves_history_alone():
    _, backend, _ = live(person(evenly(3.0, 20), evenly(2.0, 30)), rejects="user")
    assert backend.sent[1].request.prompt == (DOCUMENT, Segment("s/t1/draft0", 30))


def test_the_stop_button_keeps_what_was_said_so_far():
    records, backend, _ = live(person(evenly(3.0, 20), evenly(2.0, 30), stop_after_s=8.525))
    # the first token comes at 8.02 s, then one every 10 ms: 51 by 8.525 s
    assert kinds(records) == [("user", "cancelled"), ("user", "ok")]
    assert records.seconds("cancelled_at_ns")[0] == pytest.approx(11.525)
    assert backend.sent[1].request.prompt[2] == Segment("a0", 51)
    assert records.seconds("submitted_at_ns")[1] == pytest.approx(11.525 + 62)


def test_a_stopped_answer_counts_as_far_as_the_backend_says_in_the_end(monkeypatch):
    """A replica closes a cancelled request at its next step boundary; here that is 30 ms later."""

    def cancel(self, ticket):
        self._end(ticket, "cancelled")
        row, self.records.output_tokens[ticket.row] = ticket.row, 0
        self.env.call(lambda event: self.records.output_tokens.__setitem__(row, 54), instant(0.030))

    monkeypatch.setattr(Linear, "cancel", cancel)
    _, backend, _ = live(person(evenly(3.0, 20), evenly(2.0, 30), stop_after_s=8.525))
    assert backend.sent[1].request.prompt[2] == Segment("a0", 54)


def test_a_stop_before_the_first_token_leaves_a_question_without_an_answer():
    _, backend, _ = live(person(evenly(3.0, 20), evenly(2.0, 30), stop_after_s=4.0))
    assert backend.sent[1].request.prompt == (DOCUMENT, Segment("s/t0/draft0", 20), Segment("s/t1/draft0", 30))


def test_patience_of_an_answered_question_cancels_nothing_later():
    records, _, _ = live(person(evenly(3.0, 20), evenly(60.0, 30), gap_s=0.0, stop_after_s=69.0))
    assert kinds(records) == [("user", "ok")] * 2


def test_a_closed_tab_ends_the_session():
    records, _, tally = live(person(evenly(3.0, 20), evenly(2.0, 30), stop_after_s=9.0, close_after_s=4.0))
    assert kinds(records) == [("user", "cancelled")]
    assert tally == Tally(opened_turns=1)
    records, _, _ = live(person(evenly(3.0, 20), evenly(2.0, 30), stop_after_s=8.5, close_after_s=8.6))
    assert kinds(records) == [("user", "cancelled"), ("user", "ok")]


def test_a_question_given_up_while_it_was_held_back_leaves_a_record_and_is_never_sent():
    records, backend, _ = live(person(evenly(3.0, 20), evenly(9.0, 30), stop_after_s=4.0), warming=WarmOnOpen())
    assert kinds(records)[:2] == [("warm", "cancelled"), ("user", "abandoned")]
    assert records.seconds("cancelled_at_ns")[:2].tolist() == [7.0, 7.0]
    assert records.seconds("submitted_at_ns")[1] == 3.0
    assert records["sent_at_ns"][1] == NEVER
    assert (records["attempts"][1], records["warm_row"][1], records["residual_warm_ns"][1]) == (0, 0, NEVER)
    assert [ticket.request.kind for ticket in backend.sent] == ["warm", "warm", "user"]
    assert backend.sent[2].request.prompt == (DOCUMENT, Segment("s/t0/draft0", 20), Segment("s/t1/draft0", 30))


def test_a_stopped_question_takes_its_unfinished_warm_up_along():
    records, _, _ = live(person(evenly(3.0, 20), stop_after_s=4.0), warming=WarmOnOpen(), on_unfinished_warm="send")
    assert kinds(records) == [("warm", "cancelled"), ("user", "cancelled")]
    assert records["residual_warm_ns"][1] == NEVER
    kept, _, _ = live(
        person(evenly(3.0, 20), stop_after_s=4.0), warming=WarmOnOpen(cancel_on_abandon=False), on_unfinished_warm="send"
    )
    assert kinds(kept) == [("warm", "ok"), ("user", "cancelled")]
    assert kept.seconds("residual_warm_ns")[1] == 5.0


def test_a_policy_that_warms_before_open_is_told_so():
    class Early(WarmingPolicy):
        def warm_ups(self, typing, prefix_tokens):
            return [WarmUp(-1.0)]

    with pytest.raises(InputError, match=r"Early.warm_ups at_s\(=-1.0\) must be at least 0"):
        live(person(evenly(3.0, 20)), warming=Early())


def test_closed_form_of_warming_for_random_contexts_and_typing_times():
    rng = np.random.default_rng(5)
    for context, typing_s in zip(rng.integers(1, 20_000, 50).tolist(), rng.uniform(0.001, 25, 50).tolist(), strict=True):
        records, _, _ = live(person(evenly(typing_s, 20), shared=(Segment("d", context),)), base_s=0.3, warming=WarmOnFirstKey())
        typed_s = seconds(instant(typing_s))
        assert records.ttft_s[1] == pytest.approx(max(0.0, 0.3 + context / 1e3 - typed_s) + 0.3 + 0.02, abs=1e-9)


class Counting(Clock):
    steps = 0

    def step(self) -> None:
        self.steps += 1
        super().step()


@pytest.mark.parametrize(("warming", "requests", "events"), [(NoWarming(), 1, 2), (WarmOnOpen(), 2, 3)])
def test_a_turn_costs_a_handful_of_events(warming, requests, events):
    """The submit and the end of the answer, and one for a warm-up; the fake's own process takes three a request."""

    def steps(turns: int) -> int:
        somebody = person(*[evenly(3.0, 20)] * turns, output_tokens=1)
        return live(somebody, warming=warming)[1].env.steps

    assert (steps(21) - steps(1)) / 20 == events + 3 * requests


def pings(records: Records) -> list[float]:
    return records.seconds("sent_at_ns")[records.kind == "keepalive"].tolist()


def test_thinking_is_generated_billed_and_dropped_from_the_next_prompt():
    records, backend, _ = live(person(evenly(3.0, 20), evenly(2.0, 30), thinking_tokens=50, output_tokens=51))
    assert records["output_tokens"].tolist() == [101, 101]
    assert records["thinking_tokens"].tolist() == [50, 50]
    assert records.ttft_s[0] == 8.02
    assert records.first_visible_s[0] == pytest.approx(8.02 + 0.50)  # 10 ms a token: the 51st is the first to be seen
    assert [ticket.request.output for ticket in backend.sent] == [Segment("a0/thinking", 101), Segment("a1/thinking", 101)]
    assert backend.sent[1].request.prompt[2] == Segment("a0", 51)


def test_thinking_may_stay_in_the_next_prompt():
    _, backend, _ = live(person(evenly(3.0, 20), evenly(2.0, 30), thinking_tokens=50, thinking_joins=True, output_tokens=51))
    assert backend.sent[0].request.output == backend.sent[1].request.prompt[2] == Segment("a0", 101)


def test_an_answer_stopped_while_it_thinks_leaves_nothing():
    stop = {"thinking_tokens": 50, "output_tokens": 51}
    _, backend, _ = live(person(evenly(3.0, 20), evenly(2.0, 30), stop_after_s=8.3, **stop))
    assert backend.sent[1].request.prompt == (DOCUMENT, Segment("s/t0/draft0", 20), Segment("s/t1/draft0", 30))
    _, backend, _ = live(person(evenly(3.0, 20), evenly(2.0, 30), stop_after_s=8.625, **stop))
    assert backend.sent[1].request.prompt[2] == Segment("a0", 11)


def test_the_question_joins_only_if_it_is_told_to():
    _, backend, _ = live(person(evenly(3.0, 20), evenly(2.0, 30), question_joins=False, answer_joins=False))
    assert backend.sent[1].request.prompt == (DOCUMENT, Segment("s/t1/draft0", 30))


def test_an_open_loop_waits_for_no_answer_and_says_the_same():
    typings = (evenly(3.0, 20), evenly(2.0, 30), evenly(1.0, 10, share=0.5), evenly(1.0, 10))
    _, closed, _ = live(person(*typings))
    records, backend, tally = live(person(*typings, opens_at_s=(0.0, 2.0, 5.0, 6.0)))
    assert records.seconds("submitted_at_ns").tolist() == [3.0, 4.0, 7.0]
    assert [ticket.request.prompt for ticket in backend.sent] == [ticket.request.prompt for ticket in closed.sent]
    assert tally == Tally(opened_turns=4, unsent_turns=1)
    slow, _, _ = live(person(*typings, opens_at_s=(0.0, 2.0, 5.0, 6.0)), base_s=30.0)
    assert slow.seconds("submitted_at_ns").tolist() == [3.0, 4.0, 7.0]
    assert len(live(person(*typings, opens_at_s=(0.0, 2.0, 5.0, 6.0)), until_s=5.0)[0]) == 2


def test_an_open_loop_is_pinged_between_its_questions_as_a_closed_one_is():
    typings = (evenly(3.0, 20), evenly(40.0, 30, share=0.5), evenly(40.0, 30))
    policy = KeepAlive(interval_s=30, most_pings=9)
    closed, _, _ = live(person(*typings, gap_s=100.0), warming=policy, until_s=1_000.0)
    opens_at_s = [0.0, *(float(at) for at in (closed.seconds("finished_at_ns")[0] + 100.0,))]
    opens_at_s.append(opens_at_s[1] + 20.0 + 100.0)
    opened, _, _ = live(person(*typings, opens_at_s=tuple(opens_at_s)), warming=policy, until_s=1_000.0)
    assert (closed["kind"] == "keepalive").sum() > 9
    for column in ("kind", "submitted_at_ns", "prompt_tokens"):
        assert opened[column].tolist() == closed[column].tolist()
    hasty, _, _ = live(person(*typings[::2], opens_at_s=(0.0, 1.0)), base_s=60.0, warming=policy, until_s=1_000.0)
    assert hasty["kind"].tolist() == ["user", "user", *["keepalive"] * 8]  # none between a question and the answer before it


def test_a_turn_may_say_where_its_markers_stand():
    _, backend, _ = live(person(evenly(3.0, 20), evenly(2.0, 30), breakpoints=(1, 3)), warming=WarmOnOpen())
    prompts = [len(ticket.request.prompt) for ticket in backend.sent]
    assert [ticket.request.breakpoints for ticket in backend.sent] == [(1, min(3, length)) for length in prompts]
    assert min(prompts) < 3


def test_pings_keep_their_interval_from_the_last_use_until_the_next_question():
    records, backend, _ = live(
        person(evenly(3.0, 20), evenly(40.0, 30), gap_s=100.0), warming=KeepAlive(interval_s=30, most_pings=9)
    )
    # sent at 3 s, answered at 12.02 s, so pings at 33, 63, 93, 123, 152 is past the question at 152.02 s; then 9 after the second
    assert pings(records)[:4] == pytest.approx([33.0, 63.0, 93.0, 123.0])
    second_s = float(records.seconds("sent_at_ns")[records.kind == "user"][1])
    assert second_s == pytest.approx(152.02)
    assert pings(records)[4:] == pytest.approx([second_s + 30 * k for k in range(1, 10)])
    ping = backend.sent[1].request
    assert ping.prompt == (DOCUMENT, Segment("s/t0/draft0", 20), Segment("a0", 101))
    assert (ping.kind, ping.turn, ping.shared_segments, ping.output.tokens) == ("keepalive", 1, 3, 1)
    assert records["warm_row"].tolist().count(NEVER) == len(records)


def test_pings_end_with_the_run_and_with_a_closed_tab_and_survive_an_unsent_draft():
    three = person(evenly(3.0, 20), evenly(4.0, 9, share=0.5), evenly(2.0, 30), gap_s=30.0)
    records, _, _ = live(three, warming=KeepAlive(interval_s=20, most_pings=99), until_s=150.0)
    last_s = float(records.seconds("sent_at_ns")[records.kind == "user"][1])
    assert last_s == pytest.approx(12.02 + 30 + 2 + 30 + 2)
    assert pings(records) == pytest.approx([23.0, 43.0, 63.0, *(last_s + 20 * k for k in range(1, 5) if last_s + 20 * k < 150)])
    closed, _, _ = live(person(evenly(3.0, 20), close_after_s=1.0), warming=KeepAlive(interval_s=20))
    assert pings(closed) == []


def test_a_ping_that_would_have_fallen_into_the_answer_goes_out_at_its_end():
    records, _, _ = live(person(evenly(3.0, 20)), warming=KeepAlive(interval_s=5, most_pings=2))
    assert pings(records) == pytest.approx([12.02, 13.0])  # due at 8 s and 13 s; the answer ends at 12.02 s


def test_the_last_answer_is_prefilled_before_the_next_turn():
    records, backend, _ = live(person(evenly(3.0, 20), evenly(2.0, 30)), warming=WarmAfterAnswer(delay_s=5.0))
    assert kinds(records)[:3] == [("user", "ok"), ("warm", "ok"), ("user", "ok")]
    assert records.seconds("sent_at_ns")[1] == pytest.approx(17.02)
    assert backend.sent[1].request.prompt == (DOCUMENT, Segment("s/t0/draft0", 20), Segment("a0", 101))
    assert records["hit_tokens"][2] == 8_121
    assert (records["warm_row"][2], records["residual_warm_ns"][2]) == (1, 0)
    # a second answer is prefilled too, for a question that never comes
    assert kinds(records)[3:] == [("warm", "ok")]


def test_records_of_warm_ups_say_when_they_were_visible_and_questions_what_cold_would_have_taken():
    records, _, _ = live(person(evenly(3.0, 20)), warming=WarmOnOpen(), base_s=0.5)
    assert records.seconds("visible_at_ns").tolist()[0] == 8.5
    assert np.isnan(records.seconds("visible_at_ns")[1])
    assert records.seconds("cold_ns")[1] == pytest.approx(0.5 + 8.02)
    assert np.isnan(records.seconds("cold_ns")[0])


def test_the_least_output_is_asked_for_where_the_policy_says_nothing():
    def asked(backend, **policy) -> int:
        return live(person(evenly(3.0, 20)), backend=backend, warming=WarmOnOpen(**policy))[1].sent[0].request.output.tokens

    api = HostedApi(provider="anthropic", model="claude-sonnet-4-5", profile="openai-figure")
    assert (asked(Server()), asked(api), asked(api, warm_output_tokens=1)) == (1, 0, 1)  # rules raise a 0 where they must


def test_a_budget_of_warm_ups_at_once_is_shared_by_everybody():
    crowd = [person(evenly(30.0, 20), user=f"u{i}", shared=(Segment(f"d{i}", 8_000),)) for i in range(5)]
    later = person(evenly(30.0, 20), user="later", shared=(Segment("dl", 8_000),), arrives_at_s=10.0)
    records, _, _ = live(*crowd, later, warming=Budgeted(policy=WarmOnOpen(), most_at_once=2))
    assert records["user"][records.kind == "warm"].tolist() == ["u0", "u1", "later"]


def test_a_budget_of_one_at_once_lets_a_growing_draft_replace_its_warm_up():
    """0.8 s of computing, a token every half second: each warm-up is still under way when the next one cancels it."""
    typed = person(evenly(2.0, 4), user="ann", shared=(Segment("d", 8_000),))
    alone = live(typed, warming=WarmEveryTokens(tokens=1))[0]
    budgeted = live(typed, warming=Budgeted(policy=WarmEveryTokens(tokens=1), most_at_once=1))[0]
    assert (budgeted.kind == "warm").sum() > 2
    assert budgeted == alone
    other = person(evenly(30.0, 20), user="zoe", shared=(Segment("e", 8_000),), arrives_at_s=0.6)
    shared = live(typed, other, warming=Budgeted(policy=WarmEveryTokens(tokens=1), most_at_once=1))[0]
    assert (shared["user"][shared.kind == "warm"] == "ann").sum() == (alone.kind == "warm").sum()


@pytest.mark.parametrize("limit", [{"most_at_once": 2}, {"usd_per_hour": 2.5 * 8_000 * 3.75e-6}], ids=str)
def test_what_another_part_refuses_takes_no_place_in_a_budget(limit):
    """The second part admits one warm-up in all: the first one's purse must not be charged for those that were never sent."""

    class Refuses(WarmingPolicy):
        def warm_ups(self, typing, prefix_tokens):
            return ()

        def fresh(self):
            return AllButThree(self)

    class AllButThree(Warmer):
        asked = 0

        def admits(self, ask):
            self.asked += 1
            return self.asked > 3

    crowd = [person(evenly(9.0, 20), user=f"u{i}", shared=(Segment(f"d{i}", 8_000),), arrives_at_s=20.0 * i) for i in range(5)]
    both = Together(policies=(Budgeted(policy=WarmOnOpen(), **limit), Refuses()))
    records = live(*crowd, warming=both)[0]
    assert records["user"][records.kind == "warm"].tolist() == ["u3", "u4"]


def test_a_budget_of_dollars_holds_in_every_hour():
    crowd = [person(evenly(30.0, 20), user=f"u{i}", shared=(Segment(f"d{i}", 8_000),), arrives_at_s=600.0 * i) for i in range(20)]
    usd = 8_000 * 3.75e-6
    records, _, _ = live(*crowd, warming=Budgeted(policy=WarmOnOpen(), usd_per_hour=3.5 * usd))
    sent_s = records.seconds("sent_at_ns")[records.kind == "warm"]
    assert sent_s.tolist() == [0, 600, 1200, 3600, 4200, 4800, 7200, 7800, 8400, 10800, 11400]
    assert len(live(*crowd, warming=Budgeted(policy=WarmOnOpen(), usd_per_hour=0))[0]) == 20


def test_a_run_makes_its_own_state_and_only_some_warm():
    crowd = [person(evenly(30.0, 20), user=f"u{i}", shared=(Segment(f"d{i}", 8_000),)) for i in range(40)]
    policy = ForSome(policy=Budgeted(policy=WarmOnOpen(), most_at_once=100), share=0.5)
    one, two = live(*crowd, warming=policy)[0], live(*crowd, warming=policy)[0]
    assert one == two
    warmed = set(one["user"][one.kind == "warm"])
    assert warmed == {f"u{i}" for i in range(40) if policy.warms(f"u{i}")}
    assert 10 < len(warmed) < 30


def test_several_policies_at_once():
    both = Together(policies=(WarmOnOpen(), KeepAlive(interval_s=30, most_pings=1)))
    records, _, _ = live(person(evenly(3.0, 20), evenly(2.0, 30)), warming=both)
    assert records["kind"].tolist() == ["warm", "user", "keepalive", "warm", "user", "keepalive"]


def test_the_oracle_sends_nothing_for_a_draft_that_will_be_left_and_plans_over_it():
    somebody = person(evenly(9.0, 20), evenly(4.0, 9, share=0.5), evenly(2.0, 30), gap_s=30.0)
    records, _, _ = live(somebody, warming=Oracle())
    assert kinds(records) == [("warm", "ok"), ("user", "ok"), ("warm", "ok"), ("user", "ok")]
    assert records["hit_tokens"][[1, 3]].tolist() == [8_000, 8_121]
    assert live(person(evenly(9.0, 20, share=0.5)), warming=Oracle())[0]["kind"].tolist() == []


def test_an_adaptive_policy_learns_who_sends():
    sender = person(*[evenly(10.0, 20)] * 12, user="sends")
    leaver = person(*[evenly(10.0, 20, share=0.9)] * 12, user="leaves", arrives_at_s=0.5)
    records, _, _ = live(sender, leaver, warming=Adaptive())
    warmed = records["user"][records.kind == "warm"].tolist()
    assert warmed.count("sends") == 12
    assert warmed.count("leaves") <= 1


def test_a_policy_with_state_of_ones_own():
    class Twice(WarmingPolicy):
        def fresh(self):
            return Counter(self)

    class Counter(Warmer):
        def __init__(self, policy):
            super().__init__(policy)
            self.left = 2

        def on_open(self, moment):
            self.left -= 1
            return [WarmUp(0.0)] if self.left >= 0 else []

    records, _, _ = live(person(*[evenly(3.0, 20)] * 4), warming=Twice())
    assert records["kind"].tolist() == ["warm", "user", "warm", "user", "user", "user"]
