"""From what varies and what is lost to findings: what to report, and what is too little to be worth a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from .. import units as si
from .accounting import Losses
from .families import Study
from .histories import RARELY, Continuation
from .layouts import Layout
from .mending import HISTORY_KEY, Key, order_key, slot_key, tools_key
from .orders import Reordering
from .playing import Served
from .slots import IN_PLACE, Slot
from .tool_lists import ToolChange

WORTH: Final = 0.1
"""Share of the reusable tokens that a cause must lose to be reported; a tenth is lost to the first request of everything."""


SHOWN_TEXTS: Final = 3
"""Texts of a slot that are shown where they are asked for."""


MARK_KINDS: Final = ("missing-breakpoint", "breakpoint-on-varying", "lookback", "too-many-breakpoints")
"""Defects of where breakpoints stand."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A defect before it is costed: ``keys`` are what mends it in the texts (none: breakpoints, lifetimes and instants do)."""

    kind: str
    path: str
    requests: Sequence[int]
    detail: str
    lost_tokens: int | None = None
    keys: frozenset[Key] = frozenset()
    moves: bool = False
    texts: Sequence[str] = field(default=(), repr=False)


def structure_findings(
    slots: Sequence[Slot], changes: Sequence[ToolChange], orders: Sequence[Reordering], links: Sequence[Continuation]
) -> list[Finding]:
    """What changes inside the prefixes: slots of one kind and part together, tools, orders, histories."""
    found: list[Finding] = []
    together: dict[tuple[int, bool, str, str], list[Slot]] = {}
    for slot in slots:
        together.setdefault((slot.key[0], slot.in_head, slot.kind, slot.path), []).append(slot)
    for (_, _, kind, path), group in together.items():
        behind = max(slot.behind_tokens for slot in group)
        requests = sorted({index for slot in group for index in slot.values})
        distinct = max(slot.distinct for slot in group)
        what = f"{distinct:,} values in {len(requests):,} requests, {si.count(behind)} fixed tokens behind it"
        if any(slot.moving for slot in group):
            what += f"; changes inside conversations ({max(slot.moving for slot in group):,} times)"
        keys = frozenset(slot_key(slot) for slot in group)
        moves = any(slot.change not in IN_PLACE for slot in group)
        texts = list(dict.fromkeys(text for slot in group for text in slot.values.values()))[:SHOWN_TEXTS]
        found.append(Finding(kind=kind, path=path, requests=requests, detail=what, keys=keys, moves=moves, texts=texts))
    for change in changes:
        detail = f"differ from the request before in {len(change.requests):,} requests"
        found.append(
            Finding(
                kind=change.kind, path=change.path, requests=change.requests, detail=detail, keys=frozenset({tools_key(change)})
            )
        )
    for order in orders:
        detail = f"the order changes {len(order.requests):,} times"
        found.append(
            Finding(
                kind="document-order", path=order.path, requests=order.requests, detail=detail, keys=frozenset({order_key(order)})
            )
        )
    return _once(_reordered_once([*found, *_history_findings(links)]))


def _reordered_once(found: Sequence[Finding]) -> list[Finding]:
    """Documents that change places make each other look like variables: one finding, which mends both."""
    orders = [each for each in found if each.kind == "document-order"]
    places = {_message(each.path) for each in orders}
    alike = ("variables-first", "unstable-system")
    taken = [each for each in found if each.kind in alike and _message(each.path) in places]
    keys = frozenset(key for each in taken for key in each.keys)
    left = [each for each in found if each not in taken]
    return [replace(each, keys=each.keys | keys) if taken and each is orders[0] else each for each in left]


def _message(path: str) -> str:
    """The message or section that a part stands in."""
    return path.partition(".")[0]


def behind_marks(policy: Sequence[Finding], slots: Sequence[Slot]) -> list[Slot]:
    """Slots that nothing but a breakpoint makes a defect: an instant, id or counter in one text with what all share, in front of
    the breakpoint that was to store it."""
    places = {each.path for each in policy if each.kind in ("missing-breakpoint", "breakpoint-on-varying")}
    plain = ("timestamp", "id", "counter", "whitespace", "json")
    return [s for s in slots if not s.reported and s.in_head and s.path in places and s.change in plain and s.before_tokens]


def beside(found: Sequence[Finding], policy: Sequence[Finding]) -> list[Finding]:
    """Policy findings but for breakpoints on parts whose text a mend moves: where these go the proposal says already."""
    moved = {_message(each.path) for each in found if each.moves}
    marks = ("missing-breakpoint", "breakpoint-on-varying")
    return [each for each in policy if each.kind not in marks or _message(each.path) not in moved]


def _history_findings(links: Sequence[Continuation]) -> list[Finding]:
    by_kind: dict[str, list[Continuation]] = {}
    for link in links:
        for kind in link.kinds:
            by_kind.setdefault(kind, []).append(link)
    found = []
    for kind, seen in by_kind.items():
        if kind == "history-edited" and len(seen) <= RARELY * len(links):
            continue
        detail = f"in {len(seen):,} of {len(links):,} continuations"
        indices = [link.index for link in seen]
        found.append(Finding(kind=kind, path=seen[0].kinds[kind], requests=indices, detail=detail, keys=frozenset({HISTORY_KEY})))
    return found


