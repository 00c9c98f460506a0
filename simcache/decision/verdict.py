"""The decision: what was simulated on a log's arrivals, whether the simulation is to be believed, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from ..advice.advisor import Advice
from ..cache.rules import ProviderRules
from ..experiment.comparison import LiveTest
from ..latency import HostedProfile
from ..stats import Estimate
from .alternatives import Alternative
from .conversations import Reconstruction

Word = Literal["yes", "no", "it depends", "cannot tell"]
Device = Literal["desktop", "mobile"]
LEAST_SAVING: Final = 0.01
"""A saving of less than this share of the bill is not worth a change."""
BOUND: Final = 0.05
"""Dollars, and cached tokens over prompt tokens, within which the simulation of today reproduces the log."""
TTFT_BOUND: Final = 0.15
"""The same for the median TTFT."""
HOPELESS: Final = 0.25
"""A simulation that misses the log by more than this says nothing."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a log cannot say. ``provider`` and ``model`` choose among the log's (None: its only provider, its most used model).

    ``profile``: whose seconds, where the log has none. ``device`` None: desktops, and phones where warming helps. ``reuse``: the
    share of prompts that begin with the one before, where the log does not show it (None: all of them, and the answer depends).
    ``also``: PROVIDER/MODEL to compare with. ``tokenizer``: a tokenizer.json that counts a message log's texts (None: an estimate).
    """

    provider: str | None = None
    model: str | None = None
    rules: str | None = None
    profile: str | None = None
    slo_ttft_s: float = 1.0
    device: Device | None = None
    typing_s: float | None = None
    p_send: float = 1.0
    reuse: float | None = None
    also: tuple[str, ...] = ()
    tokenizer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One alternative in figures: dollars a month and against today's, TTFT and its objective; None: not known."""

    alternative: Alternative
    usd_a_month: Estimate
    change_usd: Estimate
    change_share: Estimate
    ttft_p50_s: Estimate | None
    ttft_p95_s: Estimate | None
    slo_share: Estimate | None
    hit_ratio: float | None
    warm_ups: float
    warm_usd: float

    @property
    def saves(self) -> bool:
        """Whether it costs less than today, more than chance and worth a change."""
        high = self.change_usd.high
        return high is not None and high < 0 and self.change_share.mean < -LEAST_SAVING


@dataclass(frozen=True, kw_only=True)
class Warming:
    """A trigger on top of the best caching: what it costs and saves against that. ``helps``: p95 falls, more than chance."""

    row: Row
    base: str
    change_usd: Estimate
    change_share: Estimate
    p95_change_s: Estimate | None
    slo_change: Estimate | None

    @property
    def helps(self) -> bool:
        """Whether the interval of the 95th percentile's change lies below zero, or that of the share in time above it."""
        shorter = self.p95_change_s is not None and self.p95_change_s.high is not None and self.p95_change_s.high < 0
        more = self.slo_change is not None and self.slo_change.low is not None and self.slo_change.low > 0
        return shorter or more


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Today's configuration simulated, against the log: signed shares; ``cached``: cached over prompt tokens, simulated less
    logged; None: not in the log."""

    usd: float | None
    cached: float
    logged_cached: float
    ttft_p50: float | None
    ttft_p95: float | None

    @property
    def holds(self) -> bool:
        """Whether all that the log has is met within the bounds."""
        told = [(self.usd, BOUND), (self.cached, BOUND), (self.ttft_p50, TTFT_BOUND)]
        return all(value is None or abs(value) <= bound for value, bound in told)

    @property
    def hopeless(self) -> bool:
        """Whether the log is missed by so much that nothing follows."""
        return max(abs(self.usd or 0.0), abs(self.cached)) > HOPELESS


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The answer and all it rests on. ``missing``: what the log lacks, with the way out; ``left_out``: reason -> requests.

    ``best``: the row to take (None: none saves). ``possible``: the best row that saves if something is true that the log does not
    show. ``warming``: the triggers on top of ``best`` or today, and ``phones``: the best of them for people on phones.
    """

    word: Word
    provider: str
    model: str
    requests: int
    conversations: int
    span_s: float
    asked: Asked
    rules: ProviderRules | None = None
    advice: Advice | None = field(default=None, repr=False)
    log: Reconstruction | None = field(default=None, repr=False)
    rows: tuple[Row, ...] = ()
    best: Row | None = None
    possible: Row | None = None
    warming: tuple[Warming, ...] = ()
    phones: Warming | None = None
    reproduction: Reproduction | None = None
    live_test: LiveTest | None = None
    replicates: int = 0
    profile: HostedProfile | None = None
    fitted: bool = False
    missing: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    prices: str = ""

    @property
    def today(self) -> Row:
        """The log's own configuration."""
        return self.rows[0]
