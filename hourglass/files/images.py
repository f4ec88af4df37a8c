"""A folder of PNG images: one row each, in the order of their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hourglass.files.rows import ArrayBatch, FileError, RowFile

_MODES = {"L": (), "I;16": (), "RGB": (3,)}
# Larger images are no rows, and a few bytes of PNG can unpack to gigabytes.
_MAX_PIXELS = 2**24


@dataclass
class ImageFolder(RowFile):
    """The *.png of one folder, all of one size and mode."""

    names: tuple[str, ...] = ()
    mode: str = "L"

    def _batches(self, size: int) -> Iterator[ArrayBatch]:
        for start in range(0, len(self.names), size):
            names = self.names[start : start + size]
            values = np.stack([self._pixels(name) for name in names])
            yield ArrayBatch(self.path, start, values, None, {"file": np.array(names)})

    def _pixels(self, name: str) -> np.ndarray:
        file = self.path / name
        with _opened(file) as image:
            height, width = self.row_shape[:2]
            if (image.width, image.height, image.mode) != (width, height, self.mode):
                raise FileError(
                    f"{file}: {image.width}×{image.height} {image.mode}, but {self.names[0]} is "
                    f"{width}×{height} {self.mode}: give all images one size and mode"
                )
            try:
                return np.asarray(image)
            except (OSError, SyntaxError, ValueError) as error:
                raise FileError(f"{file}: damaged: {error}") from None


def open_folder(path: Path) -> ImageFolder:
    """Raises FileError."""
    names = tuple(sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() == ".png"))
    if not names:
        raise FileError(f"{path}: no .png in this folder")
    with _opened(path / names[0]) as image:
        mode, size = image.mode, (image.height, image.width)
    if mode not in _MODES:
        raise FileError(f"{path / names[0]}: its mode is {mode}: save the images as grey (L) or colour (RGB)")
    if size[0] * size[1] > _MAX_PIXELS:
        raise FileError(f"{path / names[0]}: {size[1]}×{size[0]} pixels: at most {_MAX_PIXELS:,} in all")
    return ImageFolder(path, None, (*size, *_MODES[mode]), len(names), extras=("file",), names=names, mode=mode)


def _opened(file: Path) -> Image.Image:
    try:
        return Image.open(file, formats=("PNG",))  # reads the header only
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FileError(f"{file}: not a usable PNG image: {error}") from None
