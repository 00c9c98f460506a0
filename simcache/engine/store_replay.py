"""A run without a clock over the caches of real engines: the presets of ``cache.engine_presets`` by name.

Each store brings one function ``replay_sequential(requests, ...)`` that serves one request after the other, prompt and answer, as
its engine would, and returns hit tokens and evictions per request. A new engine joins by a preset and a line here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Final

import numpy as np

from ..cache import radix_policies
from ..cache.engine_presets import CachePreset, cache_preset, replay_preset
from ..cache.eviction import EvictionPolicy, Fifo, Lfu, Lru, Mru
from ..cache.retention import Priority
from ..errors import UnknownNameError, require, require_count
from ..prompt import Request, prompt_tokens
from ..workload.claude_code import read_sessions, session_requests
from ..workload.traces import file_rows, known_format
from .replay import ReplayRow

POLICIES: Final[dict[str, tuple[str, ...]]] = {
    "vllm": ("lru",),
    "sglang": tuple(radix_policies.POLICIES),
    "slots": ("lru",),
    "nano-vllm": ("lru",),
    "tensorrt-llm": ("lru", "priority"),
    "lmcache": ("lru", "lfu", "fifo", "mru"),
    "mooncake": ("lru",),
}
"""The caches of real engines, each with the policies it knows; ``slots`` is the preset ``llamacpp``."""

_POLICY_OF: Final = {each.name: each for each in (Lru, Lfu, Fifo, Mru, Priority)}


def engine_preset(store: str) -> CachePreset:
    """The preset that a name of ``POLICIES`` stands for. Raises UnknownNameError.

    >>> engine_preset("slots").name
    'llamacpp'
    """
    if store not in POLICIES:
        raise UnknownNameError("store", store, POLICIES)
    return cache_preset("llamacpp" if store == "slots" else store)


def file_requests(path: str | Path, format: str | None = None) -> Iterator[Request]:
    """The requests of a trace in file order, as the plain replay takes them; claude-code: session by session, row by row.

    >>> next(file_requests("no-such-file", "mooncake"))
    Traceback (most recent call last):
    simcache.errors.InputError: path(='no-such-file') does not exist.
    """
    format = known_format(path, format)
    if format != "claude-code":
        yield from file_rows(path, format, in_order=format != "segments")
        return
    base = 0
    for session in read_sessions(path):
        yield from sorted(session_requests(session, base, 0.0), key=attrgetter("turn"))
        base += session.ids


def replay_engine_store(
    requests: Sequence[Request],
    store: str,
    capacity_tokens: int,
    *,
    block_tokens: int,
    policy: str | EvictionPolicy = "lru",
    slot_count: int = 1,
    slot_similarity: float = 0.1,
) -> ReplayRow:
    """One engine's cache over ``requests`` in their order, one after the other.

    The block stores have ``capacity_tokens // block_tokens`` usable blocks (vLLM's null block not counted); ``sglang`` pages of
    ``block_tokens``; ``slots`` splits the capacity among ``slot_count`` contexts. A prompt's blocks are counted with its partial
    last one. ``policy`` is a name, where the engine takes one of this package's policies also the policy with its parameters.
    Raises UnknownNameError for one that the engine does not have.

    >>> from simcache.prompt import Segment
    >>> ask = Request(0.0, (Segment("doc", 100),), Segment("a", 1))
    >>> [replay_engine_store([ask, ask], store, 128, block_tokens=16).hit_tokens for store in POLICIES]
    [96, 96, 99, 96, 96, 96, 96]
    """
    preset = engine_preset(store)
    name = policy if isinstance(policy, str) else policy.name
    if name not in POLICIES[store]:
        raise UnknownNameError(f"policy of the {store} store", name, POLICIES[store])
    require_count("block_tokens", block_tokens)
    require_count("capacity_tokens", capacity_tokens, at_least=0)
    if store == "slots":
        require_count("slots", slot_count)
        preset = replace(preset, switches={"slots": slot_count, "slot_similarity": slot_similarity})
    else:
        if preset.store == "chained" and isinstance(policy, str):
            policy = _POLICY_OF[name]()
        own_order = preset.store == "chained" or isinstance(policy, str)
        require(own_order, "policy", name, f"has its own order in the {store} store and takes no parameters", "Give its name.")
        preset = replace(preset, block_tokens=block_tokens, policy=policy)
    hit_tokens, evicted, unit = replay_preset(requests, preset, capacity_tokens)
    hits = np.array(hit_tokens, dtype=np.int64)
    counted = np.maximum(hits, 0)
    inputs = np.array([prompt_tokens(request.prompt) for request in requests], dtype=np.int64)
    return ReplayRow(
        policy=name,
        store=store,
        touch="rev",
        block_tokens=block_tokens,
        capacity_blocks=capacity_tokens // block_tokens,
        ttl_s=None,
        ttl_kind=None,
        requests=len(requests),
        rejected=int((hits < 0).sum()),
        total_blocks=int((-(-inputs // block_tokens)).sum()),
        hit_blocks=int((counted // block_tokens).sum()),
        total_tokens=int(inputs.sum()),
        hit_tokens=int(counted.sum()),
        evicted_total=sum(evicted),
        evicted_unit=unit,
        bypassed_blocks=0,
        hits=hits,
        evicted=np.array(evicted, dtype=np.int64),
    )
