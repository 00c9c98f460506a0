"""Figures over time and over several runs: what they compute before they draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcache.engine.clock import TICKS_PER_NS
from simcache.engine.journal import Journal, Stretch
from simcache.engine.run import simulate
from simcache.report.figures import sheet
from simcache.report.study_figures import (
    FATES,
    Choice,
    load_point,
    pareto,
    plot_against,
    plot_pareto,
    plot_ttft_by_load,
    plot_warm_ups,
    warm_up_fates,
)
from simcache.report.time_figures import lived_turns, occupancy, plot_conversation, plot_occupancy, typical_user
from simcache.scenario import HostedApi, Scenario, Server
from simcache.stats import Estimate
from simcache.warming import WarmOnFocus
from simcache.workload.presets import TypingSessions
from simcache.workload.synthetic import PoissonRequests
from tests.synthetic_runs import answer, records_of

SECOND = 10**9 * TICKS_PER_NS


def stretch(replica: int, start_s: float, end_s: float, waiting: int, decodes: int, held: int) -> Stretch:
    return Stretch(replica, round(start_s * SECOND), round(end_s * SECOND), 1, decodes, (), waiting, held, 100)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1), st.integers(0, 40), st.integers(1, 9), st.integers(0, 5), st.integers(0, 5), st.integers(0, 100)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_occupancy_loses_no_second(drawn):
    stretches = [stretch(r, start, start + span, waiting, running, held) for r, start, span, waiting, running, held in drawn]
    found = occupancy(stretches, bins=7)
    width_s = (max(s + n for _, s, n, *_ in drawn) - min(s for _, s, *_ in drawn)) / 7
    replicas = len({r for r, *_ in drawn})
    assert found.waiting.sum() * width_s == pytest.approx(sum(n * w for _, _, n, w, _, _ in drawn), abs=1e-6)
    assert found.running.sum() * width_s == pytest.approx(sum(n * d for _, _, n, _, d, _ in drawn), abs=1e-6)
    assert found.held.sum() * width_s == pytest.approx(sum(n * h / 100 / replicas for _, _, n, _, _, h in drawn), abs=1e-6)


def test_occupancy_falls_to_nothing_between_two_stretches():
    found = occupancy([stretch(0, 0, 1, 2, 1, 50), stretch(0, 3, 4, 4, 1, 50)], bins=4)
    assert found.waiting.tolist() == pytest.approx([2, 0, 0, 4])
    assert found.at_s.tolist() == pytest.approx([0.5, 1.5, 2.5, 3.5])
    assert not len(occupancy([]).at_s)


def test_every_warm_up_meets_one_fate():
    def warm(**others):
        return {"kind": "warm", "outcome": "ok", **others}

    records = records_of(
        warm(used_by_row=6),
        warm(used_by_row=7),
        warm(dropped_tokens=16),
        warm(),
        warm(outcome="cancelled"),
        warm(outcome="rejected"),
        answer(1.0, 0.1, warm_row=0, residual_warm_ns=0),
        answer(1.0, 0.1, warm_row=1, residual_warm_ns=5),
        answer(1.0, 0.1),
    )
    assert warm_up_fates(records) == dict.fromkeys(FATES, 1)


def test_fates_of_a_run_add_up_to_its_warm_ups():
    scenario = Scenario(
        workload=TypingSessions(users=20, p_send=0.6, document_tokens=9_000),
        backend=Server(kv_tokens=40_000),
        warming=WarmOnFocus(),
        duration_s=300,
    )
    records = simulate(scenario, seed=3).records
    fates = warm_up_fates(records)
    assert sum(fates.values()) == np.count_nonzero(records["kind"] == "warm") > 10
    assert fates["in time"] > 0
    with sheet() as (_, (ax,)):
        plot_warm_ups({"$a_b": fates, "none": dict.fromkeys(FATES, 0)}, ax)
        assert sum(bar.get_width() for container in ax.containers for bar in container) == pytest.approx(100)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=20))
def test_the_front_is_what_nothing_beats(drawn):
    choices = [Choice(f"{number}", float(wait), float(cost)) for number, (wait, cost) in enumerate(drawn)]
    front = pareto(choices)
    for each in choices:
        beaten = any(
            (o.p95_s <= each.p95_s and o.usd_per_1000_questions <= each.usd_per_1000_questions)
            and (o.p95_s, o.usd_per_1000_questions) != (each.p95_s, each.usd_per_1000_questions)
            for o in choices
        )
        assert beaten != any((f.p95_s, f.usd_per_1000_questions) == (each.p95_s, each.usd_per_1000_questions) for f in front)
    assert front == sorted(front, key=lambda choice: choice.p95_s)


def test_the_hockey_stick_bends_where_the_replica_saturates():
    def results(per_s):
        scenario = Scenario(
            workload=PoissonRequests(rate_per_s=per_s, count=round(300 * per_s), prompt_tokens=4_000, output_tokens=50),
            backend=Server(),
        )
        return [simulate(scenario, seed=seed) for seed in (1, 2)]

    points = [load_point(results(per_s)) for per_s in (0.5, 1.5, 6.0)]
    assert [point.served_per_s is None for point in points] == [True, True, False]
    assert points[2].served_per_s < points[2].offered_per_s == pytest.approx(6.0, rel=0.1)
    assert points[0].p95_s.mean < points[1].p95_s.mean < points[2].p95_s.mean
    with sheet() as (_, (ax,)):
        plot_ttft_by_load(points[::-1], ax)
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert labels[:2] == ["median", "p95"]
        assert labels[2].startswith("saturated at ")
        assert ax.lines[2].get_xdata()[0] == points[2].served_per_s
        assert list(ax.lines[0].get_xdata()) == sorted(point.offered_per_s for point in points)


def test_a_conversation_is_drawn_from_the_records():
    scenario = Scenario(
        workload=TypingSessions(users=9, questions=2, document_tokens=5_000),
        backend=Server(),
        warming=WarmOnFocus(),
        duration_s=200,
    )
    result = simulate(scenario, seed=5)
    user = typical_user(result)
    turns = lived_turns(result, user, 200)
    asked = result.records.where((result.records["user"] == user) & (result.records["kind"] == "user"))
    assert len(turns) == len(asked) == 2
    for turn, ttft_s in zip(turns, asked.ttft_s, strict=True):
        assert turn.first_token_s - turn.submitted_s == pytest.approx(ttft_s)
        assert turn.finished_s > turn.first_token_s
        assert all(0 <= key_s <= turn.submitted_s for key_s in turn.keys_s)
        assert len(turn.warm_ups) == 1
        assert 0 <= turn.warm_ups[0][0] < turn.warm_ups[0][1]
    with sheet() as (_, (ax,)):
        plot_conversation(turns, ax)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["keys", "warm-up", "waits", "answer streams"]
        plot_conversation([], ax)


def test_nobody_typed_so_nobody_is_typical():
    result = simulate(
        Scenario(workload=PoissonRequests(rate_per_s=1.0, count=5, prompt_tokens=100, output_tokens=2), backend=Server()),
        duration_s=5,
    )
    assert typical_user(result) is None
    assert lived_turns(result, "u0", 5) == []
    api = HostedApi(provider="anthropic", model="claude-sonnet-4-5", profile="openai-figure")
    silent = Scenario(workload=TypingSessions(users=1, p_send=0.0), backend=api, duration_s=5)
    assert typical_user(simulate(silent)) is None


def test_a_journal_of_a_run_is_drawn():
    journal = Journal()
    scenario = Scenario(workload=TypingSessions(users=5, document_tokens=5_000), backend=Server(), duration_s=100)
    simulate(scenario, seed=1, journal=journal)
    found = occupancy(journal.stretches)
    assert 0 < found.running.max() < 6
    assert 0 < found.held.max() <= 1
    with sheet(3, 1) as (_, axes):
        plot_occupancy(found, axes)
        assert [ax.get_ylabel() for ax in axes] == ["waiting", "running", "KV held, %"]
        plot_occupancy(occupancy([]), axes)


def test_lines_against_an_axis_are_sorted_and_scaled():
    points = [(4.0, Estimate(0.5, None, None, 1)), (1.0, Estimate(0.2, 0.1, 0.3, 5)), (64.0, Estimate(0.9, 0.8, 1.0, 5))]
    with sheet() as (_, (ax,)):
        plot_against({"$x": points}, ax, x_label="replicas", y_label="hits, %", factor=100)
        assert ax.get_xscale() == "log"
        assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "4", "64"]
        assert list(ax.lines[0].get_ydata()) == pytest.approx([20, 50, 90])
    with sheet() as (_, (ax,)):
        plot_pareto([Choice("a", 0.01, 1.0), Choice("b", 10.0, 0.5), Choice("c", 10.0, 5.0)], ax)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
