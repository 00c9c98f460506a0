"""What ``simcache replay`` prints: one document, or tables that name the hit ratios they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from .. import units
from .table import width

if TYPE_CHECKING:
    from ..cache.curve import HitCurve
    from ..engine.replay import ReplayRow

SCHEMA_VERSION = 1


def document(
    read: Mapping[str, Any], rows: Sequence[ReplayRow], curves: Sequence[HitCurve], per_request: bool, touch: str
) -> dict[str, Any]:
    """The document of ``--json``: what was read, one entry per row, one per curve."""
    return {
        "schema_version": SCHEMA_VERSION,
        "trace": {**read, "rejected": max((row.rejected for row in rows), default=0)},
        "results": [_entry(row, per_request) for row in rows],
        "curves": [_curve_entry(curve, touch) for curve in curves],
    }


def _entry(row: ReplayRow, per_request: bool) -> dict[str, Any]:
    asked = ("policy", "store", "touch", "block_tokens", "capacity_blocks", "ttl_s", "ttl_kind", "requests", "rejected")
    hits = ("total_blocks", "hit_blocks", "block_hit_ratio", "total_tokens", "hit_tokens", "token_hit_ratio")
    entry = {name: getattr(row, name) for name in (*asked, *hits, "evicted_total", "evicted_unit", "bypassed_blocks")}
    if per_request:
        assert row.hits is not None
        assert row.evicted is not None
        entry |= {"hits": row.hits.tolist(), "evicted": row.evicted.tolist()}
    return entry


def _curve_entry(curve: HitCurve, touch: str) -> dict[str, Any]:
    """Steps: each value holds from its capacity (or lifetime) up to the next one's; below the first nothing hits."""
    by_capacity = curve.over == "capacity_blocks"
    steps: Any = curve.steps if by_capacity else curve.steps / 1e9
    return {
        "policy": "lru" if by_capacity else "ttl",
        "touch": touch,
        "block_tokens": curve.block_tokens,
        "requests": curve.requests,
        "total_blocks": curve.total_blocks,
        "total_tokens": curve.total_tokens,
        "capacity_blocks" if by_capacity else "ttl_s": steps.tolist(),
        "hit_blocks": curve.hit_blocks.tolist(),
        "hit_tokens": curve.hit_tokens.tolist(),
        "block_hit_ratio": curve.block_hit_ratio.tolist(),
        "token_hit_ratio": curve.token_hit_ratio.tolist(),
        "knees": curve.knees().tolist(),
    }


def print_answer(
    read: Mapping[str, Any],
    rows: Sequence[ReplayRow],
    curves: Sequence[HitCurve],
    per_request: bool,
    kv_bytes_per_token: int | None,
    profile: str,
) -> None:
    """Requests, table, knees, and at the end what was read, skipped and rejected."""
    if per_request:
        _print_requests(rows)
    if rows:
        _print_rows(rows)
    for curve in curves:
        _print_knees(curve, kv_bytes_per_token, profile)
    _print_counts(read, rows)


def _print_requests(rows: Sequence[ReplayRow]) -> None:
    """Tab separated, so that other programs can read it: one line per request, two columns per row of the table."""
    heads = [f"{row.policy}/{_capacity(row.capacity_blocks)}{'' if row.ttl_s is None else f'/{row.ttl_s:g}s'}" for row in rows]
    click.echo("\t".join(["request", *(f"{head} {what}" for head in heads for what in ("hit_tokens", "evicted"))]))
    columns = [column for row in rows for column in (row.hits, row.evicted) if column is not None]
    for request, cells in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        click.echo("\t".join(map(str, (request, *cells))))
    click.echo()


def _print_rows(rows: Sequence[ReplayRow]) -> None:
    lifetimes = any(row.ttl_s is not None for row in rows)
    rejected = any(row.rejected for row in rows)
    heads = ["capacity\nblocks", "ttl\ns", "token_hit\n_ratio", "block_hit\n_ratio", "hit\ntokens", "evicted\n", "rejected\n"]
    shown = [True, lifetimes, True, True, True, True, rejected]
    cells = [
        [
            _capacity(row.capacity_blocks),
            units.NOTHING if row.ttl_s is None else f"{row.ttl_s:g}",
            _ratio(row.token_hit_ratio),
            _ratio(row.block_hit_ratio),
            f"{row.hit_tokens:,}",
            f"{row.evicted_total:,}",
            f"{row.rejected:,}",
        ]
        for row in rows
    ]
    _print_table("\npolicy", [row.policy for row in rows], heads, cells, shown)
    first = rows[0]
    touch = f", touch {first.touch}" if first.store == "plain" else ""
    lines = [f"{first.store} store, blocks of {first.block_tokens} tokens{touch}; evicted {first.evicted_unit}."]
    if any(row.policy in ("min", "min_prefix") for row in rows):
        lines.append("min: offline bound, hits at any position. min_prefix: those of them that lead their prompt.")
    bypassed = max(row.bypassed_blocks for row in rows)
    if bypassed:
        lines.append(f"Not let in at all: up to {bypassed:,} blocks in one row.")
    lines.append("token_hit_ratio: hit tokens / input tokens. block_hit_ratio: hit blocks / blocks.")
    _print_lines(lines)


