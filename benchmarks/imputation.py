"""Cells hidden and filled in again: by a published model, by column means and by nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.impute import KNNImputer

from benchmarks.tables_data import TableSet
from hourglass.contract import layout
from hourglass.contract.manifest import MODEL, RECONSTRUCTION
from hourglass.contract.schema import Column, Schema
from hourglass.files import open_rows
from hourglass.files.encoding import encode
from training.config import FitConfig
from training.fit import fit
from training.progress import Progress
from training.runtime import Graph
from training.scaling import Scaling

HIDDEN_SHARE = 0.2
_TRAIN_SHARE = 0.7
_TEST_ROWS, _NEIGHBOUR_ROWS = 2_000, 10_000  # KNNImputer looks at each of these for each row
# What docs/modeller.md advises where holes are to be filled, and scores matter less.
RECIPE: Mapping[str, Any] = {"hidden": (256,), "hidden_activation": "relu", "epochs": 150, "patience": 30}
MODELS: Mapping[str, Mapping[str, Any]] = {"hourglass": RECIPE, "hourglass, defaults": {}}
NEIGHBOURS = "kNN imputer"


@dataclass(frozen=True)
class Errors:
    """Of each method, as a share of what means and modes err: the mean over columns."""

    set: str
    rows: int
    columns: int
    errors: Mapping[str, float]


def measure(source: TableSet, seed: int, folder: Path, progress: Progress) -> Errors:
    """Hides a fifth of the cells of rows that no method has seen."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(source.table.num_rows)
    train, test = np.split(order, [round(_TRAIN_SHARE * len(order))])
    source.write(train, folder / "train.parquet")
    source.write(test[:_TEST_ROWS], folder / "test.parquet")
    graphs = {method: _published(source, settings, seed, folder, progress) for method, settings in MODELS.items()}
    schema = next(iter(graphs.values())).schema
    known, rows = (_read(folder / name, schema) for name in ("train.parquet", "test.parquet"))
    hidden = (rng.random(rows.shape) < HIDDEN_SHARE) & ~np.isnan(rows)
    holes = np.where(hidden, np.nan, rows).astype(np.float32)
    filled = {method: found.graph.run_all(holes)[RECONSTRUCTION] for method, found in graphs.items()}
    filled[NEIGHBOURS] = _neighbours(schema, known[:_NEIGHBOUR_ROWS], holes)
    errors = {method: _error(schema, known, rows, hidden, guess) for method, guess in filled.items()}
    return Errors(source.name, source.table.num_rows, len(schema.columns), errors)


class _Published(NamedTuple):
    graph: Graph
    schema: Schema


def _published(
    source: TableSet, settings: Mapping[str, Any], seed: int, folder: Path, progress: Progress
) -> _Published:
    config = FitConfig.model_validate(
        {
            "data": str(folder / "train.parquet"),
            "name": "imputing",
            "label": source.label,
            "ignore": source.ignore,
            "exported": folder / "exported",
            "runs": folder / "runs",
            "seed": seed,
            **settings,
        }
    )
    version = fit(config, progress)
    artefact = layout.read(config.exported, config.name, int(version.name), (MODEL,))
    schema = artefact.manifest.row_schema
    assert schema
    return _Published(Graph(artefact.files[MODEL]), schema)


def _read(file: Path, schema: Schema) -> np.ndarray:
    return np.concatenate([encode(b, schema, takes_missing=True).rows for b in open_rows(file).batches(8192)])


def _neighbours(schema: Schema, known: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """scikit-learn's KNNImputer with its defaults, on the columns as the model scales and expands them."""
    scaling = Scaling.of(torch.from_numpy(known), schema, missing=True)
    imputer = KNNImputer().fit(scaling(torch.from_numpy(known)).numpy())
    filled = imputer.transform(scaling(torch.from_numpy(holes)).numpy())
    rows: np.ndarray = scaling.inverse(torch.from_numpy(filled).float()).numpy()
    return rows


def _error(schema: Schema, known: np.ndarray, rows: np.ndarray, hidden: np.ndarray, filled: np.ndarray) -> float:
    """Numbers: root mean squared error over that of the mean. Categories and flags: share of wrong ones over that of
    the most common."""
    errors = []
    for i, column in enumerate(schema.columns):
        truth, guess, seen = rows[hidden[:, i], i], filled[hidden[:, i], i], known[~np.isnan(known[:, i]), i]
        usual = _wrong(column, truth, np.full_like(truth, _centre(column, seen)))
        if usual:
            errors.append(_wrong(column, truth, guess) / usual)
    return float(np.mean(errors))


def _centre(column: Column, seen: np.ndarray) -> float:
    if column.type == "numeric":
        return float(seen.mean(dtype=np.float64))
    values, counts = np.unique(seen, return_counts=True)
    return float(values[counts.argmax()])


def _wrong(column: Column, truth: np.ndarray, guess: np.ndarray) -> float:
    if column.type == "numeric":
        return float(np.sqrt(np.square(truth.astype(np.float64) - guess).mean()))
    return float((truth != guess).mean())
