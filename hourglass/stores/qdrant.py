"""Qdrant: a server, or a folder by which to try things out."""

from __future__ import annotations

import json
import math
import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from hourglass.stores.errors import StoreError, StoreUnavailable
from hourglass.stores.record import DIGEST, EMBEDDING, ID, Record, read

_PORT = 6333
_SECONDS = 60
_BATCH = 512  # points of a message, which has at most 32 MB
_METADATA = "hourglass"  # of the collection
_NAMESPACE = uuid.UUID("8f0f3c0e-6f6b-5d1c-9d5e-6d1a2f0b7c11")  # of UUIDs that stand for ids


class QdrantStore:
    """A collection. A point's id is an id that is a whole number, modulo 2^64, or the UUIDv5 of one that is text; the
    id itself is in the payload."""

    def __init__(self, uri: str, name: str) -> None:
        try:
            parts = urlsplit(uri)
            host, port = parts.hostname, parts.port or _PORT
        except ValueError:
            parts, host = None, None
        if parts is None or parts.username or parts.password or parts.query or (host and parts.path not in ("", "/")):
            raise StoreError(
                "not a URI of Qdrant: qdrant://HOST:PORT, qdrant+https://HOST, qdrant:///FOLDER; a key is "
                "taken from QDRANT_API_KEY"
            )
        self._name, self._local = name, not host
        self.index = f"{parts.scheme}://{f'{host}:{port}' if host else parts.path}#{name}"
        if self._local and Path(parts.path).is_file():
            raise StoreError(f"{self.index}: {parts.path} is a file, and an index lies in a folder: name one")
        with self._said():
            if self._local:
                self._client = QdrantClient(path=parts.path)
                return
            # Without a warning of many lines that a key goes over http: docs/vector-search.md says so.
            with warnings.catch_warnings(action="ignore"):
                self._client = QdrantClient(
                    host=host,
                    port=port,
                    https=parts.scheme == "qdrant+https",
                    api_key=os.environ.get("QDRANT_API_KEY"),
                    timeout=_SECONDS,
                    check_compatibility=False,
                )

    def record(self) -> Record | None:
        with self._said():
            if not self._client.collection_exists(self._name):
                return None
            metadata = self._client.get_collection(self._name).config.metadata or {}
        self._record = read(json.dumps(metadata.get(_METADATA)), self.index)
        return self._record

    def names(self) -> list[str]:
        with self._said():
            return [collection.name for collection in self._client.get_collections().collections]

    def create(self, record: Record) -> None:
        size, binary = record.embedding_size, record.encoding == "binary"
        kind = {"float32": models.Datatype.FLOAT32, "binary": models.Datatype.UINT8}
        params = models.VectorParams(
            size=size,
            # Qdrant has no bits: each is a number, 0 or 1, and the sum of differences says how many are not the same.
            distance=models.Distance.MANHATTAN if binary else models.Distance.EUCLID,
            datatype=kind.get(record.encoding, models.Datatype.FLOAT16),
        )
        with self._said():
            self._client.create_collection(
                self._name, vectors_config=params, metadata={_METADATA: record.model_dump(mode="json")}
            )
        self._record = record

    def digests(self, ids: pa.Array) -> dict[int | str, bytes]:
        points = [_point(value) for value in ids.to_pylist()]
        with self._said():
            found = self._client.retrieve(self._name, points, with_payload=[ID, DIGEST])
        payloads = [point.payload for point in found if point.payload]
        return {payload[ID]: bytes.fromhex(payload[DIGEST]) for payload in payloads}

    def write(self, rows: pa.Table, *, new: bool) -> None:
        vectors = self._sent(rows[EMBEDDING].combine_chunks().flatten().to_numpy(zero_copy_only=False))
        payloads = rows.drop_columns([EMBEDDING]).to_pylist()
        for start in range(0, len(payloads), _BATCH):
            part = slice(start, start + _BATCH)
            batch = models.Batch(
                ids=[_point(payload[ID]) for payload in payloads[part]],
                vectors=vectors[part].tolist(),
                payloads=[{name: self._json(name, cell) for name, cell in row.items()} for row in payloads[part]],
            )
            with self._said():
                self._client.upsert(self._name, batch, wait=True)

    def finish(self) -> None:
        """Nothing is left to do: Qdrant tidies up by itself."""

    def nearest(self, queries: np.ndarray, k: int) -> pa.Table:
        names = [field.name for field in self._record.fields]
        exact = None if self._local else models.SearchParams(exact=True)  # a folder's always is
        found: list[list[Any]] = [[] for _ in range(2 + len(names))]
        for start in range(0, len(queries), _BATCH):
            requests = [
                models.QueryRequest(query=vector, limit=k, with_payload=True, params=exact)
                for vector in self._sent(queries[start : start + _BATCH]).tolist()
            ]
            with self._said():
                answers = self._client.query_batch_points(self._name, requests)
            for query, answer in enumerate(answers, start):
                for point in answer.points:
                    payload = point.payload or {}
                    row = (query, point.score, *(self._cell(name, payload.get(name)) for name in names))
                    for column, cell in zip(found, row, strict=True):
                        column.append(cell)
        schema = self._record.found
        return pa.table([pa.array(c, f.type) for c, f in zip(found, schema, strict=True)], schema=schema)

    def close(self) -> None:
        self._client.close()

    def _sent(self, values: np.ndarray) -> np.ndarray:
        """float32 [n, embedding_size], or of bits uint8."""
        rows = values.reshape(-1, self._record.width)
        if self._record.encoding == "binary":
            return np.unpackbits(rows, axis=1, count=self._record.embedding_size)
        return rows.astype(np.float32)

    def _json(self, name: str, cell: Any) -> Any:
        if isinstance(cell, float) and not math.isfinite(cell):
            raise StoreError(
                f"{self.index}: the column {name!r} holds {cell}, which Qdrant does not take: leave it empty"
            )
        if isinstance(cell, date):  # and datetime, which is one
            return cell.isoformat()
        return cell.hex() if isinstance(cell, bytes) else cell

    def _cell(self, name: str, cell: Any) -> Any:
        kind = self._record.payload.get(name)
        if cell is None or kind not in ("date", "timestamp", "timestamp_utc"):
            return cell
        return date.fromisoformat(cell) if kind == "date" else datetime.fromisoformat(cell)

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except UnexpectedResponse as error:
            kind = (
                StoreUnavailable if error.status_code in (401, 403) or (error.status_code or 500) >= 500 else StoreError
            )
            key = ": is QDRANT_API_KEY right?" if error.status_code in (401, 403) else ""
            raise kind(f"{self.index}: {error.status_code} {error.reason_phrase}{key}") from None
        except (ApiException, OSError, RuntimeError) as error:
            raise StoreUnavailable(f"{self.index}: {error}") from None
        except ValueError as error:
            raise StoreError(f"{self.index}: {error}") from None


def _point(value: int | str) -> int | str:
    return value % 2**64 if isinstance(value, int) else str(uuid.uuid5(_NAMESPACE, value))
