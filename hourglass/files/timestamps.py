"""The times of a series: read from a column of any usual kind, and what they say of gaps between rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hourglass.files.cells import is_missing, is_number, is_text, numbers
from hourglass.files.rows import Batch

# Besides numbers and ISO 8601: where day and month cannot be taken for each other.
_FORMATS = ("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M")
_KNOWN = "a number of seconds, or a date and time as 2024-05-31 18:30:00"
_REGULAR = 0.5  # of a step, by which it may differ from the usual one
_LOST = 1 / 8  # of a window, at least half a step: more that is missing at once is a gap
_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


class TimeColumn:
    """Reads a file's times, batch after batch, and holds the rows to their order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._last = -np.inf
        self._read: Callable[[pa.Array], np.ndarray] | None = None  # text as the first of this file is written

    def seconds(self, batch: Batch) -> np.ndarray:
        """float64 [n]: since 1970, of numbers whatever they count from. Raises FileError, naming line and column, for
        what is no time, and for a row that is earlier than the one before it."""
        column = batch.column(self.name)
        seconds = self._of_texts(column) if is_text(column) else _of_values(column)
        if not (usable := np.isfinite(seconds)).all():
            row = int(np.argmin(usable))
            cell = batch.cell(row, self.name)
            why = "the time is missing" if is_missing(cell) else f"{str(cell)!r} is no time: {_KNOWN}"
            raise batch.refused(row, self.name, why)
        steps = np.diff(seconds, prepend=self._last)
        if (steps < 0).any():
            row = int(np.argmax(steps < 0))
            why = f"{str(batch.cell(row, self.name))!r} is earlier than the row before it (was a clock put back?)"
            raise batch.refused(row, self.name, why)
        if len(seconds):
            self._last = float(seconds[-1])
        return seconds

    def _of_texts(self, column: pa.Array) -> np.ndarray:
        """float64 [n], NaN where a cell is no time written as the first one is."""
        column = pc.utf8_trim_whitespace(column)
        if self._read is None:
            first = column.slice(0, 1)
            self._read = next((read for read in _READERS if np.isfinite(_each(first, read)).all()), _READERS[0])
        try:
            return self._read(column)
        except pa.ArrowInvalid:  # raised for one cell among them
            return _each(column, self._read)


def usual_step(seconds: np.ndarray) -> float | None:
    """The median of the steps between times, float64 [n], that differ; None where there are none."""
    steps = np.diff(seconds)
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else None


@dataclass
class Timeline:
    """Where a series has gaps, and how regular it is between them, told by its times, batch after batch.

    A pause of more than an eighth of a window, and more than one and a half steps, is a gap: windows end before it and
    begin anew after it. Shorter pauses only make a series irregular.

    step: usual seconds from a row to the next. length: rows of a window.
    """

    step: float
    length: int
    steps: int = field(default=0, init=False)
    irregular: int = field(default=0, init=False)
    repeated: int = field(default=0, init=False)
    gaps: int = field(default=0, init=False)
    longest: float = field(default=0.0, init=False)
    _last: float | None = field(default=None, init=False)

    @property
    def pause(self) -> float:
        """Seconds: the longest from a row to the next that is no gap."""
        return self.step * max(1 + _REGULAR, _LOST * self.length)

    def add(self, seconds: np.ndarray) -> np.ndarray:
        """The rows among these, float64 [n] and ascending, that come after a gap: int64 [m], counted from 0."""
        first = seconds[:1] if self._last is None else [self._last]
        steps = np.diff(seconds, prepend=first) if len(seconds) else np.empty(0)
        after_gap = np.flatnonzero(steps > self.pause)
        self.gaps += len(after_gap)
        self.longest = max(self.longest, float(steps.max(initial=0.0)))
        compared = steps if self._last is not None else steps[1:]
        self.steps += len(compared)
        self.repeated += int((compared == 0).sum())
        uneven = (np.abs(compared - self.step) > _REGULAR * self.step) & (compared > 0) & (compared <= self.pause)
        self.irregular += int(uneven.sum())
        if len(seconds):
            self._last = float(seconds[-1])
        return after_gap

    def findings(self) -> list[str]:
        """What somebody who trusts the windows should know, a line each; nothing of a regular series."""
        found = []
        if self.gaps:
            are = "is 1 gap" if self.gaps == 1 else f"are {self.gaps:,} gaps"
            longest = f"the longest of {duration(self.longest)}"
            found.append(f"there {are} of more than {duration(self.pause)}, {longest}: no window spans one")
        if uneven := self.irregular + self.repeated:
            repeated = f", and {self.repeated:,} of them are 0" if self.repeated else ""
            usual = duration(self.step)
            found.append(
                f"{uneven:,} of {self.steps:,} steps from a row to the next are not the usual {usual}{repeated}"
            )
        return found


def duration(seconds: float) -> str:
    """For people: '1.5 h', '0.25 s'."""
    for unit, name in _UNITS:
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"


def _of_values(column: pa.Array) -> np.ndarray:
    """float64 [n] of numbers, dates or timestamps; NaN where a cell is missing, infinity where it is neither."""
    kind = column.type
    if pa.types.is_boolean(kind):
        return np.full(len(column), np.inf)
    if is_number(column):
        return numbers(column)
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _instants(column.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False))
    return np.full(len(column), np.inf)


def _instants(column: pa.Array) -> np.ndarray:
    """float64 [n] of timestamps in microseconds; NaN where one is missing."""
    counted = column.cast(pa.int64())
    found: np.ndarray = counted.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) / 1e6
    return found


def _iso(column: pa.Array, zone: str | None) -> np.ndarray:
    """Raises pa.ArrowInvalid."""
    return _instants(column.cast(pa.timestamp("ns", zone)).cast(pa.timestamp("us", zone), safe=False))


def _formatted(column: pa.Array, pattern: str) -> np.ndarray:
    return _instants(pc.strptime(column, format=pattern, unit="us", error_is_null=True))


_READERS: tuple[Callable[[pa.Array], np.ndarray], ...] = (
    numbers,
    partial(_iso, zone=None),
    partial(_iso, zone="UTC"),
    *(partial(_formatted, pattern=pattern) for pattern in _FORMATS),
)


def _each(column: pa.Array, read: Callable[[pa.Array], np.ndarray]) -> np.ndarray:
    """As `read`, with NaN for a cell that it refuses."""
    found = np.full(len(column), np.nan)
    for row in range(len(column)):
        try:
            found[row] = read(column.slice(row, 1))[0]
        except pa.ArrowInvalid:
            continue
    return found
