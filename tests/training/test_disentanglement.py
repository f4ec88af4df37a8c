from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from training import disentanglement, sprites
from training.disentanglement import Embeddings, factor_vae, higgins, mig, sap

SMALL = {"train": 1000, "test": 500}
Encode = Callable[[np.ndarray], np.ndarray]


class Grid:
    """An image is its factors, uint8 [n, number of factors]; each is encoded as often as `seen` says."""

    def __init__(self, **sizes: int) -> None:
        self.FACTORS: Mapping[str, int] = sizes
        self.seen = np.zeros(np.prod(list(sizes.values())), dtype=int)

    def images(self, indices: np.ndarray) -> np.ndarray:
        np.add.at(self.seen, indices, 1)
        return np.stack(np.unravel_index(indices, tuple(self.FACTORS.values())), axis=-1).astype(np.uint8)


def like_sprites() -> Grid:
    return Grid(**sprites.FACTORS)


def factors(images: np.ndarray) -> np.ndarray:
    """The sprites' factors, each with mean 0 and variance 1: what an embedding should be."""
    sizes = np.array(list(sprites.FACTORS.values()))
    return ((images - (sizes - 1) / 2) / np.sqrt((sizes**2 - 1) / 12)).astype(np.float32)


def columns(*functions: Encode) -> Encode:
    return lambda images: np.stack([function(images) for function in functions], axis=1).astype(np.float32)


def factor(number: int, scale: float = 1) -> Encode:
    return lambda images: scale * images[:, number]


