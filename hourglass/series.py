"""A file of a series through a model of windows: cut on the way in, and answered row by row or window by window."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from hourglass.batches import Taken
from hourglass.client import Client
from hourglass.contract.manifest import Window
from hourglass.files import Batch, FileError, RowFile
from hourglass.files.cells import value_of
from hourglass.files.timestamps import TimeColumn, Timeline
from hourglass.models import ModelInfo
from hourglass.outputs import DenoiseOutput, Output, ScoreOutput
from hourglass.selection import Selection
from hourglass.windows import Covering, Cutter, Rows, Windows

_MOST_ROWS = 65_536  # of the file at once
_STRETCHES = 10


class Series:
    """The windows of a file, in messages, and its other columns, until what they stand beside is answered.

    keep: columns to copy. time: the column that gaps are found by, None where there is none.
    """

    def __init__(
        self, file: RowFile, selection: Selection, window: Window, keep: Sequence[str], time: str | None
    ) -> None:
        self._file, self._selection, self._window = file, selection, window
        self._keep = tuple(keep)
        self._cutter = Cutter(window.length, window.stride)
        self._times = None if time is None else TimeColumn(time)
        self._timeline = Timeline(window.step_seconds, window.length) if time and window.step_seconds else None
        self._starts: deque[np.ndarray] = deque()
        self._kept: deque[pa.Table] = deque()
        self._first_kept = 0
        self.rows = self._windows = 0
        first = next(file.batches(1))
        self.fields = [pa.field(name, first.column(name).type) for name in self._keep]

    def messages(self, size: int) -> Iterator[np.ndarray]:
        """float32 [w, length, channels], at most `size` windows each. Raises FileError."""
        for batch in self._file.batches(min(_MOST_ROWS, size * self._window.stride)):
            rows = self._selection.take(batch)
            after_gap = self._after_gap(batch)
            if self._keep:
                self._kept.append(pa.table({name: batch.column(name) for name in self._keep}))
            self.rows += len(rows)
            yield from self._split(self._cutter.add(rows, after_gap), size)
        yield from self._split(self._cutter.end(), size)
        if not self._windows:
            pieces = ", and gaps between them," if self._timeline and self._timeline.gaps else ""
            length = self._window.length
            raise FileError(
                f"{self._file.path}: {self.rows:,} rows{pieces} are less than one window: the model takes {length} "
                "rows that follow one another"
            )

    def starts(self) -> np.ndarray:
        """Where the windows of the next message begin: int64 [w], rows of the file."""
        return self._starts.popleft()

    def columns(self, count: int) -> list[pa.Array]:
        """Of the columns to copy, the next `count` rows."""
        taken: list[pa.Table] = []
        while count and self._kept:
            table = self._kept.popleft()
            taken.append(table.slice(0, count))
            if table.num_rows > count:
                self._kept.appendleft(table.slice(count))
            count -= taken[-1].num_rows
        self._first_kept += sum(table.num_rows for table in taken)
        columns = pa.concat_tables([pa.schema(self.fields).empty_table(), *taken]).columns
        return [column.combine_chunks() for column in columns]

    def ends(self, starts: np.ndarray) -> list[pa.Array]:
        """The first and the last row of windows that begin there: numbers of rows, then each column to copy."""
        self.columns(int(starts[0]) - self._first_kept)  # no window begins earlier
        last = starts + self._window.length - 1
        found = [pa.array(starts), pa.array(last)]
        if self._keep:
            kept = pa.concat_tables(self._kept)
            for name in self._keep:
                found += [
                    kept[name].take(pa.array(rows - self._first_kept)).combine_chunks() for rows in (starts, last)
                ]
        return found

    @property
    def end_fields(self) -> list[pa.Field]:
        """Of the columns of `ends`."""
        rows = [pa.field(f"{end}_row", pa.int64()) for end in ("first", "last")]
        return rows + [
            pa.field(f"{end}_{field.name}", field.type) for field in self.fields for end in ("first", "last")
        ]

    @property
    def end_names(self) -> tuple[str, str]:
        """What people know a window's ends by: their times, or what else is copied first; else the rows' numbers."""
        name = self._keep[0] if self._keep else "row"
        return f"first {name}", f"last {name}"

    def findings(self) -> list[str]:
        """What somebody who trusts the answers should know of the file's times."""
        return [] if self._timeline is None else self._timeline.findings()

    def _after_gap(self, batch: Batch) -> np.ndarray:
        if self._times is None:
            return np.empty(0, dtype=np.int64)
        seconds = self._times.seconds(batch)
        return np.empty(0, dtype=np.int64) if self._timeline is None else self._timeline.add(seconds)

    def _split(self, windows: Windows, size: int) -> Iterator[np.ndarray]:
        self._windows += len(windows.starts)
        for start in range(0, len(windows.starts), size):
            self._starts.append(windows.starts[start : start + size])
            yield windows.values[start : start + size]


