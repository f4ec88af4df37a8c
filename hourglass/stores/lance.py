"""LanceDB: a folder on disk, without a server."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import BTree

from hourglass.stores.errors import StoreError, StoreUnavailable
from hourglass.stores.record import DIGEST, DISTANCE, EMBEDDING, ID, QUERY, Record, read

_MOST_FRAGMENTS = 64
_ID_INDEX = f"{ID}_idx"
_MOST_UNINDEXED = 65_536  # rows
_METADATA = b"hourglass"  # of the table's schema
_QUERY_INDEX = "query_index"  # LanceDB's own, in what it answers to several queries


class LanceStore:
    """A table."""

    def __init__(self, uri: str, name: str) -> None:
        self._path, self._name = Path(uri.removeprefix("lancedb://")), name
        self.index = f"lancedb://{self._path}#{name}"
        if self._path.is_file():
            raise StoreError(
                f"{self.index}: {self._path} is a file, and LanceDB keeps its indices in a folder: name one"
            )
        self._database: Any = None
        self._table: Any = None
        self._unindexed: int | None = None
        self._lock: int | None = None

    def record(self) -> Record | None:
        if self._name not in self.names():
            return None
        with self._said():
            self._table = self._connected().open_table(self._name)
            metadata = self._table.schema.metadata or {}
        self._record = read(metadata.get(_METADATA, b"").decode(), self.index)
        return self._record

    def names(self) -> list[str]:
        # By hand: to connect would make the folder, and LanceDB lists a table that a kill left without a version.
        return [table.stem for table in self._path.glob("*.lance") if any(table.glob("_versions/*.manifest"))]

    def create(self, record: Record) -> None:
        for name in record.payload:
            if not name or set(name) & set(".`") or name == _QUERY_INDEX:
                raise StoreError(
                    f"{self.index}: LanceDB's columns are not called {name!r}, nor anything with '.' or '`': rename it"
                )
        with self._said():
            schema = record.schema.with_metadata({_METADATA: record.model_dump_json()})
            self._table = self._connected().create_table(self._name, schema=schema)
        self._record = record

    def digests(self, ids: pa.Array) -> dict[int | str, bytes]:
        self._alone()
        listed = ",".join(map(_literal, ids.to_pylist()))
        with self._said():
            self._index_ids()
            there = self._table.search().where(f"{ID} IN ({listed})").select([ID, DIGEST]).limit(None).to_arrow()
        return dict(zip(there[ID].to_pylist(), there[DIGEST].to_pylist(), strict=True))

    def write(self, rows: pa.Table, *, new: bool) -> None:
        self._alone()
        self._unindexed = None if self._unindexed is None else self._unindexed + len(rows)
        with self._said():
            if new:
                self._table.add(rows)
            else:
                self._table.merge_insert(ID).when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def finish(self) -> None:
        with self._said():
            if self._table.stats()["fragment_stats"]["num_small_fragments"] > _MOST_FRAGMENTS:
                self._table.optimize()  # what was written in many pieces becomes few

    def nearest(self, queries: np.ndarray, k: int) -> pa.Table:
        binary = self._record.encoding == "binary"
        columns = [field.name for field in self._record.fields]
        with self._said():
            search = self._table.search(list(queries), vector_column_name=EMBEDDING)
            search = search.distance_type("hamming" if binary else "l2").bypass_vector_index()
            # Of one query there is no such column.
            most = max(1, min(k, self._table.count_rows()))  # Lance makes room for as many as it is asked for
            found = search.select([*columns, "_distance"]).limit(most).to_arrow()
        # Of one query there is no such column.
        query = found[_QUERY_INDEX] if _QUERY_INDEX in found.column_names else pa.repeat(0, len(found))
        distance = found["_distance"].to_numpy().astype(np.float64)
        table = pa.table(
            [query, pa.array(distance if binary else np.sqrt(distance)), *(found[name] for name in columns)],
            schema=self._record.found,
        )
        return table.sort_by([(QUERY, "ascending"), (DISTANCE, "ascending")])

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _alone(self) -> None:
        """From here on no other run writes: two that add the same rows would double them. Ends with the process."""
        if self._lock is not None or sys.platform == "win32":
            return
        import fcntl

        with self._said():
            lock = os.open(self._path / f"{self._name}.lance", os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise StoreUnavailable(
                f"{self.index} is being written by another run, and LanceDB takes one at a time: wait for it"
            ) from None
        except OSError:
            pass  # a file system without locks
        self._lock = lock
        with self._said():
            self._table.checkout_latest()  # with what another wrote before

    def _connected(self) -> Any:
        if self._database is None:
            self._database = lancedb.connect(self._path)
        return self._database

    def _index_ids(self) -> None:
        """Without an index, every lookup reads all ids."""
        if self._unindexed is None:
            stats = self._table.index_stats(_ID_INDEX)
            self._unindexed = self._table.count_rows() if stats is None else stats.num_unindexed_rows
        if self._unindexed > _MOST_UNINDEXED:
            self._table.create_index(ID, config=BTree(), name=_ID_INDEX)
            self._unindexed = 0

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            kind = StoreError if isinstance(error, ValueError) else StoreUnavailable
            reason = re.sub(r",? \S+\.rs:\d+.*", "", str(error).partition("\n")[0])  # where in Lance's source
            raise kind(f"{self.index}: {reason}") from error


def _literal(value: int | str) -> str:
    if isinstance(value, str):
        return "'{}'".format(value.replace("'", "''"))
    return f"{value + 1} - 1" if value == -(2**63) else f"{value}"  # it is read without its sign first
