from __future__ import annotations

import csv
import gzip
import io
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from PIL import Image

from hourglass.files import ArrayWriter, FileError, TableWriter, open_rows

IN_FOLDER = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
TABLES = nps.arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 5)), elements=FLOATS)
ARRAYS = nps.arrays(
    st.sampled_from(["u1", "i1", ">i2", ">i4", ">f4", ">f8", "<f4", "<i8", "?"]),
    nps.array_shapes(min_dims=2, max_dims=4, max_side=6),
    elements={"allow_nan": False, "allow_infinity": False, "min_value": 0, "max_value": 1},
)
SIZES = st.integers(1, 40)


def read(path: Path, size: int = 7, columns: list[str] | None = None) -> np.ndarray:
    """All numbers of a file; the batches must follow one another."""
    parts = []
    for batch in open_rows(path).batches(size):
        assert batch.first_row == sum(map(len, parts))
        assert 1 <= len(batch) <= size
        parts.append(batch.numbers(columns))
        assert parts[-1].dtype == np.float32
        assert len(parts[-1]) == len(batch)
    return np.concatenate(parts)


def csv_text(table: np.ndarray, header: bool, delimiter: str = ",", bom: bool = False, end: str = "\n") -> bytes:
    lines = [[f"name {i}" for i in range(table.shape[1])]] if header else []
    lines += [[repr(float(cell)) for cell in row] for row in table]
    return ("\ufeff" if bom else "").encode() + end.join(delimiter.join(line) for line in lines).encode()


# --- round trips ---


@IN_FOLDER
@given(
    table=TABLES,
    header=st.booleans(),
    delimiter=st.sampled_from(",;\t|"),
    bom=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    zipped=st.booleans(),
    size=SIZES,
)
def test_csv_is_read_as_it_was_written(
    tmp_path: Path, table: np.ndarray, header: bool, delimiter: str, bom: bool, end: str, zipped: bool, size: int
) -> None:
    content = csv_text(table, header, delimiter, bom, end)
    path = tmp_path / ("t.csv.gz" if zipped else "t.csv")
    path.write_bytes(gzip.compress(content) if zipped else content)
    file = open_rows(path)
    d = table.shape[1]
    assert file.columns == tuple(f"name {i}" if header else f"c{i}" for i in range(d))
    assert (file.row_shape, file.rows) == ((d,), None)
    np.testing.assert_array_equal(read(path, size), table)


@IN_FOLDER
@given(table=TABLES, group=st.integers(1, 9), size=SIZES)
def test_parquet_is_read_as_it_was_written(tmp_path: Path, table: np.ndarray, group: int, size: int) -> None:
    path = tmp_path / "t.parquet"
    names = [f"n{i}" for i in range(table.shape[1])]
    pq.write_table(pa.table(list(table.T), names=names), path, row_group_size=group)
    file = open_rows(path)
    assert (file.columns, file.row_shape, file.rows) == (tuple(names), (len(names),), len(table))
    np.testing.assert_array_equal(read(path, size), table)


