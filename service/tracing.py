"""Traces of calls in OpenTelemetry, sent to a collector: a span for each call, under the caller's own (W3C trace
context), and in it how long its rows waited and how long the batch took that they were in.

Names are those of OpenTelemetry's conventions for RPC servers. What else there is to set, the standard's environment
variables do: OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.errors import ServiceError
from service.pieces import Piece

Method = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]


class Tracing:
    """Where the spans of this process go."""

    def __init__(self, endpoint: str) -> None:
        """endpoint: of a collector that speaks OTLP over gRPC, such as http://collector:4317."""
        os.environ.setdefault("OTEL_SERVICE_NAME", "hourglass-serve")
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)  # it warns of whatever callers write
        self._provider = TracerProvider(resource=Resource.create())
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("hourglass")
        self._callers = TraceContextTextMapPropagator()

    def around(self, method: str, answer: Method) -> Method:
        """method: /package.Service/Method. The same, in a span."""
        service, _, name = method[1:].rpartition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}

        async def traced(request: Any, context: grpc.aio.ServicerContext) -> Any:
            caller = self._callers.extract(dict(context.invocation_metadata() or ()))
            with self._tracer.start_as_current_span(
                method[1:], caller, trace.SpanKind.SERVER, attributes, set_status_on_exception=False
            ) as span:
                code = grpc.StatusCode.OK
                try:
                    return await answer(request, context)
                except ServiceError as error:
                    code = error.code
                    raise
                except asyncio.CancelledError:
                    expired = (remaining := context.time_remaining()) is not None and remaining <= 0
                    code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
                    raise
                except NotImplementedError:
                    code = grpc.StatusCode.UNIMPLEMENTED
                    raise
                except Exception:
                    code = grpc.StatusCode.INTERNAL
                    raise
                finally:
                    span.set_attribute("rpc.grpc.status_code", code.value[0])
                    if code is grpc.StatusCode.INTERNAL:
                        span.set_status(trace.StatusCode.ERROR)

        return traced

    def current(self) -> Context:
        """Of the call that is being answered."""
        return trace.set_span_in_context(trace.get_current_span())

    def ran(self, pieces: Sequence[Piece], started: float, seconds: float) -> None:
        """Of each request in a batch, how long it waited and how long the batch took; times as time.perf_counter's."""
        to_epoch = time.time() - time.perf_counter()
        rows = sum(map(len, pieces))
        for piece in pieces:
            if not piece.start:
                self._span("queue", piece.request.trace, piece.request.queued_at + to_epoch, started + to_epoch)
            attributes = {"hourglass.rows": len(piece), "hourglass.batch_rows": rows}
            self._span("run", piece.request.trace, started + to_epoch, started + seconds + to_epoch, attributes)

    def _span(
        self, name: str, parent: Context, begin: float, end: float, attributes: dict[str, int] | None = None
    ) -> None:
        span = self._tracer.start_span(name, parent, attributes=attributes, start_time=round(begin * 1e9))
        span.end(round(end * 1e9))

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()
