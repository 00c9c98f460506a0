"""llama.cpp's slots: a recorded server's own counts, a token-list oracle, and the rules one by one."""

from __future__ import annotations

import csv
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cache.content import Content
from simcache.cache.slots import Slots, replay_sequential
from simcache.errors import InputError
from simcache.prompt import Request, Segment


def ask(*segments: tuple[object, int], out: tuple[object, int] = ("a", 1), **more: object) -> Request:
    return Request(0.0, tuple(Segment(*segment) for segment in segments), Segment(*out), **more)


def content(*segments: tuple[str, int], out: tuple[str, int] = ("a", 50)) -> Content:
    return Content(tuple(Segment(*segment) for segment in segments), Segment(*out))


def test_a_real_servers_cache_n_in_order_of_submission(shared_data: Path) -> None:
    with (shared_data / "cpu_engine" / "B_hi_1slot.csv").open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["t_submit"]))
    requests = [
        ask(
            *((key, int(tokens)) for key, tokens in (part.rsplit(":", 1) for part in row["segments"].split())),
            out=(row["out_segment"], int(row["predicted_n"])),
        )
        for row in rows
    ]
    assert len(requests) == 183
    assert replay_sequential(requests, slot_tokens=4096).hit_tokens == [int(row["cache_n"]) for row in rows]


@st.composite
def streams(draw: st.DrawFn) -> list[Request]:
    requests: list[Request] = []
    for turn in range(draw(st.integers(1, 20))):
        segments: tuple[Segment, ...] = (Segment(draw(st.sampled_from("xy")), draw(st.integers(0, 9))),)
        if requests and draw(st.booleans()):
            earlier = requests[draw(st.integers(0, len(requests) - 1))]
            segments = (*earlier.prompt, earlier.output, Segment(f"u{turn}", draw(st.integers(0, 5))))
        output = Segment(draw(st.sampled_from((f"a{turn}", "same"))), draw(st.integers(0, 4)))
        requests.append(Request(0.0, segments, output, salt=draw(st.sampled_from((None, None, "s")))))
    return requests


def token_lists(requests: list[Request], slots: int, similarity: float, longest: int | None) -> tuple[list[int], list[int]]:
    """The server's rule over plain lists of tokens."""
    held: list[list[object]] = [[] for _ in range(slots)]
    last_used = [-1] * slots
    hits, chosen = [], []
    for now, request in enumerate(requests):
        prompt = [(request.salt, s.key, i) for s in request.prompt for i in range(s.tokens)]
        answer = [(request.salt, request.output.key, i) for i in range(request.output.tokens)]
        if longest is not None and len(prompt) >= longest:
            hits.append(-1)
            chosen.append(-1)
            continue
        shared = []
        for tokens in held:
            common = 0
            while common < min(len(tokens), len(prompt)) and tokens[common] == prompt[common]:
                common += 1
            shared.append(common)
        best = max(shared)
        if similarity > 0 and prompt and best / len(prompt) > similarity:
            slot = shared.index(best)
        else:
            slot = max(i for i in range(slots) if last_used[i] == min(last_used))
        hits.append(max(0, min(shared[slot], len(prompt) - 1)))
        chosen.append(slot)
        held[slot] = (prompt + answer[:-1])[:longest]
        last_used[slot] = now
    return hits, chosen


@settings(max_examples=200, deadline=None)
@given(streams(), st.integers(1, 4), st.sampled_from((0, 0.1, 0.5, 1)), st.sampled_from((None, 12, 0)))
def test_agrees_with_lists_of_tokens(requests: list[Request], slots: int, similarity: float, longest: int | None) -> None:
    replay = replay_sequential(requests, slots=slots, slot_similarity=similarity, slot_tokens=longest)
    assert (replay.hit_tokens, replay.slot) == token_lists(requests, slots, similarity, longest)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 3))
