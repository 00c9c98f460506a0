"""``simcache sweep`` as somebody lives with it: killed, interrupted, resumed, mistyped; and on a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from simcache import cli

from .test_cli import environment, simcache

ROOT = Path(__file__).resolve().parent.parent
STUDY = """
name = "sizes"
seeds = 12
[scenario]
name = "chat"
duration_s = 900
workload = { kind = "typing-sessions", users = 30, document_tokens = 6_000, questions = 3 }
backend = { kind = "cluster" }
[axes]
"backend.kv_tokens" = [50_000, 100_000]
"backend.replicas" = [1, 2]
"""
TABLES = ("table.csv", "runs.csv", "sweep.json")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


def start(*words: str, cwd: Path) -> subprocess.Popen[str]:
    code = "from simcache.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kept(folder: Path) -> int:
    return len(list((folder / "runs").rglob("*.json")))


def wait_for_runs(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 60
    while kept(folder) < count and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.01)


def texts(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TABLES}


def test_a_sweep_killed_at_any_instant_goes_on_to_the_same_bytes(tmp_path: Path, study: Path) -> None:
    whole = simcache("sweep", study.name, "--out", "whole", "--workers", "2", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    before = -1
    for count in (0, 7, 20, 31):
        process = start("sweep", study.name, "--out", "cut", "--workers", "2", cwd=tmp_path)
        wait_for_runs(tmp_path / "cut", count, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert kept(tmp_path / "cut") >= before
        before = kept(tmp_path / "cut")
    assert before >= 20
    done = simcache("sweep", study.name, "--out", "cut", "--workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"({before} of 48 runs kept from before)" in " ".join(done.stdout.split())
    assert texts(tmp_path / "cut") == texts(tmp_path / "whole")
    table = (tmp_path / "whole" / "table.csv").read_text()
    assert str(tmp_path) not in table
    assert len(table.splitlines()) == 5
    assert table.startswith("scenario,backend.kv_tokens,backend.replicas,seeds,failed,ttft_s.p50,")


def test_ctrl_c_leaves_finished_runs_and_says_little(tmp_path: Path, study: Path) -> None:
    process = start("sweep", study.name, "--out", "o", "--workers", "2", cwd=tmp_path)
    wait_for_runs(tmp_path / "o", 5, process)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in stderr + stdout
    assert kept(tmp_path / "o") >= 5
    assert not (tmp_path / "o" / "table.csv").exists()
    left = kept(tmp_path / "o")
    done = simcache("sweep", study.name, "--out", "o", cwd=tmp_path)
    assert f"({left} of 48 runs kept" in " ".join(done.stdout.split())


def test_two_studies_share_a_store_and_json_is_one_document(tmp_path: Path, study: Path) -> None:
    assert simcache("sweep", study.name, "--seeds", "2", "--store", "common", "--out", "a", cwd=tmp_path).returncode == 0
    assert not (tmp_path / "a" / "runs").exists()
    other = tmp_path / "other.toml"
    other.write_text(STUDY.replace("[50_000, 100_000]", "[100_000]").replace('name = "sizes"', 'name = "other"'))
    done = simcache("sweep", "other.toml", "--seeds", "2", "--store", "common", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert [entry["backend.replicas"] for entry in document["results"]] == [1, 2]
    assert len(list((tmp_path / "common").rglob("*.json"))) == 8


def test_output_fits_and_answers(tmp_path: Path, study: Path) -> None:
    done = simcache("sweep", study.name, "--seeds", "3", cwd=tmp_path)
    assert max(map(len, done.stdout.splitlines())) <= 80
    text = " ".join(done.stdout.split())
    assert "Of 4 scenarios, TTFT p95 is lowest with 'chat, kv_tokens=" in text
    assert (tmp_path / "simcache-out" / "sizes" / "table.csv").exists()


def test_bad_studies_and_places_end_with_one_line(
    tmp_path: Path, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    (tmp_path / "file").write_text("")
    (tmp_path / "big.toml").write_text(STUDY.replace("[1, 2]", "{ from = 1, to = 500_000_000 }"))
    (tmp_path / "typo.toml").write_text(STUDY.replace("backend.replicas", "backend.replica"))
    for words, said in (
        (("nowhere.toml",), "study(='nowhere.toml') cannot be read"),
        (("big.toml",), "grid(=1000000000) must be at most 100,000 points"),
        (("typo.toml",), "Did you mean 'backend.replicas'"),
        ((study.name, "--out", "thesis"), "holds files that simcache did not write"),
        ((study.name, "--out", "file"), "must be a folder"),
        ((study.name, "--out", "file/x"), "cannot be written"),
        ((study.name, "--backend", "dask"), "scheduler(=None) must be given"),
        ((study.name, "--scheduler", "tcp://1.2.3.4:1"), "goes with backend dask"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["sweep", *words])
        assert ended.value.code == 2
        stderr = capsys.readouterr().err
        assert said in stderr
        assert len(stderr.splitlines()) == 1
    assert os.listdir(tmp_path / "thesis") == ["chapter1.tex"]


def test_a_scheduler_that_does_not_answer_is_said_within_ten_seconds(tmp_path: Path, study: Path) -> None:
    pytest.importorskip("distributed")
    started = time.monotonic()
    done = simcache("sweep", study.name, "--backend", "dask", "--scheduler", "tcp://127.0.0.1:9", cwd=tmp_path)
    assert time.monotonic() - started < 10
    assert done.returncode == 2
    assert "scheduler(='tcp://127.0.0.1:9') does not answer" in done.stderr


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[tuple[str, list[int]]]:
    """A Dask scheduler and workers, each a process of its own: (address, process ids of the workers)."""
    processes: list[subprocess.Popen[bytes]] = []

    def launch(*words: str) -> subprocess.Popen[bytes]:
        with open(folder / f"process-{len(processes)}.log", "wb") as log:
            processes.append(subprocess.Popen([sys.executable, *words], cwd=folder, env=environment(), stdout=log, stderr=log))
        return processes[-1]

    file = folder / "scheduler.json"
    quiet = ("--scheduler-file", str(file), "--no-dashboard")
    try:
        launch("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", *quiet)
        limit = time.monotonic() + 30
        while not file.exists():
            assert time.monotonic() < limit
            time.sleep(0.05)
        ids = [launch("-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", *quiet).pid for _ in range(workers)]
        limit = time.monotonic() + 30
        while sum(b"Registered to" in (folder / f"process-{i + 1}.log").read_bytes() for i in range(workers)) < workers:
            assert time.monotonic() < limit
            time.sleep(0.05)
        yield json.loads(file.read_text())["address"], ids
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_cluster_of_separate_processes_finds_the_same_although_a_worker_is_killed(tmp_path: Path, study: Path) -> None:
    pytest.importorskip("distributed")
    alone = simcache("sweep", study.name, "--out", "alone", "--workers", "1", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    with cluster(tmp_path, 2) as (address, workers):
        process = start("sweep", study.name, "--out", "dask", "--backend", "dask", "--scheduler", address, cwd=tmp_path)
        wait_for_runs(tmp_path / "dask", 6, process)
        os.kill(workers[0], signal.SIGKILL)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert texts(tmp_path / "dask") == texts(tmp_path / "alone")


def test_a_cluster_that_goes_away_leaves_what_was_finished(tmp_path: Path, study: Path) -> None:
    pytest.importorskip("distributed")
    with cluster(tmp_path, 1) as (address, _):
        words = ("sweep", study.name, "--seeds", "100", "--out", "dask", "--backend", "dask", "--scheduler", address)
        process = start(*words, cwd=tmp_path)
        wait_for_runs(tmp_path / "dask", 3, process)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2, stderr
    assert "went away" in stderr
    assert kept(tmp_path / "dask") >= 3


def test_a_scheduler_without_workers_is_said(tmp_path: Path, study: Path) -> None:
    pytest.importorskip("distributed")
    with cluster(tmp_path, 0) as (address, _):
        done = simcache("sweep", study.name, "--backend", "dask", "--scheduler", address, cwd=tmp_path)
    assert done.returncode == 2
    assert "has no workers" in done.stderr
