"""What chance makes of an asked false-alarm rate: against simulation, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hourglass.contract.calibration import Calibration
from training.false_alarms import expected, interval, percent


@given(n=st.integers(99, 3_000), rate=st.floats(0.01, 0.5), seed=st.integers(0, 2**32 - 1))
def test_k_is_floor_of_n_plus_one_times_the_rate(n: int, rate: float, seed: int):
    calibration = Calibration.from_scores(np.random.default_rng(seed).random(n), 0.01)
    asked = int((n + 1) * rate * (1 + 1e-12))
    # Beyond 2,000 rows not every rank is kept, and the threshold errs on the safe side.
    assert calibration.beyond(rate) == asked if n <= 2_000 else calibration.beyond(rate) <= asked
    above = (np.array(calibration.scores) > calibration.threshold(rate)).sum()
    assert calibration.beyond(rate) == above + 1 if n <= 2_000 else True


@pytest.mark.parametrize(("n", "rate"), [(199, 0.05), (99, 0.01), (1_000, 0.01)])
def test_95_percent_of_models_lie_in_the_interval(n: int, rate: float):
    """Scores uniform on [0, 1]: of fresh rows, 1 - threshold exceed it."""
    rng = np.random.default_rng(0)
    calibrations = [Calibration.from_scores(rng.random(n), rate) for _ in range(1_000)]
    true_rates = np.array([1 - calibration.threshold(rate) for calibration in calibrations])
    low, high = interval(calibrations[0], rate)
    assert ((true_rates >= low) & (true_rates <= high)).mean() == pytest.approx(0.95, abs=0.025)
    assert low < rate < high

    fresh = 300
    realised = rng.binomial(fresh, true_rates) / fresh
    low, high = expected(calibrations[0], rate, fresh)
    # Counts are whole: the share inside is at least what was asked, and not much more.
    assert 0.94 <= ((realised >= low) & (realised <= high)).mean() <= 1
    assert (realised > high).mean() <= 0.035


def test_more_fresh_rows_tell_more():
    calibration = Calibration.from_scores(np.arange(999.0), 0.05)
    few, many, all_ = (expected(calibration, 0.05, m) for m in (20, 500, 10**7))
    assert few[1] > many[1] > all_[1]
    assert all_ == pytest.approx(interval(calibration, 0.05), abs=1e-4)


@pytest.mark.parametrize(
    ("share", "shown"), [(0.01, "1.0 %"), (0.0042, "0.4 %"), (0.0005, "0.05 %"), (0.0, "0.0 %"), (0.123, "12.3 %")]
)
def test_shares_as_people_read_them(share: float, shown: str):
    assert percent(share) == shown
