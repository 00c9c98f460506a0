"""The two shipped demonstrations, end to end, with every figure worked by hand, and study 01."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from simcache import metrics
from simcache.engine.run import simulate
from simcache.records import NEVER
from simcache.scenario_file import load_scenarios

STUDY = Path(__file__).parent.parent / "studies" / "01_speculative_recipe.py"

CONTEXT, QUESTION = 151_629, 22
INPUT, WRITE, READ, OUTPUT = 3e-6, 3.75e-6, 0.30e-6, 15e-6
WARM_S = 20.87 * (CONTEXT / (CONTEXT + QUESTION)) + 1.1 * QUESTION / (CONTEXT + QUESTION)
"""The cold call's line (20.87 s for all tokens, 1.1 s for none) at 22 tokens fewer: what the warm-up takes, inferred."""


@pytest.fixture(scope="module")
def recipe():
    return {scenario.name: simulate(scenario) for scenario in load_scenarios("speculative-recipe")}


@pytest.fixture(scope="module")
def demo():
    return {scenario.name: simulate(scenario) for scenario in load_scenarios("openai-demo")}


def question(result):
    return next(row for row in result.records if row["kind"] == "user")


def ttft_s(result) -> float:
    return float(result.records.ttft_s[result.records.kind == "user"][0])


def e2e_s(result) -> float:
    return float(result.records.e2e_s[result.records.kind == "user"][0])


def test_variants_are_named_as_promised(recipe):
    assert list(recipe) == ["no warming", "warm, wait", "warm, send at once"]


def test_no_warming(recipe):
    result = recipe["no warming"]
    row = question(result)
    assert ttft_s(result) == pytest.approx(20.87, abs=0.005)
    assert e2e_s(result) == pytest.approx(28.32, abs=0.005)
    assert (row["written_5m_tokens"], row["hit_tokens"], row["output_tokens"]) == (CONTEXT, 0, 362)
    assert len(result.records) == 1
    by_hand = CONTEXT * WRITE + QUESTION * INPUT + 362 * OUTPUT
    assert by_hand == pytest.approx(0.574, abs=0.0005)
    assert result.bill.total_usd == pytest.approx(by_hand, rel=1e-12)


def test_warm_and_wait(recipe):
    result = recipe["warm, wait"]
    row = question(result)
    assert (row["written_5m_tokens"], row["hit_tokens"], row["output_tokens"]) == (0, CONTEXT, 330)
    # as the recipe prints it: the clock starts when the warm-up has ended
    after_warm_s = (row["first_token_at_ns"] - row["submitted_at_ns"] - row["residual_warm_ns"]) / 1e9
    assert after_warm_s == pytest.approx(1.94, abs=0.005)
    assert (row["finished_at_ns"] - row["sent_at_ns"]) / 1e9 == pytest.approx(8.40, abs=0.005)
    # what the user lives with
    assert row["residual_warm_ns"] / 1e9 == pytest.approx(WARM_S - 3.0, abs=0.001)
    assert ttft_s(result) == pytest.approx(19.8, abs=0.05)
    assert e2e_s(result) == pytest.approx(26.3, abs=0.05)
    by_hand = (CONTEXT * WRITE + 1 * OUTPUT) + (CONTEXT * READ + QUESTION * INPUT + 330 * OUTPUT)
    assert by_hand == pytest.approx(0.619, abs=0.0005)
    assert result.bill.total_usd == pytest.approx(by_hand, rel=1e-12)
    assert result.bill.warm_waste_usd == 0


def test_warm_and_send_at_once(recipe):
    result = recipe["warm, send at once"]
    row = question(result)
    assert ttft_s(result) == pytest.approx(20.9, abs=0.05)
    assert e2e_s(result) == pytest.approx(28.32, abs=0.005)
    assert result.records.written_5m_tokens.tolist() == [CONTEXT, CONTEXT]
    # it names the warm-up that was under way, but gained nothing from it: the recipe's figure does not apply
    assert row["warm_row"] == 0
    assert metrics.ttft_after_warm_s(result.records).size == 0
    assert (row["hit_tokens"], row["output_tokens"]) == (0, 362)
    by_hand = (CONTEXT * WRITE + 1 * OUTPUT) + (CONTEXT * WRITE + QUESTION * INPUT + 362 * OUTPUT)
    assert by_hand == pytest.approx(1.14, abs=0.005)
    assert result.bill.total_usd == pytest.approx(by_hand, rel=1e-12)
    assert result.bill.warm_waste_usd == pytest.approx(CONTEXT * WRITE + OUTPUT)  # nobody ever hit the warm-up


