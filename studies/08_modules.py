"""Modules against prefixes: when does reuse wherever a text stands pay, and does it give the published gain?

Question
    A prefix is reused only as far as two prompts begin alike. Prompt Cache (Gim et al., MLSys 2024) stores the states of each
    module at positions of its own and loads them wherever they are asked for. When does that beat prefixes, what does it cost
    when documents are edited, and is the published gain in TTFT (GPU 286.9 -> 78.2 ms, CPU 17,917 -> 511 ms) what such a cost
    model says?

Setup
    Twenty documents of 2,000 tokens in one PML schema; every prompt takes four, and asks. Three ways with the same 8 GB for
    cached states: everything computed; a prefix tree on the GPU, read in place; modules in GPU or host memory, copied for each
    request and encoded before the first. Llama 3 8B on one A100; Llama 3.1 8B has the same shape and 131,072 positions, of
    which the schema takes 40,500. Nobody waits for anybody: TTFT is service alone. What reuse of modules does to the quality of
    answers is not looked at. The published example: two unknowns (seconds per token and per request) fitted to the two printed
    numbers of each device, linear in length; all other parameters are constants below.

What to look at
    Left: where the prefix line crosses the lines of the modules as more prompts bring their documents in another order, for
    prompts that take the same four documents and for prompts that take any four. Middle: an edit costs prefixes what stood
    behind it and modules one encoding, unless it moves the positions of everything behind it. Right: the fitted lines go
    through the printed points because they must; the gain at other lengths is a prediction.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simcache import units
from simcache.cache.modules import ModuleMemory, ModuleStore, ReuseComparison, compare_reuse
from simcache.latency import LatencyModel, ServerProfile, load_profile
from simcache.pml import PlacedPrompt, Schema, parse_prompt, parse_schema
from simcache.pricing import load_gpu
from simcache.report.figures import COLOURS, GREY, LINES, save_figure, sheet
from simcache.streams import stream

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = Path(__file__).resolve().parent.parent / "figures"
SEED = 1

PROFILE = "llama-3-8b/a100/tp1"
DOCUMENTS = 20
TAKEN = 4
SYSTEM_TOKENS = 500
DOCUMENT_TOKENS = 2_000
QUESTION_TOKENS = 30
CACHE_BYTES = 8 * 10**9
POPULARITY = 1.0
"""Exponent of Zipf's law: how often the documents are asked for."""
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""Share of prompts whose documents come in a random order instead of the schema's."""
EDIT_EVERY = (1, 2, 5, 10, 20, 50, 100)
"""Requests between two edits; every edit changes one document, drawn evenly."""

HOST_BYTES_PER_S = 102.4e6 / 5.34e-3
GPU_BYTES_PER_S = 102.4e6 / 0.23e-3
CPU_BYTES_PER_S = 102.4e6 / 3.79e-3
"""Copies of one layer's states (2 x 40 x 5,000 x 128 values of 2 bytes = 102.4 MB), host to GPU, GPU to GPU, host to host, measured
by the authors on an RTX 4090 (github.com/yale-sys/prompt-cache, benchmark_memcpy.py). An A100's bus is as fast."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One device of the published example, and what its fit assumes."""

    device: str
    cold_s: float
    modules_s: float
    memory: ModuleMemory


PUBLISHED = (
    # README of github.com/yale-sys/prompt-cache, persona example, Llama 2 7B
    Published(
        device="RTX 4090",
        cold_s=0.2869,
        modules_s=0.0782,
        memory=ModuleMemory(name="GPU memory", bytes_per_s=GPU_BYTES_PER_S),
    ),
    Published(
        device="i9-13900K",
        cold_s=17.91714,
        modules_s=0.51131,
        memory=ModuleMemory(name="host memory", bytes_per_s=CPU_BYTES_PER_S),
    ),
)
PERSONA_TOKENS = 1_300
"""Modules of the published persona prompt: about 5,700 characters of English; an estimate, no count was printed."""
PERSONA_QUESTION_TOKENS = 10
LLAMA_2_7B_BYTES_PER_TOKEN = 2 * 32 * 32 * 128 * 2
LENGTHS = (62, 88, 125, 177, 250, 354, 500, 707, 1_000, 1_414, 2_000, 2_828, 4_000)
"""Up to the 4,096 positions that Llama 2 has."""
LOOKS = {
    name: {"color": COLOURS[colour], "linestyle": LINES[line]}
    for name, colour, line in (
        ("computed", 0, 0),
        ("prefix, any four", 1, 1),
        ("prefix, the same four", 2, 2),
        ("modules, host", 3, 3),
        ("modules, GPU", 4, 4),
        ("prefix", 1, 1),
        ("modules, edits move all behind", 3, 5),
        ("modules, edits keep positions", 3, 3),
    )
}
CLAIMED = {"RTX 4090": 8, "i9-13900K": 60}
"""Largest gains on a GPU and on a CPU, from the paper's abstract."""