def idx_bytes(array: np.ndarray) -> bytes:
    codes = {"u1": 8, "i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}
    code = next(code for name, code in codes.items() if np.dtype(name) == array.dtype)
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@IN_FOLDER
@given(array=ARRAYS, kind=st.sampled_from(["a.npy", "a.npz", "only.npz", "a-idx3-ubyte", "a.idx.gz"]),
       fortran=st.booleans(), size=SIZES)  # fmt: skip
def test_arrays_are_read_as_they_were_written(
    tmp_path: Path, array: np.ndarray, kind: str, fortran: bool, size: int
) -> None:
    path = tmp_path / kind
    laid_out = np.asfortranarray(array) if fortran else array
    if kind == "a.npy":
        np.save(path, laid_out)
    elif kind == "a.npz":
        np.savez_compressed(path, X=laid_out, y=np.arange(len(array)), other=np.zeros((2, 2)))
    elif kind == "only.npz":
        np.savez(path, y=np.arange(len(array)), images=laid_out)
    else:
        if array.dtype not in [np.dtype(code) for code in ("u1", "i1", ">i2", ">i4", ">f4", ">f8")]:
            array = array.astype("u1")
        path.write_bytes(gzip.compress(idx_bytes(array)) if kind.endswith("gz") else idx_bytes(array))
    file = open_rows(path)
    assert (file.row_shape, file.rows) == (array.shape[1:], len(array))
    assert file.columns == (tuple(f"c{i}" for i in range(array.shape[1])) if array.ndim == 2 else None)
    np.testing.assert_array_equal(read(path, size), array.astype(np.float32))
    if kind.endswith("npz"):
        assert file.extras == ("y",)
        labels = [label for batch in file.batches(size) for label in batch.column("y").to_pylist()]
        assert labels == list(range(len(array)))


@pytest.mark.parametrize(("mode", "shape", "dtype"), [
    ("L", (5, 7), np.uint8), ("RGB", (5, 7, 3), np.uint8), ("I;16", (5, 7), np.uint16)
])  # fmt: skip
def test_pngs_are_rows_in_the_order_of_their_names(
    tmp_path: Path, mode: str, shape: tuple[int, ...], dtype: type
) -> None:
    images = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (4, *shape)).astype(dtype)
    for i in (2, 0, 3, 1):
        image = Image.fromarray(images[i])
        assert image.mode == mode
        image.save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("not a row")
    file = open_rows(tmp_path)
    assert (file.row_shape, file.rows, file.columns, file.extras) == (shape, 4, None, ("file",))
    np.testing.assert_array_equal(read(tmp_path, 3), images.astype(np.float32))
    names = [name for batch in file.batches(3) for name in batch.column("file").to_pylist()]
    assert names == ["0.png", "1.png", "2.png", "3.png"]


