"""A published model as it is served: its verified files on onnxruntime, and what its scaled units are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from hourglass.contract import layout
from hourglass.contract.layout import ArtefactError
from hourglass.contract.manifest import DECODER, EMBEDDING, ENCODER, GRAPHS, MODEL, RECONSTRUCTION, SCORE, Manifest
from training.errors import TrainingError, nearest
from training.evaluation.errors import Errors
from training.runtime import Graph
from training.scaling import Scaling

_SCORED_ROWS = 10_000


class ModelError(TrainingError):
    """A folder is not a published model, or its files are not what the manifest says."""


@dataclass(frozen=True)
class Published:
    """Rows are float32 [n, *row_shape] in input units, NaN where a cell is missing; embeddings float32
    [n, embedding_size]; scaled rows float32 [n, *row_shape], or [n, numbers] where columns are not all numeric."""

    folder: Path
    name: str
    version: int
    manifest: Manifest
    graphs: dict[str, Graph]

    def embed(self, rows: np.ndarray) -> np.ndarray:
        return self.graphs[ENCODER].run_all(rows)[EMBEDDING]

    def decode(self, embeddings: np.ndarray) -> np.ndarray:
        return self.graphs[DECODER].run_all(embeddings)[RECONSTRUCTION]

    def score(self, rows: np.ndarray) -> np.ndarray:
        """float32 [n]. Nothing else is kept: the other answers of many rows are large."""
        parts = [rows[start : start + _SCORED_ROWS] for start in range(0, len(rows), _SCORED_ROWS)]
        return np.concatenate([self.graphs[MODEL].run_all(part)[SCORE] for part in parts])

    def reconstruct(self, rows: np.ndarray) -> np.ndarray:
        return self.graphs[MODEL].run_all(rows)[RECONSTRUCTION]

    def scaled(self, rows: np.ndarray) -> np.ndarray:
        """NaN where a cell is missing."""
        scaled: np.ndarray = self._scaling(torch.from_numpy(rows)).numpy()
        return scaled

    def unscaled(self, scaled: np.ndarray) -> np.ndarray:
        """Rows, of scaled ones without NaN."""
        rows: np.ndarray = self._scaling.inverse(torch.from_numpy(scaled)).numpy()
        return rows

    def features(self, rows: np.ndarray) -> np.ndarray:
        """float32 [n, features]: scaled rows for what knows no missing cells, which are a mean, 0."""
        features: np.ndarray = np.nan_to_num(self.scaled(rows)).reshape(len(rows), -1)
        return features

    def errors(self, rows: np.ndarray, repeated: np.ndarray) -> Errors:
        """Of what is repeated of the rows, in input units."""
        return Errors.of(self._scaling, self.manifest.row_schema, rows, repeated)

    @cached_property
    def _scaling(self) -> Scaling:
        return Scaling.published(self.manifest)


def open_model(path: Path) -> Published:
    """exported/NAME/VERSION, or the newest version of exported/NAME. Raises ModelError."""
    path = path.absolute()
    named = path.name.isdecimal()
    root, name = (path.parent.parent, path.parent.name) if named else (path.parent, path.name)
    try:
        versions = layout.versions(root, name)
        if not versions:
            known = layout.names(root) if root.is_dir() else []
            raise ModelError(f"{root / name}: no published model{nearest(name, known)}")
        version = int(path.name) if named else versions[0]
        artefact = layout.read(root, name, version, tuple(GRAPHS))
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from None
    except ArtefactError as error:
        raise ModelError(f"{root / name / str(version)}: {error}") from None
    graphs = {file: Graph(data) for file, data in artefact.files.items()}
    return Published(root / name / str(version), name, version, artefact.manifest, graphs)
