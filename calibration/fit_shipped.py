"""Fit every shipped latency profile from public measurements and write it to simcache/data/profiles.

Reads the folder that SIMCACHE_DATA names (default ../shared/data beside the repository): gpu/prefill_points_a100.csv.gz,
gpu/decode_points_a100.csv.gz, gpu/kernel_sum_prefill.csv, gpu_runs/*_kernels and api/latency_points.csv. Needs no torch.

    SIMCACHE_DATA=../shared/data python -m calibration.fit_shipped [--out FOLDER]
"""

from __future__ import annotations

import argparse
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from simcache.latency import (
    Coefficients,
    Covariance,
    HostedProfile,
    LatencyModel,
    ServerProfile,
    save_profile,
)
from simcache.latency.kernel_files import read_kernels
from simcache.latency.kernel_fit import fit_kernels
from simcache.latency.shapes import gpu_peaks, load_shape, usable_kv_tokens

from .fit_hosted import AUDITED, audited, openai_figure, speculative_recipe
from .published import COMMAND, FITTED, ROOT, column, data_folder, rows

# Host work per engine step (schedule, prepare, sample): the line through its two measured ends, 3.7 ms at batch 8 and 12.2 ms
# at batch 128 of a 34B model. It is work of the CPU, so it is taken over to other models and GPUs.
HOST_PER_SEQ_S = (12.2e-3 - 3.7e-3) / (128 - 8)
HOST_S = 3.7e-3 - 8 * HOST_PER_SEQ_S
HOST_NOTE = (
    "host_s and host_per_seq_s are not in the measured kernels: the line through 3.7 ms at batch 8 and 12.2 ms at batch 128, "
    "measured as host work per engine step of a 34B model. Engines that schedule asynchronously hide most of it (recorded steps "
    "of vLLM 0.19: 1.00 to 1.07 times their kernel sum): set both to 0 for those. Work outside the engine (HTTP, tokenising, about "
    "20 ms a request) is in no coefficient."
)
MIXED_NOTE = "per_kv_token_mixed_s was not measured: it is per_kv_token_s. Decodes beside a prefill chunk really read more slowly."
FLOOR_NOTE = (
    "floor_s is d0 of the decode fit d0 + d1*batch + d2*kv: a decode step and a short prefill both read every weight once. "
    "fit.mape_below_min_new is the error that leaves below 256 new tokens."
)

# Device memory that the driver reports for an 80 GB card (A100 SXM4, H100 SXM5), and what an engine keeps back per GPU for
# activations and graphs: 3 GB reproduces measured serving runs on H200 best.
DEVICE_BYTES = 79.1 * 2**30
UTILISATION = 0.9
RESERVE_BYTES = 3e9
BLOCK_TOKENS = 16

# Peak memory bandwidth, NVIDIA data sheets: A100 80GB SXM 2,039 GB/s; H100 SXM 3.35 TB/s.
A100_BYTES_PER_S = 2.039e12
H100_BYTES_PER_S = 3.35e12

VIDUR = "microsoft/vidur @7d475133 and @e2d00e9a (MIT), profiled kernels summed over layers, as {files}"


def kv_memory(model: str, gpus: int) -> tuple[int, int, str]:
    """KV bytes per token, usable KV tokens (whole blocks) and how they were found."""
    shape = tomllib.loads((ROOT / "simcache" / "data" / "models" / f"{model}.toml").read_text())
    kv_bytes = 2 * shape["layers"] * shape["kv_heads"] * shape["head_size"] * shape["bytes_per_value"]
    weight_bytes = shape["parameters"] * shape["bytes_per_value"]
    usable = UTILISATION * DEVICE_BYTES * gpus - weight_bytes - RESERVE_BYTES * gpus
    source = (
        f"({UTILISATION:g} * {DEVICE_BYTES / 2**30:.1f} GiB * {gpus} GPU - {weight_bytes / 1e9:.2f} GB of 16-bit weights "
        f"- {RESERVE_BYTES / 1e9:g} GB reserve * {gpus}) / {kv_bytes} bytes per token, whole {BLOCK_TOKENS}-token blocks"
    )
    return kv_bytes, int(usable / kv_bytes) // BLOCK_TOKENS * BLOCK_TOKENS, source