def _once(found: Sequence[Finding]) -> list[Finding]:
    """One finding per kind and path: what was seen in several families is one thing to mend."""
    made: dict[tuple[str, str], Finding] = {}
    for each in found:
        sign = (each.kind, each.path)
        if sign in made:
            old = made[sign]
            requests = sorted({*old.requests, *each.requests})
            made[sign] = replace(old, requests=requests, keys=old.keys | each.keys)
        else:
            made[sign] = each
    return list(made.values())


def policy_findings(
    study: Study,
    served: Mapping[str | None, Served],
    todays: Layout,
    proposed: Layout,
    spent: Losses,
    links: Sequence[Continuation],
) -> list[Finding]:
    """What breakpoints, lifetimes, minima and instants lose once the texts are mended."""
    found = []
    least = WORTH * spent.reusable

    def add(cause: str, detail: str, lost: int | None = None) -> None:
        lost_tokens = spent.tokens[cause] if lost is None else lost
        found.append(
            Finding(kind=cause, path=spent.paths[cause], requests=spent.requests[cause], detail=detail, lost_tokens=lost_tokens)
        )

    for cause in ("missing-breakpoint", "breakpoint-on-varying", "lookback"):
        if spent.tokens[cause] > least / (2 if cause == "lookback" else 1) and len(spent.requests[cause]) > 1:
            add(cause, f"{si.count(spent.tokens[cause])} tokens could have been read and were not")
    crowded = [
        index
        for index, request in enumerate(study.log.requests)
        if served[request.model].rules.matching == "exact at breakpoints"
        and request.marks + served[request.model].rules.automatic_marker > served[request.model].rules.max_markers
    ]
    if crowded:
        request = study.log.requests[crowded[0]]
        rules = served[request.model].rules
        marked = [part.path for part in request.parts if part.mark is not None]
        detail = f"{request.marks} are set, {rules.name} takes {rules.max_markers - rules.automatic_marker}: requests are refused"
        path = marked[min(len(marked) - 1, rules.max_markers - rules.automatic_marker)] if marked else ""
        found.append(Finding(kind="too-many-breakpoints", path=path, requests=crowded, detail=detail))
    if spent.tokens["below-minimum"] > least and _mostly_short(study, spent):
        index = spent.requests["below-minimum"][0]
        each = served[study.log.requests[index].model]
        minimum = each.rules.min_tokens_of(each.api.model)
        add("below-minimum", f"{each.api.model} caches prefixes from {minimum:,} tokens on")
    found += _gap_findings(study, served, todays, proposed, spent)
    if spent.tokens["fan-out"] > least and len(spent.requests["fan-out"]) > 1:
        waits = sorted(spent.waits_s.values())
        add("fan-out", f"sent up to {si.seconds(waits[-1])} before the first token of the one that stores it")
    found += _switches(study, served, links)
    return found


def _mostly_short(study: Study, spent: Losses) -> bool:
    """Whether in some family at least half of the requests that share anything share less than the minimum: conversations that
    begin short and grow are none."""
    short = Counter(study.family_of[index] for index in spent.requests["below-minimum"])
    sharing = Counter(study.family_of[index] for index in spent.sharing)
    return any(count > 1 and count >= sharing[family] / 2 for family, count in short.items())


def _gap_findings(
    study: Study, served: Mapping[str | None, Served], todays: Layout, proposed: Layout, spent: Losses
) -> list[Finding]:
    if not study.log.timed:
        return []
    in_talks = any(before is not None for before in study.previous)
    lost = spent.paused if in_talks else spent.tokens["ttl-gap"]
    requests = [index for index in spent.requests.get("ttl-gap", []) if not in_talks or study.previous[index] is not None]
    if lost <= WORTH * spent.reusable or len(requests) < 2:
        return []
    rules = next(iter(served.values())).rules
    offered = {ttl: seconds for ttl, seconds in rules.lifetime_s.items() if seconds > rules.lifetime_s.get(todays.ttl, 0.0)}
    if offered and proposed.ttl == todays.ttl:
        return []  # a longer lifetime would cost more than the misses do
    gaps = np.array(spent.gaps_s)
    lifetime_s = rules.lifetime_s.get(todays.ttl, rules.lifetime_s[rules.default_ttl])
    share = float((gaps >= lifetime_s).mean())
    mended = f"{proposed.ttl} costs less" if offered else "the provider has no longer one: keep the prefix warm, or accept it"
    detail = f"{si.share(share)} of the gaps outlive {todays.ttl}; {mended}"
    return [Finding(kind="ttl-gap", path=spent.paths["ttl-gap"], requests=requests, detail=detail, lost_tokens=lost)]


def _switches(study: Study, served: Mapping[str | None, Served], links: Sequence[Continuation]) -> list[Finding]:
    """Conversations that change their model while their history is long enough to be cached."""
    requests, lost = [], 0
    for link in links:
        before, after = study.log.requests[link.before], study.log.requests[link.index]
        if before.model == after.model:
            continue
        tokens = int(study.counts.tokens[[part.content for part in before.parts]].sum())
        each = served[after.model]
        if tokens >= each.rules.min_tokens_of(each.api.model):
            requests.append(link.index)
            lost += tokens
    if not requests:
        return []
    detail = f"{len(requests):,} times a model computes what another one has cached"
    return [Finding(kind="model-switch", path="model", requests=requests, detail=detail, lost_tokens=lost)]
