"""How well rows are repeated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.evaluation.section import Numbers, Section, shown, table
from training.evaluation.subject import Subject

_WORST = 8
_PART_ROWS = 1_000


@dataclass(frozen=True)
class _Features:
    """Means over rows, float64 [features]: squared error in scaled and in input units, variance in scaled units."""

    squared_error: np.ndarray
    squared_error_in_units: np.ndarray
    variance: np.ndarray


def measure(subject: Subject) -> Section:
    """On all rows."""
    features = _features(subject)
    columns, total_variance = subject.model.manifest.columns, features.variance.sum()
    summary: dict[str, float | None] = {
        "reconstruction_sse_per_row": float(features.squared_error.sum()),
        "reconstruction_mse_per_feature": float(features.squared_error.mean()),
        "variance_explained": float(1 - features.squared_error.sum() / total_variance) if total_variance else None,
    }
    numbers: dict[str, float | Numbers | None] = {**summary}
    if columns is None:
        summary["rmse_in_input_units"] = float(np.sqrt(features.squared_error_in_units.mean()))
        numbers |= summary
        units = "numbers are brought to 0 … 1 by their smallest and largest in training"
    else:
        units = "columns are less their mean in training, over their standard deviation"
    whole = table("over all features", "value")
    for name, value in summary.items():
        whole.add_row(name, shown(value))
    tables = [whole]
    if columns is not None:
        names = [column.name for column in columns]
        rmse = np.sqrt(features.squared_error_in_units)
        numbers["rmse_in_input_units"] = dict(zip(names, rmse.tolist(), strict=True))
        numbers["mse_in_scaled_units"] = dict(zip(names, features.squared_error.tolist(), strict=True))
        worst = table("worst columns", "rmse in its unit", "rmse in scaled units", "variance explained")
        for j in np.argsort(-features.squared_error, kind="stable")[:_WORST]:
            explained = 1 - features.squared_error[j] / features.variance[j] if features.variance[j] else None
            worst.add_row(names[j], shown(rmse[j]), shown(np.sqrt(features.squared_error[j])), shown(explained))
        tables.append(worst)
    sentences = (
        f"In scaled units, unless said otherwise: {units}.",
        "variance_explained is 1 for perfect copies, 0 for always answering the mean.",
    )
    return Section("reconstruction", numbers, tuple(tables), sentences)


def _features(subject: Subject) -> _Features:
    scaling, data = subject.model.manifest.scaling, subject.data
    sums = np.zeros((4, data.rows[0].size))
    for start in range(0, len(data.rows), _PART_ROWS):
        rows = data.rows[start : start + _PART_ROWS]
        repeated = subject.model.reconstruct(rows)
        scaled = scaling.apply(rows).astype(np.float64)
        terms = (
            np.square(scaled - scaling.unclipped(repeated)),
            np.square(rows.astype(np.float64) - repeated),
            scaled,
            np.square(scaled),
        )
        sums += [term.sum(axis=0).reshape(-1) for term in terms]
    squared_error, in_units, mean, square = sums / len(data.rows)
    return _Features(squared_error, in_units, np.maximum(square - mean**2, 0))
