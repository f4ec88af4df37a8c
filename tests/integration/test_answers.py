"""A real server over a real socket: answers, versions, health, reflection, metrics."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hourglass.contract.calibration import benjamini_hochberg
from hourglass.v1 import autoencoder_pb2 as pb
from tests import artefacts, wire
from tests.processes import Serve

OLD, NEW = artefacts.Linear.random(seed=1), artefacts.Linear.random(seed=2)
SAMPLER = artefacts.Linear.random(seed=4, prior=True)
CLIPPING = artefacts.Linear.random(width=6, seed=5, clip=2.0)
HEAVY = artefacts.Linear.random(width=8, embedding_size=3, seed=3)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Running:
    server: Serve
    exported: Path
    channel: grpc.Channel
    stub: Any


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    exported = tmp_path_factory.mktemp("exported")
    artefacts.publish(exported, "line", OLD)
    artefacts.publish(exported, "line", NEW)
    artefacts.publish(exported, "heavy", HEAVY, work=40, columns=[f"sensor{i}" for i in range(8)])
    artefacts.publish(exported, "sampler", SAMPLER)
    artefacts.publish(exported, "clipping", CLIPPING)
    server = Serve(exported).wait_ready()
    with grpc.insecure_channel(server.address) as channel:
        yield Running(server, exported, channel, wire.stub(channel))
    server.kill()


def rows(n: int, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 7, 1024])
def test_the_three_rpcs_answer_the_closed_form(running: Running, n: int) -> None:
    x = rows(n)
    expected = NEW.answers(x)
    embedded = running.stub.Embed(pb.EmbedRequest(model="line", tensor=wire.tensor(x)))
    denoised = running.stub.Denoise(pb.DenoiseRequest(model="line", tensor=wire.tensor(x)))
    scored = running.stub.Score(pb.ScoreRequest(model="line", tensor=wire.tensor(x)))
    np.testing.assert_allclose(wire.values(embedded.embedding), expected["embedding"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(wire.values(denoised.reconstruction), expected["reconstruction"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(wire.values(scored.score), expected["score"], rtol=1e-4, atol=1e-5)
    calibration = artefacts.manifest(NEW, NEW.graphs()).calibration
    score = wire.values(scored.score)
    np.testing.assert_array_equal(wire.values(scored.p_value), calibration.p_values(score).astype("f4"))
    assert (scored.false_alarm_rate, scored.threshold) == (0.05, calibration.threshold(0.05))
    np.testing.assert_array_equal(wire.values(scored.is_anomaly), score > calibration.threshold(0.05))
    error = wire.values(scored.reconstruction_error)
    np.testing.assert_allclose(error, expected["reconstruction_error"], rtol=1e-4, atol=1e-5)
    assert not wire.values(scored.clipped).any()
    assert not scored.HasField("top_features")
    assert not scored.HasField("feature_errors")


def test_a_score_is_explained(running: Running) -> None:
    x = rows(50, 6) * 2
    expected = CLIPPING.answers(x)
    errors, total = expected["feature_error"], expected["feature_error"].sum(axis=1, keepdims=True)
    for asked, k in ((3, 3), (100, 6), (0, 0)):
        request = pb.ScoreRequest(model="clipping", tensor=wire.tensor(x), top_features=asked, feature_errors=True)
        answer = running.stub.Score(request)
        clipped = wire.values(answer.clipped)
        np.testing.assert_array_equal(clipped, (np.abs(x) > 2).sum(axis=1))
        assert clipped.dtype == np.int32
        assert clipped.any()
        np.testing.assert_allclose(wire.values(answer.feature_errors), errors, rtol=1e-3, atol=1e-5)
        assert answer.HasField("top_features") is (k > 0)
        if not k:
            continue
        feature = wire.values(answer.top_features.feature)
        np.testing.assert_array_equal(feature, np.argsort(-wire.values(answer.feature_errors), kind="stable")[:, :k])
        for name, values in (("share", errors / total), ("observed", x), ("expected", expected["reconstruction"])):
            given = wire.values(getattr(answer.top_features, name))
            np.testing.assert_allclose(given, np.take_along_axis(values, feature, axis=1), rtol=1e-3, atol=1e-5)
    explained = running.stub.Score(pb.ScoreRequest(model="clipping", tensor=wire.tensor(x), top_features=2))
    assert explained.HasField("top_features")
    assert not explained.HasField("feature_errors")


def test_decode_is_the_second_half_of_denoise(running: Running) -> None:
    x = rows(9)
    embedding = running.stub.Embed(pb.EmbedRequest(model="line", tensor=wire.tensor(x))).embedding
    decoded = running.stub.Decode(pb.DecodeRequest(model="line", embedding=embedding))
    denoised = running.stub.Denoise(pb.DenoiseRequest(model="line", tensor=wire.tensor(x)))
    np.testing.assert_allclose(wire.values(decoded.reconstruction), NEW.answers(x)["reconstruction"], atol=1e-5)
    np.testing.assert_allclose(wire.values(decoded.reconstruction), wire.values(denoised.reconstruction), rtol=1e-5)


def test_a_model_with_a_prior_says_how_sure_it_is(running: Running) -> None:
    x = rows(5)
    for asked in (False, True):
        answer = running.stub.Embed(pb.EmbedRequest(model="sampler", tensor=wire.tensor(x), with_stddev=asked))
        np.testing.assert_allclose(wire.values(answer.embedding), SAMPLER.answers(x)["embedding"], atol=1e-5)
        assert answer.HasField("embedding_stddev") is asked
    np.testing.assert_allclose(wire.values(answer.embedding_stddev), SAMPLER.answers(x)["embedding_stddev"], atol=1e-5)


def test_rows_are_drawn_from_the_prior_by_seed(running: Running) -> None:
    def generate(n: int, **seed: int) -> pb.GenerateResponse:
        return running.stub.Generate(pb.GenerateRequest(model="sampler", rows=n, **seed))

    one = generate(1000, seed=7)
    assert wire.values(one.rows).shape == (1000, 4)
    assert one.seed == 7
    assert generate(1000, seed=7).rows == one.rows
    assert generate(1000, seed=8).rows != one.rows
    unseeded = generate(3)
    assert generate(3, seed=unseeded.seed).rows == unseeded.rows
    assert generate(3).seed != unseeded.seed
    # z ~ N(0, I) decoded linearly: the rows' covariance is W Wᵀ.
    many = np.concatenate([wire.values(generate(1024, seed=seed).rows) for seed in range(20)])
    np.testing.assert_allclose(np.cov(many.T), SAMPLER.weights @ SAMPLER.weights.T, atol=0.05)
    np.testing.assert_allclose(many.mean(axis=0), 0, atol=0.05)


def test_bare_onnxruntime_gives_the_servers_numbers(running: Running) -> None:
    x = rows(64, 8)
    session = onnxruntime.InferenceSession((running.exported / "heavy/1/model.onnx").read_bytes())
    (bare,) = session.run(["score"], {"input": x})
    served = wire.values(running.stub.Score(pb.ScoreRequest(model="heavy", tensor=wire.tensor(x))).score)
    assert (np.abs(served - bare) <= 1e-5 + 1e-4 * np.abs(bare)).all()


def test_the_newest_version_answers_and_a_named_one_on_request(running: Running) -> None:
    x = rows(3)
    for version, model in ((0, NEW), (2, NEW), (1, OLD)):
        answer = running.stub.Embed(pb.EmbedRequest(model="line", version=version, tensor=wire.tensor(x)))
        np.testing.assert_allclose(wire.values(answer.embedding), model.answers(x)["embedding"], rtol=1e-4, atol=1e-5)
        assert answer.model.version == (version or 2)
        info = running.stub.GetModel(pb.GetModelRequest(model="line", version=version)).model
        assert info.model == answer.model


def test_a_caller_may_set_the_false_alarm_rate(running: Running) -> None:
    x = rows(500)
    flagged = {}
    for rate in (0.005, 0.1, 0.5):
        answer = running.stub.Score(pb.ScoreRequest(model="line", tensor=wire.tensor(x), false_alarm_rate=rate))
        assert answer.false_alarm_rate == rate
        flagged[rate] = wire.values(answer.is_anomaly).mean()
        np.testing.assert_array_equal(wire.values(answer.is_anomaly), wire.values(answer.p_value) <= np.float32(rate))
    assert flagged[0.005] < flagged[0.1] < flagged[0.5]


def test_a_caller_may_set_the_threshold(running: Running) -> None:
    x = rows(500)
    for threshold in (0.1, 5.0, 1e300):
        answer = running.stub.Score(pb.ScoreRequest(model="line", tensor=wire.tensor(x), threshold=threshold))
        score = wire.values(answer.score).astype(np.float64)
        np.testing.assert_array_equal(wire.values(answer.is_anomaly), score > threshold)
        above = (np.array(artefacts.manifest(NEW, NEW.graphs()).calibration.scores) > threshold).sum()
        assert (answer.threshold, answer.false_alarm_rate) == (threshold, (1 + above) / 200)


def test_false_discoveries_are_controlled_over_a_request(running: Running) -> None:
    x = rows(500)
    x[:100] *= 10
    request = pb.ScoreRequest(model="line", tensor=wire.tensor(x), control_fdr=True, false_alarm_rate=0.2)
    answer = running.stub.Score(request)
    called, p_value = wire.values(answer.is_anomaly), wire.values(answer.p_value)
    np.testing.assert_array_equal(called, benjamini_hochberg(p_value, 0.2))
    assert called[:100].sum() > 60
    assert called[100:].sum() < (p_value[100:] <= 0.2).sum()
    np.testing.assert_array_equal(called, wire.values(answer.score) > np.float64(answer.threshold))
    assert answer.false_alarm_rate == 0.2


def test_models_describe_themselves(running: Running) -> None:
    listed = running.stub.ListModels(pb.ListModelsRequest())
    assert [(m.model.name, m.model.version) for m in listed.models] == [
        ("clipping", 1),
        ("heavy", 1),
        ("line", 2),
        ("line", 1),
        ("sampler", 1),
    ]
    assert [m.prior for m in listed.models] == ["", "", "", "", "standard_normal"]
    heavy = listed.models[1]
    assert list(heavy.columns) == [f"sensor{i}" for i in range(8)]
    assert (list(heavy.row_shape), heavy.embedding_size, heavy.variant, heavy.device) == ([8], 3, "basic", "cpu")
    assert len(heavy.model.embedding_space_id) == 16
    assert heavy.calibration.rows == 199
    assert heavy.score_definition
    assert (listed.limits.max_rows, listed.limits.max_message_bytes) == (1024, 16 * 2**20)


def test_a_batch_answers_as_each_row_alone(running: Running) -> None:
    """Many callers at once: their rows share batches, their answers are those of their own rows, in order."""
    requests = [rows(1 + seed % 5, seed=seed) for seed in range(200)]

    def score(x: np.ndarray) -> np.ndarray:
        return wire.values(running.stub.Score(pb.ScoreRequest(model="heavy", tensor=wire.tensor(np.tile(x, 2)))).score)

    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(score, requests))
    batches = running.server.metric("hourglass_batch_rows_count", model="heavy", graph="model")
    assert batches < running.server.metric("hourglass_queue_duration_seconds_count", model="heavy", graph="model")
    for x, answer in zip(requests, together, strict=True):
        np.testing.assert_allclose(answer, HEAVY.answers(np.tile(x, 2))["score"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(answer, np.concatenate([score(row[None]) for row in x]), rtol=1e-6)


def test_one_cancelled_call_leaves_its_batch_mates_alone(running: Running) -> None:
    x = rows(64, 8)
    request = pb.ScoreRequest(model="heavy", tensor=wire.tensor(x))
    expected = HEAVY.answers(x)["score"]
    calls = [running.stub.Score.future(request) for _ in range(200)]
    for call in calls[::2]:
        call.cancel()
    for call in calls[1::2]:
        np.testing.assert_allclose(wire.values(call.result(timeout=60).score), expected, rtol=1e-4, atol=1e-5)
    cancelled = [call for call in calls[::2] if call.cancelled()]
    assert len(cancelled) > 20
    for call in set(calls[::2]) - set(cancelled):  # it was answered before the cancel arrived
        np.testing.assert_allclose(wire.values(call.result().score), expected, rtol=1e-4, atol=1e-5)
    wait_until_idle(running)


def wait_until_idle(running: Running) -> None:
    """The server has forgotten every call: what was cancelled holds nothing."""
    check = threading.Event()
    for _ in range(200):
        queued = running.server.metric("hourglass_queue_rows", model="heavy", graph="model")
        if running.server.metric("hourglass_inflight_requests") == 0 and queued == 0:
            return
        check.wait(0.05)
    raise AssertionError("calls are still in flight")


def test_an_expired_call_is_not_run_to_its_end(running: Running) -> None:
    x = rows(1024, 8)
    before = running.server.metric("hourglass_rows_total", model="heavy", graph="model")
    busy = [running.stub.Score.future(pb.ScoreRequest(model="heavy", tensor=wire.tensor(x))) for _ in range(12)]
    late = wire.failure(running.stub.Score, pb.ScoreRequest(model="heavy", tensor=wire.tensor(x)), timeout=0.5)
    assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
    for call in busy:
        call.result(timeout=60)
    wait_until_idle(running)
    # Not the status that was counted: the caller, whose clock began earlier, may cancel before the server sees it
    # expire. Long requests take turns, so that some of its rows may have been run by then.
    ran = running.server.metric("hourglass_rows_total", model="heavy", graph="model") - before
    assert 12 * len(x) <= ran < 13 * len(x)


def test_health_names(running: Running) -> None:
    health = health_pb2_grpc.HealthStub(running.channel)
    for name in ("", "liveness", "hourglass.v1.Autoencoder", "model/line", "model/heavy"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING, name
    unknown = wire.failure(health.Check, health_pb2.HealthCheckRequest(service="model/other"))
    assert unknown.code is grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="model/line"))
    assert next(watch).status == SERVING
    watch.cancel()


def test_reflection_names_the_services(running: Running) -> None:
    reflection = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (answer,) = reflection.ServerReflectionInfo(requests)
    names = {service.name for service in answer.list_services_response.service}
    assert {"hourglass.v1.Autoencoder", "grpc.health.v1.Health"} <= names


def test_metrics_count_what_happened(running: Running) -> None:
    def count(name: str, **labels: str) -> float:
        try:
            return running.server.metric(name, **labels)
        except AssertionError:
            return 0.0  # a label set appears with its first event

    line = {"model": "line", "version": "2", "graph": "model"}
    before = {
        "ok": count("hourglass_requests_total", method="Denoise", code="OK"),
        "rows": count("hourglass_rows_total", **line),
        "bad": count("hourglass_requests_total", method="Denoise", code="NOT_FOUND"),
        "timed": count("hourglass_request_duration_seconds_count", method="Denoise"),
    }
    running.stub.Denoise(pb.DenoiseRequest(model="line", tensor=wire.tensor(rows(5))))
    wire.failure(running.stub.Denoise, pb.DenoiseRequest(model="other", tensor=wire.tensor(rows(5))))
    assert count("hourglass_requests_total", method="Denoise", code="OK") == before["ok"] + 1
    assert count("hourglass_requests_total", method="Denoise", code="NOT_FOUND") == before["bad"] + 1
    assert count("hourglass_rows_total", **line) == before["rows"] + 5
    assert count("hourglass_request_duration_seconds_count", method="Denoise") == before["timed"] + 2
    assert count("hourglass_run_duration_seconds_count", **line) >= 1
    assert count("hourglass_model_info", model="line", version="1", variant="basic", device="cpu") == 1
    assert 0 < count("hourglass_model_load_seconds", model="line", version="2") < 60
    clipping = {"model": "clipping", "version": "1"}
    names = ("hourglass_scored_rows_total", "hourglass_anomalies_total", "hourglass_clipped_values_total")
    scored = [count(name, **clipping) for name in names]
    answer = running.stub.Score(
        pb.ScoreRequest(model="clipping", tensor=wire.tensor(np.full((7, 6), 3, dtype=np.float32)), threshold=0)
    )
    assert wire.values(answer.is_anomaly).all()
    assert [count(name, **clipping) for name in names] == [scored[0] + 7, scored[1] + 7, scored[2] + 42]
    assert "hourglass_queue_rows{" in running.server.metrics()
    assert 'model="other"' not in running.server.metrics(), "a caller's word became a label"
