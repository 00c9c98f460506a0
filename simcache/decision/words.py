"""A decision in words: the answer, how far the simulation of today reproduces the log, and what was assumed."""

from __future__ import annotations

from collections.abc import Iterator

from .. import units
from ..stats import Estimate
from .alternatives import PROPOSED, lifetime
from .arrivals import NOBODY_TYPES_WITHIN_S
from .deciding import best_trigger
from .outcomes import MONTH_S
from .verdict import Decision, Row, Warming

_DAY_S = 86_400.0
_MOST_MOVES = 3
_FEW_TINY = 0.01


def answer(decision: Decision) -> str:
    """The decision in a few sentences, the verdict first.

    >>> from ..logs import UsageLog, UsageRow
    >>> from .deciding import decide
    >>> answer(decide(UsageLog((UsageRow(provider="anthropic", model="claude-sonnet-4-5", prompt_tokens=9_000),))))[:49]
    'Cannot tell: the log lacks started_at_s of each r'
    """
    said = [_verdict(decision)]
    if decision.rows and decision.word != "cannot tell":
        said.append(_warming(decision))
    test = decision.live_test
    if test is not None and decision.word != "cannot tell" and test.to_requests is not None:
        said.append(f"Confirm with {test.requests_per_arm:,} requests per arm ({_days(test.days)}).")
    return " ".join(part for part in said if part)


def _verdict(decision: Decision) -> str:
    best, possible = decision.best, decision.possible
    if decision.word == "cannot tell":
        return f"Cannot tell: {_why_not(decision)}."
    if decision.word == "no":
        return f"No. {_nothing_saves(decision)}"
    if decision.word == "yes":
        assert best is not None
        more = "" if possible is None else f" More may be had: {_if(decision, possible)}."
        return f"Yes. {_saving(best)}: {best.alternative.name}{_moves(decision, best)}.{more}"
    if best is not None:
        assert decision.reproduction is not None
        return f"It depends: {_saving(best, 'would save')} with {best.alternative.name}, but {_misses(decision)}."
    assert possible is not None
    doubt = "" if decision.reproduction is None or decision.reproduction.holds else f"; and {_misses(decision)}"
    return f"It depends: {_if(decision, possible)}{doubt}."


def _moves(decision: Decision, row: Row) -> str:
    """What the proposed layout moves, where it is part of the row."""
    if decision.advice is None or PROPOSED not in row.alternative.changes:
        return ""
    moved = dict.fromkeys(f"{each.kind} at {each.path}" for each in decision.advice.defects if each.moves)
    named = list(moved)[:_MOST_MOVES]
    more = f" and {len(moved) - len(named)} more" if len(moved) > len(named) else ""
    return f" (moves {', '.join(named)}{more})" if named else ""


def _saving(row: Row, verb: str = "saves") -> str:
    change = row.change_usd
    ends = None if change.low is None or change.high is None else (-change.high, -change.low)
    text = f"{verb} {money(-change.mean)} a month {_interval(ends)}"
    share = f"{text.rstrip()} ({units.share(-row.change_share.mean)} of the bill)"
    return share[0].upper() + share[1:] if verb == "saves" else share


def _if(decision: Decision, row: Row) -> str:
    """A saving and the condition that the log does not show."""
    saved, log = _saving(row, "saves"), decision.log
    assert log is not None
    saved = saved[0].lower() + saved[1:]
    if row.alternative.kind == "layout":
        saved = saved.replace("saves", "saves up to", 1)
        return (
            f"a mended layout {saved} {row.alternative.provided}: of {log.reuse.in_time:,} follow-ups that came in time only "
            f"{units.share(log.reuse.whole_share)} hit all that was stored, and a usage log does not show why"
        )
    if log.reuse.known and row.alternative.provided:
        return f"{row.alternative.name} {saved} {row.alternative.provided}"
    return (
        f"{row.alternative.name} {saved} if the prompts of a conversation begin alike, which this log does not show "
        f"({log.reuse.in_time:,} follow-ups came while what they could hit was alive); --reuse SHARE says how often they do"
    )


def _nothing_saves(decision: Decision) -> str:
    off = next((row for row in decision.rows if row.alternative.name == "caching off"), None)
    text = "No lifetime, marker or ping saves more than chance and 1 % of the bill"
    if off is None or off.change_usd.low is None:
        return f"{text}."
    bounds = (off.change_usd.low, off.change_usd.high or 0.0)
    if off.change_usd.low > 0:
        return f"{text}; caching as it is saves {money(off.change_usd.mean)} a month {_interval(bounds)} against none."
    without = f"{money(off.change_usd.mean, plus=True)} {_interval(bounds)}"
    return f"{text}; nor does caching as it is save anything against none ({without})."


