"""What a server says of its models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from hourglass.contract.manifest import AsideColumns, Window
from hourglass.contract.quantization import Encoding
from hourglass.contract.schema import Column
from hourglass.rows import ENCODINGS, column
from hourglass.v1 import autoencoder_pb2 as pb

_NUMBER = Column(name="number")  # of rows without columns


@dataclass(frozen=True)
class ModelVersion:
    """The version that answered. Embeddings are comparable exactly when their embedding_space_id is equal."""

    name: str
    version: int
    embedding_space_id: str

    @classmethod
    def decode(cls, message: pb.ModelVersion) -> Self:
        return cls(message.name, message.version, message.embedding_space_id)


@dataclass(frozen=True)
class Calibration:
    """The held-out rows behind p-values; the model's own verdict is score > threshold at false_alarm_rate."""

    rows: int
    false_alarm_rate: float
    threshold: float


@dataclass(frozen=True)
class ModelInfo:
    """What a model takes and gives.

    columns, schema: names of a table's columns and what they hold, () for images and unnamed arrays. takes_missing:
    whether cells may be missing. aside: columns that the training data had beside the rows. window: how a series is cut
    into rows, of models of such windows. encodings: what embeddings may be asked as. precision: what the networks
    compute in, float32 or float16.
    """

    model: ModelVersion
    variant: str
    row_shape: tuple[int, ...]
    columns: tuple[str, ...]
    embedding_size: int
    score_definition: str
    calibration: Calibration
    device: str
    created: str
    prior: str
    """How embeddings are distributed a priori: "standard_normal", or "" where nothing can be generated."""
    schema: tuple[Column, ...] = ()
    takes_missing: bool = False
    aside: AsideColumns = field(default_factory=AsideColumns)
    window: Window | None = None
    encodings: tuple[Encoding, ...] = ("float32",)
    precision: str = "float32"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Of each number of a row, row-major: its column, or where it stands: "3,5" is row 3, column 5 of an image, and
        "flow[3]" the channel's number at row 3 of a window."""
        if self.window is not None:
            return tuple(f"{name}[{row}]" for row in range(self.window.length) for name in self.columns)
        return self.columns or tuple(",".join(map(str, index)) for index in np.ndindex(self.row_shape))

    def column_of(self, feature: int) -> Column:
        """What the number of a row holds that stands there, row-major."""
        return self.schema[feature % len(self.schema)] if self.schema else _NUMBER

    @classmethod
    def decode(cls, message: pb.ModelInfo) -> Self:
        calibration = message.calibration
        return cls(
            model=ModelVersion.decode(message.model),
            variant=message.variant,
            row_shape=tuple(message.row_shape),
            columns=tuple(message.columns),
            embedding_size=message.embedding_size,
            score_definition=message.score_definition,
            calibration=Calibration(calibration.rows, calibration.false_alarm_rate, calibration.threshold),
            device=message.device,
            created=message.created,
            prior=message.prior,
            schema=tuple(map(column, message.schema)),
            takes_missing=message.takes_missing,
            aside=AsideColumns(
                label=message.aside.label or None,
                id=message.aside.id or None,
                time=message.aside.time or None,
                ignored=list(message.aside.ignored),
            ),
            window=_window(message.window) if message.HasField("window") else None,
            encodings=tuple(encoding for encoding, number in ENCODINGS.items() if number in message.encodings),
            precision=message.precision,
        )


def _window(message: pb.Window) -> Window:
    return Window(length=message.length, stride=message.stride, step_seconds=message.step_seconds or None)
