"""What every store promises, on arrays: no server of models is asked."""

from __future__ import annotations

import datetime
import math
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from hourglass.contract.quantization import DTYPES, Encoding
from hourglass.stores import Record, Store, StoreError, StoreUnavailable, open_store
from hourglass.stores.record import DIGEST, DIGEST_BYTES, EMBEDDING, ID, SPACE, IdType, PayloadType

SIZE = 12  # of an embedding: its bits are no whole bytes
SPACE_ID = "0123456789abcdef"
PLACE = Callable[[], str]


def record(
    encoding: Encoding = "float32", id_type: IdType = "int64", payload: dict[str, PayloadType] | None = None
) -> Record:
    return Record(
        model="m",
        embedding_space_id=SPACE_ID,
        encoding=encoding,
        normalized=False,
        scale=0.125 if encoding == "int8" else None,
        embedding_size=SIZE,
        id_type=id_type,
        payload=payload or {},
    )


def embeddings(encoding: Encoding, n: int, seed: int = 0) -> np.ndarray:
    """As a server answers them, with the largest that there are."""
    rng = np.random.default_rng(seed)
    if encoding == "binary":
        return np.packbits(rng.random((n, SIZE)) > 0.5, axis=1)
    if encoding == "int8":
        values = rng.integers(-127, 128, (n, SIZE)).astype(np.int8)
        values[0], values[-1] = 127, -127
        return values
    return rng.standard_normal((n, SIZE)).astype(DTYPES[encoding])


def stored(of: Record, values: np.ndarray) -> np.ndarray:
    kind: np.ndarray = values.astype(of.schema.field(EMBEDDING).type.value_type.to_pandas_dtype())
    return kind


def rows(of: Record, ids: list[Any], values: np.ndarray, digest: bytes = b"d", **payload: list[Any]) -> pa.Table:
    columns: dict[str, Any] = {
        ID: ids,
        **payload,
        EMBEDDING: stored(of, values).tolist(),
        SPACE: [SPACE_ID] * len(ids),
        DIGEST: [digest.ljust(DIGEST_BYTES)] * len(ids),
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in of.schema], schema=of.schema)


@contextmanager
def opened(to: str) -> Iterator[Store]:
    store = open_store(to)
    try:
        yield store
    finally:
        store.close()


def test_an_index_is_made_once_and_known_again(to: str) -> None:
    name = to.rpartition("#")[2]
    made = record("int8", "string", {"a": "string", "when": "timestamp_utc", 'odd "name"': "float64"})
    with opened(to) as store:
        assert store.record() is None
        assert name not in store.names()
        store.create(made)
    with opened(to) as store:
        assert store.record() == made
        assert name in store.names()


@pytest.mark.parametrize("encoding", DTYPES)
def test_the_nearest_are_those_that_numpy_finds(to: str, encoding: Encoding) -> None:
    made, values = record(encoding, payload={"a": "int64"}), embeddings(encoding, 40)
    with opened(to) as store:
        store.create(made)
        store.write(rows(made, list(range(40)), values, a=[i * 2 for i in range(40)]), new=True)
        store.finish()
    queries = embeddings(encoding, 5, seed=1)
    if encoding == "binary":
        bits, asked = (np.unpackbits(v, axis=1, count=SIZE).astype(np.float64) for v in (values, queries))
        expected = np.abs(asked[:, None] - bits[None]).sum(axis=2)
    else:
        expected = np.linalg.norm(queries.astype(np.float64)[:, None] - values.astype(np.float64)[None], axis=2)
    with opened(to) as store:
        store.record()
        found = store.nearest(stored(made, queries), 7)
        everything = store.nearest(stored(made, queries[:1]), 1000)
    assert found.schema.names == ["_query", "distance", "id", "a"]
    assert found["_query"].to_pylist() == np.repeat(np.arange(5), 7).tolist()
    distance = found["distance"].to_numpy().reshape(5, 7)
    np.testing.assert_allclose(distance, np.sort(expected, axis=1)[:, :7], rtol=1e-6)
    ids = found["id"].to_numpy().reshape(5, 7)
    np.testing.assert_allclose(np.take_along_axis(expected, ids, axis=1), distance, rtol=1e-6)
    np.testing.assert_array_equal(found["a"].to_numpy(), ids.ravel() * 2)
    assert sorted(everything["id"].to_pylist()) == list(range(40))


