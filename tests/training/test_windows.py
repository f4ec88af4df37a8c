from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from training.errors import DataError
from training.windows import MOST_WINDOWS, Series, blocks, learned_stride, served_stride

SHARES = (0.7, 0.1)


def series(rows: int, gaps: list[int] | None = None) -> Series:
    values = np.arange(rows, dtype=np.float32)[:, None] * np.ones((1, 2), dtype=np.float32)
    return Series(values, np.array([0, *(gaps or [])]))


@given(
    st.integers(1, 400),
    st.lists(st.integers(1, 399), max_size=4, unique=True).map(sorted),
    st.integers(2, 20),
    st.integers(1, 25),
)
def test_no_row_is_within_a_window_of_two_splits(rows: int, gaps: list[int], length: int, stride: int) -> None:
    whole = series(rows, [gap for gap in gaps if gap < rows])
    starts = whole.starts(length, stride)
    assume(len(starts) >= 10)
    try:
        parts = blocks(starts, length, SHARES, "x.csv")
    except DataError:
        return
    chosen = [starts[part] for part in parts]
    assert all(len(part) for part in chosen)
    for before, after in pairwise(chosen):
        assert after[0] - (before[-1] + length - 1) > length
    if len(whole.pieces) == 1:
        total = sum(map(len, chosen))
        assert [len(part) / total for part in chosen] == pytest.approx([0.7, 0.1, 0.2], abs=1.5 / total)


@given(st.integers(2, 40), st.integers(1, 50))
def test_a_series_that_is_too_short_says_how_long_it_has_to_be(length: int, stride: int) -> None:
    with pytest.raises(DataError, match=r"x\.csv: .* give at least ([\d,]+) rows without a gap") as error:
        blocks(series(length + 3 * stride).starts(length, stride), length, SHARES, "x.csv")
    needed = int(str(error.value).partition("at least ")[2].split(" ")[0].replace(",", ""))
    assert all(
        part.stop > part.start for part in blocks(series(needed).starts(length, stride), length, SHARES, "x.csv")
    )
    with pytest.raises(DataError):
        blocks(series(needed - 1).starts(length, stride), length, SHARES, "x.csv")


def test_windows_are_the_rows_and_span_no_gap() -> None:
    whole = series(20, [7])
    starts = whole.starts(4, 2)
    assert starts.tolist() == [0, 2, 7, 9, 11, 13, 15]
    windows = whole.windows(starts, 4)
    assert windows.shape == (7, 4, 2)
    assert windows[:, :, 0].tolist() == [[start + i for i in range(4)] for start in starts]


def test_gaps_and_irregular_steps_are_found_and_said() -> None:
    seconds = np.concatenate([np.arange(50.0), 60.0 + np.arange(50), [110.0, 112.0, 112.0]]) * 60
    found = Series.of(np.zeros((len(seconds), 1), dtype=np.float32), seconds, 16)
    assert found.step_seconds == 60
    assert found.pieces.tolist() == [0, 50]
    assert found.findings == (
        "there is 1 gap of more than 2 min, the longest of 11 min: no window spans one",
        "2 of 102 steps from a row to the next are not the usual 1 min, and 1 of them are 0",
    )
    assert not Series.of(np.zeros((9, 1), dtype=np.float32), np.arange(9.0), 4).findings


def test_without_times_rows_follow_one_another() -> None:
    found = Series.of(np.zeros((9, 1), dtype=np.float32), None, 4)
    assert (found.pieces.tolist(), found.step_seconds, found.findings) == ([0], None, ())


def test_short_series_are_cut_at_every_row_and_long_ones_as_often_as_is_enough() -> None:
    assert learned_stride(series(5_000), 32) == 1
    assert learned_stride(series(3 * MOST_WINDOWS), 32) == 3
    assert [served_stride(length) for length in (2, 32)] == [1, 8]