def measured_gpu(folder: Path, name: str, model: str, label: str, gpus: int) -> tuple[ServerProfile, LatencyModel]:
    """A profile from measured A100 kernels; rows whose source does not begin with ``measured`` are left out."""
    tables = []
    for file in ("prefill_points_a100.csv.gz", "decode_points_a100.csv.gz"):
        table = [r for r in rows(folder / "gpu" / file) if r["model"] == label and int(r["tp"]) == gpus]
        tables.append([r for r in table if r["source"].startswith("measured")])
    prefill, decode = tables
    fit = LatencyModel().fit(
        column(prefill, "new_tokens"), column(prefill, "context_tokens"), column(prefill, "latency_s"), "context", min_new=256
    )
    fit.fit_decode(column(decode, "batch"), column(decode, "total_kv_tokens"), column(decode, "latency_s"))
    kv_bytes, kv_tokens, kv_source = kv_memory(model, gpus)
    profile = ServerProfile(
        name=name,
        provenance="measured",
        source=VIDUR.format(files="prefill_points_a100.csv.gz and decode_points_a100.csv.gz, rows marked measured"),
        date=FITTED,
        notes=(HOST_NOTE, MIXED_NOTE, FLOOR_NOTE, "The kernel sums hold no lm_head and no sampling."),
        range=fit.range_,
        covariance=fit.covariance_,
        fit=fit.record(COMMAND),
        coefficients=six_digits(fit.coefficients(host_s=HOST_S, host_per_seq_s=HOST_PER_SEQ_S)),
        model=model,
        gpu="a100",
        gpus=gpus,
        kv_bytes_per_token=kv_bytes,
        kv_tokens=kv_tokens,
        kv_tokens_source=kv_source,
    )
    return profile, fit


def kernel_sum_h100(folder: Path, a100: Coefficients) -> tuple[ServerProfile, LatencyModel]:
    """Llama-3.1-8B on one H100: prefill from a planner's kernel sums, decode scaled from the same shape on an A100."""
    table = [
        r
        for r in rows(folder / "gpu" / "kernel_sum_prefill.csv")
        if (r["system"], r["backend"], r["model"], r["tp"]) == ("h100_sxm", "vllm", "meta-llama/Meta-Llama-3.1-8B", "1")
    ]
    cached, seconds = column(table, "prefix"), column(table, "ttft_ms") / 1e3
    new = column(table, "isl") - cached
    fit = LatencyModel().fit(new, cached, seconds, "context", min_new=256)
    scale = A100_BYTES_PER_S / H100_BYTES_PER_S
    per_kv_s = a100.per_kv_token_s * scale
    coefficients = replace(
        fit.coefficients(host_s=HOST_S, host_per_seq_s=HOST_PER_SEQ_S),
        floor_s=a100.floor_s * scale,
        per_decode_s=a100.per_decode_s * scale,
        per_kv_token_s=per_kv_s,
        per_kv_token_mixed_s=per_kv_s,
    )
    covariance = fit.covariance_
    prefill = [i for i, name in enumerate(covariance.names) if name != "floor_s"]
    kv_bytes, kv_tokens, kv_source = kv_memory("llama-3.1-8b", 1)
    profile = ServerProfile(
        name="llama-3.1-8b/h100/tp1",
        provenance="kernel sum",
        source="aiconfigurator 0.12.0 (Apache-2.0), a planner's sums of measured kernels for vLLM on h100_sxm, as "
        "kernel_sum_prefill.csv",
        date=FITTED,
        notes=(
            "Predictions of a planner, not measurements of an engine. Its attention was measured to 16,384 tokens and without "
            "past context: rows beyond, and every row with a cached prefix, are the planner's own extrapolation.",
            f"Decode is derived: floor_s, per_decode_s and per_kv_token_s are those of llama-3-8b/a100/tp1 (the same shape) times "
            f"{scale:.4f}, the ratio of the peak memory bandwidths (2.039 and 3.35 TB/s). They have no standard error here.",
            "floor_s is that derived d0, not the kernel sum at 128 tokens (7.6 ms), which already holds 128 tokens of work: the "
            "profile is about 21 % low there (fit.mape_below_min_new).",
            HOST_NOTE,
            MIXED_NOTE,
        ),
        range=fit.range_,
        covariance=Covariance(
            names=tuple(covariance.names[i] for i in prefill),
            matrix=tuple(tuple(covariance.matrix[i][j] for j in prefill) for i in prefill),
        ),
        coefficients=six_digits(coefficients),
        model="llama-3.1-8b",
        gpu="h100",
        kv_bytes_per_token=kv_bytes,
        kv_tokens=kv_tokens,
        kv_tokens_source=kv_source,
    )
    small = new < 256
    kernels = replace(profile, coefficients=replace(coefficients, host_s=0.0, host_per_seq_s=0.0))
    below = float(np.abs(kernels.prefill_s(new[small], cached[small]) / seconds[small] - 1).mean())
    return replace(profile, fit=replace(fit.record(COMMAND), mape_below_min_new=below)), fit


