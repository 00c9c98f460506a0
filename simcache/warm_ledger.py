"""What became of every warm-up and ping, and what warming did to those who did not warm: from records alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .metrics import answered
from .pricing import wasted_share
from .records import NEVER, Records

FATES: Final = ("used", "refreshed", "dropped", "unused")
"""Of warm-ups that ended ok; the others have their outcome."""


class LedgerEntry(NamedTuple):
    """One warm-up or ping. Instants and spans in seconds, None for never or not known.

    ``late_s``: what was left of it when the question that relied on it was submitted (0: it was there; None: no question did).
    ``used_tokens`` of its ``inserted_tokens`` were later hit by users' questions, by ``used_by_row`` first; ``dropped_tokens``
    were evicted or expired before. ``wasted_share`` is what ``pricing`` charges to waste. ``fate``: "used" (by a question),
    "refreshed" (a ping that found its prefix alive), "dropped", "unused", or the outcome when it was not ok.

    >>> warm_ledger(Records({"kind": np.array([], dtype=object)}))
    []
    """

    row: int
    kind: str
    user: str
    session: str
    turn: int
    sent_at_s: float
    visible_at_s: float | None
    inserted_tokens: int
    used_tokens: int
    used_by_row: int | None
    dropped_tokens: int
    late_s: float | None
    wasted_share: float
    cost_usd: float | None
    fate: str


def warm_ledger(records: Records, row_usd: NDArray[np.float64] | None = None) -> list[LedgerEntry]:
    """One entry per warm-up and ping, in order of sending; ``row_usd`` is the bill's (None where GPUs are rented).

    >>> from .records import RecordsBuilder
    >>> b = RecordsBuilder(); r = b.row(kind="warm", outcome="ok"); b.inserted_tokens[r], b.used_tokens[r] = 100, 25
    >>> [(entry.fate, entry.wasted_share) for entry in warm_ledger(b.freeze())]
    [('used', 0.75)]
    """
    rows = np.flatnonzero(records["kind"] != "user").tolist()
    if not rows:
        return []
    wasted = wasted_share(records)
    late_ns: dict[int, int] = {}
    for relied, left in zip(records["warm_row"].tolist(), records["residual_warm_ns"].tolist(), strict=True):
        if relied != NEVER and left != NEVER:
            late_ns.setdefault(relied, left)
    visible_ns = records["visible_at_ns"]
    return [
        LedgerEntry(
            row=row,
            kind=str(records["kind"][row]),
            user=str(records["user"][row]),
            session=str(records["session"][row]),
            turn=int(records["turn"][row]),
            sent_at_s=float(records["sent_at_ns"][row] / 1e9),
            visible_at_s=None if visible_ns[row] == NEVER else float(visible_ns[row] / 1e9),
            inserted_tokens=int(records["inserted_tokens"][row]),
            used_tokens=int(records["used_tokens"][row]),
            used_by_row=None if records["used_by_row"][row] == NEVER else int(records["used_by_row"][row]),
            dropped_tokens=int(records["dropped_tokens"][row]),
            late_s=late_ns[row] / 1e9 if row in late_ns else None,
            wasted_share=float(wasted[row]),
            cost_usd=None if row_usd is None else float(row_usd[row]),
            fate=_fate(records, row),
        )
        for row in rows
    ]


def ledger_csv(entries: Sequence[LedgerEntry]) -> str:
    """The ledger as a table: a head, a line per entry, empty where nothing is known.

    >>> ledger_csv([]).split(",")[:3]
    ['row', 'kind', 'user']
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LedgerEntry._fields)
    writer.writerows(entries)
    return text.getvalue()


def ledger_summary(entries: Sequence[LedgerEntry]) -> dict[str, Any]:
    """The ledger of one run or of several in a few plain JSON values.

    ``fates``: how many met each. ``relied_on``: how many a question relied on, ``late``: how many of those were not there when it
    was submitted, and ``late_s_mean``: by how much those were late on average. ``cost_usd`` and, of it, ``waste_usd``: None where
    it is not known.

    >>> ledger_summary([])
    {'sent': 0, 'fates': {}, 'relied_on': 0, 'late': 0, 'late_s_mean': None, 'wasted_share': None, 'cost_usd': 0, 'waste_usd': 0}
    """
    fates = [entry.fate for entry in entries]
    relied_s = [entry.late_s for entry in entries if entry.late_s is not None]
    late_s = [late for late in relied_s if late > 0]
    inserted = sum(entry.inserted_tokens for entry in entries)
    used = sum(entry.used_tokens for entry in entries)
    priced = [(entry.cost_usd, entry.wasted_share) for entry in entries if entry.cost_usd is not None]
    known = len(priced) == len(entries)
    return {
        "sent": len(entries),
        "fates": {fate: fates.count(fate) for fate in (*FATES, *sorted(set(fates) - set(FATES))) if fate in fates},
        "relied_on": len(relied_s),
        "late": len(late_s),
        "late_s_mean": sum(late_s) / len(late_s) if late_s else None,
        "wasted_share": 1 - used / inserted if inserted else None,
        "cost_usd": sum(cost for cost, _ in priced) if known else None,
        "waste_usd": sum(cost * share for cost, share in priced) if known else None,
    }


def others(records: Records) -> NDArray[np.bool_]:
    """Which rows are questions of users who sent neither warm-up nor ping in this run.

    >>> from .records import RecordsBuilder
    >>> b = RecordsBuilder(); _ = b.row(user="a", kind="warm"); _ = b.row(user="a"); _ = b.row(user="b")
    >>> others(b.freeze()).tolist()
    [False, False, True]
    """
    asked = records["kind"] == "user"
    warmers = {user for user, own in zip(records["user"].tolist(), asked.tolist(), strict=True) if not own}
    return np.array([own and user not in warmers for user, own in zip(records["user"].tolist(), asked.tolist(), strict=True)])


def slowdown_of_others_s(warmed: Records, cold: Records) -> NDArray[np.float64]:
    """Per question of a user who did not warm: its TTFT in ``warmed`` minus its TTFT in ``cold``, the same seed without warming.

    Questions are paired by session and turn; those that were not answered in both runs are left out.

    >>> slowdown_of_others_s(Records({"kind": np.array([], dtype=object)}), Records({"kind": np.array([], dtype=object)}))
    array([], dtype=float64)
    """
    if not len(warmed) or not len(cold):
        return np.empty(0)
    without = _ttft_by_question(answered(cold))
    with_warming = _ttft_by_question(answered(warmed.where(others(warmed))))
    return np.array([ttft_s - without[question] for question, ttft_s in with_warming.items() if question in without])


def _ttft_by_question(records: Records) -> dict[tuple[str, int], float]:
    return dict(zip(zip(records["session"].tolist(), records["turn"].tolist(), strict=True), records.ttft_s.tolist(), strict=True))


def _fate(records: Records, row: int) -> str:
    if records["used_tokens"][row]:
        return "used"
    if records["outcome"][row] != "ok":
        return str(records["outcome"][row])
    if records["kind"][row] == "keepalive" and not records["inserted_tokens"][row]:
        return "refreshed"
    return "dropped" if records["dropped_tokens"][row] else "unused"
