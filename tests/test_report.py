"""The page of a run and of a sweep: what stands in it, what cannot get into it, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from simcache.cli import main
from simcache.report.page import Listing, Page, Points, Section, Table, page_html
from simcache.report.page_parts import flat, scenario_parts
from simcache.report.run_page import run_page
from tests.browser import browser

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "]]>--><b>&lt;\u202etxet")
SCENARIO = f"""
schema_version = 1
name = "an <i>evening</i> chat"
seeds = 2
duration_s = 400
workload = {{ kind = "typing-sessions", users = 8, document_tokens = 6_000 }}
backend = {{ kind = "server" }}
[[variants]]
name = {json.dumps(HOSTILE[0])}
[[variants]]
name = {json.dumps(HOSTILE[1])}
warming = {{ kind = "on-focus" }}
[[variants]]
name = {json.dumps(HOSTILE[2])}
backend = {{ kind = "hosted-api", provider = "anthropic", model = "claude-sonnet-4-5", profile = "openai-figure" }}
warming = {{ kind = "on-first-key" }}
"""
STUDY = """
schema_version = 1
name = "small <b>study</b>"
seeds = 2
[scenario]
name = "chat & more"
duration_s = 200
workload = { kind = "typing-sessions", users = 6, document_tokens = 4_000 }
backend = { kind = "cluster" }
[axes]
"backend.replicas" = [1, 2]
"warming" = ["none", "on-focus"]
"""


def simcache(*words: str | Path, status: int = 0) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == status, done.output
    return done


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "asked.toml").write_text(SCENARIO, encoding="utf-8")
    simcache("run", folder / "asked.toml", "--out", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def run_text(run_folder: Path) -> str:
    simcache("report", run_folder)
    return (run_folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "study.toml").write_text(STUDY, encoding="utf-8")
    simcache("sweep", folder / "study.toml", "--out", folder / "out", "--workers", "1")
    return folder / "out"


class Seen(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_page_says_all_that_a_colleague_asks(run_folder: Path, run_text: str) -> None:
    seen = Seen(run_text)
    document = json.loads((run_folder / "results.json").read_text())
    for heading in ("How far to trust it", "Figures", "Results", "The scenario", "Assumptions", "Where every number comes from"):
        assert heading in seen.text
    assert "an <i>evening</i> chat" in seen.text
    assert document["answer"].split(" (p95")[0] in seen.text
    for entry in document["results"]:
        assert entry["provenance"]["prices"] in seen.text
        assert f"{entry['ttft_s']['p95']:.2f} s" in seen.text or entry["ttft_s"]["p95"] < 1
    assert "'openai-figure' is not measured on your system" in seen.text
    assert "2 seeds make wide intervals" in seen.text
    assert "simcache run variant-1.toml --seed 0 --seeds 2" in seen.text
    assert seen.text.count("seed 0 run again: equal records") == 3
    assert seen.tags.count("figure") == seen.tags.count("img") >= 7


def test_nothing_is_loaded_and_nothing_can_run(run_text: str) -> None:
    seen = Seen(run_text)
    assert "script" not in seen.tags
    for tag, name, value in seen.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href"):
            assert value is not None
            assert value.startswith("data:"), (tag, name, value[:60])
    policies = [value for tag, name, value in seen.attributes if tag == "meta" and name == "content"]
    assert any(policy and policy.startswith("default-src 'none'; img-src data:;") for policy in policies)
    assert "url(" not in run_text
    assert "@import" not in run_text


def test_names_come_out_as_text_whatever_they_hold(run_text: str) -> None:
    seen = Seen(run_text)
    assert HOSTILE[0] in seen.text
    assert HOSTILE[1] in seen.text
    assert "]]>--><b>&lt;\N{REPLACEMENT CHARACTER}txet" in seen.text  # an override of direction would turn what follows it
    assert "\u202e" not in run_text
    assert set(re.findall("\N{REPLACEMENT CHARACTER}.{4}", seen.text)) == {"\N{REPLACEMENT CHARACTER}txet"}  # nothing else is lost
    assert not {"b", "i"} & set(seen.tags)


def test_equal_folders_make_equal_pages(run_folder: Path, run_text: str, tmp_path: Path) -> None:
    done = simcache("report", run_folder, "-o", tmp_path / "deep" / "page.html", "--json")
    assert (tmp_path / "deep" / "page.html").read_text(encoding="utf-8") == run_text
    assert json.loads(done.stdout)["page"] == str(tmp_path / "deep" / "page.html")


def test_records_of_another_version_and_missing_ones_are_said(run_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run_folder, copy)
    homes = sorted(path.parent for path in copy.glob("*/seed-0/records.parquet"))
    shutil.copy(homes[0].parent / "seed-1" / "records.parquet", homes[0] / "records.parquet")
    (homes[1].parent / "seed-1" / "records.parquet").unlink()
    text = Seen(page_html(run_page(copy))).text
    assert "this installation gives other records" in text
    assert "OTHER records" in text
    assert "Some figures are missing: the folder has no records of" in text


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "holds none of results.json, sweep.json"),
        ("no JSON", "cannot be read"),
        ("{}", "simcache did not write"),
        ('{"schema_version": 1, "results": []}', "without a result"),
        ('{"schema_version": 1, "results": [{"scenario": "a"}]}', "of another version"),
    ],
)
def test_other_folders_are_refused_in_one_line(tmp_path: Path, content: str | None, why: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    said = simcache("report", tmp_path, status=2).output
    assert why in said
    assert said.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_leaves_nothing(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "cannot be written" in simcache("report", run_folder, "-o", tmp_path / "file" / "page.html", status=2).output
    assert "cannot be written" in simcache("report", run_folder, "-o", tmp_path, status=2).output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_sweep_has_its_page(sweep_folder: Path) -> None:
    simcache("report", sweep_folder)
    seen = Seen((sweep_folder / "report.html").read_text(encoding="utf-8"))
    assert "What changes with backend.replicas, warming? 4 scenarios, 8 runs." in seen.text
    assert "small <b>study</b>" in seen.text
    assert json.loads((sweep_folder / "sweep.json").read_text())["answer"] in " ".join(seen.text.split())
    assert "dollars per 1,000 questions against backend.replicas" in seen.text
    assert re.search(r"\[\d[\d.,]* m?s, \d[\d.,]* m?s\]", seen.text.replace("\N{NO-BREAK SPACE}", " "))
    assert "workload.document_tokens" in seen.text
    assert "numpy" in seen.text


def test_a_failed_run_of_a_sweep_is_a_warning(sweep_folder: Path, tmp_path: Path) -> None:
    document = json.loads((sweep_folder / "sweep.json").read_text())
    document["failures"] = [{"cell": "<b>x</b>", "seed": 3, "why": "its worker died"}]
    (tmp_path / "sweep.json").write_text(json.dumps(document))
    simcache("report", tmp_path)
    assert "<b>x</b>, seed 3: this run failed: its worker died" in Seen((tmp_path / "report.html").read_text()).text


def test_what_differs_stands_apart_from_what_all_share() -> None:
    texts = [
        (name, f'name = "{name}"\nduration_s = 5\n[backend]\nkind = "server"\nreplicas = {n}') for n, name in ((1, "a"), (2, "b"))
    ]
    differs, shared = scenario_parts(texts)
    assert isinstance(differs, Table)
    assert isinstance(shared, Table)
    assert differs.rows == (("backend.replicas", "1", "2"),)
    assert shared.rows == (("duration_s", "5"), ("backend.kind", "server"))
    assert flat({"backend": {"kind": "x", "inner": {"kind": "y", "law": {"kind": "fixed"}}}})["backend.inner.law"] == "fixed"


def test_every_part_of_a_page_is_escaped() -> None:
    bad = "<script>x</script>&\x00"
    parts = (bad, Table(head=(bad,), rows=((bad,),), note=bad), Listing(text=bad, label=bad), Points(lines=(bad,), warn=True))
    text = page_html(Page(title=bad, question=bad, answer=bad, sections=(Section(title=bad, parts=parts),)))
    assert "<script" not in text
    assert "\x00" not in text
    assert text.count("&lt;script&gt;x&lt;/script&gt;&amp;\N{REPLACEMENT CHARACTER}") == 12


MEASURE = """
[...document.images].map(image => {
  const box = image.getBoundingClientRect();
  return {width: box.width, height: box.height, right: box.right, natural: image.naturalWidth, done: image.complete};
})
"""


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_a_real_browser_shows_it_on_a_phone_and_on_a_desk(
    kind: str, run_folder: Path, run_text: str, sweep_folder: Path, tmp_path: Path
) -> None:
    folder = run_folder if kind == "run" else sweep_folder
    if kind == "sweep":
        simcache("report", folder)
    address = (folder / "report.html").as_uri()
    with browser(tmp_path / "profile") as window:
        for width, scheme in ((360, "light"), (360, "dark"), (1280, "light"), (1280, "dark")):
            window.open(address, width=width, scheme=scheme)
            assert window.complaints() == []
            assert [each for each in window.requested() if not each.startswith("data:")] == [address]
            pictures = window.value(MEASURE)
            assert len(pictures) >= 5
            for picture in pictures:
                assert picture["done"]
                assert picture["natural"] > 0
                assert picture["width"] > 300
                assert picture["height"] > 100
                assert picture["right"] <= width
            assert window.value("document.documentElement.scrollWidth") <= width  # only tables scroll, inside their frames
            ground = window.value("getComputedStyle(document.body).backgroundColor")
            assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 23, 26)")
            assert window.value("document.scripts.length + document.querySelectorAll('img:not([alt])').length") == 0
            assert window.value("parseFloat(getComputedStyle(document.querySelector('figcaption')).fontSize)") >= 13
        window.do("Emulation.setEmulatedMedia", media="print")
        assert window.value("getComputedStyle(document.querySelector('pre') ?? document.body).maxHeight") == "none"
