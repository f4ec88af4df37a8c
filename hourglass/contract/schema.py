"""Named columns <-> the numbers that a model takes: one implementation for training, service and client.

A row is one float32 number for each column, NaN where its cell is missing: a numeric column's number itself, 0 or 1 of
a boolean one, and of a categorical one the code of its category, from 1 on; 0 is every category that the model does not
know. What becomes of the codes (one-hot, scaling) is inside the model's graphs.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

ColumnType = Literal["numeric", "boolean", "categorical"]

UNKNOWN = 0
# float32 holds every whole number up to here.
MOST_CATEGORIES = 10_000
TRUE, FALSE = frozenset({"true", "yes", "t", "y"}), frozenset({"false", "no", "f", "n"})
_FLAGS = {**dict.fromkeys((*TRUE, "1", "1.0"), 1.0), **dict.fromkeys((*FALSE, "0", "0.0"), 0.0), "": np.nan}
# What becomes of a column of whole numbers in a file depends on its holes: 3, or 3.0.
_WHOLE = re.compile(r"-?\d+(\.0)?", re.ASCII)
_SHOWN, _LISTED = 40, 8
# A request may name any number of columns: the nearest name is looked for among so many.
_MOST_NAMES = 1000


class SchemaError(ValueError):
    """A table does not have a column that the model takes, or not as the model takes it."""

    def __init__(self, message: str, column: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.column = column
        self.missing = missing


class Problem(NamedTuple):
    """A cell that its column cannot hold. why: a phrase such as "'abc' is not a number"."""

    row: int
    column: str
    why: str


class Column(BaseModel):
    """categories: of a categorical column, in the order of their codes, from 1 on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    type: ColumnType = "numeric"
    categories: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Column:
        if (self.type == "categorical") != bool(self.categories):
            raise ValueError(f"column {self.name!r}: categorical columns, and no others, have categories")
        if len(self.categories) > MOST_CATEGORIES or len(set(self.categories)) < len(self.categories):
            raise ValueError(f"column {self.name!r}: more than {MOST_CATEGORIES:,} categories, or one comes twice")
        return self

    @cached_property
    def codes(self) -> dict[str, int]:
        """Of each category; whole numbers go by both of their names, 3 and 3.0, unless these are two categories."""
        codes = {category: code for code, category in enumerate(self.categories, start=1)}
        for category, code in [*codes.items()]:
            if _WHOLE.fullmatch(category):
                codes.setdefault(category.removesuffix(".0") if category.endswith(".0") else f"{category}.0", code)
        return codes

    @property
    def width(self) -> int:
        """How many numbers the column has once it is expanded: one for each category and one for the unknown."""
        return 1 + len(self.categories)

    def cell(self, value: float, number: Callable[[float], str]) -> str:
        """What a row has in this column, as people read it: 'Hungary', 'unknown', 'true', 'missing'.

        number: how numbers are written.
        """
        if math.isnan(value):
            return "missing"
        if self.type == "numeric":
            return number(value)
        if self.type == "boolean":
            return "true" if value > 0.5 else "false"
        code = round(min(max(value, UNKNOWN), len(self.categories)))
        return "unknown" if code == UNKNOWN else self.categories[code - 1]


