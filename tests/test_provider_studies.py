"""Studies 09 to 12 and 15 in their quick form: one figure each, one sentence, and the figures that the sentence rests on."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

STUDIES = Path(__file__).resolve().parent.parent / "studies"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"study_{name}", STUDIES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["09_fan_out", "10_prompt_layout", "11_streaming", "12_api_or_own_gpus", "15_traffic_keeps_warm"])
def test_one_figure_and_one_sentence(name, tmp_path, monkeypatch):
    study = load(name)
    monkeypatch.setattr(study, "FIGURES", tmp_path)
    if name.startswith("12"):
        monkeypatch.setattr(study, "QUICK_DURATION_S", 60.0)
    answer = study.main(quick=True)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")] == [f"quick/{name}.png"]
    assert "\n" not in answer
    assert answer.endswith(".")
    for heading in ("Question\n", "Setup\n", "What to look at\n"):
        assert heading in study.__doc__


def test_fan_out_by_hand():
    """32 gradings of 50,000 tokens: 32 writes, or one write and 31 reads, each with 200 tokens of its own."""
    study = load("09_fan_out")
    results = study.orders(next(iter(study.APIS.values())), 32)
    own = 32 * 200 * 3e-6
    at_once, ordered, warmed = (study.input_usd(result) for result in results.values())
    assert at_once == pytest.approx(32 * 50_000 * 3.75e-6 + own)
    assert ordered == pytest.approx(50_000 * 3.75e-6 + 31 * 50_000 * 0.3e-6 + own)
    assert warmed == pytest.approx(50_000 * 3.75e-6 + 32 * 50_000 * 0.3e-6 + own)


def test_renting_pays_from_a_volume_on_or_only_while_replicas_are_nearly_full():
    study = load("12_api_or_own_gpus")
    volumes = np.linspace(1_000, 40_000, 40)
    own = study.own_usd_per_1000(volumes, 20_000, 4.0)
    assert study.pays(volumes, own, 1.0) == "from 4,000 questions an hour on"
    assert study.pays(volumes, own, 0.25) == "only while replicas are nearly full, first at 16,000 questions an hour"
    assert study.pays(volumes, own, 0.1) == "never"


def test_layouts_hold_the_same_tokens_in_another_order():
    study = load("10_prompt_layout")
    turn = study.turns(3)[-1][1]
    stamps = re.compile("^(time|session) ")
    contents = [
        sorted((str(key), tokens) for key, tokens in layout(turn)[0] if not stamps.match(str(key)))
        for layout in study.LAYOUTS.values()
    ]
    assert all(content == contents[0] for content in contents)


def test_traffic_lies_on_its_closed_forms():
    """Hits and cost of 2,000 requests, within four standard errors of a share; the traffic needed inverts the closed form."""
    study = load("15_traffic_keeps_warm")
    for lifetime in study.LIFETIMES.values():
        for rate in (1.0, 8.0):
            expected = study.hit_probability(rate, lifetime)
            error = 4 * (expected * (1 - expected) / 2_000) ** 0.5
            hits, cost = study.simulated(rate, lifetime, 2_000)
            assert hits == pytest.approx(expected, abs=error)
            assert cost == pytest.approx(study.cost(expected, lifetime), abs=error * (lifetime.write - study.READ) + 0.001)
        assert study.hit_probability(study.needed_per_h(0.95, lifetime), lifetime) == pytest.approx(0.95)
    assert study.needed_per_h(0.95, study.LIFETIMES["5 minutes"]) == pytest.approx(35.95, abs=0.01)
