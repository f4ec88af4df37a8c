"""Parquet, one row group after the other; and tables cut into batches of the asked size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hourglass.files.rows import FileError, RowFile, TableBatch, check_names

_BUFFER = 2**20


@dataclass
class ParquetFile(RowFile):
    """A .parquet file."""

    def _batches(self, size: int) -> Iterator[TableBatch]:
        # Buffered, not pre-fetched: memory follows the buffers, not the row groups.
        with pq.ParquetFile(self.path, buffer_size=_BUFFER, pre_buffer=False) as file:
            first_row = 0
            for table in rebatch(file.iter_batches(batch_size=size, use_threads=False), size):
                table.validate(full=True)  # damaged text would else come to light wherever it is looked at
                yield TableBatch(self.path, first_row, table, lambda row: f"row {row} (the first is 0)")
                first_row += table.num_rows


def open_parquet(path: Path) -> ParquetFile:
    """Raises FileError."""
    with pq.ParquetFile(path) as file:
        columns = check_names(path, file.schema_arrow.names)
        rows = file.metadata.num_rows
    if not rows or not columns:
        raise FileError(f"{path}: the table is empty: it needs at least one row")
    return ParquetFile(path, columns, (len(columns),), rows)


def rebatch(pieces: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of `size` rows; the last may be shorter."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for piece in pieces:
        waiting.append(piece)
        rows += piece.num_rows
        if rows < size:
            continue
        table = pa.Table.from_batches(waiting)
        whole = rows - rows % size
        for start in range(0, whole, size):
            yield table.slice(start, size)
        rest = table.slice(whole)
        waiting, rows = rest.to_batches(), rest.num_rows
    if rows:
        yield pa.Table.from_batches(waiting)