def test_what_lies_beside_the_arrays_of_an_npz_is_left_alone(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.npz", {"X.npy": npy_bytes(), "README.txt": b"hello", "folder/": b""})
    assert read(tmp_path / "a.npz").tolist() == [[0, 0], [0, 0]]


def test_extras_of_any_byte_order_are_columns(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.zeros((2, 2)), y=np.array([1, 256], ">i4"), name=np.array(["é", "b"], ">U3"))
    [batch] = open_rows(tmp_path / "a.npz").batches(10)
    assert batch.column("y").to_pylist() == [1, 256]
    assert batch.column("name").to_pylist() == ["é", "b"]


def test_columns_are_chosen_by_name_and_others_may_hold_anything(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('id,a,b,note\n007,1,2,"x, ""y""\nz"\n008,3,4,\n')
    [batch] = open_rows(path).batches(10)
    np.testing.assert_array_equal(batch.numbers(["b", "a"]), [[2, 1], [4, 3]])
    assert batch.column("id").to_pylist() == ["007", "008"]
    assert batch.column("note").to_pylist() == ['x, "y"\nz', ""]
    with pytest.raises(FileError, match="no column 'noted': did you mean 'note'"):
        batch.numbers(["noted"])


def test_parquet_columns_keep_their_types(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    columns = {
        "id": pa.array([2**60, 1]),
        "flag": pa.array([True, False]),
        "word": pa.array(["u", "v"]).dictionary_encode(),
        "big": pa.array([2**24 + 1, 3]),
        "cents": pa.array([1, 2], pa.decimal128(19, 0)),
    }
    pq.write_table(pa.table(columns), path)
    [batch] = open_rows(path).batches(10)
    np.testing.assert_array_equal(batch.numbers(["flag", "big", "cents"]), [[1, 2**24, 1], [0, 3, 2]])
    assert batch.column("id").to_pylist() == [2**60, 1]
    assert batch.column("word").to_pylist() == ["u", "v"]


@pytest.mark.parametrize(
    ("content", "columns", "rows"),
    [
        (b"\xef\xbb\xbfa;b\r\n1,5;-2\r\n,25;1e3\r\n", ("a", "b"), [[1.5, -2], [0.25, 1000]]),
        (b"1,5;2,5\n3,5;4,5\n", ("c0", "c1"), [[1.5, 2.5], [3.5, 4.5]]),
        (b"a\tb\n0,123\t1\n", ("a", "b"), [[0.123, 1]]),
        (b"sep=;\r\na;b\r\n1;2\r\n", ("a", "b"), [[1, 2]]),
        (b'\xef\xbb\xbf"sep=^"\n1^2\n3^4\n', ("c0", "c1"), [[1, 2], [3, 4]]),
        (b"a;b;;\r\n1;2;;\r\n3;4;;\r\n;;;\r\n;;;\r\n", ("a", "b"), [[1, 2], [3, 4]]),
        (b"a,b\n1,2\n , \n\n3,4\n", ("a", "b"), [[1, 2], [3, 4]]),
        (b",a,b\n0,1,2\n", ("c0", "a", "b"), [[0, 1, 2]]),
        (b"39, 1, +2.5 \n50,\t2,.5\n", ("c0", "c1", "c2"), [[39, 1, 2.5], [50, 2, 0.5]]),
    ],
    ids=["decimal commas", "without a header", "tabs", "sep=;", "sep=^", "empty ends", "blank", "index", "padded"],
)
def test_spreadsheets_are_read(tmp_path: Path, content: bytes, columns: tuple[str, ...], rows: list[Any]) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    assert open_rows(path).columns == columns
    np.testing.assert_array_equal(read(path), np.array(rows, dtype=np.float32))


@pytest.mark.parametrize(
    "name", ["t.tsv", "t.txt", "adult.data", "kdd.data_10_percent", "kdd.data_10_percent.gz", "t.gz"]
)
def test_text_in_columns_has_many_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = b"1, x, 2\n3, ?, 4\n"
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read(path, columns=["c0", "c2"]).tolist() == [[1, 2], [3, 4]]


def test_missing_cells_are_nan_where_they_may_be(tmp_path: Path) -> None:
    for marker in ("", " ", "NA", "n/a", "NaN", "null", "None", "?", "#N/A"):
        (tmp_path / "t.csv").write_text(f"a,b\n1,{marker}\n")
        [batch] = open_rows(tmp_path / "t.csv").batches(9)
        np.testing.assert_array_equal(batch.numbers(missing=True), [[1, np.nan]])
        with pytest.raises(FileError, match=r"line 2, column 'b': .*fill it in or remove the row"):
            batch.numbers()
    np.save(tmp_path / "a.npy", [[1, np.nan]])
    [batch] = open_rows(tmp_path / "a.npy").batches(9)
    np.testing.assert_array_equal(batch.numbers(missing=True), [[1, np.nan]])
    np.save(tmp_path / "a.npy", [[1, np.nan], [np.inf, 1]])
    [batch] = open_rows(tmp_path / "a.npy").batches(9)
    with pytest.raises(FileError, match=r"row 1 .*column 'c0': inf is not a finite"):
        batch.numbers(missing=True)


def test_a_file_can_be_read_again_and_by_two_at_once(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(str(i) for i in range(100)))
    file = open_rows(path)
    first, second = file.batches(10), file.batches(10)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.numbers(), b.numbers())


@pytest.mark.parametrize(
    ("first", "columns"),
    [
        ("0,1,2,3", ("0", "1", "2", "3")),
        (",0,1,2", ("c0", "0", "1", "2")),
        ("site,2019a,nan,1_2", ("site", "2019a", "nan", "1_2")),
        ("0,1,3,2", None),
        ("00,1,2,3", None),
        ("0,1", None),
        ("0", None),
    ],
)
def test_numbers_are_names_only_when_they_count_the_columns(
    tmp_path: Path, first: str, columns: tuple[str, ...] | None
) -> None:
    path = tmp_path / "t.csv"
    width = first.count(",") + 1
    path.write_text(f"{first}\n" + ",".join(["7"] * width) + "\n")
    file = open_rows(path)
    assert file.columns == (columns or tuple(f"c{i}" for i in range(width)))
    assert len(read(path)) == (1 if columns else 2)


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_lines_may_be_long(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "t.csv"
    names = [f"column {i}" for i in range(20_000)]
    path.write_text("\n".join([delimiter.join(names), delimiter.join(["1.25"] * 20_000)]))
    assert open_rows(path).columns == tuple(names)
    assert read(path).shape == (1, 20_000)


@pytest.mark.parametrize(("name", "cell"), [("x" * 9, "1"), ("x", "1" * 9), ("x", "1")])
def test_lines_over_a_mebibyte_are_refused_as_such(tmp_path: Path, name: str, cell: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join([",".join([name] * 600_000), ",".join([cell] * 600_000)]))
    with pytest.raises(FileError, match="a line is longer than 1,048,576 bytes"):
        read(path)


def test_a_header_of_several_lines_and_nameless_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('\n,"two\nlines", padded \n\n1,2,3\n\n4,5,oops\n')
    file = open_rows(path)
    assert file.columns == ("c0", "two\nlines", "padded")
    with pytest.raises(FileError, match="line 7, column 'padded': 'oops' is not a number"):
        read(path)


# --- bad input: one message that names file, line or row, column, and what to do ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf\n \n", "the file is empty"),
        (b"a,b\n", "a header, but no row below it"),
        (b"a,b,a\n1,2,3\n", "two columns are called 'a': rename one"),
        (b"a,b\n1,2\n\n3,x\n", r"line 4, column 'b': 'x' is not a number: correct it or remove the row"),
        (b"1,2\n3,x\n", r"line 2, column 'c1': 'x' is not a number"),
        (b"id,1,2\n5,6,7\n", r"line 1: a header or a row\? 'id' is text above numbers, but '1' is a number"),
        (b"1,x\n3,4\n,\n", r"line 1: a header or a row\? 'x' is text above numbers, but '1' is a number"),
        (b"k1,2\nk2,3\n", r"line 1, column 'c0': 'k1' is not a number"),
        (b"nan,2\n1,3\n", r"line 1, column 'c0': 'nan' is a missing value: fill it in or remove the row"),
        (b"inf\n1\n", r"line 1, column 'c0': 'inf' is not a finite float32 number"),
        (b"a,b\n1,2\n3,\n", r"line 3, column 'b': the cell is empty: fill it in or remove the row"),
        (b"a,b\n1,2\n3,  \n", r"line 3, column 'b': the cell is empty"),
        (b"a,b\n1,nan\n", r"line 2, column 'b': 'nan' is a missing value"),
        (b"a,b\n1,2\n-inf,1\n", r"line 3, column 'a': '-inf' is not a finite"),
        (b"a,b\n1,1e39\n", r"line 2, column 'b': '1e39' is not a finite float32 number"),
        (b"a,b\n1, NA\n", r"line 2, column 'b': ' NA' is a missing value"),
        (b"a,b\n1,1_000\n", r"line 2, column 'b': '1_000' is not a number"),
        (b"a;b\n1,5;2\n3;4.5\n", r"'1,5' and '4.5': is the comma a decimal one, or the point\? Write all numbers"),
        (b"a;b\n1,234;2\n3;4\n", r"'1,234': is the comma a decimal one, or does it separate thousands\? Write"),
        (
            b"a;b\n1,5;2\n" + b"3;4\n" * 60 + b"5;4.5\n",
            r"line 63, column 'b': '4.5' is not a number with a decimal comma",
        ),
        (b"a;b\n1,5;2\n" + b"3;4\n" * 60 + b"1.000,5;4\n", r"line 63, column 'a': '1.000,5' is not a number"),
        (b"a;b;\n1;2;\n" + b"3;4;\n" * 60 + b"3;4;x\n", r"line 63: 'x' is in a column without a name, which is empty"),
        (b"a;b;a\n1;2;3\n", "two columns are called 'a': rename one"),
        (b"a;b\n;\n \n", "a header, but no row below it"),
        (b";;\n", "a header, but no row below it"),
        (
            "größe;b\n1;2\n".encode("cp1252"),
            r"line 1: not UTF-8 text \(but Windows-1252, perhaps\): save it as 'CSV UTF",
        ),
        (b"a,b\n1,2\n3\n", r"line 3: 1 cells, but 2 columns: give every row the same number"),
        (b"a,b\n1,2\n\n3,4,5\n", r"line 4: 3 cells, but 2 columns"),
        (b"a,b\n1,2\n\xff,4\n", r"line 3: not UTF-8 text"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16, or not text at all"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "not text at all"),
        (b'a,b\n1,"2\n3,4\n', r"line 2, column 'b': '2\\n3,4\\n' is not a number"),
        (b'a,b\n1,"' + b"2,3\n" * 50_000, "is a quotation mark never closed"),
    ],
)
def test_a_bad_csv_says_where_and_what_to_do(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(FileError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("bad", ["x", "", "1,2,3", "\xff"])
@pytest.mark.parametrize("line", [2, 3000, 400_001])
def test_the_line_is_exact_far_into_a_file(tmp_path: Path, bad: str, line: int) -> None:
    lines = [b"a,b", *[b"1,2", b""] * 200_000, b"1,2"]
    lines[line - 1] = b"1," + bad.encode("latin-1")
    path = tmp_path / "long.csv"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(FileError, match=rf"long.csv, line {line}[,:]"):
        read(path, 1000)


def test_the_first_bad_row_is_the_one_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n1,x\ny,2\n")
    with pytest.raises(FileError, match="line 3, column 'b'"):
        read(path)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1.0, None]), "row 1 .*column 'a': the cell is empty"),
        (pa.array([1.0, np.inf]), "row 1 .*column 'a': inf is not a finite"),
        (pa.array([1.0, 1e300]), r"row 1 .*column 'a': 1e\+300 is not a finite float32"),
        (pa.array(["1", "x"]), "row 1 .*column 'a': 'x' is not a number"),
        (pa.array([1, 2], pa.timestamp("s")), "row 0 .*column 'a': .* is not a number"),
        (pa.array([[1], [2]]), "row 0 .*column 'a': .* is not a number"),
        (pa.array([1, 2], pa.timestamp("ns")), "row 0 .*column 'a': '1970-01-01 00:00:00.000000001' is not a number"),
        (pa.array([1000, 2], pa.timestamp("ns")), r"row 0 .*column 'a': datetime.datetime\(1970"),
        (pa.array([1000, 2], pa.duration("ns")), r"row 0 .*column 'a': datetime.timedelta\(microseconds=1\)"),
        (pa.array([None, None], pa.timestamp("s")), "row 0 .*column 'a': the cell is empty"),
    ],
)
def test_a_bad_parquet_cell_says_where(tmp_path: Path, column: pa.Array, message: str) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": column}), path)
    with pytest.raises(FileError, match=message):
        read(path)


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