def words(name: str, tokens: int) -> str:
    """A text that counts as ``tokens`` tokens here: one per word."""
    return " ".join([name] * tokens)


def count_words(text: str) -> int:
    """One token per word."""
    return len(text.split())


def library(revisions: Sequence[int], growing: bool = False) -> Schema:
    """The schema with every document in its present revision; a ``growing`` one gains a token per edit."""
    documents = (
        f'<module name="doc{i}">{words(f"doc{i}v{n}", DOCUMENT_TOKENS + (n if growing else 0))}</module>'
        for i, n in enumerate(revisions)
    )
    return parse_schema(
        f'<schema name="library">{words("system", SYSTEM_TOKENS)} {"".join(documents)}</schema>', count_tokens=count_words
    )


def ask(schema: Schema, documents: Sequence[int], row: int) -> PlacedPrompt:
    """One prompt that takes ``documents`` in that order and asks something of its own."""
    taken = "".join(f"<doc{i}/>" for i in documents)
    return parse_prompt(f'<prompt schema="library">{taken}<user>{words(f"q{row}", QUESTION_TOKENS)}</user></prompt>', schema)


def drawn_documents(row: int, any_four: bool, share: float) -> list[int]:
    """Documents of prompt ``row``: the same draws at every share, so that only the order differs."""
    draws = stream(SEED, "modules study, documents", user=row)
    weights = 1 / np.arange(1, DOCUMENTS + 1) ** POPULARITY
    four = draws.choice(DOCUMENTS, TAKEN, replace=False, p=weights / weights.sum())
    shuffled, order = draws.random() < share, draws.permutation(TAKEN)
    documents = sorted(four.tolist()) if any_four else list(range(TAKEN))
    return [documents[i] for i in order] if shuffled else documents


def memory(where: str) -> ModuleMemory:
    """All of the bytes for cached states in one place."""
    bytes_per_s = {"GPU": GPU_BYTES_PER_S, "host": HOST_BYTES_PER_S}[where]
    return ModuleMemory(name=where, bytes_per_s=bytes_per_s, capacity_bytes=CACHE_BYTES)


def reuse(prompts: Sequence[PlacedPrompt], schema: Schema, where: str) -> ReuseComparison:
    """The three ways over one stream of prompts, modules encoded ahead."""
    profile = load_profile(PROFILE)
    return compare_reuse(
        prompts,
        prefill_s=profile.prefill_s,
        kv_bytes_per_token=profile.kv_bytes_per_token,
        memories=[memory(where)],
        offline=schema.modules,
    )


def orders(requests: int) -> tuple[dict[str, list[float]], ReuseComparison]:
    """Mean TTFT per share of prompts in another order; and the comparison at the last share, any four documents, host."""
    schema = library([0] * DOCUMENTS)
    lines: dict[str, list[float]] = {
        name: [] for name in ("computed", "prefix, any four", "prefix, the same four", "modules, host", "modules, GPU")
    }
    for share in SHARES:
        any_four = [ask(schema, drawn_documents(row, True, share), row) for row in range(requests)]
        same_four = [ask(schema, drawn_documents(row, False, share), row) for row in range(requests)]
        host, gpu = reuse(any_four, schema, "host"), reuse(any_four, schema, "GPU")
        lines["computed"].append(host.mean_ttft_s["cold"])
        lines["prefix, any four"].append(host.mean_ttft_s["prefix"])
        lines["prefix, the same four"].append(reuse(same_four, schema, "host").mean_ttft_s["prefix"])
        lines["modules, host"].append(host.mean_ttft_s["modules"])
        lines["modules, GPU"].append(gpu.mean_ttft_s["modules"])
    return lines, host


