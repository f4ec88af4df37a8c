"""A window of traffic against the manifest's sketch: counts of the last rows, never the rows.

Counting runs on the event loop, when an answer is there and before it is sent: rows, scores and clips are all at hand,
no two threads count at once, and another thread would hold the interpreter for as long. What it costs is bounded by
counting a share of the rows, drawn at random so that rows which come in turns cannot hide from it.
"""

from __future__ import annotations

import math
import random
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import structlog

from hourglass.contract.drift import Counts, Drift
from hourglass.contract.manifest import CLIPPED, SCORE, Manifest

log = structlog.get_logger(__name__)

# Of rows with more numbers a smaller share is counted: so many numbers a row on average, until a tenth is left.
_NUMBERS = 4
_SMALLEST_SHARE = 0.1
# Rows that wait to be counted together.
_WAITING = 32
# The window slides by so many parts of it.
_PANES = 8
_NAMED = 5


@dataclass
class _Pane:
    """traffic: rows that came, of which some were counted."""

    traffic: int
    counts: Counts


class Tracker:
    """The last `window` rows of one version's traffic; when none are left out, up to one pane and one request more.

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
        self._share = max(_SMALLEST_SHARE, min(1.0, _NUMBERS / math.prod(manifest.row_shape)))
        self._random = random.Random(0)  # noqa: S311  # the same traffic is counted alike
        self._draws = np.random.default_rng(0)
        self._lock = threading.Lock()
        self._nothing = self.sketch.nothing
        # Full panes, and their sum; and the one that is being filled.
        self._panes: deque[_Pane] = deque()
        self._full = _Pane(0, self._nothing)
        self._pane = _Pane(0, self._nothing)
        self._rows = np.empty((_WAITING, *manifest.row_shape), dtype=np.float32)
        # score and clipped of each waiting row, NaN where it was not scored.
        self._answers = np.empty((_WAITING, 2), dtype=np.float32)
        self._waiting = 0
        self._drifting = False
        self._quiet = 0

    def observe(self, rows: np.ndarray, answer: Mapping[str, np.ndarray] | None = None) -> None:
        """rows: float32 [n, *row_shape] that were answered. answer: SCORE and CLIPPED of rows that were scored."""
        with self._lock:
            self._pane.traffic += len(rows)
            if len(rows) > 1:
                taken = np.flatnonzero(self._draws.random(len(rows), dtype=np.float32) < self._share)
                self._take(rows[taken], None if answer is None else _numbers(answer, taken))
            elif self._random.random() < self._share:
                self._take(rows, None if answer is None else _numbers(answer, slice(None)))
            if self._pane.traffic * _PANES >= self._window:
                self._slide()

    def now(self) -> Drift:
        """Of the window as it is."""
        with self._lock:
            return self._compare()

    def _take(self, rows: np.ndarray, answers: np.ndarray | None) -> None:
        """answers: float32 [n, 2], score and clipped."""
        if self._waiting + len(rows) > _WAITING:
            self._count_waiting()
        if len(rows) > _WAITING:
            self._count(rows, np.empty((0, 2), dtype=np.float32) if answers is None else answers)
            return
        end = self._waiting + len(rows)
        self._rows[self._waiting : end] = rows
        self._answers[self._waiting : end] = np.nan if answers is None else answers
        self._waiting = end

    def _count_waiting(self) -> None:
        if not self._waiting:
            return
        answers = self._answers[: self._waiting]
        self._count(self._rows[: self._waiting], answers[~np.isnan(answers[:, 0])])
        self._waiting = 0

    def _count(self, rows: np.ndarray, answers: np.ndarray) -> None:
        scores, clipped = answers.T
        p_values = self._calibration.p_values(scores)
        self._pane.counts += self.sketch.count(rows, scores, p_values, clipped)

    def _compare(self) -> Drift:
        self._count_waiting()
        return self.sketch.compare(self._full.counts + self._pane.counts, self._full.traffic + self._pane.traffic)

    def _slide(self) -> None:
        self._count_waiting()
        self._panes.append(self._pane)
        full = _Pane(self._full.traffic + self._pane.traffic, self._full.counts + self._pane.counts)
        while full.traffic - self._panes[0].traffic >= self._window:
            oldest = self._panes.popleft()
            full = _Pane(full.traffic - oldest.traffic, full.counts - oldest.counts)
        self._full, added, self._pane = full, self._pane.traffic, _Pane(0, self._nothing)
        self._judge(added)

    def _judge(self, added: int) -> None:
        """Log one line when drift begins, and one when a whole window had none. added: rows since the last verdict."""
        if not self.sketch.is_drift(self._full.counts, self._full.traffic):
            self._quiet += added
            if self._drifting and self._quiet >= self._window:
                self._drifting = False
                self._log.warning("traffic no longer drifts")
            return
        self._quiet = 0
        if not self._drifting:
            self._drifting = True
            drift = self._compare()
            self._log.warning(
                "traffic drifts from the rows the model was calibrated on",
                features=int(drift.drifted.sum()),
                worst=[self.names[i] for i in drift.worst(_NAMED) if drift.drifted[i]],
                score=drift.score_drifted,
                rows=drift.rows,
            )


def _numbers(answer: Mapping[str, np.ndarray], taken: np.ndarray | slice) -> np.ndarray:
    return np.stack([answer[SCORE][taken], answer[CLIPPED][taken]], axis=1)
