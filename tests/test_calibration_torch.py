"""The transformer is the thing it is taken for, and the runner times it: needs torch."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is in the extra `calibration` only")

from torch.nn.attention.bias import causal_lower_right  # noqa: E402

from calibration import torch_runner  # noqa: E402
from calibration.__main__ import main  # noqa: E402
from calibration.architecture import load_architecture  # noqa: E402
from calibration.grid import Point  # noqa: E402
from calibration.measure import measure  # noqa: E402
from calibration.points_file import PointsFile  # noqa: E402
from calibration.timing import CudaStopwatch, Patience  # noqa: E402
from calibration.transformer import Transformer  # noqa: E402
from simcache.errors import InputError, UnknownNameError  # noqa: E402
from simcache.latency.points import read_points  # noqa: E402

from .test_calibration import FakeCuda  # noqa: E402

SMALL = dataclasses.replace(load_architecture("tiny"), num_hidden_layers=2, hidden_size=64, head_dim=16, num_attention_heads=4,
                            intermediate_size=96, vocab_size=211, name="small")  # fmt: skip
TOKENS = 97
TOLERANCE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(SMALL, "fp32", "cpu", seed=3)


@pytest.fixture(scope="module")
def prompt() -> Any:
    return torch.randint(SMALL.vocab_size, (1, TOKENS), generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def whole(model: Transformer, prompt: Any) -> Any:
    logits = model.forward(prompt, model.cache(1, TOKENS), 0, all_logits=True)
    assert logits.std() > 0.5  # otherwise a tolerance of 1e-4 would say nothing
    return logits


@pytest.mark.parametrize("cached", [1, 2, 16, 31, 64, 95, 96])
def test_a_cached_prefix_changes_no_logit(model: Transformer, prompt: Any, whole: Any, cached: int) -> None:
    cache = model.cache(1, TOKENS)
    model.forward(prompt[:, :cached], cache, 0)
    logits = model.forward(prompt[:, cached:], cache, cached, all_logits=True)
    assert (logits - whole[:, cached:]).abs().max() < TOLERANCE


@pytest.mark.parametrize("chunk", [1, 7, 32, 96])
def test_chunked_prefill_changes_no_logit(model: Transformer, prompt: Any, whole: Any, chunk: int) -> None:
    cache = model.cache(1, TOKENS)
    parts = [model.forward(prompt[:, at : at + chunk], cache, at, all_logits=True) for at in range(0, TOKENS, chunk)]
    assert (torch.cat(parts, dim=1) - whole).abs().max() < TOLERANCE


def test_a_wrong_cached_prefix_does_change_them(model: Transformer, prompt: Any, whole: Any) -> None:
    cache = model.cache(1, TOKENS)
    model.forward((prompt[:, :64] + 1) % SMALL.vocab_size, cache, 0)
    logits = model.forward(prompt[:, 64:], cache, 64, all_logits=True)
    assert (logits - whole[:, 64:]).abs().max() > 0.1


def test_no_token_sees_what_comes_after_it(model: Transformer, prompt: Any, whole: Any) -> None:
    changed = prompt.clone()
    changed[:, 60:] = (changed[:, 60:] + 1) % SMALL.vocab_size
    logits = model.forward(changed, model.cache(1, TOKENS), 0, all_logits=True)
    assert (logits[:, :60] - whole[:, :60]).abs().max() < TOLERANCE
    assert (logits[:, 60:] - whole[:, 60:]).abs().max() > 0.1


def decoded(model: Transformer, prompt: Any, cached: int, steps: int = 12) -> list[int]:
    """Greedy continuation after a prefill in two parts."""
    cache = model.cache(1, TOKENS + steps)
    if cached:
        model.forward(prompt[:, :cached], cache, 0)
    logits = model.forward(prompt[:, cached:], cache, cached)
    out = []
    for step in range(steps):
        out.append(int(logits.argmax()))
        logits = model.forward(torch.tensor([[out[-1]]]), cache, TOKENS + step)
    return out


@pytest.mark.parametrize("cached", [1, 48, 96])
def test_decode_after_a_hit_goes_on_identically(model: Transformer, prompt: Any, cached: int) -> None:
    cold = decoded(model, prompt, 0)
    assert decoded(model, prompt, cached) == cold
    assert len(set(cold)) > 3


def test_a_batch_decodes_as_its_members_do(model: Transformer, prompt: Any) -> None:
    prompts = torch.cat([prompt, (prompt + 5) % SMALL.vocab_size])
    together = model.forward(prompts, model.cache(2, TOKENS), 0)
    for row in range(2):
        alone = model.forward(prompts[row : row + 1], model.cache(1, TOKENS), 0)
        assert (together[row] - alone[0]).abs().max() < TOLERANCE


def test_the_mask_of_cuda_means_the_same(model: Transformer, prompt: Any, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = model.cache(1, TOKENS)
    model.forward(prompt[:, :40], cache, 0)
    monkeypatch.setattr(Transformer, "_mask", lambda self, new, end: causal_lower_right(new, end))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says why a CPU has no fast kernel for it
        logits = model.forward(prompt[:, 40:], cache, 40, all_logits=True)
    assert (logits - whole[:, 40:]).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["tiny", "llama-1b"])
def test_the_weights_are_as_many_as_the_shape_says(name: str) -> None:
    shape = load_architecture(name)
    shape = dataclasses.replace(shape, num_hidden_layers=1, vocab_size=shape.vocab_size // 64)
    model = Transformer(shape)
    held = [model.embedding, model.norm, *(weight for layer in model.layers for weight in layer)]
    held += [] if shape.tie_word_embeddings else [model.head]
    assert sum(weight.numel() for weight in held) == shape.parameters
    cache = model.cache(1, 10)
    assert cache.keys.nbytes + cache.values.nbytes == 10 * shape.kv_bytes_per_token("fp32")


def cuda_like(cuda: FakeCuda, free: int | None = None) -> torch_runner.TorchRunner:
    """The CUDA path on a machine without one: the work is done on the CPU, the events are the fake's."""
    runner = torch_runner.TorchRunner(SMALL, "fp32", torch.device("cpu"), CudaStopwatch(cuda), lambda: free)
    forward = runner.model.forward

    def timed(*arguments: Any) -> Any:
        cuda.kernel()
        return forward(*arguments)

    runner.model.forward = timed  # type: ignore[method-assign]
    return runner


