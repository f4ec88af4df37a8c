"""What each command asks for, writes and shows."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from hourglass.client import Client
from hourglass.files.rows import value_of
from hourglass.messages import Embeddings, Generated, ModelInfo, Reconstructions, Scores

_TOP = 10
_FIRST_ROWS, _FIRST_NUMBERS = 3, 8
_LABELS = ("row", "id")

A = TypeVar("A", Embeddings, Generated, Reconstructions, Scores)


class Output(ABC, Generic[A]):
    """schema: the table's columns. row_shape: of the numbers in an .npy. A few rows are kept to be shown."""

    schema: pa.Schema
    row_shape: tuple[int, ...]

    def __init__(self, model: ModelInfo) -> None:
        self._model = model.model
        self._rows = 0

    @abstractmethod
    def ask(self, client: Client, batches: Iterable[np.ndarray]) -> Iterator[A]:
        """One answer for each batch; rows that are drawn come without batches."""

    @abstractmethod
    def numbers(self, answer: A) -> np.ndarray:
        """float32 [n, *row_shape]."""

    @abstractmethod
    def arrays(self, answer: A) -> list[pa.Array]:
        """The table's columns."""

    @abstractmethod
    def see(self, answer: A, ids: pa.Array | None) -> None:
        """Takes note of an answer; ids: of its rows."""

    @abstractmethod
    def show(self, console: Console, rows: bool) -> None:
        """The summary, and before it the rows that were kept."""


class ScoreOutput(Output[Scores]):
    """score, p_value, is_anomaly."""

    schema = pa.schema([("score", pa.float32()), ("p_value", pa.float32()), ("is_anomaly", pa.bool_())])
    row_shape = ()

    def __init__(self, model: ModelInfo, false_alarm_rate: float | None) -> None:
        super().__init__(model)
        self._asked_rate = false_alarm_rate
        self._anomalies = 0
        # (score, -row, p-value, verdict, id): the most anomalous first, and of equal ones the earlier
        self._top: list[tuple[float, int, float, bool, str]] = []
        self._threshold = self._rate = float("nan")

    def ask(self, client: Client, batches: Iterable[np.ndarray]) -> Iterator[Scores]:
        version = self._model.version
        return client.score_batches(self._model.name, batches, version=version, false_alarm_rate=self._asked_rate)

    def numbers(self, answer: Scores) -> np.ndarray:
        return answer.score

    def arrays(self, answer: Scores) -> list[pa.Array]:
        return [pa.array(values) for values in (answer.score, answer.p_value, answer.is_anomaly)]

    def see(self, answer: Scores, ids: pa.Array | None) -> None:
        for i in np.argsort(-answer.score, kind="stable")[:_TOP].tolist():
            row_id = "" if ids is None else str(value_of(ids, i))
            verdict = bool(answer.is_anomaly[i])
            row = (float(answer.score[i]), -(self._rows + i), float(answer.p_value[i]), verdict, row_id)
            (heapq.heappush if len(self._top) < _TOP else heapq.heappushpop)(self._top, row)
        self._rows += len(answer.score)
        self._anomalies += int(answer.is_anomaly.sum())
        self._threshold, self._rate = answer.threshold, answer.false_alarm_rate

    def show(self, console: Console, rows: bool) -> None:
        if rows:
            table = Table(*_LABELS, "score", "p-value", "verdict", title="the most anomalous rows (the first is 0)")
            for score, row, p_value, is_anomaly, row_id in sorted(self._top, reverse=True):
                verdict = "anomaly" if is_anomaly else "normal"
                table.add_row(f"{-row}", row_id, f"{score:.6g}", f"{p_value:.4g}", verdict)
            console.print(_without_empty_ids(table))
        console.print(
            f"{self._model.name} version {self._model.version}: {self._anomalies:,} of {self._rows:,} rows are "
            f"anomalies (score > {self._threshold:.6g}, false-alarm rate {self._rate:g})"
        )


class _ValuesOutput(Output[A]):
    """One column for each number of a row."""

    def __init__(self, model: ModelInfo, row_shape: tuple[int, ...], names: list[str]) -> None:
        super().__init__(model)
        self.row_shape = row_shape
        self.schema = pa.schema([(name, pa.float32()) for name in names])
        self._first: list[tuple[str, list[float]]] = []

    def numbers(self, answer: Any) -> np.ndarray:
        values: np.ndarray = answer.values
        return values

    def arrays(self, answer: A) -> list[pa.Array]:
        values = self.numbers(answer)
        return [pa.array(column) for column in np.ascontiguousarray(values.reshape(len(values), -1).T)]

    def see(self, answer: A, ids: pa.Array | None) -> None:
        values = self.numbers(answer)
        for i in range(min(len(values), _FIRST_ROWS - len(self._first))):
            row_id = "" if ids is None else str(value_of(ids, i))
            self._first.append((row_id, values[i].ravel()[:_FIRST_NUMBERS].tolist()))
        self._rows += len(values)

    def show(self, console: Console, rows: bool) -> None:
        if rows:
            more = len(self.schema) - _FIRST_NUMBERS
            table = Table(*_LABELS, f"numbers{f' (and {more:,} more)' if more > 0 else ''}", title="the first rows")
            for row, (row_id, values) in enumerate(self._first):
                table.add_row(f"{row}", row_id, "  ".join(f"{value:.4g}" for value in values))
            console.print(_without_empty_ids(table))
        shape = "×".join(f"{size:,}" for size in (self._rows, *self.row_shape))
        console.print(
            f"{self._model.name} version {self._model.version}: {shape} numbers, embedding space "
            f"{self._model.embedding_space_id}"
        )


class EmbedOutput(_ValuesOutput[Embeddings]):
    """embedding_0, embedding_1, …"""

    def __init__(self, model: ModelInfo) -> None:
        size = model.embedding_size
        super().__init__(model, (size,), [f"embedding_{i}" for i in range(size)])

    def ask(self, client: Client, batches: Iterable[np.ndarray]) -> Iterator[Embeddings]:
        return client.embed_batches(self._model.name, batches, version=self._model.version)


class DenoiseOutput(_ValuesOutput[Reconstructions]):
    """The input's own columns, denoised."""

    def ask(self, client: Client, batches: Iterable[np.ndarray]) -> Iterator[Reconstructions]:
        return client.denoise_batches(self._model.name, batches, version=self._model.version)


class GenerateOutput(_ValuesOutput[Generated]):
    """The columns of a row, drawn."""

    def __init__(self, model: ModelInfo, names: list[str], rows: int, seed: int | None) -> None:
        super().__init__(model, model.row_shape, names)
        self._asked, self._seed = rows, seed

    def ask(self, client: Client, batches: Iterable[np.ndarray] = ()) -> Iterator[Generated]:
        model = self._model
        return client.generate_batches(model.name, self._asked, seed=self._seed, version=model.version)

    def see(self, answer: Generated, ids: pa.Array | None) -> None:
        self._seed = answer.seed if self._seed is None else self._seed
        super().see(answer, ids)

    def show(self, console: Console, rows: bool) -> None:
        super().show(console, rows)
        console.print(f"seed {self._seed}")


def _without_empty_ids(table: Table) -> Table:
    table.columns = [column for column in table.columns if column.header != "id" or any(column.cells)]
    return table
