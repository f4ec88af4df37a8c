"""Corruptions of rows in scaled units, each independent per feature (Vincent et al. 2010, section 3.3).

rows: float32 [n, *row_shape] -> a damaged copy; all chance comes from `generator`.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def masking(rows: Tensor, share: float, generator: Generator) -> Tensor:
    """Each feature becomes 0 with probability `share`: a table's mean, an image's darkest value."""
    return rows * (_uniform(rows, generator) >= share)


def gaussian(rows: Tensor, stddev: float, generator: Generator) -> Tensor:
    """Adds N(0, stddev^2)."""
    return rows + stddev * torch.randn(rows.shape, generator=generator)


def salt_and_pepper(rows: Tensor, share: float, low: Tensor, high: Tensor, generator: Generator) -> Tensor:
    """Each feature becomes `low` or `high`, with probability share / 2 each; both broadcast to a row."""
    chance = _uniform(rows, generator)
    return torch.where(chance < share / 2, low, torch.where(chance < share, high, rows))


def _uniform(rows: Tensor, generator: Generator) -> Tensor:
    return torch.rand(rows.shape, generator=generator)
