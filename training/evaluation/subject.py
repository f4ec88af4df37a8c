"""What every section looks at: a model, rows, and the split of rows that all comparisons share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from rich.console import Console
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

from hourglass.contract.manifest import Manifest
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
class Sample:
    """Rows for what is measured again and again: 10,000 at most, drawn at random, of wide rows fewer.

    scaled: the rows in scaled units, float32 [n, *row_shape]. split: 70 % and 30 % of them, at random, each label in
    proportion. pca_rows: what PCA learns from, float32 [m, features] in scaled units: rows that the model learned from,
    where they are known, as many as a sample at most; else the fitted part. components: an embedding's size or as near
    as the rows allow.
    """

    data: Data
    scaled: np.ndarray
    split: Split
    pca_rows: np.ndarray
    components: int

    @classmethod
    def of(cls, data: Data, manifest: Manifest) -> Sample:
        """Raises DataError when labels are no classes to tell apart."""
        n = len(data.rows)
        most = max(_FEWEST, min(MOST_ROWS, _MOST_NUMBERS // data.rows[0].size))
        if n > most:
            data = data.take(_drawn(n, most))
        labels = None
        if data.labels:
            check_labels(data.source, data.labels)
            labels = data.labels.numbers
        split = Split(*divide(np.arange(len(data.rows)), _TEST_SHARE, labels))
        scaled = manifest.scaling.apply(data.rows)
        if data.left_out is None:
            pca_rows = scaled[split.fitted]
        else:
            pca_rows = manifest.scaling.apply(data.left_out[_drawn(len(data.left_out), most)])
        pca_rows = pca_rows.reshape(len(pca_rows), -1)
        return cls(data, scaled, split, pca_rows, min(manifest.embedding_size, *pca_rows.shape))

    @cached_property
    def flat(self) -> np.ndarray:
        """float32 [n, features], in scaled units."""
        return self.scaled.reshape(len(self.scaled), -1)

    @cached_property
    def pca(self) -> PCA:
        """Of `pca_rows`."""
        rows = self.pca_rows.astype(np.float64)
        solver = "covariance_eigh" if rows.shape[1] <= _EXACT_PCA_FEATURES else "randomized"
        with np.errstate(invalid="ignore"):  # rows that are all alike have no variance to share out
            return PCA(self.components, svd_solver=solver, random_state=SEED).fit(rows)

    @property
    def pca_learned(self) -> str:
        """What PCA learned from, for people."""
        which = (
            f"other rows of {self.data.source}" if self.data.left_out is None else "rows that the model learned from"
        )
        return f"PCA learned from {len(self.pca_rows):,} {which}."


@dataclass(frozen=True)
class Subject:
    """data: all rows like those the model was fitted on, and `sample` of them.

    labelled: where there are labels, a sample that has rows that the fit excluded, too. autoencoder: the weights that
    the model was exported from, in scaled units, where their run was given.
    """

    model: Published
    data: Data
    excluded: int
    sample: Sample
    labelled: Sample | None
    autoencoder: Autoencoder | None

    @classmethod
    def of(cls, model: Published, data: Data, autoencoder: Autoencoder | None = None) -> Subject:
        """Raises DataError when labels are no classes to tell apart."""
        manifest, excluded = model.manifest, int(data.excluded.sum())
        labelled = Sample.of(data, manifest) if data.labels else None
        usual = replace(data.take(~data.excluded), labels=None) if excluded else data
        sample = labelled if labelled and not excluded else Sample.of(usual, manifest)
        return cls(model, usual, excluded, sample, labelled, autoencoder)

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
        console.print(f"{rows}.")
        if data.fitted_rows == "none known":
            fitted_on = f"the file that the model was fitted on ({manifest.provenance.data})"
            console.print(f"Not {fitted_on}: rows that are in both are counted as fresh.")
        if self.excluded:
            console.print(f"{self.excluded:,} more have a label that the fit excluded: for classification only.")
        console.print()

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
            "sampled_rows": len(self.sample.scaled),
            "excluded_rows": self.excluded,
        }
        return {"model": model, "data": rows}


def _drawn(n: int, most: int) -> np.ndarray:
    """Positions of `most` of n rows, in order; of all where there are no more."""
    return np.sort(np.random.default_rng(SEED).choice(n, min(n, most), replace=False))


def divide(positions: np.ndarray, share: float, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The rest and `share` of the positions, at random; each label, int [n], in proportion.

    The part has as many rows as there are labels, if the share has fewer.
    """
    classes = 0 if labels is None else len(np.unique(labels))
    size = max(classes, math.ceil(share * len(positions)))
    rest, part = train_test_split(positions, test_size=size, random_state=SEED, stratify=labels)
    return rest, part


def mean_squared(scaled: np.ndarray, repeated: np.ndarray) -> float:
    """Error of what is repeated of scaled rows: over all rows and features."""
    return float(np.square(scaled.astype(np.float64) - repeated).mean())
