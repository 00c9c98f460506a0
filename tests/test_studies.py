"""Every study runs with --quick and says what it said: golden summaries in tests/golden, numbers within 1 %.

A summary that changes for a reason is written anew: ``SIMCACHE_GOLDEN=write pytest -m "slow or not slow" tests/test_studies.py``.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate import studies, study_index

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
FAST = ("01_speculative_recipe", "02_openai_demo")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
NOISE = 1e-6
"""Differences between a simulation and a closed form; what is left of them is rounding, other on every machine."""


def numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


def figures() -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((ROOT / "figures").glob("*.png"))}


def check(study: Path, request: pytest.FixtureRequest) -> None:
    if "SIMCACHE_DATA" in study.read_text(encoding="utf-8"):
        request.getfixturevalue("shared_data")
    before = figures()
    done = subprocess.run(
        [sys.executable, str(study), "--quick"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert (ROOT / "figures" / "quick" / f"{study.stem}.png").is_file()
    assert figures() == before, "a quick study draws into figures/quick"
    golden = GOLDEN / f"{study.stem}.txt"
    if os.environ.get("SIMCACHE_GOLDEN") == "write":
        golden.write_text(done.stdout, encoding="utf-8")
    expected = golden.read_text(encoding="utf-8")
    assert NUMBER.sub("#", done.stdout) == NUMBER.sub("#", expected)
    for now, then in zip(numbers(done.stdout), numbers(expected), strict=True):
        assert now == pytest.approx(then, rel=0.01, abs=NOISE), f"{now} was {then} in:\n{done.stdout}"


@pytest.mark.parametrize("name", FAST)
def test_quick_studies_say_what_they_said(name: str, request: pytest.FixtureRequest) -> None:
    check(ROOT / "studies" / f"{name}.py", request)


@pytest.mark.slow
@pytest.mark.parametrize("study", [path for path in studies() if path.stem not in FAST], ids=lambda path: path.stem)
def test_every_study_says_what_it_said(study: Path, request: pytest.FixtureRequest) -> None:
    check(study, request)


def test_every_study_has_a_golden_summary_a_figure_and_its_place_in_the_index() -> None:
    for study in studies():
        assert (GOLDEN / f"{study.stem}.txt").is_file(), f"run SIMCACHE_GOLDEN=write pytest -m slow for {study.stem}"
        assert (ROOT / "figures" / f"{study.stem}.png").is_file(), f"run python studies/{study.name}"
    index = (ROOT / "studies" / "README.md").read_text(encoding="utf-8")
    assert index == study_index(), "write it anew: python docs/generate.py"


def test_every_study_says_question_setup_and_what_to_look_at() -> None:
    for study in studies():
        text = study.read_text(encoding="utf-8")
        for word in ("Question", "Setup", "What to look at", "--quick"):
            assert word in text, f"{study.name} has no {word!r}"
