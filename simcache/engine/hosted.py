"""A provider's API seen from outside: rate limits, cache rules, latency with jitter, one attempt after another."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Final

import numpy as np
import simpy
from simpy.events import Event

from ..cache.hosted_store import HostedStore, Lookup
from ..cache.machines import Machines
from ..cache.presets import rules_for
from ..cache.rules import ONE_HOUR, ProviderRules
from ..errors import InputError
from ..latency import HostedProfile, load_profile
from ..prompt import Request, prompt_tokens
from ..records import NEVER, RecordsBuilder
from ..scenario import HostedApi
from ..streams import stream
from .backend import Ticket, Watch
from .clock import TICKS_PER_S, instant, nanoseconds

_MINUTE: Final = 60 * TICKS_PER_S
_NOTHING: Final = Lookup(0, 0, 0, 0)


class HostedTicket(Ticket):
    """A ticket that knows what its request found in the cache of which machine, and when it began to be computed (ticks; None:
    not yet). ``asked`` tells it from earlier requests of its kind in the same turn."""

    __slots__ = ("asked", "found", "machine", "output_tokens", "prompt_tokens", "sent_at", "started_at")

    def __init__(
        self, request: Request, row: int, submitted_at: int, watch: Watch | None, *, sent_at: int, output_tokens: int
    ) -> None:
        super().__init__(request, row, submitted_at, watch)
        self.sent_at = sent_at
        self.prompt_tokens = prompt_tokens(request.prompt)
        self.output_tokens = output_tokens
        self.asked = 0
        self.found = _NOTHING
        self.machine = 0
        self.started_at: int | None = None


class _Bucket:
    """A token bucket: holds one minute's allowance, refills evenly."""

    __slots__ = ("_at", "_level", "capacity", "per_tick")

    def __init__(self, per_minute: float, now: int) -> None:
        self.capacity = max(per_minute, 1.0)
        self.per_tick = per_minute / _MINUTE
        self._level, self._at = self.capacity, now

    def short_ticks(self, need: float, now: int) -> int:
        """Ticks until ``need`` can be taken, if nobody else takes anything; 0: now."""
        self._level = min(self.capacity, self._level + (now - self._at) * self.per_tick)
        self._at = now
        # A millionth of a token: refilling over many small steps must not fall short of refilling over one.
        return max(0, math.ceil((need - self._level - 1e-6) / self.per_tick))

    def take(self, need: float) -> None:
        self._level -= need


