"""Writes what is generated: docs/reference.md from the code, studies/README.md from the studies.

python docs/generate.py
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import click

import simcache
from simcache import scenario_kinds
from simcache.cli import VERBS, main
from simcache.records import INTEGER_COLUMNS, TEXT_COLUMNS, TIER_COLUMNS, TIER_HITS

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100
GENERATED = "<!-- written by docs/generate.py: change the code, then run it -->"


def studies() -> list[Path]:
    """The numbered studies."""
    return sorted((ROOT / "studies").glob("[0-9][0-9]_*.py"))


def study_index() -> str:
    """studies/README.md: every study with its question and its figure, small."""
    lines = [
        GENERATED,
        "# Studies",
        "",
        "Questions that somebody has, each answered by a script that prints one sentence and draws one figure:",
        "`python studies/NN_name.py [--quick]`. `--quick` is coarser, takes seconds and draws into `figures/quick/`; the slow",
        "test suite runs all of them and compares what they say with `tests/golden/`. A study that needs the public traces looks",
        "for them where `SIMCACHE_DATA` points (default `../shared/data`).",
        "",
        "| | study | figure |",
        "|---|---|---|",
    ]
    for path in studies():
        title = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]
        picture = f'<img src="../figures/{path.stem}.png" width="280" alt="{path.stem}">'
        lines.append(f"| {path.stem[:2]} | [{title}]({path.name}) | [{picture}](../figures/{path.stem}.png) |")
    swept = sorted(path.name for path in (ROOT / "studies").glob("*.toml"))
    lines += ["", "Studies in TOML, for `simcache sweep`: " + ", ".join(f"[{name}]({name})" for name in swept) + "."]
    return "\n".join(lines) + "\n"


def reference() -> str:
    """docs/reference.md: every command, scenario kind, public name and column of the records."""
    parts = [
        f"{GENERATED}\n# Reference",
        "Commands as `simcache VERB --help` prints them, the kinds of a [scenario file](scenario-files.md) with their keys, the"
        "\npublic Python names, and the columns of the records. Every docstring says more: `help(simcache.Server)`.",
        "## Commands",
        *(_command(verb) for verb in VERBS),
        "## Kinds of a scenario file",
        *(_family(family, kinds) for family, kinds in scenario_kinds.FAMILIES.items()),
        "### Inside those: distributions and other parts",
        *(_kind(name, kind) for name, kind in _inner_kinds()),
        "## Python names",
        "`import simcache as sc`, then `sc.` and:",
        _names(),
        "## Columns of the records",
        "A row per request. `_ns`: nanoseconds since the run began; empty (null) for never.",
        _columns(),
    ]
    return "\n\n".join(parts) + "\n"


def _command(verb: str, command: click.Command | None = None) -> str:
    command = command or importlib.import_module(f"simcache.cli.{verb.split()[0]}").command
    above = click.Context(main, info_name="simcache", **main.context_settings)
    context = click.Context(command, info_name=verb, parent=above, terminal_width=WIDTH, max_content_width=WIDTH)
    command._help_option = None  # click keeps that of the first caller, who may have called the verb on its own
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    below = ""
    if isinstance(command, click.Group):
        below = "".join(f"\n\n{_command(f'{verb} {name}', inner)}" for name, inner in sorted(command.commands.items()))
    return f"### simcache {verb}\n\n```text\n{text}\n```{below}"


def _family(family: str, kinds: Any) -> str:
    inner = "\n\n".join(_kind(name, kind, family) for name, kind in kinds.items())
    return f"### [{family}]\n\n{inner}"


def _inner_kinds() -> list[tuple[str, Any]]:
    """What is not a family of its own and so stands above."""
    above = {kind for kinds in scenario_kinds.FAMILIES.values() for kind in kinds.values()}
    return [(name, kind) for name, kind in scenario_kinds.INNER_KINDS.items() if kind not in above]


def _kind(name: str, kind: Any, family: str = "") -> str:
    made = kind if isinstance(kind, type) else None
    head = f'**`kind = "{name}"`**' + (f" (`{made.__name__}`)" if made else "")
    text = f"{head}: {_first_line(kind)}"
    if made is None or not dataclasses.is_dataclass(made):
        return text
    rows = [f"| `{field.name}` | {_type(field.type)} | {_default(field)} |" for field in dataclasses.fields(made) if field.init]
    return text + ("\n\n| key | type | default |\n|---|---|---|\n" + "\n".join(rows) if rows else "")


def _type(written: object) -> str:
    return "`" + re.sub(r"\s+", " ", str(written)).replace("|", "or") + "`"


def _default(field: dataclasses.Field[Any]) -> str:
    if dataclasses.is_dataclass(field.default) and field.default == _unchanged(type(field.default)):
        return f"`{type(field.default).__name__}()`"
    if field.default is not dataclasses.MISSING:
        return "`" + re.sub(r"\s+", " ", repr(field.default)).replace("|", "\\|") + "`"
    return "needed" if field.default_factory is dataclasses.MISSING else "`...`"


def _unchanged(kind: Any) -> object:
    needed = [f for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    return None if needed else kind()


def _first_line(thing: Any) -> str:
    paragraph = (inspect.getdoc(thing) or "").partition("\n\n")[0]
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", paragraph.replace("\n", " ")).replace("``", "`")


def _names() -> str:
    rows = []
    for name in simcache.__all__:
        thing = getattr(simcache, name)
        if isinstance(thing, type) or callable(thing):
            rows.append(f"| `{name}` | {_first_line(thing).replace('|', chr(92) + '|')} |")
        else:
            rows.append(f"| `{name}` | a `{type(thing).__name__}` |")
    return "| name | what it is |\n|---|---|\n" + "\n".join(rows)


def _columns() -> str:
    rows = [f"| `{name}` | {what} |" for name, what in {**TEXT_COLUMNS, **INTEGER_COLUMNS}.items()]
    hits = "of hit_tokens, those loaded from that tier; what is left was in GPU memory"
    tiers = {f"{TIER_HITS}TIER": hits, **TIER_COLUMNS}
    rows += [f"| `{name}` | with tiers: {what} |" for name, what in tiers.items()]
    return "| column | what it holds |\n|---|---|\n" + "\n".join(rows)


def write() -> None:
    """Write both."""
    (ROOT / "docs" / "reference.md").write_text(reference(), encoding="utf-8")
    (ROOT / "studies" / "README.md").write_text(study_index(), encoding="utf-8")


if __name__ == "__main__":
    write()
