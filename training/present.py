"""The score of a row with missing cells: that of the others, as a whole row would have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from hourglass.contract.manifest import RECONSTRUCTION
from training.scoring import Score, row_means, row_sums

_STEPS = 10  # of the share that is missing, where rows have so many cells
_QUANTILES, _MIDDLE = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99), 2
_MOST_ROWS = 2_000
_LEAST_SCORES = 2_000  # at each share: of few rows, each is masked several times
# Below and above the median: side, the quantiles where a segment starts and ends, and whether it is the last, which has
# no end: it starts at the outermost quantile, and its slope is that from there to the median.
_SEGMENTS = (
    *((-1.0, end + 1, end, False) for end in reversed(range(_MIDDLE))),
    (-1.0, 0, 0, True),
    *((1.0, end - 1, end, False) for end in range(_MIDDLE + 1, len(_QUANTILES))),
    (1.0, len(_QUANTILES) - 1, len(_QUANTILES) - 1, True),
)
_FEWEST = 100
_TINY = 1e-30


class OfPresent(Score):
    """`inner`, for rows in which NaN is a missing cell.

    A missing cell is filled with its own reconstruction, so that its error is 0. That alone would favour rows with
    holes, and what the autoencoder makes of the others without them would punish them; so the logarithm of the score is
    mapped, linearly between quantiles, until it is distributed as that of whole rows, both measured on rows of which
    so many cells were masked at random. A row without holes keeps its score to the bit.

    shares: of missing cells, ascending from 0 to 1, float32 [shares]; quantiles: of the logarithm of the score at each
    of them, float32 [shares, quantiles].
    """

    shares: Tensor
    quantiles: Tensor
    share: Tensor

    def __init__(self, inner: Score, columns: Tensor) -> None:
        """columns: the column that each number in the last dimension of a row belongs to, int [numbers]."""
        super().__init__()
        self.inner, self.columns = inner, columns
        self.name, self.feature_error = inner.name, inner.feature_error
        self.formula = f"{inner.formula}; of rows with missing cells that of the others, on the scale of whole rows"
        self.register_buffer("shares", torch.tensor([0.0, 1.0]))
        self.register_buffer("quantiles", torch.linspace(-1, 1, len(_QUANTILES)).repeat(2, 1))
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
        missing = rows.isnan().index_select(-1, self.columns.diff(prepend=torch.tensor([-1])).nonzero().flatten())
        chance = torch.rand(missing.shape, generator=Generator().manual_seed(0))
        order = torch.where(missing, -1.0, chance).flatten(1).argsort(dim=1).argsort(dim=1).reshape(missing.shape)
        already = missing.flatten(1).sum(dim=1)
        fewest = already.sort().values[min(len(rows), _FEWEST) - 1].item()  # where hardly a row is whole
        cells = missing[0].numel()
        counts = torch.linspace(0, cells, min(_STEPS, cells) + 1).round()
        quantiles = []
        for count in counts.tolist():
            holes = torch.where((order < count).index_select(-1, self.columns), torch.nan, rows)
            scores, _ = self._filled(holes, answer(holes))
            logs = scores[already <= max(count, fewest)].clamp(min=_TINY).log().double()
            quantiles.append(torch.quantile(logs, torch.tensor(_QUANTILES, dtype=torch.float64)))
        self.shares, self.quantiles = counts / cells, torch.stack(quantiles).float()

    def forward(self, rows: Tensor, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        score, feature_error = self._filled(rows, answers)
        missing = row_means(row_sums(rows.isnan().float() * self.share).reshape(rows.shape[0], -1))
        # Linear between the shares that were measured.
        steps = self.shares.diff()
        risen = ((missing[:, None] - self.shares[:-1]) / steps).clamp(0, 1)
        quantiles = self.quantiles[0] + risen @ self.quantiles.diff(dim=0)
        levelled = self._levelled(score.clamp(min=_TINY).log(), quantiles)
        return torch.where(missing > 0, levelled.exp(), score), feature_error

    def _levelled(self, logs: Tensor, quantiles: Tensor) -> Tensor:
        """From these quantiles, [n, quantiles], to those of whole rows: from the median outwards, segment by segment.

        All rows without a single cell are one row: it is worth the median.
        """
        sides, starts, ends, lasts = (torch.tensor(part) for part in zip(*_SEGMENTS, strict=True))
        inner = torch.where(lasts, _MIDDLE, starts)
        whole = self.quantiles[0]
        least = 1e-3 * (whole[-1] - whole[0]).clamp(min=1e-3)
        width = (sides * (quantiles[:, ends] - quantiles[:, inner])).maximum(least)
        beyond = (sides * (logs[:, None] - quantiles[:, starts])).clamp(min=0)
        covered = torch.where(lasts, beyond, beyond.minimum(width))
        return whole[_MIDDLE] + row_sums(covered * (whole[ends] - whole[inner]) / width)

    def _filled(self, rows: Tensor, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        missing = rows.isnan()
        score, feature_error = self.inner(torch.where(missing, answers[RECONSTRUCTION], rows), answers)
        return score, torch.where(missing, 0, feature_error)

    def decided(self, rows: Tensor, answers: Mapping[str, Tensor], clear: float) -> Tensor:
        return self.inner.decided(torch.where(rows.isnan(), answers[RECONSTRUCTION], rows), answers, clear)

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
