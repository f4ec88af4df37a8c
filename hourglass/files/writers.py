"""Results written row by row to a temporary sibling that gets its name when it is whole."""

from __future__ import annotations

import secrets
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Generic, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.lib import format as npy

from hourglass.files.rows import FileError

T = TypeVar("T")

# Each row group costs memory until the file is closed: few and large.
_ROW_GROUP_BYTES = 16 * 2**20


class _Writer(ABC, Generic[T]):
    """A context manager: leaving it normally publishes the file, leaving it with an exception deletes it.

    Raises FileError, naming the file, when it cannot be written.
    """

    _stream: IO[bytes]

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")

    def write(self, rows: T) -> None:
        """Appends rows."""
        with self._said():
            self._write(rows)

    @abstractmethod
    def _begin(self) -> None:
        """Writes what stands before the rows."""

    @abstractmethod
    def _write(self, rows: T) -> None: ...

    @abstractmethod
    def _finish(self) -> None:
        """Writes what a whole file needs besides its rows."""

    def _abandon(self) -> None:
        """Lets go of what will not be finished."""

    def __enter__(self) -> Self:
        if self._path.is_dir():
            raise FileError(f"{self._path}: a folder: name a file to write to")
        with self._said():
            self._stream = self._draft.open("xb")
            try:
                self._begin()
            except BaseException:
                self._discard()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._abandon()
            self._discard()
            return
        with self._said():
            try:
                self._finish()
                self._stream.close()
                self._draft.replace(self._path)
            except BaseException:
                self._abandon()
                self._discard()
                raise

    def _discard(self) -> None:
        with suppress(OSError):
            self._stream.close()  # fails like the write before it where the disk is full
        self._draft.unlink(missing_ok=True)

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FileError(f"{self._path}: cannot be written: {error.strerror or error}") from None
        except pa.ArrowException as error:
            raise FileError(f"{self._path}: a {self._path.suffix} cannot hold these columns: {error}") from None


class TableWriter(_Writer[pa.Table]):
    """.parquet or .csv, by the path's suffix."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        super().__init__(path)
        self._schema = schema
        self._writer: Any = None
        self._waiting: list[pa.Table] = []

    def _begin(self) -> None:
        kind = pq.ParquetWriter if self._path.suffix.lower() == ".parquet" else pyarrow.csv.CSVWriter
        self._writer = kind(self._stream, self._schema)

    def _write(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        if sum(table.nbytes for table in self._waiting) >= _ROW_GROUP_BYTES:
            self._flush()

    def _finish(self) -> None:
        self._flush()
        self._writer.close()

    def _abandon(self) -> None:
        with suppress(Exception):
            self._writer.close()  # would else be tried when it is collected, on a stream that is gone

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting = []


class LateTableWriter(TableWriter):
    """As TableWriter, for tables that can only be completed when the last one is there: until then they wait in a
    nameless file beside the output."""

    def __init__(self, path: Path, schema: pa.Schema, complete: Callable[[pa.Table], pa.Table]) -> None:
        super().__init__(path, schema)
        self._complete = complete

    def _begin(self) -> None:
        super()._begin()
        self._file = tempfile.TemporaryFile(dir=self._path.parent)  # noqa: SIM115 - closed when it was read, or in vain
        self._incomplete = pa.ipc.new_stream(self._file, self._schema)

    def _write(self, rows: pa.Table) -> None:
        self._incomplete.write_table(rows)

    def _finish(self) -> None:
        self._incomplete.close()
        self._file.seek(0)
        with self._file, pa.ipc.open_stream(self._file) as incomplete:
            for batch in incomplete:
                super()._write(self._complete(pa.Table.from_batches([batch])))
        super()._finish()

    def _abandon(self) -> None:
        super()._abandon()
        self._file.close()


class ArrayWriter(_Writer[np.ndarray]):
    """.npy of rows of one shape."""

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> None:
        super().__init__(path)
        self._row_shape, self._dtype, self._rows = row_shape, np.dtype(dtype), 0

    def _begin(self) -> None:
        self._write_header()

    def _write(self, rows: np.ndarray) -> None:
        if rows.shape[1:] != self._row_shape:
            raise ValueError(f"rows of shape {self._row_shape}, not {rows.shape[1:]}")
        self._stream.write(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())
        self._rows += len(rows)

    def _finish(self) -> None:
        self._stream.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        # numpy pads the header so that the number of rows can grow in place.
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._rows, *self._row_shape)}
        npy.write_array_header_1_0(self._stream, header)
