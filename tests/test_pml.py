"""PML: positions worked by hand, properties of whatever schema, and every refusal with its line."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcache.errors import InputError, UnknownNameError
from simcache.pml import Module, about_tokens, parse_prompt, parse_schema, read_prompt, read_schema, segments
from simcache.prompt import prompt_tokens, shared_prefix_tokens

TRIP = """<schema name="trip">
  You plan trips.
  <module name="plan">
    I travel for <param name="days" len="3" scaffold="some days"/> days.
    <union scaffold="home">
      <module name="home">At home, in <parameter name="city" length="2"/> please.</module>
      <module name="abroad">Far away.
        <module name="visa">I have a visa already.</module>
      </module>
    </union>
    Be brief.
  </module>
  <system><module name="budget" cache="false">Money is short.</module></system>
</schema>"""


def words(text: str) -> int:
    return len(text.split())


def trip():
    return parse_schema(TRIP, count_tokens=words)


def laid_out(body: str, schema=None):
    """(tokens, start, module's name) of every piece."""
    placed = parse_prompt(f'<prompt schema="trip">{body}</prompt>', schema or trip())
    return [(piece.segment.tokens, piece.start, piece.module and piece.module.name) for piece in placed]


def refused(text: str, schemas=None, error=InputError):
    def read():
        return (
            parse_schema(text, count_tokens=words, path="s.pml") if schemas is None else parse_prompt(text, schemas, path="p.pml")
        )

    with pytest.raises(error) as caught:
        read()
    return caught.value


# --- positions, by hand -----------------------------------------------------------------------------------------------------
# You plan trips. 0-2 | I travel for 3-5 | days 6-8 | days. 9 | union 10-16: home: At home, in 10-12, city 13-14, please. 15;
# abroad: Far away. 10-11, visa 12-16 | Be brief. 17-18 | budget 19-21 | new text from 22


def test_the_schema_hands_out_positions_once():
    schema = trip()
    assert schema.tokens == 22
    plan, budget = schema.root.parts[1:]
    assert (plan.start, plan.end, budget.start, budget.end) == (3, 19, 19, 22)
    home, abroad = (part for part in plan.parts if hasattr(part, "union"))
    assert (home.start, abroad.start) == (10, 10)
    assert (home.end, abroad.end) == (16, 17)


def test_what_is_stored_and_what_encoding_computes():
    stored = {module.name: (module.tokens, module.encoded_tokens) for module in trip().modules}
    assert stored == {
        "trip/": (3, 3),
        "trip/plan": (6, 9),  # the three positions of `days` are computed as placeholders
        "trip/plan/home": (4, 6),
        "trip/plan/abroad": (2, 2),
        "trip/plan/abroad/visa": (5, 5),
    }  # and not budget: cache="false"


def test_a_prompt_that_takes_everything_it_can():
    got = laid_out('<plan days="ten"><home city="Rome"/></plan><budget/><user>Where do I begin?</user>')
    assert got == [
        (3, 0, "trip/"),
        (3, 3, "trip/plan"),
        (1, 6, None),
        (1, 9, "trip/plan"),
        (3, 10, "trip/plan/home"),
        (1, 13, None),
        (1, 15, "trip/plan/home"),
        (2, 17, "trip/plan"),
        (3, 19, None),
        (4, 22, None),
    ]


def test_what_is_left_out_leaves_its_positions_empty():
    assert laid_out("<plan><abroad><visa/></abroad></plan> Where to?") == [
        (3, 0, "trip/"),
        (3, 3, "trip/plan"),
        (1, 9, "trip/plan"),
        (2, 10, "trip/plan/abroad"),
        (5, 12, "trip/plan/abroad/visa"),
        (2, 17, "trip/plan"),
        (2, 22, None),
    ]


def test_new_text_alone_still_brings_the_schemas_own_text():
    assert laid_out("Hello there") == [(3, 0, "trip/"), (2, 22, None)]
    assert laid_out("") == [(3, 0, "trip/")]


def test_modules_stand_in_the_prompts_order_at_the_schemas_positions():
    schema = parse_schema(
        '<schema name="trip">a <module name="m1">b b</module> c <module name="m2">d d d</module> e</schema>', count_tokens=words
    )
    assert laid_out("<m1/><m2/>x", schema) == [
        (1, 0, "trip/"),
        (2, 1, "trip/m1"),
        (1, 3, "trip/"),
        (3, 4, "trip/m2"),
        (1, 7, "trip/"),
        (1, 8, None),
    ]
    assert [start for _, start, _ in laid_out("<m2/><m1/>x", schema)] == [0, 3, 4, 1, 7, 8]


def test_new_text_between_modules_stays_there_and_takes_positions_behind_the_schema():
    assert laid_out("<budget/>now <plan/>then what", trip()) == [
        (3, 0, "trip/"),
        (3, 19, None),
        (1, 22, None),
        (3, 3, "trip/plan"),
        (1, 9, "trip/plan"),
        (2, 17, "trip/plan"),
        (2, 23, None),
    ]


def test_role_elements_group_and_cost_nothing():
    grouped = laid_out("<system><plan/></system><user>Where to?</user><assistant>Rome.</assistant><user>And then?</user>")
    assert grouped == [*laid_out("<plan/>Where to?")[:-1], (2, 22, None), (1, 24, None), (2, 25, None)]


def test_an_empty_module_is_a_choice_of_nothing():
    schema = parse_schema(
        '<schema name="trip"><union scaffold="default"><module name="default"/><module name="m">a b</module></union></schema>',
        count_tokens=words,
    )
    assert laid_out("<default/>go", schema) == [(1, 2, None)]
    assert [module.name for module in schema.modules] == ["trip/m"]


def test_comments_cdata_and_character_references_are_text_as_xml_says():
    schema = parse_schema('<schema name="s"><module name="m">a <!-- no --> &amp; <![CDATA[<b>]]> &#x4e2d;</module></schema>')
    assert schema.tokens == about_tokens("a  & <b> 中")


# --- identity ---------------------------------------------------------------------------------------------------------------


def test_the_same_text_is_the_same_segment_wherever_it_stands():
    one = parse_schema('<schema name="one"><module name="a">same text</module></schema>')
    two = parse_schema('<schema name="two">before <module name="b">same text</module></schema>')
    a = parse_prompt('<prompt schema="one"><a/>q</prompt>', [one, two])
    b = parse_prompt('<prompt schema="two"><b/>q</prompt>', [one, two])
    assert a[0].segment == b[1].segment
    assert a[0].module != b[1].module  # but its states belong to other positions


def test_a_version_is_text_and_positions():
    def versions(first: str, second: str):
        schema = parse_schema(f'<schema name="s"><module name="a">{first}</module><module name="b">{second}</module></schema>')
        return [module.version for module in schema.modules]

    base = versions("aaaa", "bbbb")
    assert versions("aaaa", "bbbb") == base
    other_text = versions("AAAA", "bbbb")
    assert other_text[0] != base[0]
    assert other_text[1] == base[1]
    longer = versions("aaaa aaaa", "bbbb")
    assert longer[0] != base[0]
    assert longer[1] != base[1]  # everything behind moved
    assert versions("aaaa", "bbbb bbbb")[0] == base[0]


def test_prompts_share_a_prefix_only_as_far_as_their_order_agrees():
    schema = trip()
    plan_first = segments(parse_prompt('<prompt schema="trip"><plan/><budget/>q</prompt>', schema))
    budget_first = segments(parse_prompt('<prompt schema="trip"><budget/><plan/>q</prompt>', schema))
    assert shared_prefix_tokens(plan_first, budget_first) == 3
    assert prompt_tokens(plan_first) == prompt_tokens(budget_first)


names = st.lists(st.from_regex(r"[a-l][a-z0-9]{0,4}", fullmatch=True), min_size=1, max_size=6, unique=True)


@given(names, st.data())
def test_no_two_tokens_of_any_prompt_share_a_position(modules, data):
    sizes = [data.draw(st.integers(0, 30)) for _ in modules]
    elements = [f'<module name="{name}">{"w " * size}</module>' for name, size in zip(modules, sizes, strict=True)]
    in_union = data.draw(st.booleans())
    body = f"<union>{''.join(elements)}</union>" if in_union else "own ".join(elements)
    schema = parse_schema(f'<schema name="s">{body}</schema>', count_tokens=words)
    assert schema.tokens == (max(sizes) if in_union else sum(sizes) + len(modules) - 1)
    taken = data.draw(st.permutations(modules))[: 1 if in_union else data.draw(st.integers(0, len(modules)))]
    text = "".join(f"<{name}/>" for name in taken)
    placed = parse_prompt(f'<prompt schema="s">new {text} more new</prompt>', schema)
    positions = [at for piece in placed for at in range(piece.start, piece.start + piece.segment.tokens)]
    assert len(set(positions)) == len(positions)
    assert max(positions) < schema.tokens + 3
    own = 0 if in_union else len(modules) - 1
    assert len(positions) == 3 + own + sum(size for name, size in zip(modules, sizes, strict=True) if name in taken)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    for parse in (lambda: parse_schema(text), lambda: parse_prompt(text, trip())):
        with pytest.raises(InputError):
            parse()


@given(st.text(alphabet="<>/ abmodulenis=\"'schemaunionparam&;!-", max_size=80))
def test_any_body_is_read_or_refused(body):
    error = None
    try:
        parse_schema(f'<schema name="s">{body}</schema>')
    except InputError as caught:
        error = caught
    assert error is None or error.line == 1


# --- what is refused --------------------------------------------------------------------------------------------------------


def test_a_billion_laughs_are_refused_before_the_first_one():
    entities = "\n".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "lol"}">' for i in range(10))
    bomb = f'<?xml version="1.0"?>\n<!DOCTYPE lolz [\n{entities}\n]>\n<schema name="s">&l9;</schema>'
    tracemalloc.start()
    started = time.perf_counter()
    error = refused(bomb)
    assert time.perf_counter() - started < 0.5
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    assert error.line == 2
    assert "DOCTYPE" in str(error)


