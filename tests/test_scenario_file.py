"""Scenario files: what a person writes, what they get, and what they are told when it is wrong."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import simcache as sc
from simcache.errors import InputError
from simcache.scenario_file import load_scenarios, parse_scenarios, preset_names, read_scenarios, to_toml
from simcache.scenario_kinds import FAMILIES, INNER_KINDS
from simcache.workload.distributions import LogNormal
from simcache.workload.typist import Typing

BASE = """
name = "base"
duration_s = 600
[workload]
kind = "typing-sessions"
users = 3
[backend]
kind = "server"
kv_tokens = 64_000
"""


def one(text: str, *overrides: str) -> sc.Scenario:
    (scenario,) = parse_scenarios(text, overrides).scenarios
    return scenario


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_scenarios(text, overrides, path=Path("asked.toml"))
    return str(caught.value)


def test_a_file_is_the_scenario_that_python_would_make() -> None:
    assert one(BASE + "[warming]\nkind = 'after-pause'\npause_s = 2") == sc.Scenario(
        name="base",
        duration_s=600,
        workload=sc.TypingSessions(users=3),
        backend=sc.Server(kv_tokens=64_000),
        warming=sc.WarmAfterPause(pause_s=2),
    )


def test_a_value_may_be_a_distribution_or_a_table_of_its_own() -> None:
    scenario = one(
        BASE + "[workload.document_tokens]\nkind = 'log-normal'\nmedian = 5_000\nsigma = 0.5\n[workload.typist]\nword_keys = 6"
    )
    assert isinstance(scenario.workload, sc.TypingSessions)
    assert scenario.workload.document_tokens == LogNormal(median=5_000, sigma=0.5)
    assert scenario.workload.typist == sc.Typist(word_keys=6)


def test_requests_can_be_written_down() -> None:
    rows = '[[workload.rows]]\narrived_at_s = 0\nprompt = [["tools", 926]]\noutput = ["a", 20]\nkind = "warm"\nsession = "s"\n'
    scenario = one(f'[workload]\nkind = "requests"\n{rows}[backend]\nkind = "server"')
    assert isinstance(scenario.workload, sc.RequestList)
    segment = sc.Segment("tools", 926)
    assert scenario.workload.rows == (sc.Request(0, (segment,), sc.Segment("a", 20), kind="warm", session="s"),)
    assert one(to_toml(scenario)) == scenario


def test_variants_lay_over_the_file_and_another_kind_takes_the_place() -> None:
    text = (
        BASE
        + """
