"""``simcache report``: what a run or a sweep left in its folder -> one page to send to a colleague."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import InputError


@click.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The page.  [default: DIR/report.html]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document about the page.")
def command(folder: Path, output: Path | None, as_json: bool) -> None:
    """Write one self-contained HTML page on what `simcache run` or `simcache sweep` left in DIR.

    The question, the answer with its interval, figures, tables, assumptions, where every number comes from, and how to
    reproduce it. It needs no network and no script. The first seed of each variant of a run is run again, to see that it gives
    the same records and to draw what happened over time.
    """
    from ..report.page import save_page
    from ..report.run_page import run_page
    from ..report.sweep_page import sweep_page

    makers = {"results.json": run_page, "sweep.json": sweep_page}
    found = next((make for name, make in makers.items() if (folder / name).is_file()), None)
    if found is None:
        rule = f"holds none of {', '.join(makers)}" if folder.is_dir() else "is not a folder"
        raise InputError("folder", str(folder), rule, "Name a folder that simcache run or simcache sweep wrote with --out.")
    page = found(folder)
    path = save_page(page, output or folder / "report.html")
    if as_json:
        import json

        click.echo(json.dumps({"schema_version": 1, "page": str(path), "title": page.title, "answer": page.answer}, indent=2))
        return
    click.echo(f"page: {path}")