def test_the_nearest_are_exact_whatever_index_there_is(tmp_path: Path, postgres: str) -> None:
    import lancedb
    from lancedb.index import IvfPq

    made, values = record(), embeddings("float32", 300)
    expected = np.sort(np.linalg.norm(values - values[0], axis=1))[:100]
    # So that the approximate index would be used, were it allowed to.
    eager = f"{postgres}&options=-c%20enable_seqscan%3Doff"
    for to in (f"{tmp_path}#exact", f"{eager}#exact"):
        with opened(to) as store:
            store.create(made)
            store.write(rows(made, list(range(300)), values), new=True)
            if to.startswith("postgresql"):
                with psycopg.connect(eager, autocommit=True) as connection:
                    connection.execute("CREATE INDEX ON exact USING hnsw (embedding vector_l2_ops)")
                    asked = str(values[0].tolist())
                    query = "SELECT id FROM exact ORDER BY embedding <-> %s::vector LIMIT 100"
                    assert len(connection.execute(query, [asked]).fetchall()) == 40  # hnsw.ef_search
            else:
                table = lancedb.connect(tmp_path).open_table("exact")
                table.create_index(EMBEDDING, config=IvfPq(num_partitions=2, num_sub_vectors=2))
            store.record()
            found = store.nearest(values[:1], 100)
        np.testing.assert_allclose(found["distance"].to_numpy(), expected, rtol=1e-5, atol=1e-6)


def test_rows_that_are_there_are_replaced_and_others_added(to: str) -> None:
    made, values = record(id_type="string", payload={"a": "string"}), embeddings("float32", 4)
    ids = ["x", "it's", 'a "b"', "é\\n"]
    with opened(to) as store:
        store.create(made)
        store.write(rows(made, ids[:3], values[:3], a=["1", "2", None]), new=True)
        assert store.digests(pa.array([*ids, "y"])) == {key: b"d".ljust(DIGEST_BYTES) for key in ids[:3]}
        store.write(rows(made, ids[2:], values[2:] * 2, b"e", a=["3", "4"]), new=False)
        digests = store.digests(pa.array(ids))
        found = store.nearest(values[2:3] * 2, 10)
    assert digests == {
        key: digest.ljust(DIGEST_BYTES) for key, digest in zip(ids, (b"d", b"d", b"e", b"e"), strict=True)
    }
    assert dict(zip(found["id"].to_pylist(), found["a"].to_pylist(), strict=True)) == dict(
        zip(ids, "1234", strict=True)
    )
    assert (found["id"][0].as_py(), found["distance"][0].as_py()) == (ids[2], 0)


def test_ids_of_large_tables_are_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lancedb

    monkeypatch.setattr("hourglass.stores.lance._MOST_UNINDEXED", 10)
    made, values = record(id_type="string"), embeddings("float32", 40)
    ids = [f"it's {i}" for i in range(40)]

    def unindexed() -> int | None:
        stats = lancedb.connect(tmp_path).open_table("embeddings").index_stats("id_idx")
        return None if stats is None else stats.num_unindexed_rows

    with opened(str(tmp_path)) as store:
        store.create(made)
        store.write(rows(made, ids[:9], values[:9]), new=True)
        assert len(store.digests(pa.array(ids))) == 9
        assert unindexed() is None
        for start, expected in ((9, 0), (19, 10), (29, 0), (39, 1)):
            store.write(rows(made, ids[start : start + 10], values[start : start + 10]), new=True)
            assert len(store.digests(pa.array(ids))) == min(start + 10, 40)
            assert unindexed() == expected
    with opened(str(tmp_path)) as store:
        store.record()
        store.write(rows(made, ids[5:9], values[5:9], b"e"), new=False)
        assert set(store.digests(pa.array(ids)).values()) == {b"d".ljust(DIGEST_BYTES), b"e".ljust(DIGEST_BYTES)}


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
VALUES: dict[PayloadType, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(allow_nan=False, allow_infinity=False),
    "string": TEXT,
    "date": st.dates(),
    "timestamp": st.datetimes(),
    "timestamp_utc": st.datetimes(timezones=st.just(datetime.UTC)),
}
IDS: dict[IdType, st.SearchStrategy[Any]] = {"int64": VALUES["int64"], "string": TEXT.filter(str.strip)}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_written_is_found(place: PLACE, data: st.DataObject) -> None:
    id_type = data.draw(st.sampled_from(sorted(IDS)))
    ids = data.draw(st.lists(IDS[id_type], min_size=1, max_size=5, unique=True))
    payload = {f"c {kind}": kind for kind in data.draw(st.sets(st.sampled_from(sorted(VALUES))))}
    cells = {
        name: data.draw(st.lists(st.none() | VALUES[kind], min_size=len(ids), max_size=len(ids)))
        for name, kind in payload.items()
    }
    made = record(id_type=id_type, payload=payload)
    written = rows(made, ids, embeddings("float32", len(ids)), **cells)
    with opened(place()) as store:
        store.create(made)
        store.write(written, new=True)
        assert store.digests(pa.array(ids, pa.int64() if id_type == "int64" else pa.string())).keys() == set(ids)
        found = store.nearest(np.zeros((1, SIZE), np.float32), 10)
    expected = {row[ID]: row for row in written.select([ID, *payload]).to_pylist()}
    assert {row[ID]: row for row in found.select([ID, *payload]).to_pylist()} == expected


