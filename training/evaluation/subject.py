"""What every section looks at: a model, rows, and the split of rows that all comparisons share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from rich.console import Console
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

from training.autoencoder import Autoencoder
from training.evaluation.published import Published
from training.evaluation.rows import Data, check_labels
from training.evaluation.section import Numbers

SEED = 0
MOST_ROWS, _FEWEST = 10_000, 1_000
_MOST_NUMBERS = 2**24
_TEST_SHARE = 0.3
# Wider rows have so large a covariance matrix that a few of its vectors are found faster by projection.
_EXACT_PCA_FEATURES = 2_000


class Split(NamedTuple):
    """Positions in the sample: fitted on, and tested on."""

    fitted: np.ndarray
    tested: np.ndarray


@dataclass(frozen=True)
class Subject:
    """sample: all rows, or 10,000 drawn at random of more (of wide rows fewer), for what is measured again and again.

    scaled: the sample in scaled units, float32 [n, *row_shape]. split: 70 % and 30 % of it, at random, each label in
    proportion. autoencoder: the weights that the model was exported from, in scaled units, where their run was given.
    """

    model: Published
    data: Data
    sample: Data
    scaled: np.ndarray
    split: Split
    autoencoder: Autoencoder | None

    @classmethod
    def of(cls, model: Published, data: Data, autoencoder: Autoencoder | None = None) -> Subject:
        """Raises DataError when labels are no classes to tell apart."""
        sample, n = data, len(data.rows)
        most = max(_FEWEST, min(MOST_ROWS, _MOST_NUMBERS // data.rows[0].size))
        if n > most:
            sample = data.take(np.sort(np.random.default_rng(SEED).choice(n, most, replace=False)))
        labels = None
        if sample.labels is not None:
            check_labels(sample.source, sample.labels)
            labels = sample.labels.numbers
        split = Split(*divide(np.arange(len(sample.rows)), _TEST_SHARE, labels))
        return cls(model, data, sample, model.manifest.scaling.apply(sample.rows), split, autoencoder)

    @cached_property
    def pca(self) -> PCA:
        """Of the fitted part, of the embedding's size or as near as the rows allow."""
        rows = self.scaled[self.split.fitted].reshape(len(self.split.fitted), -1).astype(np.float64)
        size = min(self.model.manifest.embedding_size, *rows.shape)
        solver = "covariance_eigh" if rows.shape[1] <= _EXACT_PCA_FEATURES else "randomized"
        with np.errstate(invalid="ignore"):  # rows that are all alike have no variance to share out
            return PCA(size, svd_solver=solver, random_state=SEED).fit(rows)

    def show(self, console: Console) -> None:
        """Which model, and which rows, for people."""
        manifest, data = self.model.manifest, self.data
        console.print(f"{self.model.name}, version {self.model.version}: {manifest.variant}", style="bold")
        rows = f"{len(data.rows):,} rows of {data.source}"
        if data.fitted_rows == "left out":
            fitted = manifest.provenance.rows
            trained, stopped = f"{fitted['train']:,}", f"{fitted['early_stop']:,}"
            rows += f": of {data.read:,}, without those that trained the model ({trained}) or stopped it ({stopped})"
        if data.fitted_rows == "included":
            rows += ", among them those that trained the model: it will do worse on others"
        console.print(f"{rows}.\n")

    def numbers(self) -> dict[str, Numbers]:
        """Which model, and which rows."""
        manifest, data = self.model.manifest, self.data
        model: Numbers = {
            "name": self.model.name,
            "version": self.model.version,
            "variant": manifest.variant,
            "embedding_size": manifest.embedding_size,
            "embedding_space_id": manifest.embedding_space_id,
        }
        rows: Numbers = {
            "source": data.source,
            "rows_read": data.read,
            "rows": len(data.rows),
            "fitted_rows": data.fitted_rows,
            "sampled_rows": len(self.sample.rows),
        }
        return {"model": model, "data": rows}


def divide(positions: np.ndarray, share: float, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The rest and `share` of the positions, at random; each label, int [n], in proportion."""
    rest, part = train_test_split(positions, test_size=share, random_state=SEED, stratify=labels)
    return rest, part


def mean_squared(scaled: np.ndarray, repeated: np.ndarray) -> float:
    """Error of what is repeated of scaled rows: over all rows and features."""
    return float(np.square(scaled.astype(np.float64) - repeated).mean())
