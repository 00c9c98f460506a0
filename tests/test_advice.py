"""Layout advice: every planted defect is found, at its place, and nothing else; clean logs report none; no text gets out."""

from __future__ import annotations

import json
import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.advice.advisor import Advice, advise
from simcache.advice.kinds import KINDS
from simcache.advice.outline import configuration, layout_diff
from simcache.advice.pieces import change_of, pieces_of
from simcache.cli import main
from simcache.errors import InputError
from simcache.messages.reader import read_messages
from tests import message_logs as logs
from tests.message_logs import Planter, Rows

SHAPES: Final[dict[str, Callable[[int], Rows]]] = {
    "chat": logs.chat,
    "chat in one line": lambda seed: logs.chat(seed, joint=" "),
    "chat in Chinese": lambda seed: logs.chat(seed, chinese=True),
    "chat with tools": lambda seed: logs.chat(seed, tools=9),
    "agent": logs.agent,
    "fan-out": logs.fan_out,
    "fan-out, rubric in system": lambda seed: logs.fan_out(seed, in_system=True),
    "documents": logs.documents,
    "shots": logs.shots,
}
FORMS: Final = ("chat", "parts", "messages")


def logged(shape: str, rows: Rows, form: str) -> Rows:
    """Rows as one of the two providers' clients would log them; breakpoints stand where that shape needs them."""
    rows = sorted(rows, key=lambda row: row["started_at_s"])
    if form != "messages":
        return logs.openai(rows, strings=form == "chat")
    return logs.anthropic(rows, newest="fan" not in shape, lead=shape in ("fan-out", "documents"))


def advice_on(rows: Rows, folder: Path, provider: str = "openai", **options: Any) -> Advice:
    return advise(read_messages(logs.written(rows, folder / "log.jsonl")), provider, **options)


def provider_of(form: str) -> str:
    return "anthropic" if form == "messages" else "openai"


# (what is planted, planter, kind, where in each form (shapes that keep their system message there), shapes)
HEAD: Final = ("messages[0]", "messages[0]", "system[0]")
PLANTED: Final[list[tuple[str, Planter, str, tuple[str, str, str], tuple[str, ...]]]] = [
    *(
        (f"{name} {how.__name__}", how(lambda row, rng, number, line=line: line(row)), "timestamp", HEAD, ("chat", "agent"))
        for name, line in logs.TIMES.items()
        for how in (logs._prepend, logs._append, logs._amid)
    ),
    *(
        (f"{name} {how.__name__}", how(lambda row, rng, number, line=line: line(rng)), "request-id", HEAD, ("chat", "agent"))
        for name, line in logs.IDS.items()
        for how in (logs._prepend, logs._append, logs._amid)
    ),
    ("user", logs.name_of_user, "session-text", HEAD, ("chat", "chat in Chinese")),
    ("session", logs.session_name, "session-text", HEAD, ("chat", "agent")),
    ("tool order", logs.shuffled_tools, "tool-order", ("tools[",) * 3, ("chat with tools", "agent")),
    ("tool set", logs.changing_tools, "tool-set", ("tools[",) * 3, ("chat with tools", "agent")),
    ("one tool more", logs.one_tool_more, "tool-set", ("tools[1]",) * 3, ("chat with tools", "agent")),
    ("keys", logs.shuffled_keys, "json-order", ("tools[",) * 3, ("chat with tools", "agent")),
    ("spaces in tools", logs.spaces_in_descriptions, "json-order", ("tools[",) * 3, ("chat with tools", "agent")),
    ("date in a tool", logs.dated_tool, "timestamp", ("tools[2].function.description",) * 2 + ("tools[2].description",),
     ("chat with tools", "agent")),
    ("variables first", logs.variables_first, "variables-first", ("messages[0]",) * 3, ("fan-out",)),
    ("documents in system", logs.context_first, "variables-first", HEAD, ("fan-out, rubric in system", "chat")),
    ("window", logs.windowed, "history-edited", ("messages[1]", "messages[1]", "messages[0]"), ("chat", "agent")),
    ("window behind the first", logs.window_behind_the_first, "history-edited", ("messages[",) * 3, ("chat",)),
    ("rewritten", logs.rewritten, "history-edited", ("messages[1]", "messages[1]", "messages[0]"), ("chat",)),
    ("spaces", logs.spaces, "unstable-system", HEAD, ("chat", "agent")),
    ("inner spaces", logs.inner_spaces, "unstable-system", HEAD, ("chat",)),
    ("counter", logs.counter, "unstable-system", HEAD, ("chat", "agent")),
    ("signed pictures", logs.signed_pictures, "image-changed", ("messages[1]", "messages[1]", "messages[0]"), ("chat",)),
    ("encoded pictures", logs.encoded_pictures, "image-changed", ("messages[1]", "messages[1]", "messages[0]"), ("chat",)),
    ("at once", logs.at_once, "fan-out", ("messages[0]", "messages[0]", ""), ("fan-out", "fan-out, rubric in system")),
    ("switching", logs.switching, "model-switch", ("model",) * 3, ("chat", "agent")),
    ("documents", logs.shuffled_documents, "document-order", ("messages[1]", "messages[1]", "messages[0]"), ("documents",)),
    ("shots", logs.shuffled_shots, "document-order", ("messages[1]", "messages[1]", ""), ("shots",)),
    ("pauses", logs.slow, "ttl-gap", ("messages[", "messages[", "messages["), ("chat",)),
    ("daily date", logs.daily_date, "timestamp", HEAD, ("chat",)),
]  # fmt: skip


