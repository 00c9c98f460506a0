"""Decisions from usage logs whose truth is known: what a simulated scenario did, asked back as a log."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from click.testing import CliRunner

from simcache import NoWarming, WarmOnFocus, simulate
from simcache.cache.presets import load_rules
from simcache.cli import main
from simcache.decision import alternatives
from simcache.decision.arrivals import LEAD_S, LogArrivals, conversation_of
from simcache.decision.conversations import Reconstruction, reconstruct
from simcache.decision.deciding import best_trigger, decide
from simcache.decision.document import document
from simcache.decision.outcomes import MONTH_S, Chance, Outcome, run_outcomes
from simcache.decision.settings import settings
from simcache.decision.verdict import Asked, Decision
from simcache.decision.words import answer, assumptions
from simcache.errors import InputError, UnknownNameError
from simcache.logs import UsageLog, UsageRow, write_usage
from simcache.messages.reader import read_messages
from simcache.prompt import prompt_tokens
from simcache.scenario import HostedApi
from simcache.workload.distributions import LogNormal
from tests.usage_log_synthetic import API, PACE_S, SINCE_S, rows_of, scenario

LONG_PAUSES = LogNormal(median=420, sigma=0.8)
"""A quarter of them within five minutes, nearly all within an hour: one hour pays, and the log shows that prompts begin alike."""
FEW = 3_000  # simulated requests: one replicate or two


@cache
def kept_too_short() -> tuple[UsageRow, ...]:
    return tuple(rows_of(scenario(users=90, read_think_s=LONG_PAUSES)))


@cache
def decided(**asked: object) -> Decision:
    return decide(UsageLog(kept_too_short()), Asked(**asked), simulated_requests=9_000)


def usage(at_s: float, prompt: int, cached: int = 0, written: int = 0, **more: object) -> UsageRow:
    values = {"provider": "anthropic", "model": "claude-sonnet-4-5", "session": "s", "output_tokens": 100, **more}
    return UsageRow(prompt_tokens=prompt, cached_tokens=cached, written_5m_tokens=written, started_at_s=at_s, **values)


def row(decision: Decision, name: str):
    return next(each for each in decision.rows if each.alternative.name == name)


# -- prompts rebuilt ----------------------------------------------------------------------------------------------------------


def test_hits_in_time_say_how_much_of_a_prompt_stood_in_the_one_before():
    rows = [
        usage(0, 9_000, 0, 8_900),
        usage(60, 9_300, 8_900, 200),  # goes on
        usage(120, 9_600, 2_000, 7_500),  # something changed behind 2,000 tokens
        usage(1_000, 9_900, 0, 9_800),  # the entry was dead: nothing shows
        usage(1_060, 10_200, 9_800, 300),
    ]
    found = reconstruct(rows, load_rules("anthropic"))
    assert [turn.kept_tokens for turn in found.conversations[0].turns] == [0, 9_100, 2_000, None, 10_000]
    assert (found.reuse.follow_ups, found.reuse.in_time, found.reuse.whole, found.reuse.partly) == (4, 3, 2, 1)
    assert found.conversations[0].turns[3].whole_tokens == 9_700
    assert found.ttl == "5m"
    assert found.caching


def test_what_first_requests_hit_is_shared_and_nested():
    """A writes system (2,000) and manual (8,000); B hits both; C has another manual behind the same system, D hits that one."""
    rows = [
        usage(0, 10_100, 0, 10_000, session="a"),
        usage(30, 10_100, 10_000, 0, session="b"),
        usage(60, 7_100, 2_000, 5_000, session="c"),
        usage(90, 7_100, 7_000, 0, session="d"),
        usage(5_000, 10_100, 0, 10_000, session="e"),
    ]
    found = reconstruct(rows, load_rules("anthropic"))
    assert [each.trunk for each in found.conversations] == [(10_000,), (10_000,), (2_000, 7_000), (2_000, 7_000), (10_000,)]


def test_prefixes_of_one_size_are_told_apart_by_who_missed():
    """A and B mark 10,000 tokens each within a minute and both miss: two texts. C hits one; D, an hour later, must write again."""
    rows = [
        usage(0, 10_100, 0, 10_000, session="a"),
        usage(30, 10_100, 0, 10_000, session="b"),
        usage(60, 10_100, 10_000, 0, session="c"),
        usage(4_000, 10_100, 0, 10_000, session="d"),
    ]
    found = reconstruct(rows, load_rules("anthropic"))
    assert [each.sharers for each in found.conversations] == [0, 1, 1, 0]
    (shared,) = {person.turns[0].shared[0].tokens for person in LogArrivals(log=found).people(1, 1e9)}
    assert shared == 10_000


def test_rebuilt_prompts_have_the_logs_tokens_at_the_logs_instants():
    log = reconstruct(kept_too_short(), load_rules("anthropic"))
    people = list(LogArrivals(log=log).people(1, 1e9))
    turns = {
        (person.user, turn.index): (turn, at_s)
        for person in people
        for turn, at_s in zip(person.turns, person.opens_at_s, strict=False)
    }
    assert len(turns) == log.requests
    for number, conversation in enumerate(log.conversations):
        for index, logged in enumerate(conversation.turns):
            turn, opens_at_s = turns[f"c{number}", index]
            assert prompt_tokens(turn.shared + turn.question) == logged.prompt_tokens
            assert opens_at_s + turn.typing.end_at_s == pytest.approx(LEAD_S + logged.at_s, abs=1e-6)
    assert people == list(LogArrivals(log=log).people(1, 1e9))


def test_nobody_types_what_follows_an_answer_at_once():
    rows = [usage(0, 9_000, e2e_s=10.0), usage(11, 9_200, e2e_s=10.0), usage(51, 9_400)]
    (person,) = LogArrivals(log=reconstruct(rows, load_rules("anthropic"))).people(1, 1e9)
    assert [len(turn.typing.event_at_s) > 1 for turn in person.turns] == [True, False, True]
    assert person.turns[2].typing.end_at_s == pytest.approx(30.0)
    (person,) = LogArrivals(log=reconstruct(rows, load_rules("anthropic")), typing_s=12.0).people(1, 1e9)
    assert [turn.typing.end_at_s for turn in person.turns] == [12.0, 0.0, 12.0]


def test_drafts_that_were_never_sent_are_added():
    log = reconstruct(kept_too_short(), load_rules("anthropic"))
    people = list(LogArrivals(log=log, p_send=0.5).people(1, 1e9))
    left = [turn for person in people for turn in person.turns if turn.typing.submit_at_s is None]
    sent = [turn for person in people for turn in person.turns if turn.typing.submit_at_s is not None]
    assert len(sent) == log.requests
    assert 0.75 < len(left) / len(sent) < 1.25
    assert {conversation_of(person.user) for person in people} == set(range(len(log.conversations)))


# -- decisions ----------------------------------------------------------------------------------------------------------------


def test_todays_configuration_reproduces_its_own_log():
    openai = {"provider": "openai", "model": "gpt-5", "breakpoints": (), "rules": "openai-2024"}
    agents = {"thinking_tokens": 300, "tool_calls": 2}  # thinking that is dropped makes some hits partial
    for changes, within in (({}, 1e-3), ({"cache_ttl": "1h"}, 1e-3), (openai, 1e-3), (agents, 0.01)):
        found = decide(UsageLog(rows_of(scenario(users=30, **changes))), simulated_requests=FEW).reproduction
        assert found is not None
        assert found.usd == pytest.approx(0.0, abs=within)
        assert found.cached == pytest.approx(0.0, abs=within)
        assert found.ttft_p50 == pytest.approx(0.0, abs=0.1)
        assert found.holds


def test_a_lifetime_that_saves_is_found_and_its_interval_holds_the_truth():
    found = decided()
    assert found.word == "yes"
    assert found.best is not None
    assert found.best.alternative.changes == ("1 h lifetime",)
    span_s = found.span_s
    same, others = [], []
    for seed in range(1, 7):  # the log's own people, and other people of the same kind
        cost = [
            simulate(scenario(users=90, read_think_s=LONG_PAUSES, cache_ttl=ttl), seed=seed).bill.total_usd for ttl in ("1h", "5m")
        ]
        (same if seed == 1 else others).append((cost[0] - cost[1]) * MONTH_S / span_s)
    change = found.best.change_usd
    assert change.mean == pytest.approx(same[0], rel=0.03)
    assert change.low < np.mean(others) < change.high
    assert answer(found).startswith(f"Yes. Saves ${-change.mean:,.0f} a month [")
    assert "1 h lifetime" in answer(found)
    assert "Confirm with" in answer(found)


def test_warming_on_top_costs_and_saves_what_it_does_in_truth():
    found = decided()
    warmed = next(each for each in found.warming if each.row.alternative.changes[-1] == "warming on focus")
    truth = {
        policy: simulate(scenario(users=90, read_think_s=LONG_PAUSES, cache_ttl="1h", warming=policy), seed=1)
        for policy in (NoWarming(), WarmOnFocus())
    }
    cold, warm = truth.values()
    month = MONTH_S / found.span_s
    assert warmed.change_usd.mean == pytest.approx((warm.bill.total_usd - cold.bill.total_usd) * month, rel=0.1)
    p95_s = [float(np.quantile(each.span("ttft_s"), 0.95)) for each in (cold, warm)]
    assert warmed.p95_change_s.low < p95_s[1] - p95_s[0] < warmed.p95_change_s.high
    assert warmed.helps
    assert best_trigger(found.warming) is not None
    assert found.phones is not None


def test_nothing_is_recommended_where_nothing_helps():
    found = decide(UsageLog(rows_of(scenario(users=60, read_think_s=20, typing_s=10))), simulated_requests=FEW)
    assert found.word == "no"
    assert found.best is None
    assert not any(each.saves for each in found.rows)
    assert answer(found).startswith("No. No lifetime, marker or ping saves")
    assert found.live_test is None


def test_warming_that_cannot_shorten_a_wait_is_not_worth_it():
    """Programs send the follow-ups at once: nobody types them, and nothing can be warmed before them."""
    fast = decide(
        UsageLog(rows_of(scenario(users=40, read_think_s=1, typing_s=0.2, arrive_within_s=3_600.0))), simulated_requests=FEW
    )
    told = [each for each in fast.warming if each.helps and each.change_usd.mean <= 0]
    assert not told
    assert "that came within 2 s" in " ".join(assumptions(fast))


def test_what_a_log_cannot_show_makes_it_depend():
    off = decide(UsageLog(rows_of(scenario(users=50, prefix_caching=False))), simulated_requests=FEW)
    assert off.word == "it depends"
    assert off.possible is not None
    assert "caching on" in off.possible.alternative.changes
    assert "--reuse" in answer(off)
    assert decide(UsageLog(off.log.rows), Asked(reuse=1.0), simulated_requests=FEW).rows[1].saves
    assert decide(UsageLog(off.log.rows), Asked(reuse=0.0), simulated_requests=FEW).word in ("no", "cannot tell")
    marks = decide(UsageLog(rows_of(scenario(users=50, mark_shared=False))), simulated_requests=FEW)
    assert marks.possible is not None
    assert marks.possible.alternative.changes[0] == "a marker before each question"
    assert "sent again unchanged" in answer(marks)
    kept = decide(
        UsageLog(rows_of(scenario(users=50, provider="openai", model="gpt-5", breakpoints=(), rules="openai-2024"))),
        simulated_requests=FEW,
    )
    assert kept.word == "it depends"
    assert "if your model has it" in answer(kept)


def test_prompts_that_change_ask_for_a_mended_layout():
    """Every second follow-up has something new at its head: it hits nothing although the entry lives."""
    rows = []
    for each in range(40):
        prompt, before = 6_000, 0
        for turn in range(5):
            broken = turn % 2 == 1
            cached = 0 if broken or not turn else before
            rows.append(
                usage(each * 400 + turn * 60, prompt, cached, prompt - 50 - cached, session=f"s{each}", ttft_s=1.0 + turn / 10)
            )
            before = prompt - 50
            prompt += 400
    found = decide(UsageLog(rows), simulated_requests=FEW)
    assert found.log.reuse.whole_share == pytest.approx(0.5)
    assert found.reproduction.holds
    assert found.possible is not None
    assert found.possible.alternative.kind == "layout"
    assert "a mended layout saves up to" in answer(found)


def test_a_log_that_the_simulation_does_not_reproduce_gives_no_confident_number():
    rng = np.random.default_rng(1)
    rows = [
        replace(each, cached_tokens=0, written_5m_tokens=each.cached_tokens + each.written_5m_tokens) for each in kept_too_short()
    ]
    rows = [
        replace(each, cached_tokens=each.written_5m_tokens, written_5m_tokens=0) if rng.random() < 0.7 else each for each in rows
    ]
    found = decide(UsageLog(rows), simulated_requests=FEW)
    assert not found.reproduction.holds
    assert found.word in ("cannot tell", "it depends")
    assert "does not reproduce the log" in answer(found)


def test_lifetimes_longer_than_promised_are_no_quiet_error():
    """Hits after ten minutes where the rules promise five: the answer says that the log is not reproduced, and how to mend it."""
    rows = []
    for each in range(40):
        prompt = 3_000
        for turn in range(4):
            cached = prompt // 128 * 128 if turn else 0
            at_s = each * 1_000.0 + turn * 400
            prompt += 500
            rows.append(usage(at_s, prompt, cached, session=f"s{each}", provider="openai", model="gpt-5", ttft_s=1.0 + turn / 10))
    found = decide(UsageLog(rows), simulated_requests=FEW)
    assert not found.reproduction.holds
    assert found.word != "yes"
    assert "--rules FILE.toml" in answer(found)


@pytest.mark.parametrize(
    ("rows", "lacks"),
    [
        ([usage(SINCE_S, 9_000)], "requests: 1 show no pattern"),
        ([replace(usage(0, 9_000 + i), started_at_s=None) for i in range(30)], "started_at_s"),
        ([usage(5.0, 9_000 + i) for i in range(30)], "one instant"),
    ],
)
def test_a_log_that_is_too_little_says_what_it_lacks(rows, lacks):
    found = decide(UsageLog(rows))
    assert found.word == "cannot tell"
    assert lacks in answer(found)
    assert settings(found) == {}
    json.dumps(document(found))


def test_one_conversation_has_no_interval_and_no_verdict():
    rows = [usage(SINCE_S + 60 * i, 5_000 + 300 * i, 4_900 + 300 * (i - 1) if i else 0, 300 if i else 4_900) for i in range(20)]
    found = decide(UsageLog(rows), simulated_requests=FEW)
    assert found.word == "cannot tell"
    assert found.rows[1].change_usd.low is None


def test_without_sessions_and_seconds_the_log_says_so():
    rows = [replace(each, session=None, user=None, ttft_s=None, e2e_s=None) for each in kept_too_short()]
    found = decide(UsageLog(rows), simulated_requests=FEW)
    assert not found.fitted
    assert any("openai-figure" in note for note in found.notes)
    assert len(found.missing) == 2
    assert "stands alone" in " ".join(assumptions(found))


def test_rows_of_other_models_batches_and_no_instant_are_left_out_and_counted():
    rows = list(kept_too_short())
    rows[0] = replace(rows[0], started_at_s=None)
    rows[1] = replace(rows[1], batch=True)
    rows[2:5] = [replace(each, model="claude-haiku-4-5") for each in rows[2:5]]
    rows[5] = replace(rows[5], provider="openai", model="gpt-5", written_5m_tokens=0)
    found = decide(UsageLog(rows), Asked(provider="anthropic"), simulated_requests=FEW)
    assert found.model == "claude-sonnet-4-5"
    assert found.requests == len(rows) - 6
    assert sum(found.left_out.values()) == 6
    with pytest.raises(InputError, match="more than one"):
        decide(UsageLog(rows))
    assert decide(UsageLog(rows), Asked(provider="anthropic", model="claude-haiku-4-5")).word == "cannot tell"


def test_unknown_names_and_missing_prices_are_refused_with_a_way_out():
    rows = UsageLog(kept_too_short())
    with pytest.raises(UnknownNameError, match="anthropic"):
        decide(rows, Asked(provider="antropic"))
    with pytest.raises(InputError, match=r"has no request in the log.*--also"):
        decide(rows, Asked(provider="openai"))
    with pytest.raises(InputError, match="has no request in the log"):
        decide(rows, Asked(model="gpt-5"))
    with pytest.raises(InputError, match="PROVIDER/MODEL"):
        decide(rows, Asked(also=("openai",)))
    with pytest.raises(UnknownNameError, match="model"):
        decide(UsageLog([replace(each, model="claude-nothing-9") for each in rows.rows]))
    with pytest.raises(UnknownNameError, match="provider"):
        decide(UsageLog([replace(each, provider="antropic") for each in rows.rows]))


def test_drafts_that_are_left_make_warming_dearer():
    all_sent = next(each for each in decided().warming if each.row.alternative.changes[-1] == "warming on focus")
    half_sent = next(each for each in decided(p_send=0.5).warming if each.row.alternative.changes[-1] == "warming on focus")
    assert half_sent.change_usd.mean > all_sent.change_usd.mean * 1.2


def test_intervals_cover_and_narrow_with_more_conversations():
    """Dollars saved per conversation are exponential of mean 1: the month's total is 1 per conversation."""
    rng = np.random.default_rng(3)
    covered, widths = 0, []
    for size in (40, 400):
        rows = [usage(100.0 * i, 2_000, session=f"s{i}") for i in range(size)]
        log = reconstruct(rows, load_rules("anthropic"))
        for _ in range(60):
            nothing = np.zeros((1, size))
            outcome = Outcome(usd=rng.exponential(size=(1, rng.poisson(size)))[:, :size], **_blank(log))
            usd = np.zeros((1, size))
            usd[:, : outcome.usd.shape[1]] = outcome.usd
            chance = Chance(log, 1)
            found = chance.usd_a_month(replace(outcome, usd=usd), replace(outcome, usd=nothing))
            covered += found.low <= size * chance.month <= found.high
            widths.append((found.high - found.low) / (size * chance.month))
    assert covered >= 0.88 * 120
    assert np.mean(widths[60:]) < 0.5 * np.mean(widths[:60])


