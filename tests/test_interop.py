"""Scenarios as traces for real deployments, and results in other people's notebooks."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import simcache as sc
from simcache.cli import main
from simcache.engine.run import simulate
from simcache.engine.sent import sent_requests
from simcache.errors import InputError
from simcache.experiment.comparison import compare
from simcache.prompt import Request, Segment, prompt_tokens, shared_prefix_tokens
from simcache.records import NEVER
from simcache.workload.filler_text import WORDS, prompt_text, segment_text
from simcache.workload.trace_writers import write_trace
from simcache.workload.traces import TraceWorkload, read_trace

SCENARIO = sc.Scenario(
    workload=sc.TypingSessions(users=8, questions=2, document_tokens=3_000, documents=2),
    backend=sc.Server(),
    warming=sc.WarmOnFocus(),
    duration_s=120,
)
pandas = pytest.importorskip("pandas", reason="to_pandas needs pandas, which is not installed")


def convert(*words: object, status: int = 0) -> str:
    done = CliRunner().invoke(main, ["convert", *map(str, words)])
    assert done.exit_code == status, done.output
    return done.output


def test_what_was_sent_is_what_was_recorded():
    result = simulate(SCENARIO, seed=4)
    sent = sent_requests(SCENARIO, seed=4)
    records = result.records
    assert [request.kind for request in sent] == records["kind"].tolist()
    assert [prompt_tokens(request.prompt) for request in sent] == records["prompt_tokens"].tolist()
    assert [request.arrived_at_s for request in sent] == pytest.approx((records["sent_at_ns"] / 1e9).tolist(), abs=2e-9)
    assert all(a.arrived_at_s <= b.arrived_at_s for a, b in pairwise(sent))
    assert {"warm", "user"} == {request.kind for request in sent}


def test_listening_changes_nothing():
    heard: list[Request] = []
    assert simulate(SCENARIO, seed=4, sent=heard).records == simulate(SCENARIO, seed=4).records


def test_the_requests_of_a_trace_are_sent_as_they_are(tmp_path):
    path = tmp_path / "trace.jsonl"
    rows = [Request(float(i), (Segment("doc", 100), Segment(f"q{i}", 9)), Segment(f"a{i}", 3)) for i in range(5)]
    write_trace(rows, path, "simcache")
    assert sent_requests(sc.Scenario(workload=TraceWorkload(path=str(path)), backend=sc.Server())) == rows


def test_a_scenario_exported_and_replayed_hits_what_it_hit(tmp_path):
    """Through our own format the replay is the same run, but for people who wait: here nobody's instants change."""
    path = tmp_path / "sent.jsonl"
    plain = SCENARIO.but(warming=sc.NoWarming())
    write_trace(sent_requests(plain, seed=2), path, "simcache")
    replayed = simulate(sc.Scenario(workload=TraceWorkload(path=str(path), spread_ticks=False), backend=sc.Server()))
    original = simulate(plain, seed=2)
    for name in ("prompt_tokens", "hit_tokens", "submitted_at_ns", "first_token_at_ns"):
        assert np.array_equal(replayed.records[name], original.records[name]), name


@given(st.text(max_size=5), st.integers(0, 300), st.integers(0, 300), st.sampled_from([None, "salt"]))
def test_a_shorter_segment_of_one_key_begins_the_longer(key, few, more, namespace):
    few, more = sorted((few, more))
    words = segment_text(Segment(key, more), namespace).split()
    assert len(words) == more
    assert segment_text(Segment(key, few), namespace).split() == words[:few]
    assert set(words) <= set(WORDS)


def test_texts_share_what_prompts_share_and_namespaces_keep_apart():
    one = (Segment("system", 50), Segment("doc", 200), Segment("q1", 20))
    other = (Segment("system", 50), Segment("doc", 200), Segment("q2", 30))
    a, b = prompt_text(one).split(), prompt_text(other).split()
    same = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    assert shared_prefix_tokens(one, other) == 250 <= same < 250 + 5
    apart = prompt_text(one, "other salt").split()
    assert sum(x == y for x, y in zip(a, apart, strict=True)) < 20