def check_planted(name: str, shape: str, form: str, seed: int, folder: Path) -> None:
    _, plant, kind, places, _ = next(each for each in PLANTED if each[0] == name)
    rows = SHAPES[shape](seed)
    plant(rows, random.Random(seed + 1_000))
    found = advice_on(logged(shape, rows, form), folder, provider_of(form), cost_defects=False).defects
    assert [defect.kind for defect in found] == [kind], (name, shape, form, seed)
    assert found[0].path.startswith(places[FORMS.index(form)])


QUICK: Final = [(name, shapes[0], FORMS[i % 3]) for i, (name, _, _, _, shapes) in enumerate(PLANTED) if shapes != ("shots",)]
ALL: Final = [
    (name, shape, form)
    for name, _, _, _, shapes in PLANTED
    for shape in shapes
    for form in FORMS
    if (shape, form) != ("shots", "messages")
]


@pytest.mark.parametrize(("name", "shape", "form"), [*QUICK, ("shots", "shots", "chat")])
def test_a_planted_defect_is_found_at_its_place_and_nothing_else(name: str, shape: str, form: str, tmp_path: Path) -> None:
    check_planted(name, shape, form, 7, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("name", "shape", "form"), ALL)
def test_planted_defects_of_every_shape_form_and_seed(name: str, shape: str, form: str, seed: int, tmp_path: Path) -> None:
    check_planted(name, shape, form, seed, tmp_path)


def check_clean(shape: str, form: str, seed: int, folder: Path) -> None:
    advice = advice_on(logged(shape, SHAPES[shape](seed), form), folder, provider_of(form))
    assert advice.defects == (), (shape, form, seed)
    assert advice.proposed.total_usd <= advice.today.total_usd


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["chat", "messages"])
def test_a_clean_log_has_no_defect(shape: str, form: str, tmp_path: Path) -> None:
    if (shape, form) == ("shots", "messages"):
        form = "parts"  # its examples would need a breakpoint of their own, which `anthropic` does not set
    check_clean(shape, form, 1, tmp_path)


@pytest.mark.slow
@given(seed=st.integers(10, 10_000), shape=st.sampled_from(list(SHAPES)), form=st.sampled_from(FORMS))
@settings(max_examples=80, deadline=None)
def test_clean_logs_of_any_seed_have_no_defect(tmp_path_factory: pytest.TempPathFactory, seed: int, shape: str, form: str) -> None:
    check_clean(shape, "parts" if (shape, form) == ("shots", "messages") else form, seed, tmp_path_factory.mktemp("clean"))


# -- what breakpoints lose --


def kinds(advice: Advice) -> list[str]:
    return [defect.kind for defect in advice.defects]


@pytest.mark.parametrize(("shape", "first"), [("chat", "head"), ("agent", "head"), ("documents", "opener")])
def test_a_log_without_breakpoints_gets_them_proposed(shape: str, first: str, tmp_path: Path) -> None:
    rows = logs.anthropic(SHAPES[shape](5), system=False, newest=False)
    advice = advice_on(rows, tmp_path, "anthropic")
    assert kinds(advice) == ["missing-breakpoint"]
    assert advice.today.token_hit_ratio == 0
    assert advice.proposed.token_hit_ratio > 0.8
    assert advice.defects[0].usd_per_1000 == pytest.approx(advice.usd_per_1000_saved)
    places = {each["place"] for each in configuration(advice)["breakpoints"]}
    assert {first, "talk"} <= places


