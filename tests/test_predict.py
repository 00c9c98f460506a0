"""Predictions, shapes, derived profiles and the catalogue: from a name to seconds, bytes and an honest interval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from simcache.cli import main
from simcache.errors import InputError, UnknownNameError
from simcache.latency import Coefficients, ServerProfile, load_profile
from simcache.latency.catalogue import derive_named, derived_names, find_profile, known_profiles, left_out
from simcache.latency.derived import interval
from simcache.latency.prediction import predict
from simcache.latency.shapes import ModelShape, gpu_peaks, load_shape, usable_kv_tokens


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def document(*words: object) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


# --- predict


def test_predict_says_seconds_interval_range_and_provenance() -> None:
    found = document(
        "predict", "--profile", "llama-3-8b/a100/tp1", "--new", 1536, "--cached", 13_824, "--batch", 64, "--kv-tokens", 32_768
    )
    profile = load_profile("llama-3-8b/a100/tp1")
    assert isinstance(profile, ServerProfile)
    assert found["prefill_s"] == profile.prefill_s(1536, 13_824)
    assert found["decode_step_s"] == profile.decode_step_s(64, 32_768)
    assert found["provenance"] == "measured"
    assert found["in_range"] is True
    low, high = found["interval95"]
    assert low < found["prefill_s"] < high
    assert low < 0.180 + profile.coefficients.host_s < high  # measured: 180 ms of kernels
    assert found["decode_interval95"][0] < found["decode_step_s"] < found["decode_interval95"][1]


def test_outside_the_measured_range_is_said() -> None:
    result = run("predict", "--profile", "llama-3-8b/a100/tp1", "--new", 100_000)
    assert result.exit_code == 0
    assert "warning: outside the measured range" in result.stderr
    assert "outside the measured range" in result.stdout
    assert document("predict", "--profile", "llama-3-8b/a100/tp1", "--new", 100_000)["in_range"] is False


def test_a_hosted_profile_predicts_its_ttft_with_jitter() -> None:
    profile = load_profile("openai-figure")
    found = predict(profile, 20_000, 0)
    low, high = found.interval95["prefill_s"]
    assert found.decode_step_s == 0.02
    assert low < found.prefill_s * 0.85
    assert high > found.prefill_s * 1.15


def test_no_batch_no_decode_and_no_knowledge_no_interval(tmp_path: Path) -> None:
    from simcache.latency import save_profile

    save_profile(ServerProfile(name="toy", coefficients=Coefficients(base_s=0.01, per_token_s=1e-4)), tmp_path / "toy.toml")
    found = document("predict", "--profile", tmp_path / "toy.toml", "--new", 100)
    assert found["prefill_s"] == 0.02
    assert found["decode_step_s"] is None
    assert found["interval95"] is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--profile", "llama-3-8b/a100/tp9", "--new", 5), "Did you mean"),
        (("--profile", "derived/llama-3-8b/a10/tp1", "--new", 5), "gpu"),
        (("--profile", "derived/llama-9/a100/tp1", "--new", 5), "model"),
        (("--profile", "derived/x", "--new", 5), "derived/MODEL/GPU/tpN"),
        (("--profile", "derived/llama-2-70b/rtx-4090/tp1", "--new", 5), "no memory"),
        (("--profile", "absent.toml", "--new", 5), "cannot be read"),
        (("--profile", "openai-figure", "--new", 0), "--new"),
        (("--profile", "openai-figure", "--new", 5, "--cached", -1), "--cached"),
        (("--profile", "llama-3-8b/a100/tp1", "--new", 5, "--kv-tokens", 9), "goes with --batch"),
        (("--new", 5), "--profile"),
    ],
)
def test_bad_questions_end_in_one_line(words: tuple[object, ...], says: str) -> None:
    result = run("predict", *words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.output


# --- shapes


def test_kv_bytes_follow_from_the_shape() -> None:
    assert load_shape("llama-3-8b").kv_bytes_per_token == 2 * 32 * 8 * 128 * 2
    eight_bit = ModelShape(name="x", layers=32, heads=32, kv_heads=8, head_size=128, parameters=1, kv_bytes_per_value=1)
    assert eight_bit.kv_bytes_per_token == 65_536
    latent = ModelShape(name="x", layers=61, heads=128, kv_heads=128, head_size=128, parameters=1, latent_values=576)
    assert latent.kv_bytes_per_token == 61 * 576 * 2  # DeepSeek-V3: 70 kB a token instead of 4 MB
    sliding = ModelShape(
        name="x", layers=48, heads=16, kv_heads=8, head_size=256, parameters=1, sliding_window=1024, sliding_layers=40
    )
    assert sliding.kv_bytes(1024) == 1024 * sliding.kv_bytes_per_token
    assert sliding.kv_bytes(11_264) == (8 * 11_264 + 40 * 1024) * 2 * 8 * 256 * 2


CONFIG = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
}


def test_a_config_json_becomes_the_shape_that_is_shipped(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    shape, shipped = load_shape(tmp_path / "config.json"), load_shape("llama-3-8b")
    for name in ("layers", "heads", "kv_heads", "head_size", "parameters", "kv_bytes_per_token", "weight_bytes"):
        assert getattr(shape, name) == getattr(shipped, name), name
    window = CONFIG | {
        "sliding_window": 4096,
        "layer_types": ["sliding_attention", "full_attention"] * 16,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(window))
    shape = load_shape(tmp_path / "config.json")
    assert (shape.sliding_window, shape.sliding_layers) == (4096, 16)
    assert shipped.parameters - shape.parameters == 128256 * 4096
    experts = CONFIG | {"num_local_experts": 8, "num_experts_per_tok": 2, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    (tmp_path / "config.json").write_text(json.dumps(experts))
    shape = load_shape(tmp_path / "config.json")
    assert shape.kv_bytes_per_token == 32 * 576 * 2
    assert shape.parameters - shape.active_parameters == 6 * 32 * 3 * 4096 * 14336


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "must be a JSON object"),
        ("{}", "num_hidden_layers"),
        (json.dumps(CONFIG | {"num_attention_heads": 0}), "num_attention_heads"),
        (json.dumps(CONFIG | {"num_hidden_layers": "many"}), "must be a whole number"),
        (json.dumps(CONFIG | {"torch_dtype": "int3"}), "not known"),
    ],
)
def test_a_wrong_config_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=says):
        load_shape(tmp_path / "config.json")
    (tmp_path / "shape.toml").write_text("schema_version = 1\nname = 'x'\nlayrs = 2\n")
    with pytest.raises(UnknownNameError, match="Did you mean 'layers'"):
        load_shape(tmp_path / "shape.toml")


def test_usable_memory_is_what_a_real_engine_found() -> None:
    # vLLM 0.19 on one RTX 4090: 2,588 blocks of 16 tokens; the reserve over the weights there is 1.24 GB.
    shape = load_shape("llama-3.1-8b")
    found = usable_kv_tokens(shape, gpu_peaks()["rtx-4090"].memory_bytes, reserve_bytes=1.24e9)
    assert found / 16 == pytest.approx(2588, abs=3)
    assert usable_kv_tokens(load_shape("llama-2-70b"), 25e9) == 0
    assert usable_kv_tokens(shape, 80e9, 2) > 2 * usable_kv_tokens(shape, 80e9)  # weights are held once


# --- derived


def test_a_derived_profile_is_labelled_and_wide() -> None:
    profile = derive_named("llama-2-7b", "h200", 1)
    assert profile.provenance == "derived"
    assert profile.notes[0].startswith("Uncalibrated")
    assert profile.uncertainty95 == interval(known_profiles())
    low, high = profile.uncertainty95
    assert low < 0.8
    assert high > 1.25
    found = predict(profile, 1000, batch=8)
    assert found.interval95["prefill_s"] == (found.prefill_s * low, found.prefill_s * high)
    ideal = load_shape("llama-2-7b").flop_per_token / gpu_peaks()["h200"].flops
    assert 0.4 < ideal / profile.coefficients.per_token_s < 1
    assert profile.kv_tokens is not None
    assert profile.kv_tokens % 16 == 0


def test_what_leaving_out_shows_lies_in_the_interval() -> None:
    table = left_out()
    assert {row.what for row in table} == {"gpu", "model"}
    assert {row.profile for row in table} == {each.profile.name for each in known_profiles()}
    errors = np.array([error for row in table for error in (row.prefill_rms, row.decode_rms) if error is not None])
    _, high = interval(known_profiles())
    assert np.exp(np.sqrt((errors**2).mean()) * 1.96) == pytest.approx(high, rel=0.01)
    assert (errors < np.log(high)).all()


def test_twice_the_gpus_take_half_the_time_and_hold_more() -> None:
    one, two = derive_named("llama-3-8b", "h100", 1), derive_named("llama-3-8b", "h100", 2)
    assert two.prefill_s(8000) == pytest.approx(one.prefill_s(8000) / 2, rel=1e-3)
    assert one.kv_tokens is not None
    assert two.kv_tokens is not None
    assert two.kv_tokens > 2 * one.kv_tokens


# --- the catalogue


def test_the_catalogue_lists_every_right_to_know() -> None:
    found = document("profiles")
    by_name = {entry["name"]: entry for entry in found["profiles"]}
    assert {entry["provenance"] for entry in by_name.values()} == {"measured", "kernel sum", "published figure", "derived"}
    assert by_name["llama-2-7b/a100/tp1"]["kv_bytes_per_token"] == 524_288
    assert by_name["derived/llama-2-7b/h100/tp1"]["uncertainty95"][1] > 1.2
    assert len(found["left_out"]) == len(left_out())
    assert set(derived_names()) <= set(by_name)
    for name in derived_names()[:3]:
        assert find_profile(name).name == name
    text = run("profiles", "--errors").stdout
    assert "gpu a100" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_derived_profile_can_be_written_and_used(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    out = tmp_path / "mine.toml"
    result = run("profiles", "--derive", tmp_path / "config.json", "--gpu", "h100", "--gpus", 2, "--out", out)
    assert result.exit_code == 0, result.output
    again = load_profile(out)
    assert again.uncertainty95 == interval(known_profiles())
    assert document("predict", "--profile", out, "--new", 500)["provenance"] == "derived"
    assert run("profiles", "--derive", "llama-2-7b").exit_code == 2
    assert run("profiles", "--out", out).exit_code == 2
    assert "Known" in run("profiles", "--derive", "llama-2-7b", "--gpu", "voodoo2").stderr
