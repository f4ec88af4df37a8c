"""Data sets: files -> float32 tensors, and three disjoint splits of them."""

from __future__ import annotations

import hashlib
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hourglass.contract.manifest import Window
from hourglass.contract.schema import Schema
from hourglass.files import Batch, FileError, RowFile, no_such_column, open_rows
from hourglass.files.encoding import encode, refused
from hourglass.files.rows import ArrayBatch
from training import sprites
from training.columns import Inferred, infer
from training.config import FitConfig
from training.errors import DataError, nearest
from training.reservoir import Reservoir, capacity
from training.series import Cut, WindowFile, windows
from training.windows import blocks

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
    """rows: float32 [n, *row_shape] in the file's units, as `schema` encodes them; schema: None for images.

    labels: [n], as people read them; None where no column was named. excluded: not part of the rows, nor of the sha256;
    None where no label is excluded. total: how many rows there were to draw these from. inferred: what the file's
    columns hold, None where it has none. window: how a series is cut, where rows are windows; starts: int64 [n], the
    rows of the series that they begin at; findings: what is irregular about its times, for people.
    """

    source: str
    rows: Tensor
    schema: Schema | None
    sha256: str
    labels: tuple[str, ...] | None = None
    excluded: Excluded | None = None
    total: int | None = None
    inferred: Inferred | None = None
    window: Window | None = None
    starts: np.ndarray | None = None
    findings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        source: str,
        rows: np.ndarray,
        schema: Schema | None,
        labels: tuple[str, ...] | None = None,
        excluded: Excluded | None = None,
        total: int | None = None,
        inferred: Inferred | None = None,
    ) -> Dataset:
        digest = hashlib.sha256(str(rows.shape).encode())
        digest.update(np.ascontiguousarray(rows, dtype="<f4").data)
        return cls(source, torch.from_numpy(rows), schema, digest.hexdigest(), labels, excluded, total, inferred)

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of a table's columns, None for images."""
        return None if self.schema is None else self.schema.names

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


def load(config: FitConfig, *, takes_missing: bool = False, watch: Callable[[float], None] | None = None) -> Dataset:
    """Read the rows of `config.data` that are not excluded, or as many of them, drawn at random, as fit in memory.

    takes_missing: whether cells may be missing, NaN. watch: told how much of the file was read, each time that it is.
    Raises DataError.
    """
    if config.exclude_label and config.label is None:
        raise DataError("--exclude-label needs --label COLUMN: the column to look at")
    if config.stride is not None and config.window is None:
        raise DataError("--stride needs --window LENGTH: the rows of a window")
    try:
        file = open_source(config.data)
        file.watch = watch
        columns = _columns(file, config)
        inferred = None if columns is None else infer(file, columns, config.columns)
        schema = None if inferred is None else inferred.schema
        cut = None if config.window is None else _windows(file, schema, config, takes_missing)
        # Windows come encoded.
        kept, excluded = _read(cut or file, None if cut else schema, config, takes_missing and schema is not None)
    except FileError as error:
        hint = " (--ignore COLUMN leaves a column out)" if "is not a number" in str(error) else ""
        raise DataError(f"{error}{hint}") from error
    rows = kept.rows((cut or file).row_shape)
    _check(config.data, rows if cut is None else rows.reshape(-1, rows.shape[-1]), columns)
    labels = None if config.label is None else tuple(kept.labels)
    dataset = Dataset.of(Path(config.data).name, rows, schema, labels, excluded, kept.total, inferred)
    if cut is None:
        return dataset
    window = cut.window(config.stride)
    return replace(dataset, window=window, starts=cut.starts[~cut.marked_windows()], findings=cut.series.findings)


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
    rows = dataset.rows
    if dataset.starts is not None:  # the first of each window's
        counts, rows = torch.from_numpy(dataset.starts - dataset.starts[0]).float(), rows[:, 0]
    for number, name in enumerate(dataset.columns or ()):
        column = rows[:, number]
        if torch.equal(column - column[0], counts) and column[0] in (0, 1):
            return name
    return None


def copies(dataset: Dataset) -> float:
    """Share of rows that stand before them, number for number."""
    rows = np.ascontiguousarray(dataset.rows.flatten(1).numpy())
    return 1 - len({hash(row.tobytes()) for row in rows}) / len(rows)