def test_the_factors_themselves_are_disentangled():
    embeddings = Embeddings(factors, like_sprites())
    assert higgins(embeddings, **SMALL) >= 0.995
    assert factor_vae(embeddings, **SMALL) == 1
    # All that is lost is what 20 bins of equal width cannot tell apart.
    told = []
    for size in sprites.FACTORS.values():
        share = np.bincount(np.minimum(np.arange(size) * 20 // (size - 1), 19)) / size
        told.append(-(share[share > 0] * np.log(share[share > 0])).sum() / np.log(size))
    assert mig(embeddings) == pytest.approx(np.mean(told), abs=0.015)


def test_a_rotation_mixes_them():
    rotation = np.linalg.qr(np.random.default_rng(7).normal(size=(5, 5)))[0].astype(np.float32)
    straight = disentanglement.measure(factors, like_sprites(), **SMALL)
    mixed = disentanglement.measure(lambda images: factors(images) @ rotation, like_sprites(), **SMALL)
    assert mixed.mig < straight.mig / 3
    assert mixed.sap < straight.sap / 3
    assert mixed.factor_vae < straight.factor_vae - 0.1
    assert mixed.higgins < straight.higgins - 0.05


def test_noise_is_chance():
    rng = np.random.default_rng(3)
    noise = disentanglement.measure(lambda images: rng.normal(size=(len(images), 4)), like_sprites(), **SMALL)
    assert noise.higgins == pytest.approx(1 / 5, abs=0.06)
    assert noise.factor_vae == pytest.approx(1 / 5, abs=0.06)
    assert noise.mig < 0.02
    assert noise.sap < 0.03


def test_the_order_of_dimensions_means_nothing():
    rotation = np.random.default_rng(5).normal(size=(5, 6)).astype(np.float32)
    scores = [
        disentanglement.measure(
            lambda images, order=order: (factors(images) @ rotation)[:, order], like_sprites(), **SMALL
        )
        for order in ([0, 1, 2, 3, 4, 5], [4, 2, 5, 0, 3, 1])
    ]
    assert scores[0].higgins == pytest.approx(scores[1].higgins, abs=0.002)
    assert scores[0].factor_vae == scores[1].factor_vae
    assert scores[0].mig == pytest.approx(scores[1].mig)
    assert scores[0].sap == pytest.approx(scores[1].sap, abs=0.002)


@pytest.mark.parametrize(
    ("encode", "expected"),
    [
        (columns(factor(0), factor(1)), 1),
        (columns(factor(0), factor(1), factor(1)), 1 / 2),  # two dimensions tell of b the same
        (columns(factor(0), lambda images: images[:, 1] // 2), 3 / 4),  # one bit of two
        (columns(factor(0), lambda images: images[:, 1] // 2, lambda images: images[:, 1] % 2), 1 / 2),
        (columns(factor(1)), 1 / 2),  # nothing of a
        (columns(factor(0), factor(0)), 0),
    ],
)
def test_mig_is_what_information_theory_says(encode: Encode, expected: float):
    assert mig(Embeddings(encode, Grid(a=2, b=4))) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(
    ("encode", "expected"),
    [
        (columns(factor(0), factor(1)), 1 / 2),  # certainty, less a guess between two values
        (columns(factor(0), factor(0), factor(1)), 1 / 4),
        (columns(factor(0), factor(0)), 0),
    ],
)
def test_sap_is_the_lead_of_the_best_dimension(encode: Encode, expected: float):
    assert sap(Embeddings(encode, Grid(a=2, b=2))) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("encode", "expected"),
    [
        (columns(factor(0), factor(1), factor(2)), 1),
        (columns(factor(0), factor(1)), 2 / 3),  # c goes by some dimension's name
        (columns(factor(0)), 1 / 3),
        (columns(factor(0), factor(1), factor(2, scale=0.04)), 2 / 3),  # collapsed: no vote
        (columns(factor(0), factor(1), factor(2, scale=0.3)), 1),
        (columns(factor(0, scale=0.001)), 0),
    ],
)
def test_factor_vae_counts_the_factors_that_have_a_dimension(encode: Encode, expected: float):
    assert factor_vae(Embeddings(encode, Grid(a=2, b=3, c=3)), **SMALL) == pytest.approx(expected, abs=0.06)


def test_higgins_names_a_factor_by_what_does_not_differ():
    # What Kim & Mnih hold against it: c has no dimension, and is named all the same, for nothing stays the same.
    grid = Grid(a=5, b=5, c=5)
    assert higgins(Embeddings(columns(factor(0), factor(1)), grid), **SMALL) > 0.99
    assert higgins(Embeddings(columns(factor(0)), grid), **SMALL) == pytest.approx(2 / 3, abs=0.06)


def test_an_embedding_that_says_nothing_scores_nothing():
    nothing = disentanglement.measure(lambda images: np.ones((len(images), 3)), like_sprites(), **SMALL)
    assert nothing.factor_vae == nothing.mig == nothing.sap == 0
    assert nothing.higgins == pytest.approx(1 / 5, abs=0.06)


def test_each_image_is_encoded_once_and_the_seed_decides():
    grid = Grid(a=6, b=7, c=8)
    rows: list[int] = []

    def encode(images: np.ndarray) -> np.ndarray:
        rows.append(len(images))
        return images.astype(np.float32)

    embeddings = Embeddings(encode, grid)
    alone = higgins(embeddings, seed=4, **SMALL), factor_vae(embeddings, seed=4, **SMALL)
    assert grid.seen.max() == 1
    assert sum(rows) == grid.seen.sum()
    together = disentanglement.measure(encode, grid, seed=4, **SMALL)
    assert (together.higgins, together.factor_vae) == alone
    assert mig(embeddings, seed=4) != mig(embeddings, seed=5)


def test_sprites_are_measured_by_default():
    def middle(images: np.ndarray) -> np.ndarray:
        """The centre of gravity: two factors, and nothing of the others."""
        place = np.arange(sprites.SIDE)
        area = images.sum(axis=(1, 2))
        means = images.sum(axis=1) @ place / area, images.sum(axis=2) @ place / area
        return np.stack(means, axis=1).astype(np.float32)

    embeddings = Embeddings(middle)
    drawn = np.random.default_rng(0).integers(list(sprites.FACTORS.values()), size=(60, 80, 5))
    expected = middle(sprites.images(sprites.index(drawn.reshape(-1, 5)))).reshape(60, 80, 2)
    np.testing.assert_array_equal(embeddings(drawn), expected)
    assert factor_vae(embeddings, train=300, test=100, images=16) == pytest.approx(2 / 5, abs=0.1)
