"""How long a plan of engine steps takes: the step-time form summed in closed form, in integer ticks."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from math import sqrt
from typing import Protocol

import numpy as np

from ..latency import Coefficients, ServerProfile
from ..latency.kernel_tables import Floats, KernelTables
from ..scheduler import Plan
from .clock import TICKS_PER_S


class PlanCost(Protocol):
    """What the server asks: ticks of the first k steps of a plan, and which boundary comes next."""

    def span(self, plan: Plan, steps: int) -> int:
        """Ticks of the first ``steps`` steps of ``plan``."""
        ...

    def steps_until(self, plan: Plan, elapsed: int, most: int) -> int:
        """The first step boundary at or after ``elapsed`` ticks from the plan's start, from 1 to ``most``."""
        ...


def step_cost(profile: ServerProfile, slowness: float = 1.0) -> PlanCost:
    """What a profile's steps cost, ``slowness`` times: its kernel tables where it has them, else its closed form.

    >>> step_cost(ServerProfile(name="toy", coefficients=Coefficients(base_s=0.01))).span(Plan(), 1)
    10000000000000
    """
    if profile.table is not None:
        return TableCost(profile.table, profile.coefficients, slowness)
    return StepCost(profile.coefficients, slowness)


class StepCost:
    """Ticks of the first k steps of a plan; exact integers, so cutting and continuing a plan loses nothing.

    The form is ``Coefficients``'. Over the steps of a plan the number N of new tokens stays, the kv tokens read grow by the
    decodes, and the attention sum by a constant, so the sum is quadratic in k on either side of the floor. ``slowness``
    multiplies everything.

    >>> cost = StepCost(Coefficients(base_s=0.005, per_token_s=1e-4)); plan = Plan(); plan.new_tokens = 100
    >>> cost.span(plan, 2)
    30000000000000
    """

    __slots__ = (
        "_chunks",
        "_coefficients",
        "_decoding",
        "_first",
        "_floored",
        "_floored_first",
        "_floored_growth",
        "_growth",
        "_offset",
        "_per_decoding",
        "_plan",
        "_ticks_per_s",
        "host",
        "host_per_seq",
        "per_decode",
        "per_kv",
        "per_kv_mixed",
    )

    def __init__(self, coefficients: Coefficients, slowness: float = 1.0) -> None:
        self._coefficients = coefficients
        self._ticks_per_s = slowness * TICKS_PER_S
        self._chunks: dict[int, tuple[int, int, int]] = {}
        self._decoding = self._ticks(coefficients.decode_alone_s)
        self.host = self._ticks(coefficients.host_s)
        self.host_per_seq = self._ticks(coefficients.host_per_seq_s)
        self.per_decode = self._ticks(coefficients.per_decode_s)
        self._per_decoding = self.host_per_seq + self.per_decode
        self.per_kv = self._ticks(coefficients.per_kv_token_s)
        self.per_kv_mixed = self._ticks(coefficients.per_kv_token_mixed_s)
        # Of the plan asked about last: step i (from 0) takes first + i*growth, of the leading ``floored`` steps the floored pair.
        self._plan: Plan | None = None
        self._first = self._growth = self._offset = 0
        self._floored = self._floored_first = self._floored_growth = 0

    def _ticks(self, seconds: float) -> int:
        return round(seconds * self._ticks_per_s)

    def _of_chunks(self, new_tokens: int) -> tuple[int, int, int]:
        """Ticks of N new tokens before attention, per n*(2c + n), and of the floor: they depend on N alone."""
        form = self._coefficients
        tokens_s, floor_s = form.tokens_s(new_tokens), form.floor_s + form.floor_per_token_s * new_tokens
        if new_tokens < form.small_below_tokens:  # a short chunk's attention comes on top of the floor
            tokens_s, floor_s = max(tokens_s, floor_s), 0.0
        per_attention = self._ticks(form.attention_at_s(new_tokens) / 2)
        terms = self._chunks[new_tokens] = (self._ticks(tokens_s), per_attention, self._ticks(floor_s))
        return terms

    def _look_at(self, plan: Plan) -> None:
        """The terms of a plan, which stay as long as it does."""
        self._plan = plan
        decodes, new_tokens = plan.decodes, plan.new_tokens
        self._floored = self._offset = 0
        fixed = self.host + self._per_decoding * decodes
        if not new_tokens:
            self._growth = self.per_kv * decodes
            self._first = fixed + self.per_kv * plan.kv_tokens + self._decoding
            return
        fixed += self.host_per_seq * len(plan.chunks) + self.per_kv_mixed * plan.kv_tokens
        growth = self.per_kv_mixed * decodes
        tokens, per_attention, floor = self._chunks.get(new_tokens) or self._of_chunks(new_tokens)
        prefill = tokens + per_attention * plan.attention
        if plan.micro_batches:
            parts = ((self._chunks.get(each) or self._of_chunks(each), attention) for each, attention in plan.micro_batches)
            prefill = tokens + sum(per_attention * attention for (_, per_attention, _), attention in parts)
        prefill_growth = per_attention * plan.attention_growth
        if prefill < floor:
            if not prefill_growth:
                self._first, self._growth = fixed + floor, growth
                return
            self._floored = floored = (floor - prefill) // prefill_growth + 1  # steps that the floor decides
            self._floored_first, self._floored_growth = fixed + floor, growth
            self._offset = floored * (floor - prefill) - prefill_growth * (floored * (floored - 1) // 2)
        self._first, self._growth = fixed + prefill, growth + prefill_growth

    def span(self, plan: Plan, steps: int) -> int:
        """Ticks of the first ``steps`` steps of ``plan``."""
        if plan is not self._plan:
            self._look_at(plan)
        indices = steps * (steps - 1) // 2  # the sum of the step indices
        if steps <= self._floored:
            return steps * self._floored_first + self._floored_growth * indices
        return self._offset + steps * self._first + self._growth * indices

    def steps_until(self, plan: Plan, elapsed: int, most: int) -> int:
        """The first step boundary at or after ``elapsed`` ticks from the plan's start, from 1 to ``most``."""
        if plan is not self._plan:
            self._look_at(plan)
        if self._floored and self.span(plan, self._floored) >= elapsed:
            first, growth, after = self._floored_first, self._floored_growth, elapsed
        else:
            first, growth, after = self._first, self._growth, elapsed - self._offset
        if after <= first:
            return 1
        half = first - growth / 2  # first*k + growth*k*(k-1)/2 = after, solved without a difference of large numbers
        steps = min(most, int(2 * after / (half + sqrt(half * half + 2 * growth * after))) + 1)
        while steps > 1 and self.span(plan, steps - 1) >= elapsed:  # the float may be off by one
            steps -= 1
        while steps < most and self.span(plan, steps) < elapsed:
            steps += 1
        return steps


class TableCost:
    """Ticks of the first k steps of a plan from measured kernel tables: each step is looked up once and rounded, then summed.

    >>> from simcache.prompt import Request, Segment
    >>> from simcache.scheduler.vllm import LiveRequest
    >>> toy = KernelTables(dense=((1, 0.01),), per_sequence=((1, 0.001),), graph_sizes=(), attention=((16, 0, 0, 0, 0.003),))
    >>> plan = Plan(); plan.chunks = [LiveRequest(Request(0.0, (Segment("doc", 16),), Segment("a", 1)), 0)]
    >>> plan.chunks[0].scheduled = plan.new_tokens = 16
    >>> TableCost(toy, Coefficients()).span(plan, 1)
    14000000000000
    """

    __slots__ = ("_host", "_host_per_seq", "_plan", "_sums", "_table", "_ticks_per_s")

    def __init__(self, table: KernelTables, coefficients: Coefficients, slowness: float = 1.0) -> None:
        self._table = table
        self._ticks_per_s = slowness * TICKS_PER_S
        self._host, self._host_per_seq = coefficients.host_s, coefficients.host_per_seq_s
        self._plan: Plan | None = None
        self._sums: list[int] = []

    def span(self, plan: Plan, steps: int) -> int:
        """Ticks of the first ``steps`` steps of ``plan``."""
        if plan is not self._plan:
            self._plan, self._sums = plan, [0]
        sums, decodes, done = self._sums, plan.decodes, len(self._sums) - 1
        if done < steps:
            host_s = self._host + self._host_per_seq * (decodes + len(plan.chunks))
            kv_tokens, more = plan.kv_tokens + done * decodes, steps - done
            each: Floats | list[float]
            if plan.chunks:
                each = [self._table.step_s(self._chunks(plan, done + i), decodes, kv_tokens + i * decodes) for i in range(more)]
            else:
                each = self._table.decode_steps_s(decodes, kv_tokens, more)
            ticks = np.rint((host_s + np.asarray(each)) * self._ticks_per_s).tolist()
            sums += list(accumulate(map(int, ticks), initial=sums[-1]))[1:]
        return sums[steps]

    @staticmethod
    def _chunks(plan: Plan, step: int) -> list[tuple[int, int]]:
        return [(live.scheduled, live.computed + step * live.scheduled) for live in plan.chunks]

    def steps_until(self, plan: Plan, elapsed: int, most: int) -> int:
        """The first step boundary at or after ``elapsed`` ticks from the plan's start, from 1 to ``most``."""
        self.span(plan, most)
        return min(max(1, bisect_left(self._sums, elapsed)), most)
