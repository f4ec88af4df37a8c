"""What a model answers to rows that neither trained nor calibrated it, normal ones and anomalies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from hourglass.contract.manifest import SCORE, Detection
from training.data import Excluded
from training.detection import Compared, drawn, most_rows

if TYPE_CHECKING:
    from training.export import Trained
    from training.runtime import Graph


@dataclass(frozen=True)
class AtHand:
    """Rows whose label the fit excluded, taken as anomalies.

    answers: of model.onnx to all of them, in order. compared: some calibration rows, then some of these.
    """

    excluded: Excluded
    answers: Mapping[str, np.ndarray]
    compared: Compared

    def detection(self) -> Detection:
        """For the manifest."""
        anomalous = int(self.compared.anomalous.sum())
        methods = {
            method: {measure: value for measure, value in found.items() if value is not None}
            for method, found in self.compared.figures().items()
        }
        return Detection(
            normal_rows=len(self.compared.anomalous) - anomalous, anomalous_rows=anomalous, methods=methods
        )


@dataclass(frozen=True)
class Evidence:
    """early_stop: scores of the rows that chose the best epoch, float32 [n]. at_hand: if labels were excluded."""

    early_stop: np.ndarray
    at_hand: AtHand | None

    @classmethod
    def of(cls, trained: Trained, model: Graph, scores: np.ndarray) -> Evidence:
        """model: model.onnx; scores: its scores of all calibration rows, [n]."""
        early_stop = model.run_all(trained.splits.early_stop.numpy())[SCORE]
        excluded = trained.dataset.excluded
        return cls(early_stop, excluded and _at_hand(trained, model, scores, excluded))


def _at_hand(trained: Trained, model: Graph, scores: np.ndarray, excluded: Excluded) -> AtHand:
    answers = model.run_all(excluded.rows.numpy())
    splits, most = trained.splits, most_rows(trained.dataset.rows[0].numel())
    learned = splits.train[drawn(len(splits.train), most)]
    normal, odd = drawn(len(scores), most), drawn(len(excluded.rows), most)

    def scaled(rows: Tensor) -> np.ndarray:
        flat: np.ndarray = trained.served.scaling(rows).flatten(1).numpy()
        return flat

    return AtHand(
        excluded,
        answers,
        Compared.of(
            np.concatenate([scores[normal], answers[SCORE][odd]]),
            scaled(learned),
            np.concatenate([scaled(splits.calibration[normal]), scaled(excluded.rows[odd])]),
            np.repeat([False, True], [len(normal), len(odd)]),
            # As in the file, where all rows but the excluded ones count as normal.
            np.repeat([len(trained.dataset.rows) / len(normal), excluded.total / len(odd)], [len(normal), len(odd)]),
        ),
    )
