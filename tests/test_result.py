"""One entry per scenario: exactly the documented keys, strict JSON whatever happened, files that read back equal."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simcache import Scenario, Server, TypingSessions, simulate, stats
from simcache.errors import InputError, UnknownNameError
from simcache.record_files import load_records, save_records
from simcache.records import INTEGER_COLUMNS, NEVER, TEXT_COLUMNS, RecordsBuilder
from simcache.result import SPANS, Wall, document, json_text, summarise, summary_text
from tests.synthetic_runs import answer, drawn_result, records_of, result_of

# The keys that issue 2 promises, and the additive ones.
SPAN_KEYS = ["mean", "p50", "p90", "p95", "p99"]
PROMISED = {
    "scenario": None,
    "scenario_toml": None,
    "seed": None,
    "seeds": None,
    "requests": ["user", "warm", "keepalive"],
    "outcomes": ["ok", "rejected", "abandoned", "cancelled", "failed"],
    **dict.fromkeys(SPANS, SPAN_KEYS),
    "slo_share": None,
    "token_hit_ratio": None,
    "block_hit_ratio": None,
    "hit_tokens": None,
    "prompt_tokens": None,
    "ttft_after_warm_s": None,
    "residual_warm_s": None,
    "cost_usd": ["total", "per_1000_questions", "warm_waste"],
    "wall": ["simulate_s", "requests_per_s", "events_per_request"],
    "extrapolated": None,
    "provenance": None,
    # additive
    "warm_ups": ["sent", "wasted_share"],
    "user_outcomes": ["ok", "rejected", "abandoned", "cancelled", "failed"],
    "transient": ["rule", "until_s", "left_out"],
    "slo_ttft_s": None,
    "notes": None,
}
EDGES = {
    "an empty run": [],
    "only warm-ups": [{"kind": "warm", "outcome": "ok", "inserted_tokens": 10}, {"kind": "warm", "outcome": "cancelled"}],
    "no first token": [{"outcome": "rejected"}, {"outcome": "failed"}, {"outcome": "cancelled", "cancelled_at_s": 1.0}],
    "one request": [answer(0.0, 0.5)],
    "an answer without output": [answer(0.0, 0.5, output_tokens=0, tpot_s=0.0, prompt_tokens=0)],
}


def numbers_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in numbers_in(part)]
    return [value] if isinstance(value, (int, float)) else []


def test_an_entry_has_the_promised_keys_and_no_interval_with_one_seed():
    entry = summarise([drawn_result(1)])
    assert set(entry) == set(PROMISED)
    for key, parts in PROMISED.items():
        if parts is not None:
            assert list(entry[key]) == parts, key
    assert (entry["seed"], entry["seeds"]) == (1, [1])
    assert "interval95" not in json_text(entry)


def test_figures_of_one_request_worked_out_by_hand():
    row = answer(
        2.0, 0.5, output_tokens=11, tpot_s=0.1, prompt_tokens=100, hit_tokens=64, prompt_blocks=7, hit_blocks=4, queue_s=0.2
    )
    entry = summarise([result_of([row], usd=0.02, streams_answer=False, slo_ttft_s=0.4)])
    assert entry["ttft_s"] == pytest.approx(dict.fromkeys(SPAN_KEYS, 0.5))
    assert entry["e2e_s"] == entry["perceived_s"] == pytest.approx(dict.fromkeys(SPAN_KEYS, 1.5))
    assert entry["queue_s"]["p99"] == pytest.approx(0.2)
    assert entry["tpot_s"]["mean"] == pytest.approx(0.1)
    assert (entry["slo_share"], entry["token_hit_ratio"], entry["block_hit_ratio"]) == (0.0, 0.64, 4 / 7)
    assert (entry["hit_tokens"], entry["prompt_tokens"]) == (64, 100)
    assert entry["cost_usd"] == pytest.approx({"total": 0.02, "per_1000_questions": 20.0, "warm_waste": 0.002})
    assert entry["wall"] == {"simulate_s": 0.5, "requests_per_s": 2.0, "events_per_request": 3.0}
    assert entry["ttft_after_warm_s"] is None
    assert entry["warm_ups"] == {"sent": 0, "wasted_share": None}


def test_several_seeds_give_the_mean_and_the_t_interval_of_the_per_seed_figures():
    results = [drawn_result(seed) for seed in range(5)]
    entry = summarise(results)
    per_seed = [stats.quantile(result.records.ttft_s, 0.95) for result in results]
    estimate = stats.t_interval(per_seed)
    assert entry["ttft_s"]["p95"] == pytest.approx(estimate.mean)
    assert entry["ttft_s"]["p95_interval95"] == pytest.approx([estimate.low, estimate.high])
    totals = stats.t_interval([result.bill.total_usd for result in results])
    assert entry["cost_usd"]["total_interval95"] == pytest.approx([totals.low, totals.high])
    assert (entry["seed"], entry["seeds"]) == (None, [0, 1, 2, 3, 4])
    assert isinstance(entry["slo_share"], float)
    assert len(entry["slo_share_interval95"]) == 2
    assert entry["ttft_after_warm_s_interval95"] is None
    assert entry["wall"]["requests_per_s"] == pytest.approx(5 * 40 / (5 * 0.5))


def test_every_interval_has_its_figure_and_holds_it():
    entry = summarise([drawn_result(seed) for seed in range(4)])
    found = 0
    for place in [entry, *(part for part in entry.values() if isinstance(part, dict))]:
        for key in [key for key in place if key.endswith("_interval95")]:
            figure, bounds = place[key.removesuffix("_interval95")], place[key]
            assert (bounds is None) == (figure is None), key
            if bounds is not None:
                assert bounds[0] <= figure <= bounds[1], key
            found += 1
    assert found == len(SPANS) * len(SPAN_KEYS) + 7 + 3 + 2


def test_shares_stay_shares_and_spans_stay_positive_in_their_intervals():
    rows = [[answer(0.0, 0.9)], [answer(0.0, 0.01), answer(0.0, 30.0)]]
    entry = summarise([result_of(row, seed=seed) for seed, row in enumerate(rows)])
    assert entry["slo_share_interval95"] == [0.0, 1.0]
    assert entry["ttft_s"]["mean_interval95"][0] == 0.0


def test_a_figure_that_one_seed_lacks_is_the_mean_of_the_others():
    entry = summarise([result_of([], seed=0), result_of([answer(0.0, 1.0)], seed=1), result_of([answer(0.0, 3.0)], seed=2)])
    assert entry["ttft_s"]["mean"] == 2.0
    only_one = summarise([result_of([], seed=0), result_of([answer(0.0, 1.0)], seed=1)])
    assert (only_one["ttft_s"]["mean"], only_one["ttft_s"]["mean_interval95"]) == (1.0, None)
    assert only_one["requests"]["user"] == 0.5


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("name", EDGES)
def test_json_is_strict_and_the_text_is_readable_whatever_happened(name, seeds):
    entry = summarise([result_of(EDGES[name], seed=seed) for seed in range(seeds)])
    text = json_text(document([entry]))

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse) == document([entry])
    assert all(math.isfinite(number) for number in numbers_in(entry))
    long = {**entry, "scenario": "a long name " * 12, "notes": ["a long note " * 12]}
    for line in [*summary_text(entry).splitlines(), *summary_text(long).splitlines()]:
        assert len(line) <= 80
        assert "nan" not in line
        assert "None" not in line


def test_null_where_a_thing_does_not_apply():
    entry = summarise([result_of(EDGES["only warm-ups"])])
    assert entry["ttft_s"] == dict.fromkeys(SPAN_KEYS)
    assert (entry["slo_share"], entry["token_hit_ratio"], entry["cost_usd"]["per_1000_questions"]) == (None, None, None)
    assert entry["requests"] == {"user": 0, "warm": 2, "keepalive": 0}
    assert (entry["outcomes"]["cancelled"], entry["user_outcomes"]["cancelled"]) == (1, 0)
    assert entry["warm_ups"] == {"sent": 2, "wasted_share": 1.0}


def test_a_run_that_took_no_measurable_time_has_no_rate():
    assert summarise([replace(drawn_result(1), wall=Wall(simulate_s=0.0, events=0, requests=40))])["wall"]["requests_per_s"] is None


def test_without_a_bill_no_dollars_are_invented():
    result = replace(drawn_result(1), bill=None)
    assert summarise([result])["cost_usd"] == dict.fromkeys(PROMISED["cost_usd"])
    assert "per 1,000 q.   -" in result.summary()


def test_what_cannot_be_summarised_together():
    with pytest.raises(InputError, match="must be at least one"):
        summarise([])
    with pytest.raises(InputError, match="Two runs of one seed are one observation"):
        summarise([drawn_result(1), drawn_result(1)])
    with pytest.raises(InputError, match="must be of one scenario"):
        summarise([drawn_result(1, name="a"), drawn_result(2, name="b")])


def test_notes_are_said_once_and_one_extrapolating_seed_is_enough():
    one, other = (
        replace(drawn_result(1), notes=("ticks spread",)),
        replace(drawn_result(2), notes=("ticks spread", "b"), extrapolated=True),
    )
    entry = summarise([one, other])
    assert (entry["notes"], entry["extrapolated"], entry["provenance"]) == (["ticks spread", "b"], True, "written by hand")
    assert summary_text(entry).startswith("scenario (2 seeds, extrapolated)")
    assert "note: ticks spread" in summary_text(entry)


def test_quantiles_are_those_of_the_answered_requests():
    result = result_of([answer(0.0, ttft_s) for ttft_s in (1.0, 2.0, 3.0)] + [answer(0.0, 9.0, outcome="failed")])
    assert result.quantiles("ttft_s", [0.0, 0.5, 1.0]) == (1.0, 2.0, 3.0)
    assert result_of([]).quantiles("e2e_s", [0.5]) == (None,)
    with pytest.raises(UnknownNameError, match="Did you mean 'ttft_s'"):
        result.quantiles("ttft", [0.5])


def test_results_are_equal_when_what_happened_is():
    assert drawn_result(3) == replace(drawn_result(3), wall=Wall(simulate_s=9.0, events=1, requests=1))
    assert drawn_result(3) != drawn_result(4)


def test_the_summary_speaks_of_warm_ups_only_when_there_are_any():
    assert "warm-ups" not in drawn_result(1).summary()
    warm = [
        {"kind": "warm", "outcome": "ok", "inserted_tokens": 100, "used_tokens": 75},
        answer(3.0, 0.3, warm_row=0, residual_warm_s=0.0),
    ]
    text = result_of(warm).summary()
    assert "1 sent, 25.0 % of their tokens wasted" in text
    assert "300 ms from send" in text


def test_a_saved_result_reads_back_and_replaces_the_one_before(tmp_path):
    folder = tmp_path / "out" / "demo"
    drawn_result(1).save(folder)
    result = drawn_result(2)
    assert result.save(folder) == folder
    assert sorted(path.name for path in folder.iterdir()) == ["records.csv", "records.parquet", "scenario.toml", "summary.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["demo"]
    assert load_records(folder / "records.csv") == load_records(folder / "records.parquet") == result.records
    assert json.loads((folder / "summary.json").read_text()) == document([summarise([result])])


def test_records_written_in_parts_are_the_records(tmp_path, monkeypatch):
    monkeypatch.setattr("simcache.record_files._ROWS_AT_A_TIME", 3)
    records = drawn_result(1).records
    assert len(records) > 7
    for ending in ("csv", "parquet"):
        save_records(records, tmp_path / f"records.{ending}")
        assert load_records(tmp_path / f"records.{ending}") == records


def test_a_saved_scenario_is_the_scenario(tmp_path):
    from simcache.scenario_file import load_scenarios

    result = drawn_result(1, slo_ttft_s=0.7)
    assert load_scenarios(result.save(tmp_path / "out") / "scenario.toml") == [result.scenario]


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    folder = drawn_result(1).save(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.csv.CSVWriter", full_disk)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        drawn_result(2).save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match=r"out: folder\(='out'\) cannot be written: File exists"):
        drawn_result(1).save(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["", " ", '"', "a,b", "a\nb", "\r\n", "'", "null", "NA", "=1+1", "会话", "-9223372036854775808"]
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "session": TEXT,
            "user": TEXT,
            "kind": st.sampled_from(["user", "warm"]),
            "finished_at_ns": st.integers(-(2**62), 2**62) | st.just(NEVER),
            "hit_tokens": st.integers(0, 2**53 + 1),
        }
    ),
    max_size=4,
)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@given(ROWS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_records_read_back_equal(tmp_path, ending, rows):
    records = records_of(*rows)
    save_records(records, tmp_path / f"records{ending}")
    back = load_records(tmp_path / f"records{ending}")
    assert back == records
    assert list(back.columns) == list(records.columns)
    assert all(back[name].dtype == records[name].dtype for name in records.columns)


def test_other_programs_see_null_for_never(tmp_path):
    from pyarrow import parquet

    save_records(records_of({"outcome": "rejected", "session": "s"}), tmp_path / "r.parquet")
    save_records(records_of({"outcome": "rejected", "session": "s"}), tmp_path / "r.csv")
    (row,) = parquet.read_table(tmp_path / "r.parquet").to_pylist()
    assert row["first_token_at_ns"] is None
    assert row["prompt_tokens"] == 0
    header, line = (text.split(",") for text in (tmp_path / "r.csv").read_text().splitlines())
    assert [name.strip('"') for name in header] == [*TEXT_COLUMNS, *INTEGER_COLUMNS]
    assert line[header.index('"first_token_at_ns"')] == ""


def test_equal_records_give_equal_bytes(tmp_path):
    for ending in (".csv", ".parquet"):
        for name in ("a", "b"):
            save_records(drawn_result(5).records, tmp_path / f"{name}{ending}")
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02 binary junk", b"PAR1", b"session\n", b'"session","turn"\ns,half\n'])
def test_files_that_are_no_records_are_one_clear_error(tmp_path, ending, content):
    path = tmp_path / f"records{ending}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read|is missing|must be a column|is not known"):
        load_records(path)


def test_a_missing_file_an_unknown_column_and_another_ending_are_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_records(tmp_path / "none.parquet")
    save_records(drawn_result(1).records, tmp_path / "records.csv")
    text = (tmp_path / "records.csv").read_text().replace('"turn"', '"tern"')
    (tmp_path / "records.csv").write_text(text)
    with pytest.raises(UnknownNameError, match="Did you mean 'turn'"):
        load_records(tmp_path / "records.csv")
    with pytest.raises(InputError, match=r"must end in \.parquet or \.csv"):
        load_records(tmp_path / "records.xlsx")


def test_importing_results_pulls_no_heavy_library():
    code = "import sys, simcache.result; print([name for name in ('pyarrow', 'scipy', 'matplotlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_entry_holds_plain_values_only():
    def kinds(value):
        if isinstance(value, dict):
            return set().union(*(kinds(part) for part in value.values()))
        if isinstance(value, list):
            return set().union(set(), *(kinds(part) for part in value))
        return {type(value)}

    assert kinds(summarise([drawn_result(seed) for seed in range(2)])) <= {str, int, float, bool, type(None)}
    assert not any(isinstance(value, np.generic) for value in numbers_in(summarise([drawn_result(1)])))


def test_an_empty_builder_saves_and_loads(tmp_path):
    for ending in (".csv", ".parquet"):
        save_records(RecordsBuilder().freeze(), tmp_path / f"r{ending}")
        assert len(load_records(tmp_path / f"r{ending}")) == 0


def test_a_note_that_differs_in_numbers_alone_is_said_once_over_seeds():
    scenario = Scenario(workload=TypingSessions(users=20, p_send=0.7), backend=Server(), duration_s=600)
    entry = summarise([simulate(scenario, seed=seed) for seed in (4, 5, 6)])
    drafts = [note for note in entry["notes"] if "never sent" in note]
    assert len(drafts) == 1
    assert drafts[0].endswith("drafts were never sent (seed 4; others alike)")
