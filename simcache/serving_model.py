"""Step times of a served model from its shape and its GPU, with three numbers left to measure: for runs known by their means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from .errors import UnknownNameError, require, require_number
from .latency.coefficients import Coefficients
from .latency.derived import ideals
from .latency.profile_kinds import ServerProfile
from .latency.shapes import GpuPeaks, ModelShape, gpu_peaks, load_shape, model_names, usable_kv_tokens
from .pricing import load_gpu

WEIGHT_BYTES: Final = {
    **dict.fromkeys(("", "auto", "bf16", "bfloat16", "fp16", "float16"), 2.0),
    **dict.fromkeys(("fp8", "fp8_block", "fp8_static", "int8", "w8a8"), 1.0),
    **dict.fromkeys(("nvfp4", "mxfp4", "fp4"), 0.5625),  # 4 bits, and a byte of scale per 16
}
"""Bytes per weight by what the ``precision`` column says; empty: as published, 16 bits."""
KV_BYTES: Final = {
    **dict.fromkeys(("auto", "bf16", "bfloat16", "fp16", "float16"), 2.0),
    **dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2", "int8"), 1.0),
}
_SUFFIXES: Final = ("-instruct", "-chat", "-base", "-it", "-hf", "-fp8", "-nvfp4", "-fp4", "-bf16", "-dynamic", "-block")
_SIXTEEN_BITS_ONLY: Final = ("a100", "a40")
_FOUR_BITS: Final = ("b200", "gb200", "rtx-pro-6000")
LINK_BYTES_PER_S: Final = {"a100": 300e9, "h100": 450e9, "h200": 450e9, "b200": 900e9, "gb200": 900e9}
"""NVLink, one direction, from the makers' data sheets; every other GPU talks over PCIe 4.0 x16."""
_PCIE_BYTES_PER_S: Final = 32e9

BANDWIDTH_EFFICIENCY: Final = 0.95
"""Of peak, reading weights. This and the constants below are one set for all GPUs and models, chosen on public runs of
Llama-3.1-70B on H200 and B200 (studies/13_serving_runs.py); none is fitted to a group."""
KV_EFFICIENCY: Final = 0.8
"""Of what reading weights reaches, reading KV."""
MIXED_FACTOR: Final = 1.4
"""KV read beside a prefill chunk: 310 us against 221 us for 64 decodes at 1,024 tokens in measured kernels."""
ATTENTION_EFFICIENCY: Final = 0.4
HOST_S: Final = 1.5e-3
HOST_PER_LAYER_S: Final = 50e-6
"""Scheduling, sampling and launching, per step and per layer."""
HOST_PER_SEQUENCE_S: Final = 30e-6
CHUNK_S: Final = 0.010
"""More in a step that holds a prefill chunk."""
UNSHARDED_PASSES: Final = 10
"""Times that every GPU reads or writes a token's activations per layer, however many share the layer."""
OUTSIDE_PER_TOKEN_S: Final = 1e-6
"""Of prompt, in the one front end that reads them all."""


@dataclass(frozen=True, kw_only=True)
class Scalars:
    """The three numbers that low-load rows decide; the defaults are where nothing was measured.

    ``compute_efficiency``: of peak operations in prefill. ``decode_work``: operations per decoded token over those of a prompt
    token at peak (small batches run other kernels). ``outside_s``: per request, outside the engine.

    >>> Scalars().outside_s
    0.02
    """

    compute_efficiency: float = 0.6
    decode_work: float = 1.0
    outside_s: float = 0.02

    def __post_init__(self) -> None:
        for name in ("compute_efficiency", "decode_work", "outside_s"):
            require_number(name, getattr(self, name), above=0)


SPREAD: Final = {"compute_efficiency": 0.3, "decode_work": 1.5, "outside_s": 1.0}
"""Standard deviation of the logarithm of each scalar among servers, as far as known beforehand."""


def find_shape(model_path: str, precision: str, kv_dtype: str) -> ModelShape:
    """The shape behind a model's repository name (or a ``.toml`` or ``config.json``), with these bytes per weight and KV value.

    Raises UnknownNameError for a model, a precision or a KV type that is not known.

    >>> find_shape("meta-llama/Llama-3.1-70B-Instruct", "fp8", "fp8").kv_bytes_per_token
    163840
    """
    if precision.lower() not in WEIGHT_BYTES:
        raise UnknownNameError("precision", precision, WEIGHT_BYTES)
    if kv_dtype.lower() not in KV_BYTES:
        raise UnknownNameError("kv_dtype", kv_dtype, KV_BYTES)
    return replace(
        _load_shape(model_path),
        bytes_per_value=WEIGHT_BYTES[precision.lower()],
        kv_bytes_per_value=KV_BYTES[kv_dtype.lower()],
    )


