"""Predicted against measured: a recorded run's own arrivals through the simulator, judged request by request."""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from .engine.run import simulate
from .errors import InputError, require, require_count, require_number
from .latency.catalogue import find_profile
from .latency.prediction import draw_profiles
from .prompt import Request, Segment, prompt_tokens
from .records import Records
from .scenario import Scenario, Server
from .streams import stream
from .workload.synthetic import RequestList

Floats = NDArray[np.float64]
CALIBRATION_SHARE: Final = 0.2
"""The first requests by arrival that a speed factor is fitted to; the rest is judged."""
FEWEST: Final = 10
GRADES: Final = ((0.05, "A"), (0.10, "B"), (0.20, "C"))
"""Largest error of TTFT mean and quantiles, and of half of the times in service, up to which a run has this grade; else D."""
_PERCENTS: Final = (50, 90, 95, 99)
_FAR: Final = 0.1  # of a logarithm of times in service
_SHORTEST_S: Final = 1e-9
_FACTOR_RANGE: Final = (0.2, 5.0)
_FACTOR_TOLERANCE: Final = 1e-4
_FACTOR_STRIDE: Final = 1.1
_FACTOR_STEP: Final = 1.04  # less than half of what counts as met by others
_DRIFT_GROUPS: Final = 5
_LARGEST: Final = sys.float_info.max


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """What a real engine did: requests in order of arrival, seconds from each arrival to first and last token (NaN: never).

    ``hit_tokens`` -1, or None for all: the log does not tell what was cached. ``service_s``: seconds from the start of computing
    to the last token, by the engine's own clock (NaN, None: not told).
    """

    requests: tuple[Request, ...]
    ttft_s: Floats
    e2e_s: Floats
    hit_tokens: NDArray[np.int64] | None = None
    service_s: Floats | None = None

    def __post_init__(self) -> None:
        require(len(self.requests) >= FEWEST, "requests", len(self.requests), f"must be at least {FEWEST} to judge a prediction")


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Signed errors as fractions: (simulated - measured) / measured, over the requests that were not used to calibrate.

    ``ttft_s`` has mean_error, p50_error, p90_error, p95_error, p99_error and median_ape (per request); ``tpot`` mean_error and
    median_error (None without answers of two tokens). Both, and ``requests``, are of users alone where there are any: nobody waits
    for a warm-up. ``hits_exact_share`` and ``service_median_ape`` are of all requests, where the log tells them.
    ``interval95`` (None: nobody drew): where 95 % of each error of TTFT lie when the coefficients of the profile and the speed of
    the host are drawn anew; an error whose interval holds 0 is no more than those two explain.
    """

    requests: int
    speed_factor: float
    ttft_s: dict[str, float]
    tpot: dict[str, float | None]
    bias: float
    hits_exact_share: float | None
    service_median_ape: float | None
    measured_ttft_s: Floats
    simulated_ttft_s: Floats
    interval95: dict[str, tuple[float, float]] | None = None

    @property
    def grade(self) -> str:
        """A to D by the largest error of TTFT mean, p50, p90 and p95 and, where it is told, of half of the times in service.

        Waiting can come out right by luck where a profile is wrong about what it is a wait for.
        """
        worst = max(abs(self.ttft_s[name]) for name in ("mean_error", "p50_error", "p90_error", "p95_error"))
        worst = max(worst, self.service_median_ape or 0.0)
        return next((grade for limit, grade in GRADES if worst <= limit), "D")

    def as_json(self) -> dict[str, Any]:
        """The document of ``simcache validate --json`` without its frame."""
        return {
            "hits_exact_share": self.hits_exact_share,
            "service": {"median_ape": self.service_median_ape},
            "ttft_s": self.ttft_s,
            "measured_ttft_s": _quantiles(self.measured_ttft_s),
            "simulated_ttft_s": _quantiles(self.simulated_ttft_s),
            "tpot": self.tpot,
            "bias": self.bias,
            "grade": self.grade,
            "speed_factor": self.speed_factor,
            "requests": self.requests,
            "interval95": None if self.interval95 is None else {name: list(ends) for name, ends in self.interval95.items()},
        }


def _quantiles(ttft_s: Floats) -> dict[str, float]:
    quantiles = {f"p{percent}": float(np.percentile(ttft_s, percent)) for percent in _PERCENTS}
    return {"mean": float(ttft_s.mean()), **quantiles}


def validate(
    run: RecordedRun, server: Server, speed_factor: float | Literal["auto"] | None = "auto", *, draws: int = 0, seed: int = 0
) -> Validation:
    """Simulate the run's own arrivals on ``server`` and judge TTFT (from arrival), TPOT, time in service and hits.

    ``speed_factor`` "auto" finds the one factor on all step times that the first 20 % of the requests ask for (see
    ``find_speed_factor``), and judges the rest; None judges everything with the profile as it is. ``draws`` simulates so many
    times more, for ``interval95``.
    """
    require_count("draws", draws, at_least=0)
    known = max(FEWEST // 2, int(CALIBRATION_SHARE * len(run.requests))) if speed_factor == "auto" else 0
    if speed_factor == "auto":
        factor = find_speed_factor(run, server, known)
    else:
        factor = 1.0 if speed_factor is None else speed_factor
        require_number("speed_factor", factor, above=0)
    records, judged = play(run, server, factor), slice(known, None)
    found = judge(run, records, factor, judged)
    return replace(found, interval95=_interval95(run, server, records, found, known, draws, seed)) if draws else found


def _interval95(
    run: RecordedRun, server: Server, records: Records, found: Validation, known: int, draws: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Errors of TTFT under profiles drawn from the covariance, on hosts as fast as this one was from moment to moment."""
    profile: Any = find_profile(server.profile) if isinstance(server.profile, str) else server.profile
    factor = found.speed_factor
    calibrating = slice(known or None)
    drift = _drift(run, records, calibrating) * stream(seed, "host drift").standard_normal(draws)
    fixed = profile.table is not None or profile.covariance is None
    errors = []
    for drawn, slower in zip([profile] * draws if fixed else draw_profiles(profile, draws, seed), np.exp(drift), strict=True):
        moved, own = replace(server, profile=drawn), factor
        if known and not fixed:  # a host factor takes up what a draw makes slower everywhere
            _, before_s = _busy_s(run, records, calibrating)
            _, after_s = _busy_s(run, play(run, moved, factor), calibrating)
            own *= float(before_s.sum() / after_s.sum())
        errors.append(judge(run, play(run, moved, own * float(slower)), own, slice(known, None)).ttft_s)
    ends = {name: np.quantile([each[name] for each in errors], [0.025, 0.975]) for name in found.ttft_s if name != "median_ape"}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _drift(run: RecordedRun, records: Records, rows: slice) -> float:
    """Spread of the host's speed between groups of consecutive requests: standard deviation of its logarithm."""
    measured_s, simulated_s = _busy_s(run, records, rows)
    groups = min(_DRIFT_GROUPS, len(measured_s))
    if groups < 2:
        return 0.0
    pairs = zip(np.array_split(measured_s, groups), np.array_split(simulated_s, groups), strict=True)
    return float(np.std([math.log(real.sum() / ours.sum()) for real, ours in pairs], ddof=1))


