"""Scenarios compared as pairs: seed by seed, so that the same people type the same keys in both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .. import metrics, stats, units
from ..result import Result
from ..scenario import Scenario
from ..stats import PairedDifference
from ..warming import NoWarming


@dataclass(frozen=True, kw_only=True)
class WarmingEffect:
    """What warming changes: ``warm`` against ``cold`` (names of variants), as differences paired by seed.

    None where a figure does not exist in both (no answered request, no price).

    >>> effect = WarmingEffect(cold="a", warm="b", ttft_p95_s=stats.paired([2.0, 2.2], [1.0, 1.2]), usd_per_1000_questions=None)
    >>> effect.ttft_p95_s.clear
    True
    """

    cold: str
    warm: str
    ttft_p95_s: PairedDifference | None
    usd_per_1000_questions: PairedDifference | None


def warming_effects(results_by_variant: Mapping[str, Sequence[Result]]) -> list[WarmingEffect]:
    """One effect per variant that warms and has a counterpart that does not, in the order of the variants.

    The counterpart is the variant that differs in warming alone; where there is none, the only one that never warms.

    >>> warming_effects({})
    []
    """
    scenarios = {name: results[0].scenario for name, results in results_by_variant.items()}
    cold = {name: unwarmed(scenario) for name, scenario in scenarios.items() if isinstance(scenario.warming, NoWarming)}
    effects = []
    for name, scenario in scenarios.items():
        if name in cold:
            continue
        twins = [other for other, same in cold.items() if same == unwarmed(scenario)]
        counterpart = twins[0] if twins else next(iter(cold)) if len(cold) == 1 else None
        if counterpart is not None:
            effects.append(_effect(counterpart, name, results_by_variant[counterpart], results_by_variant[name]))
    return effects


def answer(results_by_variant: Mapping[str, Sequence[Result]]) -> str:
    """The results in one sentence: what warming changes, or which variant is best, or what users wait.

    >>> answer({})
    'Nothing was run.'
    """
    if not results_by_variant:
        return "Nothing was run."
    effects = warming_effects(results_by_variant)
    if effects:
        sentence = "; ".join(map(_said, effects))
        return f"{sentence[0].upper()}{sentence[1:]}."
    if len(results_by_variant) == 1:
        return _waits(next(iter(results_by_variant.values())))
    return _best(results_by_variant)


def unwarmed(scenario: Scenario) -> Scenario:
    """The scenario without its name and its warming: equal for those that differ in warming alone.

    >>> from ..scenario_file import load_scenarios
    >>> cold, warm, *_ = load_scenarios("demo")
    >>> unwarmed(cold) == unwarmed(warm)
    True
    """
    return replace(scenario, name="", warming=NoWarming(), on_unfinished_warm="wait")


def _effect(cold: str, warm: str, before: Sequence[Result], after: Sequence[Result]) -> WarmingEffect:
    return WarmingEffect(
        cold=cold,
        warm=warm,
        ttft_p95_s=_paired([_p95_s(result) for result in before], [_p95_s(result) for result in after]),
        usd_per_1000_questions=_paired([_usd(result) for result in before], [_usd(result) for result in after]),
    )


def _paired(before: Sequence[float | None], after: Sequence[float | None]) -> PairedDifference | None:
    known = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    return stats.paired([a for a, _ in known], [b for _, b in known]) if known else None


def _p95_s(result: Result) -> float | None:
    return stats.quantile(metrics.ttft_s(result.judged), 0.95)


def _usd(result: Result) -> float | None:
    return None if result.bill is None else result.bill.usd_per_1000_questions


def _said(effect: WarmingEffect) -> str:
    ttft = effect.ttft_p95_s
    if ttft is None:
        return f"nobody was answered in both {effect.cold!r} and {effect.warm!r}"
    ways = f"p95 TTFT {units.seconds(ttft.a_mean)} -> {units.seconds(ttft.b_mean)}"
    sure = "" if ttft.n > 1 else ", one seed, so no interval"
    if ttft.difference == 0 or (ttft.n > 1 and not ttft.clear):
        bounds = units.interval(_ends(ttft), lambda end: units.seconds(end, plus=True))
        verdict = f"makes no difference that {ttft.n} seed{'s' if ttft.n > 1 else ''} can tell to {effect.warm!r}"
        return f"warming {verdict} ({ways} {bounds}".rstrip() + f"), {_priced(effect.usd_per_1000_questions)}"
    verb, word, sign = ("helps", "less", -1) if ttft.difference < 0 else ("hurts", "more", 1)
    change = f"{units.seconds(sign * ttft.difference)} {word} {units.interval(_ends(ttft, sign), units.seconds)}".rstrip()
    return f"warming {verb} {effect.warm!r} ({ways}, {change}{sure}), {_priced(effect.usd_per_1000_questions)}"


def _ends(change: PairedDifference, sign: int = 1) -> tuple[float, float] | None:
    """The interval of a difference, or with sign -1 of how much smaller it got."""
    if change.low is None or change.high is None:
        return None
    low, high = sorted((sign * change.low, sign * change.high))
    return low, high


def _priced(money: PairedDifference | None) -> str:
    if money is None:
        return "at a price that is not known"
    if money.difference == 0 or (money.n > 1 and not money.clear):
        bounds = units.interval(_ends(money), lambda end: units.dollars(end, plus=True))
        return f"at about the same cost per 1,000 questions {bounds}".rstrip()
    sign, word = (1, "more") if money.difference > 0 else (-1, "less")
    bounds = units.interval(_ends(money, sign), units.dollars)
    return f"at {units.dollars(sign * money.difference)} {word} per 1,000 questions {bounds}".rstrip()


def _mean(values: Iterable[float | None]) -> float | None:
    return stats.mean([value for value in values if value is not None])


def _waits(results: Sequence[Result]) -> str:
    slo_ttft_s = results[0].scenario.slo_ttft_s
    half, tail = (
        _with_interval([stats.quantile(metrics.ttft_s(result.judged), q) for result in results], units.seconds) for q in (0.5, 0.95)
    )
    if half is None:
        return "Nobody was answered."
    share = units.share(_mean(metrics.slo_share(result.judged, slo_ttft_s) for result in results))
    cost = _with_interval([_usd(result) for result in results], units.dollars)
    priced = "" if cost is None else f", at {cost} per 1,000 questions"
    return (
        f"Half of the users wait at most {half} for the first token and 95 % at most {tail}; "
        f"{share} of the questions are under {slo_ttft_s:g} s{priced}."
    )


def _with_interval(values: Sequence[float | None], text: Callable[[float | None], str]) -> str | None:
    """The mean over the seeds that have it, and its interval where there is one."""
    found = stats.over_seeds(values, at_least=0.0)
    if found is None:
        return None
    bounds = None if found.low is None or found.high is None else (found.low, found.high)
    return f"{text(found.mean)} {units.interval(bounds, text)}".rstrip()


def _best(results_by_variant: Mapping[str, Sequence[Result]]) -> str:
    waits = {name: _mean(map(_p95_s, results)) for name, results in results_by_variant.items()}
    costs = {name: _mean(map(_usd, results)) for name, results in results_by_variant.items()}
    parts = []
    for what, values, text in (("p95 TTFT", waits, units.seconds), ("the cost of 1,000 questions", costs, units.dollars)):
        known = {name: value for name, value in values.items() if value is not None}
        shown = {name: text(value) for name, value in known.items()}
        if len(set(shown.values())) == 1:
            parts.append(f"{what} is the same everywhere ({shown.popitem()[1]})")
        elif known:
            name = min(known, key=known.__getitem__)
            parts.append(f"{what} is lowest with {name!r} ({shown[name]})")
    sentence = ", ".join(parts) or "nobody was answered"
    return f"{sentence[0].upper()}{sentence[1:]}."
