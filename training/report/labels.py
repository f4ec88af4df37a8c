"""Labels of the rows a model was made from: never part of a row, but good to colour one by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hourglass.files import open_rows
from training import data
from training.config import FitConfig
from training.data import Dataset


def calibration_labels(config: FitConfig, dataset: Dataset) -> np.ndarray | None:
    """The label of each calibration row, as text; None when the run has no label column. Raises FileError."""
    if config.label is None:
        return None
    file = data._digits() if config.data == data.DIGITS else open_rows(Path(config.data))
    excluded = {data._canonical(label) for label in config.exclude_label}
    kept = [
        _shown(label)
        for batch in file.batches(data._READ_ROWS)
        for label in batch.column(config.label).to_pylist()
        if data._canonical(label) not in excluded
    ]
    numbered = replace(dataset, rows=torch.arange(len(dataset.rows)))
    chosen: np.ndarray = np.array(kept)[data.split(numbered, config.seed).calibration.numpy()]
    return chosen


def _shown(label: object) -> str:
    return f"{label:g}" if isinstance(label, float) else str(label)
