"""Measured kernel tables of one model layer, composed into engine steps and interpolated: the table form of the latency model."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, require, require_count

GRAPH_SIZES: Final = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
"""Token counts that vLLM captures graphs for (0.19, cudagraph_capture_sizes up to 512): a step is padded to the next one."""
Floats = NDArray[np.float64]
Curve1 = tuple[list[float], list[float]]
Chunk = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class KernelTables:
    """Kernel times of one GPU and model, in seconds, already summed over layers; steps between the rows are interpolated.

    ``dense``: (tokens, seconds) of all that depends on the tokens of a step. ``per_sequence``: (sequences, seconds) of the
    output head and the sampler. ``attention``: (chunk, kv_prefill, decodes, kv_decode, seconds) over all layers; kv_decode is the
    mean per sequence, and chunk 0 means decodes alone. ``graph_sizes``: token counts that a step is padded to, () for none.

    Linear between rows, along the last two rows beyond them. A step with several chunks takes its largest one beside the
    decodes; the others add what they attend to, without the launch.

    >>> toy = KernelTables(dense=((1, 0.01), (100, 0.02)), per_sequence=((1, 0.001),), graph_sizes=(),
    ...                    attention=((0, 0, 1, 16, 0.002), (0, 0, 1, 32, 0.004), (16, 0, 0, 0, 0.003)))
    >>> round(toy.step_s([], 1, 24), 6), round(toy.step_s([(100, 0)], 0, 0), 6)
    (0.014, 0.024)
    """

    dense: tuple[tuple[float, float], ...]
    per_sequence: tuple[tuple[float, float], ...]
    attention: tuple[tuple[float, float, float, float, float], ...]
    graph_sizes: tuple[int, ...] = GRAPH_SIZES
    _tree: Any = field(init=False, repr=False, compare=False, default=None)
    _decode_lines: dict[int, tuple[Floats, Floats, Floats]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for name, rows in (("dense", self.dense), ("per_sequence", self.per_sequence), ("attention", self.attention)):
            require(len(rows) > 0, f"table.{name}", rows, "must have rows")
            values = np.array(rows, dtype=np.float64)
            require(bool(np.isfinite(values).all() and (values >= 0).all()), f"table.{name}", name, "must be finite and at least 0")
            require(bool((values[:, -1] > 0).all()), f"table.{name}", name, "must have times above 0")
        for size in self.graph_sizes:
            require_count("table.graph_sizes", size)
        nested: dict[float, dict[float, dict[float, dict[float, float]]]] = {}
        for chunk, cached, decodes, kv, seconds in self.attention:
            nested.setdefault(chunk, {}).setdefault(cached, {}).setdefault(decodes, {})[kv] = seconds
        tree: dict[str, Any] = {
            "dense": _curve(dict(self.dense)),
            "per_sequence": _curve(dict(self.per_sequence)),
            "decodes": _nest(nested[0.0][0.0]) if 0.0 in nested and 0.0 in nested[0.0] else None,
            "chunks": _nest({chunk: rest for chunk, rest in nested.items() if chunk > 0}),
        }
        require(bool(tree["chunks"][0]), "table.attention", "attention", "must have rows with a chunk")
        object.__setattr__(self, "_tree", tree)

    def step_s(self, chunks: Sequence[Chunk], decodes: int, kv_tokens: float) -> float:
        """Seconds of a step that computes ``chunks`` (new, cached) beside ``decodes`` that read ``kv_tokens`` in all."""
        sequences = len(chunks) + decodes
        require(sequences > 0, "step", sequences, "must hold a chunk or a decode")
        if not chunks:
            return float(self.decode_steps_s(decodes, kv_tokens, 1)[0])
        tree = self._tree
        seconds = self._tokens_s(sum(new for new, _ in chunks) + decodes, sequences)
        mean_kv = kv_tokens / decodes if decodes else 0.0
        first, *others = sorted(chunks, reverse=True)
        smallest = tree["chunks"][0][0]  # a shorter chunk takes the time of the shortest one measured
        seconds += _at(tree["chunks"], (max(first[0], smallest), first[1], decodes, mean_kv))
        launch = _at(tree["chunks"], (smallest, 0, 0, 0)) if others else 0.0
        return seconds + sum(max(_at(tree["chunks"], (max(n, smallest), c, 0, 0)) - launch, 0.0) for n, c in others)

    def decode_steps_s(self, decodes: int, kv_tokens: float, steps: int) -> Floats:
        """Seconds of each of ``steps`` steps of ``decodes`` sequences alone; they read ``kv_tokens`` at first, then one more each.

        >>> rows = ((0, 0, 1, 16, 0.1), (0, 0, 1, 64, 0.2), (8, 0, 0, 0, 0.1))
        >>> toy = KernelTables(dense=((1, 0.1),), per_sequence=((1, 0.1),), attention=rows)
        >>> toy.decode_steps_s(2, 126, 3).round(4).tolist()
        [0.3979, 0.4, 0.4021]
        """
        if decodes not in self._decode_lines:
            self._decode_lines[decodes] = self._decode_line(decodes)
        knots, seconds, slopes = self._decode_lines[decodes]
        mean_kv = np.maximum((kv_tokens + decodes * np.arange(steps)) / decodes, knots[0])
        i = np.minimum(np.searchsorted(knots, mean_kv, side="right") - 1, len(slopes) - 1)
        found: Floats = np.maximum(seconds[i] + (mean_kv - knots[i]) * slopes[i], 0.0)
        return found

    def _decode_line(self, decodes: int) -> tuple[Floats, Floats, Floats]:
        """A step of ``decodes`` alone is linear in their mean kv between knots: knots, seconds there, slopes after."""
        tree = self._tree["decodes"]
        require(tree is not None, "step", decodes, "cannot be told: the table has no decodes alone")
        knots = sorted({kv for _, (keys, _) in zip(*tree, strict=True) for kv in keys})
        seconds = np.array([_at(tree, (decodes, kv)) for kv in knots]) + self._tokens_s(decodes, decodes)
        slopes = np.diff(seconds) / np.diff(knots) if len(knots) > 1 else np.zeros(1)
        return np.array(knots, dtype=np.float64), seconds, slopes

    def _tokens_s(self, tokens: int, sequences: int) -> float:
        """All but attention, for ``tokens`` of ``sequences``."""
        position = bisect_right(self.graph_sizes, tokens - 1)
        padded = self.graph_sizes[position] if position < len(self.graph_sizes) else tokens
        return on_curve(self._tree["dense"], padded) + on_curve(self._tree["per_sequence"], sequences)


def _curve(points: Mapping[float, float]) -> Curve1:
    keys = sorted(points)
    return keys, [points[key] for key in keys]


def _nest(levels: Mapping[float, Any]) -> tuple[list[float], list[Any]]:
    """Nested tables as (sorted keys, values) at each level; every branch keeps its own keys."""
    keys = sorted(levels)
    return keys, [_nest(levels[key]) if isinstance(levels[key], dict) else levels[key] for key in keys]


def _around(keys: list[float], x: float) -> tuple[int, int, float]:
    """The two places to interpolate between, and the weight of the second; beyond the ends, of the last two."""
    if len(keys) == 1:
        return 0, 0, 0.0
    i = min(max(bisect_right(keys, x) - 1, 0), len(keys) - 2)
    if x < keys[0]:
        return 0, 0, 0.0  # nothing is cheaper than the smallest row: a launch costs what it costs
    return i, i + 1, (x - keys[i]) / (keys[i + 1] - keys[i])


def on_curve(curve: Curve1, x: float) -> float:
    """Linear between the points of a curve, along the last two beyond them, and the first value before them.

    >>> on_curve(([1.0, 2.0], [10.0, 20.0]), 3.0)
    30.0
    """
    keys, values = curve
    i, j, weight = _around(keys, x)
    return values[i] + weight * (values[j] - values[i])


def _at(tree: tuple[list[float], list[Any]], coordinates: tuple[float, ...]) -> float:
    keys, values = tree
    first, *rest = coordinates
    i, j, weight = _around(keys, first)
    low = values[i] if not rest else _at(values[i], tuple(rest))
    if weight == 0.0:
        return float(low)
    high = values[j] if not rest else _at(values[j], tuple(rest))
    return float(low + weight * (high - low))


def table_text(rows: Sequence[Sequence[float]]) -> str:
    """Rows as CSV text with five significant digits.

    >>> table_text([(16, 0, 1.0e-05)])
    '16,0,1e-05'
    """
    return "\n".join(",".join(f"{value:.5g}" if isinstance(value, float) else str(value) for value in row) for row in rows)


def table_rows(name: str, text: Any, columns: int) -> tuple[tuple[float, ...], ...]:
    """The rows of ``table_text``. Raises InputError for what is no table of ``columns`` columns."""
    if not isinstance(text, str):
        raise InputError(f"table.{name}", text, "must be a text of rows")
    try:
        rows = tuple(tuple(map(float, line.split(","))) for line in text.split("\n") if line)
    except ValueError as error:
        raise InputError(f"table.{name}", str(error), "must be rows of numbers with commas between") from None
    for row in rows:
        require(len(row) == columns, f"table.{name}", row, f"must have {columns} columns")
    return rows