def test_aiperf_rows_hold_text_instants_and_lengths(tmp_path):
    path = tmp_path / "aiperf.jsonl"
    said = json.loads(convert("demo", path, "--to", "aiperf", "--variant", "one GPU, warmed", "--seed", "3", "--json"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert said["requests"] == len(rows) > 300
    assert said["from"] == "scenario"
    assert any("filler words" in line for line in said["lost"])
    assert [row["timestamp"] for row in rows] == sorted(row["timestamp"] for row in rows)
    assert set(rows[0]) == {"timestamp", "text_input", "output_length"}
    assert all(row["output_length"] >= 1 and 20_000 < len(row["text_input"].split()) < 60_000 for row in rows)


def test_vllm_bench_rows_hold_prompt_and_output_tokens(tmp_path):
    path = tmp_path / "bench.jsonl"
    requests = [Request(2.0 * i, (Segment("d", 30),), Segment(f"a{i}", i)) for i in range(4)]
    lost = write_trace(requests, path, "vllm-bench")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [set(row) for row in rows] == [{"prompt", "output_tokens"}] * 4
    assert [row["output_tokens"] for row in rows] == [1, 1, 2, 3]
    assert len({row["prompt"] for row in rows}) == 1
    assert lost[0] == "instants: on average they come at --request-rate 0.666667"


def test_mooncake_from_a_scenario_can_be_read_again(tmp_path):
    (tmp_path / "asked.toml").write_text(sc.to_toml(SCENARIO))
    convert(tmp_path / "asked.toml", tmp_path / "m.jsonl", "--to", "mooncake")
    again = list(read_trace(tmp_path / "m.jsonl", "mooncake", spread_ticks=False))
    sent = sent_requests(SCENARIO)
    assert [prompt_tokens(request.prompt) for request in again] == [prompt_tokens(request.prompt) for request in sent]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("demo", "out", "--to", "aiperf", "--variant", "two GPUs"), "two GPUs"),
        (("demo", "out", "--to", "aiperf", "--from", "mooncake"), "--from goes with a trace"),
        (("trace.jsonl", "out", "--to", "aiperf", "--variant", "x"), "--variant goes with a scenario"),
        (("nowhere.toml", "out", "--to", "aiperf"), "nowhere.toml"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, monkeypatch, words, why):
    monkeypatch.chdir(tmp_path)
    assert why in convert(*words, status=2)
    assert not list(tmp_path.iterdir())


def test_a_result_as_a_data_frame():
    result = simulate(SCENARIO, seed=4)
    frame = result.to_pandas()
    assert len(frame) == len(result.records)
    assert set(result.records.columns) < set(frame.columns)
    for name, column in result.records.columns.items():
        if column.dtype == object:
            assert frame[name].tolist() == column.tolist()
        else:
            assert [NEVER if value is pandas.NA else value for value in frame[name]] == column.tolist()
    asked = frame[(frame.kind == "user") & (frame.outcome == "ok")]
    assert asked.ttft_s.quantile(0.5) == pytest.approx(result.quantiles("ttft_s", [0.5])[0])


def test_without_pandas_it_says_how_to_get_it(monkeypatch):
    import sys

    result = simulate(SCENARIO, seed=4, duration_s=10)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        result.to_pandas()


def test_notebooks_show_text_and_nothing_that_runs():
    hostile = SCENARIO.but(name="<script>alert(1)</script>")
    shown = simulate(hostile, seed=1)._repr_html_()
    assert shown.startswith("<pre>&lt;script&gt;")
    assert "TTFT p95" in shown
    compared = compare(hostile.but(duration_s=60), SCENARIO.but(name="b", warming=sc.NoWarming(), duration_s=60), seeds=2)
    assert "<script" not in compared._repr_html_()
    assert "seeds" in compared._repr_html_()
