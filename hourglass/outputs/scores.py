"""Anomaly scores, as they are asked for, written and shown."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

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
from hourglass.contract.schema import Schema
from hourglass.frames import score_names, top_columns, top_name
from hourglass.messages import Scores
from hourglass.models import ModelInfo
from hourglass.outputs.output import Output, without_empty_ids

_TOP = 10
_NAME_WIDTH, _CELL_WIDTH, _LABEL_WIDTH = 24, 14, 20
_UNBOUNDED = 10_000
_SCORE_TYPES = {"is_anomaly": pa.bool_(), **dict.fromkeys(("clipped", "missing", "unknown"), pa.int32())}


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
        return without_empty_ids(table)


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
