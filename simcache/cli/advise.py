"""``simcache advise``: a message log -> what breaks its prefixes, what that costs, and the layout to send instead."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..advice.advisor import Advice
    from ..advice.playing import Played
    from ..messages.tokens import TokenCounts


@click.command("advise")
@click.argument("log", metavar="MESSAGES.jsonl")
@click.option("--provider", required=True, help="Provider whose cache rules and prices hold (see `simcache providers`).")
@click.option("--model", help="Model that stands for all of the log's.  [default: the log's own]")
@click.option("--rules", metavar="NAME | FILE.toml", help="Other cache rules of that provider.  [default: those of the model]")
@click.option(
    "--profile", default="openai-figure", show_default=True, help="Latency profile of a hosted API, a name or a TOML file."
)
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Count tokens by this tokenizer.json.  [default: an estimate]")
@click.option("--no-costs", is_flag=True, help="Do not simulate what each defect costs by itself (faster).")
@click.option("--show-text", is_flag=True, help="Show the beginnings of texts that vary. Without it no text of the log is printed.")
@click.option("--figure", type=click.Path(path_type=Path), help="Draw both layouts to FILE.png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    log: str,
    provider: str,
    model: str | None,
    rules: str | None,
    profile: str,
    tokenizer: Path | None,
    no_costs: bool,
    show_text: bool,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Find what breaks the prompt cache in a log of requests, and propose the layout that does not.

    MESSAGES.jsonl holds request bodies of OpenAI, Anthropic or Bedrock, one a line, bare or wrapped (see docs/advise.md). Both
    layouts are served by the simulator on the log's own arrivals. No text of the log is printed unless --show-text asks for it.
    """
    from ..advice.advisor import advise
    from ..latency.catalogue import find_profile
    from ..messages.reader import read_messages
    from ..messages.tokens import count_tokens
    from ..result import json_text

    messages = read_messages(log)
    counts = count_tokens(messages, tokenizer)
    advice = advise(
        messages,
        provider,
        model=model,
        rules=rules,
        profile=find_profile(profile),  # type: ignore[arg-type]  # advise() says what is wrong with a replica's profile
        counts=counts,
        cost_defects=not no_costs,
        show_text=show_text,
    )
    if figure is not None:
        from ..report.advice_figures import save_advice_figure

        save_advice_figure(advice, figure)
    if as_json:
        click.echo(json_text(_document(log, advice, counts)), nl=False)
        return
    _print(log, advice, counts, show_text)
    if figure is not None:
        click.echo(f"figure:  {figure}")


def _document(log: str, advice: Advice, counts: TokenCounts) -> dict[str, Any]:
    from ..advice.outline import configuration, layout_diff

    return {
        "schema_version": 1,
        "log": log,
        "provider": advice.provider,
        "requests": {
            "read": len(advice.log),
            "skipped": {reason: count for reason, (count, _) in advice.log.skipped.items()},
            "conversations": sum(before is None for before in advice.study.previous),
        },
        "models": [
            {"logged": name, "priced_as": each.api.model, "rules": each.rules.name, "min_tokens": _minimum(each)}
            for name, each in advice.served.items()
        ],
        "tokens": {"source": counts.source, "scale": counts.scale, "metered_requests": counts.metered},
        "today": _played(advice, advice.today) | {"ttl": advice.todays.ttl},
        "proposed": _played(advice, advice.proposed) | {"ttl": advice.layout.ttl},
        "logged_token_hit_ratio": _logged_ratio(advice),
        "saved_usd_per_1000_requests": advice.usd_per_1000_saved,
        "defects": [
            {
                "kind": defect.kind,
                "title": defect.title,
                "path": defect.path,
                "lines": list(defect.lines),
                "requests": defect.requests,
                "detail": defect.detail,
                "lost_tokens": defect.lost_tokens,
                "usd_per_1000_requests": defect.usd_per_1000,
                "usd_per_month": defect.usd_per_month,
                "mend": defect.mend,
                **({"texts": list(defect.texts)} if defect.texts else {}),
            }
            for defect in advice.defects
        ],
        "gaps": _gaps(advice),
        "layout": {"diff": layout_diff(advice), **configuration(advice)},
        "notes": _notes(advice, counts),
    }


def _minimum(each: Any) -> int:
    return int(each.rules.min_tokens_of(each.api.model))


