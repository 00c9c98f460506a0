"""Serving runs known by their means: what the client does, which rows calibrate, the bars on public runs, and bad files."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cli.validate import command
from simcache.engine.closed_loop import ClosedLoopClients, serve_clients
from simcache.errors import DeadlockError, InputError, UnknownNameError
from simcache.latency.coefficients import Coefficients
from simcache.latency.profile_kinds import ServerProfile
from simcache.scenario import Server
from simcache.serving_model import Scalars, find_peaks, find_shape, serving_profile
from simcache.serving_runs import (
    COLUMNS,
    ServingRow,
    calibrate,
    choose_rows,
    medians,
    predict,
    predict_group,
    read_serving_runs,
    validate_serving_runs,
)

STUDY = Path(__file__).resolve().parent.parent / "studies" / "13_serving_runs.py"
ROW = ServingRow(
    system="h200_sxm",
    backend="vllm",
    model="meta-llama/Llama-3.1-70B",
    precision="fp8",
    tp=1,
    kv_dtype="fp8",
    isl=1024,
    osl=128,
    concurrency=4,
    ttft_s=0.2,
    tpot_s=0.02,
)
CELLS = dict(
    zip(COLUMNS, ("h200_sxm", "vllm", "meta-llama/Llama-3.1-70B", "fp8", 1024, 128, 1, 200.0, 20.0, 4, "fp8"), strict=True)
)


def written(path: Path, *rows: dict[str, object]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


# -- the clients ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(clients=st.integers(1, 5), each=st.integers(1, 4), isl=st.integers(1, 300), osl=st.integers(1, 20), seed=st.integers(0, 99))
def test_as_many_in_flight_as_clients_and_every_request_ends(clients, each, isl, osl, seed):
    asked = ClosedLoopClients(clients=clients, requests=clients * each, prompt_tokens=isl, output_tokens=osl, outside_s=0.001)
    profile = ServerProfile(name="toy", coefficients=Coefficients(base_s=0.01, per_token_s=1e-5))
    server = Server(kv_tokens=4096, prefix_caching=False)
    records = serve_clients(asked, server, profile, seed=seed)
    assert len(records) == clients * each
    sent, ended = records["submitted_at_ns"], records["finished_at_ns"]
    assert (np.sort(sent)[:clients] == 0).all()
    np.testing.assert_array_equal(np.sort(sent)[clients:], np.sort(ended)[: len(sent) - clients])  # one ends, the next is sent
    assert records["prompt_tokens"].max() <= isl
    assert records["prompt_tokens"].min() >= max(1, round(0.8 * isl))
    assert records == serve_clients(asked, server, profile, seed=seed)


def test_ttft_of_one_client_by_hand():
    profile = ServerProfile(name="toy", coefficients=Coefficients(base_s=0.01, per_token_s=1e-4))
    one = ClosedLoopClients(
        clients=1, requests=3, prompt_tokens=100, output_tokens=5, shortest_share=1.0, outside_s=0.003, outside_per_token_s=1e-5
    )
    records = serve_clients(one, Server(kv_tokens=1024), profile)
    assert records.ttft_s == pytest.approx([0.003 + 100e-5 + 0.02] * 3)
    assert records.e2e_s - records.ttft_s == pytest.approx([4 * 0.01] * 3)


def test_prompts_wait_in_the_front_end_one_after_the_other():
    profile = ServerProfile(name="toy", coefficients=Coefficients(base_s=1e-6))
    many = ClosedLoopClients(
        clients=4, requests=4, prompt_tokens=100, output_tokens=1, shortest_share=1.0, outside_per_token_s=1e-3
    )
    assert serve_clients(many, Server(kv_tokens=4096), profile).ttft_s == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=1e-4)


def test_a_request_that_never_fits_is_told():
    toy = ServerProfile(name="toy", coefficients=Coefficients(base_s=0.01))
    with pytest.raises(DeadlockError, match="tokens of KV memory"):
        serve_clients(ClosedLoopClients(clients=1, requests=1, prompt_tokens=100, output_tokens=1), Server(kv_tokens=64), toy)


# -- the model and its calibration ---------------------------------------------------------------------------------------------


def test_shapes_and_systems_by_the_names_that_files_have():
    for name in ("meta-llama/Meta-Llama-3.1-70B-Instruct", "nvidia/Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b"):
        assert find_shape(name, "fp8", "bf16").name == "llama-3.1-70b"
    shape = find_shape("Qwen/Qwen3-32B", "", "bf16")
    assert shape.weight_bytes == pytest.approx(65.5e9, rel=0.01)
    assert shape.kv_bytes_per_token == 2 * 2 * 64 * 8 * 128
    assert find_shape("Qwen/Qwen3-32B", "", "fp8").kv_bytes_per_token == 2 * 64 * 8 * 128
    assert {find_peaks(name).name for name in ("h100_sxm", "H100", "h100-sxm5")} == {"h100"}
    with pytest.raises(UnknownNameError, match=r"config\.json"):
        find_shape("nobody/Foo-9B", "fp8", "fp8")


def test_more_gpus_are_faster_and_hold_more():
    shape = find_shape(ROW.model, "fp8", "fp8")
    one, eight = (serving_profile(shape, find_peaks("h200_sxm"), gpus, Scalars()) for gpus in (1, 8))
    assert one.coefficients.floor_s == pytest.approx(8 * eight.coefficients.floor_s)
    assert 8 * eight.coefficients.per_token_s > one.coefficients.per_token_s > eight.coefficients.per_token_s
    assert eight.kv_tokens > 8 * one.kv_tokens
    with pytest.raises(InputError, match="weights"):
        serving_profile(find_shape(ROW.model, "", "bf16"), find_peaks("h100_sxm"), 1, Scalars())


def test_calibration_rows_are_few_and_of_low_load():
    group = [replace(ROW, isl=i, osl=o, concurrency=c) for i in (1024, 8192) for o in (128, 1024) for c in (4, 8, 32, 64)]
    chosen = choose_rows(group, 3)
    assert [(row.isl, row.osl, row.concurrency) for row in chosen] == [(1024, 1024, 4), (8192, 1024, 4), (1024, 1024, 32)]
    assert choose_rows(group, 1) == chosen[:1]
    assert choose_rows(group, 0) == []
    assert len(choose_rows(group[:1], 3)) == 1
    assert choose_rows([replace(row, kv_tokens=80_000) for row in group], 3)[2].concurrency == 8  # 32 would fill half the memory


def test_scalars_are_recovered_from_rows_that_they_made():
    true = Scalars(compute_efficiency=0.45, decode_work=3.0, outside_s=0.03)
    made = []
    for isl, concurrency in ((1024, 4), (8192, 4), (1024, 32)):
        row = replace(ROW, isl=isl, osl=1024, concurrency=concurrency)
        found = predict(row, true)
        made.append(replace(row, ttft_s=found.ttft_s, tpot_s=found.tpot_s))
    found = calibrate(made)
    assert found.compute_efficiency == pytest.approx(0.45, rel=0.05)
    assert found.decode_work == pytest.approx(3.0, rel=0.2)
    assert found.outside_s == pytest.approx(0.03, rel=0.1)
    assert calibrate([]) == Scalars()


def test_a_group_without_a_row_left_reports_null():
    (group,) = validate_serving_runs([ROW])
    assert (group.ttft_mape, group.tpot_mape) == (None, None)
    assert medians([group]) == {"ttft_mape": None, "tpot_mape": None}
    (judged,) = validate_serving_runs([ROW], calibrate_rows=0)
    assert judged.ttft_mape is not None


# -- measured runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def groups(shared_data):
    rows = read_serving_runs(shared_data / "gpu" / "serving_runs.csv")
    assert len(rows) == 213
    return validate_serving_runs([row for row in rows if "Llama" in row.model])


def errors(groups, system):
    return np.abs([each.errors for group in groups for each in group.judged if each.row.system in system]).mean(axis=0)


def test_bars_on_rows_that_did_not_calibrate(groups):
    assert all(sum(each.calibrates for each in group.predictions) <= 3 for group in groups)
    ttft, tpot = errors(groups, ("h200_sxm",))
    assert (ttft <= 0.08, tpot <= 0.06) == (True, True), (ttft, tpot)
    ttft, tpot = errors(groups, ("h200_sxm", "b200_sxm"))
    assert (ttft <= 0.09, tpot <= 0.06) == (True, True), (ttft, tpot)


def test_several_gpus_from_one_alone_and_full_memory(groups):
    by_tp = {group.predictions[0].row.tp: group for group in groups if group.predictions[0].row.system == "h200_sxm"}
    others = [each.row for tp, group in by_tp.items() if tp > 1 for each in group.predictions]
    ttft, tpot = np.abs([each.errors for each in predict_group(others, by_tp[1].scalars).predictions]).mean(axis=0)
    assert (ttft <= 0.10, tpot <= 0.07) == (True, True), (ttft, tpot)
    full = [each for each in by_tp[1].predictions if each.row.ttft_s > 5]
    assert [round(each.row.ttft_s, 1) for each in full] == [5.3, 39.8]
    for each in full:
        assert each.kv_full
        assert 0.5 < each.ttft_s / each.row.ttft_s < 2  # capacity by formula
        matched = predict(replace(each.row, kv_tokens=360_000), by_tp[1].scalars)  # one capacity for both
        assert abs(matched.errors[0]) < 0.2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_groups_of_a_few_rows_calibrate_on_what_they_have(count):
    rows = [replace(ROW, concurrency=concurrency, isl=isl) for concurrency, isl in ((4, 512), (4, 2048), (32, 512))[:count]]
    (group,) = validate_serving_runs(rows)
    assert len(group.predictions) == count
    calibrating = sum(each.calibrates for each in group.predictions)
    assert 1 <= calibrating <= count
    assert (group.ttft_mape is None) == (calibrating == count)


def test_json_and_figure_from_the_command_line(tmp_path):
    rows = [{**CELLS, "concurrency": c, "isl": i} for c in (4, 8) for i in (512, 1024)] + [{**CELLS, "system": "b200_sxm"}]
    file, figure = written(tmp_path / "runs.csv", *rows), tmp_path / "figure.png"
    done = CliRunner().invoke(command, ["--serving-runs", str(file), "--json", "--figure", str(figure)])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    first, second = document["groups"]
    assert {"system", "backend", "model", "tp", "precision", "rows", "ttft_mape", "tpot_mape"} <= set(first)
    assert (first["rows"], second["rows"], second["ttft_mape"]) == (4, 1, None)
    assert document["ttft_mape"] == first["ttft_mape"]
    assert figure.stat().st_size > 5_000
    shown = CliRunner().invoke(command, ["--serving-runs", str(file), "--calibrate-rows", "1"])
    assert "no row left to judge" in shown.output


# -- bad files -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"silicon_ttft_ms": "nan"}, "silicon_ttft_ms"),
        ({"silicon_tpot_ms": "-3"}, "above 0"),
        ({"silicon_ttft_ms": "fast"}, "must be a number"),
        ({"concurrency": "0"}, "concurrency"),
        ({"isl": "10.5"}, "whole number"),
        ({"tp_size": ""}, "tp_size"),
        ({"model_path": "meta-llama/Lama-3.1-70B"}, "llama-3.1-70b"),
        ({"system": "z9000_sxm"}, "system"),
        ({"backend": "vlm"}, "Did you mean 'vllm'"),
        ({"kv_dtype": ""}, "kv_dtype"),
        ({"precision": "fp7"}, "precision"),
        ({"precision": "bf16", "system": "h100_sxm"}, "weights"),
        ({"isl": "9000000"}, "KV memory"),
    ],
)
def test_bad_rows_say_file_line_and_rule(tmp_path, changes, text):
    file = written(tmp_path / "runs.csv", CELLS, {**CELLS, **changes})
    with pytest.raises(InputError) as found:
        read_serving_runs(file)
    assert f"{file}:3" in str(found.value)
    assert text in str(found.value)


def test_bad_files(tmp_path):
    without = {name: value for name, value in CELLS.items() if name != "kv_dtype"}
    for file, text in (
        (written(tmp_path / "a.csv", without), r"kv_dtype.*is missing.*Add the type of the KV cache: auto, bf16"),
        (tmp_path / "none.csv", "cannot be read"),
        (written(tmp_path / "b.csv", CELLS).rename(tmp_path / "c.csv"), None),
    ):
        if text:
            with pytest.raises(InputError, match=text):
                read_serving_runs(file)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="missing"):
        read_serving_runs(tmp_path / "empty.csv")
    (tmp_path / "heads.csv").write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(InputError, match="at least one row"):
        read_serving_runs(tmp_path / "heads.csv")
    done = CliRunner().invoke(command, ["--profile", "x", "--serving-runs", str(tmp_path / "c.csv")])
    assert (done.exit_code, "goes without" in done.output) == (2, True)
    assert CliRunner().invoke(command, []).exit_code == 2


def test_the_study_draws_and_says_how_far_off(tmp_path, monkeypatch, shared_data):
    spec = importlib.util.spec_from_file_location("study_13", STUDY)
    study = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = study
    spec.loader.exec_module(study)
    monkeypatch.setattr(study, "FIGURES", tmp_path)
    monkeypatch.setattr(study, "RUNS", shared_data / "gpu" / "serving_runs.csv")
    answer = study.main(quick=True)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")] == ["quick/13_serving_runs.png"]
    assert "several GPUs from one alone" in answer
    assert "39.81 s" in answer
