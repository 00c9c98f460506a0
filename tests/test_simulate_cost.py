"""What a request costs a run: events, not seconds, so that no busy machine disturbs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import simpy

from simcache.engine.run import simulate
from simcache.prompt import Request, Segment
from simcache.records import RecordsBuilder
from simcache.scenario import Cluster, Scenario

REQUESTS = 300


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Poisson arrivals at one utilisation, whatever the lengths."""

    prompt_tokens: int = 500
    output_tokens: int = 200
    notes: tuple[str, ...] = ()

    def requests(self, seed: int) -> Iterator[Request]:
        rng, at_s = random.Random(seed), 0.0
        for number in range(REQUESTS):
            at_s += rng.expovariate(2_000 / (self.output_tokens + self.prompt_tokens / 10))
            yield Request(at_s, (Segment(number, self.prompt_tokens),), Segment(("answer", number), self.output_tokens))


def world(**lengths: int) -> Scenario:
    backend = Cluster(profile="llama-3.1-8b/h100/tp1", replicas=4, kv_tokens=40_000_000)
    return Scenario(workload=Questions(**lengths), backend=backend)


@pytest.fixture
def stepped(monkeypatch):
    """How often SimPy has processed an event."""
    steps = [0]
    step = simpy.Environment.step

    def counting(env):
        step(env)
        steps[0] += 1

    monkeypatch.setattr(simpy.Environment, "step", counting)
    return steps


@pytest.mark.parametrize("prompt_tokens", [10, 500, 5_000, 50_000])
def test_a_request_takes_five_events_whatever_its_prompt(stepped, prompt_tokens):
    result = simulate(world(prompt_tokens=prompt_tokens))
    assert result.wall.events == stepped[0]
    assert not result.records.preemptions.any()
    assert stepped[0] <= 5 * REQUESTS


@pytest.mark.parametrize("output_tokens", [100, 10_000, 100_000])
def test_a_request_takes_five_events_whatever_its_answer(stepped, output_tokens):
    simulate(world(output_tokens=output_tokens))
    assert stepped[0] <= 5 * REQUESTS


def test_stepping_takes_eight_times_the_events_of_jumping(stepped):
    jumped = simulate(world()).records
    jumping = stepped[0]
    assert simulate(world().but(backend__jump=False)).records == jumped
    assert stepped[0] - jumping >= 8 * jumping


def test_columns_that_nobody_writes_take_no_memory():
    records = RecordsBuilder()
    rows = [records.row() for _ in range(3_000)]
    assert len(records.cold_ns.values) == len(records.session.values) == 0
    records.cold_ns[rows[9]] = 7
    records.preemptions[rows[9]] += 1
    frozen = records.freeze()
    assert frozen.cold_ns.nbytes == frozen.turn.size * 8
    assert frozen.turn.strides == (0,)
    assert [row["cold_ns"] for row in frozen][8:11] == [None, 7, None]
    assert int(frozen.preemptions.sum()) == 1
