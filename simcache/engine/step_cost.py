"""How long a plan of engine steps takes: DESIGN's step-time form summed in closed form, in integer ticks."""

from __future__ import annotations

from ..latency import Coefficients
from ..scheduler.vllm import Plan
from .clock import TICKS_PER_S


class StepCost:
    """Ticks of the first k steps of a plan; exact integers, so cutting and continuing a plan loses nothing.

    One step takes ``host + host_per_seq*sequences + max(floor, base + per_token*n + attention*sum n(c + n/2)) + per_decode*d
    + per_kv*K``, where per_kv is the mixed value in steps that carry a prefill chunk too. Over the steps of a plan K grows by d and
    the attention sum by a constant, so the sum is quadratic in k on either side of the floor. ``slowness`` multiplies everything.

    >>> cost = StepCost(Coefficients(base_s=0.005, per_token_s=1e-4)); plan = Plan(); plan.new_tokens = 100
    >>> cost.span(plan, 2)
    30000000000000
    """

    __slots__ = (
        "base",
        "floor",
        "half_attention",
        "host",
        "host_per_seq",
        "per_decode",
        "per_kv",
        "per_kv_mixed",
        "per_token",
    )

    def __init__(self, coefficients: Coefficients, slowness: float = 1.0) -> None:
        def ticks(seconds: float) -> int:
            return round(seconds * slowness * TICKS_PER_S)

        self.host = ticks(coefficients.host_s)
        self.host_per_seq = ticks(coefficients.host_per_seq_s)
        self.floor = ticks(coefficients.floor_s)
        self.base = ticks(coefficients.base_s)
        self.per_token = ticks(coefficients.per_token_s)
        self.half_attention = ticks(coefficients.attention_s / 2)
        self.per_decode = ticks(coefficients.per_decode_s)
        self.per_kv = ticks(coefficients.per_kv_token_s)
        self.per_kv_mixed = ticks(coefficients.per_kv_token_mixed_s)

    def span(self, plan: Plan, steps: int) -> int:
        """Ticks of the first ``steps`` steps of ``plan``."""
        decodes = plan.decodes
        triangle = steps * (steps - 1)  # twice the sum of the step indices
        per_kv = self.per_kv_mixed if plan.new_tokens else self.per_kv
        fixed = self.host + self.host_per_seq * (decodes + len(plan.chunks)) + self.per_decode * decodes + per_kv * plan.kv_tokens
        total = steps * fixed + per_kv * decodes * triangle // 2
        prefill = self.base + self.per_token * plan.new_tokens + self.half_attention * plan.attention
        growth = self.half_attention * plan.attention_growth
        floor = self.floor
        if prefill >= floor:
            return total + steps * prefill + growth * triangle // 2
        if not growth:
            return total + steps * floor
        under = min(steps, (floor - prefill) // growth + 1)  # steps that the floor decides
        return total + under * floor + (steps - under) * prefill + growth * (triangle - under * (under - 1)) // 2

    def steps_until(self, plan: Plan, elapsed: int, most: int) -> int:
        """The first step boundary at or after ``elapsed`` ticks from the plan's start, from 1 to ``most``."""
        first = self.span(plan, 1)
        low, high = 1, min(most, -(-elapsed // first) if first else 1)  # steps only get longer: k steps take at least k*first
        while low < high:
            middle = (low + high) // 2
            if self.span(plan, middle) >= elapsed:
                high = middle
            else:
                low = middle + 1
        return max(low, 1)
