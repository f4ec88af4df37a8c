"""The /metrics of several processes as one: each sample says of which process it is."""

from __future__ import annotations

import http.client
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from service.metrics import LOOPBACK

log = structlog.get_logger(__name__)

_SECONDS = 3.0


class Processes(Collector):
    """Asks every process when it is asked. One that does not answer in time is left out, and said so in the log."""

    def __init__(self) -> None:
        self.ports: dict[int, int] = {}  # of those that serve: number -> port of its own /metrics
        self.restarts = 0

    def describe(self) -> Iterable[Metric]:
        return self._own(0)

    def collect(self) -> Iterator[Metric]:
        ports = dict(sorted(self.ports.items()))
        with ThreadPoolExecutor(max(1, len(ports))) as threads:
            asked = dict(zip(ports, threads.map(_ask, ports, ports.values()), strict=True))
        answers = {number: families for number, families in asked.items() if families}
        yield from self._own(len(answers))
        yield from _merged(answers)

    def _own(self, answered: int) -> tuple[Metric, Metric]:
        return (
            GaugeMetricFamily("hourglass_processes", "Server processes whose metrics these are", answered),
            CounterMetricFamily(
                "hourglass_process_restarts", "Processes that ended by themselves and were started again", self.restarts
            ),
        )


def _ask(number: int, port: int) -> list[Metric]:
    """Empty when it does not answer."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_SECONDS)
    try:
        connection.request("GET", "/metrics")
        return list(text_string_to_metric_families(connection.getresponse().read().decode()))
    except (OSError, http.client.HTTPException, ValueError) as error:  # an error page is no metrics
        log.warning("a process does not answer for its metrics", process=number, why=str(error) or repr(error))
        return []
    finally:
        connection.close()


def _merged(answers: dict[int, list[Metric]]) -> Iterable[Metric]:
    families: dict[str, Metric] = {}
    for number, answer in answers.items():
        for found in answer:
            family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
            family.samples += [
                sample._replace(labels={**sample.labels, "process": str(number)}) for sample in found.samples
            ]
    return families.values()
