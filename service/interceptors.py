"""What happens around every call: credentials, metrics, and errors turned into statuses, each in one place."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError, Message

from service import wire
from service.arrivals import Arrivals
from service.errors import (
    BadCredential,
    InternalError,
    InvalidInput,
    NotOffered,
    ServiceError,
    trailing_metadata,
)
from service.metrics import Metrics
from service.start import StartError

if TYPE_CHECKING:
    from service.tracing import Tracing

log = logging.getLogger(__name__)

# Metadata that name a call, in its answer and in the log.
_REQUEST_ID = "x-request-id"
_REQUEST_IDS = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_HEALTH = "/grpc.health.v1.Health/"
_OK = grpc.StatusCode.OK.name
_CANCELLED = grpc.StatusCode.CANCELLED.name
_EXPIRED = grpc.StatusCode.DEADLINE_EXCEEDED.name
_LARGE_BYTES = 32_768
_QUIET_SECONDS = 0.05
_LAST_CALLS_SECONDS = 1.0


class Guard(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Around every call: who may, how often, and one place where exceptions become statuses.

    Calls of `services`, our own, are counted and their errors mapped. Health stays open to all: probes carry no
    secrets. It is where a server looks its methods up, and no interceptor: for each call those cost grpc.aio a chain of
    coroutines.
    """

    def __init__(
        self,
        metrics: Metrics,
        services: tuple[str, ...],
        arrivals: Arrivals,
        with_rows: Mapping[str, Sequence[int]],
        tokens: Tokens | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """with_rows: methods, /service/method, whose calls bring rows: arrivals are told of these. The fields that the
        rows' bytes are in: service.wire."""
        self._tracing = tracing
        self._metrics = metrics
        self._arrivals = arrivals
        self._with_rows = with_rows
        self._tokens = tokens
        self._prefixes = tuple(f"/{service}/" for service in services)
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._guarded: dict[tuple[str, bool], grpc.RpcMethodHandler] = {}
        self._begun = 0
        self._may_answer = asyncio.Event()
        self._may_answer.set()

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Services are added here as generated code adds them to a server."""
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        """The same methods once more, for servers that are not asyncio's."""

    @contextlib.asynccontextmanager
    async def last_calls(self) -> AsyncIterator[None]:
        """Hold every answer back until the block ends, and enter it once no more calls come in.

        gRPC cancels calls that have arrived but that the event loop has not taken up yet when a server stops
        (grpc issue 41785). Callers who wait for an answer send nothing new, so that soon nothing is left to cancel;
        the answers then leave after the connection has said that it takes no more calls.
        """
        self._may_answer.clear()
        try:
            deadline = time.monotonic() + _LAST_CALLS_SECONDS
            begun = -1
            while begun != self._begun and time.monotonic() < deadline:
                begun = self._begun
                await asyncio.sleep(_QUIET_SECONDS)
            yield
        finally:
            self._may_answer.set()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = details.method
        tokens = None if method.startswith(_HEALTH) else self._tokens
        if tokens is not None and not tokens.allow(details.invocation_metadata):
            return self._refuse(
                BadCredential("this server asks for `authorization: Bearer <token>`; none or a wrong one came"),
                # A name that nobody serves would be a metric's series for ever, without a token.
                _name(method) if self._is_ours(details) else None,
            )
        named = any(key == _REQUEST_ID for key, _ in details.invocation_metadata or ())
        guarded = self._guarded.get((method, named))
        if guarded is not None:
            if method in self._with_rows:
                self._arrivals.announced()
            return guarded
        for handler in self._handlers:
            found = handler.service(details)
            if found is not None and method.startswith(self._prefixes):
                # Our methods are few and fixed, so this cache is bounded.
                found = self._guarded[method, named] = self._guard(method, found, named=named)
            if found is not None:
                return found
        return None

    def _is_ours(self, details: grpc.HandlerCallDetails) -> bool:
        ours = details.method.startswith(self._prefixes)
        return ours and any(handler.service(details) is not None for handler in self._handlers)

    def _refuse(self, error: ServiceError, method: str | None) -> grpc.RpcMethodHandler:
        async def refuse(_requests: Any, context: grpc.aio.ServicerContext) -> None:
            if method:
                observed = self._metrics.method(method)
                observed.begin()
                observed.end(error.code.name, 0.0)
            await context.abort(error.code, str(error), trailing_metadata(error))

        # As a stream of requests: it is answered without one being read into memory.
        return grpc.stream_unary_rpc_method_handler(refuse)

    def _guard(self, method: str, handler: grpc.RpcMethodHandler, *, named: bool) -> grpc.RpcMethodHandler:
        """named: for calls that bring an id of their own, which costs a little."""
        if handler.request_streaming or handler.response_streaming:
            return self._refuse(_not_offered(_name(method)), _name(method))  # ADR 17
        observed = self._metrics.method(_name(method))
        answer_to = handler.unary_unary if self._tracing is None else self._tracing.around(method, handler.unary_unary)
        announced = method in self._with_rows

        async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
            self._begun += 1
            if announced:
                self._arrivals.arrived()
            observed.begin()
            started = time.perf_counter()
            code = _OK
            request_id = _request_id(context) if named else None
            if request_id is not None:
                context.set_trailing_metadata(((_REQUEST_ID, request_id),))
            try:
                if isinstance(request, _Undecodable):
                    raise InvalidInput(
                        f"the bytes are not a {_name(method)}Request of {_package(method)}", reason="MALFORMED"
                    )
                answer = await answer_to(request, context)
                if not self._may_answer.is_set():
                    await self._may_answer.wait()
                return answer
            except asyncio.CancelledError:
                # gRPC cancels the handler for both: the caller left, or its deadline passed
                expired = (remaining := context.time_remaining()) is not None and remaining <= 0
                code = _EXPIRED if expired else _CANCELLED
                raise
            except Exception as error:
                status = _status(_name(method), error, request_id or secrets.token_hex(8))
                code = status[0].name
                _forget(error)
            finally:
                observed.end(code, time.perf_counter() - started)
            # gRPC keeps what `abort` raises until the collector comes, and with it this frame: not with the request.
            del request
            if not self._may_answer.is_set():
                await self._may_answer.wait()
            await context.abort(*status)
            raise AssertionError("abort does not return")

        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=_decode_or_mark(handler.request_deserializer, self._with_rows.get(method)),
            response_serializer=_serialize,
        )


