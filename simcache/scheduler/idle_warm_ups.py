"""vLLM's scheduler with two classes: people first, warm-ups only in steps that compute nothing for people.

No engine ships this; it is what a scheduler could do about warm-ups that delay others. A warm-up that runs when a person's
request arrives gives its seat and blocks back at the next step boundary. What it had computed stays hit-able until it is
evicted, so it goes on where it was, when nobody else is there.
"""

from __future__ import annotations

from collections.abc import Hashable

from . import DECODE, LiveRequest, Plan
from .vllm import VllmScheduler


class IdleWarmUpsScheduler(VllmScheduler):
    """As ``VllmScheduler``; requests whose kind is not "user" are computed only while no user request is there.

    >>> from simcache.cache.block_pool import BlockPool
    >>> from simcache.prompt import Request, Segment
    >>> scheduler = IdleWarmUpsScheduler(BlockPool(100, 16))
    >>> for row, kind in enumerate(("warm", "user")):
    ...     _ = scheduler.add(LiveRequest(Request(0.0, (Segment(kind, 100),), Segment("a", 3), kind=kind), row))
    >>> [live.row for live in scheduler.schedule().admitted]
    [1]
    """

    def add(self, live: LiveRequest, namespace: Hashable = None) -> bool:
        """Queue a request, people before warm-ups; False: it can never fit into the KV memory."""
        accepted = super().add(live, namespace)
        self._put_people_first()
        return accepted

    def matters(self, live: LiveRequest) -> bool:
        """Whether a request just added can change the plan under way: a person's ends that of warm-ups."""
        if self._plan is None:
            return False
        people = any(other.user for other in self.running)
        return (live.user and not people) or (live.user == people and super().matters(live))

    def schedule(self) -> Plan:
        """Decide the next step; warm-ups that must go make room before anybody is scheduled."""
        yielded = Plan()
        if any(live.user for live in self.running) or any(live.user for live in self.waiting):
            for live in [live for live in reversed(self.running) if not live.user]:
                live.scheduled = 0
                if live.state == DECODE:  # its blocks are counted only when somebody asks
                    live.holding.blocks = -(-self._computed(live) // self.block_tokens)
                self._preempt(yielded, live)
            self._put_people_first()
        plan = super().schedule()
        self._put_people_first()  # a warm-up that found no block has gone to the front of the queue
        plan.preempted[:0] = yielded.preempted
        return plan

    def _admit(self, plan: Plan, budget: int, capped: bool) -> int:
        waiting = self.waiting
        if not waiting[0].user and not any(live.user for live in self.running):
            return super()._admit(plan, budget, capped)
        hidden = []
        while waiting and not waiting[-1].user:
            hidden.append(waiting.pop())
        if waiting:
            budget = super()._admit(plan, budget, capped)
        waiting.extend(reversed(hidden))
        return budget

    def _put_people_first(self) -> None:
        ordered = sorted(self.waiting) if self.priority else list(self.waiting)
        ordered.sort(key=lambda live: not live.user)
        self.waiting.clear()
        self.waiting.extend(ordered)
