"""--score: which anomaly score a model gets, by name, and which when nobody chose."""

from __future__ import annotations

import math

from training.autoencoder import Autoencoder
from training.distances import (
    EmbeddingMahalanobis,
    EmbeddingNearest,
    ResidualMahalanobis,
    Sum,
    TopFeatures,
    WhitenedError,
)
from training.errors import ConfigError, nearest
from training.scoring import MeanSquaredError, NegativeElbo, Score

PARTS: dict[str, type[Score]] = {
    part.name: part
    for part in (
        WhitenedError,
        TopFeatures,
        ResidualMahalanobis,
        EmbeddingMahalanobis,
        EmbeddingNearest,
    )
}
_SEPARATOR = "+"
_MOST_FEATURES = 2_048  # of a covariance matrix


def chosen(asked: str | None, model: Autoencoder, *, mixed: bool, keeps_rows: bool) -> Score:
    """The score that `asked` names, parts joined by '+', or the default. Raises ConfigError.

    mixed: the training data hold anomalies. keeps_rows: whether the artefact may hold rows of the data, embedded.
    """
    if asked is None:
        asked = _default(model, mixed or not keeps_rows)
    own = model.score()
    for score in (own, MeanSquaredError()):
        if asked == score.name:
            return score
    names = [name.strip() for name in asked.split(_SEPARATOR)]
    for name in names:
        if name in (own.name, MeanSquaredError.name):
            raise ConfigError(f"--score {asked}: {name} is of no fixed size, so it is not added to others")
        if name == NegativeElbo.name:
            raise ConfigError(f"--score {asked}: only the VAE family has a {name}")
        if name not in PARTS:
            raise ConfigError(f"--score: unknown score {name!r}{nearest(name, PARTS)}")
        if names.count(name) > 1:
            raise ConfigError(f"--score {asked}: {name} comes twice")
    if EmbeddingNearest.name in names and not keeps_rows:
        raise ConfigError(
            f"--score {EmbeddingNearest.name} keeps embeddings of training rows in the model, which --no-examples "
            f"forbids: use {EmbeddingMahalanobis.name}"
        )
    if ResidualMahalanobis.name in names and (features := math.prod(model.architecture.row_shape)) > _MOST_FEATURES:
        raise ConfigError(
            f"--score {ResidualMahalanobis.name} keeps a matrix of features × features: for rows of at most "
            f"{_MOST_FEATURES:,} numbers, and these have {features:,}; use {WhitenedError.name}"
        )
    parts = [PARTS[name]() for name in names]
    return parts[0] if len(parts) == 1 else Sum(parts)


def _default(model: Autoencoder, without_rows: bool) -> str:
    """For tables the best mean AUROC over the sets of docs/anomaly-benchmark.md, for each kind of training data;
    for images, the VAE family and embeddings wider than their rows, on which none was measured, the variant's own."""
    if not model.architecture.named or model.prior or model.wide:
        return model.score().name
    embedding = EmbeddingMahalanobis if without_rows else EmbeddingNearest
    wide = math.prod(model.architecture.row_shape) > _MOST_FEATURES
    return f"{(WhitenedError if wide else ResidualMahalanobis).name}{_SEPARATOR}{embedding.name}"
