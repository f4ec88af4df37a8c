"""Embeddings and rows, as they are asked for, written and shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from hourglass.batches import Taken
from hourglass.client import Client
from hourglass.contract.schema import Column, Schema, category
from hourglass.files.encoding import cells
from hourglass.messages import Embeddings, Generated, Reconstructions
from hourglass.models import ModelInfo
from hourglass.outputs.output import A, Output, without_empty_ids

_FIRST_ROWS, _FIRST_NUMBERS = 3, 8


class _ValuesOutput(Output[A]):
    """One column for each number of a row."""

    def __init__(self, model: ModelInfo, row_shape: tuple[int, ...], columns: Sequence[pa.Field]) -> None:
        super().__init__(model)
        self.row_shape = row_shape
        self.schema = pa.schema(columns)
        self._first: list[tuple[tuple[str, ...], list[str]]] = []

    def numbers(self, answer: Any, taken: Taken | None) -> np.ndarray:
        values: np.ndarray = answer.values
        return values

    def arrays(self, answer: A, taken: Taken | None) -> list[pa.Array]:
        values = self.numbers(answer, taken)
        return [pa.array(column) for column in np.ascontiguousarray(values.reshape(len(values), -1).T)]

    def see(self, answer: A, taken: Taken | None, ids: Sequence[pa.Array]) -> None:
        places = self._places(len(self.numbers(answer, taken)), taken)
        more = min(len(places), _FIRST_ROWS - len(self._first))
        columns = self.arrays(answer, taken)[:_FIRST_NUMBERS] if more else []
        for i in range(more):
            labels = self._labels(int(places[i]), ids, i)
            self._first.append((labels, [_shown(column[i].as_py()) for column in columns]))
        self._rows += len(places)

    def show(self, console: Console, rows: bool) -> None:
        if rows:
            more = len(self.schema) - _FIRST_NUMBERS
            numbers = f"numbers{f' (and {more:,} more)' if more > 0 else ''}"
            table = Table(*self._headers, numbers, title=f"the first {self._what}")
            for labels, cells in self._first:
                table.add_row(*labels, "  ".join(cells))
            console.print(without_empty_ids(table))
        shape = "×".join(f"{size:,}" for size in (self._rows, *self.row_shape))
        console.print(
            f"{self._model.name} version {self._model.version}: {shape} numbers, embedding space "
            f"{self._model.embedding_space_id}"
        )


class EmbedOutput(_ValuesOutput[Embeddings]):
    """embedding_0, embedding_1, …"""

    def __init__(self, model: ModelInfo, normalize: bool) -> None:
        size = model.embedding_size
        super().__init__(model, (size,), [pa.field(f"embedding_{i}", pa.float32()) for i in range(size)])
        self._normalize = normalize

    @property
    def metadata(self) -> dict[str, str]:
        return super().metadata | {
            "hourglass.embedding_space_id": self._model.embedding_space_id,
            "hourglass.normalized": str(self._normalize).lower(),
        }

    def ask(self, client: Client, batches: Iterable[np.ndarray]) -> Iterator[Embeddings]:
        return client.embed_batches(self._model.name, batches, version=self._model.version, normalize=self._normalize)


class _RowsOutput(_ValuesOutput[A]):
    """Rows of the model, in columns of the schema's types where it has one."""

    def __init__(self, model: ModelInfo, columns: Sequence[Column]) -> None:
        types = {"numeric": pa.float32(), "boolean": pa.bool_(), "categorical": pa.string()}
        super().__init__(model, model.row_shape, [pa.field(column.name, types[column.type]) for column in columns])
        self._types = Schema(tuple(columns))

    def arrays(self, answer: Any, taken: Taken | None) -> list[pa.Array]:
        values: np.ndarray = answer.values
        decoded = self._types.decode(values.reshape(len(values), -1))
        return [pa.array(cells, field.type) for (_, cells), field in zip(decoded, self.schema, strict=True)]


class DenoiseOutput(_RowsOutput[Reconstructions]):
    """The input's own columns, denoised."""

    def ask(self, client: Client, batches: Iterable[np.ndarray]) -> Iterator[Reconstructions]:
        return client.denoise_batches(self._model.name, batches, version=self._model.version)


class FillOutput(DenoiseOutput):
    """The input's own columns as they are, and what the model says where a cell is missing."""

    def __init__(self, model: ModelInfo, columns: Sequence[Column]) -> None:
        super().__init__(model, columns)
        wide = [field.with_type(pa.float64()) if field.type == pa.float32() else field for field in self.schema]
        self.schema = pa.schema(wide)
        self._filled = 0

    def numbers(self, answer: Reconstructions, taken: Taken | None) -> np.ndarray:
        assert taken is not None
        own = taken.rows[taken.good]
        filled: np.ndarray = np.where(np.isnan(own), answer.values, own)
        return filled

    def arrays(self, answer: Reconstructions, taken: Taken | None) -> list[pa.Array]:
        assert taken is not None
        rows, good = taken.rows[taken.good], taken.good
        arrays = []
        for (i, column), values in zip(enumerate(self._types.columns), super().arrays(answer, taken), strict=True):
            if column.type == "boolean":
                [(_, own)] = Schema((column,)).decode(rows[:, i : i + 1])
                arrays.append(pc.coalesce(pa.array(own, pa.bool_()), values))
            elif column.type == "categorical":
                arrays.append(pc.coalesce(pa.array(_texts(cells(taken.batch, column)[good]), pa.string()), values))
            else:
                numbers = cells(taken.batch, column)[good]
                missing = np.isnan(numbers)
                # By way of text: 12.3, not 12.300000190734863.
                numbers[missing] = answer.values[missing, i].astype(str).astype(np.float64)
                arrays.append(pa.array(numbers))
        return arrays

    def see(self, answer: Reconstructions, taken: Taken | None, ids: Sequence[pa.Array]) -> None:
        assert taken is not None
        self._filled += int(np.isnan(taken.rows[taken.good]).sum())
        super().see(answer, taken, ids)

    def show(self, console: Console, rows: bool) -> None:
        super().show(console, rows)
        console.print(f"{self._filled:,} missing cells filled in")


def _texts(cells: np.ndarray) -> np.ndarray:
    """object [n]: categories as texts, None where one is missing."""
    if cells.dtype.kind == "O":
        return cells
    return np.array([None if np.isnan(number) else category(number) for number in cells.tolist()], dtype=object)


class GenerateOutput(_RowsOutput[Generated]):
    """The columns of a row, drawn."""

    def __init__(self, model: ModelInfo, columns: Sequence[Column], rows: int, seed: int | None) -> None:
        super().__init__(model, columns)
        self._asked, self._seed = rows, seed

    def ask(self, client: Client, batches: Iterable[np.ndarray] = ()) -> Iterator[Generated]:
        model = self._model
        return client.generate_batches(model.name, self._asked, seed=self._seed, version=model.version)

    def see(self, answer: Generated, taken: Taken | None, ids: Sequence[pa.Array]) -> None:
        self._seed = answer.seed if self._seed is None else self._seed
        super().see(answer, taken, ids)

    def show(self, console: Console, rows: bool) -> None:
        super().show(console, rows)
        console.print(f"seed {self._seed}")


def _shown(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