def _load_shape(model_path: str) -> ModelShape:
    if model_path.endswith((".toml", ".json")):
        return load_shape(model_path)
    name, known = model_path.rpartition("/")[2].lower().removeprefix("meta-"), model_names()
    while name not in known:
        shorter = next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), "")
        if not shorter:
            error = UnknownNameError("model_path", model_path, known)
            error.way_out += " A path to the model's config.json will do."
            raise error
        name = shorter
    return load_shape(name)


def find_peaks(system: str) -> GpuPeaks:
    """The GPU of a system named like ``h200_sxm``. Raises UnknownNameError.

    >>> find_peaks("h200_sxm").name
    'h200'
    """
    peaks = gpu_peaks()
    name = system.lower().replace("_", "-")
    for candidate in (name, name.removesuffix("-sxm")):
        if candidate in peaks:
            return peaks[candidate]
    try:
        return peaks[load_gpu(name).name]
    except (UnknownNameError, KeyError):
        raise UnknownNameError("system", system, peaks) from None


def serving_profile(shape: ModelShape, peaks: GpuPeaks, gpus: int, scalars: Scalars, kv_tokens: int | None = None) -> ServerProfile:
    """A derived profile: operations, bytes and links of ``gpus`` GPUs at peak rates, times the efficiencies of this file.

    ``kv_tokens`` None: what memory leaves beside weights and reserve. Raises InputError where that is nothing.

    >>> shape = find_shape("meta-llama/Llama-3.1-70B", "fp8", "fp8")
    >>> round(serving_profile(shape, find_peaks("h200_sxm"), 1, Scalars()).coefficients.floor_s, 4)
    0.0155
    """
    ideal = ideals(shape, replace(peaks, flops=peaks.flops * _speedup(peaks.name, shape.bytes_per_value)), gpus)
    activation_bytes = 2.0 * shape.layers * shape.heads * shape.head_size
    link_s = 4 * activation_bytes * (gpus - 1) / gpus / LINK_BYTES_PER_S.get(peaks.name, _PCIE_BYTES_PER_S)  # two ring all-reduces
    token_s = ideal["per_token_s"] / scalars.compute_efficiency + link_s + UNSHARDED_PASSES * activation_bytes / peaks.bytes_per_s
    per_kv_s = ideal["per_kv_token_s"] / (BANDWIDTH_EFFICIENCY * KV_EFFICIENCY)
    room = usable_kv_tokens(shape, peaks.memory_bytes, gpus) if kv_tokens is None else kv_tokens
    weights = f"must hold {shape.weight_bytes / 1e9:,.1f} GB of weights beside a KV cache on {peaks.name}"
    require(room > 0, "tp_size", gpus, weights)
    floor_s = ideal["floor_s"] / BANDWIDTH_EFFICIENCY
    return ServerProfile(
        name=f"serving/{shape.name}/{peaks.name}/tp{gpus}",
        provenance="derived",
        source=f"data sheet of the GPU ({peaks.source}) and shape of the model",
        coefficients=Coefficients(
            host_s=HOST_S + HOST_PER_LAYER_S * shape.layers,
            host_per_seq_s=HOST_PER_SEQUENCE_S,
            floor_s=floor_s,
            decode_s=floor_s,
            base_s=CHUNK_S,
            per_token_s=token_s,
            attention_s=shape.attention_flop / (gpus * peaks.flops) / ATTENTION_EFFICIENCY,
            per_decode_s=scalars.decode_work * ideal["per_decode_s"],
            per_kv_token_s=per_kv_s,
            per_kv_token_mixed_s=MIXED_FACTOR * per_kv_s,
        ),
        model=shape.name,
        gpu=peaks.name,
        gpus=gpus,
        kv_bytes_per_token=shape.kv_bytes_per_token,
        kv_tokens=room,
        kv_tokens_source="memory, weights and reserve" if kv_tokens is None else "given",
    )


def _speedup(gpu: str, bytes_per_weight: float) -> float:
    """Peak operations of the type the weights have, over those of 16 bits."""
    if bytes_per_weight >= 2 or gpu in _SIXTEEN_BITS_ONLY:
        return 1.0
    return 4.0 if bytes_per_weight < 1 and gpu in _FOUR_BITS else 2.0
