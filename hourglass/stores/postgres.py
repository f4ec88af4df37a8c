"""PostgreSQL with pgvector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from hourglass.stores.errors import StoreError, StoreUnavailable
from hourglass.stores.record import DIGEST, EMBEDDING, ID, SPACE, PayloadType, Record, read

_CONNECT_SECONDS = 10
_TYPES: dict[PayloadType, str] = {
    "bool": "bool",
    "int64": "int8",
    "float64": "float8",
    "string": "text",
    "date": "date",
    "timestamp": "timestamp",
    "timestamp_utc": "timestamptz",
}
_MOST_BYTES_OF_A_NAME = 63  # longer ones are cut, without an error
_INCOMING = "hourglass incoming"  # which no index is called


class PostgresStore:
    """A table."""

    def __init__(self, uri: str, name: str) -> None:
        place, _, path = uri.partition("://")[2].partition("?")[0].partition("/")
        try:
            if place.count("@") > 1 or "@" in path:  # libpq would take a part of the password for the host
                raise psycopg.ProgrammingError
            terms = conninfo_to_dict(uri)
        except psycopg.ProgrammingError:
            # libpq's own words may hold the password.
            raise StoreError(
                "not a URI that PostgreSQL takes: postgresql://USER@HOST:PORT/DATABASE, where other characters than "
                "letters and digits may have to be written as %XX"
            ) from None
        self.index = f"postgresql://{_place(terms)}#{name}"
        self._name, self._table = name, sql.Identifier(name)
        with self._said():
            conninfo = make_conninfo(uri, connect_timeout=terms.get("connect_timeout", _CONNECT_SECONDS))
            self._connection = psycopg.connect(conninfo, autocommit=True)

    def record(self) -> Record | None:
        quoted = self._table.as_string(self._connection)
        row = self._row("SELECT to_regclass(%s), obj_description(to_regclass(%s), 'pg_class')", quoted, quoted)
        if row[0] is None:
            return None
        self._record = read(row[1], self.index)
        return self._record

    def names(self) -> list[str]:
        tables = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND pg_table_is_visible(oid)"
        schemas = " AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)"
        with self._said():
            return [name for (name,) in self._connection.execute(tables + schemas).fetchall()]

    def create(self, record: Record) -> None:
        for name in record.payload:
            if len(name.encode()) > _MOST_BYTES_OF_A_NAME:
                raise StoreError(f"{self.index}: PostgreSQL's column names have at most 63 bytes: rename {name!r}")
        if self._row("SELECT to_regtype('vector')")[0] is None:
            raise StoreError(
                f"{self.index}: this database has no pgvector: CREATE EXTENSION vector (once, by who may; its package "
                "is installed on the server before)"
            )
        columns = [
            sql.SQL("{} {} PRIMARY KEY").format(sql.Identifier(ID), sql.SQL(_TYPES[record.id_type])),
            *(
                sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(_TYPES[kind]))
                for name, kind in record.payload.items()
            ),
            sql.SQL("{} {} NOT NULL").format(sql.Identifier(EMBEDDING), _vector(record)),
            sql.SQL("{} text NOT NULL").format(sql.Identifier(SPACE)),
            sql.SQL("{} bytea NOT NULL").format(sql.Identifier(DIGEST)),
        ]
        with self._said(), self._connection.transaction():
            self._execute("CREATE TABLE {} ({})", self._table, sql.SQL(", ").join(columns))
            self._execute("COMMENT ON TABLE {} IS {}", self._table, sql.Literal(record.model_dump_json()))
        self._record = record

    def digests(self, ids: pa.Array) -> dict[int | str, bytes]:
        kind = sql.SQL(_TYPES[self._record.id_type])
        query = sql.SQL("SELECT id, row_digest FROM {} WHERE id = ANY(%s::{}[])").format(self._table, kind)
        with self._said():
            return dict(self._connection.execute(query, [ids.to_pylist()]).fetchall())

    def write(self, rows: pa.Table, *, new: bool) -> None:
        names = [sql.Identifier(name) for name in rows.column_names]
        listed = sql.SQL(", ").join(names)
        replaced = sql.SQL(", ").join(sql.SQL("{0} = EXCLUDED.{0}").format(name) for name in names)
        values = [rows[field.name].to_pylist() for field in self._record.fields]
        values += [self._sent(rows[EMBEDDING]), rows[SPACE].to_pylist(), rows[DIGEST].to_pylist()]
        kinds = [_TYPES[kind] for kind in (self._record.id_type, *self._record.payload.values())]
        incoming = sql.Identifier("pg_temp", _INCOMING)
        with self._said(), self._connection.transaction():
            self._execute(
                "CREATE TEMPORARY TABLE IF NOT EXISTS {} ON COMMIT DELETE ROWS AS SELECT {} FROM {} WITH NO DATA",
                *(sql.Identifier(_INCOMING), listed, self._table),
            )
            statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(incoming, listed)
            with self._connection.cursor().copy(statement) as copy:
                copy.set_types([*kinds, "bytea", "text", "bytea"])  # an embedding: its own binary form
                for row in zip(*values, strict=True):
                    copy.write_row(row)
            # In the order of ids: two runs that wait for each other's rows would never end.
            self._execute(
                "INSERT INTO {} ({}) SELECT {} FROM {} ORDER BY id ON CONFLICT (id) DO UPDATE SET {}",
                *(self._table, listed, listed, incoming, replaced),
            )

    def finish(self) -> None:
        """Nothing is left to do: PostgreSQL tidies up by itself."""

    def nearest(self, queries: np.ndarray, k: int) -> pa.Table:
        found = sql.SQL(
            "SELECT _query - 1, found.* FROM unnest(%s::text[]::{}[]) WITH ORDINALITY asked (embedding, _query) "
            "CROSS JOIN LATERAL (SELECT embedding {} asked.embedding AS distance, {} FROM {} ORDER BY 1 LIMIT %s) "
            "found ORDER BY 1, 2"
        ).format(
            _vector(self._record),
            sql.SQL("<~>" if self._record.encoding == "binary" else "<->"),
            sql.SQL(", ").join(sql.Identifier(field.name.replace("%", "%%")) for field in self._record.fields),
            self._table,
        )
        with self._said(), self._connection.transaction():
            self._execute("SET LOCAL enable_indexscan = off")  # exact, whatever index there is
            self._execute("SET LOCAL timezone = 'UTC'")  # in others the first and last days are beyond Python's years
            rows = self._connection.execute(found, [[self._text(query) for query in queries], k]).fetchall()
        schema = self._record.found
        columns = zip(*rows, strict=True) if rows else [()] * len(schema)
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)

    def close(self) -> None:
        self._connection.close()

    def _sent(self, embeddings: pa.ChunkedArray) -> list[bytes]:
        """As pgvector takes it in binary: the size, then big-endian numbers, or bits."""
        numbers = embeddings.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        size = self._record.embedding_size
        header = size.to_bytes(4, "big") if self._record.encoding == "binary" else size.to_bytes(2, "big") + bytes(2)
        values = numbers.reshape(len(embeddings), -1)
        values = values.astype(values.dtype.newbyteorder(">"))
        return [header + row.tobytes() for row in values]

    def _text(self, query: np.ndarray) -> str:
        if self._record.encoding == "binary":
            return "".join(map(str, np.unpackbits(query)[: self._record.embedding_size]))
        return str(query.tolist())

    def _row(self, query: str, *values: object) -> tuple[Any, ...]:
        with self._said():
            (row,) = self._connection.execute(query.encode(), values).fetchall()
        return row

    def _execute(self, statement: str, *parts: sql.Composable) -> None:
        self._connection.execute(sql.SQL(statement).format(*parts))

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            too_large = isinstance(error, psycopg.errors.ProgramLimitExceeded)  # an id of thousands of characters
            failed = isinstance(error, psycopg.OperationalError) and not too_large
            kind = StoreUnavailable if failed else StoreError
            raise kind(f"{self.index}: {str(error).partition(chr(10))[0]}") from None


def _place(terms: Mapping[str, Any]) -> str:
    """USER@HOST:PORT/DATABASE of a URI's terms, as libpq takes it: a host may be a socket's folder, or several."""
    user, host, port, database = (f"{terms.get(key, '')}" for key in ("user", "host", "port", "dbname"))
    hosts = [f"[{one}]" if ":" in one else quote(one, safe="") for one in host.split(",")]
    ports = port.split(",") if "," in port else [port] * len(hosts)
    places = ",".join(f"{one}:{number}" if number else one for one, number in zip(hosts, ports, strict=False))
    whose = f"{quote(user, safe='')}@" if user else ""
    return f"{whose}{places}/{quote(database, safe='')}"


def _vector(record: Record) -> sql.SQL:
    kind = {"float32": "vector", "float16": "halfvec", "int8": "halfvec", "binary": "bit"}[record.encoding]
    return sql.SQL(f"{kind}({record.embedding_size})")
