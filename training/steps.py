"""One gradient step: as torch runs it, kernel by kernel, or recorded as a CUDA graph and replayed.

A small network's step is hundreds of kernels that each take a GPU less time than Python takes to ask for them. A graph
is asked for once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Generator, Tensor

from training import parallel
from training.autoencoder import Autoencoder, Clock

_WARM_UP = 3  # steps: libraries choose their kernels and take their memory in the first ones
_ROUNDING = 0.01  # of the way that weights go in a step

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Losses:
    """The parts of a batch's loss: names, and values, float32 [parts], averaged over rows; several processes have a
    share each, which add up."""

    names: tuple[str, ...]
    values: Tensor


class Step(Protocol):
    def __call__(self, numbers: Tensor, clock: Clock) -> Losses:
        """Move the weights. numbers: of the batch's rows, int [n]."""


def losses(model: Autoencoder, rows: Tensor, clock: Clock, generator: Generator) -> Losses:
    """rows: all of the batch, [n, *row_shape]."""
    with parallel.shared(rows) as (own, weight):
        parts = model.loss(own, clock, generator)
    values = torch.stack(list(parts.values()))
    return Losses(tuple(parts), values if weight == 1 else weight * values)


class Eager:
    """batch: the rows of a step, [n, *row_shape] on the model's device, by their numbers."""

    def __init__(
        self,
        model: Autoencoder,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        generator: Generator,
        batch: Callable[[Tensor, Clock], Tensor],
    ) -> None:
        self.model, self.optimizer, self.scaler, self.generator, self.batch = model, optimizer, scaler, generator, batch

    def __call__(self, numbers: Tensor, clock: Clock) -> Losses:
        self.optimizer.zero_grad()
        found = losses(self.model, self.batch(numbers, clock), clock, self.generator)
        torch.autograd.backward(self.scaler.scale(found.values.sum()))
        parallel.sum_gradients(self.model)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return Losses(found.names, found.values.detach())


Recorder = Callable[[Callable[[], Losses], Eager], Callable[[], Losses]]


class Captured:
    """Replays a recording of the eager step for batches of one size, once the loss no longer follows a schedule.

    steady: whether it does not. The first replay must move the weights as the eager step does; where it does not, or
    where the step cannot be recorded, every step is eager, and the log says why.
    """

    def __init__(self, eager: Eager, rows: int, steady: Callable[[Clock], bool], record: Recorder) -> None:
        self._eager, self._rows, self._steady, self._record = eager, rows, steady, record
        self._numbers: Tensor | None = None
        self._replay: Callable[[], Losses] | None = None
        self._given_up = False

    def __call__(self, numbers: Tensor, clock: Clock) -> Losses:
        if self._given_up or len(numbers) != self._rows or not self._steady(clock):
            return self._eager(numbers, clock)
        if self._replay is None or self._numbers is None:
            return self._first(numbers, clock)
        self._numbers.copy_(numbers)
        return self._replay()

    def _first(self, numbers: Tensor, clock: Clock) -> Losses:
        eager, self._numbers = self._eager, numbers.clone()
        step = partial(eager, self._numbers, clock)
        before = _State(eager)
        with _aside(numbers.device):
            step()
            expected = [weight.detach().clone() for weight in eager.model.parameters()]
            for _ in range(_WARM_UP - 1):
                step()
        before.restore()
        try:
            replay = self._record(step, eager)
            found = replay()
            if before.moved_as(expected):
                self._replay = replay
                return found
            reason = "its recording moves the weights otherwise"
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
        _log.warning("the step is not replayed as a CUDA graph, and so slower: %s", reason)
        self._given_up = True
        _free(eager.generator)
        before.restore()
        return eager(numbers, clock)


def recorder(device: torch.device) -> Recorder | None:
    """What records a step without taking it, and gives what takes it; None where nothing does."""
    return _cuda_graph if device.type == "cuda" else None


def _cuda_graph(step: Callable[[], Losses], eager: Eager) -> Callable[[], Losses]:
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    graph.register_generator_state(eager.generator)
    _set_capturable(eager.optimizer, True)
    try:
        with torch.cuda.graph(graph):
            found = step()
    finally:
        _set_capturable(eager.optimizer, False)
        torch.cuda.set_stream(stream)  # a recording that fails does not leave its own

    def replay() -> Losses:
        graph.replay()
        return Losses(found.names, found.values.clone())

    return replay


def _set_capturable(optimizer: torch.optim.Optimizer, on: bool) -> None:
    """While it is recorded alone: it warns at each eager step otherwise. A fused one computes the same."""
    for group in optimizer.param_groups:
        group["capturable"] = on


class _State:
    """All that a step changes, as it was, to be put back in place: a recording knows its tensors by their address."""

    def __init__(self, eager: Eager) -> None:
        self._eager = eager
        self._kept = {tensor: tensor.detach().clone() for tensor in self._tensors()}
        self._random = eager.generator.get_state()

    @torch.no_grad()
    def restore(self) -> None:
        for tensor in self._tensors():
            if tensor in self._kept:
                tensor.copy_(self._kept[tensor])
            else:
                tensor.zero_()  # of the optimizer, which had none yet
        self._eager.generator.set_state(self._random)

    @torch.no_grad()
    def moved_as(self, expected: list[Tensor]) -> bool:
        """Whether the weights are where they should be, after the way that they should have gone."""
        weights = list(self._eager.model.parameters())
        way = _distance((self._kept[weight] for weight in weights), expected)
        return _distance(weights, expected) <= _ROUNDING * way

    def _tensors(self) -> list[Tensor]:
        model, states = self._eager.model, self._eager.optimizer.state.values()
        return [*model.parameters(), *model.buffers(), *(value for state in states for value in state.values())]


def _free(generator: Generator) -> None:
    """A recording that failed may have left the generator in it, where it can draw nothing any more."""
    if generator.device.type == "cuda":
        generator.graphsafe_set_state(Generator(generator.device))


def _distance(some: Iterable[Tensor], others: Iterable[Tensor]) -> float:
    squares = [(one - other).square().sum().item() for one, other in zip(some, others, strict=True)]
    return math.sqrt(sum(squares))


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """On a GPU another stream, as recording wants what it finds warm."""
    if device.type == "cpu":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    before = torch.cuda.current_stream()
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        yield
    before.wait_stream(stream)
