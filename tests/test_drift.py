"""Whether a profile still holds, from logs whose drift is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cli.validate import command
from simcache.drift import drift
from simcache.errors import InputError
from simcache.latency import Coefficients, HostedProfile, MeasuredRange, ServerProfile, save_profile
from simcache.live_log import LiveRow
from simcache.logs import UsageLog, UsageRow, write_usage
from simcache.prompt import Segment

API = HostedProfile(
    name="api", base_s=0.5, per_token_s=2e-5, per_cached_token_s=2e-6, seconds_per_output_token=0.02, hit_probability=0.6,
    jitter_sigma=0.2, range=MeasuredRange(new_tokens=(0, 40_000), cached_tokens=(0, 40_000)),
)  # fmt: skip


def log(times: float = 1.0, hits: float = 0.6, requests: int = 400, seed: int = 1) -> UsageLog:
    """Sessions of four requests; each after the first hits with probability ``hits``; TTFT is ``times`` what the profile says."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(requests):
        prompt = int(random.integers(5_000, 30_000))
        cached = prompt - 500 if i % 4 and random.random() < hits else 0
        ttft_s = times * float(API.ttft_s(prompt - cached, cached) * random.lognormal(0, API.jitter_sigma))
        rows.append(
            UsageRow(
                provider="p", model="m", prompt_tokens=prompt, cached_tokens=cached, started_at_s=10.0 * i, ttft_s=ttft_s,
                session=f"s{i // 4}",
            )
        )  # fmt: skip
    return UsageLog(rows)


@pytest.mark.parametrize(
    ("times", "hits", "verdict", "why"),
    [
        (1.0, 0.6, "holds", None),
        (1.05, 0.6, "holds", None),
        (1.5, 0.6, "drifted", "under-predicted"),
        (0.6, 0.6, "drifted", "over-predicted"),
        (1.0, 0.2, "drifted", "less often"),
        (1.0, 1.0, "drifted", "more often"),
    ],
)
def test_a_known_drift_is_told(times, hits, verdict, why):
    found = drift(log(times, hits), API)
    assert found.verdict == verdict
    assert len(found.reasons) == (why is not None)
    assert why is None or why in found.reasons[0]
    assert found.ttft_error == pytest.approx(1 / times - 1, abs=0.05)
    low, high = found.ttft_error_interval95
    assert low < 1 / times - 1 < high
    assert found.repeat_hit_ratio == pytest.approx(hits, abs=0.08)
    assert found.hit_ratio == pytest.approx(0.75 * hits, abs=0.08)


def test_few_requests_leave_it_unclear_and_no_alarm_is_false():
    few = [drift(log(1.15, requests=20, seed=seed), API).verdict for seed in range(40)]
    assert few.count("unclear") > 30
    found = [drift(log(seed=seed), API) for seed in range(60)]
    assert all(each.verdict == "holds" for each in found)
    covered = [each.ttft_error_interval95[0] <= 0 <= each.ttft_error_interval95[1] for each in found]
    assert sum(covered) >= 52  # 95 %, less 3.2 standard deviations of 60 throws


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(40)))
def test_the_order_of_lines_does_not_matter(order):
    rows = log(requests=40).rows
    assert drift(UsageLog([rows[i] for i in order]), API) == drift(UsageLog(rows), API)


def test_rows_without_a_time_are_counted_and_a_servers_profile_judged_by_its_prefill():
    profile = ServerProfile(name="server", coefficients=Coefficients(base_s=0.1, per_token_s=1e-3))
    row = UsageRow(provider="p", model="m", prompt_tokens=1_000, cached_tokens=400, ttft_s=0.7)
    silent = UsageRow(provider="p", model="m", prompt_tokens=1_000)
    found = drift(UsageLog([row] * 20 + [silent] * 3), profile)
    assert (found.verdict, found.requests, found.left_out) == ("holds", 20, {"without a TTFT above 0": 3})
    assert found.ttft_error == pytest.approx(0.0)
    assert found.expected_hit_ratio is None
    assert found.repeat_hit_ratio is None
    with pytest.raises(InputError, match="at least 20 requests"):
        drift(UsageLog([row] * 19), profile)
    with pytest.raises(InputError, match="tolerance"):
        drift(UsageLog([row] * 20), profile, 0.0)


def test_a_live_log_is_judged_too(tmp_path):
    save_profile(API, tmp_path / "api.toml")
    with (tmp_path / "live.jsonl").open("w") as file:
        for i, usage in enumerate(log(1.0).rows):
            row = LiveRow(
                arrived_at_s=float(i), submitted_at_s=float(i), prompt=(Segment("p", usage.prompt_tokens),), output=Segment(i, 5),
                outcome="ok", ttft_s=usage.ttft_s, e2e_s=usage.ttft_s + 1, cached_tokens=usage.cached_tokens, session=usage.session,
            )  # fmt: skip
            print(json.dumps(row.as_json()), file=file)
    arguments = ["--usage", str(tmp_path / "live.jsonl"), "--profile", str(tmp_path / "api.toml"), "--json"]
    assert json.loads(CliRunner().invoke(command, arguments, catch_exceptions=False).stdout)["verdict"] == "holds"


def test_the_verb_says_it(tmp_path):
    save_profile(API, tmp_path / "api.toml")
    write_usage(log(1.5).rows, tmp_path / "week.jsonl")
    arguments = ["--usage", str(tmp_path / "week.jsonl"), "--profile", str(tmp_path / "api.toml")]
    answer = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert answer.exit_code == 0
    assert answer.stdout.startswith("drifted: 400 requests")
    found = json.loads(CliRunner().invoke(command, [*arguments, "--json", "--tolerance", "0.6"], catch_exceptions=False).stdout)
    assert found["verdict"] == "holds"
    assert found["expected_hit_ratio"] == 0.6
    assert found["in_range_share"] == 1.0
    for wrong in ([*arguments, "--log", "x"], arguments[2:], ["--log", "x", *arguments[2:], "--tolerance", "0.1"]):
        assert CliRunner().invoke(command, wrong).exit_code == 2
