"""Untrained models for the tests of what they minimise."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from training.autoencoder import Autoencoder, Clock, find
from training.config import validated
from training.networks import Architecture

END = Clock(100, 1.0)


def make(
    variant: str,
    row_shape: tuple[int, ...],
    embedding_dim: int,
    hidden: tuple[int, ...] | None = None,
    **options: object,
) -> Autoencoder:
    torch.manual_seed(0)
    kind = find(variant)
    chosen = validated(kind.options_class, options, f"{variant} option")
    return kind(Architecture(row_shape, embedding_dim, "mlp", hidden), chosen)


def parts(model: Autoencoder, rows: Tensor, clock: Clock = END) -> dict[str, Tensor]:
    return model.loss(rows, clock, Generator().manual_seed(0))
