"""A Llama file with random weights for llama.cpp: its speed does not depend on what the weights are."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from .architecture import Architecture

_SPECIAL = ["<unk>", "<s>", "</s>"]
_BYTES = 128  # ASCII only: a generated half of a longer character would be held back by the server, and its instant lost
FIRST_PLAIN_TOKEN = len(_SPECIAL) + _BYTES
"""Tokens from here on are plain words."""


def write_random_gguf(path: Path, shape: Architecture, seed: int = 0) -> None:
    """Write ``shape`` with 32-bit weights drawn from ``seed``; equal arguments give equal files."""
    random = np.random.Generator(np.random.PCG64(seed))
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(f"random {shape.name}")
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokens(writer, shape.vocab_size)

    def weight(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, random.standard_normal((rows, columns), dtype=np.float32) * np.float32(columns**-0.5))

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(shape.hidden_size, dtype=np.float32))

    hidden, inner = shape.hidden_size, shape.intermediate_size
    heads, kv = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    weight("token_embd.weight", shape.vocab_size, hidden)
    for layer in range(shape.num_hidden_layers):
        name = f"blk.{layer}"
        ones(f"{name}.attn_norm.weight")
        ones(f"{name}.ffn_norm.weight")
        weight(f"{name}.attn_q.weight", heads, hidden)
        weight(f"{name}.attn_k.weight", kv, hidden)
        weight(f"{name}.attn_v.weight", kv, hidden)
        weight(f"{name}.attn_output.weight", hidden, heads)
        weight(f"{name}.ffn_gate.weight", inner, hidden)
        weight(f"{name}.ffn_up.weight", inner, hidden)
        weight(f"{name}.ffn_down.weight", hidden, inner)
    ones("output_norm.weight")
    if not shape.tie_word_embeddings:
        weight("output.weight", shape.vocab_size, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokens(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    kinds = gguf.TokenType
    words = vocabulary - FIRST_PLAIN_TOKEN
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(_BYTES)), *(f"\u2581w{i}" for i in range(words))])
    writer.add_token_scores([0.0] * vocabulary)
    writer.add_token_types([kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * _BYTES, *[kinds.NORMAL] * words])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
