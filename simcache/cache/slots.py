"""llama.cpp's slots: each keeps the tokens of its last prompt and answer, exactly to the token; nothing is shared.

What is reproduced (tools/server/server-context.cpp, ``get_available_slot`` and prompt reuse, as vendored by
llama_cpp_python 0.3.36; host prompt cache off): among idle slots the one with the longest common prefix, if that is more than
``slot_similarity`` of the new prompt (ties: the lowest index), else the one released longest ago (never used: the highest
index); the common prefix stays, the rest of the slot is dropped; at least one prompt token is computed again.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable
from typing import NamedTuple

from ..errors import require_count, require_number
from ..prompt import Request
from .content import Content


class Slot:
    """One context: the first ``tokens`` tokens of ``content`` have KV; ``pieces`` says who computed them, head first."""

    __slots__ = ("busy", "content", "last_used", "namespace", "pieces", "tokens")

    def __init__(self) -> None:
        self.busy = False
        self.last_used = -1
        self.namespace: Hashable = None
        self.content: Content | None = None
        self.tokens = 0
        self.pieces: list[tuple[int, int, bool]] = []  # (end, origin, used)


class Slots:
    """``slots`` contexts of ``slot_tokens`` tokens each (None: no limit). Times of use come from a counter.

    A scheduler calls ``choose``, ``start``, and ``release`` with the number of tokens that have KV. ``slot_similarity`` 0
    switches the search for a similar slot off. ``used_tokens[origin]``, ``inserted_tokens[origin]`` and
    ``dropped_tokens[origin]`` (arrays indexed by the requests' rows) are credited when given, ``used_by_row[origin]`` (negative:
    nobody yet) is set to the first user request that hit. Raises InputError for impossible sizes.

    >>> from simcache.prompt import Segment
    >>> slots, ask = Slots(2), Content((Segment("doc", 300),), Segment("a", 1))
    >>> slots.start(slots.choose(ask, None), ask, None)
    0
    """

    def __init__(
        self,
        slots: int = 1,
        *,
        slot_similarity: float = 0.1,
        slot_tokens: int | None = None,
        used_tokens: array[int] | None = None,
        inserted_tokens: array[int] | None = None,
        used_by_row: array[int] | None = None,
        dropped_tokens: array[int] | None = None,
    ) -> None:
        require_count("slots", slots)
        require_number("slot_similarity", slot_similarity, at_least=0, at_most=1)
        if slot_tokens is not None:
            require_count("slot_tokens", slot_tokens, at_least=0)
        self.slots = [Slot() for _ in range(slots)]
        self.slot_similarity = slot_similarity
        self.slot_tokens = slot_tokens
        self.inserted_tokens = 0  # so far
        self.evicted_tokens = 0  # so far
        self._clock = 0
        self._used_of = used_tokens
        self._inserted_of = inserted_tokens
        self._used_by_row = used_by_row
        self._dropped_of = dropped_tokens

    def fits(self, content: Content) -> bool:
        """Whether a slot can hold the prompt and one token more; the server answers HTTP 400 where it cannot."""
        return self.slot_tokens is None or content.prompt_tokens < self.slot_tokens

    def choose(self, content: Content, namespace: Hashable) -> int | None:
        """Index of the idle slot that the server would give this prompt; None: all are busy. Changes nothing."""
        similar, most = None, 0
        oldest, since = None, 0
        for index, slot in enumerate(self.slots):
            if slot.busy:
                continue
            shared = self._shared(slot, content, namespace) if self.slot_similarity else 0
            if shared > most and shared / content.prompt_tokens > self.slot_similarity:
                similar, most = index, shared
            if oldest is None or slot.last_used <= since:
                oldest, since = index, slot.last_used
        return oldest if similar is None else similar

    def start(self, index: int, content: Content, namespace: Hashable, *, origin: int = -1, user: bool = True) -> int:
        """Give an idle slot to a request: keeps the common prefix, drops the rest; returns hit tokens."""
        slot = self.slots[index]
        assert not slot.busy, index
        hit = self.peek(index, content, namespace)
        kept, start = [], 0
        for end, computed_by, used in slot.pieces:
            stop = min(end, hit)
            if self._dropped_of is not None and not used:
                self._dropped_of[computed_by] += end - max(start, stop)
            if start < hit:
                if user and not used and computed_by != origin:
                    used = True
                    if self._used_of is not None:
                        self._used_of[computed_by] += stop - start
                    if self._used_by_row is not None and self._used_by_row[computed_by] < 0:
                        self._used_by_row[computed_by] = origin
                kept.append((stop, computed_by, used))
            start = end
        self.evicted_tokens += slot.tokens - hit
        slot.busy, slot.namespace, slot.content, slot.tokens, slot.pieces = True, namespace, content, hit, kept
        return hit

    def release(self, index: int, tokens: int, *, origin: int = -1) -> None:
        """The slot is idle again and its first ``tokens`` tokens have KV (the last sampled token never has)."""
        slot = self.slots[index]
        assert slot.busy, index
        assert slot.content is not None
        assert slot.tokens <= tokens <= (slot.content.ends[-1] if slot.content.ends else 0), (slot.tokens, tokens)
        if tokens > slot.tokens:
            slot.pieces.append((tokens, origin, False))
            self.inserted_tokens += tokens - slot.tokens
            if self._inserted_of is not None:
                self._inserted_of[origin] += tokens - slot.tokens
        self._clock += 1
        slot.busy, slot.tokens, slot.last_used = False, tokens, self._clock

    def peek(self, index: int, content: Content, namespace: Hashable) -> int:
        """Tokens that ``start`` would find in a slot; changes nothing."""
        return min(self._shared(self.slots[index], content, namespace), max(content.prompt_tokens - 1, 0))

    def _shared(self, slot: Slot, content: Content, namespace: Hashable) -> int:
        most = min(slot.tokens, content.prompt_tokens)
        if not most or slot.namespace != namespace:
            return 0
        assert slot.content is not None
        return content.agrees_until(slot.content, 0, most)

    def check(self) -> None:
        """Assert every invariant; for tests."""
        resident = 0
        for slot in self.slots:
            resident += slot.tokens
            assert self.slot_tokens is None or slot.tokens <= self.slot_tokens
            ends = [end for end, _, _ in slot.pieces]
            assert ends == sorted(set(ends)), "pieces in order, none empty"
            assert (ends[-1] if ends else 0) == slot.tokens
            assert slot.tokens == 0 or slot.content is not None
        assert self.inserted_tokens == resident + self.evicted_tokens
        used = [slot.last_used for slot in self.slots if slot.last_used >= 0]
        assert len(used) == len(set(used))


class SequentialReplay(NamedTuple):
    """Per request, in order: hit tokens (-1: too long for a slot), tokens dropped from its slot, the slot's index (-1: none)."""

    hit_tokens: list[int]
    evicted_tokens: list[int]
    slot: list[int]