def _why_not(decision: Decision) -> str:
    if not decision.rows:
        return f"the log lacks {'; and '.join(decision.missing) or 'requests'}"
    if decision.reproduction is not None and not decision.reproduction.holds:
        return _misses(decision)
    seeming = min(decision.rows[1:], key=lambda row: row.change_usd.mean, default=None)
    if seeming is None or seeming.change_usd.low is None:
        return "the log holds one conversation, whose chance is not known"
    bounds = (-(seeming.change_usd.high or 0.0), -seeming.change_usd.low)
    saving = f"{money(-seeming.change_usd.mean)} a month {_interval(bounds)}"
    long = span(decision.span_s)
    return f"{seeming.alternative.name} seems to save {saving}, which may be chance; a log longer than {long} would tell"


def _misses(decision: Decision) -> str:
    text = f"today's configuration, simulated, does not reproduce the log ({reproduction(decision)})"
    found, rules, log = decision.reproduction, decision.rules, decision.log
    if log is not None and not log.sessions:
        text += "; without sessions nobody knows which request goes on from which"
    elif found is not None and rules is not None and found.cached < 0 and rules.lifetime_kind != "sliding maximum":
        text += (
            f"; entries may live longer than the {lifetime(log.ttl) if log else ''} of rules {rules.name}: --rules FILE.toml tells"
        )
    return text


def reproduction(decision: Decision) -> str:
    """How far today's configuration, simulated on the log's arrivals, is from what the log says.

    Signed: more or less than logged.
    """
    found = decision.reproduction
    if found is None:
        return "the log has no usage counts to hold it against"
    parts = [f"cached tokens {_points(found.cached)} points from the log's {units.share(found.logged_cached)}"]
    if found.usd is not None:
        parts.insert(0, f"dollars {units.share(found.usd, plus=True)}")
    for name, value in (("p50", found.ttft_p50), ("p95", found.ttft_p95)):
        if value is not None:
            parts.append(f"TTFT {name} {units.share(value, plus=True)}")
    return ", ".join(parts)


def _points(value: float) -> str:
    return f"{value * 100:+.1f}"


def _warming(decision: Decision) -> str:
    """What warming would change, at what price, or that it cannot pay."""
    if not decision.warming:
        return ""
    chosen = best_trigger(decision.warming)
    if chosen is None:
        cheapest = min(decision.warming, key=lambda each: each.change_usd.mean)
        name = cheapest.row.alternative.changes[-1]
        costs = f"{name} costs {money(cheapest.change_usd.mean, plus=True)} a month"
        return f"Warming is not worth it: {costs} and no trigger shortens waits by more than chance."
    name = chosen.row.alternative.changes[-1]
    phones = decision.phones
    on_phones = ""
    if phones is not None:
        on_phones = f"; on phones it {_shorter(phones)}" if phones.helps else "; not worth it on phones"
        if _alike(chosen, phones):
            on_phones = "; on phones about the same"
    slo = decision.asked.slo_ttft_s
    share = "" if chosen.row.slo_share is None else f" ({units.share(chosen.row.slo_share.mean)} then under {slo:g} s)"
    return f"{name[0].upper()}{name[1:]} costs {_extra(chosen)} and {_shorter(chosen)}{share}{on_phones}."


def _alike(one: Warming, other: Warming) -> bool:
    """Whether both take about as much off p95, within a tenth."""
    if one.p95_change_s is None or other.p95_change_s is None or not other.helps:
        return False
    return abs(other.p95_change_s.mean - one.p95_change_s.mean) <= 0.1 * abs(one.p95_change_s.mean)


def _extra(chosen: Warming) -> str:
    change = chosen.change_usd
    return (
        f"{money(change.mean, plus=True)} a month {_interval(_ends(change))} ({units.share(chosen.change_share.mean, plus=True)})"
    )


def _shorter(chosen: Warming) -> str:
    change = chosen.p95_change_s
    if change is not None and change.high is not None and change.high < 0:
        bounds = (-change.high, -(change.low or 0.0))
        return f"takes {units.seconds(-change.mean)} {units.interval(bounds, units.seconds)} off p95"
    slo = chosen.slo_change
    return f"brings {units.share(slo.mean if slo else None)} more under the objective, p95 stays"


