"""Attacks among connections: a published model of mixed columns beside simple detectors on one-hot columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.compose import make_column_transformer
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.tables_data import KDD_LABEL, KDD_NORMAL, TableSet
from hourglass.contract import layout
from hourglass.contract.manifest import MODEL, SCORE
from hourglass.files import open_rows
from hourglass.files.encoding import encode
from training.baselines import isolation_forest, pca
from training.config import FitConfig
from training.fit import fit
from training.progress import Progress
from training.runtime import Graph


@dataclass(frozen=True)
class Found:
    """AUROC of each method; unknown: test rows with a category that no training row has."""

    auroc: Mapping[str, float]
    train_rows: int
    test_rows: int
    unknown: int


def measure(source: TableSet, seed: int, folder: Path, progress: Progress) -> Found:
    """Half of the normal connections train; the others and all attacks test."""
    normal = pc.equal(source.table[KDD_LABEL], KDD_NORMAL).to_numpy()
    normals = np.random.default_rng(seed).permutation(np.flatnonzero(normal))
    train, test = normals[: len(normals) // 2], np.concatenate([normals[len(normals) // 2 :], np.flatnonzero(~normal)])
    source.write(train, folder / "train.parquet")
    source.write(test, folder / "test.parquet")
    config = FitConfig.model_validate(
        {
            "data": str(folder / "train.parquet"),
            "name": "connections",
            "label": KDD_LABEL,
            "ignore": _constant(source.table.take(train)),
            "exported": folder / "exported",
            "runs": folder / "runs",
            "seed": seed,
        }
    )
    published = fit(config, progress)
    artefact = layout.read(published.parent.parent, "connections", int(published.name), (MODEL,))
    schema = artefact.manifest.row_schema
    assert schema
    batches = open_rows(folder / "test.parquet").batches(8192)
    rows = np.concatenate([encode(batch, schema, takes_missing=True).rows for batch in batches])
    scores = {"hourglass": Graph(artefact.files[MODEL]).run_all(rows)[SCORE]}
    tables = (source.table.take(part).select(list(schema.names)) for part in (train, test))
    learned, seen = _one_hot(*tables)
    scores |= {"PCA, 90 %": pca(learned, seen), "IsolationForest": isolation_forest(learned, seen)}
    anomalous = ~normal[test]
    auroc = {name: float(roc_auc_score(anomalous, found)) for name, found in scores.items()}
    return Found(auroc, len(train), len(test), int((schema.unknown(rows) > 0).sum()))


def _constant(table: pa.Table) -> tuple[str, ...]:
    return tuple(name for name in table.column_names if len(pc.unique(table[name])) == 1 and name != KDD_LABEL)


def _one_hot(train: pa.Table, test: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Numbers standardised, categories as 0 and 1; those that are new in `test` as zeros."""
    texts = [i for i, column in enumerate(train.columns) if pa.types.is_string(column.type)]
    others = [i for i in range(train.num_columns) if i not in texts]
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), texts), (StandardScaler(), others)
    )
    learned, seen = (np.array([c.to_pylist() for c in table.columns], dtype=object).T for table in (train, test))
    return encoder.fit_transform(learned).astype(np.float64), encoder.transform(seen).astype(np.float64)
