"""Prefill before decode: vLLM before chunked prefill, and nano-vllm. A step computes whole prompts or decodes, never both.

Rules read in nanovllm/engine/scheduler.py (06005bd); vLLM before chunked prefill schedules alike. As long as the first waiting
request fits, a step computes prompts, first come first served and whole; only when none fits do all running requests decode. Blocks
become hit-able when computed. A decode that finds no block preempts the last running request, which goes to the front of the
queue and is computed again. These engines want a token budget of at least the longest prompt: here the first prompt of a step
is admitted whatever its length. Seats count requests that decode, as in vLLM (nano-vllm bounds each step's batch instead).
"""

from __future__ import annotations

from ..cache.block_pool import BlockPool
from . import LiveRequest, Plan
from .vllm import VllmScheduler


class PrefillFirstScheduler(VllmScheduler):
    """One replica's scheduler over a block pool; decodes stand still while a prompt is computed.

    >>> from simcache.prompt import Request, Segment
    >>> scheduler = PrefillFirstScheduler(BlockPool(100, 16))
    >>> for row in range(2):
    ...     _ = scheduler.add(LiveRequest(Request(0.0, (Segment(row, 100),), Segment("a", 3)), row))
    >>> scheduler.schedule().new_tokens
    200
    """

    def __init__(self, pool: BlockPool, *, max_num_seqs: int = 256, max_num_batched_tokens: int = 16384) -> None:
        super().__init__(pool, max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens, visibility="computed")

    def matters(self, live: LiveRequest) -> bool:
        """Whether a request just added can change the plan under way: only one that finds no queue, and a seat."""
        return self._plan is not None and self._plan.open and self.waiting[0] is live

    def schedule(self) -> Plan:
        """Decide the next step: prompts if any fits, else decodes; say for how many steps the batch stays the same."""
        plan = self._plan = Plan()
        self._admit_whole(plan)
        if plan.chunks:
            return plan
        everybody = self.decodes
        if self._eager or self._run_together(plan, everybody) < 0:
            self._run_one_by_one(plan, everybody, False)
        elif self.decodes:
            plan.steps = self._horizon(plan)
        plan.open = len(self.running) < self.max_num_seqs
        return plan

    def advance(self, steps: int) -> tuple[list[LiveRequest], list[LiveRequest]]:
        """Execute ``steps`` of the plan. Returns who got a first token and who finished at its end, in order of admission."""
        assert self._plan is not None
        if self._plan.chunks:
            self._turn -= steps  # no turn of the decodes
        return super().advance(steps)

    def _admit_whole(self, plan: Plan) -> None:
        pool, waiting = self.pool, self.waiting
        budget = self.max_num_batched_tokens
        while waiting and len(self.running) < self.max_num_seqs:
            live = waiting[0]
            target = live.target
            if target > budget and plan.chunks:  # asked of the whole prompt, though only what misses is charged
                break
            match = self._match(live, target)
            if -(-target // self.block_tokens) - match.blocks + match.evictable_blocks > pool.free:
                break
            waiting.popleft()
            self._seat(plan, live, match)
            count = target - live.computed
            self._chunk(plan, live, count)
            budget -= count
