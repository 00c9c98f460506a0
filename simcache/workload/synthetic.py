"""Requests that somebody wrote down, and Poisson arrivals for checks against theory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from ..errors import InputError, require, require_count, require_number
from ..prompt import Request, Segment
from ..streams import stream
from .distributions import Numbers, distribution, whole
from .trace_rows import MOST_TOKENS, simcache_row

_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class RequestList:
    """Requests at hand, in order of ``arrived_at_s``; every seed gives the same ones.

    >>> rows = (Request(0.0, (Segment("doc", 300),), Segment("a", 20)),)
    >>> next(RequestList(rows=rows).requests(seed=1)).prompt[0].tokens
    300
    """

    rows: tuple[Request, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.rows, tuple) or not all(isinstance(row, Request) for row in self.rows):
            raise InputError("rows", self.rows, "must be a tuple of Request")
        last_s = 0.0
        for i, row in enumerate(self.rows):
            require_number(f"rows[{i}].arrived_at_s", row.arrived_at_s, at_least=0)
            if row.arrived_at_s < last_s:
                raise InputError(f"rows[{i}].arrived_at_s", row.arrived_at_s, f"must not be before the row above it ({last_s:g})")
            if row.cancelled_after_s is not None:
                require_number(f"rows[{i}].cancelled_after_s", row.cancelled_after_s, at_least=0)
            last_s = row.arrived_at_s

    @classmethod
    def from_rows(cls, rows: Iterable[dict[str, Any]]) -> RequestList:
        """From rows as in our JSONL: ``{"arrived_at_s": 0, "prompt": [["doc", 300]], "output": ["a", 20], ...}``.

        >>> len(RequestList.from_rows([{"arrived_at_s": 0, "prompt": [["doc", 300]], "output": ["a", 20]}]).rows)
        1
        """
        requests = []
        for i, row in enumerate(rows):
            try:
                requests.append(simcache_row(row, i))
            except InputError as problem:
                raise InputError(f"rows[{i}].{problem.name}", problem.value, problem.rule, problem.way_out) from None
        return cls(rows=tuple(requests))

    @property
    def not_stationary(self) -> str:
        """Its beginning is data."""
        return "these are the requests of one stretch of time, and its beginning belongs to it"

    def requests(self, seed: int) -> Iterator[Request]:
        """The rows, whatever the seed."""
        return iter(self.rows)


@dataclass(frozen=True, kw_only=True)
class PoissonRequests:
    """``count`` requests with exponential gaps of mean ``1 / rate_per_s``: the M of M/D/1 and M/M/1.

    ``prompt_tokens`` and ``output_tokens`` are counts or distributions, rounded to whole tokens; of each prompt the first
    ``shared_prefix_tokens`` are the same content in all of them, the rest is its own. A smaller ``count`` gives the first
    requests of a larger one.

    >>> w = PoissonRequests(rate_per_s=2, count=3, prompt_tokens=100, output_tokens=1, shared_prefix_tokens=40)
    >>> [request.prompt for request in w.requests(seed=1)][2]
    (Segment(key='shared', tokens=40), Segment(key='prompt2', tokens=60))
    """

    rate_per_s: float
    count: int
    prompt_tokens: Numbers
    output_tokens: Numbers
    shared_prefix_tokens: int = 0

    def __post_init__(self) -> None:
        require_number("rate_per_s", self.rate_per_s, above=0)
        require_count("count", self.count)
        require_count("shared_prefix_tokens", self.shared_prefix_tokens, at_least=0)
        for name in ("prompt_tokens", "output_tokens"):
            law = distribution(name, getattr(self, name), at_least=0)
            require(law.mean <= MOST_TOKENS, name, getattr(self, name), f"must be at most {MOST_TOKENS:,} on average")

    not_stationary = None

    def requests(self, seed: int) -> Iterator[Request]:
        """Requests in order of time, drawn in chunks: memory does not grow with ``count``."""
        gaps, prompts, outputs = (stream(seed, f"poisson-{name}") for name in ("gaps", "prompts", "outputs"))
        prompt_law = distribution("prompt_tokens", self.prompt_tokens)
        output_law = distribution("output_tokens", self.output_tokens)
        at_s = 0.0
        for first in range(0, self.count, _CHUNK):
            instants_s = at_s + np.cumsum(gaps.exponential(1 / self.rate_per_s, _CHUNK))
            at_s = float(instants_s[-1])
            prompt_tokens = whole(prompt_law.draw(prompts, _CHUNK))
            output_tokens = whole(output_law.draw(outputs, _CHUNK))
            columns = zip(instants_s.tolist(), prompt_tokens, output_tokens, strict=True)
            for i, (arrived_at_s, tokens, out) in enumerate(islice(columns, self.count - first), first):
                shared = min(self.shared_prefix_tokens, tokens)
                prompt = (Segment("shared", shared), Segment(f"prompt{i}", tokens - shared))
                yield Request(arrived_at_s, prompt[not shared :], Segment(f"out{i}", out))
