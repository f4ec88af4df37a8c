"""Data sets: files -> float32 tensors, and three disjoint splits of them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hourglass.files import FileError, RowFile, no_such_column, open_rows
from hourglass.files.rows import ArrayBatch
from training import sprites
from training.config import FitConfig
from training.errors import DataError, nearest

DIGITS, SPRITES = "digits", "sprites"
MIN_ROWS = 10
MOST_EXCLUDED = 10_000
_SHARES = (0.7, 0.1)  # train and early stop; the rest calibrates
_READ_ROWS = 8192


class Excluded(NamedTuple):
    """Of the `total` rows whose label the fit excludes, 10,000 at most, drawn at random, and their labels.

    rows: float32 [n, *row_shape] in the file's units; labels: [n], as people read them.
    """

    rows: Tensor
    labels: tuple[str, ...]
    total: int


@dataclass(frozen=True)
class Dataset:
    """rows: float32 [n, *row_shape] in the file's units; columns: names of a table's columns, else None.

    labels: [n], as people read them; None where no column was named. excluded: not part of the rows, nor of the sha256;
    None where no label is excluded.
    """

    source: str
    rows: Tensor
    columns: tuple[str, ...] | None
    sha256: str
    labels: tuple[str, ...] | None = None
    excluded: Excluded | None = None

    @classmethod
    def of(
        cls,
        source: str,
        rows: np.ndarray,
        columns: tuple[str, ...] | None,
        labels: tuple[str, ...] | None = None,
        excluded: Excluded | None = None,
    ) -> Dataset:
        digest = hashlib.sha256(str(rows.shape).encode())
        digest.update(np.ascontiguousarray(rows, dtype="<f4").data)
        return cls(source, torch.from_numpy(rows), columns, digest.hexdigest(), labels, excluded)

    @property
    def row_shape(self) -> tuple[int, ...]:
        return tuple(self.rows.shape[1:])


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts of a data set: float32 [n_i, *row_shape]; the labels of the third if there are any."""

    train: Tensor
    early_stop: Tensor
    calibration: Tensor
    calibration_labels: tuple[str, ...] | None = None

    def sizes(self) -> dict[str, int]:
        return {name: len(getattr(self, name)) for name in ("train", "early_stop", "calibration")}


def load(config: FitConfig) -> Dataset:
    """Read all rows of `config.data` that are not excluded. Raises DataError."""
    if config.exclude_label and config.label is None:
        raise DataError("--exclude-label needs --label COLUMN: the column to look at")
    try:
        file = open_source(config.data)
        columns = _columns(file, config)
        rows, labels, excluded = _read(file, columns, config)
    except FileError as error:
        hint = " (--ignore COLUMN leaves a column out)" if "is not a number" in str(error) else ""
        raise DataError(f"{error}{hint}") from error
    _check(config.data, rows, columns)
    return Dataset.of(Path(config.data).name, rows, columns, labels, excluded)


