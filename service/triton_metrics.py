"""Triton's names on /metrics, for dashboards and autoscaling rules that know them: --triton-metrics.

Worked out of our own counters when somebody scrapes. Triton's counters have no `_total`, which a counter of
prometheus_client cannot do without: these are of no type, which no query looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from service.served import Served

_UNTYPED = "unknown"
_PENDING = "nv_inference_pending_request_count"
_FAILURES = "nv_inference_request_failure"
_MICROSECONDS = 1e6
_NAMES: dict[str, tuple[str, Callable[[Served], float]]] = {
    "nv_inference_request_success": ("Requests that were answered", lambda served: served.successes),
    "nv_inference_count": ("Rows that were run", lambda served: served.rows),
    "nv_inference_exec_count": ("Batches that were run", lambda served: served.batches),
    _PENDING: ("Requests that wait now", lambda served: served.pending),
    "nv_inference_request_duration_us": (
        "Time of answered requests, from the queue to the answer",
        lambda served: served.success_seconds * _MICROSECONDS,
    ),
    "nv_inference_queue_duration_us": ("Time requests waited", lambda served: served.queue_seconds * _MICROSECONDS),
    "nv_inference_compute_input_duration_us": ("0: part of compute_infer", lambda _: 0),
    "nv_inference_compute_infer_duration_us": (
        "Of each request the time of its batch",
        lambda served: served.compute_seconds * _MICROSECONDS,
    ),
    "nv_inference_compute_output_duration_us": ("0: part of compute_infer", lambda _: 0),
}


class TritonNames(Collector):
    def __init__(self, served: Mapping[tuple[str, int], Served]) -> None:
        self._served = served

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        versions = [({"model": name, "version": str(version)}, one) for (name, version), one in [*self._served.items()]]
        for name, (text, value) in _NAMES.items():
            family = Metric(name, text, "gauge" if name == _PENDING else _UNTYPED)
            for labels, served in versions:
                family.add_sample(name, labels, value(served))
            yield family
        failures = Metric(_FAILURES, "Requests that were queued, or refused by the queue, and not answered", _UNTYPED)
        for labels, served in versions:
            for reason, count in served.failures.items():
                failures.add_sample(_FAILURES, {**labels, "reason": reason}, count)
        yield failures
