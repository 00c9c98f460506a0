"""Equal questions get equal answers in any process, under any hash seed, whatever else runs; the files say what the run said."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from simcache import HostedApi, Scenario, TypingSessions, WarmOnFocus, simulate
from simcache.cli.run import command
from simcache.records import Records
from simcache.scenario import Cluster
from simcache.workload.synthetic import PoissonRequests

SCENARIOS = {
    "people on replicas": Scenario(
        workload=TypingSessions(users=25, document_tokens=6_000, p_send=0.8),
        backend=Cluster(replicas=3, router="power_of_two", kv_tokens=60_000),
        warming=WarmOnFocus(),
    ),
    "people on an API": Scenario(
        workload=TypingSessions(users=25, document_tokens=6_000),
        backend=HostedApi(provider="anthropic", model="claude-sonnet-4-5", profile="openai-figure", requests_per_minute=30),
        warming=WarmOnFocus(),
    ),
    "Poisson arrivals": Scenario(
        workload=PoissonRequests(rate_per_s=9, count=800, prompt_tokens=900, output_tokens=40, shared_prefix_tokens=300),
        backend=Cluster(replicas=2, router="cache_aware"),
    ),
}


def digest(records: Records) -> str:
    """Of every column of every row, as text."""
    text = json.dumps([list(row.items()) for row in records], default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def digests() -> dict[str, str]:
    return {name: digest(simulate(scenario, duration_s=900, seed=7).records) for name, scenario in SCENARIOS.items()}


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_another_process_under_another_hash_seed_gives_the_same_records(hash_seed):
    script = "import json; from tests.test_determinism import digests; print(json.dumps(digests()))"
    told = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    assert json.loads(told.stdout) == digests()


def test_a_run_in_the_middle_of_another_changes_neither():
    alone = digests()
    inside: list[dict[str, str]] = []

    def interrupt(share: float) -> None:
        if share < 1 and not inside:
            inside.append(digests())

    outer = Scenario(workload=TypingSessions(users=400, document_tokens=2_000), backend=Cluster(replicas=2), warming=WarmOnFocus())
    interleaved = simulate(outer, duration_s=3_000, seed=3, progress=interrupt).records
    assert inside == [alone]
    assert interleaved == simulate(outer, duration_s=3_000, seed=3).records


def test_the_bill_follows_from_the_saved_file_in_a_few_lines(tmp_path):
    out = tmp_path / "out"
    CliRunner().invoke(command, ["speculative-recipe", "--out", str(out)], catch_exceptions=False)
    told = {entry["scenario"]: entry["cost_usd"]["total"] for entry in json.loads((out / "results.json").read_text())["results"]}
    files = {path.parent.parent.name: path for path in out.rglob("records.csv")}
    assert len(files) == len(told) == 3
    totals = []
    for path in files.values():
        total = 0.0
        with path.open() as lines:
            for row in csv.DictReader(lines):
                hit, written, prompt = (int(row[name]) for name in ("hit_tokens", "written_5m_tokens", "prompt_tokens"))
                total += (prompt - hit - written) * 3e-6 + written * 3.75e-6 + hit * 0.3e-6 + int(row["output_tokens"]) * 15e-6
        totals.append(total)
    assert sorted(totals) == pytest.approx(sorted(told.values()), rel=1e-12)
