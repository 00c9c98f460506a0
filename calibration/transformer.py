"""A decoder-only transformer with random weights and a real KV cache: the thing that is timed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from .architecture import Architecture

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Layer(NamedTuple):
    """The weights of one layer, each (out, in) as ``torch.nn.functional.linear`` takes them; q, k and v are one product."""

    attention_norm: Tensor
    qkv: Tensor
    output: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


class KvCache:
    """Keys and values of ``batch`` sequences with room for ``capacity`` tokens: (layers, batch, kv heads, capacity, head_dim)."""

    def __init__(self, shape: Architecture, batch: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        size = (shape.num_hidden_layers, batch, shape.num_key_value_heads, capacity, shape.head_dim)
        self.keys = torch.zeros(size, dtype=dtype, device=device)
        self.values = torch.zeros(size, dtype=dtype, device=device)

    @property
    def capacity(self) -> int:
        """Tokens per sequence that it has room for."""
        return int(self.keys.shape[3])

    def fill(self) -> None:
        """Random contents, as if that many tokens had been computed: time does not depend on the values."""
        self.keys.normal_()
        self.values.normal_()


class Transformer:
    """Random weights of one shape on one device; :meth:`forward` computes new tokens behind cached ones.

    Equal shapes, dtypes, devices and seeds give equal weights.
    """

    def __init__(self, shape: Architecture, dtype: str = "fp32", device: str | torch.device = "cpu", seed: int = 0) -> None:
        self.shape, self.dtype, self.device = shape, DTYPES[dtype], torch.device(device)
        generator = torch.Generator(device=self.device).manual_seed(seed)

        def weight(rows: int, columns: int) -> Tensor:
            values = torch.empty(rows, columns, dtype=self.dtype, device=self.device)
            return values.normal_(std=columns**-0.5, generator=generator)

        ones = torch.ones(shape.hidden_size, dtype=self.dtype, device=self.device)
        heads = shape.num_attention_heads * shape.head_dim
        kv = shape.num_key_value_heads * shape.head_dim
        self.embedding = weight(shape.vocab_size, shape.hidden_size)
        self.layers = [
            Layer(
                attention_norm=ones.clone(),
                qkv=weight(heads + 2 * kv, shape.hidden_size),
                output=weight(shape.hidden_size, heads),
                mlp_norm=ones.clone(),
                gate_up=weight(2 * shape.intermediate_size, shape.hidden_size),
                down=weight(shape.hidden_size, shape.intermediate_size),
            )
            for _ in range(shape.num_hidden_layers)
        ]
        self.norm = ones.clone()
        self.head = self.embedding if shape.tie_word_embeddings else weight(shape.vocab_size, shape.hidden_size)
        half = torch.arange(0, shape.head_dim, 2, dtype=torch.float32, device=self.device)
        self.frequencies = shape.rope_theta ** (-half / shape.head_dim)

    def cache(self, batch: int, capacity: int) -> KvCache:
        """An empty cache of this model's shape, dtype and device."""
        return KvCache(self.shape, batch, capacity, self.dtype, self.device)

    @torch.inference_mode()
    def forward(self, tokens: Tensor, cache: KvCache, start: int, *, all_logits: bool = False) -> Tensor:
        """Compute ``tokens`` (batch, n) behind ``start`` cached ones, store their keys and values, and return logits.

        Logits are (batch, vocabulary) of the last position, as an engine samples, or (batch, n, vocabulary) of all.
        """
        shape = self.shape
        batch, new = tokens.shape
        end = start + new
        hidden = functional.embedding(tokens, self.embedding)
        cosine, sine = self._rotation(start, end)
        mask = self._mask(new, end)
        heads, kv_heads, size = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        for number, layer in enumerate(self.layers):
            normed = functional.rms_norm(hidden, (shape.hidden_size,), layer.attention_norm, shape.rms_norm_eps)
            qkv = functional.linear(normed, layer.qkv).view(batch, new, heads + 2 * kv_heads, size).transpose(1, 2)
            query, key, value = qkv.split((heads, kv_heads, kv_heads), dim=1)
            cache.keys[number, :, :, start:end] = _turn(key, cosine, sine)
            cache.values[number, :, :, start:end] = value
            attended = functional.scaled_dot_product_attention(
                _turn(query, cosine, sine),
                cache.keys[number, :, :, :end],
                cache.values[number, :, :, :end],
                attn_mask=mask,
                is_causal=mask is None and new > 1,
                enable_gqa=heads != kv_heads,
            )
            hidden = hidden + functional.linear(attended.transpose(1, 2).reshape(batch, new, heads * size), layer.output)
            normed = functional.rms_norm(hidden, (shape.hidden_size,), layer.mlp_norm, shape.rms_norm_eps)
            gate, up = functional.linear(normed, layer.gate_up).chunk(2, dim=-1)
            hidden = hidden + functional.linear(functional.silu(gate) * up, layer.down)
        if not all_logits:
            hidden = hidden[:, -1]
        hidden = functional.rms_norm(hidden, (shape.hidden_size,), self.norm, shape.rms_norm_eps)
        return functional.linear(hidden, self.head)

    def _mask(self, new: int, end: int) -> Tensor | None:
        """None where "causal" or "no mask" says it all; else new token i sees the cached ones and new ones up to itself."""
        if new in (1, end):
            return None
        if self.device.type == "cuda":
            return causal_lower_right(new, end)  # type: ignore[no-any-return]  # keeps the fast kernels, which take no mask
        return torch.ones(new, end, dtype=torch.bool, device=self.device).tril(end - new)

    def _rotation(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(start, end, dtype=torch.float32, device=self.device)
        angles = torch.outer(positions, self.frequencies)
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)


def _turn(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions: pair (i, i + head_dim/2) turned by its angle."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