@pytest.mark.slow
def test_intervals_of_many_logs_cover_the_long_run():
    """Forty logs of fifty conversations: the 95 % intervals of what one hour saves, against the mean of all."""
    rules, held, truth = load_rules("anthropic"), [], []
    for seed in range(40):
        asked = scenario(users=50, read_think_s=LONG_PAUSES)
        log = reconstruct(rows_of(asked, seed=seed), rules, seconds_per_output_token=PACE_S)
        api = HostedApi(provider="anthropic", model="claude-sonnet-4-5", profile=API, prices_at="2026-09-21")
        today = alternatives.today(log, api, rules, 1.0, LogArrivals(log=log))
        every = alternatives.caching_alternatives(today, log, rules, wholly_marked=True)
        one_hour = next(each for each in every if each.changes == ("1 h lifetime",))
        before, after = run_outcomes([today.scenario, one_hour.scenario], log, [API])
        found = Chance(log, 1).usd_a_month(after, before)
        held.append((found.low, found.high))
        costs = [simulate(each, seed=seed).bill.total_usd for each in (asked, asked.but(backend__cache_ttl="1h"))]
        truth.append((costs[1] - costs[0]) * MONTH_S / log.span_s)
    assert np.mean([low < np.mean(truth) < high for low, high in held]) >= 0.875  # 35 of 40; 0.95 came out when this was written


