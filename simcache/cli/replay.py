"""``simcache replay``: a trace without a clock -> what would have hit, per policy and capacity, or at every capacity at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ..errors import InputError, UnknownNameError, require, require_count

if TYPE_CHECKING:
    from ..cache.curve import HitCurve
    from ..cache.eviction import EvictionPolicy
    from ..cache.retention import Retention
    from ..engine.replay import ReplayRow
    from ..workload.block_traces import BlockTrace

STORES: Final = ("plain", "vllm", "sglang", "slots", "nano-vllm", "tensorrt-llm", "lmcache", "mooncake")
PROFILE: Final = "llama-3-8b/a100/tp1"

_Number = TypeVar("_Number")


@click.command(name="replay")
@click.argument("source", metavar="TRACE")
@click.option("--format", "format", metavar="FORMAT", help="Format of TRACE.  [default: told from its first row]")
@click.option("--policy", default="lru", show_default=True, metavar="A,B", help="Eviction policies; a wrong name lists them all.")
@click.option("--capacity-blocks", metavar="N,M", help="Capacities in blocks; inf: no bound.")
@click.option("--capacity-tokens", metavar="N,M", help="Capacities in tokens, rounded down to whole blocks.")
@click.option("--block-tokens", type=int, help="Tokens per block.  [default: the format's, or the engine's own]")
@click.option("--touch", type=click.Choice(["rev", "fwd", "any"]), default="rev", show_default=True, help="Order of touches.")
@click.option("--store", type=click.Choice(STORES), default="plain", show_default=True, help="Whose cache.")
@click.option("--ttl", metavar="S,S", help="Lifetimes in seconds, for the policy ttl.")
@click.option(
    "--ttl-kind", type=click.Choice(["sliding", "fixed"]), default="sliding", show_default=True, help="Since use, or entry."
)
@click.option("--curve", is_flag=True, help="The hit ratio at every capacity (lru) or lifetime (ttl), in one pass.")
@click.option("--figure", type=click.Path(path_type=Path), help="Draw the curve to FILE.png, .svg or .pdf.")
@click.option("--profile", default=PROFILE, show_default=True, help="Whose KV bytes and prefill seconds count.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the policy random.")
@click.option("--retain", multiple=True, metavar="FROM:TO:PRIORITY[:S]", help="Of the policy priority: a range of prompt tokens.")
@click.option("--slots", type=int, default=1, show_default=True, help="Contexts that share the capacity of the store slots.")
@click.option("--slot-similarity", type=float, default=0.1, show_default=True, help="Of the store slots.")
@click.option("--stream", is_flag=True, help="Replay while reading: memory is bounded by what is resident.")
@click.option("--per-request", is_flag=True, help="Hits and evictions of every request, in order.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool, figure: Path | None, **options: Any) -> None:
    """Replay TRACE through a cache without a clock: hits for a table of policies x capacities x lifetimes.

    One global cache, file order, every request fully in before the next. The plain store takes every id as a block; the others
    serve prompt and answer as those engines do (slots: llama.cpp). Blocks are the format's (mooncake 512, claude-code 64, others
    16 tokens); of nano-vllm, tensorrt-llm, lmcache and mooncake the engine's own. The policy ttl is replayed without a bound,
    and under each capacity where one is given.
    """
    asked = _Asked(**options)
    if asked.store != "slots" and (asked.slots != 1 or asked.slot_similarity != 0.1):
        raise click.UsageError("--slots and --slot-similarity go with --store slots.")
    if figure is not None and not asked.curve:
        raise click.UsageError("--figure goes with --curve.")
    answer = _engine_store(asked) if asked.store != "plain" else _streamed(asked) if asked.stream else _whole(asked)
    kv_bytes_per_token = _kv_bytes_per_token(asked) if answer.curves else None
    if figure is not None:
        from ..report.cache_figures import save_curve_figure

        save_curve_figure(answer.curves, figure, kv_bytes_per_token=kv_bytes_per_token)
    from . import replay_output

    if as_json:
        document = replay_output.document(answer.read, answer.rows, answer.curves, asked.per_request, asked.touch)
        click.echo(json.dumps(document, indent=None if asked.per_request or asked.curve else 2))
        return
    replay_output.print_answer(answer.read, answer.rows, answer.curves, asked.per_request, kv_bytes_per_token, asked.profile)
    if figure is not None:
        click.echo(f"figure:  {figure}")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The options as they were typed; lists are still text."""

    source: str
    format: str | None
    policy: str
    capacity_blocks: str | None
    capacity_tokens: str | None
    block_tokens: int | None
    touch: Any
    store: str
    ttl: str | None
    ttl_kind: Any
    curve: bool
    profile: str
    seed: int
    retain: tuple[str, ...]
    slots: int
    slot_similarity: float
    stream: bool
    per_request: bool

    @property
    def names(self) -> list[str]:
        return [name.strip().lower().replace("-", "_") for name in self.policy.split(",")]

    @property
    def has_capacity(self) -> bool:
        if self.capacity_blocks is not None and self.capacity_tokens is not None:
            raise click.UsageError("Give --capacity-blocks or --capacity-tokens, not both.")
        return self.capacity_blocks is not None or self.capacity_tokens is not None

    def capacities_blocks(self, block_tokens: int) -> list[int | None]:
        """In whole blocks; None: no bound."""
        if self.capacity_tokens is not None:
            tokens = _numbers("capacity_tokens", self.capacity_tokens, _capacity)
            return [None if each is None else each // block_tokens for each in tokens]
        return _numbers("capacity_blocks", self.capacity_blocks or "", _capacity)


@dataclass(kw_only=True)
class _Answer:
    read: dict[str, Any]
    rows: list[ReplayRow] = field(default_factory=list)
    curves: list[HitCurve] = field(default_factory=list)


def _whole(asked: _Asked) -> _Answer:
    from ..engine.replay import capacity_curve, lifetime_curve, replay
    from ..workload.block_traces import read_block_trace

    policies = _policies(asked)  # before the file is read: a wrong name need not wait for it
    trace = read_block_trace(asked.source, asked.format, asked.block_tokens)
    answer = _Answer(read=_read(asked, [trace]))
    answer.rows = replay(trace, policies, asked.capacities_blocks(trace.block_tokens), touch=asked.touch)
    if asked.curve:
        for name in dict.fromkeys(asked.names):
            curve_of = capacity_curve if name == "lru" else lifetime_curve
            answer.curves.append(curve_of(trace, touch=asked.touch))
    return answer


def _streamed(asked: _Asked) -> _Answer:
    from ..engine.replay import replay_stream
    from ..workload.block_traces import NATIVE_BLOCK_TOKENS, block_batches
    from ..workload.traces import known_format

    for name, given in (("--curve", asked.curve), ("--per-request", asked.per_request)):
        if given:
            raise click.UsageError(f"{name} needs the whole trace: leave --stream out.")
    policies = _policies(asked)
    block_tokens = asked.block_tokens or NATIVE_BLOCK_TOKENS[known_format(asked.source, asked.format)]
    read: dict[str, Any] = {}

    def counted() -> Iterator[BlockTrace]:
        for batch in block_batches(asked.source, asked.format, asked.block_tokens):
            read.update(_read(asked, [batch], read))
            yield batch

    rows = replay_stream(counted(), policies, asked.capacities_blocks(block_tokens), touch=asked.touch)
    return _Answer(read=read, rows=rows)


def _engine_store(asked: _Asked) -> _Answer:
    from ..engine.store_replay import POLICIES, engine_preset, file_requests, replay_engine_store
    from ..workload.block_traces import read_block_trace

    only_plain = (("--curve", asked.curve), ("--stream", asked.stream), ("--touch", asked.touch != "rev"), ("--ttl", asked.ttl))
    for name, given in only_plain:
        if given:
            raise click.UsageError(f"{name} goes with --store plain.")
    known = POLICIES[asked.store]
    for name in asked.names:
        if name not in known:
            raise UnknownNameError(f"policy of the {asked.store} store", name, known)
    require(asked.has_capacity, "capacity", None, "must be given", "Give --capacity-blocks or --capacity-tokens.")
    if asked.retain and asked.store != "tensorrt-llm":
        raise click.UsageError("--retain goes with --store plain and tensorrt-llm.")
    _check_retain(asked)
    trace = read_block_trace(asked.source, asked.format)  # checks the file, and counts what it holds
    block_tokens = asked.block_tokens
    if block_tokens is None:  # those three take blocks of any size, and a trace was made for its own
        block_tokens = trace.block_tokens if asked.store in ("vllm", "sglang", "slots") else engine_preset(asked.store).block_tokens
    require_count("block_tokens", block_tokens)
    requests = list(file_requests(asked.source, asked.format))
    answer = _Answer(
        read={**_read(asked, [trace]), "block_tokens": block_tokens, "blocks": int((-(-trace.input_tokens // block_tokens)).sum())}
    )
    for name in asked.names:
        for blocks in asked.capacities_blocks(block_tokens):
            if blocks is None:
                raise InputError("capacity_blocks", "inf", f"must be a number for the {asked.store} store")
            answer.rows.append(
                replay_engine_store(
                    requests,
                    asked.store,
                    blocks * block_tokens,
                    block_tokens=block_tokens,
                    policy=_priority(asked) if asked.retain and name == "priority" else name,
                    slot_count=asked.slots,
                    slot_similarity=asked.slot_similarity,
                )
            )
    return answer


def _read(asked: _Asked, traces: Iterable[BlockTrace], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """What was read, and what was skipped for which reason, added to ``before``."""
    read = before or {"path": asked.source, "requests": 0, "blocks": 0, "input_tokens": 0, "skipped": {}}
    skipped = dict(read["skipped"])
    for trace in traces:
        for reason, lines in trace.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + lines
        read = {
            **read,
            "block_tokens": trace.block_tokens,
            "requests": read["requests"] + len(trace),
            "blocks": read["blocks"] + len(trace.ids),
            "input_tokens": read["input_tokens"] + int(trace.input_tokens.sum()),
        }
    return {**read, "skipped": skipped}


def _policies(asked: _Asked) -> list[EvictionPolicy]:
    """Policy objects by name, those that have something to replay: with a curve, ``lru`` and ``ttl`` need no point."""
    makers = _makers(asked)
    for name in asked.names:
        if name != "ttl" and name not in makers:
            raise UnknownNameError("policy", name, [*makers, "ttl"])
    if asked.curve:
        for name in asked.names:
            way_out = "Name capacities or lifetimes instead of --curve."
            one_pass = name == "lru" or (name == "ttl" and asked.ttl_kind == "sliding")
            require(one_pass, "policy", name, "has no curve in one pass: lru and sliding ttl have", way_out)
    if asked.ttl is not None:
        require("ttl" in asked.names, "ttl", asked.ttl, "goes with the policy ttl", "Add it to --policy.")
    _check_retain(asked)
    policies: list[EvictionPolicy] = []
    for name in asked.names:
        if name == "ttl":
            policies += _lifetimes(asked)
        elif name == "infinite" or asked.has_capacity:
            policies.append(makers[name]())
        elif not asked.curve:
            way_out = "Give --capacity-blocks or --capacity-tokens, or --curve for all at once; without a bound: --policy infinite."
            raise InputError("capacity", None, f"must be given for the policy {name}", way_out)
    return policies


def _makers(asked: _Asked) -> dict[str, Callable[[], EvictionPolicy]]:
    from ..cache.bounds import Infinite, Min
    from ..cache.eviction import Fifo, Filo, Lfu, LfuPerfect, Lru, Mru, RandomEviction, Sieve, Slru

    by_order: tuple[type[EvictionPolicy], ...] = (Lru, Mru, Fifo, Filo, Lfu, LfuPerfect, Slru, Sieve, Infinite)
    return {
        **{policy.name: policy for policy in by_order},
        "random": lambda: RandomEviction(asked.seed),
        "priority": lambda: _priority(asked),
        "cost_aware": lambda: _cost_aware(asked),
        "min": Min,
        "min_prefix": lambda: Min(prefix=True),
    }


def _lifetimes(asked: _Asked) -> list[EvictionPolicy]:
    from ..cache.retention import Ttl

    if asked.ttl is None and asked.curve:
        return []
    require(asked.ttl is not None, "ttl", None, "must be given for the policy ttl", "Give --ttl 60,300, or --curve.")
    return [Ttl(ttl_s, asked.ttl_kind) for ttl_s in _numbers("ttl", asked.ttl or "", float)]


def _cost_aware(asked: _Asked) -> EvictionPolicy:
    from ..cache.retention import CostAware

    coefficients = _server_profile(asked).coefficients
    bytes_per_token = _kv_bytes_per_token(asked) or 1
    return CostAware(per_token_s=coefficients.per_token_s, attention_s=coefficients.attention_s, kv_bytes_per_token=bytes_per_token)


def _server_profile(asked: _Asked) -> Any:
    from ..latency import ServerProfile
    from ..latency.catalogue import find_profile

    profile = find_profile(asked.profile)
    require(isinstance(profile, ServerProfile), "profile", asked.profile, "must be a server's: a hosted API shows no KV cache")
    return profile


def _kv_bytes_per_token(asked: _Asked) -> int | None:
    bytes_per_token: int | None = _server_profile(asked).kv_bytes_per_token
    return bytes_per_token


def _check_retain(asked: _Asked) -> None:
    if asked.retain:
        require("priority" in asked.names, "retain", asked.retain[0], "goes with the policy priority", "Add it to --policy.")


def _priority(asked: _Asked) -> EvictionPolicy:
    from ..cache.retention import Priority

    return Priority([_retention(text) for text in asked.retain])


def _retention(text: str) -> Retention:
    from ..cache.retention import Retention

    parts = text.split(":")
    try:
        require(len(parts) in (3, 4), "retain", text, "must be FROM:TO:PRIORITY or FROM:TO:PRIORITY:SECONDS")
        return Retention(
            start_tokens=int(parts[0] or 0),
            end_tokens=int(parts[1]) if parts[1] else None,
            priority=int(parts[2]),
            duration_s=float(parts[3]) if parts[3:] else None,
        )
    except InputError:
        raise
    except ValueError:
        raise InputError("retain", text, "must be made of numbers, like 0:4096:80:300") from None


def _numbers(name: str, text: str, number: Callable[[str], _Number]) -> list[_Number]:
    """A comma list, each part read by ``number``."""
    numbers = []
    for part in filter(None, map(str.strip, text.split(","))):
        try:
            numbers.append(number(part))
        except InputError:
            raise
        except ValueError:
            raise InputError(name, part, "must be a number, or several with commas between") from None
    if text and not numbers:
        raise InputError(name, text, "must be a number, or several with commas between")
    return numbers


def _capacity(text: str) -> int | None:
    if text == "inf":
        return None
    capacity = int(text)
    if capacity < 0:
        raise InputError("capacity", capacity, "must be at least 0")
    return capacity
