"""What the manifest itself promises; whether a version may be read at all is test_layout's."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from hourglass.contract.manifest import Array, Manifest, Scaling
from tests import artefacts


def scaling(shift: object, scale: object, low: float = -10.0, high: float = 10.0) -> Scaling:
    return Scaling(shift=Array.pack(np.array(shift)), scale=Array.pack(np.array(scale)), low=low, high=high)


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
