"""The command line as somebody lives with it: in a shell, in a pipe, with a wrong word, with a full folder."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from simcache import cli
from simcache.cli.files import folder_names, output_folder
from simcache.engine.run import simulate
from simcache.errors import InputError
from simcache.experiment.answers import answer, warming_effects
from simcache.record_files import load_records
from simcache.scenario_file import load_scenarios

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--seeds", "2", "--set", "duration_s=600", "--set", "workload.users=10")


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", "from simcache.cli import main; main()", *words]


def environment(**extra: str) -> dict[str, str]:
    return {**{key: value for key, value in os.environ.items() if key != "COLUMNS"}, "PYTHONPATH": str(ROOT), **extra}


def simcache(*words: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=cwd, env=environment(**extra), capture_output=True, text=True, timeout=60)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_without_arguments_it_answers(tmp_path: Path) -> None:
    started = time.monotonic()
    done = simcache("run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 20
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(done.stdout.split())
    for name in ("hosted API, no warming", "hosted API, warmed", "one GPU, no warming", "one GPU, warmed"):
        assert name in text
    for part in ("p50 s", "p95 s", "p99 s", "under 1 s", "token hits", "$ per 1,000 q", "warm-ups sent", "wasted", "95 % interval"):
        assert part.split()[0] in text
    assert "warming helps 'one GPU, warmed'" in text
    assert "'openai-figure' is not measured" in text
    assert "error" not in done.stderr
    folder = tmp_path / "simcache-out" / "demo"
    assert f"figure:  {folder.relative_to(tmp_path) / 'ttft.png'}" in lines
    assert (folder / "ttft.png").read_bytes().startswith(b"\x89PNG")
    written = files_in(folder)
    assert len([name for name in written if name.endswith("records.parquet")]) == 20
    assert {"results.json", "one-gpu-warmed/seed-0/records.csv", "one-gpu-warmed/seed-4/scenario.toml"} <= written
    assert "one-gpu-warmed/seed-0/warm_ledger.csv" in written
    assert "one-gpu-no-warming/seed-0/warm_ledger.csv" not in written
    assert set(os.listdir(tmp_path)) == {"simcache-out"}


def test_json_is_one_document_and_nothing_else(tmp_path: Path) -> None:
    done = simcache("run", "--json", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    entries = document["results"]
    assert [entry["scenario"] for entry in entries][:2] == ["hosted API, no warming", "hosted API, warmed"]
    for entry in entries:
        assert entry["seeds"] == [0, 1]
        low, high = entry["ttft_s"]["p95_interval95"]
        assert low <= entry["ttft_s"]["p95"] <= high
        assert load_scenarios_of(entry["scenario_toml"], tmp_path)[0].duration_s == 600
    assert os.listdir(tmp_path) == ["again.toml"]  # written by this test; with --json and no --out a run writes nothing


def load_scenarios_of(text: str, folder: Path) -> list[Any]:
    (folder / "again.toml").write_text(text, encoding="utf-8")
    return load_scenarios(folder / "again.toml")


def test_json_with_out_writes_too_and_the_runs_are_the_same(tmp_path: Path) -> None:
    done = simcache("run", "--json", "--out", "kept", *SMALL, cwd=tmp_path)
    assert json.loads((tmp_path / "kept" / "results.json").read_text()) == json.loads(done.stdout)
    (scenario, *_) = load_scenarios("demo", ["duration_s=600", "workload.users=10"])
    saved = load_records(tmp_path / "kept" / "hosted-api-no-warming" / "seed-1" / "records.parquet")
    assert saved == simulate(scenario, seed=1).records


def test_a_second_run_replaces_the_first_and_a_failed_one_does_not(tmp_path: Path) -> None:
    assert simcache("run", "openai-demo", "--out", "o", cwd=tmp_path).returncode == 0
    first = files_in(tmp_path / "o")
    assert simcache("run", "speculative-recipe", "--out", "o", cwd=tmp_path).returncode == 0
    second = files_in(tmp_path / "o")
    assert first != second
    assert not any(name.startswith("926-tokens") for name in second)
    failed = simcache("run", "demo", "--out", "o", "--set", "backend.profile=nobody", cwd=tmp_path)
    assert failed.returncode == 2
    assert files_in(tmp_path / "o") == second
    assert os.listdir(tmp_path) == ["o"]
    assert "profile(='nobody') is not known" in failed.stderr


def test_somebody_elses_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    (tmp_path / "file").write_text("")
    for out in ("thesis", "file", "."):
        done = simcache("run", "openai-demo", "--out", out, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: out(='{out}')"), done.stderr
    assert files_in(tmp_path) == {"thesis/chapter1.tex", "file"}


def test_an_output_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"

    def fail() -> None:
        with output_folder(target) as stage:
            assert stage is not None
            (stage / "results.json").write_text("{}")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.listdir(tmp_path) == []
    for number in (1, 2):
        with output_folder(target) as stage:
            assert stage is not None
            (stage / "results.json").write_text(str(number))
    assert (target / "results.json").read_text() == "2"
    assert os.listdir(target.parent) == ["b"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), output_folder(tmp_path / "file" / "deep" / "o"):
        pass
    assert os.listdir(tmp_path) == ["file"]


def test_names_of_folders_are_plain_and_differ() -> None:
    assert folder_names(["A, b", "A b", "../..", "日本語", ""]) == {
        "A, b": "a-b",
        "A b": "a-b-2",
        "../..": "unnamed",
        "日本語": "日本語",
        "": "unnamed-2",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "demmo"], "error: scenario(='demmo') does not exist"),
        (["run", "demo", "--set", "workload.typing_ms=3"], "typing_s"),
        (["run", "demo", "--set", "backend.kv_tokens=-1"], "backend.kv_tokens(=-1) must be at least 1"),
        (["run", "demo", "--seeds", "0"], "seeds(=0) must be at least 1"),
        (["run", "demo", "--seed", "-1"], "--seed"),
        (["run", "--replicas", "2"], "--replicas goes with --trace"),
        (["run", "demo", "--trace", "x"], "not both"),
        (["run", "--trace", "x"], "error: path(='x') does not exist"),
        (["run", "--trace", ".", "--format", "mooncake"], "is a directory"),
        (["run", "--trace", "bad.jsonl", "--format", "mooncake"], "bad.jsonl:2: "),
        (["run", "--trace", "bad.jsonl", "--format", "moon"], "format(='moon') is not known. Did you mean 'mooncake'"),
        (["run", "--trace", "bad.jsonl", "--replicas", "0"], "replicas(=0) must be at least 1"),
        (["run", "--trace", "bad.jsonl", "--profile", "llama"], "profile(='llama')"),
        (["rnu"], "No such command 'rnu'"),
    ],
)
def test_bad_input_ends_in_one_error_and_status_2(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = '{"timestamp": 0, "input_length": 600, "output_length": 3, "hash_ids": [4, 9]}'
    (tmp_path / "bad.jsonl").write_text(good + "\n" + good.replace("600", "-600") + "\n")
    for extra in ([], ["--json"]) if words[0] == "run" else ([],):
        done = CliRunner().invoke(cli.main, [*words, *extra])
        assert isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == 2
        assert done.stdout == ""
        assert said in done.stderr
        assert done.stderr.splitlines()[-1].lower().startswith("error: ")
        if not done.stderr.startswith("Usage: "):
            assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["bad.jsonl"]


def test_a_trace_runs_with_the_options_that_belong_to_it(tmp_path: Path) -> None:
    rows = [{"timestamp": 0, "input_length": 600, "output_length": 3, "hash_ids": [4, 9]}]
    rows += [{"timestamp": 5000 + i, "input_length": 600, "output_length": 3, "hash_ids": [4, 9]} for i in range(8)]
    (tmp_path / "my trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["run", "--trace", "my trace.jsonl", "--format", "mooncake", "--json"]
    (entry,) = json.loads(simcache(*words, cwd=tmp_path).stdout)["results"]
    assert entry["scenario"] == "my trace"
    assert entry["seed"] == 0
    assert entry["requests"] == {"user": 9, "warm": 0, "keepalive": 0}
    assert entry["hit_tokens"] == 8 * 592  # full 16-token blocks of 600 tokens
    options = ["--replicas", "2", "--kv-tokens", "64000", "--block-tokens", "512", "--spread-ticks", "0"]
    (two,) = json.loads(simcache(*words, *options, "--set", "slo_ttft_s=0.5", cwd=tmp_path).stdout)["results"]
    assert two["hit_tokens"] == 7 * 512  # round robin: both replicas see their first request cold
    assert 'kind = "cluster"\n' in two["scenario_toml"]
    assert two["slo_ttft_s"] == 0.5
    (cold,) = json.loads(simcache(*words, "--no-prefix-caching", cwd=tmp_path).stdout)["results"]
    assert cold["hit_tokens"] == 0
    (slot,) = json.loads(simcache(*words, "--engine", "llamacpp", cwd=tmp_path).stdout)["results"]
    assert slot["hit_tokens"] == 8 * 599  # exact to the token, all but the last


def test_a_start_from_empty_is_left_out_on_request_and_refused_where_it_is_none(tmp_path: Path) -> None:
    file = tmp_path / "stream.toml"
    file.write_text(
        'workload = {kind="poisson", rate_per_s=1, count=60, prompt_tokens=100, output_tokens=1}\n[backend]\nkind="server"'
    )
    done = simcache("run", str(file), "--transient", "20", "--json", cwd=tmp_path)
    (entry,) = json.loads(done.stdout)["results"]
    assert entry["transient"]["rule"] == 20
    assert 0 < entry["transient"]["left_out"] < 60
    done = simcache("run", "demo", "--transient", "mser5", cwd=tmp_path)
    assert done.returncode == 2
    assert "come once and leave" in done.stderr
    assert "Give the seconds to leave out" in done.stderr


def test_paths_are_never_wrapped_and_a_plain_encoding_survives(tmp_path: Path) -> None:
    out = tmp_path / ("a folder with a name " * 8).strip()
    done = simcache("run", "openai-demo", "--out", str(out), "--seeds", "2", cwd=tmp_path, PYTHONIOENCODING="ascii", COLUMNS="70")
    assert done.returncode == 0, done.stderr
    *lines, figure, records = done.stdout.splitlines()
    assert records == f"records: {out}{os.sep}"
    assert figure == f"figure:  {out / 'ttft.png'}"
    assert max(map(len, lines)) <= 70
    assert done.stdout.isascii()


def test_a_reader_that_leaves_early_hears_no_complaint(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("run", "--json", *SMALL), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=60) == cli.STATUS_READER_GONE
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    process.stderr.close()


def test_ctrl_c_is_quiet_and_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("run", "--seeds", "1000"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "simcache-out").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == cli.STATUS_INTERRUPTED
    assert out == ""
    assert "Traceback" not in errors
    assert os.listdir(tmp_path) == []


def test_a_terminal_sees_a_bar_while_it_runs(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("run", "--json", *SMALL), cwd=tmp_path, env=environment(TERM="xterm"), stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while select.select([ours], [], [], 30)[0]:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    out, _ = process.communicate(timeout=30)
    os.close(ours)
    assert b"\x1b[2K" in seen  # a line that is drawn over itself
    assert "100%" in seen.decode("utf-8", "replace")
    assert json.loads(out)["schema_version"] == 1


def test_help_and_version() -> None:
    for verb in cli.VERBS:
        help_text = subprocess.run(command(verb, "--help"), capture_output=True, text=True, env=environment()).stdout
        assert help_text.startswith(f"Usage: simcache {verb}")
        if verb == "theory":  # a verb of verbs
            help_text = subprocess.run(
                command(verb, "breakeven", "--help"), capture_output=True, text=True, env=environment()
            ).stdout
        assert "--json" in help_text
    assert subprocess.run(command("--version"), capture_output=True, text=True, env=environment()).stdout.startswith(
        "simcache, version "
    )


def test_every_verb_is_a_file_and_every_file_with_a_command_is_a_verb() -> None:
    folder = ROOT / "simcache" / "cli"
    with_command = {path.stem for path in folder.glob("*.py") if "\ndef command(" in path.read_text(encoding="utf-8")}
    assert with_command == set(cli.VERBS)
    for verb in cli.VERBS:
        assert isinstance(cli.main.get_command(click.Context(cli.main), verb), click.Command)


def test_the_answer_pairs_what_differs_in_warming_alone() -> None:
    scenarios = load_scenarios("demo", ["duration_s=300", "workload.users=4"])
    results = {scenario.name: [simulate(scenario, seed=seed) for seed in (0, 1, 2)] for scenario in scenarios}
    assert [(effect.cold, effect.warm) for effect in warming_effects(results)] == [
        ("hosted API, no warming", "hosted API, warmed"),
        ("one GPU, no warming", "one GPU, warmed"),
    ]
    (api, _) = warming_effects(results)
    assert api.ttft_p95_s is not None
    by_hand = [
        after.quantiles("ttft_s", [0.95])[0] - before.quantiles("ttft_s", [0.95])[0]  # type: ignore[operator]
        for before, after in zip(results[api.cold], results[api.warm], strict=True)
    ]
    assert api.ttft_p95_s.difference == pytest.approx(sum(by_hand) / 3)
    assert answer(results).count(" 1,000 questions") == 2


def test_the_answer_is_honest_when_warming_changes_nothing() -> None:
    scenario = load_scenarios("demo", ["duration_s=300", "workload.users=4"])[3]
    idle = scenario.but(name="late", backend__prefix_caching=False)  # no cache: a warm-up can only be in the way
    cold = idle.but(name="never", warming=load_scenarios("demo")[0].warming)
    results = {each.name: [simulate(each, seed=seed) for seed in range(3)] for each in (cold, idle)}
    (effect,) = warming_effects(results)
    assert effect.ttft_p95_s is not None
    assert ("helps" in answer(results)) == (effect.ttft_p95_s.clear and effect.ttft_p95_s.difference < 0)
    assert "helps" not in answer(results)
    one_seed = {name: runs[:1] for name, runs in results.items()}
    assert "no interval" in answer(one_seed) or "1 seed can tell" in answer(one_seed)


def test_without_warming_the_answer_says_what_users_wait() -> None:
    scenario = load_scenarios("demo", ["duration_s=300", "workload.users=4"])[0]
    alone = answer({"alone": [simulate(scenario, seed=0)]})
    assert alone.startswith("Half of the users wait at most ")
    other = scenario.but(name="other", backend__prefix_caching=False)
    both = answer({"alone": [simulate(scenario, seed=0)], "other": [simulate(other, seed=0)]})
    assert "lowest with 'alone'" in both
