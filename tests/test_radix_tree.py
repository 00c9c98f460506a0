"""SGLang's radix tree: recorded runs of the real one, a token-by-token oracle, and the rules one by one."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from simcache.cache.content import Content
from simcache.cache.radix_policies import POLICIES
from simcache.cache.radix_replay import replay_sequential
from simcache.cache.radix_tree import RadixTree
from simcache.errors import InputError, UnknownNameError
from simcache.prompt import Request, Segment

from .oracles import token_tree


def engine_file(folder: Path, name: str) -> dict:
    return json.loads(gzip.open(folder / "engines" / f"{name}.json.gz").read())


def engine_requests(folder: Path, name: str) -> list[Request]:
    return [
        Request(row["t"], tuple(Segment(*pair) for pair in row["segs"]), Segment(*row["out"]), salt=row["salt"])
        for row in engine_file(folder, name)["requests"]
    ]


def ask(*segments: tuple[object, int], out: tuple[object, int] = ("a", 1), **more: object) -> Request:
    return Request(0.0, tuple(Segment(*segment) for segment in segments), Segment(*out), **more)


def test_recorded_runs_hit_and_evict_the_same_tokens_request_by_request(shared_data: Path) -> None:
    requests = engine_requests(shared_data, "requests")
    for run in engine_file(shared_data, "sglang_sequential")["runs"]:
        replay = replay_sequential(
            requests, capacity_tokens=run["capacity_tokens"], page_tokens=run["page_size"], policy=run["policy"]
        )
        assert replay.hit_tokens == run["hit_tokens"]
        assert replay.evicted_tokens == run["evicted_tokens"]


# sglang 0.5.23 (wheel of 2026-10): its own UnifiedTreeCore with FullComponent, and its own RadixCache, driven by the recorded
# protocol over a counting allocator: (stream, page, capacity, policy, split_created, sum of hits, of evicted, crc32 of both lists).
ENGINE_DIGESTS = [
    ("requests", 1, 6144, "mru", "copied", 390784, 890316, 2955958256),
    ("requests", 16, 8192, "slru", "copied", 611952, 659184, 4261041938),
    ("requests", 16, 8192, "priority", "copied", 610768, 660352, 2125502910),
    ("requests", 64, 16384, "filo", "copied", 448832, 795008, 2705290575),
    ("requests", 1, 12000, "lfu", "copied", 539205, 736005, 1928616852),
    ("requests", 256, 16384, "lru", "copied", 861184, 301824, 431516950),
    ("requests", 16, 8192, "fifo", "copied", 666448, 604672, 139616771),
    ("requests", 16, 8192, "fifo", "now", 666448, 604672, 139616771),
    ("requests_drafts", 1, 6144, "mru", "copied", 501809, 188117, 101026994),
    ("requests_drafts", 16, 8192, "slru", "copied", 648368, 30112, 2539196633),
    ("requests_drafts", 16, 8192, "priority", "copied", 608256, 70864, 184610840),
    ("requests_drafts", 64, 16384, "filo", "copied", 607552, 33536, 3430582888),
    ("requests_drafts", 1, 12000, "lfu", "copied", 638251, 45645, 2627617880),
    ("requests_drafts", 256, 16384, "lru", "copied", 541696, 0, 123014275),
    ("requests_drafts", 16, 8192, "fifo", "copied", 662192, 16320, 1357783066),
    ("requests_drafts", 16, 8192, "fifo", "now", 661744, 16768, 2520795877),
    # Too little memory for some prompts (their hits are -1) and for some answers (decoding stops where nothing can be allocated).
    ("requests", 1, 2048, "lru", "copied", 143860, 533484, 84519821),
    ("requests", 16, 4096, "slru", "copied", 366497, 838240, 2479443361),
    ("requests", 64, 4800, "lfu", "copied", 366398, 878720, 3087908979),
    ("requests_drafts", 1, 1500, "lfu", "copied", 202887, 144758, 55603690),
    ("requests_drafts", 32, 1280, "lru", "copied", 211929, 101696, 1242496442),
]


@pytest.mark.parametrize(("stream", "page", "capacity", "policy", "split_created", "hits", "evicted", "crc"), ENGINE_DIGESTS)
def test_every_policy_agrees_with_the_engines_own_tree(
    shared_data: Path, stream: str, page: int, capacity: int, policy: str, split_created: str, hits: int, evicted: int, crc: int
) -> None:
    requests = engine_requests(shared_data, stream)
    replay = replay_sequential(requests, capacity_tokens=capacity, page_tokens=page, policy=policy, split_created=split_created)
    assert (sum(replay.hit_tokens), sum(replay.evicted_tokens)) == (hits, evicted)
    assert zlib.crc32(json.dumps([replay.hit_tokens, replay.evicted_tokens]).encode()) == crc


@st.composite
def streams(draw: st.DrawFn) -> list[Request]:
    """Small, overlapping prompts: shared heads, conversations that grow, drafts that shrink, repeats, zero lengths."""
    requests: list[Request] = []
    for turn in range(draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(("new", "grow", "cut", "repeat"))) if requests else "new"
        segments: tuple[Segment, ...] = (Segment(draw(st.sampled_from("xyz")), draw(st.integers(0, 9))),)
        if kind == "new":
            segments += (Segment(draw(st.sampled_from("pq")), draw(st.integers(1, 6))),)
        else:
            earlier = requests[draw(st.integers(0, len(requests) - 1))]
            segments = earlier.prompt
            if kind == "grow":
                segments += (earlier.output, Segment(f"u{turn}", draw(st.integers(1, 5))))
            elif kind == "cut":
                segments = (*segments[:-1], Segment(segments[-1].key, draw(st.integers(0, segments[-1].tokens))))
        output = Segment(draw(st.sampled_from((f"a{turn}", "same"))), draw(st.sampled_from((0, 1, 2, 5, 9))))
        requests.append(
            Request(
                0.0, segments, output, salt=draw(st.sampled_from((None, None, "s"))), priority=draw(st.sampled_from((0, 0, -2)))
            )
        )
    return requests


@settings(max_examples=150, deadline=None)
@given(streams(), st.sampled_from((1, 2, 4)), st.integers(0, 48), st.sampled_from(sorted(POLICIES)))
def test_agrees_with_the_token_by_token_oracle(requests: list[Request], page: int, capacity: int, policy: str) -> None:
    replay = replay_sequential(requests, capacity_tokens=capacity, page_tokens=page, policy=policy)
    hits, evicted = token_tree.replay(requests, page, capacity, policy)
    assert replay.hit_tokens == hits
    assert replay.evicted_tokens == evicted


def content(*segments: tuple[str, int], out: tuple[str, int] = ("a", 50)) -> Content:
    return Content(tuple(Segment(*segment) for segment in segments), Segment(*out))


class OverlappingRequests(RuleBasedStateMachine):
    """Requests that overlap, are chunked, aborted with or without insertion; every invariant after each step."""

    live = Bundle("live")

    def __init__(self) -> None:
        super().__init__()
        self.used = array("q", [0] * 1000)
        self.inserted = array("q", [0] * 1000)
        self.row = 0
        self.tree: RadixTree | None = None

    @rule(target=live, data=st.data())
    def start(self, data: st.DataObject) -> object:
        if self.tree is None:
            self.tree = RadixTree(
                data.draw(st.sampled_from((1, 3))),
                60,
                data.draw(st.sampled_from(sorted(POLICIES))),
                used_tokens=self.used,
                inserted_tokens=self.inserted,
            )
        head = (data.draw(st.sampled_from("xy")), data.draw(st.integers(1, 12)))
        tail = (data.draw(st.sampled_from("pqr")), data.draw(st.integers(1, 8)))
        asked = content(head, tail, out=(data.draw(st.sampled_from("ab")), 30))
        expected = self.tree.peek(asked, None, asked.prompt_tokens - 1)
        holding = self.tree.hold(asked, None, priority=data.draw(st.integers(0, 2)), origin=self.row)
        assert holding.hit_tokens == expected < asked.prompt_tokens
        self.row += 1
        return holding

    @rule(holding=live, tokens=st.integers(1, 10), insert=st.booleans())
    def compute(self, holding, tokens: int, insert: bool) -> None:
        tokens = min(tokens, holding.content.ends[-1] - holding.tokens)
        self.tree.make_room(tokens + self.tree.page_tokens)
        free = self.tree.free_tokens
        if not self.tree.allocate(holding, tokens):
            assert self.tree.free_tokens == free
        elif insert:
            self.tree.insert(holding, holding.tokens)

    @rule(holding=consumes(live), keep=st.booleans())
    def finish(self, holding, keep: bool) -> None:
        if keep:
            self.tree.insert(holding, holding.tokens)
        self.tree.release(holding)

    @invariant()
    def holds(self) -> None:
        if self.tree is not None:
            self.tree.check()
            assert sum(self.inserted) == self.tree.inserted_tokens
            assert all(used <= inserted for used, inserted in zip(self.used, self.inserted, strict=True))


TestOverlappingRequests = OverlappingRequests.TestCase
TestOverlappingRequests.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_repeat_recomputes_one_token_and_whole_pages_only() -> None:
    assert replay_sequential([ask(("d", 100))] * 2, capacity_tokens=500).hit_tokens == [0, 99]
    assert replay_sequential([ask(("d", 96))] * 2, capacity_tokens=500, page_tokens=16).hit_tokens == [0, 80]


def test_the_last_output_token_is_never_cached() -> None:
    turns = [ask(("d", 10), out=("a", 6)), ask(("d", 10), ("a", 6), ("q", 4))]
    assert replay_sequential(turns, capacity_tokens=100).hit_tokens == [0, 15]


def test_salt_and_organisation_share_nothing() -> None:
    turns = [ask(("d", 10)), ask(("d", 10), salt="s"), ask(("d", 10), organisation="o"), ask(("d", 10), salt="s")]
    assert replay_sequential(turns, capacity_tokens=100).hit_tokens == [0, 0, 0, 9]


def test_a_whole_leaf_goes_even_for_one_missing_token() -> None:
    turns = [ask(("old", 40)), ask(("young", 50)), ask(("new", 11))]
    assert replay_sequential(turns, capacity_tokens=100).evicted_tokens == [0, 0, 40]


def test_a_partial_match_refreshes_the_tail_it_did_not_match() -> None:
    # "d" is older than "e", but the touch of its first 10 tokens keeps all 40.
    turns = [ask(("d", 40)), ask(("e", 40)), ask(("d", 11)), ask(("f", 21)), ask(("d", 41))]
    replay = replay_sequential(turns, capacity_tokens=100)
    assert replay.hit_tokens == [0, 0, 10, 0, 40]
    assert replay.evicted_tokens == [0, 0, 0, 40, 0]


def test_the_answer_is_evicted_before_its_prompt() -> None:
    turns = [ask(("d", 40), out=("a", 31)), ask(("e", 50)), ask(("d", 41))]
    replay = replay_sequential(turns, capacity_tokens=100)
    assert replay.evicted_tokens == [0, 30, 0]
    assert replay.hit_tokens == [0, 0, 40]


def test_an_urgent_repeat_raises_what_it_finds_at_insertion_too() -> None:
    # The repeat matches 9 tokens; the tenth, which it computes again, is found by its insertion alone.
    turns = [ask(("d", 10)), ask(("d", 10), priority=-2), ask(("e", 10), priority=-1), ask(("f", 6))]
    assert replay_sequential(turns, capacity_tokens=25, policy="priority").evicted_tokens == [0, 0, 0, 10]


def test_paged_prefill_asks_for_one_page_more_than_it_needs() -> None:
    turns = [ask(("d", 32)), ask(("e", 32))]
    assert replay_sequential(turns, capacity_tokens=64, page_tokens=16).evicted_tokens == [0, 32]
    assert replay_sequential(turns, capacity_tokens=64, page_tokens=1).evicted_tokens == [0, 0]


def test_what_can_never_fit_is_refused_and_disturbs_nothing() -> None:
    turns = [ask(("d", 10)), ask(("e", 101), out=("a", 9)), ask(("d", 10))]
    replay = replay_sequential(turns, capacity_tokens=100)
    assert replay.hit_tokens == [0, -1, 9]
    assert replay.evicted_tokens == [0, 0, 0]
    assert replay_sequential(turns, capacity_tokens=0).hit_tokens == [-1] * 3
    assert replay_sequential([ask(("d", 0), out=("a", 0))], capacity_tokens=10).hit_tokens == [0]


def test_an_answer_is_cut_where_the_memory_ends() -> None:
    turns = [ask(("d", 60), out=("a", 1000)), ask(("d", 60), ("a", 41)), ask(("d", 60), ("a", 39), ("q", 1))]
    replay = replay_sequential(turns, capacity_tokens=100)
    assert replay.hit_tokens == [0, -1, 99]
    assert replay.evicted_tokens == [0, 0, 1]


def test_a_policy_of_ones_own_is_one_function() -> None:
    turns = [ask((f"d{i % 7}", 20 + i % 3), out=(f"a{i}", 1 + i % 4)) for i in range(80)]
    own = replay_sequential(turns, capacity_tokens=90, policy=lambda node: (node.hit_count, node.last_access))
    assert own == replay_sequential(turns, capacity_tokens=90, policy="lfu")


def test_hits_credit_the_request_that_inserted_once() -> None:
    used, inserted, dropped, by = array("q", [0] * 4), array("q", [0] * 4), array("q", [0] * 4), array("q", [-1] * 4)
    tree = RadixTree(1, 200, used_tokens=used, inserted_tokens=inserted, used_by_row=by, dropped_tokens=dropped)
    for origin, user in enumerate((False, True, True)):
        holding = tree.hold(content(("d", 40), (f"q{origin}", 5)), None, origin=origin, user=user)
        tree.allocate(holding, 45 - holding.hit_tokens)
        tree.insert(holding, 45)
        tree.release(holding)
    assert list(inserted) == [45, 5, 5, 0]
    assert list(used) == [40, 0, 0, 0]
    assert list(by) == [1, -1, -1, -1]
    tree.make_room(200)
    assert list(dropped) == [5, 5, 5, 0]


def test_two_running_requests_with_one_prompt_keep_one_copy() -> None:
    tree = RadixTree(1, 100)
    first, second = (tree.hold(content(("d", 40)), None) for _ in range(2))
    for holding in (first, second):
        assert tree.allocate(holding, 40)
    assert tree.free_tokens == 20
    tree.insert(first, 40)
    assert tree.free_tokens == 20
    tree.insert(second, 40)
    assert tree.free_tokens == 60
    assert tree.evictable_tokens == 0
    assert tree.make_room(100) == 0
    tree.release(first)
    assert tree.evictable_tokens == 0
    tree.release(second)
    assert tree.make_room(100) == 40


def insert_now(tree: RadixTree, asked: Content, tokens: int) -> None:
    holding = tree.hold(asked, None)
    assert tree.allocate(holding, tokens - holding.hit_tokens)
    tree.insert(holding, tokens)
    tree.release(holding)


def test_a_match_alone_refreshes_the_leaf_it_ends_at() -> None:
    tree = RadixTree(1, 100)
    for name in "de":
        insert_now(tree, content((name, 40)), 40)
    assert tree.match(content(("d", 40)), None, 40).tokens == 40
    tree.check()
    assert tree.make_room(60) == 40
    assert tree.peek(content(("d", 40)), None, 40) == 40


def test_a_new_leaf_is_later_than_the_half_edge_it_split_off() -> None:
    # The late request found nothing when it began; meanwhile another one inserted the edge that it now splits.
    tree = RadixTree(1, 100, "mru")
    late = tree.hold(content(("x", 10), ("q", 5), out=("a", 11)), None)
    tree.allocate(late, 25)
    insert_now(tree, content(("x", 20)), 20)
    tree.insert(late, 25)
    tree.release(late)
    assert tree.make_room(tree.free_tokens + 11) == 15  # most recent first: its answer, then its question
    assert tree.peek(content(("x", 20)), None, 20) == 20


def test_peek_changes_nothing() -> None:
    tree = RadixTree(1, 100)
    holding = tree.hold(content(("d", 40)), None)
    tree.allocate(holding, 40)
    tree.insert(holding, 40)
    tree.release(holding)
    node = next(iter(tree._root.children.values()))
    before = (node.last_access, node.end)
    assert tree.peek(content(("d", 12), ("q", 3)), None, 14) == 12
    assert (node.last_access, node.end) == before


def calls_per_replay(tokens: int, page: int) -> int:
    turns = [ask(("sys", tokens), (f"d{i % 40}", 3 * tokens), (f"q{i}", tokens), out=(f"a{i}", tokens)) for i in range(300)]
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        replay_sequential(turns, capacity_tokens=60 * tokens, page_tokens=page)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("page", [1, 16])
def test_work_follows_segments_not_tokens(page: int) -> None:
    assert calls_per_replay(16_000_000, page) == pytest.approx(calls_per_replay(1_600, page), rel=0.1)


def test_bad_sizes_and_names_say_what_is_known() -> None:
    with pytest.raises(UnknownNameError, match="lru"):
        RadixTree(16, 100, "lrru")
    with pytest.raises(InputError, match="page_tokens"):
        RadixTree(0, 100)
    with pytest.raises(InputError, match="capacity_tokens"):
        RadixTree(1, -1)
    with pytest.raises(InputError, match="split_created"):
        RadixTree(1, 1, split_created="later")  # type: ignore[arg-type]
