"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The commands that tests start would compile every module anew, a quarter of their time, where this is set.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the public traces and measurements; the test is skipped where it is absent."""
    folder = Path(os.environ.get("SIMCACHE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "traces").is_dir():
        pytest.skip(f"public traces and measurements are not in {folder} (point SIMCACHE_DATA at them)")
    return folder
