"""A recorded llama.cpp server through the simulator: the bars, a wrong profile, and logs that cannot be."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

from simcache.cli.fit import command as fit_command
from simcache.cli.validate import command
from simcache.engine.run import simulate
from simcache.errors import InputError
from simcache.latency import Coefficients, ServerProfile, load_profile, save_profile
from simcache.live_log import LiveRow
from simcache.llamacpp_log import read_llamacpp_csv
from simcache.prompt import Request, Segment
from simcache.scenario import Scenario, Server
from simcache.validation import RecordedRun, longest_tokens, validate
from simcache.workload.synthetic import RequestList

TOY = ServerProfile(
    name="toy",
    coefficients=Coefficients(
        base_s=0.005, per_token_s=7e-4, attention_s=3e-7, per_decode_s=2e-3, per_kv_token_s=2e-6, per_kv_token_mixed_s=2e-6
    ),
)


@pytest.fixture(scope="module")
def engine(shared_data, tmp_path_factory):
    """The profile fitted on the calibration files, and the arguments that validate the recorded run with it."""
    folder = shared_data / "cpu_engine"
    profile = tmp_path_factory.mktemp("cpu") / "cpu.toml"
    points = [str(path) for path in sorted(folder.glob("A_*.csv.gz"))]
    fitted = CliRunner().invoke(fit_command, [*points, "--form", "context-small", "--out", str(profile)], catch_exceptions=False)
    assert fitted.exit_code == 0
    log = ["--log", str(folder / "B_hi_1slot.csv"), "--log-format", "llamacpp-csv", "--engine", "llamacpp"]
    return profile, [*log, "--slots", "1", "--slot-similarity", "0.1", "--json"]


def judged(profile, arguments):
    return json.loads(CliRunner().invoke(command, ["--profile", str(profile), *arguments], catch_exceptions=False).stdout)


def test_a_recorded_closed_loop_is_predicted_within_the_bars(engine):
    profile, arguments = engine
    found = judged(profile, arguments)
    assert found["requests"] == 147  # the last 80 %
    assert found["hits_exact_share"] >= 0.98
    assert found["service"]["median_ape"] <= 0.05
    assert abs(found["ttft_s"]["p50_error"]) <= 0.15
    assert max(abs(found["ttft_s"][name]) for name in ("p90_error", "p95_error")) <= 0.10
    assert found["speed_factor"] == pytest.approx(1.09, abs=0.03)
    assert found["grade"] == "A"
    low, high = found["interval95"]["p50_error"]
    assert -0.5 < low < found["ttft_s"]["p50_error"] < high < 1.0  # at a utilisation of 0.83 little speed is much waiting


def test_wrong_profiles_get_bad_grades(engine, tmp_path):
    profile, arguments = engine
    fitted = load_profile(profile)
    assert judged(profile, [*arguments, "--speed-factor", "0.8", "--profile-draws", "0"])["grade"] == "D"
    wrong = ServerProfile(name="decodes-cost-all", coefficients=Coefficients(per_decode_s=0.02, base_s=0.01))
    save_profile(wrong, tmp_path / "wrong.toml")
    found = judged(tmp_path / "wrong.toml", arguments)
    assert found["grade"] == "D"
    assert found["service"]["median_ape"] > 0.2
    assert fitted.form == "context-small"


def test_another_number_of_slots_shows_in_the_hits(engine):
    profile, arguments = engine
    four = [each if each != "1" else "4" for each in arguments]
    assert judged(profile, [*four, "--profile-draws", "0"])["hits_exact_share"] < 0.7


def recorded(factor: float, slots: int, kinds: str = "user") -> tuple[RecordedRun, Server]:
    """A run that the simulator itself recorded on a host ``factor`` times as slow."""
    sent: list[Request] = []
    for row in range(120):
        who, turn = row % 12, row // 12
        prompt = [Segment("system", 100)]
        for k in range(turn + 1):
            prompt += [Segment(("ask", who, k), 60)] + ([Segment(("answer", who, k), 20)] if k < turn else [])
        kind = kinds if row % 3 == 0 else "user"
        sent.append(Request(0.55 * row, tuple(prompt), Segment(("answer", who, turn), 20), kind=kind))
    requests = tuple(sent)
    server = Server(profile=TOY, engine="llamacpp", slots=slots, kv_tokens=slots * 2_000)
    slow = Server(profile=TOY, engine="llamacpp", slots=slots, kv_tokens=slots * 2_000, slowness=factor)
    records = simulate(Scenario(workload=RequestList(rows=requests), backend=slow)).records
    service_s = (records["finished_at_ns"] - records["first_scheduled_at_ns"]) / 1e9
    run = RecordedRun(
        requests=requests, ttft_s=records.ttft_s, e2e_s=records.e2e_s, hit_tokens=records["hit_tokens"], service_s=service_s
    )
    return run, server


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_the_speed_of_the_host_is_read_from_times_in_service(factor, slots):
    run, server = recorded(factor, slots)
    found = validate(run, server)
    assert found.speed_factor == pytest.approx(factor, rel=1e-3)
    assert found.hits_exact_share == 1.0
    assert found.service_median_ape < 1e-3
    assert abs(found.ttft_s["p95_error"]) < 5e-3


def test_nobody_waits_for_a_warm_up():
    run, server = recorded(1.0, 4, kinds="warm")
    late = run.ttft_s.copy()
    late[[request.kind == "warm" for request in run.requests]] *= 9
    spoilt = RecordedRun(
        requests=run.requests, ttft_s=late, e2e_s=run.e2e_s * 9, hit_tokens=run.hit_tokens, service_s=run.service_s
    )
    found = validate(spoilt, server, None)
    assert found.requests == 80
    assert found.ttft_s["mean_error"] == 0.0


def test_the_interval_is_of_host_drift_alone_where_a_profile_has_no_covariance():
    run, server = recorded(1.0, 1)
    assert validate(run, server, None).interval95 is None
    low, high = validate(run, server, None, draws=5).interval95["mean_error"]
    assert low == pytest.approx(high, abs=1e-9)  # this host never drifts
    swaying = run.service_s * np.repeat([0.9, 1.1, 0.9, 1.1, 1.0], 24)
    drifting = RecordedRun(requests=run.requests, ttft_s=run.ttft_s, e2e_s=run.e2e_s, service_s=swaying)
    low, high = validate(drifting, server, None, draws=20).interval95["mean_error"]
    assert low < -0.05
    assert high > 0.05


GOOD = {
    "t_submit": "1.5", "segments": "sys:40 ask:10", "out_segment": "a", "predicted_n": "5", "ttft_s": "0.1", "t_finish": "1.8",
    "cache_n": "40", "server_prompt_ms": "90", "server_predicted_ms": "100", "prompt_tokens": "50", "kind": "user",
}  # fmt: skip


def written(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(GOOD))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_kind_is_read_as_people_write_it(tmp_path):
    kinds = ["user", "doc", "Warmup", "prewarm", "speculative", "keep-alive", "", "doc"]
    run, notes = read_llamacpp_csv(written(tmp_path / "log.csv", [{**GOOD, "kind": kind} for kind in kinds] + [GOOD] * 3))
    assert [request.kind for request in run.requests[:8]] == ["user", "user", "warm", "warm", "warm", "keepalive", "user", "user"]
    assert notes == ["2 requests of kind 'doc' are taken for people's questions"]


def test_rows_come_out_in_order_with_what_was_left_out(tmp_path):
    early = {**GOOD, "t_submit": "-0.5", "t_finish": "1.0", "kind": "warmup"}
    path = written(
        tmp_path / "log.csv",
        [GOOD] * 10 + [{**GOOD, "ttft_s": "", "t_finish": ""}, early, {**GOOD, "cache_n": "", "predicted_n": ""}],
    )
    run, notes = read_llamacpp_csv(path)
    assert notes == [
        "1 of 12 requests were never answered and are left out",
        "1 of 12 requests were without the server's counts and are left out",
    ]
    assert [request.arrived_at_s for request in run.requests] == [0.0] + [2.0] * 10
    assert run.requests[0].kind == "warm"
    assert run.requests[1].prompt == (Segment("sys", 40), Segment("ask", 10))
    assert run.service_s[1] == pytest.approx(0.19)
    assert run.e2e_s[0] == 1.5
    assert longest_tokens(run) == 56


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"t_finish": "1.55"}, "two clocks"),
        ({"ttft_s": "-0.1"}, "of at least 0"),
        ({"ttft_s": "nan"}, "finite"),
        ({"t_submit": ""}, "finite"),
        ({"cache_n": "51"}, "exceeds the prompt's 50"),
        ({"cache_n": "1.5"}, "whole number"),
        ({"prompt_tokens": "49"}, "sum of the segments"),
        ({"segments": "sys:40 ask"}, "key:tokens"),
        ({"segments": ""}, "a token at least"),
        ({"segments": "sys:-4"}, "key:tokens"),
    ],
)
def test_a_row_that_cannot_be_is_one_error_with_its_line(tmp_path, change, rule):
    path = written(tmp_path / "log.csv", [GOOD] * 11 + [{**GOOD, **change}])
    with pytest.raises(InputError, match=rule) as caught:
        read_llamacpp_csv(path)
    assert caught.value.line == 13


def test_files_that_are_no_logs(tmp_path):
    (tmp_path / "a.csv").write_text("t_submit,segments\n")
    with pytest.raises(InputError, match="has no column out_segment"):
        read_llamacpp_csv(tmp_path / "a.csv")
    (tmp_path / "b.csv.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_llamacpp_csv(tmp_path / "b.csv.gz")
    with pytest.raises(InputError, match="cannot be read"):
        read_llamacpp_csv(tmp_path / "none.csv")
    path = written(tmp_path / "c.csv", [GOOD] * 11)
    path.write_text(path.read_text() + "1,2\n")
    with pytest.raises(InputError, match="fields of its header"):
        read_llamacpp_csv(path)


def test_a_live_log_is_judged_by_the_same_verb(tmp_path):
    run, _ = recorded(1.1, 2)
    log = tmp_path / "live.jsonl"
    with log.open("w") as file:
        for i, request in enumerate(run.requests):
            row = LiveRow(
                arrived_at_s=request.arrived_at_s,
                submitted_at_s=request.arrived_at_s,
                prompt=tuple(Segment(str(key), tokens) for key, tokens in request.prompt),
                output=Segment(str(request.output.key), request.output.tokens),
                outcome="ok",
                ttft_s=float(run.ttft_s[i]),
                e2e_s=float(run.e2e_s[i]),
                cached_tokens=int(run.hit_tokens[i]),
                server={"prompt_ms": float(run.service_s[i]) * 500, "predicted_ms": float(run.service_s[i]) * 500},
            )
            print(json.dumps(row.as_json()), file=file)
    save_profile(TOY, tmp_path / "toy.toml")
    arguments = ["--log", str(log), "--log-format", "simcache", "--engine", "llamacpp", "--slots", "2", "--json"]
    found = judged(tmp_path / "toy.toml", arguments)
    assert found["speed_factor"] == pytest.approx(1.1, rel=1e-3)
    assert found["hits_exact_share"] == 1.0
    assert found["service"]["median_ape"] < 1e-3
    assert found["grade"] == "A"


def test_a_warm_up_given_up_in_the_run_is_given_up_in_the_simulation():
    document, others = Segment("document", 1_500), [Segment(f"other {i}", 300) for i in range(12)]
    first = Request(0.0, (document,), Segment("warm", 1), kind="warm", cancelled_after_s=0.3)  # an iteration takes 2,048 tokens
    queued = Request(0.1, (Segment("elsewhere", 2_000),), Segment("warm too", 1), kind="warm", cancelled_after_s=0.2)
    question = Request(4.0, (document, Segment("question", 20)), Segment("answer", 5))
    rows = (first, queued, question, *(Request(6.0 + i, (other,), Segment(("a", i), 2)) for i, other in enumerate(others)))
    run = RecordedRun(
        requests=rows, ttft_s=np.full(15, 0.3), e2e_s=np.full(15, 0.4), hit_tokens=np.array([-1, -1, 1_500] + [0] * 12)
    )
    server = Server(profile=TOY, engine="llamacpp", slots=1, kv_tokens=4_000)
    found = validate(run, server, None)
    assert found.hits_exact_share == 1.0  # the question finds what was computed, not what waited behind it
    assert found.requests == 13
