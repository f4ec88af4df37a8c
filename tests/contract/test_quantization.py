"""Embeddings in fewer bytes: what they are, and how near they stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from hourglass.contract.array import Array
from hourglass.contract.quantization import Quantization, Quantizations, float16, normalized

FINITE = st.floats(-(2.0**99), 2.0**99, width=32)
EMBEDDINGS = arrays.arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=FINITE)


def normal(n: int = 1000, size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, size)).astype(np.float32)


@given(EMBEDDINGS)
def test_int8_is_the_nearest_multiple_of_the_scale(embeddings: np.ndarray) -> None:
    quantization = Quantization.of(embeddings)
    whole = quantization.int8(embeddings)
    assert whole.dtype == np.int8
    assert (np.abs(whole) <= 127).all()
    inside = np.abs(embeddings / quantization.scale) <= 127
    error = np.abs(whole * quantization.scale - embeddings.astype(np.float64))
    assert (error[inside] <= quantization.scale * 0.5001).all()
    assert (np.abs(whole[~inside]) == 127).all()
    np.testing.assert_array_equal(np.sign(whole[~inside]), np.sign(embeddings[~inside]))


def test_the_scale_cuts_off_one_number_in_two_thousand() -> None:
    embeddings = normal()
    scale = Quantization.of(embeddings).scale
    assert (np.abs(embeddings) > 127 * scale).mean() == pytest.approx(1 / 2000, rel=0.01)
    # Of a sparse embedding's numbers, most are 0.
    sparse = np.zeros((1000, 80), dtype=np.float32)
    sparse[:, :8] = embeddings
    assert Quantization.of(sparse).scale == scale


def test_a_scale_is_chosen_by_some_of_many_rows() -> None:
    few = normal(2**17, 8)
    many = np.repeat(few, 3, axis=0)  # every third is another
    assert Quantization.of(many) == Quantization.of(few)


@given(EMBEDDINGS)
def test_a_bit_tells_whether_a_number_is_above_the_median(embeddings: np.ndarray) -> None:
    n, size = embeddings.shape
    packed = Quantization.of(embeddings).binary(embeddings)
    assert packed.shape == (n, -(-size // 8))
    bits = np.unpackbits(packed, axis=1)
    assert not bits[:, size:].any()
    np.testing.assert_array_equal(bits[:, :size], embeddings > np.median(embeddings, axis=0).astype(np.float32))


@given(EMBEDDINGS)
def test_normalized_is_of_length_one(embeddings: np.ndarray) -> None:
    embeddings[0] = 0
    lengths = np.linalg.norm(normalized(embeddings).astype(np.float64), axis=1)
    zero = ~embeddings.any(axis=1)
    np.testing.assert_allclose(lengths[~zero], 1, rtol=1e-6)
    assert not lengths[zero].any()
    both = Quantizations.of(embeddings)
    assert both.normalized == Quantization.of(normalized(embeddings))
    assert both.plain == Quantization.of(embeddings)


def test_float16_ends_at_its_largest_number() -> None:
    given = np.array([[1.0, 1e6, -1e6, 65504]], dtype=np.float32)
    np.testing.assert_array_equal(float16(given), np.array([[1, 65504, -65504, 65504]], dtype=np.float16))


def test_embeddings_that_are_all_zero_have_a_scale() -> None:
    quantization = Quantization.of(np.zeros((3, 2), dtype=np.float32))
    assert quantization.scale > 0
    assert not quantization.int8(np.zeros((1, 2), dtype=np.float32)).any()


@pytest.mark.parametrize(
    ("scale", "thresholds"), [(0, np.zeros(2)), (1e-60, np.zeros(2)), (1, np.zeros((2, 2))), (1, np.full(2, np.nan))]
)
def test_what_is_no_quantization_is_refused(scale: float, thresholds: np.ndarray) -> None:
    with pytest.raises(ValidationError):
        Quantization(scale=scale, thresholds=Array.pack(thresholds))
