"""A backend that notes what it is asked to serve."""

from __future__ import annotations

from ..prompt import Request
from .backend import Backend, Ticket, Watch


class Overheard:
    """A backend that notes what it is asked to serve and lets another one serve it."""

    def __init__(self, backend: Backend, sent: list[Request]) -> None:
        self._backend, self._sent = backend, sent

    def serve(self, request: Request, *, submitted_at: int | None = None, watch: Watch | None = None) -> Ticket:
        self._sent.append(request)
        return self._backend.serve(request, submitted_at=submitted_at, watch=watch)

    def cancel(self, ticket: Ticket) -> None:
        self._backend.cancel(ticket)

    def estimate_ttft_s(self, request: Request, cached_tokens: int) -> float:
        return self._backend.estimate_ttft_s(request, cached_tokens)

    def expected_hit_tokens(self, request: Request) -> int:
        return self._backend.expected_hit_tokens(request)
