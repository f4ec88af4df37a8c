"""Rows of a file as a schema's numbers: for training, for the program, and as the service does it with a `Table`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from hourglass.contract.schema import Column, Encoded, Problem, Schema
from hourglass.files.cells import is_missing, is_number, is_text, numbers, texts, value_of, why_no_number
from hourglass.files.rows import Batch, FileError


def encode(batch: Batch, schema: Schema, *, takes_missing: bool) -> Encoded:
    """The batch's rows, float32 [n, columns], and what is wrong with them: see Schema.encode.

    Raises FileError when a column is not there, or holds what is neither number nor text.
    """
    table = {column.name: cells(batch, column) for column in schema.columns}
    encoded = schema.encode(table, takes_missing=takes_missing)
    types = {column.name: column.type for column in schema.columns}
    problems = (_as_written(batch, problem, types[problem.column]) for problem in encoded.problems)
    return replace(encoded, problems=tuple(problems))


def rows(batch: Batch, schema: Schema, *, takes_missing: bool) -> np.ndarray:
    """As `encode`, where every row must be right. Raises FileError naming the first cell that is not."""
    encoded = encode(batch, schema, takes_missing=takes_missing)
    if encoded.problems:
        raise refused(batch, encoded.problems[0])
    return encoded.rows


def refused(batch: Batch, problem: Problem) -> FileError:
    """The error for a cell."""
    return batch.refused(problem.row, problem.column, problem.why)


def cells(batch: Batch, column: Column) -> np.ndarray:
    """One column of the batch as Schema.encode takes it: float64 [n] with NaN for missing and infinity for what is no
    number, or an object array of texts and None. Raises FileError."""
    values = batch.column(column.name)
    if column.type == "numeric" or is_number(values):
        return numbers(values, batch.decimal)
    if is_text(values):
        return texts(values)
    try:
        return texts(values.cast(pa.string()))  # dates and the like: as they are written
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise FileError(
            f"{batch.path}: column {column.name!r} is {column.type}, and holds {values.type}: neither numbers nor texts"
        ) from None


def _as_written(batch: Batch, problem: Problem, kind: str) -> Problem:
    """The problem in terms of the file's cell, not of the number it became."""
    cell = value_of(batch.column(problem.column), problem.row)
    if kind != "numeric" and not is_missing(cell):
        return problem
    return problem._replace(why=why_no_number(cell, batch.decimal))
