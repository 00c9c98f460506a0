"""Which configuration is cheapest among those that meet an objective: all start, and the beaten ones stop early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from . import stats
from .experiment.axes import Cell
from .experiment.runs import Metric, Run
from .objective import Objective, Verdict

LOOKS: Final = (5, 8, 12, 18, 27, 40, 60, 100, 150, 225)
"""Seeds per configuration at which the race looks who is beaten."""

Status = Literal["meets", "fails", "open", "dearer"]
Simulate = Callable[[Sequence[Cell], int, int], list[dict[int, Run]]]
"""(cells, first seed, seeds) -> the runs of each that did not fail, by seed."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """What is to be small: a metric of the runs, or the value of a varied key (``sign`` -1: what is to be large)."""

    name: str
    metric: Metric | None = None
    sign: int = 1

    def of(self, cell: Cell, run: Run) -> float | None:
        """The value for one run; None: the run has none."""
        return self.metric.of(run) if self.metric is not None else self.sign * float(cell.changes[self.name])

    def text(self, value: float | None) -> str:
        """As a person reads it."""
        return self.metric.text(value) if self.metric is not None else "-" if value is None else f"{self.sign * value:,g}"

    @property
    def label(self) -> str:
        """What it is called in a sentence."""
        return self.metric.label if self.metric is not None else self.name


class Runner:
    """One configuration in the race: its runs by seed, and what is known of it."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.runs: dict[int, Run] = {}
        self.failed = False
        self.status: Status = "open"

    @property
    def in_order(self) -> list[Run]:
        """Its runs, by seed."""
        return [self.runs[seed] for seed in sorted(self.runs)]


