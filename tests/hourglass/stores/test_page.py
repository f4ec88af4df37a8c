"""The Python and the SQL of docs/vector-search.md, run."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hourglass import Client, Encoding, HourglassError
from hourglass.files import FileError
from hourglass.indexing import index
from hourglass.stores import StoreError, StoreUnavailable
from tests import artefacts
from tests.processes import Serve

PAGE = (Path(__file__).parents[3] / "docs" / "vector-search.md").read_text()
SIZE = 3
COLUMNS = ("flow", "pressure", "speed", "heat")
X = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
IDS = [f"P-{i:03d}" for i in range(len(X))]
SITES = ["north", "south"] * (len(X) // 2)
Form = tuple[Encoding, bool]
PLAIN: Form = ("float32", False)
FORMS = pytest.mark.parametrize(
    "form", [PLAIN, ("float32", True), ("float16", False), ("int8", False), ("int8", True), ("binary", False)]
)


def block(kind: str, word: str) -> str:
    """The page's block of that kind that has the word."""
    (found,) = [text for text in re.findall(rf"```{kind}\n(.*?)```", PAGE, re.S) if word in text]
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    exported = tmp_path_factory.mktemp("exported")
    artefacts.publish(exported, "pumps", artefacts.Linear.random(width=4, embedding_size=SIZE), columns=COLUMNS)
    server = Serve(exported).wait_ready()
    yield server
    server.kill()


