"""Provider rules and the store of a hosted API, against a slow and obvious oracle."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcache.cache.hosted_store import HostedStore
from simcache.cache.presets import PROVIDERS_FOLDER, load_rules, rules_names, rules_of
from simcache.cache.rules import ProviderRules
from simcache.errors import InputError, UnknownNameError
from simcache.prompt import Request, Segment, shared_prefix_tokens

OPENAI = load_rules("openai-2024")
ANTHROPIC = load_rules("anthropic")


def ask(*segments: tuple[str, int], shared: int | None = None, **fields) -> Request:
    return Request(0.0, tuple(Segment(*s) for s in segments), Segment("answer", 1), shared_segments=shared, **fields)


def store(rules: ProviderRules, model: str = "m", ttl: str = "5m", **marks) -> HostedStore:
    return HostedStore(rules, model=model, ttl=ttl, **marks)


def put(cache: HostedStore, request: Request, at: int, origin: int = 0) -> int:
    return cache.write(request, origin=origin, started_at=at, now=at)


# --- the shipped files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", rules_names())
def test_every_shipped_file_is_dated_and_sourced(name):
    rules = load_rules(name)
    assert rules.name == name
    assert len(rules.as_of) == 10
    assert "/" in rules.source


@pytest.mark.parametrize(
    ("model", "minimum"),
    [
        ("claude-opus-5", 512),
        ("claude-opus-4-5", 4096),
        ("claude-opus-4-5-20251101", 4096),
        ("claude-opus-4-20250514", 1024),
        ("claude-opus-4-7", 2048),
        ("claude-3-5-sonnet-20241022", 1024),
        ("claude-3-5-haiku-latest", 2048),
        ("claude-opus-5-5", 1024),  # not listed: the file's default, and the result says so
    ],
)
def test_minimum_per_model(model, minimum):
    assert ANTHROPIC.min_tokens_of(model) == minimum
    assert bool(ANTHROPIC.notes(model)) == (model == "claude-opus-5-5")


def test_unknown_names_list_near_ones():
    with pytest.raises(UnknownNameError, match="anthropic"):
        load_rules("antropic")
    with pytest.raises(UnknownNameError, match="openai"):
        rules_of("opnai")
    with pytest.raises(UnknownNameError, match="cache_ttl"):
        OPENAI.lifetime_of("1h")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("min_tokens = 1024", "min_tokens"),
        ("source = ", "source"),
        ("unit_tokens = 128", "unit_tokens"),
    ],
)
def test_a_file_that_lacks_a_key_is_refused(tmp_path, change, named):
    text = (PROVIDERS_FOLDER / "openai-2024.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(line for line in text.splitlines() if not line.startswith(change)))
    with pytest.raises(InputError, match=named) as caught:
        load_rules(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("5m = 300", "5m = 0", "lifetime_s.5m"),
        ("min_tokens = 1024", "min_tokens = -1", "min_tokens"),
        ("unit_tokens", "unit_token", "unit_tokens"),
        ('"prefix at unit"', '"prefix"', "matching"),
        ("unit_tokens = 128", "unit_tokens = 1.5", "whole number"),
        ("= 128", "= = 128", "TOML"),
        ("bills_writes = false", 'bills_writes = "no"', "true or false"),
    ],
)
def test_an_impossible_file_is_refused(tmp_path, old, new, said):
    text = (PROVIDERS_FOLDER / "openai-2024.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=said) as caught:
        load_rules(path)
    assert str(path) in str(caught.value)


def test_a_users_own_file_loads(tmp_path):
    text = (PROVIDERS_FOLDER / "openai-2024.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("unit_tokens = 128", "unit_tokens = 64"))
    assert load_rules(path) == replace(OPENAI, name="mine", unit_tokens=64)
    with pytest.raises(InputError, match="cannot be read"):
        load_rules(tmp_path / "other.toml")


# --- the numbers that providers print --------------------------------------------------------------------------------


def test_openai_demo_926_tokens_never_hit():
    cache = store(OPENAI)
    question = ask(("tools+system", 900), ("q1", 26))
    assert put(cache, question, 0) == 0
    assert cache.lookup(question, 7).hit_tokens == 0


def test_openai_demo_1136_tokens_hit_1024():
    cache = store(OPENAI)
    first = ask(("tools", 600), ("system", 500), ("q1", 36))
    assert cache.lookup(first, 0).hit_tokens == 0
    put(cache, first, 0)
    longer = ask(("tools", 600), ("system", 500), ("q1", 36), ("q2", 40))
    assert cache.lookup(longer, 7) == (1024, 1024, 1152, 128)
    assert cache.lookup(longer._replace(organisation="other"), 7).hit_tokens == 0
    assert cache.lookup(longer._replace(salt="s"), 7).hit_tokens == 0


def test_openai_usage_example_2006_is_1920():
    cache = store(OPENAI)
    put(cache, ask(("p", 2006)), 0)
    assert cache.lookup(ask(("p", 2006)), 1).hit_tokens == 1920


@given(length=st.integers(1024, 4096))
def test_openai_cached_tokens_grow_in_steps_of_128(length):
    cache = store(OPENAI)
    put(cache, ask(("p", length)), 0)
    hit = cache.lookup(ask(("p", length), ("q", 1)), 1).hit_tokens
    assert hit == length // 128 * 128


def test_recipe_writes_the_context_and_reads_it():
    cache = store(ANTHROPIC, "claude-3-5-sonnet-20241022")
    question = ask(("context", 151_629), ("question", 22), shared=1)
    warm = ask(("context", 151_629))
    assert cache.lookup(question, 0) == (0, 0, 151_629, 151_629)
    put(cache, warm, 0, origin=7)
    found = cache.lookup(question, 20)
    assert found == (151_629, 151_629, 151_629, 0)
    assert cache.read(question, found, 20, credit=True) == [(7, 151_629)]
    assert cache.read(question, found, 21, credit=True) == []  # each token is credited once


# --- lifetimes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [OPENAI, ANTHROPIC])
def test_alive_iff_now_is_before_expiry_and_reads_slide(rules):
    cache = store(rules, "claude-sonnet-4-5")
    prompt = ask(("doc", 2048), ("q", 5), shared=1)
    put(cache, prompt, 0)
    assert cache.lookup(prompt, 299).hit_tokens == 2048
    assert cache.lookup(prompt, 300).hit_tokens == 0
    cache.read(prompt, cache.lookup(prompt, 200), 200, credit=False)
    assert cache.lookup(prompt, 499).hit_tokens == 2048
    assert cache.lookup(prompt, 500).hit_tokens == 0
    assert cache.expire(499) == []
    assert cache.expire(500) == [(0, 2048, 2048, 500)]
    cache.check()


def test_lifetime_counts_from_the_start_of_the_request():
    cache = store(ANTHROPIC, "claude-sonnet-4-5")
    prompt = ask(("doc", 2048))
    assert cache.write(prompt, origin=0, started_at=0, now=100) == 2048
    assert cache.lookup(ask(("doc", 2048), ("q", 1), shared=1), 299).hit_tokens == 2048
    assert cache.lookup(ask(("doc", 2048), ("q", 1), shared=1), 300).hit_tokens == 0
    late = store(replace(ANTHROPIC, counted_from="visible"), "claude-sonnet-4-5")
    late.write(prompt, origin=0, started_at=0, now=100)
    assert late.lookup(ask(("doc", 2048), ("q", 1), shared=1), 399).hit_tokens == 2048
    # generation that outlasts the lifetime leaves nothing behind
    assert cache.write(ask(("other", 2048)), origin=0, started_at=400, now=700) == 0


def test_one_hour_lifetime():
    cache = store(ANTHROPIC, "claude-sonnet-4-5", ttl="1h")
    put(cache, ask(("doc", 2048)), 0)
    assert cache.lookup(ask(("doc", 2048), ("q", 1), shared=1), 3599).hit_tokens == 2048


# --- matching ------------------------------------------------------------------------------------------------------------


def test_breakpoints_match_exactly_and_only_there():
    cache = store(ANTHROPIC, "claude-sonnet-4-5")
    put(cache, ask(("system", 1500), ("doc", 3000), shared=2), 0)
    assert cache.lookup(ask(("system", 1500), ("doc", 3000), ("q", 9), shared=2), 1).hit_tokens == 4500
    assert cache.lookup(ask(("system", 1500), ("other", 3000), ("q", 9), shared=2), 1).hit_tokens == 0  # no stop after system
    assert cache.lookup(ask(("system", 1500), ("doc", 3100), ("q", 9), shared=2), 1).hit_tokens == 0  # the block grew
    assert cache.lookup(ask(("system", 1500), ("doc", 3000), ("q", 9), shared=1), 1).hit_tokens == 0  # breakpoint too early


@pytest.mark.parametrize(("blocks", "hit"), [(19, 2000), (20, 0)])
def test_lookback_reaches_twenty_positions(blocks, hit):
    cache = store(ANTHROPIC, "claude-sonnet-4-5")
    put(cache, ask(("doc", 2000)), 0)
    grown = ask(("doc", 2000), *((f"m{i}", 10) for i in range(blocks)))
    assert cache.lookup(grown, 1).hit_tokens == hit


def test_a_whole_prompt_that_is_stored_still_computes_one_token():
    cache = store(ANTHROPIC, "claude-sonnet-4-5")
    put(cache, ask(("doc", 2000)), 0)
    assert cache.lookup(ask(("doc", 2000)), 1) == (1999, 2000, 2000, 0)


def test_user_scope_and_empty_segments():
    cache = store(replace(OPENAI, scope="user"))
    put(cache, ask(("empty", 0), ("doc", 2048), user="ann"), 0)
    assert cache.lookup(ask(("doc", 2048), ("nothing", 0), ("q", 1), user="ann"), 1).hit_tokens == 2048
    assert cache.lookup(ask(("doc", 2048), ("q", 1), user="bob"), 1).hit_tokens == 0


def test_origin_goes_to_who_inserted_and_not_to_a_duplicate():
    cache = store(ANTHROPIC, "claude-sonnet-4-5")
    prompt = ask(("doc", 2000), ("q", 4), shared=1)
    assert put(cache, prompt, 0, origin=1) == 2000
    assert put(cache, prompt, 5, origin=2) == 0
    longer = ask(("doc", 2000), ("q", 4), ("a", 50), ("q2", 5), shared=3)
    assert put(cache, longer, 6, origin=3) == 54
    assert cache.read(longer, cache.lookup(longer, 7), 7, credit=True) == [(1, 2000), (3, 4), (3, 50)]


# --- against the oracle ------------------------------------------------------------------------------------------------

SMALL = {
    "prefix at unit": replace(OPENAI, min_tokens=4, unit_tokens=3, lifetime_s={"5m": 10}),
    "exact at breakpoints": replace(
        ANTHROPIC,
        min_tokens=3,
        min_tokens_by_model={},
        lookback_positions=2,
        lifetime_s={"5m": 10},
        write_multiplier={"5m": 1.25},
        counted_from="visible",
    ),
}
SMALL["every breakpoint, one of the provider's own"] = replace(
    SMALL["exact at breakpoints"], lookback_positions=None, automatic_marker=True
)


SMALL["objects that reads do not refresh"] = replace(SMALL["exact at breakpoints"], lookback_positions=1, reads_refresh=False)


class Oracle:
    """Every prefix of every stored prompt as a tuple of single tokens: slow, and obvious."""

    def __init__(self, rules: ProviderRules, breakpoints: tuple[int, ...] = ()) -> None:
        self.rules = rules
        self.breakpoints = breakpoints
        self.tokens: dict[tuple, list] = {}  # prefix -> [expires_at, origin, used]
        self.stops: dict[tuple, int] = {}

    @staticmethod
    def prefixes(request: Request):
        seen: tuple = (request.organisation,)
        for key, length in request.prompt:
            for offset in range(length):
                seen = (*seen, (key, offset))
                yield seen

    def marks(self, request: Request) -> set[int]:
        """Tokens before each marker."""
        shared = request.prompt[: request.shared_segments]
        marked = [shared, *(shared[:count] for count in self.breakpoints)]
        if self.rules.automatic_marker:
            marked.append(request.prompt)
        return {sum(s.tokens for s in segments) for segments in marked}

    def cacheable(self, request: Request) -> int:
        total = sum(s.tokens for s in request.prompt)
        marked = max(self.marks(request))
        size = total // self.rules.unit_tokens * self.rules.unit_tokens if self.rules.matching == "prefix at unit" else marked
        return size if size >= self.rules.min_tokens else 0

    def lookup(self, request: Request, now: int):
        cacheable = self.cacheable(request)
        if cacheable < self.rules.min_tokens:
            return (0, 0, 0, 0)
        total = sum(s.tokens for s in request.prompt)
        if self.rules.matching == "prefix at unit":
            stored = 0
            for prefix in self.prefixes(request):
                if prefix not in self.tokens or self.tokens[prefix][0] <= now:
                    break
                stored += 1
            unit = self.rules.unit_tokens
            hit, stored = min(stored, total - 1) // unit * unit, stored // unit * unit
            hit = hit if hit >= self.rules.min_tokens else 0
            stored = stored if stored >= self.rules.min_tokens else 0
            return (hit, stored, cacheable, max(0, cacheable - stored))
        every = [(request.organisation,), *self.prefixes(request)]
        ends = [sum(s.tokens for s in request.prompt[: i + 1]) for i, s in enumerate(request.prompt) if s.tokens]
        back = self.rules.lookback_positions or len(ends)
        reached = {end for mark in self.marks(request) for end in [end for end in ends if end <= mark][-back:]}
        alive = [end for end in sorted(reached) if self.stops.get(every[end], now) > now]
        stored = max(alive, default=0)
        return (min(stored, total - 1), stored, cacheable, cacheable - stored)

    def read(self, request: Request, found, now: int, credit: bool) -> int:
        credited = 0
        for depth, prefix in enumerate(self.prefixes(request), start=1):
            if depth > found.stored_tokens:
                break
            entry = self.tokens[prefix]
            if credit and depth <= found.hit_tokens and not entry[2]:
                entry[2] = True
                credited += 1
            if not self.rules.reads_refresh:
                continue
            entry[0] = max(entry[0], now + 10)
            if depth == found.stored_tokens and self.rules.matching != "prefix at unit":
                self.stops[prefix] = max(self.stops[prefix], now + 10)
        return credited

    def write(self, request: Request, origin: int, now: int) -> int:
        inserted, until = 0, now + 10
        for depth, prefix in enumerate(self.prefixes(request), start=1):
            if depth > self.cacheable(request):
                break
            entry = self.tokens.get(prefix)
            if entry is None or entry[0] <= now:
                self.tokens[prefix] = [until, origin, False]
                inserted += 1
            elif self.rules.reads_refresh:
                entry[0] = max(entry[0], until)
            else:
                until = min(until, entry[0])
            if depth in self.marks(request) and depth >= self.rules.min_tokens and self.rules.matching != "prefix at unit":
                self.stops[prefix] = max(self.stops.get(prefix, 0), until)
        return inserted


requests = st.builds(
    lambda segments, shared, org: ask(*segments, shared=shared, organisation=org),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), min_size=1, max_size=5).filter(lambda s: any(n for _, n in s)),
    st.one_of(st.none(), st.integers(0, 5)),
    st.sampled_from(["x", "x", "x", "y"]),
)
steps = st.lists(st.tuples(st.sampled_from("rrww"), requests, st.booleans(), st.integers(0, 6)), min_size=1, max_size=40)


@pytest.mark.parametrize("rules", SMALL.values(), ids=SMALL)
@settings(max_examples=300, deadline=None)
@given(steps=steps, breakpoints=st.sampled_from([(), (1,), (2, 1)]))
def test_store_equals_oracle(rules, steps, breakpoints):
    marks = {"breakpoints": breakpoints} if rules.matching == "exact at breakpoints" else {}
    cache, oracle, now = store(rules, **marks), Oracle(rules, **marks), 0
    inserted = dropped = 0
    for origin, (what, request, credit, wait) in enumerate(steps):
        now += wait
        found = cache.lookup(request, now)
        assert found == oracle.lookup(request, now)
        total = sum(s.tokens for s in request.prompt)
        assert found.hit_tokens <= max(total - 1, 0)
        if what == "r":
            credits = cache.read(request, found, now, credit=credit)
            assert sum(tokens for _, tokens in credits) == oracle.read(request, found, now, credit)
        else:
            wrote = cache.write(request, origin=origin, started_at=now, now=now)
            assert wrote == oracle.write(request, origin, now)
            inserted += wrote
        dropped += sum(d.tokens for d in cache.expire(now))
        cache.check()
    dropped += sum(d.tokens for d in cache.expire(now + 1000))
    assert inserted == dropped  # every token that came in went out, once
    cache.check()


@settings(max_examples=200, deadline=None)
@given(one=requests, other=requests)
def test_longest_prefix_agrees_with_the_prompt_rule(one, other):
    """With a unit and a minimum of one token, the hit is what two prompts share, less the last token."""
    rules = replace(OPENAI, min_tokens=1, unit_tokens=1)
    cache = store(rules)
    put(cache, one._replace(organisation="x"), 0)
    total = sum(s.tokens for s in other.prompt)
    assert cache.lookup(other._replace(organisation="x"), 1).hit_tokens == min(
        shared_prefix_tokens(one.prompt, other.prompt), total - 1
    )


def test_twenty_thousand_requests_take_a_second():
    draw = random.Random(1)
    for rules in (OPENAI, ANTHROPIC):
        cache, begun = store(rules, "claude-sonnet-4-5"), time.process_time()
        for row in range(10_000):
            session = draw.randrange(1_000)
            turns = draw.randrange(1, 20)
            prompt = (Segment("system", 2000), *(Segment(f"{session}/{turn}", 50) for turn in range(turns)))
            request = Request(0.0, prompt, Segment("answer", 1), shared_segments=turns)
            found = cache.lookup(request, row)
            cache.read(request, found, row, credit=True)
            cache.write(request, origin=row, started_at=row, now=row)
        assert time.process_time() - begun < 8  # about half a second on the machine this was written on
        cache.check()


def test_a_request_s_own_breakpoints_stand_for_the_settings():
    cache = store(ANTHROPIC, "claude-sonnet-4-5", breakpoints=(1,))
    head = [("tools", 1_500), ("system", 1_500)]
    put(cache, ask(*head, ("question", 500), breakpoints=(2,)), 0)
    assert cache.lookup(ask(*head, ("other", 10), breakpoints=(2,)), 1).hit_tokens == 3_000
    assert cache.lookup(ask(*head, ("other", 10), breakpoints=()), 1).cacheable_tokens == 0
    assert cache.lookup(ask(*head, ("other", 10), shared=1), 1).hit_tokens == 0, "nothing was stored up to the tools"
