"""What an engine's rule is to the rest of the house: requests in, a plan of equal steps out, no clock. One file per engine."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Any, Final, Protocol

from ..cache.content import Content
from ..prompt import Request, Segment

WAITING: Final = 0
PREFILL: Final = 1
DECODE: Final = 2
DONE: Final = 3  # its prefill was all there was to do
GONE: Final = 4
LOADING: Final = 5  # blocks from a lower tier are on their way, or there: it holds memory, but no seat yet


class LiveRequest:
    """A request inside one replica. ``computed`` counts tokens with KV (of a decoding one: at the start of turn ``since``)."""

    __slots__ = (
        "arrival",
        "asked_tokens",
        "computed",
        "content",
        "due",
        "eager",
        "finish_step",
        "first_scheduled_step",
        "first_token_step",
        "hit_tokens",
        "holding",
        "lingers",
        "load",
        "order",
        "output_key",
        "output_tokens",
        "preemptions",
        "priority",
        "prompt_tokens",
        "resume_hit_tokens",
        "root",
        "row",
        "sampled",
        "scheduled",
        "since",
        "state",
        "ticket",
        "user",
        "waiting_since",
    )

    def __init__(self, request: Request, row: int, ticket: Any = None) -> None:
        prompt, output = request.prompt, request.output
        self.content = Content(prompt, output)
        self.asked_tokens = self.content.prompt_tokens
        if not self.asked_tokens:  # an engine always starts from at least one token
            self.content = Content((Segment(("start", row), 1),), output)
        self.ticket = ticket
        self.row = row
        self.user = request.kind == "user"
        self.priority = request.priority
        self.prompt_tokens = self.content.prompt_tokens
        self.output_tokens: int = output[1]
        self.output_key = output[0]
        self.state = WAITING
        self.arrival = 0
        self.order = 0  # of admission: the place in the running list
        self.computed = 0
        self.scheduled = 0  # tokens in the current step's chunk
        self.sampled = 0
        self.since = 0
        self.eager = False
        self.preemptions = 0
        self.hit_tokens: int | None = None
        self.resume_hit_tokens: list[int] = []
        self.first_scheduled_step: int | None = None
        self.first_token_step: int | None = None
        self.finish_step: int | None = None
        self.due = 0  # the last turn in which it decodes, as things stand
        self.lingers = False  # finished, but the step in flight was scheduled with it
        self.waiting_since = 0  # for the server: the instant at which it began to wait
        self.root: Any = None
        self.holding: Any = None
        self.load: Any = None  # what it loaded, or is loading, from lower tiers before its next admission

    def __lt__(self, other: LiveRequest) -> bool:
        return (self.priority, self.arrival) < (other.priority, other.arrival)

    @property
    def target(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return self.prompt_tokens + self.sampled


class Plan:
    """``steps`` equal engine steps.

    In step i (from 0) ``decodes`` decodes read ``kv_tokens + i*decodes`` tokens, beside ``chunks`` of ``new_tokens`` tokens in all
    with sum n*(2c + n) = ``attention + i*attention_growth`` (n new tokens after c present ones). ``micro_batches`` says in which
    parts the one step of a plan computes its chunks, where that is not all at once: (tokens of each chunk, sum n*(2c + n)).
    """

    __slots__ = (
        "admitted",
        "attention",
        "attention_growth",
        "chunks",
        "decodes",
        "kv_tokens",
        "loads",
        "micro_batches",
        "new_tokens",
        "open",
        "preempted",
        "steps",
    )

    def __init__(self) -> None:
        self.steps = 1
        self.decodes = 0
        self.kv_tokens = 0
        self.new_tokens = 0
        self.attention = 0
        self.attention_growth = 0
        self.micro_batches: list[tuple[int, int]] = []
        self.open = False  # an arrival could be admitted in the next step: budget and a seat are left
        self.chunks: list[LiveRequest] = []
        self.admitted: list[LiveRequest] = []
        self.preempted: list[LiveRequest] = []
        self.loads: Sequence[LiveRequest] = ()  # begin to load from lower tiers


class Scheduler(Protocol):
    """One replica's engine. ``schedule()`` decides a step and says for how many it lasts; ``advance`` executes so many of them.

    Between ``schedule`` and ``advance`` nothing but ``add`` may be called; ``abort`` belongs between two plans. Instants are the
    caller's: the store needs them for lifetimes only.
    """

    step: int
    """The next step to be executed."""

    @property
    def timed(self) -> bool:
        """Whether instants matter (blocks expire, or are loaded): only then ``set_time`` and ``expire`` need be called."""
        ...

    @property
    def at_schedule(self) -> bool:
        """Whether blocks are hit-able from the step that schedules them (else: from its end)."""
        ...

    @property
    def block_tokens(self) -> int:
        """Tokens of the store's unit."""
        ...

    @property
    def running(self) -> Collection[LiveRequest]:
        """Requests that hold a seat, in order of admission."""
        ...

    @property
    def waiting(self) -> Sequence[LiveRequest]:
        """Requests that do not, the next one first."""
        ...

    @property
    def loading(self) -> Sequence[LiveRequest]:
        """Requests that wait for blocks from a lower tier; those cancelled meanwhile stay until their blocks have come."""
        ...

    @property
    def landed(self) -> Sequence[LiveRequest]:
        """Requests whose blocks have come and that wait for a seat."""
        ...

    @property
    def blocks(self) -> int:
        """Units of KV memory."""
        ...

    @property
    def held_blocks(self) -> int:
        """Of those, what requests hold."""
        ...

    def add(self, live: LiveRequest, namespace: Hashable = None) -> bool:
        """Queue a request; False: it can never be served (rejected, not queued)."""
        ...

    def matters(self, live: LiveRequest) -> bool:
        """Whether a request just added can change the plan under way at its next step boundary."""
        ...

    def abort(self, live: LiveRequest) -> bool:
        """Give a request up between two plans; what was computed stays hit-able. True: it can let others in."""
        ...

    def schedule(self) -> Plan:
        """Decide the next step, take its memory, and say for how many steps the batch stays the same."""
        ...

    def advance(self, steps: int) -> tuple[list[LiveRequest], list[LiveRequest]]:
        """Execute ``steps`` of the plan. Returns who got a first token and who finished at its end, in the engine's order."""
        ...

    def generated_tokens(self, live: LiveRequest) -> int:
        """Output tokens sampled so far."""
        ...

    def peek(self, live: LiveRequest, namespace: Hashable) -> int:
        """Hit tokens of a request that would be admitted now. Changes nothing."""
        ...

    def set_time(self, now: int) -> None:
        """The instant at which the steps under way end, in the caller's unit."""
        ...

    def expire(self) -> None:
        """Drop what no longer lives at that instant."""
        ...

    def settle(self) -> None:
        """Do what the store has put off until somebody looks; what it credits to records is complete then."""
        ...

    def shortage(self) -> str:
        """Why the first waiting request is not admitted, for an error message."""
        ...


class TimelessStore:
    """The part of a scheduler whose store has no lifetimes and puts nothing off."""

    timed = False

    def set_time(self, now: int) -> None:
        """Nothing depends on it."""

    def expire(self) -> None:
        """Nothing does."""

    def settle(self) -> None:
        """Nothing waits."""
