"""A published model as it is served: its verified files on onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hourglass.contract import layout
from hourglass.contract.layout import ArtefactError
from hourglass.contract.manifest import DECODER, EMBEDDING, ENCODER, GRAPHS, MODEL, RECONSTRUCTION, SCORE, Manifest
from training.errors import TrainingError, nearest
from training.runtime import Graph

_SCORED_ROWS = 10_000


class ModelError(TrainingError):
    """A folder is not a published model, or its files are not what the manifest says."""


@dataclass(frozen=True)
class Published:
    """Rows are float32 [n, *row_shape] in input units, embeddings float32 [n, embedding_size]."""

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
