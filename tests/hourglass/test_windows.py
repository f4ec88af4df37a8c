from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hourglass.windows import Covering, Cutter, Rows

LENGTHS = st.integers(2, 9)
STRIDES = st.integers(1, 11)


@st.composite
def series(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    """How many rows, which of them come after a gap, and where the batches end."""
    rows = draw(st.integers(1, 60))
    inside = st.lists(st.integers(1, rows), max_size=5, unique=True).map(sorted)
    return rows, [row for row in draw(inside) if row < rows], [*(cut for cut in draw(inside) if cut < rows), rows]


def cut(rows: int, gaps: list[int], ends: list[int], length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    cutter, first = Cutter(length, stride), 0
    found = []
    for end in ends:
        found.append(cutter.add(values[first:end], np.array([g - first for g in gaps if first <= g < end], dtype=int)))
        first = end
    found.append(cutter.end())
    starts, windows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    for start, window in zip(starts, windows, strict=True):
        np.testing.assert_array_equal(window, values[start : start + length])
    return starts, windows


@given(series(), LENGTHS, STRIDES)
def test_windows_do_not_depend_on_batches_and_span_no_gap(
    given_series: tuple[int, list[int], list[int]], length: int, stride: int
) -> None:
    rows, gaps, ends = given_series
    starts, _ = cut(rows, gaps, ends, length, stride)
    expected = []
    for begin, end in zip([0, *gaps], [*gaps, rows], strict=True):
        inside = list(range(begin, end - length + 1, stride))
        if inside and inside[-1] + length < end:
            inside.append(end - length)
        expected += inside
    assert starts.tolist() == expected


@given(series(), LENGTHS, STRIDES, st.integers(1, 5))
def test_each_row_gets_the_mean_of_the_windows_that_cover_it(
    given_series: tuple[int, list[int], list[int]], length: int, stride: int, at_once: int
) -> None:
    rows, gaps, ends = given_series
    starts, _ = cut(rows, gaps, ends, length, stride)
    values = np.random.default_rng(0).normal(size=(len(starts), length))
    covering = Covering(length, stride)
    parts = [covering.add(starts[i : i + at_once], values[i : i + at_once]) for i in range(0, len(starts), at_once)]
    parts.append(covering.end(rows))
    counts, means = (np.concatenate([getter(part) for part in parts]) for getter in (lambda p: p.covering, Rows.mean))
    said: list[list[float]] = [[] for _ in range(rows)]
    for start, window in zip(starts, values, strict=True):
        for offset, value in enumerate(window):
            said[start + offset].append(value)
    assert counts.tolist() == [len(row) for row in said]
    expected = np.array([np.mean(row) if row else np.nan for row in said])
    np.testing.assert_allclose(means, expected, rtol=1e-5, atol=1e-6)


def test_memory_is_that_of_a_window_not_of_the_series() -> None:
    cutter, covering = Cutter(8, 4), Covering(8, 4)
    given_rows = 0
    for _ in range(1_000):
        windows = cutter.add(np.zeros((10, 1), dtype=np.float32), np.empty(0, dtype=int))
        given_rows += len(covering.add(windows.starts, np.zeros((len(windows.starts), 8))).covering)
        assert cutter._kept is not None
        assert len(cutter._kept) <= 8
        assert len(covering._covering) <= 20
    assert given_rows + len(covering.end(10_000).covering) == 10_000


@pytest.mark.parametrize(
    ("values", "expected"), [([3.0], 3.0), ([3.0, 1.0], 1.0), ([1.0, 2.0, 3.0], 2.0), ([4.0, 1.0, 2.0, 3.0], 2.0)]
)
def test_at_least_half_of_the_windows(values: list[float], expected: float) -> None:
    """A row whose result is at most alpha is exactly one of whose windows at least half are."""
    padded = np.array([[*values, *[np.nan] * (6 - len(values))], [np.nan] * 6])
    found = Rows(np.array([len(values), 0]), padded).at_least_half()
    assert found[0] == expected
    assert np.isnan(found[1])
    assert 2 * sum(value <= expected for value in values) >= len(values)
