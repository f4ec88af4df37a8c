"""The picture of `make search-demo`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from examples import search
from examples.search import NEIGHBOURS, Set, draw


def test_neighbours_with_another_label_are_framed_in_red(tmp_path: Path):
    shown = np.zeros((NEIGHBOURS, 8, 8), dtype=np.float32)
    asked, labels = np.ones((3, 8, 8), dtype=np.float32), np.array([1, 0, 1])
    images = Set("m", tmp_path, "y", shown, asked, labels, ("no", "yes"), 1, "")
    ids = np.tile(np.arange(NEIGHBOURS), (3, 1))
    found = np.zeros((3, NEIGHBOURS), dtype=int)
    draw(tmp_path / "m.png", images, ids, found, np.full(found.shape, 0.5))
    with Image.open(tmp_path / "m.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(picture.width * picture.height) or []}
        right, wrong = (ImageColor.getrgb(colour) for colour in (search._RIGHT, search._WRONG))
        assert {right, wrong} <= colours
        # One line for each label: of the first image that has it.
        pixels = np.asarray(picture.convert("RGB"))
        top, bottom = np.array_split(pixels, 2)
        assert (top == right).all(axis=2).any()
        assert not (top == wrong).all(axis=2).any()
        assert (bottom == wrong).all(axis=2).any()
