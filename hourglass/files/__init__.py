"""Files of rows, read and written in batches: memory does not grow with the file.

    file = open_rows(Path("pumps.csv"))
    for batch in file.batches(4096):
        values = batch.numbers(["pressure", "flow"])  # float32 [n, 2]

Needs the `files` extra (pyarrow, Pillow).
"""

from __future__ import annotations

from hourglass.files.reader import open_rows
from hourglass.files.rows import Batch, FileError, RowFile, no_such_column
from hourglass.files.writers import ArrayWriter, LateTableWriter, TableWriter

__all__ = [
    "ArrayWriter",
    "Batch",
    "FileError",
    "LateTableWriter",
    "RowFile",
    "TableWriter",
    "no_such_column",
    "open_rows",
]
