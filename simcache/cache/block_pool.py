"""vLLM V1's block pool, exactly, at the cost of runs instead of blocks.

What is reproduced (vllm/v1/core/block_pool.py, kv_cache_manager.py, version 0.33): chained block identity with the salt at
the root; full blocks only; a free queue in order of freeing, a request's tail before its head; unhashed blocks prepended
(older versions: appended); duplicates of one key kept apart, lookup finds the first inserted; eviction only when a block
with a key is popped.

How it is fast: a *node* is a run of consecutive blocks of one content, an *extent* is one physical copy of a whole node.
Extents, not blocks, move through the free queue and the tree. Three facts make that exact: (1) blocks of one extent are
always freed together, tail first, so a queued extent is a run of the queue; (2) residency is prefix-closed, because whoever
holds a block holds a copy of its parent and frees it right after; (3) which physical block is popped never matters, only how
many. Under the prepending rule unhashed free blocks all sit in front of the queue: a counter.

Popping is put off: blocks that were taken are *owed* until somebody asks what is resident. Nothing in between can tell: what is
freed goes behind them in the queue, and a block that gets a key is none of those that are popped.
"""

from __future__ import annotations

import heapq
import itertools
from array import array
from collections.abc import Hashable, Iterable, Iterator
from functools import partial
from typing import Literal, NamedTuple

from ..prompt import Request
from .content import Content

Duplicates = Literal["keep", "merge", "replace"]
"""Several copies of one key: kept, the first one found (vLLM); one kept; kept, the last one found (nano-vllm)."""
FreedPartial = Literal["prepend", "append"]


class Node:
    """Blocks [start, end) of one content, all reached through ``parent``. ``extents`` empty: expired, children may live."""

    __slots__ = ("children", "content", "end", "extents", "key", "parent", "start")

    def __init__(self, parent: Node | None, key: Hashable, start: int, end: int, content: Content | None) -> None:
        self.parent = parent
        self.key = key
        self.start = start
        self.end = end
        self.content = content
        self.children: dict[Hashable, Node] = {}
        self.extents: list[Extent] = []


class Extent:
    """One physical copy of a node's blocks; in the free queue iff ``refs`` is 0. ``left``: the piece split off its head.

    ``prev`` and ``next`` exist in the queue only: an evicted extent holds no other and is freed at once.
    """

    __slots__ = ("expires_at", "left", "next", "node", "origin", "prev", "refs", "size", "start", "used")

    def __init__(self, node: Node | None, start: int, size: int, refs: int, origin: int, used: bool) -> None:
        self.node = node
        self.start = start
        self.size = size
        self.refs = refs
        self.origin = origin
        self.used = used
        self.left: Extent | None = None
        self.prev: Extent
        self.next: Extent
        self.expires_at: int | None = None


class Match(NamedTuple):
    """What a lookup found: full blocks hit, how many of those are free (touching them takes them from the queue), the path."""

    blocks: int
    evictable_blocks: int
    path: list[tuple[Node, int]]  # (node, block index where the hit ends in it)


class LetGo(NamedTuple):
    """Blocks [start, end) of a content in a namespace, of the request ``origin``; ``used``: a user's request had hit them."""

    namespace: Hashable
    content: Content
    start: int
    end: int
    origin: int
    used: bool


_new_match = partial(tuple.__new__, Match)  # what Match(...) does, without its checks of the arguments


class Holding:
    """The blocks one request has: ``at`` of them with content in the tree (ending exactly at ``node``'s end), the rest unhashed."""

    __slots__ = ("at", "blocks", "content", "node", "origin", "pieces", "root")

    def __init__(self, content: Content, root: Node, origin: int) -> None:
        self.content = content
        self.root = root
        self.origin = origin
        self.node = root
        self.at = 0
        self.blocks = 0
        self.pieces: list[tuple[Extent, int]] = []  # (extent, first block held): the extent may have been split since


