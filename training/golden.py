"""Golden rows: synthetic rows that a server proves itself on. No row of the data is among them."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from training.scaling import Scaling

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_QUANTILE_NUMBERS = 2**24  # torch refuses to look at more
_EVERY = 3  # cell is missing
_BEYOND = 2.0  # edge rows lie this many times beyond what clipping keeps


def golden_rows(calibration: Tensor, scaling: Scaling, seed: int) -> Tensor:
    """float32 [n, *row_shape] in input units: five whose every feature is a quantile of that feature, chosen
    independently; one of zeros; two beyond both ends of what the scaling keeps. Where cells may be missing, the five
    once more with every third cell missing, another one in each. Codes of categories are codes, here, too."""
    flat = calibration.flatten(1)
    flat = flat[: _QUANTILE_NUMBERS // flat.shape[1]]
    quantiles = torch.nanquantile(flat, torch.tensor(_QUANTILES), dim=0, interpolation="nearest").nan_to_num()
    chosen = torch.randint(len(_QUANTILES), quantiles.shape, generator=Generator().manual_seed(seed))
    drawn = quantiles.gather(0, chosen).reshape(-1, *calibration.shape[1:])
    zeros = torch.zeros_like(drawn[0])
    scaled = torch.zeros_like(scaling(zeros[None])[0])
    beyond = [scaling.inverse(torch.full_like(scaled, _BEYOND * end)[None])[0] for end in (scaling.low, scaling.high)]
    rows = torch.cat([drawn, torch.stack([zeros, *beyond])])
    if not scaling.missing:
        return rows
    holes = (torch.arange(drawn[0].numel()) + torch.arange(len(drawn))[:, None]) % _EVERY == 0
    return torch.cat([rows, torch.where(holes.reshape(drawn.shape), torch.nan, drawn)])
