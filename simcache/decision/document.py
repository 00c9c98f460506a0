"""A decision in plain JSON values."""

from __future__ import annotations

from typing import Any, Final

from ..stats import Estimate
from .settings import settings
from .verdict import Decision, Row, Warming
from .words import answer, assumptions, reproduction

SCHEMA_VERSION: Final = 1
Json = dict[str, Any]


def document(decision: Decision) -> Json:
    """The document of ``simcache decide --json``: texts of the log are not in it.

    >>> from ..logs import UsageLog, UsageRow
    >>> from .deciding import decide
    >>> document(decide(UsageLog((UsageRow(provider="openai", model="gpt-4o", prompt_tokens=9),))))["word"]
    'cannot tell'
    """
    found, test = decision.reproduction, decision.live_test
    return {
        "schema_version": SCHEMA_VERSION,
        "answer": answer(decision),
        "word": decision.word,
        "provider": decision.provider,
        "model": decision.model,
        "requests": decision.requests,
        "conversations": decision.conversations,
        "span_s": decision.span_s,
        "left_out": dict(decision.left_out),
        "missing": list(decision.missing),
        "best": None if decision.best is None else decision.best.alternative.name,
        "possible": None if decision.possible is None else decision.possible.alternative.name,
        "alternatives": [_row(row) for row in decision.rows],
        "warming": [_warming(each) for each in decision.warming],
        "on_phones": None if decision.phones is None else _warming(decision.phones),
        "reproduction": None
        if found is None
        else {
            "holds": found.holds,
            "usd": found.usd,
            "cached_share": found.cached,
            "logged_cached_share": found.logged_cached,
            "ttft_p50": found.ttft_p50,
            "ttft_p95": found.ttft_p95,
            "text": reproduction(decision),
        },
        "live_test": None if test is None else dict(vars(test)),
        "configuration": settings(decision),
        "assumptions": list(assumptions(decision)),
        "latency": None if decision.profile is None else {"profile": decision.profile.name, "fitted": decision.fitted},
        "prices": decision.prices,
        "notes": list(decision.notes),
    }


def _row(row: Row) -> Json:
    return {
        "name": row.alternative.name,
        "kind": row.alternative.kind,
        "can_be_chosen": row.alternative.chosen,
        "provided": row.alternative.provided,
        "saves": row.saves,
        "usd_a_month": _estimate(row.usd_a_month),
        "change_usd_a_month": _estimate(row.change_usd),
        "change_share": _estimate(row.change_share),
        "ttft_p50_s": _estimate(row.ttft_p50_s),
        "ttft_p95_s": _estimate(row.ttft_p95_s),
        "slo_share": _estimate(row.slo_share),
        "token_hit_ratio": row.hit_ratio,
        "warm_ups_a_month": row.warm_ups,
        "warm_usd_a_month": row.warm_usd,
    }


def _warming(each: Warming) -> Json:
    return {
        "name": each.row.alternative.name,
        "against": each.base,
        "helps": each.helps,
        "change_usd_a_month": _estimate(each.change_usd),
        "change_share": _estimate(each.change_share),
        "ttft_p95_change_s": _estimate(each.p95_change_s),
        "slo_share_change": _estimate(each.slo_change),
    }


def _estimate(estimate: Estimate | None) -> Json | None:
    if estimate is None:
        return None
    return {"mean": estimate.mean, "interval95": None if estimate.low is None else [estimate.low, estimate.high]}