@dataclass(frozen=True)
class Encoded:
    """rows: float32 [n, columns]. problems: of each row that cannot be what the model takes, the first cell, by row."""

    rows: np.ndarray
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Schema:
    """The columns of a model's rows, in order. Raises ValueError when a name comes twice."""

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.columns):
            raise ValueError("columns: a name comes twice")

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @cached_property
    def categorical(self) -> tuple[int, ...]:
        """Positions of the categorical columns."""
        return tuple(i for i, column in enumerate(self.columns) if column.type == "categorical")

    @property
    def is_numeric(self) -> bool:
        return all(column.type == "numeric" for column in self.columns)

    @cached_property
    def expanded(self) -> tuple[tuple[int, int], ...]:
        """Of each number of an expanded row: the column it comes from, and the code it stands for; -1 for a number."""
        return tuple(
            (i, code)
            for i, column in enumerate(self.columns)
            for code in (range(column.width) if column.categories else (-1,))
        )

    @cached_property
    def expanded_names(self) -> tuple[str, ...]:
        """For people: 'age', 'colour = red', 'colour = unknown'."""

        def name(i: int, code: int) -> str:
            column = self.columns[i]
            if code < 0:
                return column.name
            return f"{column.name} = {'unknown' if code == UNKNOWN else column.categories[code - 1]}"

        return tuple(name(*number) for number in self.expanded)

    def encode(self, table: Mapping[str, np.ndarray], *, takes_missing: bool) -> Encoded:
        """The rows of a table, its columns arrays [n] of numbers, bools or texts (None, "" or white space: missing).

        Columns that the model does not take are ignored. Raises SchemaError for a column that is not there, or holds
        values of another kind.
        """
        self.check_names(table.keys())
        columns = [self._encode(column, np.asarray(table[column.name])) for column in self.columns]
        rows = np.stack([numbers for numbers, _ in columns], axis=1) if columns else np.empty((0, 0), np.float32)
        problems: dict[int, Problem] = {}
        for column, (numbers, bad) in zip(self.columns, columns, strict=True):
            cells = np.asarray(table[column.name])
            for row in bad.tolist():
                problems.setdefault(row, Problem(row, column.name, _why(column, cells[row])))
            if not takes_missing:
                bad_rows = set(bad.tolist())
                for row in np.flatnonzero(np.isnan(numbers)).tolist():
                    if row not in bad_rows:
                        problems.setdefault(row, Problem(row, column.name, "the cell is missing"))
        return Encoded(rows, tuple(problems[row] for row in sorted(problems)))

    def check_names(self, names: Collection[str]) -> None:
        """Raises SchemaError for the first column that is not among the names."""
        for name in self.names:
            if name not in names:
                hint = _nearest(name, names) or f"; the model takes {listed(self.names)}"
                raise SchemaError(f"no column {name!r}{hint}", name, missing=True)

    def check(self, rows: np.ndarray) -> Problem | None:
        """The first cell of rows, float32 [n, ..., columns] without infinities, that is no code of its column."""
        for i in (*self.categorical, *self._boolean):
            codes = rows[..., i].reshape(len(rows), -1)
            most = len(self.columns[i].categories) or 1
            with np.errstate(invalid="ignore"):
                wrong = ~np.isnan(codes) & ((codes < 0) | (codes > most) | (codes != np.floor(codes)))
            if wrong.any():
                row, position = np.argwhere(wrong)[0].tolist()
                why = f"{codes[row, position]:g} is not a code of this column: whole numbers from 0 to {most}"
                return Problem(row, self.columns[i].name, why)
        return None

    def unknown(self, rows: np.ndarray) -> np.ndarray:
        """How many categories of each row the model does not know: int32 [n]. rows: float32 [n, ..., columns]."""
        if not self.categorical:
            return np.zeros(len(rows), dtype=np.int32)
        unknown = rows[..., list(self.categorical)] == UNKNOWN
        counts: np.ndarray = unknown.reshape(len(rows), -1).sum(axis=1, dtype=np.int32)
        return counts

    def decode(self, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Each column by name as people read it: float32, bool or str; float32 and object arrays where cells are NaN.

        rows: float32 [n, columns]. A code of no category becomes None.
        """
        for i, column in enumerate(self.columns):
            numbers = rows[:, i]
            if column.type == "numeric":
                yield column.name, numbers
            elif column.type == "boolean":
                flags = (numbers > 0.5).astype(object if np.isnan(numbers).any() else bool)
                flags[np.isnan(numbers)] = None
                yield column.name, flags
            else:
                texts = np.array([None, *column.categories], dtype=object)
                yield column.name, texts[np.nan_to_num(numbers, nan=0).round().clip(0, len(texts) - 1).astype(int)]

    @cached_property
    def _boolean(self) -> tuple[int, ...]:
        return tuple(i for i, column in enumerate(self.columns) if column.type == "boolean")

    @staticmethod
    def _encode(column: Column, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 [n], and the rows whose cell the column cannot hold: int [m]. Raises SchemaError."""
        kind = "text" if cells.dtype.kind in "OUS" else "number" if cells.dtype.kind in "biuf" else cells.dtype.name
        if kind == "text" and column.type != "numeric":
            numbers = _from_texts(column, cells)
        elif kind == "number":
            numbers = _from_numbers(column, cells)
        else:
            wanted = "texts" if column.type == "categorical" else "numbers, NaN where one is missing"
            raise SchemaError(
                f"column {column.name!r} is {column.type}, and {kind}s came: convert them to {wanted}", column.name
            )
        return numbers.astype(np.float32), np.flatnonzero(np.isinf(numbers))


def category(number: float) -> str:
    """What a category is called whose cells are numbers: 3.0 is '3'."""
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def stripped(cell: object) -> str:
    """A text without the white space around it; '' for None, which is missing."""
    return "" if cell is None or cell != cell else str(cell).strip()


def _from_texts(column: Column, cells: np.ndarray) -> np.ndarray:
    """float64 [n]: NaN where a cell is missing, inf where it can be nothing of the column."""
    values = cells.tolist()
    if column.type == "boolean":
        codes = {value: _FLAGS.get(stripped(value).lower(), np.inf) for value in set(values)}
    else:
        known = {**column.codes, "": np.nan}
        codes = {value: known.get(stripped(value), UNKNOWN) for value in set(values)}
    return np.array([codes[value] for value in values], dtype=np.float64)


def _from_numbers(column: Column, cells: np.ndarray) -> np.ndarray:
    """As _from_texts."""
    with np.errstate(over="ignore"):
        numbers = cells.astype(np.float64)
        if column.type == "numeric":
            return numbers.astype(np.float32).astype(np.float64)  # what float32 cannot hold is infinite
    if column.type == "boolean":
        return np.where(np.isnan(numbers) | np.isin(numbers, (0, 1)), numbers, np.inf)
    values, where = np.unique(numbers, return_inverse=True)
    codes = [np.nan if np.isnan(v) else np.inf if np.isinf(v) else column.codes.get(category(v), 0) for v in values]
    return np.array(codes, dtype=np.float64)[where]


def listed(names: Sequence[str]) -> str:
    """As many names as a message has room for."""
    return ", ".join(map(_shortened, names[:_LISTED])) + (f", … ({len(names)} in all)" if len(names) > _LISTED else "")


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _why(column: Column, cell: object) -> str:
    shown = _shortened(repr(cell) if isinstance(cell, str) else str(cell))
    if column.type == "boolean":
        return f"{shown} is neither true nor false"
    return f"{shown} is not a finite float32 number"


def _nearest(name: str, have: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(islice(have, _MOST_NAMES)), 1)
    return f": did you mean {nearest[0]!r}?" if nearest else ""