def assumptions(decision: Decision) -> Iterator[str]:
    """What the answer takes for granted, each with the flag that changes it."""
    log, asked, rules = decision.log, decision.asked, decision.rules
    if log is None or rules is None:
        return
    yield f"a month is {MONTH_S / _DAY_S:.1f} days at the log's rate: {decision.requests:,} requests in {span(decision.span_s)}"
    reuse = log.reuse
    shown = f"{reuse.in_time:,} of {reuse.follow_ups:,} follow-ups show it"
    if reuse.known:
        shown += f", {units.share(reuse.whole_share)} of them hit all that was stored; the others are drawn alike"
    elif asked.reuse is None and reuse.follow_ups:
        shown += ", the others are taken to go on from the prompt before (--reuse SHARE)"
    if asked.reuse is not None:
        shown += f", of the others {units.share(asked.reuse)} go on (--reuse)"
    if log.layouts:
        yield "prompts are those of the log; the proposed layout says the same in another order (`simcache advise` shows the diff)"
    else:
        yield f"a usage log counts tokens and shows no text: prompts of a session are rebuilt from their growth and hits; {shown}"
    if any(each.sharers for each in log.conversations):
        yield "shared prefixes of one size are taken for as few texts as the hits allow; if they are more, less is saved"
    if not log.caching and not log.layouts:
        yield "nothing was ever cached, so no prefix is taken to be shared between conversations"
    if not log.sessions:
        yield "no request has a session: each stands alone, and intervals are over spans of time"
    if log.mixed_ttl_share > 0.01:
        yield f"{units.share(log.mixed_ttl_share)} of written tokens had another lifetime; {log.ttl} is simulated for all"
    tiny = sum(row.output_tokens <= 1 for row in log.rows) if log.counted else 0
    if tiny > _FEW_TINY * len(log.rows):
        yield f"{tiny:,} requests have one output token or none: if they are warm-ups or pings of yours, leave them out of the log"
    if decision.warming:
        yield from _people(decision)
    if rules.early_deaths_per_h == 0 and rules.lifetime_kind == "sliding maximum":
        yield f"entries live as long as rules {rules.name} of {rules.as_of} say; in one log 8 to 25 % of 1 h entries died sooner"
    if any(row.alternative.kind == "provider" for row in decision.rows):
        yield "other providers: the log's token counts, their default cache; answers' quality and seconds are not compared"
    fit = f"{decision.replicates} simulations with the error of the latency fit, and "
    yield f"intervals (95 %): {fit if decision.replicates > 1 else ''}the log's conversations resampled"
    if decision.replicates == 1:
        yield "one simulation of so long a log: the error of the latency fit is not in the intervals of seconds"


def _people(decision: Decision) -> Iterator[str]:
    asked, log = decision.asked, decision.log
    assert log is not None
    quick = sum(pause < NOBODY_TYPES_WITHIN_S for pause in log.pauses_s())
    how = f"in {asked.typing_s:g} s (--typing-s)" if asked.typing_s is not None else f"on a {asked.device or 'desktop'} (--device)"
    typed = f"people type {how} before each request"
    if quick:
        typed += f", except {quick:,} that came within {NOBODY_TYPES_WITHIN_S:g} s of the answer before"
    yield typed + "; all before the question is known when it is begun"
    yield f"{units.share(asked.p_send)} of the drafts are sent (--psend): a log does not have those that were not"


def money(value_usd: float, *, plus: bool = False) -> str:
    """Dollars a month: whole from a hundred up.

    >>> money(412.3), money(-31.25, plus=True), money(0.123)
    ('$412', '-$31.25', '$0.123')
    """
    if abs(value_usd) < 99.5:
        return units.dollars(value_usd, plus=plus)
    sign = "-" if value_usd < 0 else "+" if plus else ""
    return f"{sign}${abs(value_usd):,.0f}"


def span(value_s: float) -> str:
    """A span of a log.

    >>> span(3 * 86_400), span(5_400)
    ('3.0 days', '1.5 hours')
    """
    if value_s >= 2 * _DAY_S:
        return f"{value_s / _DAY_S:,.1f} days"
    return f"{value_s / 3600:,.1f} hours" if value_s >= 3600 else f"{value_s / 60:,.0f} minutes"


def _days(days: float | None) -> str:
    if days is None:
        return "days not known"
    return f"{days:,.0f} days" if days >= 1.5 else f"{max(days * 24, 0.1):,.1f} hours"


def _ends(estimate: Estimate) -> tuple[float, float] | None:
    return None if estimate.low is None or estimate.high is None else (estimate.low, estimate.high)


def _interval(bounds: tuple[float, float] | None) -> str:
    """The ends without the dollar sign, as they stand behind an amount that has it."""
    return units.interval(bounds, lambda usd: money(usd).replace("$", ""))
