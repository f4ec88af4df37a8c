"""Every bad request gets its error, and the server lives."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hourglass.v1 import autoencoder_pb2 as pb
from tests import artefacts, wire
from tests.processes import Serve

GOOD = np.arange(8, dtype=np.float32).reshape(2, 4)
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
F32 = pb.DATA_TYPE_FLOAT32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    exported = tmp_path_factory.mktemp("exported")
    artefacts.publish(exported, "line")
    server = Serve(exported, "--max-batch-rows", "100").wait_ready()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def channel(server: Serve) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return wire.stub(channel)


def with_value(value: float, row: int, feature: int) -> np.ndarray:
    rows = GOOD.copy()
    rows[row, feature] = value
    return rows


def raw(shape: list[int], size: int, data_type: int = F32) -> pb.Tensor:
    return pb.Tensor(data_type=data_type, shape=shape, data=bytes(size))


BAD_TENSORS = {
    "no tensor": (None, "EMPTY", "no rows"),
    "no data type": (raw([2, 4], 32, 0), "BAD_DTYPE", "DATA_TYPE_UNSPECIFIED"),
    "bool": (raw([2, 4], 8, pb.DATA_TYPE_BOOL), "BAD_DTYPE", "DATA_TYPE_BOOL; the model takes DATA_TYPE_FLOAT32"),
    "a type of the future": (raw([2, 4], 32, 99), "BAD_DTYPE", "99"),
    "no shape": (raw([], 32), "SHAPE_MISMATCH", r"the model takes \[n, 4\]"),
    "no rows dimension": (raw([4], 16), "SHAPE_MISMATCH", r"shape is \[4\]; the model takes \[n, 4\]"),
    "wrong width": (raw([2, 5], 40), "SHAPE_MISMATCH", r"shape is \[2, 5\]; the model takes \[n, 4\]"),
    "one dimension too many": (raw([2, 4, 1], 32), "SHAPE_MISMATCH", r"\[2, 4, 1\]"),
    "a thousand dimensions": (raw([1] * 1000, 4), "SHAPE_MISMATCH", "1000 dimensions"),
    "negative rows": (raw([-2, 4], 32), "SHAPE_MISMATCH", "negative"),
    "negative width": (raw([2, -4], 32), "SHAPE_MISMATCH", "-4"),
    "bytes missing": (raw([2, 4], 31), "SHAPE_MISMATCH", "31 bytes; shape .* takes 32"),
    "bytes too many": (raw([2, 4], 36), "SHAPE_MISMATCH", "36 bytes"),
    "no bytes": (raw([2, 4], 0), "SHAPE_MISMATCH", "0 bytes"),
    "zero rows": (raw([0, 4], 0), "EMPTY", "no rows: 0 of them"),
    "too many rows": (raw([101, 4], 1616), "TOO_MANY_ROWS", "101 rows in one request; at most 100"),
    "2^62 rows": (raw([2**62, 4], 32), "TOO_MANY_ROWS", str(2**62)),
    "NaN": (wire.tensor(with_value(math.nan, 1, 2)), "NON_FINITE", "row 1, feature 2 is nan"),
    "infinity": (wire.tensor(with_value(math.inf, 0, 3)), "NON_FINITE", "row 0, feature 3 is inf"),
    "minus infinity": (wire.tensor(with_value(-math.inf, 1, 0)), "NON_FINITE", "row 1, feature 0 is -inf"),
}


@pytest.mark.parametrize("kind", BAD_TENSORS)
@pytest.mark.parametrize("rpc", ["Embed", "Denoise", "Score"])
def test_a_bad_tensor_is_refused_naming_what_is_wrong(stub: Any, rpc: str, kind: str) -> None:
    tensor, reason, message = BAD_TENSORS[kind]
    request = getattr(pb, f"{rpc}Request")(model="line", tensor=tensor)
    refused = wire.failure(getattr(stub, rpc), request)
    assert (refused.code, refused.reason) == (INVALID, reason)
    assert refused.metadata["field"].startswith("tensor")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(refused.message)
    if reason == "NON_FINITE":
        assert refused.metadata["row"] == refused.message.split(",")[0].removeprefix("row ")


@pytest.mark.parametrize(
    ("asked", "reason", "message"),
    [
        ({"threshold": math.inf}, "BAD_THRESHOLD", "threshold is inf"),
        ({"threshold": 1.0, "control_fdr": True}, "BAD_THRESHOLD", "both set"),
        ({"top_features": -1}, "BAD_TOP_FEATURES", "top_features is -1"),
        ({"control_fdr": True, "false_alarm_rate": 1.0}, "BAD_FALSE_ALARM_RATE", "between 0 and 1"),
    ],
)
def test_what_a_score_cannot_be_asked_for_is_refused(
    stub: Any, asked: dict[str, Any], reason: str, message: str
) -> None:
    refused = wire.failure(stub.Score, pb.ScoreRequest(model="line", tensor=wire.tensor(GOOD), **asked))
    assert (refused.code, refused.reason) == (INVALID, reason)
    assert refused.metadata["field"] in asked
    assert message in refused.message


def test_what_a_model_cannot_do_is_refused(stub: Any) -> None:
    for rpc, request in (
        (stub.Generate, pb.GenerateRequest(model="line", rows=3)),
        (stub.Embed, pb.EmbedRequest(model="line", tensor=wire.tensor(GOOD), with_stddev=True)),
    ):
        refused = wire.failure(rpc, request)
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_PRIOR")
        assert "basic autoencoder" in refused.message


@pytest.mark.parametrize(
    ("rows", "reason"), [(0, "EMPTY"), (-1, "EMPTY"), (101, "TOO_MANY_ROWS"), (2**62, "TOO_MANY_ROWS")]
)
def test_a_number_of_rows_nobody_can_draw_is_refused(stub: Any, rows: int, reason: str) -> None:
    refused = wire.failure(stub.Generate, pb.GenerateRequest(model="line", rows=rows))
    assert (refused.code, refused.reason, refused.metadata["field"]) == (INVALID, reason, "rows")


def test_a_bad_embedding_is_refused(stub: Any) -> None:
    for tensor, reason in (
        (None, "EMPTY"),
        (wire.tensor(GOOD), "SHAPE_MISMATCH"),
        (wire.tensor(np.full((1, 2), np.nan, dtype=np.float32)), "NON_FINITE"),
    ):
        refused = wire.failure(stub.Decode, pb.DecodeRequest(model="line", embedding=tensor))
        assert (refused.code, refused.reason) == (INVALID, reason)
        assert refused.metadata["field"].startswith("embedding")


@pytest.mark.parametrize("name", ["", "other", "LINE", "../line", "line/1", "a" * 10_000, "li\x00ne", "%s%n", "line "])
def test_an_unknown_model_is_not_found(stub: Any, name: str) -> None:
    for rpc, request in (
        (stub.Embed, pb.EmbedRequest(model=name, tensor=wire.tensor(GOOD))),
        (stub.GetModel, pb.GetModelRequest(model=name)),
    ):
        refused = wire.failure(rpc, request)
        assert (refused.code, refused.reason, refused.metadata["field"]) == (NOT_FOUND, "MODEL_NOT_FOUND", "model")
        assert len(refused.message) < 300
        assert (": did you mean 'line'? " in refused.message) == ("line" in name or name == "li\x00ne")


@pytest.mark.parametrize("version", [2, 99, -1, 2**62])
def test_a_version_that_is_not_loaded_is_not_found_naming_the_policy(stub: Any, version: int) -> None:
    request = pb.ScoreRequest(model="line", version=version, tensor=wire.tensor(GOOD))
    refused = wire.failure(stub.Score, request)
    assert (refused.code, refused.reason, refused.metadata["field"]) == (NOT_FOUND, "MODEL_NOT_FOUND", "version")
    assert "loaded: 1" in refused.message
    assert "--versions" in refused.message


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.5, 2.0, math.nan, math.inf, 0.004])
def test_a_false_alarm_rate_that_cannot_be_promised_is_refused(stub: Any, rate: float) -> None:
    refused = wire.failure(stub.Score, pb.ScoreRequest(model="line", tensor=wire.tensor(GOOD), false_alarm_rate=rate))
    assert (refused.code, refused.reason) == (INVALID, "BAD_FALSE_ALARM_RATE")
    assert refused.metadata["field"] == "false_alarm_rate"
    if rate == 0.004:
        assert "199 calibration rows cannot promise" in refused.message
        assert "the smallest is 0.005" in refused.message


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    refused = wire.failure(channel.unary_unary("/hourglass.v1.Autoencoder/Train"), b"")
    assert refused.code is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_over_the_limit_is_refused(stub: Any) -> None:
    refused = wire.failure(stub.Embed, pb.EmbedRequest(model="line", tensor=raw([1, 4], 17 * 2**20)))
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_random_bytes_are_an_error_of_the_callers(channel: grpc.Channel, data: bytes) -> None:
    refused = wire.failure(channel.unary_unary("/hourglass.v1.Autoencoder/Score"), data)
    assert refused.code in (INVALID, NOT_FOUND)
    assert refused.reason
    for secret in ("/", "Traceback", "0x"):
        assert secret not in refused.message


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_damaged_request_is_answered_or_refused(channel: grpc.Channel, position: float, bit: int) -> None:
    data = bytearray(pb.ScoreRequest(model="line", tensor=wire.tensor(GOOD)).SerializeToString())
    data[int(position * len(data))] ^= 1 << bit
    try:
        answer = channel.unary_unary("/hourglass.v1.Autoencoder/Score")(bytes(data))
        assert pb.ScoreResponse.FromString(answer).model.name == "line"
    except grpc.RpcError as error:
        refused = wire.Failure(error)  # a flipped exponent may make a row too large for the model
        assert refused.code in (INVALID, NOT_FOUND) or refused.reason == "INFERENCE_FAILED"


def test_garbage_on_the_socket_hurts_nobody(server: Serve, stub: Any) -> None:
    rng = np.random.default_rng(0)
    host, port = server.address.split(":")
    for _ in range(50):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(rng.bytes(500))
    assert stub.Score(pb.ScoreRequest(model="line", tensor=wire.tensor(GOOD))).model.version == 1


def test_rows_too_large_for_the_model_fail_without_harm(server: Serve, stub: Any) -> None:
    """Finite rows whose squares are not: the answer would be infinite, so there is none."""
    refused = wire.failure(stub.Score, pb.ScoreRequest(model="line", tensor=wire.tensor(with_value(3e38, 1, 0))))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "INFERENCE_FAILED")
    assert refused.metadata["row"] == "1"
    request_id = refused.message.split("(request ")[1].split(" ")[0]
    server.wait_logged("call failed")
    assert any(entry.get("request_id") == request_id for entry in server.log)
    assert stub.Score(pb.ScoreRequest(model="line", tensor=wire.tensor(GOOD))).model.version == 1


def test_a_full_queue_says_when_to_come_back(tmp_path: Any, serve: Any) -> None:
    artefacts.publish(tmp_path, "heavy", artefacts.Linear.random(), work=200)
    server = serve(tmp_path, "--max-batch-rows", "64", "--max-queue-rows", "64")
    rows = np.ones((64, 4), dtype=np.float32)
    with grpc.insecure_channel(server.address) as channel:
        calls = [
            wire.stub(channel).Score.future(pb.ScoreRequest(model="heavy", tensor=wire.tensor(rows))) for _ in range(30)
        ]
        outcomes = [wire.Failure(call) if call.exception() else None for call in calls]
    refused = [outcome for outcome in outcomes if outcome]
    assert refused
    assert len(refused) < 30
    for outcome in refused:
        assert (outcome.code, outcome.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert 0 < outcome.retry_seconds <= 5
        assert int(outcome.trailer["grpc-retry-pushback-ms"]) == round(outcome.retry_seconds * 1e3)
    assert server.metric("hourglass_rejected_total", model="heavy", reason="QUEUE_FULL") == len(refused)


def test_refused_calls_leave_nothing_behind(server: Serve, channel: grpc.Channel) -> None:
    """Frames, futures and errors that refer to each other would keep the messages until the collector comes."""

    def resident() -> int:
        status = (Path("/proc") / str(server.process.pid) / "status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) // 1024

    wrong = pb.ScoreRequest(model="line", tensor=raw([2, 4], 8 * 2**20))
    stub = wire.stub(channel)
    for _ in range(5):
        wire.failure(stub.Score, wrong)
    before = resident()
    for _ in range(40):
        assert wire.failure(stub.Score, wrong).code is INVALID
    assert resident() - before < 100, "MiB for 320 MiB of refused messages"
