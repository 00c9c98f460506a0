"""Modules: reuse of what was computed before wherever it stands in a prompt, beside reuse of prefixes on the same traffic.

The states of a module (attention keys and values, encoded alone, at its own position ids: :mod:`simcache.pml`) are stored in
memories of the machine and copied beside the new text of a request. What that costs: seconds of encoding before, or in front of
the first request that needs a module; bytes held; bytes / bandwidth on every use. Then only what is new is computed:
``ttft_s = load_s + encode_s + prefill_s(new, all module tokens)``, one after the other as in the published prototype, without
a queue. What masking attention between modules does to answers is out of scope: these figures are speed and cost only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, require, require_count, require_number
from ..pml import Module, PlacedPrompt, segments
from ..prompt import Request, Segment, prompt_tokens
from .radix_replay import replay_sequential

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PrefillTime = Callable[[float, float], float]
"""Seconds to compute n new tokens after c present ones: ``ServerProfile.prefill_s`` or ``LatencyModel.predict_s``."""

WAYS = ("cold", "prefix", "modules")


@dataclass(frozen=True, kw_only=True)
class ModuleMemory:
    """A place for stored modules: its room (None: no bound) and how fast a request gets a copy out of it.

    ``bytes_per_s`` is the measured rate of the whole copy to where attention reads. Raises InputError for impossible values.

    >>> ModuleMemory(name="host", bytes_per_s=19.2e9, capacity_bytes=64 * 10**9).name
    'host'
    """

    name: str
    bytes_per_s: float
    capacity_bytes: int | None = None

    def __post_init__(self) -> None:
        require_number("bytes_per_s", self.bytes_per_s, above=0)
        if self.capacity_bytes is not None:
            require_count("capacity_bytes", self.capacity_bytes, at_least=0)


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What was encoded ahead of the requests: modules, those among them that replaced an older version, and the price.

    ``seconds`` of the machine; ``stored_bytes`` of states written. ``too_large`` modules fit into no memory: they were not
    encoded and are computed in every request.
    """

    modules: int
    replaced: int
    too_large: int
    seconds: float
    stored_bytes: int

    def cost_usd(self, usd_per_hour: float) -> float:
        """Dollars at the machine's price per hour.

        >>> Encoding(modules=1, replaced=0, too_large=0, seconds=36.0, stored_bytes=10**9).cost_usd(2.0)
        0.02
        """
        require_number("usd_per_hour", usd_per_hour, at_least=0)
        return self.seconds * usd_per_hour / 3600


class Served(NamedTuple):
    """One request: ``prompt_tokens = hit_tokens + encoded_tokens + new_tokens``, and its seconds, one part after the other.

    ``hit_tokens`` came out of the store; ``encoded_tokens`` were missing, or stored for another content, and were encoded
    first; ``new_tokens`` (at least one) were computed after them.
    """

    prompt_tokens: int
    hit_tokens: int
    encoded_tokens: int
    new_tokens: int
    load_s: float
    encode_s: float
    compute_s: float

    @property
    def ttft_s(self) -> float:
        """Seconds until the first token of a request that waits for nobody."""
        return self.load_s + self.encode_s + self.compute_s


