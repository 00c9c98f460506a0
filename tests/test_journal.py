"""The journal: one request's life in sentences, and a timeline that a trace viewer can read."""

from __future__ import annotations

import itertools
import json

import pytest
from click.testing import CliRunner

from simcache.cli.run import command
from simcache.engine.journal import Journal, explain, timeline
from simcache.engine.run import simulate
from simcache.errors import InputError, UnknownNameError
from simcache.faults import Crash
from simcache.latency import Coefficients, ServerProfile
from simcache.prompt import Request, Segment
from simcache.scenario import Cluster, Scenario
from simcache.workload.synthetic import PoissonRequests, RequestList

LATENCY = ServerProfile(name="test", coefficients=Coefficients(per_token_s=1e-3, per_decode_s=0.01), kv_tokens=10_000)


def run(requests, **cluster):
    journal = Journal()
    backend = Cluster(profile=LATENCY, **cluster)
    return simulate(Scenario(workload=RequestList(rows=tuple(requests)), backend=backend), journal=journal), journal


def ask(at_s: float, key: str, tokens: int, output: int = 1) -> Request:
    return Request(at_s, (Segment(key, tokens),), Segment(("answer", key, at_s), output))


def test_a_life_is_told_in_order_with_its_hits_steps_and_waits():
    result, journal = run([ask(0.0, "doc", 320, output=40), ask(1.0, "doc", 330)], max_num_batched_tokens=64)
    second = explain(result.records, journal, 1)
    assert second[0] == "    1.000000 s  submitted: user request, 330 prompt tokens"
    assert second[-1].endswith("done: 1 output tokens")
    assert any("admitted on replica 0, 320 of 330 tokens hit" in line for line in second)
    first = "\n".join(explain(result.records, journal, 0))
    assert "admitted on replica 0, 0 of 320 tokens hit" in first
    assert "4 steps of prefill, 64 tokens each, 256 ms" in first
    assert "one step of prefill, 64 tokens, 64.0 ms" in first
    assert "first token: 320 ms after submit" in first
    assert "done: 40 output tokens" in first


def test_a_lost_and_a_preempted_request_say_so():
    result, journal = run([ask(0.0, "doc", 500)], replicas=2, faults=(Crash(at_s=0.2, replica=0),))
    assert any("lost with a crash on replica 0" in line for line in explain(result.records, journal, 0))
    crowd = [ask(0.0, f"k{i}", 300, output=200) for i in range(5)]
    result, journal = run(crowd, kv_tokens=1_600)
    victim = int(result.records.preemptions.argmax())
    assert any("preempted on replica 0" in line for line in explain(result.records, journal, victim))


def test_a_number_that_is_no_record_is_an_error():
    result, journal = run([ask(0.0, "doc", 5)])
    with pytest.raises(InputError, match=r"request\(=1\) must be the number of a record, from 0 to 0"):
        explain(result.records, journal, 1)


def test_the_timeline_is_trace_json_whose_stretches_tile_the_busy_time():
    workload = PoissonRequests(rate_per_s=5, count=60, prompt_tokens=200, output_tokens=20)
    journal = Journal()
    result = simulate(Scenario(workload=workload, backend=Cluster(profile=LATENCY, replicas=2)), seed=1, journal=journal)
    document = json.loads(json.dumps(timeline(result.records, journal)))
    slices = [event for event in document["traceEvents"] if event["ph"] == "X"]
    for replica in (0, 1):
        mine = sorted((event["ts"], event["ts"] + event["dur"]) for event in slices if event["pid"] == replica)
        assert mine
        assert all(end <= start + 1e-6 for (_, end), (start, _) in itertools.pairwise(mine))
    opened = [event["id"] for event in document["traceEvents"] if event["ph"] == "b"]
    closed = [event["id"] for event in document["traceEvents"] if event["ph"] == "e"]
    assert sorted(opened) == sorted(closed) == list(range(60))
    assert all(0 <= event["args"]["held"] <= 100 for event in document["traceEvents"] if event["name"].startswith("KV"))


def test_a_journal_changes_nothing_and_equal_runs_write_equal_journals():
    workload = PoissonRequests(rate_per_s=5, count=60, prompt_tokens=200, output_tokens=20)
    scenario = Scenario(workload=workload, backend=Cluster(profile=LATENCY, replicas=2))
    one, other = Journal(), Journal()
    assert simulate(scenario, journal=one).records == simulate(scenario).records == simulate(scenario, journal=other).records
    assert (one.stretches, one.moments) == (other.stretches, other.moments)


def test_run_explains_a_request_and_writes_the_timeline(tmp_path):
    path = tmp_path / "timeline.json"
    arguments = ["demo", "--set", "workload.users=6", "--seeds", "1", "--json", "--explain", "0", "--timeline", str(path)]
    answer = json.loads(CliRunner().invoke(command, arguments, catch_exceptions=False).stdout)
    assert answer["explained"]["scenario"].startswith("one GPU")
    assert any("first token" in line for line in answer["explained"]["lines"])
    assert json.loads(path.read_text())["traceEvents"]
    caches = str(tmp_path / "caches.json")
    told = CliRunner().invoke(command, [*arguments[:6], "--save-cache", caches], catch_exceptions=False)
    assert json.loads(told.stdout)["results"]
    warm = [*arguments[:6], "--set", f"backend.initial_cache={caches}"]
    results = json.loads(CliRunner().invoke(command, warm, catch_exceptions=False).stdout)["results"]
    cold, hot = (
        next(entry["token_hit_ratio"] for entry in entries if entry["scenario"].startswith("one GPU"))
        for entries in (json.loads(told.stdout)["results"], results)
    )
    assert hot > cold  # without warming: the documents are there from the start
    with pytest.raises(InputError, match="must be the number of a record"):
        CliRunner().invoke(command, [*arguments[:6], "--explain", "999999"], catch_exceptions=False)
    with pytest.raises(UnknownNameError, match="variant"):
        CliRunner().invoke(command, [*arguments, "--variant", "one CPU"], catch_exceptions=False)
    with pytest.raises(InputError, match="timeline"):
        CliRunner().invoke(command, [*arguments[:6], "--timeline", str(tmp_path)], catch_exceptions=False)
