"""What a decoder-only transformer is made of, read from a Hugging Face style config.json; no torch here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from simcache.errors import InputError, UnknownNameError, require, require_count, require_number

PRESETS: Final = Path(__file__).resolve().parent / "models"
DTYPE_BYTES: Final = {"fp32": 4, "bf16": 2, "fp16": 2}
_NOT_DENSE: Final = ("num_local_experts", "n_routed_experts", "num_experts", "kv_lora_rank", "sliding_window")
_NEEDED: Final = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of a transformer with RMSNorm, rotary positions, grouped-query attention and SwiGLU; names as in config.json.

    >>> load_architecture("llama-8b").parameters
    8030261248
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int = 131_072
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = False
    name: str = "config"

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type == "int":
                require_count(field.name, getattr(self, field.name))
        require_number("rms_norm_eps", self.rms_norm_eps, above=0)
        require_number("rope_theta", self.rope_theta, above=1)
        require(self.head_dim % 2 == 0, "head_dim", self.head_dim, "must be even: rotary positions turn pairs")
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        require(heads % kv_heads == 0, "num_key_value_heads", kv_heads, f"must divide num_attention_heads (={heads})")

    @property
    def parameters(self) -> int:
        """Weights in all."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_attention_heads + self.num_key_value_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + self.hidden_size

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes of keys and values that one more token takes."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * DTYPE_BYTES[dtype]

    def flop(self, new_tokens: int, cached_tokens: int) -> float:
        """Operations of a prefill: two per weight and token, and four per pair of a token and one before it."""
        pairs = new_tokens * (cached_tokens + new_tokens / 2)
        attention = 4 * self.num_hidden_layers * self.num_attention_heads * self.head_dim * pairs
        return 2.0 * self.parameters * new_tokens + attention

    def as_json(self) -> dict[str, Any]:
        """The shape for a birth certificate."""
        return {**asdict(self), "parameters": self.parameters}


def preset_names() -> list[str]:
    """Names of the shapes that come along.

    >>> preset_names()
    ['llama-1b', 'llama-8b', 'tiny']
    """
    return sorted(path.stem for path in PRESETS.glob("*.json"))


def load_architecture(name_or_path: str) -> Architecture:
    """A preset by name, or a config.json; raises InputError, with the path, for one that is no dense transformer.

    >>> load_architecture("tiny").kv_bytes_per_token("fp32")
    8192
    """
    path = Path(name_or_path)
    if path.suffix != ".json":
        if name_or_path not in (names := preset_names()):
            raise UnknownNameError("model", name_or_path, [*names, "a config.json"])
        path = PRESETS / f"{name_or_path}.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("model", name_or_path, f"cannot be read: {error}") from None
    require(isinstance(config, dict), "model", name_or_path, "must be a JSON object")
    for key in _NOT_DENSE:
        if config.get(key) and not (key == "sliding_window" and config.get("use_sliding_window") is False):
            rule = "is not of a dense transformer with full attention, the only one that is measured here"
            raise InputError(key, config[key], rule, path=path)
    for key in _NEEDED:
        if key not in config:
            raise InputError(key, None, "is missing", path=path)
    known = {field.name for field in fields(Architecture)} - {"name"}
    values = {key: value for key, value in config.items() if key in known and value is not None}
    try:
        heads = values["num_attention_heads"]
        require_count("num_attention_heads", heads)
        require_count("hidden_size", values["hidden_size"])
        values.setdefault("num_key_value_heads", heads)
        values.setdefault("head_dim", values["hidden_size"] // heads)
        name = path.stem if path.stem != "config" else path.resolve().parent.name
        return Architecture(**values, name=name)
    except InputError as error:
        raise InputError(error.name, error.value, error.rule, error.way_out, path=path) from None
