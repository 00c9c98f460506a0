"""The fit finds what made the points, refuses what cannot be fitted, and lands on the published table for real kernels."""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.errors import InputError, UnknownNameError
from simcache.latency import Coefficients, HostedProfile, LatencyModel, ServerProfile, load_profile

TRUE = Coefficients(
    floor_s=0.012,
    base_s=0.005,
    per_token_s=7e-5,
    attention_s=3e-9,
    per_decode_s=5e-5,
    per_kv_token_s=8e-8,
    per_kv_token_mixed_s=8e-8,
)
GRID = [(n, c) for n in (16, 32, 64, 256, 512, 1024, 2048, 4096) for c in (0, 1024, 8192, 16384)]


def prefill_points(true: Coefficients, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, c = (np.array(column, dtype=float) for column in zip(*GRID, strict=True))
    y = np.maximum(true.floor_s, true.base_s + true.per_token_s * n + true.attention_s * n * (c + n / 2))
    return n, c, y * np.exp(noise * np.random.default_rng(seed).standard_normal(len(y)))


def decode_points(true: Coefficients) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    b, k = np.meshgrid([1.0, 4, 16, 64], [0.0, 1e4, 1e5])
    b, k = b.ravel(), k.ravel()
    return b, k, max(true.floor_s, true.base_s) + true.per_decode_s * b + true.per_kv_token_s * k


# --- the fit finds what made the points


@st.composite
def coefficients(draw: st.DrawFn) -> Coefficients:
    """Coefficients whose floor crosses the curve of a cold prompt between 40 and 250 tokens, as on real GPUs."""
    base_s, per_token_s = draw(st.floats(0, 0.005)), draw(st.floats(1e-5, 5e-4))
    return Coefficients(
        floor_s=base_s + per_token_s * draw(st.floats(40, 250)),
        base_s=base_s,
        per_token_s=per_token_s,
        attention_s=draw(st.floats(1e-10, 1e-8)),
        per_decode_s=draw(st.floats(1e-6, 1e-3)),
        per_kv_token_s=draw(st.floats(1e-8, 1e-6)),
        per_kv_token_mixed_s=1.0,
    )


@given(true=coefficients())
@settings(max_examples=40, deadline=None)
def test_exact_points_give_their_coefficients_back(true: Coefficients) -> None:
    n, c, y = prefill_points(true)
    fit = LatencyModel().fit(n, c, y, "context")
    assert fit.base_s_ == pytest.approx(true.base_s, rel=1e-6, abs=1e-8)
    assert fit.per_token_s_ == pytest.approx(true.per_token_s, rel=1e-6)
    assert fit.attention_s_ == pytest.approx(true.attention_s, rel=1e-6)
    assert fit.floor_s_ == pytest.approx(true.floor_s, rel=1e-6)
    fit.fit_decode(*decode_points(true))
    assert fit.floor_s_ == pytest.approx(true.floor_s, rel=1e-6)
    assert fit.per_decode_s_ == pytest.approx(true.per_decode_s, rel=1e-6)
    assert fit.per_kv_token_s_ == pytest.approx(true.per_kv_token_s, rel=1e-6)
    assert fit.decode_mape_ == pytest.approx(0, abs=1e-9)


def test_the_floor_is_the_relative_least_squares_optimum_of_the_short_rows() -> None:
    n, c, y = prefill_points(TRUE, noise=0.05, seed=3)
    fit = LatencyModel().fit(n, c, y, "context", min_new=256)
    short = n < 256
    curve = fit.base_s_ + fit.per_token_s_ * n[short] + fit.attention_s_ * n[short] * (c[short] + n[short] / 2)
    losses = [
        float(((np.maximum(floor + slope * n[short], curve) / y[short] - 1) ** 2).sum())
        for floor in np.linspace(0, 0.03, 601)
        for slope in np.linspace(0, 1e-4, 21)
    ]
    best = float((fit.errors_[short] ** 2).sum())
    assert best <= min(losses) * 1.03  # a slope must take 2 % off the squared error to be kept
    assert fit.floor_s_ == pytest.approx(TRUE.floor_s, rel=0.06)


def test_relative_residuals_are_minimised_not_absolute_ones() -> None:
    n, c, y = prefill_points(TRUE, noise=0.1, seed=1)
    fit = LatencyModel().fit(n, c, y, "context", min_new=256)
    long = n >= 256

    def loss(*values: float) -> float:
        curve = values[0] + values[1] * n[long] + values[2] * n[long] * (c[long] + n[long] / 2)
        return float(((curve / y[long] - 1) ** 2).sum())

    fitted = (fit.base_s_, fit.per_token_s_, fit.attention_s_)
    for index in range(3):
        for factor in (0.999, 1.001):
            moved = [value * (factor if at == index else 1) for at, value in enumerate(fitted)]
            assert loss(*moved) > loss(*fitted)


@pytest.mark.parametrize("noise", [0.02, 0.05])
def test_standard_errors_cover_the_truth_as_often_as_they_should(noise: float) -> None:
    names = ("base_s", "per_token_s", "attention_s", "floor_s")
    inside = np.zeros(4)
    for seed in range(200):
        fit = LatencyModel().fit(*prefill_points(TRUE, noise=noise, seed=seed), "context")
        errors = fit.covariance_.standard_errors
        for i, name in enumerate(names):
            inside[i] += abs(getattr(fit, f"{name}_") - getattr(TRUE, name)) < 2.05 * errors[name]  # t(28), 95 %
    assert ((inside / 200 >= 0.90) & (inside / 200 <= 0.98)).all(), inside / 200


def test_coefficients_never_fall_below_zero_and_one_held_at_zero_has_no_error() -> None:
    n = np.array([256.0, 512, 1024, 2048])
    fit = LatencyModel().fit(n, np.zeros(4), 1e-4 * n - 0.004)
    assert fit.base_s_ == 0.0
    assert fit.covariance_.standard_errors["base_s"] == 0.0
    assert fit.per_token_s_ > 0
    assert fit.attention_s_ >= 0


def test_linear_is_the_context_form_without_attention() -> None:
    flat = replace(TRUE, attention_s=0.0)
    linear, context = LatencyModel().fit(*prefill_points(flat), form="linear"), LatencyModel().fit(*prefill_points(flat))
    assert linear.attention_s_ == 0.0
    assert context.attention_s_ == pytest.approx(0, abs=1e-16)
    n, c, _ = prefill_points(flat)
    np.testing.assert_allclose(linear.predict_s(n, c), context.predict_s(n, c), rtol=1e-6)


def test_linear_under_predicts_what_attention_costs() -> None:
    n = np.array([256.0, 512, 1024, 2048, 4096, 8192])
    y = TRUE.base_s + TRUE.per_token_s * n + TRUE.attention_s * n * n / 2
    linear = LatencyModel().fit(n, 0 * n, y, form="linear")
    context = LatencyModel().fit(n, 0 * n, y)
    truth = TRUE.base_s + TRUE.per_token_s * 131_072 + TRUE.attention_s * 131_072**2 / 2
    assert linear.predict_s(131_072) < 0.6 * truth
    assert context.predict_s(131_072) == pytest.approx(truth, rel=1e-6)


# --- decode


@given(
    d0=st.floats(1e-4, 0.1),
    d1=st.floats(1e-6, 1e-3),
    d2=st.floats(1e-9, 1e-6),
    base_s=st.floats(0, 0.05),
)
@settings(max_examples=60, deadline=None)
def test_a_decode_step_of_the_coefficients_is_the_decode_fit(d0: float, d1: float, d2: float, base_s: float) -> None:
    b, k, _ = decode_points(TRUE)
    n = np.array([256.0, 512, 1024])
    fit = LatencyModel().fit(n, 0 * n, base_s + 1e-4 * n, form="linear").fit_decode(b, k, d0 + d1 * b + d2 * k)
    found = fit.coefficients()
    for batch, kv_tokens in ((1, 10), (8, 5000), (64, 200_000)):
        assert found.step_s(0, 0.0, batch, kv_tokens, batch) == pytest.approx(d0 + d1 * batch + d2 * kv_tokens, rel=1e-6)
    if d0 < base_s - 1e-9:
        assert found.decode_s == pytest.approx(d0, rel=1e-6)
    if found.decode_s is not None:  # a floor that the prompts do not have is kept away from them
        assert found.step_s(512, 0.0, 0, 0, 1) == pytest.approx(base_s + 0.0512, rel=1e-6)


def test_a_new_prefill_fit_forgets_the_decode_fit() -> None:
    fit = LatencyModel().fit(*prefill_points(TRUE)).fit_decode(*decode_points(TRUE))
    assert fit.per_decode_s_ > 0
    fit.fit(*prefill_points(TRUE))
    assert fit.per_decode_s_ == 0.0
    assert fit.decode_n_ is None


def test_the_mixed_value_defaults_to_the_pure_one_and_can_be_given() -> None:
    fit = LatencyModel().fit(*prefill_points(TRUE)).fit_decode(*decode_points(TRUE))
    assert fit.coefficients().per_kv_token_mixed_s == fit.per_kv_token_s_
    assert fit.coefficients(per_kv_token_mixed_s=1e-6).per_kv_token_mixed_s == 1e-6


# --- one step


def test_a_step_adds_up_as_the_design_says() -> None:
    c = Coefficients(
        host_s=1,
        host_per_seq_s=2,
        floor_s=50,
        base_s=3,
        per_token_s=4,
        attention_s=5,
        per_decode_s=6,
        per_kv_token_s=7,
        per_kv_token_mixed_s=8,
    )
    assert c.step_s(10, 100.0, 0, 0, 1) == 1 + 2 + (3 + 40 + 500)
    assert c.step_s(0, 0.0, 2, 9, 2) == 1 + 4 + 50 + 12 + 63
    assert c.step_s(10, 100.0, 2, 9, 3) == 1 + 6 + (3 + 40 + 500) + 12 + 72
    assert c.step_s(1, 0.5, 0, 0, 1) == 1 + 2 + 50


@given(
    n=st.integers(1, 200_000),
    c=st.integers(0, 200_000),
    more=st.integers(1, 100_000),
    name=st.sampled_from(["llama-3-8b/a100/tp1", "llama-2-7b/a100/tp1", "llama-2-70b/a100/tp2", "llama-3.1-8b/h100/tp1"]),
)
@settings(max_examples=100, deadline=None)
def test_prefill_grows_with_new_and_with_cached_tokens(n: int, c: int, more: int, name: str) -> None:
    profile = load_profile(name)
    assert isinstance(profile, ServerProfile)
    assert profile.prefill_s(n + more, c) >= profile.prefill_s(n, c)
    assert profile.prefill_s(n, c + more) >= profile.prefill_s(n, c)
    # A hit saves, whatever is hit: the same prompt with some of it cached is never dearer.
    assert profile.prefill_s(n, c) <= profile.prefill_s(n + c, 0) + 1e-12
    k = profile.coefficients
    assert profile.prefill_s(n, c) == pytest.approx(k.step_s(n, n * (c + n / 2), 0, 0, 1), rel=1e-12)
    assert profile.decode_step_s(n, c) == pytest.approx(k.step_s(0, 0.0, n, c, n), rel=1e-12)


@given(u=st.integers(0, 200_000), c=st.integers(0, 200_000), more=st.integers(1, 100_000))
@settings(max_examples=100, deadline=None)
def test_hosted_ttft_grows_and_a_hit_is_never_dearer_than_computing(u: int, c: int, more: int) -> None:
    for name in ("openai-figure", "claude-3.5-sonnet/speculative-recipe"):
        profile = load_profile(name)
        assert isinstance(profile, HostedProfile)
        assert profile.ttft_s(u + more, c) >= profile.ttft_s(u, c)
        assert profile.ttft_s(u, c + more) >= profile.ttft_s(u, c)
        assert profile.ttft_s(u, c) <= profile.ttft_s(u + c, 0) + 1e-9


def test_predictions_take_numbers_and_arrays() -> None:
    fit = LatencyModel().fit(*prefill_points(TRUE)).fit_decode(*decode_points(TRUE))
    server = ServerProfile(name="toy", coefficients=fit.coefficients())
    api = HostedProfile(name="toy", base_s=1, per_token_s=1e-4, per_cached_token_s=1e-5, hit_s=0.1, seconds_per_output_token=0)
    n, c = np.array([1, 300, 5000]), np.array([0, 100, 10_000])
    for predict in (fit.predict_s, server.prefill_s, server.decode_step_s, api.ttft_s):
        whole = predict(n, c)
        assert isinstance(whole, np.ndarray)
        assert whole.tolist() == [predict(int(a), int(b)) for a, b in zip(n, c, strict=True)]
        assert isinstance(predict(1, 0), float)
        assert predict(300, c).shape == (3,)


# --- refusals


@pytest.mark.parametrize(
    ("n", "c", "y", "says"),
    [
        ([256, 512, 1024, np.nan], [0] * 4, [1, 2, 3, 4], r"new_tokens\[3\]\(=nan\)"),
        ([256, 512, 1024, 2048], [0, 0, -1, 0], [1, 2, 3, 4], r"cached_tokens\[2\]\(=-1.0\)"),
        ([256, 512, 1024, 2048], [0] * 4, [1, 2, 0, 4], r"seconds\[2\]\(=0.0\) must be finite and above 0"),
        ([256, 512, 1024, 2048], [0] * 4, [1, -2, 3, 4], r"seconds\[1\]\(=-2.0\)"),
        ([256, 512, 1024, 2048], [0] * 4, [1, np.inf, 3, 4], r"seconds\[1\]\(=inf\)"),
        ([0, 512, 1024, 2048], [0] * 4, [1, 2, 3, 4], r"new_tokens\[0\]\(=0.0\)"),
        ([512] * 4, [0, 64, 128, 256], [1, 2, 3, 4], "only prompt length"),
        ([256, 512], [0, 0], [1, 2], "at least 3 prefill points"),
        ([256, 512, 256, 512], [0] * 4, [1, 2, 1, 2], "cannot tell base_s, per_token_s, attention_s apart"),
        ([256, 512, 1024], [0, 0], [1, 2, 3], "must have one length"),
        (["many", 512, 1024], [0, 0, 0], [1, 2, 3], "must be numbers"),
        ([[256, 512, 1024]], [0, 0, 0], [1, 2, 3], "one column"),
        ([], [], [], "at least 3"),
    ],
)
def test_points_that_cannot_be_fitted_are_refused_with_name_and_rule(n: list, c: list, y: list, says: str) -> None:
    # Points that only a line can be told from are still points for a line.
    for form in ("auto",) if "at least 3" in says else ("context",) if "apart" in says else ("auto", "context"):
        with pytest.raises(InputError, match=says):
            LatencyModel().fit(n, c, y, form)


def test_a_form_says_how_many_points_it_needs() -> None:
    with pytest.raises(InputError, match="at least 3, one per coefficient of the form context"):
        LatencyModel().fit([256, 512], [0, 0], [1, 2], "context")
    with pytest.raises(InputError, match="at least 256 new tokens"):
        LatencyModel().fit([16, 32, 64, 128, 255], [0] * 5, [1] * 5, "context", min_new=256)


def test_decode_points_are_checked_too() -> None:
    fit = LatencyModel().fit(*prefill_points(TRUE))
    with pytest.raises(InputError, match="cannot tell"):
        fit.fit_decode([1, 2, 4], [100, 200, 400], [1, 2, 3])  # one kv length per sequence: batch and kv move together
    with pytest.raises(InputError, match=r"batch\[0\]"):
        fit.fit_decode([0, 2, 4], [100, 300, 400], [1, 2, 3])


def test_an_unknown_form_and_an_unfitted_model_say_so() -> None:
    with pytest.raises(UnknownNameError, match="'linear'"):
        LatencyModel().fit(*prefill_points(TRUE), form="linaer")  # type: ignore[arg-type]
    for ask in (lambda m: m.predict_s(1), lambda m: m.summary(), lambda m: m.fit_decode([1], [1], [1]), lambda m: m.mape_):
        with pytest.raises(InputError, match="Call fit"):
            ask(LatencyModel())


@pytest.mark.parametrize(
    "bad", [{"base_s": -1.0}, {"floor_s": float("nan")}, {"attention_s": float("inf")}, {"per_kv_token_s": 1e-7}]
)
def test_impossible_coefficients_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Coefficients(**bad)


# --- what a person reads


def test_summary_says_value_error_unit_and_range() -> None:
    text = LatencyModel().fit(*prefill_points(TRUE, noise=0.02)).fit_decode(*decode_points(TRUE)).summary()
    for word in ("per_token_s", "s/token^2", "std. error", "12 decode points", "16 to 4096 new tokens after 0 to 16384 cached"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80


def test_plot_draws_on_the_axes_it_is_given() -> None:
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    assert LatencyModel().fit(*prefill_points(TRUE)).plot(ax) is ax
    assert len(ax.lines) == 8
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"0 cached", "1024 cached", "8192 cached", "16384 cached"}


# --- real kernels (rows of the profiler that are marked measured)

# Coefficients and held-out error of a fit by other hands to the same public rows: ms, us per token, s per token squared.
PUBLISHED = {
    ("Llama-2-7b", "1"): (0.38, 71.8, 5.05e-9, 0.018),
    ("Llama-3-8B", "1"): (4.9, 68.8, 3.20e-9, 0.036),
    ("Llama-2-70b", "2"): (26.7, 341, 8.56e-9, 0.027),
}


def kernels(folder: Path, file: str, model: str, tp: str, *names: str) -> list[np.ndarray]:
    with gzip.open(folder / "gpu" / file, "rt") as lines:
        table = [r for r in csv.DictReader(lines) if (r["model"], r["tp"]) == (model, tp) and r["source"].startswith("measured")]
    return [np.array([float(row[name]) for row in table]) for name in names]


@pytest.mark.parametrize("key", PUBLISHED, ids=lambda key: key[0])
def test_real_kernels_give_the_published_coefficients_and_held_out_error(shared_data: Path, key: tuple[str, str]) -> None:
    columns = kernels(shared_data, "prefill_points_a100.csv.gz", *key, "new_tokens", "context_tokens", "latency_s")
    n, c, y = (column[columns[0] >= 256] for column in columns)
    base_ms, per_token_us, attention, mape = PUBLISHED[key]
    fit = LatencyModel().fit(n, c, y, "context")
    assert fit.base_s_ * 1e3 == pytest.approx(base_ms, rel=0.02)
    assert fit.per_token_s_ * 1e6 == pytest.approx(per_token_us, rel=0.01)
    assert fit.attention_s_ == pytest.approx(attention, rel=0.01)
    errors = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(n))
        held, kept = np.split(order, [int(0.3 * len(n))])
        fit.fit(n[kept], c[kept], y[kept], "context")
        errors.append(np.abs(fit.predict_s(n[held], c[held]) / y[held] - 1).mean())
    assert np.mean(errors) == pytest.approx(mape, abs=0.004)


