"""What host memory below the GPU's buys on an hour of chat, and when loading a prefix is slower than computing it again.

Question
    Four replicas keep 57 GB of KV each beside the weights. Would they rather have more GPU memory, the same bytes as host memory,
    as a disk, or as one host memory that all four reach? And how fast must a link be before loading pays at all?

Setup
    12,031 requests of a public chat service (Mooncake conversation trace, ticks spread) on four H100s (Llama-3.1-8B, kernel sums,
    not measured as a whole), round robin, 512-token blocks, written through. Added per replica: GPU memory (no tier), a host tier
    of its own on a link of 25 GB/s, a disk of 3 GB/s, or a quarter of a host tier that all four reach, on one link of 25 GB/s (the
    speeds are assumed). Right: from the profiles alone, the bandwidth at which loading a prefix takes as long as computing it,
    512 new tokens behind it, on an idle replica. Needs the public traces (SIMCACHE_DATA, default ../shared/data).

What to look at
    Left: a host tier written through repeats what the GPU has, so one as large as the GPU's memory brings nothing; larger ones
    come near GPU memory of their size, a disk does not. Round robin sends a conversation to another replica each turn, so memory
    that all can reach beats all of them. Right: below its line a model computes faster than it loads. Fast GPUs and many KV bytes
    per token ask most of the link, long prefixes less: their attention is costly to repeat.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from simcache import units
from simcache.cache.tiers import Tier
from simcache.engine.run import simulate
from simcache.latency import ServerProfile
from simcache.latency.catalogue import find_profile
from simcache.report.figures import COLOURS, GREY, LINES, save_figure, sheet
from simcache.result import Result, summarise
from simcache.scenario import Cluster, Scenario
from simcache.workload.traces import TraceWorkload

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
TRACE = Path(os.environ.get("SIMCACHE_DATA", ROOT.parent / "shared" / "data")) / "traces" / "mooncake_conversation.jsonl.gz"
QUICK_REQUESTS = 2_500
H100 = "llama-3.1-8b/h100/tp1"
KV_TOKENS = 437_760  # the profile's own
REPLICAS = 4
PLAIN = Cluster(profile=H100, replicas=REPLICAS, block_tokens=512, kv_tokens=KV_TOKENS)
ADDED: Final = (1, 2, 4, 8, 16)  # times KV_TOKENS
HOST_BYTES_PER_S = 25e9
DISK_BYTES_PER_S = 3e9
PROFILES: Final = {
    "Llama-2-7B, A100": "llama-2-7b/a100/tp1",
    "Llama-3.1-8B, H100": H100,
    "Llama-3-8B, A100": "llama-3-8b/a100/tp1",
    "Llama-2-70B, 2 x A100": "llama-2-70b/a100/tp2",
}
PREFIX_TOKENS = np.geomspace(512, 131_072, 60)
NEW_TOKENS = 512
MARKERS = ("o", "s", "^", "D")


def _tier(tokens: int, bytes_per_s: float, shared_by: int | None = 1) -> tuple[Tier, ...]:
    return (Tier(name="below", capacity_tokens=tokens, load_bytes_per_s=bytes_per_s, shared_by=shared_by),)


def backends(added: int) -> dict[str, Cluster]:
    """The four ways to add so many times ``KV_TOKENS`` to each replica."""
    tokens = added * KV_TOKENS
    return {
        "one host memory for all, 25 GB/s": replace(PLAIN, tiers=_tier(REPLICAS * tokens, HOST_BYTES_PER_S, None)),
        "GPU memory": replace(PLAIN, kv_tokens=KV_TOKENS + tokens),
        "host memory, 25 GB/s": replace(PLAIN, tiers=_tier(tokens, HOST_BYTES_PER_S)),
        "disk, 3 GB/s": replace(PLAIN, tiers=_tier(tokens, DISK_BYTES_PER_S)),
    }


def enough_bytes_per_s(profile: ServerProfile, prefix_tokens: float) -> float:
    """The bandwidth at which a prefix is loaded in the time that computing it takes beyond the rest."""
    saved_s = profile.prefill_s(prefix_tokens + NEW_TOKENS, 0) - profile.prefill_s(NEW_TOKENS, prefix_tokens)
    assert profile.kv_bytes_per_token is not None
    return float(prefix_tokens * profile.kv_bytes_per_token / saved_s)


def main(quick: bool) -> str:
    """Run the study; the answer in one sentence."""
    if not TRACE.exists():
        return (
            f"This study needs the Mooncake conversation trace at {TRACE.name} (point SIMCACHE_DATA at the folder above traces/)."
        )
    workload = TraceWorkload(path=str(TRACE), format="mooncake", limit=QUICK_REQUESTS if quick else None)

    def run(name: str, backend: Cluster) -> Result:
        return simulate(Scenario(workload=workload, backend=backend, name=name))

    profile = _server_profile(H100)
    assert profile.kv_bytes_per_token is not None
    gigabytes = [added * KV_TOKENS * profile.kv_bytes_per_token / 1e9 for added in ADDED]
    base = run("as it is", PLAIN)
    found: dict[str, list[Result]] = {}
    for added in ADDED:
        for name, backend in backends(added).items():
            found.setdefault(name, []).append(run(name, backend))

    def mean_s(result: Result) -> float:
        return float(np.mean(result.span("ttft_s")))

    with sheet(1, 2, width=12.0, height=4.8) as (figure, (left, right)):
        for index, (name, results) in enumerate(found.items()):
            style = {"color": COLOURS[index], "linestyle": LINES[index], "marker": MARKERS[index], "markersize": 5}
            left.plot(gigabytes, [mean_s(result) for result in results], label=name, **style)
        left.axhline(mean_s(base), color=GREY, linewidth=0.9)
        left.annotate("nothing added", (gigabytes[-1], mean_s(base)), (0, 4), textcoords="offset points", ha="right", color=GREY)
        left.set_xscale("log")
        left.set_xticks(gigabytes, [f"{size:,.0f}" for size in gigabytes])
        left.minorticks_off()
        left.set(xlabel="GB added per replica", ylabel="mean time to first token, from submit, s", ylim=(0, None))
        left.set_title("Four H100s, an hour of chat")
        left.legend(loc="lower left")
        for index, (name, path) in enumerate(PROFILES.items()):
            model = _server_profile(path)
            speeds = [enough_bytes_per_s(model, tokens) / 1e9 for tokens in PREFIX_TOKENS]
            right.plot(PREFIX_TOKENS, speeds, color=COLOURS[index], linestyle=LINES[index], label=name)
        for speed, name in ((HOST_BYTES_PER_S, "host, 25 GB/s"), (DISK_BYTES_PER_S, "disk, 3 GB/s")):
            right.axhline(speed / 1e9, color=GREY, linewidth=0.9)
            right.annotate(name, (PREFIX_TOKENS[-1], speed / 1e9), (0, 4), textcoords="offset points", ha="right", color=GREY)
        right.set(xscale="log", yscale="log", xlabel="tokens of the prefix", ylabel="GB/s that make loading as fast as computing")
        right.set_xticks([512, 2_048, 8_192, 32_768, 131_072], ["512", "2,048", "8,192", "32,768", "131,072"])
        right.set_yticks([0.3, 1, 3, 10, 30], ["0.3", "1", "3", "10", "30"])
        right.minorticks_off()
        right.set_title("Below its line a model computes faster than it loads")
        right.legend(loc="lower left")
        save_figure(figure, (FIGURES / "quick" if quick else FIGURES) / "16_host_memory.png")

    at = ADDED.index(4)
    means = {name: mean_s(results[at]) for name, results in found.items()}
    saved_s = mean_s(base) - means["GPU memory"]
    told = ", ".join(f"{(mean_s(base) - mean) / saved_s:.0%} as {name}" for name, mean in means.items() if name != "GPU memory")
    rows = ["| 4 replicas | mean TTFT | token hit ratio | of it loaded | mean wait for a load |", "|---|---|---|---|---|"]
    for name, result in {"nothing added": base, **{name: results[at] for name, results in found.items()}}.items():
        entry = summarise([result])
        (loaded,) = entry.get("tiers", {"": {"token_hit_ratio": 0.0}}).values()
        waited = units.seconds(entry["load_wait_s"]["mean"]) if "load_wait_s" in entry else units.NOTHING
        shares = f"{units.share(entry['token_hit_ratio'])} | {units.share(loaded['token_hit_ratio'])}"
        rows.append(f"| {name} | {units.seconds(mean_s(result))} | {shares} | {waited} |")
    enough = {name: enough_bytes_per_s(_server_profile(path), PREFIX_TOKENS[0]) / 1e9 for name, path in PROFILES.items()}
    asked = ", ".join(f"{speed:.2g} GB/s ({name})" for name, speed in enough.items())
    table = "\n".join(rows)
    return (
        f"{gigabytes[at]:,.0f} GB more per replica:\n\n{table}\n\nAs GPU memory they take {units.seconds(saved_s)} off the mean "
        f"TTFT; of that, {told}. Loading a prefix of {PREFIX_TOKENS[0]:.0f} tokens is slower than computing it on links under "
        f"{asked}."
    )


def _server_profile(path: str) -> ServerProfile:
    profile = find_profile(path)
    assert isinstance(profile, ServerProfile)
    return profile


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK_REQUESTS:,} requests only")
    print(main(parser.parse_args().quick))
