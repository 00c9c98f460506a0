"""What SGLang's tree keeps of a node, and the eviction orders over it (evict_policy.py, version 0.5.23)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any, Final, Literal

from .content import Content


class Node:
    """Tokens [start, end) of one content, reached through ``parent``; what the eviction policies read.

    ``priority`` is SGLang's: the larger, the longer it stays. ``hit_count`` counts insertions that reached this node, not matches.
    """

    __slots__ = (
        "children",
        "content",
        "created",
        "end",
        "hit_count",
        "key",
        "last_access",
        "locks",
        "origin",
        "parent",
        "priority",
        "queued",
        "start",
        "used",
    )

    def __init__(self, parent: Node | None, key: Hashable, start: int, end: int, content: Content | None) -> None:
        self.parent = parent
        self.key = key
        self.start = start
        self.end = end
        self.content = content
        self.children: dict[Hashable, Node] = {}
        self.locks = 0
        self.last_access = 0
        self.created = 0
        self.hit_count = 0
        self.priority = 0
        self.origin = -1
        self.used = False
        self.queued = -1  # serial number of its latest entry in the heap


SplitCreated = Literal["copied", "now"]
"""Creation time of the head of a split edge: the edge's own (UnifiedRadixCache, the default) or the present (RadixCache)."""

Policy = Callable[[Node], Any]
"""The eviction order as a key: the unlocked leaf with the smallest key goes first (then the one queued first)."""

POLICIES: Final[dict[str, Policy]] = {
    "lru": attrgetter("last_access"),
    "lfu": attrgetter("hit_count", "last_access"),
    "fifo": attrgetter("created"),
    "mru": lambda node: -node.last_access,
    "filo": lambda node: -node.created,
    "slru": lambda node: (node.hit_count >= 2, node.last_access),
    "priority": attrgetter("priority", "last_access"),
}
