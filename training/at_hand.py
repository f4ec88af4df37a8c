"""Anomalies at hand: what a fresh model answers to rows whose label its fit excluded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
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


def at_hand(trained: Trained, model: Graph, scores: np.ndarray) -> AtHand | None:
    """model: model.onnx; scores: its scores of all calibration rows, [n]. None where no label is excluded."""
    excluded = trained.dataset.excluded
    if excluded is None:
        return None
    answers = model.run_all(excluded.rows.numpy())
    splits, most = trained.splits, most_rows(trained.dataset.rows[0].numel())
    learned = torch.cat([splits.train, splits.early_stop])
    learned = learned[drawn(len(learned), most)]
    normals = trained.dataset.total or len(trained.dataset.rows)
    normal, odd = drawn(len(scores), most), drawn(len(excluded.rows), most)

    def scaled(rows: Tensor) -> np.ndarray:
        flat: np.ndarray = trained.served.scaling(rows).nan_to_num().flatten(1).numpy()  # a mean where nothing is
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
            np.repeat([normals / len(normal), excluded.total / len(odd)], [len(normal), len(odd)]),
        ),
    )