def _name(method: str) -> str:
    """/package.Service/Method -> Method"""
    return method.rpartition("/")[2]


def _package(method: str) -> str:
    """/package.Service/Method -> package"""
    return method[1:].partition("/")[0].rpartition(".")[0]


def _not_offered(method: str) -> NotOffered:
    return NotOffered(f"{method} is not offered here")


class _Undecodable:
    """Stands for a request whose bytes could not be read; grpc.aio itself would answer UNKNOWN."""


def _decode_or_mark(deserialize: Callable[[bytes], Any], rows: Sequence[int] | None) -> Callable[[bytes], Any]:
    """rows: where they are in the request, if it has any."""

    def decode(data: bytes) -> Any:
        try:
            large = wire.large_request(data, deserialize, rows) if rows and len(data) >= _LARGE_BYTES else None
            return large or deserialize(data)
        except DecodeError:
            return _Undecodable()

    return decode


def _serialize(answer: bytes | Message) -> bytes:
    """Long answers are written as bytes: service.wire."""
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


_Status = tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]


def _status(method: str, error: Exception, request_id: str) -> _Status:
    """Code, message and trailing metadata of a failed call; what is a fault of ours is logged."""
    if isinstance(error, NotImplementedError):  # what generated code does for a method that nobody wrote
        error = _not_offered(method)
    failure = error if isinstance(error, ServiceError) else InternalError("a fault of the server")
    message = str(failure)
    if failure.code is grpc.StatusCode.INTERNAL:
        message = f"{message} (request {request_id} in the server's log)"
        # Without a cause there is no fault of ours to trace: rows that the model has no finite answer for.
        fault = not isinstance(error, ServiceError) or error.__cause__ is not None
        level = logging.ERROR if fault else logging.WARNING
        extra = {"method": method, "request_id": request_id, "why": str(failure)}
        log.log(level, "call failed", exc_info=error if fault else None, extra=extra)
    return failure.code, message, (*trailing_metadata(failure), (_REQUEST_ID, request_id))


def _request_id(context: grpc.aio.ServicerContext) -> str | None:
    """The caller's, if it is one that a log line can hold."""
    for key, value in context.invocation_metadata() or ():
        if key == _REQUEST_ID and isinstance(value, str) and _REQUEST_IDS.fullmatch(value):
            return value
    return None


def _forget(error: BaseException | None) -> None:
    """The frames of a traceback that refer to each other through the error would keep the rows until the collector
    comes."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class Tokens:
    """The bearer tokens of a file, of which callers show one."""

    def __init__(self, file: Path) -> None:
        """Raises StartError when the file cannot be read or holds no token, or one that no header can carry."""
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise StartError(f"--auth-token-file {file}: cannot be read: {error}") from None
        tokens = [line.strip() for line in lines if line.strip()]
        if not tokens:
            raise StartError(f"--auth-token-file {file}: holds no token")
        if not all(token.isascii() and token.isprintable() for token in tokens):
            raise StartError(f"--auth-token-file {file}: a token is not plain ASCII: no caller could show it")
        self._expected = [f"Bearer {token}".encode() for token in tokens]

    def allow(self, metadata: Any) -> bool:
        shown = b""
        for key, value in metadata or ():
            if key == "authorization":
                shown = value if isinstance(value, bytes) else value.encode()
        # Every token is compared, in constant time: how long it takes tells nothing.
        return sum(hmac.compare_digest(shown, expected) for expected in self._expected) > 0
