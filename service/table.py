"""A `Table` of named columns -> the model's rows, by the schema that training used."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hourglass.contract.schema import Schema, SchemaError
from hourglass.v1 import autoencoder_pb2 as pb
from service.errors import InvalidInput
from service.tensors import check_count

_FIELD = "table.columns"
_NUMBERS: dict[int, np.dtype[Any]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    pb.DATA_TYPE_INT32: np.dtype("<i4"),
    pb.DATA_TYPE_INT64: np.dtype("<i8"),
    pb.DATA_TYPE_BOOL: np.dtype("u1"),  # a byte that is neither 0 nor 1 is refused by its column
}


def decode(table: pb.Table, schema: Schema, max_rows: int, takes_missing: bool) -> np.ndarray:
    """The caller's rows, float32 [n, columns], NaN where a cell is missing. Columns of no use to the model are ignored.

    Every size is checked before anything of it is allocated. Raises InvalidInput naming the column as the field
    `table.columns.NAME`, and the row.
    """
    columns = _wanted(table, schema)
    first, *others = columns.values()
    rows = _count(first)
    check_count(_FIELD, rows, max_rows)
    for column in others:
        if _count(column) != rows:
            raise _bad(column.name, f"it has {_count(column)} rows, and column {first.name!r} has {rows}")
    try:
        encoded = schema.encode(
            {name: _values(column) for name, column in columns.items()}, takes_missing=takes_missing
        )
    except SchemaError as error:
        raise InvalidInput(str(error), reason="BAD_COLUMN", field=f"{_FIELD}.{error.column}") from None
    if encoded.problems:
        row, name, why = encoded.problems[0]
        raise InvalidInput(f"row {row}, column {name!r}: {why}", reason="BAD_CELL", field=f"{_FIELD}.{name}", row=row)
    return encoded.rows


def _wanted(table: pb.Table, schema: Schema) -> dict[str, pb.Column]:
    """The columns that the model takes, by name."""
    if not table.columns:
        raise InvalidInput("no rows: the table has no columns", reason="EMPTY", field=_FIELD)
    names, wanted = set(schema.names), {}
    for column in table.columns:
        if column.name in wanted:
            raise _bad(column.name, "it comes twice")
        if column.name in names:
            wanted[column.name] = column
    try:
        if len(wanted) < len(names):
            schema.check_names({column.name for column in table.columns})
    except SchemaError as error:
        field = f"{_FIELD}.{error.column}"
        raise InvalidInput(str(error), reason="MISSING_COLUMN", field=field) from None
    return wanted


def _count(column: pb.Column) -> int:
    """How many rows a column has, or says that it has."""
    if column.WhichOneof("values") == "numbers":
        shape = column.numbers.shape
        if len(shape) != 1 or shape[0] < 0:
            shown = list(shape) if len(shape) <= 8 else f"of {len(shape)} dimensions"
            raise _bad(column.name, f"the shape of its numbers is {shown}, not [n]", "SHAPE_MISMATCH")
        return int(shape[0])
    return len(column.texts.values)


def _values(column: pb.Column) -> np.ndarray:
    """[n]: numbers, or texts as objects."""
    if column.WhichOneof("values") == "texts":
        return np.array(column.texts.values, dtype=object)
    tensor = column.numbers
    dtype = _NUMBERS.get(tensor.data_type)
    if dtype is None:
        given = pb.DataType.Name(tensor.data_type) if tensor.data_type in pb.DataType.values() else tensor.data_type
        raise _bad(column.name, f"data_type is {given}: numbers have one of the others", "BAD_DTYPE")
    data = tensor.data  # read once: each access copies the bytes out of the message
    expected = math.prod(tensor.shape) * dtype.itemsize
    if len(data) != expected:
        raise _bad(
            column.name,
            f"data has {len(data)} bytes; {tensor.shape[0]} numbers of {dtype.name} take {expected}",
            "SHAPE_MISMATCH",
        )
    return np.frombuffer(data, dtype=dtype)


def _bad(name: str, problem: str, reason: str = "BAD_COLUMN") -> InvalidInput:
    return InvalidInput(f"column {name!r}: {problem}", reason=reason, field=f"{_FIELD}.{name}")
