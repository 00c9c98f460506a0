"""What happened step by step, for people: one request's life in sentences, and a timeline for trace viewers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .. import units
from ..cache.snapshot import PoolSnapshot
from ..errors import InputError
from ..records import NEVER, Records
from .clock import TICKS_PER_NS, seconds


class Stretch(NamedTuple):
    """``steps`` equal engine steps of one replica: instants in ticks; ``chunks``: (row, prompt tokens per step)."""

    replica: int
    started_at: int
    ended_at: int
    steps: int
    decodes: int
    chunks: tuple[tuple[int, int], ...]
    waiting: int
    blocks_held: int
    blocks: int


class Moment(NamedTuple):
    """Something that happened to the request ``row`` at ``at`` ticks: loading, admitted, preempted or lost; ``tokens`` it hit.

    ``loaded``: of those, tokens by lower tier, for which it waits, or waited, ``load_ticks``.
    """

    at: int
    row: int
    what: str
    replica: int
    tokens: int = 0
    loaded: tuple[tuple[str, int], ...] = ()
    load_ticks: int = 0


class Journal:
    """Collects stretches and moments while a run goes on; costs memory per engine plan, so only on request.

    >>> Journal().stretches
    []
    """

    def __init__(self) -> None:
        self.stretches: list[Stretch] = []
        self.moments: list[Moment] = []
        self.caches: list[PoolSnapshot] = []  # per replica, as the run left them


def explain(records: Records, journal: Journal, row: int) -> list[str]:
    """The life of request ``row`` (its place among the records), a sentence a line, seconds since the run began.

    Raises InputError for a row that is not there.

    >>> explain(Records({"kind": __import__("numpy").array([])}), Journal(), 3)
    Traceback (most recent call last):
    simcache.errors.InputError: request(=3) must be the number of a record, from 0 to -1.
    """
    if not 0 <= row < len(records):
        raise InputError("request", row, f"must be the number of a record, from 0 to {len(records) - 1}")
    record = {name: column[row] for name, column in records.columns.items()}
    lines = list(_life(record, row, journal))
    return [f"{at / 1e9:12.6f} s  {what}" for at, what in sorted(lines, key=lambda line: line[0])]


def _life(record: dict[str, Any], row: int, journal: Journal) -> Iterator[tuple[int, str]]:
    whose = f" of {record['user']}" if record["user"] else ""
    yield (
        int(record["submitted_at_ns"]),
        f"submitted: {record['kind']} request{whose}, {int(record['prompt_tokens']):,} prompt tokens",
    )
    if record["sent_at_ns"] not in (NEVER, record["submitted_at_ns"]):
        yield int(record["sent_at_ns"]), "sent: the client had waited for its warm-up"
    for moment in journal.moments:
        if moment.row == row:
            yield (
                moment.at // TICKS_PER_NS,
                f"{moment.what} on replica {moment.replica}{_hits(moment, int(record['prompt_tokens']))}",
            )
    for stretch in journal.stretches:
        tokens = dict(stretch.chunks).get(row)
        if tokens is not None:
            steps = "one step" if stretch.steps == 1 else f"{stretch.steps} steps"
            beside = f" beside {stretch.decodes} decodes" if stretch.decodes else ""
            long = units.seconds(seconds(stretch.ended_at - stretch.started_at))
            each = " each" if stretch.steps > 1 else ""
            yield stretch.started_at // TICKS_PER_NS + 1, f"{steps} of prefill, {tokens:,} tokens{each}{beside}, {long}"
    if record["first_token_at_ns"] != NEVER:
        ttft = units.seconds((record["first_token_at_ns"] - record["submitted_at_ns"]) / 1e9)
        yield int(record["first_token_at_ns"]) + 1, f"first token: {ttft} after submit"
    if record["finished_at_ns"] != NEVER:
        yield int(record["finished_at_ns"]) + 2, f"done: {int(record['output_tokens']):,} output tokens"
    if record["cancelled_at_ns"] != NEVER:
        yield int(record["cancelled_at_ns"]) + 2, "cancelled"
    if record["outcome"] in ("rejected", "failed"):
        yield int(record["submitted_at_ns"]) + 1, str(record["outcome"])


def _hits(moment: Moment, prompt_tokens: int) -> str:
    loaded = ", ".join(f"{count:,} loaded from {tier}" for tier, count in moment.loaded)
    waited = units.seconds(seconds(moment.load_ticks))
    if moment.what == "loading":
        return f" for {waited}: {' and '.join(f'{count:,} tokens from {tier}' for tier, count in moment.loaded)}"
    if moment.what != "admitted":
        return ""
    if not loaded:
        failed = f", after {waited} of a load that failed" if moment.load_ticks else ""
        return f", {moment.tokens:,} of {prompt_tokens:,} tokens hit{failed}"
    in_gpu = moment.tokens - sum(count for _, count in moment.loaded)
    return f", {in_gpu:,} of {prompt_tokens:,} tokens hit in GPU, {loaded} (waited {waited})"


def timeline(records: Records, journal: Journal) -> dict[str, Any]:
    """The run in the Chrome trace format (JSON Array with metadata), which Perfetto opens; times in microseconds.

    One process per replica with its stretches of steps and counters of batch, queue and KV memory; requests as async slices.

    >>> timeline(Records({"kind": __import__("numpy").array([])}), Journal())["traceEvents"]
    []
    """
    events: list[dict[str, Any]] = []

    def micro(ticks: int) -> float:
        return ticks / TICKS_PER_NS / 1000

    for replica in sorted({stretch.replica for stretch in journal.stretches}):
        events.append({"ph": "M", "name": "process_name", "pid": replica, "tid": 0, "args": {"name": f"replica {replica}"}})
    for stretch in journal.stretches:
        what = " + ".join(
            [f"{stretch.decodes} decodes"] * bool(stretch.decodes)
            + [f"{sum(n for _, n in stretch.chunks):,} prompt tokens"] * bool(stretch.chunks)
        )
        where = {"pid": stretch.replica, "tid": 0, "ts": micro(stretch.started_at)}
        shown = {"steps": stretch.steps, "requests in prefill": [row for row, _ in stretch.chunks]}
        span = micro(stretch.ended_at - stretch.started_at)
        events.append({"ph": "X", "name": what or "empty", "cat": "steps", "dur": span, "args": shown, **where})
        events.append(
            {
                "ph": "C",
                "name": "requests",
                "args": {"running": stretch.decodes + len(stretch.chunks), "waiting": stretch.waiting},
                **where,
            }
        )
        share = 100 * stretch.blocks_held / stretch.blocks
        events.append({"ph": "C", "name": "KV memory in use, %", "args": {"held": round(share, 3)}, **where})
    for moment in journal.moments:
        where = {"pid": moment.replica, "tid": 0, "ts": micro(moment.at)}
        events.append({"ph": "i", "name": f"request {moment.row} {moment.what}", "cat": "requests", "s": "t", **where})
        if moment.what == "loading":
            tiers = " and ".join(f"{count:,} tokens from {tier}" for tier, count in moment.loaded)
            load = {"name": f"load of {tiers}", "cat": "load", "id": moment.row, "pid": moment.replica, "tid": 0}
            events.append({"ph": "b", "ts": where["ts"], **load})
            events.append({"ph": "e", "ts": micro(moment.at + moment.load_ticks), **load})
    for row in range(len(records)):
        end = max(int(records[name][row]) for name in ("first_token_at_ns", "finished_at_ns", "cancelled_at_ns"))
        if end == NEVER:
            continue
        place = {
            "cat": "request",
            "id": row,
            "pid": max(0, int(records["replica"][row])),
            "tid": 0,
            "name": f"{records['kind'][row]} {row}",
        }
        events.append({"ph": "b", "ts": int(records["submitted_at_ns"][row]) / 1000, **place})
        first = int(records["first_token_at_ns"][row])
        if first != NEVER:
            events.append({"ph": "n", "ts": first / 1000, **place, "args": {"what": "first token"}})
        events.append({"ph": "e", "ts": end / 1000, **place})
    return {"traceEvents": events, "displayTimeUnit": "ms"}
