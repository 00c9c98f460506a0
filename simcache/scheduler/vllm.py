"""The scheduler of vLLM V1 (version 0.33, synchronous), without a clock: what the next engine step computes, and for how long.

``schedule()`` decides one step and takes its blocks; the ``Plan`` it returns says for how many steps nothing can change unless
a request arrives or is cancelled; ``advance(steps)`` executes that many of them at once. Rules read in
vllm/v1/core/sched/scheduler.py and confirmed by recorded runs: running requests first, then waiting ones in order, one token
budget; the whole prompt must fit at admission; the first waiting request that does not fit blocks the rest; no admission in a
step that preempted; preemption of the last running request (policy ``priority``: of the largest (priority, arrival)) with
recompute, to the front of the queue.

Decoding requests cost nothing per step: how many tokens each has is (tokens - turn) + turn, how many need a block at a turn
is a histogram over (turn - tokens) mod block, who finishes when is a heap. Their content enters the pool when they leave,
that of prompts when somebody looks or leaves. Only requests whose output some other live request also contains are kept up to
date at every step.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from collections.abc import Hashable, Sequence
from typing import ClassVar, Literal

from ..cache.block_pool import BlockPool, Holding, Match
from . import DECODE, DONE, GONE, PREFILL, WAITING, LiveRequest, Plan

Policy = Literal["fcfs", "priority"]


class VllmScheduler:
    """One replica's scheduler over a block pool.

    ``visibility`` "scheduled": blocks are hit-able from the step that schedules them; "computed": from its end.
    ``linger_steps`` 1 is asynchronous scheduling's end: the next step was already scheduled when a request finishes, so it keeps
    its seat and blocks, and decodes in vain, for one step more.

    >>> from simcache.prompt import Request, Segment
    >>> scheduler = VllmScheduler(BlockPool(100, 16))
    >>> scheduler.add(LiveRequest(Request(0.0, (Segment("doc", 100),), Segment("a", 3)), 0))
    True
    >>> scheduler.schedule().new_tokens
    100
    """

    tiered: ClassVar[bool] = False
    loading: Sequence[LiveRequest] = ()
    landed: Sequence[LiveRequest] = ()

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_num_seqs: int = 128,
        max_num_batched_tokens: int = 2048,
        policy: Policy = "fcfs",
        visibility: Literal["scheduled", "computed"] = "scheduled",
        long_prefill_token_threshold: int = 0,
        watermark: float = 0.0,
        linger_steps: Literal[0, 1] = 0,
    ) -> None:
        self.pool = pool
        self.block_tokens = pool.block_tokens
        self.blocks = pool.blocks
        self.timed = pool.ttl is not None
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.priority = policy == "priority"
        self.at_schedule = visibility == "scheduled"
        self.threshold = long_prefill_token_threshold
        self.linger_steps = linger_steps
        self.watermark_blocks = int(watermark * (pool.blocks + 1))
        self.step = 0
        self._turn = 0  # the steps' clock for decodes: they read _kv_base + decodes*turn tokens, and finish at known turns
        self.waiting: deque[LiveRequest] = deque()
        self.running: dict[LiveRequest, None] = {}
        self.prefills: list[LiveRequest] = []
        self.decodes = 0
        self._kv_base = 0  # sum over decodes of (computed - since)
        # How many decodes need a block at turns with turn % block_tokens == index, twice over: any cycle is one slice.
        self._phases = [0] * (2 * self.block_tokens)
        self._finishes: list[tuple[int, int, LiveRequest]] = []
        self._live_outputs: dict[Hashable, int] = {}  # how many running requests generate this output
        self._unhashed: list[tuple[Holding, int]] = []  # prompt blocks that are to get their keys, in order
        self._met: LiveRequest | None = None  # it met all who run: a head that waits is not compared at every step
        self._eager = 0
        self._arrivals = 0
        self._admissions = 0
        self._plan: Plan | None = None
        self._any_order = pool.any_order

    # -- who comes and goes ------------------------------------------------------------------------------------------------

    def add(self, live: LiveRequest, namespace: Hashable = None) -> bool:
        """Queue a request; False: it can never fit into the KV memory (rejected, not queued)."""
        most = live.prompt_tokens + max(0, live.output_tokens - 1)
        if -(-most // self.block_tokens) > self.pool.blocks:
            live.state = GONE
            return False
        live.root = self.pool.root(namespace)
        live.arrival = self._arrivals
        self._arrivals += 1
        if self.priority:
            insort(self.waiting, live)
        else:
            self.waiting.append(live)
        return True

    def matters(self, live: LiveRequest) -> bool:
        """Whether a request just added can change the plan under way at its next step boundary."""
        plan = self._plan
        if plan is None:
            return False
        return (plan.open and self.waiting[0] is live) or (self.threshold > 0 and bool(self.prefills))

    def abort(self, live: LiveRequest) -> bool:
        """Give a request up between two steps; what was computed stays hit-able. True: it can let others in."""
        if live.state == GONE:
            return False
        if live.state == WAITING:
            head = self.waiting[0] is live
            self.waiting.remove(live)
            live.state = GONE
            return head
        if live.state == DECODE:
            self._drop_finish(live)
        self._leave(live, self._computed(live))
        live.state = GONE
        return True

    # -- one step ----------------------------------------------------------------------------------------------------------

    def schedule(self) -> Plan:
        """Decide step ``self.step``: take its blocks, admit, preempt; say for how many steps the batch stays the same."""
        plan = self._plan = Plan()
        budget = self.max_num_batched_tokens
        capped = self.threshold > 0 and len(self.running) + len(self.waiting) > 1
        prefills = self.prefills
        budget_left = -1
        if not self._eager and self.decodes <= budget:
            if not prefills:
                budget_left = self._run_together(plan, budget)
            elif len(prefills) == 1 and next(reversed(self.running)) is prefills[0]:
                budget_left = self._run_together(plan, budget, prefills[0], capped)
        uniform = budget_left >= 0
        if not uniform:
            budget_left = self._run_one_by_one(plan, budget, capped)
        if (self.waiting or self.landed) and budget_left > 0 and not plan.preempted:
            budget_left = self._admit(plan, budget_left, capped)
        if budget_left > 0:
            plan.open = len(self.running) < self.max_num_seqs
        # One admission may be part of a lasting batch: a prompt that takes all the budget the decodes leave.
        if uniform and len(plan.chunks) <= 1 and not self._eager:
            plan.steps = self._horizon(plan)
        return plan

    def _run_together(self, plan: Plan, budget: int, live: LiveRequest | None = None, capped: bool = False) -> int:
        """Every decode computes one token, and ``live``, the last running request, its chunk; -1 when the blocks do not suffice."""
        decodes, turn, block_tokens = self.decodes, self._turn, self.block_tokens
        need = self._phases[turn % block_tokens]
        budget -= decodes
        count = 0
        if live is not None:
            count = live.prompt_tokens + live.sampled - live.computed
            if capped and count > self.threshold:
                count = self.threshold
            if count > budget:
                count = budget
            if not count:
                return -1
            need += -(-(live.computed + count) // block_tokens) - live.holding.blocks
        if need > self.pool.free:
            return -1
        plan.decodes = decodes
        plan.kv_tokens = self._kv_base + decodes * turn
        if need:
            self.pool.take(need)
        if live is not None:
            live.holding.blocks = -(-(live.computed + count) // block_tokens)
            self._chunk(plan, live, count)
        return budget - count

    def _run_one_by_one(self, plan: Plan, budget: int, capped: bool) -> int:
        """The running loop as the engine has it: in order, preempting when a block is missing."""
        pool, turn, block_tokens = self.pool, self._turn, self.block_tokens
        order = list(self.running)
        for live in order:
            live.scheduled = 0
            if live.state == DECODE:
                live.holding.blocks = -(-self._computed(live) // block_tokens)
        i = 0
        while i < len(order) and budget > 0:
            live = order[i]
            computed = self._computed(live)
            count = 1 if live.state == DECODE else live.target - computed
            if capped and count > self.threshold:
                count = self.threshold
            count = min(count, budget)
            need = -(-(computed + count) // block_tokens) - live.holding.blocks
            while need > pool.free:
                victim = max(order) if self.priority else order[-1]
                place = order.index(victim)
                if place < i:  # already scheduled in this step: its tokens go back to the budget
                    budget += victim.scheduled
                    i -= 1
                order.pop(place)
                self._preempt(plan, victim)
                if victim is live:
                    break
            if live.state != PREFILL and live.state != DECODE:  # it was a victim itself
                if self.priority:
                    continue  # the next one has moved to index i
                break
            if live.state == DECODE:
                if need:
                    pool.take(need)
                    live.holding.blocks += need
                if live.eager and self.at_schedule:
                    self._hash(live.holding, (computed + 1) // block_tokens)
                live.scheduled = 1
            else:
                self._chunk(plan, live, count)
            budget -= count
            i += 1
        plan.chunks = [live for live in plan.chunks if live.state == PREFILL]
        plan.new_tokens = plan.attention = 0
        for live in plan.chunks:
            plan.new_tokens += live.scheduled
            plan.attention += live.scheduled * (2 * live.computed + live.scheduled)
        for live in order:
            if live.state == DECODE and not live.scheduled:
                self._stall(live)
            elif live.state == DECODE:
                plan.decodes += 1
                plan.kv_tokens += live.computed + turn - live.since
        return budget

    def _admit(self, plan: Plan, budget: int, capped: bool) -> int:
        pool, waiting, running, block_tokens = self.pool, self.waiting, self.running, self.block_tokens
        while waiting and budget > 0 and len(running) < self.max_num_seqs:
            live = waiting[0]
            target = live.prompt_tokens + live.sampled
            match = self._match(live, target)
            hit_blocks = match.blocks
            need = -(-target // block_tokens) - hit_blocks + match.evictable_blocks
            if running:
                need += self.watermark_blocks
            if need > pool.free:
                break
            count = target - hit_blocks * block_tokens
            if capped and count > self.threshold:
                count = self.threshold
            if count > budget:
                count = budget
            waiting.popleft()
            if self.tiered and self._load(live, match):
                continue
            self._seat(plan, live, match)
            self._chunk(plan, live, count)
            budget -= count
        return budget

    def _match(self, live: LiveRequest, target: int) -> Match:
        if self._unhashed:
            self._hash_now()
        if live is not self._met:
            if not self._live_outputs.keys().isdisjoint(live.content.keys):
                self._meet(live)
            self._met = live
        return self.pool.match(live.root, live.content, (target - 1) // self.block_tokens if self.pool.caching else 0)

    def _load(self, live: LiveRequest, match: Match) -> bool:
        """Whether ``live``, which has been taken out of the queue, first waits for blocks from a lower tier."""
        return False

    def _seat(self, plan: Plan, live: LiveRequest, match: Match | None) -> None:
        """Admit ``live`` with what it hits, or (None) with what it holds since it began to load."""
        if match is not None:
            live.holding = holding = Holding(live.content, live.root, live.row)
            self.pool.hold(holding, match, user=live.user)
            live.computed = match.blocks * self.block_tokens
        hit_tokens = live.computed
        live.state = PREFILL
        live.order = self._admissions
        self._admissions += 1
        self.running[live] = None
        key = live.output_key
        sharers = self._live_outputs.get(key, 0)
        self._live_outputs[key] = sharers + 1
        self._met = None
        prefills = self.prefills
        if sharers or (prefills and any(key in other.content.keys for other in prefills)):
            live.eager = True
            self._eager += 1
        prefills.append(live)
        if live.hit_tokens is None:
            live.hit_tokens = hit_tokens
            live.first_scheduled_step = self.step
        else:
            live.resume_hit_tokens.append(hit_tokens)
        plan.admitted.append(live)

    def _chunk(self, plan: Plan, live: LiveRequest, count: int) -> None:
        """Schedule ``count`` prompt tokens of ``live`` in this step."""
        computed, holding, block_tokens = live.computed, live.holding, self.block_tokens
        end = computed + count
        need = -(-end // block_tokens) - holding.blocks
        if need > 0:
            self.pool.take(need)
            holding.blocks += need
        if self.at_schedule:
            self._hash(holding, end // block_tokens)
        live.scheduled = count
        plan.chunks.append(live)
        plan.new_tokens += count
        plan.attention += count * (2 * computed + count)

    def _horizon(self, plan: Plan) -> int:
        """Steps, this one included, until a request finishes, a prompt is done, or the blocks run out."""
        finishes = self._finishes
        steps = finishes[0][0] - self._turn + 1 if finishes else 0
        chunk = 0
        if plan.chunks:
            live = plan.chunks[0]
            chunk = live.scheduled
            rest = live.prompt_tokens + live.sampled - live.computed - chunk
            # An equal chunk follows only if this one was cut by the budget; what the threshold cuts depends on who else is there.
            if not rest or self.threshold:
                return 1
            more = 1 + (rest - 1) // chunk
            if not steps or more < steps:
                steps = more
            plan.attention_growth = 2 * chunk * chunk
        elif not steps:
            return 1
        if steps == 1:
            return 1
        free, decodes = self.pool.free, plan.decodes
        # More than they can take; the exact sum only where it matters.
        if steps * (decodes + chunk) // self.block_tokens + decodes + 2 > free and self._growth(plan, steps) > free:
            low, high = 1, steps  # growth over steps 2..k is monotone in k: the largest k that fits
            while low < high:
                middle = (low + high + 1) // 2
                if self._growth(plan, middle) <= free:
                    low = middle
                else:
                    high = middle - 1
            steps = low
        return steps

    def _growth(self, plan: Plan, steps: int) -> int:
        """Blocks that steps 2..``steps`` of the plan take."""
        block_tokens = self.block_tokens
        first = (self._turn + 1) % block_tokens
        cycles, extra = divmod(steps - 1, block_tokens)
        growth = cycles * plan.decodes + sum(self._phases[first : first + extra])
        if plan.chunks:
            live = plan.chunks[0]
            growth += -(-(live.computed + live.scheduled * steps) // block_tokens) - live.holding.blocks
        return growth

    def advance(self, steps: int) -> tuple[list[LiveRequest], list[LiveRequest]]:
        """Execute ``steps`` of the plan. Returns who got a first token and who finished at its end, in running order."""
        plan = self._plan
        assert plan is not None
        block_tokens = self.block_tokens
        if steps > 1:
            assert steps <= plan.steps
            growth = self._growth(plan, steps)
            if growth:
                self.pool.take(growth)
        self.step += steps
        self._turn = turn = self._turn + steps
        self._plan = None
        first_tokens: list[LiveRequest] = []
        finished: list[LiveRequest] = []
        for live in plan.chunks:
            live.computed = computed = live.computed + live.scheduled * steps
            live.scheduled = 0
            if steps > 1:
                live.holding.blocks = -(-computed // block_tokens)
            if steps > 1 or not self.at_schedule:
                self._hash(live.holding, computed // block_tokens)
            if computed == live.prompt_tokens + live.sampled:
                self.prefills.remove(live)
                live.sampled += 1
                if live.sampled == 1:
                    live.first_token_step = self.step - 1
                    first_tokens.append(live)
                rest = live.output_tokens - live.sampled
                if rest > 0:
                    self._start_decoding(live, turn, turn + rest - 1)
                else:
                    live.state = DONE
                    finished.append(live)
        if self._eager:
            for live in self.running:
                if live.eager and live.state == DECODE:
                    self._hash(live.holding, self._computed(live) // block_tokens)
        finishes = self._finishes
        while finishes and finishes[0][0] < turn:
            finished.append(heapq.heappop(finishes)[2])
        if finished:
            finished = self._finish(finished)
        return first_tokens, finished

    def _finish(self, ended: list[LiveRequest]) -> list[LiveRequest]:
        """Let go of those who have ended with this turn; returns who finished, in running order (who lingers: before)."""
        if len(ended) > 1:
            ended.sort(key=_by_order)
        finished, leaving = ended, ended
        if self.linger_steps:
            finished = [live for live in ended if not live.lingers]
            leaving = [live for live in ended if live.lingers]
        for live in finished:
            live.finish_step = self.step - 1
            if self.linger_steps:
                self._linger(live, self._turn)
        for live in leaving:
            blocks = -(-self._computed(live) // self.block_tokens) if live.lingers else None  # one token more than it has
            self._leave(live, live.prompt_tokens + max(0, live.output_tokens - 1), blocks)
            live.state = GONE
        return finished

    def generated_tokens(self, live: LiveRequest) -> int:
        """Output tokens sampled so far."""
        if live.state == DECODE and not live.lingers:
            return self._computed(live) - live.prompt_tokens + 1
        return live.output_tokens if live.lingers or live.state == GONE else live.sampled

    @property
    def held_blocks(self) -> int:
        return self.pool.blocks - self.pool.free

    def peek(self, live: LiveRequest, namespace: Hashable) -> int:
        """Hit tokens of a request that would be admitted now; output that is still being generated is not counted."""
        pool = self.pool
        if not pool.caching:
            return 0
        self._hash_now()
        return (
            pool.match(pool.root(namespace), live.content, (live.prompt_tokens - 1) // self.block_tokens).blocks * self.block_tokens
        )

    def set_time(self, now: int) -> None:
        self.pool.now = now

    def expire(self) -> None:
        self.pool.expire(self.pool.now)

    def settle(self) -> None:
        self._hash_now()
        self.pool.settle()

    def shortage(self) -> str:
        return f"{self.pool.free} of {self.pool.blocks} blocks are free"

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _hash(self, holding: Holding, until: int) -> None:
        """Let blocks up to ``until`` get their keys before anybody looks."""
        unhashed = self._unhashed
        if unhashed and unhashed[-1][0] is holding:
            unhashed[-1] = (holding, until)
        else:
            unhashed.append((holding, until))
        if not self._any_order:
            self._hash_now()

    def _hash_now(self) -> None:
        for holding, until in self._unhashed:
            self.pool.insert(holding, until)
        self._unhashed.clear()

    def _computed(self, live: LiveRequest) -> int:
        return live.computed + self._turn - live.since if live.state == DECODE else live.computed

    def _start_decoding(self, live: LiveRequest, since: int, due: int) -> None:
        live.state = DECODE
        live.since = since
        live.due = due
        self.decodes += 1
        self._kv_base += live.computed - since
        phase = (since - live.computed) % self.block_tokens
        self._phases[phase] += 1
        self._phases[phase + self.block_tokens] += 1
        heapq.heappush(self._finishes, (due, live.order, live))

    def _linger(self, live: LiveRequest, due: int) -> None:
        """Let a request that has finished decode in vain until the turn ``due``."""
        live.lingers = True
        if live.state == DONE:
            self._start_decoding(live, due, due)
        else:
            live.due = due
            heapq.heappush(self._finishes, (due, live.order, live))

    def _stop_decoding(self, live: LiveRequest) -> None:
        self.decodes -= 1
        self._kv_base -= live.computed - live.since
        phase = (live.since - live.computed) % self.block_tokens
        self._phases[phase] -= 1
        self._phases[phase + self.block_tokens] -= 1

    def _drop_finish(self, live: LiveRequest) -> None:
        """A decoding request does not finish when it was to."""
        self._finishes = [finish for finish in self._finishes if finish[2] is not live]
        heapq.heapify(self._finishes)

    def _stall(self, live: LiveRequest) -> None:
        """A decoding request that got no token of this step's budget: everything of it happens one step later."""
        since, due = live.since, live.due
        self._drop_finish(live)
        self._stop_decoding(live)
        self._start_decoding(live, since + 1, due + 1)

    def _preempt(self, plan: Plan, live: LiveRequest) -> None:
        computed = self._computed(live)
        if live.state == DECODE:
            self._drop_finish(live)
        if live.lingers:
            self._leave(live, live.prompt_tokens + max(0, live.output_tokens - 1), live.holding.blocks)
            live.state = GONE
            return
        if live.state == DECODE:
            live.sampled = computed - live.prompt_tokens + 1
        hashed = computed + live.scheduled if self.at_schedule else computed
        blocks = live.holding.blocks
        self._leave(live, hashed, blocks)
        live.state = WAITING
        live.computed = live.scheduled = 0
        live.preemptions += 1
        plan.preempted.append(live)
        if self.priority:
            insort(self.waiting, live)
        else:
            self.waiting.appendleft(live)

    def _leave(self, live: LiveRequest, computed: int, blocks: int | None = None) -> None:
        """Take ``live`` out of the running list; its blocks are freed, those of ``computed`` tokens with their keys."""
        if live.state == PREFILL:
            self.prefills.remove(live)
        elif live.state == DECODE:
            self._stop_decoding(live)
        del self.running[live]
        key = live.output_key
        sharers = self._live_outputs.pop(key)
        if sharers > 1:
            self._live_outputs[key] = sharers - 1
        if live.eager:
            live.eager = False
            self._eager -= 1
        if self._unhashed:
            self._hash_now()
        holding = live.holding
        self.pool.insert(holding, computed // self.block_tokens)
        holding.blocks = -(-computed // self.block_tokens) if blocks is None else blocks
        self.pool.release(holding)
        live.holding = None

    def _meet(self, live: LiveRequest) -> None:
        """Bring every running request whose output ``live`` contains up to date, now and at every step from here on."""
        for key in live.content.keys:
            if key not in self._live_outputs:
                continue
            for other in self.running:
                if other.output_key != key:
                    continue
                if other.state == DECODE:
                    computed = self._computed(other) + (1 if self.at_schedule else 0)
                    self.pool.insert(other.holding, computed // self.block_tokens)
                if not other.eager:
                    other.eager = True
                    self._eager += 1


def _by_order(live: LiveRequest) -> int:
    return live.order
