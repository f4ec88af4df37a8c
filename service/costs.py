"""How long batches take on this machine: measured once, before a model is ready."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

# Batches aim at this time: a hand-off to another thread and back, about 0.1 ms, is then little of it, and nobody waits
# long behind somebody else's rows.
_BATCH_SECONDS = 4e-3
_REPETITIONS = 3


@dataclass(frozen=True)
class Costs:
    """rows: sizes that were measured, ascending from 1. seconds: what a batch of each took."""

    rows: tuple[int, ...]
    seconds: tuple[float, ...]

    @classmethod
    def measure(cls, run: Callable[[int], object], max_rows: int) -> Costs:
        """run(n) runs n rows. Sizes are doubled until a batch takes long enough, or is the largest there can be."""
        rows, seconds = [], []
        size = 1
        while True:
            rows.append(size)
            seconds.append(min(_timed(run, size) for _ in range(_REPETITIONS)))
            if seconds[-1] >= _BATCH_SECONDS or size == max_rows:
                return cls(tuple(rows), tuple(seconds))
            size = min(2 * size, max_rows)

    @property
    def batch_rows(self) -> int:
        """So many rows should be run together at most."""
        return self.rows_in(_BATCH_SECONDS)

    def rows_in(self, seconds: float) -> int:
        """The largest measured size that takes less; at least one row."""
        return max((rows for rows, took in zip(self.rows, self.seconds, strict=True) if took < seconds), default=1)

    def expect(self, rows: int) -> float:
        """Seconds that a batch takes: linear between measured sizes, in proportion beyond."""
        place = bisect_left(self.rows, rows)
        if place == len(self.rows):
            return self.seconds[-1] * rows / self.rows[-1]
        if place == 0:
            return self.seconds[0]
        (low, high), (fast, slow) = self.rows[place - 1 : place + 1], self.seconds[place - 1 : place + 1]
        return fast + (slow - fast) * (rows - low) / (high - low)


def _timed(run: Callable[[int], object], rows: int) -> float:
    started = time.perf_counter()
    run(rows)
    return time.perf_counter() - started
