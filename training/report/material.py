"""What every section of a model's report is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from hourglass.contract.manifest import EMBEDDING, EMBEDDING_STDDEV, FEATURE_ERROR, SCORE, Manifest
from training.detection import calibrated_mixed
from training.likelihoods import standard_normal_kl
from training.report.axis import number

if TYPE_CHECKING:
    from training.at_hand import AtHand
    from training.autoencoder import Autoencoder
    from training.export import Trained


@dataclass(frozen=True)
class Material:
    """answers: of model.onnx to all calibration rows, in order. at_hand: where labels were excluded."""

    trained: Trained
    manifest: Manifest
    answers: Mapping[str, np.ndarray]
    at_hand: AtHand | None

    @property
    def autoencoder(self) -> Autoencoder:
        return self.trained.served.autoencoder

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.trained.dataset.row_shape

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Of a table, or of windows; None when rows are images."""
        return self.trained.dataset.columns

    @property
    def windowed(self) -> bool:
        """Whether rows are windows of a series: [length, channels], the channels being the columns."""
        return self.trained.dataset.window is not None

    @property
    def numbers(self) -> tuple[str, ...]:
        """What each number of a table's scaled row is called: 'age', 'colour = red'."""
        schema = self.trained.dataset.schema
        return () if schema is None else schema.expanded_names

    @property
    def categorical(self) -> bool:
        """Whether some columns hold no numbers."""
        schema = self.trained.dataset.schema
        return schema is not None and not schema.is_numeric

    def cell(self, column: int, value: float) -> str:
        """A table's cell as people read it."""
        schema = self.trained.dataset.schema
        assert schema
        return schema.columns[column].cell(value, number)

    @property
    def shows_rows(self) -> bool:
        return not self.trained.config.no_examples

    @property
    def scores(self) -> np.ndarray:
        return self.answers[SCORE]

    @property
    def threshold(self) -> float:
        calibration = self.manifest.calibration
        return calibration.threshold(calibration.false_alarm_rate)

    @property
    def false_alarms(self) -> str:
        return f"{100 * self.manifest.calibration.false_alarm_rate:.3g} %"

    @property
    def fresh(self) -> str:
        """Which rows the false-alarm rate is about."""
        included = ", anomalies included" * calibrated_mixed(self.manifest.provenance)
        return f"fresh rows like the calibration rows{included}"

    @cached_property
    def calibration(self) -> Tensor:
        """float32 [n, *row_shape] in scaled units."""
        scaled: Tensor = self.trained.served.scaling(self.trained.splits.calibration)
        return scaled

    @cached_property
    def feature_error(self) -> np.ndarray:
        """float64 [*row_shape]: the mean over calibration rows."""
        mean: np.ndarray = self.answers[FEATURE_ERROR].mean(axis=0, dtype=np.float64)
        return mean

    @property
    def column_error(self) -> np.ndarray:
        """float64 [columns]: of a window's channels, the mean over its timestamps, too."""
        return self.feature_error.mean(axis=0) if self.windowed else self.feature_error

    @cached_property
    def activity(self) -> np.ndarray:
        """[embedding_size]: the KL of each dimension in nats where there is a prior, else its variance."""
        embedding = torch.from_numpy(self.answers[EMBEDDING])
        if self.manifest.prior is None:
            return embedding.var(dim=0, correction=0).numpy()
        log_variance = 2 * torch.from_numpy(self.answers[EMBEDDING_STDDEV]).log()
        return standard_normal_kl(embedding, log_variance).mean(dim=0).numpy()

    @cached_property
    def by_activity(self) -> np.ndarray:
        """The embedding's dimensions, the most active first."""
        return np.argsort(-self.activity, kind="stable")

    def generator(self) -> Generator:
        return Generator().manual_seed(self.trained.config.seed)


def words(name: str) -> str:
    """A metric's name as people write it."""
    return " ".join({"kl": "KL", "sse": "SSE", "mse": "MSE", "elbo": "ELBO"}.get(w, w) for w in name.split("_") if w)


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