@pytest.fixture
def folder(server: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reader is: beside pumps.parquet."""
    monkeypatch.chdir(tmp_path)
    columns = {"serial": IDS, "site": SITES, "age": range(len(X)), **dict(zip(COLUMNS, X.T, strict=True))}
    pq.write_table(pa.table({name: list(column) for name, column in columns.items()}), "pumps.parquet")
    return tmp_path


def run(code: str, server: Serve, **names: Any) -> dict[str, Any]:
    """The names that the code leaves. It asks for the neighbours of the row P-006."""
    spoken = code.replace("127.0.0.1:8001", server.address)
    space: dict[str, Any] = {"row": {name: [value] for name, value in zip(COLUMNS, X[6], strict=True)}, **names}
    exec(compile(spoken, "docs/vector-search.md", "exec"), space)
    return space


def fill(server: Serve, to: str, form: Form) -> None:
    encoding, normalize = form
    with Client(server.address) as client:
        columns: dict[str, Any] = {"id_column": "serial", "payload": ["site", "age"]}
        index(client, "pumps.parquet", to, "pumps", **columns, encoding=encoding, normalize=normalize)


def are_nearest(server: Serve, form: Form, found: list[tuple[str, float]]) -> bool:
    """Whether ids and distances are those of the ten nearest to P-006 in the north, in the numbers kept, by numpy."""
    encoding, normalize = form
    with Client(server.address) as client:
        values = client.embed("pumps", X, encoding=encoding, normalize=normalize).values
    if encoding == "binary":
        bits = np.unpackbits(values, axis=1, count=SIZE)
        apart = (bits != bits[6]).sum(axis=1)
    else:
        apart = np.linalg.norm(values.astype(np.float64) - values[6], axis=1)
    north = {name: distance for name, site, distance in zip(IDS, SITES, apart, strict=True) if site == "north"}
    distances = [distance for _, distance in found]
    of_names = [north[name] for name, _ in found]
    nearest = sorted(north.values())[:10]
    return (
        len(found) == 10 and np.allclose(distances, nearest, atol=1e-3) and np.allclose(distances, of_names, atol=1e-3)
    )


def test_a_row_is_columns_of_one_row(server: Serve) -> None:
    row = run(block("python", "row = {"), server)["row"]
    assert list(row) == list(COLUMNS)
    with Client(server.address) as client:
        assert client.embed("pumps", row).values.shape == (1, SIZE)


def test_python(server: Serve, folder: Path) -> None:
    space = run(block("python", "hourglass.indexing"), server)
    assert space["done"].new == len(X)
    assert space["found"]["id"][0].as_py() == "P-006"


def test_exceptions_are_where_the_page_says() -> None:
    named = re.findall(r"^\| `([\w.]+)\.(\w+)`", PAGE.partition("## From Python")[2], re.M)
    kinds = [getattr(importlib.import_module(module), name) for module, name in named]
    assert kinds == [FileError, StoreError, StoreUnavailable, HourglassError]
    assert issubclass(StoreUnavailable, StoreError)


@FORMS
def test_lancedb(server: Serve, folder: Path, form: Form) -> None:
    fill(server, "vectors#pumps", form)
    space = run(block("python", "lancedb.connect"), server)
    binary = form[0] == "binary"
    found = [(row["id"], row["_distance"] if binary else row["_distance"] ** 0.5) for row in space["found"]]
    assert are_nearest(server, form, found)
    if form == PLAIN:
        run(block("python", "create_index"), server, table=space["table"])
        assert [kind.index_type for kind in space["table"].list_indices()] == ["IvfHnswSq"]
        assert run(block("python", "lancedb.connect"), server)["found"][0]["id"] == "P-006"


@FORMS
def test_postgres(server: Serve, folder: Path, postgres: str, form: Form) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS pumps")
    fill(server, f"{postgres}#pumps", form)
    code = block("python", "psycopg.connect").replace("postgresql://HOST/DATABASE", postgres)
    assert are_nearest(server, form, [(key, distance) for key, _, distance in run(code, server)["found"]])


def test_sql(server: Serve, folder: Path, postgres: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS pumps")
        fill(server, f"{postgres}#pumps", PLAIN)
        like = connection.execute(block("sql", "SELECT other").replace("P-007", "P-006").encode()).fetchall()
        with Client(server.address) as client:
            values = client.embed("pumps", X).values
        nearest = np.argsort(np.linalg.norm(values - values[6], axis=1))[1:11]
        assert [key for key, _ in like] == [IDS[i] for i in nearest]
        connection.execute(block("sql", "CREATE INDEX").encode())
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute("EXPLAIN SELECT id FROM pumps ORDER BY embedding <-> '[1,2,3]' LIMIT 5").fetchall()
    assert "Index Scan using pumps_embedding_idx" in str(plan)


def test_bits_are_ranked_again(server: Serve, folder: Path, postgres: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection, Client(server.address) as client:
        forms: dict[str, Encoding] = {"pumps_bits": "binary", "pumps_int8": "int8"}
        for table, encoding in forms.items():
            fill(server, f"{postgres}#{table}", (encoding, False))
        packed, whole = (client.embed("pumps", X, encoding=encoding).values for encoding in forms.values())
        bits = np.unpackbits(packed, axis=1, count=SIZE)
        asked = {"bits": "".join(map(str, bits[6])), "int8": str(whole[6].tolist())}
        query = block("sql", "pumps_bits").replace("bit(64)", f"bit({SIZE})").replace("LIMIT 500", "LIMIT 20")
        found = connection.execute(query.encode(), asked).fetchall()
    apart, distance = (bits != bits[6]).sum(axis=1), np.linalg.norm(whole.astype(float) - whole[6], axis=1)
    # Of rows that are equally far by bits any may be candidates: those of the nearest are, with these numbers.
    sure = np.flatnonzero(apart < np.sort(apart)[20])
    nearest = [IDS[i] for i in sure[np.argsort(distance[sure], kind="stable")]]
    names = [key for key, _, _ in found]
    assert [key for key in names if key in nearest] == [key for key in nearest if key in names]
    assert names[0] == "P-006"
    np.testing.assert_allclose([d for _, _, d in found], [distance[IDS.index(key)] for key in names], atol=1e-3)


@FORMS
def test_qdrant(server: Serve, folder: Path, form: Form) -> None:
    fill(server, f"qdrant://{folder / 'points'}#pumps", form)
    code = block("python", "qdrant_client").replace('QdrantClient("HOST")', "QdrantClient(path='points')")
    space = run(code, server)
    space["store"].close()
    assert are_nearest(server, form, [(point.payload["id"], point.score) for point in space["found"]])


@pytest.mark.parametrize(("kind", "operators"), [("halfvec(3)", "halfvec_l2_ops"), ("bit(3)", "bit_hamming_ops")])
def test_operators_of_other_encodings(postgres: str, kind: str, operators: str) -> None:
    assert operators in block("sql", "CREATE INDEX")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {operators} (embedding {kind})".encode())
        connection.execute(f"CREATE INDEX ON {operators} USING hnsw (embedding {operators})".encode())
