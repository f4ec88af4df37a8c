"""Rows are cut into messages that fit, and nothing is lost."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hourglass import rows
from hourglass.rows import Room, TableRows
from hourglass.v1 import autoencoder_pb2 as pb
from tests.hourglass.test_columns import table

TEXTS = st.text(max_size=40)


def values(column: pb.Column) -> list[Any]:
    if column.WhichOneof("values") == "texts":
        return list(column.texts.values)
    dtype = {
        pb.DATA_TYPE_FLOAT32: "<f4",
        pb.DATA_TYPE_FLOAT64: "<f8",
        pb.DATA_TYPE_INT32: "<i4",
        pb.DATA_TYPE_INT64: "<i8",
        pb.DATA_TYPE_BOOL: "?",
    }[column.numbers.data_type]
    found: list[Any] = np.frombuffer(column.numbers.data, dtype).tolist()
    assert list(column.numbers.shape) == [len(found)]
    return found


@given(data=st.data(), n=st.integers(0, 60), most=st.integers(1, 30), size=st.integers(1, 3000))
def test_tables_are_cut_by_their_real_bytes(data: st.DataObject, n: int, most: int, size: int) -> None:
    columns = {
        "größe": np.arange(n),
        "text": np.array(data.draw(st.lists(TEXTS, min_size=n, max_size=n)), dtype=object),
        "flag": np.arange(n) % 2 == 0,
    }
    pieces = TableRows(columns).pieces(Room(most, size))
    assert len(pieces) >= 1
    assert sum(map(len, pieces)) == n
    for piece in pieces:
        assert len(piece) <= most
        assert len(piece) <= 1 or piece.message().ByteSize() <= size
    for name, expected in columns.items():
        sent = [
            cell
            for piece in pieces
            for column in piece.message().columns
            if column.name == name
            for cell in values(column)
        ]
        assert sent == expected.tolist()
    # As few as may be: two neighbours together would not fit, but for what is counted too generously.
    for one, other in pairwise(pieces):
        both = len(one) + len(other)
        assert both > most or one.message().ByteSize() + other.message().ByteSize() + 6 * 2 * both + 3 * 64 + 20 > size


@pytest.mark.parametrize(
    ("cells", "sent"),
    [
        (np.array([1.5, np.nan]), (pb.DATA_TYPE_FLOAT64, [1.5, None])),
        (np.array([1, 2], "u1"), (pb.DATA_TYPE_INT32, [1, 2])),
        (np.array([1, 2**31], "u4"), (pb.DATA_TYPE_INT64, [1, 2**31])),
        (np.array([1, 2**40]), (pb.DATA_TYPE_INT64, [1, 2**40])),
        (np.array([1, 2**40], ">i8"), (pb.DATA_TYPE_INT64, [1, 2**40])),
        (np.array([1.5, 2], "f2"), (pb.DATA_TYPE_FLOAT32, [1.5, 2])),
        (np.array([True, False]), (pb.DATA_TYPE_BOOL, [True, False])),
        ([1, None], (pb.DATA_TYPE_FLOAT64, [1, None])),
        ([True, None], (pb.DATA_TYPE_FLOAT64, [1, None])),
        ([Decimal("1.5"), 2], (pb.DATA_TYPE_FLOAT64, [1.5, 2])),
        ([None, float("nan")], (pb.DATA_TYPE_FLOAT64, [None, None])),
        (["a", None, float("nan"), ""], (None, ["a", "", "", ""])),
        (np.array(["a", "b"]), (None, ["a", "b"])),
    ],
    ids=str,
)
def test_cells_travel_as_what_they_are(cells: Any, sent: tuple[Any, list[Any]]) -> None:
    [column] = table({"c": cells}).message().columns
    kind, expected = sent
    assert [None if cell != cell else cell for cell in values(column)] == expected
    assert (column.numbers.data_type if column.WhichOneof("values") == "numbers" else None) == kind


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["warm", None, 1], "row 2, column 'c': int after str: convert the whole column to numbers, or to texts"),
        ([None, 1, 2.5, "cold"], "row 3, column 'c': str after int"),
        ([1, date(2026, 1, 1)], "row 1, column 'c': date after int"),
        ([date(2026, 1, 1)], "row 0, column 'c': date: convert"),
    ],
)
def test_a_column_of_several_kinds_is_refused_naming_the_row(cells: list[Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        table({"c": cells})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([{"a": 1.0}, {"a": 2.0}], r"turn rows that are dicts into columns, \{name: \[values\]\}"),
        ([[1.0, 2.0], [2.0, None]], r"row 1, number 1 is None, and in an array a missing number is float\('nan'\)"),
        ([["a"], ["b"]], "row 0, number 0 is of type str"),
        ([[1.0, 2.0], [3.0, "x"]], "row 1, number 1 is of type str"),
        ([date(2026, 1, 1)], "row 0 is of type date"),
        ("text", "this is of type str"),
        (None, "this is None"),
        (np.zeros(2, "M8[s]"), "this is an array of datetime64"),
    ],
)
def test_what_is_no_array_is_told_what_to_become(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        rows.array_of(given)


class Frame:
    """As a DataFrame is: neither a dict nor a Mapping."""

    def __init__(self, **columns: Any) -> None:
        self._columns = columns

    def keys(self) -> Any:
        return self._columns.keys()

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]


class Missing:
    """As pandas.NA is."""

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    def __eq__(self, other: object) -> Any:
        return self

    __hash__ = None  # type: ignore[assignment]


Missing.__name__ = "NAType"


def test_frames_are_taken_as_they_are_and_only_what_the_model_wants() -> None:
    frame = Frame(a=np.array([1, Missing()], dtype=object), b=["x", None], at=np.zeros(2, "M8[s]"))
    taken = table(frame, ("b", "a")).message()
    assert [column.name for column in taken.columns] == ["a", "b"]
    assert np.isnan(values(taken.columns[0])[1])
    with pytest.raises(TypeError, match="column 'at' is an array of datetime64"):
        table(frame)
