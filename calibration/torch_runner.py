"""Times the transformer of this folder on a CPU or a CUDA device."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from simcache.errors import InputError, UnknownNameError, require_count
from simcache.latency.shapes import gpu_peaks

from .architecture import DTYPE_BYTES, Architecture
from .grid import Point
from .measure import OutOfMemory
from .timing import CpuStopwatch, CudaStopwatch, Patience, Stopwatch, Timing, repeat
from .transformer import DTYPES, KvCache, Transformer

DEVICES: Final = ("cpu", "cuda")
RESERVE_BYTES: Final = 256 * 2**20
"""Left alone on the device: its context, the libraries' workspaces."""


class TorchRunner:
    """One model on one device. Everything that touches the device can be handed in: its stopwatch, free memory, fence, copies.

    Raises InputError where the weights alone do not fit. ``seed`` makes weights and tokens.
    """

    def __init__(
        self,
        shape: Architecture,
        dtype: str,
        device: torch.device,
        watch: Stopwatch,
        free_bytes: Callable[[], int | None],
        *,
        seed: int = 0,
    ) -> None:
        self.shape, self.dtype, self.device, self.watch, self.free_bytes = shape, dtype, device, watch, free_bytes
        needed, free = shape.parameters * DTYPE_BYTES[dtype], free_bytes()
        if free is not None and needed + RESERVE_BYTES > free:
            rule = f"has {needed / 1e9:.1f} GB of weights in {dtype}, and the device has {free / 1e9:.1f} GB free"
            raise InputError("model", shape.name, rule, "Choose a smaller model or another dtype.")
        try:
            self.model = Transformer(shape, dtype, device, seed)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_memory(error):
                raise
            raise InputError("model", shape.name, "does not fit into the device's memory", "Choose a smaller one.") from None
        self.generator = torch.Generator(device=device).manual_seed(seed + 1)

    def why_not(self, point: Point) -> str | None:
        """Whether weights' neighbours fit: KV cache, activations of the widest layer, and the mask where one is made."""
        free = self.free_bytes()
        if free is None:
            return None
        needed = self._bytes(point) + RESERVE_BYTES
        return None if needed <= free else "it does not fit in memory"

    def _bytes(self, point: Point) -> int:
        size, shape = DTYPE_BYTES[self.dtype], self.shape
        kv = point.tokens_held * shape.kv_bytes_per_token(self.dtype)
        if point.kind == "copy":
            return kv
        rows = point.new_tokens if point.kind == "prefill" else point.batch
        hidden = rows * (4 * shape.hidden_size + 4 * shape.intermediate_size) * size
        masked = point.kind == "prefill" and point.cached_tokens and self.device.type == "cpu"
        scores = shape.num_attention_heads * point.new_tokens * (point.new_tokens + point.cached_tokens) * size if masked else 0
        return kv + hidden + scores + rows * shape.vocab_size * size

    def work(self, point: Point) -> float:
        """Operations."""
        if point.kind == "decode":
            return point.batch * self.shape.flop(1, point.cached_tokens)
        return self.shape.flop(point.new_tokens, point.cached_tokens)

    def time(self, point: Point, patience: Patience, until_s: float) -> tuple[Timing, int]:
        """As the protocol says."""
        try:
            work, copied = self._copy(point) if point.kind == "copy" else (self._step(point), 0)
            return repeat(self.watch, work, patience, until_s=until_s), copied
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_memory(error):
                raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            raise OutOfMemory(str(error).splitlines()[0][:120]) from None

    def _step(self, point: Point) -> Callable[[], Any]:
        batch, new = (1, point.new_tokens) if point.kind == "prefill" else (point.batch, 1)
        start = point.cached_tokens
        cache = self.model.cache(batch, start + new)
        cache.fill()
        tokens = torch.randint(self.shape.vocab_size, (batch, new), generator=self.generator, device=self.device)
        return lambda: self.model.forward(tokens, cache, start)

    def _copy(self, point: Point) -> tuple[Callable[[], Any], int]:
        cache = KvCache(self.shape, 1, point.new_tokens, DTYPES[self.dtype], self.device)
        cache.fill()
        pinned = self.device.type == "cuda"
        host = [torch.empty_like(side, device="cpu", pin_memory=pinned) for side in (cache.keys, cache.values)]
        device = [cache.keys, cache.values]
        copied = sum(side.numel() * side.element_size() for side in device)
        sources, targets = (host, device) if point.direction == "to device" else (device, host)

        def copy() -> None:
            for source, target in zip(sources, targets, strict=True):
                target.copy_(source, non_blocking=True)

        return copy, copied


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or bool(
        re.search(r"out of memory|can't allocate memory|not enough memory", str(error), re.IGNORECASE)
    )


