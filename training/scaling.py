"""Input units <-> scaled units, as part of the graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hourglass.contract.manifest import Manifest
from hourglass.contract.schema import Schema
from training.expansion import Expansion

TABLE_CLIP = 10.0  # spreads: beyond, a row is an outlier whatever its size, and networks extrapolate badly
IMAGE_CLIP = (-1.0, 2.0)  # one range beyond both sides


class Scaling(nn.Module):
    """scaled = clip((expanded x - shift) / scale, low, high), NaN where a cell is missing.

    A table's numeric columns, and the channels of windows, are standardised each by its own mean and standard
    deviation; the numbers of a categorical column by their means, and all by the one spread that makes their variances
    add up to 1, so that the column counts as much as a numeric one. Images (and other arrays of rank >= 2) are brought
    to [0, 1] by the one range of all their numbers, so that neighbours stay comparable. missing: whether cells may be
    NaN; where not, the graph does not look.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        shift: Tensor,
        scale: Tensor,
        low: float,
        high: float,
        schema: Schema | None = None,
        *,
        missing: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.low, self.high, self.missing = low, high, missing
        self.expansion = Expansion(schema)

    @property
    def row_shape(self) -> tuple[int, ...] | None:
        """Of a table with columns that are not numeric; None where rows are scaled number by number."""
        return None if self.expansion.plain else (len(self.expansion.columns),)

    @classmethod
    def of(cls, rows: Tensor, schema: Schema | None = None, *, missing: bool = False) -> Scaling:
        """Measured on the training rows, float32 [n, *row_shape], in float64; kept in float32."""
        if rows.ndim == 2 or schema is not None:
            expanded = Expansion(schema)(rows).flatten(0, -2).double()
            shift = expanded.nanmean(dim=0)
            variance = (expanded - shift).square().nanmean(dim=0)
            # A column may be missing in all training rows: nothing is known of it.
            shift, variance = shift.nan_to_num(), variance.nan_to_num()
            if schema is not None and not schema.is_numeric:
                variance = _shared(variance, schema)
            scale = variance.sqrt()
            low, high = -TABLE_CLIP, TABLE_CLIP
        else:
            shift = rows.min().double()
            scale = rows.max().double() - shift
            low, high = IMAGE_CLIP
        scale = scale.float()
        # A column may be constant among the training rows alone, or as good as: it is then only shifted.
        scale = torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
        return cls(shift.float(), scale, low, high, schema, missing=missing)

    @classmethod
    def published(cls, manifest: Manifest) -> Scaling:
        """That of a model's graphs."""
        kept = manifest.scaling
        shift, scale = (torch.from_numpy(array.unpack().copy()) for array in (kept.shift, kept.scale))
        return cls(shift, scale, kept.low, kept.high, manifest.row_schema, missing=manifest.takes_missing)

    def forward(self, rows: Tensor) -> Tensor:
        unclipped = self.unclipped(rows)
        scaled = unclipped.clamp(self.low, self.high)
        # Runtimes do not agree on what clipping makes of NaN.
        return torch.where(unclipped.isnan(), unclipped, scaled) if self.missing else scaled

    def clipped(self, rows: Tensor) -> Tensor:
        """How many of each row's numbers `forward` changes by clipping: float32 [n]. Categories are none."""
        unclipped = self.unclipped(rows)
        outside = (unclipped < self.low) | (unclipped > self.high)
        if not self.expansion.plain:
            outside = outside & ~self.expansion.is_category
        return outside.flatten(1).float().sum(dim=1)

    def unclipped(self, rows: Tensor) -> Tensor:
        """As `forward`, for reconstructions, which nothing clips."""
        expanded: Tensor = self.expansion(rows)
        return (expanded - self.shift) / self.scale

    def inverse(self, scaled: Tensor) -> Tensor:
        """[n, numbers] without NaN -> [n, *row_shape] in input units."""
        return self.expansion.inverse(self.unscaled(scaled))

    def unscaled(self, scaled: Tensor) -> Tensor:
        return scaled * self.scale + self.shift

    def units(self) -> Tensor:
        """One scaled unit in input units, 1 where a cell is a code or a flag; broadcasts to a row."""
        expansion = self.expansion
        if expansion.plain:
            return self.scale
        blocks = torch.split(self.scale, [column.width for column in expansion.columns])
        columns = zip(expansion.columns, blocks, strict=True)
        return torch.stack([scale[0] if column.type == "numeric" else torch.ones(()) for column, scale in columns])


def _shared(variance: Tensor, schema: Schema) -> Tensor:
    """The variances of a categorical column's numbers, all replaced by their sum."""
    widths = [column.width for column in schema.columns]
    return torch.cat([block.sum().expand(len(block)) for block in torch.split(variance, widths)])
