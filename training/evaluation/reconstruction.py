"""How well rows are repeated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from hourglass.contract.manifest import MODEL, RECONSTRUCTION, RECONSTRUCTION_ERROR
from hourglass.contract.schema import UNKNOWN, Column
from training.evaluation.section import Numbers, Section, shown, table
from training.evaluation.subject import Subject

_WORST = 8
_PART_ROWS = 1_000


@dataclass(frozen=True)
class _Found:
    """mse: mean over rows, in scaled units. The rest of each feature, or of each column where rows have named ones,
    over the cells that are there, float64 [features]: mean error (see Errors), mean squared error in input units, and
    variance in scaled units, of all numbers that a column becomes.
    """

    mse: float
    error: np.ndarray
    squared_in_units: np.ndarray
    variance: np.ndarray


def measure(subject: Subject) -> Section:
    """On all rows."""
    columns = subject.model.manifest.columns
    found = _found(subject)
    total_variance = found.variance.mean()
    summary: dict[str, float | None] = {
        "reconstruction_sse_per_row": found.mse * math.prod(subject.model.manifest.row_shape),
        "reconstruction_mse_per_feature": found.mse,
        "variance_explained": float(1 - found.mse / total_variance) if total_variance else None,
    }
    numbers: dict[str, float | Numbers | None] = {**summary}
    if columns is None:
        summary["rmse_in_input_units"] = float(np.sqrt(found.squared_in_units.mean()))
        numbers |= summary
        units = "numbers are brought to 0 … 1 by their smallest and largest in training"
    else:
        units = "columns are less their mean in training, over their standard deviation"
    whole = table("over all features", "value")
    for name, value in summary.items():
        whole.add_row(name, shown(value))
    tables = [whole]
    sentences = [
        f"In scaled units, unless said otherwise: {units}.",
        "variance_explained is 1 for perfect copies, 0 for always answering the mean.",
    ]
    if columns is not None:
        numeric = [j for j, column in enumerate(columns) if column.type == "numeric"]
        if numeric:
            of_columns, worst = _numeric(columns, found, numeric)
            numbers |= of_columns
            tables.append(worst)
        if len(numeric) < len(columns):
            wrong, of_categories = _wrong(columns, found, subject.data.rows)
            numbers["wrong"] = wrong
            tables.append(of_categories)
            sentences.append("Wrong: share of the known categories and flags that come back as another one.")
    if np.isnan(subject.data.rows).any():
        sentences.append("Missing cells are left out.")
    return Section("reconstruction", numbers, tuple(tables), tuple(sentences))


def _numeric(columns: list[Column], found: _Found, which: list[int]) -> tuple[dict[str, Numbers], Table]:
    names = [column.name for column in columns]
    rmse = np.sqrt(found.squared_in_units)
    worst = table("worst columns", "rmse in its unit", "rmse in scaled units", "variance explained")
    for j in sorted(which, key=lambda j: -found.error[j])[:_WORST]:
        explained = 1 - found.error[j] / found.variance[j] if found.variance[j] else None
        worst.add_row(names[j], shown(rmse[j]), shown(np.sqrt(found.error[j])), shown(explained))
    numbers: dict[str, Numbers] = {
        "rmse_in_input_units": {names[j]: float(rmse[j]) for j in which},
        "mse_in_scaled_units": {names[j]: float(found.error[j]) for j in which},
    }
    return numbers, worst


def _wrong(columns: list[Column], found: _Found, rows: np.ndarray) -> tuple[dict[str, Numbers], Table]:
    """rows: [n, columns]. Beside it what the commonest category, as an answer to every row, gets wrong."""
    which = [j for j, column in enumerate(columns) if column.type != "numeric"]
    wrong: dict[str, Numbers] = {}
    for j in which:
        known = rows[:, j][~np.isnan(rows[:, j])]
        known = known[known != UNKNOWN] if columns[j].type == "categorical" else known
        commonest = np.unique(known, return_counts=True)[1].max(initial=0)
        wrong[columns[j].name] = {
            "reconstruction": float(found.error[j]),
            "commonest_category": float(1 - commonest / max(1, len(known))),
        }
    worst = table("worst categories", "wrong", "always the commonest")
    for j in sorted(which, key=lambda j: -found.error[j])[:_WORST]:
        shares = wrong[columns[j].name]
        assert isinstance(shares, dict)
        worst.add_row(columns[j].name, *(f"{share:.1%}" for share in shares.values()))
    return wrong, worst


def _found(subject: Subject) -> _Found:
    model, rows = subject.model, subject.data.rows
    schema = model.manifest.row_schema
    size = len(schema.columns) if schema else rows[0].size
    width = len(schema.expanded) if schema else size
    mse, sums, moments = 0.0, np.zeros((3, size)), np.zeros((3, width))
    for start in range(0, len(rows), _PART_ROWS):
        part = rows[start : start + _PART_ROWS]
        answers = model.graphs[MODEL].run_all(part)
        mse += float(answers[RECONSTRUCTION_ERROR].sum(dtype=np.float64))
        errors = model.errors(part, answers[RECONSTRUCTION])
        in_units = np.square(part.astype(np.float64) - answers[RECONSTRUCTION])
        scaled = model.scaled(part).astype(np.float64)
        sums += [_total(values, errors.there, size) for values in (errors.there, errors.cells, in_units)]
        present = ~np.isnan(scaled)
        moments += [_total(values, present, width) for values in (present, scaled, np.square(scaled))]
    error, squared_in_units = sums[1:] / np.maximum(sums[0], 1)
    mean, square = moments[1:] / np.maximum(moments[0], 1)
    variance = np.maximum(square - mean**2, 0)
    if schema:
        column_of = [column for column, _ in schema.expanded]
        variance = np.bincount(column_of, variance)
    return _Found(mse / len(rows), error, squared_in_units, variance)


def _total(values: np.ndarray, which: np.ndarray, size: int) -> np.ndarray:
    """Of each feature: [n, ...] -> float64 [size]."""
    total: np.ndarray = np.where(which, values, 0).reshape(-1, size).sum(axis=0, dtype=np.float64)
    return total