class Race:
    """All ``cells`` under common random numbers, against ``objectives`` and each other's price.

    At each look a configuration leaves that surely fails an objective, or is surely dearer, by more than ``indifference`` of the
    price, than one that surely meets them all. "Surely" is a t interval at ``confidence`` shared out over all configurations
    and looks (Bonferroni), so that the whole race errs with at most ``1 - confidence``; costs are compared as paired differences.
    ``stopped`` says why it ended, ``simulations`` how many it took.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        objectives: Sequence[Objective],
        price: Price,
        simulate: Simulate,
        *,
        confidence: float,
        at_most: int,
        most_runs: int | None = None,
        indifference: float = 0.01,
    ) -> None:
        self.runners = [Runner(cell) for cell in cells]
        self.objectives, self.price, self.simulate = objectives, price, simulate
        self.looks = [*(look for look in LOOKS if look < at_most), at_most]
        self.most_runs, self.indifference = most_runs, indifference
        decisions = len(cells) * len(self.looks) * (len(objectives) + 1)
        self.each_confidence = 1 - (1 - confidence) / decisions
        self.simulations = 0
        self.stopped = ""

    def run(self) -> None:
        """Race until one is left, or all that are left cost the same, or nothing can be told any more."""
        for look in self.looks:
            going = self._going()
            missing = sum(max(0, look - len(runner.runs)) for runner in going)
            if self.most_runs is not None and self.simulations + missing > self.most_runs:
                self.stopped = f"the budget of {self.most_runs:,} simulations is spent"
                return
            self.simulate_up_to(going, look)
            for runner in going:
                runner.status = self.verdict(runner)
            self._drop_dearer()
            going = self._going()
            sure = [runner for runner in going if runner.status == "meets"]
            if not going:
                self.stopped = "every configuration surely fails"
                return
            if len(sure) == len(going) and (len(going) == 1 or self._all_cost_the_same(going)):
                others = "the others fail or cost more" if len(going) == 1 else "those that are left cost the same"
                self.stopped = f"the answer is certain: {others}"
                return
        self.stopped = f"every configuration that was left has its {self.looks[-1]} seeds"

    def best(self) -> Runner | None:
        """The cheapest that surely meets the objectives; of those that cost the same, the one that keeps to the first best."""
        sure = [runner for runner in self.runners if runner.status == "meets"]
        if not sure:
            return None
        cheapest = min(sure, key=self.mean_price)
        alike = [runner for runner in sure if runner is cheapest or self._same_price(runner, cheapest)]
        first = self.objectives[0]
        return min(alike, key=lambda runner: first.excess(_mean(first.metric, runner)))

    def nearest(self) -> Runner | None:
        """The one that is least far from meeting the objectives; None: nothing ran."""
        known = [runner for runner in self.runners if runner.runs and not runner.failed]
        known = [runner for runner in known if all(each.estimate(runner.in_order) for each in self.objectives)]
        if not known:
            return None
        return min(known, key=lambda runner: max(each.excess(_mean(each.metric, runner)) for each in self.objectives))

    def _going(self) -> list[Runner]:
        return [runner for runner in self.runners if runner.status in ("meets", "open")]

    def simulate_up_to(self, runners: Sequence[Runner], seeds: int) -> None:
        """Give every runner its runs under the first ``seeds`` seeds."""
        behind: dict[int, list[Runner]] = {}
        for runner in runners:
            if len(runner.runs) < seeds and not runner.failed:
                behind.setdefault(len(runner.runs), []).append(runner)
        for first, group in behind.items():
            self.simulations += len(group) * (seeds - first)
            for runner, runs in zip(group, self.simulate([each.cell for each in group], first, seeds - first), strict=True):
                runner.runs |= runs
                runner.failed |= len(runs) < seeds - first

    def refuse(self, runner: Runner) -> None:
        """Take ``runner``, which something else has shown to fail, out of the race, and let those go on that it had beaten."""
        runner.failed, runner.status = True, "fails"
        for other in self.runners:
            if other.status == "dearer":
                other.status = self.verdict(other)

    def verdict(self, runner: Runner) -> Verdict:
        """Whether it surely meets all objectives, surely fails one, or neither."""
        if runner.failed:
            return "fails"
        verdicts = [each.verdict(runner.in_order, self.each_confidence) for each in self.objectives]
        if "fails" in verdicts:
            return "fails"
        return "open" if "open" in verdicts else "meets"

    def _drop_dearer(self) -> None:
        sure = [runner for runner in self._going() if runner.status == "meets" and self._priced(runner)]
        if not sure:
            return
        cheapest = min(sure, key=self.mean_price)
        for runner in self._going():
            change = self._price_change(cheapest, runner)
            if change is not None and change.low is not None and change.low > self.indifference * abs(change.a_mean):
                runner.status = "dearer"

    def _all_cost_the_same(self, going: Sequence[Runner]) -> bool:
        cheapest = min(going, key=self.mean_price)
        return all(runner is cheapest or self._same_price(runner, cheapest) for runner in going)

    def _same_price(self, runner: Runner, cheapest: Runner) -> bool:
        change = self._price_change(cheapest, runner)
        return change is not None and change.high is not None and change.high <= self.indifference * abs(change.a_mean)

    def _price_change(self, a: Runner, b: Runner) -> stats.PairedDifference | None:
        if a is b:
            return None
        seeds = sorted(set(a.runs) & set(b.runs))
        values = [(self.price.of(a.cell, a.runs[seed]), self.price.of(b.cell, b.runs[seed])) for seed in seeds]
        known = [(x, y) for x, y in values if x is not None and y is not None]
        if len(known) < 2 or len(known) < len(values):
            return None
        return stats.paired([x for x, _ in known], [y for _, y in known], self.each_confidence)

    def _priced(self, runner: Runner) -> bool:
        return all(self.price.of(runner.cell, run) is not None for run in runner.in_order)

    def mean_price(self, runner: Runner) -> float:
        """The mean of the price over the runs; infinite where nobody knows it."""
        values = [value for run in runner.in_order if (value := self.price.of(runner.cell, run)) is not None]
        return sum(values) / len(values) if values else float("inf")


def _mean(metric: Metric, runner: Runner) -> float:
    values = [value for run in runner.in_order if (value := metric.of(run)) is not None]
    return sum(values) / len(values)
