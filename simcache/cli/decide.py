"""``simcache decide``: a log of real requests -> what to change about caching and warming, in dollars a month and seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..decision.verdict import Decision, Row


@click.command("decide")
@click.argument("log", metavar="LOG.jsonl")
@click.option("--provider", metavar="NAME", help="Which of the log's providers.  [default: its only one]")
@click.option("--model", metavar="MODEL", help="Which of its models.  [default: the one most used]")
@click.option("--rules", metavar="NAME | FILE.toml", help="Cache rules today.  [default: those of provider and model]")
@click.option("--slo-ttft", "slo_ttft_s", type=float, default=1.0, show_default=True, help="Objective for TTFT, seconds.")
@click.option("--also", multiple=True, metavar="PROVIDER/MODEL", help="Another model that you would take; repeat for more.")
@click.option("--device", type=click.Choice(["desktop", "mobile"]), help="What people type on.  [default: desktop, and phones]")
@click.option("--typing-s", type=float, help="Seconds from opening a question to sending it, instead of a simulated typist.")
@click.option("--psend", "p_send", type=float, default=1.0, show_default=True, help="Share of begun questions that are sent.")
@click.option("--reuse", type=float, help="Share of prompts that begin with the one before, where the log cannot show it.")
@click.option("--profile", metavar="NAME | FILE.toml", help="Latency where the log has none.  [default: openai-figure]")
@click.option("--tokenizer", metavar="FILE.json", help="Counts a message log's texts.  [default: an estimate per script]")
@click.option("--figure", type=click.Path(dir_okay=False, path_type=Path), help="Draw the alternatives: .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    log: str,
    provider: str | None,
    model: str | None,
    rules: str | None,
    slo_ttft_s: float,
    also: tuple[str, ...],
    device: str | None,
    typing_s: float | None,
    p_send: float,
    reuse: float | None,
    profile: str | None,
    tokenizer: str | None,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Decide about caching and warming from LOG: a usage log or a message log (JSONL, see docs/decide.md).

    Fits latency from the log, prices it, and simulates on its own arrivals: caching off and on, other lifetimes, pings, markers,
    warming while people type, other providers. Says yes, no, it depends or cannot tell, with 95 % intervals, and what to paste.
    """
    from ..decision.deciding import decide
    from ..decision.document import document
    from ..decision.verdict import Asked
    from ..logs import read_usage
    from ..messages.reader import holds_messages, read_messages
    from .progress import runs_bar

    asked = Asked(
        provider=provider,
        model=model,
        rules=rules,
        profile=profile,
        slo_ttft_s=slo_ttft_s,
        device=device,  # type: ignore[arg-type]
        typing_s=typing_s,
        p_send=p_send,
        reuse=reuse,
        also=also,
        tokenizer=tokenizer,
    )
    if figure is not None:
        from ..report.figures import require_figure

        require_figure(figure)  # before the work, not after it
    read = read_messages(log) if holds_messages(log) else read_usage(log)
    with runs_bar() as progress:
        found = decide(read, asked, progress=progress)
    if figure is not None and found.rows:
        from ..report.decision_figures import save_decision

        save_decision(found, figure)
    if as_json:
        click.echo(json.dumps(document(found) | {"log": log}, indent=2))
        return
    _print(found, figure)


def _print(found: Decision, figure: Path | None) -> None:
    from ..decision.settings import settings
    from ..decision.words import answer, assumptions, reproduction, span
    from .table import print_answer, print_lines, print_notes

    print_answer(answer(found))
    if found.rows:
        checked = found.reproduction
        word = "reproduces the log" if checked is not None and checked.holds else "DOES NOT reproduce the log"
        print_lines(f"Today's configuration, simulated, {'is not checked' if checked is None else word}: {reproduction(found)}.")
        click.echo()
    of = f" of {found.conversations:,} sessions" if found.conversations else ""
    print_lines(f"{found.provider} {found.model}: {found.requests:,} requests{of} in {span(found.span_s)}")
    if found.rows:
        _print_rows(found)
    what = settings(found)
    if what:
        click.echo("\nTo paste:")
        layout = what.get("layout")
        click.echo("\n".join(layout["diff"]) if layout else json.dumps(what["request"], indent=2))
        for each in layout["breakpoints"] if layout else ():
            print_lines(f"{json.dumps(each['set'])} behind {each['behind']}: {each['why']}")
        for line in what["say"]:
            print_lines(line)
        click.echo()
    left = [f"left out: {count:,} requests {reason}" for reason, count in found.left_out.items()]
    lacks = [f"the log lacks {what}" for what in found.missing] if found.rows else []
    assumed = [f"assumed: {each}" for each in assumptions(found)]
    print_notes([*left, *lacks, *assumed, f"prices: {found.prices}", *found.notes], [])
    if figure is not None:
        click.echo(f"figure: {figure}" if found.rows else "no figure: nothing was simulated")


def _print_rows(found: Decision) -> None:
    from rich.console import Console
    from rich.table import Table

    from .table import width

    slo = f"{found.asked.slo_ttft_s:g} s"
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("\nalternative", overflow="fold")
    for head in ("$ a\nmonth", "change\n[95 %]", "TTFT\np50 s", "\np95 s", f"under\n{slo}", "token\nhits"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in found.rows:
        table.add_row(*_cells(row))
    Console(width=width(), highlight=False, markup=False).print(table)


def _cells(row: Row) -> list[str]:
    from .. import units
    from ..decision.words import money

    change = row.change_usd
    changed = units.NOTHING
    if row.alternative.kind != "today":
        changed = money(change.mean, plus=True)
        if change.low is not None and change.high is not None:
            changed += f"\n[{money(change.low, plus=True)}, {money(change.high, plus=True)}]"
    seconds = [units.NOTHING if each is None else f"{each.mean:,.2f}" for each in (row.ttft_p50_s, row.ttft_p95_s)]
    share = units.NOTHING if row.slo_share is None else units.share(row.slo_share.mean)
    return [row.alternative.name, money(row.usd_a_month.mean), changed, *seconds, share, units.share(row.hit_ratio)]
