"""Figures over time: what a replica was busy with, and one conversation as its user lived it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..engine.clock import seconds
from ..engine.journal import Stretch
from ..records import NEVER, Records
from ..result import Result
from ..workload import ClosedLoop
from ..workload.sessions import Turn
from .figures import COLOURS, GREY, LINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS: Final = 240
_MOST_TURNS: Final = 3
RED: Final = "#F2382C"
"""The one colour that says: a person waits."""


@dataclass(frozen=True, kw_only=True)
class Occupancy:
    """Means over equal spans of time: ``at_s`` their middles; requests ``waiting`` and ``running`` on all replicas; ``held``: the
    share of KV blocks that requests hold, on average over replicas."""

    at_s: NDArray[np.float64]
    waiting: NDArray[np.float64]
    running: NDArray[np.float64]
    held: NDArray[np.float64]


def occupancy(stretches: Sequence[Stretch], *, bins: int = _BINS) -> Occupancy:
    """The stretches of a journal as means over ``bins`` spans from the first step to the last; an idle replica counts as 0.

    >>> busy = Stretch(0, 0, 4_000, 1, 3, (), 2, 5, 10)
    >>> found = occupancy([busy], bins=2)
    >>> found.waiting.tolist(), found.running.tolist(), found.held.tolist()
    ([2.0, 2.0], [3.0, 3.0], [0.5, 0.5])
    """
    if not stretches:
        empty = np.zeros(0)
        return Occupancy(at_s=empty, waiting=empty, running=empty, held=empty)
    started = np.array([seconds(each.started_at) for each in stretches])
    ended = np.array([seconds(each.ended_at) for each in stretches])
    edges = np.linspace(started.min(), ended.max(), bins + 1)
    replicas = len({each.replica for each in stretches})

    def mean(values: Sequence[float]) -> NDArray[np.float64]:
        """Time integral up to each edge, differenced: exact whatever lies between two edges."""
        height = np.asarray(values, dtype=float)
        points = np.concatenate((started, ended))
        order = np.argsort(points, kind="stable")
        level = np.cumsum(np.concatenate((height, -height))[order])
        area = np.concatenate(([0.0], np.cumsum(level[:-1] * np.diff(points[order]))))
        return np.asarray(np.maximum(0.0, np.diff(np.interp(edges, points[order], area)) / np.diff(edges)))

    return Occupancy(
        at_s=(edges[:-1] + edges[1:]) / 2,
        waiting=mean([each.waiting for each in stretches]),
        running=mean([each.decodes + len(each.chunks) for each in stretches]),
        held=mean([each.blocks_held / each.blocks / replicas for each in stretches]),
    )


def plot_occupancy(found: Occupancy, axes: Sequence[Axes]) -> None:
    """Requests waiting, requests running and KV memory held against time, on three axes that share theirs."""
    rows = ((found.waiting, "waiting"), (found.running, "running"), (found.held * 100, "KV held, %"))
    for index, (ax, (values, label)) in enumerate(zip(axes, rows, strict=True)):
        ax.fill_between(found.at_s, values, step="mid", color=COLOURS[index], alpha=0.25, linewidth=0)
        ax.step(found.at_s, values, where="mid", color=COLOURS[index], linewidth=1.1)
        ax.set_ylabel(label)
        ax.set_ylim(0, max(float(values.max(initial=0.0)) * 1.15, 0.1))
        ax.margins(x=0)
        if index < len(rows) - 1:
            ax.tick_params(labelbottom=False)
    axes[-1].set_xlabel("time since the run began, s")


@dataclass(frozen=True, kw_only=True)
class LivedTurn:
    """One turn in seconds since its field opened. ``warm_ups``: (sent, over) pairs. None: never."""

    keys_s: tuple[float, ...]
    warm_ups: tuple[tuple[float, float], ...]
    submitted_s: float
    first_token_s: float | None
    finished_s: float | None


def typical_user(result: Result) -> str | None:
    """Whom to look at: of the people with most turns (up to three) the one whose mean TTFT is the median; None: nobody typed.

    Ties go to the first who submitted.
    """
    records = metrics.answered(result.records)
    if not isinstance(result.scenario.workload, ClosedLoop) or not len(records):
        return None
    waits: dict[str, list[float]] = {}
    for user, ttft_s in zip(records["user"].tolist(), records.ttft_s.tolist(), strict=True):
        waits.setdefault(user, []).append(ttft_s)
    most = min(_MOST_TURNS, max(map(len, waits.values())))
    ranked = sorted(
        (sum(spans) / len(spans), place, user) for place, (user, spans) in enumerate(waits.items()) if len(spans) >= most
    )
    return ranked[len(ranked) // 2][2]


def lived_turns(result: Result, user: str, duration_s: float) -> list[LivedTurn]:
    """The first three turns of ``user``, keys from the workload and instants from the records; none where nobody types."""
    workload, records = result.scenario.workload, result.records
    if not isinstance(workload, ClosedLoop):
        return []
    person = next((each for each in workload.people(result.seed, duration_s) if each.user == user), None)
    mine = records.where(np.asarray(records["user"] == user, dtype=bool))
    lived: list[LivedTurn] = []
    for turn in () if person is None else person.turns:
        asked = mine.where((mine["kind"] == "user") & (mine["turn"] == turn.index) & (mine["session"] == turn.session))
        if turn.typed and len(asked) and len(lived) < _MOST_TURNS:
            warmed = mine.where((mine["kind"] == "warm") & (mine["turn"] == turn.index) & (mine["session"] == turn.session))
            lived.append(_lived(turn, asked, warmed))
    return lived


def _lived(turn: Turn, asked: Records, warmed: Records) -> LivedTurn:
    submitted_s = float(asked.seconds("submitted_at_ns")[0])
    opened_s = submitted_s - turn.typing.end_at_s

    def since(name: str) -> float | None:
        value = int(asked[name][0])
        return None if value == NEVER else value / 1e9 - opened_s

    ends = [warmed[name] for name in ("finished_at_ns", "cancelled_at_ns", "visible_at_ns")]
    warm_ups = []
    for row in range(len(warmed)):
        over = next((int(column[row]) for column in ends if column[row] != NEVER), None)
        if over is not None:
            warm_ups.append((int(warmed["sent_at_ns"][row]) / 1e9 - opened_s, over / 1e9 - opened_s))
    return LivedTurn(
        keys_s=tuple(turn.typing.event_at_s.tolist()),
        warm_ups=tuple(warm_ups),
        submitted_s=submitted_s - opened_s,
        first_token_s=since("first_token_at_ns"),
        finished_s=since("finished_at_ns"),
    )


def plot_conversation(turns: Sequence[LivedTurn], ax: Axes) -> None:
    """Per turn three rows: keys on top, the warm-up below them, then what the user waited, in red, and the answer.

    >>> from .figures import sheet
    >>> turn = LivedTurn(keys_s=(1.0, 1.2), warm_ups=((0.5, 2.0),), submitted_s=1.5, first_token_s=2.2, finished_s=4.0)
    >>> with sheet() as (figure, (ax,)):
    ...     plot_conversation([turn], ax); [text.get_text() for text in ax.get_yticklabels()]
    ['turn 1']
    """
    end_s = 0.1
    for number, turn in enumerate(turns):
        top = -4.2 * number
        named = number == 0
        ax.vlines(turn.keys_s, top - 0.35, top + 0.35, color=COLOURS[6], linewidth=0.8, label="keys" if named else "")
        for place, (sent_s, over_s) in enumerate(turn.warm_ups):
            label = "warm-up" if named and place == 0 else ""
            ax.barh(top - 1, max(over_s - sent_s, 0.0), left=sent_s, height=0.55, color=COLOURS[2], label=label)
            end_s = max(end_s, over_s)
        first_s = turn.submitted_s if turn.first_token_s is None else turn.first_token_s
        ax.barh(top - 2, first_s - turn.submitted_s, left=turn.submitted_s, height=0.55, color=RED, label="waits" if named else "")
        ax.vlines(turn.submitted_s, top - 2.5, top + 0.5, color=GREY, linewidth=0.8, linestyle=LINES[3])
        if turn.finished_s is not None:
            width_s = turn.finished_s - first_s
            ax.barh(top - 2, width_s, left=first_s, height=0.55, color=COLOURS[5], label="answer streams" if named else "")
        # A long answer would leave the wait, which is the point, a sliver.
        shown_s = first_s if turn.finished_s is None else min(turn.finished_s, first_s + 0.5 * max(first_s, 1.0))
        end_s = max(end_s, shown_s, turn.keys_s[-1] if turn.keys_s else 0.0)
    ax.set_yticks([-4.2 * number - 1 for number in range(len(turns))], [f"turn {number + 1}" for number in range(len(turns))])
    ax.set_ylim(-4.2 * max(len(turns), 1) + 1.2, 0.9)
    ax.set_xlim(0, end_s * 1.02)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("seconds since the field was opened; dotted: submit")
    if turns:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=4, handlelength=1.2, columnspacing=1.0)
