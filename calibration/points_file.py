"""The CSV of measured points and the birth certificate beside it: written as they come, so that an interrupted run goes on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, Final

from simcache.errors import InputError
from simcache.whole_files import whole_file

from .grid import Point
from .timing import Timing

COLUMNS: Final = (
    *("kind", "new_tokens", "cached_tokens", "batch", "kv_tokens", "seconds"),
    *("half_width", "repeats", "disturbed", "direction", "bytes", "model", "gpu", "source"),
)
_POINT: Final = ("kind", "new_tokens", "cached_tokens", "batch", "direction")
_BORN: Final = ("shape", "device", "dtype", "threads", "torch", "server")
"""What must be equal for two sessions to share one file."""


class PointsFile:
    """Rows that are appended one by one; opening an existing file finds what is measured already.

    ``birth`` is the certificate's head: what was measured, on what, with what. Raises InputError for a file that was born
    otherwise, or that is not ours.
    """

    def __init__(self, path: Path, birth: dict[str, Any]) -> None:
        self.path, self.certificate_path, self.birth = path, path.with_suffix(".json"), birth
        self.model, self.gpu = str(birth.get("model", "")), str(birth.get("gpu", ""))
        self.done: dict[Point, float] = {}
        self.disturbed = 0
        self.earlier_s = 0.0
        if path.exists() and path.stat().st_size:
            self._resume()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
        self.resumed = len(self.done)

    def _resume(self) -> None:
        try:
            old = json.loads(self.certificate_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            way_out = "Choose another --out, or remove the file."
            raise InputError("out", str(self.path), "exists without its birth certificate", way_out) from None
        for name in _BORN:
            if old.get(name) != self.birth.get(name):
                rule = f"was measured with another {name} ({old.get(name)}, now {self.birth.get(name)})"
                raise InputError("out", str(self.path), rule, "Choose another --out.")
        self.earlier_s = float(old.get("measured_s", 0.0))
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # an interruption may have left half a line
        if whole != text:
            self.path.write_text(whole, encoding="utf-8")
        lines = whole.splitlines()
        if not lines or lines[0] != ",".join(COLUMNS):
            raise InputError("out", str(self.path), "is no file of measured points", "Choose another --out.")
        for row in csv.DictReader(lines):
            values: dict[str, Any] = {name: row[name] for name in _POINT}
            for name in ("new_tokens", "cached_tokens", "batch"):
                values[name] = int(values[name] or 0)
            self.done[Point(**values)] = float(row["seconds"])
            self.disturbed += row["source"] == "measured, disturbed"

    def add(self, point: Point, timing: Timing, copied_bytes: int = 0) -> None:
        """Append one measured point and let the disk have it."""
        prefill, decode = point.kind == "prefill", point.kind == "decode"
        row = {
            "kind": point.kind,
            "new_tokens": "" if decode else point.new_tokens,
            "cached_tokens": point.cached_tokens if prefill or decode else "",
            "batch": point.batch if decode else "",
            "kv_tokens": point.kv_tokens if decode else "",
            "seconds": f"{timing.median_s:.9g}",
            "half_width": "" if timing.half_width is None else f"{timing.half_width:.4f}",
            "repeats": timing.repeats,
            "disturbed": timing.disturbed,
            "direction": point.direction,
            "bytes": copied_bytes or "",
            "model": self.model,
            "gpu": self.gpu,
            "source": "measured, disturbed" if timing.disturbed >= timing.repeats else "measured",
        }
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
        self.done[point] = timing.median_s
        self.disturbed += timing.disturbed >= timing.repeats

    def certify(self, **about: Any) -> None:
        """Write the birth certificate, whole or not at all."""
        text = (
            json.dumps(
                {"schema_version": 1, **self.birth, "points": len(self.done), "disturbed_points": self.disturbed, **about}, indent=2
            )
            + "\n"
        )
        with whole_file(self.certificate_path) as partial:
            partial.write_text(text, encoding="utf-8")
