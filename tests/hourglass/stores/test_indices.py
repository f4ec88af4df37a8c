"""`hourglass embed --to` and `hourglass search`, with real servers and real stores."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from hourglass import AsyncClient, Client, terminal
from hourglass.cli import run
from hourglass.contract.manifest import AsideColumns, Window
from hourglass.contract.quantization import Encoding
from hourglass.files import FileError
from hourglass.indexing import index
from hourglass.searching import Index
from hourglass.stores import open_store
from tests import artefacts
from tests.hourglass.fake import Fake
from tests.processes import Serve

WIDTH, SIZE, ROWS = 12, 10, 60
COLUMNS = tuple("abcdefghijkl")
LINE = artefacts.Linear.random(width=WIDTH, embedding_size=SIZE, seed=1)
RETRAINED = artefacts.Linear.random(width=WIDTH, embedding_size=SIZE, seed=2)
X = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)
PLACE = Callable[[], str]
CAPTURE = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    exported = tmp_path_factory.mktemp("exported")
    named: dict[str, Any] = {"columns": COLUMNS, "aside": AsideColumns(id="serial")}
    artefacts.publish(exported, "line", LINE, **named)
    for model in (LINE, RETRAINED):
        artefacts.publish(exported, "retrained", model, **named)
    artefacts.publish(exported, "renewed", RETRAINED, **named)
    artefacts.publish(exported, "before", LINE, columns=COLUMNS, quantized=False)
    server = Serve(exported).wait_ready()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def client(server: Serve) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def table(x: np.ndarray = X, **columns: Any) -> pa.Table:
    found: dict[str, Any] = {
        "serial": [f"P-{i:03d}" for i in range(len(x))],
        "site": ["north", "south"] * (len(x) // 2),
    }
    return pa.table({**found, "age": np.arange(len(x)), **dict(zip(COLUMNS, x.T, strict=True)), **columns})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pumps.parquet"
    pq.write_table(table(), path)
    return path


@pytest.fixture
def hourglass(server: Serve, capsys: CAPTURE) -> Callable[..., str]:
    """Runs the program; what it says. fails: the exit code that it should end with, and then its one line."""

    def program(*arguments: object, fails: int = 0) -> str:
        code = run([*map(str, arguments), "--server", server.address])
        out, err = capsys.readouterr()
        assert code == fails, err
        if not fails:
            return out
        assert (out, err.count("\n")) == ("", 1)
        return err.removeprefix("hourglass: error: ").rstrip("\n")

    return program


PROGRAM = Callable[..., str]


def contents(to: str, k: int = 1000) -> dict[Any, dict[str, Any]]:
    """All of an index: payload by id."""
    store = open_store(to)
    record = store.record()
    assert record is not None
    found = store.nearest(
        np.zeros((1, record.width), record.schema.field("embedding").type.value_type.to_pandas_dtype()), k
    )
    store.close()
    rows = found.drop_columns(["_query", "distance"]).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row.pop("id"): row for row in rows}


def exactly(client: Client, model: str, encoding: Encoding, normalize: bool) -> np.ndarray:
    """[n, n]: the distances of all rows from each other, by numpy."""
    answer = client.embed(model, X, encoding=encoding, normalize=normalize)
    values = np.unpackbits(answer.values, axis=1, count=SIZE) if encoding == "binary" else answer.floats()
    apart = values.astype(np.float64)[:, None] - values.astype(np.float64)[None]
    distances: np.ndarray = np.abs(apart).sum(axis=2) if encoding == "binary" else np.linalg.norm(apart, axis=2)
    return distances


@pytest.mark.parametrize(
    ("encoding", "normalize"),
    [("float32", False), ("float32", True), ("float16", False), ("int8", True), ("int8", False), ("binary", False)],
)
def test_neighbours_are_those_of_the_embeddings(
    client: Client, to: str, file: Path, hourglass: PROGRAM, encoding: Encoding, normalize: bool, tmp_path: Path
) -> None:
    flags = ("--encoding", encoding, *(["--normalize"] if normalize else []), "--payload", "site, age")
    said = hourglass("embed", file, "--model", "line", "--to", to, *flags)
    assert "of 60 rows 60 are new, 0 replaced, 0 were there" in said
    out = tmp_path / "found.parquet"
    hourglass("search", file, "--in", to, "-k", 4, "--out", out)
    found, expected = pq.read_table(out), exactly(client, "line", encoding, normalize)
    assert found.column_names == ["row", "query_id", "rank", "id", "distance", "site", "age"]
    assert found["query_id"].to_pylist() == [f"P-{i:03d}" for i in np.repeat(np.arange(ROWS), 4)]
    assert found["row"].to_pylist() == np.repeat(np.arange(ROWS), 4).tolist()
    assert found["rank"].to_pylist() == [1, 2, 3, 4] * ROWS
    distance, nearest = found["distance"].to_numpy().reshape(ROWS, 4), found["age"].to_numpy().reshape(ROWS, 4)
    np.testing.assert_allclose(distance, np.sort(expected, axis=1)[:, :4], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(np.take_along_axis(expected, nearest, axis=1), distance, rtol=1e-4, atol=1e-3)
    assert found["id"].to_pylist() == [f"P-{i:03d}" for i in nearest.ravel()]
    assert found["site"].to_pylist() == [("north", "south")[i % 2] for i in nearest.ravel()]


def test_again_changes_nothing_and_embeds_nothing(server: Serve, to: str, file: Path, hourglass: PROGRAM) -> None:
    command = ("embed", file, "--model", "line", "--to", to, "--payload", "site")
    hourglass(*command)
    before = server.metric("hourglass_rows_total", model="line", graph="encoder")
    assert "0 are new, 0 replaced, 60 were there" in hourglass(*command)
    assert server.metric("hourglass_rows_total", model="line", graph="encoder") == before


def test_rows_that_changed_are_replaced(to: str, file: Path, hourglass: PROGRAM) -> None:
    command = ("embed", file, "--model", "line", "--to", to, "--payload", "age")
    hourglass(*command)
    changed, age = X.copy(), np.arange(ROWS)
    changed[3], age[5] = 7, -1  # a number of a row, and a payload
    pq.write_table(table(changed, age=age), file)
    assert "0 are new, 2 replaced, 58 were there" in hourglass(*command)
    there = contents(to)
    assert (len(there), there["P-005"]["age"], there["P-003"]["age"]) == (ROWS, -1, 3)
    found = hourglass("search", json.dumps(dict(zip(COLUMNS, changed[3].tolist(), strict=True))), "--in", to, "-k", 1)
    assert re.search(r"1 +│ P-003 +│ +0 +│ +3", found)


@pytest.mark.parametrize("place", ["lancedb", "postgresql"], indirect=True)  # a folder of Qdrant has one user
def test_an_index_that_another_run_makes_meanwhile(
    to: str, file: Path, hourglass: PROGRAM, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("embed", file, "--model", "line", "--to", to)
    embed_batches = Client.embed_batches

    def after_another(self: Client, *arguments: Any, **options: Any) -> Iterator[Any]:
        monkeypatch.undo()
        assert "60 are new" in hourglass(*command)
        return embed_batches(self, *arguments, **options)

    monkeypatch.setattr(Client, "embed_batches", after_another)
    assert "was made by another run just now: run this again" in hourglass(*command, fails=1)
    assert "60 were there" in hourglass(*command)


def test_payload_in_another_order_is_the_same(to: str, file: Path, hourglass: PROGRAM) -> None:
    pq.write_table(table(kind=["k"] * ROWS), file)
    command = ("embed", file, "--model", "line", "--to", to, "--payload")
    hourglass(*command, "site,kind,age")
    assert "0 are new, 0 replaced, 60 were there" in hourglass(*command, "kind,age,site")
    pq.write_table(table(kind=["new"] * ROWS), file)
    assert "0 are new, 60 replaced, 0 were there" in hourglass(*command, "age,kind,site")
    assert contents(to)["P-003"] == {"site": "south", "kind": "new", "age": 3}


def test_more_rows_are_added(to: str, file: Path, hourglass: PROGRAM) -> None:
    pq.write_table(table()[:40], file)
    hourglass("embed", file, "--model", "line", "--to", to)
    pq.write_table(table()[20:], file)
    assert "20 are new, 0 replaced, 20 were there" in hourglass("embed", file, "--model", "line", "--to", to)
    assert set(contents(to)) == {f"P-{i:03d}" for i in range(ROWS)}


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--encoding", "float16"), "holds embeddings encoded as float32, not encoded as float16"),
        (("--normalize",), r"holds embeddings as they are, not of length 1 \(--normalize\)"),
        (
            ("--payload", "site"),
            r"holds embeddings with the columns age \(int64\), not with the columns site \(string\)",
        ),
        (("--id", "age"), "holds embeddings under ids of string, not under ids of int64"),
        (("--model", "renewed"), r"of the embedding space \w{16} \(model 'line'\), not of the embedding space \w{16} "),
    ],
)
def test_an_index_of_something_else_is_refused(
    to: str, file: Path, hourglass: PROGRAM, flags: tuple[str, ...], why: str
) -> None:
    command = ("embed", file, "--model", "line", "--to", to, "--payload", "age")
    hourglass(*command)
    assert re.search(f"{why}.*: name another index behind '#' of --to", hourglass(*command, *flags, fails=2))
    assert "60 were there" in hourglass(*command)


def test_a_retrained_model_is_refused(to: str, file: Path, hourglass: PROGRAM) -> None:
    command = ("embed", file, "--model", "retrained", "--to", to)
    hourglass(*command, "--version", 1)
    assert "not of the embedding space" in hourglass(*command, fails=2)
    search = ("search", json.dumps(X[0].tolist()), "--in", to)
    refused = hourglass(*search, fails=2)
    spaces = r"space (\w{16}) \(model 'retrained'\), and version 2 of 'retrained' makes those of (?!\1)\w{16}: "
    assert re.search(spaces + "make another index with `hourglass embed`, or search with .*", refused)
    assert "--model retrained --version 1" in refused
    assert "version 1 of 'renewed'" in hourglass(*search, "--model", "renewed", fails=2)
    for fits in (("--version", 1), ("--model", "line")):
        assert re.search(r"1 +│ P-000 +│ +0 ", hourglass(*search, *fits))
    other = f"{to}-new"
    hourglass("embed", file, "--model", "retrained", "--to", other)
    assert re.search(r"1 +│ P-000 +│ +0 ", hourglass("search", json.dumps(X[0].tolist()), "--in", other))


def test_bad_rows_are_left_out_and_counted(to: str, file: Path, hourglass: PROGRAM) -> None:
    damaged = X.copy()
    damaged[[2, 7], 4] = np.nan
    pq.write_table(table(damaged, serial=[None if i == 7 else f"P-{i:03d}" for i in range(ROWS)]), file)
    command = ("embed", file, "--model", "line", "--to", to)
    assert "row 2 (the first is 0), column 'e'" in hourglass(*command, fails=2)
    said = hourglass(*command, "--bad-rows", "null")
    assert "of 60 rows 58 are new" in said
    assert re.search(r"2 of 60 rows could not be used and are left out; the first: .*row 2", said)
    assert set(contents(to)) == {f"P-{i:03d}" for i in range(ROWS)} - {"P-002", "P-007"}


def test_an_index_that_is_not_there(place: PLACE, file: Path, hourglass: PROGRAM) -> None:
    there = place()
    hourglass("embed", file, "--model", "line", "--to", there)
    name = there.rpartition("#")[2]
    missing = hourglass("search", "[1]", "--in", place(), fails=2)
    assert re.search(rf"is not there; what is there: .*\b{name}\b", missing)


def test_versions_without_calibrated_numbers(to: str, file: Path, hourglass: PROGRAM) -> None:
    said = hourglass("embed", file, "--model", "before", "--to", to, "--encoding", "int8", "--id", "serial", fails=2)
    assert "was made without INT8 and BINARY embeddings" in said


def test_an_index_that_was_killed_before_its_first_rows_is_empty(
    to: str, file: Path, hourglass: PROGRAM, client: Client
) -> None:
    hourglass("embed", file, "--model", "line", "--to", to)
    with Index(client, to) as there:
        made = there.record
    store = open_store(f"{to}-empty")
    store.create(made)
    store.close()
    for rows in (file, json.dumps(X[0].tolist())):
        said = hourglass("search", rows, "--in", f"{to}-empty")
        assert re.fullmatch(r"\S+-empty is empty\n", said)
    assert "60 are new" in hourglass("embed", file, "--model", "line", "--to", f"{to}-empty")


# From here on what needs no store of its own kind: in LanceDB.


@pytest.fixture
def vectors(tmp_path: Path) -> str:
    return str(tmp_path / "vectors")


@pytest.mark.parametrize(
    ("columns", "flags", "why"),
    [
        (
            {"serial": ["x", "y", "x"]},
            (),
            "row 2 (the first is 0), column 'serial': the id 'x' is that of row 0 (the fir",
        ),
        ({"serial": ["x", None, "z"]}, (), "row 1 (the first is 0), column 'serial': the id is missing"),
        ({"serial": ["x", " ", "z"]}, (), "row 1 (the first is 0), column 'serial': the id is missing"),
        ({"key": [2, 1, 2]}, ("--id", "key"), "column 'key': the id 2 is that of row 0"),
        ({"key": [2, 1, None]}, ("--id", "key"), "row 2 (the first is 0), column 'key': the id is missing"),
        ({"key": [0.5, 1.0, 2.0]}, ("--id", "key"), "column 'key' holds double: an id is a whole number or a text"),
        ({}, ("--id", "ky"), "no column 'ky'"),
        ({}, ("--payload", "sight"), "no column 'sight': did you mean 'site'?"),
        (
            {"list": [[1], [2], [3]]},
            ("--payload", "list"),
            "column 'list' holds list<element: int64>: an index holds num",
        ),
        (
            {"rank": [1, 2, 3]},
            ("--payload", "rank"),
            "column 'rank': a name of the index's own columns: rename it in the file",
        ),
        ({"_n": [1, 2, 3]}, ("--payload", "_n"), "column '_n': stores' own columns begin with '_': rename it"),
        ({"day": pa.array([1, 2, 2**30], pa.date32())}, ("--payload", "day"), "column 'day' cannot be kept as date: "),
        (
            {"time": pa.array([1, 2, 2**60], pa.timestamp("ms"))},
            ("--payload", "time"),
            "column 'time' cannot be kept as timestamp: ",
        ),
        (
            {"time": pa.array([1, 2, 2**60], pa.timestamp("us"))},
            ("--payload", "time"),
            "column 'time' cannot be kept as timestamp: ",
        ),
        ({"big": pa.array([1, 2, 2**63], pa.uint64())}, ("--payload", "big"), "column 'big' cannot be kept as int64: "),
    ],
)
def test_columns_that_will_not_do(
    vectors: str, file: Path, hourglass: PROGRAM, columns: dict[str, Any], flags: tuple[str, ...], why: str
) -> None:
    small = table(X[:4], **{"site": ["n"] * 4}).slice(0, 3).to_pydict()
    pq.write_table(pa.table({**small, **columns}), file)
    said = hourglass("embed", file, "--model", "line", "--to", vectors, *flags, fails=2)
    assert said.startswith(str(file))
    assert why in said
    assert not Path(vectors).exists()


def test_an_id_that_comes_again_far_behind_names_both_lines(
    client: Client, vectors: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Client, "rows_per_message", lambda *_: 7)
    serials = [f"P-{i:03d}" for i in range(ROWS)]
    serials[50] = serials[31]
    pyarrow.csv.write_csv(table(serial=serials), tmp_path / "pumps.csv")
    with pytest.raises(FileError, match=r"line 52, column 'serial': the id 'P-031' is that of line 33 as well"):
        index(client, tmp_path / "pumps.csv", vectors, "line")


def test_rows_without_ids_go_by_their_numbers_and_columns_keep_their_types(
    client: Client, vectors: str, tmp_path: Path, hourglass: PROGRAM
) -> None:
    days = pa.array([f"2026-01-{i % 28 + 1:02d}" for i in range(ROWS)]).cast(pa.date32())
    times = days.cast(pa.timestamp("ns", tz="Europe/Berlin"))
    more = {
        "day": days,
        "time": times,
        "ok": [True, False] * (ROWS // 2),
        "share": X[:, 0].copy(),
        "hole": [None] * ROWS,
        "price": pa.array([Decimal(f"{i}.25") for i in range(ROWS)]),
    }
    more["share"][4] = np.nan
    pq.write_table(table(**more).drop_columns(["serial"]), tmp_path / "in.parquet")
    done = index(client, tmp_path / "in.parquet", vectors, "line", payload=[*more, "site", "a"])
    assert (done.new, done.rows) == (ROWS, ROWS)
    with Index(client, vectors) as there:
        found = there.nearest(X[4:5], 1)
    assert [str(field.type) for field in found.schema][2:] == [
        *(
            "int64",
            "double",
            "date32[day]",
            "timestamp[us, tz=UTC]",
            "bool",
            "double",
            "string",
            "double",
            "string",
            "double",
        )
    ]
    (row,) = found.to_pylist()
    assert (row["id"], row["day"].isoformat(), row["ok"], row["share"], row["hole"]) == (
        4,
        "2026-01-05",
        True,
        None,
        None,
    )
    assert (row["a"], row["price"]) == (X[4, 0], 4.25)


@pytest.mark.parametrize("kind", [".npz", ".csv"])
def test_other_files(client: Client, vectors: str, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"in{kind}"
    if kind == ".npz":
        np.savez(path, X=X, y=np.arange(ROWS) % 7)
        index(client, path, vectors, "before", payload=["y"])
        expected = {i: {"y": i % 7} for i in range(ROWS)}
    else:
        pyarrow.csv.write_csv(table(), path)
        index(client, path, vectors, "line", payload=["age"])
        expected = {f"P-{i:03d}": {"age": f"{i}"} for i in range(ROWS)}  # a CSV says nothing of types
    assert contents(vectors) == expected


def test_a_file_of_ids_and_of_columns_that_the_model_has_no_names_for(
    vectors: str, tmp_path: Path, start: Callable[..., Fake]
) -> None:
    path, fake = tmp_path / "in.parquet", start(row_shape=(4,))
    pq.write_table(pa.table({"key": [f"k{i}" for i in range(ROWS)], **dict(zip("abcd", X.T, strict=False))}), path)
    at = ("--id", "key", "--server", fake.address)
    assert run(["embed", str(path), "--model", "m", "--to", vectors, *at]) == 0
    out = tmp_path / "out.parquet"
    assert run(["search", str(path), "--in", vectors, "-k", "1", "--out", str(out), *at]) == 0
    found = pq.read_table(out)
    assert found["id"].to_pylist() == found["query_id"].to_pylist() == [f"k{i}" for i in range(ROWS)]
    pq.write_table(pq.read_table(path).drop_columns(["key"]), path)
    assert run(["search", str(path), "--in", vectors, "-k", "1", "--out", str(out), *at[2:]]) == 0
    assert pq.read_table(out).column_names == ["row", "rank", "id", "distance"]


@pytest.mark.parametrize("messages", [1, 4])
def test_ids_of_many_rows_stand_beside_their_neighbours(
    client: Client, vectors: str, tmp_path: Path, hourglass: PROGRAM, messages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(1).standard_normal((1000, WIDTH)).astype(np.float32)
    path, out = tmp_path / "many.parquet", tmp_path / "out.csv"
    pq.write_table(pa.table({"key": np.arange(1000) * 3, **dict(zip(COLUMNS, x.T, strict=True))}), path)
    hourglass("embed", path, "--model", "line", "--id", "key", "--to", vectors)
    monkeypatch.setattr(Index, "rows_per_message", 1000 // messages + 10)
    shares: list[float] = []

    @contextmanager
    def progress(share: Callable[[int], float]) -> Iterator[Callable[[int], None]]:
        yield lambda rows: shares.append(share(rows))

    monkeypatch.setattr(terminal, "progress", progress)
    hourglass("search", path, "--in", vectors, "-k", 2, "--id", "key", "--out", out)
    found = pa.csv.read_csv(out).filter(pa.compute.field("rank") == 1)
    assert found["query_id"].to_pylist() == found["id"].to_pylist() == list(range(0, 3000, 3))
    assert sum(shares) == pytest.approx(1)  # of the rows whose neighbours are there, not of those read


def test_an_index_of_one_kind_of_file_is_not_gone_on_with_by_another(
    vectors: str, file: Path, hourglass: PROGRAM, tmp_path: Path
) -> None:
    texts = tmp_path / "pumps.csv"
    pa.csv.write_csv(pq.read_table(file), texts)
    command = ("--model", "line", "--to", vectors, "--payload", "site,age")
    hourglass("embed", file, *command)
    said = hourglass("embed", texts, *command, fails=2)
    assert "age (int64), not with the columns site (string), age (string): " in said
    assert "give a file of the same kind (CSV's columns are all texts, Parquet's have types), or name another" in said


def test_images_of_bytes(start: Callable[..., Fake], vectors: str, tmp_path: Path) -> None:
    fake, path = start(row_shape=(3, 4)), tmp_path / "images.npy"
    images = np.random.default_rng(0).integers(0, 256, (ROWS, 3, 4), dtype=np.uint8)
    with Client(fake.address) as client:
        np.save(path, images)
        assert index(client, path, vectors, "m").new == ROWS
        assert index(client, path, vectors, "m").unchanged == ROWS
        images[5, 2, 3] ^= 1
        np.save(path, images)
        changed = index(client, path, vectors, "m")
        assert (changed.replaced, changed.unchanged) == (1, ROWS - 1)
        with Index(client, vectors) as there:
            assert there.nearest(images[7:8], 1)["id"].to_pylist() == [7]
            with pytest.raises(ValueError, match="k is 0: at least one neighbour"):
                there.nearest(images[7:8], 0)


@pytest.mark.parametrize(
    ("arguments", "kind", "why"),
    [
        ({"payload": "site"}, TypeError, r"payload is a text: give a list of columns' names, \['site'\]"),
        ({"bad_rows": "null"}, ValueError, r"bad_rows is 'null', none of fail, skip"),
        ({"encoding": "f8"}, ValueError, r"encoding is 'f8', none of float32, float16, int8, binary"),
        ({"file": pa.table({"a": [1]})}, TypeError, r"file is of type Table, not a file's path: write .* to .parquet"),
        (
            {"client": object.__new__(AsyncClient)},
            TypeError,
            r"client is of type AsyncClient: an index takes hourglass.Client",
        ),
    ],
)
def test_arguments_that_will_not_do(
    client: Client, vectors: str, file: Path, arguments: dict[str, Any], kind: type[Exception], why: str
) -> None:
    with pytest.raises(kind, match=why):
        index(**{"client": client, "file": file, "to": vectors, "model": "line", **arguments})
    assert not Path(vectors).exists()


def test_searches_that_will_not_do(client: Client, vectors: str, file: Path) -> None:
    index(client, file, vectors, "line")
    other: Any = object.__new__(AsyncClient)
    with pytest.raises(TypeError, match=r"client is of type AsyncClient: an index takes hourglass\.Client"):
        Index(other, vectors)
    with Index(client, vectors) as there:
        with pytest.raises(ValueError, match=r"this is one row, of the shape \[12\]: write \[row\]"):
            there.nearest(X[0])
        with pytest.raises(TypeError, match=r"column 'a' has the shape .* write \[1.2\]"):
            there.nearest(dict.fromkeys(COLUMNS, 1.2))
        assert there.nearest([X[3].tolist()], 1)["id"].to_pylist() == ["P-003"]
    with pytest.raises(ValueError, match="vectors#embeddings is closed: open it again"):
        there.nearest(X)
    with pytest.raises(ValueError, match="vectors#embeddings is closed: open it again"):
        next(there.nearest_batches([X]))


def test_few_rows_are_shown_each_and_of_many_the_first(vectors: str, file: Path, hourglass: PROGRAM) -> None:
    long = {f"column_{i}": ["long " * 20] * ROWS for i in range(7)}
    pq.write_table(table(**long), file)
    hourglass("embed", file, "--model", "line", "--to", vectors, "--payload", ",".join(long))
    shown = hourglass("search", file, "--in", vectors, "-k", 2)
    titles = re.findall(r"row (\d+) \(the first is 0\), serial (P-\d+)", shown)
    assert titles == [("0", "P-000"), ("1", "P-001"), ("2", "P-002")]
    assert "and 57 more rows and 5 more columns: --out FILE writes all" in shown
    assert max(map(len, shown.splitlines())) <= 100
    pq.write_table(table()[:2], file)
    shown = hourglass("search", file, "--in", vectors, "-k", 2)
    assert re.findall(r"row (\d+) ", shown) == ["0", "1"]
    assert "more rows" not in shown
    one = hourglass("search", json.dumps(X[9].tolist(), indent=400), "--in", vectors, "-k", 2)
    assert "row 0" not in one
    assert re.search(r"rank +┃ id +┃ distance", one)
    assert re.search(r"1 +│ P-009 +│ +0 ", one)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("[1, 2",), "the row is no JSON"),
        (("[" * 100_000,), "the row is no JSON"),
        (
            ('[1, "x"]',),
            "could not convert string to float: 'x' (a row with texts is written with names: {\"column\": …})",
        ),
        (("[1, 2]",), "12"),
        (("[[1, 2], [3, 4]]",), "it is a list of rows, and one is taken here: put several in a file"),
        ((json.dumps({**dict.fromkeys(COLUMNS, 1), "c": "much"}),), "column 'c': 'much' is not a number"),
        ((json.dumps({**dict.fromkeys(COLUMNS, 1), "c": [1]}),), "column 'c': one row has one number or text there"),
        (('{"a": 1}',), "no column 'b'"),
        (("missing.csv",), "missing.csv: no such file"),
        (("[1]", "-k", "0"), "-k 0: at least one neighbour"),
        (("[1]", "--out", "x.npy"), "--out x.npy: its name must end in .parquet or .csv"),
    ],
)
def test_what_cannot_be_searched(
    vectors: str, file: Path, hourglass: PROGRAM, flags: tuple[str, ...], why: str
) -> None:
    hourglass("embed", file, "--model", "line", "--to", vectors)
    assert why in hourglass("search", *flags, "--in", vectors, fails=2)


def test_flags_of_an_index_need_one(file: Path, hourglass: PROGRAM) -> None:
    command = ("embed", file, "--model", "line")
    payload, encoding = ("--payload", "site"), ("--encoding", "int8")
    assert "--payload: only for an index: add --to URI" in hourglass(*command, *payload, fails=2)
    assert "--encoding: only for an index: add --to URI" in hourglass(*command, *encoding, fails=2)
    assert "--payload and --encoding: only for" in hourglass(*command, *payload, *encoding, fails=2)
    assert "--out and --to" in hourglass(*command, "--out", "x.npy", "--to", "y", fails=2)


def test_numbers_in_a_file_can_be_normalised(client: Client, file: Path, hourglass: PROGRAM, tmp_path: Path) -> None:
    hourglass("embed", file, "--model", "line", "--out", tmp_path / "out.npy", "--normalize")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), client.embed("line", X, normalize=True).values)


def test_a_store_that_is_not_reached(file: Path, hourglass: PROGRAM) -> None:
    said = hourglass("embed", file, "--model", "line", "--to", "postgresql://u:secret@127.0.0.1:9/db", fails=1)
    assert said.startswith("postgresql://u@127.0.0.1:9/db#embeddings: ")
    assert "secret" not in said


def test_a_series_is_not_indexed(
    client: Client, vectors: str, file: Path, hourglass: PROGRAM, monkeypatch: pytest.MonkeyPatch
) -> None:
    hourglass("embed", file, "--model", "line", "--to", vectors)
    of_windows = replace(client.model("line"), window=Window(length=3, stride=1))
    monkeypatch.setattr(Client, "model", lambda *_: of_windows)
    said = hourglass("embed", file, "--model", "line", "--to", vectors, fails=2)
    assert "the model 'line' takes windows of a series, which have no ids that last: write them with --out" in said
    assert "give one as a ROW: [[…], …]" in hourglass("search", file, "--in", vectors, fails=2)


def test_when_no_row_is_good_no_index_is_made(vectors: str, file: Path, hourglass: PROGRAM) -> None:
    pq.write_table(table(np.full((2, WIDTH), np.nan, np.float32)), file)
    said = hourglass("embed", file, "--model", "line", "--to", vectors, "--bad-rows", "null")
    assert "of 2 rows 0 are new" in said
    assert "written to" not in said
    assert not Path(vectors).exists()
