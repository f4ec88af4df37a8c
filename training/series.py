"""A file of a time series as a file of windows, for all that read rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hourglass.contract.manifest import Window
from hourglass.contract.schema import Schema
from hourglass.files import Batch, RowFile
from hourglass.files.rows import ArrayBatch
from hourglass.files.timestamps import TimeColumn
from training.errors import DataError
from training.windows import MOST_WINDOWS, Series, learned_stride, served_stride

_READ_ROWS = 65_536
_MOST_NUMBERS = 2**27  # of all windows: 512 MiB


@dataclass(frozen=True)
class Cut:
    """How a series is cut into windows to learn from: as --window, --stride, --time and --max-rows say."""

    length: int
    stride: int | None
    time: str | None
    most: int | None = None


@dataclass
class WindowFile(RowFile):
    """rows: windows, float32 [n, length, channels]. A label of theirs is that of their last row, or of the first of
    their rows whose label is `marking`: of a window with one anomalous row, that row's.

    series: its rows. starts: of each window, int64 [n]. labels: by column, of each row of the series.
    """

    series: Series = field(kw_only=True)
    starts: np.ndarray = field(kw_only=True)
    labels: Mapping[str, Sequence[object]] = field(kw_only=True)
    marking: Callable[[object], bool] = field(kw_only=True)

    def _batches(self, size: int) -> Iterator[ArrayBatch]:
        labels = {name: self._of_windows(of_rows) for name, of_rows in self.labels.items()}
        for first in range(0, len(self.starts), size):
            part = slice(first, first + size)
            values = self.series.windows(self.starts[part], self.row_shape[0])
            extras = {name: of_windows[part] for name, of_windows in labels.items()}
            yield ArrayBatch(self.path, first, values, None, extras)

    def window(self, stride: int | None) -> Window:
        """For the manifest. stride: as it was asked for."""
        length, _ = self.row_shape
        return Window(length=length, stride=stride or served_stride(length), step_seconds=self.series.step_seconds)

    def marked_rows(self) -> np.ndarray:
        """Which rows of the series have a label that marks windows: bool [rows]."""
        marked = np.zeros(len(self.series.rows), dtype=bool)
        for labels in self.labels.values():
            marked |= np.array([self.marking(label) for label in labels], dtype=bool)
        return marked

    def marked_windows(self) -> np.ndarray:
        """Which windows have such a row: bool [n]."""
        before = np.concatenate([[0], self.marked_rows().cumsum()])
        marked: np.ndarray = before[self.starts + self.row_shape[0]] > before[self.starts]
        return marked

    def _of_windows(self, labels: Sequence[object]) -> np.ndarray:
        """object [n]."""
        rows = len(labels)
        marked = np.array([self.marking(label) for label in labels], dtype=bool)
        # From each row on, the first that is marked.
        following = np.minimum.accumulate(np.where(marked, np.arange(rows), rows)[::-1])[::-1][self.starts]
        last = self.starts + self.row_shape[0] - 1
        found = np.empty(len(self.starts), dtype=object)
        found[:] = [labels[row] for row in np.where(following <= last, following, last).tolist()]
        return found


def windows(
    file: RowFile,
    schema: Schema,
    cut: Cut,
    encode: Callable[[Batch], np.ndarray],
    labels: Sequence[str] = (),
    marking: Callable[[object], bool] = lambda label: False,
) -> WindowFile:
    """Reads a series. encode: a batch's rows, float32 [n, channels]. labels: columns to keep.

    Raises DataError, FileError.
    """
    if other := [column for column in schema.columns if column.type != "numeric"]:
        names = ",".join(column.name for column in other)
        raise DataError(
            f"{file.path}: windows are of numeric columns, but {other[0].name!r} is {other[0].type}: --ignore {names} "
            "leaves out what is not numeric"
        )
    times = None if cut.time is None else TimeColumn(cut.time)
    rows, seconds = [], []
    cells: dict[str, list[object]] = {name: [] for name in labels}
    for batch in file.batches(_READ_ROWS):
        rows.append(encode(batch))
        if times is not None:
            seconds.append(times.seconds(batch))
        for name, kept in cells.items():
            kept += batch.column(name).to_pylist()
    series = Series.of(np.concatenate(rows), np.concatenate(seconds) if times else None, cut.length)
    most = min(cut.most or MOST_WINDOWS, _MOST_NUMBERS // (cut.length * len(schema.columns)))
    starts = series.starts(cut.length, cut.stride or learned_stride(series, cut.length, most))
    if not len(starts):
        pieces, hint = "", ""
        if len(series.pieces) > 1:
            pieces = f" in {len(series.pieces):,} pieces between gaps"
            hint = f": --ignore {cut.time} in place of --time takes them to follow one another without gaps"
        raise DataError(f"{file.path}: {len(series.rows):,} rows{pieces} are less than a window of {cut.length}{hint}")
    return WindowFile(
        file.path,
        None,
        (cut.length, len(schema.columns)),
        len(starts),
        tuple(labels),
        series=series,
        starts=starts,
        labels=cells,
        marking=marking,
    )
