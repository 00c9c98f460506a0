"""The configuration to paste: where the markers go, which lifetime, when to ping and to warm."""

from __future__ import annotations

from typing import Any, Final

from ..advice.outline import configuration, layout_diff, marker
from ..cache.rules import ProviderRules
from ..warming.keep_alive import KeepAlive
from ..warming.limits import Together
from .alternatives import PROPOSED, Alternative
from .deciding import best_trigger
from .verdict import Decision

Json = dict[str, Any]
_SHARED: Final = "<what all conversations share>"
_LAST: Final = "<the last message before the question>"
_QUESTION: Final = "<the question>"


def settings(decision: Decision) -> Json:
    """What to send for the recommended caching, and for warming where that helps; empty where there is nothing to change.

    ``request``: the fields of a request that matter, with placeholders; ``pings`` and ``warm_up``: when to send what else;
    ``say``: the same for people.

    >>> from ..logs import UsageLog, UsageRow
    >>> from .deciding import decide
    >>> settings(decide(UsageLog((UsageRow(provider="anthropic", model="claude-sonnet-4-5", prompt_tokens=9_000),))))
    {}
    """
    trigger = best_trigger(decision.warming)
    if decision.rules is None or decision.word == "cannot tell" or (decision.best is None and trigger is None):
        return {}
    chosen = (decision.best or decision.today).alternative
    rules = decision.rules
    found: Json = {"request": _request(rules, chosen, decision.model), "say": []}
    found["say"].append(_markers_in_words(rules, chosen))
    if decision.advice is not None and PROPOSED in chosen.changes:
        found["layout"] = {"diff": layout_diff(decision.advice), **configuration(decision.advice)}
        found["layout"]["ttl"] = chosen.api.cache_ttl or rules.default_ttl
    pings = _pings(chosen)
    if pings is not None:
        found["pings"] = {"interval_s": pings.interval_s, "most": pings.most_pings}
        found["say"].append(
            f"Ping: {pings.interval_s:,.0f} s after the last request of a conversation send it again with "
            f"{_least_output(rules)}, at most {pings.most_pings} times in a row."
        )
    if trigger is not None:
        words = trigger.row.alternative.changes[-1]
        found["warm_up"] = {"when": words, "output_tokens": rules.warm_output_tokens}
        found["say"].append(
            f"{words[0].upper()}{words[1:]} (if shorter waits are worth it): send everything before the question with "
            f"{_least_output(rules)}; hold the question back until it has answered."
        )
    return found


def _pings(chosen: Alternative) -> KeepAlive | None:
    policy = chosen.scenario.warming
    parts = policy.policies if isinstance(policy, Together) else (policy,)
    return next((part for part in parts if isinstance(part, KeepAlive)), None)


def _least_output(rules: ProviderRules) -> str:
    return f"max_tokens {rules.warm_output_tokens}"


def _request(rules: ProviderRules, chosen: Alternative, model: str) -> Json:
    api = chosen.api
    ttl = api.cache_ttl or rules.default_ttl
    if not api.prefix_caching:
        return {"model": model}
    if rules.provider == "anthropic":
        return _anthropic(chosen, model, ttl)
    if rules.provider == "openai":
        key: Json = {"model": model, "prompt_cache_key": "<one per group of requests with one prefix, under 15 a minute>"}
        if rules.matching == "exact at breakpoints":
            return key | {"prompt_cache_options": {"ttl": ttl}}
        return key | ({"prompt_cache_retention": "24h"} if api.rules == "openai-24h" else {})
    if rules.matching == "exact at breakpoints":
        return {"model": model, "breakpoint": marker(rules.provider, ttl)}
    return {"model": model}


def _anthropic(chosen: Alternative, model: str, ttl: str) -> Json:
    control = marker("anthropic", ttl)

    def block(text: str, marked: bool) -> Json:
        return {"type": "text", "text": text, **(control if marked else {})}

    return {
        "model": model,
        "system": [block(_SHARED, bool(chosen.api.breakpoints) or chosen.arrivals.marks == "before the question")],
        "messages": [
            {"role": "assistant", "content": [block(_LAST, True)]},
            {"role": "user", "content": [block(_QUESTION, False)]},
        ],
    }


def _markers_in_words(rules: ProviderRules, chosen: Alternative) -> str:
    ttl = chosen.api.cache_ttl or rules.default_ttl
    if not chosen.api.prefix_caching:
        return "Send no markers: what is written is read too seldom."
    if rules.matching == "exact at breakpoints" and not rules.automatic_marker:
        where = "Markers as above" if PROPOSED in chosen.changes else "Markers stay where they are"
        if chosen.arrivals.marks == "before the question":
            where = "Markers: one behind what all conversations share, one before the question"
        return f"{where}; lifetime {ttl}."
    return f"Nothing to mark: the provider caches by itself, for {ttl}."
