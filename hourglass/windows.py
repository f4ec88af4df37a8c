"""A series, batch after batch, as windows; and what windows were answered, as one answer for each row.

One pass: what is kept meanwhile is about a window and a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Windows(NamedTuple):
    """starts: int64 [w], the first row of each, counted in the series, ascending. values: float32 [w, length, c]."""

    starts: np.ndarray
    values: np.ndarray


class Cutter:
    """Windows of `length` rows, one every `stride` rows of a piece without gaps, and one at the end of each piece, so
    that every row of a piece that is long enough is part of a window."""

    def __init__(self, length: int, stride: int) -> None:
        self._length, self._stride = length, stride
        self._kept: np.ndarray | None = None  # the piece's rows that windows may still need
        self._rows = 0  # of the series so far
        self._piece = self._next = 0  # where the piece begins, and its next window
        self._covered = 0  # the row after the last window

    def add(self, rows: np.ndarray, after_gap: np.ndarray) -> Windows:
        """The windows that end among these rows, float32 [n, c]. after_gap: those that follow a gap, int64 [m]."""
        found = []
        for number, part in enumerate(np.split(rows, after_gap)):
            if number:
                found.append(self._finish())
            found.append(self._extend(part))
        return self._joined(found, rows.shape[1])

    def end(self) -> Windows:
        """The last window of the series, if its end is part of none yet."""
        channels = 0 if self._kept is None else self._kept.shape[1]
        return self._joined([self._finish()], channels)

    def _extend(self, rows: np.ndarray) -> Windows | None:
        kept = rows if self._kept is None else np.concatenate([self._kept, rows])
        self._rows += len(rows)
        first = self._rows - len(kept)
        starts = np.arange(self._next, self._rows - self._length + 1, self._stride)
        found = self._cut(kept, starts - first, starts) if len(starts) else None
        if len(starts):
            self._next, self._covered = int(starts[-1]) + self._stride, int(starts[-1]) + self._length
        # No window begins before these: the next one, or the last one of the piece.
        self._kept = kept[-self._length :].copy()
        return found

    def _finish(self) -> Windows | None:
        """The piece has ended."""
        found = None
        start = self._rows - self._length
        if self._kept is not None and start >= self._piece and self._covered < self._rows:
            found = self._cut(self._kept, np.array([len(self._kept) - self._length]), np.array([start]))
        self._kept = None if self._kept is None else self._kept[:0]
        self._piece = self._next = self._rows
        return found

    def _cut(self, rows: np.ndarray, positions: np.ndarray, starts: np.ndarray) -> Windows:
        every = np.lib.stride_tricks.sliding_window_view(rows, self._length, axis=0)
        return Windows(starts.astype(np.int64), np.ascontiguousarray(every[positions].transpose(0, 2, 1)))

    def _joined(self, found: list[Windows | None], channels: int) -> Windows:
        some = [windows for windows in found if windows is not None]
        if not some:
            return Windows(np.empty(0, dtype=np.int64), np.empty((0, self._length, channels), dtype=np.float32))
        return Windows(*(np.concatenate(parts) for parts in zip(*some, strict=True)))


class Rows(NamedTuple):
    """What windows say of consecutive rows.

    covering: int64 [n], how many windows each row is part of, maybe none. values: float64 [n, most, ...], what each of
    them says; NaN where there are fewer.
    """

    covering: np.ndarray
    values: np.ndarray

    def mean(self) -> np.ndarray:
        """float32 [n, ...], NaN of rows that no window covers."""
        total = np.nansum(self.values, axis=1)
        with np.errstate(invalid="ignore"):
            means: np.ndarray = total / self.covering.reshape(-1, *[1] * (total.ndim - 1))
        return means.astype(np.float32)

    def at_least_half(self) -> np.ndarray:
        """Of values [n, most]: the largest value that at least half of a row's windows are at most; float64 [n], NaN of
        rows that no window covers."""
        ranks = np.maximum(0, (self.covering + 1) // 2 - 1)
        ordered = np.sort(self.values, axis=1)  # NaN last
        found: np.ndarray = np.take_along_axis(ordered, ranks[:, None], axis=1)[:, 0]
        return found


class Covering:
    """Collects what windows say of their rows, and gives a row away as soon as no later window can cover it."""

    def __init__(self, length: int, stride: int, shape: tuple[int, ...] = ()) -> None:
        """shape: of what a window says of one row."""
        self._length = length
        most = -(-length // stride) + 1  # with the one at the end of a piece
        self._first = 0  # the row after those that have been given away
        self._covering = np.empty(0, dtype=np.int64)
        self._values = np.empty((0, most, *shape))

    def add(self, starts: np.ndarray, values: np.ndarray) -> Rows:
        """The next windows; starts: as in Windows, values: [w, length, *shape]. The rows follow those given before."""
        if not len(starts):
            return self._give(0)
        self._grow(int(starts[-1]) + self._length)
        for offset in range(self._length):
            rows = starts - self._first + offset  # no row twice
            self._values[rows, self._covering[rows]] = values[:, offset]
            self._covering[rows] += 1
        return self._give(int(starts[-1]) - self._first)

    def end(self, rows: int) -> Rows:
        """What is left of a series of so many rows."""
        self._grow(rows)
        return self._give(rows - self._first)

    def _grow(self, end: int) -> None:
        """Room for the rows before `end`."""
        missing = max(0, end - self._first - len(self._covering))
        self._covering = np.concatenate([self._covering, np.zeros(missing, dtype=np.int64)])
        self._values = np.concatenate([self._values, np.full((missing, *self._values.shape[1:]), np.nan)])

    def _give(self, count: int) -> Rows:
        given = Rows(self._covering[:count], self._values[:count])
        self._covering, self._values = self._covering[count:], self._values[count:]
        self._first += count
        return given