def _print_knees(curve: HitCurve, kv_bytes_per_token: int | None, profile: str) -> None:
    by_capacity = curve.over == "capacity_blocks"
    knees = curve.knees()
    best = int(curve.hit_tokens[-1]) if len(curve.hit_tokens) else 0
    first = "\ncapacity blocks" if by_capacity else "\nttl s"
    further = "hit tokens per\nfurther " + ("block" if by_capacity else "s")
    heads = ["tokens", "GB", "token_hit\n_ratio", "block_hit\n_ratio", "of all\nhits", further]
    shown = [by_capacity, by_capacity and kv_bytes_per_token is not None, True, True, True, True]
    cells, labels = [], []
    x = curve.steps if by_capacity else curve.steps / 1e9
    for place, i in enumerate(knees):
        tokens = int(curve.steps[i]) * curve.block_tokens
        after = knees[place + 1] if place + 1 < len(knees) else None
        gain = None if after is None else (curve.hit_tokens[after] - curve.hit_tokens[i]) / (x[after] - x[i])
        labels.append(f"{int(curve.steps[i]):,}" if by_capacity else f"{x[i]:,.10g}")
        cells.append(
            [
                f"{tokens:,}",
                units.gigabytes(tokens * (kv_bytes_per_token or 0)).removesuffix(" GB"),
                _ratio(float(curve.token_hit_ratio[i])),
                _ratio(float(curve.block_hit_ratio[i])),
                units.share(float(curve.hit_tokens[i] / best)),
                units.NOTHING if gain is None else f"{gain:,.1f}",
            ]
        )
    _print_table(first, labels, heads, cells, shown)
    what = "capacities of LRU" if by_capacity else "lifetimes of a sliding TTL without a capacity"
    lines = [f"Knees, where more begins to buy less, of {len(curve.steps):,} {what} (plain store)."]
    if shown[1]:
        lines.append(f"GB: at {kv_bytes_per_token:,} bytes of KV per token ({profile}).")
    lines.append("token_hit_ratio: hit tokens / input tokens. block_hit_ratio: hit blocks / blocks.")
    _print_lines(lines)


def _print_counts(read: Mapping[str, Any], rows: Sequence[ReplayRow]) -> None:
    skipped = ", ".join(f"{lines:,} ({reason})" for reason, lines in read["skipped"].items()) or "0"
    rejected = sorted({row.rejected for row in rows} or {0})
    blocks = f"{read['blocks']:,} blocks, {read['input_tokens']:,} input tokens"
    span = f"{rejected[0]:,}" if len(rejected) == 1 else f"{rejected[0]:,} to {rejected[-1]:,}"
    click.echo(f"read:     {read['requests']:,} requests ({blocks})\nskipped:  {skipped} lines\nrejected: {span} requests")


def _print_table(
    first: str, labels: Sequence[str], heads: Sequence[str], cells: Sequence[Sequence[str]], shown: Sequence[bool]
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, justify="left" if first == "\npolicy" else "right", no_wrap=True)
    for head, wanted in zip(heads, shown, strict=True):
        if wanted:
            table.add_column(head, justify="right", no_wrap=True)
    for label, row in zip(labels, cells, strict=True):
        table.add_row(label, *(cell for cell, wanted in zip(row, shown, strict=True) if wanted))
    Console(width=width(), highlight=False, markup=False, soft_wrap=False).print(table)


def _print_lines(lines: Sequence[str]) -> None:
    click.echo("".join(f"{line}\n" for line in lines))


def _capacity(blocks: int | None) -> str:
    return "inf" if blocks is None else f"{blocks:,}"


def _ratio(value: float | None) -> str:
    return units.NOTHING if value is None or np.isnan(value) else f"{value:.6f}"
