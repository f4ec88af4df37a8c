"""What each command asks for, writes and shows."""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from hourglass.batches import Taken
from hourglass.client import Client
from hourglass.contract.calibration import largest_discovery
from hourglass.contract.schema import Column, Schema, category
from hourglass.files.cells import value_of
from hourglass.files.encoding import cells
from hourglass.frames import score_names, top_columns, top_name
from hourglass.messages import Embeddings, Generated, ModelInfo, Reconstructions, Scores

_TOP = 10
_FIRST_ROWS, _FIRST_NUMBERS = 3, 8
_NAME_WIDTH, _CELL_WIDTH, _LABEL_WIDTH = 24, 14, 20
_UNBOUNDED = 10_000
_SCORE_TYPES = {"is_anomaly": pa.bool_(), **dict.fromkeys(("clipped", "missing", "unknown"), pa.int32())}

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


class _Feature(NamedTuple):
    feature: str
    share: float
    observed: str
    expected: str

    def shown(self, header: str, name_width: int) -> str:
        if header == "share":
            return f"{self.share:.0%}"
        return _shortened(getattr(self, header), name_width if header == "feature" else _CELL_WIDTH)


class _Layout(NamedTuple):
    """How features and labels give way to scores, p-values and verdicts, which are never cut."""

    name_width: int = _NAME_WIDTH
    padding: int = 1
    label_width: int | None = None
    without: tuple[str, ...] = ()


# The widest that fits is taken, or the last.
_LAYOUTS = (
    _Layout(),
    *(
        _Layout(name_width, 0, _LABEL_WIDTH, without)
        for without in ((), ("expected",), ("expected", "observed"))
        for name_width in range(_NAME_WIDTH, 7, -4)
    ),
)


class _Row(NamedTuple):
    """Rows in order: the most anomalous last, and of equal ones the first."""

    score: float
    minus_row: int
    p_value: float
    is_anomaly: bool
    labels: tuple[str, ...]
    features: list[_Feature]


