"""What every output of a command does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from hourglass.batches import Taken
from hourglass.client import Client
from hourglass.files.cells import value_of
from hourglass.messages import Embeddings, Generated, Reconstructions, Scores
from hourglass.models import ModelInfo

A = TypeVar("A", Embeddings, Generated, Reconstructions, Scores)


class Output(ABC, Generic[A]):
    """schema: the table's columns. row_shape: of the numbers in an .npy. A few rows are kept to be shown.

    taken: where an answer's rows are from, whose good rows they are; None where they are drawn.
    """

    schema: pa.Schema
    row_shape: tuple[int, ...]
    ends: tuple[str, str] | None = None
    """Of windows of a file's rows: what their first and their last are known by, such as "first time"."""

    def __init__(self, model: ModelInfo) -> None:
        self._model = model.model
        self._rows = 0

    @property
    def metadata(self) -> dict[str, str]:
        """Of the table's schema: what the numbers are from."""
        return {"hourglass.model": self._model.name, "hourglass.version": f"{self._model.version}"}

    def rows_per_message(self, client: Client) -> int:
        """How many rows to ask for at once."""
        return client.rows_per_message(self._model.name, self._model.version)

    @abstractmethod
    def ask(self, client: Client, batches: Iterable[np.ndarray]) -> Iterator[A]:
        """One answer for each batch; rows that are drawn come without batches."""

    @abstractmethod
    def numbers(self, answer: A, taken: Taken | None) -> np.ndarray:
        """float32 [n, *row_shape]."""

    @abstractmethod
    def arrays(self, answer: A, taken: Taken | None) -> list[pa.Array]:
        """The table's columns."""

    @abstractmethod
    def see(self, answer: A, taken: Taken | None, ids: Sequence[pa.Array]) -> None:
        """Takes note of an answer; ids: of its rows, where there are; of windows, of both ends."""

    @property
    def _what(self) -> str:
        return "windows" if self.ends else "rows"

    @property
    def _headers(self) -> tuple[str, str]:
        """Of `_labels`."""
        return self.ends or ("row", "id")

    def _labels(self, place: int, ids: Sequence[pa.Array], i: int) -> tuple[str, ...]:
        names: tuple[str, ...] = tuple(str(value_of(column, i)) for column in ids) or ("",)
        return names if self.ends else (f"{place}", *names)

    def _places(self, count: int, taken: Taken | None) -> np.ndarray:
        """Where an answer's rows stand in the whole: int [n]."""
        return np.arange(count) + self._rows if taken is None else taken.batch.first_row + np.flatnonzero(taken.good)

    @abstractmethod
    def show(self, console: Console, rows: bool) -> None:
        """The summary, and before it the rows that were kept."""


def without_empty_ids(table: Table) -> Table:
    table.columns = [column for column in table.columns if column.header != "id" or any(column.cells)]
    return table
