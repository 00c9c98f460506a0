"""Which rows of a log to decide about, what they cost and how long they took; what the log lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from ..cache.presets import rules_of
from ..cache.rates import HostedPrices, hosted_prices
from ..cache.rules import ProviderRules
from ..errors import InputError
from ..latency import HostedProfile
from ..latency.catalogue import find_profile
from ..logs import UsageLog, UsageRow
from ..price_list import parse_date
from ..usage_fit import fit_usage
from .arrivals import LEAD_S
from .verdict import Asked

FALLBACK_PROFILE: Final = "openai-figure"
FEWEST_REQUESTS: Final = 10
"""Fewer show no pattern of use."""


def chosen_provider(rows: Sequence[UsageRow], asked: str | None) -> str:
    """The provider to decide about. Errors: none asked for and several in the log; one that is unknown or not in it."""
    named = Counter(row.provider for row in rows)
    if asked is None:
        if len(named) > 1:
            way_out = f"Choose one: --provider {named.most_common(1)[0][0]}."
            raise InputError("provider", ", ".join(sorted(named)[:8]), "is more than one", way_out)
        return next(iter(named))
    rules_of(asked)  # an unknown name is refused with near ones
    if not any(same_provider(name, asked) for name in named):
        raise InputError(
            "provider",
            asked,
            f"has no request in the log, which is of {', '.join(sorted(named)[:8])}",
            "Compare with it: --also PROVIDER/MODEL.",
        )
    return asked


def same_provider(name: str, asked: str) -> bool:
    """Whether the two are names of one provider.

    >>> same_provider("kimi", "moonshotai"), same_provider("openai", "azure")
    (True, False)
    """
    if name == asked:
        return True
    try:
        return rules_of(name).provider == rules_of(asked).provider
    except InputError:
        return False


def chosen_model(rows: Sequence[UsageRow], asked: str | None) -> str:
    """The model to decide about: the one asked for, else the one with the most tokens. Errors: one that is not in the log."""
    tokens: Counter[str] = Counter()
    for row in rows:
        tokens[row.model] += row.prompt_tokens + row.output_tokens
    if asked is None:
        return tokens.most_common(1)[0][0]
    if asked not in tokens:
        raise InputError("model", asked, f"has no request in the log, which is of {', '.join(sorted(tokens)[:8])}")
    return asked


def usable_rows(every: Sequence[UsageRow], own: Sequence[UsageRow], model: str) -> tuple[list[UsageRow], dict[str, int]]:
    """The rows to decide about, in order of time, and how many are left out for which reason."""
    reasons: Counter[str] = Counter()
    kept = []
    reasons["of other providers"] = len(every) - len(own)
    for row in own:
        if row.model != model:
            reasons[f"of other models (--model {row.model} decides about them)"] += 1
        elif row.batch:
            reasons["in batches, which nobody waits for"] += 1
        elif row.started_at_s is None:
            reasons["without started_at_s: when they came is not known"] += 1
        elif not row.prompt_tokens:
            reasons["without prompt tokens"] += 1
        else:
            kept.append(row)
    kept.sort(key=lambda row: row.started_at_s or 0.0)
    return kept, {reason: count for reason, count in reasons.items() if count}


def span_of(rows: Sequence[UsageRow]) -> float:
    """From the first start to the last and the mean gap that follows it, so that n requests at a rate span n / rate."""
    if len(rows) < 2:
        return 0.0
    first, last = rows[0].started_at_s or 0.0, rows[-1].started_at_s or 0.0
    return (last - first) * len(rows) / (len(rows) - 1)


def what_is_missing(
    rows: Sequence[UsageRow], own: Sequence[UsageRow], model: str, span_s: float, *, texts: bool = False
) -> list[str]:
    """What the log lacks, each with what it costs."""
    said = []
    untimed = sum(row.started_at_s is None for row in own if row.model == model)
    if untimed and not rows:
        said.append("started_at_s of each request: without it nobody knows what a lifetime would have kept")
    elif len(rows) < FEWEST_REQUESTS:
        said.append(f"requests: {len(rows)} show no pattern, {FEWEST_REQUESTS} are the least, some hundred conversations are good")
    elif not span_s:
        said.append("time: all requests came at one instant")
    if rows and not texts and all(row.session is None for row in rows):
        said.append("session of each request: without it each stands alone, and only prefixes that all share can be judged")
    if rows and all(row.ttft_s is None for row in rows):
        said.append("ttft_s of each request: without it the seconds are those of a profile, not yours")
    return said


def prices_of(rules: ProviderRules, model: str, rows: Sequence[UsageRow]) -> tuple[str, HostedPrices]:
    """The instant whose prices hold at a run's zero, and the prices: those of the log's first day, else today's."""
    if rows and rows[0].dated:
        instant = datetime.fromtimestamp((rows[0].started_at_s or 0.0) - LEAD_S, UTC).isoformat()
    else:
        instant = datetime.now(tz=UTC).date().isoformat()
    return instant, hosted_prices(rules, model, parse_date("prices_at", instant))


def latency_of(rows: Sequence[UsageRow], asked: Asked) -> tuple[HostedProfile, bool, tuple[str, ...]]:
    """The latency of the log's own requests; where it cannot be fitted the profile that was asked for, and why."""
    try:
        unused = () if asked.profile is None else (f"profile {asked.profile!r} is not used: the log has times of its own",)
        return fit_usage(UsageLog(tuple(rows)), "this log", command="simcache decide").profile, True, unused
    except InputError as error:
        name = asked.profile or FALLBACK_PROFILE
        profile = find_profile(name)
        if not isinstance(profile, HostedProfile):
            raise InputError("profile", name, "is a replica's, a hosted API needs a hosted one") from None
        reason = f"seconds are those of profile {profile.name!r}: none can be fitted from the log ({error.name} {error.rule})"
        return profile, False, (reason,)
