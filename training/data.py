"""Data sets: files -> float32 tensors, and three disjoint splits of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.config import FitConfig
from training.errors import DataError, nearest

DIGITS = "digits"
MIN_ROWS = 10
_SHARES = (0.7, 0.1)  # train and early stop; the rest calibrates
_READ_ROWS = 8192


@dataclass(frozen=True)
class Dataset:
    """rows: float32 [n, *row_shape] in the file's units; columns: names of a table's columns, else None."""

    source: str
    rows: Tensor
    columns: tuple[str, ...] | None
    sha256: str

    @property
    def row_shape(self) -> tuple[int, ...]:
        return tuple(self.rows.shape[1:])

    @property
    def is_table(self) -> bool:
        return len(self.row_shape) == 1


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts of a data set: float32 [n_i, *row_shape]."""

    train: Tensor
    early_stop: Tensor
    calibration: Tensor

    def sizes(self) -> dict[str, int]:
        return {name: len(getattr(self, name)) for name in ("train", "early_stop", "calibration")}


def load(config: FitConfig) -> Dataset:
    """Read all rows of `config.data`. Raises DataError, FileError."""
    if config.exclude_label and config.label is None:
        raise DataError("--exclude-label needs --label COLUMN: the column to look at")
    columns, batches = _digits(config) if config.data == DIGITS else _file(config)
    kept: list[np.ndarray] = []
    labels: set[str] = set()
    for rows, label in batches:
        excluded = np.array([_is_one_of(value, config.exclude_label) for value in label], dtype=bool)
        labels.update(str(value) for value in label)
        kept.append(rows[~excluded] if len(label) else rows)
    for value in config.exclude_label:
        if not any(_is_one_of(label, (value,)) for label in labels):
            raise DataError(f"--exclude-label {value}: no row has it{nearest(value, sorted(labels))}")
    rows = np.concatenate(kept) if kept else np.empty((0,), np.float32)
    return _checked(config.data, np.ascontiguousarray(rows, dtype=np.float32), columns)


def split(dataset: Dataset, seed: int) -> Splits:
    """70 % train, 10 % early stop, 20 % calibration, drawn by `seed` alone (not by torch's version)."""
    order = np.random.default_rng(seed).permutation(len(dataset.rows))
    n = len(order)
    sizes = [round(n * share) for share in _SHARES]
    parts = np.split(order, np.cumsum(sizes))
    return Splits(*(dataset.rows[torch.from_numpy(part)] for part in parts))


Batches = Iterator[tuple[np.ndarray, "np.ndarray | list[object]"]]


def _digits(config: FitConfig) -> tuple[None, Batches]:
    from sklearn.datasets import load_digits

    if config.label not in (None, "label"):
        raise DataError(f"digits: no column {config.label!r} (did you mean label?)")
    if config.ignore:
        raise DataError("digits: --ignore is for the columns of a table; these are images")
    digits = load_digits()
    labels = digits.target if config.exclude_label else []
    return None, iter([(digits.images.astype(np.float32), labels)])


def _file(config: FitConfig) -> tuple[tuple[str, ...] | None, Batches]:
    from hourglass.files import open_rows

    path = Path(config.data)
    file = open_rows(path)
    apart = [*config.ignore, *([config.label] if config.label else [])]
    if file.columns is None:
        if apart:
            raise DataError(f"{path}: no column {apart[0]!r}: these rows are arrays without columns")
        return None, ((batch.numbers(), []) for batch in file.batches(_READ_ROWS))
    known = file.columns
    for name in apart:
        if name not in known:
            raise DataError(f"{path}: no column {name!r}{nearest(name, known)}")
    columns = tuple(name for name in known if name not in apart)
    if not columns:
        raise DataError(f"{path}: no column is left to learn from")

    def batches() -> Batches:
        for batch in file.batches(_READ_ROWS):
            labels = list(batch.column(config.label)) if config.exclude_label and config.label else []
            yield batch.numbers(columns), labels

    return columns, batches()


def _is_one_of(value: object, wanted: tuple[str, ...]) -> bool:
    """As written, or as the same number: 3, 3.0 and '3' are one label."""
    return any(str(value) == word or _number(value) == _number(word) is not None for word in wanted)


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _checked(source: str, rows: np.ndarray, columns: tuple[str, ...] | None) -> Dataset:
    name = Path(source).name
    if len(rows) < MIN_ROWS:
        raise DataError(
            f"{source}: {len(rows)} row{'s' if len(rows) != 1 else ''} to learn from, "
            f"but the three splits (train, early stop, calibration) need at least {MIN_ROWS}"
        )
    if rows.ndim == 2:
        constant = np.flatnonzero(rows.min(axis=0) == rows.max(axis=0))
        if len(constant):
            names = [columns[i] if columns else f"c{i}" for i in constant]
            raise DataError(
                f"{source}: constant columns carry nothing to learn: --ignore {','.join(names)} leaves them out"
            )
    elif rows.min() == rows.max():
        raise DataError(f"{source}: every number is {rows.flat[0]:g}: nothing to learn")
    digest = hashlib.sha256(f"{rows.shape}".encode() + rows.astype("<f4").tobytes()).hexdigest()
    return Dataset(name, torch.from_numpy(rows), columns, digest)


__all__ = ["DIGITS", "MIN_ROWS", "Dataset", "Splits", "load", "split"]
