"""What a configuration must keep to: a metric on one side of a bound."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from . import stats
from .errors import InputError, require_number
from .experiment.runs import Metric, Run

Verdict = Literal["meets", "fails", "open"]
_TEXT: Final = re.compile(r"\s*(?P<metric>[^<>=]+?)\s*(?P<sign><=|<|>=|>)\s*(?P<bound>\S+)\s*")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The mean over seeds of ``metric`` must be below (``above`` True: above) ``bound``, in the metric's own unit.

    A quantile is taken per run, as in ``stats.quantile_over``.

    >>> Objective.parse("p95(ttft_s) < 1.0")
    Objective(metric=Metric(name='ttft_s.p95'), bound=1.0, above=False)
    """

    metric: Metric
    bound: float
    above: bool = False

    def __post_init__(self) -> None:
        require_number("objective", self.bound)

    @classmethod
    def parse(cls, text: str) -> Objective:
        """From ``METRIC < BOUND`` or ``METRIC > BOUND``. Raises InputError for anything else."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise InputError("objective", text, "must be METRIC < BOUND or METRIC > BOUND", "As in 'p95(ttft_s) < 1.0'.")
        try:
            bound = float(match["bound"])
        except ValueError:
            raise InputError("objective", text, "must end in a number") from None
        metric = Metric(match["metric"])
        if metric.is_share and not 0 <= bound <= 1:
            raise InputError("objective", text, "bounds a share, which lies between 0 and 1", "90 % is 0.9.")
        return cls(metric=metric, bound=bound, above=match["sign"].startswith(">"))

    def __str__(self) -> str:
        return f"{self.metric.label} {'above' if self.above else 'below'} {self.metric.text(self.bound)}"

    def holds(self, value: float) -> bool:
        """Whether ``value`` is on the right side; the bound itself is on neither.

        >>> Objective.parse("slo_share > 0.9").holds(0.9)
        False
        """
        return value > self.bound if self.above else value < self.bound

    def excess(self, value: float) -> float:
        """How far ``value`` is on the wrong side, over the bound's size; below 0 on the right one."""
        distance = self.bound - value if self.above else value - self.bound
        return distance / (abs(self.bound) or 1.0)

    def estimate(self, runs: Sequence[Run], confidence: float = 0.95) -> stats.Estimate | None:
        """The mean over ``runs`` with its interval; None where a run does not have it (nobody was answered)."""
        if any(self.metric.of(run) is None for run in runs):
            return None
        return self.metric.over(list(runs), confidence)

    def verdict(self, runs: Sequence[Run], confidence: float) -> Verdict:
        """What the interval says: all of it on the right side, all on the wrong one, or neither."""
        found = self.estimate(runs, confidence)
        if found is None:
            return "fails"
        if found.low is None or found.high is None:
            return "open"
        low, high = self.holds(found.low), self.holds(found.high)
        if found.low == found.high:
            return "meets" if low else "fails"
        if low and high:
            return "meets"
        return "open" if self.holds(found.low if not self.above else found.high) else "fails"
