"""Usage logs, results of vllm bench serve and metrics pages: read, refused, and fitted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from simcache.benchmark_results import read_benchmark
from simcache.cli import main
from simcache.errors import InputError
from simcache.latency.profiles import load_profile
from simcache.live_log import LiveRow
from simcache.logs import UsageLog, UsageRow, write_usage
from simcache.metrics_page import Histogram, parse_metrics, read_metrics
from simcache.prompt import Segment
from simcache.usage_fit import CACHED_SHARE, fit_usage

BASE_S, PER_TOKEN_S, PER_CACHED_S = 0.8, 2e-5, 2e-6


def synthetic(seed: int, n: int = 300, *, sigma: float = 0.1, tail: float = 0.0, hits: bool = True) -> UsageLog:
    """Rows of known coefficients; ``tail``: share of requests that take 3 to 12 times as long."""
    random = np.random.Generator(np.random.PCG64(seed))
    rows = []
    for i in range(n):
        prompt = int(random.integers(1_000, 120_000))
        cached = int(prompt * random.uniform(0.5, 0.99)) if hits and random.random() < 0.5 else 0
        ttft_s = BASE_S + PER_TOKEN_S * (prompt - cached) + PER_CACHED_S * cached
        ttft_s *= float(random.lognormal(0, sigma)) * (random.uniform(3, 12) if random.random() < tail else 1.0)
        rows.append(
            UsageRow(
                provider="p", model="m", prompt_tokens=prompt, cached_tokens=cached, output_tokens=101, ttft_s=ttft_s,
                e2e_s=ttft_s + 100 * 0.015, started_at_s=float(i), session=f"s{i // 2}",
            )
        )  # fmt: skip
    return UsageLog(tuple(rows))


def values(log: UsageLog) -> np.ndarray[Any, Any]:
    profile = fit_usage(log, "p").profile
    return np.array([profile.base_s, profile.per_token_s, profile.per_cached_token_s])


TRUE = np.array([BASE_S, PER_TOKEN_S, PER_CACHED_S])


def test_known_coefficients_come_back() -> None:
    found = fit_usage(synthetic(1, 2000), "p")
    profile = found.profile
    assert profile.base_s == pytest.approx(BASE_S, rel=0.03)
    assert profile.per_token_s == pytest.approx(PER_TOKEN_S, rel=0.02)
    assert profile.per_cached_token_s == pytest.approx(PER_CACHED_S, rel=0.1)
    assert profile.jitter_sigma == pytest.approx(0.1, rel=0.08)
    assert profile.seconds_per_output_token == pytest.approx(0.015)
    assert found.holdout_mape == pytest.approx(0.08, abs=0.01)  # the mean absolute deviation of a log-normal of sigma 0.1
    assert found.tail == pytest.approx(math.exp(0.1 * 2.326), rel=0.06)
    assert not found.defaults


def test_a_heavy_tail_moves_nothing_but_the_tail() -> None:
    clean, tailed = values(synthetic(2, 1500)), values(synthetic(2, 1500, tail=0.05))
    assert np.abs(tailed / TRUE - 1).max() < 0.12
    assert np.abs(tailed / clean - 1).max() < 0.12
    assert fit_usage(synthetic(2, 1500, tail=0.05), "p").tail > 3


def test_intervals_cover() -> None:
    inside = np.zeros(3)
    for seed in range(40):
        profile = fit_usage(synthetic(100 + seed, 120), "p").profile
        assert profile.covariance is not None
        error = np.sqrt(np.diag(np.array(profile.covariance.matrix)))
        found = np.array([profile.base_s, profile.per_token_s, profile.per_cached_token_s])
        inside += np.abs(found - TRUE) <= 1.96 * error
    assert (inside >= 33).all()  # of 40; below that with probability 4e-3 where 95 % cover


def test_what_the_log_cannot_tell_is_said() -> None:
    found = fit_usage(synthetic(3, hits=False), "p")
    assert list(found.defaults) == ["per_cached_token_s"]
    assert found.profile.per_cached_token_s == pytest.approx(CACHED_SHARE * found.profile.per_token_s)
    assert any("no request of the log had a hit" in note for note in found.profile.notes)
    rows = tuple(UsageRow(provider="p", model="m", prompt_tokens=1000 + i, ttft_s=1.0) for i in range(20))
    found = fit_usage(UsageLog(rows), "p")
    assert set(found.defaults) == {"per_cached_token_s", "seconds_per_output_token"}
    assert found.profile.hit_probability is None


def test_hit_probability_counts_later_requests_of_a_session() -> None:
    def row(session: str, at_s: float, prompt: int, cached: int) -> UsageRow:
        return UsageRow(
            provider="p",
            model="m",
            prompt_tokens=prompt,
            cached_tokens=cached,
            ttft_s=1 + prompt / 1e4,
            session=session,
            started_at_s=at_s,
        )

    rows = [row(f"s{i}", i, 1000 + i, 0) for i in range(8)]  # the first of each: nothing to hit
    rows += [row(f"s{i}", 100 + i, 2000 + i, 900 if i < 5 else 0) for i in range(8)]
    rows += [row("s0", 200, 500, 0)]  # shorter: perhaps another prompt
    assert fit_usage(UsageLog(tuple(rows)), "p").profile.hit_probability == 5 / 8


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([UsageRow(provider="p", model="m", prompt_tokens=9 + i, ttft_s=1.0) for i in range(9)], "at least 10"),
        ([UsageRow(provider="p", model="m", prompt_tokens=9 + i) for i in range(20)], "at least 10"),
        ([UsageRow(provider="p", model="m", prompt_tokens=9, ttft_s=1.0) for _ in range(20)], "all the same"),
    ],
)
def test_a_log_that_says_too_little_is_refused(rows: list[UsageRow], says: str) -> None:
    with pytest.raises(InputError, match=says):
        fit_usage(UsageLog(tuple(rows)), "p")


# --- the command line


def run(*words: str) -> Any:
    return CliRunner().invoke(main, ["fit", *words])


def test_a_usage_log_becomes_a_profile(tmp_path: Path) -> None:
    log, out = tmp_path / "log.jsonl", tmp_path / "p.toml"
    write_usage(synthetic(4).rows, log)
    result = run("--usage", str(log), "--out", str(out), "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["form"] == "hosted"
    assert document["n"] == 300
    assert document["holdout_mape"] < 0.12
    profile = load_profile(str(out))
    assert profile.per_token_s == pytest.approx(document["coefficients"]["per_token_s"])  # type: ignore[union-attr]
    assert "per_token_s" in run("--usage", str(log)).output


def test_one_model_at_a_time(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = list(synthetic(5, 40).rows)
    other = [UsageRow(provider="p", model="other", prompt_tokens=10 + i, ttft_s=2.0) for i in range(20)]
    write_usage(rows + other, log)
    result = run("--usage", str(log))
    assert result.exit_code == 2
    assert "--where model=m" in result.output
    assert run("--usage", str(log), "--where", "model=m").exit_code == 0
    assert "leaves no row" in run("--usage", str(log), "--where", "model=none").output
    assert "--usage goes with" in run("--usage", str(log), "points.csv").output


def test_a_live_log_is_a_usage_log(tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    rows = [
        LiveRow(
            arrived_at_s=float(i),
            submitted_at_s=float(i),
            prompt=(Segment("d", 100 + 50 * i),),
            output=Segment(f"a{i}", 5),
            outcome="ok",
            ttft_s=0.1 + 0.001 * (100 + 50 * i),
            e2e_s=0.5 + 0.001 * (100 + 50 * i),
            cached_tokens=0,
        )
        for i in range(20)
    ]
    path.write_text("".join(json.dumps(row.as_json()) + "\n" for row in rows))
    result = run("--usage", str(path), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["coefficients"]
    assert found["per_token_s"] == pytest.approx(1e-3, rel=0.01)
    assert found["seconds_per_output_token"] == pytest.approx(0.1)


# --- vllm bench serve


def bench(**changes: Any) -> dict[str, Any]:
    count = 30
    result: dict[str, Any] = {
        "model_id": "llama",
        "completed": count,
        "total_input_tokens": 1,
        "input_lens": [100 * (i + 1) for i in range(count)],
        "output_lens": [4] * count,
        "ttfts": [0.05 + 1e-5 * 100 * (i + 1) for i in range(count)],
        "itls": [[0.01, 0.02, 0.01]] * count,
        "start_times": [float(i) for i in range(count)],
        "errors": [""] * count,
    }
    return result | changes


def test_vllm_bench_results_are_read_and_fitted(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    errors = [""] * 29 + ["Traceback: connection reset"]
    path.write_text(json.dumps(bench(errors=errors)))
    log = read_benchmark(path, "vllm-bench").usage()
    assert len(log) == 29
    assert log.rows[0].e2e_s == pytest.approx(0.051 + 0.04)
    assert log.rows[3].started_at_s == 3.0
    assert any("1 of 30 requests failed" in note for note in log.notes)
    result = run("--usage", str(path), "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["coefficients"]["per_token_s"] == pytest.approx(1e-5, rel=0.02)
    assert "does not tell what was cached" in " ".join(document["notes"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ttfts": None}, "--save-detailed"),
        ({"itls": [[0.1]]}, "as long as input_lens"),
        ({"errors": ["x"] * 30}, "none that was answered"),
        ({"ttfts": [-1.0] * 30}, "request 0"),
        ({"ttfts": ["soon"] * 30}, "request 0"),
        ({"itls": [["a"]] * 30}, "itls"),
        ({"start_times": [1.0]}, "start_times"),
    ],
)
def test_a_broken_bench_result_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(bench(**changes)))
    with pytest.raises(InputError, match=says) as caught:
        read_benchmark(path, "vllm-bench")
    assert str(path) in str(caught.value)


# --- metrics

PAGE = """# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_sum{model_name="m \\"x\\", y"} 30.0
vllm:time_to_first_token_seconds_bucket{le="0.1",model_name="m \\"x\\", y"} 40.0
vllm:time_to_first_token_seconds_bucket{le="0.5",model_name="m \\"x\\", y"} 90.0
vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="m \\"x\\", y"} 100.0
vllm:time_to_first_token_seconds_count{model_name="m \\"x\\", y"} 100.0
vllm:prefix_cache_queries_total{model_name="m \\"x\\", y"} 2000.0
vllm:prefix_cache_hits_total{model_name="m \\"x\\", y"} 500.0
process_start_time_seconds 1.7e+09 1700000000000
"""


def test_a_metrics_page_gives_ttft_and_hit_ratio(tmp_path: Path) -> None:
    path = tmp_path / "metrics.txt"
    path.write_text(PAGE)
    page = read_metrics(path)
    ttft = page.histogram()
    assert ttft.count == 100
    assert ttft.mean_s == pytest.approx(0.3)
    assert ttft.quantile_s(0.5) == pytest.approx(0.1 + 0.4 * 10 / 50)
    assert ttft.quantile_s(0.2) == pytest.approx(0.05)
    assert math.isnan(ttft.quantile_s(0.95))  # beyond the last bound nobody knows
    assert page.token_hit_ratio == 0.25
    assert page.total("vllm:prefix_cache_hits_total", model_name='m "x", y') == 500
    later = parse_metrics(
        PAGE.replace("40.0", "60.0").replace("90.0", "120.0").replace("100.0", "130.0").replace("30.0", "33.0", 1)
    )
    gained = later.histogram().since(ttft)
    assert gained.counts == (20.0, 30.0, 30.0)
    assert gained.mean_s == pytest.approx(0.1)
    with pytest.raises(InputError, match="restarted"):
        ttft.since(later.histogram())


def test_engines_behind_one_page_are_summed() -> None:
    text = "".join(
        f'h_bucket{{le="{bound}",engine="{engine}"}} {count}\n'
        for engine in "01"
        for bound, count in (("1", 2), ("2", 5), ("+Inf", 5))
    )
    assert parse_metrics(text).histogram("h").counts == (4, 10, 10)
    assert parse_metrics(text).histogram("h", engine="1") == Histogram(upper_s=(1, 2, math.inf), counts=(2, 5, 5), sum_s=0.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no sample"),
        ("vllm:x{a=b} 1", ":1: labels"),
        ("up 1\nnot a sample line at all", ":2: line"),
        ("up one", "must be a number"),
    ],
)
def test_a_broken_page_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_metrics(text, "page")


def test_a_page_without_the_histogram_says_which_it_has() -> None:
    with pytest.raises(InputError, match="It has the histograms h"):
        parse_metrics('h_bucket{le="+Inf"} 1').histogram()
