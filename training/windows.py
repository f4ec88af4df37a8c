"""Time series -> windows: rows that follow one another without a gap, and three splits of them that share no row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from hourglass.files.timestamps import Timeline, usual_step
from training.errors import DataError

MOST_WINDOWS = 50_000  # to learn from, when nobody chose a stride
FEWEST_WINDOWS = 10


@dataclass(frozen=True)
class Series:
    """A file's rows in order of time.

    rows: float32 [n, channels]. pieces: int64 [p], where each piece without a gap begins, from 0 on. step_seconds:
    usually from a row to the next, None where time is not known. findings: what is irregular, for people.
    """

    rows: np.ndarray
    pieces: np.ndarray
    step_seconds: float | None = None
    findings: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: np.ndarray, seconds: np.ndarray | None, length: int) -> Series:
        """seconds: ascending, float64 [n], or None: rows then follow one another without gaps. length: of a window."""
        step = None if seconds is None else usual_step(seconds)
        if seconds is None or step is None:
            return cls(rows, np.zeros(1, dtype=np.int64))
        timeline = Timeline(step, length)
        pieces = np.concatenate([[0], timeline.add(seconds)])
        return cls(rows, pieces, step, tuple(timeline.findings()))

    def starts(self, length: int, stride: int) -> np.ndarray:
        """The first rows of windows, int64 [w] and ascending: every `stride` rows of a piece, while they fit."""
        ends = [*self.pieces[1:].tolist(), len(self.rows)]
        found = [
            np.arange(start, end - length + 1, stride) for start, end in zip(self.pieces.tolist(), ends, strict=True)
        ]
        return np.concatenate(found)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """float32 [w, length, channels]."""
        every = np.lib.stride_tricks.sliding_window_view(self.rows, length, axis=0)
        found: np.ndarray = every[starts].transpose(0, 2, 1)
        return np.ascontiguousarray(found)


def served_stride(length: int) -> int:
    """A quarter of a window, when nobody chose: each row is part of four windows. With more of them, rows are told
    apart no better, and each row costs as many times as much."""
    return max(1, length // 4)


def learned_stride(series: Series, length: int, most: int = MOST_WINDOWS) -> int:
    """The smallest stride that gives no more than `most` windows, when nobody chose.

    The more windows overlap, the more there is to learn from: docs/adr/0015.
    """
    return max(1, ceil(len(series.starts(length, 1)) / most))


def blocks(starts: np.ndarray, length: int, shares: Sequence[float], source: str) -> tuple[slice, slice, slice]:
    """Three runs of the windows that begin at `starts`, int64 [w] and ascending, in order of time.

    Between the last row of one and the first row of the next are at least `length` rows, so that no row is near two
    splits; windows that begin there are left out. The first two have these shares of the other windows, about, and the
    third has the rest. Raises DataError where one would be empty.
    """
    stride = int(np.diff(starts).min()) if len(starts) > 1 else length
    lost = ceil(2 * length / stride) - 1  # between two splits of one piece
    left = len(starts) - 2 * lost
    if left < FEWEST_WINDOWS:
        needed = length + (FEWEST_WINDOWS + 2 * lost - 1) * stride
        raise DataError(
            f"{source}: {len(starts):,} windows of {length} rows are too few for three splits (train, early stop, "
            f"calibration) with {length} rows between them: give at least {needed:,} rows without a gap, or a shorter "
            "--window"
        )
    train, early_stop = (max(1, round(left * share)) for share in shares)
    second = _next(starts, train - 1, length)
    third = _next(starts, second + early_stop - 1, length)
    return slice(0, train), slice(second, second + early_stop), slice(third, len(starts))


def _next(starts: np.ndarray, last: int, length: int) -> int:
    """The first window that begins `length` rows after the end of window `last`, or later."""
    return int(np.searchsorted(starts, starts[last] + 2 * length))


def overlap(starts: np.ndarray, length: int, rate: float) -> str | None:
    """A plain sentence when calibrating windows that begin at `starts`, int64 [w], are too few for a false-alarm rate,
    counted without their overlap; None when they are enough."""
    apart = len(np.unique(starts // length))
    if apart * rate >= 1:
        return None
    return (
        f"the calibration block is about {apart:,} windows long, and windows that overlap tell little more: there may "
        f"be several times as many false alarms as asked; for {rate:g} calibrate with at least "
        f"{round(length / rate):,} rows"
    )
