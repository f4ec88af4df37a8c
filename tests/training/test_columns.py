"""What a file's columns are taken for, and how a fit's settings say otherwise."""

from __future__ import annotations

import datetime
import io
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hourglass.contract.schema import Column
from hourglass.files import FileError, open_rows
from hourglass.files.cells import MISSING
from training import columns, data
from training.columns import Inferred, described, infer
from training.config import FitConfig, read_toml, validated
from training.errors import ConfigError, DataError

Config = Callable[..., FitConfig]
Infer = Callable[..., Inferred]
N = 60


@pytest.fixture
def inferred(tmp_path: Path) -> Infer:
    """Of a file with these columns. types: as somebody says."""

    def infer_table(*, types: dict[str, str] | None = None, **cells: object) -> Inferred:
        pq.write_table(pa.table(cells), tmp_path / "t.parquet")
        file = open_rows(tmp_path / "t.parquet")
        return infer(file, file.columns, types or {})

    return infer_table


def csv(path: Path, **cells: list[object]) -> Path:
    lines = [",".join(cells), *(",".join(map(str, row)) for row in zip(*cells.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def only(found: Inferred) -> Column:
    (column,) = found.schema.columns
    return column


@given(
    cells=st.lists(st.sampled_from([*MISSING, " NA ", "1", "2.5", "-3e4", " 7"]), min_size=N, max_size=N).filter(
        lambda cells: any(cell.strip().lower() not in MISSING for cell in cells)
    )
)
def test_a_column_of_numbers_is_numeric_whatever_is_missing(cells: list[str], tmp_path_factory: pytest.TempPathFactory):
    file = open_rows(csv(tmp_path_factory.mktemp("t") / "t.csv", a=range(N), b=cells))
    found = infer(file, ("b",), {})
    assert only(found) == Column(name="b")
    assert found.missing == {"b": sum(cell.strip().lower() in MISSING for cell in cells)}
    assert found.rows == N


@given(cells=st.lists(st.sampled_from(["red", "green", " blue", "", "NA", "3"]), min_size=N, max_size=N))
def test_a_column_of_words_is_categorical_the_commonest_first(
    cells: list[str], tmp_path_factory: pytest.TempPathFactory
):
    cells = [*cells, *["red", "green"] * 5]  # so many words that they are no mistakes among numbers
    file = open_rows(csv(tmp_path_factory.mktemp("t") / "t.csv", a=range(len(cells)), b=cells))
    found = infer(file, ("b",), {})
    counts = Counter(cell.strip() for cell in cells if cell not in ("", "NA"))
    expected = sorted((c for c, count in counts.items() if count > 1), key=lambda c: (-counts[c], c))
    assert only(found) == Column(name="b", type="categorical", categories=expected)
    assert found.distinct == {"b": len(counts)}
    assert found.missing["b"] == cells.count("") + cells.count("NA")


@pytest.mark.parametrize(
    "words", [("yes", "no"), ("TRUE", "False"), ("t", "f"), ("y", "n"), ("yes", "yes"), ("TRUE", "0")]
)
def test_words_that_say_yes_or_no_are_boolean(words: tuple[str, str], inferred: Infer):
    assert only(inferred(a=[*words] * 9 + [None])) == Column(name="a", type="boolean")


def test_a_word_more_makes_them_categories(inferred: Infer):
    assert only(inferred(a=["yes", "no", "maybe"] * 9)).categories == ("maybe", "no", "yes")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (pa.array([1, 2, None] * 9, pa.int16()), Column(name="a")),
        (pa.array([1.5, float("nan"), None] * 9), Column(name="a")),
        (pa.array([True, False, None] * 9), Column(name="a", type="boolean")),
        (pa.array(["x", "y", None] * 9), Column(name="a", type="categorical", categories=("x", "y"))),
        (
            pa.array(["x", "y", "y"] * 9).dictionary_encode(),
            Column(name="a", type="categorical", categories=("y", "x")),
        ),
        (pa.array(["1", "2.5", None] * 9), Column(name="a")),
    ],
    ids=["integers", "floats", "bools", "texts", "a dictionary", "numbers as texts"],
)
def test_types_of_parquet(cells: pa.Array, expected: Column, inferred: Infer):
    found = inferred(a=cells)
    assert only(found) == expected
    nans = sum(cell is None or cell != cell for cell in cells.to_pylist())
    assert found.missing == {"a": nans}


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (pa.array([datetime.date(2024, 1, 1)] * N), "date32"),
        (pa.array([datetime.datetime(2024, 1, 1)] * N), "timestamp"),
        (pa.array([[1, 2]] * N), "list"),
    ],
)
def test_what_is_neither_number_nor_text_is_refused_with_what_to_do(cells: pa.Array, kind: str, inferred: Infer):
    with pytest.raises(DataError, match=rf"column 'a' holds {kind}.*--ignore a leaves it out, --time a says"):
        inferred(a=cells)


