"""Blocks known by their prefix, one by one, under any eviction policy: what LMCache, Mooncake and the lower tiers keep.

A block is its own tokens and every block before it. Only full blocks are kept. Cost follows blocks: take large ones.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Final, Literal, NamedTuple

from ..errors import InputError, UnknownNameError, require_count
from ..prompt import Request
from .content import Content
from .eviction import Access, EvictionPolicy, Lru
from .retention import Priority

Orphans = Literal["keep", "drop", "none"]
ORPHANS: Final = ("keep", "drop", "none")
"""What becomes of the blocks behind an evicted one: they stay (no lookup reaches them until it is back), leave with it, or there
are none: only a block with nothing behind it is evicted (``Priority`` chooses among those; ``Lru`` never takes another)."""


class Block:
    """One block of a chain; ``holders`` stores have it, ``uses`` counts per replica where somebody counts.

    ``origin``: the request that computed it (-1: not told), ``used``: whether a user's request has hit it since.
    """

    __slots__ = ("children", "holders", "id", "index", "key", "origin", "parent", "used", "uses")

    def __init__(self, parent: Block | None, key: Hashable, index: int, number: int) -> None:
        self.parent = parent
        self.key = key
        self.index = index
        self.id = number
        self.children: dict[Hashable, Block] = {}
        self.holders = 0
        self.origin = -1
        self.used = False
        self.uses: dict[int, int] = {}


class Chains:
    """The identities that one or several stores share: a tree of blocks, as large as what the stores hold.

    >>> from simcache.prompt import Segment
    >>> chains = Chains(16); len(chains.grow(Content((Segment("doc", 40),), Segment("a", 1)), None, 2))
    2
    """

    def __init__(self, block_tokens: int) -> None:
        require_count("block_tokens", block_tokens)
        self.block_tokens = block_tokens
        self._root = Block(None, None, -1, -1)
        self._numbers = 0
        self._loose: list[Block] = []  # may have become useless since the last sweep

    def walk(self, content: Content, namespace: Hashable, until: int) -> Iterator[Block]:
        """The known blocks among the first ``until``, head first, up to the first unknown one."""
        node = self._root
        for index in range(until):
            key = content.block_key(index, self.block_tokens)
            child = node.children.get(key if index else (namespace, key))
            if child is None:
                return
            yield child
            node = child

    def grow(self, content: Content, namespace: Hashable, until: int) -> list[Block]:
        """The first ``until`` blocks, unknown ones made; ``sweep`` when the stores have taken theirs."""
        path = list(self.walk(content, namespace, until))
        node = path[-1] if path else self._root
        for index in range(len(path), until):
            key = content.block_key(index, self.block_tokens)
            key = key if index else (namespace, key)
            child = node.children[key] = Block(node, key, index, self._numbers)
            self._numbers += 1
            path.append(child)
            node = child
        self.loosen(node)
        return path

    def loosen(self, block: Block) -> None:
        """Let the next sweep look at a block that somebody stopped holding or counting."""
        self._loose.append(block)

    def sweep(self) -> None:
        """Forget blocks that nobody holds or counts and that lead nowhere, and those before them that only led to them."""
        for block in self._loose:
            while not block.holders and not block.uses and not block.children and block.parent is not None:
                parent = block.parent
                del parent.children[block.key]
                block.parent = None
                block = parent
        self._loose.clear()

    def blocks(self) -> Iterator[Block]:
        """Every block known."""
        stack = list(self._root.children.values())
        while stack:
            block = stack.pop()
            yield block
            stack.extend(block.children.values())


class BlockStore:
    """``capacity_blocks`` blocks of shared ``chains`` under ``policy``; a capacity of 0 takes nothing in.

    Counts what ever happened: ``inserted``, ``evicted`` (for room or with their parent), ``expired`` (by age).
    """

    def __init__(self, chains: Chains, policy: EvictionPolicy, capacity_blocks: int, *, orphans: Orphans = "keep") -> None:
        require_count("capacity_blocks", capacity_blocks, at_least=0)
        if orphans not in ORPHANS:
            raise UnknownNameError("orphans", orphans, ORPHANS)
        if orphans == "none" and type(policy) not in (Lru, Priority):  # a policy made of one of them may take another victim
            raise InputError("orphans", orphans, f"goes with lru and priority, not {policy.name!r}")
        self.chains = chains
        self.policy = policy.fresh(capacity_blocks)
        self.capacity_blocks = capacity_blocks
        self.orphans = orphans
        self.resident: dict[int, Block] = {}
        self.inserted = self.evicted = self.expired = 0
        self._at = Access(chains.block_tokens)

    def at(self, now_ns: int, prompt_tokens: int, priority: int | None = None, retain_ns: int | None = None) -> Access:
        """Set what the policy may know of the request that comes, and drop what its instant finds expired."""
        at = self._at
        at.now_ns, at.prompt_tokens, at.priority, at.retain_ns = now_ns, prompt_tokens, priority, retain_ns
        for number in self.policy.expire(at):
            self.expired += 1
            self._leave(self.resident[number])
        return at

    def has(self, block: Block) -> bool:
        """Whether the block could be hit now."""
        return block.id in self.resident and self.policy.alive(block.id, self._at)

    def put(self, block: Block) -> list[Block]:
        """Touch the block, or take it in; returns what had to leave for it."""
        policy, at = self.policy, self._at
        at.block_index = block.index
        if block.id in self.resident:
            if policy.alive(block.id, at):
                policy.touch(block.id, at)
                return []
            self.expired += 1
            self._leave(block)
        gone: list[Block] = []
        if len(self.resident) >= self.capacity_blocks:
            if not self.capacity_blocks or not policy.admits(block.id, at):
                return gone
            gone = self._evict(self.resident[self._victim()])
        policy.insert(block.id, at)
        self.resident[block.id] = block
        block.holders += 1
        self.inserted += 1
        return gone

    def clear(self) -> None:
        """Everything leaves at once."""
        self.evicted += len(self.resident)
        for block in list(self.resident.values()):
            self._leave(block)

    def _victim(self) -> int:
        policy = self.policy
        if self.orphans == "none" and isinstance(policy, Priority):
            return policy.leaf_victim(self._at, self._is_leaf)
        return policy.victim(self._at)

    def _is_leaf(self, number: int) -> bool:
        return not any(child.id in self.resident for child in self.resident[number].children.values())

    def _evict(self, victim: Block) -> list[Block]:
        gone = [victim]
        if self.orphans == "drop":
            for block in gone:  # grows while it is walked: children behind their parents
                gone.extend(block.children.values())
            gone = [block for block in reversed(gone) if block.id in self.resident]
        for block in gone:
            self._leave(block)
        self.evicted += len(gone)
        return gone

    def _leave(self, block: Block) -> None:
        del self.resident[block.id]
        self.policy.remove(block.id)
        block.holders -= 1
        self.chains.loosen(block)

    def check(self) -> None:
        """Assert every invariant of the store, after a sweep; for tests."""
        known = {block.id: block for block in self.chains.blocks()}
        assert all(known.get(number) is block for number, block in self.resident.items())
        assert all(block.holders or block.uses or block.children for block in known.values()), "a block that leads nowhere"
        assert len(self.resident) <= self.capacity_blocks
        assert self.inserted == len(self.resident) + self.evicted + self.expired
        if self.orphans != "keep" and not self.expired:
            for block in self.resident.values():
                assert block.parent is not None
                assert block.index == 0 or block.parent.id in self.resident, "an orphan"


class SequentialReplay(NamedTuple):
    """Per request, in order: hit tokens (whole blocks, less one token where they cover the prompt), blocks evicted for it."""

    hit_tokens: list[int]
    evicted_blocks: list[int]


def replay_sequential(
    requests: Iterable[Request],
    *,
    policy: EvictionPolicy,
    capacity_blocks: int,
    block_tokens: int,
    orphans: Orphans = "keep",
    caches_output: bool = False,
) -> SequentialReplay:
    """One request at a time at its instant of arrival: look up, then take in its blocks tail to head (the head leaves last).

    ``caches_output``: full blocks of the answer are kept too (its last token never has KV).

    >>> from simcache.cache.eviction import Lru
    >>> from simcache.prompt import Segment
    >>> ask = Request(0.0, (Segment("doc", 600),), Segment("a", 1))
    >>> replay_sequential([ask, ask], policy=Lru(), capacity_blocks=8, block_tokens=256).hit_tokens
    [0, 512]
    """
    chains = Chains(block_tokens)
    store = BlockStore(chains, policy, capacity_blocks, orphans=orphans)
    replay = SequentialReplay([], [])
    for request in requests:
        content = Content(request.prompt, request.output)
        namespace = (request.organisation, request.salt)
        prompt_tokens = content.prompt_tokens
        store.at(round(request.arrived_at_s * 1e9), prompt_tokens)
        hits = 0
        for block in chains.walk(content, namespace, prompt_tokens // block_tokens):
            if not store.has(block):
                break
            hits += 1
        computed = prompt_tokens + (max(0, request.output.tokens - 1) if caches_output else 0)
        evicted = 0
        for block in reversed(chains.grow(content, namespace, computed // block_tokens)):
            evicted += len(store.put(block))
        chains.sweep()
        replay.hit_tokens.append(max(0, min(hits * block_tokens, prompt_tokens - 1)))
        replay.evicted_blocks.append(evicted)
    return replay
