"""What people cost: microseconds per turn for triggers, for typing a turn, and for a population. Run it: it prints."""

from __future__ import annotations

import time

import numpy as np

from simcache.streams import stream
from simcache.warming import WarmAfterPause, WarmEveryTokens, WarmOnFirstKey
from simcache.workload.presets import TypingSessions
from simcache.workload.typist import DESKTOP, INPUT_METHOD, MOBILE, Typist
from simcache.workload.uses import coding_assistant

TURNS = 2_000


def main() -> None:
    """One line per figure."""
    tokens = np.maximum(1, stream(1, "tokens").lognormal(np.log(19.4), 1.09, TURNS)).astype(int).tolist()
    for name, typist in (("desktop", DESKTOP), ("mobile", MOBILE), ("input method", INPUT_METHOD)):
        started = time.perf_counter()
        typings = [typed(typist, i, n) for i, n in enumerate(tokens)]
        typing_us = (time.perf_counter() - started) / TURNS * 1e6
        for policy in (WarmOnFirstKey(), WarmAfterPause(pause_s=1.0), WarmEveryTokens(tokens=8)):
            started = time.perf_counter()
            for typing in typings:
                policy.warm_ups(typing, 8_000)
            trigger_us = (time.perf_counter() - started) / TURNS * 1e6
            print(f"{name:>12}  {type(policy).__name__:<16} triggers {trigger_us:6.1f} us per turn (bound: 50)")
        print(f"{name:>12}  typing a turn {typing_us:.0f} us, its random stream included")
    for name, people in (("typing-sessions", TypingSessions(users=500)), ("coding-assistant", coding_assistant(users=50))):
        started = time.perf_counter()
        turns = sum(len(person.turns) for person in people.people(1, 3600.0))
        print(f"{name:>16}  {(time.perf_counter() - started) / turns * 1e6:.0f} us per turn of {turns}")


def typed(typist: Typist, number: int, tokens: int):
    """One turn of one person."""
    return typist.type(stream(1, "typing", number), tokens=tokens, person_key_s=0.2)


if __name__ == "__main__":
    main()
