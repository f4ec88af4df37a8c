"""What an autoencoder has to beat: three detectors of scikit-learn, with the settings that PyOD gives them.

Each is one function from rows that it learns from, float [n, features] in scaled units, and rows to look at, float
[m, features], to scores, float64 [m]: higher is more anomalous.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors

SEED = 0
_VARIANCE = 0.9
_NEIGHBOURS = 5


def pca(learned: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean squared error of what the components with 90 % of the variance repeat, or all of them but the last."""
    exact, looked_at = learned.astype(np.float64), rows.astype(np.float64)
    if not np.ptp(exact, axis=0).any():  # nothing but the mean to repeat
        distances: np.ndarray = np.square(looked_at - exact[0]).mean(axis=1)
        return distances
    # The covariance matrix is the smaller one, unless rows are fewer than features.
    solver = "covariance_eigh" if len(exact) > exact.shape[1] else "full"
    model = PCA(_VARIANCE, svd_solver=solver).fit(exact)
    if model.n_components_ == exact.shape[1]:  # nothing is lost but rounding, which would rank rows by their size
        model = PCA(exact.shape[1] - 1, svd_solver=solver).fit(exact)
    scores: np.ndarray = np.square(looked_at - model.inverse_transform(model.transform(looked_at))).mean(axis=1)
    return scores


def knn(learned: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Distance to the fifth nearest row that was learned from."""
    neighbours = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(learned))).fit(learned)
    distances: np.ndarray = neighbours.kneighbors(rows)[0][:, -1].astype(np.float64)
    return distances


def isolation_forest(learned: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How few random cuts it takes to part a row from the others (Liu et al. 2008)."""
    scores: np.ndarray = -IsolationForest(random_state=SEED).fit(learned).score_samples(rows)
    return scores


BASELINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "pca": pca,
    "knn": knn,
    "isolation_forest": isolation_forest,
}
