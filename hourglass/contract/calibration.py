"""What a score means: conformal p-values, thresholds and false discoveries from held-out scores.

Scores of rows that neither training nor early stopping saw are exchangeable with scores of fresh normal rows, which
is all that the promises below need (Bates et al. 2023, "Testing for outliers with conformal p-values").
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

_BODY = 1_000
_TAIL = 1_000
# Of a p-value that travelled as float32: its last bit must not decide a verdict.
_ROUNDING = 1e-6


class FalseAlarmRateError(ValueError):
    """The asked false-alarm rate is outside (0, 1) or smaller than the calibration can promise."""


class Calibration(BaseModel):
    """Order statistics of the calibration scores.

    Up to 2,000 scores are kept as they are; of more, the 1,000 largest and about 1,000 evenly spaced ranks below
    them, so that small p-values stay exact. Between kept ranks the answers err on the safe side: a p-value is never
    too small, a threshold never too low.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: Annotated[int, Field(ge=1, le=2**53, description="number of calibration scores, n")]
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1, description="the model's own")]
    scores: Annotated[list[float], Field(min_length=1, description="kept order statistics, ascending")]
    ranks: Annotated[list[int], Field(min_length=1, description="1-based rank of each kept score")]

    @model_validator(mode="after")
    def _check(self) -> Calibration:
        in_range = all(1 <= rank <= self.rows for rank in self.ranks)
        if len(self.scores) != len(self.ranks) or self.ranks[-1] != self.rows or not in_range:
            raise ValueError("scores and ranks do not belong together")
        if not np.isfinite(self._sorted).all() or (np.diff(self._sorted) < 0).any():
            raise ValueError("scores are not finite and ascending")
        if (np.diff(self._below) < 1).any():
            raise ValueError("ranks are not strictly ascending")
        self.threshold(self.false_alarm_rate)
        return self

    def __eq__(self, other: object) -> bool:
        # pydantic's own would compare the cached arrays below as if they were single values
        return isinstance(other, Calibration) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def _sorted(self) -> np.ndarray:
        return np.asarray(self.scores, dtype=np.float64)

    @cached_property
    def _below(self) -> np.ndarray:
        """_below[i]: how many calibration scores are surely smaller than a score that i kept ones are smaller than."""
        return np.concatenate([[0], np.asarray(self.ranks, dtype=np.int64)])

    @cached_property
    def _p_values(self) -> np.ndarray:
        """Of a score that i kept ones are smaller than."""
        p_values: np.ndarray = (1 + self.rows - self._below) / (self.rows + 1)
        return p_values

    @classmethod
    def from_scores(cls, scores: np.ndarray, false_alarm_rate: float) -> Calibration:
        """scores: float [n], finite. Raises FalseAlarmRateError when n < 1 / false_alarm_rate - 1."""
        ordered = np.sort(np.asarray(scores, dtype=np.float64))
        n = len(ordered)
        tail = np.arange(max(1, n - _TAIL + 1), n + 1)
        body = np.unique(np.linspace(1, max(1, n - _TAIL), min(_BODY, max(1, n - _TAIL))).astype(np.int64))
        ranks = np.union1d(body, tail)
        return cls(
            rows=n,
            false_alarm_rate=false_alarm_rate,
            scores=ordered[ranks - 1].tolist(),
            ranks=ranks.tolist(),
        )

    @property
    def smallest_false_alarm_rate(self) -> float:
        """The smallest rate that n calibration rows can promise, 1 / (n + 1)."""
        return 1 / (self.rows + 1)

    def threshold(self, false_alarm_rate: float) -> float:
        """The ceil((n + 1)(1 - rate))-th smallest calibration score: a fresh normal row exceeds it with probability
        at most `false_alarm_rate`. Raises FalseAlarmRateError."""
        _check_rate(false_alarm_rate)
        # ceil((n+1)(1-a)) written as n+1-floor((n+1)a): 99 rows promise exactly 1 % in spite of binary fractions.
        rank = self.rows + 1 - math.floor((self.rows + 1) * false_alarm_rate * (1 + 1e-12))
        if rank > self.rows:
            raise FalseAlarmRateError(
                f"{self.rows} calibration rows cannot promise a false-alarm rate of {false_alarm_rate:g}: "
                f"the smallest is {self.smallest_false_alarm_rate:.3g}"
            )
        return self.scores[bisect_left(self.ranks, rank)]

    def beyond(self, false_alarm_rate: float) -> int:
        """One more than the calibration rows that score above the threshold: k.

        Calibration rows are drawn by chance, and with them the share of fresh normal rows above the threshold: it comes
        from Beta(k, n + 1 - k) (Vovk 2012, "Conditional validity of inductive conformal predictors"). Raises
        FalseAlarmRateError.
        """
        kept = int(np.searchsorted(self._sorted, self.threshold(false_alarm_rate), side="right"))
        return self.rows + 1 - self.ranks[kept - 1]

    def rate_of(self, threshold: float) -> float:
        """(1 + #{calibration > threshold}) / (n + 1), the false-alarm rate that a threshold promises: a fresh normal
        row exceeds it with probability at most this."""
        kept = self._below[np.searchsorted(self._sorted, threshold, side="right")]
        return float((1 + self.rows - kept) / (self.rows + 1))

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """(1 + #{calibration >= s}) / (n + 1) for each s. scores: float [m] -> float64 [m] in (0, 1].

        `p <= a` and `s > threshold(a)` say the same.
        """
        return self._p_values.take(np.searchsorted(self._sorted, scores, side="left"))


def benjamini_hochberg(p_values: np.ndarray, rate: float) -> np.ndarray:
    """Which of these rows are anomalies, so that on average at most `rate` of those called so are normal rows.

    With the p-values in ascending order, the k rows up to the largest k with p_k <= k / m * rate (Benjamini & Hochberg
    1995, "Controlling the false discovery rate"). Conformal p-values share their calibration rows and so are not
    independent, but positively dependent in the way that keeps the promise (PRDS: Bates et al. 2023, theorem 2). It is
    a promise about this set of rows as a whole: neither about a part of it nor about several sets put together.

    p_values: float [m], float32 will do: a p-value may exceed its bound by one part in a million -> bool [m]. Raises
    FalseAlarmRateError.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    called: np.ndarray = p_values <= largest_discovery(*np.unique(p_values, return_counts=True), rate)
    return called


def largest_discovery(p_values: np.ndarray, counts: np.ndarray, rate: float) -> float:
    """The largest p-value that benjamini_hochberg calls an anomaly, 0 when it is none.

    p_values: float [k], the different ones in ascending order; counts: int [k], how many rows have each. Of one
    calibration k is at most about 2,000, however many rows there are. Raises FalseAlarmRateError.
    """
    _check_rate(rate)
    at_most = np.cumsum(counts)
    within = p_values <= at_most / max(counts.sum(), 1) * rate * (1 + _ROUNDING)
    return float(p_values[within & (p_values < 1)].max(initial=0))


def _check_rate(rate: float) -> None:
    if not 0 < rate < 1:
        raise FalseAlarmRateError(f"a false-alarm rate lies between 0 and 1, not {rate:g}")