class RowScores(NamedTuple):
    """Of consecutive rows of a series. score, p_value: float32 [n], NaN of rows that are part of no window. is_anomaly:
    bool [n]. windows: int64 [n], how many windows a row is part of."""

    score: np.ndarray
    p_value: np.ndarray
    is_anomaly: np.ndarray
    windows: np.ndarray


def row_scores(rows: Rows) -> RowScores:
    """From what windows say of rows: values [n, most, 3] of score, p-value and verdict.

    The score is the windows' mean. A row is an anomaly when at least half of its windows are; its p-value is that which
    at least half of the windows' p-values are at most, times how many windows there are over that half: both hold
    however the windows depend on each other, at twice the windows' false-alarm rate (Rüger 1978; Vovk & Wang 2020,
    "Combining p-values via averaging").
    """
    count = rows.covering
    half = (count + 1) // 2
    called = np.nansum(rows.values[:, :, 2], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        p_value = np.minimum(1.0, Rows(count, rows.values[:, :, 1]).at_least_half() * (count / half))
    score = Rows(count, rows.values[:, :, 0]).mean()
    return RowScores(score, p_value.astype(np.float32), (count > 0) & (2 * called >= count), count)


class PerWindow(Output[Any]):
    """What another output has of windows, one row each, behind where they begin and end: numbers of the file's rows,
    and the copied columns there."""

    def __init__(self, model: ModelInfo, inner: Output[Any], series: Series) -> None:
        super().__init__(model)
        self._inner, self._series = inner, series
        self.row_shape = inner.row_shape
        self.schema = pa.schema([*series.end_fields, *inner.schema])
        inner.ends = series.end_names
        self._ends: list[pa.Array] = []

    @property
    def metadata(self) -> dict[str, str]:
        return self._inner.metadata

    def rows_per_message(self, client: Client) -> int:
        return self._inner.rows_per_message(client)

    def ask(self, client: Client, batches: Any) -> Iterator[Any]:
        for answer in self._inner.ask(client, batches):
            self._ends = self._series.ends(self._series.starts())
            yield answer

    def numbers(self, answer: Any, taken: Taken | None) -> np.ndarray:
        return self._inner.numbers(answer, None)

    def arrays(self, answer: Any, taken: Taken | None) -> list[pa.Array]:
        return [*self._ends, *self._inner.arrays(answer, None)]

    def see(self, answer: Any, taken: Taken | None, ids: Sequence[pa.Array]) -> None:
        self._inner.see(answer, None, self._ends[2:4] or self._ends[:2])

    def show(self, console: Console, rows: bool) -> None:
        self._inner.show(console, rows)


class _PerRow(Output[Any]):
    """One answer for each row of the series, from those of the windows it is part of, behind the copied columns."""

    def __init__(self, model: ModelInfo, inner: Output[Any], series: Series) -> None:
        super().__init__(model)
        assert model.window
        self._inner, self._series, self._window = inner, series, model.window
        self._columns: list[pa.Array] = []

    def rows_per_message(self, client: Client) -> int:
        return self._inner.rows_per_message(client)

    def _rows_of(
        self, answers: Iterator[Any], shape: tuple[int, ...], said: Callable[[Any], np.ndarray]
    ) -> Iterator[Rows]:
        """said: what an answer says of its windows' rows: [w, length, *shape]."""
        covering = Covering(self._window.length, self._window.stride, shape)
        for answer in answers:
            yield self._with_columns(covering.add(self._series.starts(), said(answer)))
        yield self._with_columns(covering.end(self._series.rows))

    def _with_columns(self, rows: Rows) -> Rows:
        self._columns = self._series.columns(len(rows.covering))
        return rows

    def _per_row(self, of_windows: np.ndarray) -> np.ndarray:
        """[w, ...] -> [w, length, ...]."""
        shape = (len(of_windows), self._window.length, *of_windows.shape[1:])
        return np.broadcast_to(of_windows[:, None], shape)


class RowScoreOutput(_PerRow):
    """score, p_value, is_anomaly, and windows: how many a row is part of; where it is none, nothing is known."""

    row_shape = ()

    def __init__(self, model: ModelInfo, inner: ScoreOutput, series: Series) -> None:
        super().__init__(model, inner, series)
        scores = [
            ("score", pa.float32()),
            ("p_value", pa.float32()),
            ("is_anomaly", pa.bool_()),
            ("windows", pa.int32()),
        ]
        self.schema = pa.schema([*series.fields, *(pa.field(*column) for column in scores)])
        self._stretches = Stretches()
        self._why = ""

    def ask(self, client: Client, batches: Any) -> Iterator[RowScores]:
        def said(answer: Any) -> np.ndarray:
            self._why = f"score > {answer.threshold:.6g}, false-alarm rate {answer.false_alarm_rate:g}"
            return self._per_row(np.stack([answer.score, answer.p_value, answer.is_anomaly], axis=1))

        return map(row_scores, self._rows_of(self._inner.ask(client, batches), (3,), said))

    def numbers(self, answer: RowScores, taken: Taken | None) -> np.ndarray:
        return answer.score

    def arrays(self, answer: RowScores, taken: Taken | None) -> list[pa.Array]:
        unknown = answer.windows == 0
        found = [pa.array(values, mask=unknown) for values in (answer.score, answer.p_value, answer.is_anomaly)]
        return [*self._columns, *found, pa.array(answer.windows, pa.int32())]

    def see(self, answer: RowScores, taken: Taken | None, ids: Sequence[pa.Array]) -> None:
        self._stretches.see(answer, self._columns[0] if self._columns else None)

    def show(self, console: Console, rows: bool) -> None:
        stretches = self._stretches
        stretches.close()
        if rows and stretches.count:
            console.print(stretches.table())
        within = f" in {stretches.count:,} stretch{'es' * (stretches.count != 1)}" if stretches.count else ""
        console.print(
            f"{self._model.name} version {self._model.version}: {stretches.anomalies:,} of {stretches.rows:,} "
            f"timestamps are anomalies{within} (at least half of their windows have {self._why})"
        )
        if stretches.without_window:
            console.print(
                f"{stretches.without_window:,} timestamps are part of no window: less than {self._window.length} of "
                "them follow one another"
            )


class RowDenoiseOutput(_PerRow):
    """The series' own columns, each number the mean of what the windows make of it; empty where there is none."""

    def __init__(self, model: ModelInfo, inner: DenoiseOutput, series: Series) -> None:
        super().__init__(model, inner, series)
        self.row_shape = model.row_shape[1:]
        self.schema = pa.schema([*series.fields, *inner.schema])

    def ask(self, client: Client, batches: Any) -> Iterator[np.ndarray]:
        answers = self._inner.ask(client, batches)
        return map(Rows.mean, self._rows_of(answers, self.row_shape, lambda answer: answer.values))

    def numbers(self, answer: np.ndarray, taken: Taken | None) -> np.ndarray:
        return answer

    def arrays(self, answer: np.ndarray, taken: Taken | None) -> list[pa.Array]:
        return [*self._columns, *(pa.array(column, from_pandas=True) for column in np.ascontiguousarray(answer.T))]

    def see(self, answer: np.ndarray, taken: Taken | None, ids: Sequence[pa.Array]) -> None:
        self._rows += len(answer)

    def show(self, console: Console, rows: bool) -> None:
        size = "×".join(f"{size:,}" for size in (self._rows, *self.row_shape))
        console.print(f"{self._model.name} version {self._model.version}: {size} numbers")


class _Stretch(NamedTuple):
    """Consecutive anomalies, in order of their highest score."""

    score: float
    minus_first: int
    rows: int
    p_value: float
    begins: str
    ends: str


class Stretches:
    """Anomalous rows that follow one another, as people ask for them: from when to when, and how bad."""

    def __init__(self) -> None:
        self.rows = self.anomalies = self.count = self.without_window = 0
        self._top: list[_Stretch] = []
        self._open: _Stretch | None = None

    def see(self, scores: RowScores, labels: pa.Array | None) -> None:
        """labels: what rows are called, their times for example; None: their numbers."""
        edges = np.flatnonzero(np.diff(scores.is_anomaly.astype(np.int8), prepend=0, append=0))
        if self._open and not (len(scores.score) == 0 or scores.is_anomaly[0]):
            self._close()
        for first, end in edges.reshape(-1, 2).tolist():
            begins, ends = (self._label(labels, row) for row in (first, end - 1))
            score, p_value = float(scores.score[first:end].max()), float(scores.p_value[first:end].min())
            found = _Stretch(score, -(self.rows + first), end - first, p_value, begins, ends)
            if self._open and first == 0:
                before = self._open
                score, p_value = max(before.score, score), min(before.p_value, p_value)
                found = _Stretch(score, before.minus_first, before.rows + found.rows, p_value, before.begins, ends)
            else:
                self._close()
            self._open = found
        if self._open and len(scores.score) and not scores.is_anomaly[-1]:
            self._close()
        self.rows += len(scores.score)
        self.anomalies += int(scores.is_anomaly.sum())
        self.without_window += int((scores.windows == 0).sum())

    def close(self) -> None:
        """The series has ended."""
        self._close()

    def table(self) -> Table:
        table = Table(
            *("from", "to", "rows", "highest score", "lowest p-value"),
            title="the most anomalous stretches",
            caption="a row's score is the mean of its windows', and it is an anomaly when at least half of them are",
        )
        for stretch in sorted(self._top, reverse=True):
            table.add_row(
                stretch.begins, stretch.ends, f"{stretch.rows:,}", f"{stretch.score:.6g}", f"{stretch.p_value:.4g}"
            )
        return table

    def _label(self, labels: pa.Array | None, row: int) -> str:
        return str(self.rows + row) if labels is None else str(value_of(labels, row))

    def _close(self) -> None:
        if self._open is None:
            return
        self.count += 1
        (heapq.heappush if len(self._top) < _STRETCHES else heapq.heappushpop)(self._top, self._open)
        self._open = None
