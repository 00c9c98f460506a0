"""The verb ``steps``: recorded schedules from the command line, and what it says to wrong files."""

from __future__ import annotations

import gzip
import json

import pytest
from click.testing import CliRunner

from simcache.cli.steps import command
from simcache.errors import InputError

REQUESTS = {"requests": [{"id": 0, "t": 0.0, "segs": [[0, 40]], "out": [1, 3], "salt": None, "kind": "turn"}]}


def test_recorded_schedules_come_out_of_the_command_line(shared_data, tmp_path):
    engines = shared_data / "engines"
    for stream, schedule in (("requests", "vllm_scheduler"), ("requests_drafts", "vllm_scheduler_drafts")):
        for run in json.loads(gzip.decompress((engines / f"{schedule}.json.gz").read_bytes()))["runs"]:
            arguments = [str(engines / f"{stream}.json.gz"), "--format", "segments", "--json"]
            for flag, key in (("arrival-steps", "arrival_step"), ("abort-steps", "abort_step"), ("priorities", "priority")):
                if run.get(key):
                    (tmp_path / f"{flag}.json").write_text(json.dumps(run[key]))
                    arguments += [f"--{flag}", str(tmp_path / f"{flag}.json")]
            arguments += ["--blocks", run["usable_blocks"], "--block-tokens", run["block_size"]]
            arguments += ["--max-num-seqs", run["max_num_seqs"], "--max-num-batched-tokens", run["max_num_batched_tokens"]]
            arguments += ["--policy", run.get("policy", "fcfs"), "--watermark", run.get("watermark", 0.0)]
            arguments += ["--long-prefill-token-threshold", run.get("long_prefill_token_threshold", 0)]
            answer = json.loads(CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False).stdout)
            assert answer["hit_tokens"] == run["hit_tokens"]
            assert answer["first_scheduled_step"] == run["first_sched_step"]
            assert answer["first_token_step"] == run["first_token_step"]
            assert answer["finish_step"] == run["finish_step"]
            assert answer["preemptions"] == run["preemptions"]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("[0, 1]", r"arrival-steps\(=2\) must have one entry per request \(1\)"),
        ("{}", "must be one JSON list"),
        ("[1.5]", r"arrival-steps\[0\]\(=1.5\) must be a whole number"),
        ("[-1]", "must be a whole number of at least 0"),
        ("[null]", r"arrival-steps\[0\]\(=None\) must be a step"),
        ("[true]", "must be a whole number"),
        ("[0", "must be a file with one JSON list"),
        ("[" * 100_000, "must be a file with one JSON list"),
    ],
)
def test_a_wrong_step_file_is_one_error(tmp_path, text, rule):
    (tmp_path / "requests.json").write_text(json.dumps(REQUESTS))
    (tmp_path / "steps.json").write_text(text)
    arguments = [str(tmp_path / "requests.json"), "--arrival-steps", str(tmp_path / "steps.json"), "--blocks", "8"]
    with pytest.raises(InputError, match=rule):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_people_get_a_summary(tmp_path):
    (tmp_path / "requests.json").write_text(json.dumps(REQUESTS))
    (tmp_path / "steps.json").write_text("[5]")
    arguments = [str(tmp_path / "requests.json"), "--arrival-steps", str(tmp_path / "steps.json"), "--blocks", "8"]
    assert "1 of 1 requests ended, the last at step 7" in CliRunner().invoke(command, arguments, catch_exceptions=False).stdout
