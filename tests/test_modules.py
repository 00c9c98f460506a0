"""Modules beside prefixes: every figure of a small world by hand, invariants under random use, and study 08."""

from __future__ import annotations

import importlib.util
import re
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcache.cache.modules import Encoding, ModuleMemory, ModuleStore, compare_reuse
from simcache.errors import InputError
from simcache.latency import LatencyModel, load_profile
from simcache.pml import Module, PlacedSegment, parse_prompt, parse_schema
from simcache.prompt import Segment

ROOT = Path(__file__).parent.parent
STUDY = ROOT / "studies" / "08_modules.py"

KV_BYTES = 1_000
SLOW = ModuleMemory(name="host", bytes_per_s=1e8)


def prefill_s(new: float, present: float) -> float:
    """10 ms a step, 1 ms a token, 1 us for each pair of tokens that attend to each other."""
    return 0.010 + 1e-3 * new + 1e-6 * new * (present + new / 2)


def module(name: str, tokens: int, version: str = "v1", holes: int = 0) -> Module:
    return Module(name, version, tokens, tokens + holes)


def ask(*parts: Module | int):
    """Modules, and new text as its number of tokens."""
    return tuple(
        PlacedSegment(Segment(("new", index, part), part), 9_000 + index, None)
        if isinstance(part, int)
        else PlacedSegment(Segment((part.name, part.version), part.tokens), 0, part)
        for index, part in enumerate(parts)
    )


def store(*memories: ModuleMemory) -> ModuleStore:
    return ModuleStore(prefill_s=prefill_s, kv_bytes_per_token=KV_BYTES, memories=memories or (SLOW,))


A, B, C = module("a", 300), module("b", 200), module("c", 100)


# --- one request, by hand ---------------------------------------------------------------------------------------------------


def test_loading_is_bytes_over_bandwidth_and_only_new_text_is_computed():
    full = store()
    full.encode([A, B])
    served = full.serve(ask(A, B, 50))
    assert served[:4] == (550, 500, 0, 50)
    assert served.load_s == pytest.approx(500 * 1_000 / 1e8)
    assert served.encode_s == 0
    assert served.compute_s == pytest.approx(0.010 + 0.050 + 1e-6 * 50 * 525)
    assert served.ttft_s == pytest.approx(0.005 + 0.08625)


def test_order_does_not_matter_to_modules():
    full = store()
    full.encode([A, B, C])
    assert len({full.serve(ask(*order, 50)) for order in permutations((A, B, C))}) == 1


def test_a_missing_module_is_encoded_first_by_the_request_that_needs_it():
    empty = store()
    first, second = empty.serve(ask(A, 50)), empty.serve(ask(A, 50))
    assert first[:4] == (350, 0, 300, 50)
    assert (first.load_s, first.encode_s) == (0, pytest.approx(prefill_s(300, 0)))
    assert first.compute_s == second.compute_s == pytest.approx(prefill_s(50, 300))
    assert second[:4] == (350, 300, 0, 50)
    assert second.encode_s == 0


def test_placeholders_are_computed_and_not_loaded():
    holed = module("h", 300, holes=20)
    full = store()
    assert full.encode([holed]).seconds == pytest.approx(prefill_s(320, 0))
    assert full.serve(ask(holed, 50)).load_s == pytest.approx(0.003)


def test_the_last_token_of_a_prompt_is_always_computed():
    full = store()
    assert full.serve(ask(A))[:4] == (300, 0, 299, 1)
    assert full.serve(ask(A))[:4] == (300, 299, 0, 1)


def test_a_module_twice_in_a_prompt_counts_once_as_pieces_of_it():
    pieces = (
        PlacedSegment(Segment("x", 100), 0, A),
        PlacedSegment(Segment("q", 5), 900, None),
        PlacedSegment(Segment("y", 200), 100, A),
    )
    full = store()
    full.encode([A])
    assert full.serve(pieces)[:4] == (305, 300, 0, 5)


# --- encoding ahead ---------------------------------------------------------------------------------------------------------


def test_encoding_ahead_is_charged_in_seconds_bytes_and_dollars():
    encoding = store().encode([A, B, C])
    assert (encoding.modules, encoding.replaced, encoding.too_large) == (3, 0, 0)
    assert encoding.seconds == pytest.approx(0.355 + 0.230 + 0.115)
    assert encoding.stored_bytes == 600_000
    assert encoding.cost_usd(3_600) == pytest.approx(0.700)


