"""Scores that know what ordinary rows look like: errors and embeddings measured against those of reference rows.

Each is about 1 for an ordinary row, whatever the data, so that they can be added; the nearest distance is less where
embeddings lie too dense for it to tell much.
Nothing here measures a distance between rows: what the autoencoder did not learn, the score does not see.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from hourglass.contract.manifest import EMBEDDING, FEATURE_ERROR, RECONSTRUCTION, SCORE
from training.covariance import covariance, whitening
from training.scoring import Score, row_means, row_sums

# Added to each spread: errors of less than 1 % of a column's spread are rounding, not knowledge.
_FLOOR = 0.01
_TOP_SHARE = 0.25
_CORESET_ROWS = 1_024
_NEIGHBOURS = 3
_NEAR = 0.1  # of the embeddings' spread
_ROUNDING, _NEGLIGIBLE = 1e-2, 1e-3
_TINY = 1e-12


class WhitenedError(Score):
    name = "whitened_error"
    formula = (
        "mean over features of (error / the feature's usual error)^2, error = scaled input - scaled reconstruction"
    )
    feature_error = "squared error over the mean squared error of this feature in reference rows"

    spreads: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spreads", torch.ones(()))

    def learn(self, rows: Tensor, answers: Mapping[str, Tensor], robust: bool) -> None:
        squared = (rows - answers[RECONSTRUCTION]).double().square()
        # Of squared normal deviates the median is 0.455 of the mean.
        usual = squared.median(dim=0).values / 0.455 if robust else squared.mean(dim=0)
        self.spreads = (usual + _FLOOR**2).sqrt().float()

    def forward(self, rows: Tensor, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        feature_error = ((rows - answers[RECONSTRUCTION]) / self.spreads).square()
        return row_means(feature_error.flatten(1)), feature_error

    def units(self, row_shape: tuple[int, ...]) -> dict[str, Tensor]:
        return _units(1 / self.spreads.min())


class TopFeatures(WhitenedError):
    name = "top_features"
    formula = "mean of the largest quarter of (error / the feature's usual error)^2: for anomalies of few features"
    feature_error = "as whitened_error, 0 for features below the largest quarter"

    def forward(self, rows: Tensor, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        _, whitened = super().forward(rows, answers)
        flat = whitened.flatten(1)
        count = _top(flat)
        largest = flat.topk(count, dim=1).values
        # So that its mean over features is the score.
        feature_error = torch.where(flat >= largest[:, -1:], flat, 0) * (flat.shape[1] / count)
        return row_means(largest), feature_error.reshape(whitened.shape)

    def decided(self, rows: Tensor, answers: Mapping[str, Tensor], clear: float) -> Tensor:
        """Where the last feature that counts is clearly above the next."""
        flat = super().forward(rows, answers)[1].flatten(1)
        if flat.shape[1] == 1:
            return super().decided(rows, answers, clear)
        last = flat.topk(_top(flat) + 1, dim=1).values[:, -2:]
        return last[:, 0] - last[:, 1] > clear * last[:, 0]


class ResidualMahalanobis(Score):
    name = "residual_mahalanobis"
    formula = (
        "squared Mahalanobis distance of the error (scaled input - scaled reconstruction) over the number of features"
    )
    feature_error = "the feature's part of that squared distance (Garthwaite & Koch 2016)"

    mean: Tensor
    whitening: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("whitening", torch.ones(()))

    def learn(self, rows: Tensor, answers: Mapping[str, Tensor], robust: bool) -> None:
        errors = (rows - answers[RECONSTRUCTION]).flatten(1)
        self.mean, self.whitening = _mean_and_whitening(*covariance(errors.numpy(), robust), _FLOOR**2)

    def forward(self, rows: Tensor, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        errors = (rows - answers[RECONSTRUCTION]).flatten(1)
        feature_error = ((errors - self.mean) @ self.whitening).square()
        return row_means(feature_error), feature_error.reshape(rows.shape)

    def units(self, row_shape: tuple[int, ...]) -> dict[str, Tensor]:
        return _units(torch.linalg.matrix_norm(self.whitening, 2))


class _EmbeddingDistance(Score):
    """A distance in the embedding space, told to features by what the decoder makes of it: a feature's part is
    that of the squared difference between the row's reconstruction and that of the embedding it is measured from."""

    feature_error = (
        "the distance, shared out by the squared differences between this row's reconstruction and that of the usual "
        "rows it is compared with"
    )

    @abstractmethod
    def distance(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """[n, embedding_dim] -> squared distance [n], and the flat reconstruction [n or 1, features] it is from."""

    def forward(self, rows: Tensor, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        score, origin = self.distance(answers[EMBEDDING])
        moved = (answers[RECONSTRUCTION].flatten(1) - origin).square()
        # Where all moved less than a tenth of a spread, rounding shall not decide who moved most.
        moved = moved + _NEAR**2
        share = moved / row_sums(moved)[:, None]
        # So that its mean over features is the score.
        return score, (share * score[:, None] * moved.shape[1]).reshape(rows.shape)


class EmbeddingMahalanobis(_EmbeddingDistance):
    name = "embedding_mahalanobis"
    formula = "squared Mahalanobis distance of the embedding over its size"

    mean: Tensor
    whitening: Tensor
    origin: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("mean", "whitening", "origin"):
            self.register_buffer(name, torch.zeros(()))

    def learn(self, rows: Tensor, answers: Mapping[str, Tensor], robust: bool) -> None:
        mean, matrix = covariance(answers[EMBEDDING].numpy(), robust)
        # An embedding's unit is its own.
        floor = _FLOOR**2 * max(np.trace(matrix) / len(matrix), _TINY)
        self.mean, self.whitening = _mean_and_whitening(mean, matrix, floor)
        flat = answers[RECONSTRUCTION].flatten(1)
        self.origin = (flat.median(dim=0).values if robust else flat.mean(dim=0))[None]

    def distance(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return row_means(((embedding - self.mean) @ self.whitening).square()), self.origin

    def units(self, row_shape: tuple[int, ...]) -> dict[str, Tensor]:
        return _units(torch.linalg.matrix_norm(self.whitening, 2))


class EmbeddingNearest(_EmbeddingDistance):
    name = "embedding_nearest"
    formula = (
        f"(mean distance of the embedding to the nearest {_NEIGHBOURS} of at most {_CORESET_ROWS:,} reference rows' "
        "embeddings)^2 over what that is for a reference row"
    )

    centre: Tensor
    coreset: Tensor
    reconstructions: Tensor
    usual: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("centre", "coreset", "reconstructions", "usual"):
            self.register_buffer(name, torch.ones(()))

    def learn(self, rows: Tensor, answers: Mapping[str, Tensor], robust: bool) -> None:
        embedding = answers[EMBEDDING]
        # Rows that are there twice would be one neighbour twice.
        _, first = np.unique(embedding.numpy(), axis=0, return_index=True)
        chosen = torch.from_numpy(np.random.default_rng(0).permutation(np.sort(first))[:_CORESET_ROWS])
        self.centre = embedding.mean(dim=0)
        embedding = embedding - self.centre
        self.coreset = embedding[chosen]
        self.reconstructions = answers[RECONSTRUCTION].flatten(1)[chosen]
        nearness = self._nearness(embedding)
        nearness[chosen, torch.arange(len(chosen))] = -torch.inf  # a fresh row is not its own neighbour
        squared, _ = self._distance(embedding, nearness, min(_NEIGHBOURS, max(1, len(chosen) - 1)))
        # Where embeddings lie so dense that neighbours are all but equal, their distance tells nothing.
        least = _NEAR**2 * embedding.double().var(dim=0, correction=0).sum()
        self.usual = (squared.double().mean() + least).clamp(min=_TINY).float()

    def distance(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        embedding = embedding - self.centre
        squared, origin = self._distance(embedding, self._nearness(embedding), min(_NEIGHBOURS, len(self.coreset)))
        return squared / self.usual, origin

    def _distance(self, embedding: Tensor, nearness: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
        nearest = nearness.topk(neighbours, dim=1).indices
        # The differences themselves: what a matrix product makes of near points is rounding.
        differences = embedding[:, None] - self.coreset[nearest]
        mean = row_means((row_sums(differences.square()) + _TINY).sqrt())
        origins = [self.reconstructions[nearest[:, rank]] for rank in range(neighbours)]
        return mean.square(), reduce(torch.add, origins) / neighbours

    def _nearness(self, embedding: Tensor) -> Tensor:
        """[n, coreset]: larger is nearer; the squared distance less what is the same for all, turned round.

        Of centred embeddings, whose products are not much larger than their differences."""
        return 2 * embedding @ self.coreset.T - self.coreset.square().sum(dim=1)

    def decided(self, rows: Tensor, answers: Mapping[str, Tensor], clear: float) -> Tensor:
        """Where the last neighbour is clearly nearer than the next, or all are so near that it makes no difference."""
        if len(self.coreset) <= _NEIGHBOURS:
            return super().decided(rows, answers, clear)
        embedding, coreset = (answers[EMBEDDING] - self.centre).double(), self.coreset.double()
        squared = torch.cdist(embedding, coreset).square()
        last, following = squared.topk(_NEIGHBOURS + 1, dim=1, largest=False).values[:, -2:].T
        # Of the products that neighbours are found by.
        rounding = embedding.square().sum(dim=1) + coreset.square().sum(dim=1).max()
        apart = following - last > clear * torch.maximum(following, _ROUNDING * rounding)
        decided: Tensor = apart | (following < _NEGLIGIBLE * self.usual)
        return decided

    def units(self, row_shape: tuple[int, ...]) -> dict[str, Tensor]:
        return _units(1 / self.usual.sqrt())


class Sum(Score):
    """Several of these, added: an ordinary row scores about as many as there are."""

    def __init__(self, parts: list[Score]) -> None:
        super().__init__()
        self.parts = parts
        for part in parts:
            self.add_module(part.name, part)
        self.name = "+".join(part.name for part in parts)
        self.formula = " + ".join(f"[{part.formula}]" for part in parts)
        self.feature_error = "; ".join(f"{part.name}: {part.feature_error}" for part in parts)

    def learn(self, rows: Tensor, answers: Mapping[str, Tensor], robust: bool) -> None:
        for part in self.parts:
            part.learn(rows, answers, robust)

    def forward(self, rows: Tensor, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        scores, errors = zip(*(part(rows, answers) for part in self.parts), strict=True)
        return reduce(torch.add, scores), reduce(torch.add, errors)

    def decided(self, rows: Tensor, answers: Mapping[str, Tensor], clear: float) -> Tensor:
        return torch.stack([part.decided(rows, answers, clear) for part in self.parts]).all(dim=0)

    def units(self, row_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """The largest of the parts'."""
        return _units(torch.stack([part.units(row_shape)[SCORE] for part in self.parts]).max())


def _mean_and_whitening(mean: np.ndarray, matrix: np.ndarray, floor: float) -> tuple[Tensor, Tensor]:
    """As a graph holds them: float32 [d] and [d, d], for rows from the left. floor: added to each variance."""
    whitened = whitening(matrix + floor * np.eye(len(matrix)))
    return torch.from_numpy(mean).float(), torch.from_numpy(whitened.T.copy()).float()


def _units(unit: Tensor) -> dict[str, Tensor]:
    unit = unit.clamp(min=1)
    return {SCORE: unit, FEATURE_ERROR: unit}


def _top(flat: Tensor) -> int:
    """How many of [n, features] features top_features looks at."""
    return max(1, round(_TOP_SHARE * flat.shape[1]))