def _busy_s(run: RecordedRun, records: Records, rows: slice) -> tuple[Floats, Floats]:
    """Measured and simulated seconds in which each request was computed, without its wait: in service, else of its answer."""
    if run.service_s is not None:
        measured_s, simulated_s = run.service_s[rows], _service_s(records)[rows]
    else:
        measured_s, simulated_s = (run.e2e_s - run.ttft_s)[rows], (records.e2e_s - records.ttft_s)[rows]
    told = np.isfinite(measured_s) & (measured_s > 0) & (simulated_s > 0)
    return measured_s[told], simulated_s[told]


def play(run: RecordedRun, server: Server, factor: float) -> Records:
    """The records of the run's requests on a server whose steps take ``factor`` times what its profile says."""
    backend = replace(server, slowness=server.slowness * factor)
    records = simulate(Scenario(workload=RequestList(rows=run.requests), backend=backend)).records
    given_up = np.array([request.cancelled_after_s is not None for request in run.requests])
    failed = ~((records["outcome"] == "ok") | (given_up & (records["outcome"] == "cancelled")))
    if failed.any():
        row = int(np.argmax(failed))
        raise InputError(
            f"request {row}", str(records["outcome"][row]), "cannot be served by this server", "Check the KV memory given."
        )
    return records


def find_speed_factor(run: RecordedRun, server: Server, known: int) -> float:
    """The factor on all step times that the first ``known`` requests ask for.

    Where the log tells times in service: their logarithms agree on average, each weighed with its time, since queueing would
    magnify what is to be measured; one that is off by more than a tenth met others in the simulation than it did, which is no
    matter of speed, and counts as a tenth. That can hold at several factors, as who meets whom changes with speed: looked for is
    the one beside the least absolute error of all. Else finish instants agree with the measured ones in least squares.
    """
    if run.service_s is not None and np.isfinite(run.service_s[:known]).any():
        told = np.isfinite(run.service_s[:known]) & (run.service_s[:known] > 0)
        require(bool(told.any()), "requests", known, "must hold one with a time in service among those that calibrate")
        measured_s = run.service_s[:known][told]

        def off_s(factor: float) -> Floats:
            off = np.log(np.maximum(_service_s(play(run, server, factor))[:known][told], _SHORTEST_S) / measured_s)
            return np.clip(off, -_FAR, _FAR) * measured_s

        def slower(factor: float) -> float:
            return float(off_s(factor).sum())

        steps = round(math.log(_FACTOR_RANGE[1]) / math.log(_FACTOR_STEP))
        tried = [_FACTOR_STEP**k for k in range(-steps, steps + 1)]
        apart_s = [float(np.abs(off_s(factor)).sum()) for factor in tried]
        best = tried[int(np.argmin(apart_s))]
        if min(apart_s) > 0.99 * _FAR * float(measured_s.sum()):
            raise _no_factor()
        low, high = best / _FACTOR_STEP, best * _FACTOR_STEP
        under, over = slower(low), slower(high)
        return _crossing(slower, low, under, high, over) if under < 0 <= over else best
    arrived_s = np.array([request.arrived_at_s for request in run.requests[:known]])
    finished_s = arrived_s + run.e2e_s[:known]
    seen = np.isfinite(finished_s)
    require(bool(seen.any()), "requests", known, "must hold a finished one among those that calibrate")
    weights = finished_s[seen] - arrived_s.min()  # d(finish)/d(factor) grows with the time the factor has had to act

    def late(factor: float) -> float:
        simulated_s = arrived_s + play(run, server, factor).e2e_s[:known]
        return float(((simulated_s[seen] - finished_s[seen]) * weights).sum())

    return _root(late)


