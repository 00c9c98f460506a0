"""When warming and caching pay at one provider, from closed forms alone: no simulation, no clock."""

from __future__ import annotations

from dataclasses import dataclass

from . import theory
from .cache.rules import ProviderRules
from .errors import require_count, require_number
from .latency import HostedProfile

QUESTION_TOKENS = 22
"""What stands after the context in the question that the latencies are for: the published recipe's question."""


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """The card. Spans in seconds from submit, costs in units of the price of the uncached context, rates per second.

    *Latency*: ``cold_s`` and ``hit_s`` are the question's TTFT without and with its context in the cache, ``least_typing_s``
    hides all of the warm-up, ``typing_s`` (None: not asked) gives ``ttft_s`` and ``saved_s`` against a cold question.
    *Context*: below ``min_tokens`` nothing is cached; from ``hit_saves_from_tokens`` on a hit is faster than computing (None:
    it never is).
    *Money*: ``extra_cost`` is what warming at ``p_send`` costs over caching on send, w(1 - s) + s*r. It costs less than never
    caching when P(send) times the questions of a visit exceeds ``sent_questions``; ``least_p_send`` says it for visits of 1, 2
    and 3 questions (None: never). Caching itself pays from request ``caching_pays_from`` on, or from ``caching_pays_per_s`` of
    steady traffic.
    *Traffic*: ``warm_half_per_s`` and ``warm_95_per_s`` keep the context warm for 50 and 95 % of the requests.
    *Pings*: pay while P(return within the next lifetime) exceeds ``ping_threshold``.
    *Storage*: ``storage_reads_per_h`` pay a price by the hour (None: there is none, or no input price was given).
    """

    context_tokens: int
    cached: bool
    min_tokens: int
    ttl_s: float
    write: float
    read: float
    p_send: float
    typing_s: float | None
    cold_s: float
    hit_s: float
    least_typing_s: float
    ttft_s: float | None
    saved_s: float | None
    hit_saves_from_tokens: int | None
    extra_cost: float
    sent_questions: float | None
    least_p_send: tuple[float | None, ...]
    caching_pays_from: int | None
    caching_pays_per_s: float | None
    warm_half_per_s: float
    warm_95_per_s: float
    ping_threshold: float | None
    storage_reads_per_h: float | None
    extra_usd: float | None
    usd_per_second_saved: float | None


def break_even(
    rules: ProviderRules,
    profile: HostedProfile,
    *,
    model: str = "",
    ttl: str | None = None,
    context_tokens: int,
    p_send: float = 1.0,
    typing_s: float | None = None,
    input_usd_per_token: float | None = None,
    storage_usd_per_token_hour: float | None = None,
) -> BreakEven:
    """The card of ``context_tokens`` under ``rules``; warming starts with typing, the client waits for an unfinished warm-up.

    With ``input_usd_per_token`` it says dollars too. ``model`` "" takes the rules' values for models that are not listed.
    Errors: impossible numbers, a lifetime that the provider does not offer.

    >>> from simcache.cache.presets import load_rules
    >>> toy = HostedProfile(name="toy", base_s=1.0, per_token_s=1e-4, per_cached_token_s=0.0, seconds_per_output_token=0.02)
    >>> card = break_even(load_rules("anthropic"), toy, context_tokens=100_000, p_send=0.7, typing_s=3.0)
    >>> round(card.extra_cost, 3), card.caching_pays_from, card.least_typing_s, round(card.saved_s, 1)
    (0.445, 2, 11.0, 2.0)
    """
    require_count("context_tokens", context_tokens)
    require_number("p_send", p_send, at_least=0, at_most=1)
    if typing_s is not None:
        require_number("typing_s", typing_s, at_least=0)
    ttl = rules.default_ttl if ttl is None else ttl
    ttl_s, write, read = rules.lifetime_of(ttl), rules.write_multiplier_of(ttl), rules.read_multiplier_of(model)
    min_tokens = rules.min_tokens_of(model)
    cached = context_tokens >= min_tokens
    cold_s = profile.ttft_s(context_tokens + QUESTION_TOKENS, 0)
    hit_s = profile.ttft_s(QUESTION_TOKENS, context_tokens) if cached else cold_s
    warm_s = profile.ttft_s(context_tokens, 0)
    ttft_s = None
    if typing_s is not None:
        ttft_s = theory.ttft_with_warm_s(typing_s, warm_s, hit_s, cold_s) if cached else cold_s
    extra = theory.warming_extra_cost(p_send, write=write, read=read)
    sent = theory.sent_until_warming_pays(write=write, read=read)
    extra_usd = None if input_usd_per_token is None else extra * context_tokens * input_usd_per_token
    saved_s = None if ttft_s is None else cold_s - ttft_s
    worth = extra_usd is not None and saved_s is not None and saved_s > 0 and p_send > 0
    storage = storage_usd_per_token_hour
    return BreakEven(
        context_tokens=context_tokens,
        cached=cached,
        min_tokens=min_tokens,
        ttl_s=ttl_s,
        write=write,
        read=read,
        p_send=p_send,
        typing_s=typing_s,
        cold_s=cold_s,
        hit_s=hit_s,
        least_typing_s=theory.hiding_typing_s(warm_s),
        ttft_s=ttft_s,
        saved_s=saved_s,
        hit_saves_from_tokens=_faster_from(profile),
        extra_cost=extra,
        sent_questions=sent,
        least_p_send=tuple(None if sent is None or sent > n else sent / n for n in (1, 2, 3)),
        caching_pays_from=theory.requests_until_caching_pays(write=write, read=read),
        caching_pays_per_s=theory.traffic_until_caching_pays(ttl_s, write=write, read=read),
        warm_half_per_s=theory.traffic_for_hits(0.5, ttl_s),
        warm_95_per_s=theory.traffic_for_hits(0.95, ttl_s),
        ping_threshold=theory.keep_alive_threshold(write=write, read=read) if write > read else None,
        storage_reads_per_h=None
        if storage is None or not input_usd_per_token
        else theory.reads_per_h_until_storage_pays(storage=storage / input_usd_per_token, read=read),
        extra_usd=extra_usd,
        usd_per_second_saved=extra_usd / (p_send * saved_s) if worth and extra_usd is not None and saved_s is not None else None,
    )


def _faster_from(profile: HostedProfile) -> int | None:
    """The shortest context whose hit is faster than computing it: where hit_s + c*read slope < c*compute slope."""
    gain_s = profile.per_token_s - profile.per_cached_token_s
    return None if gain_s <= 0 else int(profile.hit_s / gain_s) + 1
