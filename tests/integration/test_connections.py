"""What belongs to calls and connections rather than to models: ids, traces, compression, pings."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from hourglass.v1 import autoencoder_pb2 as pb
from tests import artefacts, wire
from tests.processes import Serve

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
REQUEST = pb.ScoreRequest(model="line", tensor=wire.tensor(ROWS))
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(traces_grpc.TraceServiceServicer):
    """OTLP over gRPC: every span that comes."""

    def __init__(self) -> None:
        self.spans: queue.SimpleQueue[trace_pb2.Span] = queue.SimpleQueue()
        self.services: set[str] = set()

    def Export(
        self, request: traces_pb.ExportTraceServiceRequest, _context: Any
    ) -> traces_pb.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.put(span)
        return traces_pb.ExportTraceServiceResponse()

    def take(self, count: int) -> dict[str, trace_pb2.Span]:
        """By name."""
        return {span.name: span for span in (self.spans.get(timeout=30) for _ in range(count))}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    exported = tmp_path_factory.mktemp("exported")
    artefacts.publish(exported, "line")
    return exported


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    traces_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector, f"http://127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture(scope="module")
def server(exported: Path) -> Iterator[Serve]:
    server = Serve(exported).wait_ready()
    yield server
    server.kill()


def attributes(span: trace_pb2.Span) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_a_call_is_a_span_of_its_callers_trace(exported: Path, collector: tuple[Collector, str]) -> None:
    spans, endpoint = collector
    server = Serve(exported, "--traces-endpoint", endpoint, OTEL_BSP_SCHEDULE_DELAY="100").wait_ready()
    try:
        with grpc.insecure_channel(server.address) as channel:
            stub = wire.stub(channel)
            stub.Score(REQUEST, metadata=[("traceparent", f"00-{TRACE}-{PARENT}-01")])
            found = spans.take(3)
            call, waited, ran = (found[name] for name in ("hourglass.v1.Autoencoder/Score", "queue", "run"))
            assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
            assert call.kind == trace_pb2.Span.SPAN_KIND_SERVER
            assert attributes(call).items() >= {"rpc.method": "Score", "rpc.grpc.status_code": 0}.items()
            for inner in (waited, ran):
                assert (inner.trace_id, inner.parent_span_id) == (call.trace_id, call.span_id)
                assert call.start_time_unix_nano <= inner.start_time_unix_nano + 1_000_000
                assert inner.end_time_unix_nano <= call.end_time_unix_nano + 1_000_000
            assert attributes(ran) == {"hourglass.rows": 2, "hourglass.batch_rows": 2}
            assert wire.failure(stub.Score, pb.ScoreRequest(model="nobody")).code is grpc.StatusCode.NOT_FOUND
            (refused,) = spans.take(1).values()
            assert attributes(refused)["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
            assert refused.status.code == trace_pb2.Status.STATUS_CODE_UNSET  # the caller's fault, not the server's
            assert not refused.parent_span_id
        assert spans.services == {"hourglass-serve"}
        stub = wire.stub(grpc.insecure_channel(server.address))
        stub.Score(REQUEST)
    finally:
        server.terminate()
        assert server.wait() == 0
    assert spans.take(3).keys() >= {"queue", "run"}  # what was not sent yet is sent at the end


def test_names_that_nobody_serves_are_no_series(exported: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    server = Serve(exported, "--auth-token-file", str(tokens)).wait_ready()
    with grpc.insecure_channel(server.address) as channel:
        for method in ("Score", *(f"Guess{i}" for i in range(5))):
            call = channel.unary_unary(f"/hourglass.v1.Autoencoder/{method}")
            assert wire.failure(call, b"").code is grpc.StatusCode.UNAUTHENTICATED
    page = server.metrics()
    assert 'method="Score"' in page
    assert "Guess" not in page
    server.kill()


def test_without_a_collector_calls_are_answered(exported: Path) -> None:
    server = Serve(exported, "--traces-endpoint", "http://127.0.0.1:1").wait_ready()
    with grpc.insecure_channel(server.address) as channel:
        assert wire.stub(channel).Score(REQUEST).model.version == 1
    server.kill()


def ids(call: Any) -> list[str]:
    return [value for key, value in call.trailing_metadata() or () if key == "x-request-id"]


def test_a_callers_id_comes_back(server: Serve) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = wire.stub(channel)
        _, call = stub.Score.with_call(REQUEST, metadata=[("x-request-id", "order-17/3")])
        assert ids(call) == ["order-17/3"]
        _, call = stub.Score.with_call(REQUEST)
        assert not ids(call)
        for unfit in ("two words", "x" * 129):
            _, call = stub.Score.with_call(REQUEST, metadata=[("x-request-id", unfit)])
            assert not ids(call)


def test_a_failure_has_an_id_that_is_in_the_log(server: Serve) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = wire.stub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Score(pb.ScoreRequest(model="nobody"))
        (made,) = ids(refused.value)
        assert made
        overflow = pb.ScoreRequest(model="line", tensor=wire.tensor(np.full((1, 4), 3e38, np.float32)))
        with pytest.raises(grpc.RpcError) as failed:
            stub.Score(overflow, metadata=[("x-request-id", "mine")])
        assert ids(failed.value) == ["mine"]
        assert "(request mine in the server's log)" in failed.value.details()
        assert server.wait_logged("call failed")["request_id"] == "mine"


def test_compressed_requests_are_read_and_may_not_be_larger_than_others(server: Serve) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options, compression=grpc.Compression.Gzip) as channel:
        stub = wire.stub(channel)
        plain = wire.stub(grpc.insecure_channel(server.address)).Score(REQUEST)
        assert stub.Score(REQUEST) == plain
        # A tenth of a megabyte on the wire.
        bomb = pb.ScoreRequest(model="line", tensor=pb.Tensor(data=bytes(100 * 2**20)))
        assert wire.failure(stub.Score, bomb).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.Score(REQUEST) == plain


def test_who_pings_too_often_is_sent_away(server: Serve) -> None:
    """gRPC's own defence: a GOAWAY, after which the channel connects anew."""
    options = [("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0)]
    options += [("grpc.keepalive_permit_without_calls", 1), ("grpc.use_local_subchannel_pool", 1)]
    states: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
    with grpc.insecure_channel(server.address, options) as channel:
        channel.subscribe(states.put)
        assert wire.stub(channel).Score(REQUEST).model.version == 1
        seen = []
        while grpc.ChannelConnectivity.READY not in seen or seen[-1] is grpc.ChannelConnectivity.READY:
            seen.append(states.get(timeout=60))
        assert seen[-1] is grpc.ChannelConnectivity.IDLE
        assert wire.stub(channel).Score(REQUEST).model.version == 1
