"""The score of a row with missing cells: that of the others, as a whole row would have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from hourglass.contract.manifest import RECONSTRUCTION
from training import noise
from training.scoring import Score, row_means, row_sums

_STEPS = 10  # of the share that is missing
_HIGH = 0.95
_MOST_ROWS = 2_000
_LEAST_SCORES = 2_000  # at each share: of few rows, each is masked several times
_TINY = 1e-30


class OfPresent(Score):
    """`inner`, for rows in which NaN is a missing cell.

    A missing cell is filled with its own reconstruction, so that its error is 0. That alone would favour rows with
    holes, and what the autoencoder makes of the others without them would punish them; so the logarithm of the score is
    moved and stretched until its median and its 95 % quantile are those of whole rows, both measured on rows whose
    cells were masked at random, for each share of missing cells. A row without holes keeps its score to the bit.
    """

    typical: Tensor
    spread: Tensor
    share: Tensor

    def __init__(self, inner: Score, columns: Tensor) -> None:
        """columns: the column that each number in the last dimension of a row belongs to, int [numbers]."""
        super().__init__()
        self.inner, self.columns = inner, columns
        self.name, self.feature_error = inner.name, inner.feature_error
        self.formula = f"{inner.formula}; of rows with missing cells that of the others, on the scale of whole rows"
        self.register_buffer("typical", torch.zeros(_STEPS + 1))
        self.register_buffer("spread", torch.ones(_STEPS + 1))
        counts = torch.bincount(columns)
        self.register_buffer("share", (1 / (counts * len(counts)))[columns].float())

    def learn(self, rows: Tensor, answers: Mapping[str, Tensor], robust: bool) -> None:
        self.inner.learn(_completed(rows, answers[RECONSTRUCTION]), answers, robust)

    def level(self, rows: Tensor, answer: Callable[[Tensor], Mapping[str, Tensor]]) -> None:
        """Measure what missing cells do to scores. Called once, after `learn`.

        rows: float32 [n, *row_shape] in scaled units, that neither trained the model nor taught the score: rows it
        knows would score lower whole than masked. answer: the autoencoder.
        """
        rows = rows[:_MOST_ROWS].repeat(max(1, -(-_LEAST_SCORES // len(rows))), *[1] * (rows.ndim - 1))
        generator = Generator().manual_seed(0)
        for step in range(_STEPS + 1):
            where = noise.masking(rows, step / _STEPS, generator, self.columns).where
            holes = torch.where(where, torch.nan, rows)
            scores, _ = self._filled(holes, answer(holes))
            logs = scores.clamp(min=_TINY).log()
            median, high = torch.quantile(logs.double(), torch.tensor([0.5, _HIGH], dtype=torch.float64))
            self.typical[step], self.spread[step] = median, high - median
        # All rows without a single cell are one row: it is worth the median.
        self.spread.clamp_(min=1e-3 * max(self.spread[0].item(), 1e-3))

    def forward(self, rows: Tensor, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        score, feature_error = self._filled(rows, answers)
        missing = row_means(row_sums(rows.isnan().float() * self.share).reshape(len(rows), -1))
        # Linear between the shares that were measured.
        near = (1 - (missing[:, None] * _STEPS - torch.arange(_STEPS + 1)).abs()).clamp(min=0)
        typical, spread = row_sums(near * self.typical), row_sums(near * self.spread)
        levelled = (score.clamp(min=_TINY).log() - typical) / spread * self.spread[0] + self.typical[0]
        return torch.where(missing > 0, levelled.exp(), score), feature_error

    def _filled(self, rows: Tensor, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        missing = rows.isnan()
        score, feature_error = self.inner(torch.where(missing, answers[RECONSTRUCTION], rows), answers)
        return score, torch.where(missing, 0, feature_error)

    def decided(self, rows: Tensor, answers: Mapping[str, Tensor]) -> Tensor:
        return self.inner.decided(torch.where(rows.isnan(), answers[RECONSTRUCTION], rows), answers)

    def units(self, row_shape: tuple[int, ...]) -> dict[str, Tensor]:
        return self.inner.units(row_shape)

    def metrics(self, answers: Mapping[str, Tensor]) -> dict[str, float]:
        return self.inner.metrics(answers)


def _completed(rows: Tensor, reconstruction: Tensor) -> Tensor:
    """Rows whose missing cells err as those of other rows do: filled with reconstructions alone, a column that is often
    missing would seem to be known well."""
    missing = rows.isnan()
    if not missing.any():
        return rows
    completed, generator = torch.where(missing, reconstruction, rows), Generator().manual_seed(0)
    for number in missing.flatten(1).any(dim=0).nonzero().flatten().tolist():
        holes, values, expected = (part.flatten(1)[:, number] for part in (missing, completed, reconstruction))
        errors = (values - expected)[~holes]
        if len(errors):
            drawn = torch.randint(len(errors), (int(holes.sum()),), generator=generator)
            values[holes] += errors[drawn]
    return completed
