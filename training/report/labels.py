"""Labels of the rows a model was made from: never part of a row, but good to colour one by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from hourglass.files import FileError
from training import data
from training.config import FitConfig
from training.data import Dataset
from training.errors import DataError

_READ_ROWS = 8192


def calibration_labels(config: FitConfig, dataset: Dataset) -> np.ndarray | None:
    """The label of each calibration row, as text; None when the run has no label column. Raises DataError."""
    if config.label is None:
        return None
    excluded = {data.canonical(label) for label in config.exclude_label}
    try:
        kept = [
            _shown(label)
            for batch in data.open_source(config.data).batches(_READ_ROWS)
            for label in batch.column(config.label).to_pylist()
            if data.canonical(label) not in excluded
        ]
    except FileError as error:
        raise DataError(str(error)) from error
    numbered = replace(dataset, rows=torch.arange(len(dataset.rows)))
    chosen: np.ndarray = np.array(kept)[data.split(numbered, config.seed).calibration.numpy()]
    return chosen


def _shown(label: object) -> str:
    if label is None:
        return "without label"
    return f"{label:g}" if isinstance(label, float) else str(label)