def _service_s(records: Records) -> Floats:
    return np.asarray((records["finished_at_ns"] - records["first_scheduled_at_ns"]) / 1e9)


def _root(rises: Callable[[float], float]) -> float:
    """Where a rising step function of a factor crosses 0, to ``_FACTOR_TOLERANCE`` of it: outwards from 1, then regula falsi.

    Every call is a simulation. Raises InputError beyond ``_FACTOR_RANGE``.
    """
    at, value = 1.0, rises(1.0)
    up = value < 0
    while True:
        before, value_before = at, value
        at = before * _FACTOR_STRIDE if up else before / _FACTOR_STRIDE
        if not _FACTOR_RANGE[0] <= at <= _FACTOR_RANGE[1]:
            raise _no_factor()
        value = rises(at)
        if (value >= 0) == up:
            break
    return _crossing(rises, *((before, value_before, at, value) if up else (at, value, before, value_before)))


def _no_factor() -> InputError:
    rule = f"must lie between {_FACTOR_RANGE[0]:g} and {_FACTOR_RANGE[1]:g}"
    return InputError("speed_factor", "auto", rule, "This profile is not of this machine: calibrate it anew.")


def _crossing(rises: Callable[[float], float], low: float, under: float, high: float, over: float) -> float:
    """Where ``rises`` crosses 0 between ``low`` (below it, ``under``) and ``high`` (``over``)."""
    kept = 0  # which end stayed last time: its weight is halved when it stays again
    for guess in count(1):
        if high - low <= _FACTOR_TOLERANCE * low:
            break
        halving = guess % 3 == 0  # so that no shape takes long
        middle = (low + high) / 2 if halving else (low * over - high * under) / (over - under)
        edge = _FACTOR_TOLERANCE * low / 2  # a guess at an end would never bring the other one near
        middle = min(max(middle, low + edge), high - edge)
        value = rises(middle)
        if value < 0:
            low, under, over = middle, value, over / 2 if kept > 0 else over
            kept = 1
        else:
            high, over, under = middle, value, under / 2 if kept < 0 else under
            kept = -1
    return (low + high) / 2


def longest_tokens(run: RecordedRun) -> int:
    """Tokens of a slot in which every request of the run has room to its end, answers included."""
    return max(prompt_tokens(request.prompt) + request.output.tokens for request in run.requests) + 1


