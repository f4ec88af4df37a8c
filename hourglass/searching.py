"""The nearest neighbours of rows, in an index and with the model that made it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np

from hourglass.arrow import pa
from hourglass.client import Client, blocking
from hourglass.columns import Named, RowsLike
from hourglass.messages import Embeddings
from hourglass.models import ModelInfo
from hourglass.rows import array_of
from hourglass.stores import Record, StoreError, open_store
from hourglass.stores.record import DISTANCE, EMBEDDING, QUERY, RANK, ROW

_QUERIES = 256  # are looked for at once


class Index:
    """An index that is there. record: what it holds. model: the version that rows are embedded with. A context manager.

    model: default: the one that made the index. version: default: the newest. Raises StoreError where there is no
    index, or where its embeddings are of another embedding space; methods also HourglassError, TypeError or ValueError
    for rows that will not do, and ValueError once the index is closed.
    """

    def __init__(self, client: Client, at: str, *, model: str | None = None, version: int | None = None) -> None:
        self._client, self._closed = blocking(client), False
        self._store = open_store(at)
        self.name = self._store.index
        try:
            record = self._store.record()
            if record is None:
                there = ", ".join(sorted(self._store.names())) or "nothing"
                raise StoreError(f"{self.name} is not there; what is there: {there}")
            self.record: Record = record
            self.model = self._version(model or record.model, version)
        except BaseException:
            self._store.close()
            raise

    @property
    def schema(self) -> pa.Schema:
        """Of what is found: row (int64, of the question, from 0), rank (int64, from 1), id, distance (float64) and the
        payload."""
        identity, *payload = self.record.fields
        return pa.schema([(ROW, pa.int64()), (RANK, pa.int64()), identity, pa.field(DISTANCE, pa.float64()), *payload])

    @property
    def rows_per_message(self) -> int:
        """How many rows a batch may have."""
        return self._client.rows_per_message(self.model.model.name, self.model.model.version)

    def nearest(self, rows: RowsLike, k: int = 10) -> pa.Table:
        """rows: as for `Client.embed`. Each one's k nearest, of `schema`; distances are Euclidean, in units of the
        embedding, or of binary embeddings how many bits differ."""
        self._check(k)
        if Named.of(rows) is None and (shape := array_of(rows).array.shape) == self.model.row_shape:
            raise ValueError(f"this is one row, of the shape {list(shape)}: write [row], an array of one")
        answer = self._client.embed(self.model.model.name, rows, version=self.model.model.version, **self._options())
        return pa.concat_tables(self._found(answer, 0, k))

    def nearest_batches(self, batches: Iterable[RowsLike], k: int = 10) -> Iterator[pa.Table]:
        """As `nearest`, for batches as `Client.embed_batches` takes them; rows are counted over all of them."""
        self._check(k)
        version, first = self.model.model, 0
        for answer in self._client.embed_batches(version.name, batches, version=version.version, **self._options()):
            yield from self._found(answer, first, k)
            first += len(answer.values)

    def _version(self, name: str, version: int | None) -> ModelInfo:
        asked = self._client.model(name, version)
        space = self.record.embedding_space_id
        if asked.model.embedding_space_id == space:
            return asked
        fits = [info.model for info in self._client.models() if info.model.embedding_space_id == space]
        others = ", ".join(f"--model {model.name} --version {model.version}" for model in fits)
        raise StoreError(
            f"{self.name} holds embeddings of the embedding space {space} (model {self.record.model!r}), and version "
            f"{asked.model.version} of {name!r} makes those of {asked.model.embedding_space_id}: make another index "
            f"with `hourglass embed`{others and f', or search with what made this one: {others}'}"
        )

    def _options(self) -> dict[str, Any]:
        return {
            "normalize": self.record.normalized,
            "encoding": self.record.encoding,
            "require_space_id": self.record.embedding_space_id,
        }

    def _check(self, k: int) -> None:
        if self._closed:
            raise ValueError(f"{self.name} is closed: open it again")
        if k < 1:
            raise ValueError(f"k is {k}: at least one neighbour")

    def _found(self, answer: Embeddings, first: int, k: int) -> Iterator[pa.Table]:
        made = {"scale": answer.scale, "encoding": answer.encoding, "normalized": answer.normalized}
        self.record.require(self.record.model_copy(update=made), self.name, "make another index with `hourglass embed`")
        kind = self.record.schema.field(EMBEDDING).type.value_type.to_pandas_dtype()
        for start in range(0, len(answer.values), _QUERIES):
            queries = answer.values[start : start + _QUERIES].astype(kind, copy=False)
            yield self._ranked(self._store.nearest(queries, k), first + start)

    def _ranked(self, found: pa.Table, first: int) -> pa.Table:
        query, distance = found[QUERY].to_numpy(), found[DISTANCE].to_numpy()
        rank = np.arange(len(query)) - np.searchsorted(query, query) + 1
        identity, *payload = (found[field.name] for field in self.record.fields)
        columns = [pa.array(query + first), pa.array(rank), identity, pa.array(distance * (self.record.scale or 1))]
        return pa.table([*columns, *payload], schema=self.schema)

    def close(self) -> None:
        self._closed = True
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
