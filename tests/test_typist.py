"""The typist against loops that press one key after the other, and distributions against their own moments."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.errors import InputError
from simcache.prompt import draft, shared_prefix_tokens
from simcache.streams import stream
from simcache.workload.distributions import (
    DISTRIBUTIONS,
    Exponential,
    Fixed,
    Geometric,
    LogLogistic,
    LogNormal,
    Uniform,
    Zipf,
    distribution,
    whole,
)
from simcache.workload.empirical import Empirical, TracePauses, session_gaps
from simcache.workload.typist import DESKTOP, INPUT_METHOD, MOBILE, Typing, Typist, delivered, evenly

LAWS = [
    Fixed(3.5),
    Uniform(low=1, high=4),
    Exponential(mean=2.0),
    LogNormal(median=126, sigma=0.97),
    LogNormal.of_mean(343, 0.6),
    LogLogistic(median=0.2, shape=5.0),
    Geometric(mean=1.0),
    Geometric(mean=3.51),
    Zipf(n=50, exponent=1.1),
    Zipf(n=7, exponent=0.0),
    LogLogistic.of_mean(1.0, 4.0),
    Empirical((3.0, 1.0, 1.0, 40.0)),
]


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_a_distribution_keeps_its_own_moments(law):
    draws = law.draw(stream(3, "moments"), 200_000)
    assert draws.mean() == pytest.approx(law.mean, abs=5 * draws.std() / math.sqrt(len(draws)) + 1e-12)
    below, upto = np.mean(draws < law.median - 1e-12), np.mean(draws <= law.median + 1e-12)
    assert below - 0.006 <= 0.5 <= upto + 0.006
    assert law.low <= draws.min()
    assert draws.max() <= law.high


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_a_longer_draw_begins_like_a_shorter_one(law):
    assert law.draw(stream(1, "x"), 9)[:4].tolist() == law.draw(stream(1, "x"), 4).tolist()


def test_every_named_distribution_is_tried_here():
    assert {type(law) for law in LAWS} == {*DISTRIBUTIONS.values(), Empirical}


def ks_distance(draws: np.ndarray, cdf) -> float:
    """Largest distance between the draws' steps and the law, on either side of every jump."""
    at, counts = np.unique(draws, return_counts=True)
    upto = np.cumsum(counts) / len(draws)
    return float(max(np.abs(upto - cdf(at)).max(), np.abs(upto - counts / len(draws) - cdf(np.nextafter(at, -np.inf))).max()))


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_draws_follow_the_stated_law(law):
    assert ks_distance(law.draw(stream(1, "ks"), 50_000), law.cdf) < 0.01
    assert law.cdf(np.array([law.low - 1.0]))[0] == 0
    assert law.cdf(law.median) >= 0.5 - 1e-12


def test_laws_against_scipy():
    from scipy import stats

    x = np.geomspace(0.01, 50, 40)
    assert LogNormal(median=2.0, sigma=0.7).cdf(x) == pytest.approx(stats.lognorm.cdf(x, 0.7, scale=2.0), abs=1e-12)
    assert LogLogistic(median=2.0, shape=3.0).cdf(x) == pytest.approx(stats.fisk.cdf(x, 3.0, scale=2.0), abs=1e-12)
    assert LogLogistic(median=2.0, shape=3.0).mean == pytest.approx(stats.fisk.mean(3.0, scale=2.0))
    assert Geometric(mean=3.5).cdf(x) == pytest.approx(stats.geom.cdf(x, 1 / 3.5), abs=1e-12)
    assert Exponential(mean=3.5).cdf(x) == pytest.approx(stats.expon.cdf(x, scale=3.5), abs=1e-12)
    assert LogLogistic(median=1.0, shape=1.0).mean == math.inf


def test_real_pauses_are_resampled(shared_data):
    path = str(shared_data / "traces" / "claude_code_sessions.jsonl.gz")
    people, tools = TracePauses(path=path), TracePauses(path=path, after="tool")
    gaps = [gap for session in session_gaps(path) for gap in session]
    assert sum(not gap.after_tool for gap in gaps) == 878
    assert (people.median, tools.median) == (210.0, 8.0)
    assert 1 - people.cdf(300.0) == pytest.approx(0.438, abs=0.001)
    assert 1 - people.cdf(3600.0) == pytest.approx(0.098, abs=0.001)
    assert ks_distance(people.draw(stream(1, "pauses"), 20_000), people.cdf) < 0.02
    with pytest.raises(InputError, match="after"):
        TracePauses(path=path, after="lunch")