def test_the_labels_of_mnist_lie_beside_the_images(tmp_path: Path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (7, 4, 4), dtype=np.uint8), np.arange(7, dtype=np.uint8)
    path, beside = tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(images)))
    assert open_rows(path).extras == ()
    beside.write_bytes(gzip.compress(idx_bytes(labels)))
    file = open_rows(path)
    assert file.extras == ("label",)
    batches = list(file.batches(3))
    assert [batch.column("label").to_pylist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    np.testing.assert_array_equal(np.concatenate([batch.numbers() for batch in batches]), images)
    assert [batch.column("label").to_pylist() for batch in reversed(batches)] == [[6], [3, 4, 5], [0, 1, 2]]
    with pytest.raises(FileError, match="no column 'labels': did you mean 'label'"):
        batches[0].column("labels")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(idx_bytes(np.zeros(5, "u1"))), r"holds \[5\] labels for 7 images"),
        (gzip.compress(idx_bytes(np.zeros((7, 2), "u1"))), r"holds \[7, 2\] labels for 7 images"),
        (gzip.compress(idx_bytes(np.zeros(7, "u1"))[:-2]), "cannot be read as idx: cut short: 2 bytes are missing"),
        (gzip.compress(idx_bytes(np.zeros(7, "u1")))[:-12], "cannot be read as idx"),
        (b"no labels", "cannot be read as idx"),
    ],
    ids=["too few", "too many axes", "cut short", "gzip cut short", "something else"],
)
def test_labels_that_cannot_be_used_are_named_and_leave_the_images_usable(tmp_path: Path, content: bytes, says: str):
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4), dtype=np.uint8)
    path, beside = tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(images)))
    beside.write_bytes(content)
    np.testing.assert_array_equal(read(path), images)
    for batch in open_rows(path).batches(3):
        with pytest.raises(FileError, match=says) as caught:
            batch.column("label")
        assert str(caught.value).startswith(f"{beside}: ")


