"""Layout advice from a message log: its defects, the proposed layout, and both of them served by the simulator."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ..latency import HostedProfile
from ..messages.parts import MessageLog
from ..messages.tokens import TokenCounts, count_tokens
from .accounting import Losses, losses
from .families import Study
from .findings import MARK_KINDS, Finding, behind_marks, beside, policy_findings, structure_findings
from .histories import continuations
from .kinds import Defect
from .layouts import Layout, todays_marks, todays_ttl
from .mending import HISTORY_KEY, Key, Mender, Unit
from .orders import reorderings
from .playing import PROFILE, Played, Served, play, served_models
from .proposal import proposed_marks
from .slots import slots_of
from .tool_lists import tool_changes

MONTH_S: Final = 30 * 86_400.0
_SHORTEST_SPAN_S: Final = 600.0
"""A log of less than ten minutes says nothing about a month."""
LONGEST_TEXT: Final = 120
"""Characters of a text that are shown where texts are asked for."""
COSTED_REQUESTS: Final = 4_000
"""How many requests, the first of the log, each defect is costed on: serving all of a long log once per defect takes minutes."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What was found. ``today`` and ``proposed`` are the same requests at the same instants, laid out as logged and as proposed.

    ``layout`` is the proposal (``ttl``, breakpoints by request and their reasons in ``marks``), ``todays`` what the log has.
    ``usd_month_factor``: what turns dollars of the log into dollars of a month; None: the log does not tell.
    """

    provider: str
    served: Mapping[str | None, Served]
    study: Study = field(repr=False)
    defects: tuple[Defect, ...]
    todays: Layout = field(repr=False)
    layout: Layout = field(repr=False)
    marks: Sequence[tuple[tuple[int, str], ...]] = field(repr=False)
    today: Played
    proposed: Played
    losses: Losses = field(repr=False)
    mender: Mender = field(repr=False)
    mended: frozenset[Key] = field(repr=False)
    usd_month_factor: float | None
    notes: tuple[str, ...]

    @property
    def log(self) -> MessageLog:
        """The log that was read."""
        return self.study.log

    @property
    def usd_per_1000_saved(self) -> float:
        """Dollars per 1,000 requests that the proposed layout saves."""
        return (self.today.total_usd - self.proposed.total_usd) / len(self.log) * 1000


def advise(
    log: MessageLog,
    provider: str,
    *,
    model: str | None = None,
    rules: str | None = None,
    profile: str | HostedProfile = PROFILE,
    counts: TokenCounts | None = None,
    cost_defects: bool = True,
    show_text: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Advice:
    """Find the defects of a log's layout at ``provider``, propose one, and serve both by the simulator on the log's own arrivals.

    ``model`` stands for every model of the log, ``rules`` for the provider's own (a name or a TOML path), ``profile`` says what its
    latency is, ``counts`` how many tokens the contents are. ``cost_defects`` False leaves out what each defect costs by itself;
    ``show_text`` puts the first texts that vary into the defects, which else hold none. Errors: an unknown provider, rules or
    profile; a model without a price that the caller named.

    >>> from simcache.messages.reader import read_messages
    >>> import json, tempfile; from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> rows = [{"model": "gpt-4o", "messages": [{"role": "system", "content": f"Now: 2026-11-28 09:{i:02}\\n" + "Be kind. " * 900},
    ...         {"role": "user", "content": f"Question {i}?"}]} for i in range(10)]
    >>> _ = path.write_text("".join(json.dumps(row) + "\\n" for row in rows))
    >>> advice = advise(read_messages(path), "openai")
    >>> [(defect.kind, defect.path) for defect in advice.defects], advice.proposed.token_hit_ratio > 0.7
    ([('timestamp', 'messages[0]')], True)
    """
    tell = progress or (lambda _: None)
    served, notes = served_models(log, provider, model=model, rules=rules, profile=profile)
    tell("taking the log apart")
    study = Study(log, counts or count_tokens(log))
    case = _Case(study, served)
    tell("serving today's layout")
    todays = case.todays()
    today = play(study, todays, served)
    found, policy, mend, spent = case.findings(todays)
    tell("looking for a better layout")
    layout, marks, proposed, mend = case.proposal(mend, todays, today)
    policy = policy_findings(study, served, todays, layout, spent, case.links)
    findings = [*found, *beside(found, policy)]
    marked = any(request.marks for request in log.requests)
    case.own_marks = case.exact and marked and not any(each.kind in MARK_KINDS for each in policy)
    if any(each.kind == "fan-out" for each in policy):
        layout = replace(layout, delays_s=spent.waits_s)
        proposed = play(study, layout, served)
    factor = _month_factor(log)
    tell("costing each defect")
    base = proposed if len(log) <= COSTED_REQUESTS else play(study, layout, served, first=COSTED_REQUESTS)
    costs = [case.cost(each, mend, layout, todays, base) if cost_defects else None for each in findings]
    defects = [_defect(each, study, usd, factor, show_text) for each, usd in zip(findings, costs, strict=True)]
    return Advice(
        provider=provider,
        served=served,
        study=study,
        defects=tuple(sorted(defects, key=lambda d: (-(d.usd_per_1000 or 0.0), d.kind, d.path))),
        todays=todays,
        layout=layout,
        marks=marks,
        today=today,
        proposed=proposed,
        losses=spent,
        mender=case.mender,
        mended=mend,
        usd_month_factor=factor,
        notes=(*log.notes, *notes, *_unknown(log), *_latency(today, served), *_costed(log, findings if cost_defects else [])),
    )


def _month_factor(log: MessageLog) -> float | None:
    if not log.timed or len(log) < 2:
        return None
    instants = [request.started_at_s or 0.0 for request in log.requests]
    span_s = max(instants) - min(instants)
    return MONTH_S / span_s if span_s >= _SHORTEST_SPAN_S else None


def _unknown(log: MessageLog) -> list[str]:
    notes = []
    if not log.timed:
        notes.append(
            "no instants are known for every request: they are served 10 s apart; which gaps outlive an entry, and what was sent"
            " before an entry was visible, cannot be told (give started_at_s or a timestamp)"
        )
    if all(request.session is None for request in log.requests):
        notes.append("no sessions are logged: a request continues another one where it repeats its newest question")
    return notes


def _latency(today: Played, served: Mapping[str | None, Served]) -> list[str]:
    profile = next(iter(served.values())).profile
    beyond = ", here beyond its measured range" if today.extrapolated else ""
    return [f"times to first token: profile {profile.name!r} ({profile.provenance}{beyond}); compare layouts by them, no more"]


def _costed(log: MessageLog, findings: Sequence[Finding]) -> list[str]:
    if not findings or len(log) <= COSTED_REQUESTS:
        return []
    return [f"each defect is costed on the first {COSTED_REQUESTS:,} requests of the log"]


def _defect(each: Finding, study: Study, usd: float | None, factor: float | None, show_text: bool) -> Defect:
    size = len(study.log)
    per_1000 = None if usd is None else usd / size * 1000
    lines = tuple(study.log.requests[index].line for index in each.requests[:3])
    return Defect(
        kind=each.kind,
        path=each.path,
        lines=lines,
        requests=len(each.requests),
        detail=each.detail,
        lost_tokens=each.lost_tokens,
        usd_per_1000=per_1000,
        usd_per_month=None if usd is None or factor is None else usd * factor,
        moves=each.moves,
        texts=tuple(text[:LONGEST_TEXT] for text in each.texts) if show_text else (),
    )


class _Case:
    """A study with everything that varies in it, and layouts made from it."""

    def __init__(self, study: Study, served: Mapping[str | None, Served]) -> None:
        self.study, self.served = study, served
        self.slots, self.changes = slots_of(study), tool_changes(study)
        self.orders, self.links = reorderings(study), continuations(study)
        self.mender = Mender(study, self.slots, self.changes, self.orders, self.links)
        self.exact = any(each.rules.matching == "exact at breakpoints" for each in served.values())
        self.own_marks = False
        self._units: dict[tuple[frozenset[Key], bool], list[list[Unit]]] = {}

    def units(self, mend: Collection[Key], split: bool) -> list[list[Unit]]:
        """Sequences, the last few remembered."""
        sign = (frozenset(mend), split)
        if sign not in self._units:
            if len(self._units) > 2:
                self._units.pop(next(iter(self._units)))
            self._units[sign] = self.mender.sequences(sign[0], split=split)
        return self._units[sign]

    def todays(self) -> Layout:
        """The log as it is; breakpoints beyond what the provider takes are left away from the front, so that it can be served."""
        units = self.units((), False)
        return Layout(name="today", units=units, marks=self._taken(units), ttl=self._ttl(), delays_s={})

    def _ttl(self) -> str:
        return todays_ttl(self.study.log, next(iter(self.served.values())).rules)

    def _taken(self, units: Sequence[Sequence[Unit]]) -> list[tuple[int, ...]]:
        rooms = {name: each.rules.max_markers - each.rules.automatic_marker for name, each in self.served.items()}
        marks = todays_marks(self.study, units)
        return [each[max(0, len(each) - rooms[r.model]) :] for each, r in zip(marks, self.study.log.requests, strict=False)]

    def findings(self, todays: Layout) -> tuple[list[Finding], list[Finding], frozenset[Key], Losses]:
        """What varies, what breakpoints, lifetimes and instants lose beside that, all that mends the texts, and the losses."""
        while True:
            chosen = [slot for slot in self.slots if slot.reported]
            found = structure_findings(chosen, self.changes, self.orders, self.links)
            mend = frozenset(key for each in found for key in each.keys)
            spent = self.losses(mend, todays.ttl)
            policy = policy_findings(self.study, self.served, todays, todays, spent, self.links)
            more = behind_marks(policy, self.slots)
            if not more:
                return found, policy, mend, spent
            for slot in more:
                slot.reported = True

    def losses(self, mend: Collection[Key], ttl: str) -> Losses:
        """What the log's own breakpoints and instants lose of what could be read once the texts are mended."""
        units = self.units(mend, True)
        return losses(self.study, Layout(name="mended", units=units, marks=self._taken(units), ttl=ttl, delays_s={}), self.served)

    def proposal(
        self, mend: frozenset[Key], todays: Layout, today: Played
    ) -> tuple[Layout, list[tuple[tuple[int, str], ...]], Played, frozenset[Key]]:
        """The cheapest of: all mended or all but the histories; every lifetime on offer; no breakpoints; the log's own layout."""
        best: tuple[Layout, list[tuple[tuple[int, str], ...]], Played, frozenset[Key]] | None = None
        ttls = list(dict.fromkeys(ttl for each in self.served.values() for ttl in each.rules.lifetime_s))
        if not self.study.log.timed:
            ttls = [todays.ttl]
        sets = [mend] if HISTORY_KEY not in mend else [mend, mend - {HISTORY_KEY}]
        for keys in sets:
            units = self.units(keys, True)
            marks = proposed_marks(self.study, units, self.served)
            for ttl in ttls if self.exact or len(ttls) > 1 else ttls[:1]:
                layout = Layout(
                    name="proposed", units=units, marks=[tuple(m for m, _ in each) for each in marks], ttl=ttl, delays_s={}
                )
                played = play(self.study, layout, self.served)
                if best is None or played.total_usd < best[2].total_usd * (1 - 1e-9):
                    best = (layout, marks, played, keys)
        assert best is not None
        if best[2].total_usd > today.total_usd * (1 + 1e-9):
            own = [tuple((mark, "today") for mark in each) for each in todays.marks]
            return replace(todays, name="proposed"), own, replace(today, name="proposed"), frozenset()
        return best

    def cost(self, each: Finding, mend: frozenset[Key], layout: Layout, todays: Layout, proposed: Played) -> float | None:
        """Dollars that the proposal would cost more, had this one finding not been mended; None: it is not mended by a layout."""
        if each.kind in ("below-minimum", "model-switch") or (each.keys and not (each.keys & mend)):
            return None
        left = layout
        if each.keys:
            units = self.mender.sequences(mend - each.keys, split=True, first=COSTED_REQUESTS)
            if self.own_marks:  # they stand where they belong but for this: behind what varies they store nothing
                left = replace(layout, units=units, marks=self._taken(units))
            else:
                marks = proposed_marks(self.study, units, self.served)
                left = replace(layout, units=units, marks=[tuple(m for m, _ in marked) for marked in marks])
        elif each.kind == "ttl-gap":
            if layout.ttl == todays.ttl:
                return None
            left = replace(layout, ttl=todays.ttl)
        elif each.kind == "fan-out":
            left = replace(layout, delays_s={})
        else:
            left = replace(layout, marks=self._taken(layout.units))
        size = min(len(self.study.log), COSTED_REQUESTS)
        left_usd = play(self.study, left, self.served, first=size).total_usd
        return (left_usd - proposed.total_usd) * len(self.study.log) / size
