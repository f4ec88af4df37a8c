"""torch.compile around a training: only its steps are worth it, and what fails is the user's to mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from training.errors import ConfigError


def left_out(compiled: bool) -> AbstractContextManager[object]:
    """Inside, compiled networks run as they were written: other sizes, without gradients, would be compiled anew."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


@contextmanager
def explained(compiled: bool) -> Iterator[None]:
    """Raises ConfigError when the compiler fails, which shows at the first step."""
    if not compiled:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # slow to import

    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"--compile: {reason}: leave it out, or see that a C++ compiler is there, and triton for a GPU"
        ) from error
