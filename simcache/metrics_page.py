"""The metrics page of a server, which Prometheus reads: histograms of TTFT, counters of its prefix cache."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import InputError, require

TTFT_METRIC: Final = "vllm:time_to_first_token_seconds"
_SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?$")
_LABEL: Final = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of a Prometheus histogram: ``upper_s`` are the buckets' upper bounds, the last one infinite; ``counts`` cumulative.

    >>> h = Histogram(upper_s=(0.1, 0.2, float("inf")), counts=(50.0, 100.0, 100.0), sum_s=10.0)
    >>> round(h.quantile_s(0.75), 9), h.mean_s
    (0.15, 0.1)
    """

    upper_s: tuple[float, ...]
    counts: tuple[float, ...]
    sum_s: float

    @property
    def count(self) -> float:
        """How many were counted."""
        return self.counts[-1]

    @property
    def mean_s(self) -> float:
        """Their mean, exact."""
        return self.sum_s / self.count if self.count else math.nan

    def quantile_s(self, share: float) -> float:
        """The quantile, as Prometheus estimates it: a straight line inside the bucket. NaN: empty, or beyond the last bound."""
        rank = share * self.count
        if not self.count or rank > self.counts[-2]:
            return math.nan
        bucket = next(i for i, count in enumerate(self.counts) if count >= rank)
        low_s, below = (self.upper_s[bucket - 1], self.counts[bucket - 1]) if bucket else (0.0, 0.0)
        inside = self.counts[bucket] - below
        return low_s + (self.upper_s[bucket] - low_s) * ((rank - below) / inside if inside else 0.0)

    def since(self, earlier: Histogram) -> Histogram:
        """What was counted between two readings of one page; raises InputError where the counts went back (a restart).

        >>> h = Histogram(upper_s=(1.0, float("inf")), counts=(3.0, 4.0), sum_s=5.0)
        >>> h.since(Histogram(upper_s=(1.0, float("inf")), counts=(1.0, 1.0), sum_s=0.5)).counts
        (2.0, 3.0)
        """
        require(self.upper_s == earlier.upper_s, "earlier", earlier.upper_s, "must have the same buckets")
        counts = tuple(now - then for now, then in zip(self.counts, earlier.counts, strict=True))
        require(min(counts) >= 0, "earlier", earlier.count, "counts more than the later reading: the server was restarted")
        return Histogram(upper_s=self.upper_s, counts=counts, sum_s=self.sum_s - earlier.sum_s)


@dataclass(frozen=True)
class MetricsPage:
    """One reading of a server's metrics: (name, labels sorted) -> value.

    >>> page = parse_metrics('hits_total{model="a"} 3\\nhits_total{model="b"} 4')
    >>> page.total("hits_total"), page.total("hits_total", model="b")
    (7.0, 4.0)
    """

    samples: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]

    def total(self, name: str, **labels: str) -> float | None:
        """The sum over all label sets that hold ``labels``; None: there is no such sample."""
        found = [
            value for (sample, has), value in self.samples.items() if sample == name and all(each in has for each in labels.items())
        ]
        return math.fsum(found) if found else None

    def histogram(self, name: str = TTFT_METRIC, **labels: str) -> Histogram:
        """The histogram ``name`` summed over label sets that hold ``labels``; raises InputError where it is missing or broken."""
        buckets: dict[float, float] = {}
        for (sample, has), value in self.samples.items():
            if sample == f"{name}_bucket" and all(each in has for each in labels.items()):
                bound = _number("le", dict(has).get("le", ""))
                buckets[bound] = buckets.get(bound, 0.0) + value
        known = sorted({sample.removesuffix("_bucket") for sample, _ in self.samples if sample.endswith("_bucket")})
        require(bool(buckets), "metric", name, "is not on this page", f"It has the histograms {', '.join(known) or 'none'}.")
        bounds = tuple(sorted(buckets))
        counts = tuple(buckets[bound] for bound in bounds)
        require(bounds[-1] == math.inf, "le", bounds[-1], "must end with +Inf")
        require(
            len(bounds) > 1 and list(counts) == sorted(counts), "metric", name, "must have at least two buckets that never shrink"
        )
        return Histogram(upper_s=bounds, counts=counts, sum_s=self.total(f"{name}_sum", **labels) or 0.0)

    @property
    def token_hit_ratio(self) -> float | None:
        """Share of prompt tokens that vLLM's prefix cache served since its start; None: not on the page, or nothing asked."""
        for suffix in ("_total", ""):
            queries, hits = (self.total(f"vllm:prefix_cache_{what}{suffix}") for what in ("queries", "hits"))
            if queries and hits is not None:
                return hits / queries
        return None


def parse_metrics(text: str, path: str | Path | None = None) -> MetricsPage:
    """Read the text format of Prometheus; raises InputError with the line for one that is none of it.

    >>> parse_metrics("# HELP up whether it is\\nup 1").total("up")
    1.0
    """
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _SAMPLE.match(line)
        try:
            if match is None:
                raise InputError("line", line, "must be NAME{LABELS} VALUE")
            name, labels, value = match.groups()
            key = (name, tuple(sorted(_labels(labels or ""))))
            samples[key] = samples.get(key, 0.0) + _number(name, value)
        except InputError as error:
            raise InputError(error.name, error.value, error.rule, path=path, line=number) from None
    require(bool(samples), "metrics", str(path or "text"), "hold no sample")
    return MetricsPage(samples)


def read_metrics(path: str | Path) -> MetricsPage:
    """As :func:`parse_metrics`, from a saved page."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("metrics", str(path), f"cannot be read: {error}") from None
    return parse_metrics(text, path)


def _labels(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(text):
        match = _LABEL.match(text, at)
        if match is None:
            raise InputError("labels", text, 'must look like name="value"')
        found.append((match[1], re.sub(r"\\(.)", lambda escaped: "\n" if escaped[1] == "n" else escaped[1], match[2])))
        at = match.end()
    return found


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(name, text, "must be a number") from None
