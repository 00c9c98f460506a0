"""Profiles of hosted APIs from published figures and audits: what :mod:`calibration.fit_shipped` ships of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simcache.latency import Covariance, FitRecord, HostedProfile, MeasuredRange

from .published import COMMAND, FITTED, column, rows


def least_squares(tokens: NDArray[np.float64], seconds: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intercept and slope of ordinary least squares, and their covariance."""
    design = np.column_stack([np.ones_like(tokens), tokens])
    values, *_ = np.linalg.lstsq(design, seconds, rcond=None)
    residuals = seconds - design @ values
    return values, np.linalg.inv(design.T @ design) * float(residuals @ residuals) / (len(tokens) - 2)


def openai_figure(folder: Path) -> HostedProfile:
    """A provider's own figure, cold and cached trend lines; ordinary least squares, as the bins are equally trusted."""
    api = list(rows(folder / "api" / "latency_points.csv"))
    figure = [r for r in api if r["source"] == "openai_cookbook_201_fig2"]
    cold = [r for r in figure if r["state"] == "cold"]
    hit = [r for r in figure if r["state"] == "hit"]
    (base_s, per_token_s), cold_cov = least_squares(column(cold, "prompt_tokens"), column(cold, "value_s"))
    (hit_base_s, per_cached_s), hit_cov = least_squares(column(hit, "cached_tokens"), column(hit, "value_s"))
    # hit_s is the difference of the two intercepts, so it shares its error with base_s and per_token_s.
    jacobian = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [-1, 0, 1, 0], [0, 0, 0, 1]])
    covariance = jacobian @ np.block([[cold_cov, np.zeros((2, 2))], [np.zeros((2, 2)), hit_cov]]) @ jacobian.T
    names = ("base_s", "per_token_s", "hit_s", "per_cached_token_s")
    order = [0, 1, 3, 2]
    arms: dict[str, dict[str, float]] = {}
    for r in api:
        if (r["source"], r["provider"], r["state"]) == ("auditing_prompt_caching", "openai", "cold") and "client" in r["metric"]:
            arms.setdefault(r["ref"], {})[r["stat"]] = float(r["value_s"])
    # Log-scale of a log-normal law from its 10 % and 90 % quantiles, which lie 2 * 1.2816 log-scales apart.
    sigma = float(np.median([math.log(arm["p90"] / arm["p10"]) / (2 * 1.2816) for arm in arms.values()]))
    totals = np.concatenate([column(cold, "prompt_tokens"), column(hit, "prompt_tokens")])
    profile = HostedProfile(
        name="openai-figure",
        provenance="published figure",
        source="openai/openai-cookbook images/prompt-caching-201/figure-2.svg @85b8171d, polylines read by axis ticks, 8 cold and "
        "8 cached bins of about 25,000 tokens (2,300 prompts)",
        date=FITTED,
        notes=(
            "The model and the statistic of a bin are not stated by the source; points above 5.685 s are clipped in its scatter.",
            "Cached bins are prompts read whole from the cache. Below about 12,000 cached tokens, outside the figure, the two "
            "lines cross; there reading is taken to cost what computing costs.",
            f"jitter_sigma is not in the figure: median over {len(arms)} cold arms of 250 OpenAI requests in Auditing Prompt "
            "Caching (arXiv 2502.07776, client time, 2024-09) of ln(p90/p10)/2.563. The real tail is heavier (p99/p50 1.2 to 9).",
            "seconds_per_output_token is an assumption: the figure states none. 20 ms is the mean of two measured runs of another "
            "provider's model, 19.64 and 20.64 ms (anthropics/claude-cookbooks misc/speculative_prompt_caching.ipynb, 2025-05).",
        ),
        range=MeasuredRange(
            new_tokens=(0, int(column(cold, "prompt_tokens").max())),
            cached_tokens=(0, int(column(hit, "cached_tokens").max())),
            total_tokens=(int(totals.min()), int(totals.max())),
        ),
        covariance=Covariance(
            names=tuple(names[i] for i in order), matrix=tuple(map(tuple, covariance[np.ix_(order, order)].tolist()))
        ),
        base_s=float(base_s),
        per_token_s=float(per_token_s),
        per_cached_token_s=float(per_cached_s),
        hit_s=float(hit_base_s - base_s),
        jitter_sigma=round(sigma, 3),
        seconds_per_output_token=0.020,
    )
    cached = column(figure, "cached_tokens")
    errors = np.abs(profile.ttft_s(column(figure, "prompt_tokens") - cached, cached) / column(figure, "value_s") - 1)
    return replace(profile, fit=FitRecord(n=len(figure), mape=float(errors.mean()), max_ape=float(errors.max()), command=COMMAND))


# Share of requests faster than the misses' 5 % quantile after one primer, server time, as computed from the raw samples of the
# audit (two arms of OpenAI: 0.59 and 0.62). 5 % of the misses are that fast, too.
AUDITED = {
    ("openai", "gpt-4o-mini"): 0.605,
    ("fireworks", "llama-v3p1-8b-instruct"): 0.54,
    ("replicate", "meta-llama-3-8b-instruct"): 1.0,
}


