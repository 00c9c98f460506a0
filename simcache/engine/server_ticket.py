"""A request at a replica: its ticket, and the record that is opened with it."""

from __future__ import annotations

from ..prompt import Request
from ..records import RecordsBuilder
from ..scheduler import LiveRequest
from .backend import Backend, Ticket, Watch
from .clock import TICKS_PER_NS, Clock


class ServerTicket(Ticket):
    """A ticket that knows where it is being served."""

    __slots__ = ("live", "server", "waiting_since")

    live: LiveRequest
    server: Backend
    waiting_since: int


def open_ticket(
    env: Clock, records: RecordsBuilder, request: Request, submitted_at: int | None, watch: Watch | None
) -> ServerTicket:
    """A ticket with its record opened; no replica has it yet."""
    now = env.now
    row = records.row(request.session or "", request.user or "", request.kind)
    ticket = ServerTicket(request, row, now if submitted_at is None else submitted_at, watch)
    if request.turn:
        records.turn[row] = request.turn
    if request.priority:
        records.priority[row] = request.priority
    records.submitted_at_ns[row] = ticket.submitted_at // TICKS_PER_NS
    records.sent_at_ns[row] = now // TICKS_PER_NS
    return ticket
