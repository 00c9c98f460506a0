"""Records in files that other programs read too: Parquet and CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, UnknownNameError
from .records import INTEGER_COLUMNS, NEVER, TEXT_COLUMNS, TIER_COLUMNS, TIER_HITS, Records

_ROWS_AT_A_TIME: Final = 65_536


def save_records(records: Records, path: str | Path) -> None:
    """Write records to a ``.parquet`` or ``.csv`` file: nullable integers and text, null (an empty field) for never.

    The file is written in parts, so that memory does not grow with the number of rows.

    Raises InputError for another ending.

    >>> from tempfile import TemporaryDirectory; from simcache.records import RecordsBuilder
    >>> with TemporaryDirectory() as folder:
    ...     save_records(RecordsBuilder().freeze(), f"{folder}/records.csv"); len(load_records(f"{folder}/records.csv"))
    0
    """
    import pyarrow as pa  # here, not above: a tenth of a second that `import simcache` does not have
    from pyarrow import csv, parquet

    schema = pa.schema([(name, pa.string() if name in TEXT_COLUMNS else pa.int64()) for name in records.columns])
    writer = parquet.ParquetWriter if _ending(path) == ".parquet" else csv.CSVWriter
    with writer(str(path), schema) as file:
        for first in range(0, max(1, len(records)), _ROWS_AT_A_TIME):
            part = {name: column[first : first + _ROWS_AT_A_TIME] for name, column in records.columns.items()}
            arrays = [
                pa.array(column.tolist(), pa.string())
                if name in TEXT_COLUMNS
                else pa.array(column, pa.int64(), mask=column == NEVER)
                for name, column in part.items()
            ]
            file.write_table(pa.table(arrays, schema=schema))


def load_records(path: str | Path) -> Records:
    """Read what ``save_records`` wrote, ``.parquet`` or ``.csv``, equal to what was saved.

    Raises InputError when the file cannot be read, lacks a column or has one that is not known.

    >>> load_records("nowhere/records.csv")
    Traceback (most recent call last):
    simcache.errors.InputError: nowhere/records.csv: records(='records.csv') cannot be read: [Errno 2] Failed to open ...
    """
    import pyarrow as pa

    known = {**dict.fromkeys(TEXT_COLUMNS, pa.string()), **dict.fromkeys(INTEGER_COLUMNS, pa.int64())}
    try:
        if _ending(path) == ".parquet":
            from pyarrow import parquet

            table = parquet.read_table(str(path))
        else:
            from pyarrow import csv

            table = csv.read_csv(
                str(path),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(column_types=known, null_values=[""], strings_can_be_null=False),
            )
    except (pa.ArrowException, OSError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError("records", Path(path).name, f"cannot be read: {why}", path=path) from error
    for name in table.column_names:
        if name in TIER_COLUMNS or name.startswith(TIER_HITS):
            known[name] = pa.int64()
        if name not in known:
            raise UnknownNameError("column", name, known, path=path)
    if not table.num_rows:  # a CSV without rows tells no types
        table = pa.table({name: table[name].cast(known[name]) for name in table.column_names})
    columns: dict[str, NDArray[Any]] = {}
    for name, kind in known.items():
        if name not in table.column_names:
            raise InputError("column", name, "is missing", path=path)
        if table[name].type != kind:
            raise InputError(name, str(table[name].type), f"must be a column of type {kind}", path=path)
        if name in TEXT_COLUMNS:
            columns[name] = np.array(table[name].to_pylist(), dtype=object)
        else:
            columns[name] = table[name].fill_null(NEVER).to_numpy().copy()
    return Records(columns)


def _ending(path: str | Path) -> str:
    ending = Path(path).suffix.lower()
    if ending not in (".parquet", ".csv"):
        raise InputError("path", str(path), "must end in .parquet or .csv")
    return ending
