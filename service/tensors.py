"""Wire <-> numpy, and every check of an input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf.message import Message

from hourglass.contract.schema import Schema
from hourglass.v1 import autoencoder_pb2 as pb
from service.errors import InvalidInput
from service.wire import TYPES, LargeRequest

_FLOAT32: Mapping[pb.DataType, np.dtype] = {pb.DATA_TYPE_FLOAT32: np.dtype("<f4")}


def decode(
    request: Message | LargeRequest,
    field: str,
    row_shape: list[int],
    max_rows: int,
    *,
    schema: Schema | None = None,
    takes_missing: bool = False,
    types: Mapping[pb.DataType, np.dtype] = _FLOAT32,
) -> np.ndarray:
    """The caller's rows, [n, *row_shape], as a read-only view of the received bytes, wherever these begin.

    schema: what the numbers of the last dimension are. takes_missing: whether some of them may be NaN. types: those
    that are taken. Everything is checked before anything of the claimed size is allocated. Raises InvalidInput naming
    field and row.
    """
    if not request.HasField(field):
        raise InvalidInput(f"no rows: set `{field}`", reason="EMPTY", field=field)
    tensor: pb.Tensor = getattr(request, field)
    dtype = types.get(tensor.data_type)
    if dtype is None:
        taken = ", ".join(map(type_name, types))
        raise InvalidInput(
            f"data_type is {type_name(tensor.data_type)}; the model takes {taken}",
            reason="BAD_DTYPE",
            field=f"{field}.data_type",
        )
    shape = tensor.shape[:]
    check_shape(field, shape, row_shape, max_rows)
    expected = math.prod(shape) * dtype.itemsize
    # Of a message read once: each access copies the bytes.
    data = request.data if isinstance(request, LargeRequest) else tensor.data
    if len(data) != expected:
        raise InvalidInput(
            f"data has {len(data)} bytes; shape {shape} of {dtype} takes {expected}",
            reason="SHAPE_MISMATCH",
            field=f"{field}.data",
        )
    values: np.ndarray = np.ndarray(shape, dtype, data)
    check_values(field, values, schema, takes_missing)
    return values


def type_name(number: int) -> str:
    """DATA_TYPE_FLOAT32, …; of what is none, the number."""
    return pb.DataType.Name(number) if number in pb.DataType.values() else str(number)


def check_values(field: str, values: np.ndarray, schema: Schema | None, takes_missing: bool) -> None:
    """values: float32 [n, *row_shape]. Raises InvalidInput when the model does not take one, naming the row."""
    _check_finite(field, values, schema, takes_missing)
    if schema is not None and (problem := schema.check(values)):
        row, column, why = problem
        raise InvalidInput(f"row {row}, column {column!r}: {why}", reason="BAD_CATEGORY", field=field, row=row)


def check_shape(field: str, shape: list[int], row_shape: Sequence[int], max_rows: int) -> None:
    """Raises InvalidInput when it is not [n, *row_shape], with at least one row and at most max_rows."""
    where = f"{field}.shape"
    if not shape or shape[1:] != row_shape:
        expected = ", ".join(["n", *map(str, row_shape)])
        shown = shape if len(shape) <= 8 else f"of {len(shape)} dimensions"
        raise InvalidInput(f"shape is {shown}; the model takes [{expected}]", reason="SHAPE_MISMATCH", field=where)
    if shape[0] < 0:
        raise InvalidInput(f"shape is {shape}: a negative number of rows", reason="SHAPE_MISMATCH", field=where)
    check_count(where, shape[0], max_rows)


def check_count(field: str, rows: int, max_rows: int) -> None:
    """Raises InvalidInput when there is no row, or more than one request may have."""
    if rows < 1:
        raise InvalidInput(f"no rows: {rows} of them", reason="EMPTY", field=field)
    if rows > max_rows:
        raise InvalidInput(
            f"{rows} rows in one request; at most {max_rows}: send several requests",
            reason="TOO_MANY_ROWS",
            field=field,
        )


def _check_finite(field: str, values: np.ndarray, schema: Schema | None, takes_missing: bool) -> None:
    if all_finite(values):
        return
    bad = np.isinf(values) if takes_missing else ~np.isfinite(values)
    if not bad.any():
        return
    row, *feature = map(int, np.unravel_index(bad.argmax(), bad.shape))
    where = f"feature {'x'.join(map(str, feature))}"
    if schema is not None:
        where = f"column {schema.names[feature[-1]]!r}" + (f", timestamp {feature[0]}" if len(feature) > 1 else "")
    takes = "infinite values" if takes_missing else "missing or infinite values"
    raise InvalidInput(
        f"row {row}, {where} is {values[(row, *feature)]}; the model does not take {takes}",
        reason="NON_FINITE",
        field=field,
        row=row,
    )


def all_finite(values: np.ndarray) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(np.isfinite(values).all())


def encode(values: np.ndarray) -> pb.Tensor:
    """float, int or bool array -> message, FLOAT32, INT32 or BOOL."""
    data_type, dtype = TYPES[values.dtype.kind]
    data = np.ascontiguousarray(values, dtype=dtype).tobytes()
    return pb.Tensor(data_type=data_type, shape=values.shape, data=data)