class ScoreOutput(Output[Scores]):
    """score, p_value, is_anomaly, reconstruction_error, clipped, and four columns for each of the top features.

    Of models that take missing cells, or have categories, also how many cells are missing, or unknown categories; and
    where not all columns are numeric, observed and expected are texts.

    With feature_errors the numbers are each feature's part in the score. With control_fdr is_anomaly is only known when
    all rows are there: until then arrays have it wrong, and `complete` puts it right.
    """

    def __init__(
        self,
        model: ModelInfo,
        names: Sequence[str],
        *,
        false_alarm_rate: float | None,
        threshold: float | None,
        control_fdr: bool,
        top_features: int,
        feature_errors: bool,
    ) -> None:
        """names: of the features, row-major."""
        super().__init__(model)
        self._info = model
        self._as_text = not Schema(model.schema).is_numeric
        self._verdict: dict[str, Any] = {"false_alarm_rate": false_alarm_rate, "threshold": threshold}
        self._explanation: dict[str, Any] = {
            "top_features": min(top_features, len(names)),
            "feature_errors": feature_errors,
        }
        self.control_fdr = control_fdr
        self._names = names
        self._calibration_rows = model.calibration.rows
        self.row_shape = model.row_shape if feature_errors else ()
        self._columns = score_names(model)
        columns = [(name, _SCORE_TYPES.get(name, pa.float32())) for name in self._columns]
        self.schema = pa.schema([*columns, *self._feature_columns()])
        self._anomalies = self._clipped_rows = self._unknown_rows = 0
        self._top: list[_Row] = []
        self._threshold = self._rate = float("nan")
        # How many rows have each p-value: of one calibration there are a few thousand at most.
        self._p_values: Counter[float] = Counter()

    def _feature_columns(self) -> Iterator[tuple[str, pa.DataType]]:
        value = pa.string() if self._as_text else pa.float32()
        types = {"feature": pa.string(), "share": pa.float32(), "observed": value, "expected": value}
        for place in range(1, self._explanation["top_features"] + 1):
            yield from ((top_name(place, what), type_) for what, type_ in types.items())

    def rows_per_message(self, client: Client) -> int:
        return client.rows_per_message(self._model.name, self._model.version, **self._explanation)

    def ask(self, client: Client, batches: Iterable[np.ndarray]) -> Iterator[Scores]:
        options = self._verdict | self._explanation
        return client.score_batches(self._model.name, batches, version=self._model.version, **options)

    def numbers(self, answer: Scores, taken: Taken | None) -> np.ndarray:
        return answer.score if answer.feature_errors is None else answer.feature_errors

    def arrays(self, answer: Scores, taken: Taken | None) -> list[pa.Array]:
        arrays = [pa.array(getattr(answer, name)) for name in self._columns]
        if answer.top_features is not None:
            top = top_columns(answer.top_features, self._names, self._info if self._as_text else None)
            arrays += [pa.array(values) for _, values in top]
        return arrays

    def complete(self, table: pa.Table) -> pa.Table:
        """The table with the verdicts that control the false discovery rate over all rows."""
        called = pc.less_equal(table["p_value"], self._largest_discovery)
        return table.set_column(table.schema.get_field_index("is_anomaly"), "is_anomaly", called)

    def see(self, answer: Scores, taken: Taken | None, ids: Sequence[pa.Array]) -> None:
        places = self._places(len(answer.score), taken)
        for i in np.argsort(-answer.score, kind="stable")[:_TOP].tolist():
            row = _Row(
                score=float(answer.score[i]),
                minus_row=-int(places[i]),
                p_value=float(answer.p_value[i]),
                is_anomaly=bool(answer.is_anomaly[i]),
                labels=self._labels(int(places[i]), ids, i),
                features=self._features(answer, i),
            )
            (heapq.heappush if len(self._top) < _TOP else heapq.heappushpop)(self._top, row)
        self._rows += len(answer.score)
        self._anomalies += int(answer.is_anomaly.sum())
        self._clipped_rows += int((answer.clipped > 0).sum())
        self._unknown_rows += int((answer.unknown > 0).sum())
        self._threshold, self._rate = answer.threshold, answer.false_alarm_rate
        if self.control_fdr:
            distinct, counts = np.unique(answer.p_value, return_counts=True)
            self._p_values.update(dict(zip(distinct.tolist(), counts.tolist(), strict=True)))

    def _features(self, answer: Scores, row: int) -> list[_Feature]:
        if (top := answer.top_features) is None:
            return []
        columns = (top.feature[row], top.share[row], top.observed[row], top.expected[row])
        features = []
        for feature, share, *values in zip(*(column.tolist() for column in columns), strict=True):
            observed, expected = (self._info.column_of(feature).cell(value, "{:.4g}".format) for value in values)
            features.append(_Feature(self._names[feature], share, observed, expected))
        return features

    @cached_property
    def _largest_discovery(self) -> float:
        if not self._p_values:
            return 0.0  # no row was good
        distinct, counts = np.array(sorted(self._p_values.items())).reshape(-1, 2).T
        return largest_discovery(distinct, counts, self._rate)

    def show(self, console: Console, rows: bool) -> None:
        if rows:
            self._show_rows(console)
        model = f"{self._model.name} version {self._model.version}"
        if not self._rows:
            console.print(f"{model}: no row was scored")
            return
        anomalies, why = self._anomalies, f"score > {self._threshold:.6g}, false-alarm rate {self._rate:g}"
        if self.control_fdr:
            bound = self._largest_discovery
            anomalies = sum(count for p_value, count in self._p_values.items() if p_value <= bound)
            why = f"p-value <= {bound:.4g}, false discovery rate {self._rate:g}" if anomalies else self._why_none()
        console.print(f"{model}: {anomalies:,} of {self._rows:,} {self._what} are anomalies ({why})")
        if self._clipped_rows:
            clipped = f"{self._clipped_rows:,} of {self._rows:,} {self._what}"
            console.print(f"in {clipped} the model clipped numbers far beyond the training data")
        if self._unknown_rows:
            console.print(f"{self._unknown_rows:,} of {self._rows:,} rows have categories that the model does not know")

    def _why_none(self) -> str:
        """Any that are called have p-values of at least 1 / (n + 1) and at most their number / rows * rate."""
        fewest = math.ceil(self._rows / ((self._calibration_rows + 1) * self._rate) * (1 - 1e-9))
        return (
            f"false discovery rate {self._rate:g}; with {self._calibration_rows:,} calibration rows, fewer than "
            f"{fewest:,} anomalies among so many rows could be chance"
        )

    def _show_rows(self, console: Console) -> None:
        if not self._explanation["top_features"]:
            console.print(self._table(_LAYOUTS[0]))
            return
        unbounded = console.options.update_width(_UNBOUNDED)
        for layout in _LAYOUTS:
            table = self._table(layout)
            if Measurement.get(console, unbounded, table).maximum <= console.width:
                break
        console.print(table)
        if layout.without:
            console.print(f"there is no room for {' and '.join(layout.without)}: --out FILE writes all")

    def _table(self, layout: _Layout) -> Table:
        table = Table(title=f"the most anomalous {self._what}" + " (the first is 0)" * (self.ends is None))
        for header in self._headers:
            table.add_column(header, overflow="fold", max_width=layout.label_width)
        for header in ("score", "p-value", "verdict"):
            table.add_column(header, no_wrap=True)
        shown = [header for header in _Feature._fields if header not in layout.without]
        if self._explanation["top_features"]:
            # Without lines between columns, names have room.
            table.box, table.collapse_padding, table.padding = box.SIMPLE_HEAD, True, (0, layout.padding)
            for header in shown:
                table.add_column(header, justify="left" if header == "feature" else "right", no_wrap=True)
        for row in sorted(self._top, reverse=True):
            called = row.p_value <= self._largest_discovery if self.control_fdr else row.is_anomaly
            verdict = "anomaly" if called else "normal"
            cells = [*row.labels, f"{row.score:.6g}", f"{row.p_value:.4g}", verdict]
            if row.features:
                cells += ["\n".join(f.shown(header, layout.name_width) for f in row.features) for header in shown]
            table.add_row(*cells)
        return _without_empty_ids(table)


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
            console.print(_without_empty_ids(table))
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


def _shortened(text: str, width: int = _NAME_WIDTH) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _without_empty_ids(table: Table) -> Table:
    table.columns = [column for column in table.columns if column.header != "id" or any(column.cells)]
    return table
