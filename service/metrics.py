"""Every name on /metrics. Labels are bounded: methods, gRPC codes, and models that are loaded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.counts import Count, Counter, Distribution, Histogram
from service.served import Graph, Served
from service.start import StartError
from service.triton_metrics import TritonNames

if TYPE_CHECKING:
    from service.batcher import Batcher
    from service.drift import Tracker
    from service.engine import LiveModel
    from service.lanes import Lanes

LOOPBACK = "127.0.0.1"

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


def answer_scrapes(registry: CollectorRegistry, host: str, port: int) -> tuple[Any, int]:
    """Answer GET /metrics from a thread. Returns the server, to shut down, and its port. Raises StartError."""
    try:
        server, _thread = start_http_server(port, host, registry)
    except (OSError, UnicodeError) as error:
        raise StartError(f"--metrics-port {port} on {host}: {getattr(error, 'strerror', None) or error}") from None
    return server, server.server_port


class Metrics:
    """One registry of one process."""

    def __init__(self, *, triton_names: bool = False) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each one, of no use here
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._calls = _Calls(registry)
        self._batches = _Batches(registry)
        self._versions = _Versions(registry)
        self._folder = _Folder(registry)
        self._queues, self._gpu, self._drift = _QueueCollector(), _GpuCollector(), _DriftCollector()
        for collector in (self._queues, self._gpu, self._drift):
            registry.register(collector)
        # By name and version.
        self.served: dict[tuple[str, int], Served] = {}
        if triton_names:
            registry.register(TritonNames(self.served))

    def method(self, method: str) -> MethodObserver:
        return MethodObserver(
            self._calls, partial(self._calls.requests.labels, method), self._calls.seconds.labels(method)
        )

    def scored(self, model: str, version: int) -> Scored:
        labels = model, str(version)
        return Scored(**{name: counter.labels(*labels) for name, counter in self._versions.scored.items()})

    def graph(self, model: str, version: int, file: str) -> GraphObserver:
        graph = (model, str(version), _graph(file))
        observer = GraphObserver(
            self._batches.queue_seconds.labels(*graph),
            self._batches.run_seconds.labels(*graph),
            self._batches.run_rows.labels(*graph),
            self._batches.rows.labels(*graph),
            partial(self._batches.rejected.labels, model),
            self.served.setdefault((model, version), Served()),
        )
        observer.served.graphs[file] = Graph(observer.queue_seconds, observer.run_seconds, observer.rows)
        return observer

    def model_loaded(self, model: LiveModel, seconds: float) -> None:
        version, manifest = str(model.version), model.manifest
        self._versions.load_seconds.labels(model.name, version).set(seconds)
        # Of the same version with other files, which this one replaces.
        info = self._versions.info
        info.remove_by_labels({"model": model.name, "version": version})
        info.labels(model.name, version, manifest.variant, manifest.embedding_space_id, model.device).set(1)
        for file, batcher in model.batchers.items():
            self._queues.batchers[model.name, version, _graph(file)] = batcher
            self.served[model.name, model.version].waiting[file] = partial(getattr, batcher, "queued_requests")
        for file, lanes in model.lanes.items():
            self._gpu.lanes[model.name, version, _graph(file)] = lanes
        if model.drift:
            self._drift.trackers[model.name, version] = model.drift

    def model_unloaded(self, model: str, version: int) -> None:
        """Its series end: versions come for as long as the process lives."""
        labels = model, str(version)
        self._batches.forget(*labels)
        self._versions.forget(*labels)
        for by_graph in (self._queues.batchers, self._gpu.lanes):
            for graph in [graph for graph in by_graph if graph[:2] == labels]:
                del by_graph[graph]
        self._drift.trackers.pop(labels, None)
        if served := self.served.pop((model, version), None):
            served.waiting.clear()  # batchers, which know it in turn: they would stay until a collection

    def model_gone(self, model: str) -> None:
        """Nothing is left of it."""
        for series in (self._batches.rejected, self._folder.load_failures):
            series.forget(model)

    def load_failed(self, model: str) -> None:
        self._folder.load_failures.labels(model).value += 1

    def scanned(self, seconds: float) -> None:
        self._folder.scan_seconds.set(seconds)

    def unreadable(self, is_so: bool) -> None:
        self._folder.unreadable.set(is_so)

    def refused(self, versions: Mapping[str, int]) -> None:
        """versions: of each model, how many cannot be served."""
        self._folder.refused.clear()
        for model, count in versions.items():
            self._folder.refused.labels(model).set(count)


class _Calls:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter("hourglass_requests", "Finished calls", ("method", "code"), registry)
        self.seconds = Histogram(
            "hourglass_request_duration_seconds",
            "From the call's start to its answer, as the server sees it",
            ("method",),
            _SECONDS,
            registry,
        )
        self.in_flight = 0
        in_flight = Gauge("hourglass_inflight_requests", "Calls that are not answered yet", registry=registry)
        in_flight.set_function(lambda: self.in_flight)


class _Batches:
    """Of each graph of each version; requests that were refused, of each model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queue_seconds = Histogram(
            "hourglass_queue_duration_seconds",
            "Time a request's rows waited for the session",
            _GRAPH,
            _SECONDS,
            registry,
        )
        self.run_seconds = Histogram("hourglass_run_duration_seconds", "Time a batch took", _GRAPH, _SECONDS, registry)
        self.run_rows = Counter("hourglass_rows", "Rows that were run", _GRAPH, registry)
        self.rows = Histogram("hourglass_batch_rows", "Rows run together", _GRAPH, _ROWS, registry)
        self.rejected = Counter(
            "hourglass_rejected", "Requests refused without being run", ("model", "reason"), registry
        )

    def forget(self, model: str, version: str) -> None:
        for series in (self.queue_seconds, self.run_seconds, self.run_rows, self.rows):
            series.forget(model, version)


