"""Input units <-> scaled units, as part of the graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TABLE_CLIP = 10.0  # spreads: beyond, a row is an outlier whatever its size, and networks extrapolate badly
IMAGE_CLIP = (-1.0, 2.0)  # one range beyond both sides


class Scaling(nn.Module):
    """scaled = clip((x - shift) / scale, low, high).

    A table's columns are standardised each by its own mean and standard deviation; images (and other arrays of rank
    >= 2) are brought to [0, 1] by the one range of all their numbers, so that neighbours stay comparable.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor, low: float, high: float) -> None:
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.low, self.high = low, high

    @classmethod
    def of(cls, rows: Tensor) -> Scaling:
        """Measured on the training rows, float32 [n, *row_shape], in float64; kept in float32."""
        if rows.ndim == 2:
            exact = rows.double()
            shift, scale = exact.mean(dim=0), exact.std(dim=0, correction=0)
            low, high = -TABLE_CLIP, TABLE_CLIP
        else:
            shift = rows.min().double()
            scale = rows.max().double() - shift
            low, high = IMAGE_CLIP
        scale = scale.float()
        # A column may be constant among the training rows alone, or as good as: it is then only shifted.
        scale = torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
        return cls(shift.float(), scale, low, high)

    def forward(self, rows: Tensor) -> Tensor:
        return self._unclipped(rows).clamp(self.low, self.high)

    def clipped(self, rows: Tensor) -> Tensor:
        """How many of each row's numbers `forward` changes by clipping: float32 [n]."""
        unclipped = self._unclipped(rows)
        outside = (unclipped < self.low) | (unclipped > self.high)
        return outside.flatten(1).float().sum(dim=1)

    def _unclipped(self, rows: Tensor) -> Tensor:
        return (rows - self.shift) / self.scale

    def inverse(self, scaled: Tensor) -> Tensor:
        return scaled * self.scale + self.shift
