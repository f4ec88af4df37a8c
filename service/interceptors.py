"""What happens around every call: credentials, metrics, and errors turned into statuses, each in one place."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from service.errors import (
    BadCredential,
    InternalError,
    InvalidInput,
    ServiceError,
    StartError,
    trailing_metadata,
)
from service.metrics import Metrics

log = logging.getLogger(__name__)

_HEALTH = "/grpc.health.v1.Health/"
_OK = grpc.StatusCode.OK.name
_CANCELLED = grpc.StatusCode.CANCELLED.name
_EXPIRED = grpc.StatusCode.DEADLINE_EXCEEDED.name
_QUIET_SECONDS = 0.05
_LAST_CALLS_SECONDS = 1.0

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]]


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Around every call: who may, how often, and one place where exceptions become statuses.

    Calls of `services`, our own, are counted and their errors mapped. Health stays open to all: probes carry no
    secrets.
    """

    def __init__(self, metrics: Metrics, services: tuple[str, ...], tokens: Tokens | None = None) -> None:
        self._metrics = metrics
        self._tokens = tokens
        self._prefixes = tuple(f"/{service}/" for service in services)
        self._guarded: dict[str, grpc.RpcMethodHandler] = {}
        self._begun = 0
        self._may_answer = asyncio.Event()
        self._may_answer.set()

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

    async def intercept_service(
        self, continuation: Continuation, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        tokens = None if details.method.startswith(_HEALTH) else self._tokens
        if tokens is not None and not tokens.allow(details.invocation_metadata):
            return self._refuse(_name(details.method) if details.method.startswith(self._prefixes) else None)
        guarded = self._guarded.get(details.method)
        if guarded is not None:
            return guarded
        handler = await continuation(details)
        if handler is None or not details.method.startswith(self._prefixes):
            return handler
        # Our methods are few and fixed, so this cache is bounded.
        guarded = self._guarded[details.method] = self._guard(_name(details.method), handler)
        return guarded

    def _refuse(self, method: str | None) -> grpc.RpcMethodHandler:
        async def refuse(_requests: Any, context: grpc.aio.ServicerContext) -> None:
            refused = BadCredential("this server asks for `authorization: Bearer <token>`; none or a wrong one came")
            if method:
                self._metrics.call(method).finish(refused.code.name)
            await context.abort(refused.code, str(refused), trailing_metadata(refused))

        # As a stream of requests: it is answered without one being read into memory.
        return grpc.stream_unary_rpc_method_handler(refuse)

    def _guard(self, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
            self._begun += 1
            observed = self._metrics.call(method)
            code = _OK
            try:
                if isinstance(request, _Undecodable):
                    raise InvalidInput(f"the bytes are not a {method}Request of hourglass.v1", reason="MALFORMED")
                answer = await handler.unary_unary(request, context)
                if not self._may_answer.is_set():
                    await self._may_answer.wait()
                return answer
            except asyncio.CancelledError:
                # gRPC cancels the handler for both: the caller left, or its deadline passed
                expired = (remaining := context.time_remaining()) is not None and remaining <= 0
                code = _EXPIRED if expired else _CANCELLED
                raise
            except Exception as error:
                failure = error if isinstance(error, ServiceError) else InternalError("a fault of the server")
                code = failure.code.name
                await _abort(method, failure, error, context)
            finally:
                observed.finish(code)

        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=_decode_or_mark(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )


def _name(method: str) -> str:
    """/package.Service/Method -> Method"""
    return method.rpartition("/")[2]


class _Undecodable:
    """Stands for a request whose bytes could not be read; grpc.aio itself would answer UNKNOWN."""


def _decode_or_mark(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decode(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Undecodable()

    return decode


async def _abort(method: str, failure: ServiceError, cause: Exception, context: grpc.aio.ServicerContext) -> NoReturn:
    message = str(failure)
    if failure.code is grpc.StatusCode.INTERNAL:
        error_id = secrets.token_hex(8)
        message = f"{message} (id {error_id} in the server's log)"
        # Without a cause there is no fault of ours to trace: rows that the model has no finite answer for.
        fault = not isinstance(cause, ServiceError) or cause.__cause__ is not None
        level = logging.ERROR if fault else logging.WARNING
        extra = {"method": method, "error_id": error_id, "why": str(failure)}
        log.log(level, "call failed", exc_info=cause if fault else None, extra=extra)
    await context.abort(failure.code, message, trailing_metadata(failure))
    raise AssertionError("abort does not return")


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
