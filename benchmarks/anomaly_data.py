"""The sets of the anomaly benchmark, split and standardised once for every method."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

Protocol = Literal["clean", "contaminated"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
MOST_ROWS = 20_000
_CONTAMINATED_TRAIN = 0.7


@dataclass(frozen=True)
class Split:
    """train: float32 [n, columns], test: float32 [m, columns], standardised by `train`; anomalous: bool [m] of test."""

    train: np.ndarray
    test: np.ndarray
    anomalous: np.ndarray


@dataclass(frozen=True)
class Source:
    """A set as it lies in a file; rows: float64 [n, columns], anomalous: bool [n]."""

    name: str
    rows: np.ndarray
    anomalous: np.ndarray
    sha256: str


def names(folder: Path) -> dict[str, Path]:
    """The sets in `folder`, by name, smallest number first: 4_breastw.npz is breastw."""
    files = sorted(folder.glob("*_*.npz"), key=lambda file: int(file.stem.partition("_")[0]))
    return {file.stem.partition("_")[2]: file for file in files}


def read(name: str, file: Path) -> Source:
    data = file.read_bytes()
    with np.load(file, allow_pickle=False) as arrays:
        rows, anomalous = arrays["X"].astype(np.float64), arrays["y"] == 1
    return Source(name, rows, anomalous, hashlib.sha256(data).hexdigest())


def split(source: Source, protocol: Protocol, seed: int) -> Split:
    """Of at most MOST_ROWS rows, drawn by `seed` as the split is.

    clean: half of the normal rows train; the others and all anomalies test. contaminated: 70 % of the normal rows and
    70 % of the anomalies train, nobody knowing which is which; the others test.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(source.rows))[:MOST_ROWS]
    anomalous = source.anomalous[order]
    normals, anomalies = order[~anomalous], order[anomalous]
    if protocol == "clean":
        train, test = normals[: len(normals) // 2], np.concatenate([normals[len(normals) // 2 :], anomalies])
    else:
        cuts = [round(_CONTAMINATED_TRAIN * len(part)) for part in (normals, anomalies)]
        train = rng.permutation(np.concatenate([normals[: cuts[0]], anomalies[: cuts[1]]]))
        test = np.concatenate([normals[cuts[0] :], anomalies[cuts[1] :]])
    return Split(*_standardised(source.rows[train], source.rows[test]), source.anomalous[test])


def _standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the columns that are constant in `train`; float32, so that every method sees the same numbers."""
    varying = train.min(axis=0) < train.max(axis=0)
    train, test = train[:, varying], test[:, varying]
    shift, scale = train.mean(axis=0), train.std(axis=0)
    return ((train - shift) / scale).astype(np.float32), ((test - shift) / scale).astype(np.float32)