def _blank(log: Reconstruction) -> dict[str, object]:
    none = np.full((1, log.requests), np.nan)
    return {"ttft_s": none, "hit_tokens": none, "warm_ups": 0.0, "warm_usd": 0.0}


# -- message logs -------------------------------------------------------------------------------------------------------------


def messages(path, *, dated: bool, counted: bool = False):
    """Conversations over a day at a Claude model, the system prompt marked, headed by the time of day where ``dated``."""
    rng = np.random.default_rng(1)
    rules = "\n".join(f"Rule {i}: answer politely, check the number, promise nothing by SECRETrule." for i in range(110))
    rows = []
    for session in range(24):
        at_s, said = SINCE_S + rng.uniform(0, 86_400), []
        for _ in range(4):
            said.append({"role": "user", "content": f"Where is parcel SECRET{rng.integers(10**6)}, please? It should be here."})
            head = f"Time: 2026-09-21T10:{int(at_s) // 60 % 60:02}:{int(at_s) % 60:02}Z\n" if dated else ""
            system = [{"type": "text", "text": head + rules, "cache_control": {"type": "ephemeral"}}]
            body = {"model": "claude-sonnet-4-5", "max_tokens": 99, "system": system, "messages": list(said)}
            row = {"started_at_s": at_s, "session": f"SECRETs{session}", "request": body}
            if counted:
                row["usage"] = {
                    "input_tokens": 60,
                    "cache_read_input_tokens": 0,
                    "cache_creation_input_tokens": 3_000,
                    "output_tokens": 60,
                }
            rows.append(row)
            said.append({"role": "assistant", "content": "It is on its way and will be there tomorrow. " * 5})
            at_s += float(rng.lognormal(5.0, 1.0))
    rows.sort(key=lambda row: row["started_at_s"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_message_log_says_what_to_move(tmp_path, monkeypatch):
    monkeypatch.setattr("simcache.decision.deciding.SIMULATED_REQUESTS", FEW)
    log, figure = messages(tmp_path / "m.jsonl", dated=True), tmp_path / "f.svg"
    told = CliRunner().invoke(main, ["decide", str(log), "--provider", "anthropic", "--figure", str(figure)])
    assert told.exit_code == 0, told.output
    words = " ".join(told.output.split())
    assert "Yes. Saves $" in words
    assert "the proposed layout" in words
    assert "moves timestamp at system[0]" in words
    assert "== breakpoint, " in told.output
    assert "no usage counts to hold it against" in words
    assert "SECRET" not in told.output + figure.read_text()
    found = CliRunner().invoke(main, ["decide", str(log), "--provider", "anthropic", "--json"])
    assert json.loads(found.stdout)["configuration"]["layout"]["breakpoints"]
    assert "SECRET" not in found.stdout
    refused = CliRunner().invoke(main, ["decide", str(log)])
    assert refused.exit_code == 2
    assert "--provider" in refused.output


def test_a_clean_message_log_keeps_its_layout(tmp_path):
    found = decide(read_messages(messages(tmp_path / "m.jsonl", dated=False)), Asked(provider="anthropic"), simulated_requests=FEW)
    assert found.best is None or "the proposed layout" not in found.best.alternative.changes
    assert found.today.hit_ratio > 0.3


def test_usage_counts_in_a_message_log_are_held_against_the_simulation(tmp_path):
    """Every request wrote its system prompt anew although nothing in it changed: the rules say otherwise."""
    log = read_messages(messages(tmp_path / "m.jsonl", dated=False, counted=True))
    found = decide(log, Asked(provider="anthropic"), simulated_requests=FEW)
    assert not found.reproduction.holds
    assert found.word == "cannot tell"


# -- what is printed ----------------------------------------------------------------------------------------------------------


def test_what_to_paste_has_the_lifetime_and_the_trigger():
    what = settings(decided())
    assert what["request"]["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert what["warm_up"]["output_tokens"] == 0
    assert any("lifetime 1h" in line for line in what["say"])


def test_the_command_answers_in_words_a_table_a_figure_and_json(tmp_path, monkeypatch):
    monkeypatch.setattr("simcache.decision.deciding.SIMULATED_REQUESTS", FEW)
    canary = [replace(each, session=f"SECRET{each.session}", user="SECRETann") for each in kept_too_short()]
    write_usage(canary, tmp_path / "log.jsonl")
    log, figure = str(tmp_path / "log.jsonl"), tmp_path / "decision.svg"
    told = CliRunner().invoke(main, ["decide", log, "--also", "openai/gpt-5", "--figure", str(figure)])
    assert told.exit_code == 0, told.output
    for part in ("Yes. Saves $", "reproduces the log", "To paste:", "openai/gpt-5", "assumed:", "1 h lifetime"):
        assert part in told.output
    assert "SECRET" not in told.output + figure.read_text()
    found = CliRunner().invoke(main, ["decide", log, "--json", "--device", "mobile"])
    values = json.loads(found.stdout)
    assert values["schema_version"] == 1
    assert values["word"] == "yes"
    assert values["best"] == "1 h lifetime"
    assert values["alternatives"][0]["kind"] == "today"
    assert values["live_test"]["requests_per_arm"] >= 30
    assert values["on_phones"] is None
    assert "SECRET" not in found.stdout


def test_a_figure_of_no_known_kind_is_refused_before_the_work(tmp_path):
    write_usage(kept_too_short(), tmp_path / "log.jsonl")
    refused = CliRunner().invoke(main, ["decide", str(tmp_path / "log.jsonl"), "--figure", str(tmp_path / "f.txt")])
    assert refused.exit_code == 2
    assert "runs in" not in refused.output


def test_the_command_takes_a_log_of_one_request_and_refuses_an_impossible_one(tmp_path):
    write_usage([usage(SINCE_S, 9_000)], tmp_path / "one.jsonl")
    told = CliRunner().invoke(main, ["decide", str(tmp_path / "one.jsonl"), "--figure", str(tmp_path / "f.png")])
    assert told.exit_code == 0
    assert told.stdout.lstrip().startswith("Cannot tell: the log lacks")
    assert not (tmp_path / "f.png").exists()
    (tmp_path / "bad.jsonl").write_text('{"provider": "anthropic", "model": "m", "prompt_tokens": 5, "cached_tokens": 9}\n')
    refused = CliRunner().invoke(main, ["decide", str(tmp_path / "bad.jsonl")])
    assert refused.exit_code == 2
    assert "bad.jsonl:1" in refused.output
