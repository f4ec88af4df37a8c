"""What the autoencoder adds: the default score with the identity in the autoencoder's place.

Scaling, splits, score and calibration are those of a fit; the embedding and the reconstruction are the row itself.
"""

from __future__ import annotations

import numpy as np

from hourglass.contract.calibration import Calibration
from hourglass.contract.manifest import SCORE
from training import data, scores
from training.autoencoder import Autoencoder, Options
from training.config import FitConfig
from training.data import Dataset
from training.export import false_alarm_rate
from training.fit import teach
from training.graphs import Served
from training.networks import Architecture
from training.scaling import Scaling

import torch  # isort: skip  (training sets how OpenMP waits, before torch is loaded)
from torch import Tensor, nn  # isort: skip

_PASS_ROWS = 1_024


class _Identity(Autoencoder):
    """Embedding and reconstruction of a row are the row."""

    def build(self) -> tuple[nn.Module, nn.Module]:
        return nn.Identity(), nn.Identity()


class IdentityModel:
    """score: float32 [n, columns] -> float32 [n]."""

    def __init__(self, train: np.ndarray, config: FitConfig) -> None:
        dataset = Dataset.of("rows", train, None)
        splits, robust = data.split(dataset, config.seed), config.training_data == "mixed"
        model = _Identity(Architecture(dataset.row_shape, train.shape[1]), Options())
        chosen = scores.chosen(config.score, model, mixed=robust, keeps_rows=not config.no_examples)
        self._served = Served(Scaling.of(splits.train), model, chosen).eval()
        teach(self._served, splits.train, splits.early_stop, robust=robust)
        calibration = self.score(splits.calibration.numpy())
        rate = false_alarm_rate(config.false_alarm_rate, len(calibration))
        self.calibration = Calibration.from_scores(calibration, rate)

    @torch.inference_mode()
    def score(self, rows: np.ndarray) -> np.ndarray:
        def answer(part: Tensor) -> Tensor:
            answered: dict[str, Tensor] = self._served(part)
            return answered[SCORE]

        return torch.cat([answer(part) for part in torch.split(torch.from_numpy(rows), _PASS_ROWS)]).numpy()
