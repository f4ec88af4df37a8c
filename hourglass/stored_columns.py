"""What stands beside a file's rows in an index: their ids, and the columns that are to be found with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hourglass.files import Batch, FileError, RowFile
from hourglass.files.cells import is_text, value_of
from hourglass.stores.record import ID, RESERVED, TYPES, IdType, PayloadType


class StoredColumns:
    """id: the column of the ids; None: rows are known by their number in the file, from 0. payload: columns' names.

    Raises FileError for columns that are not there, or that an index cannot hold.
    """

    def __init__(self, file: RowFile, id_column: str | None, payload: Sequence[str]) -> None:
        first = next(file.batches(1))
        self.id_column = id_column
        self.id_type: IdType = "int64" if id_column is None else _id_type(first, id_column)
        self.payload: dict[str, PayloadType] = {}
        for name in dict.fromkeys(payload):
            kind = _payload_type(first.column(name).type)
            if name in RESERVED or name.startswith("_"):
                why = "a name of the index's own columns" if name in RESERVED else "stores' own columns begin with '_'"
                raise FileError(f"{file.path}: column {name!r}: {why}: rename it in the file")
            if kind is None:
                held = first.column(name).type
                raise FileError(
                    f"{file.path}: column {name!r} holds {held}: an index holds numbers, texts, bools, dates and times"
                )
            self.payload[name] = kind
        self._unique = FirstRows()

    def take(self, batch: Batch, good: np.ndarray) -> pa.Table:
        """id and payload of a batch's good rows (bool [n]). Raises FileError for an id that is missing, or that another
        row of the file has: each batch is taken once, in order."""
        rows = np.flatnonzero(good)
        columns = {ID: self._ids(batch, rows)}
        for name, kind in self.payload.items():
            columns[name] = _cast(batch, name, kind).take(pa.array(rows))
        return pa.table(columns)

    def _ids(self, batch: Batch, rows: np.ndarray) -> pa.Array:
        if self.id_column is None:
            return pa.array(batch.first_row + rows, pa.int64())
        written = batch.column(self.id_column)
        ids = _cast(batch, self.id_column, self.id_type).take(pa.array(rows))
        text = self.id_type == "string"
        empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(ids), ""), True) if text else ids.is_null()
        if pc.any(empty).as_py():
            row = int(rows[empty.index(True).as_py()])
            raise self._refused(batch, row, "the id is missing: fill it in, or remove the row")
        # Of a hundred million texts hardly ever two have the same hash, of 64 bits.
        keys = np.fromiter(map(hash, ids.to_pylist()), np.int64, len(ids)) if text else ids.to_numpy()
        if (twice := self._unique.add(keys, batch.first_row + rows)) is not None:
            row, earlier = (place - batch.first_row for place in twice)
            same = f"the id {value_of(written, row)!r} is that of {batch.place(earlier)} as well"
            raise self._refused(batch, row, f"{same}: each row needs one of its own")
        return ids

    def _refused(self, batch: Batch, row: int, why: str) -> FileError:
        return FileError(f"{batch.path}, {batch.place(row)}, column {self.id_column!r}: {why}")


class FirstRows:
    """Which row has a key first. It grows by 16 bytes a row, in a few sorted runs."""

    def __init__(self) -> None:
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, keys: np.ndarray, rows: np.ndarray) -> tuple[int, int] | None:
        """keys, rows: int64 [n]. The first of these rows whose key was there before, and the row that had it."""
        keys, rows = _sorted(keys, rows)
        found = [(int(rows[i + 1]), int(rows[i])) for i in np.flatnonzero(keys[1:] == keys[:-1])]
        for known, places in self._runs:
            at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            found += [(int(rows[i]), int(places[at[i]])) for i in np.flatnonzero(known[at] == keys)]
        if found:
            return min(found)
        while self._runs and len(self._runs[-1][0]) <= 2 * len(keys):
            known, places = self._runs.pop()
            keys, rows = _sorted(np.concatenate([known, keys]), np.concatenate([places, rows]))
        if len(keys):
            self._runs.append((keys, rows))
        return None


def _sorted(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    return keys[order], rows[order]


def _id_type(batch: Batch, name: str) -> IdType:
    column = batch.column(name)
    if pa.types.is_integer(column.type):
        return "int64"
    if is_text(column):
        return "string"
    raise FileError(f"{batch.path}: column {name!r} holds {column.type}: an id is a whole number or a text")


def _payload_type(kind: pa.DataType) -> PayloadType | None:
    types = pa.types
    if types.is_timestamp(kind):
        return "timestamp" if kind.tz is None else "timestamp_utc"
    checks: list[tuple[PayloadType, bool]] = [
        ("bool", types.is_boolean(kind)),
        ("int64", types.is_integer(kind)),
        ("float64", types.is_floating(kind) or types.is_decimal(kind)),
        ("string", is_text(pa.nulls(0, kind)) or types.is_null(kind)),
        ("date", types.is_date(kind)),
    ]
    return next((found for found, is_it in checks if is_it), None)


def _cast(batch: Batch, name: str, kind: PayloadType) -> pa.Array:
    """A column in an index's type; NaN is missing there, and times end at microseconds."""
    column = batch.column(name)
    exactly = kind != "float64" and getattr(column.type, "unit", "") != "ns"
    try:
        column = column.cast(TYPES[kind], safe=exactly)
        if kind in ("date", "timestamp", "timestamp_utc"):
            pc.min_max(column).as_py()  # of the years that Python has, 1 to 9999: stores' clients take no others
    except (pa.ArrowInvalid, OverflowError, ValueError) as error:
        raise FileError(f"{batch.path}: column {name!r} cannot be kept as {kind}: {error}") from None
    return pc.if_else(pc.is_nan(column), None, column) if kind == "float64" else column