def test_a_chat_format_log_at_a_provider_of_breakpoints_needs_them(tmp_path: Path) -> None:
    assert kinds(advice_on(logs.openai(logs.chat(5)), tmp_path, "anthropic")) == ["missing-breakpoint"]


def test_a_breakpoint_behind_the_variable_text_of_every_request(tmp_path: Path) -> None:
    rows = logs.anthropic(logs.fan_out(5, in_system=True), system=False)
    advice = advice_on(rows, tmp_path, "anthropic")
    assert [(defect.kind, defect.path) for defect in advice.defects] == [("breakpoint-on-varying", "messages[0].content[0]")]
    assert [each["behind"] for each in configuration(advice)["breakpoints"]] == ["system[0]"]


def test_one_string_of_rubric_and_submission_is_parted(tmp_path: Path) -> None:
    rows = logs.anthropic(logs.fan_out(5), newest=True)
    for row in rows:
        content = row["request"]["messages"][0]["content"]
        row["request"]["messages"][0]["content"] = [{**content[-1], "text": "\n".join(block["text"] for block in content)}]
    advice = advice_on(rows, tmp_path, "anthropic")
    assert kinds(advice) == ["breakpoint-on-varying"]
    assert advice.proposed.token_hit_ratio > 0.85


def test_more_breakpoints_than_the_provider_takes(tmp_path: Path) -> None:
    rows = logs.anthropic(logs.chat(5, tools=9))
    for row in rows:
        for tool in row["request"]["tools"][:4]:
            tool["cache_control"] = logs.MARK
    advice = advice_on(rows, tmp_path, "anthropic")
    assert kinds(advice) == ["too-many-breakpoints"]
    assert "takes 4" in advice.defects[0].detail
    assert all(len(marks) <= 4 for marks in advice.layout.marks)


def test_a_breakpoint_too_many_blocks_back(tmp_path: Path) -> None:
    rows = logs.anthropic(logs.chat(5, sessions=6, turns=4))
    for row in rows:
        for message in row["request"]["messages"]:
            if message["role"] == "assistant":
                text = message["content"][0]["text"]
                message["content"] = [{"type": "text", "text": f"{text} Step {step}."} for step in range(25)]
    advice = advice_on(rows, tmp_path, "anthropic")
    assert kinds(advice) == ["lookback"]
    assert "before" in {each["place"] for each in configuration(advice)["breakpoints"]}
    assert advice.proposed.token_hit_ratio > advice.today.token_hit_ratio


def test_a_prefix_below_the_minimum(tmp_path: Path) -> None:
    rows = logs.fan_out(5, rubric=10)
    assert kinds(advice_on(logs.openai(rows), tmp_path)) == ["below-minimum"]
    marked = logs.anthropic(rows, newest=False, lead=True)
    found = advice_on(marked, tmp_path, "anthropic").defects
    assert [(defect.kind, defect.usd_per_1000) for defect in found] == [("below-minimum", None)]
    assert "1,024" in found[0].detail


def test_the_minimum_is_that_of_the_model(tmp_path: Path) -> None:
    rows = logs.anthropic(logs.fan_out(5, rubric=50), newest=False, lead=True, model="claude-haiku-4-5")
    assert "below-minimum" in kinds(advice_on(rows, tmp_path, "anthropic"))
    rows = logs.anthropic(logs.fan_out(5, rubric=50), newest=False, lead=True, model="claude-sonnet-4-5")
    assert kinds(advice_on(rows, tmp_path, "anthropic")) == []


