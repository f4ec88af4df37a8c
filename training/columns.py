"""What a file's columns hold: looked at once from beginning to end, whatever its size."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from rich.table import Table

from hourglass.contract.schema import FALSE, TRUE, Column, ColumnType, Schema, category
from hourglass.files import Batch, FileError, RowFile
from hourglass.files.cells import is_number, is_text, numbers, texts, why_no_number
from training.errors import DataError

MOST_CATEGORIES = 100  # that a model knows of one column
_SELDOM = 1e-4  # of the rows, and one row always: rarer categories are unknown ones
_MOST_DISTINCT = 100_000  # that are counted
_MOSTLY = 0.9  # of the cells are numbers: the others are mistakes
# Meant as a number, whether it is one here or not: 1.234,5 and 1,234.5, 5 %, inf, a spreadsheet's #DIV/0!
_MEANT = re.compile(
    r"[+-]?[$£€]?\s?(?=[.,]?\d)(\d+|\d{1,3}([.,'’\s]\d{3})+)?([.,]\d*)?(e[+-]?\d+)?\s?[%€]?"
    r"|[+-]?inf(inity)?|#[a-z/0]+[!?]",
    re.IGNORECASE,
)
_ROWS = 65_536
_LISTED, _NAMED = 40, 3  # columns, and of each one categories


@dataclass(frozen=True)
class Inferred:
    """schema: the columns that make a row, in order. missing: how many cells of each are. distinct: how many categories
    each categorical column has, those included that the schema leaves out as too rare. rows: of the file."""

    schema: Schema
    missing: Mapping[str, int]
    distinct: Mapping[str, int]
    rows: int

    @property
    def is_plain(self) -> bool:
        """Whether there are only numbers, in all cells."""
        return self.schema.is_numeric and not any(self.missing.values())


def infer(file: RowFile, names: Sequence[str], types: Mapping[str, ColumnType]) -> Inferred:
    """The columns `names` of a file. types: of those that somebody knows better. Raises DataError, FileError."""
    for name in types:
        if name not in names:
            raise DataError(f"{file.path}: setting 'columns' names {name!r}, which is no column of a row")
    seen = {name: _Seen(name, types.get(name)) for name in names}
    for batch in file.batches(_ROWS):
        for column in seen.values():
            column.look(batch)
    if empty := [name for name, column in seen.items() if column.missing == column.rows]:
        raise DataError(f"{file.path}: no value in any row: --ignore {','.join(empty)} leaves these columns out")
    return Inferred(
        Schema(tuple(column.decide(file) for column in seen.values())),
        {name: column.missing for name, column in seen.items()},
        {name: len(column.counts) for name, column in seen.items()},
        max(column.rows for column in seen.values()),
    )


@dataclass
class _Seen:
    """counts: how many rows have each text, None in no row; given up where there are too many."""

    name: str
    asked: ColumnType | None
    rows: int = 0
    no_texts: int = 0
    no_numbers: int = 0
    wrong: int = 0
    first_wrong: FileError | None = None
    texts: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def missing(self) -> int:
        return self.no_numbers if self.type == "numeric" else self.no_texts

    @property
    def type(self) -> ColumnType:
        if self.asked:
            return self.asked
        if not self.texts or not self.wrong:
            return "numeric"
        words = {text.lower() for text in self.counts}
        return "boolean" if words <= TRUE | FALSE | {"0", "1"} else "categorical"

    def look(self, batch: Batch) -> None:
        values = batch.column(self.name)
        self.rows += len(values)
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.string())
        self.texts |= is_text(values)
        if not is_text(values) and not is_number(values) and self.asked != "categorical":
            raise DataError(
                f"{batch.path}: column {self.name!r} holds {values.type}s, no numbers or texts: --ignore {self.name} "
                f"leaves it out, --time {self.name} says that it is the time of a series"
            )
        found = numbers(values, batch.decimal)
        self.no_numbers += int(np.isnan(found).sum())
        wrong = np.isinf(found)
        self.wrong += int(wrong.sum())
        if wrong.any() and self.first_wrong is None:
            row = int(wrong.argmax())
            why = why_no_number(batch.cell(row, self.name), batch.decimal)
            self.first_wrong = batch.refused(row, self.name, why)
        if is_text(values) or self.asked in ("boolean", "categorical"):
            self._count(texts(values) if is_text(values) else _written(values, found))

    def _count(self, cells: np.ndarray) -> None:
        present = [cell for cell in cells.tolist() if cell is not None]
        self.no_texts += len(cells) - len(present)
        if len(self.counts) <= _MOST_DISTINCT:
            self.counts.update(present)

    def decide(self, file: RowFile) -> Column:
        """Raises DataError, FileError."""
        if self.type == "categorical":
            return Column(name=self.name, type="categorical", categories=self._categories(file))
        if self.type == "numeric" and self.first_wrong is not None:
            raise self.first_wrong
        return Column(name=self.name, type=self.type)

    @property
    def _mostly_numbers(self) -> bool:
        meant = sum(count for text, count in self.counts.items() if _MEANT.fullmatch(text))
        return meant > _MOSTLY * self.counts.total()

    def _categories(self, file: RowFile) -> tuple[str, ...]:
        if not self.asked and self._mostly_numbers:
            assert self.first_wrong
            raise DataError(
                f"{self.first_wrong}; or, if the column holds categories, say so: --columns {self.name}=categorical"
            )
        present, distinct = self.rows - self.no_texts, len(self.counts)
        nearly_all = distinct == present or (distinct > MOST_CATEGORIES and 2 * distinct > present)
        if distinct > _MOST_DISTINCT or (not self.asked and nearly_all):
            raise DataError(
                f"{file.path}: nearly every row has another {self.name!r}: an id or free text is nothing to learn: "
                f"--id {self.name} copies it to answers, --ignore {self.name} leaves it out, --time {self.name} says "
                "that it is the time of a series"
            )
        least = max(2, _SELDOM * self.rows)
        known = [text for text, count in self.counts.items() if count >= least] or list(self.counts)
        return tuple(sorted(known, key=lambda text: (-self.counts[text], text))[:MOST_CATEGORIES])


def _written(values: pa.Array, found: np.ndarray) -> np.ndarray:
    """object [n]: numbers as categories are called, what is neither as it is written; None where a cell is missing."""
    if np.isinf(found).all():
        return texts(values.cast(pa.string()))
    cells = [None if np.isnan(number) else category(number) for number in found.tolist()]
    return np.array(cells, dtype=object)


def described(found: Inferred) -> Table:
    """The columns as people look them over before a fit; of many numeric ones without holes only their number."""
    columns = found.schema.columns
    told = [c for c in columns if c.type != "numeric" or found.missing[c.name]] if len(columns) > _LISTED else columns
    table = Table("column", "holds", "missing", "categories")
    for column in told:
        missing, distinct = found.missing[column.name], found.distinct[column.name]
        rare = f" and {distinct - len(column.categories):,} rarer as one" * (distinct > len(column.categories))
        share = f"{missing / found.rows:.1%}" if missing else ""
        kinds = f"{len(column.categories):,}{rare}: {', '.join(column.categories[:_NAMED])}"
        more = ", …" if len(column.categories) > _NAMED else ""
        table.add_row(column.name, column.type, share, kinds + more if column.categories else "")
    if len(told) < len(columns):
        table.add_row(f"{len(columns) - len(told):,} others", "numeric", "", "")
    return table
