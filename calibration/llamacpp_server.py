"""A real llama.cpp server with random weights in a child process, so that the whole loop runs on any laptop.

python -m calibration.llamacpp_server --model tiny --slots 1      # prints its address, serves until standard input ends
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simcache.errors import InputError, require, require_count, require_number

from .architecture import load_architecture


@dataclass(frozen=True, kw_only=True)
class LlamaCpp:
    """How to start it: ``context_tokens`` per slot. Its second-level cache in host memory is off.

    >>> LlamaCpp(slots=4).threads
    1
    """

    model: str = "tiny"
    slots: int = 1
    context_tokens: int = 4096
    slot_similarity: float = 0.1
    threads: int = 1
    start_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("slots", "context_tokens", "threads"):
            require_count(name, getattr(self, name))
        require_number("slot_similarity", self.slot_similarity, at_least=0, at_most=1)


@dataclass(frozen=True)
class Started:
    """A server that runs: its address, process and parameters."""

    url: str
    pid: int
    about: dict[str, Any]


@contextmanager
def started(settings: LlamaCpp) -> Iterator[Started]:
    """Run the server for the length of a ``with`` block. Raises InputError where its packages are missing or it does not start."""
    words = [sys.executable, "-m", "calibration.llamacpp_server", "--model", settings.model]
    words += ["--slots", str(settings.slots), "--context", str(settings.context_tokens)]
    words += ["--slot-similarity", str(settings.slot_similarity), "--threads", str(settings.threads)]
    root = Path(__file__).resolve().parent.parent
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | {"PYTHONPATH": path}
        )
        try:
            line = _first_line(child, settings.start_timeout_s)
            if not line:
                log.seek(0)
                said = log.read().strip().splitlines()
                reason = next((text for text in said if text.startswith("error: ")), said[-1] if said else "it says nothing")
                raise InputError("start", "llamacpp", f"did not start: {reason.removeprefix('error: ')}")
            about = json.loads(line)
            yield Started(about.pop("url"), child.pid, about)
        finally:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.close()  # the child ends when its input does, and so it does when we die
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            child.stdout.close()


def _first_line(child: subprocess.Popen[str], timeout_s: float) -> str:
    import select

    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], timeout_s)
    return child.stdout.readline() if ready else ""


def main() -> int:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m calibration.llamacpp_server", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--slot-similarity", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    try:
        import xllamacpp

        from .random_gguf import FIRST_PLAIN_TOKEN, write_random_gguf
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed: pip install 'simcache[calibration]'", file=sys.stderr)
        return 2
    try:
        shape = load_architecture(options.model)
        total = options.slots * options.context
        require(options.context <= shape.max_position_embeddings, "context", options.context, "is longer than the model's")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    says = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints must not stand before our line
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.gguf"
        write_random_gguf(path, shape)
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel = total, options.slots
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
        params.cache_ram_mib = 0
        params.slot_prompt_similarity = options.slot_similarity
        params.hostnames, params.port, params.ui = ["127.0.0.1"], _free_port(), False
        server = xllamacpp.Server(params)
        about = {
            "url": server.listening_address,
            "engine": f"llama.cpp (xllamacpp {xllamacpp.__version__})",
            "shape": shape.as_json(),
            "slots": options.slots,
            "context_tokens": options.context,
            "slot_similarity": options.slot_similarity,
            "threads": options.threads,
            "n_batch": params.n_batch,
            "n_ubatch": params.n_ubatch,
            "plain_token_ids": [FIRST_PLAIN_TOKEN, shape.vocab_size],
        }
        print(json.dumps(about), file=says, flush=True)
        sys.stdin.read()
    return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