def test_a_file_without_sessions_is_refused(tmp_path):
    broken = tmp_path / "t.jsonl"
    broken.write_text('{"requests": [[1, 2]]}\n')
    with pytest.raises(InputError, match="compact coding-agent format"):
        TracePauses(path=str(broken)).draw(stream(1, "x"), 3)
    broken.write_text('{"block_size": 64, "requests": []}\n')
    with pytest.raises(InputError, match="must hold pauses after an answer"):
        TracePauses(path=str(broken)).draw(stream(1, "x"), 3)


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (lambda: LogNormal(median=0, sigma=1), r"median\(=0\) must be above 0"),
        (lambda: LogNormal(median=1, sigma=-1), r"sigma\(=-1\) must be at least 0"),
        (lambda: LogLogistic(median=1, shape=0), "shape"),
        (lambda: Exponential(mean=math.nan), "mean"),
        (lambda: Geometric(mean=0.5), r"mean\(=0.5\) must be at least 1"),
        (lambda: Uniform(low=2, high=1), r"high\(=1\) must be at least 2"),
        (lambda: Zipf(n=0), "n"),
        (lambda: Fixed(True), "value"),
        (lambda: distribution("typing_s", -1, at_least=0), r"typing_s\(=-1\) must be at least 0"),
        (lambda: distribution("typing_s", Uniform(low=-1, high=1), at_least=0), "typing_s.* must not draw values below 0"),
        (lambda: distribution("p_send", Exponential(mean=1), at_most=1), "p_send.* must not draw values above 1"),
        (lambda: distribution("typing_s", "3"), r"typing_s\(='3'\) must be a number or a distribution"),
        (lambda: distribution("typing_s", True), "typing_s.* must be a number"),
    ],
)
def test_impossible_distributions_are_refused(build, rule):
    with pytest.raises(InputError, match=rule):
        build()


def test_whole_rounds_to_the_nearest_and_not_below_the_least():
    assert whole(np.array([0.4, 1.6, 7.0]), at_least=1) == [1, 2, 7]


BUSY = Typist(edit_share=0.15, pause_share=0.2, deleted_chars=Uniform(low=1, high=60))


def simulated(n: int, typist: Typist = BUSY) -> list[Typing]:
    """People of all kinds: short and long questions, pastes, drafts left somewhere on the way."""
    laws = stream(11, "people").random((n, 3))
    return [
        typist.type(
            stream(11, "typing", i),
            tokens=1 + int(80 * a),
            person_key_s=0.1 + 0.3 * b,
            pasted_tokens=int(100 * a) if i % 5 == 0 else 0,
            share=c if i % 3 == 0 else 1.0,
        )
        for i, (a, b, c) in enumerate(laws.tolist())
    ]


def keys(typing: Typing) -> list[tuple[float, int]]:
    """(instant, characters added) of every event."""
    return list(zip(typing.event_at_s.tolist(), np.diff(typing.draft_chars_after, prepend=0).tolist(), strict=True))