def test_columns_of_its_owner_stay(tmp_path: Path, postgres: str) -> None:
    import lancedb

    def read(to: str) -> list[tuple[Any, ...]]:
        if to.startswith("postgresql"):
            with psycopg.connect(postgres) as connection:
                return connection.execute("SELECT id, a, note FROM owned ORDER BY id").fetchall()
        found = lancedb.connect(tmp_path).open_table("owned").to_arrow().sort_by(ID)
        return [tuple(row.values()) for row in found.select([ID, "a", "note"]).to_pylist()]

    made, values = record(payload={"a": "string"}), embeddings("float32", 3)
    for to in (f"{postgres}#owned", f"{tmp_path}#owned"):
        with opened(to) as store:
            store.create(made)
            store.write(rows(made, [1, 2], values[:2], a=["x", "y"]), new=True)
        if to.startswith("postgresql"):
            with psycopg.connect(postgres) as connection:
                connection.execute("ALTER TABLE owned ADD made timestamptz NOT NULL DEFAULT now(), ADD note text")
                connection.execute("UPDATE owned SET note = 'mine'")
        else:
            table = lancedb.connect(tmp_path).open_table("owned")
            table.add_columns({"note": "CAST(NULL AS string)"})
            table.update(values={"note": "mine"})
        with opened(to) as store:
            store.record()
            store.write(rows(made, [3], values[2:], a=["z"]), new=True)
            store.write(rows(made, [1], values[:1], a=["new"]), new=False)
        assert read(to) == [(1, "new", "mine"), (2, "y", "mine"), (3, "z", None)]


def test_more_neighbours_than_there_are_rows(to: str) -> None:
    made, values = record(), embeddings("float32", 3)
    with opened(to) as store:
        store.create(made)
        assert not len(store.nearest(values, 2**63 - 1))
        store.write(rows(made, [0, 1, 2], values), new=True)
        for k in (3, 4, 2**63 - 1):
            assert store.nearest(values[:1], k)[ID].to_pylist()[0] == 0
            assert len(store.nearest(values, k)) == 9


def test_payload_is_called_as_it_is(to: str) -> None:
    names = [
        "query",
        "found",
        "asked",
        "humidity %",
        "%s",
        "{}",
        "ID",
        'a "b"',
        "it's",
        "select",
        "; DROP TABLE x",
        "é",
    ]
    made = record(payload=dict.fromkeys(names, "string"))
    with opened(to) as store:
        store.create(made)
        store.write(rows(made, [7], embeddings("float32", 1), **{name: [name] for name in names}), new=True)
        for queries in (embeddings("float32", 1), embeddings("float32", 2)):
            assert store.nearest(queries, 1).to_pylist()[-1].items() >= {name: name for name in names}.items()


