"""Studies 04 to 07, quick: each draws its one figure and answers in one sentence, and its figures hold."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

STUDIES = Path(__file__).parent.parent / "studies"


def loaded(name: str):
    spec = importlib.util.spec_from_file_location(f"study_{name[:2]}", STUDIES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("04_warming_map", "less 1.7 s (the hit's own time), up to 12.5 s at 100k tokens"),
        ("05_when_to_warm", "focus is early enough"),
        ("06_warming_under_load", "where warm-ups have the lower priority"),
        ("07_ttl_or_keep_alive", "optimal stopping"),
    ],
)
def test_a_quick_study_draws_one_figure_and_answers_in_one_sentence(name, said, tmp_path, monkeypatch):
    study = loaded(name)
    monkeypatch.setattr(study, "FIGURES", tmp_path)
    answer = study.main(quick=True)
    assert said in answer
    assert "\n" not in answer
    assert [path.name for path in tmp_path.rglob("*.png")] == [f"{name}.png"]
    assert all(f"\n{head}\n    " in study.__doc__ for head in ("Question", "Setup", "What to look at"))


def test_the_share_of_tokens_behind_long_pauses_is_the_published_one(shared_data):
    """5 % of all reusable tokens, but 45 % of those after a human pause, sit behind a gap over 5 minutes."""
    study = loaded("07_ttl_or_keep_alive")
    gaps = study.reusable(shared_data / "traces" / "claude_code_sessions.jsonl.gz")
    of_all, of_human = (study.share_behind(*each, 300.0) for each in gaps.values())
    assert of_all == pytest.approx(0.05, abs=0.005)
    assert of_human == pytest.approx(0.45, abs=0.01)


def test_what_warming_costs_in_the_map_is_the_closed_form():
    study = loaded("04_warming_map")
    sent, left = study.extra_usd(50_000)
    for p_send in (0.3, 0.7, 1.0):
        assert sent + left * (1 - p_send) / p_send == pytest.approx(study.extra_by_theory_usd(50_000, p_send), rel=1e-3)
