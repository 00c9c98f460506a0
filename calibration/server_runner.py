"""Times (new, cached) prefills and decode steps of a running server over HTTP, so that it is calibrated without torch."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from simcache.prompt import Segment

from .grid import Point
from .live_backend import Target
from .measure import PointFailed
from .streaming import Reply, ServerInfo, complete
from .timing import RUNQ_SHARE, Patience, Timing, repeat
from .token_book import TokenBook

DECODED: Final = 32
"""Tokens that every member of a decode batch generates."""
_FEWEST_GAPS: Final = 12


class ServerRunner:
    """Prompts of made-up tokens: a prefix is primed once per point, then asked for again and again behind new tails.

    ``info`` says how long a prompt may be and how many run at once. ``runq_wait_s`` tells how long the server has waited for a
    CPU, where we can see it: repeats in which it did are told apart.
    """

    def __init__(
        self,
        target: Target,
        info: ServerInfo,
        tokens: TokenBook,
        *,
        runq_wait_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.target, self.info, self.tokens, self.runq_wait_s = target, info, tokens, runq_wait_s
        self.loop = asyncio.new_event_loop()
        self.disturbed = False
        self.asked = 0
        self.cached_counts_known: bool | None = None

    def close(self) -> None:
        """End the event loop."""
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def why_not(self, point: Point) -> str | None:
        """The server's context and its slots."""
        if point.kind == "copy":
            return "a server does not tell its copies"
        longest = point.new_tokens + point.cached_tokens + (DECODED if point.kind == "decode" else 1)
        if self.info.context_tokens is not None and longest > self.info.context_tokens:
            return "it is longer than the server's context"
        if self.info.slots is not None and point.batch > self.info.slots:
            return "the server has fewer slots"
        return None

    def work(self, point: Point) -> float:
        """Tokens that are computed for one repeat."""
        if point.kind == "decode":
            return point.batch * (point.cached_tokens + 4.0 * DECODED)
        return point.new_tokens + point.cached_tokens / 8

    def time(self, point: Point, patience: Patience, until_s: float) -> tuple[Timing, int]:
        """As the protocol says; PointFailed where the server answers with an error or had another prefix cached."""
        if point.kind == "decode":
            return self._decode(point, patience, until_s), 0
        prefix = Segment("prefix", point.cached_tokens)  # one for all: a longer one is primed from where a shorter one ends
        primed = not point.cached_tokens

        def ask() -> None:
            nonlocal primed
            for last_try in (False, True):
                if not primed:
                    self._one((prefix,))
                    primed = True
                reply = self._one((prefix, Segment(f"tail {self._number()}", point.new_tokens)))
                self.cached_counts_known = reply.cached_tokens is not None
                if reply.cached_tokens in (None, point.cached_tokens):
                    break
                primed = not point.cached_tokens  # lost, or the tail happened to go on as the prefix would: once more
                if last_try:
                    raise PointFailed(f"of {point.cached_tokens} tokens primed, {reply.cached_tokens} were cached")
            self.ttft_s = reply.token_at_s[0] - reply.sent_at_s

        self.ttft_s = math.nan
        return repeat(_Asking(self), ask, patience, until_s=until_s), 0

    def _decode(self, point: Point, patience: Patience, until_s: float) -> Timing:
        """Half of what is generated lies before the middle of the window, so the prompt is that much shorter than the context."""
        length = max(point.cached_tokens - DECODED // 2, 1)
        prompts: list[tuple[Segment, ...]] = [(Segment(f"member {self._number()}", length),) for _ in range(point.batch)]
        for prompt in prompts:
            self._one(prompt)

        def ask() -> None:
            replies = self.loop.run_until_complete(self._together(prompts))
            begun = max(reply.token_at_s[0] for reply in replies)
            over = min(reply.token_at_s[-1] for reply in replies)
            inside = [[at for at in reply.token_at_s if begun <= at <= over] for reply in replies]
            gaps = np.concatenate([np.diff(instants) for instants in inside])
            if len(gaps) < _FEWEST_GAPS:
                raise PointFailed("too few tokens came while all of the batch decoded")
            self.ttft_s = float(np.median(gaps))

        return repeat(_Asking(self), ask, patience, until_s=until_s)

    async def _together(self, prompts: list[tuple[Segment, ...]]) -> list[Reply]:
        replies = await asyncio.gather(*(self._ask(prompt, DECODED) for prompt in prompts))
        return [self._checked(reply) for reply in replies]

    def _one(self, prompt: tuple[Segment, ...]) -> Reply:
        return self._checked(self.loop.run_until_complete(self._ask(prompt, 1)))

    async def _ask(self, prompt: tuple[Segment, ...], output_tokens: int) -> Reply:
        target = self.target
        ids = self.tokens.ids(prompt)
        return await complete(
            target.address, target.api, ids, output_tokens, Reply(), model=target.model, timeout_s=target.timeout_s
        )

    def _checked(self, reply: Reply) -> Reply:
        if reply.outcome != "ok":
            raise PointFailed(f"the server failed: {reply.error}")
        return reply

    def _number(self) -> int:
        self.asked += 1
        return self.asked


class _Asking:
    """A stopwatch that reads what the request itself told, not the time around it."""

    def __init__(self, runner: ServerRunner) -> None:
        self.runner = runner
        self.disturbed = False

    def time_s(self, work: Callable[[], object]) -> float:
        """Seconds to the first token, or between two of a batch."""
        waited, started = self.runner.runq_wait_s(), time.perf_counter()
        work()
        after = self.runner.runq_wait_s()
        around_s = time.perf_counter() - started
        self.disturbed = waited is not None and after is not None and after - waited > RUNQ_SHARE * around_s
        return self.runner.ttft_s
