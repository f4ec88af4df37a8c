"""How well scores tell anomalies that somebody has labelled, beside what simple detectors do on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from hourglass.contract.manifest import Detection, Provenance
from training.baselines import BASELINES, SEED

MODEL = "model"
TITLES = {
    MODEL: "this model",
    "pca": "PCA, 90 % of the variance",
    "knn": "kNN, k = 5",
    "isolation_forest": "IsolationForest",
}
_SHORT = {"pca": "PCA", "knn": "kNN", "isolation_forest": "IsolationForest"}
RECALL_AT = {"recall_at_1_percent": 0.01, "recall_at_0.1_percent": 0.001}
MOST_ROWS = 10_000  # to learn from: kNN looks at each of them for each row
_FEWEST = 1_000
_MOST_NUMBERS = 2**24


def calibrated_mixed(provenance: Provenance) -> bool:
    """Whether the calibration rows hold anomalies as the training rows do: of mixed data, until it is recalibrated."""
    return provenance.config.get("training_data") == "mixed" and provenance.recalibrated is None


def most_rows(features: int) -> int:
    """How many rows of that size a sample has: 10,000, of wide rows fewer, but 1,000 of any."""
    return max(_FEWEST, min(MOST_ROWS, _MOST_NUMBERS // features))


def drawn(n: int, most: int) -> np.ndarray:
    """Positions of `most` of n rows, in order, always the same; of all where there are no more."""
    return np.sort(np.random.default_rng(SEED).choice(n, min(n, most), replace=False))


@dataclass(frozen=True)
class Compared:
    """Scores, float64 [m], of the model and each baseline for the same rows.

    anomalous: bool [m], with rows of both kinds. weights: how many rows each stands for, [m], all of a kind the same:
    the precision of an alarm depends on how common anomalies are.
    """

    scores: Mapping[str, np.ndarray]
    anomalous: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(
        cls, scores: np.ndarray, learned: np.ndarray, rows: np.ndarray, anomalous: np.ndarray, weights: np.ndarray
    ) -> Compared:
        """scores: the model's for `rows`, [m, features] in scaled units. learned: what the baselines learn from,
        [n, features] in scaled units."""
        others = {name: baseline(learned, rows) for name, baseline in BASELINES.items()}
        return cls({MODEL: scores.astype(np.float64), **others}, anomalous, weights)

    def figures(self) -> dict[str, dict[str, float | None]]:
        """method -> measure -> value."""
        return {name: figures(scores, self.anomalous, self.weights) for name, scores in self.scores.items()}

    @property
    def share(self) -> float:
        """Of the rows that these stand for, how many are anomalies."""
        return float(self.weights[self.anomalous].sum() / self.weights.sum())


def figures(scores: np.ndarray, anomalous: np.ndarray, weights: np.ndarray) -> dict[str, float | None]:
    """AUROC, AUPRC (average precision) and recalls, by name, of scores [m]; see Compared.

    A recall at a false-alarm rate is the share
    of anomalies above the lowest threshold that no larger share of the normal rows exceeds; None where these are too
    few for the rate to be told from 0.
    """
    normal, odd = np.sort(scores[~anomalous]), scores[anomalous]
    found: dict[str, float | None] = {
        "auroc": float(roc_auc_score(anomalous, scores)),
        "auprc": float(average_precision_score(anomalous, scores, sample_weight=weights)),
    }
    for name, rate in RECALL_AT.items():
        false_alarms = int(rate * len(normal) * (1 + 1e-12))
        found[name] = float((odd > normal[-1 - false_alarms]).mean()) if false_alarms else None
    return found


def rounded(value: float | None) -> str:
    """A figure of `figures`, to three decimals; only what is 1 is written as 1."""
    if value is None:
        return "–"
    return "> 0.999" if 0.9995 <= value < 1 else f"{value:.3f}"


def lost(auroc: Mapping[str, float | None]) -> str | None:
    """A plain sentence when a baseline ranks better, None when none does. auroc: of each method."""
    shown = {name: rounded(value) for name, value in auroc.items()}
    values = {name: value or 0.0 for name, value in auroc.items()}
    better = [name for name in _SHORT if values[name] > values[MODEL] and shown[name] != shown[MODEL]]
    if not better:
        return None
    by = ", ".join(f"{_SHORT[name]} ({shown[name]})" for name in better)
    hint = " For these anomalies, take PCA, or try another --variant or --embedding-dim." if "pca" in better else ""
    return f"The model (AUROC {shown[MODEL]}) loses to {by}.{hint}"


def in_one_line(found: Detection) -> str:
    """The AUROC of every method."""
    shown = {name: rounded(values["auroc"]) for name, values in found.methods.items()}
    others = ", ".join(f"{_SHORT[name]} {shown[name]}" for name in _SHORT)
    return f"{found.anomalous_rows:,} excluded rows taken as anomalies: AUROC {shown[MODEL]} ({others})"
