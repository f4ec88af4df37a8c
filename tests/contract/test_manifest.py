"""What the manifest itself promises; whether a version may be read at all is test_layout's."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from hourglass.contract.manifest import Array, Manifest, Scaling
from tests import artefacts


def scaling(shift: object, scale: object, low: float = -10.0, high: float = 10.0) -> Scaling:
    return Scaling(shift=Array.pack(np.array(shift)), scale=Array.pack(np.array(scale)), low=low, high=high)


def test_a_table_is_scaled_column_by_column_and_back() -> None:
    table = scaling([100.0, -1.0], [50.0, 0.5], low=-3, high=3)
    rows = np.array([[100, -1], [150, -2], [1000, 9]], dtype=np.float32)
    np.testing.assert_array_equal(table.apply(rows), np.float32([[0, 0], [1, -2], [3, 3]]))
    np.testing.assert_array_equal(table.unclipped(rows), np.float32([[0, 0], [1, -2], [18, 20]]))
    np.testing.assert_array_equal(table.inverse(table.unclipped(rows)), rows)
    assert table.apply(rows).dtype == table.inverse(rows).dtype == np.float32


def test_images_share_one_scale_which_stays_one_number() -> None:
    images = scaling(0, 255, low=-1, high=2)
    assert images.shift.shape == images.scale.shape == []
    pixels = np.array([[[0, 255], [51, 1000]]], dtype=np.float32)
    np.testing.assert_allclose(images.apply(pixels), [[[0, 1], [0.2, 2]]], rtol=1e-6)


@pytest.mark.parametrize(
    ("shift", "scale", "low", "high", "says"),
    [
        ([0, 0], 1, -1, 1, "different shapes"),
        (0, 0, -1, 1, "above 0"),
        ([0, 0], [1, -1], -1, 1, "above 0"),
        (0, np.nan, -1, 1, "not finite"),
        (np.inf, 1, -1, 1, "not finite"),
        (0, 1, 1, 1, "low is not below high"),
        (0, 1, -1, np.inf, "high"),
    ],
)
def test_a_scaling_that_scales_nothing_is_refused(
    shift: object, scale: object, low: float, high: float, says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        scaling(shift, scale, low, high)


def test_a_scaling_for_other_rows_is_refused() -> None:
    model = artefacts.Linear.random(width=4)
    content = artefacts.manifest(model, model.graphs()).model_dump()
    Manifest.model_validate(content | {"scaling": scaling([0] * 4, [1] * 4).model_dump()})
    with pytest.raises(ValidationError, match="scaling: neither one number nor of the row's shape"):
        Manifest.model_validate(content | {"scaling": scaling([0] * 3, [1] * 3).model_dump()})
