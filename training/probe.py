"""What an embedding is worth to somebody with labels: a linear classifier on it, or its encoder fine-tuned.

Both choose their settings on validation rows and touch the test rows once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


class Parts(NamedTuple):
    """What weights learn from, what settings are chosen with, and what neither saw."""

    train: Labelled
    validation: Labelled
    test: Labelled

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Parts:
        return Parts(*(part.mapped(function) for part in self))


@dataclass(frozen=True)
class Settings:
    """How a classifier is trained: AdamW, its learning rate falling on a cosine to 0."""

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0


class Errors(NamedTuple):
    """Shares of rows that get a wrong label, and the settings that validation chose."""

    validation: float
    test: float
    settings: Settings


LINEAR = tuple(Settings(weight_decay=weight_decay) for weight_decay in (0.0, 0.03, 0.3, 1.0))
FINE_TUNING = (Settings(learning_rate=1e-3), Settings(learning_rate=3e-4))


def linear_probe(parts: Parts, seed: int, settings: Sequence[Settings] = LINEAR) -> Errors:
    """A softmax layer on frozen features.

    Features are divided by one number, their overall standard deviation, so that settings mean the same everywhere.
    """
    scale = float(parts.train.rows.std()) or 1.0
    return fine_tune(nn.Identity(), parts.mapped(lambda rows: rows.flatten(1) / scale), seed, settings)


def fine_tune(encoder: nn.Module, parts: Parts, seed: int, settings: Sequence[Settings] = FINE_TUNING) -> Errors:
    """A softmax layer on top of copies of `encoder` ([n, ...] -> [n, d]), both trained on the labels' cross-entropy.

    Of all settings and epochs the one with the fewest validation errors counts, and is tested.
    """
    trained = [_trained(encoder, parts, seed, chosen) for chosen in settings]
    error, classifier, chosen = min(trained, key=lambda result: result[0])
    return Errors(error, _error(classifier, parts.test), chosen)


def _trained(encoder: nn.Module, parts: Parts, seed: int, settings: Settings) -> tuple[float, nn.Module, Settings]:
    """The classifier of the best epoch and its validation error."""
    train = parts.train
    encoder = copy.deepcopy(encoder)
    # From 0: the first steps do not pull the encoder about by chance.
    head = nn.Linear(encoder(train.rows[:2]).shape[1], int(train.labels.max()) + 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    classifier = nn.Sequential(encoder, head)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=settings.weight_decay, fused=True)
    generator = Generator().manual_seed(seed)
    batches = math.ceil(len(train) / settings.batch_size)
    best = math.inf
    weights: dict[str, Tensor] = {}
    for epoch in range(settings.epochs):
        classifier.train()
        order = torch.randperm(len(train), generator=generator)
        for number, batch in enumerate(torch.split(order, settings.batch_size)):
            progress = (epoch + number / batches) / settings.epochs
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
            optimizer.zero_grad()
            answers = classifier(train.rows.index_select(0, batch))
            torch.autograd.backward(functional.cross_entropy(answers, train.labels[batch]))
            optimizer.step()
        if (error := _error(classifier, parts.validation)) < best:
            best, weights = error, {name: value.clone() for name, value in classifier.state_dict().items()}
    classifier.load_state_dict(weights)
    return best, classifier, settings


def _error(classifier: nn.Module, rows: Labelled) -> float:
    classifier.eval()
    answers = rows.mapped(classifier)
    return (answers.rows.argmax(dim=1) != answers.labels).float().mean().item()
