"""What a call can end with instead of an answer."""

from __future__ import annotations

from contextlib import suppress

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"


class HourglassError(Exception):
    """A call failed.

    code: the gRPC status. reason: the server's UPPER_SNAKE word for it (listed in autoencoder.proto), "UNREACHABLE"
    when no server could be spoken to, "" when the transport gave none. field: the request's field that is wrong.
    row: the row that is wrong, 0-based, counted over all rows given to the call. retry_after: seconds after which the
    server asks to be tried again.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        field: str | None = None,
        row: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, reason, message, field, row, retry_after)  # what copies are made of
        self.code = code
        self.reason = reason
        self.message = message
        self.field = field
        self.row = row
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message


def from_rpc(error: grpc.RpcError, server: str, timeout: float, first_row: int) -> HourglassError:
    """Decodes a failed RPC (sync or asyncio). first_row: where the rows of its message began in the call."""
    code: grpc.StatusCode = error.code()
    message: str = error.details() or code.name
    info, delay = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    _unpack(error, info, delay)
    if info.reason:
        row = int(info.metadata["row"]) if info.metadata.get("row", "").isdecimal() else None
        if row is not None and first_row:
            message += f" (a message of rows {first_row} and on: row {first_row + row} of the call)"
            row += first_row
        retry_after = delay.retry_delay.ToTimedelta().total_seconds() if delay.HasField("retry_delay") else None
        return HourglassError(code, info.reason, message, info.metadata.get("field") or None, row, retry_after)
    if code is grpc.StatusCode.UNAVAILABLE:
        return HourglassError(
            code,
            "UNREACHABLE",
            f"no server at {server} ({message}): is hourglass-serve running and ready there, and do host, port and "
            "TLS settings match?",
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return HourglassError(code, "", f"{server} did not answer within {timeout:g} s: raise the timeout")
    return HourglassError(code, "", message)


def _unpack(error: grpc.RpcError, *wanted: Message) -> None:
    """Fills in those of the messages that came with the error."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS:
            with suppress(DecodeError):  # some proxy's own
                for detail in status_pb2.Status.FromString(value).details:
                    for message in wanted:
                        detail.Unpack(message)
