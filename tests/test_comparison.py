"""Comparisons are paired, say what they cannot tell, and size live tests that find what they should as often as they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simcache as sc
from simcache import cli, stats
from simcache.errors import InputError
from simcache.experiment import comparison
from simcache.experiment.comparison import Pair, compare
from simcache.experiment.headroom import UNKNOWN, headroom_figures, headrooms, oracle_scenario
from simcache.experiment.runs import Metric, Run, reduced
from simcache.faults import Crash

from .synthetic_runs import answer, result_of

COLD = sc.Scenario(
    name="cold",
    workload=sc.TypingSessions(users=10, document_tokens=12_000, questions=2),
    backend=sc.Cluster(kv_tokens=100_000),
    duration_s=600,
)
WARM = COLD.but(name="warm", warming=sc.WarmOnFocus())


def test_a_difference_is_that_of_the_results_seed_by_seed() -> None:
    found = compare(COLD, WARM, seeds=5, first_seed=3, workers=1)
    change = found.pairs[0].difference("p95(ttft_s)")
    assert change is not None
    each = [[sc.simulate(scenario, seed=seed).quantiles("ttft_s", [0.95])[0] for seed in range(3, 8)] for scenario in (COLD, WARM)]
    assert change.paired == stats.paired(*each)
    assert change.bootstrap.mean == pytest.approx(change.paired.difference)
    assert "'warm' against 'cold': TTFT p95" in found.answer()
    assert "less [" in str(found)


def test_the_same_scenario_makes_no_difference() -> None:
    found = compare(COLD, COLD, seeds=4, workers=1)
    pair = found.pairs[0]
    assert (pair.a, pair.b) == ("cold A", "cold B")
    assert all(each.paired.difference == 0 for each in pair.differences)
    assert pair.live_test("ttft_s.mean") is None
    assert "TTFT p95 is the same" in found.answer()
    assert found.sweep.simulated == 4


def test_what_the_seeds_cannot_tell_is_said() -> None:
    runs = [[run(seed, 1.0 + ((seed * 7 + shift) % 5) / 10) for seed in range(6)] for shift in (0, 2)]
    pair = Pair(a="a", b="b", a_runs=tuple(runs[0]), b_runs=tuple(runs[1]), metrics=("ttft_s.p95",))
    assert "no difference that 6 seeds can tell [-" in pair.answer()
    test = pair.live_test("ttft_s.p95")
    assert test is None or test.to_requests is None


def run(seed: int, ttft_p95_s: float, variance: float = 1.0, requests: float = 100.0) -> Run:
    figures = {"ttft_s.p95": ttft_p95_s, "ttft_s.mean": ttft_p95_s, "user_requests": requests, "user_requests_per_s": 0.1}
    return Run(seed=seed, figures=figures, quantiles={}, variances={"ttft_s.mean": variance, "ttft_s.p95": variance})


def test_a_seed_that_failed_in_one_counts_in_neither() -> None:
    crash = WARM.but(name="crash", backend__faults=(Crash(at_s=1.0, replica=1),))
    with pytest.raises(InputError, match=r"must be at least 2 that ran in 'cold' and 'crash'. faults"):
        compare(COLD, crash, seeds=3, workers=1)


def test_three_scenarios_are_compared_with_the_first() -> None:
    found = compare(COLD, WARM, COLD.but(name="big", backend__kv_tokens=400_000), seeds=3, workers=1)
    assert [(pair.a, pair.b) for pair in found.pairs] == [("cold", "warm"), ("cold", "big")]
    assert json.loads(json.dumps(found.document(live=True)))["schema_version"] == 1


def test_the_requests_of_a_live_test_by_hand() -> None:
    pair = Pair(
        a="a",
        b="b",
        a_runs=tuple(run(seed, 1.0 + seed % 2 * 0.02, variance=2.0) for seed in range(10)),
        b_runs=tuple(run(seed, 0.9 + seed % 2 * 0.02, variance=2.0) for seed in range(10)),
        metrics=("ttft_s.mean",),
    )
    test = pair.live_test("ttft_s.mean")
    assert test is not None
    # (1.959964 + 0.841621)^2 (2 + 2) / 0.1^2, as in any textbook; 0.1 requests a second, half of them in each arm
    assert test.requests_per_arm == 3140
    assert test.days == pytest.approx(2 * 3140 / (0.1 * 86_400))
    assert test.from_requests <= test.requests_per_arm <= (test.to_requests or 0)
    noisy = Pair(
        a="a",
        b="b",
        a_runs=tuple(run(seed, 1.0 + seed % 2, variance=2.0) for seed in range(10)),
        b_runs=tuple(run(seed, 0.9 + seed % 2, variance=2.0) for seed in range(10)),
        metrics=("ttft_s.mean",),
    )
    busy = noisy.live_test("ttft_s.mean")
    assert busy is not None
    assert busy.requests_per_arm == pytest.approx(3140 * (100 * 2.5 / 9) / 2, rel=1e-3)  # queues make runs differ by more


def population(rng: np.random.Generator, users: int, factor: float) -> list[dict[str, Any]]:
    """Requests of people of whom some wait longer than others, in clusters of one to nine."""
    rows = []
    for user in range(users):
        own = rng.lognormal(0, 0.5)
        rows += [answer(0.0, float(factor * own * rng.lognormal(0, 0.5)), user=f"u{user}") for _ in range(rng.integers(1, 10))]
    return rows


@pytest.mark.parametrize("metric", ["ttft_s.mean", "ttft_s.p95", "slo_share"])
def test_a_live_test_of_the_size_that_is_said_finds_the_difference_as_often_as_is_said(metric: str) -> None:
    rng = np.random.default_rng(11)
    runs = [tuple(reduced(result_of(population(rng, 400, f), seed=s)) for s in range(8)) for f in (1.0, 0.7)]
    pair = Pair(a="a", b="b", a_runs=runs[0], b_runs=runs[1], metrics=(metric,))
    test = pair.live_test(metric)
    assert test is not None
    rate = [np.mean([run.figures["user_requests"] for run in arm]) / 400 for arm in runs]
    # The size for the true difference: what is said rests on an estimate of it.
    found = 0
    rounds = 60
    truth = abs(np.mean([Metric(metric).of(run) for run in runs[0]]) - np.mean([Metric(metric).of(run) for run in runs[1]]))
    assert truth == pytest.approx(abs(test.difference))
    for _ in range(rounds):
        arms = [
            reduced(result_of(population(rng, round(test.requests_per_arm / per), f)))
            for per, f in zip(rate, (1.0, 0.7), strict=True)
        ]
        values = [Metric(metric).of(arm) or 0.0 for arm in arms]
        errors = [arm.variances[metric] / (arm.figures["user_requests"] or 1.0) for arm in arms]
        found += abs(values[0] - values[1]) > 1.96 * sum(errors) ** 0.5
    assert 0.65 <= found / rounds <= 0.95, found / rounds  # 0.8 give or take three standard errors


FILE = """
name = "{name}"
duration_s = 300
workload = {{ kind = "typing-sessions", users = 8, document_tokens = 12_000, questions = 2 }}
backend = {{ kind = "cluster" }}
warming = {{ kind = "{warming}" }}
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, warming in (("a", "none"), ("b", "on-focus")):
        (tmp_path / f"{name}.toml").write_text(FILE.format(name=name, warming=warming))


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", *words])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.mark.usefixtures("files")
def test_the_command_compares_and_sizes_a_live_test(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "a.toml", "b.toml", "--seeds", "4", "--workers", "1", "--ab")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    text = " ".join(out.split())
    assert "'b' against 'a': TTFT p95" in text
    assert "requests per arm" in text
    assert "80 % power" in text


