from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from hourglass.files import open_rows
from training import mnist_variations
from training.errors import DataError
from training.mnist_variations import random_background, rotated


def hand(count: int, length: int = 9) -> np.ndarray:
    """A bright bar from the middle to the right, 3 pixels thick."""
    images = np.zeros((count, 28, 28), dtype=np.uint8)
    images[:, 13:16, 14 : 14 + length] = 200
    return images


def angles(images: np.ndarray) -> np.ndarray:
    """In [0, 2 pi): where the centre of gravity lies, seen from the middle."""
    place = np.arange(28) - 13.5
    return np.arctan2(images.sum(axis=2) @ place, images.sum(axis=1) @ place) % (2 * np.pi)


def test_angles_of_rotation_are_uniform_over_the_whole_circle():
    counts, _ = np.histogram(angles(rotated(hand(8000), seed=3)), bins=16, range=(0, 2 * np.pi))
    assert chisquare(counts).pvalue > 0.001


def test_a_rotation_keeps_the_ink_its_distance_and_its_brightness():
    images = hand(500)
    turned = rotated(images, seed=0)
    assert turned.dtype == np.uint8
    assert turned.shape == images.shape
    ink = images[0].sum(dtype=np.int64)
    np.testing.assert_allclose(turned.sum(axis=(1, 2), dtype=np.int64), ink, rtol=0.04)
    place = np.arange(28) - 13.5
    gravity = np.hypot(turned.sum(axis=2) @ place, turned.sum(axis=1) @ place) / turned.sum(axis=(1, 2))
    np.testing.assert_allclose(gravity, np.hypot(0.5, 4.5), atol=0.1)
    assert turned.max() == 200


def test_what_turns_in_from_outside_is_background():
    white = np.full((50, 28, 28), 255, dtype=np.uint8)
    turned = rotated(white, seed=1)
    assert (turned[:, 14, 14] == 255).all()
    assert (turned[:, 0, 0] == 0).mean() > 0.8


def test_the_background_is_uniform_and_the_brighter_pixel_is_seen():
    images = hand(300)
    noisy = random_background(images, seed=2)
    stroke = images > 0
    counts = np.bincount(noisy[~stroke], minlength=256)
    assert len(counts) == 256
    assert chisquare(counts).pvalue > 0.001
    # Noise that is uniform in 0 to 255 is at most 200 in 201 of 256 cases, and evenly spread above.
    assert noisy[stroke].min() == 200
    assert (noisy[stroke] == 200).mean() == pytest.approx(201 / 256, abs=0.02)
    assert chisquare(np.bincount(noisy[stroke])[201:]).pvalue > 0.001
    assert noisy.dtype == np.uint8


@pytest.mark.parametrize("variation", [rotated, random_background])
def test_the_seed_alone_decides_and_the_images_are_not_changed(variation):
    images = hand(5000)  # more than are turned at once
    images.flags.writeable = False
    np.testing.assert_array_equal(variation(images, seed=4), variation(images, seed=4))
    assert (variation(images, seed=4) != variation(images, seed=5)).any(axis=(1, 2)).all()
    assert len(variation(images[:0], seed=0)) == 0


@settings(max_examples=20)
@given(count=st.integers(62_000, 70_000), seed=st.integers(0, 2**32))
def test_no_image_is_in_two_parts(count: int, seed: int):
    parts = mnist_variations.parts(count, seed)
    assert [len(part) for part in parts] == [10_000, 2_000, 50_000]
    drawn = np.concatenate(parts)
    assert len(np.unique(drawn)) == 62_000
    assert drawn.min() >= 0
    assert drawn.max() < count


def test_too_few_images_are_refused():
    with pytest.raises(DataError, match="need 62,000 images, not 60,000"):
        mnist_variations.parts(60_000, 0)


def test_real_digits(shared_data: Path):
    file = open_rows(shared_data / "mnist" / "t10k-images-idx3-ubyte.gz")
    images = next(iter(file.batches(2000))).numbers().astype(np.uint8)
    turned, noisy = rotated(images, seed=0), random_background(images, seed=0)
    # Digits lie within a circle, nearly: no ink is lost.
    assert turned.sum() == pytest.approx(images.sum(), rel=0.002)
    assert 127.5 < noisy.mean() < 150
