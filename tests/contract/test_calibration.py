from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hourglass.contract.calibration import Calibration, FalseAlarmRateError

SCORES = st.lists(st.floats(0, 100, width=32), min_size=19, max_size=300)


def exact_p_values(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return np.array([(1 + np.sum(calibration >= s)) / (len(calibration) + 1) for s in scores])


@given(calibration=SCORES, scores=SCORES)
def test_p_values_are_the_definition(calibration: list[float], scores: list[float]) -> None:
    kept = Calibration.from_scores(np.array(calibration), 0.05)
    np.testing.assert_array_equal(kept.p_values(np.array(scores)), exact_p_values(np.array(calibration), scores))


@given(calibration=SCORES, rate=st.floats(0.05, 0.95))
def test_the_threshold_is_the_order_statistic(calibration: list[float], rate: float) -> None:
    n = len(calibration)
    rank = math.ceil(round((n + 1) * (1 - rate), 9))
    assert Calibration.from_scores(np.array(calibration), 0.05).threshold(rate) == sorted(calibration)[rank - 1]


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(19, 9_000),
    rate=st.floats(0.05, 0.9),
    decimals=st.integers(0, 6),
)
def test_verdict_and_p_value_say_the_same(seed: int, n: int, rate: float, decimals: int) -> None:
    """Ties, and rows beyond the 2,000 that are kept whole."""
    rng = np.random.default_rng(seed)
    calibration = Calibration.from_scores(rng.exponential(size=n).round(decimals), 0.05)
    scores = np.concatenate([rng.exponential(size=200).round(decimals), calibration.scores[::50]])
    by_threshold = scores > calibration.threshold(rate)
    by_p_value = calibration.p_values(scores) <= rate * (1 + 1e-12)
    np.testing.assert_array_equal(by_threshold, by_p_value)


def test_many_scores_are_summarised_on_the_safe_side_and_the_tail_is_exact() -> None:
    rng = np.random.default_rng(0)
    everything = rng.exponential(size=50_000)
    kept = Calibration.from_scores(everything, 0.01)
    assert len(kept.scores) <= 2_000
    fresh = rng.exponential(size=2_000)
    exact, given_ = exact_p_values(everything, fresh), kept.p_values(fresh)
    assert (given_ >= exact).all()
    assert (given_ - exact).max() < 1.1e-3
    tail = fresh > np.sort(everything)[-1_000]
    assert tail.any()
    np.testing.assert_array_equal(given_[tail], exact[tail])


def test_fresh_normal_rows_get_uniform_p_values() -> None:
    rng = np.random.default_rng(3)
    calibration = Calibration.from_scores(rng.gamma(3, size=4_000), 0.01)
    p = calibration.p_values(rng.gamma(3, size=4_000))
    for rate in (0.001, 0.01, 0.05, 0.5):
        assert abs((p <= rate).mean() - rate) < 4 * math.sqrt(2 * rate / 4_000)


@pytest.mark.parametrize(("n", "rate"), [(98, 0.01), (18, 0.05), (1, 0.4999)])
def test_a_rate_the_rows_cannot_promise_is_refused(n: int, rate: float) -> None:
    with pytest.raises((FalseAlarmRateError, ValidationError), match="the smallest is"):
        Calibration.from_scores(np.arange(n, dtype=float), rate)


@pytest.mark.parametrize(("n", "rate"), [(99, 0.01), (19, 0.05), (999, 0.001), (9, 0.1)])
def test_the_smallest_promised_rate_is_one_over_n_plus_one(n: int, rate: float) -> None:
    calibration = Calibration.from_scores(np.arange(n, dtype=float), rate)
    assert calibration.threshold(rate) == n - 1
    assert calibration.threshold(calibration.smallest_false_alarm_rate) == n - 1


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_a_rate_outside_zero_and_one_is_refused(rate: float) -> None:
    with pytest.raises(FalseAlarmRateError, match="between 0 and 1"):
        Calibration.from_scores(np.arange(99.0), 0.05).threshold(rate)


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [3.0, 2.0, 1.0], "ranks": [1, 2, 3]},
        {"scores": [1.0, 2.0], "ranks": [1, 2, 3]},
        {"scores": [1.0, 2.0, math.inf], "ranks": [1, 2, 3]},
        {"scores": [1.0, 2.0, 3.0], "ranks": [1, 1, 3]},
        {"scores": [1.0, 2.0, 3.0], "ranks": [1, 2, 4]},
        {"false_alarm_rate": 0.1},
    ],
)
def test_a_calibration_that_does_not_hold_together_is_refused(change: dict[str, object]) -> None:
    good = {"rows": 3, "false_alarm_rate": 0.5, "scores": [1.0, 2.0, 3.0], "ranks": [1, 2, 3]}
    assert Calibration.model_validate(good)
    with pytest.raises(ValidationError):
        Calibration.model_validate(good | change)
