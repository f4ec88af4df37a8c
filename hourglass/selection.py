"""Which of a file's columns become a model's rows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hourglass.files import Batch, FileError, RowFile, no_such_column
from hourglass.messages import ModelInfo

_POSITIONAL = re.compile(r"c\d+")  # the name of a column that has none


@dataclass(frozen=True)
class Selection:
    """columns: what the model takes from the file, in its order; None for images and arrays, taken whole."""

    columns: tuple[str, ...] | None
    row_shape: tuple[int, ...]

    def take(self, batch: Batch) -> np.ndarray:
        """float32 [n, *row_shape]. Raises FileError."""
        return batch.numbers(self.columns).reshape(-1, *self.row_shape)


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
        return Selection(None, shape)
    missing = [column for column in model.columns if column not in file.columns]
    if model.columns and not missing:
        return Selection(model.columns, shape)
    columns = tuple(column for column in file.columns if column != id_column)
    if missing and _named(model.columns) and _named(columns):
        raise no_such_column(file.path, missing[0], columns)
    if len(columns) != math.prod(shape):
        raise FileError(
            f"{file.path}: {len(columns)} columns without names to go by, but the model {name!r} takes "
            f"{_shown(shape)}: leave the others out of the file (one may be the --id)"
        )
    return Selection(columns, shape)


def _named(columns: Sequence[str]) -> bool:
    return not all(_POSITIONAL.fullmatch(column) for column in columns)


def _shown(shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return f"{shape[0]} columns"
    return f"{'×'.join(map(str, shape))} = {math.prod(shape)} numbers"
