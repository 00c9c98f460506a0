"""Populations: the same people under every policy, and each field of TypingSessions does what it says."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import simpy

from simcache.engine.client import start
from simcache.engine.clock import instant
from simcache.errors import InputError
from simcache.prompt import Segment
from simcache.records import RecordsBuilder
from simcache.scenario import Scenario, Server
from simcache.warming import NoWarming, WarmEveryTokens, WarmOnFocus
from simcache.workload import ClosedLoop
from simcache.workload.distributions import Exponential, Geometric, LogNormal, Uniform
from simcache.workload.presets import TypingSessions
from simcache.workload.sessions import Person, Turn
from simcache.workload.typist import Typist, evenly
from tests.linear_backend import Linear


def people(seed: int = 1, duration_s: float = 3600.0, **fields) -> list[Person]:
    return list(TypingSessions(**{"users": 30, **fields}).people(seed, duration_s))


def test_the_first_lines_of_a_user_work():
    crowd = people(users=200, document_tokens=8_000)
    assert isinstance(TypingSessions(users=200), ClosedLoop)
    assert len(crowd) == len({person.user for person in crowd}) == 200
    arrivals = [person.arrives_at_s for person in crowd]
    assert arrivals == sorted(arrivals)
    assert 0 <= arrivals[0] < 100
    assert 3500 < arrivals[-1] < 3600
    assert all(person.turns and turn.shared[-1].tokens == 8_000 for person in crowd for turn in person.turns)
    assert len({person.turns[0].shared[-1].key for person in crowd}) == 200
    assert np.mean([len(person.turns) for person in crowd]) == pytest.approx(3.51, abs=0.7)


def test_equal_seeds_give_equal_people_and_other_seeds_others():
    assert people(seed=4) == people(seed=4)
    assert people(seed=4) != people(seed=5)


def test_more_people_are_the_same_people_and_more():
    few, many = people(users=10, arrive_within_s=0), people(users=30, arrive_within_s=0)
    assert many[:10] == few


@pytest.mark.parametrize(
    "change",
    [
        {"read_think_s": 5},
        {"output_tokens": 7},
        {"document_tokens": LogNormal(median=100, sigma=1)},
        {"stop_after_s": Exponential(mean=9)},
        {"organisations": 3},
        {"answer_joins": False},
        {"documents": 4},
        {"p_send": 0.999999},
    ],
    ids=str,
)
def test_a_change_of_one_thing_leaves_typing_as_it_is(change):
    for one, other in zip(people(), people(**change), strict=True):
        assert one.arrives_at_s == other.arrives_at_s
        assert [turn.typing for turn in one.turns] == [turn.typing for turn in other.turns]


def test_a_draft_that_is_not_sent_shifts_nobody():
    all_sent, some = people(p_send=1.0), people(p_send=0.5)
    left = 0
    for one, other in zip(all_sent, some, strict=True):
        for turn, changed in zip(one.turns, other.turns, strict=True):
            if changed.typing.submit_at_s is not None:
                assert turn == changed
            else:
                left += 1
                n = len(changed.typing.event_at_s)
                assert turn.typing.event_at_s[:n].tolist() == changed.typing.event_at_s.tolist()
                assert replace(turn, typing=changed.typing) == changed
    assert left / sum(len(person.turns) for person in some) == pytest.approx(0.5, abs=0.15)


def test_fewer_sent_drafts_are_a_subset():
    def sent(p_send: float) -> set[tuple[str, int]]:
        crowd = people(p_send=p_send)
        return {(person.user, turn.index) for person in crowd for turn in person.turns if turn.typing.submit_at_s is not None}

    assert sent(0.0) == set()
    assert sent(0.3) < sent(0.7) < sent(1.0)


def lived(warming, on_unfinished_warm="wait", **fields) -> dict[tuple[str, int], tuple]:
    """(user, turn) -> prompt and output of every question, after a run."""
    env, records = simpy.Environment(), RecordsBuilder()
    backend = Linear(env, records, 0.2, "")
    workload = TypingSessions(users=20, **fields)
    scenario = Scenario(workload=workload, backend=Server(), warming=warming, on_unfinished_warm=on_unfinished_warm)
    for person in workload.people(3, 600.0):
        start(env, backend, person, scenario, records, instant(1e9))
    env.run()
    return {
        (t.request.user, t.request.turn): (t.request.prompt, t.request.output) for t in backend.sent if t.request.kind == "user"
    }


def test_a_change_of_policy_shifts_nobody():
    cold = lived(NoWarming(), p_send=0.7)
    assert len(cold) > 30
    assert lived(WarmOnFocus(), p_send=0.7) == cold
    assert lived(WarmEveryTokens(tokens=3), "send", p_send=0.7) == cold


def test_prompts_are_shared_parts_then_history_then_the_question():
    prompt, output = lived(NoWarming(), tools_tokens=300, questions=2, output_tokens=5, paste_share=0)[("u7", 1)]
    assert [segment.key for segment in prompt[:3]] == ["tools", "system", "document/u7"]
    assert [segment.tokens for segment in prompt[:3]] == [300, 500, 8_000]
    assert str(prompt[3].key).startswith("u7/t0/draft")
    assert Segment("u7/t0/answer", 5) in prompt
    assert str(prompt[-1].key).startswith("u7/t1/draft")
    assert output == Segment("u7/t1/answer", 5)


def test_fixed_typing_and_plain_numbers_everywhere():
    crowd = people(
        users=1,
        arrive_within_s=0,
        document_tokens=151_629,
        system_tokens=0,
        questions=1,
        question_tokens=22,
        typing_s=3,
        output_tokens=362,
        read_think_s=0,
    )
    question = Turn(
        session="u0",
        index=0,
        typing=evenly(3.0, 22),
        shared=(Segment("document/u0", 151_629),),
        output=Segment("u0/t0/answer", 362),
        gap_s=0.0,
    )
    assert crowd == [Person(user="u0", arrives_at_s=0.0, turns=(question,))]
    assert crowd[0].turns[0].question == (Segment("u0/t0/draft0", 22),)


def test_poisson_arrivals_come_at_their_rate_and_go_on_where_they_were():
    crowd = people(users=None, arrivals_per_s=0.5, duration_s=4000.0, questions=1, typing_s=1)
    assert len(crowd) == pytest.approx(2000, abs=4 * math.sqrt(2000))
    gaps = np.diff([person.arrives_at_s for person in crowd])
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)
    shorter = people(users=None, arrivals_per_s=0.5, duration_s=1000.0, questions=1, typing_s=1)
    assert shorter == crowd[: len(shorter)]


def test_arrivals_within_a_window_and_before_the_end():
    assert all(person.arrives_at_s < 60 for person in people(arrive_within_s=60))
    cut = people(arrive_within_s=600, duration_s=60.0)
    assert cut == [person for person in people(arrive_within_s=600, duration_s=600.0) if person.arrives_at_s < 60]
    assert len(people(arrive_within_s=0, duration_s=math.inf)) == 30


def test_shared_documents_follow_zipf_and_keep_one_size():
    crowd = people(users=3000, documents=4, zipf=1.0, document_tokens=Uniform(low=100, high=9_000), questions=1, typing_s=1)
    count = Counter(person.turns[0].shared[-1] for person in crowd)
    assert len(count) == 4
    shares = [count[segment] / 3000 for segment in sorted(count, key=lambda segment: str(segment.key))]
    assert shares == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25], abs=0.03)


def test_organisations_and_empty_parts():
    crowd = people(organisations=3, system_tokens=0, document_tokens=0)
    assert [person.organisation for person in crowd[:4]] == ["org0", "org1", "org2", "org0"]
    assert all(turn.shared == () for person in crowd for turn in person.turns)


def test_pastes_come_with_first_messages_only():
    crowd = people(users=1000, paste_share=0.07, pasted_tokens=5_000, question_tokens=3, questions=2)
    asked = np.array([[sum(segment.tokens for segment in turn.question) for turn in person.turns] for person in crowd])
    assert set(asked[:, 0]) == {3, 5_003}
    assert set(asked[:, 1]) == {3}
    assert np.mean(asked[:, 0] > 3) == pytest.approx(0.07, abs=0.025)


def test_follow_up_questions_come_at_the_measured_pace():
    """Start to start in the Mooncake conversation trace (3,195 pairs); generation at 40 tokens/s."""
    crowd = people(users=2500, seed=2)
    starts = np.array([turn.gap_s + turn.output.tokens / 40 + turn.typing.end_at_s for person in crowd for turn in person.turns])
    assert np.percentile(starts, [5, 25, 50, 75, 90]) == pytest.approx([30, 69, 126, 273, 483], rel=0.16)
    assert np.mean(starts <= 300) == pytest.approx(0.778, abs=0.04)


def test_p_send_may_differ_between_people():
    crowd = people(users=400, p_send=Uniform(low=0, high=1), questions=40, typing_s=1)
    shares = [np.mean([turn.typing.submit_at_s is not None for turn in person.turns]) for person in crowd]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert np.std(shares) == pytest.approx(math.sqrt(1 / 12 + 1 / 6 / 40), abs=0.03)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"users": None}, "or else arrivals_per_s must be given"),
        ({"arrivals_per_s": 1.0}, "or else arrivals_per_s must be given, and only one of them"),
        ({"users": 0}, r"users\(=0\) must be at least 1"),
        ({"users": 2.5}, r"users\(=2.5\) must be a whole number"),
        ({"users": None, "arrivals_per_s": 0}, "arrivals_per_s.* must be above 0"),
        ({"users": None, "arrivals_per_s": 1, "arrive_within_s": 3}, "arrive_within_s.* goes with users"),
        ({"arrive_within_s": -1}, "arrive_within_s.* must be at least 0"),
        ({"p_send": 1.2}, r"p_send\(=1.2\) must be at most 1"),
        ({"p_send": -0.1}, r"p_send\(=-0.1\) must be at least 0"),
        ({"p_send": Uniform(low=0, high=2)}, "p_send"),
        ({"p_send": math.nan}, "p_send.* must be finite"),
        ({"typing_s": -3}, r"typing_s\(=-3\) must be at least 0"),
        ({"read_think_s": -1}, "read_think_s"),
        ({"read_think_s": None}, "read_think_s.* must be a number or a distribution"),
        ({"stop_after_s": -1}, "stop_after_s"),
        ({"close_after_s": "soon"}, "close_after_s.* must be a number or a distribution"),
        ({"document_tokens": -1}, "document_tokens"),
        ({"document_tokens": 10.5}, r"document_tokens\(=10.5\) must be a whole number, or a distribution"),
        ({"question_tokens": 0}, r"question_tokens\(=0\) must be at least 1"),
        ({"questions": 0}, r"questions\(=0\) must be at least 1"),
        ({"questions": None}, "questions.* must be a number or a distribution"),
        ({"paste_share": 1.5}, "paste_share"),
        ({"zipf": -1}, "zipf"),
        ({"documents": 0}, "documents"),
        ({"organisations": 0}, "organisations"),
    ],
    ids=str,
)
def test_impossible_populations_are_refused(fields, rule):
    with pytest.raises(InputError, match=rule):
        TypingSessions(**{"users": 3, **fields})


@pytest.mark.parametrize("fields", [{"users": 3}, {"users": None, "arrivals_per_s": 1.0}])
def test_arrivals_without_an_end_need_one(fields):
    with pytest.raises(InputError, match=r"duration_s\(=inf\) must be given where people arrive"):
        people(duration_s=math.inf, **fields)


def test_a_slow_typist_is_slow():
    slow = people(typist=Typist(person_key_s=2.0), questions=Geometric(mean=2))
    quick = people(typist=Typist(person_key_s=0.1), questions=Geometric(mean=2))
    assert all(
        a.typing.end_at_s > b.typing.end_at_s
        for one, other in zip(slow, quick, strict=True)
        for a, b in zip(one.turns, other.turns, strict=True)
    )
