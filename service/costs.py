"""How long batches take on this machine: measured once, before a model is ready."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import OutOfMemory

# Batches aim at this time: a hand-off to another thread and back, about 0.1 ms, is then little of it, and nobody waits
# long behind somebody else's rows.
_BATCH_SECONDS = 4e-3
_REPETITIONS = 3
# Twice the rows are as good as free when they take less than so many times as long: then time is no reason to stop.
_FREE = 1.5
# Models so slow are not measured any longer to find that out.
_SLOW_SECONDS = 10 * _BATCH_SECONDS
# A size is worth having when a batch takes so much less than one of the next larger size.
_WORTH = 0.25


@dataclass(frozen=True)
class Costs:
    """rows: sizes that were measured, ascending from 1. seconds: what a batch of each took. padded: whether there are
    only batches of these sizes, into which fewer rows are put."""

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    padded: bool = False

    @classmethod
    def measure(cls, run: Callable[[int], object], max_rows: int, rest: float = 0.0) -> Costs:
        """run(n) runs n rows. After each run `rest` times as long is slept: others may be busy with calls.

        Sizes are doubled until a batch takes long enough for its rows, is the largest there can be, or does not fit
        into memory. Raises OutOfMemory when a single row does not."""
        rows: list[int] = []
        seconds: list[float] = []
        size = 1
        while size not in rows and _worth_more(seconds):
            try:
                seconds.append(min(_timed(run, size, rest) for _ in range(_REPETITIONS)))
            except OutOfMemory:
                if not rows:
                    raise
                break
            rows.append(size)
            size = min(2 * size, max_rows)
        return cls(tuple(rows), tuple(seconds))

    def few(self) -> Costs:
        """The sizes to pad to: the largest of a batch, and each smaller one that is worth having."""
        last = self.rows.index(self.batch_rows)
        rows, seconds = [self.rows[last]], [self.seconds[last]]
        for size, took in zip(self.rows[:last][::-1], self.seconds[:last][::-1], strict=True):
            if took <= (1 - _WORTH) * seconds[-1]:
                rows.append(size)
                seconds.append(took)
        return Costs(tuple(reversed(rows)), tuple(reversed(seconds)), padded=True)

    @property
    def batch_rows(self) -> int:
        """So many rows should be run together at most."""
        if self.padded:
            return self.rows[-1]
        most = 0
        while most + 1 < len(self.rows) and (self.seconds[most + 1] < max(_BATCH_SECONDS, _FREE * self.seconds[most])):
            most += 1
        return self.rows[most]

    def rows_in(self, seconds: float) -> int:
        """The largest measured size that takes less; at least one row."""
        return max((rows for rows, took in zip(self.rows, self.seconds, strict=True) if took < seconds), default=1)

    def size(self, rows: int) -> int:
        """The measured size that so many rows, at most the largest, fit into."""
        return self.rows[bisect_left(self.rows, rows)]

    def expect(self, rows: int) -> float:
        """Seconds that a batch takes: linear between measured sizes unless padded to them, in proportion beyond."""
        place = bisect_left(self.rows, rows)
        if place == len(self.rows):
            return self.seconds[-1] * rows / self.rows[-1]
        if place == 0 or self.padded:
            return self.seconds[place]
        (low, high), (fast, slow) = self.rows[place - 1 : place + 1], self.seconds[place - 1 : place + 1]
        return fast + (slow - fast) * (rows - low) / (high - low)


def _worth_more(seconds: list[float]) -> bool:
    """Whether, after sizes that took so long, a larger one may still be good for a batch."""
    if len(seconds) < 2:
        return not seconds or seconds[0] < _SLOW_SECONDS
    return seconds[-1] < max(_BATCH_SECONDS, _FREE * seconds[-2])


def _timed(run: Callable[[int], object], rows: int, rest: float) -> float:
    started = time.perf_counter()
    run(rows)
    seconds = time.perf_counter() - started
    time.sleep(rest * seconds)
    return seconds
