"""A scenario is exported, a benchmark client replays it, and its results judge the prediction: the whole way round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import simcache as sc
from simcache.benchmark_results import read_benchmark
from simcache.benchmark_run import read_benchmark_run
from simcache.cli.validate import command
from simcache.engine.sent import sent_requests
from simcache.errors import InputError
from simcache.prompt import Request, Segment, prompt_tokens
from simcache.workload.synthetic import RequestList
from simcache.workload.trace_writers import write_trace

PROFILE = "llama-3-8b/a100/tp1"
SERVER = sc.Server(profile=PROFILE, kv_tokens=200_000)
START_NS = 1_759_813_207_000_000_000


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Request]]:
    """The trace of a scenario, and what its client sends."""
    people = sc.TypingSessions(users=12, questions=4, document_tokens=3_000, documents=3)
    sent = sent_requests(sc.Scenario(workload=people, backend=SERVER), seed=1)
    path = tmp_path_factory.mktemp("exported") / "chat.jsonl"
    write_trace(sent, path, "simcache")
    return path, sent


def measured(sent: list[Request], slowness: float = 1.0) -> sc.Records:
    """What the real server does: outputs are its own, so no later prompt contains them."""
    own = tuple(request._replace(output=Segment(("own", i), request.output.tokens)) for i, request in enumerate(sent))
    server = sc.Server(profile=PROFILE, kv_tokens=200_000, slowness=slowness)
    return sc.simulate(sc.Scenario(workload=RequestList(rows=own), backend=server)).records


def aiperf(sent: list[Request], records: sc.Records, **changes: Any) -> list[dict[str, Any]]:
    rows = []
    for i, request in enumerate(sent):
        metadata = {"session_num": i, "turn_index": 0, "benchmark_phase": "profiling", "was_cancelled": False}
        metadata["request_start_ns"] = START_NS + round(request.arrived_at_s * 1e9)
        metrics = {
            "input_sequence_length": {"value": prompt_tokens(request.prompt), "unit": "tokens"},
            "output_sequence_length": {"value": request.output.tokens, "unit": "tokens"},
            "time_to_first_token": {"value": float(records.ttft_s[i]) * 1e3, "unit": "ms"},
            "request_latency": {"value": float(records.e2e_s[i]) * 1e3, "unit": "ms"},
            "usage_prompt_cache_read_tokens": {"value": int(records["hit_tokens"][i]), "unit": "tokens"},
        }
        rows.append({"metadata": metadata, "metrics": metrics | changes, "error": None})
    return rows


def vllm(sent: list[Request], records: sc.Records, **changes: Any) -> dict[str, Any]:
    gaps = (records.e2e_s - records.ttft_s) / np.maximum(1, [request.output.tokens - 1 for request in sent])
    return {
        "model_id": "llama",
        "input_lens": [prompt_tokens(request.prompt) for request in sent],
        "output_lens": [request.output.tokens for request in sent],
        "ttfts": records.ttft_s.tolist(),
        "itls": [[float(gap)] * (request.output.tokens - 1) for gap, request in zip(gaps, sent, strict=True)],
        "start_times": [5000.0 + request.arrived_at_s for request in sent],
        "errors": [""] * len(sent),
    } | changes


def write(path: Path, content: Any) -> Path:
    lines = content if isinstance(content, list) else [content]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def judge(*options: str) -> dict[str, Any]:
    said = CliRunner().invoke(command, ["--profile", PROFILE, "--kv-tokens", "200000", "--profile-draws", "0", "--json", *options])
    assert said.exit_code == 0, said.output
    return json.loads(said.stdout)


@pytest.mark.parametrize("format", ["aiperf", "vllm-bench"])
def test_a_perfect_prediction_is_found_perfect_and_a_slow_server_slow(exported, tmp_path, format):
    trace, sent = exported
    for slowness in (1.0, 1.3):
        records = measured(sent, slowness)
        results = write(tmp_path / "results", aiperf(sent, records) if format == "aiperf" else vllm(sent, records))
        options = ("--log", str(results), "--log-format", format, "--sent", str(trace), "--speed-factor")
        found = judge(*options, "none")
        assert found["requests"] == len(sent)
        assert found["ttft_s"]["p50_error"] == pytest.approx(1 / slowness - 1, abs=0.03 if slowness > 1 else 1e-6)
        assert judge(*options, "auto")["speed_factor"] == pytest.approx(slowness, rel=0.01)
        assert found["hits_exact_share"] == (1.0 if format == "aiperf" else None)


def test_without_the_trace_nothing_is_hit_and_the_note_says_so(exported, tmp_path):
    _, sent = exported
    results = write(tmp_path / "results", aiperf(sent, measured(sent)))
    found = judge("--log", str(results), "--log-format", "aiperf", "--speed-factor", "none")
    assert found["hits_exact_share"] < 0.5
    assert any("each stands alone" in note for note in found["notes"])


def test_prompts_stretch_by_one_factor_and_still_share_what_they_shared(exported, tmp_path):
    trace, sent = exported
    rows = vllm(sent, measured(sent))
    rows["input_lens"] = [round(1.1 * tokens) for tokens in rows["input_lens"]]
    run, notes = read_benchmark_run(write(tmp_path / "results", rows), "vllm-bench", trace)
    assert "1.100 times as many tokens" in " ".join(notes)
    for request, tokens in zip(run.requests, rows["input_lens"], strict=True):
        assert abs(prompt_tokens(request.prompt) - tokens) <= 1
    by_document: dict[object, set[int]] = {}
    for request in run.requests:
        by_document.setdefault(request.prompt[0].key, set()).add(request.prompt[0].tokens)
    assert all(len(lengths) == 1 for lengths in by_document.values())


def test_failed_requests_leave_the_others_in_their_places(exported, tmp_path):
    trace, sent = exported
    records = measured(sent)
    rows = aiperf(sent, records)
    for broken in (0, 7):
        rows[broken] |= {"error": {"code": 500, "type": "ServerError", "message": "x"}, "metrics": {"error_isl": {"value": 9}}}
    rows.reverse()  # AIPerf writes records as they end
    warm_up = {"metadata": {"session_num": 0, "benchmark_phase": "warmup"}, "metrics": {}, "error": None}
    run, notes = read_benchmark_run(write(tmp_path / "results", [warm_up, *rows]), "aiperf", trace)
    kept = [i for i in range(len(sent)) if i not in (0, 7)]
    assert [request.prompt for request in run.requests] == [sent[i].prompt for i in kept]
    np.testing.assert_allclose(run.ttft_s, records.ttft_s[kept], rtol=1e-9)
    assert f"2 of {len(sent)} requests failed" in " ".join(notes)


def test_a_shuffled_data_set_is_told_from_the_lengths(exported, tmp_path):
    trace, sent = exported
    order = np.random.default_rng(1).permutation(len(sent))
    rows = vllm(sent, measured(sent))
    for name in ("input_lens", "output_lens", "ttfts", "itls"):
        rows[name] = [rows[name][i] for i in order]
    with pytest.raises(InputError, match="without shuffling"):
        read_benchmark_run(write(tmp_path / "results", rows), "vllm-bench", trace)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows * 2, "stands twice"),
        (lambda rows: [{"metadata": {"session_num": 0}}], "must be a record"),
        (lambda rows: [[1]], "must be a record"),
        (lambda rows: [rows[0] | {"metrics": {}}], "input_sequence_length"),
        (lambda rows: [rows[0] | {"metadata": rows[0]["metadata"] | {"session_num": -1}}], "session_num"),
        (lambda rows: [rows[0] | {"metrics": rows[0]["metrics"] | {"time_to_first_token": {"value": "soon"}}}], "finite number"),
        (lambda rows: [row | {"error": {"code": 500}} for row in rows], "none that was answered"),
        (lambda rows: [], "none that was answered"),
    ],
)
def test_broken_aiperf_records_are_refused_with_file_and_line(exported, tmp_path, change, says):
    _, sent = exported
    path = write(tmp_path / "results", change(aiperf(sent, measured(sent))))
    with pytest.raises(InputError, match=says) as caught:
        read_benchmark(path, "aiperf")
    assert str(path) in str(caught.value)


def test_more_results_than_requests_are_refused(exported, tmp_path):
    trace, sent = exported
    rows = aiperf(sent, measured(sent))
    more = rows[0] | {"metadata": rows[0]["metadata"] | {"session_num": len(sent)}}
    with pytest.raises(InputError, match="Give the trace that was exported"):
        read_benchmark_run(write(tmp_path / "results", [*rows, more]), "aiperf", trace)


def test_sent_goes_with_benchmark_results_only():
    said = CliRunner().invoke(command, ["--profile", PROFILE, "--log", "x", "--sent", "y"])
    assert said.exit_code == 2
    assert "--sent goes with" in said.output
