"""Does what is simulated happen? A real llama.cpp server, measured, played five times, and simulated with the same arrivals.

Question
    How far are the simulator's hits, times in service and TTFT from those of a server that runs here: nobody warms, everybody
    warms when they begin to type, and the same where a slot counts as similar for little more than the system prompt?

Setup
    llama.cpp with random weights (26.7 million), four slots, one thread. Its people have a document of 700 to 1,200 tokens each,
    behind a system prompt of 200, for 75 s. Five repeats, each with other people; before each the server is measured over HTTP for
    40 s, and a profile fitted to all five. Every log is simulated with its own arrivals on that profile, with one factor for the
    host's speed from the first 20 % of its requests. `--quick` judges the recordings in the folder of this study's name; without
    it they are made anew (25 minutes, two quiet CPUs, the extra `calibration`).

What to look at
    Hits are a matter of order: they differ after somebody came within milliseconds of another's end. Points off the diagonal are
    queueing, which magnifies what is off in the speed of the host. With similarity 0.5 warming takes most of the wait away, unless
    more people type at once than there are slots; with the default 0.1 warm-ups overwrite each other and gain nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simcache import units
from simcache.cli.fit import command as fit_command
from simcache.latency import ServerProfile, load_profile
from simcache.live_log import read_live_run
from simcache.report.figures import COLOURS, GREY, MARKERS, save_figure, sheet
from simcache.scenario import Server
from simcache.validation import Validation, validate

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
RECORDED = Path(__file__).resolve().with_suffix("")
SLOTS, SLOT_TOKENS = 4, 4096
REPEATS = 5
PLAY_S, MEASURE_S = 75.0, 40.0
SHARES = np.linspace(0.1, 0.9, 9)


class Case(NamedTuple):
    """How the people warm, and the server's ``slot_prompt_similarity``."""

    name: str
    variant: str
    slot_similarity: float


CASES = (
    Case("no warming", "no warming", 0.1),
    Case("warmed, similarity 0.5", "warmed", 0.5),
    Case("warmed, similarity 0.1", "warmed", 0.1),
)


class Judged(NamedTuple):
    """One live run and its simulation; ``busy`` and ``waited``: shares of its time that the server ran, or waited for a CPU."""

    repeat: int
    case: Case
    found: Validation
    requests: int
    busy: float
    waited: float
    real_time: bool


def calibrate(*arguments: str) -> None:
    """``python -m calibration ...`` from the repository, which is where it lives."""
    if subprocess.run([sys.executable, "-m", "calibration", *arguments], cwd=ROOT, check=False).returncode:
        raise SystemExit(f"python -m calibration {' '.join(arguments)} failed")