def edits(requests: int) -> dict[str, list[float]]:
    """Machine seconds per request, encoding included, by how often a document is edited; documents in the schema's order."""
    lines: dict[str, list[float]] = {
        name: [] for name in ("prefix", "modules, edits move all behind", "modules, edits keep positions")
    }
    for every in EDIT_EVERY:
        for name, growing in (("modules, edits keep positions", False), ("modules, edits move all behind", True)):
            revisions = [0] * DOCUMENTS
            first = schema = library(revisions, growing)
            prompts = []
            for row in range(requests):
                if row and row % every == 0:
                    revisions[int(stream(SEED, "modules study, edits", user=row).integers(DOCUMENTS))] += 1
                    schema = library(revisions, growing)
                prompts.append(ask(schema, drawn_documents(row, True, 0.0), row))
            found = reuse(prompts, first, "host")
            lines[name].append(found.machine_s["modules"] / requests)
            if not growing:
                lines["prefix"].append(found.machine_s["prefix"] / requests)
    return lines


def fitted(published: Published) -> ServerProfile:
    """Seconds per token and per request of one device, so that both printed numbers come out."""
    load_s = PERSONA_TOKENS * LLAMA_2_7B_BYTES_PER_TOKEN / published.memory.bytes_per_s
    model = LatencyModel().fit(
        [PERSONA_QUESTION_TOKENS, PERSONA_TOKENS + PERSONA_QUESTION_TOKENS],
        [PERSONA_TOKENS, 0],
        [published.modules_s - load_s, published.cold_s],
        form="linear",
        min_new=1,
    )
    return ServerProfile(name=published.device, provenance="published figure", form="linear", coefficients=model.coefficients())


def published_ttft_s(published: Published, profile: ServerProfile, module_tokens: int) -> tuple[float, float]:
    """TTFT of a prompt like the published one with ``module_tokens`` tokens of modules: computed whole, and with modules."""
    schema = parse_schema(
        f'<schema name="persona"><module name="all">{words("trait", module_tokens)}</module></schema>', count_tokens=count_words
    )
    prompt = parse_prompt(
        f'<prompt schema="persona"><all/><user>{words("introduce", PERSONA_QUESTION_TOKENS)}</user></prompt>', schema
    )
    store = ModuleStore(prefill_s=profile.prefill_s, kv_bytes_per_token=LLAMA_2_7B_BYTES_PER_TOKEN, memories=[published.memory])
    store.encode(schema.modules)
    served = store.serve(prompt)
    return profile.prefill_s(served.prompt_tokens), served.ttft_s


def length_of_gain(published: Published, profile: ServerProfile, gain: float) -> float:
    """Module tokens at which the fitted line gains ``gain``: where base + a*(m + n) = gain * (base + a*n + load*m)."""
    c = profile.coefficients
    load_s = LLAMA_2_7B_BYTES_PER_TOKEN / published.memory.bytes_per_s
    alone_s = c.base_s + c.per_token_s * PERSONA_QUESTION_TOKENS
    return (gain - 1) * alone_s / (c.per_token_s - gain * load_s)


def draw(
    by_order: dict[str, list[float]],
    by_edit: dict[str, list[float]],
    published: dict[str, list[tuple[float, float]]],
    path: Path,
) -> None:
    """All three panels, into ``path``."""
    with sheet(1, 3, width=14.5, height=4.8) as (figure, (left, middle, right)):
        draw_orders(by_order, left)
        draw_edits(by_edit, middle)
        draw_published(published, right)
        save_figure(figure, path)


def draw_orders(lines: dict[str, list[float]], ax: Axes) -> None:
    """TTFT by the share of prompts in another order."""
    for name, values_s in lines.items():
        ax.plot(np.array(SHARES) * 100, np.array(values_s) * 1e3, label=name, linewidth=1.8, **LOOKS[name])
    ax.set(xlim=(0, 100), ylim=(0, None), xlabel="prompts with documents in another order, %", ylabel="mean TTFT, ms")
    ax.set_title("Four documents per prompt, 8 GB of cached states")
    ax.legend(loc="center right")


