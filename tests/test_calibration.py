"""Measuring: grid, repeats, file, budget and gaps, all without torch."""

from __future__ import annotations

import doctest
import importlib
import json
import random
import re
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from calibration.__main__ import main
from calibration.architecture import load_architecture
from calibration.grid import Point, grid
from calibration.measure import OutOfMemory, measure
from calibration.points_file import PointsFile
from calibration.timing import CpuStopwatch, CudaStopwatch, Patience, Timing, median_interval, repeat, runq_wait_s
from simcache.errors import InputError, UnknownNameError
from simcache.latency.points import read_points

BIRTH = {"model": "toy", "gpu": "", "shape": {"layers": 1}, "device": "a desk", "dtype": "fp32", "threads": 1, "torch": "2"}
PREFILLS = [Point(kind="prefill", new_tokens=n, cached_tokens=c) for n in (64, 128, 256) for c in (0, 512)]
ONCE = Patience(warm_ups=1, least=1, most=1)


@pytest.mark.parametrize("room", ["architecture", "grid", "timing", "measure"])
def test_doctests(room: str) -> None:
    result = doctest.testmod(importlib.import_module(f"calibration.{room}"))
    assert result.attempted > 0
    assert result.failed == 0


class Desk:
    """A device that takes 1 ms a token of a prefill; memory for ``room`` tokens; some points fail on their way."""

    def __init__(self, room: int = 10**9, fails: dict[Point, BaseException] | None = None) -> None:
        self.room, self.fails, self.now, self.timed = room, fails or {}, 0.0, []

    def why_not(self, point: Point) -> str | None:
        return None if point.tokens_held <= self.room else "it does not fit in memory"

    def work(self, point: Point) -> float:
        return float(point.new_tokens or point.batch)

    def time(self, point: Point, patience: Patience, until_s: float) -> tuple[Timing, int]:
        if point in self.fails:
            raise self.fails[point]
        self.timed.append(point)
        seconds = self.work(point) * 1e-3
        self.now += seconds * (patience.warm_ups + patience.least)
        return Timing(median_s=seconds, half_width=0.01, repeats=patience.least, disturbed=0), 0


def certificate(file: PointsFile) -> dict[str, Any]:
    return json.loads(file.certificate_path.read_text())


def test_grid_has_long_contexts_with_few_new_tokens_chunks_and_decode_batches() -> None:
    points = grid(32_768, 2048)
    assert len(set(points)) == len(points)
    assert max(p.cached_tokens for p in points if p.kind == "prefill" and p.new_tokens == 16) == 32_752
    chunks = {p.cached_tokens for p in points if p.kind == "prefill" and p.new_tokens == 2048}
    assert {k * 2048 for k in range(16)} <= chunks
    assert {p.batch for p in points if p.kind == "decode"} == {1, 2, 4, 8, 16, 32, 64, 128}
    assert all(p.cached_tokens + p.new_tokens <= 32_768 for p in points)
    assert not [p for p in points if p.kind == "copy"]
    assert {p.direction for p in grid(4096, 512, copies=True) if p.kind == "copy"} == {"to device", "to host"}


def test_grid_order_is_shuffled_by_its_seed() -> None:
    one, other = grid(4096, 512, seed=1), grid(4096, 512, seed=2)
    assert one == grid(4096, 512, seed=1)
    assert one != other
    assert sorted(one) == sorted(other)
    assert one != sorted(one)


def test_median_interval_covers() -> None:
    chance = random.Random(5)
    covered = 0
    for _ in range(400):
        low, high = median_interval([chance.lognormvariate(0, 1) for _ in range(15)])  # type: ignore[misc]
        covered += low <= 1.0 <= high
    assert 0.93 <= covered / 400 <= 1.0
    assert median_interval([1.0] * 5) is None


class Ticking:
    """A clock that moves only when work is done."""

    def __init__(self, spans: Iterator[float]) -> None:
        self.now, self.spans, self.runs = 0.0, spans, 0

    def __call__(self) -> float:
        return self.now

    def work(self) -> None:
        self.runs += 1
        self.now += next(self.spans)


def ticking(spans: Iterator[float], waits: Callable[[], float | None] = lambda: None) -> tuple[Ticking, CpuStopwatch]:
    clock = Ticking(spans)
    return clock, CpuStopwatch(clock, waits)


