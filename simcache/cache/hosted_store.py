"""What a hosted API has stored, token by token: one tree of segments per namespace, with expiry and origin of every run.

A token is a place on a *line* (the tokens of one segment key after one exact prefix), so `doc:300` and `doc:400` share
their first 300 tokens without being cut into units. Reads and writes always cover a prefix, therefore expiry never
grows along a path: what is dead on a line is its tail, and whatever hangs behind a dead token is dead too.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from ..errors import InputError
from ..prompt import Request
from .rules import ProviderRules


class Lookup(NamedTuple):
    """What a request finds: ``hit_tokens`` served, ``stored_tokens`` found (the last prompt token is computed even if stored),
    ``cacheable_tokens`` of its prompt that the rules would store, ``written_tokens`` of these not yet stored.

    >>> Lookup(0, 0, 2048, 2048).written_tokens
    2048
    """

    hit_tokens: int
    stored_tokens: int
    cacheable_tokens: int
    written_tokens: int


class Dropped(NamedTuple):
    """Tokens that expired: whose they were, how many, how many no user request had hit, and when.

    >>> Dropped(origin=3, tokens=128, unused_tokens=128, expired_at=300).origin
    3
    """

    origin: int
    tokens: int
    unused_tokens: int
    expired_at: int


class _Run:
    """Tokens of a line up to ``end`` with one origin and one expiry; those before ``used_to`` have been hit by a user."""

    __slots__ = ("end", "expires_at", "origin", "used_to")

    def __init__(self, end: int, expires_at: int, origin: int, used_to: int) -> None:
        self.end, self.expires_at, self.origin, self.used_to = end, expires_at, origin, used_to


class _Line:
    __slots__ = ("children", "parent", "place", "queued_at", "runs", "stops")

    def __init__(self, parent: _Line | None, place: tuple[int, Hashable]) -> None:
        self.parent, self.place = parent, place
        self.runs: list[_Run] = []
        self.stops: dict[int, int] = {}
        self.children: dict[tuple[int, Hashable], _Line] = {}
        self.queued_at: int | None = None

    def alive_end(self, now: int) -> int:
        for run in reversed(self.runs):
            if now < run.expires_at:
                return run.end
        return 0


class HostedStore:
    """The cache of one hosted model under ``rules``, alive inside one run; instants are whole ticks of any unit.

    ``ttl`` names the lifetime that writes ask for; ``ticks_per_s`` converts it. The client's markers stand after the shared part
    of a prompt (``mark_shared``) and after so many segments as each of ``breakpoints`` says. The store holds visible entries only:
    call ``write`` at the instant when the rules make the entry visible.

    >>> from simcache.cache.presets import load_rules
    >>> from simcache.prompt import Segment
    >>> store = HostedStore(load_rules("openai-2024"), model="gpt-4o", ttl="5m")
    >>> ask = Request(0.0, (Segment("system", 1100), Segment("q1", 36)), Segment("a1", 50))
    >>> store.write(ask, origin=0, started_at=0, now=1), store.lookup(ask, now=2).hit_tokens
    (1024, 1024)
    """

    def __init__(
        self,
        rules: ProviderRules,
        *,
        model: str,
        ttl: str,
        ticks_per_s: int = 1,
        breakpoints: Sequence[int] = (),
        mark_shared: bool = True,
    ) -> None:
        markers = len(breakpoints) + mark_shared + rules.automatic_marker
        if rules.matching == "exact at breakpoints" and markers > rules.max_markers:
            rule = f"are {markers} markers with the provider's own, but {rules.name} allows {rules.max_markers}"
            raise InputError("breakpoints", list(breakpoints), rule, "Mark fewer segments.")
        self._rules = rules
        self._breakpoints, self._mark_shared = breakpoints, mark_shared
        self._min = max(rules.min_tokens_of(model), 1)
        self._lifetime = round(rules.lifetime_of(ttl) * ticks_per_s)
        self._at_breakpoints = rules.matching == "exact at breakpoints"
        self._roots: dict[Hashable, _Line] = {}
        self._queue: list[tuple[int, int, _Line]] = []
        self._queued = 0
        self._dropped: list[Dropped] = []

    def lookup(self, request: Request, now: int) -> Lookup:
        """What ``request`` would find at ``now``. Changes nothing.

        Takes time linear in the prompt's segments, whatever else is stored.
        """
        prompt_tokens = sum(segment.tokens for segment in request.prompt)
        cacheable = self._cacheable(request, prompt_tokens)
        if not cacheable:
            return Lookup(0, 0, 0, 0)
        stored = self._stop_before(request, now) if self._at_breakpoints else self._matched(request, now)
        unit = self._rules.unit_tokens
        hit = min(stored, prompt_tokens - 1)
        if not self._at_breakpoints:
            hit, stored = hit // unit * unit, stored // unit * unit
            if hit < self._min:
                hit = 0
            if stored < self._min:
                stored = 0
        return Lookup(hit, stored, cacheable, max(0, cacheable - stored))

    def read(self, request: Request, found: Lookup, now: int, *, credit: bool) -> list[tuple[int, int]]:
        """Refresh what ``found`` says is stored, from a request that starts at ``now``.

        With ``credit`` (the reader is a user's question) returns (origin, tokens) of hit tokens never credited before.
        """
        self._sweep(now)
        credits: list[tuple[int, int]] = []
        expires_at = now + self._lifetime if self._rules.reads_refresh else now
        line, depth, left, unhit = None, 0, found.stored_tokens, found.hit_tokens
        for line, depth in self._path(request, found.stored_tokens):
            if credit and unhit:
                _credit(line, min(depth, unhit), credits)
            self._cover(line, depth, expires_at, None)
            left -= depth
            unhit -= min(depth, unhit)
        assert left == 0, "read() was given a lookup of another instant"
        if self._at_breakpoints and line is not None:
            line.stops[depth] = max(line.stops[depth], expires_at)
        return credits

    def touched_at(self, request: Request, found: Lookup) -> int:
        """The instant from which the lifetime of what ``found`` says is stored has been counting."""
        assert found.stored_tokens, "touched_at() was given a lookup that found nothing"
        line, depth = deque(self._path(request, found.stored_tokens), maxlen=1).pop()
        return next(run.expires_at for run in line.runs if run.end >= depth) - self._lifetime

    def write(self, request: Request, *, origin: int, started_at: int, now: int) -> int:
        """Store the cacheable prefix of ``request``, visible from ``now``; returns the tokens that were not there before.

        An entry whose lifetime (counted from ``started_at`` where the rules say so) is over by now never appears.
        """
        self._sweep(now)
        expires_at = (started_at if self._rules.counted_from == "request start" else now) + self._lifetime
        cacheable = self._cacheable(request, sum(segment.tokens for segment in request.prompt))
        if not cacheable or expires_at <= now:
            return 0
        inserted = tokens = 0
        marks = self._marks(request)
        for position, (line, depth) in enumerate(self._path(request, cacheable, create=True)):
            if not self._rules.reads_refresh:  # nothing that is there lives longer for it, and no tail outlives its head
                until = self._covered_until(line, depth)
                expires_at = expires_at if until is None else min(expires_at, until)
            inserted += self._cover(line, depth, expires_at, origin)
            tokens += depth
            if position in marks and tokens >= self._min:
                line.stops[depth] = max(line.stops.get(depth, expires_at), expires_at)
        return inserted

    def expire(self, now: int) -> list[Dropped]:
        """Everything that expired up to ``now`` and was not reported yet, in order of expiry."""
        self._sweep(now)
        dropped, self._dropped = self._dropped, []
        return dropped

    def check(self) -> None:
        """Assert every invariant: runs are contiguous, expiry never grows along a path, stops lie on stored tokens."""
        pending: list[tuple[_Line, int | None]] = [(root, None) for root in self._roots.values()]
        while pending:
            line, latest = pending.pop()
            assert line.parent is None or line.runs, "an empty line is left in the tree"
            end = 0
            reach: list[tuple[int, int]] = []
            for run in line.runs:
                assert end <= run.used_to <= run.end, "used tokens lie outside their run"
                assert end < run.end, "runs are not contiguous"
                assert latest is None or run.expires_at <= latest, "expiry grows along a path"
                end, latest = run.end, run.expires_at
                reach.append((end, latest))
            assert all(0 < stop <= end for stop in line.stops), "a stop lies beyond the stored tokens"
            for (offset, _), child in line.children.items():
                assert child.parent is line
                assert line.parent is None or offset <= end, "a line hangs behind a dead token"
                pending.append((child, next((until for last, until in reach if last >= offset), None)))

    def _cacheable(self, request: Request, prompt_tokens: int) -> int:
        tokens = prompt_tokens // self._rules.unit_tokens * self._rules.unit_tokens
        if self._at_breakpoints:
            marked = max(self._marked_segments(request), default=0)
            tokens = sum(segment.tokens for segment in request.prompt[:marked])
        return tokens if tokens >= self._min else 0

    def _marked_segments(self, request: Request) -> list[int]:
        """After how many segments of the prompt a marker stands; the client's never stand in what it does not share."""
        total = len(request.prompt)
        if request.breakpoints is not None:
            marked = [count for count in request.breakpoints if count]
        else:
            shared = len(request.prompt[: request.shared_segments])
            marked = [min(count, shared) for count in self._breakpoints]
            if self._mark_shared:
                marked.append(shared)
        if self._rules.automatic_marker:
            marked.append(total)
        return marked

    def _marks(self, request: Request) -> frozenset[int] | tuple[int, ...]:
        """Positions on the prompt's path (segments without tokens have none) that carry a marker."""
        if not self._at_breakpoints:
            return ()
        counts = [0]
        for segment in request.prompt:
            counts.append(counts[-1] + (1 if segment.tokens else 0))
        return frozenset(counts[marked] - 1 for marked in self._marked_segments(request))

    def _path(self, request: Request, tokens: int, *, create: bool = False) -> Iterator[tuple[_Line, int]]:
        """The lines under the first ``tokens`` tokens of the prompt, with how many tokens of each."""
        scope = self._rules.scope_of(request)
        line = self._roots.get(scope)
        if line is None:
            if not create:
                return
            line = self._roots[scope] = _Line(None, (0, scope))
        offset = 0
        for key, length in request.prompt:
            if tokens <= 0:
                return
            if not length:
                continue
            child = line.children.get((offset, key))
            if child is None:
                if not create:
                    return
                child = line.children[offset, key] = _Line(line, (offset, key))
            yield child, min(length, tokens)
            tokens -= length
            line, offset = child, length

    def _matched(self, request: Request, now: int) -> int:
        matched = 0
        for line, depth in self._path(request, sum(segment.tokens for segment in request.prompt)):
            alive = line.alive_end(now)
            if alive < depth:
                return matched + alive
            matched += depth
        return matched

    def _stop_before(self, request: Request, now: int) -> int:
        """Tokens of the last living stop that the lookback from one of the request's breakpoints reaches."""
        marks = sorted(self._marks(request))
        lookback = self._rules.lookback_positions
        tokens = found = 0
        nearest = 0  # index of the first marker at or behind the position at hand
        for position, (line, depth) in enumerate(self._path(request, sum(segment.tokens for segment in request.prompt))):
            while nearest < len(marks) and marks[nearest] < position:
                nearest += 1
            if nearest == len(marks):
                break
            tokens += depth
            reached = lookback is None or marks[nearest] - position < lookback
            if reached and now < line.stops.get(depth, now):
                found = tokens
        return found

    def _covered_until(self, line: _Line, depth: int) -> int | None:
        """When the last of the stored tokens among the first ``depth`` of ``line`` dies; None: none is stored."""
        until = None
        for run in line.runs:  # expiry never grows along a line
            until = run.expires_at
            if run.end >= depth:
                break
        return until

    def _cover(self, line: _Line, depth: int, expires_at: int, origin: int | None) -> int:
        """Keep the first ``depth`` tokens of ``line`` until ``expires_at`` at least; store missing ones for ``origin``."""
        start = 0
        for index, run in enumerate(line.runs):
            if start >= depth:
                return 0
            if run.expires_at < expires_at:
                if run.end > depth:
                    line.runs.insert(index + 1, _Run(run.end, run.expires_at, run.origin, max(run.used_to, depth)))
                    run.end, run.used_to = depth, min(run.used_to, depth)
                run.expires_at = expires_at
            start = run.end
        if origin is None or start >= depth:
            return 0
        line.runs.append(_Run(depth, expires_at, origin, start))
        if line.queued_at is None or expires_at < line.queued_at:
            self._enqueue(line, expires_at)
        return depth - start

    def _enqueue(self, line: _Line, at: int) -> None:
        line.queued_at = at
        self._queued += 1
        heapq.heappush(self._queue, (at, self._queued, line))

    def _sweep(self, now: int) -> None:
        while self._queue and self._queue[0][0] <= now:
            at, _, line = heapq.heappop(self._queue)
            if line.queued_at != at:
                continue  # queued again for an earlier instant since
            line.queued_at = None
            while line.runs and line.runs[-1].expires_at <= now:
                run = line.runs.pop()
                start = line.runs[-1].end if line.runs else 0
                self._dropped.append(Dropped(run.origin, run.end - start, run.end - run.used_to, run.expires_at))
            if line.runs:
                end = line.runs[-1].end
                line.stops = {stop: until for stop, until in line.stops.items() if stop <= end and now < until}
                self._enqueue(line, line.runs[-1].expires_at)
                continue
            above = line.parent
            if above is not None and above.children.get(line.place) is line:
                del above.children[line.place]
                if above.parent is None and not above.children:
                    del self._roots[above.place[1]]


def _credit(line: _Line, depth: int, credits: list[tuple[int, int]]) -> None:
    for run in line.runs:
        reached = min(run.end, depth)
        if reached > run.used_to:
            credits.append((run.origin, reached - run.used_to))
            run.used_to = reached
        if run.end >= depth:
            return
