"""The whole loop on a real llama.cpp server with random weights: needs the extra `calibration`; the long part is slow."""

from __future__ import annotations

import asyncio
import json
import runpy
from pathlib import Path

import pytest

pytest.importorskip("xllamacpp", reason="llama.cpp is in the extra `calibration` only")
pytest.importorskip("gguf", reason="the writer of random weights is in the extra `calibration` only")

from calibration.__main__ import main
from calibration.llamacpp_server import LlamaCpp, started
from calibration.streaming import Reply, address_of, complete, server_info
from calibration.token_book import TokenBook
from simcache.errors import InputError
from simcache.latency.points import read_points
from simcache.live_log import read_live_rows
from simcache.prompt import Segment, prompt_tokens, shared_prefix_tokens

ROOT = Path(__file__).resolve().parent.parent
SHAPE = {
    "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64,
    "intermediate_size": 256, "vocab_size": 4096, "max_position_embeddings": 32_768, "tie_word_embeddings": True,
}  # fmt: skip
SCENARIO = """
name = "one person"
duration_s = 8
backend.kind = "server"
[workload]
kind = "typing-sessions"
users = 1
arrive_within_s = 0.5
document_tokens = 120
system_tokens = 40
questions = 4
question_tokens = 9
output_tokens = 5
typing_s = 0.3
read_think_s = 0.1
paste_share = 0
"""


def test_a_server_starts_counts_its_cache_and_ends() -> None:
    async def ask(url: str, ids: list[int]) -> Reply:
        return await complete(address_of(url), "llamacpp", ids, 3, Reply(), timeout_s=30)

    with started(LlamaCpp(slots=2, context_tokens=512, slot_similarity=0.5)) as server:
        info = asyncio.run(server_info(address_of(server.url), "llamacpp"))
        book = TokenBook(*server.about["plain_token_ids"])
        replies = [asyncio.run(ask(server.url, book.ids([Segment("doc", n)]))) for n in (100, 160, 160, 600)]
    assert (info.slots, info.context_tokens) == (2, 512)
    assert [reply.outcome for reply in replies] == ["ok", "ok", "ok", "rejected"]
    assert [reply.cached_tokens for reply in replies[:3]] == [0, 100, 159]
    assert [len(reply.tokens or ()) for reply in replies[:3]] == [3, 3, 3]
    assert "exceed" in str(replies[3].error)
    with pytest.raises(InputError, match="does not answer"):
        asyncio.run(server_info(address_of(server.url), "llamacpp"))


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(InputError, match=r"did not start: context\(=99999\) is longer"), started(LlamaCpp(context_tokens=99_999)):
        pass


@pytest.mark.slow
def test_measure_play_and_exact_hits(tmp_path: Path) -> None:
    points, log = tmp_path / "points.csv", tmp_path / "log.jsonl"
    shape = tmp_path / "small.json"  # ten times as fast as "tiny", so that a busy machine measures enough in the time
    shape.write_text(json.dumps(SHAPE))
    small = ["--start", "llamacpp", "--model", str(shape)]
    assert main(["measure", *small, "--slots", "2", "--quick", "--budget-s", "20", "--out", str(points)]) == 0
    read = read_points([points])
    assert len(read.prefill) >= 5
    assert len(read.decode) >= 2
    assert any(cached > 0 for _, cached, _ in read.prefill)
    (tmp_path / "one.toml").write_text(SCENARIO)
    assert main(["live", *small, "--scenario", str(tmp_path / "one.toml"), "--out", str(log)]) == 0
    rows = sorted(read_live_rows(log), key=lambda row: row.arrived_at_s)
    assert len(rows) == 4
    assert json.loads(log.with_suffix(".json").read_text())["answers_known"]
    held: tuple[Segment, ...] = ()
    for row in rows:  # one slot holds the last prompt and its answer but for the last token
        assert row.outcome == "ok"
        assert row.cached_tokens == min(shared_prefix_tokens(held, row.prompt), prompt_tokens(row.prompt) - 1)
        held = (*row.prompt, Segment(row.output.key, row.output.tokens - 1))
    assert rows[-1].cached_tokens > 160


@pytest.mark.slow
def test_a_short_live_study_comes_out_hit_for_hit(tmp_path: Path) -> None:
    """One slot, so that hits are a matter of order alone, whatever else runs on this machine; times are the study's to tell."""
    study = runpy.run_path(str(ROOT / "studies" / "17_live_llamacpp.py"))
    (tmp_path / "small.json").write_text(json.dumps(SHAPE))
    study["record"](tmp_path, 3, model=str(tmp_path / "small.json"), slots=1, play_s=45.0, measure_s=20.0)
    judged = study["judge"](tmp_path, 3, slots=1)
    assert [each.case.name for each in judged] == [case.name for case in study["CASES"]]
    for each in judged:
        assert each.found.hits_exact_share is not None
        assert each.found.hits_exact_share >= 0.97, each.case
    assert str(study["table"](judged)).count("\n") == 4