def test_what_is_stored_is_not_encoded_again_and_what_changed_is():
    full = store()
    full.encode([A, B])
    again = full.encode([A, module("b", 250, "v2"), C])
    assert (again.modules, again.replaced, again.stored_bytes) == (2, 1, 350_000)
    assert full.held_bytes == [650_000]
    assert full.serve(ask(module("b", 250, "v2"), 1)).encode_s == 0
    full.check()


def test_a_changed_module_is_encoded_by_the_next_request_and_the_old_states_go():
    full = store()
    full.encode([A, B])
    changed = module("a", 280, "v2")
    served = full.serve(ask(changed, B, 10))
    assert (served.hit_tokens, served.encoded_tokens) == (200, 280)
    assert served.encode_s == pytest.approx(prefill_s(280, 0))
    assert (full.replaced, full.held_bytes) == (1, [480_000])
    assert full.serve(ask(A, 10)).encoded_tokens == 300  # back again: encoded again
    full.check()


def test_an_edit_that_moves_positions_encodes_everything_behind_it():
    def library(first: str):
        return parse_schema(
            f'<schema name="s"><module name="a">{first}</module><module name="b">three words here</module></schema>',
            count_tokens=lambda text: len(text.split()),
        )

    full = store()
    full.encode(library("one two").modules)
    kept = library("six six")
    assert full.encode(kept.modules).replaced == 1
    moved = library("one two three")
    prompt = parse_prompt('<prompt schema="s"><b/>why</prompt>', moved)
    assert full.serve(prompt).encoded_tokens == 3


# --- memories ---------------------------------------------------------------------------------------------------------------


def two_memories() -> ModuleStore:
    fast = ModuleMemory(name="GPU", bytes_per_s=1e9, capacity_bytes=400_000)
    return store(fast, ModuleMemory(name="host", bytes_per_s=1e8, capacity_bytes=300_000))


def test_the_last_used_stay_in_the_fast_memory_and_the_rest_moves_down():
    both = two_memories()
    both.encode([A, C])
    assert both.held_bytes == [400_000, 0]
    both.encode([B])  # 600 kB: a, the oldest, moves down
    assert both.held_bytes == [300_000, 300_000]
    assert both.serve(ask(A, 1)).load_s == pytest.approx(300_000 / 1e8)
    assert both.serve(ask(A, 1)).load_s == pytest.approx(300_000 / 1e9)  # it stayed up; c went down
    assert both.held_bytes == [300_000, 300_000]
    assert both.serve(ask(C, 1)).load_s == pytest.approx(100_000 / 1e8)
    assert both.evicted == 0
    both.encode([module("d", 350)])
    assert both.evicted > 0
    both.check()


def test_what_one_prompt_needs_is_loaded_before_any_of_it_moves():
    both = two_memories()
    both.encode([B, A])
    assert both.held_bytes == [300_000, 200_000]
    served = both.serve(ask(B, A, module("d", 380), 1))
    assert served.load_s == pytest.approx(200_000 / 1e8 + 300_000 / 1e9)
    assert served.encoded_tokens == 380
    both.check()


def test_a_module_too_large_for_the_fast_memory_lives_in_the_slow_one():
    both = store(ModuleMemory(name="GPU", bytes_per_s=1e9, capacity_bytes=100_000), SLOW)
    both.encode([C, A])
    assert both.held_bytes == [100_000, 300_000]


def test_a_module_too_large_for_every_memory_is_computed_every_time():
    small = store(ModuleMemory(name="GPU", bytes_per_s=1e9, capacity_bytes=150_000))
    assert small.encode([A, C]) == Encoding(modules=1, replaced=0, too_large=1, seconds=prefill_s(100, 0), stored_bytes=100_000)
    for _ in range(2):
        served = small.serve(ask(A, C, 50))
        assert served[:4] == (450, 100, 0, 350)
        assert served.compute_s == pytest.approx(prefill_s(350, 100))
    assert small.encoded == 1


def test_no_room_at_all_is_computing_everything():
    nothing = store(ModuleMemory(name="none", bytes_per_s=1.0, capacity_bytes=0))
    assert nothing.serve(ask(A, 50)).ttft_s == pytest.approx(prefill_s(350, 0))


requests = st.lists(
    st.lists(st.tuples(st.integers(0, 7), st.integers(1, 2)), max_size=5, unique_by=lambda pair: pair[0]), min_size=1, max_size=30
)


