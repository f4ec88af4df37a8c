"""Sprites: 737,280 images of 64 x 64 pixels, black or white, each drawn from five known factors.

The factors are those of dSprites (Matthey, Higgins, Hassabis & Lerchner 2017): shape, scale, orientation and the two
coordinates, each independent of the others, each combination once. An image is a number from 0 to COUNT - 1, its
factors that number's digits, y the fastest. Nothing is downloaded or stored: 720 sprites are drawn once, and an image
is one of them at one of 32 x 32 places, never cut off by the border.

    shape         0 square, 1 ellipse, 2 heart; at scale 1 none reaches further than RADIUS from its centre
    scale         0 to 5: 0.5, 0.6, … 1.0
    orientation   0 to 39: counter-clockwise in steps of 9 degrees; a square repeats after 10, an ellipse after 20
    x, y          0 to 31: the centre is the middle of the pixel in column 16 + x, row 16 + y, row 0 at the top

dSprites' orientations are 2 pi / 39 apart, so that its last is its first again. Ours are 2 pi / 40 apart: two images
are the same only where a shape is symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Outline = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]

FACTORS: Final[Mapping[str, int]] = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
COUNT: Final = math.prod(FACTORS.values())
SIDE: Final = 64
RADIUS: Final = 13.5  # pixels: at 12.6, as at 14, some sprites coincide or have an edge through the middle of a pixel

_SIZES = tuple(FACTORS.values())
_REACH = math.floor(RADIUS)
_FIRST_CENTRE = 16


def factors(indices: ArrayLike) -> NDArray[np.int64]:
    """int64 [n, 5]: the factors of the images int [n]. Raises ValueError for a number that no image has."""
    return np.stack(np.unravel_index(np.asarray(indices), _SIZES), axis=-1).astype(np.int64)


def index(factors: ArrayLike) -> NDArray[np.int64]:
    """int64 [n]: the images with the factors int [n, 5]. Raises ValueError for a factor out of range."""
    return np.asarray(np.ravel_multi_index(tuple(np.asarray(factors).T), _SIZES), dtype=np.int64)


def images(indices: ArrayLike) -> NDArray[np.uint8]:
    """uint8 [n, 64, 64], 1 inside the sprite and 0 around it. Raises ValueError for a number that no image has."""
    shape, scale, orientation, x, y = factors(indices).T
    sprites = _sprites()
    drawn = np.zeros((len(x), SIDE, SIDE), dtype=np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(drawn, sprites.shape[-2:], axis=(1, 2), writeable=True)
    first = _FIRST_CENTRE - _REACH
    windows[np.arange(len(x)), first + y, first + x] = sprites[shape, scale, orientation]
    return drawn


@cache
def _sprites() -> NDArray[np.uint8]:
    """uint8 [3, 6, 40, side, side]: every sprite in the middle of a square that holds the largest."""
    return np.stack([_turned(outline, repeats, RADIUS) for outline, repeats in _OUTLINES])


def _turned(outline: Outline, repeats: int, radius: float) -> NDArray[np.uint8]:
    """uint8 [6, 40, side, side]: the shape in all scales and orientations, of which it has `repeats` different ones.

    A pixel belongs to the sprite if its middle does. Every middle is clear of every outline by far more than rounding,
    so that each machine draws the same sprites.
    """
    offsets = np.arange(-_REACH, _REACH + 1)
    right, up = np.meshgrid(offsets, -offsets)
    scale = np.linspace(0.5, 1, FACTORS["scale"])[:, None, None, None]
    angle = 2 * np.pi / FACTORS["orientation"] * np.arange(repeats)[:, None, None]
    along = np.cos(angle) * right + np.sin(angle) * up
    across = np.cos(angle) * up - np.sin(angle) * right
    inside = outline(along / (radius * scale), across / (radius * scale)) <= 0
    return np.tile(inside.astype(np.uint8), (1, FACTORS["orientation"] // repeats, 1, 1))


def _square(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(np.abs(x), np.abs(y)) - math.sqrt(0.5)


def _ellipse(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return x**2 + (y / 0.55) ** 2 - 1


def _heart(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = 1.425 * x, 1.425 * y  # the curve (x^2 + y^2 - 1)^3 = x^2 y^3 reaches 1.425 from its centre
    return (x**2 + y**2 - 1) ** 3 - x**2 * y**3


# Negative inside, zero on the outline, which lies within the unit circle; and how many orientations look different.
_OUTLINES: tuple[tuple[Outline, int], ...] = ((_square, 10), (_ellipse, 20), (_heart, 40))