@pytest.mark.parametrize("name", ["query_index", "a.b", "a`b", ""])
def test_names_that_lancedb_does_not_take(tmp_path: Path, name: str) -> None:
    with opened(str(tmp_path)) as store:
        with pytest.raises(StoreError, match=f"LanceDB's columns are not called {re.escape(repr(name))}"):
            store.create(record(payload={name: "string"}))
        assert store.record() is None


def test_the_first_and_the_last_moment_are_found_in_every_zone(postgres: str) -> None:
    ends = [moment.replace(tzinfo=datetime.UTC) for moment in (datetime.datetime.min, datetime.datetime.max)]
    made = record(payload={"when": "timestamp_utc"})
    for zone in ("Asia/Tokyo", "America/Lima"):
        with opened(f"{postgres}&options=-c%20timezone%3D{zone}#{zone[:4]}") as store:
            store.create(made)
            store.write(rows(made, [0, 1], embeddings("float32", 2), when=ends), new=True)
            found = store.nearest(embeddings("float32", 1), 2).sort_by(ID)
        assert found["when"].to_pylist() == ends


@pytest.mark.parametrize("store", ["lancedb", "postgresql", "qdrant"])
def test_a_table_that_is_no_index_is_left_alone(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if store == "lancedb":
        import lancedb

        lancedb.connect(tmp_path).create_table("other", pa.table({"id": [1]}))
        to = f"{tmp_path}#other"
    elif store == "postgresql":
        to = request.getfixturevalue("postgres") + "#other"
        with psycopg.connect(to.removesuffix("#other"), autocommit=True) as connection:
            connection.execute("CREATE TABLE other (id int)")
    else:
        from qdrant_client import QdrantClient, models

        client = QdrantClient(path=str(tmp_path))
        client.create_collection("other", models.VectorParams(size=2, distance=models.Distance.EUCLID))
        client.close()
        to = f"qdrant://{tmp_path}#other"
    with opened(to) as opened_store, pytest.raises(StoreError, match="#other is there, but no index of hourglass"):
        opened_store.record()


def test_a_table_that_was_killed_before_its_first_version_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "embeddings.lance" / "_transactions").mkdir(parents=True)
    with opened(str(tmp_path)) as store:
        assert store.record() is None
        assert store.names() == []
        store.create(record())
        store.write(rows(record(), [1], embeddings("float32", 1)), new=True)
        assert store.record() == record()


def test_lancedb_takes_one_writer_at_a_time(tmp_path: Path) -> None:
    made, values = record(), embeddings("float32", 4)
    with opened(str(tmp_path)) as one, opened(str(tmp_path)) as two:
        one.create(made)
        assert two.record() == made
        one.write(rows(made, [1, 2], values[:2]), new=True)
        for attempt in (lambda: two.digests(pa.array([1])), lambda: two.write(rows(made, [1], values[:1]), new=False)):
            with pytest.raises(StoreUnavailable, match=r"is being written by another run, .*: wait for it"):
                attempt()
        one.close()
        assert two.digests(pa.array([1, 3])).keys() == {1}  # what was written after it was opened
    with opened(str(tmp_path)) as store:
        store.record()
        shutil.rmtree(tmp_path / "embeddings.lance")
        with pytest.raises(StoreUnavailable, match="No such file"):
            store.digests(pa.array([1]))


