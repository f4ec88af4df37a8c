"""Named columns become the numbers of a row, and come back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hourglass.contract.schema import Column, Problem, Schema, SchemaError

KINDS = ("numeric", "boolean", "categorical")
NAMES = st.text(min_size=1, max_size=8)
# Texts as they are compared: without white space at their ends, and not empty.
CATEGORIES = st.lists(st.text(min_size=1, max_size=6).map(str.strip).filter(bool), min_size=1, max_size=5, unique=True)
MIXED = Schema(
    (Column(name="x"), Column(name="ok", type="boolean"), Column(name="c", type="categorical", categories=("red", "3")))
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Schema, dict[str, np.ndarray], list[list[Any]]]:
    """A schema, a table that fits it, and its cells as they come back."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    n = draw(st.integers(1, 6))
    columns, table, cells = [], {}, []
    for name in names:
        kind = draw(st.sampled_from(KINDS))
        categories = tuple(draw(CATEGORIES)) if kind == "categorical" else ()
        values = {
            "numeric": st.floats(width=32, allow_nan=False, allow_infinity=False),
            "boolean": st.booleans(),
            "categorical": st.sampled_from(categories or ("",)),
        }[kind]
        drawn = draw(st.lists(st.none() | values, min_size=n, max_size=n))
        columns.append(Column(name=name, type=kind, categories=categories))
        cells.append(drawn)
        as_numbers = [math.nan if cell is None else float(cell) for cell in drawn] if kind != "categorical" else drawn
        table[name] = np.array(as_numbers, dtype=object if kind == "categorical" else np.float64)
    return Schema(tuple(columns)), table, cells


@given(tables())
def test_what_is_encoded_is_decoded(drawn: tuple[Schema, dict[str, np.ndarray], list[list[Any]]]) -> None:
    schema, table, cells = drawn
    encoded = schema.encode(table, takes_missing=True)
    assert encoded.rows.dtype == np.float32
    assert encoded.problems == ()
    assert schema.check(encoded.rows) is None
    assert not schema.unknown(encoded.rows).any()
    for (name, values), expected, column in zip(schema.decode(encoded.rows), cells, schema.columns, strict=True):
        assert name == column.name
        assert [None if cell != cell else cell for cell in values.tolist()] == expected
    refused = schema.encode(table, takes_missing=False).problems
    holes = [row for row in range(len(encoded.rows)) if any(column[row] is None for column in cells)]
    assert [problem.row for problem in refused] == holes
    assert {problem.why for problem in refused} <= {"the cell is missing"}


@given(st.lists(st.text(max_size=4), min_size=1, max_size=8))
def test_texts_are_categories_or_unknown_and_never_a_fault(texts: list[str]) -> None:
    rows = _encoded(c=np.array(texts, dtype=object))
    for text, code in zip(texts, rows[:, 2], strict=True):
        stripped = text.strip()
        assert math.isnan(code) if not stripped else code == {"red": 1, "3": 2}.get(stripped, 0)


def _encoded(**columns: np.ndarray) -> np.ndarray:
    n = len(next(iter(columns.values())))
    table = {"x": np.zeros(n), "ok": np.zeros(n), "c": np.full(n, "red", dtype=object)}
    return MIXED.encode({**table, **columns}, takes_missing=True).rows


def test_flags_are_read_from_texts_and_numbers() -> None:
    texts = ["yes", "TRUE", " t ", "y", "1", "no", "False", "f", "N", "0", ""]
    expected = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, math.nan]
    np.testing.assert_array_equal(_encoded(ok=np.array(texts, dtype=object))[:, 1], expected)
    np.testing.assert_array_equal(_encoded(ok=np.array([True, False]))[:, 1], [1, 0])
    np.testing.assert_array_equal(_encoded(ok=np.array([1.0, math.nan]))[:, 1], [1, math.nan])


def test_numbers_stand_for_their_text_in_a_category() -> None:
    for values in (np.array([3, 4]), np.array([3.0, 4.0])):
        np.testing.assert_array_equal(_encoded(c=values)[:, 2], [2, 0])


