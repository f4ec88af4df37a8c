"""A caller's rows, as an array or as named columns, and the messages they are cut into."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

import grpc
import numpy as np

from hourglass.columns import NUMBER, Named, check_lengths, is_missing, stacked
from hourglass.contract.quantization import DTYPES, Encoding
from hourglass.contract.schema import Column, Schema, SchemaError
from hourglass.errors import HourglassError
from hourglass.v1 import autoencoder_pb2 as pb

# Larger messages are not faster, they only take memory.
_MESSAGE_BYTES = 4 * 2**20
# What a message holds besides the rows.
_ENVELOPE_BYTES = 1024
# What a column holds besides its name and its values, and a text besides its letters, at most.
_COLUMN_BYTES, _TEXT_BYTES = 64, 6


@dataclass(frozen=True)
class Room:
    """What fits in one message: so many rows, as numbers and with their answers; so many bytes of rows."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class ArrayRows:
    """array: of real numbers, its shape and dtype as the caller has it."""

    array: np.ndarray

    def __len__(self) -> int:
        return len(self.array) if self.array.ndim else 0

    @property
    def kind(self) -> Hashable:
        """Equal where rows can be joined."""
        return self.array.shape[1:]

    def copy(self) -> ArrayRows:
        """As they are now, whatever the caller writes into the array from now on."""
        return ArrayRows(self.array.copy())

    def pieces(self, room: Room) -> list[ArrayRows]:
        """In order, each of a message; one at least, so that the server judges what has no rows."""
        starts = range(0, len(self), room.rows)
        return [ArrayRows(self.array[start : start + room.rows]) for start in starts] or [self]

    def message(self, encoded: bool = False) -> pb.Tensor:
        """FLOAT32; what that cannot hold becomes infinite, which the server refuses, naming the row. encoded: whether
        half floats and bytes are encoded embeddings, which travel as they are."""
        own = next((encoding for encoding, dtype in DTYPES.items() if encoded and dtype == self.array.dtype), None)
        encoding: Encoding = own or "float32"
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(self.array, dtype=DTYPES[encoding])
        return pb.Tensor(data_type=ENCODINGS[encoding], shape=self.array.shape, data=values.tobytes())


@dataclass(frozen=True)
class TableRows:
    """columns: by name, [n] each, numbers or objects that are texts, "" where one is missing."""

    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @property
    def kind(self) -> Hashable:
        """As ArrayRows.kind: the same columns in the same order, each of one dtype."""
        return tuple((name, values.dtype) for name, values in self.columns.items())

    def copy(self) -> TableRows:
        """As ArrayRows.copy."""
        return TableRows({name: values.copy() for name, values in self.columns.items()})

    def pieces(self, room: Room) -> list[TableRows]:
        """As ArrayRows.pieces."""
        overhead = sum(_COLUMN_BYTES + len(name.encode()) for name in self.columns)
        ends = np.cumsum(self._row_bytes)
        cuts = [0]
        while cuts[-1] < len(self):
            start = cuts[-1]
            full = (ends[start - 1] if start else 0) + room.bytes - overhead
            end = int(np.searchsorted(ends, full, side="right"))
            cuts.append(min(max(end, start + 1), start + room.rows, len(self)))
        return [
            TableRows({name: values[start:end] for name, values in self.columns.items()})
            for start, end in pairwise(cuts)
        ] or [self]

    def message(self) -> pb.Table:
        return pb.Table(columns=[_column(name, values) for name, values in self.columns.items()])

    @cached_property
    def _row_bytes(self) -> np.ndarray:
        """int64 [n]: of each row, in a message."""
        total = np.zeros(len(self), dtype=np.int64)
        for values in self.columns.values():
            if values.dtype.kind == "O":
                total += np.fromiter((len(text.encode()) + _TEXT_BYTES for text in values), np.int64, len(values))
            else:
                total += values.itemsize
        return total


Rows = ArrayRows | TableRows
ENCODINGS: Mapping[Encoding, pb.DataType] = {
    "float32": pb.DATA_TYPE_FLOAT32,
    "float16": pb.DATA_TYPE_FLOAT16,
    "int8": pb.DATA_TYPE_INT8,
    "binary": pb.DATA_TYPE_BINARY,
}
# How a column's numbers travel: those that fit none of these are rounded to FLOAT64.
_NUMBERS = {
    "b1": (pb.DATA_TYPE_BOOL, "?"),
    "f2": (pb.DATA_TYPE_FLOAT32, "<f4"),
    "f4": (pb.DATA_TYPE_FLOAT32, "<f4"),
    **dict.fromkeys(("i1", "i2", "i4", "u1", "u2"), (pb.DATA_TYPE_INT32, "<i4")),
    **dict.fromkeys(("i8", "u4"), (pb.DATA_TYPE_INT64, "<i8")),
}


def table_of(named: Named, wanted: Collection[str]) -> TableRows:
    """The wanted ones of the columns. Raises as `Named.cells`, and ValueError for columns of different lengths."""
    columns = {name: named.cells(name) for name in named.names if name in wanted}
    check_lengths(columns)
    return TableRows(columns)


