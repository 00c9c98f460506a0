"""Figures: drawn on the axes given, equal bytes for equal results, and nothing global touched."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from simcache.errors import InputError, UnknownNameError
from simcache.report.figures import plot_comparison, plot_ttft_by_prompt, plot_ttft_cdf, save_figure, save_run_figure, sheet
from simcache.result import summarise
from tests.synthetic_runs import answer, drawn_result, result_of

VARIANTS = {
    "no warming": [drawn_result(seed, median_ttft_s=1.5, usd=0.4) for seed in range(3)],
    "warm on focus": [drawn_result(seed, median_ttft_s=0.4, usd=0.6) for seed in range(10, 13)],
}
AWKWARD = {
    "nothing happened": [result_of([])],
    "nobody was answered": [result_of([{"outcome": "rejected"}])],
    "all in no time": [result_of([answer(0.0, 0.0, prompt_tokens=0)])],
    "costs $5 vs $6 & <b>": [result_of([answer(0.0, 20.87)])],
    "_hidden": [result_of([answer(0.0, 20.9)])],
    "a very long name " * 20: [result_of([answer(0.0, 20.9)])],
    "": [result_of([answer(0.0, 1e-7)])],
}


@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_equal_results_give_equal_bytes(tmp_path, ending, magic):
    one, other = (save_run_figure(VARIANTS, tmp_path / f"{name}{ending}").read_bytes() for name in ("one", "other"))
    assert one == other
    assert one.startswith(magic)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"one{ending}", f"other{ending}"]


def test_a_users_settings_neither_change_the_figure_nor_are_changed(tmp_path):
    plain = save_run_figure(VARIANTS, tmp_path / "plain.png").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        assert save_run_figure(VARIANTS, tmp_path / "styled.png").read_bytes() == plain
        assert dict(matplotlib.rcParams) == before


def test_no_backend_is_chosen_and_pyplot_is_never_imported(tmp_path):
    code = (
        "import sys, matplotlib; sys.path.insert(0, sys.argv[1]); from tests.synthetic_runs import drawn_result;"
        "from simcache.report.figures import save_run_figure; save_run_figure({'a': [drawn_result(1)]}, sys.argv[2]);"
        "assert 'matplotlib.pyplot' not in sys.modules; print(matplotlib.rcParams._get_backend_or_none())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    command = [sys.executable, "-c", code, str(Path(__file__).parent.parent), str(tmp_path / "a.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip() == "None"


def test_the_cdf_is_the_share_answered_by_then_with_a_band_around_the_mean():
    data = {name: [result.span("ttft_s") for result in results] for name, results in VARIANTS.items()}
    with sheet() as (_, (ax,)):
        plot_ttft_cdf(data, ax, slo_ttft_s=1.0)
        for (name, seeds), line in zip(data.items(), ax.lines, strict=False):
            assert line.get_label() == name
            at_s, share = (np.asarray(axis) for axis in line.get_data())
            for index in (100, 300, 599):
                assert share[index] == pytest.approx(np.mean([np.mean(values <= at_s[index]) for values in seeds]))
            assert share[-1] == 1.0
        assert len(ax.collections) == 2
        assert ax.get_xlabel() == "time to first token, from submit"
        low, high = (ax.collections[0].get_paths()[0].vertices[:, 1].min(), ax.collections[0].get_paths()[0].vertices[:, 1].max())
        assert low >= 0
        assert high <= 1


def test_one_seed_has_no_band():
    with sheet() as (_, (ax,)):
        plot_ttft_cdf({"a": [np.array([1.0, 2.0])]}, ax)
        assert len(ax.collections) == 0


def test_the_comparison_draws_the_numbers_of_the_entries_and_prints_them():
    entries = [{**summarise(results), "scenario": name} for name, results in VARIANTS.items()]
    with sheet() as (figure, (ax,)):
        plot_comparison(entries, ax)
        widths = [bar.get_width() for bar in ax.patches]
        assert widths == pytest.approx([entry["cost_usd"]["per_1000_questions"] for entry in entries])
        figure.canvas.draw()
        words = [text.get_text().replace(r"\$", "$") for text in ax.texts]
        assert words[1::2] == list(VARIANTS)
        assert all(word.startswith("$") and "[" in word for word in words[::2])


def test_any_figure_of_an_entry_can_be_compared():
    from simcache import units

    entries = [summarise(VARIANTS["no warming"])]
    with sheet() as (_, (ax,)):
        plot_comparison(entries, ax, figure=("ttft_s", "p95"), text=units.seconds, label="p95 of TTFT")
        assert ax.patches[0].get_width() == pytest.approx(entries[0]["ttft_s"]["p95"])


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_runs_and_names_are_drawn_without_a_warning(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            save_run_figure({name: AWKWARD[name], "beside it": VARIANTS["no warming"]}, tmp_path / "a.png").stat().st_size > 10_000
        )


def test_many_variants_stay_apart():
    with sheet() as (_, (ax,)):
        plot_ttft_cdf({f"v{number}": [np.array([1.0, 2.0])] for number in range(14)}, ax)
        looks = {(line.get_color(), str(line.get_linestyle()), str(line._unscaled_dash_pattern)) for line in ax.lines}
        assert len(looks) == 14


def test_quantiles_by_prompt_length_skip_what_is_too_few_to_say():
    rows = [answer(0.0, 1.0 + i / 100, prompt_tokens=1_500) for i in range(100)] + [answer(0.0, 5.0, prompt_tokens=9_000)]
    with sheet() as (_, (ax,)):
        plot_ttft_by_prompt({"cached": [result_of(rows)]}, ax)
        median, p95 = (np.asarray(line.get_ydata(), dtype=float) for line in ax.lines)
        assert median == pytest.approx([1.495, 5.0])
        assert p95[0] == pytest.approx(1.9405)
        assert np.isnan(p95[1])
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0-2k\nn 100", "8k-16k\nn 1"]


def test_nothing_to_bin_is_an_error():
    with sheet() as (_, (ax,)), pytest.raises(InputError, match="must hold at least one answered request"):
        plot_ttft_by_prompt({"a": [result_of([])]}, ax)


def test_a_figure_that_cannot_be_written_is_one_clear_error_and_leaves_nothing(tmp_path):
    with pytest.raises(UnknownNameError, match=r"Known: \.pdf, \.png, \.svg"):
        save_run_figure(VARIANTS, tmp_path / "a.gif")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        save_run_figure(VARIANTS, tmp_path / "file" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with sheet() as (figure, _), pytest.raises(InputError, match="cannot be written"):
        save_figure(figure, tmp_path / "folder.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]
    with pytest.raises(InputError, match="at least one variant"):
        save_run_figure({}, tmp_path / "a.png")
