"""Shapes of models and memory of GPUs: bytes of KV cache per token, and the blocks that a GPU has room for."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from ..errors import InputError, UnknownNameError, require, require_count, require_number

_DATA: Final = Path(__file__).parent.parent / "data"
_DTYPE_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
UTILISATION: Final = 0.9
"""Share of the device that vLLM takes (gpu_memory_utilization)."""
RESERVE_BYTES: Final = 3e9
"""Per GPU, for activations and graphs at 8,192 tokens a step: 3 GB reproduces measured serving runs on H200 best."""
SMALL_RESERVE_BYTES: Final = 1.24e9
"""The same at 2,048 tokens a step: what vLLM 0.19 left on one RTX 4090 with Llama-3.1-8B."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What decides KV memory and work per token: counts per layer, sizes in values, ``bytes_per_value`` of weights and cache.

    ``latent_values`` > 0: latent attention keeps that many values per token and layer instead of keys and values.
    ``sliding_window`` > 0: ``sliding_layers`` of the layers keep only the last so many tokens. ``active_parameters``: those that
    one token uses, where experts are chosen; 0: all.

    >>> ModelShape(name="toy", layers=32, heads=32, kv_heads=8, head_size=128, parameters=8_030_261_248).kv_bytes_per_token
    131072
    """

    name: str
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    parameters: int
    bytes_per_value: float = 2
    kv_bytes_per_value: float = 0
    active_parameters: int = 0
    latent_values: int = 0
    sliding_window: int = 0
    sliding_layers: int = 0
    source: str = ""
    date: str = ""

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "kv_heads", "head_size", "parameters"):
            require_count(name, getattr(self, name))
        for name in ("active_parameters", "latent_values", "sliding_window", "sliding_layers"):
            require_count(name, getattr(self, name), at_least=0)
        require_number("bytes_per_value", self.bytes_per_value, above=0)
        require_number("kv_bytes_per_value", self.kv_bytes_per_value, at_least=0)
        require(
            self.sliding_layers <= self.layers, "sliding_layers", self.sliding_layers, f"must be at most layers (={self.layers})"
        )
        require(
            (self.sliding_layers > 0) == (self.sliding_window > 0),
            "sliding_window",
            self.sliding_window,
            "and sliding_layers must be given together",
        )

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache that one more token takes while no window is full."""
        values = self.latent_values or 2 * self.kv_heads * self.head_size
        return round(self.layers * values * (self.kv_bytes_per_value or self.bytes_per_value))

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of KV cache of one sequence of ``tokens``: layers with a window keep its last tokens only.

        >>> window = {"sliding_window": 10, "sliding_layers": 1}
        >>> toy = ModelShape(name="toy", layers=2, heads=1, kv_heads=1, head_size=1, parameters=1, **window)
        >>> toy.kv_bytes(10), toy.kv_bytes(100)
        (80, 440)
        """
        per_layer = self.kv_bytes_per_token / self.layers
        kept = min(tokens, self.sliding_window) if self.sliding_layers else tokens
        return round(per_layer * ((self.layers - self.sliding_layers) * tokens + self.sliding_layers * kept))

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return self.parameters * self.bytes_per_value

    @property
    def flop_per_token(self) -> float:
        """Floating-point operations of one token apart from attention: two per weight used."""
        return 2.0 * (self.active_parameters or self.parameters)

    @property
    def attention_flop(self) -> float:
        """Floating-point operations per pair of a token and one before it: scores and values, over all heads and layers."""
        return 4.0 * self.layers * self.heads * self.head_size


@dataclass(frozen=True, kw_only=True)
class GpuPeaks:
    """Data sheet figures of one GPU: dense 16-bit operations and bytes per second, memory that the driver reports."""

    name: str
    flops: float
    bytes_per_s: float
    memory_bytes: float
    source: str


def model_names() -> list[str]:
    """Names of the shipped model shapes.

    >>> "llama-2-7b" in model_names()
    True
    """
    return sorted(path.stem for path in (_DATA / "models").glob("*.toml"))


def load_shape(name_or_path: str | Path) -> ModelShape:
    """A shipped shape by name, a TOML file like it, or a Hugging Face style ``config.json``.

    Raises UnknownNameError for a name that is not shipped, and InputError, with the path, for a file that is no shape.

    >>> load_shape("llama-3-8b").heads
    32
    """
    name = str(name_or_path)
    path = Path(name)
    if path.suffix == ".json":
        return _config(path)
    if path.suffix != ".toml":
        if name not in (names := model_names()):
            raise UnknownNameError("model", name, names)
        path = _DATA / "models" / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("model", name, f"cannot be read: {error}") from error
    version = table.pop("schema_version", None)
    require(version == 1, "schema_version", version, "must be 1", f"{path}: this release reads no other version.")
    known = [field.name for field in fields(ModelShape)]
    for key in table:
        if key not in known:
            raise UnknownNameError("key", key, known, path=path)
    try:
        return ModelShape(**table)
    except TypeError as error:
        raise InputError("model", path.name, str(error).partition("__init__() ")[2] or str(error), path=path) from None
    except InputError as error:
        raise InputError(error.name, error.value, error.rule, error.way_out, path=path) from None


def gpu_peaks() -> dict[str, GpuPeaks]:
    """Every GPU whose data sheet figures are shipped.

    >>> gpu_peaks()["h100"].bytes_per_s
    3350000000000.0
    """
    table = tomllib.loads((_DATA / "gpu_peaks.toml").read_text(encoding="utf-8"))
    table.pop("schema_version")
    return {name: GpuPeaks(name=name, **figures) for name, figures in table.items()}


def usable_kv_tokens(
    shape: ModelShape,
    memory_bytes: float,
    gpus: int = 1,
    *,
    utilisation: float = UTILISATION,
    reserve_bytes: float = RESERVE_BYTES,
    block_tokens: int = 16,
) -> int:
    """KV tokens, in whole blocks, that fit beside the weights: (utilisation*memory - reserve)*gpus - weights, per token.

    0 where not even the weights fit. One RTX 4090 with Llama-3.1-8B: vLLM 0.19 recorded 2,588 blocks.

    >>> usable_kv_tokens(load_shape("llama-3.1-8b"), 25_250_627_584, reserve_bytes=SMALL_RESERVE_BYTES) // 16
    2586
    """
    require_count("gpus", gpus)
    require_count("block_tokens", block_tokens)
    require_number("utilisation", utilisation, above=0, at_most=1)
    require_number("reserve_bytes", reserve_bytes, at_least=0)
    require_number("memory_bytes", memory_bytes, above=0)
    room = (utilisation * memory_bytes - reserve_bytes) * gpus - shape.weight_bytes
    return max(int(room / shape.kv_bytes_per_token) // block_tokens * block_tokens, 0)


def _config(path: Path) -> ModelShape:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("model", str(path), f"cannot be read: {error}") from error
    require(isinstance(config, dict), "model", str(path), "must be a JSON object")
    try:
        return ModelShape(**_of_config(config), name=path.parent.name or path.stem, source=str(path.name))
    except InputError as error:
        raise InputError(error.name, error.value, error.rule, error.way_out, path=path) from None


def _of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    def take(name: str, default: int | None = None) -> int:
        value = config.get(name)
        if value is None and default is not None:
            return default
        require_count(name, value, at_least=0)
        return int(value)  # type: ignore[arg-type]

    layers, hidden, heads = take("num_hidden_layers"), take("hidden_size"), take("num_attention_heads")
    require(heads > 0, "num_attention_heads", heads, "must be at least 1")
    kv_heads, size = take("num_key_value_heads", heads), take("head_dim", hidden // heads)
    inner, vocabulary = take("intermediate_size"), take("vocab_size")
    latent = take("kv_lora_rank", 0) + (take("qk_rope_head_dim", 0) if config.get("kv_lora_rank") else 0)
    window = take("sliding_window", 0) if config.get("use_sliding_window", True) else 0
    kinds = config.get("layer_types")
    sliding = sum(kind == "sliding_attention" for kind in kinds) if isinstance(kinds, list) else layers if window else 0
    experts, used = take("num_local_experts", take("n_routed_experts", 0)), take("num_experts_per_tok", 0)
    expert = 3 * hidden * (take("moe_intermediate_size", inner) if experts else inner)
    attention = 2 * hidden * heads * size + 2 * hidden * kv_heads * size
    embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    dtype = str(config.get("torch_dtype", config.get("dtype", "bfloat16")))
    if dtype not in _DTYPE_BYTES:
        raise UnknownNameError("torch_dtype", dtype, _DTYPE_BYTES)
    rest = embeddings + layers * (attention + 2 * hidden) + hidden
    return {
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_size": size,
        "parameters": rest + layers * expert * max(experts, 1),
        "active_parameters": rest + layers * expert * used if experts else 0,
        "bytes_per_value": _DTYPE_BYTES[dtype],
        "latent_values": latent,
        "sliding_window": window if sliding else 0,
        "sliding_layers": sliding if window else 0,
    }
