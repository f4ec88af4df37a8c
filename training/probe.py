"""What an embedding is worth to somebody with labels: a linear classifier on it, or its encoder fine-tuned.

Both choose their settings on validation rows and touch the test rows once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

_PENALTIES = (1e-3, 1e-4, 1e-5, 1e-6)  # of the mean loss
_ITERATIONS = 300
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
        with torch.inference_mode():
            parts = [function(part) for part in torch.split(self.rows, _EVALUATION_ROWS)]
        return Labelled(torch.cat(parts), self.labels)


class Errors(NamedTuple):
    """Shares of rows that get a wrong label."""

    validation: float
    test: float


def linear_probe(train: Labelled, validation: Labelled, test: Labelled) -> Errors:
    """Multinomial logistic regression on frozen features, its L2 penalty chosen on the validation rows.

    Features are divided by one number, their overall standard deviation, so that a penalty means the same everywhere.
    """
    from sklearn.linear_model import LogisticRegression

    scale = float(train.rows.std()) or 1.0
    (x, y), (x_validation, y_validation), (x_test, y_test) = (
        ((part.rows.flatten(1) / scale).numpy(), part.labels.numpy()) for part in (train, validation, test)
    )
    best: Errors | None = None
    # From the strongest penalty to the weakest: each solution is near the next one.
    model = LogisticRegression(max_iter=_ITERATIONS, tol=1e-4, warm_start=True)
    for penalty in _PENALTIES:
        model.set_params(C=1 / (penalty * len(x))).fit(x, y)
        error = 1 - model.score(x_validation, y_validation)
        if best is None or error < best.validation:
            best = Errors(error, 1 - model.score(x_test, y_test))
    assert best is not None
    return best


@dataclass(frozen=True)
class FineTuning:
    """How encoder and classifier are trained together: Adam, its learning rate falling on a cosine to 0."""

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0


def fine_tune(
    encoder: nn.Module, train: Labelled, validation: Labelled, test: Labelled, settings: FineTuning, seed: int
) -> Errors:
    """A linear layer on top of a copy of `encoder` ([n, ...] -> [n, d]), both trained on labels by cross-entropy.

    The epoch with the fewest validation errors counts. The linear layer begins at 0, so that the first steps do not
    disturb the encoder by chance.
    """
    encoder = copy.deepcopy(encoder)
    head = nn.Linear(encoder(train.rows[:2]).shape[1], int(train.labels.max()) + 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    classifier = nn.Sequential(encoder, head)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=settings.weight_decay, fused=True)
    generator = Generator().manual_seed(seed)
    batches = math.ceil(len(train) / settings.batch_size)
    best: tuple[float, dict[str, Tensor]] | None = None
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
        error = _error(classifier, validation)
        if best is None or error < best[0]:
            best = error, {name: value.clone() for name, value in classifier.state_dict().items()}
    assert best is not None
    classifier.load_state_dict(best[1])
    return Errors(best[0], _error(classifier, test))


def _error(classifier: nn.Module, rows: Labelled) -> float:
    classifier.eval()
    answers = rows.mapped(classifier)
    return (answers.rows.argmax(dim=1) != answers.labels).float().mean().item()
