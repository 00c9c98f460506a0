"""The caches of real engines as values: which store, which sizes, which switches, read in which version."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from ..errors import UnknownNameError, require_count
from ..prompt import Request
from . import block_pool, chained, radix_replay, slots
from .content import Content
from .eviction import EvictionPolicy, Lru
from .plain import PlainStore
from .retention import Priority

Store = Literal["block_pool", "radix_tree", "slots", "chained", "plain"]
Visibility = Literal["scheduled", "computed", "finished"]


@dataclass(frozen=True, kw_only=True)
class CachePreset:
    """One engine's cache: a store of this package, its ``block_tokens`` (radix tree: page), ``policy`` and ``switches``.

    ``visibility``: when others may hit what a request computes. ``without`` names what the engine does besides and no store has.

    >>> PRESETS["lmcache"].block_tokens
    256
    """

    name: str
    store: Store
    block_tokens: int
    policy: str | EvictionPolicy
    visibility: Visibility
    switches: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    source: str
    version: str
    without: str = ""


def _table(*presets: CachePreset) -> Mapping[str, CachePreset]:
    return MappingProxyType({preset.name: preset for preset in presets})


PRESETS: Final = _table(
    CachePreset(
        name="vllm",
        store="block_pool",
        block_tokens=16,
        policy="lru",
        visibility="scheduled",
        switches=MappingProxyType({"freed_partial": "prepend", "duplicates": "keep"}),
        source="vllm/v1/core/block_pool.py, kv_cache_manager.py",
        version="0.33.0",
    ),
    CachePreset(
        name="sglang",
        store="radix_tree",
        block_tokens=1,
        policy="lru",
        visibility="computed",
        switches=MappingProxyType({"split_created": "copied"}),
        source="sglang/srt/mem_cache/unified_radix_cache.py, evict_policy.py",
        version="0.5.23",
    ),
    CachePreset(
        name="nano-vllm",
        store="block_pool",
        block_tokens=256,
        policy="lru",
        visibility="computed",
        switches=MappingProxyType({"freed_partial": "append", "duplicates": "replace"}),
        source="nanovllm/engine/block_manager.py",
        version="bb823b3",
    ),
    CachePreset(
        name="tensorrt-llm",
        store="chained",
        block_tokens=32,
        policy=Priority(),
        visibility="computed",
        switches=MappingProxyType({"orphans": "none", "caches_output": True}),
        source="docs/source/features/kvcache.md; cpp/tensorrt_llm/batch_manager/evictionPolicy.cpp, kvCacheManager.cpp",
        version="0076e93",
        without="partial reuse of a block (enable_partial_reuse), the host tier (simcache.cache.tiers has one)",
    ),
    CachePreset(
        name="lmcache",
        store="chained",
        block_tokens=256,
        policy=Lru(),
        visibility="computed",
        switches=MappingProxyType({"orphans": "keep", "caches_output": False}),
        source="lmcache/v1/config.py: chunk_size 256, save_unfull_chunk False, save_decode_cache False, cache_policy LRU",
        version="0.5.6",
    ),
    CachePreset(
        name="mooncake",
        store="chained",
        block_tokens=512,
        policy=Lru(),
        visibility="computed",
        switches=MappingProxyType({"orphans": "keep", "caches_output": False}),
        source="FAST25-release/traces (blocks of 512 tokens); mooncake-store/include/types.h",
        version="3b5a594",
        without="leases and pins, eviction of 5 % at a time from 90 % full",
    ),
    CachePreset(
        name="llamacpp",
        store="slots",
        block_tokens=1,
        policy="lru",
        visibility="finished",
        switches=MappingProxyType({"slots": 1, "slot_similarity": 0.1}),
        source="tools/server/server-context.cpp as vendored by llama_cpp_python",
        version="0.3.36",
        without="the host prompt cache (--cache-ram 0 switches it off)",
    ),
    CachePreset(
        name="plain",
        store="plain",
        block_tokens=512,
        policy=Lru(),
        visibility="finished",
        switches=MappingProxyType({"touch": "rev"}),
        source="the block replay of the published reference: every id is a block, the partial last one too",
        version="1",
    ),
)
"""By name. Sizes and switches are the engines' defaults."""


