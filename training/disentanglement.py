"""Does each number of an embedding stand for one factor? Four scores in [0, 1], for data whose factors are known.

All four look at an embedding's mean, in the units of its prior N(0, 1), and are computed as in disentanglement_lib
(Locatello et al. 2019, "Challenging common assumptions in the unsupervised learning of disentangled
representations"), so that they can be compared with published numbers:

    higgins     Higgins et al. 2017, "beta-VAE", section 3
    factor_vae  Kim & Mnih 2018, "Disentangling by factorising", section 4
    mig         mutual information gap: Chen et al. 2018, "Isolating sources of disentanglement in VAEs", section 4
    sap         separated attribute predictability: Kumar et al. 2018, "Variational inference of disentangled latent
                concepts from unlabeled observations", section 3
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from sklearn.svm import LinearSVC

from training import sprites

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

TRAIN, TEST, IMAGES_PER_POINT = 10_000, 5_000, 64  # the papers' sizes
_MIN_STDDEV = 0.05  # a dimension that varies less has collapsed to the prior
_BINS = 20
_ENCODED_AT_ONCE = 4096
_POINTS_AT_ONCE = 256


class KnownFactors(Protocol):
    """Images that are numbered as `training.sprites` numbers them: by their factors, the last the fastest."""

    @property
    def FACTORS(self) -> Mapping[str, int]:  # noqa: N802 (a module has constants)
        """Each factor's name and number of values."""

    def images(self, indices: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """uint8 [n, *image_shape]: the images int64 [n]."""


@dataclass(frozen=True)
class Disentanglement:
    """Each in [0, 1], 1 the best; chance is 1 / number of factors for the first two and 0 for the others."""

    higgins: float
    factor_vae: float
    mig: float
    sap: float


class Embeddings:
    """The embeddings of images of known factors. Each image is encoded once, when it is first asked for.

    The metrics draw some images many times: 2.9 million draws of the 737,280 sprites with the papers' sizes. Memory:
    float32 [number of images, embedding size].
    """

    def __init__(self, encode: Encode, source: KnownFactors = sprites) -> None:
        self.sizes = tuple(source.FACTORS.values())
        self._encode = encode
        self._images = source.images
        self._known = np.zeros(math.prod(self.sizes), dtype=bool)
        self._table = np.empty((0, 0), dtype=np.float32)

    def __call__(self, factors: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [..., d]: the embeddings of the images with the factors int64 [..., number of factors]."""
        numbers = np.ravel_multi_index(tuple(np.moveaxis(factors, -1, 0)), self.sizes)
        new = np.unique(numbers[~self._known[numbers]])
        for start in range(0, len(new), _ENCODED_AT_ONCE):
            chunk = new[start : start + _ENCODED_AT_ONCE]
            encoded = self._encode(self._images(chunk))
            if not len(self._table):
                self._table = np.empty((len(self._known), encoded.shape[1]), dtype=np.float32)
            self._table[chunk] = encoded
            self._known[chunk] = True
        embedded: NDArray[np.float32] = self._table[numbers]
        return embedded

    def draw(self, points: int, rng: Generator) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """int64 [points, number of factors], each factor uniform and independent, and their images' embeddings."""
        factors = rng.integers(self.sizes, size=(points, len(self.sizes)))
        return factors, self(factors)


def measure(
    encode: Encode,
    source: KnownFactors = sprites,
    seed: int = 0,
    train: int = TRAIN,
    test: int = TEST,
    per_point: int = IMAGES_PER_POINT,
) -> Disentanglement:
    """All four, of `encode`: uint8 images [n, *image_shape] -> float32 [n, d]."""
    embeddings = Embeddings(encode, source)
    return Disentanglement(
        higgins(embeddings, seed, train, test, per_point),
        factor_vae(embeddings, seed, train, test, per_point),
        mig(embeddings, seed, train),
        sap(embeddings, seed, train, test),
    )


def higgins(
    embeddings: Embeddings, seed: int = 0, train: int = TRAIN, test: int = TEST, pairs: int = IMAGES_PER_POINT
) -> float:
    """Accuracy with which a linear classifier names the factor that two images share, from how their embeddings differ.

    A point is mean |difference| over `pairs` pairs that share the same factor, everything else being drawn anew.
    """
    rng = np.random.default_rng(seed)
    # Unscaled, and with a weak penalty on the weights, as the scores in the literature: a dimension that is all but
    # collapsed, with differences of a hundredth, should not count as one that says something.
    classifier = LogisticRegression(max_iter=10_000).fit(*_differences(embeddings, train, pairs, rng))
    return float(classifier.score(*_differences(embeddings, test, pairs, rng)))


def factor_vae(
    embeddings: Embeddings, seed: int = 0, train: int = TRAIN, test: int = TEST, images: int = IMAGES_PER_POINT
) -> float:
    """Accuracy with which the dimension that varies least among `images` images names the factor that they share.

    Variances are relative to those of all images; collapsed dimensions have no vote. Each dimension names the factor
    for which it won most of the `train` votes; `test` others are counted.
    """
    rng = np.random.default_rng(seed)
    variance = embeddings.draw(train, rng)[1].var(axis=0, ddof=1, dtype=np.float64)
    variance[np.sqrt(variance) < _MIN_STDDEV] = 0
    if not variance.any():
        return 0.0
    names = _votes(embeddings, variance, train, images, rng).argmax(axis=1)
    counted = _votes(embeddings, variance, test, images, rng)
    return float(counted[np.arange(len(names)), names].sum() / test)


def mig(embeddings: Embeddings, seed: int = 0, train: int = TRAIN) -> float:
    """How much more the best dimension tells of a factor than the second best, as a share of all there is to tell.

    In mutual information, of dimensions cut into 20 bins of equal width; the mean over factors.
    """
    factors, embedded = embeddings.draw(train, np.random.default_rng(seed))
    binned = [np.digitize(column, np.histogram_bin_edges(column, _BINS)[:-1]) for column in embedded.T]
    told = np.array([[mutual_info_score(factor, column) for factor in factors.T] for column in binned])
    entropy = np.array([mutual_info_score(factor, factor) for factor in factors.T])
    return float((_gap(told) / entropy).mean())


def sap(embeddings: Embeddings, seed: int = 0, train: int = TRAIN, test: int = TEST) -> float:
    """How much better the best dimension alone predicts a factor's value than the second best; the mean over factors.

    In accuracy of a linear support vector machine on one dimension. Of factors with many values it names the extremes
    at best: even the factors themselves do not reach 1.
    """
    rng = np.random.default_rng(seed)
    factors, embedded = embeddings.draw(train, rng)
    factors_test, embedded_test = embeddings.draw(test, rng)

    def accuracy(dimension: int, factor: int) -> float:
        machine = LinearSVC(C=0.01, class_weight="balanced")
        machine.fit(embedded[:, [dimension]], factors[:, factor])
        return float(machine.score(embedded_test[:, [dimension]], factors_test[:, factor]))

    dimensions, kinds = range(embedded.shape[1]), range(factors.shape[1])
    return float(_gap(np.array([[accuracy(dimension, kind) for kind in kinds] for dimension in dimensions])).mean())


def _differences(
    embeddings: Embeddings, points: int, pairs: int, rng: Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """float32 [points, d]: mean |difference| over pairs that share a factor; int64 [points]: which factor."""
    differences, named = [], []
    for factor, shared in _shared_factors(embeddings.sizes, points, rng):
        first, second = rng.integers(embeddings.sizes, size=(2, len(factor), pairs, len(embeddings.sizes)))
        second = np.where(shared, first, second)
        differences.append(np.abs(embeddings(first) - embeddings(second)).mean(axis=1))
        named.append(factor)
    return np.concatenate(differences), np.concatenate(named)


def _votes(
    embeddings: Embeddings, variance: NDArray[np.float64], points: int, images: int, rng: Generator
) -> NDArray[np.int64]:
    """int64 [d, number of factors]: how often each dimension varied least while that factor was shared.

    variance: float64 [d], of all images; a dimension where it is 0 has no vote.
    """
    votes = np.zeros((len(variance), len(embeddings.sizes)), dtype=np.int64)
    for factor, shared in _shared_factors(embeddings.sizes, points, rng):
        factors = rng.integers(embeddings.sizes, size=(len(factor), images, len(embeddings.sizes)))
        factors = np.where(shared, factors[:, :1], factors)
        local = embeddings(factors).var(axis=1, ddof=1, dtype=np.float64)
        relative = np.divide(local, variance, out=np.full_like(local, np.inf), where=variance > 0)
        np.add.at(votes, (relative.argmin(axis=1), factor), 1)
    return votes


def _shared_factors(
    sizes: tuple[int, ...], points: int, rng: Generator
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """The factor that each point's images share, int64 [n], and bool [n, 1, number of factors], where it is that one.

    Some points at a time, `points` in all.
    """
    for start in range(0, points, _POINTS_AT_ONCE):
        factor = rng.integers(len(sizes), size=min(_POINTS_AT_ONCE, points - start))
        yield factor, np.arange(len(sizes)) == factor[:, None, None]


def _gap(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """[number of factors]: the best less the second best of scores [d, number of factors], none below 0."""
    ranked = np.sort(np.vstack([np.zeros(scores.shape[1]), scores]), axis=0)  # one dimension has no second best: 0
    gap: NDArray[np.float64] = ranked[-1] - ranked[-2]
    return gap
