"""Covariance matrices as the scores need them: shrunk, and robust where anomalies may be among the rows."""

from __future__ import annotations

import numpy as np
from sklearn.covariance import LedoitWolf

from training.robust import KEPT

_REFINEMENTS = 3


def covariance(rows: np.ndarray, robust: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean, float64 [d], and covariance matrix, float64 [d, d], of rows: float [n, d].

    Shrunk towards a multiple of the identity (Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional
    covariance matrices"), so that few rows give a matrix that can be inverted. robust: of the 90 % of rows that lie
    nearest, by the Mahalanobis distance that the last estimate gives (the concentration steps of Rousseeuw & Van
    Driessen 1999, from all rows on).
    """
    kept = rows.astype(np.float64)
    estimate = LedoitWolf().fit(kept)
    for _ in range(_REFINEMENTS if robust else 0):
        distances = estimate.mahalanobis(rows)
        kept = rows[np.argsort(distances, kind="stable")[: max(2, round(KEPT * len(rows)))]].astype(np.float64)
        estimate = LedoitWolf().fit(kept)
    return estimate.location_, estimate.covariance_


def whitening(matrix: np.ndarray) -> np.ndarray:
    """W, float64 [d, d], with |W x|^2 = x' matrix^-1 x, each (W x)_i as near to x_i as can be.

    W = P^-1/2 D^-1/2 for the correlation matrix P and the variances D: of all such W, the one whose outputs correlate
    best with their own inputs, so that (W x)_i^2 is feature i's part of the squared distance (Garthwaite & Koch 2016,
    "Evaluating the contributions of individual variables to a quadratic form"; Kessy et al. 2018, ZCA-cor).
    """
    spreads = np.sqrt(np.diag(matrix))
    values, vectors = np.linalg.eigh(matrix / np.outer(spreads, spreads))
    whitened: np.ndarray = (vectors / np.sqrt(values)) @ vectors.T / spreads
    return whitened