def test_dates_are_categories_where_somebody_says_so(inferred: Infer):
    dates = pa.array([datetime.date(2024, 1, 1 + i % 3) for i in range(N)])
    assert only(inferred(a=dates, types={"a": "categorical"})).categories == ("2024-01-01", "2024-01-02", "2024-01-03")


def test_a_typo_among_numbers_names_its_line_and_the_other_reading(tmp_path: Path):
    cells = [str(i / 7) for i in range(N)]
    cells[41] = "1.O"
    file = open_rows(csv(tmp_path / "t.csv", a=cells, b=range(N)))
    with pytest.raises(DataError, match=r"t\.csv, line 43, column 'a': '1\.O' is not.*--columns a=categorical"):
        infer(file, file.columns, {})
    with pytest.raises(FileError, match=r"line 43, column 'a': '1\.O' is not a number: correct it"):
        infer(file, file.columns, {"a": "numeric"})


def test_an_infinite_number_is_a_mistake_too(tmp_path: Path):
    file = open_rows(csv(tmp_path / "t.csv", a=[1, 2, "inf", 1e300] * 9, b=range(36)))
    with pytest.raises(FileError, match=r"line 4, column 'a': 'inf' is not a finite float32 number"):
        infer(file, ("a",), {"a": "numeric"})


@pytest.mark.parametrize(
    "cells",
    [
        ["1.234,50", "12,5"],
        ["1,234.50", "12.5"],
        ["1 234", "12"],
        ["1’234", "12"],
        ["5 %", "7%"],
        ["$12.50", "$3"],
        ["inf", "-inf", "3"],
        ["#DIV/0!", "1.5", "#N/A", "#REF!"],
    ],
)
def test_what_is_meant_as_numbers_is_not_taken_for_categories(cells: list[str], inferred: Infer):
    with pytest.raises(DataError, match=rf"row 0 .*, column 'a': '{re.escape(cells[0])}' is not a .*number"):
        inferred(a=cells * 9)
    assert only(inferred(a=cells * 9, types={"a": "categorical"})).type == "categorical"


@pytest.mark.parametrize(
    "cells", [["2024-01-31", "2024-02-01"], ["31.01.2024", "1.2.3"], ["-", "10.0.0.1"], ["v1", "1"]]
)
def test_what_has_digits_may_be_categories(cells: list[str], inferred: Infer):
    assert set(only(inferred(a=cells * 9)).categories) == set(cells)


def test_ids_of_a_small_file_are_refused_too(inferred: Infer):
    with pytest.raises(DataError, match="nearly every row has another 'a'"):
        inferred(a=[f"customer {i}" for i in range(20)])


def test_ids_are_refused_with_the_hint(tmp_path: Path):
    names = [f"customer {i}" for i in range(101)] * 2
    file = open_rows(csv(tmp_path / "t.csv", who=[*names[:101], *names[:1]], b=range(102)))
    with pytest.raises(DataError, match=r"t\.csv: nearly every row has another 'who': .*--id who .*--ignore who"):
        infer(file, file.columns, {})
    found = infer(file, ("who",), {"who": "categorical"})  # somebody knows better
    assert only(found).categories == ("customer 0",)


