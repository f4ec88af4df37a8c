"""In how many bits the networks multiply while they learn; weights, losses and scores are float32 in any case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.config import Precision
from training.errors import ConfigError

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check(precision: Precision, device: torch.device) -> None:
    """Raises ConfigError."""
    if precision == "tf32" and device.type == "cpu":
        raise ConfigError("--precision tf32 is a GPU's: use float32 or bf16 on the processor")


def mix(network: nn.Module, precision: Precision, device: torch.device) -> None:
    """Let `network` compute in half precision if it is one, and answer in float32: losses are sums of many terms."""
    if precision not in _HALVES:
        return
    forward: Callable[[Tensor], Tensor] = network.forward
    half = _HALVES[precision]

    def mixed(rows: Tensor) -> Tensor:
        # Cached casts would outlive a CUDA graph's recording.
        with torch.autocast(device.type, half, cache_enabled=False):
            return forward(rows).float()

    network.forward = mixed


def scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Keeps float16 gradients from becoming 0; does nothing at other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


@contextmanager
def products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Whether a GPU may round factors to TF32, which torch allows for convolutions unless told not to."""
    if device.type == "cpu":
        yield
        return
    allowed = precision != "float32"
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