def idx_header(rank: int, *shape: int) -> bytes:
    return bytes([0, 0, 8, rank]) + struct.pack(f">{rank}I", *shape)


def npy_bytes(header: str = "", shape: str = "(2, 2)") -> bytes:
    text = (header or f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}").encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(16)


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def encrypted_npz(path: Path) -> None:
    write_zip(path, {"X.npy": npy_bytes()})
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.find(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)


def wide_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(idx_header(2, 1, 2**21) + bytes(2**21)))


def objects(path: Path) -> None:
    np.save(path, np.array([[{}]], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.npy", lambda p: np.save(p, np.zeros(3)), r"shape is \[3\].*reshape it"),
        ("a.npy", lambda p: np.save(p, np.zeros((0, 3))), "at least one row"),
        ("a.npy", lambda p: np.save(p, np.zeros((1, 2, 3, 4, 5))), "reshape it"),
        ("a.npy", lambda p: np.save(p, np.array([["x"]])), "not numbers"),
        ("a.npy", lambda p: np.save(p, np.array([[1j]])), "not numbers"),
        ("a.npy", objects, "not numbers"),
        ("a.npy", lambda p: np.save(p, np.array([[1, np.nan]])), r"row 0 .*column 'c1': nan is a missing value"),
        ("a.npy", lambda p: np.save(p, np.full((1, 2, 2), np.inf)), r"row 0 .*position 0,0: inf is not a finite"),
        ("a.npy", lambda p: p.write_bytes(b"no array"), "cannot be read as .npy"),
        ("a.npy", lambda p: p.write_bytes(b""), "cannot be read as .npy"),
        ("a.npz", lambda p: write_npz(p, a=np.zeros((2, 2)), b=np.zeros((2, 2))), "holds a, b: call the array .* 'X'"),
        ("a.npz", lambda p: write_npz(p, y=np.zeros(2)), "holds y: call the array"),
        ("a.npz", lambda p: write_npz(p, X=np.array([[None]])), "not numbers"),
        ("a.npz", lambda p: p.write_bytes(b"PK no zip"), "cannot be read as .npz"),
        ("a.npz", encrypted_npz, "encrypted"),
        ("a.npz", lambda p: write_zip(p, {"X": npy_bytes()}), "holds no array"),
        ("a.npz", lambda p: write_zip(p, {"X.npy": npy_bytes("(" * 9000)}), "cannot be read as .npz"),
        ("a.npy", lambda p: p.write_bytes(npy_bytes("(" * 9000)), "cannot be read as .npy"),
        ("a.npy", lambda p: p.write_bytes(npy_bytes("-" * 9000 + "1")), "cannot be read as .npy"),
        ("a.npy", lambda p: p.write_bytes(npy_bytes(shape="(True, 2)")), r"a shape of \(True, 2\)"),
        ("a.npy", lambda p: p.write_bytes(npy_bytes(shape="(-1, -2)")), r"a shape of \(-1, -2\)"),
        ("a.parquet", lambda p: p.write_bytes(b"PAR1 no parquet PAR1"), "cannot be read as .parquet"),
        ("a.parquet", lambda p: pq.write_table(pa.table({"a": pa.array([], pa.int8())}), p), "the table is empty"),
        ("a.idx", lambda p: p.write_bytes(b"\1\2\3\4"), "not an idx file: it begins with 01 02 03 04"),
        ("a.idx", lambda p: p.write_bytes(b""), "not an idx file: it begins with nothing"),
        ("a.idx", lambda p: p.write_bytes(idx_bytes(np.zeros((3, 2, 2), "u1"))[:-1]), "28 bytes are announced and 27 "),
        ("a.idx", lambda p: p.write_bytes(idx_header(2, 1, 2**32 - 1)), "cut short: 4,294,967,307 bytes"),
        ("a.idx", lambda p: p.write_bytes(idx_header(3, *[2**32 - 1] * 3)), "cut short"),
        ("a.idx", lambda p: p.write_bytes(idx_header(2, 2**32 - 1, 0)), "at least one row and one column"),
        ("a.idx.gz", lambda p: p.write_bytes(gzip.compress(idx_header(2, 1, 2**32 - 1))), "cut short"),
        ("a.idx.gz", lambda p: p.write_bytes(gzip.compress(idx_header(3, 9, 9, 9))), "567 bytes are missing"),
        ("a.idx.gz", wide_gzip, "2,097,152 columns: at most 1,048,576"),
        ("a-idx1-ubyte.gz", lambda p: p.write_bytes(gzip.compress(idx_bytes(np.zeros(3, "u1")))), "reshape it"),
        ("a.idx.gz", lambda p: p.write_bytes(b"not gzip"), "cannot be read as idx"),
        ("a.csv.gz", lambda p: p.write_bytes(gzip.compress(b"1,2\n" * 9999)[:-9]), "cannot be read as .csv"),
        ("a.csv.gz", lambda p: p.write_bytes(b"1,2\n"), "cannot be read as .csv"),
        ("a.xlsx", lambda p: p.write_bytes(b"1,2\n"), "not a kind of file that is read here: .csv"),
        ("a.npy.gz", lambda p: p.write_bytes(b""), "not a kind of file"),
        ("gone.csv", lambda p: None, "no such file"),
        ("folder", lambda p: p.mkdir(), "no .png in this folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_in_one_line(
    tmp_path: Path, name: str, write: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(FileError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_truncated_array_is_not_read_as_a_shorter_one(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((100, 10)))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(FileError, match="cut short"):
        read(path)
    inside = tmp_path / "a.npz"
    with zipfile.ZipFile(inside, "w") as archive:
        archive.writestr("X.npy", path.read_bytes())
    with pytest.raises(FileError, match="cut short"):
        read(inside)


def test_a_damaged_npz_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, X=np.zeros((100, 10)))
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileError, match="CRC"):
        read(path)


def save_png(path: Path, size: tuple[int, int], mode: str = "L") -> None:
    Image.new(mode, size).save(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda f: save_png(f / "b.png", (3, 5)),
            "b.png: 3×5 L, but a.png is 4×4 L: give all images one size",
        ),
        (lambda f: save_png(f / "b.png", (4, 4), "RGB"), "b.png: 4×4 RGB, but a.png is 4×4 L"),
        (lambda f: save_png(f / "A.png", (4, 4), "RGBA"), "A.png: its mode is RGBA: save the images as grey"),
        (lambda f: (f / "b.png").write_bytes(b"no png"), "b.png: not a usable PNG"),
        (
            lambda f: (f / "b.png").write_bytes((f / "a.png").read_bytes()[:-24]),
            "b.png: damaged: ",
        ),
        (lambda f: Image.new("L", (4, 4)).save(f / "b.png", format="JPEG"), "b.png: not a usable PNG"),
        (lambda f: save_png(f / "A.png", (5000, 5000)), "A.png: 5000×5000 pixels: at most"),
        (lambda f: save_png(f / "A.png", (20_000, 20_000), "1"), "A.png: "),
    ],
)
def test_a_bad_image_is_named(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    save_png(tmp_path / "a.png", (4, 4))
    write(tmp_path)
    with pytest.raises(FileError, match=message):
        read(tmp_path)


def small_png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)).save(stream, "png")
    return stream.getvalue()


