"""The anomaly score, as part of the exported graph: higher is more anomalous."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from hourglass.contract.manifest import RECONSTRUCTION


class Score(nn.Module):
    """From scaled rows and the autoencoder's answers to (score [n], feature_error [n, *row_shape]).

    `name` and `formula` go to the manifest and the card. Everything is computed in scaled units.
    """

    name: str
    formula: str

    def forward(self, rows: Tensor, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class MeanSquaredError(Score):
    name = "mean_squared_error"
    formula = "mean over features of (scaled input - scaled reconstruction)^2"

    def forward(self, rows: Tensor, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        feature_error = (rows - answers[RECONSTRUCTION]).square()
        return feature_error.flatten(1).mean(dim=1), feature_error