def test_the_cuda_path_times_by_events(tmp_path: Path) -> None:
    file = PointsFile(tmp_path / "p.csv", {"model": "small"})
    points = [Point(kind="prefill", new_tokens=8, cached_tokens=c) for c in (0, 32)] + [
        Point(kind="decode", batch=2, cached_tokens=9)
    ]
    measure(points, cuda_like(FakeCuda()), file, Patience())
    assert set(file.done.values()) == {2.5e-3}
    assert read_points([file.path]).decode == [(2.0, 18.0, 2.5e-3)]


def test_copies_move_all_bytes_of_the_blocks() -> None:
    runner = cuda_like(FakeCuda())
    for direction in ("to device", "to host"):
        timing, copied = runner.time(Point(kind="copy", new_tokens=16, direction=direction), Patience(most=2), float("inf"))
        assert copied == 16 * SMALL.kv_bytes_per_token("fp32")
        assert timing.repeats == 2


def test_memory_is_asked_before_and_its_end_survived(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = SMALL.parameters * 4 + torch_runner.RESERVE_BYTES + 2**20
    runner = cuda_like(FakeCuda(), free)
    points = [Point(kind="prefill", new_tokens=8, cached_tokens=c) for c in (0, 20, 40, 100_000)]
    assert [runner.why_not(point) for point in points] == [None, None, None, "it does not fit in memory"]
    with pytest.raises(InputError, match="GB of weights"):
        cuda_like(FakeCuda(), SMALL.parameters * 4)
    step = runner._step

    def greedy(point: Point) -> Any:
        if point.cached_tokens == 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return step(point)

    monkeypatch.setattr(runner, "_step", greedy)
    file = PointsFile(tmp_path / "p.csv", {})
    gaps = measure(points, runner, file, Patience(most=1))
    assert set(file.done) == {points[0], points[2]}
    assert list(gaps.reasons) == ["out of memory: CUDA out of memory. Tried to allocate 2.00 GiB", "it does not fit in memory"]


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UnknownNameError, match="cpu, cuda"):
        torch_runner.build(SMALL, "tpu", "fp32", None)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="sees no CUDA device"):
            torch_runner.build(SMALL, "cuda", "bf16", None)


def test_measure_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = tmp_path / "config.json", tmp_path / "points.csv"
    config.write_text(json.dumps(dataclasses.asdict(SMALL)))
    words = ["measure", "--model", str(config), "--out", str(out), "--quick", "--max-context", "128", "--budget-s", "4"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "no copies between host and device" in said
    assert len(read_points([out]).prefill) > 4
    born = json.loads(out.with_suffix(".json").read_text())
    for key in ("device", "torch", "dtype", "threads", "shape", "date", "command", "points", "clock_hz", "timer"):
        assert key in born
    assert main([*words[:-2], "--dtype", "bf16"]) == 2
    assert "another dtype (fp32, now bf16)" in capsys.readouterr().err
    assert main(["measure", "--device", "tpu", "--out", str(tmp_path / "x.csv")]) == 2
    assert not (tmp_path / "x.csv").exists()
