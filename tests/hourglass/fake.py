"""An Autoencoder server of numpy over a real socket, which fails, waits and changes versions on request."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from hourglass.v1 import autoencoder_pb2 as pb
from hourglass.v1 import autoencoder_pb2_grpc

EMBEDDING_SIZE = 2
THRESHOLD = 2.0
CLIP = 2.5


def embedding(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(len(rows), -1)[:, :EMBEDDING_SIZE] * 2


def reconstruction(rows: np.ndarray) -> np.ndarray:
    return rows / 2


def score(rows: np.ndarray) -> np.ndarray:
    return (rows.reshape(len(rows), -1) ** 2).mean(axis=1)


def p_value(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + scores)


def feature_errors(rows: np.ndarray) -> np.ndarray:
    return rows**2


@dataclass(frozen=True)
class Failure:
    """What one call answers instead."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = "no"
    field: str = ""
    row: int | None = None
    pushback_ms: int | None = None

    def abort(self, context: grpc.ServicerContext) -> None:
        trailing: list[tuple[str, Any]] = []
        if self.reason:
            metadata = {"field": self.field} if self.field else {}
            if self.row is not None:
                metadata["row"] = str(self.row)
            info = any_pb2.Any()
            info.Pack(error_details_pb2.ErrorInfo(reason=self.reason, domain="hourglass", metadata=metadata))
            status = status_pb2.Status(code=self.code.value[0], message=self.message, details=[info])
            if self.pushback_ms is not None:
                delay = error_details_pb2.RetryInfo()
                delay.retry_delay.FromMilliseconds(self.pushback_ms)
                status.details.add().Pack(delay)
            trailing.append(("grpc-status-details-bin", status.SerializeToString()))
        if self.pushback_ms is not None:
            trailing.append(("grpc-retry-pushback-ms", str(self.pushback_ms)))
        context.set_trailing_metadata(trailing)
        context.abort(self.code, self.message)


