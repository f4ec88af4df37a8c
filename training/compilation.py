"""torch.compile around a training: only its steps are worth it, and what fails is the user's to mend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from training.errors import ConfigError

# Of one function, by default 8: all networks, with batches of two sizes, are one function to torch.
_RECOMPILED = 256


def compiled(network: nn.Module) -> None:
    """From its next call on, under the same names of weights."""
    forward: Callable[[Tensor], Tensor] = network.forward

    def called(rows: Tensor) -> Tensor:  # torch leaves alone what is called in its own files, as Sequential.forward
        return forward(rows)

    # For each size of a batch anew, and there are two: kernels for any size are slower.
    network.forward = torch.compile(called, dynamic=False)


def left_out(on: bool) -> AbstractContextManager[object]:
    """Inside, compiled networks run as they were written: other sizes, without gradients, would be compiled anew."""
    return torch.compiler.set_stance("force_eager") if on else nullcontext()


@contextmanager
def explained(on: bool) -> Iterator[None]:
    """Raises ConfigError when the compiler fails, which shows at the first step."""
    if not on:
        yield
        return
    from torch._dynamo import config  # slow to import
    from torch._dynamo.exc import TorchDynamoException

    try:
        with config.patch(recompile_limit=_RECOMPILED):
            yield
    except TorchDynamoException as error:
        reason = str(getattr(error, "inner_exception", error)).strip().partition("\n")[0]
        raise ConfigError(
            f"--compile: {reason}: leave it out, or see that a C++ compiler is there, and triton for a GPU"
        ) from error