def test_draft_tokens_equal_a_loop_over_keys_for_a_thousand_people():
    for number, typing in enumerate(simulated(1000)):
        at_s = stream(12, "instants", number).uniform(-1, typing.end_at_s + 1, 20)
        at_s = np.sort(np.concatenate((at_s, typing.event_at_s[:5], [typing.end_at_s])))
        looped, chars, pressed = [], 0, keys(typing)
        for t_s in at_s.tolist():
            while pressed and pressed[0][0] <= t_s:
                chars += pressed.pop(0)[1]
            looped.append(chars // typing.chars_per_token)
        assert typing.draft_tokens(at_s).tolist() == looped
        assert [typing.draft_tokens(t_s) for t_s in at_s.tolist()] == looped


def literal_texts(typing: Typing) -> list[list[int]]:
    """The field after each event, every character typed a new one."""
    text: list[int] = []
    texts, fresh = [[]], 0
    for _, change in keys(typing):
        if change < 0:
            text = text[:change]
        else:
            text = text + list(range(fresh, fresh + change))
            fresh += change
        texts.append(text)
    return texts


def test_drafts_agree_exactly_where_the_texts_in_the_field_do():
    for number, typing in enumerate(simulated(150)):
        texts = literal_texts(typing)
        at_s = [-1.0, *typing.event_at_s.tolist()]
        drafts = [tuple(draft("s", 0, revision, tokens) for revision, tokens in typing.draft_pieces(t_s)) for t_s in at_s]
        for a, b in stream(13, "pairs", number).integers(0, len(texts), (40, 2)).tolist():
            same = next(
                (i for i, (x, y) in enumerate(zip(texts[a], texts[b], strict=False)) if x != y), min(map(len, (texts[a], texts[b])))
            )
            assert shared_prefix_tokens(drafts[a], drafts[b]) == same // typing.chars_per_token
            assert sum(tokens for _, tokens in typing.draft_pieces(at_s[a])) == len(texts[a]) // typing.chars_per_token


def test_edits_make_revisions_and_the_question_is_what_was_asked_for():
    people = [BUSY.type(stream(2, "t", i), tokens=60, person_key_s=0.2) for i in range(50)]
    assert all(typing.draft_tokens(typing.end_at_s) == 60 for typing in people)
    assert sum(len(typing.draft_pieces(typing.end_at_s)) > 1 for typing in people) > 40
    assert all(len(keys(typing)) > 240 for typing in people if typing.revisions)


@given(st.integers(0, 400), st.floats(0.05, 3.0))
@settings(max_examples=100, deadline=None)
def test_pauses_equal_a_debounce_loop(number, pause_s):
    typing = simulated_one(number)
    fired, timer = [], None
    for at_s, _ in [*keys(typing), (math.inf, 0)]:
        if timer is not None and timer <= at_s:
            fired.append(timer)
        timer = at_s + pause_s
    assert typing.pauses_at_s(pause_s).tolist() == [t_s for t_s in fired if t_s < typing.end_at_s]


@given(st.integers(0, 400), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_every_k_tokens_equals_a_loop(number, k):
    typing = simulated_one(number)
    fired, typed, next_at = [], 0, k * typing.chars_per_token
    for at_s, change in keys(typing):
        typed += max(change, 0)
        if typed >= next_at and at_s < typing.end_at_s:
            fired.append(at_s)
        while next_at <= typed:
            next_at += k * typing.chars_per_token
    assert typing.every_tokens_at_s(k).tolist() == fired


PEOPLE: list[Typing] = []


def simulated_one(number: int) -> Typing:
    if not PEOPLE:
        PEOPLE.extend(simulated(401))
    return PEOPLE[number]


CHINESE = Typist(committed_chars=Uniform(low=1, high=6), keys_per_char=3, word_keys=2, chars_per_token=1, edit_share=0.1)


def test_draft_tokens_of_an_input_method_equal_a_loop_over_keys():
    """Text shows in chunks: between two commits the field stands still, and every commit adds what was composed."""
    for number, typing in enumerate(simulated(200, CHINESE)):
        texts = literal_texts(typing)
        for index, (at_s, change) in enumerate(keys(typing)):
            assert typing.draft_tokens(at_s) == len(texts[index + 1])
            assert change == -1 or change > 0
        if typing.submit_at_s is not None and number % 5 != 0:
            assert typing.draft_tokens(typing.end_at_s) == 1 + int(80 * stream(11, "people").random((200, 3))[number, 0])
        for t_s in typing.event_at_s[:6].tolist():
            assert sum(tokens for _, tokens in typing.draft_pieces(t_s)) == typing.draft_tokens(t_s)
        drafts = [tuple(draft("s", 0, r, n) for r, n in typing.draft_pieces(t_s)) for t_s in [-1.0, *typing.event_at_s.tolist()]]
        for a, b in stream(13, "pairs", number).integers(0, len(texts), (10, 2)).tolist():
            same = next(
                (i for i, (x, y) in enumerate(zip(texts[a], texts[b], strict=False)) if x != y), min(map(len, (texts[a], texts[b])))
            )
            assert shared_prefix_tokens(drafts[a], drafts[b]) <= same


def test_an_input_method_takes_more_keys_and_shows_text_later():
    plain = Typist(pause_share=0, sentence_pause_share=0, edit_share=0, chars_per_token=1)
    composed = Typist(
        pause_share=0, sentence_pause_share=0, edit_share=0, chars_per_token=1, committed_chars=Geometric(mean=2.2), keys_per_char=3
    )
    one, other = (typist.type(stream(1, "t"), tokens=6_000, person_key_s=0.2) for typist in (plain, composed))
    assert one.end_at_s / other.end_at_s == pytest.approx(1 / 3, rel=0.02)
    assert 6_000 / len(other.event_at_s) == pytest.approx(2.2, rel=0.05)
    assert other.first_key_at_s < other.event_at_s[0]
    assert one.first_key_at_s == one.event_at_s[0] == other.first_key_at_s
    assert other.left(other.first_key_at_s).first_key_at_s == other.first_key_at_s
    assert other.left(0.0).first_key_at_s is None


def test_populations_type_as_fast_as_was_measured():
    """Inter-key mean 0.2387 s (Dhakal et al. 2018); 36.2 words of five keys a minute (Palin et al. 2019)."""

    def mean_key_s(typist):
        return np.mean([typist.person(stream(1, "person", i)) for i in range(20_000)])

    assert mean_key_s(DESKTOP) == pytest.approx(0.2387, rel=0.01)
    assert 60 / (5 * mean_key_s(MOBILE)) == pytest.approx(36.2, rel=0.01)
    assert mean_key_s(INPUT_METHOD) == mean_key_s(DESKTOP)


def test_leaving_at_an_instant_keeps_what_was_done_before():
    for typing in simulated(100):
        for t_s in (0.0, typing.end_at_s * 0.4, typing.end_at_s, typing.end_at_s + 1):
            cut = typing.left(t_s)
            if t_s >= typing.end_at_s:
                assert cut is typing
                continue
            assert (cut.left_at_s, cut.submit_at_s) == (t_s, None)
            assert cut.draft_pieces(1e9) == typing.draft_pieces(t_s)


def test_when_a_draft_reaches_a_length():
    assert evenly(4.0, 4).reaches_tokens_at_s(1) == 0.0
    assert evenly(4.0, 4).reaches_tokens_at_s(5) is None
    for typing in simulated(60):
        for tokens in (1, 10, 40):
            at_s = typing.reaches_tokens_at_s(tokens)
            assert at_s == next((t for t in typing.event_at_s.tolist() if typing.draft_tokens(t) >= tokens), None)


def test_what_a_tool_delivers_gives_no_occasion_to_warm_before_it_is_there():
    result = delivered(8.0, 300)
    assert (result.submit_at_s, result.draft_tokens(7.999), result.draft_tokens(8.0)) == (8.0, 0, 300)
    assert result.focus_at_s == result.first_key_at_s == result.end_at_s
    assert result.pauses_at_s(1.0).size == result.every_tokens_at_s(10).size == 0


def test_order_of_a_turn():
    for typing in simulated(300):
        assert 0 <= typing.focus_at_s <= (typing.first_key_at_s if typing.first_key_at_s is not None else typing.end_at_s)
        assert np.all(np.diff(typing.event_at_s) >= 0)
        assert typing.event_at_s.size == 0 or typing.event_at_s[-1] <= typing.end_at_s
        assert (typing.submit_at_s is None) != (typing.left_at_s is None)


def test_an_unsent_draft_is_the_beginning_of_the_sent_one():
    sent, left = (Typist().type(stream(1, "t"), tokens=30, person_key_s=0.2, share=share) for share in (1.0, 0.4))
    n = len(left.event_at_s)
    assert n == int(0.4 * (len(sent.event_at_s) + 1))
    assert left.event_at_s.tolist() == sent.event_at_s[:n].tolist()
    assert (left.submit_at_s, sent.left_at_s) == (None, None)
    never = Typist().type(stream(1, "t"), tokens=30, person_key_s=0.2, share=0.0)
    assert never.first_key_at_s is None
    assert never.draft_tokens(1e9) == 0
    assert never.draft_pieces(1e9) == ()
    assert never.pauses_at_s(0.1).size == never.every_tokens_at_s(1).size == 0


def test_a_paste_arrives_in_one_event():
    typing = Typist(edit_share=0).type(stream(1, "t"), tokens=2, person_key_s=0.2, pasted_tokens=1000)
    assert len(typing.event_at_s) == 9
    assert typing.draft_tokens(typing.first_key_at_s) == 1000
    assert typing.every_tokens_at_s(10).tolist() == [typing.first_key_at_s]


def test_speed_between_people_is_the_measured_one():
    """Copying text without pauses: inter-key mean 0.2387 s, standard deviation 0.1116 s between people (Dhakal et al. 2018)."""
    copying = Typist(pause_share=0, sentence_pause_share=0, edit_share=0)
    means = np.array([copying.person(stream(1, "person", i)) for i in range(20_000)])
    assert means.mean() == pytest.approx(0.2387, rel=0.01)
    assert means.std() == pytest.approx(0.1116, rel=0.05)
    typing = copying.type(stream(1, "t"), tokens=20_000, person_key_s=0.2)
    assert np.diff(typing.event_at_s).mean() == pytest.approx(0.2, rel=0.01)
    assert np.log(np.diff(typing.event_at_s)).std() == pytest.approx(0.45, rel=0.01)


def test_pauses_and_edits_come_as_often_as_they_are_told_to():
    typing = Typist(pause_share=0.3, pause_s=100, sentence_pause_share=0, edit_share=0).type(
        stream(1, "t"), tokens=10_000, person_key_s=0.2
    )
    assert np.mean(np.diff(typing.event_at_s) > 50) == pytest.approx(0.3 / 5, rel=0.05)
    typing = Typist(edit_share=0.1, deleted_chars=8).type(stream(1, "t"), tokens=10_000, person_key_s=0.2)
    assert np.sum(np.diff(typing.draft_chars_after, prepend=0) < 0) / 8 == pytest.approx(8_000 * 0.1, rel=0.1)
    assert len(typing.revisions) == np.sum(np.diff(typing.draft_chars_after, prepend=0) < 0) / 8


def test_the_recipe_types_22_tokens_in_three_seconds():
    typing = evenly(3.0, 22)
    assert (typing.focus_at_s, typing.first_key_at_s, typing.submit_at_s) == (0.0, 0.0, 3.0)
    assert typing.draft_tokens(3.0) == 22
    assert evenly(0.0, 5).draft_tokens(0.0) == 5
    left = evenly(4.0, 4, share=0.5)
    assert (left.left_at_s, left.submit_at_s, left.draft_tokens(99.0)) == (2.0, None, 3)


def test_equal_draws_are_equal_and_cannot_be_changed():
    one, two = (Typist().type(stream(1, "t"), tokens=30, person_key_s=0.2) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != Typist().type(stream(2, "t"), tokens=30, person_key_s=0.2)
    with pytest.raises(ValueError, match="read-only"):
        one.event_at_s[0] = 0.0


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (lambda: Typist(pause_share=1.1), r"pause_share\(=1.1\) must be at most 1"),
        (lambda: Typist(edit_share=-0.1), "edit_share"),
        (lambda: Typist(focus_s=-1), r"focus_s\(=-1\) must be at least 0"),
        (lambda: Typist(word_keys=0), "word_keys"),
        (lambda: Typist(sentence_words=0), "sentence_words"),
        (lambda: Typist(keys_per_char=0), "keys_per_char"),
        (lambda: Typist(committed_chars=-1), "committed_chars"),
        (lambda: LogLogistic.of_mean(1.0, 1.0), r"shape\(=1.0\) must be above 1"),
        (lambda: Empirical(()), "values"),
        (lambda: delivered(-1, 3), "after_s"),
        (lambda: Typist(chars_per_token=0), "chars_per_token"),
        (lambda: evenly(-1, 22), r"typing_s\(=-1\) must be at least 0"),
        (lambda: evenly(1, 0), r"tokens\(=0\) must be at least 1"),
        (lambda: evenly(1, 2).pauses_at_s(0), r"pause_s\(=0\) must be above 0"),
        (lambda: evenly(1, 2).every_tokens_at_s(0), r"tokens\(=0\) must be at least 1"),
    ],
)
def test_impossible_typing_is_refused(build, rule):
    with pytest.raises(InputError, match=rule):
        build()


def test_triggers_of_a_turn_take_under_50_microseconds():
    """A bound on the best of many turns, so that a busy machine does not fail it."""
    typing = Typist().type(stream(1, "t"), tokens=40, person_key_s=0.2)
    best = math.inf
    for _ in range(200):
        start = time.perf_counter()
        typing.pauses_at_s(1.0)
        typing.every_tokens_at_s(8)
        best = min(best, time.perf_counter() - start)
    assert best < 50e-6
