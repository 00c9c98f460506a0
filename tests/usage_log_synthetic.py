"""Usage logs with a known truth: what a simulated scenario did, as its provider would have reported it."""

from __future__ import annotations

from simcache import simulate
from simcache.latency import HostedProfile
from simcache.logs import UsageRow
from simcache.scenario import HostedApi, Scenario
from simcache.workload.presets import TypingSessions

SINCE_S = 1_790_000_000.0
PACE_S = 0.01
API = HostedProfile(
    name="truth", base_s=0.6, per_token_s=8e-5, per_cached_token_s=4e-6, jitter_sigma=0.2, seconds_per_output_token=PACE_S
)


def scenario(**changes) -> Scenario:
    """People at a Claude model, each with a document of their own behind a shared system prompt."""
    people = {
        "users": 200,
        "arrive_within_s": 86_400.0,
        "system_tokens": 3_000,
        "document_tokens": 8_000,
        "open_loop_answer_s": 8.0,
    }
    backend = {
        "provider": "anthropic",
        "model": "claude-sonnet-4-5",
        "profile": API,
        "breakpoints": (1,),
        "prices_at": "2026-09-21",
    }
    workload = {**people, **{k: v for k, v in changes.items() if k in TypingSessions.__dataclass_fields__}}
    api = {**backend, **{k: v for k, v in changes.items() if k in HostedApi.__dataclass_fields__}}
    rest = {k: v for k, v in changes.items() if k in ("warming",)}
    return Scenario(workload=TypingSessions(**workload), backend=HostedApi(**api), duration_s=90_000.0, **rest)


def rows_of(asked: Scenario, *, seed: int = 1, sessions: bool = True) -> list[UsageRow]:
    """The user requests of one run."""
    records = simulate(asked, seed=seed).records
    chosen = records.where((records["kind"] == "user") & (records["outcome"] == "ok"))
    backend = asked.backend
    columns = zip(
        *(chosen[name].tolist() for name in ("submitted_at_ns", "prompt_tokens", "hit_tokens", "written_5m_tokens")),
        *(chosen[name].tolist() for name in ("written_1h_tokens", "output_tokens", "session")),
        *(chosen.ttft_s.tolist(), chosen.e2e_s.tolist()),
        strict=True,
    )
    return [
        UsageRow(
            provider=backend.provider,
            model=backend.model,
            prompt_tokens=prompt,
            cached_tokens=hit,
            written_5m_tokens=w5,
            written_1h_tokens=w1,
            output_tokens=out,
            started_at_s=SINCE_S + at / 1e9,
            ttft_s=round(ttft_s, 4),
            e2e_s=round(max(e2e_s, ttft_s + 1e-4), 4),
            session=session if sessions else None,
            user=session if sessions else None,
        )
        for at, prompt, hit, w5, w1, out, session, ttft_s, e2e_s in columns
    ]
