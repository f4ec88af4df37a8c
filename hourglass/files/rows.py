"""What every file of rows offers, whatever its format."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hourglass.contract.schema import listed
from hourglass.files.cells import is_missing, numbers, value_of, why_no_number

_ARRAYS = (".parquet", ".npy", ".npz")


class FileError(Exception):
    """A file that cannot be used. The message names the file, the line or row, the column, and what to do."""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what the libraries raise on a damaged or missing file into one FileError."""
    try:
        yield
    except FileError:
        raise
    except FileNotFoundError:
        raise FileError(f"{path}: no such file or folder") from None
    except Exception as error:  # decoders of damaged bytes raise nearly anything; the cause stays with the error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        first_line = str(reason).partition("\n")[0] or type(error).__name__
        raise FileError(f"{path}: cannot be read as {kind_of(path)}: {first_line}") from error


def kind_of(path: Path) -> str:
    """The file's kind, by its name: '.csv' for any text in columns, gzipped or not; '' when the name says nothing."""
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    if ("idx" in name and suffix in ("", ".idx")) or name.endswith("-ubyte"):
        return "idx"
    zipped = name != path.name.lower()
    if suffix in (".tsv", ".txt") or suffix.startswith(".data") or (zipped and suffix not in _ARRAYS):
        return ".csv"  # of a gzipped file whose name says nothing more, its content decides
    return suffix


def no_such_column(path: Path, name: str, have: Sequence[str]) -> FileError:
    """The error for a column that is not there, with the nearest name that is."""
    nearest = difflib.get_close_matches(name, have, 1)
    hint = f": did you mean {nearest[0]!r}?" if nearest else f"; it has {listed(have) or 'none with a name'}"
    return FileError(f"{path}: no column {name!r}{hint}")


def positional(count: int) -> tuple[str, ...]:
    """The names of columns that have none: c0, c1, …"""
    return tuple(f"c{i}" for i in range(count))


