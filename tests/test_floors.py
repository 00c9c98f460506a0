"""The law of the house, read from imports: no upward arrow, no circle, each outside library in its own rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
HOUSE: Final = ROOT / "simcache"

FLOORS: Final = (
    # (floor, rooms): a room imports only from rooms further down this page, from its own folder, and from rooms beside it
    # without a circle.
    ("front door", ("__init__",)),
    ("9 words to objects, and print", ("cli/",)),
    ("8 draw", ("report/",)),
    ("7d decisions from real logs", ("decision/",)),
    ("7c how to lay prompts out", ("advice/",)),
    ("7b what to take, how far it goes", ("planner", "racing", "objective", "capacity", "sensitivity")),
    (
        "7a predicted against measured",
        ("validation", "live_log", "benchmark_run", "llamacpp_log", "drift", "serving_runs", "serving_model"),
    ),
    ("6 scenarios x seeds", ("experiment/",)),
    ("5 the clock", ("engine/",)),
    (
        "4c records of a run and what was asked of them",
        (
            "result",
            "warm_ledger",
        ),
    ),
    ("4b files of scenarios", ("scenario_kinds", "scenario_file")),
    ("4a the frozen question", ("scenario",)),
    ("3e what real requests cost, and when warming pays", ("usage_bill", "break_even")),
    ("3d policies that see people and caches; what breaks", ("warming/", "routing", "faults")),
    ("3c decisions of an engine", ("scheduler/",)),
    ("3b what is already computed", ("cache/",)),
    ("3a who asks; what real requests say", ("workload/", "messages/")),
    ("2b latency: fit and profiles", ("latency/", "usage_fit")),
    (
        "2a money, metrics, statistics, closed forms, numbers for people, markup",
        (
            "logs",
            "benchmark_results",
            "metrics_page",
            "notes",
            "record_files",
            "usage_blocks",
            "price_list",
            "pricing",
            "metrics",
            "stats",
            "queueing",
            "theory",
            "steady",
            "units",
            "pml",
            "pml_xml",
        ),
    ),
    ("1 what happened and what can go wrong", ("records", "prompt", "streams", "whole_files", "errors")),
)
"""The map of DESIGN.md and CONTRIBUTING.md, once. A new room joins by being listed."""

ONLY_IN: Final = {
    # an import of the key is allowed under these paths only
    "simpy": ("simcache/engine/",),
    "matplotlib": ("simcache/report/",),
    "torch": ("calibration/",),
    "rich": ("simcache/cli/",),
    "click": ("simcache/cli/",),
}
LONG_FILES: Final = {
    "simcache/cache/block_pool.py": "one structure: queue, tree and copies change together, and check() reads all three",
    "simcache/scheduler/vllm.py": "one engine's rules, one file: plan, horizon and execution share the state of the live requests",
}
"""Files over 400 lines, each with the reason why it is not two."""
NO_ROOMS: Final = {"utils", "util", "helpers", "helper", "common", "misc"}


def modules() -> dict[str, Path]:
    """Dotted name below simcache -> file; a folder's ``__init__`` is named by the folder."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = path.relative_to(HOUSE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def inner_imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """(module below simcache, line) of every import in a file, wherever it stands: lazy imports and type checking count."""
    package = ["simcache", *name.split(".")] if path.name == "__init__.py" else ["simcache", *name.split(".")[:-1]]
    package = ["simcache"] if name == "__init__" else package
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            targets = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target.split(".")[0] != "simcache":
                continue
            parts = target.split(".")[1:]
            while parts and ".".join(parts) not in known:
                parts.pop()
            yield ".".join(parts) or "__init__", node.lineno


def room(name: str) -> str:
    """The room of a module as FLOORS names it."""
    return f"{name.split('.')[0]}/" if (HOUSE / name.split(".")[0]).is_dir() else name


def floor(name: str) -> int:
    """0 at the front door, growing downwards."""
    levels = [level for level, (_, rooms) in enumerate(FLOORS) if room(name) in rooms]
    assert levels, f"{name} has no floor: list it in FLOORS and in the map of CONTRIBUTING.md"
    return levels[0]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_every_room_is_on_the_map_and_the_map_has_no_empty_room() -> None:
    listed = [each for _, rooms in FLOORS for each in rooms]
    assert len(listed) == len(set(listed))
    assert {room(name) for name in modules()} == set(listed)


def test_no_upward_arrow() -> None:
    known = modules()
    upward = [
        f"{path.relative_to(ROOT)}:{line}: {name} imports {target} from the floor '{FLOORS[floor(target)][0]}'"
        for name, path in known.items()
        for target, line in inner_imports(name, path, known)
        if floor(target) < floor(name)
    ]
    assert not upward, "\n".join(upward)


def test_no_circle() -> None:
    known = modules()
    arrows = {name: {target for target, _ in inner_imports(name, path, known)} - {name} for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for target in sorted(arrows[name]):
                visit(target, (*way, name))
            done.add(name)

    for name in known:
        visit(name, ())


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_each_outside_library_stays_in_its_rooms(library: str) -> None:
    found = []
    for top in ("simcache", "calibration"):
        for path in sorted((ROOT / top).rglob("*.py")):
            for node in ast.walk(tree(path)):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                where = path.relative_to(ROOT).as_posix()
                if any(name.split(".")[0] == library for name in names) and not where.startswith(ONLY_IN[library]):
                    found.append(f"{where}:{node.lineno}")
    assert not found, f"{library} is imported outside {ONLY_IN[library]}: {found}"


def test_only_the_command_line_prints() -> None:
    for name, path in modules().items():
        if room(name) == "cli/":
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                assert not (isinstance(node.func, ast.Name) and node.func.id == "print"), f"{path}:{node.lineno} prints"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys":
                assert node.attr not in ("stdout", "stderr"), f"{path}:{node.lineno} reaches for sys.{node.attr}"


def test_no_room_is_a_drawer_for_everything() -> None:
    for path in [*HOUSE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "calibration").rglob("*.py")]:
        assert path.stem not in NO_ROOMS, path
        assert not NO_ROOMS & set(path.relative_to(ROOT).parts), path


def test_files_over_400_lines_have_a_reason() -> None:
    long = {}
    for path in HOUSE.rglob("*.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > 400:
            long[path.relative_to(ROOT).as_posix()] = lines
    assert set(long) <= set(LONG_FILES), f"split them, or say why not in LONG_FILES: {long}"
    assert set(LONG_FILES) <= set(long), "no longer over 400 lines: take them off LONG_FILES"


def test_the_map_in_contributing_names_every_room() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    missing = [each for _, rooms in FLOORS for each in rooms if f"`{each if each.endswith('/') else each + '.py'}`" not in text]
    assert not missing, f"CONTRIBUTING.md does not name {missing}"
