"""Small workloads for step-by-step comparisons: few keys, short segments, prompts that contain each other's outputs."""

from __future__ import annotations

from hypothesis import strategies as st

from simcache.prompt import Request, Segment

segments = st.builds(Segment, st.integers(0, 4), st.integers(0, 9))
requests = st.builds(
    Request,
    arrived_at_s=st.just(0.0),
    prompt=st.lists(segments, max_size=4).map(tuple),
    output=st.builds(Segment, st.integers(0, 6), st.integers(0, 7)),
    kind=st.sampled_from(["user", "user", "warm"]),
    priority=st.integers(0, 2),
    salt=st.sampled_from([None, None, "b"]),
)
streams = st.lists(st.tuples(requests, st.integers(0, 5), st.none() | st.integers(0, 12)), min_size=1, max_size=14)
"""Requests with the gap before each, in steps, and after how many steps it is cancelled."""


def laid_out(stream: list) -> tuple[list[Request], list[int], list[int | None]]:
    """Requests, the steps at which they arrive, the steps at which they are cancelled."""
    arrivals, at = [], 0
    for _, gap, _ in stream:
        at += gap
        arrivals.append(at)
    aborts = [None if after is None else start + after for start, (_, _, after) in zip(arrivals, stream, strict=True)]
    return [request for request, _, _ in stream], arrivals, aborts
