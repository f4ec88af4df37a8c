"""The anomaly score, as part of the exported graph: higher is more anomalous."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hourglass.contract.manifest import EMBEDDING, EMBEDDING_STDDEV, FEATURE_ERROR, RECONSTRUCTION, SCORE
from training.likelihoods import Likelihood, standard_normal_kl

# The decoder's output before it becomes a reconstruction: what a likelihood reads. Never served.
DECODED = "decoded"

_ACTIVE_VARIANCE = 0.01


class Score(nn.Module, ABC):
    """From scaled rows and the autoencoder's answers to (score [n], feature_error [n, *row_shape]).

    `name` and `formula` go to the manifest and the card, `feature_error` says there what a feature's error is.
    Everything is computed in scaled units.
    """

    name: str
    formula: str
    feature_error: str

    @abstractmethod
    def forward(self, rows: Tensor, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]: ...

    def learn(self, rows: Tensor, answers: Mapping[str, Tensor], robust: bool) -> None:
        """Measure on reference rows what the score needs to know of ordinary ones. Called once, before any forward.

        rows: float32 [n, *row_shape] in scaled units, none of them calibration rows, or p-values would not hold.
        answers: the autoencoder's. robust: anomalies may be among the rows.
        """

    def decided(self, rows: Tensor, answers: Mapping[str, Tensor], clear: float) -> Tensor:
        """As Autoencoder.decided, of what the score adds: bool [n]."""
        return torch.ones(len(rows), dtype=torch.bool)

    def units(self, row_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Where score or feature_error are not of size 1: how much one unit of a reconstruction's error changes them.

        row_shape: of scaled rows. Two runtimes are compared in these units; each broadcasts to its output.
        """
        return {}

    def metrics(self, answers: Mapping[str, Tensor]) -> dict[str, float]:
        """What the manifest and the card say of a split. answers: of model.onnx to all its rows."""
        return {}


class MeanSquaredError(Score):
    name = "mean_squared_error"
    formula = "mean over features of (scaled input - scaled reconstruction)^2"
    feature_error = "squared error in scaled units"

    def forward(self, rows: Tensor, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        feature_error = (rows - answers[RECONSTRUCTION]).square()
        return row_means(feature_error.flatten(1)), feature_error


class NegativeElbo(Score):
    """The negative evidence lower bound with its expectation taken at the mean embedding: nothing is drawn."""

    name = "negative_elbo"

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.formula = (
            f"sum over features of -log p(x | z = embedding) ({likelihood.name}) + KL(q(z | x) || N(0, I)), in nats"
        )
        self.feature_error = (
            f"the feature's part of -log p(x | z), in nats, above the least it can be: {likelihood.terms}"
        )

    def forward(self, rows: Tensor, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        terms = self.likelihood.negative_log_likelihood(answers[DECODED], rows)
        kl = standard_normal_kl(answers[EMBEDDING], 2 * answers[EMBEDDING_STDDEV].log())
        # Above the least, so that what features share is never below 0.
        feature_error = (terms - self.likelihood.least()).clamp(min=0)
        return row_sums(terms.flatten(1)) + row_sums(kl), feature_error

    def units(self, row_shape: tuple[int, ...]) -> dict[str, Tensor]:
        precision = self.likelihood.precision().detach().expand(row_shape)
        # Rounding errors of many features add up as independent ones do.
        return {FEATURE_ERROR: precision, SCORE: torch.linalg.vector_norm(precision)}

    def metrics(self, answers: Mapping[str, Tensor]) -> dict[str, float]:
        elbo = answers[SCORE].double().mean().item()
        log_variance = 2 * answers[EMBEDDING_STDDEV].double().log()
        kl = standard_normal_kl(answers[EMBEDDING].double(), log_variance).sum(dim=1).mean().item()
        return {
            "negative_elbo_nats_per_row": elbo,
            "reconstruction_nats_per_row": elbo - kl,
            "kl_nats_per_row": kl,
            "active_units": float(active_units(answers[EMBEDDING])),
        }


def active_units(embedding: Tensor) -> int:
    """Dimensions of [n, d] whose variance over rows is above 0.01 (Burda et al. 2016, "Importance weighted
    autoencoders", appendix C)."""
    return int((embedding.var(dim=0, correction=0) > _ACTIVE_VARIANCE).sum())


def row_sums(values: Tensor) -> Tensor:
    """[..., d] -> [...], as a matrix product: a row's bits are then the same alone and among others.

    onnxruntime's reductions add in another order for other numbers of rows, and the server runs rows of several callers
    together.
    """
    return (values @ torch.ones(values.shape[-1], 1)).squeeze(-1)


def row_means(values: Tensor) -> Tensor:
    """As row_sums."""
    return row_sums(values) / values.shape[-1]
