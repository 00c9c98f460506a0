"""A real hour of chat through four replicas of an 8B model, with and without prefix caching.

Question
    12,031 requests of a public chat service (Mooncake, FAST'25), 12,000 prompt tokens each on average: what TTFT do users see on
    four replicas, and what does prefix caching change when every replica keeps what fits beside the weights?

Setup
    The conversation trace, its ticks of about 3 s spread; four replicas, round robin, 16-token blocks, 80 GB GPUs.
    A100: Llama-3-8B, measured kernels. H100: Llama-3.1-8B, kernel sums (not measured as a whole). And the H100s once more with ten
    times the KV memory, as a host tier might hold it, to see what round robin leaves on the table. Needs the public traces
    (SIMCACHE_DATA, default ../shared/data).

What to look at
    Four A100s cannot carry this hour: TTFT is the length of the queue, and a 5 % hit ratio only shortens it. Four H100s can, and
    with their own memory caching hardly matters: a block is evicted long before its conversation returns.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from simcache import units
from simcache.engine.run import simulate
from simcache.report.figures import plot_ttft_by_prompt, save_figure, sheet
from simcache.result import Result, summarise
from simcache.scenario import Cluster, Scenario
from simcache.workload.traces import TraceWorkload

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
TRACE = Path(os.environ.get("SIMCACHE_DATA", ROOT.parent / "shared" / "data")) / "traces" / "mooncake_conversation.jsonl.gz"
REPLICAS = 4
QUICK_REQUESTS = 1_500
A100, H100 = "llama-3-8b/a100/tp1", "llama-3.1-8b/h100/tp1"
H100_KV_TOKENS = 437_760
VARIANTS = {
    "A100, no caching": Cluster(profile=A100, replicas=REPLICAS, prefix_caching=False),
    "A100, caching": Cluster(profile=A100, replicas=REPLICAS),
    "H100, no caching": Cluster(profile=H100, replicas=REPLICAS, prefix_caching=False),
    "H100, caching": Cluster(profile=H100, replicas=REPLICAS),
    "H100, caching, 10 x memory": Cluster(profile=H100, replicas=REPLICAS, kv_tokens=10 * H100_KV_TOKENS),
}


def table(results: dict[str, Result]) -> str:
    """The README's table."""
    rows = ["| 4 replicas | TTFT p50 | p95 | p99 | under 1 s | token hit ratio | preemptions |", "|---|---|---|---|---|---|---|"]
    for name, result in results.items():
        entry = summarise([result])
        p50, p95, p99 = (units.seconds(entry["ttft_s"][q]) for q in ("p50", "p95", "p99"))
        shares = f"{units.share(entry['slo_share'])} | {units.share(entry['token_hit_ratio'])}"
        rows.append(f"| {name} | {p50} | {p95} | {p99} | {shares} | {int(result.records.preemptions.sum()):,} |")
    return "\n".join(rows)


def main(quick: bool) -> str:
    """Run the study; the table and the answer in one sentence."""
    if not TRACE.exists():
        return (
            f"This study needs the Mooncake conversation trace at {TRACE.name} (point SIMCACHE_DATA at the folder above traces/)."
        )
    workload = TraceWorkload(path=str(TRACE), format="mooncake", limit=QUICK_REQUESTS if quick else None)
    results = {name: simulate(Scenario(workload=workload, backend=backend, name=name)) for name, backend in VARIANTS.items()}
    with sheet(1, 2, width=12.0, height=4.8) as (figure, axes):
        for ax, gpu in zip(axes, ("A100", "H100"), strict=True):
            chosen = {name: [result] for name, result in results.items() if name.startswith(gpu)}
            plot_ttft_by_prompt(chosen, ax)
            ax.set_title(f"Four {gpu}s" + (", overloaded" if gpu == "A100" and not quick else ""))
            if gpu == "A100":
                ax.set_yscale("linear")  # a queue that grows for an hour: everybody waits about as long
                ax.set_ylim(bottom=0)
                ax.set_ylabel("time to first token, from submit, s")
        save_figure(figure, (FIGURES / "quick" if quick else FIGURES) / "03_mooncake_replicas.png")
    median = {name: units.seconds(result.quantiles("ttft_s", [0.5])[0]) for name, result in results.items()}
    hits = {name: units.share(summarise([result])["token_hit_ratio"]) for name, result in results.items()}
    return (
        f"{table(results)}\n\nCaching takes the median TTFT from {median['A100, no caching']} to {median['A100, caching']} on four "
        f"A100s and from {median['H100, no caching']} to {median['H100, caching']} on four H100s, with token hit ratios of "
        f"{hits['A100, caching']} and {hits['H100, caching']}; ten times the memory brings {hits['H100, caching, 10 x memory']} "
        f"and {median['H100, caching, 10 x memory']}."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK_REQUESTS:,} requests only")
    print(main(parser.parse_args().quick))
