"""Public measurements as the fits of the shipped profiles read them: where they lie, their rows, and when they were fitted."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "python -m calibration.fit_shipped"
FITTED = "2026-11-21"


def data_folder() -> Path:
    """The folder with the measurements: SIMCACHE_DATA, or ../shared/data beside the repository."""
    return Path(os.environ.get("SIMCACHE_DATA", ROOT.parent / "shared" / "data"))


def rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV file, plain or .gz."""
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        yield from csv.DictReader(file)


def column(table: list[dict[str, str]], name: str) -> NDArray[np.float64]:
    """One column as floats, 0 for an empty field."""
    return np.array([float(row[name] or 0) for row in table])