def test_long_pauses_take_the_longer_lifetime_where_it_costs_less(tmp_path: Path) -> None:
    rows = logs.chat(5)
    logs.slow(rows, random.Random(1))
    advice = advice_on(logs.anthropic(rows), tmp_path, "anthropic")
    assert (advice.todays.ttl, advice.layout.ttl) == ("5m", "1h")
    marked = configuration(advice)["breakpoints"][0]["set"]
    assert marked == {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


# -- the figures are the simulator's --


def test_the_proposal_of_a_mended_log_is_what_the_clean_log_costs(tmp_path: Path) -> None:
    clean = logs.chat(5, tools=9)
    shuffled = logs.chat(5, tools=9)
    logs.shuffled_tools(shuffled, random.Random(3))
    before = advice_on(logs.openai(clean), tmp_path).today
    mended = advice_on(logs.openai(shuffled), tmp_path).proposed
    assert mended.token_hit_ratio == pytest.approx(before.token_hit_ratio, abs=1e-3)
    assert mended.total_usd == pytest.approx(before.total_usd, rel=1e-3)


def test_today_s_hits_are_those_of_the_log_s_own_usage_where_the_rules_are_exact(tmp_path: Path) -> None:
    """Usage blocks made by hand for two conversations of two turns: what the rules promise is what is simulated."""
    system, body = "You are kind. " * 600, []
    for turn, at_s in enumerate((0.0, 60.0)):
        messages = [{"role": "user", "content": "Hello there, who are you?"}]
        messages += [{"role": "assistant", "content": "A friend."}, {"role": "user", "content": "And now?"}] if turn else []
        block = {"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}
        body.append({"started_at_s": at_s, "request": {"model": "claude-sonnet-4-5", "system": [block], "messages": messages}})
    advice = advice_on(body, tmp_path, "anthropic")
    system_tokens = int(advice.study.counts.tokens[advice.log.requests[0].parts[0].content])
    assert advice.today.hit_tokens.tolist() == [0, system_tokens]


def test_two_defects_are_each_costed_against_the_rest_mended(tmp_path: Path) -> None:
    rows = logs.chat(5, tools=9)
    logs._prepend(lambda row, rng, number: logs.TIMES["iso"](row))(rows, random.Random(1))
    logs.shuffled_tools(rows, random.Random(1))
    advice = advice_on(logs.openai(rows), tmp_path)
    assert sorted(kinds(advice)) == ["timestamp", "tool-order"]
    assert all(0 < (defect.usd_per_1000 or 0) <= advice.usd_per_1000_saved + 1e-9 for defect in advice.defects)


# -- what is said --


def test_the_diff_names_parts_and_breakpoints(tmp_path: Path) -> None:
    rows = logs.chat(5, tools=9)
    logs._prepend(lambda row, rng, number: logs.TIMES["iso"](row))(rows, random.Random(1))
    diff = layout_diff(advice_on(logs.anthropic(rows), tmp_path, "anthropic"))
    assert "+system[0]" in diff
    assert any(line.startswith("+== breakpoint, 5m: the end of tools and system") for line in diff)
    assert diff.index("+system[0]") < diff.index(" system[0]  <- timestamp")


def test_every_kind_is_told_in_words() -> None:
    assert all(kind.title and kind.mend for kind in KINDS.values())
    assert len(KINDS) >= 12


SECRETS: Final = ("canary4711", "zebrafinch")


def secret_rows(seed: int = 5) -> Rows:
    rows = logs.chat(seed, tools=9)
    for number, row in enumerate(rows):
        body = row["request"]
        body["system"][0]["text"] = f"{SECRETS[0]} {number}\nTime: {number:02}:00\n{body['system'][0]['text']}"
        body["tools"][0]["description"] += f" {SECRETS[1]}{number}"
        body["tools"][1]["input_schema"]["properties"][SECRETS[0]] = {"type": "string", "description": SECRETS[1]}
        for message in body["messages"]:
            message["content"][0]["text"] += f" {SECRETS[0]}"
    logs.shuffled_keys(rows, random.Random(1))
    return rows


@pytest.mark.parametrize("options", [[], ["--json"], ["--no-costs"], ["--figure", "out.svg"]])
def test_no_text_of_the_log_gets_out(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    logs.written(logs.anthropic(secret_rows()), tmp_path / "log.jsonl")
    done = CliRunner().invoke(main, ["advise", "log.jsonl", "--provider", "anthropic", *options])
    assert done.exit_code == 0, done.output
    out = done.output + "".join(path.read_text() for path in tmp_path.glob("*.svg"))
    assert not any(secret in out for secret in SECRETS)
    shown = CliRunner().invoke(main, ["advise", "log.jsonl", "--provider", "anthropic", "--show-text", *options])
    assert SECRETS[0] in shown.output


def test_a_malformed_line_is_named_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for bad in (
        f'{{"messages": "{SECRETS[0]}',
        f"[{SECRETS[0]!r}]",
        json.dumps({"messages": [{"role": "user", "content": 3}], "a": SECRETS[0]}),
    ):
        logs.written(logs.openai(secret_rows()), path)
        with path.open("a") as file:
            file.write(bad + "\n")
        done = CliRunner().invoke(main, ["advise", str(path), "--provider", "openai"])
        assert done.exit_code == 2
        assert f"{path}:61:" in done.output
        told = done.output + "".join(traceback.format_exception(done.exception))
        assert not any(secret in told for secret in SECRETS)


def test_the_document_is_versioned_and_whole(tmp_path: Path) -> None:
    path = logs.written(logs.anthropic(secret_rows()), tmp_path / "log.jsonl")
    with path.open("a") as file:
        file.write('{"embedding": [1]}\n')
    done = CliRunner().invoke(main, ["advise", str(path), "--provider", "anthropic", "--json"])
    document = json.loads(done.output)
    assert document["schema_version"] == 1
    assert document["requests"] == {"read": 60, "skipped": {"not a request to a chat model": 1}, "conversations": 12}
    assert document["today"]["usd_per_1000_requests"] > document["proposed"]["usd_per_1000_requests"]
    assert all(defect["kind"] in KINDS and defect["lines"] for defect in document["defects"])
    assert sum(gap["requests"] for gap in document["gaps"]) > 0
    assert document["layout"]["breakpoints"]


# -- bad and bare input --


def test_one_request_has_nothing_to_compare_with(tmp_path: Path) -> None:
    advice = advice_on(logs.openai(logs.chat(1))[:1], tmp_path)
    assert advice.defects == ()
    assert advice.today.token_hit_ratio == 0


def test_without_instants_it_says_what_it_cannot_know(tmp_path: Path) -> None:
    rows = logs.chat(5)
    logs._prepend(lambda row, rng, number: f"Time {number:02}:15:00")(rows, random.Random(1))
    for row in rows:
        del row["started_at_s"]
    advice = advice_on(logs.openai(rows), tmp_path)
    assert kinds(advice) == ["timestamp"]
    assert advice.usd_month_factor is None
    assert any("cannot be told" in note for note in advice.notes)


def test_an_unknown_provider_lists_the_near_ones(tmp_path: Path) -> None:
    path = logs.written(logs.openai(logs.chat(1))[:3], tmp_path / "log.jsonl")
    done = CliRunner().invoke(main, ["advise", str(path), "--provider", "antropic"])
    assert done.exit_code == 2
    assert "Did you mean 'anthropic'" in done.output


def test_a_model_without_a_price_is_stood_for_by_another_and_that_is_said(tmp_path: Path) -> None:
    rows = logs.openai(logs.chat(1), model="our-own-7b")
    advice = advice_on(rows, tmp_path)
    assert any("our-own-7b" in note and "gpt-4o" in note for note in advice.notes)
    with pytest.raises(InputError, match="our-own-7b"):
        advice_on(rows, tmp_path, model="our-own-7b")


# -- pieces --


@given(st.text(max_size=2_000))
@settings(max_examples=50, deadline=None)
def test_pieces_make_the_text(text: str) -> None:
    assert "".join(pieces_of(text)) == text


@pytest.mark.parametrize(
    ("texts", "change"),
    [
        (["now 2026-11-28T09:31:07Z", "now 2026-11-28T09:31:09Z"], "timestamp"),
        (["Sat, 28 Nov 2026", "Sun, 29 Nov 2026"], "timestamp"),
        (["asked 5 minutes ago", "asked 7 minutes ago"], "timestamp"),
        (["2026年11月28日", "2026年11月29日"], "timestamp"),
        (["id: 3b9d7c20-5f1e-4a8b-9c3d-0e6f71a2b4c5", "id: 77aa00ff-5f1e-4a8b-9c3d-0e6f71a2b4c5"], "id"),
        (["turn 3", "turn 4"], "counter"),
        (['{"a": 1, "b": [1, 2]}', '{"b": [1, 2], "a": 1}'], "json"),
        (["b\na\nc", "a\nc\nb"], "order"),
        (["a  b", "a b"], "whitespace"),
        (["Ann", "Bob"], "text"),
        (["Ann", "Ann"], "same"),
    ],
)
def test_what_changes_is_told_by_the_narrowest_mask(texts: list[str], change: str) -> None:
    assert change_of(texts) == change


def test_an_instant_in_front_of_the_breakpoint_costs_what_the_breakpoint_was_to_save(tmp_path: Path) -> None:
    rows = logs.fan_out(5, in_system=True)
    logs._append(lambda row, rng, number: logs.TIMES["iso"](row))(rows, random.Random(1))
    advice = advice_on(logs.anthropic(rows, newest=False), tmp_path, "anthropic")
    assert [(defect.kind, defect.path) for defect in advice.defects] == [("timestamp", "system[0]")]
    assert advice.defects[0].usd_per_1000 == pytest.approx(advice.usd_per_1000_saved, rel=0.02)
