"""Every name on /metrics. Labels are bounded: methods, gRPC codes, and models that are loaded."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
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
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.errors import StartError

if TYPE_CHECKING:
    from service.drift import Tracker
    from service.engine import LiveModel

_SECONDS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_ROWS = tuple(2.0**power for power in range(0, 15))
_MODEL = ("model", "version")
_GRAPH = (*_MODEL, "graph")
# Of the last rows of traffic; what there is nothing to say about has no series.
_DRIFT = {
    "rows": "Rows that were counted of those in the window",
    "features": "Features that are further from the calibration rows than the limit",
    "ks_limit": "Distance that traffic like the calibration rows exceeds in at most one case of a hundred",
    "score_ks": "Kolmogorov-Smirnov distance of the scores from the calibration rows' scores",
    "score_ks_limit": "The limit of that distance",
    "score_psi": "Population stability index of the scores",
    "mean_p_value": "Mean p-value of the scored rows: about 0.5 without drift",
    "missing_ratio": "Share of cells that were missing",
    "unknown_ratio": "Share of categories that the model does not know",
    "clipped_ratio": "Share of numbers so far from the training data that they were clipped",
}
_FEATURE_DRIFT = {
    "feature_ks": "Kolmogorov-Smirnov distance of the features that are farthest off",
    "feature_psi": "Population stability index of the features that are farthest off",
}
# Series of single features: of those that are farthest off now.
_WORST_FEATURES = 10


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
        self._missing_values = Counter(
            "hourglass_missing_values_total", "Cells of scored rows that were missing", _MODEL, registry=registry
        )
        self._unknown_categories = Counter(
            "hourglass_unknown_categories_total",
            "Cells of scored rows with a category that the model does not know",
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
        self._drift = _DriftCollector()
        registry.register(self._drift)

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
        if model.drift:
            self._drift.trackers[model.name, version] = model.drift

    def scored(self, model: LiveModel, *, rows: int, anomalies: int, clipped: int, missing: int, unknown: int) -> None:
        labels = model.name, str(model.version)
        self._scored_rows.labels(*labels).inc(rows)
        self._anomalies.labels(*labels).inc(anomalies)
        self._clipped_values.labels(*labels).inc(clipped)
        self._missing_values.labels(*labels).inc(missing)
        self._unknown_categories.labels(*labels).inc(unknown)

    def load_failed(self, model: str) -> None:
        self._load_failures.labels(model).inc()


def _graph(file: str) -> str:
    return file.removesuffix(".onnx")


class _DriftCollector(Collector):
    """How far each version's traffic is from its calibration rows, worked out when it is asked for."""

    def __init__(self) -> None:
        self.trackers: dict[tuple[str, str], Tracker] = {}

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()  # names are known without working anything out

    def collect(self) -> Iterator[GaugeMetricFamily]:
        gauges = {
            name: GaugeMetricFamily(f"hourglass_drift_{name}", text, labels=labels)
            for labels, texts in ((_MODEL, _DRIFT), ((*_MODEL, "feature"), _FEATURE_DRIFT))
            for name, text in texts.items()
        }
        for model, tracker in tuple(self.trackers.items()):
            drift = tracker.now()
            values = {
                "rows": drift.rows,
                "features": int(drift.drifted.sum()),
                "ks_limit": drift.limit,
                "score_ks": drift.score_ks,
                "score_ks_limit": drift.score_limit,
                "score_psi": drift.score_psi,
                "mean_p_value": drift.mean_p_value,
                "missing_ratio": drift.missing_ratio,
                "unknown_ratio": drift.unknown_ratio,
                "clipped_ratio": drift.clipped,
            }
            for name, value in values.items():
                if math.isfinite(value):
                    gauges[name].add_metric(model, value)
            for i in drift.worst(_WORST_FEATURES) if drift.rows else ():
                gauges["feature_ks"].add_metric((*model, tracker.names[i]), drift.ks[i])
                gauges["feature_psi"].add_metric((*model, tracker.names[i]), drift.psi[i])
        yield from gauges.values()


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