[[variants]]
name = "as it stands"
[[variants]]
name = "more memory"
backend = { kv_tokens = 128_000 }
[[variants]]
name = "two of them"
backend = { kind = "cluster", replicas = 2 }
slo_ttft_s = 2
"""
    )
    read = parse_scenarios(text)
    assert read.name == "base"
    assert [scenario.name for scenario in read.scenarios] == ["as it stands", "more memory", "two of them"]
    assert [scenario.backend for scenario in read.scenarios] == [
        sc.Server(kv_tokens=64_000),
        sc.Server(kv_tokens=128_000),
        sc.Cluster(replicas=2),  # its own kind: nothing of the server's table is left
    ]
    assert [scenario.slo_ttft_s for scenario in read.scenarios] == [1.0, 1.0, 2]


def test_set_reaches_every_variant_that_knows_the_key_and_says_which() -> None:
    variants = "\n[[variants]]\nname = 'one'\n[[variants]]\nname = 'two'\nbackend = { kind = 'cluster', replicas = 2 }\n"
    read = parse_scenarios(BASE + variants, ["backend.replicas=4", "workload.users=7", "warming.kind=on-focus", "seeds=3"])
    assert [getattr(scenario.backend, "replicas", None) for scenario in read.scenarios] == [None, 4]
    assert {scenario.workload.users for scenario in read.scenarios} == {7}  # type: ignore[union-attr]
    assert {type(scenario.warming) for scenario in read.scenarios} == {sc.WarmOnFocus}
    assert read.seeds == 3
    assert read.notes == ("--set backend.replicas applies to 1 of 2 variants: two",)


def test_a_value_on_the_command_line_is_toml_or_else_a_text() -> None:
    assert one(BASE, "name=a b = c").name == "a b = c"
    assert one(BASE, 'workload.typing_s={kind="log-normal", median=2, sigma=1}').workload.typing_s == LogNormal(median=2, sigma=1)  # type: ignore[union-attr]
    assert one(BASE, "backend.kv_tokens=none").backend.kv_tokens is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("workload.typing_ms = 3", ["workload.typing_ms(=3)", "'typing_s'"]),
        ("workload.typing_s = '3'", ["workload.typing_s(='3')", "a number", "log-normal", "'none'"]),
        ("workload.typing_s = { kind = 'log-normal', median = 3 }", ["workload.typing_s.sigma(=None)", "must be given"]),
        ("workload.typing_s = { kind = 'log-normal', median = -3, sigma = 1 }", ["workload.typing_s.median(=-3)", "above 0"]),
        ("workload.typing_s = { kind = 'lognormal', median = 3 }", ["workload.typing_s.kind(='lognormal')", "'log-normal'"]),
        ("workload.typing_s = true", ["workload.typing_s(=True)", "a number"]),
        ("workload.typing_s = 1979-05-27", ["workload.typing_s(", "a number"]),
        ("workload.typist = { word_key = 3 }", ["workload.typist.word_key(=3)", "'word_keys'"]),
        ("workload.typist = { word_keys = 0 }", ["workload.typist.word_keys(=0)", "at least 1"]),
        ("workload.typist = 5", ["workload.typist(=5)", "a table"]),
        ("workload.arrivals_per_s = 3", ["workload.users(=3)", "only one"]),
        ("backend.kv_tokens = 5", ["backend.kv_tokens(=5)", "must hold one block of 16 tokens"]),
        ("backend.kv_tokens = 5.0", ["backend.kv_tokens(=5.0)", "a whole number or 'none'"]),
        ("backend.visibility = 'soon'", ["backend.visibility(='soon')", "'scheduled' or 'computed'"]),
        ("backend.prefix_caching = 'yes'", ["backend.prefix_caching(='yes')", "true or false"]),
        ("backend.replicas = 2", ["backend.replicas(=2)", "backend kind 'server'"]),
        ("warming.pause_s = 2", ["warming.kind", "must be given", "after-pause"]),
        ("warming.kind = 'on-fokus'", ["warming.kind(='on-fokus')", "'on-focus'"]),
        ("warming = 'on-focus'", ["warming(='on-focus')", "[warming]"]),
        ("users = 3", ["users(=3)", "'workload.users'"]),
        ("duration = 3", ["duration(=3)", "'duration_s'"]),
        ("duration_s = inf", ["duration_s(=inf)", "finite"]),
        ("duration_s = nan", ["duration_s(=nan)", "finite"]),
        ("slo_ttft_s = -1", ["slo_ttft_s(=-1)", "above 0"]),
        ("seeds = 0", ["seeds(=0)", "at least 1"]),
        ("seeds = 200_000", ["seeds(=200000)", "at most 100000"]),
        ("seeds = 2.5", ["seeds(=2.5)", "a whole number"]),
        ("schema_version = 2", ["schema_version(=2)", "must be 1"]),
        ("variants = []", ["variants(=[])", "[[variants]]"]),
        ("variants = [{ slo_ttft_s = 2 }]", ["variants[0].name(=None)", "name of its own"]),
        ("variants = [{ name = 'a' }, { name = 'a' }]", ["variants[1].name(='a')", "earlier variant"]),
        ("variants = [{ name = 'a', seeds = 3 }]", ["variants[0].seeds(=3)", "not a key"]),
        ("name = ", ["must be TOML", "line 1"]),
        ("seeds = " + "9" * 5000, ["must be TOML"]),
        ("seeds = " + "9" * 400, ["seeds(=an integer of", "must be finite"]),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, said: list[str]) -> None:
    rest = "workload.kind = 'typing-sessions'\nworkload.users = 3\nbackend.kind = 'server'\n"
    message = refusal(f"{text}\n{rest}")
    assert message.startswith("asked.toml: ")
    assert "\n" not in message
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("workload.typing_ms=4", ["workload.typing_ms(=4)", "'typing_s'"]),
        ("backend.replicas=4", ["backend.replicas(=4)", "this scenario's backend"]),
        ("nothing", ["--set(='nothing')", "KEY=VALUE"]),
        ("a b=3", ["--set(='a b=3')", "KEY=VALUE"]),
        ("variants=3", ["variants", "not a key"]),
        ("x=1\ny=2", ["--set", "not a key"]),
    ],
)
def test_what_is_wrong_on_the_command_line(override: str, said: list[str]) -> None:
    message = refusal(BASE, override)
    for part in said:
        assert part in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist.*demo"):
        load_scenarios("dmo")
    with pytest.raises(InputError, match="Is a directory"):
        load_scenarios(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        load_scenarios(tmp_path / "binary.toml")
    (tmp_path / "deep.toml").write_text("x = " + "[" * 100_000)
    with pytest.raises(InputError, match="TOML"):
        load_scenarios(tmp_path / "deep.toml")


def test_paths_inside_a_file_start_beside_it(tmp_path: Path) -> None:
    (tmp_path / "asked.toml").write_text("workload = { kind = 'trace', path = 't.jsonl' }\nbackend.kind = 'server'")
    (scenario,) = load_scenarios(tmp_path / "asked.toml")
    assert scenario.workload.path == str(tmp_path / "t.jsonl")  # type: ignore[union-attr]
    assert scenario.name == "asked"


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_scenario_reads_and_survives_the_way_out_and_back(name: str) -> None:
    read = read_scenarios(name)
    assert read.name == name
    for scenario in read.scenarios:
        assert one(to_toml(scenario)) == scenario


numbers = st.floats(min_value=1e-6, max_value=1e6) | st.integers(min_value=1, max_value=10**9)
laws = numbers | st.builds(LogNormal, median=numbers, sigma=numbers)
texts = st.text(min_size=1, max_size=20)
servers: dict[str, Any] = {
    "kv_tokens": st.none() | st.integers(min_value=16, max_value=10**9),
    "ttl_s": st.none() | numbers,
    "ttl_kind": st.sampled_from(["sliding", "fixed"]),
    "prefix_caching": st.booleans(),
}
tiers = st.builds(
    sc.Tier,
    name=st.sampled_from(["host", "disk"]),
    capacity_tokens=st.integers(min_value=0, max_value=10**9),
    load_bytes_per_s=numbers,
    policy=st.sampled_from(["lru", "sieve"]),
    shared_by=st.none() | st.integers(min_value=1, max_value=9),
)
outages = st.builds(sc.TierOutage, at_s=numbers, tier=st.just("host"), for_s=numbers)
backends = st.one_of(
    st.builds(sc.Server, **servers),
    st.builds(sc.Server, tiers=st.lists(tiers, max_size=2, unique_by=lambda tier: tier.name).map(tuple)),
    st.builds(sc.Cluster, tiers=st.just((sc.Tier(name="host", capacity_tokens=1, load_bytes_per_s=1),)), faults=st.tuples(outages)),
    st.builds(sc.Cluster, replicas=st.integers(min_value=1, max_value=64), **servers),
    st.builds(
        sc.HostedApi, provider=texts, model=texts, profile=texts, jitter=st.booleans(), requests_per_minute=st.none() | numbers
    ),
)
workloads = st.one_of(
    st.builds(sc.TypingSessions, users=st.integers(min_value=1, max_value=99), typing_s=st.none() | laws, read_think_s=laws),
    st.builds(
        sc.TraceWorkload, path=texts.filter(lambda text: "\0" not in text), limit=st.none() | st.integers(min_value=1, max_value=99)
    ),
    st.builds(sc.PoissonRequests, rate_per_s=numbers, count=st.just(3), prompt_tokens=st.just(8), output_tokens=st.just(1)),
)
policies = st.one_of(st.just(sc.NoWarming()), st.builds(sc.WarmAfterPause, pause_s=numbers, cancel_on_abandon=st.booleans()))


@given(
    st.builds(
        sc.Scenario,
        workload=workloads,
        backend=backends,
        warming=policies,
        name=texts,
        duration_s=st.none() | numbers,
        slo_ttft_s=numbers,
    )
)
def test_any_scenario_survives_the_way_out_and_back(scenario: sc.Scenario) -> None:
    assert one(to_toml(scenario)) == scenario


@given(
    st.dictionaries(
        st.sampled_from(["users", "kind", "questions", "typing_s", "typist"]), st.integers() | st.text() | st.lists(st.integers())
    )
)
def test_any_table_is_a_scenario_or_one_clear_error(table: dict[str, Any]) -> None:
    lines = [f"{key} = {value!r}" if not isinstance(value, str) else f"{key} = '''{value}'''" for key, value in table.items()]
    text = "[workload]\n" + "\n".join(lines) + "\n[backend]\nkind = 'server'\n"
    with suppress(InputError):
        assert parse_scenarios(text).scenarios


def test_what_only_python_can_spell_is_said_in_a_comment() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mine(sc.WarmingPolicy):
        def warm_ups(self, typing: Typing, prefix_tokens: int) -> tuple[sc.WarmUp, ...]:
            return (sc.WarmUp(1.0),)

    scenario = one(BASE).but(warming=Mine())
    text = to_toml(scenario)
    assert "# " in text
    assert "a Python object that a file cannot spell" in text
    assert one(text.replace("[warming]", "")) == scenario.but(warming=sc.NoWarming())  # what is left is still a scenario


def test_a_profile_object_is_written_out_and_read_back() -> None:
    scenario = one(BASE).but(backend=sc.Server(profile=sc.load_profile("llama-3-8b/a100/tp1")))  # type: ignore[arg-type]
    assert one(to_toml(scenario)) == scenario


def test_kinds_are_kebab_case_and_each_class_has_one() -> None:
    for kinds in (*FAMILIES.values(), INNER_KINDS):
        assert all(kind == kind.lower() and "_" not in kind and " " not in kind for kind in kinds)
        assert len(set(kinds.values())) == len(kinds)


def test_a_number_that_no_float_can_hold_is_refused() -> None:
    assert "slo_ttft_s(=an integer of" in refusal(
        "slo_ttft_s = 1" + "0" * 400 + "\nworkload = { kind = 'typing-sessions', users = 1 }\nbackend.kind = 'server'"
    )


def test_the_blocks_of_the_docs_are_scenarios() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "scenario-files.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert [scenario.name for block in blocks for scenario in parse_scenarios(block).scenarios] == [
        "as it is",
        "warmed",
        "two GPUs, warmed",
        "host and disk",
    ]
    assert all(f"`{name}`" in text for name in preset_names())
