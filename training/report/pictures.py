"""Images as PNG in data URIs: strips of tiles, one pixel a number, enlarged by the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from PIL import Image

from training.report.page import rendered

_LARGEST_SIDE = 48  # pixels of a tile: larger images are reduced, or pages would be heavy
# Of page.css, between those for light and dark.
_WARM, _COOL = (230, 90, 35), (60, 115, 225)


@dataclass(frozen=True)
class Lane:
    """One strip: tiles uint8 [n, h, w, 4], and what it shows."""

    name: str
    tiles: np.ndarray


@dataclass(frozen=True)
class Head:
    """A word above each tile; css 'warn' makes it stand out."""

    text: str
    css: str = ""


def lanes(of: Sequence[Lane], alt: str, heads: Sequence[Head] = (), name: str = "") -> Markup:
    """Strips below each other, their tiles in columns. alt: what all of them show; name: of the heads."""
    drawn = [(lane.name, _strip(lane.tiles)) for lane in of]
    return rendered("lanes.html.jinja", lanes=drawn, alt=alt, heads=heads, name=name)


def folded(tiles: np.ndarray, abreast: int) -> list[Lane]:
    """Tiles of one kind as lanes without names, the last one filled up with nothing."""
    tiles = np.pad(tiles, ((0, -len(tiles) % abreast), (0, 0), (0, 0), (0, 0)))
    return [Lane("", lane) for lane in np.split(tiles, len(tiles) // abreast)]


def brightness(images: np.ndarray) -> np.ndarray:
    """[n, h, w] or [n, h, w, c] in 0 to 1 -> tiles; three channels are colours, any other number is averaged."""
    if images.ndim == 4 and images.shape[3] != 3:
        images = images.mean(axis=3)
    colours = images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)
    opaque = np.ones((*colours.shape[:3], 1), colours.dtype)
    return _bytes(np.concatenate([colours, opaque], axis=3))


def warmth(values: np.ndarray) -> np.ndarray:
    """[n, h, w] or [n, h, w, c] in -1 to 1 -> tiles: 1 is warm, -1 is cool, 0 is transparent; channels are averaged."""
    if values.ndim == 4:
        values = values.mean(axis=3)
    colours = np.where(values[..., None] > 0, np.array(_WARM) / 255, np.array(_COOL) / 255)
    return _bytes(np.concatenate([colours, np.abs(values)[..., None]], axis=3))


def _bytes(values: np.ndarray) -> np.ndarray:
    levels: np.ndarray = (255 * np.nan_to_num(values).clip(0, 1)).round().astype(np.uint8)
    return levels


def _strip(tiles: np.ndarray) -> str:
    """Side by side, with transparent gaps of which half is at either end: columns of equal width."""
    tiles = np.stack([_reduced(tile) for tile in tiles])
    gap = max(1, tiles.shape[2] // 16)
    padded = np.pad(tiles, ((0, 0), (0, 0), (gap, gap), (0, 0)))
    stream = io.BytesIO()
    Image.fromarray(np.concatenate(padded, axis=1)).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _reduced(tile: np.ndarray) -> np.ndarray:
    height, width = tile.shape[:2]
    share = _LARGEST_SIDE / max(height, width)
    if share >= 1:
        return tile
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(Image.fromarray(tile).resize(size, Image.Resampling.BOX))
