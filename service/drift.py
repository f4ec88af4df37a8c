"""A window of traffic against the manifest's sketch: counts of the last rows, never the rows.

Counting runs on the event loop, once a batch, when its answers are there: rows, scores and clips are all at hand, no
two threads count at once, and another thread would hold the interpreter for as long. What it costs is bounded by
counting a share of the rows, drawn at random so that rows which come in turns cannot hide from it.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import structlog

from hourglass.contract.drift import Counts, Drift, ScoreCounts
from hourglass.contract.manifest import CLIPPED, SCORE, Manifest

log = structlog.get_logger(__name__)

# Of rows with more numbers a smaller share is counted: so many numbers a row on average, until a twelfth is left.
_NUMBERS = 4
_SMALLEST_SHARE = 1 / 12
# Rows that wait to be counted together.
_WAITING = 64
# The window slides by so many parts of it.
_PARTS = 8
_DRAWN_AHEAD = 1024
# A verdict takes as long as counting some rows: it is given at most so often, and whenever somebody asks.
_JUDGED_EVERY_SECONDS = 1.0
_NAMED = 5


@dataclass
class _Part:
    """Of a window. traffic: rows that came, of which some were counted. scores: float32 [2, m], of these: the
    score, NaN where it was not asked for, and how many numbers were clipped."""

    traffic: int
    counts: Counts
    scores: np.ndarray

    def add(self, traffic: int, counts: Counts, scores: np.ndarray) -> None:
        self.traffic += traffic
        self.counts += counts
        self.scores = np.concatenate([self.scores, scores], axis=1)


class Tracker:
    """The last `window` rows of one version's traffic, and up to one part and one request more.

    `observe` is called by the event loop, `now` by anyone.
    """

    def __init__(self, name: str, version: int, manifest: Manifest, window: int) -> None:
        """Needs manifest.drift."""
        assert manifest.drift is not None
        self.sketch = manifest.drift
        columns = [column.name for column in manifest.columns or ()]
        self.names = self.sketch.names(columns, manifest.row_shape)
        self._log = log.bind(model=name, version=version)
        self._calibration = manifest.calibration
        self._window = window
        self._lock = threading.Lock()
        self._parts: deque[_Part] = deque()
        self._traffic = 0  # of all parts
        # Since the last part: rows that came, and features and scores of those that wait to be counted.
        self._new_traffic = 0
        numbers = math.prod(manifest.row_shape)
        features = len(self.sketch.positions)
        self._values = np.empty((_WAITING, numbers // self.sketch.size, features), dtype=np.float32)
        self._scores = np.empty((2, _WAITING), dtype=np.float32)
        self._waiting = 0
        self._share = max(_SMALLEST_SHARE, min(1.0, _NUMBERS / numbers))
        self._draws = np.random.default_rng(0)  # the same traffic is counted alike
        self._seen = 0
        self._ahead = (self._draws.geometric(self._share, 1) - 1).tolist()
        self._drifting = False
        self._last_drift = 0
        self._judged_at = -math.inf

    def observe(self, rows: np.ndarray, answer: Mapping[str, np.ndarray]) -> None:
        """rows: float32 [n, *row_shape] that were answered. answer: with SCORE and CLIPPED where scores count,
        which without the other are not looked at."""
        with self._lock:
            taken, passed = self._drawn(len(rows)), 0
            while len(taken):
                room = _WAITING - self._waiting
                some, taken = taken[:room], taken[room:]
                until = int(some[-1]) + 1
                self._new_traffic += until - passed
                passed = until
                self._take(rows, answer, some)
            self._new_traffic += len(rows) - passed
            if self._new_traffic * _PARTS >= self._window:
                self._count()
                if time.monotonic() - self._judged_at >= _JUDGED_EVERY_SECONDS:
                    self._judge()

    def now(self) -> Drift:
        """Of the window as it is."""
        with self._lock:
            self._count()
            return self._judge()

    def _drawn(self, rows: int) -> np.ndarray:
        """Which of the next rows are counted, each with the same probability: by the gaps between them, drawn ahead."""
        start, self._seen = self._seen, self._seen + rows
        while self._ahead[-1] < self._seen:
            gaps = self._draws.geometric(self._share, _DRAWN_AHEAD)
            self._ahead += (self._ahead[-1] + np.cumsum(gaps)).tolist()
        drawn = bisect_left(self._ahead, self._seen)
        taken = np.array(self._ahead[:drawn], dtype=np.int64)
        del self._ahead[:drawn]
        return taken - start

    def _take(self, rows: np.ndarray, answer: Mapping[str, np.ndarray], taken: np.ndarray) -> None:
        """At most as many as there is room for."""
        place = slice(self._waiting, self._waiting + len(taken))
        if rows[0].size == self._values[0].size:
            # "clip" writes to `out` without a copy in between.
            np.take(rows.reshape(-1, *self._values.shape[1:]), taken, axis=0, out=self._values[place], mode="clip")
        else:
            self._values[place] = self.sketch.values(rows[taken]).reshape(-1, *self._values.shape[1:])
        scored = SCORE in answer and CLIPPED in answer
        self._scores[0, place] = answer[SCORE][taken] if scored else math.nan
        self._scores[1, place] = answer[CLIPPED][taken] if scored else math.nan
        self._waiting = place.stop
        if self._waiting == _WAITING:
            self._count()

    def _count(self) -> None:
        """The rows that wait go to the last part of the window, or a new one; what it is full without is forgotten."""
        values = self._values[: self._waiting].reshape(-1, self._values.shape[-1])
        counts = Counts(self._waiting, len(values), self.sketch.features.count(values))
        scores = self._scores[:, : self._waiting].copy()
        if self._parts and (self._parts[-1].traffic + self._new_traffic) * _PARTS <= self._window:
            self._parts[-1].add(self._new_traffic, counts, scores)
        else:
            self._parts.append(_Part(self._new_traffic, counts, scores))
        self._traffic += self._new_traffic
        self._new_traffic = self._waiting = 0
        while self._traffic - self._parts[0].traffic >= self._window:
            self._traffic -= self._parts.popleft().traffic

    def _counts(self) -> tuple[Counts, ScoreCounts]:
        """Of the whole window."""
        counts = Counts(0, 0, np.zeros(self.sketch.features.at.shape, dtype=np.int64))
        for part in self._parts:
            counts += part.counts
        answers = np.concatenate([part.scores for part in self._parts], axis=1)
        scores, clipped = answers[:, ~np.isnan(answers[0])]
        return counts, self.sketch.count_scores(scores, self._calibration.p_values(scores), clipped)

    def _judge(self) -> Drift:
        """Log one line when drift begins, and one when there was none for as many rows as a window has."""
        drift = self.sketch.compare(*self._counts(), self._traffic)
        self._judged_at = time.monotonic()
        if drift:
            self._last_drift = self._seen
        if drift and not self._drifting:
            self._drifting = True
            self._log.warning(
                "traffic drifts from the rows the model was calibrated on",
                features=int(drift.drifted.sum()),
                worst=[self.names[i] for i in drift.worst(_NAMED) if drift.drifted[i]],
                score=drift.score_drifted,
                rows=drift.rows,
            )
        elif self._drifting and self._seen - self._last_drift >= self._window:
            self._drifting = False
            self._log.warning("traffic no longer drifts")
        return drift