def small_npz() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, X=np.arange(60.0).reshape(10, 6), y=np.arange(10), name=np.array(["é"] * 10))
    return stream.getvalue()


def small_npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(60.0).reshape(10, 6))
    return stream.getvalue()


def small_parquet() -> bytes:
    stream = io.BytesIO()
    columns = {
        "a": np.arange(50.0),
        "b": [f"text {i}" for i in range(50)],
        "t": pa.array(range(50), pa.timestamp("ns")),
    }
    pq.write_table(pa.table(columns), stream, compression="none")
    return stream.getvalue()


CSV = ("a,b,c\n" + '1,"2",é\n' * 20).encode()
IDX = idx_bytes(np.arange(45, dtype=">f4").reshape(5, 3, 3))
VALID = {
    "f.npy": small_npy(), "f.npz": small_npz(), "f.parquet": small_parquet(), "f.csv": CSV,
    "f.csv.gz": gzip.compress(CSV), "f.idx": IDX, "f.idx.gz": gzip.compress(IDX), "folder/f.png": small_png(),
}  # fmt: skip
CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=4
)


@settings(parent=IN_FOLDER, max_examples=150)
@pytest.mark.parametrize("name", VALID)
@given(changes=CHANGES, power=st.sampled_from([1, 3]))
def test_damage_is_a_file_error_or_harmless(
    tmp_path: Path, name: str, changes: list[tuple[float, int, bytes]], power: int
) -> None:
    data = bytearray(VALID[name])
    for place, removed, added in changes:
        start = int(place**power * len(data))  # often in the header
        data[start : start + removed] = added
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with suppress(FileError):
        file = open_rows(path.parent if name.startswith("folder") else path)
        for batch in file.batches(16):
            for column in (*(file.columns or ()), *file.extras):
                assert len(batch.column(column)) == len(batch)
            for column in file.columns or ():
                with suppress(FileError):
                    batch.numbers([column])
            assert batch.numbers().shape == (len(batch), *file.row_shape)


