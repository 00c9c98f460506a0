"""What an engine step or a hosted request costs, and how that is known: coefficients and the profiles that carry them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from ..errors import require, require_count, require_number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float64]"
Tokens: TypeAlias = "NDArray[Any]"
Form = Literal["linear", "context", "quadratic", "context-small", "piecewise", "table"]
Provenance = Literal["measured", "kernel sum", "derived", "published figure"]

FORMS: Final = ("linear", "context", "quadratic", "context-small", "piecewise", "table")
PROVENANCES: Final = ("measured", "kernel sum", "derived", "published figure")


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """What one engine step costs, in seconds, seconds per token, and seconds per token squared (``attention_s``, ``quadratic_s``).

    A step that computes chunks (n_i new tokens after c_i already present) beside d decodes that read K kv tokens, s sequences
    in all, takes ``host_s + host_per_seq_s*s + max(floor_s, base_s + per_token_s*sum n_i + attention_s*sum n_i*(c_i + n_i/2))
    + per_decode_s*d + per_kv_token_s*K``; K costs ``per_kv_token_mixed_s`` a token in steps that hold chunks and decodes.
    The d decodes are no new tokens: what they compute is in ``per_decode_s``. Raises InputError below 0 and above the finite.

    What else the forms of a fit need depends on N = sum n_i alone; all of it is 0 unless given. The floor grows by
    ``floor_per_token_s*N``. Steps with N < ``small_below_tokens`` attend at ``small_attention_s``, and pay it on top of the floor:
    kernels change path there, and a short chunk waits for the weights and for a long context one after the other.
    Tokens past ``knot_1_tokens`` cost ``per_token_2_s``, past ``knot_2_tokens`` ``per_token_3_s``. ``quadratic_s*N*N/2`` is added.
    ``decode_s``, where given, replaces the max in steps without chunks: some engines decode faster than base_s.

    >>> Coefficients(base_s=0.01, per_token_s=1e-4).step_s(100, 0.0, 0, 0, 1)
    0.02
    """

    host_s: float = 0.0
    host_per_seq_s: float = 0.0
    floor_s: float = 0.0
    base_s: float = 0.0
    per_token_s: float = 0.0
    attention_s: float = 0.0
    per_decode_s: float = 0.0
    per_kv_token_s: float = 0.0
    per_kv_token_mixed_s: float = 0.0
    floor_per_token_s: float = 0.0
    small_below_tokens: int = 0
    small_attention_s: float = 0.0
    knot_1_tokens: int = 0
    per_token_2_s: float = 0.0
    knot_2_tokens: int = 0
    per_token_3_s: float = 0.0
    quadratic_s: float = 0.0
    decode_s: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is None and field.name == "decode_s":
                continue
            check = require_count if field.name.endswith("_tokens") else require_number
            check(field.name, getattr(self, field.name), at_least=0)
        # A forgotten mixed value would make decodes beside a prefill chunk read their cache for nothing.
        require(
            self.per_kv_token_mixed_s > 0 or self.per_kv_token_s == 0,
            "per_kv_token_mixed_s",
            self.per_kv_token_mixed_s,
            "must be above 0 where per_kv_token_s is",
            "Where nobody measured it, give it the value of per_kv_token_s.",
        )
        require(
            self.knot_1_tokens < self.knot_2_tokens or self.knot_2_tokens == 0,
            "knot_2_tokens",
            self.knot_2_tokens,
            f"must be above knot_1_tokens (={self.knot_1_tokens})",
        )

    def tokens_s(self, new_tokens: Any) -> Any:
        """Seconds of a step's N new tokens before attention and floor, ``base_s`` included: a number or an array of N.

        >>> Coefficients(per_token_s=2.0, knot_1_tokens=10, per_token_2_s=1.0).tokens_s(15)
        25.0
        """
        seconds = self.base_s + self.per_token_s * new_tokens
        if self.knot_1_tokens:
            seconds = seconds + (self.per_token_2_s - self.per_token_s) * larger(new_tokens - self.knot_1_tokens, 0)
        if self.knot_2_tokens:
            seconds = seconds + (self.per_token_3_s - self.per_token_2_s) * larger(new_tokens - self.knot_2_tokens, 0)
        return seconds + self.quadratic_s / 2 * new_tokens * new_tokens if self.quadratic_s else seconds

    def attention_at_s(self, new_tokens: Any) -> Any:
        """Seconds per token squared of attention in a step of N new tokens: a number or an array of N.

        >>> Coefficients(attention_s=1.0, small_below_tokens=64, small_attention_s=3.0).attention_at_s(63)
        3.0
        """
        if not self.small_below_tokens:
            return self.attention_s
        if isinstance(new_tokens, (int, float)):
            return self.small_attention_s if new_tokens < self.small_below_tokens else self.attention_s
        import numpy as np

        return np.where(np.asarray(new_tokens) < self.small_below_tokens, self.small_attention_s, self.attention_s)

    def compute_s(self, new_tokens: Any, attention_tokens2: Any) -> Any:
        """Seconds of a step's chunks, floor included; ``attention_tokens2`` is the sum of n*(c + n/2) over them.

        >>> Coefficients(floor_s=0.01, floor_per_token_s=1e-4, base_s=0.011).compute_s(50, 0.0)
        0.015
        """
        attention_s = self.attention_at_s(new_tokens) * attention_tokens2
        floor_s, tokens_s = self.floor_s + self.floor_per_token_s * new_tokens, self.tokens_s(new_tokens)
        inside = larger(floor_s, tokens_s + attention_s)
        if not self.small_below_tokens:
            return inside
        on_top = larger(floor_s, tokens_s) + attention_s
        if isinstance(new_tokens, (int, float)):
            return on_top if new_tokens < self.small_below_tokens else inside
        import numpy as np

        return np.where(np.asarray(new_tokens) < self.small_below_tokens, on_top, inside)

    @property
    def decode_alone_s(self) -> float:
        """Seconds of a step without chunks before what its decodes cost: ``decode_s``, else the larger of floor and base.

        >>> Coefficients(floor_s=0.01, base_s=0.002).decode_alone_s
        0.01
        """
        return max(self.floor_s, self.base_s) if self.decode_s is None else self.decode_s

    def step_s(self, new_tokens_sum: int, attention_tokens2_sum: float, decodes: int, kv_tokens: int, sequences: int) -> float:
        """Seconds of one step; ``attention_tokens2_sum`` is the sum of n*(c + n/2) over its chunks.

        >>> Coefficients(floor_s=0.01, per_decode_s=0.001).step_s(0, 0.0, 4, 900, 4)
        0.014
        """
        per_kv_s = self.per_kv_token_mixed_s if new_tokens_sum and decodes else self.per_kv_token_s
        compute_s: float = self.compute_s(new_tokens_sum, attention_tokens2_sum) if new_tokens_sum else self.decode_alone_s
        return self.host_s + self.host_per_seq_s * sequences + compute_s + self.per_decode_s * decodes + per_kv_s * kv_tokens


@dataclass(frozen=True, kw_only=True)
class Covariance:
    """Covariance of fitted coefficients: ``matrix[i][j]`` of ``names[i]`` and ``names[j]``, in the product of their units.

    >>> Covariance(names=("base_s",), matrix=((4.0,),)).standard_errors
    {'base_s': 2.0}
    """

    names: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        n, m = len(self.names), self.matrix
        rule = f"must have {n} rows and columns, one per coefficient"
        require(len(m) == n and all(len(row) == n for row in m), "covariance", m, rule)
        require(all(math.isfinite(value) for row in m for value in row), "covariance", m, "must be finite")
        pairs = [(m[i][j], m[j][i]) for i in range(n) for j in range(i)]
        holds = all(m[i][i] >= 0 for i in range(n)) and all(abs(a - b) <= 1e-9 * abs(b) for a, b in pairs)
        require(holds and _is_positive(self.correlation), "covariance", m, "must be symmetric and have no negative variance")

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard error of each coefficient, in its own unit."""
        return {name: math.sqrt(self.matrix[i][i]) for i, name in enumerate(self.names)}

    @property
    def correlation(self) -> list[list[float]]:
        """Correlation matrix, in the order of ``names``; the row of a coefficient without error is 0 beside its 1."""
        d = [math.sqrt(self.matrix[i][i]) for i in range(len(self.names))]
        return [
            [1.0 if i == j else value / (d[i] * d[j]) if d[i] and d[j] else 0.0 for j, value in enumerate(row)]
            for i, row in enumerate(self.matrix)
        ]