def _played(advice: Advice, played: Played) -> dict[str, Any]:
    return {
        "token_hit_ratio": played.token_hit_ratio,
        "ttft_p50_s": played.ttft(0.5),
        "ttft_p95_s": played.ttft(0.95),
        "usd": played.total_usd,
        "usd_per_1000_requests": played.total_usd / len(advice.log) * 1000,
        "usd_per_month": None if advice.usd_month_factor is None else played.total_usd * advice.usd_month_factor,
        "lines_usd": {line: usd for line, usd in played.lines_usd.items() if usd},
        "prompt_tokens": int(played.prompt_tokens.sum()),
        "hit_tokens": int(played.hit_tokens.sum()),
    }


def _logged_ratio(advice: Advice) -> float | None:
    usages = [request.usage for request in advice.log.requests if request.usage is not None]
    prompt = sum(usage.prompt_tokens for usage in usages)
    return sum(usage.cached_tokens for usage in usages) / prompt if prompt else None


def _gaps(advice: Advice) -> list[dict[str, Any]] | None:
    """How many requests come how long after the one whose prefix they share; None: no instants are known."""
    if not advice.log.timed:
        return None
    gaps = advice.losses.gaps_s
    edges = (0.0, 300.0, 1800.0, 3600.0, float("inf"))
    return [
        {"from_s": low, "to_s": None if high == float("inf") else high, "requests": sum(low <= gap < high for gap in gaps)}
        for low, high in pairwise(edges)
    ]


def _notes(advice: Advice, counts: TokenCounts) -> list[str]:
    skipped = [f"skipped {count:,} lines, the first is {line}: {why}" for why, (count, line) in advice.log.skipped.items()]
    return [*skipped, f"tokens: {counts.source}", *advice.notes]


def _print(log: str, advice: Advice, counts: TokenCounts, show_text: bool) -> None:
    from .. import units
    from ..advice.outline import configuration, layout_diff
    from .table import print_answer, print_lines, print_notes

    conversations = sum(before is None for before in advice.study.previous)
    size = len(advice.log)
    click.echo(f"{log}: {units.count(size)} requests in {units.count(conversations)} conversations")
    click.echo(f"  {'':<10} {'token hits':>10} {'TTFT p50':>10} {'p95':>10} {'$ per 1,000':>12} {'$ a month':>12}")
    for played in (advice.today, advice.proposed):
        month = None if advice.usd_month_factor is None else played.total_usd * advice.usd_month_factor
        cells = [units.share(played.token_hit_ratio), units.seconds(played.ttft(0.5)), units.seconds(played.ttft(0.95))]
        click.echo(
            f"  {played.name:<10} {cells[0]:>10} {cells[1]:>10} {cells[2]:>10}"
            f" {units.dollars(played.total_usd / size * 1000):>12} {units.dollars(month):>12}"
        )
    print_answer(_sentence(advice))
    for number, defect in enumerate(advice.defects, 1):
        cost = "" if defect.usd_per_1000 is None else f", {units.dollars(defect.usd_per_1000)} per 1,000 requests"
        click.echo(f"{number}. {defect.kind} at {defect.path or 'the request'}{cost}")
        print_lines(f"   {defect.title}: {defect.detail} (first in lines {', '.join(map(str, defect.lines))}).")
        print_lines(f"   Mend: {defect.mend}")
        for text in defect.texts if show_text else ():
            click.echo(f"   text: {text!r}")
    diff = layout_diff(advice)
    if diff:
        click.echo("\nThe layout, by part:")
        click.echo("\n".join(f"  {line}" for line in diff))
    chosen = configuration(advice)
    if chosen["breakpoints"] and advice.layout.marks != advice.todays.marks:
        click.echo("\nBreakpoints to set:")
        for each in chosen["breakpoints"]:
            click.echo(f"  {each['set']} behind {each['behind']}: {each['why']}")
    click.echo("")
    print_notes(_notes(advice, counts), [])


def _sentence(advice: Advice) -> str:
    from .. import units

    saved = advice.usd_per_1000_saved
    ratio = f"{units.share(advice.today.token_hit_ratio)} of the prompt tokens are read from cache"
    if not advice.defects:
        return f"No defect was found: {ratio}."
    count = f"{len(advice.defects)} defect{'s' if len(advice.defects) > 1 else ''}"
    if saved <= 0:
        return f"{count}; {ratio}, and no layout that was tried costs less."
    month = (
        ""
        if advice.usd_month_factor is None
        else f", {units.dollars(saved / 1000 * len(advice.log) * advice.usd_month_factor)} a month"
    )
    return (
        f"{count}. The proposed layout reads {units.share(advice.proposed.token_hit_ratio)} of the prompt tokens from cache"
        f" instead of {units.share(advice.today.token_hit_ratio)} and saves {units.dollars(saved)} per 1,000 requests{month}."
    )
