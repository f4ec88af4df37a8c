"""fashion-mnist for the search benchmark, and what its rows find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hourglass.contract.quantization import normalized
from hourglass.files import open_rows
from training.neighbours import alike, nearest

NEIGHBOURS = 10
TRAIN, TEST = (f"{part}-images-idx3-ubyte.gz" for part in ("train", "t10k"))
_READ_ROWS = 10_000


@dataclass(frozen=True)
class Images:
    """rows: float32 [n, 28, 28] in 0 to 255; labels: int [n]."""

    rows: np.ndarray
    labels: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Images:
        """With the labels that lie beside. Raises FileError."""
        batches = list(open_rows(path).batches(_READ_ROWS))
        labels = [np.asarray(batch.column("label")) for batch in batches]
        return cls(np.concatenate([batch.numbers() for batch in batches]), np.concatenate(labels))

    def take(self, chosen: np.ndarray) -> Images:
        return Images(self.rows[chosen], self.labels[chosen])


def precisions(index: np.ndarray, queries: np.ndarray, indexed: Images, asked: Images) -> Mapping[str, float]:
    """Label precision of the neighbours, as they are (Euclidean) and of length 1 (by angle). index, queries: float32
    [n, numbers] and [m, numbers], of the images."""
    sides = {"plain": (index, queries), "normalised": (normalized(index), normalized(queries))}
    return {
        how: float(alike(nearest(*both, NEIGHBOURS), indexed.labels, asked.labels).mean())
        for how, both in sides.items()
    }


def pixels(images: Images) -> np.ndarray:
    """float32 [n, 784]."""
    return images.rows.reshape(len(images.rows), -1)
