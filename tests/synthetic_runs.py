"""Records and results that a test writes down by hand instead of simulating them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simcache.pricing import Bill
from simcache.records import Records, RecordsBuilder
from simcache.result import Result, Wall
from simcache.scenario import Scenario, Server
from simcache.workload.presets import TypingSessions


def records_of(*rows: Mapping[str, Any]) -> Records:
    """One record per mapping of column to value; ``_s`` columns are rounded to the ``_ns`` columns they stand for."""
    builder = RecordsBuilder()
    for values in rows:
        row = builder.row()
        for name, value in values.items():
            if name.endswith("_s"):
                name, value = name.removesuffix("_s") + "_ns", round(value * 1e9)
            getattr(builder, name)[row] = value
    return builder.freeze()


def answer(submitted_at_s: float, ttft_s: float, *, output_tokens: int = 11, tpot_s: float = 0.1, **others: Any) -> dict[str, Any]:
    """The row of a user request that was answered."""
    first_token_at_s = submitted_at_s + ttft_s
    return {
        "outcome": "ok",
        "submitted_at_s": submitted_at_s,
        "sent_at_s": submitted_at_s,
        "first_scheduled_at_s": submitted_at_s,
        "first_token_at_s": first_token_at_s,
        "finished_at_s": first_token_at_s + (output_tokens - 1) * tpot_s,
        "output_tokens": output_tokens,
        "prompt_tokens": 1_000,
        **others,
    }


def result_of(rows: Sequence[Mapping[str, Any]], *, seed: int = 0, usd: float = 1.0, **others: Any) -> Result:
    """A result over these rows; ``others`` are fields of the scenario."""
    records = records_of(*rows)
    return Result(
        scenario=Scenario(workload=TypingSessions(users=1), backend=Server(), **others),
        seed=seed,
        records=records,
        bill=Bill(
            lines={"input": usd}, row_usd=None, questions=int(np.count_nonzero(records["kind"] == "user")), warm_waste_usd=usd / 10
        ),
        wall=Wall(simulate_s=0.5, events=3 * len(records), requests=len(records)),
        provenance="written by hand",
    )


def drawn_result(seed: int, *, median_ttft_s: float = 0.5, usd: float = 1.0, requests: int = 40, **others: Any) -> Result:
    """A result whose TTFTs and prompt lengths are log-normal draws of ``seed``."""
    draws = np.random.default_rng(seed)
    ttfts, lengths = draws.lognormal(np.log(median_ttft_s), 0.8, requests), draws.lognormal(8.5, 1.0, requests)
    rows = [
        answer(float(at_s), float(ttft_s), prompt_tokens=min(int(tokens), 200_000))
        for at_s, ttft_s, tokens in zip(range(requests), ttfts, lengths, strict=True)
    ]
    return result_of(rows, seed=seed, usd=usd * (1 + 0.1 * float(draws.random())), **others)