@given(requests, st.lists(st.one_of(st.none(), st.integers(0, 1_500_000)), min_size=1, max_size=3))
def test_invariants_under_random_use(stream, capacities):
    each = store(*(ModuleMemory(name=str(i), bytes_per_s=10.0 ** (9 - i), capacity_bytes=c) for i, c in enumerate(capacities)))
    for wanted in stream:
        parts = [module(f"m{number}", 50 + 90 * number, f"v{version}") for number, version in wanted]
        served = each.serve(ask(*parts, 7))
        each.check()
        assert served.prompt_tokens == served.hit_tokens + served.encoded_tokens + served.new_tokens
        again = each.serve(ask(*parts, 7))
        each.check()
        if None in capacities:
            assert again.encoded_tokens == 0
            assert again.new_tokens == 7
        assert again.hit_tokens <= served.hit_tokens + served.encoded_tokens


# --- bad input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: ModuleMemory(name="x", bytes_per_s=0),
        lambda: ModuleMemory(name="x", bytes_per_s=float("inf")),
        lambda: ModuleMemory(name="x", bytes_per_s=1, capacity_bytes=-1),
        lambda: ModuleStore(prefill_s=prefill_s, kv_bytes_per_token=0, memories=[SLOW]),
        lambda: ModuleStore(prefill_s=prefill_s, kv_bytes_per_token=1, memories=[]),
        lambda: store().serve(()),
        lambda: store().serve((PlacedSegment(Segment("x", 299), 0, A),)),
        lambda: store().serve(ask(A, module("a", 300, "v2"))),
        lambda: store().encode([A]).cost_usd(-1),
        lambda: compare_reuse([], prefill_s=prefill_s, kv_bytes_per_token=1, memories=[SLOW]),
    ],
)
def test_impossible_values_are_refused(make):
    with pytest.raises(InputError):
        make()


# --- beside prefixes --------------------------------------------------------------------------------------------------------


def compared(prompts, offline=(), memory=SLOW):
    return compare_reuse(prompts, prefill_s=prefill_s, kv_bytes_per_token=KV_BYTES, memories=[memory], offline=offline)


def test_documents_in_one_order_are_all_a_prefix_needs():
    found = compared([ask(A, B, 50)] * 3, [A, B])
    assert found.prefix_hit_tokens.tolist() == [0, 544, 544]  # whole blocks of 16
    later = found.prefix_ttft_s[1:], found.modules_ttft_s[1:]
    assert (later[0] < later[1]).all()


def test_documents_in_changing_order_are_what_modules_are_for():
    found = compared([ask(A, B, 50), ask(B, A, 50)], [A, B])
    assert found.prefix_hit_tokens.tolist() == [0, 0]
    assert found.module_hit_tokens.tolist() == [500, 500]
    assert found.cold_ttft_s == pytest.approx([prefill_s(550, 0)] * 2)
    assert found.prefix_ttft_s == pytest.approx(found.cold_ttft_s)
    assert found.modules_ttft_s == pytest.approx([0.09125] * 2)
    assert found.machine_s["modules"] == pytest.approx(2 * 0.09125 + 0.355 + 0.230)
    saved_s = prefill_s(550, 0) - 0.09125
    assert found.break_even_requests() == pytest.approx(0.585 / saved_s)
    assert found.cost_usd(3_600)["cold"] == pytest.approx(2 * prefill_s(550, 0))


def test_after_the_break_even_number_of_requests_the_machine_has_worked_as_long():
    orders = [ask(*order, 50 + i) for i, order in enumerate(permutations((A, B, C)))]
    found = compared(orders, [A, B, C])
    n, means = found.break_even_requests("cold"), found.mean_ttft_s
    assert n * means["cold"] == pytest.approx(n * means["modules"] + found.offline.seconds)


def test_nothing_saved_never_breaks_even():
    crawling = ModuleMemory(name="tape", bytes_per_s=1_000)
    found = compared([ask(A, B, 50)] * 3, [A, B], crawling)
    assert found.break_even_requests() is None
    with pytest.raises(InputError):
        found.break_even_requests("modules")


def test_both_ways_get_the_same_bytes():
    memory = ModuleMemory(name="host", bytes_per_s=1e8, capacity_bytes=600_000)  # one prompt of 560 tokens, not two
    found = compared([ask(A, B, 51), ask(B, A, 52), ask(A, B, 53)], [A, B], memory)
    assert found.prefix_hit_tokens.tolist() == [0, 0, 0]
    assert found.module_hit_tokens.tolist() == [500] * 3
    found = compared([ask(A, B, 51), ask(B, A, 52), ask(A, B, 53)], [A, B])
    assert found.prefix_hit_tokens.tolist() == [0, 0, 496]


def test_a_prompt_larger_than_the_memory_hits_no_prefix():
    memory = ModuleMemory(name="host", bytes_per_s=1e8, capacity_bytes=400_000)
    found = compared([ask(A, B, 50)] * 2, [], memory)
    assert found.prefix_hit_tokens.tolist() == [0, 0]


