from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training import data, sprites
from training.config import FitConfig

DOCS = Path(__file__).parents[2] / "docs"
ALL = np.arange(sprites.COUNT)
CENTRED = sprites.index(
    [(shape, scale, turn, 16, 16) for shape in range(3) for scale in range(6) for turn in range(40)]
)
factors = st.tuples(*(st.integers(0, size - 1) for size in sprites.FACTORS.values()))


def cropped(image: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    """A sprite wherever it lies: its bounding box alone."""
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return box.shape, box.tobytes()


def test_every_combination_of_factors_is_one_image_and_the_last_factor_is_the_fastest():
    assert sprites.COUNT == 3 * 6 * 40 * 32 * 32 == 737_280
    every = sprites.factors(ALL)
    assert every.dtype == np.int64
    np.testing.assert_array_equal(every[:2], [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
    np.testing.assert_array_equal(every[-1], [2, 5, 39, 31, 31])
    np.testing.assert_array_equal(sprites.index(every), ALL)


@pytest.mark.parametrize("number", [-1, sprites.COUNT])
def test_a_number_that_no_image_has_is_refused(number: int):
    with pytest.raises(ValueError):
        sprites.images([number])


def test_a_factor_out_of_range_is_refused():
    with pytest.raises(ValueError):
        sprites.index([[0, 6, 0, 0, 0]])


def test_two_images_are_the_same_only_where_a_shape_is_symmetric():
    # No two sprites are the same up to a shift, and a shift always moves the box, so this holds for all images.
    looks: dict[object, set[tuple[int, ...]]] = {}
    for image, (shape, scale, turn) in zip(
        sprites.images(CENTRED), sprites.factors(CENTRED)[:, :3].tolist(), strict=True
    ):
        looks.setdefault(cropped(image), set()).add((shape, scale, turn))
    repeats = {0: 10, 1: 20, 2: 40}
    expected = {
        frozenset((shape, scale, turn) for turn in range(first, 40, repeats[shape]))
        for shape in repeats
        for scale in range(6)
        for first in range(repeats[shape])
    }
    assert {frozenset(same) for same in looks.values()} == expected


@given(factors)
def test_a_sprite_is_moved_whole_to_its_place(known: tuple[int, ...]):
    shape, scale, turn, x, y = known
    moved, centred = sprites.images(sprites.index([known, (shape, scale, turn, 16, 16)]))
    np.testing.assert_array_equal(moved, np.roll(centred, (y - 16, x - 16), axis=(0, 1)))
    assert cropped(moved) == cropped(centred)
    rows, columns = np.nonzero(moved)
    assert np.hypot(rows - (16 + y), columns - (16 + x)).max() <= sprites.RADIUS * (5 + scale) / 10


def test_shapes_have_the_areas_of_their_outlines():
    heart = 3.66197 / 1.425**2  # of (x^2 + y^2 - 1)^3 = x^2 y^3, integrated numerically
    areas = sprites.images(CENTRED).sum(axis=(1, 2)).reshape(3, 6, 40).mean(axis=2)
    scales = np.linspace(0.5, 1, 6) * sprites.RADIUS
    for mean, unit in zip(areas, (2, 0.55 * math.pi, heart), strict=True):
        np.testing.assert_allclose(mean, unit * scales**2, rtol=0.03)


def test_orientation_turns_counter_clockwise():
    # A heart at rest points down: it is wider above its centre than below.
    rest, *turned = sprites.images(sprites.index([(2, 5, turn, 16, 16) for turn in (0, 10, 20, 30)]))
    assert rest[:32].sum() > rest[33:].sum()
    around = slice(16, 49)
    for turns, image in enumerate(turned, 1):
        np.testing.assert_array_equal(image[around, around], np.rot90(rest[around, around], turns))


def test_no_machine_rounds_a_pixel_to_the_other_side():
    for outline, repeats in sprites._OUTLINES:
        drawn = sprites._turned(outline, repeats, sprites.RADIUS)
        for share in (1 - 1e-6, 1 + 1e-6):
            np.testing.assert_array_equal(sprites._turned(outline, repeats, share * sprites.RADIUS), drawn)


def test_the_images_are_those_that_results_were_made_with():
    digest = hashlib.sha256(sprites.images(CENTRED).tobytes()).hexdigest()
    assert digest == "6d604fa8eedec64f688aba62928851353014592993b3426bbea98085ed8fddd4"


def test_a_sixteenth_of_them_is_built_in_with_their_factors_as_labels():
    file = data.open_source("sprites")
    assert (file.rows, file.row_shape, file.extras) == (46_080, (64, 64), tuple(sprites.FACTORS))
    numbers = []
    for batch in file.batches(10_000):
        known = np.stack([batch.column(name).to_numpy() for name in sprites.FACTORS], axis=1)
        numbers.append(sprites.index(known))
        np.testing.assert_array_equal(batch.numbers()[::50], sprites.images(numbers[-1][::50]))
    drawn = np.concatenate(numbers)
    assert len(np.unique(drawn)) == len(drawn) == file.rows
    for values, size in zip(sprites.factors(drawn).T, sprites.FACTORS.values(), strict=True):
        np.testing.assert_allclose(np.bincount(values), file.rows / size, rtol=0.15)


def test_rows_are_chosen_by_a_factor(config: Callable[..., FitConfig]):
    hearts = data.load(config(data="sprites", label="shape", exclude_label="0,1"))
    assert len(hearts.rows) == pytest.approx(46_080 / 3, rel=0.05)
    assert hearts.columns is None
    areas = hearts.rows[:500].sum(dim=(1, 2))
    every = sprites.images(CENTRED[480:]).sum(axis=(1, 2))
    assert set(areas.tolist()) <= set(every.tolist())


def test_the_picture_on_the_page_is_what_its_code_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = re.findall(r"```python\n(.*?)```", (DOCS / "known-factors.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    with Image.open("sprites.png") as drawn, Image.open(DOCS / "images" / "sprites.png") as shown:
        np.testing.assert_array_equal(drawn, shown)
