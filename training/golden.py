"""Golden rows: synthetic rows that a server proves itself on. No row of the data is among them."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from training.scaling import Scaling

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BEYOND = 2.0  # edge rows lie this many times beyond what clipping keeps


def golden_rows(calibration: Tensor, scaling: Scaling, seed: int) -> Tensor:
    """float32 [8, *row_shape] in input units: five whose every feature is a quantile of that feature, chosen
    independently; one of zeros; two beyond both ends of what the scaling keeps."""
    flat = calibration.flatten(1)
    quantiles = torch.quantile(flat, torch.tensor(_QUANTILES), dim=0)
    chosen = torch.randint(len(_QUANTILES), quantiles.shape, generator=Generator().manual_seed(seed))
    drawn = quantiles.gather(0, chosen).reshape(-1, *calibration.shape[1:])
    zeros = torch.zeros_like(drawn[0])
    beyond = [scaling.inverse(torch.full_like(zeros, _BEYOND * end)) for end in (scaling.low, scaling.high)]
    return torch.cat([drawn, torch.stack([zeros, *beyond])])