def audited(folder: Path, provider: str, model: str, fast_share: float) -> HostedProfile:
    """Medians of 250 misses and 250 hits at one prompt length, their spread, and how often one primer is enough."""
    arms: dict[str, dict[str, float]] = {"cold": {}, "hit_attempt": {}}
    tokens = 0
    for row in rows(folder / "api" / "latency_points.csv"):
        arm = (row["source"], row["provider"], row["model"]) == ("auditing_prompt_caching", provider, model)
        if arm and "client" in row["metric"] and "prefix_fraction=1.0; victim_requests=25" in row["notes"]:
            arms[row["state"]][row["stat"]] = float(row["value_s"])
            tokens = int(row["prompt_tokens"])
    cold_s, hit_s = arms["cold"]["p50"], arms["hit_attempt"]["p50"]
    probability = (fast_share - 0.05) / 0.95
    return HostedProfile(
        name=f"audit/{provider}/{model}",
        provenance="measured",
        source="Auditing Prompt Caching (arXiv 2502.07776), chenchenygu/auditing-prompt-caching audit-data.zip, 250 misses and "
        "250 hits after 25 primers, client time, max_tokens 1",
        date="2024-09",
        notes=(
            f"One prompt length: {tokens:,} tokens cold {cold_s * 1e3:.0f} ms, read whole from the cache {hit_s * 1e3:.0f} ms "
            "(medians). base_s is the cached median and per_token_s the rest over the tokens: other lengths are guesses.",
            f"hit_probability is after one primer: {fast_share:.0%} were faster than the misses' 5 % quantile (two arms of OpenAI: "
            "59 and 62 %), less the 5 % of the misses that are so, too. After 25 primers about 0.9 follow: several machines.",
            "seconds_per_output_token is an assumption (20 ms): the audit asked for one token.",
        ),
        range=MeasuredRange(new_tokens=(0, tokens), cached_tokens=(0, tokens), total_tokens=(tokens, tokens)),
        fit=FitRecord(n=500, mape=0.0, command=COMMAND),
        base_s=hit_s,
        per_token_s=(cold_s - hit_s) / tokens,
        per_cached_token_s=0.0,
        jitter_sigma=round(math.log(arms["cold"]["p90"] / arms["cold"]["p10"]) / (2 * 1.2816), 3),
        seconds_per_output_token=0.020,
        hit_probability=round(probability, 3),
    )


def speculative_recipe(folder: Path) -> HostedProfile:
    """Two printed runs of one notebook: base_s is fixed, the two token costs are solved so that both TTFTs come out."""
    runs = [r for r in rows(folder / "api" / "latency_points.csv") if r["source"] == "anthropic_cookbook_speculative"]
    value = {(r["state"], r["metric"]): float(r["value_s"]) for r in runs}
    cold_s, hit_s, cold_total_s = value["cold_write", "ttft"], value["hit", "ttft"], value["cold_write", "total"]
    context, question, output = 151_629, 22, 362
    base_s = 1.10
    per_token_s = (cold_s - base_s) / (context + question)
    return HostedProfile(
        name="claude-3.5-sonnet/speculative-recipe",
        provenance="published figure",
        source="anthropics/claude-cookbooks misc/speculative_prompt_caching.ipynb @25232bb (2025-05-15), "
        "claude-3-5-sonnet-20241022, one cold and one cached run as printed",
        date=FITTED,
        notes=(
            "Two measurements, three coefficients: base_s is fixed at 1.10 s, per_token_s and per_cached_token_s are solved so "
            "that 151,651 uncached tokens take 20.87 s, and 22 uncached beside 151,629 cached ones 1.94 s. No error is left to "
            "estimate a covariance from.",
            "Why 1.10 s: the cold intercept of the only hosted API measured over many lengths (openai-figure), inside the 1 to 2 s "
            "that fit these runs. With base_s 0 or 1.9 s the slope per token would be 5.6 % more or 4.0 % less; the two printed "
            "TTFTs stay, lengths between them move.",
            "No jitter: single runs show none. The real service has it.",
            "seconds_per_output_token is the cold run's: 362 tokens from 20.87 to 28.32 s, 361 gaps (20.64 ms). The cached run's "
            "330 tokens took 19.64 ms each; a scenario that replays it overrides the rate.",
        ),
        range=MeasuredRange(
            new_tokens=(question, context + question),
            cached_tokens=(0, context),
            total_tokens=(context, context + question),
        ),
        fit=FitRecord(n=2, mape=0.0, command=COMMAND),
        base_s=base_s,
        per_token_s=per_token_s,
        per_cached_token_s=(hit_s - base_s - question * per_token_s) / context,
        seconds_per_output_token=(cold_total_s - cold_s) / (output - 1),
    )
