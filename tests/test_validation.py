"""Recorded runs of a real engine through the simulator: the bars, and a deliberately wrong profile."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from simcache.cli.validate import command
from simcache.engine.run import simulate
from simcache.errors import InputError
from simcache.latency import Coefficients, ServerProfile
from simcache.latency.kernel_files import read_kernels
from simcache.latency.kernel_fit import fit_kernels
from simcache.scenario import Scenario, Server
from simcache.validation import RecordedRun, read_vllm_requests, validate
from simcache.workload.synthetic import PoissonRequests, RequestList

LAYERS = 32  # Llama-3.1-8B
RUNS = {
    # name -> usable blocks, seats; the RTX PRO 6000's block count is not on record: it has room for all
    "rtx4090_llama-3.1-8b": (2_588, 256),
    "rtxpro6000_llama-3.1-8b": (27_000, 128),
}


@pytest.fixture(scope="module")
def recorded(shared_data):
    """Run and profiles (table, context) per recorded run."""
    folder = shared_data / "gpu_runs"
    runs = {}
    for name in RUNS:
        tables, _ = read_kernels(folder / f"{name}_kernels", LAYERS)
        profiles = {form: fit_kernels(tables, form, name)[0] for form in ("table", "context")}
        runs[name] = (read_vllm_requests(folder / f"{name}_requests.jsonl.gz"), profiles)
    return runs


def server(name: str, profile: ServerProfile) -> Server:
    blocks, seats = RUNS[name]
    return Server(profile=profile, kv_tokens=blocks * 16, max_num_seqs=seats, async_scheduling=True)


@pytest.mark.parametrize(("name", "bar"), [("rtx4090_llama-3.1-8b", 0.025), ("rtxpro6000_llama-3.1-8b", 0.15)])
def test_kernel_tables_alone_predict_ttft(recorded, name, bar):
    run, profiles = recorded[name]
    result = validate(run, server(name, profiles["table"]), None)
    assert result.requests == 300
    assert abs(result.ttft_s["mean_error"]) <= bar
    assert abs(result.ttft_s["p50_error"]) <= bar


@pytest.mark.parametrize("name", list(RUNS))
def test_one_speed_factor_from_the_first_fifth_predicts_the_rest(recorded, name):
    run, profiles = recorded[name]
    result = validate(run, server(name, profiles["table"]), "auto")
    assert result.requests == 240
    assert abs(result.ttft_s["mean_error"]) <= 0.04
    assert abs(result.ttft_s["p50_error"]) <= 0.05
    assert max(abs(result.ttft_s[f"p{q}_error"]) for q in (90, 95, 99)) <= 0.08
    assert result.ttft_s["median_ape"] <= 0.05
    assert abs(result.tpot["mean_error"]) <= 0.025
    assert result.grade == "A"


@pytest.mark.parametrize("name", list(RUNS))
def test_the_closed_form_with_its_mixed_term_and_one_factor_is_nearly_as_good(recorded, name):
    run, profiles = recorded[name]
    result = validate(run, server(name, profiles["context"]), "auto")
    assert abs(result.ttft_s["mean_error"]) <= 0.05
    assert abs(result.tpot["mean_error"]) <= 0.03


def test_a_deliberately_wrong_profile_gets_a_bad_grade(recorded):
    run, profiles = recorded["rtx4090_llama-3.1-8b"]
    linear = ServerProfile(
        name="wrong", coefficients=Coefficients(base_s=0.005, per_token_s=2e-4, per_decode_s=1e-3), kv_tokens=41_408
    )
    assert validate(run, server("rtx4090_llama-3.1-8b", linear), None).grade == "D"
    half_the_memory = Server(profile=profiles["table"], kv_tokens=1_294 * 16, max_num_seqs=256, async_scheduling=True)
    assert validate(run, half_the_memory, None).grade == "D"


def made_up(factor: float) -> tuple[RecordedRun, Server]:
    """A run that the simulator itself recorded, on a host ``factor`` times as slow."""
    profile = ServerProfile(
        name="made up", coefficients=Coefficients(base_s=0.01, per_token_s=1e-4, per_decode_s=1e-4), kv_tokens=50_000
    )
    requests = tuple(PoissonRequests(rate_per_s=6, count=200, prompt_tokens=700, output_tokens=30).requests(1))
    slow = Server(profile=profile, slowness=factor)
    records = simulate(Scenario(workload=RequestList(rows=requests), backend=slow)).records
    hits = records["hit_tokens"]
    return RecordedRun(requests=requests, ttft_s=records.ttft_s, e2e_s=records.e2e_s, hit_tokens=hits), Server(profile=profile)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3])
def test_a_known_host_speed_is_found_and_then_everything_fits(factor):
    run, server_ = made_up(factor)
    result = validate(run, server_, "auto")
    assert result.speed_factor == pytest.approx(factor, rel=2e-3)
    assert abs(result.ttft_s["mean_error"]) < 0.01
    assert result.hits_exact_share == 1.0
    exact = validate(run, server_, factor)
    assert exact.ttft_s == dict.fromkeys(exact.ttft_s, 0.0)


def test_a_profile_of_another_machine_is_refused_rather_than_stretched():
    run, server_ = made_up(1.0)
    stopped = RecordedRun(requests=run.requests, ttft_s=run.ttft_s * 500, e2e_s=run.e2e_s * 500)
    with pytest.raises(InputError, match="speed_factor"):
        validate(stopped, server_, "auto")


@pytest.mark.parametrize(
    ("rises", "root"),
    [
        (lambda x: x - 1.0576, 1.0576),
        (lambda x: np.expm1(8 * (x - 0.7)), 0.7),
        (lambda x: (x > 2.345) - 0.5, 2.345),
        (lambda x: 1e6 * max(x - 1.3, 0) + 1e-3 * (x - 1.3), 1.3),  # hardly a slope on one side
        (lambda x: x - 1, 1.0),
    ],
)
def test_a_factor_is_found_in_few_runs(rises, root):
    from simcache.validation import _root

    asked = []
    found = _root(lambda x: asked.append(x) or rises(x))
    assert found == pytest.approx(root, rel=1e-4)
    assert len(asked) <= 35
    with pytest.raises(InputError, match="calibrate it anew"):
        _root(lambda x: 1.0)


def test_without_a_block_count_memory_is_the_profiles_or_asked_for(tmp_path):
    from simcache.latency import save_profile

    log, out = tmp_path / "log.jsonl", tmp_path / "p.toml"
    log.write_text("\n".join(json.dumps({**GOOD, "arrival_s": 0.1 * i, "first_token_s": 0.1 * i + 0.5, "last_token_s": 0.1 * i + 1})
                             for i in range(12)))  # fmt: skip
    profile = ServerProfile(name="p", coefficients=Coefficients(base_s=0.01))
    words = ["--profile", str(out), "--log", str(log), "--speed-factor", "none", "--profile-draws", "0"]
    save_profile(profile, out)
    with pytest.raises(InputError, match="--kv-blocks"):
        CliRunner().invoke(command, words, catch_exceptions=False)
    save_profile(replace(profile, kv_tokens=4_096, kv_tokens_source="formula"), out)
    shown = CliRunner().invoke(command, words, catch_exceptions=False).stdout
    assert "note: KV memory is the profile's 4,096 tokens (formula)" in shown
    assert "KV memory" not in CliRunner().invoke(command, [*words, "--kv-blocks", "64"], catch_exceptions=False).stdout


GOOD = {"arrival_s": 0.0, "first_token_s": 0.5, "last_token_s": 1.0, "input_tokens": 40, "output_tokens": 5, "hash_ids": [1, 2]}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"arrival_s": None}, "arrival_s"),
        ({"first_token_s": -1.0}, "must be at least 0"),
        ({"last_token_s": 0.1}, "must be at least 0.5"),
        ({"input_tokens": 1.5}, "whole number"),
        ({"input_tokens": True}, "whole number"),
        ({"hash_ids": [1, 2, 3]}, "must be full blocks of 16 of the 40 tokens"),
        ({"hash_ids": "abc"}, "must be a list"),
        ({"arrival_s": float("nan")}, "finite"),
    ],
)
def test_a_wrong_row_is_one_error_with_its_line(tmp_path, change, rule):
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(json.dumps(row) for row in [GOOD] * 12 + [{**GOOD, **change}]))
    with pytest.raises(InputError, match=rule) as caught:
        read_vllm_requests(log)
    assert caught.value.line == 13


def test_files_that_are_no_logs(tmp_path):
    for name, content in (
        ("empty.jsonl", b""),
        ("cut.jsonl.gz", b"\x1f\x8b\x08\x00"),
        ("junk.jsonl", b"\xff\xfe\x00"),
        ("list.jsonl", b"[1]"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError):
            read_vllm_requests(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        read_vllm_requests(tmp_path)
    (tmp_path / "few.jsonl").write_text(json.dumps(GOOD))
    with pytest.raises(InputError, match="at least 10"):
        read_vllm_requests(tmp_path / "few.jsonl")


def test_the_verb_prints_the_documented_keys_and_draws(shared_data, tmp_path):
    folder = shared_data / "gpu_runs"
    from simcache.latency import save_profile

    name = "rtx4090_llama-3.1-8b"
    save_profile(fit_kernels(read_kernels(folder / f"{name}_kernels", LAYERS)[0], "table", name)[0], tmp_path / "profile.toml")
    arguments = ["--profile", str(tmp_path / "profile.toml"), "--log", str(folder / f"{name}_requests.jsonl.gz")]
    arguments += ["--log-format", "vllm-requests", "--engine", "vllm", "--kv-blocks", "2588", "--max-num-seqs", "256"]
    arguments += ["--max-num-batched-tokens", "2048", "--async-scheduling", "--profile-draws", "2"]
    figure = ["--figure", str(tmp_path / "qq.png")]
    answer = json.loads(
        CliRunner().invoke(command, [*arguments, *figure, "--speed-factor", "none", "--json"], catch_exceptions=False).stdout
    )
    assert {"hits_exact_share", "service", "ttft_s", "tpot", "bias", "grade", "speed_factor", "requests"} <= set(answer)
    assert set(answer["tpot"]) == {"mean_error", "median_error"}
    assert answer["grade"] == "A"
    assert (tmp_path / "qq.png").stat().st_size > 10_000
    assert "grade A" in CliRunner().invoke(command, [*arguments, "--speed-factor", "1.0"], catch_exceptions=False).stdout
    with pytest.raises(InputError, match="speed-factor"):
        CliRunner().invoke(command, [*arguments, "--speed-factor", "fast"], catch_exceptions=False)


def test_errors_of_numbers_made_by_hand():
    requests = tuple(PoissonRequests(rate_per_s=6, count=10, prompt_tokens=7, output_tokens=3).requests(1))
    run = RecordedRun(requests=requests, ttft_s=np.full(10, 2.0), e2e_s=np.full(10, 4.0))
    profile = ServerProfile(name="p", coefficients=Coefficients(base_s=1e-9), kv_tokens=1_000)
    result = validate(run, Server(profile=profile), None)
    assert result.ttft_s["mean_error"] == pytest.approx(-1.0, abs=1e-6)
    assert result.tpot["median_error"] == pytest.approx(-1.0, abs=1e-6)
    assert result.bias == pytest.approx(-1.0, abs=1e-6)
