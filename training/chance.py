"""Random numbers of a batch, drawn where its rows are; the same for any number of processes that share the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from training import parallel


def uniform(shape: Sequence[int], generator: Generator) -> Tensor:
    """In [0, 1), float32, on the generator's device. shape: [n, ...], n the rows of this process."""
    return _drawn(torch.rand, shape, generator)


def normal(shape: Sequence[int], generator: Generator) -> Tensor:
    """N(0, 1), as `uniform`."""
    return _drawn(torch.randn, shape, generator)


def _drawn(draw: Callable[..., Tensor], shape: Sequence[int], generator: Generator) -> Tensor:
    share = parallel.current()
    total = shape[0] if share is None else share.total
    return parallel.own(draw((total, *shape[1:]), generator=generator, device=generator.device))
