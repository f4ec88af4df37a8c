"""What a calibration promises, held against fresh rows: false alarms, p-values, false discoveries."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import betabinom, ks_2samp, kstest

from benchmarks.anomaly_data import Split
from benchmarks.anomaly_methods import Measured
from benchmarks.anomaly_records import Discoveries, Promises
from hourglass.contract.calibration import Calibration, FalseAlarmRateError, benjamini_hochberg

ASKED = (0.05, 0.01)
FALSE_DISCOVERIES = 0.1
_BATCHES, _NORMALS, _ANOMALIES = 200, 100, 5


def promises(measured: Measured, split: Split, seed: int) -> Promises | None:
    """None for a method that promises nothing."""
    if measured.fitted is None or (calibration := measured.fitted.calibration) is None:
        return None
    fresh = measured.scores[~split.anomalous]
    p_values = calibration.p_values(measured.scores)
    return Promises(
        calibration_rows=calibration.rows,
        fresh_rows=len(fresh),
        alarms={f"{rate:g}": _alarms(calibration, fresh, rate) for rate in ASKED},
        ks_distance=kstest(p_values[~split.anomalous], "uniform").statistic,
        # The p-values of one calibration go up and down together: that test would be of the scores, and exact.
        ks_p_value=ks_2samp(calibration.scores, fresh).pvalue,
        discoveries=_discoveries(p_values, split.anomalous, seed),
        repeats_identical=np.array_equal(measured.fitted.score(split.test), measured.scores),
    )


def interval(calibration_rows: int, fresh_rows: int, rate: float) -> tuple[int, int]:
    """The central 95 % of how many of `fresh_rows` score above the threshold for `rate`, when scores have no ties.

    The threshold is the r-th smallest of n calibration scores, r = n + 1 - k, k = floor((n + 1) rate). With scores
    brought to uniform by their distribution it comes from Beta(r, k), so that a fresh row is above it with a
    probability from Beta(k, r) (Vovk 2012, "Conditional validity of inductive conformal predictors"), and of m fresh
    rows BetaBinomial(m, k, r) are.
    """
    k = math.floor((calibration_rows + 1) * rate * (1 + 1e-12))  # 99 rows promise 1 % in spite of binary fractions
    low, high = betabinom.ppf((0.025, 0.975), fresh_rows, k, calibration_rows + 1 - k)
    return int(low), int(high)


def _alarms(calibration: Calibration, fresh: np.ndarray, rate: float) -> int | None:
    try:
        return int((fresh > calibration.threshold(rate)).sum())
    except FalseAlarmRateError:
        return None


def _discoveries(p_values: np.ndarray, anomalous: np.ndarray, seed: int) -> Discoveries:
    """On batches of 100 normal rows of the test and 5 anomalies, less of both where there are fewer normal rows."""
    rng = np.random.default_rng(seed)
    normal, anomaly = np.flatnonzero(~anomalous), np.flatnonzero(anomalous)
    normals = min(_NORMALS, len(normal))
    anomalies = min(max(1, normals * _ANOMALIES // _NORMALS), len(anomaly))
    false_shares, found_shares = [], []
    for _ in range(_BATCHES):
        batch = np.concatenate([rng.choice(normal, normals, False), rng.choice(anomaly, anomalies, False)])
        called = benjamini_hochberg(p_values[batch], FALSE_DISCOVERIES)
        false_shares.append(called[:normals].sum() / max(1, called.sum()))
        found_shares.append(called[normals:].mean())
    return Discoveries(
        batches=_BATCHES,
        normals=normals,
        anomalies=anomalies,
        false_share=float(np.mean(false_shares)),
        found_share=float(np.mean(found_shares)),
    )
