"""Every name on /metrics. Labels are bounded: methods, gRPC codes, and models that are loaded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from service.errors import StartError

if TYPE_CHECKING:
    from service.engine import LiveModel

_SECONDS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_ROWS = tuple(2.0**power for power in range(0, 15))
_MODEL = ("model", "version")
_GRAPH = (*_MODEL, "graph")


class Metrics:
    """One registry of one process."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each one, of no use here
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter("hourglass_requests_total", "Finished calls", ("method", "code"), registry=registry)
        self._request_seconds = Histogram(
            "hourglass_request_duration_seconds",
            "From the call's start to its answer, as the server sees it",
            ("method",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._in_flight = Gauge("hourglass_inflight_requests", "Calls that are not answered yet", registry=registry)
        self._queue_seconds = Histogram(
            "hourglass_queue_duration_seconds",
            "Time a request's rows waited for the session",
            _GRAPH,
            buckets=_SECONDS,
            registry=registry,
        )
        self._run_seconds = Histogram(
            "hourglass_run_duration_seconds", "Time a batch took", _GRAPH, buckets=_SECONDS, registry=registry
        )
        self._rows = Counter("hourglass_rows_total", "Rows that were run", _GRAPH, registry=registry)
        self._batch_rows = Histogram(
            "hourglass_batch_rows", "Rows run together", _GRAPH, buckets=_ROWS, registry=registry
        )
        self._queue_rows = Gauge("hourglass_queue_rows", "Rows that wait now", _GRAPH, registry=registry)
        self._scored_rows = Counter("hourglass_scored_rows_total", "Rows that were scored", _MODEL, registry=registry)
        self._anomalies = Counter(
            "hourglass_anomalies_total", "Scored rows that were called anomalies", _MODEL, registry=registry
        )
        self._clipped_values = Counter(
            "hourglass_clipped_values_total",
            "Numbers of scored rows so far from the training data that they were clipped",
            _MODEL,
            registry=registry,
        )
        self._rejected = Counter(
            "hourglass_rejected_total",
            "Requests refused without being run",
            ("model", "reason"),
            registry=registry,
        )
        self._load_seconds = Gauge(
            "hourglass_model_load_seconds",
            "Time from reading a version to its being proven",
            _MODEL,
            registry=registry,
        )
        self._load_failures = Counter(
            "hourglass_model_load_failures_total", "Versions refused at load", ("model",), registry=registry
        )
        self._info = Gauge(
            "hourglass_model_info",
            "1 for each loaded version",
            ("model", "version", "variant", "embedding_space_id", "device"),
            registry=registry,
        )

    def serve(self, host: str, port: int) -> tuple[Any, int]:
        """Answer GET /metrics from a thread. Returns the server, to shut down, and its port. Raises StartError."""
        try:
            server, _thread = start_http_server(port, host, self.registry)
        except (OSError, UnicodeError) as error:
            raise StartError(f"--metrics-port {port} on {host}: {getattr(error, 'strerror', None) or error}") from None
        return server, server.server_port

    def call(self, method: str) -> Call:
        return Call(self, method)

    def observer(self, model: str, version: int, file: str) -> GraphObserver:
        graph = (model, str(version), _graph(file))
        return GraphObserver(
            model,
            self._queue_seconds.labels(*graph),
            self._run_seconds.labels(*graph),
            self._rows.labels(*graph),
            self._batch_rows.labels(*graph),
            self._rejected,
        )

    def model_loaded(self, model: LiveModel, seconds: float) -> None:
        version, manifest = str(model.version), model.manifest
        self._load_seconds.labels(model.name, version).set(seconds)
        self._info.labels(model.name, version, manifest.variant, manifest.embedding_space_id, model.device).set(1)
        for file, batcher in model.batchers.items():
            # Asked at scrape time: the hot path pays nothing for it.
            waiting = partial(getattr, batcher, "queued_rows")
            self._queue_rows.labels(model.name, version, _graph(file)).set_function(waiting)

    def scored(self, model: LiveModel, rows: int, anomalies: int, clipped: int) -> None:
        labels = model.name, str(model.version)
        self._scored_rows.labels(*labels).inc(rows)
        self._anomalies.labels(*labels).inc(anomalies)
        self._clipped_values.labels(*labels).inc(clipped)

    def load_failed(self, model: str) -> None:
        self._load_failures.labels(model).inc()


def _graph(file: str) -> str:
    return file.removesuffix(".onnx")


class Call:
    """One call from its start to its answer."""

    __slots__ = ("_method", "_metrics", "_started")

    def __init__(self, metrics: Metrics, method: str) -> None:
        self._metrics = metrics
        self._method = method
        self._started = time.perf_counter()
        metrics._in_flight.inc()

    def finish(self, code: str) -> None:
        self._metrics._in_flight.dec()
        self._metrics._requests.labels(self._method, code).inc()
        self._metrics._request_seconds.labels(self._method).observe(time.perf_counter() - self._started)


@dataclass(frozen=True, slots=True)
class GraphObserver:
    """What one batcher reports; its label sets are looked up once."""

    model: str
    queue_seconds: Histogram
    run_seconds: Histogram
    rows: Counter
    batch_rows: Histogram
    rejections: Counter

    def batch(self, rows: int, waits: Sequence[float], run_seconds: float) -> None:
        self.rows.inc(rows)
        self.batch_rows.observe(rows)
        self.run_seconds.observe(run_seconds)
        for wait in waits:
            self.queue_seconds.observe(wait)

    def rejected(self, reason: str) -> None:
        self.rejections.labels(self.model, reason).inc()
