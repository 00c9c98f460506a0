"""What an interval is made of: seeds, profile, model. Against what can be said without simulating."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from simcache.cli.run import command
from simcache.engine.run import simulate
from simcache.errors import InputError
from simcache.experiment.uncertainty import model_error, split_uncertainty
from simcache.latency import Coefficients, Covariance, FitRecord, HostedProfile, ServerProfile, save_profile
from simcache.prompt import Request, Segment
from simcache.result import summarise
from simcache.scenario import Scenario, Server
from simcache.workload.presets import TypingSessions
from simcache.workload.synthetic import RequestList

LONELY = RequestList(rows=tuple(Request(10.0 * i, (Segment(("doc", i), 1_000),), Segment(("a", i), 1)) for i in range(3)))
PLAIN = ServerProfile(name="plain", coefficients=Coefficients(base_s=0.1, per_token_s=4e-4), kv_tokens=100_000)
DRAWN = ServerProfile(
    name="drawn",
    coefficients=PLAIN.coefficients,
    kv_tokens=100_000,
    covariance=Covariance(names=("base_s", "per_token_s"), matrix=((1e-4, -5e-8), (-5e-8, 1e-10))),
    fit=FitRecord(n=100, mape=0.03, command="by hand"),
)


def lonely(profile: ServerProfile, seeds: int = 1):
    scenario = Scenario(workload=LONELY, backend=Server(profile=profile))
    return [simulate(scenario, seed=seed) for seed in range(seeds)]


def test_a_profile_that_says_nothing_of_its_error_leaves_the_seeds_interval():
    scenario = Scenario(workload=TypingSessions(users=4), backend=Server(profile=PLAIN), duration_s=200)
    runs = [simulate(scenario, seed=seed) for seed in range(3)]
    found, entry = split_uncertainty(runs, 5), summarise(runs)
    assert found["draws"] == 0
    assert found["model_error"] is None
    for name in ("p50", "p95"):
        figure = found["figures"][f"ttft_s.{name}"]
        assert (figure["profile"], figure["model"]) == (None, None)
        assert figure["mean"] == entry["ttft_s"][name]
        assert figure["interval95"] == pytest.approx(entry["ttft_s"][f"{name}_interval95"])


def test_a_lonely_prefill_moves_as_its_covariance_says():
    found = split_uncertainty(lonely(DRAWN), 400)["figures"]["ttft_s.p50"]
    # 1,000 tokens: variance 1e-4 + 1000^2 * 1e-10 - 2 * 1000 * 5e-8
    assert found["profile"] == pytest.approx(1.96 * math.sqrt(1e-4), rel=0.1)
    assert found["seeds"] is None


def test_model_error_stretches_all_times():
    off = model_error(DRAWN)
    assert off == pytest.approx(0.03 * math.sqrt(math.pi / 2))
    found = split_uncertainty(lonely(DRAWN), 2)
    assert found["model_error"] == off
    assert found["figures"]["ttft_s.p50"]["model"] == pytest.approx(1.96 * 0.5 * math.sinh(off), rel=1e-6)


def test_the_three_add_as_independent_errors_do():
    scenario = Scenario(workload=TypingSessions(users=4), backend=Server(profile=DRAWN), duration_s=200)
    for figure in split_uncertainty([simulate(scenario, seed=seed) for seed in (1, 2)], 4)["figures"].values():
        half = math.sqrt(sum(figure[part] ** 2 for part in ("seeds", "profile", "model")))
        low, high = figure["interval95"]
        assert low == pytest.approx(max(figure["mean"] - half, 0.0))
        assert high == pytest.approx(figure["mean"] + half) or high == 1.0


def test_what_does_not_depend_on_latency_has_no_error_of_it():
    found = split_uncertainty(lonely(DRAWN, 2), 3)["figures"]["token_hit_ratio"]
    assert found == {"mean": 0.0, "seeds": 0.0, "profile": 0.0, "model": 0.0, "interval95": [0.0, 0.0]}


@pytest.mark.parametrize(("bounds", "expected"), [((0.5, 2.0), math.log(2) / 1.96), ((0.9, 1.0), -math.log(0.9) / 1.96)])
def test_stated_uncertainty_comes_before_the_fit(bounds, expected):
    hosted = HostedProfile(
        name="h", base_s=1.0, per_token_s=1e-4, per_cached_token_s=0.0, seconds_per_output_token=0.01, uncertainty95=bounds
    )
    assert model_error(hosted) == pytest.approx(expected)


def test_no_draws_are_refused():
    with pytest.raises(InputError, match="draws"):
        split_uncertainty(lonely(PLAIN), 0)


def test_the_verb_adds_a_key_and_says_what_it_is_made_of(tmp_path):
    save_profile(DRAWN, tmp_path / "drawn.toml")
    asked = tmp_path / "asked.toml"
    asked.write_text(
        'schema_version = 1\nname = "asked"\nseeds = 2\nduration_s = 120\n[workload]\nkind = "typing-sessions"\nusers = 3\n'
        f'[backend]\nkind = "server"\nprofile = "{tmp_path / "drawn.toml"}"\n'
    )

    def run(*options: str) -> str:
        return CliRunner().invoke(command, [str(asked), *options, "--out", str(tmp_path / "out")], catch_exceptions=False).stdout

    plain, split = (json.loads(run("--json", *draws))["results"][0] for draws in ((), ("--profile-draws", "3")))
    assert "uncertainty" not in plain
    assert {name: value for name, value in split.items() if name not in ("uncertainty", "wall")} == {
        name: value for name, value in plain.items() if name != "wall"
    }
    assert split["uncertainty"]["draws"] == 3
    assert np.isfinite(split["uncertainty"]["figures"]["ttft_s.p95"]["profile"])
    kept = json.loads((tmp_path / "out" / "results.json").read_text())["results"][0]
    assert kept["uncertainty"] == split["uncertainty"]
    text = " ".join(run("--profile-draws", "3").split())
    assert "TTFT p50" in text
    assert "profile ±" in text
