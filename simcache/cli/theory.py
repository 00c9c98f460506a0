"""``simcache theory``: closed forms, without a simulation."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..break_even import BreakEven
    from ..cache.rules import ProviderRules


@click.group("theory")
def command() -> None:
    """Closed forms, without a simulation."""


@command.command("breakeven")
@click.option("--provider", required=True, help="A provider, or the name of its rules; see `simcache providers`.")
@click.option("--context", "context_tokens", type=int, required=True, metavar="N", help="Tokens before the question.")
@click.option("--psend", "p_send", type=float, default=1.0, show_default=True, metavar="S", help="Share of drafts that are sent.")
@click.option("--typing-s", type=float, metavar="T", help="Seconds from the first key to submit.")
@click.option("--model", default="", help="For its minimum, its read price and dollars.  [default: what the rules say of most]")
@click.option("--ttl", metavar="NAME", help="One of the provider's lifetimes.  [default: its default]")
@click.option("--profile", default="openai-figure", show_default=True, help="Latency of the hosted API.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def breakeven(
    provider: str,
    context_tokens: int,
    p_send: float,
    typing_s: float | None,
    model: str,
    ttl: str | None,
    profile: str,
    as_json: bool,
) -> None:
    """From which typing time, context, P(send) and traffic on warming and caching pay.

    Warming starts with typing; who submits before it is done waits for it. Costs are in units of the price of the uncached
    context; with --model in dollars of today too.
    """
    from ..break_even import break_even
    from ..cache.presets import notes_on
    from ..errors import InputError
    from ..latency import HostedProfile, load_profile

    rules = _rules(provider, model)
    latency = load_profile(profile)
    if not isinstance(latency, HostedProfile):
        raise InputError("profile", profile, "is a replica's profile, a hosted API needs a hosted one")
    dollars: dict[str, float | None] = {}
    source = None
    if model:
        from ..cache.rates import tariff_of

        tariff = tariff_of(rules, model)
        dollars = {
            "input_usd_per_token": tariff.input_usd_per_token,
            "storage_usd_per_token_hour": tariff.storage_usd_per_token_hour,
        }
        source = f"{tariff.source} ({tariff.as_of})"
    card = break_even(
        rules, latency, model=model, ttl=ttl, context_tokens=context_tokens, p_send=p_send, typing_s=typing_s, **dollars
    )
    about = {
        "provider": rules.provider,
        "model": model or None,
        "rules": rules.name,
        "rules_as_of": rules.as_of,
        "profile": latency.name,
        "prices": source,
        "notes": [*(notes_on(rules, model) if model else []), *_range_notes(latency, context_tokens)],
    }
    if as_json:
        click.echo(json.dumps({"schema_version": 1, **about, **asdict(card)}, indent=2))
        return
    _print(card, about, ttl or rules.default_ttl)


def _rules(provider: str, model: str) -> ProviderRules:
    """Those of a file, those of a name that is no provider's own, or those that hold for the model at the provider."""
    from ..cache.presets import load_rules, rules_names, rules_of

    if provider in rules_names() or provider.endswith(".toml"):
        named = load_rules(provider)
        if provider not in (named.provider, *named.aliases):
            return named
    return rules_of(provider, model or None)


def _range_notes(profile: Any, context_tokens: int) -> list[str]:
    notes = []
    if profile.provenance != "measured":
        notes.append(f"profile {profile.name!r} is not measured on your system: {profile.provenance}")
    if profile.extrapolates(context_tokens, 0):
        notes.append(f"{context_tokens:,} tokens are outside the measured range of profile {profile.name!r}")
    return notes


def _print(card: BreakEven, about: dict[str, Any], ttl: str) -> None:
    from .. import units
    from .table import print_notes

    lines: list[tuple[str, str]] = []
    if not card.cached:
        lines.append(("cached", f"no: the shortest that is cached has {units.tokens(card.min_tokens)}"))
    lines += [
        ("time to first token", f"{units.seconds(card.cold_s)} cold, {units.seconds(card.hit_s)} from the cache"),
        ("typing hides all", f"from {units.seconds(card.least_typing_s)} on"),
    ]
    if card.typing_s is not None:
        gain = 0.0 if card.saved_s is None else card.saved_s
        verdict = f"{units.seconds(gain)} saved" if gain >= 0 else f"{units.seconds(-gain)} lost by waiting: send at once"
        saved = f"{units.seconds(card.ttft_s)} from submit, {verdict}"
        lines.append((f"typing for {units.seconds(card.typing_s)}", saved))
    faster = "never" if card.hit_saves_from_tokens is None else f"from {units.tokens(card.hit_saves_from_tokens)} on"
    lines += [
        ("context", f"cached from {units.tokens(card.min_tokens)} on; a hit is faster {faster}"),
        ("lives", f"{ttl}, writes at {card.write:g} and reads at {card.read:g} of the input price"),
        ("caching pays", _caching(card)),
        ("warming costs", f"{card.extra_cost:.3f} of the context's price more than caching on send, at P(send) {card.p_send:g}"),
        ("", _dollars(card)),
        ("and less than none", _sent(card)),
        ("stays warm", f"half the time from {_per_h(card.warm_half_per_s)}, 95 % from {_per_h(card.warm_95_per_s)} on"),
    ]
    if card.ping_threshold is not None:
        lines.append(("a ping pays", f"while P(return within {ttl}) is above {units.share(card.ping_threshold)}"))
    if card.storage_reads_per_h is not None:
        lines.append(("storage pays", f"from {card.storage_reads_per_h:.2g} reads an hour on"))
    model = f" {about['model']}" if about["model"] else ""
    click.echo(
        f"{units.tokens(card.context_tokens)} at {about['provider']}{model} (rules {about['rules']}, {about['rules_as_of']})"
    )
    for name, text in lines:
        if text:
            click.echo(f"  {name:<20} {text}")
    print_notes([*([f"prices: {about['prices']}"] if about["prices"] else []), *about["notes"]], [])


def _per_h(rate_per_s: float) -> str:
    return f"{3600 * rate_per_s:.3g} requests an hour"


def _caching(card: BreakEven) -> str:
    if card.caching_pays_from is None or card.caching_pays_per_s is None:
        return "never"
    traffic = f", or {_per_h(card.caching_pays_per_s)} of steady traffic" if card.caching_pays_per_s else ""
    return f"from request {card.caching_pays_from} on{traffic}"


def _sent(card: BreakEven) -> str:
    known = [(n, p) for n, p in enumerate(card.least_p_send, start=1) if p is not None]
    if not known:
        return "never, with up to three questions a visit"
    parts = [f"P(send) {p:.2f} with {n} question{'' if n == 1 else 's'}" for n, p in known]
    return f"from {', '.join(parts)} a visit"


def _dollars(card: BreakEven) -> str:
    from .. import units

    if card.extra_usd is None:
        return ""
    per_second = (
        "" if card.usd_per_second_saved is None else f", {units.dollars(card.usd_per_second_saved)} per second of wait saved"
    )
    return f"{units.dollars(card.extra_usd)} a draft{per_second}"
