"""Which of a file's columns become a model's rows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hourglass.contract.schema import Column, Encoded, Problem, Schema
from hourglass.files import Batch, FileError, RowFile, no_such_column
from hourglass.files.cells import why_no_number
from hourglass.files.encoding import encode, refused
from hourglass.models import ModelInfo

_POSITIONAL = re.compile(r"c\d+")  # the name of a column that has none


@dataclass(frozen=True)
class Selection:
    """columns: what the model takes from the file, in its order; None for images and arrays, taken whole."""

    columns: tuple[Column, ...] | None
    row_shape: tuple[int, ...]
    takes_missing: bool

    @cached_property
    def _schema(self) -> Schema:
        return Schema(self.columns or ())

    @property
    def names(self) -> tuple[str, ...] | None:
        return None if self.columns is None else tuple(column.name for column in self.columns)

    def take(self, batch: Batch) -> np.ndarray:
        """float32 [n, *row_shape]. Raises FileError naming the first cell that the model does not take."""
        encoded = self.encode(batch)
        if encoded.problems:
            raise refused(batch, encoded.problems[0])
        return encoded.rows

    def encode(self, batch: Batch) -> Encoded:
        """float32 [n, *row_shape], and what is wrong with them. Raises FileError for a column that will not do."""
        if self.columns is None:
            return _encode_array(batch.unchecked(), self.takes_missing)
        encoded = encode(batch, self._schema, takes_missing=self.takes_missing)
        return Encoded(encoded.rows.reshape(-1, *self.row_shape), encoded.problems)


def _encode_array(rows: np.ndarray, takes_missing: bool) -> Encoded:
    bad = (np.isinf(rows) if takes_missing else ~np.isfinite(rows)).reshape(len(rows), -1)
    problems = []
    for row in np.flatnonzero(bad.any(axis=1)).tolist():
        place = np.unravel_index(bad[row].argmax(), rows.shape[1:])
        problems.append(Problem(row, ",".join(map(str, place)), why_no_number(rows[(row, *place)].item())))
    return Encoded(rows, tuple(problems))


def select(file: RowFile, model: ModelInfo, id_column: str | None) -> Selection:
    """By name where model and file have names, else by position; what the model does not take is left out.

    Raises FileError when the file has not what the model takes.
    """
    name, shape = model.model.name, model.row_shape
    if file.columns is None:
        if file.row_shape != shape:
            raise FileError(
                f"{file.path}: rows of shape {_shown(file.row_shape)}, but the model {name!r} takes {_shown(shape)}"
            )
        return Selection(None, shape, model.takes_missing)
    missing = [column for column in model.columns if column not in file.columns]
    if model.columns and not missing:
        return Selection(model.schema, shape, model.takes_missing)
    columns = tuple(column for column in file.columns if column != id_column)
    if missing and _named(model.columns) and _named(columns):
        raise no_such_column(file.path, missing[0], columns)
    if len(columns) != math.prod(shape):
        taken = (
            f"the model {name!r} takes" if model.columns else f"the model {name!r}, fitted without column names, takes"
        )
        nameless = "" if _named(columns) else " without names to go by"
        raise FileError(
            f"{file.path}: {len(columns)} columns{nameless}, but {taken} {_shown(shape)}: leave the others out of the "
            "file (one may be the --id)"
        )
    types = model.schema or [Column(name=name) for name in columns]
    named = tuple(kind.model_copy(update={"name": name}) for kind, name in zip(types, columns, strict=True))
    return Selection(named, shape, model.takes_missing)


def _named(columns: Sequence[str]) -> bool:
    return not all(_POSITIONAL.fullmatch(column) for column in columns)


def _shown(shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return f"{shape[0]} columns"
    return f"{'×'.join(map(str, shape))} = {math.prod(shape)} numbers"