def test_rare_categories_are_one_and_there_are_a_hundred_at_most(inferred: Infer):
    many = [f"c{i:03}" for i in range(150)]
    found = inferred(a=many * 9 + ["once"])
    assert only(found).categories == tuple(many[: columns.MOST_CATEGORIES])
    assert found.distinct == {"a": 151}
    # Of 30,000 rows, a ten-thousandth are three.
    found = inferred(a=["x"] * 29_994 + ["y"] * 3 + ["z"] * 2 + ["w"])
    assert only(found).categories == ("x", "y")


def test_a_column_without_values_is_refused(tmp_path: Path):
    file = open_rows(csv(tmp_path / "t.csv", a=range(N), b=[""] * N, c=["NA"] * N))
    with pytest.raises(DataError, match=r"t\.csv: no value in any row: --ignore b,c leaves these columns out"):
        infer(file, file.columns, {})


def test_types_that_are_asked_for_are_taken(inferred: Infer):
    zips = {"zip": [1010, 1020, 1010] * 9, "flag": ["1", "0", ""] * 9, "age": [30.5, 40, 50] * 9}
    found = inferred(**zips, types={"zip": "categorical", "flag": "boolean"})
    assert found.schema.columns == (
        Column(name="zip", type="categorical", categories=("1010", "1020")),
        Column(name="flag", type="boolean"),
        Column(name="age"),
    )
    assert found.missing == {"zip": 0, "flag": 9, "age": 0}
    with pytest.raises(DataError, match="setting 'columns' names 'zap', which is no column of a row"):
        inferred(**zips, types={"zap": "numeric"})


def test_the_toml_file_and_the_flag_say_the_same(tmp_path: Path):
    rng = np.random.default_rng(0)
    file = csv(tmp_path / "t.csv", zip=rng.choice([1010, 1020, 1030], N), x=rng.normal(size=N))
    (tmp_path / "fit.toml").write_text(f'data = "{file}"\nname = "t"\n[columns]\nzip = "categorical"\n')
    settings = {"data": str(file), "name": "t"}
    of_file = validated(FitConfig, read_toml(tmp_path / "fit.toml"), "setting")
    of_flag = validated(FitConfig, {**settings, "columns": "zip=categorical"}, "setting")
    assert of_file == of_flag
    schema = data.load(of_flag).schema
    assert schema
    assert [column.type for column in schema.columns] == ["categorical", "numeric"]
    with pytest.raises(ConfigError, match="setting 'columns'"):
        validated(FitConfig, {**settings, "columns": "zip=text"}, "setting")


def test_rows_are_encoded_as_the_schema_says(config: Config, tmp_path: Path):
    cells = {"n": ["1,5", "", "2", "3"] * 5, "c": ["red", "blue", "?", "red"] * 5, "b": ["yes", "no", "yes", ""] * 5}
    lines = [";".join(cells), *(";".join(row) for row in zip(*cells.values(), strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    rows = data.load(config(data=str(tmp_path / "t.csv")), takes_missing=True).rows.numpy()
    nan = np.nan
    np.testing.assert_array_equal(rows[:4], [[1.5, 1, 1], [nan, 2, 0], [2, nan, 1], [3, 1, nan]])


def test_people_see_what_was_found(inferred: Infer):
    found = inferred(
        a=[1.0, None] * 10, b=["x", "y", "z", "u", "v"] * 4, **{f"n{i}": [1.0, 2.0] * 10 for i in range(50)}
    )
    console = Console(width=100, file=io.StringIO())
    console.print(described(found))
    shown = console.file.getvalue()
    assert re.search(r"a +│ numeric +│ 50\.0% ", shown)
    assert re.search(r"b +│ categorical │ +│ 5: u, v, x, …", shown)
    assert "50 others" in shown
    assert "n7" not in shown