def test_overlapping_requests_keep_every_invariant(data: st.DataObject, slots: int) -> None:
    used, inserted = array("q", [0] * 40), array("q", [0] * 40)
    store = Slots(slots, used_tokens=used, inserted_tokens=inserted)
    running: dict[int, tuple[Content, int, int]] = {}
    for row in range(data.draw(st.integers(1, 30))):
        if data.draw(st.booleans()):
            asked = content((data.draw(st.sampled_from("xy")), data.draw(st.integers(0, 9))), ("q", data.draw(st.integers(0, 4))))
            index = store.choose(asked, None)
            assert (index is None) == (len(running) == slots)
            if index is not None:
                expected = store.peek(index, asked, None)
                hit = store.start(index, asked, None, origin=row, user=data.draw(st.booleans()))
                assert hit == expected <= max(0, asked.prompt_tokens - 1)
                running[index] = (asked, hit, row)
        elif running:
            index = data.draw(st.sampled_from(sorted(running)))
            asked, hit, origin = running.pop(index)
            store.release(index, data.draw(st.integers(hit, asked.ends[-1])), origin=origin)
        store.check()
        assert sum(inserted) == store.inserted_tokens
        assert all(u <= i for u, i in zip(used, inserted, strict=True))


def test_a_conversation_keeps_all_but_the_last_sampled_token() -> None:
    turns = [ask(("d", 10), out=("a", 6)), ask(("d", 10), ("a", 6), ("q", 4))]
    assert replay_sequential(turns).hit_tokens == [0, 15]


def test_a_repeat_recomputes_one_token() -> None:
    assert replay_sequential([ask(("d", 10), out=("a", 6))] * 2).hit_tokens == [0, 9]


def test_a_shared_system_prompt_above_the_threshold_overwrites_somebodys_slot() -> None:
    # 20 of 100 tokens shared: more than 0.1, so the newcomer takes slot 0's document although slot 1 would lose less.
    turns = [
        ask(("sys", 20), ("doc1", 80)),
        ask(("other", 100)),
        ask(("sys", 20), ("doc2", 80)),
        ask(("sys", 20), ("doc1", 80), ("q", 5)),
    ]
    assert replay_sequential(turns, slots=2).hit_tokens == [0, 0, 20, 20]
    assert replay_sequential(turns, slots=3, slot_similarity=0.5).hit_tokens == [0, 0, 0, 100]


def test_similarity_must_be_above_the_threshold_not_at_it() -> None:
    turns = [ask(("sys", 10), ("x", 90)), ask(("sys", 10), ("y", 90))]
    assert replay_sequential(turns, slots=2, slot_similarity=0.1).slot == [1, 0]
    assert replay_sequential(turns, slots=2, slot_similarity=0.09).slot == [1, 1]


def test_ties_in_similarity_go_to_the_lowest_slot_and_unused_slots_from_the_highest() -> None:
    turns = [ask(("x", 10)), ask(("y", 10)), ask(("z", 10)), ask(("w", 10))]
    assert replay_sequential(turns, slots=3).slot == [2, 1, 0, 2]
    store = Slots(2)
    for index in (0, 1):
        store.start(index, content(("x", 10)), None)
    for index in (0, 1):
        store.release(index, 10)
    assert store.choose(content(("x", 20)), None) == 0


def test_a_prompt_too_long_for_a_slot_is_refused_and_disturbs_nothing() -> None:
    turns = [ask(("d", 50)), ask(("d", 64)), ask(("d", 60), out=("a", 50)), ask(("d", 60), ("a", 3))]
    assert replay_sequential(turns, slot_tokens=64).hit_tokens == [0, -1, 50, 62]


def test_hits_credit_the_warm_up_for_what_survived_in_the_slot() -> None:
    used, inserted, dropped, by = array("q", [0] * 3), array("q", [0] * 3), array("q", [0] * 3), array("q", [-1] * 3)
    store = Slots(1, used_tokens=used, inserted_tokens=inserted, used_by_row=by, dropped_tokens=dropped)
    warm, question, other = content(("d", 40), ("draft", 9)), content(("d", 40), ("q", 5)), content(("d", 30), ("r", 5))
    for origin, (asked, tokens, user) in enumerate(((warm, 49, False), (question, 45, True), (other, 35, True))):
        store.start(0, asked, None, origin=origin, user=user)
        store.release(0, tokens, origin=origin)
    assert list(inserted) == [49, 5, 5]
    assert list(dropped) == [9, 5, 0]
    assert list(by) == [1, -1, -1]
    assert list(used) == [40, 0, 0]
    assert store.evicted_tokens == 9 + 15


def test_bad_sizes_name_the_field() -> None:
    for wrong in ({"slots": 0}, {"slot_similarity": 1.5}, {"slot_tokens": -1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Slots(**wrong)
