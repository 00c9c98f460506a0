"""SGLang's radix tree, exactly, at the cost of segments instead of tokens.

What is reproduced (sglang/srt/mem_cache/radix_cache.py, unified_radix_cache.py, evict_policy.py, allocation.py, version
0.5.23): a compressed tree over token content, cut at pages; a match that ends inside an edge splits it and refreshes both
halves; eviction on demand only, of whole unlocked leaves, until the shortfall is covered; locks on whole paths; insertion
after prefill and at the end, which frees what the tree already has and cuts the leaf at the prompt's last whole page;
disjoint namespaces. Times of access come from a counter: nothing here has a clock.

How it is fast: an edge is a span of its creator's ``Content``, so comparing and splitting copy nothing; leaves wait in one
heap whose outdated entries are dropped when they surface.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Hashable
from typing import Any, NamedTuple

from ..errors import UnknownNameError, require, require_count
from .content import Content
from .radix_policies import POLICIES, Node, Policy, SplitCreated


class Match(NamedTuple):
    """What a lookup found: tokens hit (whole pages) and the node that ends there."""

    tokens: int
    node: Node


class Holding:
    """What one request has: the path down to ``node`` (locked, ``node.end`` tokens), and memory of its own up to ``tokens``."""

    __slots__ = ("content", "hit_tokens", "inserted_tokens", "namespace", "node", "origin", "priority", "tokens")

    def __init__(self, content: Content, namespace: Hashable, match: Match, priority: int, origin: int) -> None:
        self.content = content
        self.namespace = namespace
        self.node = match.node
        self.hit_tokens = self.tokens = match.tokens
        self.inserted_tokens = 0
        self.priority = priority
        self.origin = origin


class RadixTree:
    """``capacity_tokens`` of KV memory in pages of ``page_tokens``; ``policy`` names one of ``POLICIES`` or is a ``Policy``.

    A scheduler calls ``hold`` (match and lock), ``make_room`` and ``allocate`` (per batch and per request, in the engine's
    amounts), ``insert`` after prefill and at the end, ``release``. ``used_tokens[origin]``, ``inserted_tokens[origin]`` and
    ``dropped_tokens[origin]`` (arrays indexed by the requests' rows) are credited when given, ``used_by_row[origin]`` (negative:
    nobody yet) is set to the first user request that hit. Raises InputError for impossible sizes.

    >>> RadixTree(16, 1000).free_tokens
    992
    """

    def __init__(
        self,
        page_tokens: int,
        capacity_tokens: int,
        policy: str | Policy = "lru",
        *,
        split_created: SplitCreated = "copied",
        used_tokens: array[int] | None = None,
        inserted_tokens: array[int] | None = None,
        used_by_row: array[int] | None = None,
        dropped_tokens: array[int] | None = None,
    ) -> None:
        require_count("page_tokens", page_tokens)
        require_count("capacity_tokens", capacity_tokens, at_least=0)
        if isinstance(policy, str) and policy not in POLICIES:
            raise UnknownNameError("policy", policy, POLICIES)
        require(split_created in ("copied", "now"), "split_created", split_created, "must be 'copied' or 'now'")
        self.page_tokens = page_tokens
        self.capacity_tokens = capacity_tokens - capacity_tokens % page_tokens
        self.free_tokens = self.capacity_tokens
        self.resident_tokens = 0  # in the tree
        self.locked_tokens = 0  # in the tree, on the path of a running request
        self.inserted_tokens = 0  # so far; what the tree already had is not counted
        self.evicted_tokens = 0  # so far
        self._key_of: Policy = POLICIES[policy] if isinstance(policy, str) else policy
        self._root = Node(None, None, 0, 0, None)
        self._heap: list[tuple[Any, int, Node]] = []
        self._serial = 0
        self._clock = 0
        self._nodes = 0
        self._copies_created = split_created == "copied"
        self._used_of = used_tokens
        self._inserted_of = inserted_tokens
        self._used_by_row = used_by_row
        self._dropped_of = dropped_tokens

    @property
    def evictable_tokens(self) -> int:
        """Tokens that eviction could free now."""
        return self.resident_tokens - self.locked_tokens

    # -- lookups -----------------------------------------------------------------------------------------------------------

    def peek(self, content: Content, namespace: Hashable, tokens: int) -> int:
        """Tokens that ``match`` would find among the first ``tokens``; changes nothing."""
        limit = tokens - tokens % self.page_tokens
        node, at = self._root, 0
        while at < limit:
            child = node.children.get(self._child_key(content, at, namespace))
            if child is None:
                break
            at = self._agrees(child, content, at, limit)
            if at < child.end:
                break
            node = child
        return at

    def unlocked_tokens(self, node: Node) -> int:
        """Tokens on the path down to ``node`` that locking it would take from what eviction can free."""
        tokens = 0
        while node.parent is not None and not node.locks:
            tokens += node.end - node.start
            node = node.parent
        return tokens

    def match(self, content: Content, namespace: Hashable, tokens: int) -> Match:
        """Leading resident pages among the first ``tokens`` tokens. Refreshes the path; splits an edge that matches in part."""
        limit = tokens - tokens % self.page_tokens
        node, at, now = self._root, 0, self._tick()
        while at < limit:
            child = node.children.get(self._child_key(content, at, namespace))
            if child is None:
                break
            child.last_access = now
            at = self._agrees(child, content, at, limit)
            if at < child.end:
                node = self._split(child, at, now)
                break
            node = child
        if node is not self._root and not node.locks and not node.children:
            self._queue(node)
        return Match(at, node)

    # -- a request's life --------------------------------------------------------------------------------------------------

    def hold(
        self,
        content: Content,
        namespace: Hashable,
        *,
        tokens: int | None = None,
        priority: int = 0,
        origin: int = -1,
        user: bool = True,
    ) -> Holding:
        """Match the first ``tokens`` tokens (None: all of the prompt but its last) and lock what was found.

        A ``user`` request credits the origins.
        """
        limit = content.prompt_tokens - 1 if tokens is None else tokens
        holding = Holding(content, namespace, self.match(content, namespace, limit), priority, origin)
        node: Node | None = holding.node
        while node is not None and node.parent is not None:
            self._lock(node)
            if user and not node.used and node.origin != origin:
                node.used = True
                if self._used_of is not None:
                    self._used_of[node.origin] += node.end - node.start
                if self._used_by_row is not None and self._used_by_row[node.origin] < 0:
                    self._used_by_row[node.origin] = origin
            node = node.parent
        return holding

    def make_room(self, tokens: int) -> int:
        """Evict whole leaves until ``tokens`` tokens of memory are free or nothing unlocked is left; returns tokens evicted."""
        before = self.evicted_tokens
        while self.free_tokens < tokens and self._heap:
            _, serial, leaf = heapq.heappop(self._heap)
            if leaf.queued != serial or leaf.locks or leaf.children:
                continue
            parent = leaf.parent
            assert parent is not None
            del parent.children[leaf.key]
            leaf.parent = None
            leaf.queued = -1
            self._nodes -= 1
            freed = leaf.end - leaf.start
            self.free_tokens += freed
            self.evicted_tokens += freed
            self.resident_tokens -= freed
            if self._dropped_of is not None and not leaf.used:
                self._dropped_of[leaf.origin] += freed
            if parent is not self._root and not parent.locks and not parent.children:
                self._queue(parent)
        return self.evicted_tokens - before

    def allocate(self, holding: Holding, tokens: int) -> bool:
        """Memory for ``tokens`` more tokens of a request, in whole pages; False (and no change) if too little is free."""
        need = self._paged(holding.tokens + tokens) - self._paged(holding.tokens)
        if need > self.free_tokens:
            return False
        self.free_tokens -= need
        holding.tokens += tokens
        return True

    def insert(self, holding: Holding, tokens: int) -> None:
        """Put the whole pages among the first ``tokens`` tokens (all computed) into the tree and lock them."""
        content, counted, priority = holding.content, holding.inserted_tokens, holding.priority
        until = tokens - tokens % self.page_tokens
        top, now = holding.node, self._tick()
        self._refresh(top, now, priority, counted)
        node, at = top, top.end
        while at < until:
            child = node.children.get(self._child_key(content, at, holding.namespace))
            if child is None:
                break
            child.last_access = now
            at = self._agrees(child, content, at, until)
            node = child if at == child.end else self._split(child, at, now)
            node.hit_count += 1
            if node.priority < priority:
                node.priority = priority
        self.free_tokens += at - top.end  # what the tree had already: the request's copy goes
        if at < until:
            node = self._add_leaf(node, holding, at, until)
        prompt_end = content.prompt_tokens - content.prompt_tokens % self.page_tokens
        if 0 < prompt_end < until:
            # The answer may go before the prompt: a boundary between them, and a higher priority for the prompt.
            now = self._tick()  # the new leaf must stay later than the other half of an edge that this insertion split
            inner: Node | None = node
            while inner is not None and inner.start >= prompt_end:
                inner = inner.parent
            assert inner is not None
            if inner.end > prompt_end:
                inner = self._split(inner, prompt_end, now)
            self._refresh(inner, now, priority + 1, until)
        holding.node = node
        while node is not top:
            self._lock(node)
            assert node.parent is not None
            node = node.parent
        holding.inserted_tokens = max(counted, until)

    def release(self, holding: Holding) -> None:
        """Give back the memory that is not in the tree and unlock the rest."""
        self.free_tokens += self._paged(holding.tokens) - holding.node.end
        node: Node | None = holding.node
        while node is not None and node.parent is not None:
            node.locks -= 1
            if not node.locks:
                self.locked_tokens -= node.end - node.start
                if not node.children:
                    self._queue(node)
            node = node.parent
        holding.node = self._root
        holding.tokens = 0

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _paged(self, tokens: int) -> int:
        return -(-tokens // self.page_tokens) * self.page_tokens

    def _child_key(self, content: Content, at: int, namespace: Hashable) -> Hashable:
        key = content.block_key(at // self.page_tokens, self.page_tokens)
        return key if at else (namespace, key)

    def _agrees(self, child: Node, content: Content, at: int, limit: int) -> int:
        """Where ``content`` and an edge part, in whole pages."""
        assert child.content is not None
        end = content.agrees_until(child.content, at, child.end if child.end < limit else limit)
        return end - end % self.page_tokens

    def _refresh(self, node: Node, now: int, priority: int, counted: int) -> None:
        """What an insertion does to every node from the root down to ``node``."""
        while node.parent is not None:
            node.last_access = now
            node.hit_count += node.end > counted
            if node.priority < priority:
                node.priority = priority
            node = node.parent

    def _add_leaf(self, parent: Node, holding: Holding, start: int, end: int) -> Node:
        leaf = Node(parent, self._child_key(holding.content, start, holding.namespace), start, end, holding.content)
        # Later than the path: the other half of an edge that this insertion split is a leaf too, and older.
        leaf.last_access = leaf.created = self._tick()
        leaf.hit_count = 1
        leaf.priority = holding.priority
        leaf.origin = holding.origin
        parent.children[leaf.key] = leaf
        self._nodes += 1
        self.inserted_tokens += end - start
        self.resident_tokens += end - start
        if self._inserted_of is not None:
            self._inserted_of[holding.origin] += end - start
        return leaf

    def _split(self, tail: Node, at: int, now: int) -> Node:
        """Cut an edge at token ``at``; the existing node stays the tail, so nobody's pointers change. Returns the head."""
        content, parent = tail.content, tail.parent
        assert content is not None
        assert parent is not None
        head = Node(parent, tail.key, tail.start, at, content)
        head.locks, head.hit_count, head.priority, head.last_access = tail.locks, tail.hit_count, tail.priority, now
        head.origin, head.used, head.created = tail.origin, tail.used, tail.created if self._copies_created else now
        parent.children[tail.key] = head
        tail.parent, tail.start, tail.key = head, at, content.block_key(at // self.page_tokens, self.page_tokens)
        head.children[tail.key] = tail
        self._nodes += 1
        if not tail.locks and not tail.children:
            self._queue(tail)
        return head

    def _lock(self, node: Node) -> None:
        if not node.locks:
            self.locked_tokens += node.end - node.start
        node.locks += 1

    def _queue(self, leaf: Node) -> None:
        """(Re)enter an unlocked leaf into the eviction order under its present key."""
        self._serial += 1
        leaf.queued = self._serial
        heapq.heappush(self._heap, (self._key_of(leaf), self._serial, leaf))
        if len(self._heap) > 64 + 4 * self._nodes:
            self._heap = [entry for entry in self._heap if entry[2].queued == entry[1]]
            heapq.heapify(self._heap)

    def check(self) -> None:
        """Assert every invariant; O(everything), for tests."""
        page, resident, locked, nodes = self.page_tokens, 0, 0, 0
        queued = {entry[1]: entry for entry in self._heap}
        stack = [self._root]
        while stack:
            node = stack.pop()
            for key, child in node.children.items():
                nodes += 1
                size = child.end - child.start
                resident += size
                locked += size if child.locks else 0
                assert child.parent is node
                assert child.key == key
                assert child.start == node.end
                assert size > 0
                assert child.start % page == child.end % page == 0, (child.start, child.end)
                assert child.content is not None
                page_key = child.content.block_key(child.start // page, page)
                assert page_key == (key if child.start else key[1])  # type: ignore[index]
                assert child.locks >= sum(grandchild.locks for grandchild in child.children.values()) >= 0
                assert node is self._root or child.last_access <= node.last_access + 1, "fresher than its parent"
                if not child.locks and not child.children:
                    assert queued[child.queued] == (self._key_of(child), child.queued, child), "a leaf under an old key"
                stack.append(child)
        assert (resident, locked, nodes) == (self.resident_tokens, self.locked_tokens, self._nodes)
        assert self.inserted_tokens == resident + self.evicted_tokens
        assert self.free_tokens % page == 0
        assert 0 <= self.free_tokens <= self.capacity_tokens - resident, (self.free_tokens, resident)