def _is_positive(correlation: list[list[float]]) -> bool:
    """Whether no combination has a variance below -1e-6 (rounding): Cholesky's pivots of the matrix with that on its diagonal.

    Not asked of numpy, which takes longer to import than a profile takes to read.
    """
    lower: list[list[float]] = []
    for i, row in enumerate(correlation):
        new: list[float] = []
        for j in range(i):
            new.append((row[j] - sum(a * b for a, b in zip(new, lower[j], strict=False))) / lower[j][j])
        pivot = row[i] + 1e-6 - sum(a * a for a in new)
        if pivot <= 0:
            return False
        lower.append([*new, math.sqrt(pivot)])
    return True


@dataclass(frozen=True, kw_only=True)
class MeasuredRange:
    """Where the points of a fit lie, as (lowest, highest) in tokens and sequences; None: no such points.

    ``total_tokens`` bounds new + cached. ``batch`` and ``kv_tokens`` bound the decode points.

    >>> MeasuredRange(new_tokens=(64, 4096), cached_tokens=(0, 4032)).holds(new_tokens=32)
    False
    """

    new_tokens: tuple[int, int]
    cached_tokens: tuple[int, int]
    total_tokens: tuple[int, int] | None = None
    batch: tuple[int, int] | None = None
    kv_tokens: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            bounds = getattr(self, field.name)
            if bounds is not None:
                name = f"range.{field.name}"
                require(len(bounds) == 2, name, bounds, "must be [lowest, highest]")
                require_count(name, bounds[0], at_least=0)
                require_count(name, bounds[1], at_least=bounds[0])

    def holds(self, **values: float) -> bool:
        """Whether every named value lies inside its bounds.

        >>> MeasuredRange(new_tokens=(64, 4096), cached_tokens=(0, 4032)).holds(new_tokens=64, cached_tokens=0)
        True
        """
        bounds = ((getattr(self, name), value) for name, value in values.items())
        return all(pair is None or pair[0] <= value <= pair[1] for pair, value in bounds)


@dataclass(frozen=True, kw_only=True)
class FitRecord:
    """How a profile's coefficients were fitted: points, errors as fractions, and the command that does it again.

    >>> FitRecord(n=147, mape=0.031, command="python -m calibration.fit_shipped").n
    147
    """

    n: int
    mape: float
    command: str
    max_ape: float | None = None
    p95_ape: float | None = None
    mape_below_min_new: float | None = None
    decode_n: int | None = None
    decode_mape: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("n", "decode_n"):
                if value is not None or field.name == "n":
                    require_count(f"fit.{field.name}", value)
            elif field.name != "command" and (value is not None or field.name == "mape"):
                require_number(f"fit.{field.name}", value, at_least=0)


def larger(a: Any, b: Any) -> Any:
    """The larger of two numbers, or of each pair of two arrays.

    >>> larger(1.0, 2)
    2
    """
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return max(a, b)  # 20 times faster than np.maximum on the plain numbers that an engine asks with
    import numpy as np

    return np.maximum(a, b)