def judge(run: RecordedRun, records: Records, factor: float, judged: slice) -> Validation:
    """Compare simulated records with the measured run over the rows of ``judged``."""
    measured, simulated = run.ttft_s[judged], records.ttft_s[judged]
    people = np.array([request.kind == "user" for request in run.requests])[judged]
    seen = np.isfinite(measured) & np.isfinite(simulated) & (measured > 0) & (people | ~people.any())
    require(int(seen.sum()) > 0, "requests", int(seen.sum()), "must hold at least one first token to judge")
    measured, simulated = measured[seen], simulated[seen]
    theirs, ours = _quantiles(measured), _quantiles(simulated)
    ttft = {f"{name}_error": ours[name] / theirs[name] - 1 for name in ours}
    ttft["median_ape"] = float(np.median(np.abs(simulated / measured - 1)))
    tpot: dict[str, float | None] = {"mean_error": None, "median_error": None}
    gaps = np.array([request.output.tokens - 1 for request in run.requests])[judged][seen]
    if (gaps > 0).any():
        many = gaps > 0
        real = (run.e2e_s - run.ttft_s)[judged][seen][many] / gaps[many]
        paced = (records.e2e_s - records.ttft_s)[judged][seen][many] / gaps[many]
        finished = np.isfinite(real)
        if finished.any():
            tpot["mean_error"] = float(paced[finished].mean() / real[finished].mean() - 1)
            tpot["median_error"] = float(np.median(paced[finished]) / np.median(real[finished]) - 1)
    exact = None
    if run.hit_tokens is not None and (told := run.hit_tokens[judged] >= 0).any():
        exact = float((run.hit_tokens[judged][told] == records["hit_tokens"][judged][told]).mean())
    service_ape = None
    if run.service_s is not None:
        told = np.isfinite(run.service_s[judged]) & (run.service_s[judged] > 0)
        if told.any():
            service_ape = float(np.median(np.abs(_service_s(records)[judged][told] / run.service_s[judged][told] - 1)))
    return Validation(
        requests=int(seen.sum()),
        speed_factor=factor,
        ttft_s=ttft,
        tpot=tpot,
        bias=float(np.median(simulated / measured - 1)),
        hits_exact_share=exact,
        service_median_ape=service_ape,
        measured_ttft_s=measured,
        simulated_ttft_s=simulated,
    )


def read_vllm_requests(path: str | Path, block_tokens: int = 16) -> RecordedRun:
    """A recorded vLLM run, JSONL (also .gz): arrival_s, first_token_s, last_token_s, input_tokens, output_tokens, hash_ids.

    ``hash_ids`` are chained identities of the full blocks of the prompt; instants are seconds on one clock. Raises InputError
    with file and line for a missing field, a wrong type or an impossible value.
    """
    place = Path(path)
    rows: list[tuple[float, float, float, Request]] = []
    number = 0
    try:
        with gzip.open(place, "rt", encoding="utf-8") if place.suffix == ".gz" else place.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    rows.append(_vllm_row(line, place, number, block_tokens))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError("log", str(place), f"cannot be read: {error}", line=number + 1, path=place) from None
    require(bool(rows), "log", str(place), "must hold at least one request")
    rows.sort(key=lambda row: row[0])
    start = min(0.0, rows[0][0])
    requests = tuple(row[3]._replace(arrived_at_s=row[0] - start) for row in rows)
    arrived, first, last = (np.array([row[i] for row in rows], dtype=np.float64) for i in range(3))
    return RecordedRun(requests=requests, ttft_s=first - arrived, e2e_s=last - arrived)


def _vllm_row(line: str, path: Path, number: int, block_tokens: int) -> tuple[float, float, float, Request]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError("row", line[:80], "must be one JSON object", path=path, line=number) from None
    if not isinstance(row, dict):
        raise InputError("row", row, "must be one JSON object", path=path, line=number)

    def value(name: str, kinds: tuple[type, ...], least: float | None = None) -> Any:
        if name not in row:
            raise InputError(name, None, "is missing", path=path, line=number)
        found: Any = row[name]
        if isinstance(found, bool) or not isinstance(found, kinds) or not -_LARGEST <= row[name] <= _LARGEST:
            raise InputError(
                name, found, f"must be a finite {'number' if float in kinds else 'whole number'}", path=path, line=number
            )
        if least is not None and row[name] < least:
            raise InputError(name, found, f"must be at least {least:g}", path=path, line=number)
        return row[name]

    arrived = float(value("arrival_s", (int, float)))
    first = float(value("first_token_s", (int, float), arrived))
    last = float(value("last_token_s", (int, float), first))
    tokens, output = value("input_tokens", (int,), 0), value("output_tokens", (int,), 0)
    blocks = row.get("hash_ids", [])
    if not isinstance(blocks, list) or any(isinstance(block, bool) or not isinstance(block, (int, str)) for block in blocks):
        raise InputError("hash_ids", blocks, "must be a list of whole numbers or texts", path=path, line=number)
    if len(blocks) * block_tokens > tokens:
        raise InputError(
            "hash_ids", len(blocks), f"must be full blocks of {block_tokens} of the {tokens} tokens", path=path, line=number
        )
    prompt = [Segment(("block", block), block_tokens) for block in blocks]
    if rest := tokens - len(blocks) * block_tokens:
        prompt.append(Segment(("tail", number), rest))
    return arrived, first, last, Request(arrived, tuple(prompt), Segment(("answer", number), output))
