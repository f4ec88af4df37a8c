"""Which rows are anomalies: what a request asks for, and the arithmetic on scores that answers it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hourglass.contract.calibration import Calibration, FalseAlarmRateError, benjamini_hochberg
from hourglass.v1 import autoencoder_pb2 as pb
from service.errors import InvalidInput


@dataclass(frozen=True)
class Rule:
    """score > threshold, which stands for false_alarm_rate; or the false discovery rate kept at false_alarm_rate."""

    threshold: float
    false_alarm_rate: float
    control_fdr: bool = False


@dataclass(frozen=True)
class Verdicts:
    """is_anomaly: bool [n], score > threshold."""

    is_anomaly: np.ndarray
    threshold: float
    false_alarm_rate: float


def rule(request: pb.ScoreRequest, calibration: Calibration) -> Rule:
    """What the request asks for; where it says nothing, the model's own. Raises InvalidInput."""
    if request.HasField("threshold"):
        _check_threshold(request)
        return Rule(request.threshold, calibration.rate_of(request.threshold))
    asked = request.false_alarm_rate if request.HasField("false_alarm_rate") else None
    return at_rate(asked, calibration, control_fdr=request.control_fdr)


def at_rate(asked: float | None, calibration: Calibration, *, control_fdr: bool = False) -> Rule:
    """asked: None for the model's own. Raises InvalidInput."""
    rate = calibration.false_alarm_rate if asked is None else asked
    try:
        return Rule(calibration.threshold(rate), rate, control_fdr)
    except FalseAlarmRateError as error:
        raise InvalidInput(str(error), reason="BAD_FALSE_ALARM_RATE", field="false_alarm_rate") from None


def judge(rule: Rule, scores: np.ndarray, p_values: np.ndarray) -> Verdicts:
    """scores, p_values: float32 [n], as the caller gets them: who applies the procedure to them comes to the same."""
    if not rule.control_fdr:
        return Verdicts(above(rule, scores), rule.threshold, rule.false_alarm_rate)
    is_anomaly = benjamini_hochberg(p_values, rule.false_alarm_rate)
    return Verdicts(is_anomaly, float(scores[~is_anomaly].max(initial=-np.inf)), rule.false_alarm_rate)


def above(rule: Rule, scores: np.ndarray) -> np.ndarray:
    """scores: float32 [n] -> bool [n], by the rule's threshold."""
    is_anomaly: np.ndarray = scores > np.float64(rule.threshold)  # a Python float would be rounded to float32
    return is_anomaly


def _check_threshold(request: pb.ScoreRequest) -> None:
    if request.HasField("false_alarm_rate") or request.control_fdr:
        other = "control_fdr" if request.control_fdr else "false_alarm_rate"
        problem = f"threshold and {other} are both set: each decides alone what is an anomaly"
    elif not math.isfinite(request.threshold):
        problem = f"threshold is {request.threshold}: a finite number is needed"
    else:
        return
    raise InvalidInput(problem, reason="BAD_THRESHOLD", field="threshold")