def test_runs_that_write_the_same_rows_do_not_wait_for_each_other(postgres: str) -> None:
    made, values, n = record(), embeddings("float32", 400), 400
    to = f"{postgres}#both"
    with opened(to) as store:
        store.create(made)
    ids = list(range(n))
    failed: list[StoreError] = []

    def write(order: list[int]) -> None:
        with opened(to) as store:
            store.record()
            for _ in range(15):
                try:
                    store.write(rows(made, order, values), new=False)
                except StoreError as error:
                    failed.append(error)

    threads = [threading.Thread(target=write, args=(order,)) for order in (ids, ids[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_an_index_of_a_later_version_is_not_read(tmp_path: Path) -> None:
    import lancedb

    later = record().model_dump_json().replace('"hourglass_index":1', '"hourglass_index":2')
    schema = record().schema.with_metadata({b"hourglass": later})
    lancedb.connect(tmp_path).create_table("later", schema=schema)
    with opened(f"{tmp_path}#later") as store, pytest.raises(StoreError, match=r"index version 2, not 1"):
        store.record()


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("mysql://host/db", r"no store is called 'mysql': write lancedb://…, postgresql://…"),
        ("folder#a b", r"the index's name, behind '#'"),
        ("postgresql://u:secr#et@host/db", r"the index's name, behind '#'"),
        ("postgresql://u:1/secret@host/db", r"not a URI that PostgreSQL takes"),
        ("postgresql://u:x@secret@host/db", r"not a URI that PostgreSQL takes"),
        ("postgresql:/u:secret@host/db", r"a folder is not called so"),
        ("lancedb://s3://secret/x", r"a folder is not called so"),
        ("postgresql://u:secret@[host/db", r"not a URI that PostgreSQL takes"),
        ("postgresql://u:secret@host/db?x=secret", r"not a URI that PostgreSQL takes"),
        ("", r"the index's URI does not say where it is: name a folder \('.' is the current one\) before '#'"),
        ("#t", r"the index's URI does not say where"),
        (" #t", r"the index's URI does not say where"),
        ("lancedb://", r"the index's URI does not say where"),
        ("lancedb:///#t", r"the index's URI does not say where"),
        ("qdrant://#t", r"the index's URI does not say where it is: name a host or a folder"),
        ("qdrant:///", r"the index's URI does not say where"),
        ("qdrant+https://", r"the index's URI does not say where"),
        ("qdrant://#secret", r"the index's URI does not say where"),
        ("qdrant://key:secret@host", r"a key is taken from QDRANT_API_KEY"),
        ("qdrant://host:port", r"not a URI of Qdrant"),
        ("qdrant://host/path", r"not a URI of Qdrant"),
    ],
)
def test_a_uri_that_will_not_do(uri: str, why: str) -> None:
    with pytest.raises(StoreError, match=why) as error:
        open_store(uri)
    assert "secr" not in str(error.value)
    assert "\n" not in str(error.value)


def test_the_current_folder_is_written_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(".#t") as store:
        store.create(record())
    assert [path.name for path in tmp_path.iterdir()] == ["t.lance"]


@pytest.mark.parametrize("store", ["lancedb", "qdrant"])
def test_a_file_is_no_folder(tmp_path: Path, store: str) -> None:
    file = tmp_path / "pumps.csv"
    file.touch()
    with pytest.raises(StoreError, match=r"pumps.csv#x: \S+pumps.csv is a file, and .* in a folder: name one"):
        open_store(f"{store}://{file}#x")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"postgresql://u@127.0.0.1:9/db#embeddings: .*refused") as error:
        open_store("postgresql://u:secret@127.0.0.1:9/db")
    assert "secret" not in str(error.value)
    with opened("qdrant://127.0.0.1:9#x") as store, pytest.raises(StoreUnavailable, match=r"127.0.0.1:9#x: .*refused"):
        store.record()
    with opened(str(tmp_path / "nothing")) as store:
        assert store.record() is None
        assert store.names() == []
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "file").touch()
    with (
        opened(f"{tmp_path}/file/below") as store,
        pytest.raises(StoreUnavailable, match=r"lancedb://.*below#embeddings: "),
    ):
        store.create(record())


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://u:x@h:5/db?sslmode=verify-full", "u@h:5/db"),
        ("postgresql://u@/d%20b?host=/tmp/a&password=x", "u@%2Ftmp%2Fa/d%20b"),
        ("postgresql://a%40b@[::1]:5/db", "a%40b@[::1]:5/db"),
        ("postgresql://h,i:5/db", "h,i:5/db"),
        ("postgres://h:5,i:6", "h:5,i:6/"),
        ("postgresql://", "/"),
    ],
)
def test_what_is_shown_of_a_uri_can_be_opened(uri: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg, "connect", lambda *_, **__: None)
    store = open_store(f"{uri}#x")
    assert store.index == f"postgresql://{shown}#x"
    assert open_store(store.index).index == store.index
    known = conninfo_to_dict(uri)
    for term, value in conninfo_to_dict(store.index.removesuffix("#x")).items():
        assert value == known[term]


