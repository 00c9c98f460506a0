"""What an answer depends on: each key to its ends, one at a time, as paired differences (a tornado)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError, require
from .experiment.axes import Axis, cell_name, full_key, varied
from .experiment.comparison import Difference, compare
from .experiment.run_store import RunStore
from .experiment.runs import Metric
from .experiment.sweeps import Progress
from .experiment.workers import Workers
from .scenario import Scenario


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One key at one of its ends: how far ``difference`` moves the metric from where it stands."""

    key: str
    value: Any
    difference: Difference


def tornado(
    scenario: Scenario,
    vary: Mapping[str, Any] | Sequence[Axis],
    metric: str = "ttft_s.p95",
    *,
    seeds: int = 20,
    first_seed: int = 0,
    store: str | Path | RunStore | None = None,
    workers: Workers | int | None = None,
    progress: Progress | None = None,
) -> list[Bar]:
    """Each key of ``vary`` at its ends (every value of a list without order), all else as in ``scenario``; the widest key first.

    What leaves the metric unknown (nobody answered) has no bar. Errors: as :func:`~simcache.experiment.comparison.compare`.

    >>> from simcache import Cluster, TypingSessions
    >>> base = Scenario(name="chat", workload=TypingSessions(users=9), backend=Cluster(), duration_s=300)
    >>> bars = tornado(base, {"workload.document_tokens": [4_000, 16_000]}, "p50(ttft_s)", seeds=3, workers=1)
    >>> [bar.difference.paired.difference < 0 for bar in bars]
    [True, False]
    """
    axes = [Axis.of(key, given) for key, given in vary.items()] if isinstance(vary, Mapping) else list(vary)
    require(len(axes) > 0, "vary", {}, "must name at least one key")
    ends: list[tuple[str, Any, Scenario]] = []
    for axis in axes:
        key = full_key(scenario, axis.key)
        if key is None:
            raise InputError(axis.key, None, "is not a key of the scenario")
        for value in _ends(axis):
            changed = varied(scenario, key, value).but(name=cell_name(scenario.name, {key: value}))
            if changed.but(name=scenario.name) != scenario:
                ends.append((key, value, changed))
    if not ends:
        return []
    first, *rest = [changed for _, _, changed in ends]
    found = compare(
        scenario,
        first,
        *rest,
        seeds=seeds,
        first_seed=first_seed,
        metrics=[metric],
        store=store,
        workers=workers,
        progress=progress,
    )
    bars = [
        Bar(key=key, value=value, difference=difference)
        for (key, value, _), pair in zip(ends, found.pairs, strict=True)
        if (difference := pair.difference(Metric(metric).name)) is not None
    ]
    widest = {
        key: max(abs(bar.difference.paired.difference) for bar in bars if bar.key == key) for key in {bar.key for bar in bars}
    }
    return sorted(bars, key=lambda bar: (-widest[bar.key], bar.key))


def _ends(axis: Axis) -> tuple[Any, ...]:
    if axis.values is None:
        return (axis.low, axis.high)
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in axis.values):
        return tuple(dict.fromkeys((min(axis.values), max(axis.values))))
    return axis.values
