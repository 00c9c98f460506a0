"""The shipped uses, agents' turns, open loop, unsent drafts by time and length, and who comes when."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simcache.engine.run import simulate
from simcache.errors import InputError
from simcache.prompt import Segment, prompt_tokens
from simcache.scenario_file import load_scenarios, parse_scenarios, to_toml
from simcache.workload.arrivals import HOUR_S, DayAndWeek, poisson_instants
from simcache.workload.distributions import LogNormal, Uniform
from simcache.workload.presets import TypingSessions
from simcache.workload.typist import INPUT_METHOD, MOBILE
from simcache.workload.uses import USES


def people(seed: int = 1, duration_s: float = 3600.0, **fields):
    return list(TypingSessions(**{"users": 30, **fields}).people(seed, duration_s))


@pytest.mark.parametrize("name", USES)
def test_every_use_is_a_shipped_scenario_and_runs(name):
    scenarios = load_scenarios(name)
    own, shipped = USES[name](), scenarios[0].workload
    assert to_toml(scenarios[0].but(workload=own)).count("\n") == to_toml(scenarios[0]).count("\n")
    for field in own.__dataclass_fields__:
        mine, theirs = getattr(own, field), getattr(shipped, field)
        if isinstance(mine, LogNormal):
            assert (mine.median, mine.sigma) == (pytest.approx(theirs.median), theirs.sigma), field
        else:
            assert mine == theirs, field
    for scenario in scenarios:
        small = scenario.but(workload__users=4) if scenario.workload.users is not None else scenario
        result = simulate(small, duration_s=600, seed=1)
        assert (result.records.kind == "user").any()
        assert (result.records.outcome == "ok").mean() > 0.9
    assert USES[name].__doc__.count("\n") > 3


def test_a_use_takes_changes():
    assert USES["coding-assistant"](users=3).users == 3
    assert USES["coding-assistant"](arrivals_per_s=0.1).users is None
    with pytest.raises(TypeError, match="userz"):
        USES["coding-assistant"](userz=3)


def test_the_coding_assistant_resembles_the_sessions_it_is_taken_from(shared_data):
    from simcache.workload.empirical import TracePauses, session_gaps

    path = str(shared_data / "traces" / "claude_code_sessions.jsonl.gz")
    use = USES["coding-assistant"](users=300, arrive_within_s=0)
    crowd = list(use.people(1, math.inf))
    turns = [turn for person in crowd for turn in person.turns]
    tools = np.array([turn.typing.end_at_s for turn in turns if not turn.typed])
    gaps = [gap for session in session_gaps(path) for gap in session]
    real_tools = np.array([gap.delay_s for gap in gaps if gap.after_tool])
    assert np.median(tools) == pytest.approx(np.median(real_tools), rel=0.1)
    per_question = np.sum([not turn.typed for turn in turns]) / np.sum([turn.typed for turn in turns])
    assert per_question == pytest.approx(13.0, rel=0.2)
    people_s = np.sort(np.array([gap.delay_s for gap in gaps if not gap.after_tool]))
    law = use.read_think_s
    assert np.abs(law.cdf(people_s) - (np.arange(len(people_s)) + 0.5) / len(people_s)).max() < 0.08
    assert law.median == pytest.approx(math.exp(np.log(people_s[people_s > 0]).mean()), rel=0.02)
    resampled = USES["coding-assistant"](users=300, arrive_within_s=0, read_think_s=TracePauses(path=path))
    waits = [turn.gap_s for person in resampled.people(1, math.inf) for turn in person.turns if turn.gap_s]
    assert set(waits) <= set(people_s.tolist())


def test_tool_calls_come_between_question_and_answer():
    (person,) = people(
        users=1, questions=2, tool_calls=2, tool_delay_s=7, tool_result_tokens=300, tool_call_tokens=20, output_tokens=90,
        typing_s=3, question_tokens=10, read_think_s=60, thinking_tokens=5, stop_after_s=99,
    )  # fmt: skip
    assert [turn.typed for turn in person.turns] == [True, False, False] * 2
    assert [turn.output.tokens for turn in person.turns] == [20, 20, 90] * 2
    assert [turn.gap_s for turn in person.turns] == [0, 0, 60] * 2
    assert [turn.typing.end_at_s for turn in person.turns] == [3, 7, 7] * 2
    assert [turn.stop_after_s for turn in person.turns] == [99, None, None] * 2
    assert [prompt_tokens(turn.question) for turn in person.turns] == [10, 300, 300] * 2
    assert {turn.thinking_tokens for turn in person.turns} == {5}
    assert [turn.index for turn in person.turns] == list(range(6))
    assert people(users=1, questions=2, tool_calls=2, p_send=0.0)[0].turns[-1].index == 1  # nothing sent, nothing called


def test_agents_do_not_change_what_people_type():
    for one, other in zip(people(), people(tool_calls=3, thinking_tokens=50, document_images=2), strict=True):
        assert [turn.typing for turn in one.turns] == [turn.typing for turn in other.turns if turn.typed]


def test_images_are_segments_behind_the_text():
    (person,) = people(users=1, document_tokens=100, document_images=2, image_tokens=1_500)
    assert person.turns[0].shared[1:] == (
        Segment("document/u0", 100),
        Segment("document/u0/image0", 1_500),
        Segment("document/u0/image1", 1_500),
    )
    crowd = people(users=40, documents=3, document_images=Uniform(low=0, high=4))
    assert len({person.turns[0].shared for person in crowd}) == 3


def test_an_open_loop_has_its_instants_before_anything_is_served():
    (person,) = people(users=1, questions=3, typing_s=3, read_think_s=60, open_loop_answer_s=10, arrive_within_s=0)
    assert person.opens_at_s == (0.0, 73.0, 146.0)
    assert people(users=1)[0].opens_at_s is None
    (left,) = people(users=1, questions=2, typing_s=4, read_think_s=60, open_loop_answer_s=10, arrive_within_s=0, p_send=0)
    assert left.opens_at_s[1] == left.turns[0].typing.left_at_s + 60


def test_drafts_are_left_by_time_and_by_length():
    fields = {"users": 200, "paste_share": 0}
    slow = [turn.typing for person in people(leave_after_s=20, **fields) for turn in person.turns]
    free = [turn.typing for person in people(**fields) for turn in person.turns]
    assert all(a == b if b.end_at_s <= 20 else a.left_at_s == 20 for a, b in zip(slow, free, strict=True))
    long = [turn.typing for person in people(leave_at_tokens=30, **fields) for turn in person.turns]
    for a, b in zip(long, free, strict=True):
        reached = b.reaches_tokens_at_s(30)
        assert a == b if reached is None else (a.left_at_s == reached and a.draft_tokens(1e9) == 30)


def test_populations_of_other_keyboards_run():
    for typist in (MOBILE, INPUT_METHOD):
        crowd = people(typist=typist, paste_share=0)
        assert all(turn.typing.first_key_at_s is not None for person in crowd for turn in person.turns)
    scenario = load_scenarios("demo")[0].but(workload=TypingSessions(users=3, typist=MOBILE))
    again = parse_scenarios(to_toml(scenario)).scenarios[0]
    assert again.workload.typist == MOBILE


WEEK_S = 7 * 24 * HOUR_S


def test_people_come_by_the_hour():
    curve = DayAndWeek(starts_on_day=0, starts_at_hour=0)
    at_s = np.array(list(poisson_instants(3, 0.05, WEEK_S, curve)))
    assert len(at_s) == pytest.approx(0.05 * WEEK_S, abs=4 * math.sqrt(0.05 * WEEK_S))
    expected = curve.factor(np.arange(168) * HOUR_S) * 0.05 * HOUR_S
    counted = np.histogram(at_s, bins=np.arange(169) * HOUR_S)[0]
    assert np.abs(counted - expected).max() < 5 * math.sqrt(expected.max())
    # the instants follow the curve's own law: Kolmogorov's distance
    law = curve.expected_s(np.sort(at_s)) / WEEK_S
    assert np.abs(law - np.arange(len(at_s)) / len(at_s)).max() < 0.01
    assert list(poisson_instants(3, 0.05, HOUR_S * 30, curve)) == [t_s for t_s in at_s.tolist() if t_s < HOUR_S * 30]


def test_a_number_of_people_over_a_window_follows_the_curve_too():
    curve = DayAndWeek(hours=(0,) * 9 + (1,) * 8 + (0,) * 7, days=(1,) * 7, starts_at_hour=7)
    at_s = np.array([person.arrives_at_s for person in people(users=2000, duration_s=24 * HOUR_S, day_and_week=curve, questions=1)])
    assert at_s.min() >= 2 * HOUR_S
    assert at_s.max() < 10 * HOUR_S
    assert np.abs((at_s - 2 * HOUR_S) / (8 * HOUR_S) - (np.arange(2000) + 0.5) / 2000).max() < 0.05
    with pytest.raises(InputError, match="must let somebody come"):
        people(duration_s=HOUR_S, day_and_week=curve)


def test_the_curve_has_mean_one_and_repeats_every_week():
    curve = DayAndWeek(starts_on_day=3, starts_at_hour=13.5)
    at_s = np.linspace(0, WEEK_S, 500)
    assert curve.factor(at_s).tolist() == curve.factor(at_s + WEEK_S).tolist()
    assert curve.expected_s(WEEK_S) == pytest.approx(WEEK_S)
    steps = np.diff(curve.expected_s(np.arange(0, WEEK_S + 1, 60.0)))
    assert steps == pytest.approx(curve.factor(np.arange(0, WEEK_S, 60.0)) * 60)


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (lambda: DayAndWeek(hours=(1,) * 23), "hours.* must be 24 weights"),
        (lambda: DayAndWeek(days=(0,) * 7), "days.* must not all be 0"),
        (lambda: DayAndWeek(hours=(-1,) * 24), "hours"),
        (lambda: DayAndWeek(starts_on_day=7), "starts_on_day"),
        (lambda: DayAndWeek(starts_at_hour=25), "starts_at_hour"),
        (lambda: TypingSessions(users=1, leave_after_s=-1), "leave_after_s"),
        (lambda: TypingSessions(users=1, leave_at_tokens=0), "leave_at_tokens"),
        (lambda: TypingSessions(users=1, tool_calls=-1), "tool_calls"),
        (lambda: TypingSessions(users=1, tool_delay_s=None), "tool_delay_s.* must be a number or a distribution"),
        (lambda: TypingSessions(users=1, thinking_tokens=1.5), "thinking_tokens"),
        (lambda: TypingSessions(users=1, open_loop_answer_s=-2), "open_loop_answer_s"),
    ],
)
def test_impossible_uses_are_refused(build, rule):
    with pytest.raises(InputError, match=rule):
        build()
