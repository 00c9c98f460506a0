"""What a stranger gets: an import that costs nothing, commands that work as printed, without a network."""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import simcache

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("scipy.stats", "matplotlib", "pyarrow", "pydantic", "genai_prices", "rich", "click", "numba", "torch", "pandas")


def python(code: str, cwd: Path | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([*([extra.pop("first")] if "first" in extra else []), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **extra},
        capture_output=True,
        text=True,
        timeout=60,
    )


def seconds(code: str) -> float:
    started = time.perf_counter()
    assert python(code).returncode == 0
    return time.perf_counter() - started


def test_the_import_takes_less_than_0_4_s() -> None:
    bare, loaded = [], []
    for _ in range(5):  # in turn, so that a busy moment of the machine hits both
        bare.append(seconds("pass"))
        loaded.append(seconds("import simcache"))
    assert statistics.median(loaded) - statistics.median(bare) < 0.4


def test_no_public_name_loads_what_is_heavy() -> None:
    code = (
        f"import sys, simcache; [getattr(simcache, n) for n in simcache.__all__]; print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = python(code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_front_door_says_the_same_to_people_and_to_type_checkers() -> None:
    tree = ast.parse((ROOT / "simcache" / "__init__.py").read_text(encoding="utf-8"))
    typed = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            typed |= {alias.asname: node.module for alias in node.names}
    assert typed == simcache._HOME_OF
    assert set(simcache.__all__) <= set(dir(simcache))
    assert all(getattr(simcache, name) is not None for name in simcache.__all__)
    with pytest.raises(AttributeError, match="nobody"):
        simcache.nobody  # type: ignore[attr-defined]


def test_the_version_is_said_once() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"] == simcache.__version__


def test_types_licence_and_changes_are_there() -> None:
    assert (ROOT / "simcache" / "py.typed").is_file()
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "# Changelog" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_two_commands_stand_in_the_readme_where_ci_finds_them() -> None:
    script = ROOT / ".ci" / "run"
    if not script.is_file():
        pytest.skip("no .ci here: an installed or unpacked source distribution")
    found = subprocess.run(["bash", str(script), "commands"], capture_output=True, text=True, timeout=30)
    assert found.stdout.splitlines() == [
        "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/simcache run",
        "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest",
    ]


def test_every_python_block_of_the_readme_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        done = python(block, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "TTFT" in done.stdout


def dependencies() -> set[str]:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    return {re.split(r"[<>=!~ ]", each, maxsplit=1)[0] for each in listed}


EXTRAS = {"numba", "dask", "distributed", "pandas", "tokenizers"}
"""What is imported where somebody has installed the extra `speed`, `cluster` or `tokens`, or pandas for `to_pandas()`."""


def test_every_dependency_is_used_and_justified() -> None:
    used = set()
    for path in (ROOT / "simcache").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                used.add((node.module or "").split(".")[0])
    outside = {name for name in used if name not in sys.stdlib_module_names} - {"simcache", *EXTRAS}
    assert {name.replace("-", "_") for name in dependencies()} == outside
    table = re.findall(r"^\| ([a-z-]+) \| .+ \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert dependencies() <= set(table)


def test_torch_is_in_no_dependency_but_the_extra_calibration() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "torch" not in dependencies()
    assert [
        name for name, extra in project["optional-dependencies"].items() if any(each.startswith("torch") for each in extra)
    ] == ["calibration"]


def test_a_run_needs_no_network(tmp_path: Path) -> None:
    blocked = ROOT / ".ci" / "no_sockets"
    if not blocked.is_dir():
        pytest.skip("no .ci here: an installed or unpacked source distribution")
    knock = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=1)"
    assert "sockets are blocked" in python(knock, first=str(blocked)).stderr
    run = "from simcache.cli import main; main(['run', '--seeds', '1', '--set', 'duration_s=300'])"
    done = python(run, cwd=tmp_path, first=str(blocked))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "simcache-out" / "demo" / "ttft.png").is_file()
