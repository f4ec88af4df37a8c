"""MNIST made harder, as in Larochelle, Erhan, Courville, Bergstra & Bengio 2007, "An empirical evaluation of deep
architectures on problems with many factors of variation": `rotated` is its mnist-rot, `random_background` its
mnist-back-rand.

Drawn anew from any MNIST-like images, not the authors' files: results are comparable, not identical. images: uint8
[n, height, width], 0 the background; all chance comes from `seed`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from training.errors import DataError

Images = NDArray[np.uint8]
_AT_ONCE = 4096  # images: turning takes sixteen bytes a pixel


class Parts(NamedTuple):
    """Which images belong where: int64 [10,000], [2,000] and [50,000], no image twice."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def parts(count: int, seed: int) -> Parts:
    """The paper's sizes, drawn from `count` images: MNIST's 60,000 and 10,000 together. Raises DataError."""
    ends = np.cumsum([10_000, 2_000, 50_000])
    if count < ends[-1]:
        raise DataError(f"the variations of MNIST need {ends[-1]:,} images, not {count:,}: join its two files")
    return Parts(*np.split(np.random.default_rng(seed).permutation(count)[: ends[-1]], ends[:-1]))


def rotated(images: Images, seed: int) -> Images:
    """Each image turned about its middle by an angle uniform in [0, 2 pi), bilinearly; what turns in is background."""
    angle = np.random.default_rng(seed).uniform(0, 2 * math.pi, len(images))
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros(len(images))
    turns = torch.tensor(np.stack([cos, -sin, zero, sin, cos, zero], axis=1), dtype=torch.float32).reshape(-1, 2, 3)
    turned = np.empty_like(images)
    for start in range(0, len(images), _AT_ONCE):
        chunk = slice(start, start + _AT_ONCE)
        rows = torch.tensor(images[chunk, None], dtype=torch.float32)
        grid = functional.affine_grid(turns[chunk], list(rows.shape), align_corners=False)
        turned[chunk] = functional.grid_sample(rows, grid, align_corners=False)[:, 0].round().numpy()
    return turned


def random_background(images: Images, seed: int) -> Images:
    """Every pixel becomes the brighter of itself and of noise that is uniform in 0 to 255: strokes lie on top of it.

    The paper does not say what becomes of the grey pixels beside a stroke. Left as they are, they outline the digit in
    black, and a support vector machine errs more often than the paper's; under the noise, about as often.
    """
    noise = np.random.default_rng(seed).integers(256, size=images.shape, dtype=np.uint8)
    return np.maximum(images, noise)
