"""Which features a score comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.errors import InvalidInput


@dataclass(frozen=True)
class TopFeatures:
    """[n, k] each, the largest share first. feature: int32, row-major index into the row. share: float32, in [0, 1].
    observed, expected: float32, in input units."""

    feature: np.ndarray
    share: np.ndarray
    observed: np.ndarray
    expected: np.ndarray


def how_many(asked: int) -> int:
    """Raises InvalidInput when it is negative."""
    if asked < 0:
        raise InvalidInput(f"top_features is {asked}: 0 or more", reason="BAD_TOP_FEATURES", field="top_features")
    return asked


def top_features(rows: np.ndarray, feature_error: np.ndarray, reconstruction: np.ndarray, k: int) -> TopFeatures:
    """The k features of each row with the largest feature_error, of equal ones the first; all, where there are fewer.

    rows, feature_error, reconstruction: float32 [n, *row_shape], feature_error >= 0; k >= 1.
    """
    errors = feature_error.reshape(len(rows), -1)
    feature = _largest(errors, min(k, errors.shape[1]))

    def at_features(values: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.take_along_axis(values.reshape(errors.shape), feature, axis=1)
        return found

    total = errors.sum(axis=1, keepdims=True, dtype=np.float64)
    share = np.divide(at_features(errors), total, out=np.zeros(feature.shape), where=total > 0)
    return TopFeatures(
        feature=feature.astype(np.int32),
        share=share.astype(np.float32),
        observed=at_features(rows),
        expected=at_features(reconstruction),
    )


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Where the k largest of each row stand, in descending order; of equal ones the first. [n, m] -> int [n, k]."""
    bound = -np.partition(-values, k - 1, axis=1)[:, k - 1 : k]
    above, on_it = values > bound, values == bound
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (on_it & (on_it.cumsum(axis=1) <= room))
    columns = np.nonzero(chosen)[1].reshape(len(values), k)
    order = np.argsort(-np.take_along_axis(values, columns, axis=1), axis=1, kind="stable")
    largest: np.ndarray = np.take_along_axis(columns, order, axis=1)
    return largest
