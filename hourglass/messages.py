"""Requests and answers as Python values. Pure functions between numpy and the protobuf messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import grpc
import numpy as np

from hourglass.errors import HourglassError
from hourglass.v1 import autoencoder_pb2 as pb

_DTYPES = {pb.DATA_TYPE_FLOAT32: np.dtype("<f4"), pb.DATA_TYPE_BOOL: np.dtype("?")}

# Larger messages are not faster, they only take memory.
_MESSAGE_BYTES = 4 * 2**20
# What a message holds besides the rows' numbers.
_ENVELOPE_BYTES = 1024


@dataclass(frozen=True)
class ModelVersion:
    """The version that answered. Embeddings are comparable exactly when their embedding_space_id is equal."""

    name: str
    version: int
    embedding_space_id: str


@dataclass(frozen=True)
class Calibration:
    """The held-out rows behind p-values; the model's own verdict is score > threshold at false_alarm_rate."""

    rows: int
    false_alarm_rate: float
    threshold: float


@dataclass(frozen=True)
class ModelInfo:
    """What a model takes and gives. columns: names of a table's columns, () for images and unnamed arrays."""

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

    @classmethod
    def decode(cls, message: pb.ModelInfo) -> Self:
        calibration = message.calibration
        return cls(
            model=_version(message.model),
            variant=message.variant,
            row_shape=tuple(message.row_shape),
            columns=tuple(message.columns),
            embedding_size=message.embedding_size,
            score_definition=message.score_definition,
            calibration=Calibration(calibration.rows, calibration.false_alarm_rate, calibration.threshold),
            device=message.device,
            created=message.created,
            prior=message.prior,
        )


@dataclass(frozen=True)
class _Values:
    values: np.ndarray
    model: ModelVersion

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        return replace(parts[0], values=_concatenated([part.values for part in parts]))


@dataclass(frozen=True)
class Embeddings(_Values):
    """values: float32 [n, embedding size]. stddev: the same shape, how sure each number is; None if not asked for."""

    stddev: np.ndarray | None = None

    @classmethod
    def decode(cls, answer: pb.EmbedResponse, rows: int) -> Self:
        stddev = _array(answer.embedding_stddev, rows) if answer.HasField("embedding_stddev") else None
        return cls(_array(answer.embedding, rows), _version(answer.model), stddev)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        stddevs = [part.stddev for part in parts if part.stddev is not None]
        return replace(super().join(parts), stddev=_concatenated(stddevs) if stddevs else None)


class Reconstructions(_Values):
    """values: float32, the shape and the units of the rows."""

    @classmethod
    def decode(cls, answer: pb.DenoiseResponse | pb.DecodeResponse, rows: int) -> Self:
        return cls(_array(answer.reconstruction, rows), _version(answer.model))


@dataclass(frozen=True)
class Generated(_Values):
    """values: float32 [n, *row shape], in the units of the training data. seed: gives the same rows again."""

    seed: int = 0

    @classmethod
    def decode(cls, answer: pb.GenerateResponse, rows: int) -> Self:
        return cls(_array(answer.rows, rows), _version(answer.model), answer.seed)


@dataclass(frozen=True)
class Scores:
    """score: float32 [n], higher is more anomalous. p_value: float32 [n], in (0, 1]. is_anomaly: bool [n], score >
    threshold, which stands for false_alarm_rate."""

    score: np.ndarray
    p_value: np.ndarray
    is_anomaly: np.ndarray
    threshold: float
    false_alarm_rate: float
    model: ModelVersion

    @classmethod
    def decode(cls, answer: pb.ScoreResponse, rows: int) -> Self:
        return cls(
            score=_array(answer.score, rows),
            p_value=_array(answer.p_value, rows),
            is_anomaly=_array(answer.is_anomaly, rows),
            threshold=answer.threshold,
            false_alarm_rate=answer.false_alarm_rate,
            model=_version(answer.model),
        )

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        return replace(
            parts[0],
            score=_concatenated([part.score for part in parts]),
            p_value=_concatenated([part.p_value for part in parts]),
            is_anomaly=_concatenated([part.is_anomaly for part in parts]),
        )


def as_rows(rows: Any) -> np.ndarray:
    """Any array-like of real numbers, its shape and dtype kept. Raises TypeError for what is not numbers."""
    array = np.asarray(rows)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"rows are an array of real numbers, not of {array.dtype}")
    return array


def tensor(rows: np.ndarray) -> pb.Tensor:
    """FLOAT32. What float32 cannot hold becomes infinite, which the server refuses, naming the row."""
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(rows, dtype="<f4")
    return pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=rows.shape, data=values.tobytes())


def rows_per_message(answer: pb.GetModelResponse) -> int:
    """How many rows fit in one message, request and answer both counted; at least 1."""
    row = int(np.prod(answer.model.row_shape)) * 4
    of_answer = max(row, answer.model.embedding_size * 4, 4 + 4 + 1)
    room = min(answer.limits.max_message_bytes, _MESSAGE_BYTES) - _ENVELOPE_BYTES
    return max(1, min(answer.limits.max_rows, room // max(row, of_answer)))


def split(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """At most `size` rows each, in order; one piece at least, so that the server judges what has no rows."""
    if rows.ndim == 0 or len(rows) <= size:
        return [rows]
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _version(message: pb.ModelVersion) -> ModelVersion:
    return ModelVersion(message.name, message.version, message.embedding_space_id)


def _concatenated(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _array(message: pb.Tensor, rows: int) -> np.ndarray:
    dtype = _DTYPES.get(message.data_type)
    shape, data = tuple(message.shape), message.data  # read once: each look copies the bytes
    if dtype is None or shape[:1] != (rows,) or len(data) != dtype.itemsize * int(np.prod(shape)):
        raise HourglassError(
            grpc.StatusCode.INTERNAL, "BAD_ANSWER", f"the server's answer is not an array of {rows} rows: {list(shape)}"
        )
    return np.frombuffer(bytearray(data), dtype=dtype).reshape(shape)  # the caller's own, to write into as well
