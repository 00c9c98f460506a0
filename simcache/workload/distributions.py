"""Distributions of one number: small frozen values with ``draw(rng, n)``; a bare number stands for ``Fixed``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, require, require_count, require_number


@runtime_checkable
class Distribution(Protocol):
    """What a distribution answers; your own class with these five needs no registration.

    ``low`` and ``high`` bound what ``draw`` may return; ``mean`` and ``median`` are exact (inf where a mean does not exist).
    """

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        """``n`` independent values; the first k of n equal the first k of any longer draw."""
        ...

    @property
    def mean(self) -> float: ...
    @property
    def median(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


@runtime_checkable
class Law(Distribution, Protocol):
    """A distribution that knows its own law: every one shipped here does."""

    def cdf(self, x: ArrayLike) -> NDArray[np.float64]:
        """P(X <= x), element by element."""
        ...


Numbers = float | Distribution
"""What a user may write where a distribution is wanted."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always ``value``.

    >>> Fixed(3.0).draw(np.random.default_rng(0), 2).tolist()
    [3.0, 3.0]
    """

    value: float

    def __post_init__(self) -> None:
        require_number("value", self.value)

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        """``n`` times the value; uses up nothing of ``rng``."""
        return np.full(n, float(self.value))

    def cdf(self, x: ArrayLike) -> NDArray[np.float64]:
        """P(X <= x)."""
        return np.where(np.asarray(x, dtype=float) >= self.value, 1.0, 0.0)

    @property
    def mean(self) -> float:
        """The value."""
        return float(self.value)

    @property
    def median(self) -> float:
        """The value."""
        return float(self.value)

    @property
    def low(self) -> float:
        """The value."""
        return float(self.value)

    @property
    def high(self) -> float:
        """The value."""
        return float(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Anything in [low, high) alike.

    >>> Uniform(low=1, high=3).mean
    2.0
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        require_number("low", self.low)
        require_number("high", self.high, at_least=self.low)

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        """``n`` values."""
        return rng.uniform(self.low, self.high, n)

    def cdf(self, x: ArrayLike) -> NDArray[np.float64]:
        """P(X <= x)."""
        x, width = np.asarray(x, dtype=float), self.high - self.low
        return np.clip((x - self.low) / width, 0.0, 1.0) if width else np.where(x >= self.low, 1.0, 0.0)

    @property
    def mean(self) -> float:
        """(low + high) / 2."""
        return (self.low + self.high) / 2

    @property
    def median(self) -> float:
        """(low + high) / 2."""
        return self.mean


class _Positive:
    __slots__ = ()

    @property
    def low(self) -> float:
        """0: every value is positive."""
        return 0.0

    @property
    def high(self) -> float:
        """No upper bound."""
        return math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential(_Positive):
    """Memoryless with the given mean.

    >>> round(Exponential(mean=2.0).median, 4)
    1.3863
    """

    mean: float

    def __post_init__(self) -> None:
        require_number("mean", self.mean, above=0)

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        """``n`` values."""
        return rng.exponential(self.mean, n)

    def cdf(self, x: ArrayLike) -> NDArray[np.float64]:
        """P(X <= x)."""
        return np.asarray(-np.expm1(-np.maximum(np.asarray(x, dtype=float), 0.0) / self.mean))

    @property
    def median(self) -> float:
        """mean * ln 2."""
        return self.mean * math.log(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNormal(_Positive):
    """exp of a normal: ``median`` and ``sigma``, the standard deviation of the logarithm.

    >>> round(LogNormal(median=126, sigma=0.97).mean, 1)
    201.7
    """

    median: float
    sigma: float

    def __post_init__(self) -> None:
        require_number("median", self.median, above=0)
        require_number("sigma", self.sigma, at_least=0)

    @classmethod
    def of_mean(cls, mean: float, sigma: float) -> LogNormal:
        """The log-normal with this mean.

        >>> round(LogNormal.of_mean(1.0, 0.45).mean, 12)
        1.0
        """
        return cls(median=mean * math.exp(-(sigma**2) / 2), sigma=sigma)

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        """``n`` values."""
        return self.median * np.exp(self.sigma * rng.standard_normal(n))

    def cdf(self, x: ArrayLike) -> NDArray[np.float64]:
        """P(X <= x)."""
        if not self.sigma:
            return Fixed(self.median).cdf(x)
        with np.errstate(divide="ignore"):
            z = np.log(np.maximum(np.asarray(x, dtype=float), 0.0) / self.median) / self.sigma
        return np.asarray([0.5 * math.erfc(-value / math.sqrt(2)) for value in z.ravel().tolist()]).reshape(z.shape)

    @property
    def mean(self) -> float:
        """median * exp(sigma² / 2); inf where no float can hold it."""
        try:
            return self.median * math.exp(self.sigma**2 / 2)
        except OverflowError:
            return math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLogistic(_Positive):
    """exp of a logistic: ``median`` and ``shape``; P(X > x) = 1 / (1 + (x / median)^shape). Its mean is inf for shape <= 1.

    >>> round(LogLogistic(median=1.0, shape=4.0).mean, 4)
    1.1107
    """

    median: float
    shape: float

    def __post_init__(self) -> None:
        require_number("median", self.median, above=0)
        require_number("shape", self.shape, above=0)

    @classmethod
    def of_mean(cls, mean: float, shape: float) -> LogLogistic:
        """The log-logistic with this mean; ``shape`` above 1.

        >>> round(LogLogistic.of_mean(1.0, 4.0).mean, 12)
        1.0
        """
        require_number("shape", shape, above=1)
        return cls(median=mean * math.sin(math.pi / shape) / (math.pi / shape), shape=shape)

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        """``n`` values."""
        return self.median * np.exp(rng.logistic(0.0, 1.0, n) / self.shape)

    def cdf(self, x: ArrayLike) -> NDArray[np.float64]:
        """P(X <= x)."""
        with np.errstate(divide="ignore", over="ignore"):
            return np.asarray(1 / (1 + (np.maximum(np.asarray(x, dtype=float), 0.0) / self.median) ** -self.shape))

    @property
    def mean(self) -> float:
        """median * x / sin x with x = pi / shape."""
        x = math.pi / self.shape
        return self.median * x / math.sin(x) if self.shape > 1 else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometric:
    """A count from 1 with the given mean: after each one, the next follows with probability 1 - 1/mean.

    >>> Geometric(mean=1.0).draw(np.random.default_rng(0), 2).tolist()
    [1.0, 1.0]
    """

    mean: float

    def __post_init__(self) -> None:
        require_number("mean", self.mean, at_least=1)

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        """``n`` whole values."""
        return rng.geometric(1 / self.mean, n).astype(np.float64)

    def cdf(self, x: ArrayLike) -> NDArray[np.float64]:
        """P(X <= x)."""
        return np.asarray(1 - (1 - 1 / self.mean) ** np.maximum(np.floor(np.asarray(x, dtype=float)), 0.0))

    @property
    def median(self) -> float:
        """The least count with at least half of the law at or below it."""
        return 1.0 if self.mean <= 2 else float(math.ceil(math.log(0.5) / math.log1p(-1 / self.mean)))

    @property
    def low(self) -> float:
        """1."""
        return 1.0

    @property
    def high(self) -> float:
        """No upper bound."""
        return math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Zipf:
    """A rank from 0 to ``n`` - 1: rank k with weight (k + 1)^-``exponent`` (0: all alike).

    >>> Zipf(n=1, exponent=1.0).draw(np.random.default_rng(0), 2).tolist()
    [0.0, 0.0]
    """

    n: int
    exponent: float = 1.0

    def __post_init__(self) -> None:
        require_count("n", self.n)
        require_number("exponent", self.exponent, at_least=0)

    def _law(self) -> NDArray[np.float64]:
        weights = np.arange(1, self.n + 1, dtype=np.float64) ** -self.exponent
        return np.asarray(weights / weights.sum())

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        """``n`` whole values."""
        ranks = np.searchsorted(np.cumsum(self._law()), rng.random(n), side="right")
        return np.minimum(ranks, self.n - 1).astype(np.float64)  # the cumulative sum may end below 1 by a rounding

    def cdf(self, x: ArrayLike) -> NDArray[np.float64]:
        """P(X <= x)."""
        upto = np.concatenate(([0.0], np.cumsum(self._law())))
        return np.asarray(upto[np.clip(np.floor(np.asarray(x, dtype=float)).astype(np.int64) + 1, 0, self.n)])

    @property
    def mean(self) -> float:
        """The mean rank."""
        return float(np.arange(self.n) @ self._law())

    @property
    def median(self) -> float:
        """The least rank with at least half of the law at or below it."""
        return float(np.searchsorted(np.cumsum(self._law()), 0.5))

    @property
    def low(self) -> float:
        """0."""
        return 0.0

    @property
    def high(self) -> float:
        """n - 1."""
        return float(self.n - 1)


DISTRIBUTIONS: Final = {
    "fixed": Fixed,
    "uniform": Uniform,
    "exponential": Exponential,
    "log-normal": LogNormal,
    "log-logistic": LogLogistic,
    "geometric": Geometric,
    "zipf": Zipf,
}
"""The names that a scenario file may use."""


_ANSWERS: Final = ("draw", "mean", "median", "low", "high")


def distribution(name: str, value: object, *, at_least: float | None = None, at_most: float | None = None) -> Distribution:
    """``value`` as a distribution whose values stay inside the bounds, or InputError about the field ``name``.

    >>> distribution("typing_s", 3, at_least=0)
    Fixed(value=3)
    """
    if isinstance(value, (int, float)):
        require_number(name, value, at_least=at_least, at_most=at_most)
        return Fixed(value)
    # The class first: a distribution that reads a file for its mean should not read it for being looked at.
    if not (all(hasattr(type(value), answer) for answer in _ANSWERS) or isinstance(value, Distribution)):
        raise InputError(name, value, "must be a number or a distribution", "For example LogNormal(median=20, sigma=1.1).")
    value = cast(Distribution, value)
    if at_least is not None:
        require(value.low >= at_least, name, value, f"must not draw values below {at_least:g}")
    if at_most is not None:
        require(value.high <= at_most, name, value, f"must not draw values above {at_most:g}")
    return value


def whole(draws: NDArray[np.float64], *, at_least: int = 0) -> list[int]:
    """``draws`` rounded to whole numbers of at least ``at_least``.

    >>> whole(np.array([0.2, 2.6]), at_least=1)
    [1, 3]
    """
    return np.maximum(np.rint(draws), at_least).astype(np.int64).tolist()  # type: ignore[no-any-return]
