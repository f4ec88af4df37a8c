"""The rows a model is evaluated on, as its graphs take them, and their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from hourglass.contract.manifest import Manifest
from hourglass.files import Batch, FileError, RowFile, encoding, no_such_column
from training import data
from training.data import MIN_ROWS, SPRITES, Dataset
from training.errors import DataError, nearest
from training.reservoir import capacity, drawn
from training.scaling import Scaling
from training.series import Cut, WindowFile, windows

_BLACK_WHITE = torch.tensor([0.0, 1.0])
_READ_ROWS = 8192
# What a label says that is no anomaly's.
_NORMAL = {data.canonical(word) for word in ("0", "false", "no", "normal", "ok")}
# Of each label. Rows are divided twice, which takes 2 of each both times; of 4, the first time leaves at least 2, since
# it leaves half of all rows or more: see `subject.divide`.
MIN_LABEL_ROWS = 4


@dataclass(frozen=True)
class Labels:
    """column: their name; values: what they are called; numbers: int64 [n], positions in `values`."""

    column: str
    values: tuple[str, ...]
    numbers: np.ndarray

    def among(self, wanted: Sequence[str], source: str) -> np.ndarray:
        """bool [n]: which rows have one of these labels. Raises DataError when none has one of them."""
        known = [data.canonical(value) for value in self.values]
        for label in wanted:
            if data.canonical(label) not in known:
                raise DataError(
                    f"{source}: no row has the {self.column} {label!r}{nearest(data.canonical(label), self.values)}"
                )
        is_wanted = np.isin(known, [data.canonical(label) for label in wanted])
        chosen: np.ndarray = is_wanted[self.numbers]
        return chosen


@dataclass(frozen=True)
class Data:
    """rows: float32 [n, *row_shape] in input units, NaN where a cell is missing, of the `read` ones of the source.

    excluded: bool [n], whether a row has a label that the fit excluded. fitted_rows: where the model was fitted on the
    same source, the rows that trained it or stopped its training are left out, or included if its splits are unknown.
    left_out: these rows, float32 [m, *row_shape] in input units. starts: of windows, int64 [n], the rows of the series
    that they begin at; marked: bool, of each row of the series, whether its label marks the windows it is part of.
    """

    source: str
    rows: np.ndarray
    labels: Labels | None
    excluded: np.ndarray
    read: int
    fitted_rows: Literal["none known", "left out", "included"] = "none known"
    left_out: np.ndarray | None = None
    starts: np.ndarray | None = None
    marked: np.ndarray | None = None

    def take(self, chosen: np.ndarray) -> Data:
        """chosen: bool [n], or positions."""
        labels = self.labels and replace(self.labels, numbers=self.labels.numbers[chosen])
        starts = None if self.starts is None else self.starts[chosen]
        return replace(self, rows=self.rows[chosen], labels=labels, excluded=self.excluded[chosen], starts=starts)


def says_normal(label: object) -> bool:
    return data.canonical(str(label).strip().lower()) in _NORMAL


def read(source: str, manifest: Manifest, label: str | None, marking: Sequence[str] = ()) -> Data:
    """source: as --data of a fit; columns that the model does not take are left out. marking: labels that a window has
    as soon as one of its rows has them, beside those that the fit excluded; if there are none of either, those that do
    not say normal. Raises DataError."""
    try:
        whole = _read(source, manifest, label, marking)
    except FileError as error:
        raise DataError(str(error)) from error
    usual = len(whole.rows) - int(whole.excluded.sum())
    if usual < MIN_ROWS:
        excluded = f", without {len(whole.rows) - usual:,} whose label the fit excluded" * bool(whole.excluded.any())
        raise DataError(f"{source}: {usual} rows to evaluate on{excluded}, but at least {MIN_ROWS} are needed")
    return whole


def _read(source: str, manifest: Manifest, label: str | None, marking: Sequence[str]) -> Data:
    """Raises DataError, FileError."""
    file = data.open_source(source)
    if source == SPRITES and not torch.equal(Scaling.published(manifest)(_BLACK_WHITE), _BLACK_WHITE):
        raise DataError("sprites: 0 is black and 1 white, but the model was fitted on images of another range")
    known = (*(file.columns or ()), *file.extras)
    if label is not None:
        _check_label(label, file, manifest, known)
    fit = manifest.provenance.config
    excluding = fit["label"] if fit.get("exclude_label") and fit["label"] in known else None
    cells: dict[str, list[Any]] = {name: [] for name in (label, excluding) if name is not None}
    cut = _windows(file, manifest, tuple(cells), marking) if manifest.window and file.columns else None
    parts: list[np.ndarray] = []
    for batch in (cut or file).batches(_READ_ROWS):
        parts.append(_numbers(batch, cut or file, manifest))
        for name, column in cells.items():
            column += batch.column(name).to_pylist()
    rows = np.concatenate(parts)
    labels = _labels(source, label, cells[label]) if label is not None else None
    excluded = _excluded(len(rows), fit.get("exclude_label", ()), cells[excluding] if excluding else None)
    whole = Data(source, rows, labels, excluded, len(rows))
    if cut is not None:
        whole = replace(whole, starts=cut.starts, marked=cut.marked_rows())
    return _without_fitted(whole, manifest)


def _numbers(batch: Batch, file: RowFile, manifest: Manifest) -> np.ndarray:
    """float32 [n, *row_shape]. Raises FileError, DataError."""
    if manifest.row_schema is not None and file.columns is not None:
        return encoding.rows(batch, manifest.row_schema, takes_missing=manifest.takes_missing)
    if list(file.row_shape) != manifest.row_shape:
        found, taken = (" × ".join(map(str, shape)) for shape in (file.row_shape, manifest.row_shape))
        raise DataError(f"{file.path}: rows of {found}, but the model takes {taken}")
    return batch.numbers(missing=manifest.takes_missing)


def _windows(file: RowFile, manifest: Manifest, labels: Sequence[str], marking: Sequence[str]) -> WindowFile:
    """Of a series, cut as those of the fit. Raises FileError, DataError."""
    schema, window, fit = manifest.row_schema, manifest.window, manifest.provenance.config
    assert schema
    assert window
    time = manifest.aside.time if manifest.aside.time in (file.columns or ()) else None
    marks = {data.canonical(label) for label in (*fit.get("exclude_label", ()), *marking)}
    return windows(
        file,
        schema,
        Cut(window.length, fit.get("stride"), time, fit.get("max_rows")),
        lambda batch: encoding.rows(batch, schema, takes_missing=manifest.takes_missing),
        labels,
        lambda label: data.canonical(label) in marks if marks else not says_normal(label),
    )


def _check_label(label: str, file: RowFile, manifest: Manifest, known: Sequence[str]) -> None:
    """Raises FileError, DataError."""
    if label not in known:
        raise no_such_column(file.path, label, known)
    if label in (manifest.row_schema.names if manifest.row_schema else file.columns or ()):
        raise DataError(f"{file.path}: --label {label} is a column that the model takes: its embedding has seen it")


def _labels(source: str, column: str, cells: Sequence[Any]) -> Labels:
    """Raises DataError."""
    for row, cell in enumerate(cells):
        if cell is None or cell != cell or not str(cell).strip():
            raise DataError(f"{source}, row {row} (the first is 0): no {column}: fill it in or remove the row")
    values, numbers = np.unique([str(cell).strip() for cell in cells], return_inverse=True)
    return Labels(column, tuple(values.tolist()), numbers.astype(np.int64))


def check_labels(source: str, labels: Labels) -> None:
    """Raises DataError when they are no classes to tell apart."""
    counts = Counter(labels.numbers.tolist())
    if len(counts) == 1:
        (only,) = counts
        raise DataError(f"{source}: every {labels.column} is {labels.values[only]!r}: nothing to tell apart")
    rarest, count = min(counts.items(), key=lambda item: item[1])
    if count < MIN_LABEL_ROWS:
        raise DataError(
            f"{source}: {labels.column} is {labels.values[rarest]!r} in {count} of {len(labels.numbers):,} rows "
            f"({len(counts):,} different labels): at least {MIN_LABEL_ROWS} rows of each are needed"
        )


def _excluded(rows: int, exclude: Sequence[str], cells: Sequence[Any] | None) -> np.ndarray:
    """bool [rows]: whose label is one of `exclude`. cells: their labels, None where the source has none."""
    if cells is None:
        return np.zeros(rows, dtype=bool)
    labels = {data.canonical(label) for label in exclude}
    return np.array([data.canonical(cell) in labels for cell in cells])


def _without_fitted(whole: Data, manifest: Manifest) -> Data:
    """Without the rows that trained the model or stopped its training, where it was fitted on these, or drew its rows
    from these."""
    provenance, usual = manifest.provenance, np.flatnonzero(~whole.excluded)
    schema = manifest.row_schema
    numbers = len(schema.expanded) if schema and not manifest.window else whole.rows[0].size
    most = provenance.config.get("max_rows") or capacity(numbers)
    usual = usual[drawn(len(usual), most, provenance.seed)]
    fitted = Dataset.of(whole.source, whole.rows[usual], schema)
    if fitted.sha256 != provenance.data_sha256:
        return whole
    starts = None if whole.starts is None else whole.starts[usual]
    positions = replace(fitted, rows=torch.from_numpy(usual), window=manifest.window, starts=starts)
    splits = data.split(positions, provenance.seed)
    if splits.sizes() != provenance.rows:
        return replace(whole, fitted_rows="included")
    seen = np.sort(np.concatenate([splits.train.numpy(), splits.early_stop.numpy()]))
    kept = np.setdiff1d(np.arange(len(whole.rows)), seen)
    return replace(whole.take(kept), fitted_rows="left out", left_out=whole.rows[seen])