@pytest.mark.usefixtures("files")
def test_the_command_gives_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "a.toml", "b.toml", "--seeds", "3", "--workers", "1", "--json", "--ab", "--metric", "p90(ttft_s)")
    assert status == 0
    (entry,) = json.loads(out)["comparisons"]
    assert set(entry["metrics"]) == {"ttft_s.p90"}
    assert entry["live_tests"][0]["metric"] == "ttft_s.mean"


@pytest.mark.usefixtures("files")
def test_mistakes_end_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (("a.toml",), "Give two scenarios or more"),
        (("a.toml", "gone.toml"), "does not exist"),
        (("a.toml", "b.toml", "--metric", "p95"), "metric(='p95') is not known"),
        (("a.toml", "b.toml", "--set", "backend.replica=2"), "is not a key"),
    ):
        status, _, err = said(capsys, *words, "--workers", "1")
        assert status == 2
        assert message in err


def test_the_front_door_stays_a_function() -> None:
    assert callable(sc.compare)
    assert sc.compare is comparison.compare
    assert callable(sc.sweep)


def test_headroom_stands_beside_every_pair_that_differs_in_warming_alone() -> None:
    found = compare(COLD, WARM, WARM.but(name="big", backend__kv_tokens=400_000), seeds=3, workers=1)
    assert list(found.headroom) == ["warm"]
    room = found.headroom["warm"]
    each = {
        name: [sc.simulate(scenario, seed=seed) for seed in range(3)]
        for name, scenario in (("none", COLD), ("policy", WARM), ("oracle", oracle_scenario(WARM)))
    }
    for name, results in each.items():
        assert getattr(room, name) == pytest.approx(headroom_figures(results))
    again = headrooms({"cold": each["none"], "warm": each["policy"]})["warm"]
    assert again.gained_share == pytest.approx(room.gained_share)
    assert room.sentence() in str(found)
    assert found.document()["headroom"]["warm"]["gained_share"] == room.gained_share


def test_an_oracle_at_hand_is_not_simulated_again_and_an_expensive_one_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    results = {each.name: [sc.simulate(each, seed=1)] for each in (COLD, WARM, oracle_scenario(WARM).but(name="knows"))}
    monkeypatch.setattr("simcache.experiment.headroom.simulate", None)
    found = headrooms(results)
    assert found["warm"].oracle == found["knows"].policy == headroom_figures(results["knows"])
    del results["knows"]
    few = headrooms(results, most_requests=1)["warm"]
    assert few.oracle == UNKNOWN
    assert few.gained_share is None
    assert " / -, per 1,000 questions" in few.sentence()
    monkeypatch.setattr("simcache.experiment.comparison.MOST_REQUESTS", 1)
    assert compare(COLD, WARM, seeds=2, workers=1).headroom["warm"].oracle == UNKNOWN
