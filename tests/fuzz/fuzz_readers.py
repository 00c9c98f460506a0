"""Coverage-guided fuzzing of every reader: bytes in, an answer or one InputError out, never anything else, a hang or a gigabyte.

    pip install -e '.[fuzz]'
    python -m tests.fuzz.fuzz_readers READER [SECONDS] [CORPUS]      # "list" names the readers; CORPUS is kept and grows

What is found goes, as a test, into test_hostile_files.py.
"""

from __future__ import annotations

import random
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["simcache"]):
    from simcache.errors import InputError
    from tests.fuzz.readers import READERS, mutated, seeds


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Half of the time by tokens, so as to get behind the parsers of JSON and TOML; else as libFuzzer does."""
    draw = random.Random(seed)
    return mutated(data, draw)[:max_size] if draw.random() < 0.5 else atheris.Mutate(data, max_size)


def main(name: str, seconds: int, corpus: str | None) -> None:
    ending, read, _ = READERS[name]
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    found = Path(corpus) if corpus else folder / "corpus"
    found.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (found / f"seed-{number}").write_bytes(seed.read_bytes())
    path = folder / f"input.{ending}"

    def one(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(InputError):
            read(path)

    flags = [
        f"-max_total_time={seconds}",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-max_len=16384",
        f"-artifact_prefix={found}/crash-",
    ]
    atheris.Setup([sys.argv[0], *flags, str(found)], one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:] == ["list"] or not sys.argv[1:]:
        print(*READERS)
    else:
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 600, sys.argv[3] if len(sys.argv) > 3 else None)