def draw_edits(lines: dict[str, list[float]], ax: Axes) -> None:
    """Machine time by how often a document is edited."""
    for name, values_s in lines.items():
        ax.plot(EDIT_EVERY, np.array(values_s) * 1e3, label=name, linewidth=1.8, **LOOKS[name])
    ax.set(xscale="log", ylim=(0, None), xlabel="requests between two edits", ylabel="machine time per request, ms")
    ax.set_xticks(EDIT_EVERY, [str(every) for every in EDIT_EVERY])
    ax.minorticks_off()
    ax.set_title("Any four documents in one order, host memory")
    ax.legend(loc="upper right")


def draw_published(published: dict[str, list[tuple[float, float]]], ax: Axes) -> None:
    """Fitted TTFT by tokens of modules, and the four printed numbers."""
    for index, example in enumerate(PUBLISHED):
        for values_s, way, line in zip(np.array(published[example.device]).T, ("computed", "modules"), LINES[:2], strict=True):
            ax.plot(LENGTHS, values_s, color=COLOURS[index], linestyle=line, linewidth=1.8, label=f"{example.device}, {way}")
        for value_s in (example.cold_s, example.modules_s):
            ax.plot([PERSONA_TOKENS], [value_s], marker="o", color="black", markersize=5, zorder=4)
            above = value_s > 0.3  # the CPU's points stand above the GPU's: their labels go up, the others down
            ax.annotate(
                units.seconds(value_s),
                (PERSONA_TOKENS, value_s),
                xytext=(-5, 5) if above else (5, -5),
                textcoords="offset points",
                ha="right" if above else "left",
                va="bottom" if above else "top",
                fontsize=8,
                color=GREY,
            )
    ax.set(xscale="log", yscale="log", xlabel="tokens of modules", ylabel="TTFT, s")
    ax.set_xticks(LENGTHS[::2], [units.count(length) for length in LENGTHS[::2]])
    ax.minorticks_off()
    ax.set_title("The published example (points), fitted (lines)")
    ax.legend(loc="upper left")


def first_below(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The smallest share from which ``one`` stays below ``other``."""
    below = np.array(one) < np.array(other)
    stays = [share for index, share in enumerate(SHARES) if below[index:].all()]
    return stays[0] if stays else None


def main(quick: bool) -> str:
    """Run the study; the answer in one sentence."""
    by_order, host = orders(100 if quick else 600)
    by_edit = edits(60 if quick else 400)
    profiles = {example.device: fitted(example) for example in PUBLISHED}
    published = {
        example.device: [published_ttft_s(example, profiles[example.device], length) for length in LENGTHS] for example in PUBLISHED
    }
    draw(by_order, by_edit, published, (FIGURES / "quick" if quick else FIGURES) / "08_modules.png")
    same_four = first_below(by_order["modules, host"], by_order["prefix, the same four"])
    gpu = load_gpu(load_profile(PROFILE).gpu)
    offline = host.offline
    gains = ", ".join(
        f"{example.cold_s / example.modules_s:.1f}x on the {example.device} "
        f"({CLAIMED[example.device]}x at {length_of_gain(example, profiles[example.device], CLAIMED[example.device]):,.0f} tokens)"
        for example in PUBLISHED
    )
    crossing = "never" if same_four is None else f"from {same_four:.0%} of prompts in another order on"
    prefix_s = by_order["prefix, any four"]
    return (
        f"With any four of {DOCUMENTS} documents, modules in host memory take {units.seconds(by_order['modules, host'][-1])} and "
        f"prefixes {units.seconds(prefix_s[0])} (documents in one order) to {units.seconds(prefix_s[-1])} (in any), for "
        f"{units.seconds(offline.seconds)}, {units.gigabytes(offline.stored_bytes)} and "
        f"{units.dollars(offline.cost_usd(gpu.usd_per_gpu_hour))} of encoding ahead, paid back after "
        f"{host.break_even_requests():.0f} prompts; with the same four documents they win {crossing}; the published example, "
        f"fitted, gains {gains}."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer prompts")
    print(main(parser.parse_args().quick))
