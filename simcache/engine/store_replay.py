"""A run without a clock over the stores of real engines: vLLM's block pool, SGLang's radix tree, llama.cpp's slots.

Each store brings one function ``replay_sequential(requests, ...)`` that serves one request after the other, prompt and answer, as
its engine would, and returns hit tokens and evictions per request. A new store joins by such a function and a line here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Final

import numpy as np

from ..cache import block_pool, radix_policies, radix_replay, slots
from ..errors import UnknownNameError, require_count
from ..prompt import Request, prompt_tokens
from ..workload.claude_code import read_sessions, session_requests
from ..workload.traces import file_rows, known_format
from .replay import ReplayRow

POLICIES: Final[dict[str, tuple[str, ...]]] = {
    "vllm": ("lru",),
    "sglang": tuple(radix_policies.POLICIES),
    "slots": ("lru",),
}
"""The stores of real engines, each with the policies it knows."""


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
    policy: str = "lru",
    slot_count: int = 1,
    slot_similarity: float = 0.1,
) -> ReplayRow:
    """One engine's store over ``requests`` in their order, one after the other.

    ``vllm`` has ``capacity_tokens // block_tokens`` usable blocks (its null block not counted); ``sglang`` pages of
    ``block_tokens``; ``slots`` splits the capacity among ``slot_count`` contexts. A prompt's blocks are counted with its partial
    last one. Raises UnknownNameError for a policy that the engine does not have.

    >>> from simcache.prompt import Segment
    >>> ask = Request(0.0, (Segment("doc", 100),), Segment("a", 1))
    >>> [replay_engine_store([ask, ask], store, 128, block_tokens=16).hit_tokens for store in POLICIES]
    [96, 96, 99]
    """
    if store not in POLICIES:
        raise UnknownNameError("store", store, POLICIES)
    if policy not in POLICIES[store]:
        raise UnknownNameError(f"policy of the {store} store", policy, POLICIES[store])
    require_count("block_tokens", block_tokens)
    require_count("capacity_tokens", capacity_tokens, at_least=0)
    if store == "vllm":
        pool = block_pool.replay_sequential(requests, usable_blocks=capacity_tokens // block_tokens, block_tokens=block_tokens)
        hit_tokens, evicted, unit = pool.hit_tokens, pool.evicted_blocks, "blocks"
    elif store == "sglang":
        tree = radix_replay.replay_sequential(requests, capacity_tokens=capacity_tokens, page_tokens=block_tokens, policy=policy)
        hit_tokens, evicted, unit = tree.hit_tokens, tree.evicted_tokens, "tokens"
    else:
        require_count("slots", slot_count)
        contexts = slots.replay_sequential(
            requests, slots=slot_count, slot_similarity=slot_similarity, slot_tokens=capacity_tokens // slot_count
        )
        hit_tokens, evicted, unit = contexts.hit_tokens, contexts.evicted_tokens, "tokens"
    hits = np.array(hit_tokens, dtype=np.int64)
    counted = np.maximum(hits, 0)
    inputs = np.array([prompt_tokens(request.prompt) for request in requests], dtype=np.int64)
    return ReplayRow(
        policy=policy,
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
