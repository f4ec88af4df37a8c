"""Rows in whatever holds them: the same cells travel from a dict, pandas, polars and pyarrow."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from hourglass import rows
from hourglass.columns import Named
from hourglass.contract.schema import Column, Schema
from hourglass.rows import ArrayRows, TableRows, Terms

COLUMNS: dict[str, list[Any]] = {
    "x": [1.5, None, 3.0],
    "n": [1, 2, 3],
    "site": ["a", None, "b"],
    "on": [True, False, None],
}
MATRIX = {"a": [1.0, 2.0, 3.0], "b": [4, 5, 6]}


def structured(columns: dict[str, list[Any]]) -> np.ndarray:
    return np.rec.fromarrays([np.array(values) for values in columns.values()], names=list(columns))


HOLDERS: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "pandas": pd.DataFrame,
    "pandas nullable": lambda columns: pd.DataFrame(columns).convert_dtypes(),
    "pandas arrow": lambda columns: pd.DataFrame(columns).convert_dtypes(dtype_backend="pyarrow"),
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
    "pyarrow batch": pa.RecordBatch.from_pydict,
    "pyarrow chunks": lambda columns: pa.concat_tables([pa.table(columns).slice(i, 1) for i in range(3)]),
}
every_holder = pytest.mark.parametrize("hold", [*HOLDERS.values()], ids=[*HOLDERS])


def table(held: Any, wanted: tuple[str, ...] | None = None) -> TableRows:
    """As clients take columns; all of them if none are said."""
    named = Named.of(held)
    assert named is not None
    return rows.table_of(named, tuple(named.names) if wanted is None else wanted)


def terms(*row_shape: int, columns: tuple[Column, ...] = ()) -> Terms:
    return Terms(row_shape, 2, Schema(columns), 1000, 2**20)


def cells(values: np.ndarray) -> list[Any]:
    return [None if cell != cell else cell for cell in values.tolist()]


@every_holder
def test_columns_travel_alike(hold: Callable[..., Any]) -> None:
    taken = table(hold(COLUMNS), ("on", "x", "n", "site"))
    assert {name: cells(values) for name, values in taken.columns.items()} == {
        "x": [1.5, None, 3.0],
        "n": [1, 2, 3],
        "site": ["a", "", "b"],
        "on": [1, 0, None],
    }
    assert taken.columns["n"].dtype == np.int64
    assert rows.count(hold(COLUMNS)) == 3


@pytest.mark.parametrize("hold", [*HOLDERS.values(), structured], ids=[*HOLDERS, "structured"])
def test_frames_are_arrays_where_a_models_columns_have_no_names(hold: Callable[..., Any]) -> None:
    for taken in (terms(2).rows(hold(MATRIX)), rows.array_of(hold(MATRIX))):
        assert isinstance(taken, ArrayRows)
        assert taken.array.tolist() == [[1, 4], [2, 5], [3, 6]]


def test_a_dict_and_the_rows_of_images_stay_columns() -> None:
    """The server says what it takes instead."""
    assert isinstance(terms(2).rows(MATRIX), TableRows)
    assert isinstance(terms(2, 1).rows(pd.DataFrame(MATRIX)), TableRows)
    with pytest.raises(TypeError, match="not named columns"):
        rows.array_of(MATRIX)


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["a", None, "b"]).astype("category"),
        pd.Series(["a", None, "b"], dtype=pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))),
        pl.Series(["a", None, "b"], dtype=pl.Categorical),
        pl.Series(["a", None, "b"], dtype=pl.Enum(["b", "a"])),
        pa.array(["a", None, "b"]).dictionary_encode(),
        pa.chunked_array([pa.array(["a", None]).dictionary_encode(), pa.array(["b"]).dictionary_encode()]),
        pa.array(["a", None, "b"], pa.string_view()),
        np.ma.masked_array(["a", "hidden", "b"], [False, True, False]),
        np.array(["a", None, "b"], np.dtypes.StringDType(na_object=None)),
    ],
    ids=lambda values: f"{type(values).__module__.partition('.')[0]}-{getattr(values, 'dtype', None) or values.type}",
)
def test_categories_are_texts(values: Any) -> None:
    assert table({"c": values}).columns["c"].tolist() == ["a", "", "b"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([Decimal("1.50"), None], pa.decimal128(5, 2)), [1.5, None]),
        (pl.Series([Decimal("1.50"), None]), [1.5, None]),
        (pl.Series([1.5, float("nan"), None]), [1.5, None, None]),
        (pl.Series([None, None]), [None, None]),
        (pa.nulls(2), [None, None]),
        (pa.array([2**40, None]), [2**40, None]),
        (pa.chunked_array([pa.array([3, None]).dictionary_encode()]), [3, None]),
        (pd.Series([1, None], dtype="Int64"), [1, None]),
        (pd.Series([3, None]).astype("category"), [3, None]),
        (pd.Series(pd.arrays.SparseArray([1.0, 0.0])), [1, 0]),
        (pa.array(np.array([1.5], np.float16)), [1.5]),
        (np.ma.masked_array([1, 2], [True, False]), [None, 2]),
        ([10**400, -(10**400)], [float("inf"), float("-inf")]),  # which the server refuses, naming the row
    ],
)
def test_numbers_are_numbers_and_nulls_are_missing(values: Any, expected: list[Any]) -> None:
    assert cells(table({"c": values}).columns["c"]) == expected


def test_a_series_is_its_one_column() -> None:
    one = terms(1, columns=(Column(name="x"),))
    for series in (pd.Series([1.0, 2.0], name="x"), pl.Series("x", [1.0, 2.0])):
        assert rows.count(series) == 2
        taken = one.rows(series)
        assert isinstance(taken, TableRows)
        assert taken.columns["x"].tolist() == [1, 2]
        assert rows.array_of(series).array.tolist() == [[1], [2]]


@pytest.mark.parametrize(
    "held",
    [
        pa.FixedSizeListArray.from_arrays(pa.array(np.arange(4, dtype="f4")), 2),
        pa.chunked_array([[[0.0, 1.0]], [[2.0, 3.0]]]),
        pd.Series([[0.0, 1.0], np.array([2.0, 3.0])]),
        pl.Series([[0.0, 1.0], [2.0, 3.0]]),
        pl.Series([[0.0, 1.0], [2.0, 3.0]], dtype=pl.Array(pl.Float32, 2)),
        pa.table({"embedding": [[0.0, 1.0], [2.0, 3.0]]}),
    ],
    ids=lambda held: f"{type(held).__module__.partition('.')[0]}-{type(held).__name__}",
)
def test_a_column_of_lists_is_an_array(held: Any) -> None:
    assert rows.array_of(held).array.tolist() == [[0, 1], [2, 3]]


def test_names_are_texts_and_unique() -> None:
    assert list(table(pd.DataFrame({3: [1.0]})).columns) == ["3"]
    twice = pd.DataFrame([[1.0, 2.0, 3.0]], columns=["a", "b", "a"])
    assert list(table(twice, ("b",)).columns) == ["b"]
    for held in (twice, pa.table([[1.0], [2.0]], names=["a", "a"]), {"1": [1.0], 1: [2.0]}):
        with pytest.raises(ValueError, match=r"column '[a1]' comes twice"):
            table(held)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (pd.DataFrame({"a": [1.0], "at": [pd.Timestamp(0)]}), r"column 'at' is an array of datetime64"),
        (pd.DataFrame({"at": [pd.Timestamp(0, tz="UTC")]}), r"row 0, column 'at': Timestamp: convert"),
        (pl.DataFrame({"a": [[1.0], None]}), r"row 0, column 'a': ndarray: convert"),
        (pl.DataFrame({"a": [1]}, schema={"a": pl.Int128}), r"column 'a': .*128"),
        (pa.table({"at": [datetime.date(2026, 1, 1)]}), r"column 'at' is an array of datetime64"),
        (pa.table({"b": [b"x"]}), r"row 0, column 'b': bytes: convert"),
        (pl.LazyFrame({"a": [1]}), r"the rows of a LazyFrame are not there yet: give what its \.collect\(\) answers"),
        ({"a": [[1.0], [2.0]]}, r"column 'a' has the shape \[2, 1\], not \[n\]"),
        ({"a": 1.0}, r"column 'a' has the shape \[\], not \[n\]: of one row write \[1.0\]$"),
        ({"a": "north"}, r"column 'a' has the shape \[\], not \[n\]: of one row write \['north'\]$"),
    ],
    ids=str,
)
def test_what_is_no_column_is_named(held: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        table(held)


@pytest.mark.parametrize(
    ("held", "error", "message"),
    [
        (pd.DataFrame({"a": [1.0], "site": ["x"]}), TypeError, "column 'site' holds texts.*leave it out"),
        (pl.Series([[0.0, 1.0], [2.0]]), ValueError, r"row 1 has the shape \[1\], and row 0 \[2\]"),
        ([[1.0], [2.0, 3.0]], ValueError, r"row 1 has the shape \[2\], and row 0 \[1\]"),
        (pd.DataFrame({"a": [1.0, 2.0], "at": pd.Timestamp(0)}), TypeError, "column 'at' is an array of datetime64"),
    ],
    ids=str,
)
def test_what_is_no_matrix_is_named(held: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        terms(2).rows(held)


def test_texts_that_cannot_travel_name_row_and_column() -> None:
    with pytest.raises(ValueError, match=r"row 1, column 'c': '\\ud800' is no Unicode text"):
        table({"c": ["a", "\ud800"]})


@pytest.mark.parametrize(
    "held",
    [
        pd.DataFrame({"n": [1, 2], "on": [True, False]}).to_numpy(),  # as pandas makes of mixed types
        pd.DataFrame({"n": [1, 2], "on": [1, 0]}, dtype="Int64").to_numpy(dtype=object),
        [[Decimal(1), Decimal(1)], [Decimal(2), Decimal(0)]],
        np.ma.masked_array([[1, 1], [2, 0]]),
    ],
    ids=["mixed", "nullable", "decimals", "masked"],
)
def test_numbers_of_any_type_are_an_array(held: Any) -> None:
    taken = rows.array_of(held).array
    assert taken.dtype.kind in "if"
    assert taken.tolist() == [[1, 1], [2, 0]]


def test_what_is_masked_or_too_large_is_no_number() -> None:
    taken = rows.array_of(np.ma.masked_array([[1.0, 2.0]], [[False, True]])).array
    assert cells(taken[0]) == [1, None]
    assert rows.array_of([[10**400, 1]]).array.tolist() == [[float("inf"), 1]]
    assert rows.array_of(np.empty((0, 2), object)).array.shape == (0, 2)


def test_what_numpy_takes_is_an_array() -> None:
    for array in ([[1.0]], np.zeros((2, 2)), pa.array([1.0]), 3.0, [np.zeros(2)]):
        assert Named.of(array) is None
