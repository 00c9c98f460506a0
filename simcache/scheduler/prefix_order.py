"""SGLang's order of a queue under longest prefix match: most in the tree first, of those who share a beginning one.

As in sglang/srt/managers/schedule_policy.py of 0.5.23.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from ..cache.radix_tree import RadixTree
from . import LiveRequest

LITTLE_IN_THE_TREE_TOKENS: Final = 32  # IN_BATCH_PREFIX_CACHING_CHECK_THRESHOLD
SHARED_IN_THE_QUEUE_TOKENS: Final = 32  # IN_BATCH_PREFIX_CACHING_DEPRIORITIZE_THRESHOLD


def sort_by_prefix(waiting: list[LiveRequest], tree: RadixTree) -> None:
    """Longest prefix in the tree first; of those with little there, all but the first that share a beginning go last.

    Looking up refreshes what is found, as the engine's does.

    >>> from ..prompt import Request, Segment
    >>> asks = [LiveRequest(Request(0.0, (Segment("doc", 64), Segment(i, 9)), Segment("a", 1)), i) for i in range(2)]
    >>> asks.append(LiveRequest(Request(0.0, (Segment("other", 64),), Segment("a", 1)), 2))
    >>> for ask in asks: ask.root = (None,)
    >>> sort_by_prefix(asks, RadixTree(1, 1000)); [ask.row for ask in asks]
    [0, 2, 1]
    """
    places: dict[LiveRequest, float] = {}
    beginnings: dict[Hashable, None] = {}
    shared = SHARED_IN_THE_QUEUE_TOKENS
    for live in waiting:
        (namespace,) = live.root
        target = live.target
        found = tree.match(live.content, namespace, target).tokens
        places[live] = -min(found, target - 1)
        if found <= LITTLE_IN_THE_TREE_TOKENS and target >= shared:
            beginning = (namespace, live.content.block_key(0, shared))
            if beginning in beginnings:
                places[live] = 1
            else:
                beginnings[beginning] = None
    waiting.sort(key=places.__getitem__)