def test_repeats_drop_warm_ups_and_stop_early_when_tight() -> None:
    clock, watch = ticking(9.0 if i < 2 else 1.0 for i in count())
    timing = repeat(watch, clock.work, Patience(warm_ups=2, least=6, most=40, point_s=1e9), clock)
    assert timing == Timing(median_s=1.0, half_width=0.0, repeats=6, disturbed=0)
    assert clock.runs == 8


def test_repeats_go_on_while_the_interval_is_wide() -> None:
    clock, watch = ticking(1.0 + (i % 2) for i in count())
    timing = repeat(watch, clock.work, Patience(warm_ups=0, least=6, most=17, point_s=1e9), clock)
    assert timing.repeats == 17
    assert timing.half_width is not None
    assert timing.half_width > 0.2


def test_repeats_keep_to_seconds_per_point_and_to_the_budget() -> None:
    clock, watch = ticking(1.0 + (i % 2) for i in count())
    assert repeat(watch, clock.work, Patience(warm_ups=0, point_s=4.0), clock).repeats == 3
    clock, watch = ticking(5.0 for _ in count())
    assert repeat(watch, clock.work, Patience(), clock, until_s=1.0).repeats == 1
    assert clock.runs == 2


def test_repeats_that_waited_for_a_cpu_are_told_apart() -> None:
    spans = (3.0 if i % 2 else 1.0 for i in count())
    clock, watch = ticking(spans, lambda: clock.now - clock.runs)  # every second beyond the first was waiting
    timing = repeat(watch, clock.work, Patience(warm_ups=0, least=6, most=12, point_s=1e9), clock)
    assert timing.median_s == 1.0
    assert timing.disturbed >= 5


def test_run_queue_wait_grows_or_is_not_known() -> None:
    first = runq_wait_s("self")
    assert first is None or first <= runq_wait_s("self")  # type: ignore[operator]


class FakeCuda:
    """Stands for torch.cuda: a device with its own clock, in ms, and a record of what was asked of it."""

    def __init__(self) -> None:
        self.clock_ms, self.calls = 0.0, []
        cuda = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                self.at_ms: float | None = None

            def record(self) -> None:
                cuda.calls.append("record")
                self.at_ms = cuda.clock_ms

            def synchronize(self) -> None:
                cuda.calls.append("wait")

            def elapsed_time(self, other: Event) -> float:
                assert self.at_ms is not None
                assert other.at_ms is not None
                return other.at_ms - self.at_ms

        self.Event = Event

    def synchronize(self) -> None:
        self.calls.append("idle")

    def kernel(self) -> None:
        self.calls.append("work")
        self.clock_ms += 2.5


def test_cuda_events_stand_around_the_work_on_an_idle_device() -> None:
    cuda = FakeCuda()
    assert CudaStopwatch(cuda).time_s(cuda.kernel) == pytest.approx(2.5e-3)
    assert cuda.calls == ["idle", "record", "work", "record", "wait"]


def test_points_file_is_read_by_fit(tmp_path: Path) -> None:
    points = [*PREFILLS, Point(kind="decode", batch=4, cached_tokens=100), Point(kind="copy", new_tokens=16, direction="to host")]
    file = PointsFile(tmp_path / "p.csv", BIRTH)
    assert not measure(points, Desk(), file, ONCE).reasons
    read = read_points([file.path])
    assert sorted(read.prefill) == sorted((p.new_tokens, p.cached_tokens, p.new_tokens / 1e3) for p in PREFILLS)
    assert read.decode == [(4.0, 400.0, 0.004)]
    assert sum(read.dropped.values()) == 1
    assert read.identity["model"] == ["toy"]
    assert certificate(file) | {"ended": "complete", "points": 8, "warm_ups_dropped_per_point": 1} == certificate(file)


def test_what_does_not_fit_is_named_and_the_rest_measured(tmp_path: Path) -> None:
    fails: dict[Point, BaseException] = {PREFILLS[2]: OutOfMemory("tried to allocate 9 GB")}
    file = PointsFile(tmp_path / "p.csv", BIRTH)
    gaps = measure(PREFILLS, Desk(room=700, fails=fails), file, ONCE)
    assert set(file.done) == set(PREFILLS) - {PREFILLS[2], PREFILLS[5]}
    assert gaps.reasons == {
        "out of memory: tried to allocate 9 GB": ["prefill of 128 after 0"],
        "it does not fit in memory": ["prefill of 256 after 512"],
    }
    assert certificate(file)["left_out"] == gaps.reasons
    assert certificate(file)["ended"] == "with gaps"


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    with pytest.raises(KeyboardInterrupt):
        measure(PREFILLS, Desk(fails={PREFILLS[3]: KeyboardInterrupt()}), file := PointsFile(path, BIRTH), ONCE)
    assert certificate(file)["ended"] == "interrupted: KeyboardInterrupt"
    with path.open("a") as half:
        half.write("prefill,99")  # the power went off in the middle of a line
    desk = Desk()
    file = PointsFile(path, BIRTH)
    measure(PREFILLS, desk, file, ONCE)
    assert desk.timed == PREFILLS[3:]
    assert len(read_points([path]).prefill) == len(PREFILLS)
    assert certificate(file)["resumed_points"] == 3