def replay_sequential(
    requests: Iterable[Request], *, slots: int = 1, slot_similarity: float = 0.1, slot_tokens: int | None = None
) -> SequentialReplay:
    """One request at a time through the slots, clock-free: the order of the requests is the order in which they are served.

    With one slot that is the order of arrival, whatever overlaps: the server queues first in, first out. A request too long for
    a slot is refused before it touches one; an answer is cut where the slot ends.

    >>> from simcache.prompt import Segment
    >>> first = Request(0.0, (Segment("sys", 90), Segment("q", 10)), Segment("a", 5))
    >>> then = Request(1.0, (*first.prompt, Segment("a", 5), Segment("r", 10)), Segment("b", 5))
    >>> replay_sequential([first, then]).hit_tokens
    [0, 104]
    """
    store = Slots(slots, slot_similarity=slot_similarity, slot_tokens=slot_tokens)
    replay = SequentialReplay([], [], [])
    for request in requests:
        content = Content(request.prompt, request.output)
        namespace = (request.organisation, request.salt)
        before = store.evicted_tokens
        hit = index = -1
        if store.fits(content):
            chosen = store.choose(content, namespace)
            assert chosen is not None, "one at a time: some slot is idle"
            index, hit = chosen, store.start(chosen, content, namespace)
            computed = content.prompt_tokens + max(0, request.output.tokens - 1)
            store.release(index, computed if slot_tokens is None else min(computed, slot_tokens))
        replay.hit_tokens.append(hit)
        replay.evicted_tokens.append(store.evicted_tokens - before)
        replay.slot.append(index)
    return replay
