"""Every code block of the README and the docs runs, in order, in one folder per page; generated pages are up to date.

Python blocks run as code (or as doctests), shell blocks that begin with ``simcache`` through the command line; a block fenced as
``toml NAME`` is written to NAME first. What such a page takes for granted, a trace of its reader's own, is made small.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from docs import generate
from simcache.cli import main
from simcache.prompt import Request, Segment
from simcache.workload.trace_writers import write_trace

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
LANGUAGES = {"python", "sh", "toml", "json", "text", "diff", ""}
NOT_HERE = {
    # a block with a line that begins so -> why this suite does not run it
    "python3 -m venv": "the README's two commands: .ci/run runs them in fresh copies",
    ".venv/bin/": "the development tools: .ci/run",
    "bash .ci/run": "runs this suite",
    "python -m calibration": "measures hardware and servers: tests/test_calibration.py",
}


class Block(NamedTuple):
    language: str
    name: str
    text: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    for found in re.finditer(r"^```([^\n`]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        language, _, name = found[1].strip().partition(" ")
        yield Block(language, name.strip(), found[2], text[: found.start()].count("\n") + 2)


def commands(text: str) -> Iterator[list[str]]:
    """The lines of a shell block as words, comments left out, continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def make_a_readers_own_files(folder: Path) -> None:
    """The traces and the scenario that pages take for granted."""
    mine = 'name = "mine"\nduration_s = 60\nworkload = { kind = "typing-sessions", users = 3 }\nbackend = { kind = "cluster" }\n'
    (folder / "my-scenario.toml").write_text(mine, encoding="utf-8")
    rows = [
        Request(0.4 * i, (Segment("system", 600), Segment(f"doc{i % 5}", 1_500), Segment(f"q{i}", 40)), Segment(f"a{i}", 60))
        for i in range(60)
    ]
    write_trace(rows, folder / "conversation_trace.jsonl", "mooncake")
    write_trace(rows, folder / "requests.json", "segments")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    make_a_readers_own_files(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks((ROOT / page).read_text(encoding="utf-8")):
        where = f"{page}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: {block.language!r} is run by nobody: name a language, or teach this test"
        if block.language == "python":
            run_python(block, where, names)
        elif block.language == "toml":
            tomllib.loads(block.text)
            if block.name:
                (tmp_path / block.name).write_text(block.text, encoding="utf-8")
        elif block.language == "json":
            for line in block.text.splitlines():
                json.loads(line)
        elif block.language in ("sh", ""):
            run_shell(block, where, shown_only=page == "docs/reference.md")


def run_python(block: Block, where: str, names: dict[str, Any]) -> None:
    if block.text.startswith(">>>"):
        test = doctest.DocTestParser().get_doctest(block.text, names, where, where, block.line)
        runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert runner.run(test).failed == 0, where
        return
    exec(compile("\n" * (block.line - 1) + block.text, where, "exec"), names)


def run_shell(block: Block, where: str, *, shown_only: bool) -> None:
    if any(line.startswith(tuple(NOT_HERE)) for line in block.text.splitlines()):
        return
    for words in commands(block.text):
        line = shlex.join(words)
        assert words[0] == "simcache", f"{where}: nobody runs {line!r}: say why in NOT_HERE, or write it with simcache"
        assert not shown_only
        done = CliRunner().invoke(main, words[1:])
        assert done.exit_code == 0, f"{where}: {line}\n{done.output}"
        assert not isinstance(done.exception, Exception)


def test_the_reference_is_what_the_code_says() -> None:
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == generate.reference(), "run: python docs/generate.py"


def test_links_between_pages_lead_somewhere() -> None:
    for page in (*PAGES, "README.zh-CN.md", "CONTRIBUTING.md", "studies/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not target.startswith(("http:", "https:", "#", "mailto:")):
                assert (ROOT / page).parent.joinpath(target.partition("#")[0]).exists(), f"{page} links to {target}"


def test_pages_name_no_machine_of_ours() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert os.fspath(ROOT) not in text
        assert "/tmp/" not in text


def test_the_chinese_readme_says_what_the_english_one_says() -> None:
    """The same blocks, pictures, links and figures in tables, in the same order; commands are never translated."""
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    assert [block[:3] for block in blocks(english)] == [block[:3] for block in blocks(chinese)]

    def outline(text: str) -> list[int]:
        text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
        return [len(head[1]) for head in re.finditer(r"^(#+) ", text, re.MULTILINE)]

    def targets(text: str) -> set[str]:
        return set(re.findall(r"\]\(([^)\s]+)\)", text)) - {"README.md", "README.zh-CN.md"}

    def cells(text: str) -> list[tuple[list[str], list[str]]]:
        rows = [line for line in text.splitlines() if line.startswith("|")]
        return [(re.findall(r"`[^`]*`", row), sorted(re.findall(r"\d[\d,.]*\d|\d", row))) for row in rows]

    assert outline(english) == outline(chinese)
    assert targets(english) == targets(chinese)
    for ours, theirs in zip(cells(english), cells(chinese), strict=True):
        assert ours == theirs
