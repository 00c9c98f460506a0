"""The frozen question: who asks (workload), what serves (backend), what is warmed when. Values and policies only."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

from .cache.tiers import WRITES, Tier, Write
from .errors import InputError, UnknownNameError, require, require_count, require_number
from .faults import Fault, TierOutage
from .latency import HostedProfile, ServerProfile
from .price_list import parse_date
from .routing import ROUTERS, Route
from .warming import NoWarming, WarmingPolicy
from .workload import Workload, why_not_stationary

Engine = Literal["vllm", "sglang", "prefill-first", "llamacpp"]
ENGINES: Final = {"vllm": ("fcfs", "priority"), "sglang": ("fcfs", "lpm"), "prefill-first": ("fcfs",), "llamacpp": ("fcfs",)}
"""The engines, and in which orders each can admit."""
_GOES_WITH: Final = {
    "block_tokens": ("vllm", "sglang", "prefill-first"),
    "max_num_seqs": ("vllm", "sglang", "prefill-first"),
    "visibility": ("vllm",),
    "ttl_s": ("vllm", "prefill-first"),
    "ttl_kind": ("vllm", "prefill-first"),
    "initial_cache": ("vllm", "prefill-first"),
    "long_prefill_token_threshold": ("vllm",),
    "watermark": ("vllm",),
    "async_scheduling": ("vllm",),
    "warm_ups": ("vllm",),
    "tiers": ("vllm",),
    "slots": ("llamacpp",),
    "slot_similarity": ("llamacpp",),
}
"""Options that not every engine has."""
Visibility = Literal["scheduled", "computed"]
OnUnfinishedWarm = Literal["wait", "send", "wait_if_shorter"]


@dataclass(frozen=True, kw_only=True)
class Server:
    """One replica of a serving ``engine``: vLLM V1, SGLang, one that computes prompts before it decodes (older vLLM,
    nano-vllm), or llama.cpp's server.

    ``profile`` names a shipped latency profile, a TOML path, or is a profile. ``kv_tokens`` is the KV memory in tokens
    (None: the profile's own), in units of ``block_tokens``: vLLM's block, SGLang's page; llama.cpp divides it among its ``slots``.
    ``max_num_batched_tokens`` is the budget of a step, SGLang's chunk size (8,192 there), or llama.cpp's n_batch. ``policy`` is
    the order of admission: "priority" is vLLM's, "lpm" (longest prefix match) SGLang's. ``visibility`` is vLLM's; in the others
    what was computed can be hit, in llama.cpp what ended. ``warm_ups`` "when_idle": they are computed only in steps that compute
    nothing for people. An idle slot is reused for its prefix if that is more than ``slot_similarity`` of the prompt.
    ``async_scheduling``: the next step is decided while one runs (vLLM's default since 0.19), so an arrival waits a step longer
    and a finished request keeps its seat for one. ``slowness``: every step takes so many times what
    the profile says (what ``validate`` finds as a host's speed factor). ``initial_cache``: a file of ``cache.snapshot`` to start
    from instead of an empty cache, replica by replica. ``ttl_s`` None: blocks live until evicted.
    ``tiers`` is the memory below the GPU's, nearest first, in blocks of ``tier_block_tokens`` (None: the GPU's; larger ones cost
    less time to simulate), filled as ``tier_write`` says: "write_through" what is computed, "write_through_selective" what a
    second request computes or reuses, "write_back" what the tier above lets go.
    ``gpu_usd_per_hour`` None: the dated preset.

    >>> Server(profile="llama-3-8b/a100/tp1", kv_tokens=400_000).block_tokens
    16
    """

    profile: str | ServerProfile = "llama-3-8b/a100/tp1"
    engine: Engine = "vllm"
    kv_tokens: int | None = None
    block_tokens: int = 16
    prefix_caching: bool = True
    visibility: Visibility = "scheduled"
    ttl_s: float | None = None
    ttl_kind: Literal["sliding", "fixed"] = "sliding"
    max_num_seqs: int = 128
    max_num_batched_tokens: int = 2048
    policy: Literal["fcfs", "priority", "lpm"] = "fcfs"
    warm_ups: Literal["as_users", "when_idle"] = "as_users"
    long_prefill_token_threshold: int = 0
    watermark: float = 0.0
    async_scheduling: bool = False
    slots: int = 1
    slot_similarity: float = 0.1
    slowness: float = 1.0
    initial_cache: str | None = None
    tiers: tuple[Tier, ...] = ()
    tier_write: Write = "write_through"
    tier_block_tokens: int | None = None
    gpu_usd_per_hour: float | None = None
    jump: bool = True

    def __post_init__(self) -> None:
        require_count("block_tokens", self.block_tokens)
        require_count("max_num_seqs", self.max_num_seqs)
        require_count("max_num_batched_tokens", self.max_num_batched_tokens)
        self._check_engine()
        require_count("long_prefill_token_threshold", self.long_prefill_token_threshold, at_least=0)
        require_number("watermark", self.watermark, at_least=0, at_most=1)
        require_number("slowness", self.slowness, above=0)
        require(self.visibility in ("scheduled", "computed"), "visibility", self.visibility, "must be 'scheduled' or 'computed'")
        require(self.ttl_kind in ("sliding", "fixed"), "ttl_kind", self.ttl_kind, "must be 'sliding' or 'fixed'")
        if self.ttl_s is not None:
            require_number("ttl_s", self.ttl_s, above=0)
        self._check_tiers()
        if self.gpu_usd_per_hour is not None:
            require_number("gpu_usd_per_hour", self.gpu_usd_per_hour, at_least=0)
        if self.kv_tokens is not None:
            require_count("kv_tokens", self.kv_tokens)
            require(
                self.kv_tokens >= self.block_tokens,
                "kv_tokens",
                self.kv_tokens,
                f"must hold one block of {self.block_tokens} tokens",
            )

    def _check_tiers(self) -> None:
        if self.tier_write not in WRITES:
            raise UnknownNameError("tier_write", self.tier_write, WRITES)
        if self.tier_block_tokens is not None:
            require_count("tier_block_tokens", self.tier_block_tokens)
            rule = f"must be a multiple of block_tokens, {self.block_tokens}"
            require(self.tier_block_tokens % self.block_tokens == 0, "tier_block_tokens", self.tier_block_tokens, rule)
        object.__setattr__(self, "tiers", tuple(self.tiers))
        for number, tier in enumerate(self.tiers):
            require(isinstance(tier, Tier), f"tiers[{number}]", tier, "must be a Tier")
        names = [tier.name for tier in self.tiers]
        require(len(set(names)) == len(names), "tiers", names, "must have different names")
        if not self.tiers:
            return
        for name, plain in (("prefix_caching", True), ("ttl_s", None), ("warm_ups", "as_users")):
            way_out = "A lifetime belongs to a tier's own policy." if name == "ttl_s" else ""
            require(getattr(self, name) == plain, name, getattr(self, name), f"must be {plain!r} with tiers", way_out)

    def _check_engine(self) -> None:
        engine = self.engine
        if engine not in ENGINES:
            raise UnknownNameError("engine", engine, ENGINES)
        policies = ENGINES[engine]
        require(self.policy in policies, "policy", self.policy, f"must be {' or '.join(map(repr, policies))} for engine {engine!r}")
        require(self.warm_ups in ("as_users", "when_idle"), "warm_ups", self.warm_ups, "must be 'as_users' or 'when_idle'")
        for field in fields(self):
            engines = _GOES_WITH.get(field.name, (engine,))
            if engine not in engines and getattr(self, field.name) != field.default:
                rule = f"goes with engine {' or '.join(map(repr, engines))}, not {engine!r}"
                raise InputError(field.name, getattr(self, field.name), rule, f"Leave {field.name} away.")
        require_count("slots", self.slots)
        require_number("slot_similarity", self.slot_similarity, at_least=0, at_most=1)
        if engine == "sglang":
            rule = f"must be a page of {self.block_tokens} tokens at least"
            require(self.max_num_batched_tokens >= self.block_tokens, "max_num_batched_tokens", self.max_num_batched_tokens, rule)
        if engine == "llamacpp":
            rule = f"must be a token for each of {self.slots} slots at least"
            require(self.max_num_batched_tokens >= self.slots, "max_num_batched_tokens", self.max_num_batched_tokens, rule)
            rule = f"must be two tokens for each of {self.slots} slots at least"
            require(self.kv_tokens is None or self.kv_tokens >= 2 * self.slots, "kv_tokens", self.kv_tokens, rule)


@dataclass(frozen=True, kw_only=True)
class Cluster(Server):
    """``replicas`` equal servers, each with its own cache, behind a router; ``kv_tokens`` is per replica.

    ``router`` names one of ``routing.ROUTERS`` or is a function of the user's own; ``faults`` are crashes, slow
    spells and outages of tiers.

    >>> Cluster(replicas=4).router
    'round_robin'
    """

    replicas: int = 1
    router: str | Route = "round_robin"
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("replicas", self.replicas)
        if isinstance(self.router, str) and self.router not in ROUTERS:
            raise UnknownNameError("router", self.router, ROUTERS)
        for number, fault in enumerate(self.faults):
            require(isinstance(fault, Fault), f"faults[{number}]", fault, "must be a Crash, a Slow, a CrashRate or a TierOutage")
            if isinstance(fault, TierOutage) and fault.tier not in (tier.name for tier in self.tiers):
                raise UnknownNameError(f"faults[{number}].tier", fault.tier, (tier.name for tier in self.tiers))


@dataclass(frozen=True, kw_only=True)
class HostedApi:
    """A provider's API: its cache rules and prices (``provider``, ``model``, ``rules``), its latency (``profile``), its limits.

    ``rules`` names a preset of ``data/providers`` or a TOML path (None: those that hold for the model, see `simcache providers`);
    ``cache_ttl`` one of their lifetimes (None: the default one). Where the client marks breakpoints it does so after the shared
    part of a prompt (``mark_shared``) and after so many segments as each of ``breakpoints`` says. ``cache_key``: what beside the
    prefix picks the provider's machine (a "user" or "session" key keeps one on one machine). ``early_deaths_per_h`` None: as the
    rules say. ``prices_at``: date or instant (ISO 8601) whose prices hold, at the run's zero; None: today's. ``batch``: at the
    prices of batches. ``jitter`` False switches the log-normal jitter off.
    ``seconds_per_output_token`` None: the profile's own pace.
    Limits of the account: ``requests_per_minute``, ``input_tokens_per_minute``; None: no limit.

    >>> HostedApi(provider="anthropic", model="claude-sonnet-4-5", profile="openai-figure").jitter
    True
    """

    provider: str
    model: str
    profile: str | HostedProfile
    rules: str | None = None
    cache_ttl: str | None = None
    prefix_caching: bool = True
    breakpoints: tuple[int, ...] = ()
    mark_shared: bool = True
    cache_key: Literal["prefix", "user", "session"] = "prefix"
    early_deaths_per_h: float | None = None
    prices_at: str | None = None
    batch: bool = False
    jitter: bool = True
    seconds_per_output_token: float | None = None
    requests_per_minute: float | None = None
    input_tokens_per_minute: float | None = None
    retry_after_s: float = 1.0

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "input_tokens_per_minute"):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), above=0)
        if self.seconds_per_output_token is not None:
            require_number("seconds_per_output_token", self.seconds_per_output_token, at_least=0)
        require_number("retry_after_s", self.retry_after_s, above=0)
        if self.early_deaths_per_h is not None:
            require_number("early_deaths_per_h", self.early_deaths_per_h, at_least=0)
        for count in self.breakpoints:
            require_count("breakpoints", count)
        keys = ("prefix", "user", "session")
        require(self.cache_key in keys, "cache_key", self.cache_key, "must be 'prefix', 'user' or 'session'")
        if self.prices_at is not None:
            parse_date("prices_at", self.prices_at)


Backend = Server | Cluster | HostedApi


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One what-if question. ``simulate(scenario, seed=...)`` answers it; the scenario never changes.

    ``zero_data_retention`` rules out providers' caches that store data. ``transient``: what of the beginning the figures leave out:
    nothing, so many seconds, or "mser5", what :func:`~simcache.steady.mser5` says of TTFT, for stationary workloads only.

    >>> from simcache import Scenario, TypingSessions
    >>> Scenario(workload=TypingSessions(users=3), backend=Server()).but(name="b").name
    'b'
    """

    workload: Workload
    backend: Backend
    warming: WarmingPolicy = NoWarming()
    on_unfinished_warm: OnUnfinishedWarm = "wait"
    name: str = "scenario"
    duration_s: float | None = None
    slo_ttft_s: float = 1.0
    streams_answer: bool = True
    zero_data_retention: bool = False
    transient: Literal["mser5"] | float | None = None

    def __post_init__(self) -> None:
        if self.transient == "mser5":
            reason = why_not_stationary(self.workload)
            way_out = "Give the seconds to leave out, or none."
            require(reason is None, "transient", self.transient, f"is for stationary workloads: {reason}", way_out)
        elif isinstance(self.transient, str):
            raise InputError("transient", self.transient, "must be 'mser5', a number of seconds, or none")
        elif self.transient is not None:
            require_number("transient", self.transient, at_least=0)
        require(
            self.on_unfinished_warm in ("wait", "send", "wait_if_shorter"),
            "on_unfinished_warm",
            self.on_unfinished_warm,
            "must be 'wait', 'send' or 'wait_if_shorter'",
        )
        require_number("slo_ttft_s", self.slo_ttft_s, above=0)
        if self.duration_s is not None:
            require_number("duration_s", self.duration_s, above=0)

    def but(self, **changes: Any) -> Scenario:
        """This scenario with some fields changed; ``backend__kv_tokens=...`` reaches inside a part.

        >>> from simcache import Scenario, TypingSessions
        >>> Scenario(workload=TypingSessions(users=3), backend=Server()).but(backend__kv_tokens=64).backend.kv_tokens
        64
        """
        flat = {name: value for name, value in changes.items() if "__" not in name}
        deep: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            if "__" in name:
                part, field = name.split("__", 1)
                deep.setdefault(part, {})[field] = value
        for part, changed in deep.items():
            flat[part] = replace(flat.get(part, getattr(self, part)), **changed)
        return replace(self, **flat)
