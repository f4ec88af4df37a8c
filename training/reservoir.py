"""As many rows of a file as fit in memory, drawn while it is read."""

from __future__ import annotations

import numpy as np

_MOST_NUMBERS = 2**27  # of all rows, expanded: 512 MiB
_LEAST_ROWS = 10


def capacity(numbers: int) -> int:
    """How many rows of so many numbers fit, when nobody said."""
    return max(_LEAST_ROWS, _MOST_NUMBERS // numbers)


def drawn(total: int, most: int, seed: int) -> np.ndarray:
    """Which of `total` rows a reservoir keeps, whatever they hold: their positions, int64, as it has them in order."""
    reservoir = Reservoir(most, seed)
    reservoir.add(np.arange(total))
    return reservoir.rows(()).astype(np.int64)


class Reservoir:
    """All rows that come by, in order; of more than `capacity` so many, each as likely as any other (Vitter 1985,
    "Random sampling with a reservoir", algorithm R)."""

    def __init__(self, capacity: int, seed: int) -> None:
        self._capacity, self._random = capacity, np.random.default_rng(seed)
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self.total = 0

    def add(self, rows: np.ndarray, labels: np.ndarray | None = None) -> None:
        """rows: [n, *row_shape]; labels: object [n]."""
        labels = np.empty(len(rows), dtype=object) if labels is None else labels
        room = max(0, self._capacity - self.total)
        if len(rows[:room]):
            self._parts.append((rows[:room], labels[:room]))
        late = np.arange(self.total + len(rows[:room]), self.total + len(rows))
        self.total += len(rows)
        if not len(late):
            return
        places = self._random.integers(0, late + 1)
        lucky = np.flatnonzero(places < self._capacity)
        kept_rows, kept_labels = self._joined()
        kept_rows[places[lucky]], kept_labels[places[lucky]] = rows[room:][lucky], labels[room:][lucky]

    def rows(self, row_shape: tuple[int, ...]) -> np.ndarray:
        """[n, *row_shape], as they were added."""
        return self._joined()[0] if self._parts else np.empty((0, *row_shape), dtype=np.float32)

    @property
    def labels(self) -> list[str]:
        labels: list[str] = self._joined()[1].tolist() if self._parts else []
        return labels

    def _joined(self) -> tuple[np.ndarray, np.ndarray]:
        if len(self._parts) > 1:
            rows, labels = zip(*self._parts, strict=True)
            self._parts = [(np.concatenate(rows), np.concatenate(labels))]
        return self._parts[0]
