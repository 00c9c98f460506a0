"""The kinds of defects that a layout can have, each with what it is and its mend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple


class Kind(NamedTuple):
    """A kind of defect: its title and its mend, as sentences for people."""

    title: str
    mend: str


KINDS: Final[Mapping[str, Kind]] = {
    "timestamp": Kind(
        "an instant or a date in the prefix", "Move it behind everything that stays the same, to the newest message."
    ),
    "request-id": Kind(
        "an id that is new with every request, in the prefix", "Leave it out of the prompt, or move it to the newest message."
    ),
    "session-text": Kind(
        "text of one user or session before text that all share", "Move it behind what all share; a breakpoint in front of it."
    ),
    "variables-first": Kind("variables before fixed text", "Put the fixed text first and the variables behind it."),
    "unstable-system": Kind(
        "spaces or a counter change in fixed text", "Write it the same every time; a counter goes to the newest message."
    ),
    "document-order": Kind("the same documents or examples in another order", "Sort them by a fixed key."),
    "tool-order": Kind("the same tools in another order", "Sort the tools by name before sending."),
    "tool-set": Kind(
        "tools come, go or change", "Declare all tools every time; restrict their use by tool_choice or in the newest message."
    ),
    "json-order": Kind(
        "JSON keys or spaces change in tools, schemas or calls", "Write JSON with sorted keys, once, and keep the text."
    ),
    "history-edited": Kind(
        "the history is cut or rewritten at its head", "Only append; cut rarely and then much, or summarise once."
    ),
    "image-changed": Kind(
        "a picture of the history has another address or encoding", "Keep the bytes and the address of the first time."
    ),
    "model-switch": Kind("a conversation changes its model", "Stay with one model per conversation: caches belong to models."),
    "missing-breakpoint": Kind("no breakpoint where the shared prefix ends", "Set breakpoints as proposed."),
    "breakpoint-on-varying": Kind(
        "the breakpoint stands behind text that never comes again", "Move it to the end of the shared prefix."
    ),
    "too-many-breakpoints": Kind("more breakpoints than the provider takes", "Keep those proposed."),
    "lookback": Kind("the last written breakpoint is too many blocks back", "Set one more in between, as proposed."),
    "below-minimum": Kind(
        "the shared prefix is shorter than the provider's minimum",
        "Put more shared text before the variables, or expect no caching.",
    ),
    "ttl-gap": Kind("pauses outlive the cache entry", "Ask for the proposed lifetime."),
    "fan-out": Kind(
        "equal prefixes are sent before the first one is stored", "Send one, wait for its first token, then send the others."
    ),
}
"""By the name under which they are reported; the table of docs/advise.md."""


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One defect: its ``kind``, the ``path`` where it stands (with the lines of the log that show it first and how many
    ``requests`` have it), ``detail`` in numbers, and what was found out about its cost.

    ``lost_tokens``: prompt tokens that could have been read from cache; None: not counted. ``usd_per_1000`` requests: what the
    proposed layout would cost more if this alone stayed as it is; None: nothing that a layout can mend, or not simulated.
    """

    kind: str
    path: str
    lines: tuple[int, ...]
    requests: int
    detail: str
    lost_tokens: int | None = None
    usd_per_1000: float | None = None
    usd_per_month: float | None = None
    moves: bool = False
    texts: tuple[str, ...] = field(default=(), repr=False)
    """Whether its mend moves text, and (only where they were asked for) the first texts that vary there."""

    @property
    def title(self) -> str:
        """What it is, in words."""
        return KINDS[self.kind].title

    @property
    def mend(self) -> str:
        """What to do, in words."""
        return KINDS[self.kind].mend
