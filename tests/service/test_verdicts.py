"""Which rows are anomalies, by whichever rule the caller chose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hourglass.contract.calibration import Calibration, benjamini_hochberg
from hourglass.v1 import autoencoder_pb2 as pb
from service.errors import InvalidInput
from service.verdicts import judge, rule

# 199 scores 1.0 ... 199.0
CALIBRATION = Calibration.from_scores(np.arange(1.0, 200.0), 0.05)


def p_values(scores: Any) -> np.ndarray:
    return CALIBRATION.p_values(np.asarray(scores, dtype=np.float32)).astype(np.float32)


def verdicts(scores: Any, **request: Any) -> Any:
    asked = rule(pb.ScoreRequest(**request), CALIBRATION)
    return judge(asked, np.asarray(scores, dtype=np.float32), p_values(scores))


def test_the_models_own_rate_unless_asked() -> None:
    for request, rate, threshold in (({}, 0.05, 190.0), ({"false_alarm_rate": 0.1}, 0.1, 180.0)):
        verdict = verdicts([threshold, threshold + 0.5, 1e9], **request)
        assert (verdict.false_alarm_rate, verdict.threshold) == (rate, threshold)
        assert verdict.is_anomaly.tolist() == [False, True, True]
        assert verdict.is_anomaly.dtype == np.bool_


@pytest.mark.parametrize(("threshold", "above"), [(-1.0, 199), (100.0, 99), (100.5, 99), (198.5, 1), (1e300, 0)])
def test_a_threshold_says_what_it_promises(threshold: float, above: int) -> None:
    verdict = verdicts([100.0, 100.25, 101.0], threshold=threshold)
    assert verdict.threshold == threshold
    assert verdict.false_alarm_rate == (1 + above) / 200
    assert verdict.is_anomaly.tolist() == [s > threshold for s in (100.0, 100.25, 101.0)]


def test_a_threshold_is_not_rounded_to_the_scores_precision() -> None:
    score = float(np.float32(0.1))
    assert verdicts([score], threshold=math.nextafter(score, 0)).is_anomaly.all()
    assert not verdicts([score], threshold=score).is_anomaly.any()


@given(scores=st.lists(st.floats(0, 250, width=32), min_size=1, max_size=60), rate=st.floats(0.01, 0.95))
def test_controlled_verdicts_are_those_of_the_p_values_that_are_sent(scores: list[float], rate: float) -> None:
    verdict = verdicts(scores, control_fdr=True, false_alarm_rate=rate)
    np.testing.assert_array_equal(verdict.is_anomaly, benjamini_hochberg(p_values(scores), rate))
    np.testing.assert_array_equal(verdict.is_anomaly, np.array(scores, dtype=np.float64) > verdict.threshold)
    assert verdict.false_alarm_rate == rate


def test_the_controlled_threshold_is_the_largest_score_of_no_anomaly() -> None:
    some = verdicts([1.0, 50.0, 1e3, 1e3], control_fdr=True, false_alarm_rate=0.1)
    assert (some.is_anomaly.tolist(), some.threshold) == ([False, False, True, True], 50.0)
    everything = verdicts([1e3, 1e4], control_fdr=True, false_alarm_rate=0.1)
    assert (everything.is_anomaly.tolist(), everything.threshold) == ([True, True], -math.inf)
    # One row among 100: its p-value, at best 1 / 200, is above 0.1 / 100.
    assert not verdicts([1e9] + [1.0] * 99, control_fdr=True, false_alarm_rate=0.1).is_anomaly.any()


@pytest.mark.parametrize(
    ("request_", "reason", "message"),
    [
        ({"false_alarm_rate": 0.0}, "BAD_FALSE_ALARM_RATE", "between 0 and 1, not 0"),
        ({"false_alarm_rate": 0.004}, "BAD_FALSE_ALARM_RATE", "the smallest is 0.005"),
        ({"false_alarm_rate": 0.004, "control_fdr": True}, "BAD_FALSE_ALARM_RATE", "the smallest is 0.005"),
        ({"threshold": math.nan}, "BAD_THRESHOLD", "threshold is nan: a finite number"),
        ({"threshold": -math.inf}, "BAD_THRESHOLD", "threshold is -inf: a finite number"),
        ({"threshold": 1.0, "false_alarm_rate": 0.1}, "BAD_THRESHOLD", "threshold and false_alarm_rate are both set"),
        ({"threshold": 1.0, "control_fdr": True}, "BAD_THRESHOLD", "threshold and control_fdr are both set"),
    ],
)
def test_what_cannot_be_asked_for(request_: dict[str, Any], reason: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        rule(pb.ScoreRequest(**request_), CALIBRATION)
    field = "threshold" if reason == "BAD_THRESHOLD" else "false_alarm_rate"
    assert (refused.value.reason, refused.value.field) == (reason, field)