def test_the_claims_in_per_cent(recipe):
    cold_s = ttft_s(recipe["no warming"])
    assert 1 - 1.94 / cold_s == pytest.approx(0.907, abs=0.0005)
    assert 1 - ttft_s(recipe["warm, wait"]) / cold_s == pytest.approx(0.05, abs=0.005)


def test_no_jitter_so_every_seed_is_the_same(recipe):
    for scenario in load_scenarios("speculative-recipe"):
        assert simulate(scenario, seed=7).records == recipe[scenario.name].records


def test_every_use_says_that_the_profile_is_not_measured(recipe, demo):
    for result in (*recipe.values(), *demo.values()):
        assert any("not measured" in note for note in result.notes)


def test_openai_926_tokens_hit_nothing_twice(demo):
    records = demo["926 tokens"].records
    assert records.prompt_tokens.tolist() == [926, 926]
    assert records.hit_tokens.tolist() == [0, 0]


def test_openai_follow_up_hits_1024_at_half_price(demo):
    result = demo["1,136 tokens"]
    assert result.records.prompt_tokens.tolist() == [1136, 1160]
    assert result.records.hit_tokens.tolist() == [0, 1024]
    price = 2.5e-6  # gpt-4o input; output 10
    by_hand = [1136 * price + 60 * 10e-6, (1160 - 1024) * price + 1024 * price / 2 + 60 * 10e-6]
    assert result.bill.row_usd.tolist() == pytest.approx(by_hand)
    assert result.bill.lines["cache_read"] == pytest.approx(1024 * price / 2)


def test_openai_another_organisation_never_hits(demo):
    result = demo["1,136 tokens, another organisation follows up"]
    assert result.records.hit_tokens.tolist() == [0, 0]


def test_openai_cached_tokens_grow_in_steps_of_128(demo):
    records = demo["1,136 tokens, follow-ups of 64 tokens"].records
    assert records.prompt_tokens.tolist() == [1136, 1200, 1264, 1328, 1392]
    assert records.hit_tokens.tolist() == [0, 1024, 1152, 1152, 1280]


def test_all_demo_requests_finish(demo):
    for result in demo.values():
        assert (result.records.outcome == "ok").all()
        assert (result.records.first_token_at_ns != NEVER).all()


# --- study 01 --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("study_01", STUDY)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_fifty_random_users_equal_the_closed_form(study):
    pairs = study.random_pairs(50)
    errors_s = [abs(pair.simulated_s - pair.closed_form_s) for pair in pairs]
    assert len(pairs) == 50
    assert max(errors_s) < 1e-9
    unfinished = [pair for pair in pairs if pair.closed_form_s > 3]
    assert 10 < len(unfinished) < 50  # both sides of the max are there


def test_sending_at_once_never_helps_before_the_entry_is_visible(study):
    typings_s = np.array([1.0, 10.0, 20.8, 20.9, 25.0])
    lines = study.sweep(typings_s)
    assert lines["send at once"] == pytest.approx([20.87, 20.87, 20.87, 1.94, 1.94])
    shorter = np.minimum(lines["send at once"], lines["wait for the warm-up"])
    assert lines["wait where that is shorter"] == pytest.approx(shorter.tolist())


def test_the_study_draws_one_figure_and_answers_in_one_sentence(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "FIGURES", tmp_path)
    answer = study.main(quick=True)
    assert "19.8 s" in answer
    assert "-90.7 %" in answer
    assert "\n" not in answer
    assert [path.name for path in tmp_path.rglob("*.png")] == ["01_speculative_recipe.png"]