# --- memory ---


def test_memory_does_not_grow_with_an_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, X=np.zeros((200_000, 50), np.float32))  # 40 MB
    file = open_rows(path)
    tracemalloc.start()
    rows = sum(len(batch.numbers()) for batch in file.batches(1000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (rows, file.read_share) == (200_000, 1)
    assert peak < 4e6


# --- writers ---


@IN_FOLDER
@given(table=TABLES, kind=st.sampled_from([".parquet", ".csv", ".npy"]), size=SIZES)
def test_what_is_written_is_read_back(tmp_path: Path, table: np.ndarray, kind: str, size: int) -> None:
    path = tmp_path / f"out{kind}"
    names = [f"n{i}" for i in range(table.shape[1])]
    pieces = [table[i : i + size] for i in range(0, len(table), size)]
    if kind == ".npy":
        with ArrayWriter(path, table.shape[1:]) as array:
            for piece in pieces:
                array.write(piece)
        np.testing.assert_array_equal(np.load(path), table)
    else:
        with TableWriter(path, pa.schema([(name, pa.float32()) for name in names])) as writer:
            for piece in pieces:
                writer.write(pa.table(list(np.ascontiguousarray(piece.T)), names=names))
        assert open_rows(path).columns == tuple(names)
    np.testing.assert_array_equal(read(path), table)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    path.unlink()


@pytest.mark.parametrize("kind", [".parquet", ".csv", ".npy"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path, kind: str, error: type[BaseException]) -> None:
    path = tmp_path / f"out{kind}"
    path.write_text("earlier")

    def fail() -> None:
        if kind == ".npy":
            with ArrayWriter(path, (2,)) as array:
                array.write(np.zeros((3, 2)))
                raise error
        with TableWriter(path, pa.schema([("a", pa.int8())])) as table:
            table.write(pa.table({"a": pa.array([1], pa.int8())}))
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_an_array_of_many_rows_has_the_right_header(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with ArrayWriter(path, ()) as writer:
        for _ in range(12):
            writer.write(np.arange(100_000))
    assert np.load(path).shape == (1_200_000,)


def test_csv_cells_are_quoted_where_they_must_be(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    cells = ["plain", 'a "quoted" one', "comma, inside", "two\nlines", ""]
    with TableWriter(path, pa.schema([("id", pa.string())])) as writer:
        writer.write(pa.table({"id": cells}))
    with path.open(newline="") as stream:
        assert [row[0] for row in list(csv.reader(stream))[1:]] == cells


@pytest.mark.parametrize("path", ["missing/out.npy", "folder"])
def test_where_nothing_can_be_written_is_said(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=r"cannot be written|a folder"), ArrayWriter(tmp_path / path, ()):
        pass


@pytest.mark.parametrize("values", [[[1]], [{"a": 1}], [b"\xff"]], ids=["list", "struct", "binary"])
def test_what_a_csv_cannot_hold_is_said_and_leaves_nothing(tmp_path: Path, values: list[object]) -> None:
    table = pa.table({"id": values})
    with (
        pytest.raises(FileError, match=r"a.csv: a .csv cannot hold these columns"),
        TableWriter(tmp_path / "a.csv", table.schema) as writer,
    ):
        writer.write(table)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from hourglass.files import ArrayWriter, FileError, TableWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
path, values = Path(sys.argv[1]), np.random.default_rng(0).random(int(sys.argv[2]))
table = pa.table({"a": values})
try:
    with ArrayWriter(path, ()) if path.suffix == ".npy" else TableWriter(path, table.schema) as writer:
        writer.write(values if path.suffix == ".npy" else table)
except FileError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", [".parquet", ".csv", ".npy"])
@pytest.mark.parametrize("rows", [3000, 3_000_000], ids=["noticed at the end", "noticed on the way"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, kind: str, rows: int) -> None:
    path = tmp_path / f"out{kind}"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(rows)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"{path}: cannot be written: File too large\n", done.stderr
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
