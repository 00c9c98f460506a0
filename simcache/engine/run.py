"""Build the world a scenario describes, run its clock, and hand out what happened."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Final

from simpy.core import EmptySchedule
from simpy.events import Event

from ..cache.rates import HostedPrices, hosted_prices
from ..cache.snapshot import snapshot
from ..errors import DeadlockError, InputError, require_count, require_number
from ..latency import HostedProfile, ServerProfile
from ..latency.catalogue import find_profile
from ..price_list import parse_date
from ..pricing import Bill, bill, gpu_tariff
from ..prompt import Request
from ..records import NEVER, Records, RecordsBuilder
from ..result import Result, Wall
from ..scenario import Cluster, HostedApi, Scenario
from ..scheduler.vllm import VllmScheduler
from ..steady import overload, transient_end_s, transient_note
from ..workload import ClosedLoop
from . import client, cluster, hosted
from .backend import Backend, Ticket
from .clock import Alarm, Clock, instant
from .journal import Journal
from .overheard import Overheard
from .waiting import Tally

DURATION_S: Final = 3600.0
"""How long people arrive when neither the scenario nor the caller says."""
_CHUNK: Final = 1024  # requests read from a trace at a time, so that reading can be timed apart from simulating
_EVENTS_PER_REPORT: Final = 4096


def simulate(
    scenario: Scenario,
    *,
    duration_s: float | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    journal: Journal | None = None,
    sent: list[Request] | None = None,
) -> Result:
    """Run ``scenario`` once and return its records, bill and provenance.

    New turns start before ``duration_s`` (default: the scenario's, else one hour; a trace runs to its end unless told); what
    has been submitted runs to its end. Equal arguments give equal results. ``progress`` is called with the share of simulated
    time that has passed, where the end is known. ``journal`` collects what every replica did step by step, ``sent`` every
    request that went to the backend. Raises InputError before the clock starts, DeadlockError when nothing can go on.

    >>> from simcache import Scenario, Server, TypingSessions
    >>> result = simulate(Scenario(workload=TypingSessions(users=2), backend=Server()), duration_s=60, seed=1)
    >>> bool((result.records.outcome == "ok").all())
    True
    """
    require_count("seed", seed, at_least=0)
    if duration_s is None:
        duration_s = scenario.duration_s
    else:
        require_number("duration_s", duration_s, above=0)
    tiers = () if isinstance(scenario.backend, HostedApi) else scenario.backend.tiers
    records = RecordsBuilder(tiers=[tier.name for tier in tiers])
    env = Clock()
    profile = _profile(scenario)
    backend: Backend
    prices: HostedPrices | None = None
    if isinstance(scenario.backend, HostedApi):
        api = scenario.backend
        backend = hosted.build(env, api, records, seed, zero_data_retention=scenario.zero_data_retention)
        prices_at = None if api.prices_at is None else parse_date("prices_at", api.prices_at)
        prices = hosted_prices(backend.rules, api.model, prices_at, batch=api.batch)
    else:
        assert isinstance(profile, ServerProfile)
        backend = cluster.build(env, scenario.backend, profile, records, seed=seed, until_s=duration_s, journal=journal)

    asked = backend if sent is None else Overheard(backend, sent)
    workload = scenario.workload
    feeder: _Feeder | None = None
    tally = Tally()
    until: int | None
    if isinstance(workload, ClosedLoop):
        if duration_s is None:
            duration_s = DURATION_S
        until = instant(duration_s)
        warmer = scenario.warming.fresh()
        for person in workload.people(seed, duration_s):
            client.start(env, asked, person, scenario, records, until, tally, warmer)
    else:
        until = None if duration_s is None else instant(duration_s)
        feeder = _Feeder(env, asked, workload.requests(seed), until)

    read_before_s = feeder.reading_s if feeder else 0.0  # the first chunk, before the clock starts
    started = perf_counter()
    events = _run_clock(env, until, progress)
    simulate_s = perf_counter() - started - (feeder.reading_s - read_before_s if feeder else 0.0)
    if isinstance(backend, cluster.ReplicaCluster):
        stuck = backend.waiting_rows()
        if stuck:
            raise DeadlockError(f"the clock has no more events, but requests wait (rows): {stuck}")

    if journal is not None and isinstance(backend, cluster.ReplicaCluster):
        schedulers = [replica.scheduler for replica in backend.replicas]
        journal.caches = [snapshot(scheduler.pool) for scheduler in schedulers if isinstance(scheduler, VllmScheduler)]
    for row in range(records.rows) if tiers else ():  # on two replicas, from one shared tier, a block can be used twice
        records.used_tokens[row] = min(records.used_tokens[row], records.inserted_tokens[row])
        records.dropped_tokens[row] = max(records.dropped_tokens[row], 0)
    frozen = records.freeze()
    notes = [*getattr(workload, "notes", ()), *_profile_notes(profile)]
    if isinstance(workload, ClosedLoop):
        notes += scenario.warming.notes(_lifetime_s(scenario, backend))
    if tally.unsent_turns:
        notes.append(f"{tally.unsent_turns} of {tally.opened_turns} drafts were never sent")
    account, price_source, price_notes = _bill(scenario, profile, prices, frozen, max(_ended_at_s(frozen), duration_s or 0.0))
    transient_s = transient_end_s(frozen, scenario.transient)
    if scenario.transient is not None:
        notes.append(transient_note(frozen, scenario.transient, transient_s))
    beyond = overload(frozen)
    if beyond is not None and not isinstance(scenario.backend, HostedApi):
        replicas = scenario.backend.replicas if isinstance(scenario.backend, Cluster) else 1
        notes.append(beyond.sentence("1 replica" if replicas == 1 else f"{replicas} replicas"))
    extrapolated = _extrapolated(profile, frozen)
    if extrapolated:
        notes.append(f"some latencies were extrapolated beyond the measured range of profile {profile.name!r}")
    return Result(
        scenario=scenario,
        seed=seed,
        records=frozen,
        bill=account,
        wall=Wall(simulate_s=simulate_s, events=events, requests=len(frozen)),
        extrapolated=extrapolated,
        provenance={
            "latency": f"{profile.name}: {profile.provenance} ({profile.source}, {profile.date})",
            "prices": price_source,
        },
        notes=tuple(dict.fromkeys([*notes, *price_notes])),
        transient_s=transient_s,
    )


class _Feeder:
    """Sends an open-loop workload: one pending event at a time, however long the trace."""

    def __init__(self, env: Clock, backend: Backend, requests: Iterator[Request], until: int | None) -> None:
        self.reading_s = 0.0
        self._env = env
        self._backend = backend
        self._requests = requests
        self._until = until
        self._chunk: Iterator[Request] = iter(())
        self._alarm = Alarm(env, self._send)
        self._request: Request | None = None
        self._at = 0  # its instant
        self._read()
        self._schedule()

    def _read(self) -> None:
        """Look at the next request; None at the end."""
        request = next(self._chunk, None)
        if request is None:
            started = perf_counter()
            self._chunk = iter(list(islice(self._requests, _CHUNK)))
            self.reading_s += perf_counter() - started
            request = next(self._chunk, None)
        self._request = request
        if request is not None:
            self._at = instant(request.arrived_at_s)

    def _schedule(self) -> None:
        if self._request is None or (self._until is not None and self._at >= self._until):
            return
        delay = self._at - self._alarm.at
        if delay < 0:
            rule = "must not be earlier than the request before it (or 0)"
            raise InputError("arrived_at_s", self._request.arrived_at_s, rule)
        self._alarm.set(delay)

    def _send(self, event: Event) -> None:
        now, serve = self._at, self._backend.serve
        while self._request is not None and self._at == now:
            ticket = serve(self._request)
            if self._request.cancelled_after_s is not None:
                self._env.call(partial(self._cancel, ticket), instant(self._request.cancelled_after_s))
            self._read()
        self._schedule()

    def _cancel(self, ticket: Ticket, event: Event) -> None:
        self._backend.cancel(ticket)


def _run_clock(env: Clock, until: int | None, progress: Callable[[float], None] | None) -> int:
    """Run to the last event; how many there were."""
    step, moved = super(Clock, env).step, env.moved  # Clock.step, without a frame of its own for each event
    events = done = 0
    # What a run makes dies by reference counts; the collector would only walk the living again and again (10..20 % of the time).
    thresholds = gc.get_threshold()
    gc.set_threshold(100_000, *thresholds[1:])
    try:
        while True:
            for done in range(_EVENTS_PER_REPORT):  # noqa: B007  # read where the schedule ends
                if moved:
                    env.drop_moved()
                step()
            events += _EVENTS_PER_REPORT
            if progress is not None and until:
                progress(min(1.0, env.now / until))
    except EmptySchedule:
        if progress is not None:
            progress(1.0)
        return events + done
    finally:
        gc.set_threshold(*thresholds)


def _profile(scenario: Scenario) -> ServerProfile | HostedProfile:
    backend = scenario.backend
    profile = find_profile(backend.profile) if isinstance(backend.profile, str) else backend.profile
    wanted: type[HostedProfile] | type[ServerProfile] = HostedProfile if isinstance(backend, HostedApi) else ServerProfile
    if not isinstance(profile, wanted):
        raise InputError(
            "backend.profile",
            profile.name,
            f"is a {type(profile).__name__}, but {type(backend).__name__} needs a {wanted.__name__}",
        )
    return profile


def _profile_notes(profile: ServerProfile | HostedProfile) -> list[str]:
    if profile.provenance == "measured":
        return []
    return [f"profile {profile.name!r} is not measured on your system: {profile.provenance}, {profile.source}"]


def _bill(
    scenario: Scenario,
    profile: ServerProfile | HostedProfile,
    prices: HostedPrices | None,
    records: Records,
    ended_at_s: float,
) -> tuple[Bill | None, str, list[str]]:
    backend = scenario.backend
    if isinstance(backend, HostedApi):
        assert prices is not None
        source = f"{prices.tariff.source} ({prices.tariff.as_of})"
        return prices.bill(records), source, list(prices.notes)
    assert isinstance(profile, ServerProfile)
    if not profile.gpu and backend.gpu_usd_per_hour is None:
        note = f"no dollars: profile {profile.name!r} names no GPU; gpu_usd_per_hour sets a price"
        return None, "none", [note]
    tariff = gpu_tariff(profile.gpu, profile.gpus, backend.gpu_usd_per_hour)
    replicas = backend.replicas if isinstance(backend, Cluster) else 1
    return bill(records, tariff, replicas=replicas, duration_s=ended_at_s), f"{tariff.source} ({tariff.as_of})", []


def _ended_at_s(records: Records) -> float:
    """The last instant on record: idle timers that outlive it are nobody's GPU hours."""
    columns = [records[name] for name in ("submitted_at_ns", "finished_at_ns", "cancelled_at_ns")]
    return max((int(column.max()) / 1e9 for column in columns if len(column)), default=0.0)


def _lifetime_s(scenario: Scenario, backend: Backend) -> float | None:
    """How long an unused cache entry lives; None: until it is evicted."""
    if isinstance(scenario.backend, HostedApi):
        assert isinstance(backend, hosted.HostedBackend)
        return backend.rules.lifetime_of(scenario.backend.cache_ttl or backend.rules.default_ttl)
    return scenario.backend.ttl_s


def _extrapolated(profile: ServerProfile | HostedProfile, records: Records) -> bool:
    computed = records["first_scheduled_at_ns"] != NEVER
    if not computed.any():
        return False
    hit = records["hit_tokens"][computed]
    new = records["prompt_tokens"][computed] - hit
    corners = {(int(new.max()), int(hit[new.argmax()])), (int(new[hit.argmax()]), int(hit.max()))}
    corners.add((int(new[(new + hit).argmax()]), int(hit[(new + hit).argmax()])))
    return any(profile.extrapolates(max(1, n), c) for n, c in sorted(corners))