def split(dataset: Dataset, seed: int) -> Splits:
    """70 % train, 10 % early stop, 20 % calibration, drawn by `seed`; windows of a series in order of time, with at
    least a window between splits. Raises DataError for a series that is too short."""
    n = len(dataset.rows)
    if dataset.window is not None:
        assert dataset.starts is not None
        cut = blocks(dataset.starts, dataset.window.length, _SHARES, dataset.source)
        labels = dataset.labels and dataset.labels[cut[-1]]
        return Splits(dataset.rows[cut[0]], dataset.rows[cut[1]], dataset.rows[cut[2]], labels)
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
    apart = {*config.ignore, *(name for name in (config.label, config.id, config.time) if name is not None)}
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


def _windows(file: RowFile, schema: Schema | None, config: FitConfig, takes_missing: bool) -> WindowFile:
    """Raises DataError, FileError."""
    if schema is None:
        raise DataError(f"{file.path}: --window cuts the rows of a table, and this has images or arrays of rank 3")
    assert config.window is not None
    wanted = {canonical(label) for label in config.exclude_label}
    return windows(
        file,
        schema,
        Cut(config.window, config.stride, config.time, config.max_rows),
        lambda batch: _numbers(batch, schema, takes_missing),
        [] if config.label is None else [config.label],
        lambda label: canonical(label) in wanted,
    )


def _read(
    file: RowFile, schema: Schema | None, config: FitConfig, takes_missing: bool
) -> tuple[Reservoir, Excluded | None]:
    """The rows that are not excluded and their labels, and some that are. Raises DataError, FileError."""
    numbers = len(schema.expanded) if schema else math.prod(file.row_shape)
    kept = Reservoir(config.max_rows or capacity(numbers), config.seed)
    excluded = Reservoir(MOST_EXCLUDED, config.seed)
    wanted = {canonical(label) for label in config.exclude_label}
    found: set[str] = set()
    for batch in file.batches(_READ_ROWS):
        rows = _numbers(batch, schema, takes_missing)
        if config.label is None:
            kept.add(rows)
            continue
        labels = batch.column(config.label).to_pylist()
        names = [canonical(label) for label in labels]
        found.update(names)
        apart = np.array([name in wanted for name in names], dtype=bool)
        shown = np.array([_shown(label) for label in labels], dtype=object)
        excluded.add(rows[apart], shown[apart])
        kept.add(rows[~apart], shown[~apart])
    for label in config.exclude_label:
        if canonical(label) not in found:
            raise DataError(f"{file.path}: no row has the label {label!r}{nearest(canonical(label), sorted(found))}")
    if not excluded.total:
        return kept, None
    apart_rows = torch.from_numpy(excluded.rows(file.row_shape))
    return kept, Excluded(apart_rows, tuple(excluded.labels), excluded.total)


def _numbers(batch: Batch, schema: Schema | None, takes_missing: bool) -> np.ndarray:
    """float32 [n, *row_shape]. Raises FileError, DataError."""
    if schema is None:
        return batch.numbers(missing=takes_missing)
    encoded = encode(batch, schema, takes_missing=takes_missing)
    if not encoded.problems:
        return encoded.rows
    problem, *_ = encoded.problems
    error = refused(batch, problem)
    if np.isnan(encoded.rows[problem.row, schema.names.index(problem.column)]):
        raise DataError(f"{error}; --variant denoising, with masking noise, learns from rows with holes and fills them")
    raise error


def canonical(label: object) -> str:
    """3, 3.0, '3' and ' 3' are one label."""
    text = str(label).strip()
    try:
        return repr(float(text))
    except ValueError:
        return text


def _shown(label: object) -> str:
    if label is None:
        return "without label"
    # Interned: of millions of rows with a few labels, a few texts are kept.
    return sys.intern(f"{label:g}" if isinstance(label, float) else str(label).strip())


def _check(source: str, rows: np.ndarray, columns: tuple[str, ...] | None) -> None:
    """Raises DataError when there are too few rows, or nothing in them to learn."""
    if not len(rows):
        raise DataError(f"{source}: no row is left to learn from: every label is among --exclude-label")
    if len(rows) < MIN_ROWS:
        raise DataError(
            f"{source}: {len(rows)} row{'s' * (len(rows) != 1)} to learn from, but the three splits "
            f"(train, early stop, calibration) need at least {MIN_ROWS}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a column without values among these rows
        low, high = np.nanmin(rows, axis=0), np.nanmax(rows, axis=0)
    if columns is not None:
        if constant := [name for name, same in zip(columns, ~(low < high), strict=True) if same]:
            raise DataError(
                f"{source}: constant columns carry nothing to learn: --ignore {','.join(constant)} leaves them out"
            )
    elif low.min() == high.max():
        raise DataError(f"{source}: every number is {low.min():g}: nothing to learn")
