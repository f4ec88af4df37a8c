"""What every vector store offers, whatever its own interface."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pyarrow as pa

from hourglass.stores.record import Record


class Store(Protocol):
    """One index in one store: a table or a collection. Used by one thread, the one that opened it.

    index: the index, for people, without what is secret of its URI. All methods raise StoreError.
    """

    index: str

    def record(self) -> Record | None:
        """The index's record; None where nothing of that name is there. Raises StoreError where something else is."""

    def names(self) -> list[str]:
        """What else is there that could be an index."""

    def create(self, record: Record) -> None:
        """Makes the index, empty, and its record, at once: there is never one without the other."""

    def digests(self, ids: pa.Array) -> dict[int | str, bytes]:
        """Of those ids that are there, the row_digest."""

    def write(self, rows: pa.Table, *, new: bool) -> None:
        """Adds rows of the record's schema, and replaces those whose ids are there; all or, when killed, as many as
        the store writes at once. new: no id is there."""

    def finish(self) -> None:
        """After the last write."""

    def nearest(self, queries: np.ndarray, k: int) -> pa.Table:
        """Of queries [q, width] as they are stored, the k nearest, exactly, of the record's `found`: _query (int64,
        0-based), distance (float64: Euclidean, in the numbers stored, or how many bits differ), and its fields; by
        query, nearest first."""

    def close(self) -> None: ...