def test_linear_loses_on_real_context_what_the_attention_term_keeps(shared_data: Path) -> None:
    n, c, y = kernels(shared_data, "prefill_points_a100.csv.gz", "Llama-3-8B", "1", "new_tokens", "context_tokens", "latency_s")
    linear, context = LatencyModel().fit(n, c, y, form="linear"), LatencyModel().fit(n, c, y)
    assert linear.mape_ > 0.10
    assert context.mape_ < 0.036


# d0 ms, d1 us, d2 us as published for the same rows.
DECODE = {
    ("Llama-2-70b", "2"): (56.5, 165, 0.100),
    ("Llama-2-7b", "1"): (9.29, 52.7, 0.259),
    ("Llama-3-8B", "1"): (9.91, 41.9, 0.0755),
}


@pytest.mark.parametrize("key", DECODE, ids=lambda key: key[0])
def test_real_decode_kernels_give_the_published_coefficients(shared_data: Path, key: tuple[str, str]) -> None:
    prefill = kernels(shared_data, "prefill_points_a100.csv.gz", *key, "new_tokens", "context_tokens", "latency_s")
    fit = LatencyModel().fit(*prefill)
    fit.fit_decode(*kernels(shared_data, "decode_points_a100.csv.gz", *key, "batch", "total_kv_tokens", "latency_s"))
    d0, d1, d2 = DECODE[key]
    assert fit.floor_s_ * 1e3 == pytest.approx(d0, rel=0.01)
    assert fit.per_decode_s_ * 1e6 == pytest.approx(d1, rel=0.01)
    assert fit.per_kv_token_s_ * 1e6 == pytest.approx(d2, rel=0.01)
    assert fit.decode_mape_ is not None
    assert fit.decode_mape_ < 0.04
