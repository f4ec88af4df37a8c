"""The training loop: tensors stay on the device, every random number comes from a saved generator."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from training import compilation, devices, mixed_precision, parallel
from training.autoencoder import Autoencoder, Clock
from training.config import FitConfig
from training.devices import Rows
from training.errors import TrainingError
from training.robust import WARM_UP, typical
from training.steps import Captured, Eager, Losses, Step, losses, recorder

# Of one pass: what it computes stays in the processor's caches; a GPU is kept busy.
_EVALUATION_ROWS = {"cpu": 512, "cuda": 8192}
_MONITORED_ROWS = 1024
_BATCH_SIZES = (16, 256)  # least and most, when nobody chose
_LEAST_BATCHES = 16  # of an epoch: few rows are few steps otherwise


class DivergedError(TrainingError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did. Losses: named parts, summed over features, averaged over rows."""

    epoch: int
    learning_rate: float
    train: dict[str, float]
    early_stop: dict[str, float]
    early_stop_loss: float
    best: bool
    rows_per_second: float
    monitor: dict[str, float | list[float]] = field(default_factory=dict)


class Training:
    """All that a training run is at the end of an epoch; a checkpoint holds exactly this.

    Call inside torch.random.fork_rng(): the global generator is seeded, for weights and for what modules draw.
    """

    def __init__(self, build: Callable[[], Autoencoder], config: FitConfig) -> None:
        self.device = devices.chosen(config.device)
        mixed_precision.check(config.precision, self.device)
        torch.manual_seed(config.seed)
        self.model = build().to(self.device)
        self.config = config = config.filled(self.model.architecture.row_shape)
        assert config.epochs is not None
        assert config.learning_rate is not None
        self._epochs, self._learning_rate = config.epochs, config.learning_rate
        for network in self.model.trained_networks():
            mixed_precision.mix(network, config.precision, self.device)
            if config.compile:
                compilation.compiled(network)
        on_gpu = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            # A graph reads it where it is.
            lr=torch.tensor(self._learning_rate, device=self.device) if on_gpu else self._learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.scaler = mixed_precision.scaler(config.precision, self.device)
        self.generator = Generator(self.device).manual_seed(config.seed)
        self.epoch = 0  # finished epochs
        self.best_epoch = 0
        self.best_loss = math.inf
        self.best_weights = self._weights()

    @property
    def finished(self) -> bool:
        return self.epoch >= self._epochs or self.epoch - self.best_epoch >= self.config.patience

    def run(self, rows: Tensor, early_stop: Tensor, after_epoch: Callable[[EpochRecord], None]) -> None:
        """Train to the end. rows, early_stop: float32 [n, *row_shape] in scaled units. Raises DivergedError, and
        TrainingError when a GPU has too little memory."""
        with (
            devices.current(self.device),
            mixed_precision.products(self.config.precision, self.device),
            compilation.explained(self.config.compile),
        ):
            try:
                self._run(Rows(rows, self.device), early_stop.to(self.device), after_epoch)
            except torch.OutOfMemoryError:
                raise TrainingError(
                    f"{self.device} has too little memory: try a smaller --batch-size, or --device cpu"
                ) from None

    def _run(self, rows: Rows, early_stop: Tensor, after_epoch: Callable[[EpochRecord], None]) -> None:
        if self.epoch == 0:
            self.model.prepare(rows.rows, self.generator)
        step = self._step(rows)
        while not self.finished:
            started = time.perf_counter()
            train = self._train_epoch(rows, step)
            rate = self._rate(self._clock(rows, self._batches(rows) - 1))
            self.epoch += 1
            clock = self._clock(rows)
            parts = self._evaluate(early_stop, clock)
            loss = sum(parts.values())
            if not math.isfinite(loss + sum(train.values())):
                raise DivergedError(f"the loss is {loss} after epoch {self.epoch}: try a lower --learning-rate")
            settled = self.model.settled(clock)
            # Until schedules have ended the newest weights are the best: patience begins then.
            if best := not settled or loss < self.best_loss:
                self.best_loss, self.best_epoch = loss if settled else math.inf, self.epoch
                self.best_weights = self._weights()
            speed = len(rows) / (time.perf_counter() - started)
            monitor = self._monitor(early_stop, clock)
            after_epoch(EpochRecord(self.epoch, rate, train, parts, loss, best, speed, monitor))

    def _step(self, rows: Rows) -> Step:
        eager = Eager(
            self.model,
            self.optimizer,
            self.scaler,
            self.generator,
            lambda numbers, clock: self._trimmed(rows.select(numbers), clock),
        )
        # Gradients of several processes, and scaled ones, are not part of a recording.
        plain = parallel.size() == 1 and not self.scaler.is_enabled() and rows.resident and self.model.capturable
        if plain and (record := recorder(self.device)):
            return Captured(eager, self._batch_size(rows), self._steady, record)
        return eager

    def _steady(self, clock: Clock) -> bool:
        """Whether no schedule changes a step from now on, but that of the learning rate."""
        return self.model.settled(clock) and (self.config.training_data == "clean" or clock.progress >= WARM_UP)

    def _train_epoch(self, rows: Rows, step: Step) -> dict[str, float]:
        self.model.train()
        order = torch.randperm(len(rows), generator=self.generator, device=self.device).to(rows.rows.device)
        found: list[tuple[Losses, int]] = []
        for number, batch in enumerate(torch.split(order, self._batch_size(rows))):
            clock = self._clock(rows, number)
            self._set_rate(self._rate(clock))
            found.append((step(batch, clock), len(batch)))
        return _averaged(found)

    def _rate(self, clock: Clock) -> float:
        return self._learning_rate * 0.5 * (1 + math.cos(math.pi * clock.progress))

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    @torch.no_grad()
    def _evaluate(self, rows: Tensor, clock: Clock) -> dict[str, float]:
        """The loss on rows that no gradient saw, with the same corruption at every epoch."""
        self.model.eval()
        rows = self._trimmed(rows, clock)
        generator = Generator(self.device).manual_seed(self.config.seed)
        batches = torch.split(rows, _EVALUATION_ROWS[self.device.type])
        with compilation.left_out(self.config.compile):
            return _averaged([(losses(self.model, batch, clock, generator), len(batch)) for batch in batches])

    @torch.no_grad()
    def _monitor(self, rows: Tensor, clock: Clock) -> dict[str, float | list[float]]:
        self.model.eval()
        with compilation.left_out(self.config.compile):
            return self.model.monitor(rows[:_MONITORED_ROWS], clock)

    def _clock(self, rows: Rows, batch: int = 0) -> Clock:
        """At the given batch of the epoch that follows the finished ones."""
        batches = self._batches(rows)
        return Clock(self.epoch * batches + batch, (self.epoch + batch / batches) / self._epochs)

    def _batches(self, rows: Rows) -> int:
        """Of an epoch."""
        return math.ceil(len(rows) / self._batch_size(rows))

    def _batch_size(self, rows: Rows) -> int:
        least, most = _BATCH_SIZES
        return self.config.batch_size or max(least, min(most, len(rows) // _LEAST_BATCHES))

    def _trimmed(self, rows: Tensor, clock: Clock) -> Tensor:
        """Of mixed training data, the rows that are most likely ordinary."""
        if self.config.training_data == "clean" or clock.progress < WARM_UP:
            return rows
        return typical(self.model, rows)

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}


def _averaged(found: Sequence[tuple[Losses, int]]) -> dict[str, float]:
    """Each part over the rows of the batches that had it: of losses and numbers of rows. Asks the device once."""
    values = iter(parallel.summed(torch.cat([batch.values for batch, _ in found])).tolist())
    sums: defaultdict[str, float] = defaultdict(float)
    seen: defaultdict[str, int] = defaultdict(int)  # a schedule may change the parts in the middle of an epoch
    for batch, count in found:
        for name in batch.names:
            sums[name] += next(values) * count
            seen[name] += count
    return {name: value / seen[name] for name, value in sums.items()}
