from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hourglass.contract.calibration import Calibration, FalseAlarmRateError, benjamini_hochberg

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


@given(calibration=SCORES, threshold=st.floats(-1, 101, width=32))
def test_the_rate_of_a_threshold_counts_the_calibration_rows_above_it(
    calibration: list[float], threshold: float
) -> None:
    above = sum(score > threshold for score in calibration)
    kept = Calibration.from_scores(np.array(calibration), 0.05)
    assert kept.rate_of(threshold) == (1 + above) / (len(calibration) + 1)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(19, 9_000), rate=st.floats(0.05, 0.9))
def test_a_threshold_promises_the_rate_it_was_made_for(seed: int, n: int, rate: float) -> None:
    calibration = Calibration.from_scores(np.random.default_rng(seed).exponential(size=n), 0.05)
    promised = calibration.rate_of(calibration.threshold(rate))
    assert promised <= rate * (1 + 1e-12)
    assert calibration.threshold(promised) == calibration.threshold(rate)


def by_definition(p_values: list[Fraction], rate: Fraction) -> list[bool]:
    """Benjamini & Hochberg (1995): the largest k such that k p-values are at most k / m * rate."""
    bounds = [rate * k / len(p_values) for k in range(len(p_values), 0, -1)]
    bound = next((b for b in bounds if sum(p <= b for p in p_values) >= b * len(p_values) / rate), Fraction(0))
    return [p <= bound for p in p_values]


@given(
    n=st.integers(1, 400),
    counts=st.lists(st.integers(1, 401), min_size=1, max_size=60),
    rate=st.sampled_from([Fraction(k, 20) for k in range(1, 20)]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_false_discoveries_are_controlled_by_the_definition(
    n: int, counts: list[int], rate: Fraction, dtype: type[np.floating]
) -> None:
    """Conformal p-values k / (n + 1): many lie exactly on their bound, where rounding must not decide."""
    exact = [Fraction(min(count, n + 1), n + 1) for count in counts]
    called = benjamini_hochberg(np.array([float(p) for p in exact], dtype=dtype), float(rate))
    assert called.dtype == np.bool_
    assert called.tolist() == by_definition(exact, rate)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_p_value_exactly_on_its_bound_is_within(dtype: type[np.floating]) -> None:
    for m in range(1, 300):
        on_the_bounds = np.arange(1, m + 1) / m * 0.1
        assert benjamini_hochberg(on_the_bounds.astype(dtype), 0.1).all()
        assert not benjamini_hochberg((on_the_bounds * 1.00001).astype(dtype), 0.1).any()


def test_no_rows_no_discoveries_and_a_p_value_of_one_is_none() -> None:
    assert benjamini_hochberg(np.array([]), 0.1).shape == (0,)
    assert not benjamini_hochberg(np.ones(3), np.nextafter(1, 0)).any()


def test_the_share_of_false_discoveries_is_as_promised() -> None:
    rng = np.random.default_rng(4)
    shares, found = [], 0
    for _ in range(400):
        calibration = Calibration.from_scores(rng.standard_normal(999), 0.01)
        scores = rng.standard_normal(200)
        scores[:40] += 3.5
        called = benjamini_hochberg(calibration.p_values(scores), 0.1)
        shares.append(called[40:].sum() / max(called.sum(), 1))
        found += int(called[:40].sum())
    # Of 200 rows 160 are normal: the procedure keeps it at 160 / 200 of what was asked.
    assert np.mean(shares) == pytest.approx(0.08, abs=3 * np.std(shares) / np.sqrt(400))
    assert found > 0.7 * 40 * 400


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
    with pytest.raises(FalseAlarmRateError, match="between 0 and 1"):
        benjamini_hochberg(np.array([0.01]), rate)


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