def test_a_fitted_model_and_a_profile_time_alike():
    model = LatencyModel().fit([512, 1024, 2048], [0, 0, 0], [0.06, 0.11, 0.21], form="linear")
    prompts = [ask(A, B, 50), ask(B, A, 50)]
    by_model = compare_reuse(prompts, prefill_s=model.predict_s, kv_bytes_per_token=1, memories=[SLOW])
    assert by_model.cold_ttft_s == pytest.approx([model.predict_s(550)] * 2)
    profile = load_profile("llama-3-8b/a100/tp1")
    by_profile = compare_reuse(prompts, prefill_s=profile.prefill_s, kv_bytes_per_token=1, memories=[SLOW])
    assert by_profile.cold_ttft_s == pytest.approx([profile.prefill_s(550)] * 2)


def test_the_docs_run():
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "modules.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/modules.md", "exec"), names)


# --- study 08 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("study_08", STUDY)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def test_the_published_example_comes_out_of_its_fit(study):
    for example in study.PUBLISHED:
        cold_s, modules_s = study.published_ttft_s(example, study.fitted(example), study.PERSONA_TOKENS)
        assert cold_s == pytest.approx(example.cold_s, rel=1e-9)
        assert modules_s == pytest.approx(example.modules_s, rel=1e-9)


def test_the_fitted_seconds_are_possible_on_those_devices(study):
    # 13.5 GFLOP a token (twice the parameters). Dense peaks: RTX 4090 165 TFLOP/s in 16 bits; i9-13900K about 2.5 in 32 bits.
    rates = [13.5e9 / study.fitted(example).coefficients.per_token_s for example in study.PUBLISHED]
    assert 0.2 < rates[0] / 165e12 < 0.8
    assert 0.2 < rates[1] / 2.5e12 < 0.8
    # a CPU must read 27 GB of weights for any token: at most 90 GB/s of two channels of DDR5-5600
    assert 27e9 / study.fitted(study.PUBLISHED[1]).coefficients.base_s < 90e9


def test_the_docs_state_the_fitted_parameters(study):
    text = (ROOT / "docs" / "modules.md").read_text(encoding="utf-8")
    gpu, cpu = (study.fitted(example).coefficients for example in study.PUBLISHED)
    assert f"| {gpu.per_token_s * 1e6:.1f}e-6 | {cpu.per_token_s * 1e3:.2f}e-3 |" in text
    assert f"| {gpu.base_s * 1e3:.1f}e-3 | {cpu.base_s * 1e3:.0f}e-3 |" in text


def test_the_shape_of_the_gain(study):
    for example in study.PUBLISHED:
        profile = study.fitted(example)
        ttfts = np.array([study.published_ttft_s(example, profile, length) for length in study.LENGTHS])
        gains = ttfts[:, 0] / ttfts[:, 1]
        assert (np.diff(gains) > 0).all()  # longer modules, larger gain
        length = study.length_of_gain(example, profile, study.CLAIMED[example.device])
        assert study.LENGTHS[0] < length < 4_096
        cold_s, modules_s = study.published_ttft_s(example, profile, round(length))
        assert cold_s / modules_s == pytest.approx(study.CLAIMED[example.device], rel=1e-3)


def test_modules_win_where_the_order_changes_and_lose_where_it_does_not(study):
    lines, found = study.orders(60)
    assert lines["prefix, the same four"][0] < lines["modules, host"][0]
    assert lines["prefix, the same four"][-1] > lines["modules, host"][-1]
    assert min(lines["prefix, any four"]) > max(lines["modules, host"])
    assert len(set(lines["modules, host"])) == 1  # no order matters to them
    assert found.offline.modules == study.DOCUMENTS + 1
    assert found.offline.stored_bytes == 40_500 * 131_072


def test_an_edit_costs_more_where_it_moves_positions(study):
    lines = study.edits(40)
    kept, moved = lines["modules, edits keep positions"], lines["modules, edits move all behind"]
    assert all(one < other for one, other in zip(kept[:-2], moved[:-2], strict=True))
    assert kept[-1] == pytest.approx(moved[-1], rel=1e-9)  # 40 requests see no edit that comes every 50 or 100
    assert kept[0] > kept[-1]


def test_the_study_draws_one_figure_and_answers_in_one_sentence(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "FIGURES", tmp_path)
    answer = study.main(quick=True)
    assert "3.7x on the RTX 4090" in answer
    assert "35.0x on the i9-13900K" in answer
    assert "\n" not in answer
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")] == ["quick/08_modules.png"]