class _Versions:
    """Of each version that is live."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, labels=_MODEL, registry=registry)
        self.scored = {
            "rows": counter("hourglass_scored_rows", "Rows that were scored"),
            "anomalies": counter("hourglass_anomalies", "Scored rows that were called anomalies"),
            "clipped": counter(
                "hourglass_clipped_values",
                "Numbers of scored rows so far from the training data that they were clipped",
            ),
            "missing": counter("hourglass_missing_values", "Cells of scored rows that were missing"),
            "unknown": counter(
                "hourglass_unknown_categories", "Cells of scored rows with a category that the model does not know"
            ),
        }
        self.load_seconds = Gauge(
            "hourglass_model_load_seconds",
            "Time from reading a version to its being proven",
            _MODEL,
            registry=registry,
        )
        self.info = Gauge(
            "hourglass_model_info",
            "1 for each loaded version",
            (*_MODEL, "variant", "embedding_space_id", "device"),
            registry=registry,
        )

    def forget(self, model: str, version: str) -> None:
        for counter in self.scored.values():
            counter.forget(model, version)
        for gauge in (self.load_seconds, self.info):
            gauge.remove_by_labels({"model": model, "version": version})


class _Folder:
    """Of the folder of models."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.load_failures = Counter("hourglass_model_load_failures", "Versions refused at load", ("model",), registry)
        self.refused = Gauge(
            "hourglass_model_versions_refused",
            "Versions in the folder of models that cannot be served now; the log says why",
            ("model",),
            registry=registry,
        )
        self.unreadable = Gauge(
            "hourglass_repository_unreadable",
            "1 while the folder of models cannot be read or is empty: what was loaded is served on",
            registry=registry,
        )
        self.scan_seconds = Gauge(
            "hourglass_repository_scan_seconds", "Time that the last look at the folder took", registry=registry
        )


def _graph(file: str) -> str:
    return file.removesuffix(".onnx")


class _QueueCollector(Collector):
    """Asked at scrape time: the hot path pays nothing for it. A Gauge with a function is a cycle: it would keep a model
    in memory until the garbage collector comes by."""

    def __init__(self) -> None:
        self.batchers: dict[tuple[str, str, str], Batcher] = {}

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("hourglass_queue_rows", "Rows that wait now", labels=_GRAPH)
        for graph, batcher in tuple(self.batchers.items()):
            waiting.add_metric(graph, batcher.queued_rows)
        yield waiting


class _GpuCollector(Collector):
    """What graphs do on a GPU; of those on the CPU there is nothing to say."""

    def __init__(self) -> None:
        self.lanes: dict[tuple[str, str, str], Lanes] = {}

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily(
            "hourglass_gpu_memory_bytes",
            "Memory of the GPU that the graph's sessions and buffers took when it was loaded",
            labels=_GRAPH,
        )
        busy = CounterMetricFamily(
            "hourglass_gpu_busy_seconds",
            "Time that its batches took on the GPU; those of several sessions overlap, and count each",
            labels=_GRAPH,
        )
        recorded = GaugeMetricFamily(
            "hourglass_gpu_recorded", "1 where batches start as recorded work, of whatever size", labels=_GRAPH
        )
        nodes = GaugeMetricFamily(
            "hourglass_graph_nodes", "Nodes, by the execution provider that runs them", labels=(*_GRAPH, "provider")
        )
        for graph, lanes in tuple(self.lanes.items()):
            memory.add_metric(graph, lanes.memory_bytes)
            busy.add_metric(graph, lanes.busy_seconds)
            recorded.add_metric(graph, lanes.recorded)
            for provider, count in lanes.nodes.items():
                nodes.add_metric((*graph, provider), count)
        yield from (memory, busy, recorded, nodes)


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


class MethodObserver:
    """The calls of one method."""

    def __init__(self, calls: _Calls, finished: Callable[[str], Count], seconds: Distribution) -> None:
        self._calls = calls
        self._finished = finished
        self._seconds = seconds

    def begin(self) -> None:
        self._calls.in_flight += 1

    def end(self, code: str, seconds: float) -> None:
        self._calls.in_flight -= 1
        self._finished(code).value += 1
        self._seconds.observe(seconds)


@dataclass(frozen=True, slots=True)
class Scored:
    """What one version scored."""

    rows: Count
    anomalies: Count
    clipped: Count
    missing: Count
    unknown: Count


@dataclass(frozen=True, slots=True)
class GraphObserver:
    """What one batcher reports."""

    queue_seconds: Distribution
    run_seconds: Distribution
    rows: Count
    batch_rows: Distribution
    rejections: Callable[[str], Count]
    served: Served

    def batch(self, rows: int, waits: Sequence[float], run_seconds: float) -> None:
        self.rows.value += rows
        self.batch_rows.observe(rows)
        self.run_seconds.observe(run_seconds)
        for wait in waits:
            self.queue_seconds.observe(wait)
        self.served.compute_seconds += run_seconds * len(waits)
        self.served.last = time.time()

    def rejected(self, reason: str) -> None:
        self.rejections(reason).value += 1

    def ended(self, failed: type[BaseException] | None, seconds: float) -> None:
        self.served.ended(failed, seconds)