class BlockPool:
    """``blocks`` usable KV blocks of ``block_tokens`` tokens each (vLLM's null block not counted).

    ``used_tokens[origin]``, ``inserted_tokens[origin]`` and ``dropped_tokens[origin]`` (arrays indexed by the requests' rows) are
    credited when given, ``used_by_row[origin]`` (negative: nobody yet) is set to the first user request that hit.
    ``ttl`` in the caller's time unit; ``sliding`` counts from the last release, ``fixed`` from insertion; alive iff now < expiry.

    >>> pool = BlockPool(8, 16); pool.free
    8
    """

    def __init__(
        self,
        blocks: int,
        block_tokens: int,
        *,
        caching: bool = True,
        freed_partial: FreedPartial = "prepend",
        duplicates: Duplicates = "keep",
        ttl: int | None = None,
        ttl_kind: Literal["sliding", "fixed"] = "sliding",
        used_tokens: array[int] | None = None,
        inserted_tokens: array[int] | None = None,
        used_by_row: array[int] | None = None,
        dropped_tokens: array[int] | None = None,
    ) -> None:
        self.blocks = blocks
        self.block_tokens = block_tokens
        self.caching = caching
        self.freed_partial = freed_partial
        self.duplicates = duplicates
        self.ttl = ttl
        self.ttl_kind = ttl_kind
        self._fixed = ttl is not None and ttl_kind == "fixed"
        self.free = blocks  # blank + queued
        self.blank = blocks  # unhashed free blocks in front of the queue
        self._evicted = 0
        self._owed = 0  # blocks taken from the queue that have not been popped yet
        self.inserted = 0
        self.now = 0
        self._roots: dict[Hashable, Node] = {}
        self._queue = Extent(None, 0, 0, -1, -1, True)  # sentinel of the ring: next is the front
        self._queue.prev = self._queue.next = self._queue
        self._by_expiry: list[tuple[int, int, Extent]] = []  # fixed lifetimes; the number settles ties, in any order
        self._serial = itertools.count()
        self._used_tokens = used_tokens
        self._inserted_tokens = inserted_tokens
        self._used_by_row = used_by_row
        self._dropped_tokens = dropped_tokens
        self.let_go: list[LetGo] | None = None
        """Runs of blocks that were evicted and of which no copy is left, where somebody takes them down from here."""

    @property
    def evicted(self) -> int:
        """Blocks that lost their key so far, by eviction or expiry."""
        self.settle()
        return self._evicted

    @property
    def any_order(self) -> bool:
        """Whether blocks may get their keys later than they do, as long as nobody has looked: nothing else depends on it."""
        return self.ttl is None and self.duplicates != "merge" and self.let_go is None

    # -- lookups -----------------------------------------------------------------------------------------------------------

    def root(self, salt: Hashable) -> Node:
        """The tree of one namespace."""
        root = self._roots.get(salt)
        if root is None:
            root = self._roots[salt] = Node(None, salt, 0, 0, None)
        return root

    def match(self, root: Node, content: Content, limit: int) -> Match:
        """Leading resident blocks of ``content``, at most ``limit``; changes nothing."""
        if self._owed:
            self.settle()
        block_tokens = self.block_tokens
        node, at, evictable, path = root, 0, 0, []
        while at < limit and node.children:
            child = node.children.get(content.block_key(at, block_tokens))
            if child is None or not child.extents:
                break
            stop = child.end if child.end < limit else limit
            assert child.content is not None
            end = content.agrees_until(child.content, at * block_tokens, stop * block_tokens) // block_tokens
            if not child.extents[0].refs:
                evictable += end - at
            path.append((child, end))
            at = end
            if at < child.end:
                break
            node = child
        return _new_match((at, evictable, path))

    # -- taking and giving back --------------------------------------------------------------------------------------------

    def hold(self, holding: Holding, match: Match, *, user: bool) -> None:
        """Touch the matched blocks for a request that holds none yet."""
        at = 0
        for found, end in match.path:
            node = found if end == found.end else self._split(found, end)
            extent = node.extents[0]
            if not extent.refs:
                self._unlink(extent)
                self.free -= extent.size
            extent.refs += 1
            if user and not extent.used and extent.origin != holding.origin:
                extent.used = True
                if self._used_tokens is not None:
                    self._used_tokens[extent.origin] += extent.size * self.block_tokens
                if self._used_by_row is not None and self._used_by_row[extent.origin] < 0:
                    self._used_by_row[extent.origin] = holding.origin
            holding.pieces.append((extent, at))
            holding.node = node
            at = end
        holding.at = holding.blocks = at

    def take(self, count: int) -> None:
        """Pop ``count`` blocks from the front of the free queue; those with a key are evicted. Needs ``count <= free``."""
        self.free -= count
        if count <= self.blank:
            self.blank -= count
        else:
            self._owed += count - self.blank
            self.blank = 0

    def settle(self) -> None:
        """Evict what has been taken so far."""
        count, self._owed = self._owed, 0
        queue = self._queue
        while count:
            front = queue.next
            node = front.node
            if node is None:  # freed partial blocks in append mode: no key to lose
                if front.size > count:  # without caching a whole request is one
                    front.size -= count
                    return
                count -= front.size
                self._unlink(front)
                continue
            if front.size > count:
                if len(node.extents) > 1 or node.children:
                    self._split(node, node.end - count)  # the tail piece keeps its place in the queue
                    continue
                node.end -= count
                front.size -= count
                self._evicted += count
                if self.let_go is not None:
                    self._tell(node, front, node.end, node.end + count)
                if self._dropped_tokens is not None and not front.used:
                    self._dropped_tokens[front.origin] += count * self.block_tokens
                return
            count -= front.size
            self._unlink(front)
            if self.let_go is not None and len(node.extents) == 1:
                self._tell(node, front, node.start, node.end)
            self._forget(front)

    def insert(self, holding: Holding, until: int) -> None:
        """Give keys to the holding's blocks up to block index ``until``: they are now hit-able."""
        at = holding.at
        if until <= at or not self.caching:
            return
        self.inserted += until - at
        content, block_tokens = holding.content, self.block_tokens
        if self._inserted_tokens is not None:
            self._inserted_tokens[holding.origin] += (until - at) * block_tokens
        node = holding.node
        if self._fixed and node.parent is None and node is not holding.root:
            node = self._way_to(holding)
        if self._owed and (node.children or self.let_go is not None):  # whether a copy is left is told as of when it was taken
            self.settle()
        if not node.children and holding.pieces and not self._fixed:
            last = holding.pieces[-1][0]
            if last.node is node and last.refs == 1 and last.origin == holding.origin and len(node.extents) == 1:
                node.content = content  # nobody else's copy: it grows; the content agrees up to the old end and goes on
                last.size += until - at
                node.end = holding.at = until
                return
        while at < until:
            key = content.block_key(at, block_tokens)
            child = node.children.get(key)
            if child is None:
                child = Node(node, key, at, until, content)
                node.children[key] = child
                self._add_extent(child, holding, at)
                holding.at = until
                return
            stop = child.end if child.end < until else until
            assert child.content is not None
            end = content.agrees_until(child.content, at * block_tokens, stop * block_tokens) // block_tokens
            if end < child.end:
                child = self._split(child, end)
            if self.duplicates == "merge" and child.extents:
                extent = child.extents[0]
                if not extent.refs:
                    self._unlink(extent)
                    self.free -= extent.size
                extent.refs += 1
                holding.pieces.append((extent, at))
                holding.node = child
                self.give_back(end - at)
                self.inserted -= end - at
                if self._inserted_tokens is not None:
                    self._inserted_tokens[holding.origin] -= (end - at) * block_tokens
            else:
                self._add_extent(child, holding, at)
            node = child
            at = holding.at = end

    def release(self, holding: Holding) -> None:
        """Give everything back, tail first; blocks with a key stay hit-able until they are popped."""
        if holding.blocks > holding.at:
            self.give_back(holding.blocks - holding.at)
        for extent, start in reversed(holding.pieces):
            piece: Extent | None = extent
            while piece is not None:
                piece.refs -= 1
                if not piece.refs:
                    self.free += piece.size
                    if piece.node is None:  # expired while it was held
                        self.blank += piece.size
                    else:
                        if self.ttl is not None and self.ttl_kind == "sliding":
                            piece.expires_at = self.now + self.ttl
                        self._append(piece)
                piece = piece.left if piece.start > start else None
        holding.pieces.clear()
        holding.node = holding.root
        holding.at = holding.blocks = 0

    def expire(self, now: int) -> int:
        """Set the time; drop what no longer lives (alive iff now < expiry) and return how many blocks that was."""
        self.now = now
        if self.ttl is None:
            return 0
        before = self.evicted  # what was taken is popped, not expired
        queue = self._queue
        if self.ttl_kind == "sliding":
            extent = queue.next
            while extent is not queue and (extent.expires_at is None or extent.expires_at <= now):
                following = extent.next
                if extent.node is not None:
                    self._detach(extent)
                extent = following
        else:
            while self._by_expiry and self._by_expiry[0][0] <= now:
                extent = heapq.heappop(self._by_expiry)[2]
                if extent.node is not None and extent.expires_at is not None and extent.expires_at <= now:
                    self._detach(extent)
        return self.evicted - before

    # -- snapshots ---------------------------------------------------------------------------------------------------------

    def queued(self) -> Iterator[Extent]:
        """Copies with a key that nobody holds, the next to be evicted first."""
        self.settle()
        extent = self._queue.next
        while extent is not self._queue:
            if extent.node is not None:
                yield extent
            extent = extent.next

    def place(self, namespace: Hashable, content: Content, start: int, end: int) -> Extent:
        """Give keys to blocks [start, end) of ``content`` behind resident parents; ``enqueue`` makes the copy free for reuse."""
        node = self.root(namespace)
        while node.end < start:
            node = node.children[content.block_key(node.end, self.block_tokens)]
        key = content.block_key(start, self.block_tokens)
        child = node.children.get(key)
        if child is None:
            child = node.children[key] = Node(node, key, start, end, content)
        extent = Extent(child, start, end - start, 0, -1, True)  # of no request of this run: nobody is credited
        child.extents.append(extent)
        self.blank -= end - start
        self.inserted += end - start
        return extent

    def enqueue(self, extent: Extent) -> None:
        """Append a placed copy to the free queue."""
        if self.ttl is not None:
            extent.expires_at = self.now + self.ttl
            if self._fixed:
                heapq.heappush(self._by_expiry, (extent.expires_at, next(self._serial), extent))
        self._append(extent)

    # -- inside ------------------------------------------------------------------------------------------------------------

    def give_back(self, count: int) -> None:
        """Return ``count`` taken blocks that never got a key."""
        self.free += count
        if self.freed_partial == "prepend":
            self.blank += count
        else:
            extent = Extent(None, 0, count, 0, -1, True)
            extent.expires_at = self.now
            self._append(extent)

    def _add_extent(self, node: Node, holding: Holding, at: int) -> None:
        extent = Extent(node, node.start, node.end - node.start, 1, holding.origin, False)
        if self._fixed:
            assert self.ttl is not None
            extent.expires_at = self.now + self.ttl
            heapq.heappush(self._by_expiry, (extent.expires_at, next(self._serial), extent))
        if self.duplicates == "replace":
            node.extents.insert(0, extent)
        else:
            node.extents.append(extent)
        holding.pieces.append((extent, at))
        holding.node = node

    def _way_to(self, holding: Holding) -> Node:
        """The end of a holding in the tree, all of whose copies expired while it was held: empty nodes lead there again."""
        self.settle()
        node, at, content = holding.root, 0, holding.content
        while at < holding.at:
            key = content.block_key(at, self.block_tokens)
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = Node(node, key, at, holding.at, content)
            stop = child.end if child.end < holding.at else holding.at
            assert child.content is not None
            at = content.agrees_until(child.content, at * self.block_tokens, stop * self.block_tokens) // self.block_tokens
            node = child if at == child.end else self._split(child, at)
        return node

    def _split(self, node: Node, at: int) -> Node:
        """Split at block index ``at``; the existing objects stay the tail, so nobody's pointers change. Returns the head."""
        content, parent = node.content, node.parent
        assert content is not None
        assert parent is not None
        head = Node(parent, node.key, node.start, at, content)
        parent.children[node.key] = head
        node.parent, node.start, node.key = head, at, content.block_key(at, self.block_tokens)
        head.children[node.key] = node
        for tail in node.extents:
            piece = Extent(head, head.start, at - head.start, tail.refs, tail.origin, tail.used)
            piece.left, piece.expires_at = tail.left, tail.expires_at
            tail.left = piece
            tail.start, tail.size = at, node.end - at
            if not tail.refs:  # queued: the head goes right behind the tail
                piece.prev, piece.next = tail, tail.next
                tail.next.prev = piece
                tail.next = piece
            if self._fixed and piece.expires_at is not None:
                heapq.heappush(self._by_expiry, (piece.expires_at, next(self._serial), piece))
            head.extents.append(piece)
        return head

    def credit(self, origin: int, tokens: int, by: int) -> None:
        """A user's request ``by`` had use of ``tokens`` that ``origin`` had put in, after they had been evicted."""
        if self._used_tokens is None or self._used_by_row is None or self._dropped_tokens is None:
            return
        self._used_tokens[origin] += tokens
        self._dropped_tokens[origin] -= tokens  # perhaps before the eviction is on record
        if self._used_by_row[origin] < 0:
            self._used_by_row[origin] = by

    def _tell(self, node: Node, extent: Extent, start: int, end: int) -> None:
        assert self.let_go is not None
        assert node.content is not None
        root = node
        while root.parent is not None:
            root = root.parent
        self.let_go.append(LetGo(root.key, node.content, start, end, extent.origin, extent.used))

    def _append(self, extent: Extent) -> None:
        queue = self._queue
        last = queue.prev
        extent.prev, extent.next = last, queue
        last.next = queue.prev = extent

    def _unlink(self, extent: Extent) -> None:
        extent.prev.next = extent.next
        extent.next.prev = extent.prev
        del extent.prev, extent.next

    def _forget(self, extent: Extent) -> None:
        """Take a copy out of the tree; an empty node goes with it, and an empty node above that only waited for it."""
        node = extent.node
        assert node is not None
        self._evicted += extent.size
        if self._dropped_tokens is not None and not extent.used:
            self._dropped_tokens[extent.origin] += extent.size * self.block_tokens
        node.extents.remove(extent)
        extent.node = extent.left = None
        while node is not None and node.parent is not None and not node.extents and not node.children:
            parent = node.parent
            del parent.children[node.key]
            node.parent = None
            node = parent

    def _detach(self, extent: Extent) -> None:
        """Expire a copy: its blocks turn blank now, or at release when somebody still computes with them."""
        if not extent.refs:
            self._unlink(extent)
            self.blank += extent.size
        left = extent.left
        self._forget(extent)
        extent.left = left

    def check(self) -> None:
        """Assert every invariant; O(everything), for tests."""
        self.settle()
        queued = 0
        extent = self._queue.next
        while extent is not self._queue:
            assert extent.refs == 0, "a queued extent is held"
            assert extent.size > 0
            queued += extent.size
            extent = extent.next
        assert self.free == self.blank + queued, (self.free, self.blank, queued)
        assert 0 <= self.free <= self.blocks, (self.free, self.blocks)
        resident = 0
        stack: list[Node] = list(self._roots.values())
        while stack:
            node = stack.pop()
            for key, child in node.children.items():
                assert child.parent is node
                assert child.key == key
                assert child.start == node.end
                assert child.end > child.start
                assert child.extents or child.children, "an empty leaf"
                assert child.extents or self.ttl_kind == "fixed" or self.ttl is not None, "a hole"
                assert child.content is not None
                assert child.content.block_key(child.start, self.block_tokens) == key
                for copy in child.extents:
                    assert copy.node is child
                    assert (copy.start, copy.size) == (child.start, child.end - child.start)
                    resident += copy.size
                stack.append(child)
        assert resident <= self.blocks
        assert self.inserted == resident + self.evicted, (self.inserted, resident, self.evicted)


