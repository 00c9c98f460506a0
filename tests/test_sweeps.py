"""A sweep simulates each run once, keeps it, shares it, never reuses a stale one, and survives workers that die."""

from __future__ import annotations

import dataclasses
import errno
import gc
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simcache as sc
from simcache import stats
from simcache.errors import InputError, UnknownNameError
from simcache.experiment import digests, run_store
from simcache.experiment.axes import Axis, cells, grid, label, latin_hypercube, varied
from simcache.experiment.digests import digested
from simcache.experiment.run_store import RunStore
from simcache.experiment.runs import PERCENTILES, Failed, Metric, Run, Task, reduced, run_task
from simcache.experiment.study import Precision, Study, sample
from simcache.experiment.study_file import parse_study, read_study
from simcache.experiment.sweeps import sweep
from simcache.experiment.workers import Workers
from simcache.faults import Crash
from simcache.latency import Coefficients, ServerProfile, load_profile, save_profile
from simcache.prompt import Request, Segment
from simcache.workload.loaded import loaded_once

ROOT = Path(__file__).resolve().parent.parent
CHAT = sc.Scenario(
    name="chat",
    workload=sc.TypingSessions(users=4, document_tokens=2_000, questions=2),
    backend=sc.Cluster(kv_tokens=50_000),
    duration_s=120,
)
SEAT = ServerProfile(name="one seat", coefficients=Coefficients(per_token_s=1e-5), kv_tokens=10**9)


def table(found: Any) -> list[dict[str, Any]]:
    return list(found.rows())


# Axes


def test_a_grid_holds_every_combination_once() -> None:
    points = grid([Axis(key="a", values=(1, 2, 3)), Axis(key="b", low=0.0, high=1.0, steps=3)])
    assert len(points) == 9
    assert {(point["a"], point["b"]) for point in points} == {(a, b) for a in (1, 2, 3) for b in (0.0, 0.5, 1.0)}


@given(st.integers(1, 40), st.integers(0, 1_000), st.booleans())
def test_every_slice_of_every_axis_of_a_latin_hypercube_has_one_point(points: int, seed: int, log: bool) -> None:
    axes = [Axis(key="x", low=1.0, high=9.0, log=log), Axis(key="y", low=-1.0, high=1.0)]
    drawn = latin_hypercube(axes, points, seed)
    shares_x = [math.log(point["x"], 9) if log else (point["x"] - 1) / 8 for point in drawn]
    for shares in (shares_x, [(point["y"] + 1) / 2 for point in drawn]):
        assert sorted(min(int(share * points + 1e-9), points - 1) for share in shares) == list(range(points))
    assert drawn == latin_hypercube(axes, points, seed)


def test_whole_numbers_stay_whole_and_inside_in_a_hypercube() -> None:
    values = [point["n"] for point in latin_hypercube([Axis(key="n", low=1, high=4, log=True)], 200)]
    assert set(values) == {1, 2, 3, 4}
    assert all(type(value) is int for value in values)


def test_any_key_can_be_varied_down_to_parts_of_parts() -> None:
    assert varied(CHAT, "duration_s", 60).duration_s == 60
    assert varied(CHAT, "backend.router", "least_requests").backend.router == "least_requests"  # type: ignore[union-attr]
    typing = varied(CHAT, "workload.typist.pause_share", 0.5)
    assert typing.workload.typist.pause_share == 0.5  # type: ignore[union-attr]
    law = varied(CHAT, "workload.output_tokens", {"kind": "geometric", "mean": 7})
    assert varied(law, "workload.output_tokens.mean", 9).workload.output_tokens == sc.Geometric(mean=9)  # type: ignore[union-attr]
    assert varied(CHAT, "warming", "on-focus").warming == sc.WarmOnFocus()
    assert varied(CHAT, "warming.kind", "on-focus").warming == sc.WarmOnFocus()
    assert varied(CHAT, "warming", sc.WarmOnFocus()).warming == sc.WarmOnFocus()
    assert varied(CHAT, "warming", {"kind": "after-pause", "pause_s": 2.0}).warming.pause_s == 2.0  # type: ignore[union-attr]
    assert CHAT.backend.kv_tokens == 50_000