@pytest.mark.parametrize("tag", ["param", "parameter"])
@pytest.mark.parametrize("length", ["len", "length"])
def test_a_parameter_is_spelt_as_in_the_paper_or_as_in_the_code_or_mixed(tag, length):
    schema = parse_schema(f'<schema name="s"><module name="m">for <{tag} name="days" {length}="3"/></module></schema>')
    assert (
        schema.tokens == parse_schema('<schema name="s"><module name="m">for <param name="days" len="3"/></module></schema>').tokens
    )


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('<!DOCTYPE s SYSTEM "file:///etc/passwd">\n<schema name="s"/>', 1, "DOCTYPE"),
        ('<!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n<schema name="s">&x;</schema>', 1, "DOCTYPE"),
        ('<schema name="s">\n&x;</schema>', 2, "undefined entity"),
        ('<?xml-stylesheet href="x"?><schema name="s"/>', 1, "processing instruction"),
        ("", 1, "is empty"),
        (" \n ", 1, "is empty"),
        ("not xml", 1, "is not XML"),
        ('<schema name="s">\n<module name="m">\n</schema>', 3, "mismatched tag"),
        ('<schema name="s">\n', 2, "is not XML"),
        ('<schema name="s"/><schema name="t"/>', 1, "is not XML"),
        ("<schema name='s'>" + "<module name='m'>" * 70, 1, "64 levels"),
        ("<schemas name='s'/>", 1, "schema"),
        ("<schema/>", 1, "name"),
        ("<schema name=''/>", 1, "name"),
        ("<schema name='s' nmae='s'/>", 1, "nmae"),
        ("<schema name='s'>\n<modul name='m'/></schema>", 2, "'module'"),
        ("<schema name='s'>\n<prompt schema='s'/></schema>", 2, "prompt"),
        ("<schema name='s'>\n<schema name='t'/></schema>", 2, "schema"),
        ("<schema name='s'>\n<module/></schema>", 2, "name"),
        ("<schema name='s'>\n<module name='two words'/></schema>", 2, "letter"),
        ("<schema name='s'>\n<module name='-m'/></schema>", 2, "letter"),
        ("<schema name='s'>\n<module name='user'/></schema>", 2, "word of the language"),
        ("<schema name='s'>\n<module name='m' cache='no'/></schema>", 2, "'true' or 'false'"),
        ("<schema name='s'>\n<module name='m' cahce='true'/></schema>", 2, "cahce"),
        ("<schema name='s'><module name='m'/>\n<module name='m'/></schema>", 2, "twice"),
        ("<schema name='s'><module name='m'/><union>\n<module name='m'/></union></schema>", 2, "twice"),
        ("<schema name='s'><module name='m'/><system>\n<module name='m'/></system></schema>", 2, "twice"),
        ("<schema name='s'><module name='m'><param name='p' len='1'/>\n<param name='p' len='1'/></module></schema>", 2, "twice"),
        ("<schema name='s'>\n<union/></schema>", 2, "at least one"),
        ("<schema name='s'><union>\ntext</union></schema>", 2, "text"),
        ("<schema name='s'><union>\n<union/></union></schema>", 2, "union"),
        ("<schema name='s'>\n<union scaffold='x'><module name='m'/></union></schema>", 2, "'x'"),
        ("<schema name='s'>\n<param name='p' len='1'/></schema>", 2, "inside a <module>"),
        ("<schema name='s'>\n<user><param name='p' len='1'/></user></schema>", 2, "inside a <module>"),
        ("<schema name='s'><module name='m'>\n<param name='p'/></module></schema>", 2, "len"),
        ("<schema name='s'><module name='m'>\n<param name='p' len='1' length='1'/></module></schema>", 2, "length"),
        ("<schema name='s'><module name='m'>\n<param name='p' len='0'/></module></schema>", 2, "whole number"),
        ("<schema name='s'><module name='m'>\n<param name='p' len='-1'/></module></schema>", 2, "whole number"),
        ("<schema name='s'><module name='m'>\n<param name='p' len='1e3'/></module></schema>", 2, "whole number"),
        ("<schema name='s'><module name='m'>\n<param name='p' len='٣'/></module></schema>", 2, "whole number"),
        ("<schema name='s'><module name='m'>\n<param name='p' len='99999999'/></module></schema>", 2, "whole number"),
        ("<schema name='s'><module name='m'>\n<param name='p' len='1'>x</param></module></schema>", 2, "empty"),
        ("<schema name='s'><module name='m'>\n<param name='p' len='1' scaffold='two words'/></module></schema>", 2, "2 tokens"),
        ("<schema name='s'>\n<user name='x'/></schema>", 2, "name"),
    ],
)
def test_bad_schemas_are_refused_with_file_and_line(text, line, says):
    error = refused(text)
    assert (error.path, error.line) == ("s.pml", line)
    assert says in str(error)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "is empty"),
        ("<schema name='trip'/>", 1, "prompt"),
        ("<prompt/>", 1, "schema"),
        ("<prompt schema='trap'/>", 1, "Did you mean 'trip'"),
        ("<prompt schema='trip' x='1'/>", 1, "x"),
        ("<prompt schema='trip'>\n<plann/></prompt>", 2, "Did you mean 'plan'"),
        ("<prompt schema='trip'>\n<visa/></prompt>", 2, "visa"),  # it stands inside abroad
        ("<prompt schema='trip'><plan>\n<visa/></plan></prompt>", 2, "abroad"),
        ("<prompt schema='trip'><plan/>\n<plan/></prompt>", 2, "twice"),
        ("<prompt schema='trip'><plan><home/>\n<abroad/></plan></prompt>", 2, "one union"),
        ("<prompt schema='trip'>\n<plan day='1'/></prompt>", 2, "Did you mean 'days'"),
        ("<prompt schema='trip'>\n<plan days='one two three four'/></prompt>", 2, "4 tokens, more than the 3"),
        ("<prompt schema='trip'>\n<budget days='1'/></prompt>", 2, "days"),
        ("<prompt schema='trip'><plan>\nand text</plan></prompt>", 2, "and text"),
        ("<prompt schema='trip'>\n<user role='x'>q</user></prompt>", 2, "role"),
        ("<!DOCTYPE p [<!ENTITY x 'y'>]><prompt schema='trip'>&x;</prompt>", 1, "DOCTYPE"),
    ],
)
def test_bad_prompts_are_refused_with_file_and_line(text, line, says):
    error = refused(text, trip())
    assert (error.path, error.line) == ("p.pml", line)
    assert says in str(error)