class SequentialReplay(NamedTuple):
    """Per request, in order: hit tokens (-1: its prompt did not fit and was not admitted), blocks evicted while it was served."""

    hit_tokens: list[int]
    evicted_blocks: list[int]


def replay_sequential(
    requests: Iterable[Request],
    *,
    usable_blocks: int,
    block_tokens: int = 16,
    freed_partial: FreedPartial = "prepend",
    duplicates: Duplicates = "keep",
) -> SequentialReplay:
    """One request at a time through the pool, clock-free: look up, allocate the prompt, decode, free.

    A prompt that the pool cannot hold is refused and changes nothing; an answer is cut where the pool ends.

    >>> from simcache.prompt import Segment
    >>> ask = Request(0.0, (Segment("doc", 100),), Segment("a", 1))
    >>> replay_sequential([ask, ask], usable_blocks=8).hit_tokens
    [0, 96]
    """
    pool = BlockPool(usable_blocks, block_tokens, freed_partial=freed_partial, duplicates=duplicates)
    hits: list[int] = []
    evicted: list[int] = []
    before = 0
    usable_tokens = usable_blocks * block_tokens
    for row, request in enumerate(requests):
        content = Content(request.prompt, request.output)
        prompt_tokens, output_tokens = content.prompt_tokens, request.output.tokens
        root = pool.root((request.organisation, request.salt))
        match = pool.match(root, content, (prompt_tokens - 1) // block_tokens if prompt_tokens else 0)
        prompt_blocks = -(-prompt_tokens // block_tokens)
        if prompt_blocks - match.blocks + match.evictable_blocks > pool.free:
            hits.append(-1)
            evicted.append(0)
            continue
        holding = Holding(content, root, row)
        pool.hold(holding, match, user=True)
        most_tokens = prompt_tokens + output_tokens - 1 if output_tokens else prompt_tokens
        if most_tokens > usable_tokens:
            most_tokens = usable_tokens
        most_blocks = -(-most_tokens // block_tokens)
        if duplicates == "merge":  # a merged block goes back before the next is taken
            pool.take(prompt_blocks - match.blocks)
            holding.blocks = prompt_blocks
            pool.insert(holding, prompt_tokens // block_tokens)
            while holding.blocks < most_blocks:
                pool.insert(holding, holding.blocks)
                pool.take(1)
                holding.blocks += 1
        else:
            pool.take(most_blocks - match.blocks)
            holding.blocks = most_blocks
        pool.insert(holding, most_tokens // block_tokens)
        pool.release(holding)
        hits.append(match.blocks * block_tokens)
        after = pool.evicted
        evicted.append(after - before)
        before = after
    return SequentialReplay(hits, evicted)