def kernel_sum_vllm(folder: Path, name: str, gpu: str, label: str, kv_tokens: int | None) -> tuple[ServerProfile, str]:
    """Llama-3.1-8B from profiled kernels of one GPU: the closed form; ``simcache fit --kernels`` gives the table."""
    place = folder / "gpu_runs" / f"{label}_llama-3.1-8b_kernels"
    fitted, report = fit_kernels(read_kernels(place, layers=32)[0], "context", name)
    shape, peaks = load_shape("llama-3.1-8b"), gpu_peaks()[gpu]
    derived = usable_kv_tokens(shape, peaks.memory_bytes)
    assert fitted.fit is not None
    source = (
        "as a recorded run of vLLM 0.19 reports it" if kv_tokens else "(0.9 * memory - 3 GB reserve - weights) / bytes per token"
    )
    profile = replace(
        fitted,
        source="casys-kaist/LLMServingSim @5daddb21 profiler/perf (MIT), kernels of vLLM 0.19 summed over 32 layers",
        date=FITTED,
        notes=(
            *fitted.notes,
            "Work outside the engine (HTTP, tokenising, about 20 ms a request) is in no coefficient.",
        ),
        coefficients=six_digits(fitted.coefficients),
        fit=replace(fitted.fit, command=COMMAND),
        model="llama-3.1-8b",
        gpu=gpu,
        kv_bytes_per_token=shape.kv_bytes_per_token,
        kv_tokens=kv_tokens or derived,
        kv_tokens_source=source,
    )
    errors = ", ".join(f"{kind} {report[f'{kind}_mape']:.1%}" for kind in ("prefill", "decode", "mixed"))
    return profile, f"mean relative error: {errors}"


def six_digits(coefficients: Coefficients) -> Coefficients:
    """The same to six significant digits: more would only look precise."""
    values = asdict(coefficients)
    return Coefficients(**values | {name: float(f"{value:.6g}") for name, value in values.items() if isinstance(value, float)})


def fit_all(folder: Path) -> list[tuple[ServerProfile | HostedProfile, str]]:
    """Every shipped profile with a text that says how it was fitted."""
    a100 = [
        measured_gpu(folder, "llama-3-8b/a100/tp1", "llama-3-8b", "Llama-3-8B", 1),
        measured_gpu(folder, "llama-2-7b/a100/tp1", "llama-2-7b", "Llama-2-7b", 1),
        measured_gpu(folder, "llama-2-70b/a100/tp2", "llama-2-70b", "Llama-2-70b", 2),
    ]
    servers = [*a100, kernel_sum_h100(folder, a100[0][0].coefficients)]
    shipped: list[tuple[ServerProfile | HostedProfile, str]] = [(p, fit.summary()) for p, fit in servers]
    shipped.append(kernel_sum_vllm(folder, "llama-3.1-8b/rtx-4090/tp1", "rtx-4090", "rtx4090", 41_408))
    shipped.append(kernel_sum_vllm(folder, "llama-3.1-8b/rtx-pro-6000/tp1", "rtx-pro-6000", "rtxpro6000", None))
    audits = [audited(folder, *who, fast_share) for who, fast_share in AUDITED.items()]
    for hosted in (openai_figure(folder), speculative_recipe(folder), *audits):
        shipped.append(
            (
                hosted,
                f"{hosted.base_s:.3f} s + {hosted.per_token_s * 1e6:.2f} ms per 1,000 uncached; a hit {hosted.hit_s:.3f} s "
                f"+ {hosted.per_cached_token_s * 1e6:.3f} ms per 1,000 cached; jitter {hosted.jitter_sigma:g}",
            )
        )
    return shipped


def main() -> None:
    """Fit, print what was fitted, write the TOML files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "simcache" / "data" / "profiles")
    out = parser.parse_args().out
    folder = data_folder()
    if not (folder / "gpu").is_dir():
        raise SystemExit(f"no measurements in {folder}: point SIMCACHE_DATA at the folder that holds gpu/ and api/")
    for profile, text in fit_all(folder):
        path = out / f"{profile.name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_profile(profile, path)
        print(f"{profile.name} ({profile.provenance}) -> {path}\n{text}\n")


if __name__ == "__main__":
    main()
