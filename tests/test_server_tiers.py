"""Servers with host memory and disk below the GPU's: loads by hand, against identities, and stepping against jumping."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cache.snapshot import save_snapshots
from simcache.cache.tiers import WRITES, Tier
from simcache.engine import cluster
from simcache.engine.clock import Clock, instant
from simcache.engine.journal import Journal, explain, timeline
from simcache.engine.run import simulate
from simcache.errors import InputError
from simcache.faults import Crash, Slow, TierOutage
from simcache.latency import Coefficients, ServerProfile
from simcache.metrics import load_wait_s, tier_hit_tokens
from simcache.prompt import Request, Segment
from simcache.record_files import load_records
from simcache.records import NEVER, RecordsBuilder
from simcache.result import summarise
from simcache.routing import ROUTERS
from simcache.scenario import Cluster, Scenario, Server
from simcache.scenario_file import parse_scenarios, to_toml
from simcache.workload.synthetic import RequestList

from .test_server import play

PLAIN = ServerProfile(
    name="test",
    coefficients=Coefficients(per_token_s=1e-3, per_decode_s=0.01),
    kv_tokens=100_000,
    kv_bytes_per_token=1000,
)
HOST = Tier(name="host", capacity_tokens=100_000, load_bytes_per_s=1e7)
"""Ten tokens a millisecond; computing takes a millisecond a token."""


def ask(at_s: float, key: str, tokens: int, output: int = 1, **more) -> Request:
    return Request(at_s, (Segment(key, tokens),), Segment(("answer", key, at_s), output), **more)


def answered(requests, **server):
    server = {"profile": PLAIN, "kv_tokens": 320, "tiers": (HOST,), **server}
    return simulate(Scenario(workload=RequestList(rows=tuple(requests)), backend=Cluster(**server)))


def run(requests, **server):
    return answered(requests, **server).records


def world(**server):
    server = Cluster(**{"profile": PLAIN, "kv_tokens": 320, "tiers": (HOST,), **server})
    clock, records = Clock(), RecordsBuilder(tiers=[tier.name for tier in server.tiers])
    return clock, records, cluster.build(clock, server, server.profile, records)


PUSHED_OUT = [ask(0.0, "doc", 160), ask(1.0, "other", 320)]
"""The document, and what takes all of the 320 tokens of GPU memory after it."""


def test_what_the_gpu_let_go_is_loaded_and_the_prompt_goes_on_behind_it():
    records = run([*PUSHED_OUT, ask(2.0, "doc", 170)])
    assert records.hit_tokens.tolist() == [0, 0, 160]
    assert records.hit_tokens_host.tolist() == [0, 0, 160]
    assert records.hit_blocks.tolist() == [0, 0, 10]
    # 160 tokens of 1,000 bytes at 10 MB/s, then ten tokens to compute
    assert records.seconds("load_wait_ns").tolist() == [0.0, 0.0, 0.016]
    assert records.seconds("queue_ns").tolist() == [0.0, 0.0, 0.016]
    assert records.ttft_s.tolist() == pytest.approx([0.16, 0.32, 0.026], abs=1e-12)
    assert records.seconds("first_scheduled_at_ns")[2] == pytest.approx(2.016, abs=1e-12)


def test_what_was_loaded_lies_in_the_gpu_again():
    records = run([*PUSHED_OUT, ask(2.0, "doc", 170), ask(3.0, "doc", 170)])
    assert records.hit_tokens.tolist() == [0, 0, 160, 160]
    assert records.hit_tokens_host.tolist() == [0, 0, 160, 0]
    assert records.ttft_s[3] == pytest.approx(0.010, abs=1e-12)


def test_the_tiers_are_asked_only_for_what_lies_behind_the_hit_in_the_gpu():
    # of 20 blocks the second request takes 14: the document's tail has gone, its first 6 blocks have stayed
    records = run([PUSHED_OUT[0], ask(1.0, "other", 224), ask(2.0, "doc", 170)])
    assert records.hit_tokens[2] == 160
    assert records.hit_tokens_host[2] == 64
    assert records.load_wait_ns[2] == 6_400_000


def test_a_load_that_takes_longer_than_computing_is_not_begun():
    slow, fast = replace(HOST, load_bytes_per_s=0.99e6), replace(HOST, load_bytes_per_s=1.01e6)
    asked = [*PUSHED_OUT, ask(2.0, "doc", 170)]
    assert run(asked, tiers=(slow,)).hit_tokens.tolist() == [0, 0, 0]
    assert run(asked, tiers=(fast,)).hit_tokens.tolist() == [0, 0, 160]
    # a slow host computes slowly too: then the same link is worth it
    assert run(asked, tiers=(slow,), slowness=1.1).hit_tokens.tolist() == [0, 0, 160]
    assert run(asked, tiers=(replace(HOST, latency_s=0.145),)).hit_tokens[2] == 0
    assert run(asked, tiers=(replace(HOST, latency_s=0.143),)).hit_tokens[2] == 160


def test_loads_at_once_share_the_link_first_come_first_served():
    rest = [ask(2.0, "doc", 161) for _ in range(4)]
    for shared_by, waits in ((None, [0, 16, 32, 48]), (4, [0, 16, 32, 48]), (2, [0, 16, 0, 0])):
        records = run([PUSHED_OUT[0], *rest], replicas=4, router=_by_row(rest), tiers=(replace(HOST, shared_by=shared_by),))
        assert (records["load_wait_ns"][1:] / 1e6).tolist() == waits  # the first has it in its GPU
        assert records.replica.tolist() == [0, 0, 1, 2, 3]
    one = run([ask(0.1 * i, f"d{i}", 32) for i in range(15)] + [ask(9.0, f"d{i}", 33) for i in range(4)])
    assert (one["load_wait_ns"][15:] / 1e6).tolist() == pytest.approx([3.2, 6.4, 9.6, 12.8])


def _by_row(rest):
    order = iter([0, *range(len(rest))])
    return lambda request, replicas: next(order)


def test_the_engine_goes_on_with_others_while_bytes_are_on_their_way():
    # a decodes from 2.016 s in steps of 10 ms; the load of 160 tokens takes 16 ms from the step boundary at 2.026 s
    asked = [ask(0.0, "doc", 160), ask(1.0, "other", 320), ask(2.0, "a", 16, output=30), ask(2.02, "doc", 161)]
    records = run(asked, kv_tokens=640, tiers=(HOST,))
    alone = run(asked[:3], kv_tokens=640, tiers=(HOST,))
    assert alone.seconds("finished_at_ns")[2] == pytest.approx(2.016 + 29 * 0.01, abs=1e-12)
    assert records.hit_tokens.tolist() == [0, 0, 0, 160]
    assert records.hit_tokens_host[3] == 0  # 640 tokens hold all: a hit in the GPU, no load
    asked = [ask(0.0, "doc", 160), ask(1.0, "other", 320), ask(2.0, "a", 16, output=30), ask(2.02, "doc", 161)]
    records = run(asked)
    assert records.hit_tokens_host[3] == 160
    # loaded from 2.026 to 2.042 s; the boundary behind that is at 2.046 s; its one token makes that step 1 ms longer
    assert records.seconds("first_scheduled_at_ns")[3] == pytest.approx(2.046, abs=1e-12)
    assert records.seconds("finished_at_ns")[2] == pytest.approx(2.016 + 29 * 0.01 + 0.001, abs=1e-12)


def test_who_is_behind_a_load_is_served_meanwhile_and_who_loads_has_no_seat():
    asked = [*PUSHED_OUT, ask(2.0, "doc", 170), ask(2.0, "new", 32, output=1)]
    records = run(asked, max_num_seqs=1)
    assert records.seconds("first_scheduled_at_ns")[2:].tolist() == pytest.approx([2.032, 2.0], abs=1e-12)
    # its bytes came at 2.016 s: from then on it waited for the seat, before everybody else
    late = ask(2.01, "late", 16)
    records = run([*asked, late], max_num_seqs=1)
    assert records.seconds("first_scheduled_at_ns")[2:].tolist() == pytest.approx([2.032, 2.0, 2.042], abs=1e-12)


def test_a_disk_and_a_host_load_beside_each_other_and_the_disk_moves_up():
    disk = Tier(name="disk", capacity_tokens=100_000, load_bytes_per_s=5e6, latency_s=0.002)
    small = replace(HOST, capacity_tokens=96)
    again = ask(2.0, "doc", 170)
    records = run([*PUSHED_OUT, again, ask(3.0, "other", 320), ask(4.0, "doc", 170)], tiers=(small, disk))
    # the 320 tokens pushed the document out of the host too: 160 tokens at 5 MB/s and the latency
    assert (records.hit_tokens_host[2], records.hit_tokens_disk[2]) == (0, 160)
    assert records.seconds("load_wait_ns")[2] == pytest.approx(0.034, abs=1e-12)
    assert records.tiers == ("host", "disk")


@pytest.mark.parametrize(("write", "hit"), [("write_through", 160), ("write_through_selective", 0), ("write_back", 160)])
def test_the_write_rules_decide_what_is_below(write, hit):
    assert run([*PUSHED_OUT, ask(2.0, "doc", 170)], tier_write=write).hit_tokens[2] == hit
    twice = [ask(0.0, "doc", 160), ask(0.5, "doc", 170), ask(1.0, "other", 320), ask(2.0, "doc", 170)]
    assert run(twice, tier_write=write).hit_tokens[3] == 160
    # written back is only what was pushed out: elsewhere it is not below
    elsewhere = [ask(0.0, "doc", 160), ask(1.0, "doc", 170)]
    shared = {"tiers": (replace(HOST, shared_by=None),), "replicas": 2, "tier_write": write}
    assert run(elsewhere, **shared).hit_tokens[1] == (160 if write == "write_through" else 0)


def test_decoded_blocks_reach_the_tiers_too():
    turns = [Request(0.0, (Segment("doc", 64),), Segment("answer", 65)), ask(3.0, "other", 320)]
    follow_up = Request(6.0, (Segment("doc", 64), Segment("answer", 65), Segment("more", 10)), Segment("b", 1))
    for write in ("write_through", "write_back"):
        assert run([*turns, follow_up], tier_write=write).hit_tokens_host[2] == 128  # 129 tokens, the last of them without KV


streams = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 60), st.integers(0, 30)), min_size=1, max_size=14)


@settings(max_examples=60, deadline=None)
@given(streams, st.sampled_from(["write_through", "write_back"]), st.integers(1, 2))
def test_one_at_a_time_a_boundless_tier_at_no_time_hits_what_a_boundless_gpu_hits(stream, write, tier_blocks):
    requests = [
        Request(100.0 * i, (Segment("system", 20), Segment(key, tokens)), Segment((key, i % 2), output))
        for i, (key, tokens, output) in enumerate(stream)
    ]
    below = Tier(name="host", capacity_tokens=10**9, load_bytes_per_s=1e30)
    tight = {"profile": PLAIN, "kv_tokens": 112, "block_tokens": 4}
    ample = run(requests, **{**tight, "kv_tokens": 10**6, "tiers": ()})
    tiered = run(requests, **tight, tiers=(below,), tier_write=write, tier_block_tokens=4)
    assert tiered.hit_tokens.tolist() == ample.hit_tokens.tolist()
    coarse = run(requests, **tight, tiers=(below,), tier_write=write, tier_block_tokens=4 * tier_blocks)
    assert (coarse.hit_tokens <= ample.hit_tokens).all()


@settings(max_examples=40, deadline=None)
@given(streams, st.sampled_from(["write_through", "write_through_selective", "write_back"]), st.booleans())
def test_a_tier_slower_than_computing_or_empty_changes_nothing(stream, write, empty):
    requests = [
        Request(0.05 * i, (Segment("system", 20), Segment(key, tokens)), Segment((key, i % 2), output))
        for i, (key, tokens, output) in enumerate(stream)
    ]
    below = replace(HOST, capacity_tokens=0) if empty else replace(HOST, load_bytes_per_s=1.0)
    tight = {"profile": PLAIN, "kv_tokens": 112, "block_tokens": 4}
    without, tiered = run(requests, **tight, tiers=()), run(requests, **tight, tiers=(below,), tier_write=write)
    assert all((tiered[name] == column).all() for name, column in without.columns.items())
    assert not tiered.hit_tokens_host.any()
    assert not tiered.load_wait_ns.any()


def test_cancelling_while_loading_ends_at_once_and_gives_memory_back_when_the_bytes_have_come():
    clock, records, backend = world()
    tickets = []
    for request in PUSHED_OUT:
        clock.call(lambda _, request=request: backend.serve(request), instant(request.arrived_at_s))
    clock.call(lambda _: tickets.append(backend.serve(ask(2.0, "doc", 170))), instant(2.0))
    clock.call(lambda _: backend.cancel(tickets[0]), instant(2.004))
    clock.call(lambda _: backend.serve(ask(2.005, "big", 320)), instant(2.005))
    clock.run()
    frozen = records.freeze()
    assert frozen.outcome.tolist() == ["ok", "ok", "cancelled", "ok"]
    assert frozen.seconds("cancelled_at_ns")[2] == 2.004
    assert frozen.load_wait_ns[2] == 4_000_000
    assert frozen.first_scheduled_at_ns[2] == NEVER
    assert frozen.seconds("first_scheduled_at_ns")[3] == pytest.approx(2.016, abs=1e-12)
    pool = backend.replicas[0].scheduler.pool
    pool.check()
    assert pool.free == pool.blocks


def test_an_outage_fails_the_loads_under_way_hides_the_tier_and_gives_it_back():
    outage = TierOutage(at_s=2.004, tier="host", for_s=10)
    asked = [*PUSHED_OUT, ask(2.0, "doc", 170), ask(5.0, "other", 319), ask(20.0, "doc", 170)]
    records = run(asked, faults=(outage,))
    assert records.outcome.tolist() == ["ok"] * 5
    # four milliseconds lost, then all of it computed; the outage also hides what the fourth would load, and counts
    assert records.ttft_s[2] == pytest.approx(0.004 + 0.170, abs=1e-12)
    assert records.load_wait_ns.tolist()[2:] == [4_000_000, 0, 16_000_000]
    assert records.hit_tokens.tolist()[2:] == [0, 144, 160]  # what the document left of the other in the GPU
    assert records.tier_faults.tolist() == [0, 0, 1, 1, 0]
    landed = run(asked[:3], faults=(replace(outage, at_s=2.016),))
    assert landed.hit_tokens_host[2] == 160  # its last byte had come
    twice = (outage, TierOutage(at_s=3.0, tier="host", for_s=30))
    assert run(asked, faults=twice).hit_tokens.tolist()[2:] == [0, 144, 0]


def test_after_a_crash_a_shared_tier_has_what_it_had_and_an_own_one_nothing():
    asked = [ask(0.0, "doc", 160), ask(9.0, "doc", 170)]
    for shared_by, hit in ((1, 0), (None, 160)):
        crash = (Crash(at_s=1.0, replica=0, down_s=2.0),)
        assert run(asked, tiers=(replace(HOST, shared_by=shared_by),), faults=crash).hit_tokens.tolist() == [0, hit]


def test_a_crash_while_loading_sends_the_request_elsewhere():
    asked = [*PUSHED_OUT, ask(2.0, "doc", 170)]
    shared = replace(HOST, shared_by=None)
    home = lambda request, replicas: 0  # noqa: E731
    records = run(asked, replicas=2, router=home, tiers=(shared,), faults=(Crash(at_s=2.006, replica=0, down_s=None),))
    assert records.outcome.tolist() == ["ok", "ok", "ok"]
    assert records.replica.tolist() == [0, 0, 1]
    # six milliseconds lost; the link is still busy with the first load for ten, then sends it to the other replica
    assert records.load_wait_ns[2] == 6_000_000 + 26_000_000
    assert records.ttft_s[2] == pytest.approx(0.006 + 0.026 + 0.010, abs=1e-12)


def test_a_question_that_loads_what_a_warm_up_computed_uses_it_once():
    warm = PUSHED_OUT[0]._replace(kind="warm")
    for write in ("write_through", "write_back"):
        records = run([warm, PUSHED_OUT[1], ask(2.0, "doc", 170), ask(3.0, "other", 320), ask(4.0, "doc", 170)], tier_write=write)
        assert records.hit_tokens_host[[2, 4]].tolist() == [160, 160]
        assert (records.inserted_tokens[0], records.used_tokens[0], records.dropped_tokens[0]) == (160, 160, 0)
        assert records.used_by_row[0] == 2
        hit = run([warm, ask(0.5, "doc", 170), PUSHED_OUT[1], ask(2.0, "doc", 170)], tier_write=write)
        assert hit.hit_tokens.tolist() == [0, 160, 0, 160]
        assert (hit.used_tokens[0], hit.used_by_row[0]) == (160, 1)  # the load found it used
        again = run([warm, PUSHED_OUT[1], ask(2.0, "doc", 170, kind="warm")], tier_write=write)
        assert (again.used_tokens[0], again.dropped_tokens[0]) == (0, 160)  # one warm-up after another: nobody asked


def test_a_saved_gpu_cache_starts_over_empty_tiers_and_goes_down_when_it_is_pushed_out(tmp_path):
    journal = Journal()
    server = Server(profile=PLAIN, kv_tokens=320, tiers=(HOST,), tier_write="write_back")
    simulate(Scenario(workload=RequestList(rows=(ask(0.0, "doc", 160),)), backend=server), journal=journal)
    save_snapshots(journal.caches, tmp_path / "caches.json")
    asked = [ask(0.0, "doc", 170), ask(1.0, "other", 320), ask(2.0, "doc", 170)]
    again = run(asked, tier_write="write_back", initial_cache=str(tmp_path / "caches.json"))
    assert again.hit_tokens.tolist() == [160, 0, 160]
    assert again.hit_tokens_host.tolist() == [0, 0, 160]


def test_explain_and_timeline_tell_of_the_load():
    asked = [PUSHED_OUT[0], ask(1.0, "other", 224), ask(2.0, "doc", 170)]
    journal = Journal()
    server = Server(profile=PLAIN, kv_tokens=320, tiers=(HOST,))
    records = simulate(Scenario(workload=RequestList(rows=tuple(asked)), backend=server), journal=journal).records
    told = "\n".join(explain(records, journal, 2))
    assert "loading on replica 0 for 6.40 ms: 64 tokens from host" in told
    assert "admitted on replica 0, 96 of 170 tokens hit in GPU, 64 loaded from host (waited 6.40 ms)" in told
    loads = [event for event in timeline(records, journal)["traceEvents"] if event.get("cat") == "load"]
    assert [(event["ph"], event["ts"]) for event in loads] == [("b", 2e6), ("e", 2_006_400.0)]


def test_records_and_summaries_tell_the_hits_of_every_tier(tmp_path):
    result = answered([*PUSHED_OUT, ask(2.0, "doc", 170)])
    assert tier_hit_tokens(result.records) == {"host": 160}
    assert load_wait_s(result.records).tolist() == [0.016]
    entry = summarise([result])
    assert entry["tiers"] == {"host": {"hit_tokens": 160, "token_hit_ratio": 160 / 650}}
    assert entry["load_wait_s"] == {"mean": 0.016}
    assert entry["tier_faults"] == 0
    assert "from host      24.6 % of prompt tokens" in result.summary()
    folder = result.save(tmp_path / "saved")
    for name in ("records.parquet", "records.csv"):
        assert load_records(folder / name) == result.records
    assert result.to_pandas()["hit_tokens_host"].tolist() == [0, 0, 160]
    plain = answered(PUSHED_OUT, tiers=())
    assert "tiers" not in summarise([plain])
    assert not {"load_wait_ns", "tier_faults"} & set(plain.records.columns)
    assert plain.records != result.records


def test_scenario_files_have_tiers_and_refuse_what_is_wrong():
    text = """
    workload = { kind = "typing-sessions", users = 3 }
    [backend]
    kind = "cluster"
    tier_write = "write_back"
    faults = [{ kind = "tier-outage", at_s = 5, tier = "disk", for_s = 9 }]
    [[backend.tiers]]
    name = "host"
    capacity_tokens = 400_000
    load_bytes_per_s = 25e9
    [[backend.tiers]]
    name = "disk"
    capacity_tokens = 4_000_000
    load_bytes_per_s = 3e9
    policy = "lfu"
    shared_by = "none"
    """
    (scenario,) = parse_scenarios(text).scenarios
    assert [tier.shared_by for tier in scenario.backend.tiers] == [1, None]
    assert parse_scenarios(to_toml(scenario)).scenarios == (scenario,)
    with pytest.raises(InputError, match=r"backend.tiers\[1\].policies.*Did you mean 'policy'"):
        parse_scenarios(text.replace("policy =", "policies ="))
    with pytest.raises(InputError, match=r"backend.tiers\[1\].policy\(='lfuu'\)"):
        parse_scenarios(text.replace('"lfu"', '"lfuu"'))
    with pytest.raises(InputError, match=r"backend.faults\[0\].tier\(='dusk'\) is not known. Did you mean 'disk'"):
        parse_scenarios(text.replace('tier = "disk"', 'tier = "dusk"'))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"engine": "sglang"}, "tiers.* goes with engine 'vllm', not 'sglang'"),
        ({"engine": "llamacpp"}, "tiers.* goes with engine 'vllm', not 'llamacpp'"),
        ({"prefix_caching": False}, r"prefix_caching\(=False\) must be True with tiers"),
        ({"ttl_s": 60.0}, r"ttl_s\(=60.0\) must be None with tiers"),
        ({"warm_ups": "when_idle"}, r"warm_ups\(='when_idle'\) must be 'as_users' with tiers"),
        ({"tier_block_tokens": 100}, "must be a multiple of block_tokens, 16"),
        ({"tier_write": "write_around"}, "tier_write.* is not known"),
        ({"tiers": (HOST, HOST)}, "must have different names"),
        ({"tiers": ("host",)}, r"tiers\[0\]\(='host'\) must be a Tier"),
    ],
)
def test_what_does_not_go_with_tiers_is_refused_at_once(changes, match):
    with pytest.raises(InputError, match=match):
        Server(**{"profile": PLAIN, "tiers": (HOST,), **changes})


def test_a_load_needs_to_know_its_bytes():
    with pytest.raises(InputError, match="kv_bytes_per_token"):
        run(PUSHED_OUT, profile=replace(PLAIN, kv_bytes_per_token=None))
    with pytest.raises(InputError, match=r"name\(='host 1'\)"):
        replace(HOST, name="host 1")


COSTLY = ServerProfile(
    name="test",
    coefficients=Coefficients(
        host_s=0.001, host_per_seq_s=1e-5, base_s=0.003, per_token_s=5e-3, attention_s=3.3e-7,
        per_decode_s=4.19e-5, per_kv_token_s=7.55e-8, per_kv_token_mixed_s=1.3e-7,
    ),
    kv_tokens=1_000_000,
    kv_bytes_per_token=1000,
)  # fmt: skip

visits = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.05, 0.3, 1.0]),  # gaps: ties, bursts, idle time
        st.integers(0, 3),
        st.sampled_from([0, 30, 64, 70, 120]),
        st.sampled_from([0, 1, 2, 9, 30]),
        st.none() | st.none() | st.sampled_from([0.0, 0.02, 0.1, 0.4, 1.0]),  # cancelled after
    ),
    min_size=4,
    max_size=25,
)
levels = st.lists(
    st.builds(
        Tier,
        name=st.just("tier"),
        capacity_tokens=st.sampled_from([40, 160, 1000]),
        load_bytes_per_s=st.sampled_from([1e5, 3e5, 1e6, 1e12]),  # slower than computing, about as fast, faster, at once
        latency_s=st.sampled_from([0.0, 1e-4, 0.02]),
        policy=st.sampled_from(["lru", "fifo", "lfu", "sieve"]),
        shared_by=st.sampled_from([1, 2, None]),
    ),
    min_size=1,
    max_size=3,
).map(lambda found: tuple(replace(tier, name=f"tier{i}") for i, tier in enumerate(found)))
instants = st.integers(0, 400).map(lambda step: step / 100 + 0.001)
breakdowns = st.lists(
    st.one_of(
        st.builds(Crash, at_s=instants, replica=st.just(0), down_s=st.sampled_from([0.05, 0.05, None])),
        st.builds(Slow, at_s=instants, replica=st.just(0), factor=st.just(3.0), for_s=st.just(0.2)),
        st.builds(TierOutage, at_s=instants, tier=st.just("tier0"), for_s=st.sampled_from([0.02, 1.0])),
        st.builds(TierOutage, at_s=instants, tier=st.just("tier0"), for_s=st.sampled_from([0.02, 1.0])),
    ),
    max_size=5,
).map(tuple)


@settings(max_examples=300, deadline=None)
@given(
    workload=visits,
    kv_blocks=st.integers(36, 60),
    seats=st.integers(1, 6),
    budget=st.sampled_from([4, 32, 200]),
    visibility=st.sampled_from(["scheduled", "computed"]),
    replicas=st.integers(1, 2),
    async_scheduling=st.booleans(),
    policy=st.sampled_from(["fcfs", "priority"]),
    threshold=st.sampled_from([0, 12]),
    watermark=st.sampled_from([0.0, 0.1]),
    tiers=levels,
    tier_write=st.sampled_from(["write_through", "write_through_selective", "write_back"]),
    tier_blocks=st.integers(1, 3),
    faults=breakdowns,
)
def test_jumping_gives_the_records_of_stepping_with_tiers(
    workload, kv_blocks, seats, budget, visibility, replicas, async_scheduling, policy, threshold, watermark, tiers, tier_write,
    tier_blocks, faults,
):  # fmt: skip
    server = Cluster(
        profile=COSTLY, kv_tokens=kv_blocks * 4, block_tokens=4, max_num_seqs=seats, max_num_batched_tokens=budget,
        visibility=visibility, replicas=replicas, async_scheduling=async_scheduling, policy=policy,
        long_prefill_token_threshold=threshold, watermark=watermark, tiers=tiers, tier_write=tier_write,
        tier_block_tokens=4 * tier_blocks, faults=faults,
    )  # fmt: skip
    jumped = play(workload, COSTLY, server)
    assert jumped == play(workload, COSTLY, replace(server, jump=False))
    loaded = sum(jumped[f"hit_tokens_{tier}"] for tier in jumped.tiers)
    assert (loaded <= jumped.hit_tokens).all()
    assert (jumped.hit_tokens <= np.maximum(0, jumped.prompt_tokens - 1)).all()
    assert (jumped.load_wait_ns >= 0).all()
    assert set(jumped.outcome.tolist()) <= {"ok", "cancelled", "rejected", "failed"}


def chat_on_two_replicas(seed: int) -> tuple[Scenario, Scenario]:
    """A crowd with shared beginnings, answers that come back and warm-ups, on two replicas with tight memory: jumping, stepping."""
    draw = random.Random(seed)
    at_s, requests = 0.0, []
    for i in range(60):
        at_s += draw.choice([0, 0, 0.001, 0.02, 0.1, 0.5])
        prompt = [Segment(f"s{draw.randrange(3)}", draw.choice([64, 160, 330]))]
        if draw.random() < 0.7:
            prompt.append(Segment(f"d{draw.randrange(6)}", draw.choice([100, 256, 700])))
        if draw.random() < 0.5:
            prompt.append(Segment(f"q{i}", draw.choice([1, 7, 40])))
        answer = Segment(f"a{draw.randrange(20)}", draw.choice([1, 2, 30, 90]))
        kind, priority = draw.choice(["user", "user", "warm"]), draw.choice([0, 1])
        requests.append(Request(at_s, tuple(prompt), answer, kind=kind, priority=priority))
    tiers = tuple(
        Tier(
            name=f"t{level}",
            capacity_tokens=draw.choice([512, 2048, 8192]),
            load_bytes_per_s=draw.choice([1e8, 1e9, 2e10]),
            shared_by=draw.choice([1, None]),
        )
        for level in range(draw.choice([1, 2]))
    )
    router = draw.choice(sorted(set(ROUTERS) - {"sticky"}))
    server = {
        "profile": "llama-3-8b/a100/tp1",
        "replicas": 2,
        "kv_tokens": draw.choice([1600, 3200]),
        "tiers": tiers,
        "tier_write": draw.choice(WRITES),
        "tier_block_tokens": draw.choice([16, 64]),
        "router": router,
        "max_num_seqs": draw.choice([2, 4, 16]),
        "max_num_batched_tokens": draw.choice([64, 256, 2048]),
    }
    workload = RequestList(rows=tuple(requests))
    jumping, stepping = (Scenario(workload=workload, backend=Cluster(**server, jump=jump)) for jump in (True, False))
    return jumping, stepping


@pytest.mark.parametrize("seed", [*range(20), 102, 230, 259, 348, 560, 2590])  # the last six differed once
def test_who_used_and_who_lost_what_is_the_same_whether_steps_are_jumped_over_or_not(seed):
    jumping, stepping = chat_on_two_replicas(seed)
    assert simulate(jumping).records == simulate(stepping).records
