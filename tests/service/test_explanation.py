"""Which features a score comes from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.errors import InvalidInput
from service.explanation import how_many, top_features


@given(
    # Few different values: many ties.
    errors=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.integers(0, 4)),
    k=st.integers(1, 200),
)
def test_the_largest_come_first_and_of_equal_ones_the_first_in_the_row(errors: np.ndarray, k: int) -> None:
    rng = np.random.default_rng(0)
    rows, reconstruction = rng.standard_normal((2, *errors.shape)).astype(np.float32)
    top = top_features(rows, errors, reconstruction, k)
    for i, row in enumerate(errors.reshape(len(errors), -1)):
        expected = sorted(range(len(row)), key=lambda feature: (-row[feature], feature))[:k]
        assert top.feature[i].tolist() == expected
        np.testing.assert_allclose(top.share[i], row[expected] / max(row.sum(), 1), rtol=1e-6)
        np.testing.assert_array_equal(top.observed[i], rows[i].ravel()[expected])
        np.testing.assert_array_equal(top.expected[i], reconstruction[i].ravel()[expected])
    assert top.feature.dtype == np.int32
    assert {values.dtype for values in (top.share, top.observed, top.expected)} == {np.dtype(np.float32)}


def test_errors_near_the_end_of_float32_still_have_shares() -> None:
    errors = np.full((1, 4), 3e38, dtype=np.float32)
    assert top_features(errors, errors, errors, 2).share.tolist() == [[0.25, 0.25]]


def test_fewer_than_none_cannot_be_asked_for() -> None:
    assert [how_many(k) for k in (0, 3)] == [0, 3]
    with pytest.raises(InvalidInput, match="top_features is -1") as refused:
        how_many(-1)
    assert (refused.value.reason, refused.value.field) == ("BAD_TOP_FEATURES", "top_features")
