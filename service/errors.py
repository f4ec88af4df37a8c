"""Every error a caller can meet, each with its gRPC code.

ServiceError
├ InvalidInput        INVALID_ARGUMENT    MALFORMED, BAD_DTYPE, SHAPE_MISMATCH, EMPTY, TOO_MANY_ROWS, BAD_CELL, ...
├ BadCredential       UNAUTHENTICATED     BAD_CREDENTIAL
├ ModelNotFound       NOT_FOUND           MODEL_NOT_FOUND
├ NotOffered          UNIMPLEMENTED       NOT_OFFERED: of the Open Inference Protocol, or unless a setting says so
├ Unsupported         FAILED_PRECONDITION NO_PRIOR, NO_SKETCH, NO_QUANTIZATION, NOT_INVERTIBLE, OTHER_SPACE: the model
│                                         cannot do this
├ NotLoaded           FAILED_PRECONDITION NOT_LOADED: no version of the model can be loaded
├ Overloaded          RESOURCE_EXHAUSTED  QUEUE_FULL, with the delay after which to retry
├ OutOfMemory         RESOURCE_EXHAUSTED OUT_OF_MEMORY: the device has no room for these rows, not even one by one
├ DeadlineMissed      DEADLINE_EXCEEDED   DEADLINE_EXCEEDED: expired in the queue, never run
├ ShuttingDown        UNAVAILABLE         SHUTTING_DOWN
└ InferenceFailed     INTERNAL            INFERENCE_FAILED; the cause is in the log, under the id of the message
"""

from __future__ import annotations

from typing import ClassVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "hourglass"


class ServiceError(Exception):
    """An answer other than OK. The message is for people: never a path, never a trace."""

    code: ClassVar[grpc.StatusCode]
    reason: ClassVar[str]

    def __init__(
        self, message: str, *, reason: str | None = None, field: str | None = None, row: int | None = None
    ) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason  # type: ignore[misc]  # most classes have one reason, InvalidInput has many
        self.field = field
        self.row = row
        self.retry_after: float | None = None


class InvalidInput(ServiceError):
    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_INPUT"


class BadCredential(ServiceError):
    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "BAD_CREDENTIAL"


class ModelNotFound(ServiceError):
    code = grpc.StatusCode.NOT_FOUND
    reason = "MODEL_NOT_FOUND"


class Unsupported(ServiceError):
    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "NO_PRIOR"


class NotOffered(ServiceError):
    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "NOT_OFFERED"


class NotLoaded(ServiceError):
    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "NOT_LOADED"


class Overloaded(ServiceError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "QUEUE_FULL"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OutOfMemory(ServiceError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OUT_OF_MEMORY"


class DeadlineMissed(ServiceError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class ShuttingDown(ServiceError):
    code = grpc.StatusCode.UNAVAILABLE
    reason = "SHUTTING_DOWN"


class InferenceFailed(ServiceError):
    code = grpc.StatusCode.INTERNAL
    reason = "INFERENCE_FAILED"


class InternalError(ServiceError):
    code = grpc.StatusCode.INTERNAL
    reason = "INTERNAL_ERROR"


def trailing_metadata(error: ServiceError) -> tuple[tuple[str, str | bytes], ...]:
    """google.rpc.Status with ErrorInfo (and RetryInfo) the way gRPC libraries of every language read it."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if error.field is not None:
        info.metadata["field"] = error.field
    if error.row is not None:
        info.metadata["row"] = str(error.row)
    details = [info]
    trailer: tuple[tuple[str, str | bytes], ...] = ()
    if error.retry_after is not None:
        milliseconds = max(1, round(error.retry_after * 1e3))
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(milliseconds)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        trailer = (("grpc-retry-pushback-ms", str(milliseconds)),)
    status = status_pb2.Status(code=error.code.value[0], message=str(error))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return (("grpc-status-details-bin", status.SerializeToString()), *trailer)