def cache_preset(name: str) -> CachePreset:
    """The preset of that name; raises UnknownNameError.

    >>> cache_preset("vllm").visibility
    'scheduled'
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]


class PresetReplay(NamedTuple):
    """Per request, in order: hit tokens (-1: not admitted) and what was evicted for it, in ``evicted_unit``."""

    hit_tokens: list[int]
    evicted: list[int]
    evicted_unit: Literal["blocks", "tokens"]


def replay_preset(requests: Iterable[Request], preset: CachePreset, capacity_tokens: int) -> PresetReplay:
    """One request at a time, clock-free, through the store that a preset describes.

    ``capacity_tokens`` is all the KV memory: whole blocks of it for block stores, an equal part for each slot.

    >>> from simcache.prompt import Segment
    >>> ask = Request(0.0, (Segment("doc", 1000),), Segment("a", 1))
    >>> [replay_preset([ask, ask], preset, 4096).hit_tokens[1] for preset in PRESETS.values()]
    [992, 999, 768, 992, 768, 512, 999, 1000]
    """
    require_count("capacity_tokens", capacity_tokens, at_least=0)
    blocks, switches = capacity_tokens // preset.block_tokens, preset.switches
    if preset.store == "block_pool":
        pool = block_pool.replay_sequential(requests, usable_blocks=blocks, block_tokens=preset.block_tokens, **switches)
        return PresetReplay(pool.hit_tokens, pool.evicted_blocks, "blocks")
    if preset.store == "slots":
        contexts = slots.replay_sequential(requests, slot_tokens=capacity_tokens // switches["slots"], **switches)
        return PresetReplay(contexts.hit_tokens, contexts.evicted_tokens, "tokens")
    if preset.store == "radix_tree":
        assert isinstance(preset.policy, str)
        tree = radix_replay.replay_sequential(
            requests, capacity_tokens=capacity_tokens, page_tokens=preset.block_tokens, policy=preset.policy, **switches
        )
        return PresetReplay(tree.hit_tokens, tree.evicted_tokens, "tokens")
    assert isinstance(preset.policy, EvictionPolicy)
    if preset.store == "chained":
        kept = chained.replay_sequential(
            requests, policy=preset.policy, capacity_blocks=blocks, block_tokens=preset.block_tokens, **switches
        )
        return PresetReplay(kept.hit_tokens, kept.evicted_blocks, "blocks")
    return _replay_plain(
        requests, PlainStore(preset.policy, blocks, block_tokens=preset.block_tokens, **switches), preset.block_tokens
    )


def _replay_plain(requests: Iterable[Request], store: PlainStore, block_tokens: int) -> PresetReplay:
    replay = PresetReplay([], [], "blocks")
    numbers: dict[Hashable, int] = {}
    for request in requests:
        content = Content(request.prompt, request.output)
        tokens = content.prompt_tokens
        before, ids = store.evicted, []
        link: Hashable = (request.organisation, request.salt)
        for start in range(0, tokens, block_tokens):
            key: Hashable
            if start + block_tokens <= tokens:
                key = content.block_key(start // block_tokens, block_tokens)
            else:  # the partial last block: what is left of the prompt, run by run
                key = ("partial", *((k, e - start) for k, e in zip(content.keys, content.ends, strict=True) if start < e <= tokens))
            link = numbers.setdefault((link, key), len(numbers))
            ids.append(link)
        hits = store.serve(ids, now_ns=round(request.arrived_at_s * 1e9), prompt_tokens=tokens)
        replay.hit_tokens.append(min(hits * block_tokens, tokens))
        replay.evicted.append(store.evicted - before)
    return replay