class HostedBackend:
    """One provider's model, alive inside one run; serves any number of requests at a time within the account's limits."""

    def __init__(
        self,
        env: simpy.Environment,
        api: HostedApi,
        rules: ProviderRules,
        profile: HostedProfile,
        records: RecordsBuilder,
        seed: int,
    ) -> None:
        self._env, self.rules, self.profile, self.records = env, rules, profile, records
        self._seed = seed
        self._sigma = profile.jitter_sigma if api.jitter else 0.0
        own_pace = api.seconds_per_output_token
        self._gap_s = profile.seconds_per_output_token if own_pace is None else own_pace
        self._retry_after = max(1, instant(api.retry_after_s))
        self._limits = (api.requests_per_minute, api.input_tokens_per_minute)
        self._accounts: dict[str | None, tuple[_Bucket | None, _Bucket | None]] = {}
        self._asked: dict[tuple[str, str, int], int] = {}
        ttl = api.cache_ttl or rules.default_ttl
        self._lifetime_s = rules.lifetime_of(ttl)
        self._written = records.written_1h_tokens if ttl == ONE_HOUR else records.written_5m_tokens
        self._cache_key = api.cache_key
        self._early_deaths_per_h = rules.early_deaths_per_h if api.early_deaths_per_h is None else api.early_deaths_per_h

        def make_store() -> HostedStore:
            return HostedStore(
                rules,
                model=api.model,
                ttl=ttl,
                ticks_per_s=TICKS_PER_S,
                breakpoints=api.breakpoints,
                mark_shared=api.mark_shared,
            )

        self._machines = Machines(rules, make_store, ticks_per_s=TICKS_PER_S) if api.prefix_caching else None

    # -- the protocol ------------------------------------------------------------------------------------------------------

    def serve(self, request: Request, *, submitted_at: int | None = None, watch: Watch | None = None) -> Ticket:
        """Send ``request`` now; while the account's limits are reached it is sent again every ``retry_after_s``.

        A request that is larger than a whole minute's allowance could never pass and ends ``rejected`` at once. A warm-up that
        asks for less output than the provider lets anybody ask for gets (and pays for) that least output.
        """
        records, now = self.records, self._now
        row = records.row(request.session or "", request.user or "", request.kind)
        output_tokens = request.output.tokens
        if request.kind != "user":
            output_tokens = max(output_tokens, self.rules.warm_output_tokens)
        since = now if submitted_at is None else submitted_at
        ticket = HostedTicket(request, row, since, watch, sent_at=now, output_tokens=output_tokens)
        name = _name(request)
        ticket.asked = self._asked.get((request.kind, name, request.turn), 0)
        self._asked[request.kind, name, request.turn] = ticket.asked + 1
        records.turn[row] = request.turn
        records.priority[row] = request.priority
        records.submitted_at_ns[row] = nanoseconds(ticket.submitted_at)
        records.sent_at_ns[row] = nanoseconds(now)
        records.prompt_tokens[row] = ticket.prompt_tokens
        records.prompt_blocks[row] = -(-ticket.prompt_tokens // self.rules.unit_tokens)
        self._attempt(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give the request up now. What the provider had begun it finishes, bills and stores, or not: a rule."""
        assert isinstance(ticket, HostedTicket)
        if ticket.outcome is not None:
            return
        now = self._now
        ticket.cancelled_at = now
        self.records.cancelled_at_ns[ticket.row] = nanoseconds(now)
        if ticket.started_at is None:
            self.records.queue_ns[ticket.row] = nanoseconds(now - ticket.sent_at)
        elif ticket.first_token_at is not None:
            self.records.output_tokens[ticket.row] = self._output_by(ticket, now)
            if self.rules.bills_cancelled and self.rules.visibility == "finished":
                self._store_prefix(ticket)
        self._end(ticket, "cancelled")

    def estimate_ttft_s(self, request: Request, cached_tokens: int) -> float:
        """Without jitter and without the account's limits."""
        tokens = prompt_tokens(request.prompt)
        cached = max(0, min(cached_tokens, tokens - 1))
        return self.profile.ttft_s(tokens - cached, cached)

    def expected_hit_tokens(self, request: Request) -> int:
        """Tokens that ``request`` would hit if it passed the limits now, did not stray, and found nothing dead before its time."""
        if self._machines is None:
            return 0
        machine = self._machines.reached(request, self._now, self._key(request))
        return self._machines[machine].lookup(request, self._now).hit_tokens

    # -- from sent to finished ---------------------------------------------------------------------------------------------

    def _attempt(self, ticket: HostedTicket) -> None:
        if ticket.outcome is not None:
            return
        found = self._lookup(ticket)
        wait = self._limited(ticket, found)
        if wait is None:
            self._end(ticket, "rejected")
        elif wait:
            # Every attempt before the bucket can have refilled fails, whoever else takes from it: they are counted, not run.
            attempts = -(-wait // self._retry_after)
            self.records.attempts[ticket.row] += attempts
            self._at(self._now + attempts * self._retry_after, self._attempt, ticket)
        else:
            self._start(ticket, found)

    def _limited(self, ticket: HostedTicket, found: Lookup) -> int | None:
        """Ticks until the account's limits could let the request pass, 0 having taken its share; None: never."""
        if self._limits == (None, None):
            return 0
        now = self._now
        account = ticket.request.organisation
        buckets = self._accounts.get(account)
        if buckets is None:
            requests, tokens = (None if limit is None else _Bucket(limit, now) for limit in self._limits)
            buckets = self._accounts[account] = (requests, tokens)
        counted = ticket.prompt_tokens - (0 if self.rules.counts_cached_reads_in_rate_limit else found.hit_tokens)
        needs = [(bucket, need) for bucket, need in zip(buckets, (1, counted), strict=True) if bucket is not None]
        if any(need > bucket.capacity for bucket, need in needs):
            return None
        wait = max(bucket.short_ticks(need, now) for bucket, need in needs)
        if wait == 0:
            for bucket, need in needs:
                bucket.take(need)
        return wait

    def _start(self, ticket: HostedTicket, found: Lookup) -> None:
        records, request, row, now = self.records, ticket.request, ticket.row, self._now
        ticket.started_at, ticket.found, ticket.hit_tokens = now, found, found.hit_tokens
        records.first_scheduled_at_ns[row] = nanoseconds(now)
        records.queue_ns[row] = nanoseconds(now - ticket.sent_at)
        records.hit_tokens[row] = found.hit_tokens
        records.hit_blocks[row] = found.hit_tokens // self.rules.unit_tokens
        if self.rules.bills_writes:
            self._written[row] = found.written_tokens
        if self._machines is not None:
            self._machines.take(request, now, self._key(request), self._stray(ticket))
            for origin, tokens in self._machines[ticket.machine].read(request, found, now, credit=request.kind == "user"):
                records.used_tokens[origin] += tokens
                if records.used_by_row[origin] == NEVER:
                    records.used_by_row[origin] = row
        if self.rules.visibility == "scheduled" and self._store_prefix(ticket):
            self._tell(ticket, "visible")
        ttft_s = self.profile.ttft_s(ticket.prompt_tokens - found.hit_tokens, found.hit_tokens) * self._jitter(ticket)
        self._at(now + round(ttft_s * TICKS_PER_S), self._prefilled, ticket)

    def _prefilled(self, ticket: HostedTicket) -> None:
        """The first token; or, of a request given up meanwhile, the entry that it leaves."""
        if ticket.outcome is not None:
            if self.rules.bills_cancelled and self.rules.visibility != "scheduled":
                self._store_prefix(ticket)
            return
        now = ticket.first_token_at = self._now
        self.records.first_token_at_ns[ticket.row] = nanoseconds(now)
        visible = self.rules.visibility == "first_response" and self._store_prefix(ticket)
        self._tell(ticket, "first_token")
        if visible:
            self._tell(ticket, "visible")
        last = now + round(max(0, ticket.output_tokens - 1) * self._gap_s * TICKS_PER_S)
        if last == now:
            self._finish(ticket)
        else:
            self._at(last, self._finish, ticket)

    def _finish(self, ticket: HostedTicket) -> None:
        if ticket.outcome is not None:
            return
        now = ticket.finished_at = self._now
        self.records.finished_at_ns[ticket.row] = nanoseconds(now)
        self.records.output_tokens[ticket.row] = ticket.output_tokens
        if self.rules.visibility == "finished" and self._store_prefix(ticket):
            self._tell(ticket, "visible")
        self._end(ticket, "ok")

    def _end(self, ticket: HostedTicket, outcome: str) -> None:
        if ticket.outcome is None:  # a watcher may have cancelled it at this very instant
            ticket.outcome = self.records.outcome[ticket.row] = outcome
            self._tell(ticket, "finished")

    @property
    def _now(self) -> int:
        return int(self._env.now)  # integer ticks in, integer ticks out; simpy's type allows floats too

    # -- parts ----------------------------------------------------------------------------------------------------------------

    def _lookup(self, ticket: HostedTicket) -> Lookup:
        """What the ticket's request finds on the machine that it reaches now."""
        if self._machines is None:
            return _NOTHING
        request, now = ticket.request, self._now
        ticket.machine = self._machines.reached(request, now, self._key(request), self._stray(ticket))
        store = self._machines[ticket.machine]
        found = store.lookup(request, now)
        if self._early_deaths_per_h and found.stored_tokens:
            idle_h = (now - store.touched_at(request, found)) / TICKS_PER_S / 3600
            if self._draws("early death", ticket).exponential(1 / self._early_deaths_per_h) < idle_h:
                return Lookup(0, 0, found.cacheable_tokens, found.cacheable_tokens)
        return found

    def _stray(self, ticket: HostedTicket) -> float:
        return float(self._draws("stray", ticket).random()) if self.rules.stray_share else 1.0

    def _key(self, request: Request) -> str:
        """What the client sends beside the prompt for the choice of the machine."""
        return "" if self._cache_key == "prefix" else (request.user if self._cache_key == "user" else request.session) or ""

    def _store_prefix(self, ticket: HostedTicket) -> bool:
        """Make the prefix hit-able from now on; whether there is anything to hit."""
        if self._machines is None or not ticket.found.cacheable_tokens:
            return False
        assert ticket.started_at is not None
        now = ticket.visible_at = self._now
        if ticket.request.kind != "user":
            self.records.visible_at_ns[ticket.row] = nanoseconds(now)
        store = self._machines[ticket.machine]
        self._note_dropped(store, now)
        self.records.inserted_tokens[ticket.row] += store.write(
            ticket.request, origin=ticket.row, started_at=ticket.started_at, now=now
        )
        if self.rules.storage_usd_per_mtok_hour:
            self.records.stored_token_s[ticket.row] = round(ticket.found.written_tokens * self._lifetime_s)
        return True

    def _note_dropped(self, store: HostedStore, now: int) -> None:
        for origin, _, unused_tokens, _ in store.expire(now):
            self.records.dropped_tokens[origin] += unused_tokens

    def _output_by(self, ticket: HostedTicket, now: int) -> int:
        assert ticket.first_token_at is not None
        gap = round(self._gap_s * TICKS_PER_S)
        tokens = ticket.output_tokens
        return tokens if not gap else min(tokens, 1 + (now - ticket.first_token_at) // gap)

    def _jitter(self, ticket: HostedTicket) -> float:
        """A log-normal factor of median 1."""
        return math.exp(self._sigma * float(self._draws("jitter", ticket).standard_normal())) if self._sigma else 1.0

    def _draws(self, concern: str, ticket: HostedTicket) -> np.random.Generator:
        """A stream that is the same for the same question under every policy."""
        request = ticket.request
        name = f"hosted {concern}/{request.kind}/{ticket.asked}"
        return stream(self._seed, name, zlib.crc32(_name(request).encode()), request.turn)

    def _tell(self, ticket: HostedTicket, what: str) -> None:
        if ticket.watch is not None:
            ticket.watch(ticket, what)

    def _at(self, at: int, then: Callable[[HostedTicket], None], ticket: HostedTicket) -> None:
        def fired(_: Event) -> None:
            then(ticket)

        timeout = self._env.timeout(at - self._now)
        assert timeout.callbacks is not None
        timeout.callbacks.append(fired)


def _name(request: Request) -> str:
    return request.session or request.user or ""


def build(
    env: simpy.Environment, api: HostedApi, records: RecordsBuilder, seed: int, *, zero_data_retention: bool = False
) -> HostedBackend:
    """The living counterpart of a ``scenario.HostedApi``. Errors: unknown rules, profile or cache lifetime."""
    profile = load_profile(api.profile) if isinstance(api.profile, str) else api.profile
    if not isinstance(profile, HostedProfile):
        raise InputError("profile", profile.name, "is a replica's profile, a hosted API needs a hosted one")
    rules = rules_for(api.provider, api.model, api.rules, zero_data_retention=zero_data_retention)
    return HostedBackend(env, api, rules, profile, records, seed)
