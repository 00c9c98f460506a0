"""llama.cpp's server loop over its slots, without a clock.

Rules read in tools/server/server-context.cpp (as vendored by llama_cpp_python 0.3.36) and confirmed in the log of a running
server: a request takes an idle slot at once or waits, first come first served, until one is free, and only then looks for a
similar one. Each slot that is released calls the next of those who found all slots busy to the front of the queue, so of slots
released in one iteration the last to be called chooses first. Each iteration computes one token per decoding slot, then prompt
tokens of the other slots in the order of their indices, up to ``n_batch``; prompts that end in one iteration get their first
token together. A request keeps its slot to its end: nothing is preempted. Prompts too long for a slot are refused, answers end
where the slot does, and ``n_predict`` 0 generates one token, as 1 does.

An iteration is computed in micro-batches (``n_ubatch``), which nobody outside can see: profiles are fitted on what whole
prompts take, so an iteration is charged as one step. Charging base and short-chunk attention per micro-batch changes the
recorded prompts of 513..1087 tokens from +2.5 % to -2.8 %. Prompts of several slots are cut to parts of equal length (the
micro-batches of a cache with one stream per slot): two short ones attend as short chunks, however many tokens they are together.
Two of 24 and 59 tokens behind 1,057 and 1,347 took 191 ms; as one chunk of 83 they would take 114.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence

from ..cache.slots import Slots
from ..errors import require_count
from . import DECODE, GONE, PREFILL, WAITING, LiveRequest, Plan, TimelessStore


class LlamaCppScheduler(TimelessStore):
    """One server over its ``slots``; ``max_num_batched_tokens`` is ``n_batch``; ``caching`` False: nobody hits.

    >>> from simcache.prompt import Request, Segment
    >>> scheduler = LlamaCppScheduler(Slots(2))
    >>> scheduler.add(LiveRequest(Request(0.0, (Segment("doc", 3000),), Segment("a", 3)), 0))
    True
    >>> scheduler.schedule().new_tokens
    2048
    """

    at_schedule = False
    loading: Sequence[LiveRequest] = ()
    landed: Sequence[LiveRequest] = ()
    block_tokens = 1

    def __init__(self, slots: Slots, *, max_num_batched_tokens: int = 2048, caching: bool = True) -> None:
        require_count("max_num_batched_tokens", max_num_batched_tokens, at_least=len(slots.slots))
        self.slots = slots
        self.caching = caching
        self.max_num_batched_tokens = max_num_batched_tokens
        self.step = 0
        self.waiting: deque[LiveRequest] = deque()
        self.running: dict[LiveRequest, None] = {}
        self._of_slot: list[LiveRequest | None] = [None] * len(slots.slots)
        self._plan: Plan | None = None
        self._turned_away = 0  # of those waiting, from the head: found all slots busy

    @property
    def blocks(self) -> int:
        """Tokens that all slots hold together; 0: no limit."""
        return (self.slots.slot_tokens or 0) * len(self._of_slot)

    @property
    def held_blocks(self) -> int:
        return sum(live.computed for live in self.running)

    # -- who comes and goes ------------------------------------------------------------------------------------------------

    def add(self, live: LiveRequest, namespace: Hashable = None) -> bool:
        """Queue a request; False: its prompt is too long for a slot (the server answers HTTP 400)."""
        if not self.slots.fits(live.content):
            live.state = GONE
            return False
        if self.slots.slot_tokens is not None:  # the token that ends the answer has no KV
            live.output_tokens = min(live.output_tokens, self.slots.slot_tokens - live.prompt_tokens + 1)
        live.root = (namespace if self.caching else ("alone", live.row),)
        self.waiting.append(live)
        return True

    def matters(self, live: LiveRequest) -> bool:
        """Whether a request just added can change the plan under way: if a slot is idle, or if one of several slots that are
        released together may call it, which it may only once an iteration has turned it away."""
        slots = len(self._of_slot)
        return self._plan is not None and (len(self.running) < slots or 1 < len(self.waiting) <= slots)

    def abort(self, live: LiveRequest) -> bool:
        """Give a request up between two plans; what its slot computed stays. True: it can let others in."""
        if live.state == GONE:
            return False
        if live.state == WAITING:
            self._turned_away -= self.waiting.index(live) < self._turned_away
            self.waiting.remove(live)
            live.state = GONE
            return False
        self._leave(live)
        return True

    # -- one iteration -----------------------------------------------------------------------------------------------------

    def schedule(self) -> Plan:
        """Decide the next iteration: idle slots take waiting requests; say for how many iterations the batch stays the same."""
        plan = self._plan = Plan()
        self._take_slots(plan)
        left = self.max_num_batched_tokens
        rest = 0
        for live in self._of_slot:
            if live is not None and live.state == DECODE:
                plan.decodes += 1
                plan.kv_tokens += live.computed
                tokens = live.output_tokens - live.sampled
                rest = min(rest, tokens) if rest else tokens
        left -= plan.decodes
        for live in self._of_slot:
            if live is not None and live.state == PREFILL and left:
                live.scheduled = count = min(live.prompt_tokens - live.computed, left)
                left -= count
                plan.chunks.append(live)
                plan.new_tokens += count
                plan.attention += count * (2 * live.computed + count)
        if not plan.chunks:
            plan.steps = rest or 1
        elif len(plan.chunks) > 1:
            plan.micro_batches = _equal_parts(plan.chunks)
        return plan

    def _take_slots(self, plan: Plan) -> None:
        while self.waiting:
            live = self.waiting[0]
            (namespace,) = live.root
            index = self.slots.choose(live.content, namespace)
            if index is None:
                break
            self.waiting.popleft()
            live.computed = live.hit_tokens = self.slots.start(index, live.content, namespace, origin=live.row, user=live.user)
            live.holding = index
            live.state = PREFILL
            live.order = index
            live.first_scheduled_step = self.step
            self._of_slot[index] = live
            self.running[live] = None
            plan.admitted.append(live)
        self._turned_away = len(self.waiting)

    def advance(self, steps: int) -> tuple[list[LiveRequest], list[LiveRequest]]:
        """Execute ``steps`` of the plan. Returns who got a first token and who finished at its end, in the order of slots."""
        plan = self._plan
        assert plan is not None
        assert 1 <= steps <= plan.steps
        self._plan = None
        last = self.step + steps - 1
        self.step = last + 1
        first_tokens: list[LiveRequest] = []
        finished: list[LiveRequest] = []
        for live in list(self._of_slot):
            if live is None:
                continue
            if live.state == DECODE:
                live.computed += steps
                live.sampled += steps
            else:
                live.computed += live.scheduled
                live.scheduled = 0
                if live.computed < live.prompt_tokens:
                    continue
                live.state = DECODE
                live.sampled = 1
                live.first_token_step = last
                first_tokens.append(live)
            if live.sampled >= live.output_tokens:
                live.finish_step = last
                finished.append(live)
                self._leave(live)
        called = min(len(finished), self._turned_away)
        self.waiting.extendleft([self.waiting.popleft() for _ in range(called)])  # the one called last stands in front
        return first_tokens, finished

    def _leave(self, live: LiveRequest) -> None:
        self.slots.release(live.holding, live.computed, origin=live.row)
        self._of_slot[live.holding] = None
        del self.running[live]
        live.state = GONE

    # -- what others ask ---------------------------------------------------------------------------------------------------

    def generated_tokens(self, live: LiveRequest) -> int:
        """Output tokens sampled so far."""
        return min(live.sampled, live.output_tokens)

    def peek(self, live: LiveRequest, namespace: Hashable) -> int:
        """Hit tokens of a request that took the best idle slot now; none is idle: 0. Changes nothing."""
        index = self.slots.choose(live.content, namespace) if self.caching else None
        return 0 if index is None else self.slots.peek(index, live.content, namespace)

    def shortage(self) -> str:
        return f"{len(self.running)} of {len(self._of_slot)} slots are busy"


def _equal_parts(chunks: list[LiveRequest]) -> list[tuple[int, int]]:
    """(tokens of each chunk, sum n*(2c + n)) while all go on, then while all but the shortest do, and so on."""
    parts, done = [], 0
    for length in sorted({live.scheduled for live in chunks}):
        each = length - done
        starts = [live.computed + done for live in chunks if live.scheduled >= length]
        parts.append((each, sum(each * (2 * start + each) for start in starts)))
        done = length
    return parts