def test_whole_numbers_are_one_category_with_and_without_a_fraction() -> None:
    texts = np.array(["3", "3.0", "03", "3.00"], dtype=object)
    np.testing.assert_array_equal(_encoded(c=texts)[:, 2], [2, 2, 0, 0])
    of_floats = Column(name="c", type="categorical", categories=("3.0", "v1.0"))
    rows = Schema((of_floats,)).encode({"c": np.array([3])}, takes_missing=True).rows
    np.testing.assert_array_equal(rows, [[1]])
    both = Column(name="c", type="categorical", categories=("3", "3.0"))
    np.testing.assert_array_equal(Schema((both,)).encode({"c": texts}, takes_missing=True).rows[:2, 0], [1, 2])


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"x": [1.0, math.inf]}, Problem(1, "x", "inf is not a finite float32 number")),
        ({"x": [1e39, 1.0]}, Problem(0, "x", "1e+39 is not a finite float32 number")),
        ({"ok": ["yes", "perhaps"]}, Problem(1, "ok", "'perhaps' is neither true nor false")),
        ({"ok": [2.0, 1.0]}, Problem(0, "ok", "2.0 is neither true nor false")),
        ({"c": [3.0, math.inf]}, Problem(1, "c", "inf is not a finite float32 number")),
        ({"ok": ["y" * 99, "y"]}, Problem(0, "ok", f"'{'y' * 39}… is neither true nor false")),
    ],
)
def test_a_cell_that_its_column_cannot_hold_is_named(changed: dict[str, list[Any]], problem: Problem) -> None:
    table = {"x": np.zeros(2), "ok": np.zeros(2), "c": np.array(["red", None], dtype=object)}
    for name, values in changed.items():
        table[name] = np.array(values, dtype=object if isinstance(values[0], str) else np.float64)
    assert MIXED.encode(table, takes_missing=True).problems == (problem,)


def test_each_bad_row_has_its_first_bad_cell() -> None:
    table = {"x": np.array([1, math.nan, math.inf]), "ok": np.array([2, 1, 2]), "c": np.array(["red"] * 3, object)}
    problems = MIXED.encode(table, takes_missing=False).problems
    assert [(problem.row, problem.column) for problem in problems] == [(0, "ok"), (1, "x"), (2, "x")]


@pytest.mark.parametrize(
    ("table", "column", "message"),
    [
        ({"ok": np.zeros(1), "c": np.zeros(1), "xx": np.zeros(1)}, "x", r"no column 'x': did you mean 'xx'\?"),
        ({"ok": np.zeros(1), "c": np.zeros(1)}, "x", "no column 'x'; the model takes x, ok, c$"),
        ({"x": np.array(["1"]), "ok": np.zeros(1), "c": np.zeros(1)}, "x", "'x' is numeric, and texts came: convert"),
        ({"x": np.zeros(1, "M8[s]"), "ok": np.zeros(1), "c": np.zeros(1)}, "x", "is numeric, and datetime64"),
    ],
)
def test_a_column_that_will_not_do_is_named(table: dict[str, np.ndarray], column: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message) as refused:
        MIXED.encode(table, takes_missing=True)
    assert refused.value.column == column


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ([0, 2, 0], "column 'ok': 2 is not a code of this column: whole numbers from 0 to 1"),
        ([0, 0, 3], "column 'c': 3 is not a code of this column: whole numbers from 0 to 2"),
        ([0, 0, -1], "column 'c': -1 is not"),
        ([0, 0, 0.5], "column 'c': 0.5 is not"),
    ],
)
def test_numbers_that_are_no_codes_are_named(row: list[float], why: str) -> None:
    for rows in (np.array([[0, 1, 2], row], np.float32), np.array([[[0, 1, 2]] * 2, [[0, 1, 2], row]], np.float32)):
        problem = MIXED.check(rows)
        assert problem is not None
        assert f"column {problem.column!r}: {problem.why}".startswith(why)
        assert problem.row == 1
    assert MIXED.check(np.array([[5.5, math.nan, math.nan]], np.float32)) is None


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        (0, 7.1, "7.10"),
        (1, 0, "false"),
        (1, 0.9, "true"),
        (2, 1, "red"),
        (2, 1.6, "3"),
        (2, 9, "3"),
        (2, 0, "unknown"),
        *((column, math.nan, "missing") for column in range(3)),
    ],
)
def test_a_cell_is_shown_as_people_read_it(column: int, value: float, shown: str) -> None:
    assert MIXED.columns[column].cell(value, "{:.2f}".format) == shown


def test_unknown_categories_are_counted() -> None:
    rows = np.array([[0, 0, 0], [0, 0, 1], [0, 0, math.nan]], np.float32)
    assert MIXED.unknown(rows).tolist() == [1, 0, 0]
    assert MIXED.unknown(rows[None]).tolist() == [1]


@pytest.mark.parametrize(
    "column",
    [
        {"name": ""},
        {"name": "c", "type": "categorical"},
        {"name": "c", "categories": ("a",)},
        {"name": "c", "type": "categorical", "categories": ("a", "a")},
        {"name": "c", "type": "text"},
    ],
)
def test_columns_that_cannot_be_are_refused(column: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Column(**column)
    with pytest.raises(ValueError, match="a name comes twice"):
        Schema((Column(name="a"), Column(name="a")))
