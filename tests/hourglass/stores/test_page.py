"""The Python and the SQL of docs/vector-search.md, run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hourglass import Client
from hourglass.indexing import index
from tests import artefacts
from tests.processes import Serve

PAGE = (Path(__file__).parents[3] / "docs" / "vector-search.md").read_text()
COLUMNS = ("flow", "pressure", "speed", "heat")
X = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
IDS = [f"P-{i:03d}" for i in range(len(X))]
SITES = ["north", "south"] * (len(X) // 2)


def block(kind: str, word: str) -> str:
    """The page's block of that kind that has the word."""
    (found,) = [text for text in re.findall(rf"```{kind}\n(.*?)```", PAGE, re.S) if word in text]
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    exported = tmp_path_factory.mktemp("exported")
    artefacts.publish(exported, "pumps", artefacts.Linear.random(width=4, embedding_size=3), columns=COLUMNS)
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


def fill(server: Serve, to: str) -> None:
    with Client(server.address) as client:
        index(client, "pumps.parquet", to, "pumps", id_column="serial", payload=["site", "age"])


def expected(server: Serve, count: int) -> list[str]:
    """By numpy: the nearest to P-006 in the north."""
    with Client(server.address) as client:
        values = client.embed("pumps", X).values
    order = np.argsort(np.linalg.norm(values - values[6], axis=1))
    return [IDS[i] for i in order if SITES[i] == "north"][:count]


def test_python(server: Serve, folder: Path) -> None:
    space = run(block("python", "hourglass.indexing"), server)
    assert space["done"].new == len(X)
    assert space["found"]["id"][0].as_py() == "P-006"


def test_lancedb(server: Serve, folder: Path) -> None:
    fill(server, "vectors#pumps")
    space = run(block("python", "lancedb.connect"), server)
    assert [row["id"] for row in space["found"]] == expected(server, 10)
    run(block("python", "create_index"), server, table=space["table"])
    assert [kind.index_type for kind in space["table"].list_indices()] == ["IvfHnswSq"]
    assert run(block("python", "lancedb.connect"), server)["found"][0]["id"] == "P-006"


def test_postgres(server: Serve, folder: Path, postgres: str) -> None:
    fill(server, f"{postgres}#pumps")
    code = block("python", "psycopg.connect").replace("postgresql://HOST/DATABASE", postgres)
    assert [row[0] for row in run(code, server)["found"]] == expected(server, 10)
    with psycopg.connect(postgres, autocommit=True) as connection:
        like = connection.execute(block("sql", "SELECT other").replace("P-007", "P-006").encode()).fetchall()
        assert expected(server, 2)[1] in [key for key, _ in like]
        connection.execute(block("sql", "CREATE INDEX").encode())
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute("EXPLAIN SELECT id FROM pumps ORDER BY embedding <-> '[1,2,3]' LIMIT 5").fetchall()
    assert "Index Scan using pumps_embedding_idx" in str(plan)


def test_qdrant(server: Serve, folder: Path) -> None:
    fill(server, f"qdrant://{folder / 'points'}#pumps")
    code = block("python", "qdrant_client").replace('QdrantClient("HOST")', "QdrantClient(path='points')")
    space = run(code, server)
    space["store"].close()
    assert [point.payload["id"] for point in space["found"]] == expected(server, 10)


@pytest.mark.parametrize(("kind", "operators"), [("halfvec(3)", "halfvec_l2_ops"), ("bit(3)", "bit_hamming_ops")])
def test_operators_of_other_encodings(postgres: str, kind: str, operators: str) -> None:
    assert operators in block("sql", "CREATE INDEX")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {operators} (embedding {kind})".encode())
        connection.execute(f"CREATE INDEX ON {operators} USING hnsw (embedding {operators})".encode())