def test_a_key_that_a_scenario_lacks_leaves_it_alone_and_counts_once() -> None:
    hosted = sc.HostedApi(provider="anthropic", model="claude-sonnet-4-5", profile="openai-figure")
    both = [CHAT, CHAT.but(name="api", backend=hosted)]
    made = cells(both, grid([Axis(key="replicas", values=(1, 2)), Axis(key="warming", values=("none", "on-focus"))]))
    assert [cell.name for cell in made if cell.of == "api"] == ["api, warming=none", "api, warming=on-focus"]
    assert len([cell for cell in made if cell.of == "chat"]) == 4


@pytest.mark.parametrize(
    ("axes", "points", "message"),
    [
        ({}, None, r"axes\(=\{\}\) must name at least one key"),
        ({"replicas": []}, None, r"replicas\(=\[\]\) must have at least one value"),
        ({"replicas": [1, 1]}, None, r"replicas\(=\['1'\]\) must not repeat a value"),
        ({f"axis{i}": list(range(1000)) for i in range(3)}, None, r"grid\(=1000000000\) must be at most 100,000 points"),
        ({"replicas": {"from": 1, "to": 10**9}}, None, r"grid\(=1000000000\) must be at most 100,000 points"),
        ({"x": {"from": 0.0, "to": 1.0}}, None, r"without end in a grid. Give steps"),
        ({"x": {"from": 2, "to": 1}}, None, r"x.to\(=1\) must be above from, 2"),
        ({"x": {"from": 0, "to": 1, "log": True}}, None, r"x.from\(=0\) must be above 0 where log is true"),
        ({"x": {"from": 0, "to": 1, "step": 2}}, None, r"x.step\(=2\) is not a key of a range"),
        ({"x": 3}, None, r"x\(=3\) must be a list of values or a range"),
        ({"x": [1]}, 0, r"points\(=0\) must be at least 1"),
        ({"x": [1]}, 10**9, r"points\(=1000000000\) must be at most"),
    ],
)
def test_impossible_grids_are_refused(axes: Any, points: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sample(axes, points=points)


def test_an_unknown_axis_names_the_near_ones_and_a_bad_value_its_key() -> None:
    with pytest.raises(InputError, match=r"replica\(=1\) is not a key of the scenario. Did you mean 'backend.replicas'"):
        sweep(CHAT, {"replica": [1]})
    with pytest.raises(InputError, match=r"backend.replicas\(=0\) must be at least 1"):
        sweep(CHAT, {"replicas": [0]})
    with pytest.raises(InputError, match=r"backend.replicas\(='two'\) must be a whole number"):
        sweep(CHAT, {"replicas": ["two"]})
    with pytest.raises(UnknownNameError, match=r"warming.kind\(='on-focuss'\) is not known"):
        sweep(CHAT, {"warming": ["on-focuss"]})
    with pytest.raises(UnknownNameError, match="p95"):
        sweep(CHAT, metrics=["p95_ttft"])
    with pytest.raises(InputError, match="percentile that is kept"):
        sweep(CHAT, metrics=["p97.3(ttft_s)"])


# What a run depends on


def test_the_digest_tells_apart_what_may_differ_and_nothing_else() -> None:
    base = digested(CHAT).digest
    assert base == digested(CHAT.but(name="another")).digest
    assert base == digested(CHAT.but(backend__profile=load_profile("llama-3-8b/a100/tp1"))).digest
    others = [
        CHAT.but(duration_s=121),
        CHAT.but(slo_ttft_s=2.0),
        CHAT.but(warming=sc.WarmOnFocus()),
        CHAT.but(workload__users=5),
        CHAT.but(backend__kv_tokens=50_016),
        CHAT.but(backend=sc.Server(kv_tokens=50_000)),
        CHAT.but(backend__gpu_usd_per_hour=2.0),
    ]
    assert len({base, *(digested(each).digest for each in others)}) == len(others) + 1


def test_a_changed_profile_price_list_code_or_package_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = tmp_path / "own.toml"
    save_profile(dataclasses.replace(SEAT, name="own"), profile)
    own = CHAT.but(backend__profile=str(profile))
    before = digested(own).digest
    save_profile(dataclasses.replace(SEAT, name="own", coefficients=Coefficients(per_token_s=2e-5)), profile)
    assert digested(own).digest != before

    api = CHAT.but(backend=sc.HostedApi(provider="anthropic", model="claude-sonnet-4-5", profile="openai-figure"))
    before = digested(api).digest
    real = digests.hosted_prices

    def dearer(*args: Any, **others: Any) -> Any:
        prices = real(*args, **others)
        return dataclasses.replace(prices, tariff=prices.tariff.times(1.5))

    with monkeypatch.context() as patch:
        patch.setattr(digests, "hosted_prices", dearer)
        assert digested(api).digest != before
    with monkeypatch.context() as patch:
        patch.setattr(digests, "code_digest", lambda: "another")
        assert digested(api).digest != before
    with monkeypatch.context() as patch:
        patch.setattr(digests, "package_versions", lambda: {"numpy": "99"})
        assert digested(api).digest != before
    assert digested(api).digest == before


def trace(path: Path, prompts: int = 20, tokens: int = 300, tick_s: float = 3.0) -> Path:
    rows = [
        {"arrived_at_s": (i // 4) * tick_s, "prompt": [["doc", 100], [f"q{i}", tokens]], "output": [f"a{i}", 5]}
        for i in range(prompts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_trace_is_known_by_its_content_not_by_its_place(tmp_path: Path) -> None:
    first, second = trace(tmp_path / "a.jsonl"), trace(tmp_path / "b.jsonl")
    of = {path: digested(CHAT.but(workload=sc.TraceWorkload(path=path), duration_s=None)) for path in (first, second)}
    assert of[first].digest == of[second].digest
    trace(second, tokens=301)
    changed = digested(CHAT.but(workload=sc.TraceWorkload(path=second), duration_s=None))
    assert changed.digest != of[first].digest
    assert not of[second].unchanged()
    assert of[first].unchanged()


@pytest.mark.parametrize("limit", [None, 1, 6, 18, 20, 99])
def test_a_loaded_trace_gives_the_requests_of_the_file(tmp_path: Path, limit: int | None) -> None:
    for spread_ticks in (True, False):
        workload = sc.TraceWorkload(path=trace(tmp_path / "t.jsonl"), spread_ticks=spread_ticks, limit=limit)
        loaded = loaded_once(workload)
        assert loaded is not workload
        assert loaded_once(workload) is loaded
        for seed in (0, 1):
            assert list(loaded.requests(seed)) == list(workload.requests(seed))  # type: ignore[union-attr]
        assert loaded.notes == workload.notes  # type: ignore[union-attr]


def test_a_trace_is_read_once_per_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simcache.workload import loaded

    reads = []
    real = loaded.file_rows
    monkeypatch.setattr(loaded, "file_rows", lambda *args: reads.append(1) or real(*args))
    scenario = CHAT.but(workload=sc.TraceWorkload(path=trace(tmp_path / "once.jsonl")), duration_s=None)
    found = sweep(scenario, {"kv_tokens": [10_000, 50_000]}, seeds=3, workers=1)
    assert len(reads) == 1
    direct = sc.simulate(scenario.but(backend__kv_tokens=10_000), seed=2)
    assert found.runs[0][2].quantiles["ttft_s"][95] == direct.quantiles("ttft_s", [0.95])[0]


# Figures of a run


def test_a_run_has_the_figures_of_its_result() -> None:
    result = sc.simulate(CHAT, seed=3)
    run = run_task(Task(scenario=CHAT, seed=3))
    assert isinstance(run, Run)
    entry = sc.summarise([result])
    assert Metric("p95(ttft_s)").of(run) == entry["ttft_s"]["p95"]
    assert Metric("cost").of(run) == entry["cost_usd"]["per_1000_questions"]
    assert Metric("slo_share").of(run) == entry["slo_share"]
    assert Metric("p90(queue_s)").of(run) == entry["queue_s"]["p90"]
    for percent in PERCENTILES:
        assert Metric(f"p{percent}(ttft_s)").of(run) == result.quantiles("ttft_s", [percent / 100])[0]
    assert Run.from_json(json.loads(json.dumps(run.to_json()))) == run


def test_variances_count_what_requests_of_one_user_share() -> None:
    from .synthetic_runs import answer, result_of

    apart = [answer(float(i), 1.0 + (i % 2), user=f"u{i}") for i in range(400)]
    together = [answer(float(i), 1.0 + (i // 10 % 2), user=f"u{i // 10}") for i in range(400)]
    alone = reduced(result_of(apart)).variances
    shared = reduced(result_of(together)).variances
    assert alone["ttft_s.mean"] == pytest.approx(0.25)
    assert shared["ttft_s.mean"] == pytest.approx(2.5)
    assert alone["slo_share"] == pytest.approx(0.0, abs=1e-12)


# The store


RUN = Run(seed=3, figures={"slo_share": 1.0, "lost_share": None}, quantiles={"ttft_s": (0.1, 1 / 3)}, variances={"slo_share": 0.2})


@pytest.mark.parametrize("damage", ["", "{}", "cut", "flip", "binary", "other", "folder"])
def test_a_damaged_file_counts_as_absent_and_is_said(tmp_path: Path, damage: str) -> None:
    store = RunStore(tmp_path)
    store.put("ab12", RUN)
    assert store.get("ab12") == RUN
    path = store.path("ab12")
    text = path.read_text()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    elif damage == "other":
        store.put("ab34", RUN)
        path.write_bytes(store.path("ab34").read_bytes())
    else:
        path.write_text({"cut": text[:-20], "flip": text.replace("1.0", "0.9")}.get(damage, damage))
    assert store.get("ab12") is None
    assert store.corrupted == ["ab12.json"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_single_changed_byte_passes_as_the_run(data: st.DataObject) -> None:
    text = run_store._text(RUN, "ab12").encode()
    at = data.draw(st.integers(0, len(text) - 2))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != text[at]))
    damaged = (text[:at] + bytes([byte]) + text[at + 1 :]).decode("utf-8", "replace")
    parsed = run_store._parsed(damaged, "ab12")
    assert parsed is None or parsed == RUN  # a space or an ignored digit of the head may change nothing


def test_damaged_runs_are_simulated_anew_and_the_table_is_the_same(tmp_path: Path) -> None:
    first = sweep(CHAT, {"replicas": [1, 2]}, seeds=3, store=tmp_path / "runs", workers=1)
    assert (first.simulated, first.reused) == (6, 0)
    again = sweep(CHAT, {"replicas": [1, 2]}, seeds=3, store=tmp_path / "runs", workers=1)
    assert (again.simulated, again.reused) == (0, 6)
    victim = sorted((tmp_path / "runs").rglob("*.json"))[2]
    victim.write_text(victim.read_text()[:100])
    mended = sweep(CHAT, {"replicas": [1, 2]}, seeds=3, store=tmp_path / "runs", workers=1)
    assert (mended.simulated, mended.reused, mended.damaged) == (1, 5, (victim.name,))
    assert first == again == mended
    for number, found in enumerate((first, again, mended)):
        found.write(tmp_path / str(number))
    for name in ("table.csv", "runs.csv", "sweep.json"):
        assert len({(tmp_path / str(number) / name).read_bytes() for number in range(3)}) == 1


def test_two_sweeps_share_their_runs(tmp_path: Path) -> None:
    sweep(CHAT, {"replicas": [1, 2]}, seeds=3, store=tmp_path, workers=1)
    other = sweep([CHAT.but(name="x")], {"kv_tokens": [40_000, 50_000], "replicas": [2]}, seeds=4, store=tmp_path, workers=1)
    assert (other.simulated, other.reused) == (5, 3)


def test_one_scenario_under_two_names_is_simulated_once() -> None:
    found = sweep([CHAT, CHAT.but(name="twin")], seeds=2, workers=1)
    assert found.simulated == 2
    assert found.runs[0] == found.runs[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MyWarming(sc.WarmOnFocus):
    """A policy of the user's own: nobody can know when its code changes."""


def test_runs_of_code_that_is_not_ours_are_not_kept(tmp_path: Path) -> None:
    for _ in range(2):
        found = sweep(CHAT.but(warming=MyWarming()), seeds=2, store=tmp_path, workers=1)
        assert (found.simulated, found.reused) == (2, 0)
        assert any("MyWarming are not kept" in note for note in found.notes)
    assert not list(tmp_path.rglob("*.json"))


def test_a_full_disk_loses_nothing_that_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = os.replace, [3]

    def replace(source: Any, target: Any) -> None:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(InputError, match=r"No space left on device. Runs that were finished are kept"):
            sweep(CHAT, {"replicas": [1, 2]}, seeds=3, store=tmp_path, workers=1)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3
    found = sweep(CHAT, {"replicas": [1, 2]}, seeds=3, store=tmp_path, workers=1)
    assert (found.simulated, found.reused) == (3, 3)


def test_an_unwritable_store_is_said_before_the_first_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        sweep(CHAT, seeds=1, store=tmp_path / "file" / "runs", workers=1)


def test_a_file_that_changes_during_the_sweep_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trace(tmp_path / "t.jsonl")
    scenario = CHAT.but(workload=sc.TraceWorkload(path=path), duration_s=None)

    def progress(done: int, total: int) -> None:
        if done == 2:
            trace(path, tokens=999)

    with pytest.raises(InputError, match="changed while the sweep ran"):
        sweep(scenario, seeds=4, store=tmp_path / "runs", workers=1, progress=progress)
    assert len(list((tmp_path / "runs").rglob("*.json"))) == 2
    found = sweep(scenario, seeds=4, store=tmp_path / "runs", workers=1)
    assert found.reused == 0


# Replications, failures


def test_seeds_are_added_until_the_interval_is_narrow() -> None:
    precise = Precision(metric="p50(ttft_s)", relative_half_width=0.05, at_most=60)
    found = sweep([CHAT, CHAT.but(name="b", workload__users=20)], precision=precise, workers=1)
    for number, runs in enumerate(found.runs):
        estimate = found.estimate(number, "p50(ttft_s)")
        assert estimate is not None
        assert estimate.high is not None
        assert 10 <= len(runs) <= 60
        assert sorted(runs) == list(range(len(runs)))
        assert estimate.high - estimate.mean <= 0.05 * estimate.mean or len(runs) == 60
    assert found == sweep([CHAT, CHAT.but(name="b", workload__users=20)], precision=precise, workers=1)


def test_a_run_that_is_refused_fails_alone() -> None:
    crash = Crash(at_s=1.0, replica=1)  # there is a second replica in one cell only
    found = sweep(CHAT.but(backend__faults=(crash,)), {"replicas": [1, 2]}, seeds=2, workers=1)
    assert [(row["seeds"], row["failed"]) for row in table(found)] == [(0, 2), (2, 0)]
    assert {failure.cell for failure in found.failures} == {"chat, replicas=1"}
    assert "must be a replica from 0 to 0" in found.failures[0].why


@dataclasses.dataclass(frozen=True, kw_only=True)
class Killer:
    """Requests that kill the process that reads them, ``times`` times in all, or whenever (0), under one seed."""

    folder: str
    seed: int
    times: int
    parent: int

    def requests(self, seed: int) -> Iterator[Request]:
        marks = len(os.listdir(self.folder))
        if seed == self.seed and (self.times == 0 or marks < self.times) and os.getpid() != self.parent:
            (Path(self.folder) / f"{marks}").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        return iter((Request(0.0, (Segment("doc", 300),), Segment("a", 5)),))


@pytest.fixture
def no_processes_left() -> Iterator[None]:
    """Ends the workers here, so that the pipes of those that died are collected in this test and not in a later one."""
    yield
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("no_processes_left")
@pytest.mark.parametrize("times", [1, 0])
def test_a_run_whose_worker_dies_is_run_again_and_then_reported(tmp_path: Path, times: int) -> None:
    killer = Killer(folder=str(tmp_path), seed=5, times=times, parent=os.getpid())
    found = sweep(CHAT.but(workload=killer, duration_s=None), seeds=12, workers=2)
    if times == 1:
        assert not found.failures
        assert sorted(found.runs[0]) == list(range(12))
    else:
        assert [(failure.seed, failure.why) for failure in found.failures] == [(5, "its worker process died, 3 times")]
        assert sorted(found.runs[0]) == [seed for seed in range(12) if seed != 5]


@pytest.mark.usefixtures("no_processes_left")
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    axes = {"replicas": [1, 2], "warming": [sc.NoWarming(), sc.WarmOnFocus()]}
    assert sweep(CHAT, axes, seeds=3, workers=2) == sweep(CHAT, axes, seeds=3, workers=1)


# Study files


STUDY = """
name = "sizes"
seeds = 4
metrics = ["p90(ttft_s)", "cost"]
scenario = { workload = { kind = "typing-sessions", users = 3 }, backend = { kind = "cluster" }, duration_s = 60, name = "chat" }
[axes]
backend.replicas = { from = 1, to = 3 }
"warming" = ["none", { kind = "after-pause", pause_s = 2.0 }]
"""


def test_a_study_file_says_it_all() -> None:
    study = parse_study(STUDY)
    assert (study.name, study.seeds, study.metrics) == ("sizes", 4, ("ttft_s.p90", "cost_usd.per_1000_questions"))
    assert study.keys == ("backend.replicas", "warming")
    assert [cell.name for cell in study.cells][:2] == [
        "chat, replicas=1, warming=none",
        "chat, replicas=1, warming=after-pause(pause_s=2.0)",
    ]
    assert parse_study(STUDY, seeds=2, first_seed=7).first_seed == 7


def test_a_sampled_study_with_precision() -> None:
    more = '[sample]\npoints = 5\nseed = 1\n[precision]\nmetric = "slo_share"\nhalf_width = 0.1\n'
    study = parse_study(STUDY + more)
    assert 1 <= len(study.cells) <= 5
    assert study.precision == Precision(metric="slo_share", half_width=0.1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = 4", "seeds = 0", r"seeds\(=0\) must be at least 1"),
        ("seeds", "sedes", r"sedes\(=4\) is not a key of a study file. Did you mean 'seeds'"),
        ('"cost"', '"costt"', r"metric\(='costt'\) is not known"),
        ("backend.replicas", "backend.replica", r"backend.replica\(=1\) is not a key of the scenario"),
        ("users = 3", "user = 3", r"workload.user\(=3\) is not a key"),
        ("to = 3", "to = 1", r"backend.replicas.to\(=1\) must be above from, 1"),
        ("to = 3", "to = 1000000000", r"grid\(=2000000000\) must be at most"),
        ("pause_s = 2.0", "pause_s = -2.0", r"warming.pause_s\(=-2.0\) must be"),
        ('name = "sizes"', "schema_version = 2", r"schema_version\(=2\) must be 1"),
        ("[axes]", "[axes", r"must be TOML"),
        ("scenario = {", "scenari = {", r"scenari\(="),
    ],
)
def test_mistakes_in_study_files_are_named_with_the_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        read_study(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_example_needs_nothing_else_and_reads() -> None:
    study = read_study(ROOT / "studies" / "example_sweep.toml")
    assert len(study.cells) == 24
    assert "shared" not in (ROOT / "studies" / "example_sweep.toml").read_text()


# Coverage and cost


def mean_sojourns(first_seed: int, seeds: int = 10, count: int = 2_000) -> stats.Estimate:
    """The printed interval of a mean sojourn in M/D/1: load 1/2, service 1 s.

    Of shorter runs the means are skewed (0.6 at 600 requests), which costs a t interval over 10 of them a point or two.
    """
    workload = sc.PoissonRequests(rate_per_s=0.5, count=count, prompt_tokens=100_000, output_tokens=0)
    backend = sc.Server(profile=SEAT, max_num_seqs=1, max_num_batched_tokens=10**9, prefix_caching=False)
    scenario = sc.Scenario(name="M/D/1", workload=workload, backend=backend)
    found = sweep(scenario, seeds=seeds, first_seed=first_seed, workers=1, metrics=["mean(e2e_s)"])
    row = table(found)[0]
    return stats.Estimate(row["e2e_s.mean"], row["e2e_s.mean.low"], row["e2e_s.mean.high"], seeds)


@pytest.mark.slow
def test_printed_intervals_of_300_sweeps_cover_theory_as_often_as_they_say() -> None:
    from simcache import queueing

    truth = queueing.md1_wait_s(0.5, 1.0) + 1.0
    share = stats.coverage([mean_sojourns(10 * i) for i in range(300)], truth)
    print(f"coverage {share:.3f}")
    assert 0.92 <= share <= 0.98


def test_a_dozen_printed_intervals_are_not_far_off() -> None:
    from simcache import queueing

    truth = queueing.md1_wait_s(0.5, 1.0) + 1.0
    assert stats.coverage([mean_sojourns(10 * i, seeds=5, count=600) for i in range(12)], truth) >= 9 / 12


def test_the_overhead_of_a_run_is_under_50_ms(tmp_path: Path) -> None:
    tiny = CHAT.but(workload__users=1, duration_s=1.0)
    sweep(tiny, seeds=2, store=tmp_path / "warm", workers=1)
    started = time.process_time()
    found = sweep(tiny, {"kv_tokens": [40_000, 50_000, 60_000, 70_000]}, seeds=10, store=tmp_path / "runs", workers=1)
    per_run_s = (time.process_time() - started) / 40
    assert found.simulated == 40
    assert per_run_s < 0.05


def test_labels_are_short_and_tell_apart() -> None:
    assert label(sc.WarmAfterPause(pause_s=2.0)) != label(sc.WarmAfterPause(pause_s=3.0))
    assert label(True) == "true"
    assert label((1, 2)) == "[1, 2]"


def test_a_failed_run_says_why_without_a_path(tmp_path: Path) -> None:
    missing = CHAT.but(workload=sc.TraceWorkload(path=tmp_path / "gone.jsonl"), duration_s=None)
    outcome = run_task(Task(scenario=missing, seed=0))
    assert isinstance(outcome, Failed)


def test_a_worker_with_other_code_makes_no_runs() -> None:
    outcome = run_task(Task(scenario=CHAT, seed=0, environment="of another machine"))
    assert outcome == Failed("its worker has another simcache, or other versions of the packages below it")
    assert isinstance(run_task(Task(scenario=CHAT, seed=0, environment=digests.environment_digest())), Run)


def test_metrics_of_a_study_and_study_objects_go_together() -> None:
    study = Study(cells=tuple(cells([CHAT], [{}])), seeds=2, metrics=("p95(ttft_s)",))
    assert list(table(sweep(study, workers=Workers(processes=1)))[0])[-3:] == ["ttft_s.p95", "ttft_s.p95.low", "ttft_s.p95.high"]


def test_the_room_is_light() -> None:
    code = "import sys, simcache; simcache.sweep; print([m for m in ('joblib', 'distributed', 'scipy.stats') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout.strip() == "[]", done.stderr
