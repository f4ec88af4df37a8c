"""Where a training runs: on the processor or on a GPU; and where its rows lie."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from training import parallel
from training.errors import ConfigError

_FREE = 0.25  # of a GPU's free memory may be rows: they are copied once, and networks need the rest


def chosen(asked: str) -> torch.device:
    """auto: a GPU where torch has one. Of torchrun's processes each gets its own. Raises ConfigError."""
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(f"--device {asked}: torch {torch.__version__} has no GPU here: use --device cpu")
    _, _, number = asked.partition(":")
    index = int(number) if number else None
    if index is not None and parallel.size() > 1:
        raise ConfigError(f"--device {asked}: each of torchrun's processes takes a GPU of its own: use --device cuda")
    index = parallel.local_rank() if index is None else index
    if index >= (count := torch.cuda.device_count()):
        whose = "" if parallel.size() == 1 else ", one for each of torchrun's processes,"
        raise ConfigError(f"--device {asked}: GPU {index}{whose} is not there: torch has {count}, from 0 on")
    return torch.device("cuda", index)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Inside, `device` is the GPU that streams and graphs belong to."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class Rows:
    """Training rows, float32 [n, *row_shape]: on the device, or in the host's memory where they do not fit."""

    def __init__(self, rows: Tensor, device: torch.device) -> None:
        self.rows = rows.to(device) if _fits(rows, device) else rows
        self._device = device

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def resident(self) -> bool:
        return self.rows.device == self._device

    def select(self, numbers: Tensor) -> Tensor:
        """On the device. numbers: int [m], on the device of `self.rows`."""
        batch = self.rows.index_select(0, numbers)
        # From pinned memory the copy runs beside the step before it.
        return batch if self.resident else batch.pin_memory().to(self._device, non_blocking=True)


def _fits(rows: Tensor, device: torch.device) -> bool:
    return device.type == "cpu" or rows.nbytes <= _FREE * torch.cuda.mem_get_info(device)[0]
