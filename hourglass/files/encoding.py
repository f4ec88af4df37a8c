"""Rows of a file as a schema's numbers: what is missing, what is a number, what is a text, whatever the format."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hourglass.contract.schema import Column, Encoded, Problem, Schema
from hourglass.files.rows import Batch, FileError, no_such_column

# What people write where there is no value, in any case: in any column, and where numbers are expected.
MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "<na>", "?")
_NO_NUMBER = (*MISSING, "none")


def encode(batch: Batch, schema: Schema, *, takes_missing: bool) -> Encoded:
    """The batch's rows, float32 [n, columns], and what is wrong with them: see Schema.encode. Raises FileError."""
    table = {column.name: cells(batch, column) for column in schema.columns}
    return schema.encode(table, takes_missing=takes_missing)


def rows(batch: Batch, schema: Schema, *, takes_missing: bool) -> np.ndarray:
    """As `encode`, where every row must be right. Raises FileError naming the first cell that is not."""
    encoded = encode(batch, schema, takes_missing=takes_missing)
    if encoded.problems:
        raise refused(batch, encoded.problems[0])
    return encoded.rows


def refused(batch: Batch, problem: Problem) -> FileError:
    """The error for a cell."""
    return batch.refused(problem.row, problem.column, problem.why)


def check_columns(path: object, names: Sequence[str], have: Sequence[str]) -> None:
    """Raises FileError for the first of `names` that is not there."""
    for name in names:
        if name not in have:
            raise no_such_column(path, name, have)  # type: ignore[arg-type]


def cells(batch: Batch, column: Column) -> np.ndarray:
    """One column of the batch as Schema.encode takes it: float64 [n] with NaN for missing and infinity for what is no
    number, or an object array of texts and None. Raises FileError when there is no such column."""
    values = batch.column(column.name)
    if column.type == "numeric":
        return numbers(values)
    return texts(values) if is_text(values) else _as_numbers_or_texts(values)


def is_text(values: pa.Array) -> bool:
    return bool(pa.types.is_string(values.type) or pa.types.is_large_string(values.type))


def numbers(values: pa.Array) -> np.ndarray:
    """float64 [n]: NaN where a cell is missing, infinity where it is no number."""
    if is_text(values):
        values = _present(values, _NO_NUMBER)
    try:
        return _floats(values)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return np.array([_number(cell) for cell in values.to_pylist()], dtype=np.float64)


def texts(values: pa.Array) -> np.ndarray:
    """object [n] of texts without white space around them; None where a cell is missing."""
    found: np.ndarray = _present(values, MISSING).to_numpy(zero_copy_only=False)
    return found


def _as_numbers_or_texts(values: pa.Array) -> np.ndarray:
    try:
        return _floats(values)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # dates and the like: as they are written
        return texts(values.cast(pa.string()))


def _floats(values: pa.Array) -> np.ndarray:
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    found: np.ndarray = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found


def _present(values: pa.Array, markers: Sequence[str]) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(values)
    missing = pc.is_in(pc.utf8_lower(trimmed), value_set=pa.array(markers, type=trimmed.type))
    return pc.if_else(missing, pa.scalar(None, trimmed.type), trimmed)


def _number(cell: object) -> float:
    try:
        return np.nan if cell is None else float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return np.inf