def test_a_wrong_password_is_not_shown(postgres: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        (rules,) = connection.execute("SHOW hba_file").fetchone() or ("",)
        before = Path(rules).read_text()
        connection.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
        Path(rules).write_text(f"local all guarded scram-sha-256\n{before}")
        connection.execute("SELECT pg_reload_conf()")
    uri = postgres.replace("postgres:@", "guarded:{}@")
    with pytest.raises(StoreUnavailable, match='password authentication failed for user "guarded"') as error:
        open_store(uri.format("secret"))
    assert "secret" not in str(error.value)
    open_store(uri.format("right")).close()


@pytest.mark.parametrize(
    ("status", "kind", "why"),
    [
        (401, StoreUnavailable, "401 .*: is QDRANT_API_KEY right?"),
        (503, StoreUnavailable, "503 "),
        (400, StoreError, "400 "),
    ],
)
def test_a_qdrant_that_refuses(
    status: int, kind: type[StoreError], why: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers["api-key"])
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    keys: list[str] = []
    monkeypatch.setenv("QDRANT_API_KEY", "secret")
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever).start()
        with opened(f"qdrant://127.0.0.1:{server.server_port}#x") as store, pytest.raises(kind, match=why) as error:
            store.record()
        server.shutdown()
    assert type(error.value) is kind
    assert "secret" not in str(error.value)
    assert keys == ["secret"]
    assert not recwarn


def test_a_database_without_pgvector_is_told_what_to_do(postgres: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE bare")
    with opened(postgres.replace("/postgres?", "/bare?")) as store:
        assert store.record() is None
        with pytest.raises(StoreError, match="no pgvector: CREATE EXTENSION vector"):
            store.create(record())
        assert store.names() == []


def test_what_postgres_cannot_hold(postgres: str) -> None:
    with opened(f"{postgres}#narrow") as store:
        with pytest.raises(StoreError, match="at most 63 bytes: rename 'long"):
            store.create(record(payload={"long" * 16: "string"}))
        made = record(payload={"a": "string"})
        store.create(made)
        with pytest.raises(StoreError, match="0x00"):
            store.write(rows(made, [1], embeddings("float32", 1), a=["x\0y"]), new=True)
        assert store.digests(pa.array([1])) == {}
    with opened(f"{postgres}#long") as store:
        made = record(id_type="string")
        store.create(made)
        incompressible = "".join(map(chr, np.random.default_rng(0).integers(33, 10_000, 9000)))
        with pytest.raises(StoreError, match="maximum size is 8191") as error:
            store.write(rows(made, [incompressible], embeddings("float32", 1)), new=True)
        assert type(error.value) is StoreError


def test_infinite_numbers_are_not_for_qdrant(tmp_path: Path) -> None:
    made = record(payload={"a": "float64"})
    with opened(f"qdrant://{tmp_path}") as store:
        store.create(made)
        with pytest.raises(StoreError, match="column 'a' holds inf, which Qdrant does not take"):
            store.write(rows(made, [1], embeddings("float32", 1), a=[math.inf]), new=True)


def test_a_folder_of_qdrant_has_one_user(tmp_path: Path) -> None:
    with opened(f"qdrant://{tmp_path}"), pytest.raises(StoreUnavailable, match="already accessed by another instance"):
        open_store(f"qdrant://{tmp_path}")


def test_the_stores_are_not_loaded_before_they_are_used() -> None:
    names = "{'hourglass.stores', 'lancedb', 'psycopg', 'qdrant_client'}"
    code = f"import sys, hourglass; hourglass.Client; print(*({names} & set(sys.modules)))\n"
    code += f"import hourglass.file_commands; print(*({names} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "\nhourglass.stores\n", done.stderr


@pytest.mark.parametrize(
    ("absent", "uri", "extra"),
    [
        ("lancedb", "vectors", "lancedb"),
        ("psycopg", "postgresql://host/db", "postgres"),
        ("qdrant_client", "qdrant://host", "qdrant"),
    ],
)
def test_a_store_without_its_library_says_what_to_install(
    absent: str, uri: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    for adapter in ("lance", "postgres", "qdrant"):
        monkeypatch.delitem(sys.modules, f"hourglass.stores.{adapter}", raising=False)
    with pytest.raises(StoreError) as error:
        open_store(uri)
    assert str(error.value) == f"{absent} is not installed: pip install 'hourglass-serving[{extra}]'"
