"""Answers as DataFrames and tables of pandas, polars and pyarrow, each imported when it is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

    from hourglass.messages import TopFeatures
    from hourglass.models import ModelInfo


class Framed(ABC):
    """An answer to several rows, one line for each.

    Columns are called as in the files that `hourglass` writes. model: what `Client.model` says of the model that
    answered; without it columns and features go by where they stand, and categories by their codes. Arrays of each row
    are an arrow fixed-size list, a polars Array, and in pandas objects that are numpy arrays. Raises
    ModuleNotFoundError, saying what to install.
    """

    @abstractmethod
    def _frame(self, model: ModelInfo | None) -> dict[str, np.ndarray]:
        """Columns by name: [n] or [n, d] of numbers or bools; [n] of objects, texts or bools and None."""

    def to_pandas(self, model: ModelInfo | None = None) -> pandas.DataFrame:
        """See `Framed`."""
        columns = self._frame(model).items()
        return _imported("pandas").DataFrame({name: list(v) if v.ndim > 1 else v for name, v in columns})

    def to_polars(self, model: ModelInfo | None = None) -> polars.DataFrame:
        """See `Framed`."""
        library = _imported("polars")

        def series(name: str, values: np.ndarray) -> polars.Series:
            if values.dtype == object:
                dtype = library.Boolean if _are_bools(values) else library.String
                return library.Series(name, values.tolist(), dtype=dtype)  # type: ignore[no-any-return]
            if values.dtype == np.float16 and not hasattr(library, "Float16"):
                values = values.astype(np.float32)
            return library.Series(name, values)  # type: ignore[no-any-return]

        frame: polars.DataFrame = library.DataFrame([series(*column) for column in self._frame(model).items()])
        return frame

    def to_arrow(self, model: ModelInfo | None = None) -> pyarrow.Table:
        """See `Framed`."""
        library = _imported("pyarrow")

        def array(values: np.ndarray) -> pyarrow.Array:
            if values.dtype == object:
                return library.array(values, library.bool_() if _are_bools(values) else library.string())
            if values.ndim > 1:
                return library.FixedSizeListArray.from_arrays(library.array(values.ravel()), values.shape[1])
            return library.array(values)

        return library.table({name: array(values) for name, values in self._frame(model).items()})


def score_names(model: ModelInfo | None) -> list[str]:
    """Columns of scores, but for the top features: those that can tell something of a row of this model."""
    counts = {
        "missing": model is None or model.takes_missing,
        "unknown": model is None or any(column.categories for column in model.schema),
    }
    always = ["score", "p_value", "is_anomaly", "reconstruction_error", "clipped"]
    return [*always, *(name for name, there in counts.items() if there)]


def top_name(place: int, what: str) -> str:
    """place: from 1, the feature with the largest share. what: feature, share, observed or expected."""
    return f"top{place}_{what}"


def top_columns(
    top: TopFeatures, names: Sequence[str] | None, texts_of: ModelInfo | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Of each place four columns, [n] each. names: of the features, row-major; None: they go by where they stand.
    texts_of: the model where observed and expected are texts."""
    observed, expected = (top.observed, top.expected) if texts_of is None else top.cells(texts_of)
    features = top.feature if names is None else np.array(names, dtype=object)[top.feature]
    columns = {"feature": features, "share": top.share, "observed": observed, "expected": expected}
    for i in range(top.feature.shape[1]):
        for what, values in columns.items():
            yield top_name(i + 1, what), values[:, i]


def flat(values: np.ndarray) -> np.ndarray:
    """[n, ...] -> [n, numbers of a row], row-major."""
    return np.ascontiguousarray(values).reshape(len(values), -1)


def _are_bools(values: np.ndarray) -> bool:
    return any(isinstance(value, bool) for value in values)


def _imported(library: str) -> Any:
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise ModuleNotFoundError(f"{library} is not installed: pip install {library}", name=library) from None
