"""Every request that a run sends, in the order of sending: a scenario as a trace, to be replayed on a real deployment."""

from __future__ import annotations

from ..prompt import Request
from ..scenario import Scenario
from .run import simulate


def sent_requests(scenario: Scenario, *, seed: int = 0, duration_s: float | None = None) -> list[Request]:
    """What ``scenario`` sends under ``seed``: questions and warm-ups as the run sends them, prompts as segments.

    People wait for the simulated answers, so their later questions come when the simulation says; a real deployment that answers
    slower would have been asked later. Requests that were cancelled on their way are in it too. Raises as ``simulate`` does.

    >>> from simcache import Server, TypingSessions
    >>> scenario = Scenario(workload=TypingSessions(users=1, questions=2, read_think_s=1, arrive_within_s=0), backend=Server())
    >>> [request.turn for request in sent_requests(scenario)]
    [0, 1]
    """
    sent: list[Request] = []
    simulate(scenario, seed=seed, duration_s=duration_s, sent=sent)
    return sent
