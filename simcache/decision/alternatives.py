"""What could be done otherwise: each alternative is today's scenario with something changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final, Literal

from ..cache.presets import load_rules, rules_for, rules_names
from ..cache.rates import hosted_prices
from ..cache.rules import ProviderRules
from ..errors import InputError
from ..price_list import parse_date
from ..scenario import HostedApi, Scenario
from ..warming import NoWarming, WarmAfterPause, WarmingPolicy, WarmOnFirstKey, WarmOnFocus
from ..warming.keep_alive import KeepAlive, KeepAliveOptimal
from ..warming.limits import Together
from ..workload.empirical import Empirical
from ..workload.typist import MOBILE
from .arrivals import LogArrivals
from .conversations import Reconstruction

Kind = Literal["today", "caching", "layout", "warming", "provider", "reference"]
PING_SHARE: Final = 0.8
"""Pings keep this share of a lifetime between them: late timers and slow answers fit into the rest."""
MOST_PINGS: Final = 12
PROPOSED: Final = "the proposed layout"
_SAID_AGAIN: Final = "if what was said before is sent again unchanged, which growing prompts suggest and no count shows"
_MENDED: Final = "if what varies in its prompts can be moved to their end"
NEVER_RETURNS_S: Final = 1e9
"""The pause after a conversation's last answer, for a law of pauses: longer than any lifetime."""
TRIGGERS: Final[dict[str, WarmingPolicy]] = {
    "warming on focus": WarmOnFocus(),
    "warming on the first key": WarmOnFirstKey(),
    "warming after a pause of 1 s": WarmAfterPause(pause_s=1.0),
}


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """One scenario and what it changes of today's, in words.

    ``chosen``: a client can choose it (caching that a provider does by itself cannot be switched off). ``provided``: what must be
    true for it and is not in the log, as a clause that begins with "if" ("": nothing). ``seconds``: its TTFT is known. ``changes``
    is empty for today's.
    """

    name: str
    kind: Kind
    scenario: Scenario
    changes: tuple[str, ...] = ()
    chosen: bool = True
    provided: str = ""
    seconds: bool = True

    @property
    def effort(self) -> int:
        """How many things a client has to change; pings count twice, since somebody has to send them."""
        return len(self.changes) + (not isinstance(self.scenario.warming, NoWarming))

    @property
    def api(self) -> HostedApi:
        """The backend."""
        assert isinstance(self.scenario.backend, HostedApi)
        return self.scenario.backend

    @property
    def arrivals(self) -> LogArrivals:
        """The workload."""
        assert isinstance(self.scenario.workload, LogArrivals)
        return self.scenario.workload


def today(log: Reconstruction, api: HostedApi, rules: ProviderRules, slo_ttft_s: float, arrivals: LogArrivals) -> Alternative:
    """The log's own configuration: its lifetime, its markers, no warming."""
    depth = max((len(each.trunk or ()) for each in log.conversations), default=0)
    room = max(rules.max_markers - 1 - rules.automatic_marker, 0)
    configured = replace(
        api,
        cache_ttl=log.ttl,
        prefix_caching=log.caching,
        breakpoints=tuple(range(1, min(depth, room) + 1)) if log.marked else (),
    )
    scenario = Scenario(
        workload=arrivals,
        backend=configured,
        name="today",
        slo_ttft_s=slo_ttft_s,
        duration_s=log.span_s + MOST_PINGS * rules.lifetime_of(log.ttl) + 2_000.0,
    )
    named = "caching off" if not log.caching else f"{lifetime(log.ttl)} lifetime" if rules.bills_writes else rules.name
    return Alternative(name=f"today: {named}", kind="today", scenario=scenario)


def caching_alternatives(
    base: Alternative, log: Reconstruction, rules: ProviderRules, *, wholly_marked: bool
) -> Iterator[Alternative]:
    """Caching off and on, every lifetime, pings, and markers before each question, one by one and together; then other rules.

    ``wholly_marked``: today's markers already stand at the end of what conversations repeat.
    """
    if log.caching:
        off = _but(base, backend__prefix_caching=False)
        yield Alternative(name="caching off", kind="caching", scenario=off, changes=("caching off",), chosen=rules.bills_writes)
    variants = [(base.arrivals, "", "")] if log.caching else []
    vouched = bool(log.layouts) or base.arrivals.reuse is not None
    if log.marked and not (log.caching and (wholly_marked or log.layouts)):
        moved = replace(base.arrivals, marks="before the question")
        variants.append((moved, "a marker before each question" if log.caching else "", "" if vouched else _SAID_AGAIN))
    if log.layouts and log.layouts["mended"] != log.layouts["logged"]:
        variants.append((replace(base.arrivals, mended=True), PROPOSED, ""))
    for (arrivals, moves, provided), ttl, pings in product(variants, rules.lifetime_s, (False, True)):
        changes = [] if log.caching else ["caching on"]
        changes += [moves] if moves else []
        if ttl != log.ttl or not log.caching:
            changes.append(f"{lifetime(ttl)} lifetime")
        policy: WarmingPolicy = NoWarming()
        if pings:
            pinging = keep_alive(log, rules, base.api.model, ttl)
            if pinging is None:
                continue
            policy = pinging
            changes.append(f"pings every {pinging.interval_s:,.0f} s")
        if changes:
            scenario = _but(base, workload=arrivals, backend__cache_ttl=ttl, backend__prefix_caching=True, warming=policy)
            yield Alternative(
                name=", ".join(changes),
                kind="caching",
                scenario=scenario,
                changes=tuple(changes),
                provided=provided,
            )
    for other in _longer_kept(rules):
        scenario = _but(base, backend__rules=other.name, backend__cache_ttl=None, backend__prefix_caching=True)
        words = f"{lifetime(other.default_ttl)} retention (rules {other.name})"
        yield Alternative(name=words, kind="caching", scenario=scenario, changes=(words,), provided="if your model has it")