def array_of(rows: Any) -> ArrayRows:
    """An array-like of real numbers, or a frame of them, whose columns are the array's in their order. Raises TypeError
    for what is neither, also for a dict, whose columns have no order."""
    named = Named.of(rows)
    if named is not None:
        if not named.is_matrix:
            raise TypeError("an array of numbers is taken here, not named columns")
        return ArrayRows(named.array())
    array = _as_array(rows)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"rows are an array of real numbers, or named columns: {_why_no_array(rows, array)}")
    return ArrayRows(array)


@dataclass(frozen=True)
class Terms:
    """What a model takes on its server. schema: without columns where rows have no names."""

    row_shape: tuple[int, ...]
    embedding_size: int
    schema: Schema
    max_rows: int
    max_message_bytes: int

    @classmethod
    def of(cls, answer: pb.GetModelResponse) -> Self:
        model, limits = answer.model, answer.limits
        # Of windows there are no named columns: the server says what to send instead.
        schema = Schema(() if model.HasField("window") else tuple(map(column, model.schema)))
        return cls(tuple(model.row_shape), model.embedding_size, schema, limits.max_rows, limits.max_message_bytes)

    def room(self, options: Mapping[str, Any]) -> Room:
        """options: of the request."""
        features = math.prod(self.row_shape)
        row = features * 4
        of_embed = self.embedding_size * 4 * (1 + bool(options.get("with_stddev")))
        top = min(options.get("top_features", 0), features)
        # score, p_value, is_anomaly, reconstruction_error, clipped, missing, unknown
        of_score = 4 + 4 + 1 + 4 + 4 + 4 + 4 + top * 4 * 4 + row * bool(options.get("feature_errors"))
        room = min(self.max_message_bytes, _MESSAGE_BYTES) - _ENVELOPE_BYTES
        return Room(max(1, min(self.max_rows, room // max(row, of_embed, of_score))), room)

    def rows(self, rows: Any) -> Rows:
        """Of named columns those that the model takes; a frame as an array where the model's columns have no names;
        Rows as they are. Raises as `table_of` and `array_of`, HourglassError where a column is not there."""
        if isinstance(rows, Rows):
            return rows
        named = Named.of(rows)
        as_array = not self.schema.columns and len(self.row_shape) == 1
        if named is None or (named.is_matrix and as_array):
            return array_of(rows)
        try:
            self.schema.check_names(named.names)
        except SchemaError as error:
            field = f"table.columns.{error.column}"
            raise HourglassError(grpc.StatusCode.INVALID_ARGUMENT, "MISSING_COLUMN", str(error), field) from None
        return table_of(named, self.schema.names)  # of no columns: the server refuses it, and says what would do


def count(rows: Any) -> int:
    """How many rows these are, by a look that converts nothing; 0 where only a conversion tells."""
    named = Named.of(rows)
    try:
        return len(rows if named is None else named)
    except TypeError:
        return 0


def join(parts: Sequence[Rows]) -> Rows:
    """Rows of one kind, one after the other; arrays as they travel, as float32."""
    if len(parts) == 1:
        return parts[0]
    arrays = [part.array for part in parts if isinstance(part, ArrayRows)]
    if arrays:
        with np.errstate(over="ignore"):
            return ArrayRows(np.concatenate(arrays, dtype="<f4", casting="unsafe"))
    tables = [part.columns for part in parts if isinstance(part, TableRows)]
    return TableRows({name: np.concatenate([columns[name] for columns in tables]) for name in tables[0]})


def column(message: pb.ColumnSchema) -> Column:
    # Of a server that is newer: a type that is not known here is refused by name.
    return Column(name=message.name, type=message.type, categories=tuple(message.categories))


def _as_array(rows: Any) -> np.ndarray:
    try:
        return stacked(np.asarray(rows))
    except ValueError:
        if isinstance(rows, Sequence):  # of different shapes: which
            parts = np.empty(len(rows), dtype=object)
            for i, row in enumerate(rows):
                parts[i] = np.asarray(row)
            stacked(parts)
        raise


def _why_no_array(rows: Any, array: np.ndarray) -> str:
    if array.dtype.kind not in "OU":
        return f"this is an array of {array.dtype}"
    # numpy turns numbers beside a text into texts.
    cells = np.ndenumerate(np.array(rows, dtype=object))
    place, cell = next(((place, cell) for place, cell in cells if not isinstance(cell, NUMBER)))
    if hasattr(cell, "keys"):
        return "turn rows that are dicts into columns, {name: [values]}"
    where = ", ".join(f"{what} {i}" for what, i in zip(("row", "number"), place, strict=False)) or "this"
    if is_missing(cell):
        return f"{where} is {cell}, and in an array a missing number is float('nan')"
    return f"{where} is of type {type(cell).__name__}"


def _column(name: str, values: np.ndarray) -> pb.Column:
    if values.dtype.kind == "O":
        return pb.Column(name=name, texts=pb.Texts(values=values.tolist()))
    data_type, dtype = _NUMBERS.get(values.dtype.str[1:], (pb.DATA_TYPE_FLOAT64, "<f8"))
    data = np.ascontiguousarray(values, dtype=dtype).tobytes()
    return pb.Column(name=name, numbers=pb.Tensor(data_type=data_type, shape=values.shape, data=data))
