"""The contents of a block pool, saved and put back: a run that starts as warm as another one ended."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError, require
from ..prompt import Segment
from ..whole_files import whole_file
from .block_pool import BlockPool, Extent, Node
from .content import Content


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Blocks [start, start + blocks) of ``segments``, whose end they reach in full blocks; ``copy`` orders equal ones by age."""

    namespace: Hashable
    segments: tuple[tuple[Hashable, int], ...]
    start: int
    blocks: int
    copy: int = 0


@dataclass(frozen=True, kw_only=True)
class PoolSnapshot:
    """What a pool holds for reuse, in order of eviction: the first is evicted first.

    >>> PoolSnapshot(block_tokens=16, chains=()).blocks
    0
    """

    block_tokens: int
    chains: tuple[Chain, ...]

    @property
    def blocks(self) -> int:
        """Blocks in all."""
        return sum(chain.blocks for chain in self.chains)


def snapshot(pool: BlockPool) -> PoolSnapshot:
    """The reusable blocks of ``pool`` that nobody holds. Lifetimes are not kept: what is put back counts as just released.

    >>> snapshot(BlockPool(8, 16)).chains
    ()
    """
    chains = []
    for extent in pool.queued():
        node = extent.node
        assert node is not None
        chains.append(
            Chain(
                namespace=_root_of(node).key,
                segments=_segments(node, pool.block_tokens),
                start=extent.start,
                blocks=extent.size,
                copy=node.extents.index(extent),
            )
        )
    return PoolSnapshot(block_tokens=pool.block_tokens, chains=tuple(chains))


def restore(pool: BlockPool, saved: PoolSnapshot) -> int:
    """Put ``saved`` into an empty pool; how many blocks found room. A smaller pool keeps what would have been evicted last.

    Raises InputError for another block size.
    """
    require(saved.block_tokens == pool.block_tokens, "block_tokens", saved.block_tokens, f"must be the pool's {pool.block_tokens}")
    assert pool.free == pool.blank == pool.blocks, "the pool must be empty"
    room, kept = pool.blank, []
    for chain in reversed(saved.chains):  # children stand before their parents, so what is cut off is never a parent alone
        blocks = min(chain.blocks, room)  # of the first that does not fit its head stays, as if its tail had been evicted
        if not blocks:
            break
        room -= blocks
        kept.append(replace(chain, blocks=blocks))
    kept.reverse()
    extents: dict[int, Extent] = {}
    for place in sorted(range(len(kept)), key=lambda place: (kept[place].start, kept[place].copy)):
        chain = kept[place]
        content = Content(tuple(Segment._make(segment) for segment in chain.segments), Segment("", 0))
        extents[place] = pool.place(chain.namespace, content, chain.start, chain.start + chain.blocks)
    for place in range(len(kept)):
        pool.enqueue(extents[place])
    return pool.blocks - room


def save_snapshots(snapshots: Sequence[PoolSnapshot], path: str | Path) -> None:
    """Write the pools of all replicas as JSON, whole or not at all. Keys must be texts, numbers, None, or tuples of them."""
    document = {
        "schema_version": 1,
        "pools": [
            {
                "block_tokens": each.block_tokens,
                "chains": [
                    [_plain(c.namespace), [[_plain(k), n] for k, n in c.segments], c.start, c.blocks, c.copy] for c in each.chains
                ],
            }
            for each in snapshots
        ],
    }
    with whole_file(path, name="cache snapshot") as partial:
        partial.write_text(json.dumps(document), encoding="utf-8")


def load_snapshots(path: str | Path) -> tuple[PoolSnapshot, ...]:
    """What ``save_snapshots`` wrote. Raises InputError for anything else."""
    place = Path(path)
    try:
        document = json.loads(place.read_text(encoding="utf-8"))
        if document["schema_version"] != 1:
            raise InputError("schema_version", document["schema_version"], "must be 1", path=place)
        pools = []
        for pool in document["pools"]:
            chains = []
            for namespace, segments, start, blocks, copy in pool["chains"]:
                numbers = (start, blocks, copy, *(n for _, n in segments))
                if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers) or not blocks:
                    raise ValueError("counts must be whole numbers")
                runs = tuple((_keyed(key), n) for key, n in segments)
                if sum(n for _, n in runs) < (start + blocks) * pool["block_tokens"]:
                    raise ValueError("a chain is longer than its content")
                chains.append(Chain(namespace=_keyed(namespace), segments=runs, start=start, blocks=blocks, copy=copy))
            pools.append(PoolSnapshot(block_tokens=pool["block_tokens"], chains=tuple(chains)))
        return tuple(pools)
    except OSError as error:
        raise InputError("cache snapshot", str(place), f"cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("cache snapshot", str(place), "must be a file that simcache saved", "Save it anew.") from None


def _root_of(node: Node) -> Node:
    while node.parent is not None:
        node = node.parent
    return node


def _segments(node: Node, block_tokens: int) -> tuple[tuple[Hashable, int], ...]:
    """The content up to the node's end, as runs."""
    content, last = node.content, node.end * block_tokens
    assert content is not None
    runs, start = [], 0
    for key, end in zip(content.keys, content.ends, strict=True):
        runs.append((key, min(end, last) - start))
        start = end
        if end >= last:
            break
    return tuple(runs)


def _plain(key: Hashable) -> Any:
    if key is None or isinstance(key, (str, int, float, bool)):
        return key
    if isinstance(key, tuple):
        return [_plain(part) for part in key]
    raise InputError("key", key, "cannot be saved", "Keys must be texts, numbers, None, or tuples of them.")


def _keyed(value: Any) -> Hashable:
    return tuple(_keyed(part) for part in value) if isinstance(value, list) else value
