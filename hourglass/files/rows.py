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
import pyarrow.compute as pc


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
    """The file's kind, by its name: '.csv' for pumps.csv and pumps.csv.gz; '' when the name says nothing."""
    name = path.name.lower().removesuffix(".gz")
    if ("idx" in name and Path(name).suffix in ("", ".idx")) or name.endswith("-ubyte"):
        return "idx"
    return Path(name).suffix


def no_such_column(path: Path, name: str, have: Sequence[str]) -> FileError:
    """The error for a column that is not there, with the nearest name that is."""
    nearest = difflib.get_close_matches(name, have, 1)
    hint = f": did you mean {nearest[0]!r}?" if nearest else f"; it has {_listed(have)}"
    return FileError(f"{path}: no column {name!r}{hint}")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8]) or "none with a name"
    return shown + (f", … ({len(names)} in all)" if len(names) > 8 else "")


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

    first_row: int  # 0-based, counted in the whole file

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def numbers(self, columns: Sequence[str] | None = None) -> np.ndarray:
        """float32 [n, *row_shape], or [n, len(columns)] in that order; units as in the file.

        Raises FileError, naming line or row and column, for text, missing and non-finite cells.
        """

    @abstractmethod
    def column(self, name: str) -> pa.Array:
        """One column as it is written in the file, [n]. Raises FileError when there is none."""

    @abstractmethod
    def refused(self, row: int, column: str, why: str) -> FileError:
        """The error for a cell, its row counted in the batch: where it stands in the file, and why it will not do."""


@dataclass
class RowFile(ABC):
    """A file of rows. It holds no open handle: `batches` may be called any number of times."""

    path: Path
    columns: tuple[str, ...] | None  # names of the last dimension; None for images and arrays of rank >= 3
    row_shape: tuple[int, ...]  # (d,) tables, (h, w) grey images, (h, w, 3) colour images
    rows: int | None  # None when only reading to the end could tell
    extras: tuple[str, ...] = ()  # columns beside the numbers: `y` of an .npz, `label` of idx, `file` of .png
    read_share: float = field(default=0.0, init=False)  # of the file, by the running `batches`: 0 to 1

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

    def numbers(self, columns: Sequence[str] | None = None) -> np.ndarray:
        values = self.values
        if columns is not None:
            values = values[:, [self._index(name) for name in columns]]
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            values = values.astype(np.float32)
        finite = np.isfinite(values)
        if not finite.all():
            row, *position = np.argwhere(~finite)[0].tolist()
            names = columns if columns is not None else self.columns
            where = f"column {names[position[0]]!r}" if names else f"position {position}"
            raise FileError(
                f"{self.path}, row {self.first_row + row} (the first is 0), {where}: {values[row][tuple(position)]} "
                "is not a finite float32 number: fill it in or remove the row"
            )
        return values

    def column(self, name: str) -> pa.Array:
        column = self.extras[name] if name in self.extras else self.values[:, self._index(name)]
        with readable(self.path):
            return pa.array(column.astype(column.dtype.newbyteorder("=")))  # idx is big-endian

    def refused(self, row: int, column: str, why: str) -> FileError:
        return FileError(
            f"{self.path}, row {self.first_row + row} (the first is 0), column {column!r}: {why}: correct it or remove "
            "the row"
        )

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

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def numbers(self, columns: Sequence[str] | None = None) -> np.ndarray:
        names = self.table.column_names if columns is None else columns
        values = np.empty((len(self), len(names)), dtype=np.float32)
        bad: list[tuple[int, str]] = []
        for i, name in enumerate(names):
            column = self.column(name)
            try:
                values[:, i] = _to_float32(column)
                unusable = ~np.isfinite(values[:, i])
                if unusable.any():
                    bad.append((int(unusable.argmax()), name))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                bad.append((_first_text(column), name))
        if bad:
            raise self._bad_cell(*min(bad, key=lambda cell: cell[0]))
        return values

    def column(self, name: str) -> pa.Array:
        try:
            column = self.table.column(name).combine_chunks()
        except KeyError:
            raise no_such_column(self.path, name, self.table.column_names) from None
        return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column

    def refused(self, row: int, column: str, why: str) -> FileError:
        cell = value_of(self.column(column), row)
        if cell is None or not _is_number(cell):
            return self._bad_cell(row, column)
        where = f"{self.path}, {self.locate(self.first_row + row)}, column {column!r}"
        return FileError(f"{where}: {why}: correct it or remove the row")

    def _bad_cell(self, row: int, name: str) -> FileError:
        cell = value_of(self.column(name), row)
        where = f"{self.path}, {self.locate(self.first_row + row)}, column {name!r}"
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            return FileError(f"{where}: the cell is empty: fill it in or remove the row")
        shown = repr(cell) if len(repr(cell)) <= 40 else repr(cell)[:40] + "…"
        if _is_number(cell):
            return FileError(f"{where}: {shown} is not a finite float32 number: correct it or remove the row")
        return FileError(f"{where}: {shown} is not a number: correct it or leave this column out")


def value_of(column: pa.Array, row: int) -> Any:
    """A cell as a Python value; as text where Python has none."""
    try:
        return column[row].as_py()
    except ValueError:  # nanoseconds
        return column.slice(row, 1).cast(pa.string())[0].as_py()


def _to_float32(column: pa.Array) -> np.ndarray:
    """float32 [n]; NaN where a cell is missing. Raises ArrowInvalid where a cell is text."""
    # Not "safe": an integer above 2**24 is rounded like any other number.
    try:
        numbers = column.cast(pa.float32(), safe=False)
    except pa.ArrowInvalid:
        if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
            raise
        trimmed = pc.ascii_trim_whitespace(column)
        present = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, column.type), trimmed)
        numbers = present.cast(pa.float32())
    values: np.ndarray = numbers.to_numpy(zero_copy_only=False)
    return values


def _first_text(column: pa.Array) -> int:
    cells = ((row, value_of(column, row)) for row in range(len(column)))
    rows = (row for row, cell in cells if cell is not None and not _is_number(cell))
    return next(rows, 0)  # none: a column of dates, say, without a single one


def _is_number(cell: Any) -> bool:
    try:
        _to_float32(pa.array([cell]))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True
