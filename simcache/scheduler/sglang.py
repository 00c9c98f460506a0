"""SGLang's scheduler over its radix tree, without a clock: prompts before decodes, in chunks, admitted by estimated memory.

Rules: order of admission and memory estimate as in sglang/srt/managers/schedule_policy.py (read); the step loop, the full flag
and retraction as its documentation and defaults describe them (not read in the source of 0.5.23). No recorded schedule of the
engine stands beside this one: it is held by an oracle written from the same rules. Overlap, mixed chunks and speculation are
not modelled. While somebody waits and the batch is not full, a step computes prompts up to the chunk size, at most one of
them cut; else everybody decodes. The batch is full when a seat or the estimated memory is missing, and until somebody leaves.
Estimated memory: what is free or evictable, less what running requests are expected to generate still (their remaining output,
at most 4,096 tokens, times a ratio that starts at 0.7, falls to 0.098 within 600 decode steps and is set anew after a
retraction). Order of admission: first come first served, or longest prefix match, which falls back to the order of the queue
above 128 waiting; there, of requests with little in the tree that share 32 tokens, one goes first and the others last. Prompts
become hit-able when computed. A decode step that finds no memory retracts the requests with the least output (longest prompt
first): their decoded tokens are lost, they queue again at the end. The engine knows each output's length as its limit.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from typing import Final, Literal

from ..cache.radix_tree import Holding, RadixTree
from ..errors import require_count
from . import DECODE, GONE, PREFILL, WAITING, LiveRequest, Plan, TimelessStore
from .prefix_order import sort_by_prefix

Policy = Literal["fcfs", "lpm"]

LONGEST_SORTED_QUEUE: Final = 128
MOST_EXPECTED_TOKENS: Final = 4096  # SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION
FIRST_RATIO: Final = 0.7  # SGLANG_INIT_NEW_TOKEN_RATIO, at conservativeness 1
LAST_RATIO: Final = 0.7 * 0.14  # SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR
RATIO_STEPS: Final = 600  # SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS
RETRACT_STEPS: Final = 20  # SGLANG_RETRACT_DECODE_STEPS


class SglangScheduler(TimelessStore):
    """One replica's scheduler; ``max_num_batched_tokens`` is the chunk size of prefills, the tree's page the unit of memory;
    ``caching`` False: nobody hits.

    >>> from simcache.prompt import Request, Segment
    >>> scheduler = SglangScheduler(RadixTree(1, 1000))
    >>> scheduler.add(LiveRequest(Request(0.0, (Segment("doc", 100),), Segment("a", 3)), 0))
    True
    >>> scheduler.schedule().new_tokens
    100
    """

    at_schedule = False
    loading: Sequence[LiveRequest] = ()
    landed: Sequence[LiveRequest] = ()

    def __init__(
        self,
        tree: RadixTree,
        *,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 8192,
        policy: Policy = "fcfs",
        caching: bool = True,
    ) -> None:
        require_count("max_num_batched_tokens", max_num_batched_tokens, at_least=tree.page_tokens)
        self.tree = tree
        self.caching = caching
        self.block_tokens = tree.page_tokens
        self.blocks = tree.capacity_tokens // tree.page_tokens
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.longest_prefix_first = policy == "lpm"
        self.step = 0
        self.waiting: list[LiveRequest] = []
        self.running: dict[LiveRequest, None] = {}
        self._cut: LiveRequest | None = None  # the request whose prompt is not done
        self._full = False
        self._ratio = FIRST_RATIO  # when it was last set; it has fallen for _ratio_turns decode steps since
        self._ratio_turns = 0
        self._turn = 0  # decode steps so far
        self._decodes = 0
        self._kv_base = 0  # decodes read _kv_base + _decodes*turn tokens
        self._phases = [0] * self.block_tokens  # how many decodes need a page at turns with turn % page == index
        self._finishes: list[tuple[int, int, LiveRequest]] = []
        self._admissions = 0
        self._head: LiveRequest | None = None  # whom every step of the plan under way looks up, and does not admit
        self._plan: Plan | None = None

    @property
    def held_blocks(self) -> int:
        """Pages that running requests hold or lock."""
        return self.blocks - (self.tree.free_tokens + self.tree.evictable_tokens) // self.block_tokens

    # -- who comes and goes ------------------------------------------------------------------------------------------------

    def add(self, live: LiveRequest, namespace: Hashable = None) -> bool:
        """Queue a request; False: prompt, answer and a page to spare are more than the memory."""
        if live.prompt_tokens + live.output_tokens + self.block_tokens >= self.tree.capacity_tokens:
            live.state = GONE
            return False
        live.root = (namespace if self.caching else ("alone", live.row),)
        self.waiting.append(live)
        return True

    def matters(self, live: LiveRequest) -> bool:
        """Whether a request just added can change the plan under way at its next step boundary."""
        if self._plan is None:
            return False
        if self._cut is not None:  # nobody is admitted beside a whole chunk, but the head of the queue is looked up
            return self.longest_prefix_first or self.waiting[0] is live
        return not self._full and self._decodes < self.max_num_seqs

    def abort(self, live: LiveRequest) -> bool:
        """Give a request up between two plans; what was computed stays hit-able. True: it can let others in."""
        if live.state == GONE:
            return False
        if live.state == WAITING:
            self.waiting.remove(live)
            live.state = GONE
            return live is self._head
        self._leave(live, self._computed(live))
        return True

    # -- one step ----------------------------------------------------------------------------------------------------------

    def schedule(self) -> Plan:
        """Decide the next step: prompts if any may be computed, else decodes; say for how many steps the batch stays the same."""
        plan = self._plan = Plan()
        self._head = None
        if self._cut is not None or (self.waiting and not self._full):
            self._compute_prompts(plan)
        if not plan.chunks and self._decodes:
            self._decode(plan)
        return plan

    def _compute_prompts(self, plan: Plan) -> None:
        tree, page = self.tree, self.block_tokens
        seats = self.max_num_seqs - self._decodes
        if seats <= 0 and self._cut is None:
            self._full = True
            return
        if self.longest_prefix_first and len(self.waiting) <= LONGEST_SORTED_QUEUE:
            sort_by_prefix(self.waiting, tree)
        left = self.max_num_batched_tokens
        promised = self._expected_tokens()
        fresh = 0  # tokens of memory that this step's prompts ask for
        if self._cut is not None:
            live, self._cut = self._cut, None
            left, promised, fresh = self._chunk(plan, live, left, promised, fresh)
        admitted = 0
        for live in self.waiting:
            if len(plan.chunks) >= seats:
                self._full = True
                break
            (namespace,) = live.root
            target = live.target
            match = tree.match(live.content, namespace, target - 1)
            expected = min(max(live.output_tokens - live.sampled, 0), MOST_EXPECTED_TOKENS)
            room = tree.free_tokens + tree.evictable_tokens - tree.unlocked_tokens(match.node) - promised
            if target - match.tokens + expected + page >= room:
                self._full = True
                break
            if self._paged(target - match.tokens) > left and left < page:
                break
            admitted += 1
            self._seat(plan, live, tree.hold(live.content, namespace, tokens=target - 1, origin=live.row, user=live.user))
            left, promised, fresh = self._chunk(plan, live, left, promised, fresh)
            if tree.free_tokens + tree.evictable_tokens - promised <= 0:
                self._full = True
            if self._full or left <= 0:
                break
        del self.waiting[:admitted]
        if plan.chunks:
            tree.make_room(fresh + (page * len(plan.chunks) if page > 1 else 0))
            for live in plan.chunks:
                taken = tree.allocate(live.holding, live.scheduled)
                assert taken, "admission looked for room"
            if self._cut is not None and len(plan.chunks) == 1 and not (self.longest_prefix_first and self.waiting):
                # A prompt has the whole chunk until no more than one is left of it. (A queue under longest prefix match is
                # sorted at every step, by what the chunks before left in the tree: there no step lasts.)
                count = self._cut.scheduled
                plan.steps = -(-(self._cut.target - self._cut.computed) // count) - 1
                plan.attention_growth = 2 * count * count
                self._head = self.waiting[0] if self.waiting and seats > 1 else None

    def _chunk(self, plan: Plan, live: LiveRequest, left: int, promised: float, fresh: int) -> tuple[int, float, int]:
        """Schedule what fits of a prompt; returns what is left of the budget, of the memory's promises, and asked of memory."""
        page = self.block_tokens
        rest = live.target - live.computed
        if self._paged(rest) <= left:
            count, expected = rest, min(max(live.output_tokens - live.sampled, 0), MOST_EXPECTED_TOKENS)
        else:
            count, expected = left // page * page, 0
            self._cut = live
        live.scheduled = count
        plan.chunks.append(live)
        plan.new_tokens += count
        plan.attention += count * (2 * live.computed + count)
        paged = self._paged(count)
        return left - paged, promised + paged + expected + page, fresh + count

    def _seat(self, plan: Plan, live: LiveRequest, holding: Holding) -> None:
        live.holding = holding
        live.computed = holding.hit_tokens
        live.state = PREFILL
        live.order = self._admissions
        self._admissions += 1
        self.running[live] = None
        if live.hit_tokens is None:
            live.hit_tokens = holding.hit_tokens
            live.first_scheduled_step = self.step
        else:
            live.resume_hit_tokens.append(holding.hit_tokens)
        plan.admitted.append(live)

    def _expected_tokens(self) -> float:
        """What running requests are expected to generate still."""
        tokens = 0
        for live in self.running:
            if live.state == DECODE:
                tokens += min(live.output_tokens - self.generated_tokens(live), MOST_EXPECTED_TOKENS)
        fall = (FIRST_RATIO - LAST_RATIO) / RATIO_STEPS
        return tokens * max(self._ratio - fall * self._ratio_turns, LAST_RATIO)

    def _decode(self, plan: Plan) -> None:
        tree, page, turn = self.tree, self.block_tokens, self._turn
        tree.make_room(self._phases[turn % page] * page)
        if tree.free_tokens < self._phases[turn % page] * page:
            self._retract(plan)
        else:
            self._ratio_turns += 1
        tree.make_room(self._decodes * page)  # the engine wants a whole page for everybody, needed or not
        tree.free_tokens -= self._phases[turn % page] * page
        plan.decodes = self._decodes
        plan.kv_tokens = self._kv_base + self._decodes * turn
        finishes = self._finishes
        while finishes[0][2].state != DECODE or finishes[0][2].order != finishes[0][1]:
            heapq.heappop(finishes)  # retracted or aborted since
        if self._full or not self.waiting:  # else the next step looks at the queue again
            plan.steps = self._lasting(finishes[0][0] - turn + 1)

    def _lasting(self, most: int) -> int:
        """The steps, from 1 to ``most``, before each of which (but the first) nothing has to be evicted."""
        spare = self.tree.free_tokens - self._decodes * self.block_tokens
        low, high = 1, most
        while low < high:  # the steps in between grow monotonously
            middle = (low + high + 1) // 2
            if self._growth(middle - 1) <= spare:
                low = middle
            else:
                high = middle - 1
        return low

    def _growth(self, steps: int) -> int:
        """Tokens of memory that steps 2..``steps`` of the plan under way take."""
        page = self.block_tokens
        cycles, extra = divmod(max(steps - 1, 0), page)
        pages = cycles * self._decodes
        for i in range(self._turn + 1, self._turn + 1 + extra):
            pages += self._phases[i % page]
        return pages * page

    def _retract(self, plan: Plan) -> None:
        tree, page, turn = self.tree, self.block_tokens, self._turn
        lives = [live for live in self.running if live.state == DECODE]
        lives.sort(key=lambda live: (-self.generated_tokens(live), live.prompt_tokens))
        while len(lives) > 1:
            live = lives.pop()
            live.sampled = self.generated_tokens(live)
            self._stop_decoding(live)
            del self.running[live]
            live.holding.tokens = live.prompt_tokens + live.sampled - 1
            tree.release(live.holding)
            tree.make_room(len(lives) * RETRACT_STEPS)
            live.holding = None
            live.state = WAITING
            live.computed = 0
            live.preemptions += 1
            plan.preempted.append(live)
            self.waiting.append(live)
            need = self._phases[turn % page] * page
            tree.make_room(need)
            if tree.free_tokens >= need:
                break
        generated = sum(map(self.generated_tokens, lives))
        limits = sum(live.output_tokens for live in lives)
        self._ratio = min(1.0, (generated + RETRACT_STEPS * len(lives)) / (limits + 1))
        self._ratio_turns = 0
        self._full = False

    def advance(self, steps: int) -> tuple[list[LiveRequest], list[LiveRequest]]:
        """Execute ``steps`` of the plan. Returns who got a first token and who finished at its end, in order of admission."""
        plan = self._plan
        assert plan is not None
        assert 1 <= steps <= plan.steps
        last = self.step + steps - 1
        first_tokens: list[LiveRequest] = []
        finished: list[LiveRequest] = []
        if plan.decodes:
            self.tree.free_tokens -= self._growth(steps)
            self._turn += steps
            self._ratio_turns += steps - 1
            finishes = self._finishes
            while finishes and finishes[0][0] < self._turn:
                _, order, live = heapq.heappop(finishes)
                if live.state == DECODE and live.order == order:
                    finished.append(live)
        self.step = last + 1
        self._plan = None
        if plan.chunks and not self._decodes:
            self._full = False  # a new batch
        if plan.chunks and steps > 1:
            self._repeat_chunk(plan.chunks[0], steps - 1)
        for live in plan.chunks:
            live.computed += live.scheduled
            live.scheduled = 0
            if live is self._cut:
                self.tree.insert(live.holding, live.computed)
                self._full = False
                continue
            live.sampled += 1
            if live.sampled == 1:
                live.first_token_step = last
                first_tokens.append(live)
            if live.sampled < live.output_tokens:
                self.tree.insert(live.holding, live.computed)
                self._start_decoding(live)
            else:
                finished.append(live)
        for live in finished:
            live.finish_step = last
            self._leave(live, live.prompt_tokens + max(0, live.output_tokens - 1))
        if not self.running and not self.waiting:
            self._ratio, self._ratio_turns = FIRST_RATIO, 0
        return first_tokens, finished

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _repeat_chunk(self, live: LiveRequest, times: int) -> None:
        """End so many steps that compute an equal chunk and begin the next: what they do to the tree, one after the other."""
        tree, page, head = self.tree, self.block_tokens, self._head
        for _ in range(times):
            live.computed += live.scheduled
            tree.insert(live.holding, live.computed)
            if head is not None:
                (namespace,) = head.root
                tree.match(head.content, namespace, head.target - 1)
            tree.make_room(live.scheduled + (page if page > 1 else 0))
            taken = tree.allocate(live.holding, live.scheduled)
            assert taken, "admission looked for room"

    def _paged(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens) * self.block_tokens

    def _computed(self, live: LiveRequest) -> int:
        return live.computed + self._turn - live.since if live.state == DECODE else live.computed

    def _start_decoding(self, live: LiveRequest) -> None:
        live.state = DECODE
        live.since = self._turn
        self._decodes += 1
        self._kv_base += live.computed - live.since
        self._phases[(live.since - live.computed) % self.block_tokens] += 1
        heapq.heappush(self._finishes, (self._turn + live.output_tokens - live.sampled - 1, live.order, live))

    def _stop_decoding(self, live: LiveRequest) -> None:
        self._decodes -= 1
        self._kv_base -= live.computed - live.since
        self._phases[(live.since - live.computed) % self.block_tokens] -= 1

    def _leave(self, live: LiveRequest, computed: int) -> None:
        """Take ``live`` out; what it computed stays in the tree."""
        if live.state == DECODE:
            self._stop_decoding(live)
        elif live is self._cut:
            self._cut = None
        del self.running[live]
        live.holding.tokens = computed
        self.tree.insert(live.holding, computed)
        self.tree.release(live.holding)
        live.holding = None
        live.state = GONE
        self._full = False

    # -- what others ask ---------------------------------------------------------------------------------------------------

    def generated_tokens(self, live: LiveRequest) -> int:
        """Output tokens sampled so far."""
        if live.state == DECODE:
            return self._computed(live) - live.prompt_tokens + 1
        return live.output_tokens if live.finish_step is not None else live.sampled

    def peek(self, live: LiveRequest, namespace: Hashable) -> int:
        """Hit tokens of a request that would be admitted now. Changes nothing."""
        return self.tree.peek(live.content, namespace, live.prompt_tokens - 1) if self.caching else 0

    def shortage(self) -> str:
        return f"{self.tree.free_tokens} of {self.tree.capacity_tokens} tokens are free"