def test_a_file_of_another_device_is_not_mixed_in(tmp_path: Path) -> None:
    measure(PREFILLS, Desk(), PointsFile(tmp_path / "p.csv", BIRTH), ONCE)
    with pytest.raises(InputError, match=r"another device \(a desk, now a table\)"):
        PointsFile(tmp_path / "p.csv", BIRTH | {"device": "a table"})
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="without its birth certificate"):
        PointsFile(tmp_path / "other.csv", BIRTH)


def test_budget_leaves_out_what_would_not_end_in_it(tmp_path: Path) -> None:
    desk = Desk()
    points = [Point(kind="prefill", new_tokens=n) for n in (100, 10_000, 200)]
    gaps = measure(points, desk, PointsFile(tmp_path / "p.csv", BIRTH), ONCE, budget_s=5.0, clock=lambda: desk.now)
    assert desk.timed == [points[0], points[2]]
    assert gaps.reasons == {"it would not have ended within the budget": ["prefill of 10000 after 0"]}
    desk = Desk()
    gaps = measure(points, desk, PointsFile(tmp_path / "q.csv", BIRTH), ONCE, budget_s=0.1, clock=lambda: desk.now)
    assert gaps.reasons == {"the budget was spent": ["prefill of 10000 after 0", "prefill of 200 after 0"]}


@pytest.mark.parametrize(
    ("name", "parameters", "kv_bytes"), [("llama-8b", 8_030_261_248, 131_072), ("llama-1b", 1_235_814_400, 32_768)]
)
def test_presets_have_the_published_sizes(name: str, parameters: int, kv_bytes: int) -> None:
    shape = load_architecture(name)
    assert shape.parameters == parameters
    assert shape.kv_bytes_per_token("bf16") == kv_bytes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"num_key_value_heads": 3}, "must divide"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 0}, "must be at least 1"),
        ({"head_dim": 63}, "must be even"),
        ({"vocab_size": "many"}, "must be a whole number"),
    ],
)
def test_a_config_of_something_else_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    config = json.loads((Path("calibration/models/tiny.json")).read_text()) | change
    path = tmp_path / "config.json"
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(InputError, match=says) as caught:
        load_architecture(str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="llama-8b"):
        load_architecture("llama-8")


def test_the_page_names_every_option_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "calibration.md").read_text(encoding="utf-8")
    known: set[str] = set()
    for verb in ("measure", "live"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        known |= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    named = set(re.findall(r"--[a-z][a-z-]+", page))
    others = {"--new", "--cached", "--profile", "--save-result", "--save-detailed"}  # of the commands beside
    assert known - named == {"--help"}
    assert named - known == others


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["measure", "--out", "points.txt"], "must end in .csv"),
        (["measure", "--out", "p.csv", "--model", "llama-9b"], "llama-8b"),
        (["measure", "--out", "p.csv", "--url", "http://example.com:80"], "not on this machine"),
        (["measure", "--out", "p.csv", "--url", "http://127.0.0.1:1"], "does not answer"),
        (["measure", "--out", "p.csv", "--max-context", "1"], "must be at least 64"),
        (["measure", "--out", "p.csv", "--budget-s", "-1"], "must be above 0"),
        (["live", "--scenario", "demo", "--out", "l.jsonl"], "or --start must be given"),
        (["live", "--scenario", "demo", "--out", "l.csv"], "must end in .jsonl"),
        (["live", "--scenario", "demo", "--variant", "no", "--out", "l.jsonl"], "is not in this file"),
        (["live", "--scenario", "nowhere.toml", "--out", "l.jsonl"], "does not exist"),
    ],
)
def test_bad_words_end_in_one_line_and_leave_no_file(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert says in error
    assert "\n" not in error
    assert not list(tmp_path.iterdir())