def open_source(source: str) -> RowFile:
    """What `--data` names: built-in rows, or a file or folder. Raises FileError."""
    if source == DIGITS:
        return _digits()
    if source == SPRITES:
        shape = (sprites.SIDE, sprites.SIDE)
        return _Sprites(Path(SPRITES), None, shape, rows=sprites.COUNT // 16, extras=tuple(sprites.FACTORS))
    return open_rows(Path(source))


def counting_column(dataset: Dataset) -> str | None:
    """A column that only counts the rows, 0, 1, 2, … or 1, 2, 3, …: an index that a table was saved with."""
    counts = torch.arange(len(dataset.rows), dtype=torch.float32)
    for number, name in enumerate(dataset.columns or ()):
        column = dataset.rows[:, number]
        if torch.equal(column - column[0], counts) and column[0] in (0, 1):
            return name
    return None


def copies(dataset: Dataset) -> float:
    """Share of rows that stand before them, number for number."""
    rows = np.ascontiguousarray(dataset.rows.flatten(1).numpy())
    return 1 - len({hash(row.tobytes()) for row in rows}) / len(rows)


def split(dataset: Dataset, seed: int) -> Splits:
    """70 % train, 10 % early stop, 20 % calibration, drawn by `seed`."""
    n = len(dataset.rows)
    order = np.random.default_rng(seed).permutation(n)
    parts = np.split(order, np.cumsum([round(n * share) for share in _SHARES]))
    train, early_stop, calibration = (dataset.rows[torch.from_numpy(part)] for part in parts)
    labels = dataset.labels and tuple(dataset.labels[row] for row in parts[-1])
    return Splits(train, early_stop, calibration, labels)


class _Digits(RowFile):
    """scikit-learn's 1,797 handwritten digits, 8 x 8, grey levels 0 to 16; part of the package, no network."""

    def _batches(self, size: int) -> Iterator[ArrayBatch]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        yield ArrayBatch(self.path, 0, digits.images, None, {"label": digits.target})


def _digits() -> RowFile:
    return _Digits(Path(DIGITS), columns=None, row_shape=(8, 8), rows=1797, extras=("label",))


class _Sprites(RowFile):
    """46,080 of the 737,280 sprites, always the same ones, their pixels 0 or 1: all of them would fill 12 GB."""

    def _batches(self, size: int) -> Iterator[ArrayBatch]:
        drawn = np.random.default_rng(0).permutation(sprites.COUNT)[: self.rows]
        for start in range(0, len(drawn), size):
            numbers = drawn[start : start + size]
            factors = dict(zip(sprites.FACTORS, sprites.factors(numbers).T, strict=True))
            yield ArrayBatch(self.path, start, sprites.images(numbers), None, factors)


def _columns(file: RowFile, config: FitConfig) -> tuple[str, ...] | None:
    """The columns of a row, None for rows without columns. Raises DataError, FileError."""
    apart = {*config.ignore, *([config.label] if config.label is not None else [])}
    known = (*(file.columns or ()), *file.extras)
    for name in sorted(apart):
        if name not in known:
            raise no_such_column(file.path, name, known)
    if file.columns is None:
        return None
    columns = tuple(name for name in file.columns if name not in apart)
    if not columns:
        raise DataError(f"{file.path}: no column is left to learn from")
    return columns


def _read(
    file: RowFile, columns: tuple[str, ...] | None, config: FitConfig
) -> tuple[np.ndarray, tuple[str, ...] | None, Excluded | None]:
    """float32 [n, *row_shape] and the labels [n] of the rows that are not excluded, and some that are.

    Raises DataError, FileError.
    """
    kept: list[np.ndarray] = []
    kept_labels: list[str] = []
    wanted = {canonical(label) for label in config.exclude_label}
    found: set[str] = set()
    excluded = _Drawn(config.seed)
    for batch in file.batches(_READ_ROWS):
        rows = batch.numbers(columns)
        if config.label is not None:
            labels = batch.column(config.label).to_pylist()
            names = [canonical(label) for label in labels]
            found.update(names)
            apart = np.array([name in wanted for name in names], dtype=bool)
            shown = np.array([_shown(label) for label in labels], dtype=object)
            if apart.any():
                excluded.add(rows[apart], shown[apart])
                rows, shown = rows[~apart], shown[~apart]
            kept_labels += shown.tolist()
        kept.append(rows)
    for label in config.exclude_label:
        if canonical(label) not in found:
            raise DataError(f"{file.path}: no row has the label {label!r}{nearest(canonical(label), sorted(found))}")
    whole = np.concatenate(kept) if kept else np.empty((0, *file.row_shape), dtype=np.float32)
    return whole, None if config.label is None else tuple(kept_labels), excluded.drawn()


class _Drawn:
    """At most MOST_EXCLUDED of all rows that come by, each as likely as any other: those with the smallest lots."""

    def __init__(self, seed: int) -> None:
        self._random, self._total = np.random.default_rng(seed), 0
        self._rows: np.ndarray | None = None
        self._labels, self._lots = np.empty(0, dtype=object), np.empty(0)

    def add(self, rows: np.ndarray, labels: np.ndarray) -> None:
        lots = np.concatenate([self._lots, self._random.random(len(rows))])
        kept = np.sort(np.argsort(lots)[:MOST_EXCLUDED])
        self._total += len(rows)
        self._lots, self._labels = lots[kept], np.concatenate([self._labels, labels])[kept]
        self._rows = (rows if self._rows is None else np.concatenate([self._rows, rows]))[kept]

    def drawn(self) -> Excluded | None:
        if self._rows is None:
            return None
        return Excluded(torch.from_numpy(self._rows), tuple(self._labels), self._total)


def canonical(label: object) -> str:
    """3, 3.0 and '3' are one label."""
    text = str(label)
    try:
        return repr(float(text))
    except ValueError:
        return text


def _shown(label: object) -> str:
    if label is None:
        return "without label"
    # Interned: of millions of rows with a few labels, a few texts are kept.
    return sys.intern(f"{label:g}" if isinstance(label, float) else str(label))


def _check(source: str, rows: np.ndarray, columns: tuple[str, ...] | None) -> None:
    """Raises DataError when there are too few rows, or nothing in them to learn."""
    if not len(rows):
        raise DataError(f"{source}: no row is left to learn from: every label is among --exclude-label")
    if len(rows) < MIN_ROWS:
        raise DataError(
            f"{source}: {len(rows)} row{'s' * (len(rows) != 1)} to learn from, but the three splits "
            f"(train, early stop, calibration) need at least {MIN_ROWS}"
        )
    low, high = rows.min(axis=0), rows.max(axis=0)
    if columns is not None:
        if constant := [name for name, same in zip(columns, low == high, strict=True) if same]:
            raise DataError(
                f"{source}: constant columns carry nothing to learn: --ignore {','.join(constant)} leaves them out"
            )
    elif low.min() == high.max():
        raise DataError(f"{source}: every number is {low.min():g}: nothing to learn")
