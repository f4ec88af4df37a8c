"""Named columns, whatever holds them: dicts, structured arrays of numpy, DataFrames and tables of pandas, polars and
pyarrow.

They are known by what they can do: none of these libraries has to be there.
"""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

RowsLike: TypeAlias = ArrayLike | Mapping[Any, Any]
"""What a caller's rows may be: an array-like of numbers [n, ...row shape]; or columns by name, [n] each, of numbers,
bools or texts: a dict; or a DataFrame or table of pandas, polars or pyarrow, array-likes to a type checker."""

NUMBER = (numbers.Real, Decimal, np.bool_)
"""Types of a cell that is a number."""


@dataclass(frozen=True, slots=True)
class Named:
    """Columns of `holder`, nothing converted yet. names: as texts, in its order, and what it calls them itself. twice:
    names that are of several columns."""

    holder: Any
    names: Mapping[str, Any]
    twice: Collection[str] = ()

    @classmethod
    def of(cls, rows: Any) -> Self | None:
        """None where rows are an array. A Series is its one column. Raises TypeError for a frame without its rows."""
        if hasattr(rows, "collect") and not hasattr(rows, "__array__"):
            raise TypeError(f"the rows of a {type(rows).__name__} are not there yet: give what its .collect() answers")
        if hasattr(rows, "to_frame"):
            rows = rows.to_frame()
        listed = _names(rows)
        if listed is None:
            return None
        names = {str(name): name for name in listed}
        if len(names) == len(listed):
            return cls(rows, names)
        return cls(rows, names, {name for name, count in Counter(map(str, listed)).items() if count > 1})

    def __len__(self) -> int:
        return len(self.holder[next(iter(self.names.values()))]) if self.names else 0

    @property
    def is_matrix(self) -> bool:
        """Whether the columns' order is part of what they say, as a frame's is, and a dict's is not."""
        return not isinstance(self.holder, Mapping)

    def cells(self, name: str) -> np.ndarray:
        """[n]: numbers, NaN where one is missing; or texts as objects, "" where one is missing.

        Raises TypeError or ValueError, naming the column, and the row where it is one cell's fault.
        """
        return _cells(name, self._raw(name))

    def array(self) -> np.ndarray:
        """[n, columns], in the holder's order; of a single column of lists [n, ...]. Raises as `cells`, TypeError where
        one holds texts."""
        if len(self.names) == 1 and (values := stacked(self._raw(*self.names))).ndim > 1:
            return values
        columns = {name: self.cells(name) for name in self.names}
        for name, values in columns.items():
            if values.dtype == object and len(values):
                raise TypeError(f"column {name!r} holds texts, and the rows asked for are numbers only: leave it out")
        check_lengths(columns)
        return np.stack([*columns.values()], axis=1) if columns else np.empty((0, 0))

    def _raw(self, name: str) -> np.ndarray:
        if name in self.twice:
            raise ValueError(f"column {name!r} comes twice")
        return _as_numpy(name, self.holder[self.names[name]])


def check_lengths(columns: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError unless all columns are of one length."""
    lengths = {len(values): name for name, values in columns.items()}
    if len(lengths) > 1:
        shown = ", ".join(f"{name!r} has {length}" for length, name in sorted(lengths.items()))
        raise ValueError(f"columns of different lengths: {shown}")


def stacked(array: np.ndarray) -> np.ndarray:
    """An array of arrays or lists, as a column of them is, as one array [n, ...]; any other as it is. Raises ValueError
    when they have different shapes."""
    if array.dtype != object or array.ndim != 1 or not all(isinstance(cell, list | np.ndarray) for cell in array):
        return array
    rows = [np.asarray(cell) for cell in array]
    for i, row in enumerate(rows):
        if row.shape != rows[0].shape:
            raise ValueError(f"row {i} has the shape {list(row.shape)}, and row 0 {list(rows[0].shape)}")
    return np.stack(rows) if rows else array


def _names(rows: Any) -> Any:
    """A collection of them; None where there are none."""
    if not hasattr(rows, "__getitem__"):
        return None
    if hasattr(rows, "keys"):  # dict, pandas
        return rows.keys()
    if hasattr(rows, "column_names"):  # pyarrow
        return rows.column_names
    if hasattr(rows, "get_columns"):  # polars
        return rows.columns
    return getattr(getattr(rows, "dtype", None), "names", None)  # numpy, of structured arrays


def _as_numpy(name: str, values: Any) -> np.ndarray:
    if not hasattr(values, "__array__"):
        return np.array(values, dtype=object)
    if hasattr(getattr(values, "type", None), "index_type"):
        # pyarrow's own conversion of dictionaries in chunks puts another category where one is missing.
        values = values.cast(values.type.value_type)
    try:
        return unmasked(np.asanyarray(values))
    except Exception as error:  # each library has its own for what numpy cannot hold
        raise TypeError(f"column {name!r}: {error}") from None


def _cells(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim != 1:
        of_one_row = f": of one row write [{array.item()!r}]" if array.ndim == 0 else ""
        raise TypeError(f"column {name!r} has the shape {list(array.shape)}, not [n]{of_one_row}")
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind not in "OUT":
        raise TypeError(f"column {name!r} is an array of {array.dtype}, not of numbers or texts")
    cells = [None if is_missing(cell) else cell for cell in array.tolist()]
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds and all(issubclass(kind, str) for kind in kinds):
        texts = [cell or "" for cell in cells]
        _check_texts(name, texts)
        return np.array(texts, dtype=object)
    if all(issubclass(kind, NUMBER) for kind in kinds):
        return np.array([np.nan if cell is None else as_float(cell) for cell in cells], dtype=np.float64)
    raise TypeError(_why_no_column(name, cells))


def unmasked(array: np.ndarray) -> np.ndarray:
    """What a masked array hides is missing: NaN among numbers, None among others. Any other array as it is."""
    if not np.ma.is_masked(array):
        return np.asarray(array)
    of_numbers = array.dtype.kind in "biuf"
    shown = np.array(array, dtype=np.float64 if of_numbers else object)
    shown[np.ma.getmaskarray(array)] = np.nan if of_numbers else None
    return shown


def as_float(cell: Any) -> float:
    """Of a NUMBER; infinite, which the server refuses by its row, where that is too large."""
    try:
        return float(cell)
    except OverflowError:
        return math.inf if cell > 0 else -math.inf


def _check_texts(name: str, texts: list[str]) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        row, text = next((row, text) for row, text in enumerate(texts) if not _is_unicode(text))
        raise ValueError(f"row {row}, column {name!r}: {text!r} is no Unicode text") from None


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _why_no_column(name: str, cells: list[Any]) -> str:
    present = [(row, cell) for row, cell in enumerate(cells) if cell is not None]
    _, first = present[0]
    kind = str if isinstance(first, str) else NUMBER
    row, cell = next((row, cell) for row, cell in present if not isinstance(cell, kind))
    after = "" if cell is first else f" after {type(first).__name__}"
    return (
        f"row {row}, column {name!r}: {type(cell).__name__}{after}: convert the whole column to numbers, or to texts, "
        "with None where a cell is missing"
    )


def is_missing(cell: object) -> bool:
    """None, NaN, or what pandas puts there."""
    # pandas has a missing value of its own, which is neither equal to itself nor different.
    return cell is None or type(cell).__name__ == "NAType" or (isinstance(cell, float) and math.isnan(cell))
