"""The living counterpart of a server's engine: a fresh scheduler over an empty store, as a scenario's values say."""

from __future__ import annotations

from typing import Any, Literal

from ..cache.block_pool import BlockPool
from ..cache.engine_presets import PRESETS
from ..cache.radix_tree import RadixTree
from ..cache.slots import Slots
from ..records import RecordsBuilder
from ..scenario import Server
from ..scheduler import Scheduler
from ..scheduler.idle_warm_ups import IdleWarmUpsScheduler
from ..scheduler.llamacpp import LlamaCppScheduler
from ..scheduler.prefill_first import PrefillFirstScheduler
from ..scheduler.sglang import SglangScheduler
from ..scheduler.tiered import LowerMemory, TieredVllmScheduler
from ..scheduler.vllm import VllmScheduler
from .clock import instant


def make_scheduler(server: Server, kv_tokens: int, records: RecordsBuilder, below: LowerMemory | None = None) -> Scheduler:
    """A scheduler with ``kv_tokens`` of KV memory, nothing in it, over ``below`` where there are lower tiers; what it inserts
    and hits is credited in ``records``.

    >>> make_scheduler(Server(engine="sglang"), 4096, RecordsBuilder()).blocks
    256
    """
    budget, caching = server.max_num_batched_tokens, server.prefix_caching
    credit: dict[str, Any] = {}
    if caching:
        names = ("used_tokens", "inserted_tokens", "used_by_row", "dropped_tokens")
        credit = {name: getattr(records, name) for name in names}
    if server.engine == "sglang":
        tree = RadixTree(server.block_tokens, kv_tokens, **credit)
        order: Literal["fcfs", "lpm"] = "lpm" if server.policy == "lpm" else "fcfs"
        return SglangScheduler(tree, max_num_seqs=server.max_num_seqs, max_num_batched_tokens=budget, policy=order, caching=caching)
    if server.engine == "llamacpp":
        slots = Slots(server.slots, slot_similarity=server.slot_similarity, slot_tokens=kv_tokens // server.slots, **credit)
        return LlamaCppScheduler(slots, max_num_batched_tokens=budget, caching=caching)
    # Of the engines that compute prompts first, nano-vllm is the one whose pool has been compared block for block.
    switches = PRESETS["nano-vllm" if server.engine == "prefill-first" else "vllm"].switches
    pool = BlockPool(
        kv_tokens // server.block_tokens,
        server.block_tokens,
        caching=caching,
        ttl=None if server.ttl_s is None else instant(server.ttl_s),
        ttl_kind=server.ttl_kind,
        **switches,
        **credit,
    )
    if server.engine == "prefill-first":
        return PrefillFirstScheduler(pool, max_num_seqs=server.max_num_seqs, max_num_batched_tokens=budget)
    options: dict[str, Any] = {
        "max_num_seqs": server.max_num_seqs,
        "max_num_batched_tokens": budget,
        "policy": "priority" if server.policy == "priority" else "fcfs",
        "visibility": server.visibility,
        "long_prefill_token_threshold": server.long_prefill_token_threshold,
        "watermark": server.watermark,
        "linger_steps": 1 if server.async_scheduling else 0,
    }
    if below is not None:
        return TieredVllmScheduler(pool, below=below, **options)
    scheduler = IdleWarmUpsScheduler if server.warm_ups == "when_idle" else VllmScheduler
    return scheduler(pool, **options)
