"""How long a plan of engine steps takes: the step-time form summed in closed form, in integer ticks."""

from __future__ import annotations

from ..latency import Coefficients
from ..scheduler.vllm import Plan
from .clock import TICKS_PER_S


class StepCost:
    """Ticks of the first k steps of a plan; exact integers, so cutting and continuing a plan loses nothing.

    The form is ``Coefficients``'. Over the steps of a plan the number N of new tokens stays, the kv tokens read grow by the
    decodes, and the attention sum by a constant, so the sum is quadratic in k on either side of the floor. ``slowness``
    multiplies everything.

    >>> cost = StepCost(Coefficients(base_s=0.005, per_token_s=1e-4)); plan = Plan(); plan.new_tokens = 100
    >>> cost.span(plan, 2)
    30000000000000
    """

    __slots__ = ("_chunks", "_coefficients", "_ticks_per_s", "host", "host_per_seq", "per_decode", "per_kv", "per_kv_mixed")

    def __init__(self, coefficients: Coefficients, slowness: float = 1.0) -> None:
        self._coefficients = coefficients
        self._ticks_per_s = slowness * TICKS_PER_S
        self._chunks = {0: (self._ticks(coefficients.decode_alone_s), 0, 0)}
        self.host = self._ticks(coefficients.host_s)
        self.host_per_seq = self._ticks(coefficients.host_per_seq_s)
        self.per_decode = self._ticks(coefficients.per_decode_s)
        self.per_kv = self._ticks(coefficients.per_kv_token_s)
        self.per_kv_mixed = self._ticks(coefficients.per_kv_token_mixed_s)

    def _ticks(self, seconds: float) -> int:
        return round(seconds * self._ticks_per_s)

    def _of_chunks(self, new_tokens: int) -> tuple[int, int, int]:
        """Ticks of N new tokens before attention, per n*(2c + n), and of the floor: they depend on N alone."""
        terms = self._chunks.get(new_tokens)
        if terms is None:
            form = self._coefficients
            terms = self._chunks[new_tokens] = (
                self._ticks(form.tokens_s(new_tokens)),
                self._ticks(form.attention_at_s(new_tokens) / 2),
                self._ticks(form.floor_s + form.floor_per_token_s * new_tokens),
            )
        return terms

    def span(self, plan: Plan, steps: int) -> int:
        """Ticks of the first ``steps`` steps of ``plan``."""
        decodes = plan.decodes
        triangle = steps * (steps - 1)  # twice the sum of the step indices
        per_kv = self.per_kv_mixed if plan.new_tokens else self.per_kv
        fixed = self.host + self.host_per_seq * (decodes + len(plan.chunks)) + self.per_decode * decodes + per_kv * plan.kv_tokens
        total = steps * fixed + per_kv * decodes * triangle // 2
        tokens, per_attention, floor = self._of_chunks(plan.new_tokens)
        prefill = tokens + per_attention * plan.attention
        growth = per_attention * plan.attention_growth
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
