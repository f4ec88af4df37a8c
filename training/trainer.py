"""The training loop: tensors stay in memory, every random number comes from a saved generator."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from training.autoencoder import Autoencoder, Clock, total
from training.config import FitConfig
from training.errors import TrainingError
from training.robust import WARM_UP, typical

_EVALUATION_ROWS = 512  # of one pass: what it computes stays in the processor's caches
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
        torch.manual_seed(config.seed)
        self.model = build()
        self.config = config = config.filled(self.model.architecture.row_shape)
        assert config.epochs is not None
        assert config.learning_rate is not None
        self._epochs, self._learning_rate = config.epochs, config.learning_rate
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self._learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.generator = Generator().manual_seed(config.seed)
        self.epoch = 0  # finished epochs
        self.best_epoch = 0
        self.best_loss = math.inf
        self.best_weights = self._weights()

    @property
    def finished(self) -> bool:
        return self.epoch >= self._epochs or self.epoch - self.best_epoch >= self.config.patience

    def run(self, rows: Tensor, early_stop: Tensor, after_epoch: Callable[[EpochRecord], None]) -> None:
        """Train to the end. rows, early_stop: float32 [n, *row_shape] in scaled units. Raises DivergedError."""
        if self.epoch == 0:
            self.model.prepare(rows, self.generator)
        while not self.finished:
            started = time.perf_counter()
            train = self._train_epoch(rows)
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
            rate = self.optimizer.param_groups[0]["lr"]
            monitor = self._monitor(early_stop, clock)
            after_epoch(EpochRecord(self.epoch, rate, train, parts, loss, best, speed, monitor))

    def _train_epoch(self, rows: Tensor) -> dict[str, float]:
        self.model.train()
        order = torch.randperm(len(rows), generator=self.generator)
        sums: defaultdict[str, float] = defaultdict(float)
        seen: defaultdict[str, int] = defaultdict(int)  # a schedule may change the parts in the middle of an epoch
        for number, batch in enumerate(torch.split(order, self._batch_size(rows))):
            clock = self._clock(rows, number)
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate * 0.5 * (1 + math.cos(math.pi * clock.progress))
            self.optimizer.zero_grad()
            parts = self.model.loss(self._trimmed(rows.index_select(0, batch), clock), clock, self.generator)
            torch.autograd.backward(total(parts))
            self.optimizer.step()
            for name, part in parts.items():
                sums[name] += part.item() * len(batch)
                seen[name] += len(batch)
        return {name: value / seen[name] for name, value in sums.items()}

    @torch.no_grad()
    def _evaluate(self, rows: Tensor, clock: Clock) -> dict[str, float]:
        """The loss on rows that no gradient saw, with the same corruption at every epoch."""
        self.model.eval()
        rows = self._trimmed(rows, clock)
        generator = Generator().manual_seed(self.config.seed)
        sums: defaultdict[str, float] = defaultdict(float)
        for batch in torch.split(rows, _EVALUATION_ROWS):
            for name, part in self.model.loss(batch, clock, generator).items():
                sums[name] += part.item() * len(batch)
        return {name: value / len(rows) for name, value in sums.items()}

    @torch.no_grad()
    def _monitor(self, rows: Tensor, clock: Clock) -> dict[str, float | list[float]]:
        self.model.eval()
        return self.model.monitor(rows[:_MONITORED_ROWS], clock)

    def _clock(self, rows: Tensor, batch: int = 0) -> Clock:
        """At the given batch of the epoch that follows the finished ones."""
        batches = math.ceil(len(rows) / self._batch_size(rows))
        return Clock(self.epoch * batches + batch, (self.epoch + batch / batches) / self._epochs)

    def _batch_size(self, rows: Tensor) -> int:
        least, most = _BATCH_SIZES
        return self.config.batch_size or max(least, min(most, len(rows) // _LEAST_BATCHES))

    def _trimmed(self, rows: Tensor, clock: Clock) -> Tensor:
        """Of mixed training data, the rows that are most likely ordinary."""
        if self.config.training_data == "clean" or clock.progress < WARM_UP:
            return rows
        return typical(self.model, rows)

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}