class ModuleStore:
    """Modules in ``memories``, fastest first: what was used last stays in the first, the rest moves down and out of the last.

    Moving down happens beside the requests and costs them nothing; a module that one memory can never hold goes to the next.
    ``prefill_s(new, present)`` times encoding and computing. Counts what ever happened: ``encoded``, ``replaced``, ``evicted``.
    Raises InputError for impossible sizes and for no memory at all.

    >>> store = ModuleStore(prefill_s=lambda new, present: 1e-3 * new, kv_bytes_per_token=1000,
    ...                     memories=[ModuleMemory(name="host", bytes_per_s=1e8)])
    >>> doc = Module("s/doc", "v1", tokens=500, encoded_tokens=500)
    >>> store.encode([doc]).seconds
    0.5
    >>> from simcache.pml import PlacedSegment
    >>> ask = (PlacedSegment(Segment("doc", 500), 0, doc), PlacedSegment(Segment("question", 20), 500, None))
    >>> store.serve(ask).load_s, store.serve(ask).ttft_s
    (0.005, 0.025)
    """

    def __init__(self, *, prefill_s: PrefillTime, kv_bytes_per_token: int, memories: Sequence[ModuleMemory]) -> None:
        require_count("kv_bytes_per_token", kv_bytes_per_token)
        require(len(memories) > 0, "memories", list(memories), "must hold at least one memory")
        self.prefill_s = prefill_s
        self.kv_bytes_per_token = kv_bytes_per_token
        self.memories = tuple(memories)
        self.held_bytes = [0] * len(self.memories)
        self.encoded = self.replaced = self.evicted = 0
        self._resident: list[OrderedDict[str, Module]] = [OrderedDict() for _ in self.memories]
        self._level: dict[str, int] = {}

    def encode(self, modules: Iterable[Module]) -> Encoding:
        """Encode, ahead of the requests, every module that is not stored in its present version."""
        before = self.encoded, self.replaced
        seconds, stored_bytes, too_large = 0.0, 0, 0
        for module in modules:
            if self._stored(module) is not None:
                continue
            if not self._fits(module):
                too_large += 1
                continue
            seconds += self._encode(module)
            self._keep([module])
            stored_bytes += self._bytes(module)
        return Encoding(
            modules=self.encoded - before[0],
            replaced=self.replaced - before[1],
            too_large=too_large,
            seconds=seconds,
            stored_bytes=stored_bytes,
        )

    def serve(self, prompt: PlacedPrompt) -> Served:
        """Load, encode what is missing, compute the rest. Raises InputError for a prompt without tokens or a cut module."""
        total = sum(piece.segment.tokens for piece in prompt)
        require(total > 0, "prompt", prompt, "must hold at least one token")
        modules = _modules_of(prompt)
        load_s = encode_s = 0.0
        hit = encoded = 0
        kept = []
        for module in modules:
            level = self._stored(module)
            if level is not None:
                load_s += self._bytes(module) / self.memories[level].bytes_per_s
                hit += module.tokens
            elif self._fits(module):
                encode_s += self._encode(module)
                encoded += module.tokens
            else:
                continue
            kept.append(module)
        self._keep(kept)  # at the end: what this prompt needs is all loaded before any of it moves
        new = total - hit - encoded
        if not new:  # the first token of the answer comes out of computing the last one of the prompt
            new = 1
            hit, encoded = (hit - 1, encoded) if hit else (hit, encoded - 1)
        compute_s = float(self.prefill_s(new, total - new))
        return Served(total, hit, encoded, new, load_s, encode_s, compute_s)

    def check(self) -> None:
        """Raise AssertionError where a rule of the store is broken."""
        names = list(chain.from_iterable(self._resident))
        assert len(names) == len(set(names))
        assert self._level == {name: level for level, held in enumerate(self._resident) for name in held}
        for held, held_bytes, memory in zip(self._resident, self.held_bytes, self.memories, strict=True):
            assert held_bytes == sum(map(self._bytes, held.values()))
            assert memory.capacity_bytes is None or held_bytes <= memory.capacity_bytes
        assert self.encoded == len(names) + self.replaced + self.evicted

    def _bytes(self, module: Module) -> int:
        return module.tokens * self.kv_bytes_per_token

    def _stored(self, module: Module) -> int | None:
        """The memory that holds a module in its present version."""
        level = self._level.get(module.name)
        return level if level is not None and self._resident[level][module.name] == module else None

    def _holds(self, level: int, module: Module) -> bool:
        capacity = self.memories[level].capacity_bytes
        return capacity is None or self._bytes(module) <= capacity

    def _fits(self, module: Module) -> bool:
        return any(self._holds(level, module) for level in range(len(self.memories)))

    def _encode(self, module: Module) -> float:
        """Seconds of encoding; the caller keeps the module."""
        if module.name in self._level:
            self._remove(module.name)
            self.replaced += 1
        self.encoded += 1
        return float(self.prefill_s(module.encoded_tokens, 0))

    def _remove(self, name: str) -> Module:
        level = self._level.pop(name)
        module = self._resident[level].pop(name)
        self.held_bytes[level] -= self._bytes(module)
        return module

    def _keep(self, modules: Sequence[Module]) -> None:
        """Make modules the last used ones of the fastest memory that can hold each, and let the others move down."""
        for module in modules:
            if module.name in self._level:
                self._remove(module.name)
        moving = list(modules)
        for level, memory in enumerate(self.memories):
            too_large, pushed = [], []
            for each in moving:
                if self._holds(level, each):
                    self._resident[level][each.name] = each
                    self._level[each.name] = level
                    self.held_bytes[level] += self._bytes(each)
                else:
                    too_large.append(each)
            while memory.capacity_bytes is not None and self.held_bytes[level] > memory.capacity_bytes:
                pushed.append(self._remove(next(iter(self._resident[level]))))
            moving = pushed + too_large  # in the order of last use
        self.evicted += len(moving)


@dataclass(frozen=True, kw_only=True)
class ReuseComparison:
    """The same prompts three ways, one value per prompt in order: computed whole, with prefixes reused, with modules reused.

    TTFT is service alone, nobody waiting. ``offline`` is what the modules took before the first prompt.
    """

    prompt_tokens: Ints
    prefix_hit_tokens: Ints
    module_hit_tokens: Ints
    cold_ttft_s: Floats
    prefix_ttft_s: Floats
    modules_ttft_s: Floats
    load_s: Floats
    encode_s: Floats
    offline: Encoding

    @property
    def mean_ttft_s(self) -> dict[str, float]:
        """Mean TTFT of each way."""
        return dict(zip(WAYS, (float(np.mean(each)) for each in self._ttfts()), strict=True))

    @property
    def machine_s(self) -> dict[str, float]:
        """Seconds of the machine until all first tokens, encoding ahead included."""
        sums = dict(zip(WAYS, (float(np.sum(each)) for each in self._ttfts()), strict=True))
        sums["modules"] += self.offline.seconds
        return sums

    def cost_usd(self, usd_per_hour: float) -> dict[str, float]:
        """Dollars of ``machine_s`` at the machine's price per hour."""
        require_number("usd_per_hour", usd_per_hour, at_least=0)
        return {way: seconds * usd_per_hour / 3600 for way, seconds in self.machine_s.items()}

    def break_even_requests(self, against: str = "prefix") -> float | None:
        """Requests after which encoding ahead has paid for itself in machine seconds; None: modules save nothing."""
        if against not in WAYS[:2]:
            raise InputError("against", against, f"must be one of {', '.join(WAYS[:2])}")
        means = self.mean_ttft_s
        saved_s = means[against] - means["modules"]
        return self.offline.seconds / saved_s if saved_s > 0 else None

    def _ttfts(self) -> tuple[Floats, Floats, Floats]:
        return self.cold_ttft_s, self.prefix_ttft_s, self.modules_ttft_s