def check_names(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Raises FileError when two columns have the same name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise FileError(f"{path}: two columns are called {name!r}: rename one")
        seen.add(name)
    return tuple(names)


class Batch(ABC):
    """Consecutive rows of a file."""

    path: Path
    first_row: int  # 0-based, counted in the whole file
    decimal: str = "."  # what stands before the fraction of a number that is written as text

    @abstractmethod
    def __len__(self) -> int: ...

    def numbers(self, columns: Sequence[str] | None = None, *, missing: bool = False) -> np.ndarray:
        """float32 [n, *row_shape], or [n, len(columns)] in that order; units as in the file.

        missing: whether cells may be missing, which are then NaN. Raises FileError, naming line or row and column, for
        text and infinite cells, and for missing ones where none may be.
        """
        values = self.unchecked(columns)
        usable = ~np.isinf(values) if missing else np.isfinite(values)
        if not usable.all():
            row, *position = np.argwhere(~usable)[0].tolist()
            names = self._names() if columns is None else columns
            where = ",".join(map(str, position)) if names is None else names[position[0]]
            raise self.refused(row, where, why_no_number(self.cell(row, where), self.decimal))
        return values

    @abstractmethod
    def unchecked(self, columns: Sequence[str] | None = None) -> np.ndarray:
        """As `numbers`, with infinity where a cell is no number and NaN where it is missing."""

    @abstractmethod
    def column(self, name: str) -> pa.Array:
        """One column as it is written in the file, [n]. Raises FileError when there is none."""

    @abstractmethod
    def cell(self, row: int, where: str) -> Any:
        """A cell as a Python value. where: its column, or "3,5", where it stands in a row without columns."""

    def refused(self, row: int, where: str, why: str) -> FileError:
        """The error for a cell, its row counted in the batch: where it stands in the file, and why it will not do."""
        place = f"position {where}" if self._names() is None else f"column {where!r}"
        remedy = "fill it in" if is_missing(self.cell(row, where)) else "correct it"
        return FileError(f"{self.path}, {self.place(row)}, {place}: {why}: {remedy} or remove the row")

    @abstractmethod
    def _names(self) -> Sequence[str] | None:
        """Of the last dimension; None for images and arrays of rank >= 3."""

    @abstractmethod
    def place(self, row: int) -> str:
        """What people look for in the file: 'line 7'. row: counted in the batch; those before it are negative."""


@dataclass
class RowFile(ABC):
    """A file of rows. It holds no open handle: `batches` may be called any number of times."""

    path: Path
    columns: tuple[str, ...] | None  # names of the last dimension; None for images and arrays of rank >= 3
    row_shape: tuple[int, ...]  # (d,) tables, (h, w) grey images, (h, w, 3) colour images
    rows: int | None  # None when only reading to the end could tell
    extras: tuple[str, ...] = ()  # columns beside the numbers: `y` of an .npz, `label` of idx, `file` of .png
    read_share: float = field(default=0.0, init=False)  # of the file, by the running `batches`: 0 to 1
    watch: Callable[[float], None] | None = field(default=None, init=False)  # told read_share after each batch

    def batches(self, size: int) -> Iterator[Batch]:
        """The rows in order, `size` at a time (the last batch may be shorter). Raises FileError."""
        if size < 1:
            raise ValueError(f"a batch has at least one row, not {size}")
        self.read_share = 0.0
        with readable(self.path):
            for batch in self._batches(size):
                if self.rows:
                    self.read_share = (batch.first_row + len(batch)) / self.rows
                yield batch
                if self.watch:
                    self.watch(self.read_share)

    @abstractmethod
    def _batches(self, size: int) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class ArrayBatch(Batch):
    """Rows of a numeric array."""

    path: Path
    first_row: int
    values: np.ndarray  # [n, *row_shape], any real dtype
    columns: tuple[str, ...] | None
    extras: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.values)

    def unchecked(self, columns: Sequence[str] | None = None) -> np.ndarray:
        values = self.values if columns is None else self.values[:, [self._index(name) for name in columns]]
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            return values.astype(np.float32)

    def column(self, name: str) -> pa.Array:
        column = self.extras[name] if name in self.extras else self.values[:, self._index(name)]
        with readable(self.path):
            return pa.array(column.astype(column.dtype.newbyteorder("=")))  # idx is big-endian

    def cell(self, row: int, where: str) -> Any:
        if self.columns is None:
            return self.values[(row, *map(int, where.split(",")))].item()
        return value_of(self.column(where), row)

    def _names(self) -> tuple[str, ...] | None:
        return self.columns

    def place(self, row: int) -> str:
        return f"row {self.first_row + row} (the first is 0)"

    def _index(self, name: str) -> int:
        if self.columns is None or name not in self.columns:
            raise no_such_column(self.path, name, (*(self.columns or ()), *self.extras))
        return self.columns.index(name)


@dataclass(frozen=True)
class TableBatch(Batch):
    """Rows of a table whose columns may hold anything."""

    path: Path
    first_row: int
    table: pa.Table
    locate: Callable[[int], str]  # row of the file -> what people look for: 'line 7'
    decimal: str = "."

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def unchecked(self, columns: Sequence[str] | None = None) -> np.ndarray:
        names = self._names() if columns is None else columns
        values = np.empty((len(self), len(names)), dtype=np.float32)
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            for i, name in enumerate(names):
                values[:, i] = numbers(self.column(name), self.decimal)
        return values

    def column(self, name: str) -> pa.Array:
        try:
            column = self.table.column(name).combine_chunks()
        except KeyError:
            raise no_such_column(self.path, name, self._names()) from None
        return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column

    def cell(self, row: int, where: str) -> Any:
        return value_of(self.column(where), row)

    def _names(self) -> list[str]:
        names: list[str] = self.table.column_names
        return names

    def place(self, row: int) -> str:
        return self.locate(self.first_row + row)
