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

from training.autoencoder import Autoencoder
from training.detection import drawn, most_rows
from training.errors import DataError
from training.evaluation.published import Published
from training.evaluation.rows import Data, check_labels
from training.evaluation.section import Numbers

SEED = 0
TEST_SHARE = 0.3
# Wider rows have so large a covariance matrix that a few of its vectors are found faster by projection.
_EXACT_PCA_FEATURES = 2_000


class Split(NamedTuple):
    """Positions in the sample: fitted on, and tested on."""

    fitted: np.ndarray
    tested: np.ndarray


@dataclass(frozen=True)
class Sample:
    """Rows for what is measured again and again: 10,000 at most, drawn at random, of wide rows fewer.

    scaled, flat: the rows as Published has them scaled, and as features. split: 70 % and 30 % of them, at random, each
    label in proportion. pca_rows: what PCA learns from, float32 [m, features]: rows that the model learned from, where
    they are known, as many as a sample at most; else the fitted part. components: an embedding's size or as near as the
    rows allow.
    """

    data: Data
    scaled: np.ndarray
    flat: np.ndarray
    split: Split
    pca_rows: np.ndarray
    components: int

    @classmethod
    def of(cls, data: Data, model: Published) -> Sample:
        """Raises DataError when labels are no classes to tell apart."""
        n = len(data.rows)
        most = most_rows(model.features(data.rows[:1]).size)
        if n > most:
            data = data.take(drawn(n, most))
        labels = None
        if data.labels:
            check_labels(data.source, data.labels)
            labels = data.labels.numbers
        split = Split(*divide(np.arange(len(data.rows)), TEST_SHARE, labels))
        features = model.features(data.rows)
        if data.left_out is None:
            pca_rows = features[split.fitted]
        else:
            pca_rows = model.features(data.left_out[drawn(len(data.left_out), most)])
        components = min(model.manifest.embedding_size, *pca_rows.shape)
        return cls(data, model.scaled(data.rows), features, split, pca_rows, components)

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


class Anomalies(NamedTuple):
    """rows, normal: bool [n], which are; rows that the fit excluded may be neither. named: which, for people."""

    rows: np.ndarray
    normal: np.ndarray
    named: str


@dataclass(frozen=True)
class Subject:
    """whole: all rows but those that trained the model; data: those like the ones it was fitted on, `sample` of them.

    labelled: where there are labels, a sample of the whole; None, and why in `unclassified`, where they are no classes
    but tell anomalies. autoencoder: the weights that the model was exported from, in scaled units, where their run was
    given. anomalies: of the whole, where they are known.
    """

    model: Published
    whole: Data
    data: Data
    excluded: int
    sample: Sample
    labelled: Sample | None
    autoencoder: Autoencoder | None
    anomalies: Anomalies | None
    unclassified: str = ""

    @classmethod
    def of(
        cls,
        model: Published,
        data: Data,
        autoencoder: Autoencoder | None = None,
        anomalies: Anomalies | None = None,
    ) -> Subject:
        """Raises DataError when labels are good for nothing."""
        excluded = int(data.excluded.sum())
        labelled, unclassified = None, ""
        if data.labels:
            try:
                labelled = Sample.of(data, model)
            except DataError as error:
                if anomalies is None:
                    raise
                unclassified = str(error)
        usual = data.take(~data.excluded) if excluded else data
        sample = labelled if labelled and not excluded else Sample.of(replace(usual, labels=None), model)
        return cls(model, data, usual, excluded, sample, labelled, autoencoder, anomalies, unclassified)

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
            console.print(f"{self.excluded:,} more have a label that the fit excluded: to be told from the others.")
        if self.unclassified:
            console.print(f"No classification: {self.unclassified}.")
        if self.labelled and self.labelled.data.labels and not self.anomalies:
            column = self.labelled.data.labels.column
            console.print(
                f"--anomalies V[,V] says which {column} are anomalies, and measures how well scores tell them."
            )
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


def divide(positions: np.ndarray, share: float, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The rest and `share` of the positions, at random; each label, int [n], in proportion.

    The part has as many rows as there are labels, if the share has fewer.
    """
    classes = 0 if labels is None else len(np.unique(labels))
    size = max(classes, math.ceil(share * len(positions)))
    rest, part = train_test_split(positions, test_size=size, random_state=SEED, stratify=labels)
    return rest, part
