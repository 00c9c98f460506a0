"""The one protocol that everything that serves speaks: ``serve(request)`` hands out a ticket, ``cancel(ticket)`` ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..prompt import Request

Watch = Callable[["Ticket", str], None]
"""Called at the instant itself with "visible", "first_token" or "finished"; finished comes last and exactly once, whatever
the outcome."""


class Ticket:
    """One request on its way through a backend. Instants in ticks; None: not yet.

    ``visible_at`` is when its prompt's prefix became hit-able for others (the store's or provider's visibility).
    ``outcome`` stays None until the end, then is one of ``records.OUTCOMES``.
    """

    __slots__ = (
        "cancelled_at",
        "finished_at",
        "first_token_at",
        "hit_tokens",
        "outcome",
        "request",
        "row",
        "submitted_at",
        "visible_at",
        "watch",
    )

    def __init__(self, request: Request, row: int, submitted_at: int, watch: Watch | None) -> None:
        self.request = request
        self.row = row
        self.submitted_at = submitted_at
        self.watch = watch
        self.first_token_at: int | None = None
        self.visible_at: int | None = None
        self.finished_at: int | None = None
        self.cancelled_at: int | None = None
        self.hit_tokens: int | None = None
        self.outcome: str | None = None


class Backend(Protocol):
    """What serves: a replica, a cluster behind a router, or a hosted API, alive inside one run."""

    def serve(self, request: Request, *, submitted_at: int | None = None, watch: Watch | None = None) -> Ticket:
        """Send ``request`` now. ``submitted_at`` (ticks, default now) is the instant the user has been waiting since."""
        ...

    def cancel(self, ticket: Ticket) -> None:
        """Give the request up now: outcome ``cancelled``, computed blocks stay. Does nothing once it has ended."""
        ...

    def estimate_ttft_s(self, request: Request, cached_tokens: int) -> float:
        """Seconds from sending ``request`` to its first token on an idle backend with ``cached_tokens`` in the cache."""
        ...

    def expected_hit_tokens(self, request: Request) -> int:
        """Tokens ``request`` would hit if sent now and admitted at once. Changes nothing."""
        ...
