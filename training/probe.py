"""What an embedding is worth to somebody with labels: a linear classifier on it, or its encoder fine-tuned.

Settings and epochs are chosen on validation rows; test rows are for Classifier.error, once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

_EVALUATION_ROWS = 2000


@dataclass(frozen=True)
class Labelled:
    """rows: float32 [n, ...]; labels: int64 [n], from 0."""

    rows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Labelled:
        """The same labels of what `function` makes of the rows, some at a time, without gradients."""
        with torch.no_grad():
            parts = [function(part) for part in torch.split(self.rows, _EVALUATION_ROWS)]
        return Labelled(torch.cat(parts), self.labels)


@dataclass(frozen=True)
class Settings:
    """How a classifier is trained: AdamW, its learning rate falling on a cosine to 0."""

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0


LINEAR = tuple(Settings(weight_decay=weight_decay) for weight_decay in (0.0, 0.03, 0.3, 1.0))
FINE_TUNING = (Settings(learning_rate=1e-3), Settings(learning_rate=3e-4))


@dataclass(frozen=True)
class Classifier:
    """network: rows [n, ...] -> [n, classes]; settings: those that validation chose; validation: share of its rows that
    get a wrong label."""

    network: nn.Module
    settings: Settings
    validation: float

    def error(self, rows: Labelled) -> float:
        """Share of the rows that get a wrong label."""
        return _error(self.network, rows)


def linear_probe(train: Labelled, validation: Labelled, seed: int, settings: Sequence[Settings] = LINEAR) -> Classifier:
    """A softmax layer on frozen features.

    Features are divided by one number, their overall standard deviation, so that settings mean the same everywhere.
    """
    return fine_tune(_Divided(float(train.rows.std()) or 1.0), train, validation, seed, settings)


def fine_tune(
    encoder: nn.Module,
    train: Labelled,
    validation: Labelled,
    seed: int,
    settings: Sequence[Settings] = FINE_TUNING,
) -> Classifier:
    """A softmax layer on top of copies of `encoder` ([n, ...] -> [n, d]), both trained on the labels' cross-entropy.

    Of all settings and epochs the one with the fewest validation errors counts.
    """
    trained = [_trained(encoder, train, validation, seed, chosen) for chosen in settings]
    return min(trained, key=lambda classifier: classifier.validation)


def _trained(encoder: nn.Module, train: Labelled, validation: Labelled, seed: int, settings: Settings) -> Classifier:
    """At its best epoch."""
    encoder = copy.deepcopy(encoder)
    # From 0: the first steps do not pull the encoder about by chance.
    head = nn.Linear(encoder(train.rows[:2]).shape[1], int(train.labels.max()) + 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    network = nn.Sequential(encoder, head)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=settings.weight_decay, fused=True)
    generator = Generator().manual_seed(seed)
    batches = math.ceil(len(train) / settings.batch_size)
    best = math.inf
    weights: dict[str, Tensor] = {}
    for epoch in range(settings.epochs):
        network.train()
        order = torch.randperm(len(train), generator=generator)
        for number, batch in enumerate(torch.split(order, settings.batch_size)):
            progress = (epoch + number / batches) / settings.epochs
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
            optimizer.zero_grad()
            answers = network(train.rows.index_select(0, batch))
            torch.autograd.backward(functional.cross_entropy(answers, train.labels[batch]))
            optimizer.step()
        if (error := _error(network, validation)) < best:
            best, weights = error, {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(weights)
    return Classifier(network, settings, best)


class _Divided(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, rows: Tensor) -> Tensor:
        return rows.flatten(1) / self.scale


def _error(network: nn.Module, rows: Labelled) -> float:
    network.eval()
    answers = rows.mapped(network)
    return (answers.rows.argmax(dim=1) != answers.labels).float().mean().item()
