"""One request at a time through a radix tree, clock-free."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..prompt import Request
from .content import Content
from .radix_policies import Policy, SplitCreated
from .radix_tree import Holding, RadixTree


class SequentialReplay(NamedTuple):
    """Per request, in order: hit tokens (-1: its prompt can never fit and was not admitted), tokens evicted while it was served."""

    hit_tokens: list[int]
    evicted_tokens: list[int]


def replay_sequential(
    requests: Iterable[Request],
    *,
    capacity_tokens: int,
    page_tokens: int = 1,
    policy: str | Policy = "lru",
    split_created: SplitCreated = "copied",
) -> SequentialReplay:
    """One request at a time through the tree, clock-free: match, allocate, insert after prefill, decode, insert, release.

    A prompt that exceeds the capacity is refused before it touches the tree, an answer is cut where the memory ends, as the
    server does both on intake. A smaller ``Request.priority`` is more urgent and becomes a larger priority in the tree.

    >>> from simcache.prompt import Segment
    >>> ask = Request(0.0, (Segment("doc", 100),), Segment("a", 1))
    >>> replay_sequential([ask, ask], capacity_tokens=128).hit_tokens
    [0, 99]
    """
    tree = RadixTree(page_tokens, capacity_tokens, policy, split_created=split_created)
    hits: list[int] = []
    evicted: list[int] = []
    for request in requests:
        content = Content(request.prompt, request.output)
        prompt_tokens = content.prompt_tokens
        if prompt_tokens > tree.capacity_tokens:
            hits.append(-1)
            evicted.append(0)
            continue
        decoded_tokens = min(max(0, request.output.tokens - 1), tree.capacity_tokens - prompt_tokens)
        before = tree.evicted_tokens
        holding = tree.hold(content, (request.organisation, request.salt), priority=-request.priority)
        missing = prompt_tokens - holding.hit_tokens
        # Paged prefill asks for a page more than it may need (allocation.py, alloc_paged_token_slots_extend).
        tree.make_room(missing + (page_tokens if page_tokens > 1 else 0))
        tree.allocate(holding, missing)
        if decoded_tokens:
            tree.insert(holding, prompt_tokens)
            _decode(tree, holding, decoded_tokens)
        tree.insert(holding, prompt_tokens + decoded_tokens)
        tree.release(holding)
        hits.append(holding.hit_tokens)
        evicted.append(tree.evicted_tokens - before)
    return SequentialReplay(hits, evicted)


def _decode(tree: RadixTree, holding: Holding, tokens: int) -> None:
    """``tokens`` decode steps of one request alone; each wants a whole page free first, even inside a page."""
    page = tree.page_tokens
    while tokens:
        tree.make_room(page)
        inside = -holding.tokens % page
        # Up to the first token of the last page that is free now: the step after it makes room again.
        count = min(tokens, inside if inside else max(tree.free_tokens - page, 0) + 1)
        allocated = tree.allocate(holding, count)
        assert allocated, "nothing else runs: what is not this request's can be evicted"
        tokens -= count
