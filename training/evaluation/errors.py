"""How far rows are from what a model makes of them: numbers in scaled units, flags and categories right or wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hourglass.contract.schema import UNKNOWN, Schema
from training.scaling import Scaling


@dataclass(frozen=True)
class Errors:
    """cells: float64 [n, *row_shape]: squared errors in scaled units, of flags and categories 1 where they are wrong
    and 0 where they are right. there: bool, the same shape: no cell that is missing, and no category that the model
    does not know, which no answer can be. numeric: bool, broadcasts to it: where cells are numbers.
    """

    cells: np.ndarray
    there: np.ndarray
    numeric: np.ndarray

    @classmethod
    def of(cls, scaling: Scaling, schema: Schema | None, rows: np.ndarray, repeated: np.ndarray) -> Errors:
        """rows, repeated: float32 [n, *row_shape] in input units."""
        scaled, answered = scaling(torch.from_numpy(rows)), scaling.unclipped(torch.from_numpy(repeated))
        squared = np.square(scaled.numpy().astype(np.float64) - answered.numpy())
        there = ~np.isnan(rows)
        if schema is None or schema.is_numeric:
            return cls(squared, there, np.array(True))
        first = np.cumsum([0, *(column.width for column in schema.columns[:-1])])
        numeric = np.array([column.type == "numeric" for column in schema.columns])
        there[:, schema.categorical] &= rows[:, schema.categorical] != UNKNOWN
        return cls(np.where(numeric, squared[:, first], rows != repeated), there, numeric)

    @property
    def mean_squared(self) -> float | None:
        """Over all numbers; None where there is none."""
        return self._mean(self.numeric)

    @property
    def wrong(self) -> float | None:
        """Share of the flags and categories; None where there is none."""
        return self._mean(~self.numeric)

    def _mean(self, which: np.ndarray) -> float | None:
        chosen = self.there & which
        return float(self.cells[chosen].mean()) if chosen.any() else None
