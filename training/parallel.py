"""One training by several processes that torchrun started: what they share, and what each batch is to one of them.

Every process has all rows and draws every random number of a batch; its share of the rows goes through the networks,
and gradients are summed. So weights are those of one process with the same batches, to rounding, and alike in all of
them. In one process nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Share:
    """Rows first to last of a batch of `total`; weight: how much of the batch they are."""

    total: int
    first: int
    last: int
    weight: float

    @classmethod
    def of(cls, total: int) -> Share:
        """This process's. Where a batch has fewer rows than there are processes, some take one that counts nothing:
        all have to take part in what is summed."""
        first, last = (total * part // size() for part in (rank(), rank() + 1))
        return cls(total, first, last, (last - first) / total) if last > first else cls(total, 0, 1, 0.0)


_joined = False
_share: Share | None = None


def by_torchrun() -> bool:
    return os.environ.keys() >= {"TORCHELASTIC_RUN_ID", "RANK"}


def _launched(variable: str, otherwise: int) -> int:
    return int(os.environ[variable]) if by_torchrun() else otherwise


def size() -> int:
    """Of how many processes this is one."""
    return _launched("WORLD_SIZE", 1)


def rank() -> int:
    return _launched("RANK", 0)


def local_rank() -> int:
    """Among the processes of this machine."""
    return _launched("LOCAL_RANK", 0)


def leads() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Inside, processes can exchange tensors on `device`, and do. An error of one leaves the others to torchrun, which
    ends them."""
    global _joined
    if size() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    _joined = True
    try:
        yield
    except BaseException:
        if device.type == "cpu":  # NCCL would wait for the others
            distributed.destroy_process_group()
        raise
    finally:
        _joined = False
    distributed.barrier()  # one that left earlier would close connections that others still use
    distributed.destroy_process_group()


@contextmanager
def shared(rows: Tensor) -> Iterator[tuple[Tensor, float]]:
    """This process's rows of a batch, and their weight in it. Inside, what is drawn and averaged is the batch's."""
    global _share
    if not _joined:
        yield rows, 1.0
        return
    _share = share = Share.of(len(rows))
    try:
        yield rows[share.first : share.last], share.weight
    finally:
        _share = None


def current() -> Share | None:
    """None outside of `shared`, and in one process."""
    return _share


def mean(values: Tensor) -> Tensor:
    """Over all rows of the batch, from the mean over this process's: the same shape.

    The gradient is that of the argument, its own rows' alone: weighted and summed, gradients are those of the batch.
    """
    if _share is None:
        return values
    averaged: Tensor = _Mean.apply(values, _share.weight)  # type: ignore[no-untyped-call]
    return averaged


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, values: Tensor, weight: float) -> Tensor:
        averaged = values * weight
        distributed.all_reduce(averaged)
        return averaged

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def extremes(values: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest over all rows of the batch, of [n, ...]: [...] each, without gradients."""
    low, high = values.detach().aminmax(dim=0)
    if _share is not None:
        distributed.all_reduce(low, distributed.ReduceOp.MIN)
        distributed.all_reduce(high, distributed.ReduceOp.MAX)
    return low, high


def whole(rows: Tensor) -> Tensor:
    """All rows of the batch, from this process's: [n, ...] -> [total, ...], without gradients."""
    if (share := _share) is None:
        return rows
    everything = rows.new_zeros(share.total, *rows.shape[1:])
    if share.weight:
        everything[share.first : share.last] = rows.detach()
    distributed.all_reduce(everything)
    return everything


def own(rows: Tensor) -> Tensor:
    """This process's, of all rows of the batch: [total, ...] -> [n, ...]."""
    return rows if _share is None else rows[_share.first : _share.last]


def sum_gradients(model: nn.Module) -> None:
    if not _joined:
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def summed(values: Tensor) -> Tensor:
    """Over processes."""
    if _joined:
        values = values.clone()
        distributed.all_reduce(values)
    return values