def test_a_prompt_without_a_token_is_refused():
    schema = parse_schema('<schema name="s"><module name="m">text</module></schema>')
    assert "holds no token" in str(refused('<prompt schema="s"/>', schema))


def test_unknown_names_are_of_the_kind_that_lists_the_near_ones():
    refused("<prompt schema='trip'><plann/></prompt>", trip(), UnknownNameError)


# --- files ------------------------------------------------------------------------------------------------------------------


def test_files_are_read_and_blamed_by_name(tmp_path):
    (tmp_path / "s.pml").write_text("\ufeff" + TRIP, encoding="utf-8")
    (tmp_path / "p.pml").write_text('<prompt schema="trip">\n<nothing/></prompt>', encoding="utf-8")
    schema = read_schema(tmp_path / "s.pml", count_tokens=words)
    assert schema.modules == trip().modules
    with pytest.raises(UnknownNameError) as caught:
        read_prompt(tmp_path / "p.pml", schema)
    assert str(caught.value).startswith(f"{tmp_path / 'p.pml'}:2: ")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"")])
def test_what_is_no_file_with_text_is_refused(tmp_path, make):
    make(tmp_path / "s.pml")
    with pytest.raises(InputError):
        read_schema(tmp_path / "s.pml")


def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path):
    (tmp_path / "s.pml").write_bytes(b'<schema name="s">\n\xff</schema>')
    with pytest.raises(InputError) as caught:
        read_schema(tmp_path / "s.pml")
    assert caught.value.line == 2


def test_a_device_is_not_read_forever():
    with pytest.raises(InputError, match="regular file"):
        read_schema("/dev/zero")


def test_a_long_schema_is_read_in_a_second():
    text = "line\n" * 1000
    body = "".join(f'<module name="m{i}">{text}</module>' for i in range(200))
    started = time.perf_counter()
    schema = parse_schema(f'<schema name="s">{body}</schema>', count_tokens=words)
    prompt = "".join(f"<m{i}/>" for i in range(200))
    placed = parse_prompt(f'<prompt schema="s">{prompt}</prompt>', schema)
    assert time.perf_counter() - started < 2
    assert sum(piece.segment.tokens for piece in placed) == 200_000 == schema.tokens


def test_modules_are_plain_values():
    assert trip().modules[0] == Module("trip/", trip().modules[0].version, 3, 3)