def keep_alive(log: Reconstruction, rules: ProviderRules, model: str, ttl: str) -> KeepAlive | None:
    """Pings as often as the log's own pauses make worth while; None: none ever is, or the lifetime is not the provider's word."""
    pauses_s = log.pauses_s()
    if rules.lifetime_kind != "sliding maximum" or not rules.reads_refresh or not pauses_s:
        return None
    lifetime_s = rules.lifetime_of(ttl)
    gap = Empirical((*pauses_s, *[NEVER_RETURNS_S] * len(log.conversations)))
    write = rules.write_multiplier_of(ttl)
    policy = KeepAliveOptimal(
        gap=gap,
        interval_s=PING_SHARE * lifetime_s,
        most_pings=MOST_PINGS,
        ttl_s=lifetime_s,
        write=write,
        read=rules.read_multiplier_of(model),
    )
    pings = policy.pings(0.0)
    return KeepAlive(interval_s=policy.interval_s, most_pings=pings) if pings else None


def warming_alternatives(best: Alternative) -> Iterator[Alternative]:
    """Each trigger on top of ``best``, beside its pings if it has any; none where nothing is cached."""
    pings = best.scenario.warming
    for words, trigger in TRIGGERS.items() if best.api.prefix_caching else ():
        policy = trigger if isinstance(pings, NoWarming) else Together(policies=(pings, trigger))
        yield Alternative(
            name=", ".join([*best.changes, words]) if best.changes else words,
            kind="warming",
            scenario=best.scenario.but(name=words, warming=policy),
            changes=(*best.changes, words),
        )


def on_a_phone(warmed: Alternative) -> Alternative:
    """The same with people who type on a phone."""
    arrivals = replace(warmed.arrivals, typist=MOBILE)
    return replace(warmed, name=f"{warmed.name}, on phones", scenario=_but(warmed, workload=arrivals))


def other_provider(base: Alternative, asked: str) -> Alternative:
    """The same arrivals at ``asked``, PROVIDER/MODEL, with its cache on, its default lifetime, and the log's token counts.

    Errors: no slash; a provider or model that has no rules or no prices.
    """
    provider, slash, model = asked.partition("/")
    if not slash or not model:
        raise InputError("also", asked, "must be PROVIDER/MODEL", "Another provider has other models: name the one you would take.")
    rules = rules_for(provider, model, None)
    at = base.api.prices_at
    hosted_prices(rules, model, None if at is None else parse_date("prices_at", at))  # fails here, before anything is simulated
    arrivals = base.arrivals if base.api.prefix_caching else replace(base.arrivals, marks="before the question")
    room = rules.max_markers - 1 - rules.automatic_marker if rules.matching == "exact at breakpoints" else 0
    scenario = _but(
        base,
        workload=arrivals,
        backend__provider=provider,
        backend__model=model,
        backend__rules=None,
        backend__cache_ttl=None,
        backend__prefix_caching=True,
        backend__breakpoints=tuple(range(1, max(min(max(len(base.api.breakpoints), 1), room), 0) + 1)),
    )
    return Alternative(
        name=f"{provider}/{model}", kind="provider", scenario=scenario, changes=(f"{provider}/{model}",), seconds=False
    )


def mended(base: Alternative) -> Alternative:
    """Prompts that begin with the one before wherever their lengths allow it."""
    scenario = _but(base, workload=replace(base.arrivals, mended=True))
    return Alternative(name="layout mended", kind="layout", scenario=scenario, changes=("a mended layout",), provided=_MENDED)


def lifetime(ttl: str) -> str:
    """The name of a lifetime as people write it.

    >>> lifetime("5m"), lifetime("1h")
    ('5 min', '1 h')
    """
    for suffix, word in (("m", "min"), ("h", "h")):
        if ttl.endswith(suffix) and ttl[:-1].isdigit():
            return f"{ttl[:-1]} {word}"
    return ttl


def _but(base: Alternative, **changes: Any) -> Scenario:
    return base.scenario.but(**changes)


def _longer_kept(rules: ProviderRules) -> list[ProviderRules]:
    """Other shipped rules of the provider that keep entries longer and charge no storage for it."""
    every = [load_rules(name) for name in rules_names()]
    return [
        each
        for each in every
        if each.provider == rules.provider
        and each.matching == rules.matching
        and not each.storage_usd_per_mtok_hour
        and each.lifetime_of(each.default_ttl) > rules.lifetime_of(rules.default_ttl)
    ]
