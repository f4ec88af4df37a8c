"""What an embedding is worth to somebody with labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from training.autoencoder import Autoencoder
from training.evaluation.section import Numbers, Section, table
from training.evaluation.subject import SEED, Subject, divide
from training.probe import FINE_TUNING, LINEAR, Labelled, Settings, fine_tune, linear_probe

_VALIDATION_SHARE = 1 / 7  # of the fitted part: a tenth of the sample
# Recipes for MNIST end after a few steps on fewer rows: 12 % of the digits wrong, which get 3.5 % with these.
_LEAST_STEPS = 1_000
_LINEAR = tuple(replace(settings, learning_rate=1e-2) for settings in LINEAR)


def measure(subject: Subject) -> Section:
    """On the rows that have labels."""
    sample = subject.labelled
    assert sample
    assert sample.data.labels
    labels, split = sample.data.labels.numbers, sample.split
    learned, chosen = divide(split.fitted, _VALIDATION_SHARE, labels[split.fitted])
    parts = (learned, chosen, split.tested)

    def labelled(rows: np.ndarray) -> list[Labelled]:
        return [Labelled(torch.from_numpy(rows[part]), torch.from_numpy(labels[part])) for part in parts]

    components = sample.pca.transform(sample.flat).astype(np.float32)
    embeddings = subject.model.embed(sample.data.rows)
    commonest = np.bincount(labels[learned]).argmax()
    errors = {"commonest_label": float((labels[split.tested] != commonest).mean())}
    for name, rows in (("raw", sample.flat), ("pca", components), ("embedding", embeddings)):
        train, validation, test = labelled(rows)
        found = linear_probe(train, validation, SEED, _patient(_LINEAR, len(learned)))
        errors[f"linear_probe_{name}"] = found.error(test)
    if subject.autoencoder is not None:
        settings = _patient(FINE_TUNING, len(learned))
        train, validation, test = labelled(sample.scaled)
        errors["fine_tuned"] = fine_tune(_Encode(subject.autoencoder), train, validation, SEED, settings).error(test)
    what = {
        "commonest_label": ("always the commonest label", 0),
        "linear_probe_raw": ("linear, on the row in scaled units", sample.flat.shape[1]),
        "linear_probe_pca": ("linear, on PCA of the row", components.shape[1]),
        "linear_probe_embedding": ("linear, on the embedding", embeddings.shape[1]),
        "fine_tuned": ("linear, encoder fine-tuned with it", embeddings.shape[1]),
    }
    tested = len(split.tested)
    shown_errors = table(f"telling {sample.data.labels.column}", "numbers", "test error", "standard error")
    for name, share in errors.items():
        deviation = math.sqrt(share * (1 - share) / tested)
        shown_errors.add_row(what[name][0], str(what[name][1] or ""), f"{share:.2%}", f"{deviation:.2%}")
    classes = len(np.unique(labels))
    numbers: Numbers = {
        "label": sample.data.labels.column,
        "classes": classes,
        "rows": dict(zip(("learned", "chosen", "tested"), map(len, parts), strict=True)),
        "test_error": errors,
    }
    sentences = (
        f"{classes:,} labels. At random, each label in proportion, seed {SEED}: {len(learned):,} rows to learn from, "
        f"{len(chosen):,} to choose settings by, {tested:,} to test.",
        sample.pca_learned,
    )
    return Section("classification", numbers, (shown_errors,), sentences)


def _patient(recipes: Sequence[Settings], rows: int) -> list[Settings]:
    """With as many epochs as enough steps take."""

    def epochs(recipe: Settings) -> int:
        return max(recipe.epochs, math.ceil(_LEAST_STEPS / math.ceil(rows / recipe.batch_size)))

    return [replace(recipe, epochs=epochs(recipe)) for recipe in recipes]


class _Encode(nn.Module):
    """Rows in scaled units -> embeddings, as a module that can be trained on."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, rows: Tensor) -> Tensor:
        return self.autoencoder.encode(rows)
