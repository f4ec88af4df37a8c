"""How often fresh normal rows are called anomalies: what a calibration promises, and how far chance may take it."""

from __future__ import annotations

from scipy.stats import beta, betabinom

from hourglass.contract.calibration import Calibration

_ENDS = (0.025, 0.975)


def interval(calibration: Calibration, rate: float) -> tuple[float, float]:
    """Where the model's false-alarm rate really lies when `rate` is asked, with probability 95 %.

    Over the draw of the calibration rows, for scores without ties. Raises FalseAlarmRateError.
    """
    k = calibration.beyond(rate)
    low, high = beta.ppf(_ENDS, k, calibration.rows + 1 - k)
    return float(low), float(high)


def expected(calibration: Calibration, rate: float, fresh: int) -> tuple[float, float]:
    """As `interval`, for the share of that many fresh rows, drawn by chance too. Raises FalseAlarmRateError."""
    k = calibration.beyond(rate)
    low, high = betabinom.ppf(_ENDS, fresh, k, calibration.rows + 1 - k) / fresh
    return float(low), float(high)


def percent(share: float) -> str:
    """As people read it: 1.0 %, 0.4 %, 0.05 %."""
    return f"{100 * share:.2g} %" if 0 < share < 0.001 else f"{100 * share:.1f} %"
