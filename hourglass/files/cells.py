"""Cells as numbers and as texts: what is missing and what is a number, whatever the file's format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# What people write where there is no value, in any case: in any column, and where numbers are expected.
MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "<na>", "?")
NO_NUMBER = (*MISSING, "none")
_INFINITE = ("inf", "infinity")
_SHOWN = 40


def is_text(values: pa.Array) -> bool:
    kind, types = values.type, pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_number(values: pa.Array) -> bool:
    """Whether the column's type is one of numbers or bools, or of nothing at all."""
    kind, types = values.type, pa.types
    plain = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return bool(plain or types.is_decimal(kind) or types.is_null(kind))


def numbers(values: pa.Array, decimal: str = ".") -> np.ndarray:
    """float64 [n]: NaN where a cell is missing, infinity where it is no number.

    decimal: what stands before the fraction, where numbers are written as text.
    """
    if is_text(values):
        return _parsed(values, decimal)
    if not is_number(values):
        return np.where(values.is_null().to_numpy(zero_copy_only=False), np.nan, np.inf)
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    return _floats(values)


def texts(values: pa.Array) -> np.ndarray:
    """object [n] of a text column's cells without white space around them; None where a cell is missing."""
    # Each different text is looked at once.
    encoded = values.cast(pa.large_string()).dictionary_encode()
    different = [*_present(encoded.dictionary, MISSING).to_pylist(), None]
    found: np.ndarray = np.array(different, dtype=object)[encoded.indices.fill_null(-1).to_numpy()]
    return found


def value_of(column: pa.Array, row: int) -> Any:
    """A cell as a Python value; as text where Python has none."""
    cell = column.slice(row, 1)
    try:
        # pyarrow makes pandas' own values of nanoseconds, where pandas is installed.
        if pa.types.is_timestamp(cell.type):
            cell = cell.cast(pa.timestamp("us", cell.type.tz))
        elif pa.types.is_duration(cell.type):
            cell = cell.cast(pa.duration("us"))
        return cell[0].as_py()
    except (ValueError, OverflowError):  # beyond microseconds, or the years that Python knows
        return cell.cast(pa.string())[0].as_py()


def is_missing(cell: object) -> bool:
    return cell is None or cell != cell or (isinstance(cell, str) and cell.strip().lower() in NO_NUMBER)


def why_no_number(cell: object, decimal: str = ".") -> str:
    """What is wrong with a cell that is no finite number: a phrase such as "'abc' is not a number"."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return "the cell is empty"
    shown = repr(cell) if len(repr(cell)) <= _SHOWN else repr(cell)[:_SHOWN] + "…"
    if is_missing(cell):
        return f"{shown} is a missing value"
    if isinstance(cell, str):
        number = bool(re.fullmatch(_number(decimal), cell.strip())) or cell.strip().lower().lstrip("+-") in _INFINITE
    else:
        number = isinstance(cell, int | float | Decimal)
    if number:
        return f"{shown} is not a finite float32 number"
    return f"{shown} is not a number{' with a decimal comma, as others of this file' if decimal == ',' else ''}"


def _parsed(values: pa.Array, decimal: str) -> np.ndarray:
    if decimal == ".":
        try:
            return _floats(values)
        except pa.ArrowInvalid:  # something is missing, has white space around it, or is no number
            pass
    present = _present(values, NO_NUMBER)
    valid = pc.match_substring_regex(present, _number(decimal))
    written = pc.replace_substring(pc.if_else(valid, present, pa.scalar(None, present.type)), decimal, ".")
    found = _floats(written)
    found[pc.invert(pc.fill_null(valid, True)).to_numpy(zero_copy_only=False)] = np.inf
    return found


def _number(decimal: str) -> str:
    """The pattern of a number as text, for Python's expressions and Arrow's."""
    return rf"^[+-]?([0-9]+\{decimal}?[0-9]*|\{decimal}[0-9]+)([eE][+-]?[0-9]+)?$"


def _floats(values: pa.Array) -> np.ndarray:
    # Not "safe": an integer above 2**53 is rounded like any other number.
    found: np.ndarray = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False, writable=True)
    return found


def _present(values: pa.Array, markers: Sequence[str]) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(values)
    missing = pc.is_in(pc.utf8_lower(trimmed), value_set=pa.array(markers, type=trimmed.type))
    return pc.if_else(missing, pa.scalar(None, trimmed.type), trimmed)
