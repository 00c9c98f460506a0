"""A layout served by the simulator: hit ratio, time to first token and dollars, on the log's own arrivals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..cache.presets import rules_for
from ..cache.rates import hosted_prices
from ..cache.rules import ProviderRules
from ..engine.run import simulate
from ..errors import InputError
from ..latency import HostedProfile, load_profile
from ..messages.parts import MessageLog
from ..scenario import HostedApi, Scenario
from ..workload.synthetic import RequestList
from .families import Study
from .layouts import Layout, workload_of

PROFILE: Final = "openai-figure"
"""Latency of a hosted API where no profile is named: the one with the widest published range of prompts."""
_STAND_INS: Final = {
    # provider -> a model of its own that has a price, for logs whose model is not told or not known
    "anthropic": "claude-sonnet-4-5",
    "azure": "gpt-4o",
    "bedrock": "claude-sonnet-4-5",
    "deepseek": "deepseek-v4-pro",
    "gemini": "gemini-2.5-pro",
    "google": "gemini-2.5-pro",
    "moonshotai": "kimi-k3",
    "openai": "gpt-4o",
}
_DATED_FROM_S: Final = datetime(2015, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True, kw_only=True)
class Served:
    """One model of a log at a provider: its rules, the model that is priced for it, and how its latency is known."""

    api: HostedApi
    rules: ProviderRules
    profile: HostedProfile


@dataclass(frozen=True, kw_only=True)
class Played:
    """What a layout comes to. ``ttft_s`` of every request, from the instant of the log (waiting for the first of a fan-out counts);
    ``hit_tokens`` and ``prompt_tokens`` of every request, in the order of the log."""

    name: str
    hit_tokens: NDArray[np.int64] = field(repr=False)
    prompt_tokens: NDArray[np.int64] = field(repr=False)
    ttft_s: NDArray[np.float64] = field(repr=False)
    lines_usd: Mapping[str, float]
    extrapolated: bool = False
    """Whether the latency profile was measured at other lengths than these."""

    @property
    def token_hit_ratio(self) -> float:
        """Share of prompt tokens that were read from cache."""
        return float(self.hit_tokens.sum() / max(1, self.prompt_tokens.sum()))

    @property
    def total_usd(self) -> float:
        """Dollars of all requests of the log."""
        return sum(self.lines_usd.values())

    def ttft(self, share: float) -> float:
        """A quantile of the times to first token, in seconds."""
        return float(np.quantile(self.ttft_s, share))


def served_models(
    log: MessageLog, provider: str, *, model: str | None = None, rules: str | None = None, profile: str | HostedProfile = PROFILE
) -> tuple[dict[str | None, Served], list[str]]:
    """How every model of the log is served at ``provider``, and notes on those that another one stands for.

    ``model`` stands for all of them. Errors: an unknown provider, rules or profile (near names); a log without models at a provider
    of which no model is known here.
    """
    latency = load_profile(profile) if isinstance(profile, str) else profile
    if not isinstance(latency, HostedProfile):
        raise InputError("profile", latency.name, "is a replica's profile, a hosted API needs a hosted one")
    first_s = min((request.started_at_s for request in log.requests if request.started_at_s is not None), default=0.0)
    day = datetime.fromtimestamp(first_s, UTC) if first_s >= _DATED_FROM_S else None
    found: dict[str | None, Served] = {}
    notes: list[str] = []
    for name in log.models:
        chosen, priced = model or name, False
        if chosen is not None:
            try:
                hosted_prices(rules_for(provider, chosen, rules), chosen, day)
                priced = True
            except InputError as error:
                if model is not None or error.name in ("provider", "rules"):
                    raise
        if not priced:
            own = rules_for(provider, chosen or "", rules)
            stand_in = _STAND_INS.get(own.provider)
            if stand_in is None:
                raise InputError("model", name, f"has no price at {provider}", "Name one that has with --model.")
            why = "tells no model" if name is None else f"names a model without a price at {provider} ({name})"
            notes.append(f"the log {why}: {stand_in} stands for it (--model names another)")
            chosen = stand_in
        assert chosen is not None
        api = HostedApi(
            provider=provider,
            model=chosen,
            profile=latency,
            rules=rules,
            mark_shared=False,
            jitter=False,
            prices_at=None if day is None else day.strftime("%Y-%m-%dT%H:%M:%S"),
        )
        found[name] = Served(api=api, rules=rules_for(provider, chosen, rules), profile=latency)
    return found, notes


def play(study: Study, layout: Layout, served: Mapping[str | None, Served], *, first: int | None = None) -> Played:
    """Serve every request of a layout (or the ``first`` ones), each model by itself, and add up what was billed."""
    size = len(study.log) if first is None else min(first, len(study.log))
    hit, prompt, ttft_s = np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size)
    lines: dict[str, float] = {}
    extrapolated = False
    models = np.array([list(served).index(request.model) for request in study.log.requests])
    for number, each in enumerate(served.values()):
        requests = [request for request in workload_of(study, layout, each.rules, size) if models[request.turn] == number]
        ttl = layout.ttl if layout.ttl in each.rules.lifetime_s else each.rules.default_ttl
        if not requests:
            continue
        scenario = Scenario(workload=RequestList(rows=tuple(requests)), backend=replace(each.api, cache_ttl=ttl))
        result = simulate(scenario)
        records = result.records
        turns = records["turn"]
        hit[turns], prompt[turns] = records["hit_tokens"], records["prompt_tokens"]
        ttft_s[turns] = records.ttft_s
        extrapolated = extrapolated or result.extrapolated
        assert result.bill is not None
        for line, usd in result.bill.lines.items():
            lines[line] = lines.get(line, 0.0) + usd
    for index, delay_s in layout.delays_s.items():
        if index < size:
            ttft_s[index] += delay_s
    return Played(name=layout.name, hit_tokens=hit, prompt_tokens=prompt, ttft_s=ttft_s, lines_usd=lines, extrapolated=extrapolated)
