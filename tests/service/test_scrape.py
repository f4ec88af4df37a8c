"""One page of metrics from several processes', which answer as a web server of the test does."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.counts import Counter, Histogram
from service.scrape import Processes


@pytest.fixture
def page() -> Iterator[Callable[[bytes, int], int]]:
    """A port that answers with this text and status."""
    servers = []

    def start(text: bytes, status: int = 200) -> int:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_arguments: object) -> None: ...

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def metrics(calls: int, model: str) -> bytes:
    registry = CollectorRegistry()
    Counter("calls", "Calls", ("code",), registry).labels("OK").value += calls
    Histogram("seconds", 'Of a \\ "call"', (), (0.5, 1.0), registry).labels().observe(calls)
    Gauge("loaded", "1 for each", ("model",), registry=registry).labels(model).set(1)
    return generate_latest(registry)


def scraped(processes: Processes) -> dict[tuple[str, str], float]:
    registry = CollectorRegistry()
    registry.register(processes)
    text = generate_latest(registry).decode()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(set(names)) == len(names)
    return {
        (sample.name, ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_each_sample_is_there_and_says_whose_it_is(page: Callable[..., int]) -> None:
    processes = Processes()
    name = 'a "b"\n\\'
    processes.ports = {1: page(metrics(3, "x")), 0: page(metrics(2, name))}
    processes.restarts = 7
    assert scraped(processes) == {
        ("hourglass_processes", ""): 2,
        ("hourglass_process_restarts_total", ""): 7,
        **{("calls_total", f"code=OK,process={number}"): calls for number, calls in ((0, 2), (1, 3))},
        **{
            (f"seconds_{part}", f"{bound}process={number}"): value
            for number, calls in ((0, 2), (1, 3))
            for part, bound, value in (
                ("bucket", "le=0.5,", 0),
                ("bucket", "le=1.0,", 0),
                ("bucket", "le=+Inf,", 1),
                ("count", "", 1),
                ("sum", "", calls),
            )
        },
        ("loaded", f"model={name},process=0"): 1,
        ("loaded", "model=x,process=1"): 1,
    }


def test_who_answers_nonsense_or_nothing_is_left_out(page: Callable[..., int]) -> None:
    processes = Processes()
    assert scraped(processes)["hourglass_processes", ""] == 0
    empty = page(b"")
    processes.ports = {0: page(b"A server error occurred.", 500), 1: page(metrics(3, "x")), 2: empty}
    found = scraped(processes)
    assert found["hourglass_processes", ""] == 1
    assert {labels[-1] for _, labels in found if labels} == {"1"}
