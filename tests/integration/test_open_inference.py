"""The Open Inference Protocol over a real socket, by raw stubs, beside the native answers to the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hourglass.v1 import autoencoder_pb2 as native
from service.oip import open_inference_pb2 as pb
from service.oip import open_inference_pb2_grpc
from tests import artefacts, wire
from tests.processes import Serve

SERVICE = "inference.GRPCInferenceService"
OLD, NEW = artefacts.Linear.random(seed=1), artefacts.Linear.random(seed=2)
SAMPLER = artefacts.Linear.random(seed=4, prior=True, clip=2.0, fill=True)
WIDE = artefacts.Linear.random(width=256, seed=5)
ALL = ["embedding", "reconstruction", "score", "reconstruction_error", "p_value", "is_anomaly", "feature_error"]
DTYPES = {"FP32": "<f4", "INT32": "<i4", "BOOL": "?"}


@dataclass
class Running:
    server: Serve
    channel: grpc.Channel
    oip: Any
    native: Any


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    exported = tmp_path_factory.mktemp("exported")
    for name, model in (("line", OLD), ("line", NEW), ("sampler", SAMPLER), ("wide", WIDE)):
        artefacts.publish(exported, name, model)
    server = Serve(exported, "--triton-metrics").wait_ready()
    with grpc.insecure_channel(server.address) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        yield Running(server, channel, stub, wire.stub(channel))
    server.kill()


def rows(n: int, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width)).astype("<f4")


def request(
    model: str,
    x: np.ndarray,
    outputs: Sequence[str] = (),
    *,
    datatype: str = "FP32",
    typed: bool = False,
    **fields: Any,
) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name=model, **fields)
    tensor = made.inputs.add(name="input", datatype=datatype, shape=x.shape)
    if typed:
        tensor.contents.fp32_contents.extend(x.ravel().tolist())
    else:
        made.raw_input_contents.append(x.tobytes())
    for name in outputs:
        made.outputs.add(name=name)
    return made


def values(answer: pb.ModelInferResponse) -> dict[str, np.ndarray]:
    if not answer.raw_output_contents:
        return {
            output.name: np.array(
                output.contents.fp32_contents or output.contents.int_contents or output.contents.bool_contents,
                DTYPES[output.datatype],
            ).reshape(tuple(output.shape))
            for output in answer.outputs
        }
    pairs = zip(answer.outputs, answer.raw_output_contents, strict=True)
    return {o.name: np.frombuffer(data, DTYPES[o.datatype]).reshape(tuple(o.shape)) for o, data in pairs}


def natively(running: Running, model: str, x: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
    tensor = wire.tensor(x)
    scored = running.native.Score(native.ScoreRequest(model=model, tensor=tensor, feature_errors=True, **options))
    embedded = running.native.Embed(native.EmbedRequest(model=model, tensor=tensor))
    denoised = running.native.Denoise(native.DenoiseRequest(model=model, tensor=tensor))
    every = {name: wire.values(getattr(scored, name)) for name in ALL[2:6]}
    return {
        **every,
        "feature_error": wire.values(scored.feature_errors),
        "embedding": wire.values(embedded.embedding),
        "reconstruction": wire.values(denoised.reconstruction),
    }


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize(("model", "width", "n"), [("line", 4, 1), ("line", 4, 300), ("wide", 256, 100)])
def test_every_output_is_the_native_one(running: Running, model: str, width: int, n: int, typed: bool) -> None:
    x = rows(n, width) * 2
    answer = running.oip.ModelInfer(request(model, x, typed=typed, id="é-17"))
    assert (answer.model_name, answer.id) == (model, "é-17")
    assert bool(answer.raw_output_contents) is not typed
    expected, found = natively(running, model, x), values(answer)
    assert list(found) == ALL
    for name in ALL:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert found[name].dtype == expected[name].dtype
    assert found["is_anomaly"].any() or n == 1


def test_only_what_is_asked_for_in_the_order_that_it_is_asked_for(running: Running) -> None:
    x = rows(5)
    for outputs in (["score", "embedding"], ["is_anomaly"], ["p_value"], ["feature_error", "score"], ALL[::-1]):
        answer = running.oip.ModelInfer(request("line", x, outputs))
        assert [output.name for output in answer.outputs] == outputs
        assert len(answer.raw_output_contents) == len(outputs)
        expected = natively(running, "line", x)
        for name, found in values(answer).items():
            np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_embeddings_alone_do_not_pay_for_the_decoder_and_scores_are_not_counted_as_verdicts(running: Running) -> None:
    def counted() -> tuple[float, float, float]:
        graphs = [running.server.metric("hourglass_rows_total", model="sampler", graph=g) for g in ("encoder", "model")]
        return (*graphs, running.server.metric("hourglass_scored_rows_total", model="sampler"))

    before = counted()
    running.oip.ModelInfer(request("sampler", rows(7), ["embedding_stddev", "embedding"]))
    assert counted() == (before[0] + 7, before[1], before[2])
    running.oip.ModelInfer(request("sampler", rows(7), ["score", "p_value"]))
    assert counted() == (before[0] + 7, before[1] + 7, before[2])
    holes = rows(7) * 9
    holes[0, 0] = np.nan
    missing = running.server.metric("hourglass_missing_values_total", model="sampler")
    running.oip.ModelInfer(request("sampler", holes, ["is_anomaly"]))
    assert counted() == (before[0] + 7, before[1] + 14, before[2] + 7)
    assert running.server.metric("hourglass_missing_values_total", model="sampler") == missing + 1
    assert not [entry for entry in running.server.log if entry["level"] == "error"]


def test_options_are_parameters(running: Running) -> None:
    x = rows(200)
    asked = {
        "false_alarm_rate": pb.InferParameter(double_param=0.3),
        "top_features": pb.InferParameter(int64_param=2),
        "normalize": pb.InferParameter(bool_param=True),
    }
    answer = running.oip.ModelInfer(request("line", x, parameters=asked))
    found = values(answer)
    assert list(found) == [*ALL, "top_feature", "top_share", "top_observed", "top_expected"]
    native_answer = running.native.Score(
        native.ScoreRequest(model="line", tensor=wire.tensor(x), false_alarm_rate=0.3, top_features=2)
    )
    np.testing.assert_array_equal(found["is_anomaly"], wire.values(native_answer.is_anomaly))
    for name in ("feature", "share", "observed", "expected"):
        expected = wire.values(getattr(native_answer.top_features, name))
        np.testing.assert_allclose(found[f"top_{name}"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found["embedding"], axis=1), 1, rtol=1e-5)
    assert answer.parameters["false_alarm_rate"].double_param == 0.3
    assert answer.parameters["threshold"].double_param == native_answer.threshold
    assert answer.parameters["embedding_space_id"].string_param == native_answer.model.embedding_space_id
    named = running.oip.ModelInfer(request("line", x, ["top_share"], parameters=asked))
    assert list(values(named)) == ["top_share"]


@pytest.mark.parametrize(("name", "width", "n", "model"), [("line", 4, 3, NEW), ("wide", 256, 500, WIDE)])
def test_half_precision_is_answered_in_float32(
    running: Running, name: str, width: int, n: int, model: artefacts.Linear
) -> None:
    x = rows(n, width).astype("<f2")
    found = values(running.oip.ModelInfer(request(name, x, datatype="FP16")))
    np.testing.assert_allclose(found["score"], model.answers(x.astype("f4"))["score"], rtol=1e-3)


def test_versions(running: Running) -> None:
    x = rows(3)
    for version, model in (("1", OLD), ("2", NEW), ("", NEW)):
        answer = running.oip.ModelInfer(request("line", x, ["score"], model_version=version))
        assert answer.model_version == (version or "2")
        np.testing.assert_allclose(values(answer)["score"], model.answers(x)["score"], rtol=1e-4)
    described = running.oip.ModelMetadata(pb.ModelMetadataRequest(name="line", version="1"))
    assert list(described.versions) == ["1", "2"]
    assert described.properties["version"] == "1"
    assert described.properties["embedding_space_id"] == artefacts.manifest(OLD, OLD.graphs()).embedding_space_id


def infer(running: Running, *arguments: Any, **options: Any) -> wire.Failure:
    return wire.failure(running.oip.ModelInfer, request(*arguments, **options))


def test_refusals_have_the_codes_and_details_of_the_native_api(running: Running) -> None:
    x, invalid = rows(2), grpc.StatusCode.INVALID_ARGUMENT
    bad = x.copy()
    bad[1, 2] = np.inf
    rate = {"false_alarm_rate": pb.InferParameter(double_param=1e-9)}
    none = {"false_alarm_rate": pb.InferParameter(double_param=float("nan"))}
    negative = {"top_features": pb.InferParameter(int64_param=-1)}
    soon = {"timeout": pb.InferParameter(int64_param=1)}
    cases = [
        (infer(running, "nope", x), grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        (infer(running, "line", x, model_version="9"), grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        (infer(running, "line", x, model_version="newest"), invalid, "BAD_VERSION"),
        (infer(running, "line", x, model_version="0"), invalid, "BAD_VERSION"),
        (infer(running, "line", rows(2, 5)), invalid, "SHAPE_MISMATCH"),
        (infer(running, "line", rows(1025)), invalid, "TOO_MANY_ROWS"),
        (infer(running, "line", bad), invalid, "NON_FINITE"),
        (infer(running, "line", x, ["scores"]), invalid, "BAD_OUTPUT"),
        (infer(running, "line", x, ["score", "score"]), invalid, "BAD_OUTPUT"),
        (infer(running, "line", x, ["embedding_stddev"]), invalid, "BAD_OUTPUT"),
        (infer(running, "line", x, ["top_feature"]), invalid, "BAD_OUTPUT"),
        (infer(running, "line", x, parameters=rate), invalid, "BAD_FALSE_ALARM_RATE"),
        (infer(running, "line", x, parameters=none), invalid, "BAD_FALSE_ALARM_RATE"),
        (infer(running, "line", x, parameters=negative), invalid, "BAD_TOP_FEATURES"),
        (infer(running, "line", x, parameters=soon), grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    ]
    for failure, code, reason in cases:
        assert (failure.code, failure.reason) == (code, reason), failure.message
    assert infer(running, "line", bad).metadata == {"field": "inputs.input", "row": "1"}
    classes = request("line", x, ["score"])
    classes.outputs[0].parameters["classification"].int64_param = 3
    assert wire.failure(running.oip.ModelInfer, classes).reason == "BAD_PARAMETER"


def test_bytes_that_are_no_request_are_refused_by_name(running: Running) -> None:
    call = running.channel.unary_unary(f"/{SERVICE}/ModelInfer")
    for received in (b"\xff\xff", b"\x3a\xff\xff\x03" + bytes(50_000)):
        failure = wire.failure(call, received)
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED")
        assert failure.message == "the bytes are not a ModelInferRequest of inference"


def test_what_is_not_offered_is_unimplemented_and_not_among_the_extensions(running: Running) -> None:
    offered = {"ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"}
    offered |= {"ModelConfig", "ModelStatistics", "RepositoryIndex"}
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        if method.name in offered or method.client_streaming:
            continue
        empty = getattr(pb, method.input_type.name)()
        failure = wire.failure(getattr(running.oip, method.name), empty)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_OFFERED"), method.name
        assert method.name in failure.message
    failure = wire.failure(lambda: list(running.oip.ModelStreamInfer(iter([request("line", rows(1))]))))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_OFFERED")
    extensions = set(running.oip.ServerMetadata(pb.ServerMetadataRequest()).extensions)
    assert extensions == {"statistics", "model_configuration", "parameters", "schedule_policy"}
    assert running.server.metric("hourglass_requests_total", method="ModelStreamInfer", code="UNIMPLEMENTED") == 1


def test_statistics_and_tritons_metrics_count_rows_batches_and_failures(running: Running) -> None:
    def of(version: str) -> pb.ModelStatistics:
        answer = running.oip.ModelStatistics(pb.ModelStatisticsRequest(name="wide", version=version))
        (found,) = answer.model_stats
        return found

    before = of("1")
    running.oip.ModelInfer(request("wide", rows(9, 256)))
    running.native.Score(native.ScoreRequest(model="wide", tensor=wire.tensor(rows(4, 256))))
    infer(running, "wide", rows(2, 256), parameters={"timeout": pb.InferParameter(int64_param=1)})
    after = of("")
    assert after.inference_count - before.inference_count == 13
    assert after.execution_count - before.execution_count == 2
    for name, count in (("success", 2), ("fail", 1), ("queue", 2), ("compute_infer", 2)):
        one, other = getattr(before.inference_stats, name), getattr(after.inference_stats, name)
        assert (other.count - one.count, other.ns > one.ns) == (count, True), name
    assert after.last_inference >= before.last_inference
    labels = {"model": "wide", "version": "1"}
    assert running.server.metric("nv_inference_count", **labels) == after.inference_count
    assert running.server.metric("nv_inference_exec_count", **labels) == after.execution_count
    assert running.server.metric("nv_inference_request_failure", reason="REJECTED", **labels) == 1
    every = running.oip.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
    assert {(one.name, one.version) for one in every} == {("line", "1"), ("line", "2"), ("sampler", "1"), ("wide", "1")}


def test_the_index_lists_what_is_loaded(running: Running) -> None:
    index = running.oip.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
    expected = {("line", "1"), ("line", "2"), ("sampler", "1"), ("wide", "1")}
    assert {(one.name, one.version) for one in index.models} == expected
    assert {one.state for one in index.models} == {"READY"}
    other = wire.failure(running.oip.RepositoryIndex, pb.RepositoryIndexRequest(repository_name="other"))
    assert (other.code, other.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_REPOSITORY")


def test_health_and_reflection_know_the_service(running: Running) -> None:
    health = health_pb2_grpc.HealthStub(running.channel)
    status = health.Check(health_pb2.HealthCheckRequest(service=SERVICE)).status
    assert status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (listed,) = reflection.ServerReflectionInfo(iter([asked]))
    assert SERVICE in {one.name for one in listed.list_services_response.service}
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
    (described,) = reflection.ServerReflectionInfo(iter([asked]))
    assert described.file_descriptor_response.file_descriptor_proto


def test_a_draining_server_is_live_and_not_ready(serve: Any, tmp_path: Path) -> None:
    artefacts.publish(tmp_path, "line", OLD)
    server = serve(tmp_path, "--drain-seconds", "60")
    with grpc.insecure_channel(server.address) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        model = pb.ModelReadyRequest(name="line")
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
        assert stub.ModelReady(model).ready
        server.terminate()
        server.wait_logged("draining")
        assert stub.ServerLive(pb.ServerLiveRequest()).live
        assert not stub.ServerReady(pb.ServerReadyRequest()).ready
        assert not stub.ModelReady(model).ready
        stub.ModelInfer(request("line", rows(2)))  # still answered
        server.terminate()
    assert server.wait() == 0


def test_tokens_guard_it_too(serve: Any, tmp_path: Path) -> None:
    artefacts.publish(tmp_path / "exported", "line", OLD)
    (tmp_path / "tokens").write_text("secret\n")
    server = serve(tmp_path / "exported", "--auth-token-file", str(tmp_path / "tokens"))
    with grpc.insecure_channel(server.address) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        refused = wire.failure(stub.ModelInfer, request("line", rows(1)))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "BAD_CREDENTIAL")
        stub.ModelInfer(request("line", rows(1)), metadata=[("authorization", "Bearer secret")])
