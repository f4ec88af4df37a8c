"""Rows of files as a schema's numbers: CSV and Parquet say the same."""

from __future__ import annotations

import datetime
import decimal
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hourglass.contract.schema import Column, Schema
from hourglass.files import Batch, FileError, open_rows
from hourglass.files.encoding import encode, rows

SCHEMA = Schema(
    (Column(name="x"), Column(name="ok", type="boolean"), Column(name="c", type="categorical", categories=("red", "3")))
)
# A row without a single cell is a blank line in a CSV.
CELLS = st.tuples(
    st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.none() | st.booleans(),
    st.none() | st.sampled_from(["red", "3", "blue", "a, \"b\"", "two\nlines"]),
).filter(lambda row: row != (None, None, None))  # fmt: skip


def batch_of(path: Path) -> Batch:
    [batch] = open_rows(path).batches(1000)
    return batch


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(CELLS, min_size=1, max_size=8),
    missing=st.sampled_from(["", "NA", "?", " n/a "]),
    flags=st.sampled_from([("true", "false"), ("Yes", "no"), ("1", "0")]),
    delimiter_and_point=st.sampled_from([(",", "."), (";", "."), (";", ",")]),
    padding=st.sampled_from(["", " "]),
)
def test_csv_and_parquet_are_encoded_alike(
    tmp_path: Path,
    cells: list[tuple[Any, ...]],
    missing: str,
    flags: tuple[str, str],
    delimiter_and_point: tuple[str, str],
    padding: str,
) -> None:
    delimiter, point = delimiter_and_point

    def written(cell: Any) -> str:
        if cell is None:
            return padding + missing
        if isinstance(cell, bool):
            return padding + flags[not cell]
        if isinstance(cell, float):
            return padding + repr(cell).replace(".", point)
        return '"' + cell.replace('"', '""') + '"'

    # A first row that shows how numbers are written.
    cells = [(0.25, True, "red"), *cells]
    lines = ["x;ok;c".replace(";", delimiter), *(delimiter.join(map(written, row)) for row in cells)]
    (tmp_path / "t.csv").write_text("\n".join(lines), newline="")
    x, ok, c = (list(column) for column in zip(*cells, strict=True))
    parquet(
        tmp_path / "t.parquet", x=pa.array(x, pa.float64()), ok=pa.array(ok, pa.bool_()), c=pa.array(c, pa.string())
    )
    expected = [
        [
            math.nan if a is None else a,
            math.nan if b is None else float(b),
            math.nan if d is None else {"red": 1, "3": 2}.get(d, 0),
        ]
        for a, b, d in cells
    ]
    for name in ("t.csv", "t.parquet"):
        encoded = encode(batch_of(tmp_path / name), SCHEMA, takes_missing=True)
        assert encoded.problems == ()
        np.testing.assert_array_equal(encoded.rows, np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("column", "numbers"),
    [
        (pa.array([1.5, None]), [1.5, math.nan]),
        (pa.array([3, 2**40]), [3, 2**40]),
        (pa.array([True, None]), [1, math.nan]),
        (pa.array([decimal.Decimal("1.25"), None]), [1.25, math.nan]),
        (pa.array([" 1.5", "NA"]), [1.5, math.nan]),
        (pa.array(["7", None]).dictionary_encode(), [7, math.nan]),
        (pa.array([" 1", "2"], pa.large_string()), [1, 2]),
        (pa.nulls(2), [math.nan, math.nan]),
        (pa.array([1.5, None], pa.float32()), [1.5, math.nan]),
    ],
    ids=str,
)
def test_numbers_of_any_type_are_read(tmp_path: Path, column: pa.Array, numbers: list[float]) -> None:
    batch = batch_of(parquet(tmp_path / "t.parquet", x=column))
    schema = Schema((Column(name="x"),))
    np.testing.assert_array_equal(encode(batch, schema, takes_missing=True).rows[:, 0], np.array(numbers, np.float32))
    np.testing.assert_array_equal(batch.numbers(["x"], missing=True)[:, 0], np.array(numbers, np.float32))


@pytest.mark.parametrize(
    ("column", "codes"),
    [
        (pa.array(["2024-01-01", None]), [1, math.nan]),
        (pa.array([datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)]), [1, 0]),
        (pa.array(["2024-01-01", " "]).dictionary_encode(), [1, math.nan]),
        (pa.array([5, 3]), [2, 0]),
        (pa.array([5.0, math.nan]), [2, math.nan]),
        (pa.array([True, False]), [0, 0]),
        (pa.nulls(2), [math.nan, math.nan]),
    ],
    ids=str,
)
def test_categories_of_any_type_are_read(tmp_path: Path, column: pa.Array, codes: list[float]) -> None:
    schema = Schema((Column(name="c", type="categorical", categories=("2024-01-01", "5")),))
    found = rows(batch_of(parquet(tmp_path / "t.parquet", c=column)), schema, takes_missing=True)
    np.testing.assert_array_equal(found[:, 0], codes)


def test_nested_columns_are_refused_only_when_they_are_asked_for(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", c=pa.array([[1], [2]]), x=pa.array([1.0, 2.0]))
    assert rows(batch_of(path), Schema((Column(name="x"),)), takes_missing=False).tolist() == [[1], [2]]
    schema = Schema((Column(name="c", type="categorical", categories=("a",)),))
    with pytest.raises(
        FileError, match=r"t.parquet: column 'c' is categorical, and holds list<.*: neither numbers nor"
    ):
        encode(batch_of(path), schema, takes_missing=True)


def test_every_bad_row_is_told_in_the_files_words(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,ok,c\n1,yes,red\nold,yes,red\n1,maybe,red\n1e99,yes,\n2,,blue\n")
    batch = batch_of(tmp_path / "t.csv")
    problems = encode(batch, SCHEMA, takes_missing=False).problems
    assert [tuple(problem) for problem in problems] == [
        (1, "x", "'old' is not a number"),
        (2, "ok", "'maybe' is neither true nor false"),
        (3, "x", "'1e99' is not a finite float32 number"),
        (4, "ok", "the cell is empty"),
    ]
    assert [problem.row for problem in encode(batch, SCHEMA, takes_missing=True).problems] == [1, 2, 3]
    with pytest.raises(FileError, match="line 3, column 'x': 'old' is not a number: correct it or remove the row"):
        rows(batch, SCHEMA, takes_missing=True)


@pytest.mark.parametrize(
    ("file", "columns", "categories"),
    [
        ("mixed/adult-train.csv.gz", 15, {"c1": "Private", "c14": "<=50K"}),
        ("mixed/kddcup.data_10_percent.gz", 42, {"c1": "tcp", "c41": "normal."}),
        ("mixed/pollution.csv.gz", 13, {"cbwd": "NW"}),
    ],
)
def test_published_tables_are_read(shared_data: Path, file: str, columns: int, categories: dict[str, str]) -> None:
    table = open_rows(shared_data / file)
    assert len(table.columns or ()) == columns
    batch = next(table.batches(1000))
    schema = Schema(tuple(Column(name=n, type="categorical", categories=(c,)) for n, c in categories.items()))
    assert (rows(batch, schema, takes_missing=True) == 1).any(axis=0).all()