def build(shape: Architecture, device: str, dtype: str, threads: int | None, seed: int = 0) -> TorchRunner:
    """The runner of ``device`` ("cpu" or "cuda") with its real stopwatch; raises InputError for a device that is not there."""
    if device not in DEVICES:
        raise UnknownNameError("device", device, DEVICES)
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    if device == "cuda":
        if not torch.cuda.is_available():
            raise InputError("device", "cuda", "is not there: this torch sees no CUDA device", "Use --device cpu.")
        return TorchRunner(
            shape, dtype, torch.device("cuda"), CudaStopwatch(torch.cuda), lambda: torch.cuda.mem_get_info()[0], seed=seed
        )
    if threads is not None:
        require_count("threads", threads)
        torch.set_num_threads(threads)
    return TorchRunner(shape, dtype, torch.device("cpu"), CpuStopwatch(), free_memory_bytes, seed=seed)


def free_memory_bytes() -> int | None:
    """Memory of the host that can be had without swapping, and what is left of the control group's; None: not known."""
    found: list[int] = []
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        found += [int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:")]
    except OSError:
        return None
    try:
        most = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        if most != "max":
            found.append(int(most) - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):
        pass
    return min(found, default=None)


def birth(runner: TorchRunner, command: str, date: str) -> dict[str, Any]:
    """The head of the birth certificate of points measured with ``runner``."""
    about: dict[str, Any] = {
        "date": date,
        "command": command,
        "model": runner.shape.name,
        "shape": runner.shape.as_json(),
        "dtype": runner.dtype,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "host": platform.platform(),
    }
    if runner.device.type == "cuda":
        name = torch.cuda.get_device_name()
        properties = torch.cuda.get_device_properties(0)
        return about | {
            "device": name,
            "gpu": known_gpu(name),
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "memory_bytes": properties.total_memory,
            "clock_hz": _gpu_clock_hz(),
            "threads": None,
            "timer": "CUDA events",
        }
    return about | {
        "device": _cpu_name(),
        "gpu": "",
        "cores": os.cpu_count(),
        "clock_hz": _cpu_clock_hz(),
        "threads": torch.get_num_threads(),
        "timer": "perf_counter",
    }


def known_gpu(device_name: str) -> str:
    """Our name for the GPU that a driver calls ``device_name``; empty: not known, so nothing is priced by mistake.

    >>> known_gpu("NVIDIA H100 80GB HBM3"), known_gpu("Quadro P400")
    ('h100', '')
    """
    words = re.findall(r"[a-z0-9]+", device_name.lower())
    for name in sorted(gpu_peaks(), key=len, reverse=True):
        if all(part in words for part in name.split("-")):
            return name
    return ""


def _driver() -> str | None:
    try:
        line = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return None
    return line.partition("Kernel Module")[2].split()[0] if "Kernel Module" in line else line


def _gpu_clock_hz() -> float | None:
    try:
        return float(torch.cuda.clock_rate()) * 1e6
    except Exception:  # needs a library of its own, and every way of lacking it is fine
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cpu_clock_hz() -> float | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("cpu MHz"):
                return float(line.partition(":")[2]) * 1e6
    except (OSError, ValueError):
        pass
    return None
