"""A provider's machines: which of them a request reaches, each with a cache of its own."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final

from ..prompt import Request
from .hosted_store import HostedStore
from .rules import ProviderRules

_MOST_KEYS: Final = 10_000
"""Prefixes whose recent requests are remembered before those that have none left are forgotten."""


class Machines:
    """``rules.machines`` stores, alive inside one run; instants are whole ticks.

    A request's home is the machine that the hash of its namespace, ``key`` (a client's cache key) and first
    ``rules.routed_by_tokens`` tokens picks. A machine takes ``rules.machine_requests_per_minute`` requests of one such prefix in
    any minute; what exceeds that goes on to the next machine, and from the last one to the least busy.

    >>> from simcache.cache.presets import load_rules
    >>> from simcache.prompt import Segment
    >>> rules = load_rules("openai-2024")
    >>> machines = Machines(rules, lambda: HostedStore(rules, model="gpt-4o", ttl="5m"), ticks_per_s=1)
    >>> ask = Request(0.0, (Segment("system", 1100),), Segment("a", 9))
    >>> len({machines.take(ask, now) for now in range(16)})
    2
    """

    def __init__(self, rules: ProviderRules, make_store: Callable[[], HostedStore], *, ticks_per_s: int) -> None:
        self._rules = rules
        self._stores = [make_store() for _ in range(rules.machines)]
        self._minute = 60 * ticks_per_s
        self._recent: dict[Hashable, list[deque[int]]] = {}
        self._most = _MOST_KEYS

    def __getitem__(self, machine: int) -> HostedStore:
        return self._stores[machine]

    def reached(self, request: Request, now: int, key: str = "", stray: float = 1.0) -> int:
        """The machine that ``request`` would reach at ``now``; nothing is counted.

        ``stray`` is a uniform draw: below ``rules.stray_share`` it picks any machine but the home.
        """
        if len(self._stores) == 1:
            return 0
        prefix = self._prefix(request, key)
        home = zlib.crc32(repr(prefix).encode()) % len(self._stores)
        if stray < self._rules.stray_share:
            others = len(self._stores) - 1
            return (home + 1 + min(int(stray / self._rules.stray_share * others), others - 1)) % len(self._stores)
        limit = self._rules.machine_requests_per_minute
        taken = self._recent.get(prefix)
        if limit is None or taken is None:
            return home
        order = [(home + step) % len(self._stores) for step in range(len(self._stores))]
        busy = [self._in_last_minute(taken[machine], now) for machine in order]
        return next((machine for machine, count in zip(order, busy, strict=True) if count < limit), order[busy.index(min(busy))])

    def take(self, request: Request, now: int, key: str = "", stray: float = 1.0) -> int:
        """The machine that ``request`` reaches at ``now``, counted against that machine's minute."""
        machine = self.reached(request, now, key, stray)
        if len(self._stores) > 1 and self._rules.machine_requests_per_minute is not None:
            if len(self._recent) >= self._most:
                self._forget(now)
            prefix = self._prefix(request, key)
            if prefix not in self._recent:
                self._recent[prefix] = [deque() for _ in self._stores]
            self._recent[prefix][machine].append(now)
        return machine

    def _prefix(self, request: Request, key: str) -> Hashable:
        left = self._rules.routed_by_tokens
        parts = []
        for name, tokens in request.prompt:
            if left <= 0:
                break
            if tokens:
                parts.append((name, min(tokens, left)))
                left -= tokens
        return (self._rules.scope_of(request), key, tuple(parts))

    def _in_last_minute(self, taken: deque[int], now: int) -> int:
        while taken and taken[0] <= now - self._minute:
            taken.popleft()
        return len(taken)

    def _forget(self, now: int) -> None:
        self._recent = {
            prefix: taken for prefix, taken in self._recent.items() if any(self._in_last_minute(each, now) for each in taken)
        }
        self._most = max(_MOST_KEYS, 2 * len(self._recent))