def compare_reuse(
    prompts: Sequence[PlacedPrompt],
    *,
    prefill_s: PrefillTime,
    kv_bytes_per_token: int,
    memories: Sequence[ModuleMemory],
    offline: Iterable[Module] = (),
    block_tokens: int = 16,
) -> ReuseComparison:
    """Serve ``prompts`` in order, one at a time, computed whole, over a prefix tree, and over stored modules.

    ``offline`` modules are encoded before the first prompt, all others by the first that needs them. The prefix tree (least
    recently used, whole blocks) has as many bytes as all memories together, and reads them in place for nothing: where modules
    win, they win against prefixes that were given the better memory. A prompt larger than that memory hits no prefix.

    >>> from simcache.pml import parse_prompt, parse_schema
    >>> schema = parse_schema('<schema name="s"><module name="a">%s</module><module name="b">%s</module></schema>'
    ...                       % ("one " * 400, "two " * 400))
    >>> asked = [parse_prompt(f'<prompt schema="s">{docs}Which?</prompt>', schema) for docs in ("<a/><b/>", "<b/><a/>")]
    >>> both = compare_reuse(asked, prefill_s=lambda new, present: 1e-3 * new, kv_bytes_per_token=1000,
    ...                      memories=[ModuleMemory(name="host", bytes_per_s=1e8)], offline=schema.modules)
    >>> both.prefix_hit_tokens.tolist(), both.module_hit_tokens.tolist()
    ([0, 0], [800, 800])
    """
    require(len(prompts) > 0, "prompts", 0, "must hold at least one prompt")
    store = ModuleStore(prefill_s=prefill_s, kv_bytes_per_token=kv_bytes_per_token, memories=memories)
    encoding = store.encode(offline)
    served = [store.serve(prompt) for prompt in prompts]
    requests = [Request(0.0, segments(prompt), Segment(("answer", row), 1)) for row, prompt in enumerate(prompts)]
    replay = replay_sequential(
        requests, capacity_tokens=_prefix_tokens(requests, memories, kv_bytes_per_token, block_tokens), page_tokens=block_tokens
    )
    totals = [each.prompt_tokens for each in served]
    hits = [max(0, hit) for hit in replay.hit_tokens]  # -1: more than the whole memory holds
    return ReuseComparison(
        prompt_tokens=np.array(totals, dtype=np.int64),
        prefix_hit_tokens=np.array(hits, dtype=np.int64),
        module_hit_tokens=np.array([each.hit_tokens for each in served], dtype=np.int64),
        cold_ttft_s=np.array([prefill_s(total, 0) for total in totals], dtype=np.float64),
        prefix_ttft_s=np.array([prefill_s(total - hit, hit) for total, hit in zip(totals, hits, strict=True)], dtype=np.float64),
        modules_ttft_s=np.array([each.ttft_s for each in served], dtype=np.float64),
        load_s=np.array([each.load_s for each in served], dtype=np.float64),
        encode_s=np.array([each.encode_s for each in served], dtype=np.float64),
        offline=encoding,
    )


def _prefix_tokens(requests: Iterable[Request], memories: Iterable[ModuleMemory], kv_bytes: int, block_tokens: int) -> int:
    rooms = [memory.capacity_bytes for memory in memories]
    bounded = [room for room in rooms if room is not None]
    if len(bounded) == len(rooms):
        return sum(bounded) // kv_bytes
    return sum(prompt_tokens(request.prompt) + 2 * block_tokens for request in requests)  # room for all of them at once


def _modules_of(prompt: PlacedPrompt) -> list[Module]:
    """The modules of a prompt in order of first use, checked: each whole, each in one version."""
    found: dict[str, Module] = {}
    tokens: dict[str, int] = {}
    for piece in prompt:
        if (module := piece.module) is not None:
            if found.setdefault(module.name, module) != module:
                raise InputError("module", module.name, "stands in one prompt in two versions")
            tokens[module.name] = tokens.get(module.name, 0) + piece.segment.tokens
    for module in found.values():
        if tokens[module.name] != module.tokens:
            rule = f"stands in the prompt with {tokens[module.name]} of its {module.tokens} tokens"
            raise InputError("module", module.name, rule, "States of a module are used whole or not at all.")
    return list(found.values())
