"""People who come back sooner or later than what a ping buys: what both tests of keep-alive's break-even ask about."""

from __future__ import annotations

from dataclasses import dataclass

from simcache.prompt import Segment
from simcache.warming.keep_alive import KeepAlive
from simcache.workload.sessions import Person, Turn
from simcache.workload.typist import evenly


@dataclass(frozen=True)
class Returns:
    """Everybody asks twice, each about their own document; ``early`` of ``people_`` return after 400 s, the others after 3,000 s.

    They come ``apart_s`` after one another: all at once, or each alone on the machine.
    """

    early: int
    people_: int = 40
    document_tokens: int = 100_000
    question_tokens: int = 5
    apart_s: float = 0.0

    def people(self, seed, duration_s):
        for i in range(self.people_):
            turns = tuple(
                Turn(
                    session=f"u{i}",
                    index=index,
                    typing=evenly(1.0, self.question_tokens),
                    shared=(Segment(f"d{i}", self.document_tokens),),
                    output=Segment(f"a{i}/{index}", 1),
                    gap_s=400.0 if i < self.early else 3000.0,
                    question_joins=False,
                    answer_joins=False,
                )
                for index in range(2)
            )
            yield Person(user=f"u{i}", arrives_at_s=self.apart_s * i, turns=turns)


class OnePing(KeepAlive):
    """Pings once after the first answer; that nobody comes back after the second is known here."""

    def after_answer(self, moment):
        return super().after_answer(moment) if moment.future else ()