@dataclass
class Fake(autoencoder_pb2_grpc.AutoencoderServicer):
    """The servicer and its memory."""

    row_shape: tuple[int, ...] = (4,)
    columns: tuple[str, ...] = ()
    max_rows: int = 1000
    max_message_bytes: int = 4 * 2**20
    version: int = 7
    loaded: tuple[int, ...] | None = None  # the versions that may be named; None: any
    # Called with each request that has rows; may wait, change the version, or return a failure.
    before: Callable[[Any], Failure | None] = lambda request: None
    failures: deque[Failure] = field(default_factory=deque)  # of the next calls that have rows
    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    calls: deque[str] = field(default_factory=deque)
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    address: str = ""

    def _model(self, version: int) -> pb.ModelVersion:
        return pb.ModelVersion(name="m", version=version or self.version, embedding_space_id="0123456789abcdef")

    def _check_version(self, version: int, context: grpc.ServicerContext) -> None:
        if version and self.loaded is not None and version not in self.loaded:
            message = f"version {version} is not loaded; loaded: {self.loaded}"
            Failure(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", message, "version").abort(context)

    def _info(self) -> pb.ModelInfo:
        return pb.ModelInfo(
            model=self._model(0),
            variant="basic",
            row_shape=self.row_shape,
            columns=self.columns,
            schema=[pb.ColumnSchema(name=name, type="numeric") for name in self.columns],
            embedding_size=EMBEDDING_SIZE,
            score_definition="mean((x - x')²)",
            calibration=pb.Calibration(rows=99, false_alarm_rate=0.01, threshold=THRESHOLD),
            device="cpu",
            created="2026-01-01T00:00:00Z",
        )

    def _limits(self) -> pb.Limits:
        return pb.Limits(max_rows=self.max_rows, max_message_bytes=self.max_message_bytes)

    def _rows(self, request: Any, context: grpc.ServicerContext) -> np.ndarray:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        context.add_callback(self.ended.release)
        failure = self.failures.popleft() if self.failures else self.before(request)
        if failure is not None:
            failure.abort(context)
        self._check_version(request.version, context)
        tensor = self._of_table(request.table, context) if request.WhichOneof("rows") == "table" else request.tensor
        if tuple(tensor.shape[1:]) != self.row_shape or not tensor.shape or request.ByteSize() > self.max_message_bytes:
            field = "tensor.shape"
            Failure(grpc.StatusCode.INVALID_ARGUMENT, "SHAPE_MISMATCH", f"{tensor.shape}", field).abort(context)
        if tensor.shape[0] == 0 or tensor.shape[0] > self.max_rows:
            reason = "TOO_MANY_ROWS" if tensor.shape[0] else "EMPTY"
            Failure(grpc.StatusCode.INVALID_ARGUMENT, reason, f"{tensor.shape}").abort(context)
        return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)

    def _of_table(self, table: pb.Table, context: grpc.ServicerContext) -> pb.Tensor:
        """Of columns of float64 numbers."""
        if not self.columns:
            Failure(grpc.StatusCode.INVALID_ARGUMENT, "NO_SCHEMA", "no names").abort(context)
        columns = {column.name: np.frombuffer(column.numbers.data, "<f8") for column in table.columns}
        for name in self.columns:
            if name not in columns:
                Failure(grpc.StatusCode.INVALID_ARGUMENT, "MISSING_COLUMN", f"no column {name!r}").abort(context)
        return _tensor(np.stack([columns[name] for name in self.columns], axis=1))

    def Embed(self, request: pb.EmbedRequest, context: grpc.ServicerContext) -> pb.EmbedResponse:
        rows = self._rows(request, context)
        return pb.EmbedResponse(model=self._model(request.version), embedding=_tensor(embedding(rows)))

    def Denoise(self, request: pb.DenoiseRequest, context: grpc.ServicerContext) -> pb.DenoiseResponse:
        rows = self._rows(request, context)
        return pb.DenoiseResponse(model=self._model(request.version), reconstruction=_tensor(reconstruction(rows)))

    def Score(self, request: pb.ScoreRequest, context: grpc.ServicerContext) -> pb.ScoreResponse:
        rows = self._rows(request, context)
        scores = score(rows)
        threshold = request.threshold if request.HasField("threshold") else THRESHOLD
        answer = pb.ScoreResponse(
            model=self._model(request.version),
            score=_tensor(scores),
            p_value=_tensor(p_value(scores)),
            is_anomaly=_tensor(scores > threshold),
            threshold=threshold,
            false_alarm_rate=request.false_alarm_rate if request.HasField("false_alarm_rate") else 0.01,
            reconstruction_error=_tensor(scores / 2),
            missing=_tensor(np.isnan(rows).reshape(len(rows), -1).sum(axis=1)),
            unknown=_tensor(np.zeros(len(rows), dtype=np.int64)),
            clipped=_tensor((np.abs(rows.reshape(len(rows), -1)) > CLIP).sum(axis=1)),
        )
        if request.top_features:
            answer.top_features.CopyFrom(_top_features(rows, request.top_features))
        if request.feature_errors:
            answer.feature_errors.CopyFrom(_tensor(feature_errors(rows)))
        return answer

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.GetModelResponse:
        self.calls.append("GetModel")
        if request.model != "m":
            message = f"no model {request.model}"
            Failure(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", message, "model").abort(context)
        self._check_version(request.version, context)
        return pb.GetModelResponse(model=self._info(), limits=self._limits())

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[self._info()], limits=self._limits())


def _tensor(values: np.ndarray) -> pb.Tensor:
    kind, dtype = {
        "b": (pb.DATA_TYPE_BOOL, "?"),
        "i": (pb.DATA_TYPE_INT32, "<i4"),
        "f": (pb.DATA_TYPE_FLOAT32, "<f4"),
    }[values.dtype.kind]
    return pb.Tensor(data_type=kind, shape=values.shape, data=values.astype(dtype).tobytes())


def _top_features(rows: np.ndarray, k: int) -> pb.TopFeatures:
    flat = rows.reshape(len(rows), -1)
    errors = feature_errors(flat)
    feature = np.argsort(-errors, axis=1, kind="stable")[:, :k]
    shares = errors / errors.sum(axis=1, keepdims=True)
    values = {"share": shares, "observed": flat, "expected": reconstruction(flat)}
    at_features = {name: _tensor(np.take_along_axis(array, feature, axis=1)) for name, array in values.items()}
    return pb.TopFeatures(feature=_tensor(feature), **at_features)


@contextmanager
def serving(
    fake: Fake,
    credentials: grpc.ServerCredentials | None = None,
    *,
    listen: str = "127.0.0.1:0",
    more: Callable[[grpc.Server], Any] = lambda server: None,
) -> Iterator[Fake]:
    """Serves until the block ends; `fake.address` is where. more: adds other services."""
    server = grpc.server(
        ThreadPoolExecutor(16),
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    autoencoder_pb2_grpc.add_AutoencoderServicer_to_server(fake, server)
    more(server)
    host = listen.partition(":")[0] if credentials is None else "localhost"
    added = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    fake.address = f"{host}:{added}"
    server.start()
    try:
        yield fake
    finally:
        server.stop(None).wait()