def record(
    folder: Path,
    repeat: int,
    *,
    model: str = "tiny",
    slots: int = SLOTS,
    play_s: float = PLAY_S,
    measure_s: float = MEASURE_S,
) -> None:
    """Measure the server and play the three cases on it: points and logs, each with its certificate, in ``folder``."""
    server = [
        "--start",
        "llamacpp",
        "--model",
        model,
        "--slots",
        str(slots),
        "--server-context",
        str(SLOT_TOKENS),
        "--seed",
        str(repeat),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    place = os.path.relpath(folder, ROOT)  # what a certificate keeps of the command should say nothing of the machine
    (folder / f"{repeat}-points.csv").unlink(missing_ok=True)
    grid = ["--quick", "--max-context", "2048", "--budget-s", str(measure_s)]
    calibrate("measure", *server, *grid, "--out", f"{place}/{repeat}-points.csv")
    people = ["--scenario", os.path.relpath(RECORDED / "documents.toml", ROOT), "--duration-s", str(play_s)]
    for number, case in enumerate(CASES):
        how = ["--variant", case.variant, "--slot-similarity", str(case.slot_similarity)]
        calibrate("live", *server, *people, *how, "--out", f"{place}/{repeat}-{number}.jsonl")
        log = folder / f"{repeat}-{number}.jsonl"
        with (folder / f"{log.name}.gz").open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
            packed.write(log.read_bytes())
        log.unlink()


def fitted(folder: Path) -> ServerProfile:
    """``simcache fit`` of all points in ``folder``, in the form that llama.cpp's kernels have."""
    points = [str(path) for path in sorted(folder.glob("*-points.csv"))]
    with (
        tempfile.TemporaryDirectory() as place,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        out = Path(place) / "server.toml"
        fit_command.main([*points, "--form", "context-small", "--out", str(out)], standalone_mode=False)
        profile = load_profile(out)
    assert isinstance(profile, ServerProfile)
    return profile


def judge(folder: Path, repeat: int, slots: int = SLOTS) -> list[Judged]:
    """Simulate the three logs of this repeat."""
    judged = []
    profile = fitted(folder)
    for number, case in enumerate(CASES):
        run, _ = read_live_run(folder / f"{repeat}-{number}.jsonl.gz")
        server = Server(
            profile=profile,
            engine="llamacpp",
            slots=slots,
            slot_similarity=case.slot_similarity,
            kv_tokens=slots * SLOT_TOKENS,
        )
        born = json.loads((folder / f"{repeat}-{number}.json").read_text(encoding="utf-8"))
        busy, waited = ((born[name] or 0.0) / born["elapsed_s"] for name in ("server_cpu_s", "server_runq_wait_s"))
        judged.append(Judged(repeat, case, validate(run, server), len(run.requests), busy, waited, born["real_time_priority"]))
    return judged


def repeats_in(folder: Path) -> list[int]:
    """The repeats that were recorded, in order."""
    return sorted(int(path.name.partition("-")[0]) for path in folder.glob("*-points.csv"))


def orders(judged: Sequence[Judged]) -> tuple[int, int]:
    """In how many repeats the cases come in the measured order of TTFT p50 in the simulation too; and of how many."""
    right = 0
    repeats = sorted({each.repeat for each in judged})
    for repeat in repeats:
        found = [each.found for each in judged if each.repeat == repeat]
        measured = np.argsort([np.median(each.measured_ttft_s) for each in found])
        simulated = np.argsort([np.median(each.simulated_ttft_s) for each in found])
        right += bool((measured == simulated).all())
    return right, len(repeats)


def draw(judged: Sequence[Judged], path: Path) -> None:
    """Quantiles against each other; medians by repeat; what hits and times in service were off."""
    with sheet(1, 3, width=13.0, height=4.2) as (figure, (quantiles, medians, errors)):
        line = np.array([0.01, 10.0])
        quantiles.fill_between(line, line / 1.15, line * 1.15, color=GREY, alpha=0.2, linewidth=0, label="within 15 %")
        quantiles.plot(line, line, color=GREY, linewidth=1)
        for number, case in enumerate(CASES):
            runs = [each for each in judged if each.case == case]
            look = {"color": COLOURS[number], "marker": MARKERS[number], "linestyle": "none"}
            real = np.array([np.quantile(each.found.measured_ttft_s, SHARES) for each in runs])
            ours = np.array([np.quantile(each.found.simulated_ttft_s, SHARES) for each in runs])
            quantiles.plot(real.ravel(), ours.ravel(), markersize=4, alpha=0.7, label=case.name, **look)
            at = np.array([each.repeat for each in runs]) + (number - 1) * 0.2
            medians.plot(at, [np.median(each.found.measured_ttft_s) for each in runs], markersize=7, label=case.name, **look)
            medians.plot(
                at, [np.median(each.found.simulated_ttft_s) for each in runs], markersize=12, markerfacecolor="none", **look
            )
            wrong = [1 - (each.found.hits_exact_share or 0.0) for each in runs]
            errors.bar(at, [100 * each for each in wrong], 0.18, color=COLOURS[number], label="hits that differ")
            late = [each.found.service_median_ape or 0.0 for each in runs]
            errors.plot(at, [100 * each for each in late], markersize=7, label="time in service", **look)
        quantiles.set(xscale="log", yscale="log", xlabel="measured TTFT, s", ylabel="simulated TTFT, s", title="TTFT, p10 to p90")
        quantiles.legend(loc="upper left")
        for ax in (medians, errors):
            ax.set_xticks(sorted({each.repeat for each in judged}))
        medians.set(yscale="log", xlabel="repeat", ylabel="TTFT p50, s", title="Filled: measured; open: simulated")
        errors.set(xlabel="repeat", ylabel="%", title="Bars: wrong hits; marks: time in service")
        medians.legend(loc="center right")
        save_figure(figure, path)


def table(judged: Sequence[Judged]) -> str:
    """One row per live run."""
    rows = [
        "| repeat | case | busy | p50 measured | simulated | p50 | p90 | hits exact | service | speed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in judged:
        found = each.found
        measured, simulated = (units.seconds(float(np.median(ttft))) for ttft in (found.measured_ttft_s, found.simulated_ttft_s))
        errors = [units.share(found.ttft_s[name], plus=True) for name in ("p50_error", "p90_error")]
        exact, late = units.share(found.hits_exact_share or 0.0), units.share(found.service_median_ape or 0.0)
        rows.append(
            f"| {each.repeat} | {each.case.name} | {units.share(each.busy)} | {measured} | {simulated} | {' | '.join(errors)} "
            f"| {exact} | {late} | {found.speed_factor:.2f} |"
        )
    return "\n".join(rows)


def main(quick: bool) -> str:
    """Run the study; the table and the answer in one sentence."""
    if not quick:
        for repeat in range(1, REPEATS + 1):
            record(RECORDED, repeat)
    judged = [each for repeat in repeats_in(RECORDED) for each in judge(RECORDED, repeat)]
    draw(judged, (FIGURES / "quick" if quick else FIGURES) / f"{RECORDED.name}.png")
    exact = [each.found.hits_exact_share or 0.0 for each in judged]
    of_all = float(np.average(exact, weights=[each.requests for each in judged]))
    medians = [abs(each.found.ttft_s["p50_error"]) for each in judged]
    late = [each.found.service_median_ape or 0.0 for each in judged]
    waited = max(each.waited for each in judged)
    right, of = orders(judged)
    how = f"The server waited for its CPU {units.share(waited)} of the time at most"
    if any(each.real_time for each in judged):
        how = "Recorded at real-time priority, beside other work"
    hits = f"{units.share(of_all)} of the hits are exact ({units.share(min(exact))} in the worst)"
    off = f"{units.share(float(np.median(medians)))} in the middle run and {units.share(max(medians))} in the worst"
    return table(judged) + (
        f"\n\nIn {len(judged)} live runs {hits} and half of the times in service are within {units.share(max(late))}; TTFT p50 is "
        f"off by {off}; the three cases come in the measured order in {right} of {of} repeats. {how}."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="judge the recordings, into figures/quick")
    print(main(parser.parse_args().quick))
