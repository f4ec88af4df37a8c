"""Every call of tritonclient.grpc that a server of models has an answer to."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

ALL = ["embedding", "reconstruction", "score", "reconstruction_error", "p_value", "is_anomaly", "feature_error"]


def inputs(x: np.ndarray, module: Any = triton) -> list[Any]:
    made = module.InferInput("input", list(x.shape), np_to_triton_dtype(x.dtype))
    made.set_data_from_numpy(x)
    return [made]


def asked(*names: str) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name) for name in names]


def status(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(InferenceServerException) as raised:
        call(*arguments, **options)
    return str(raised.value.status())


def test_health(client, models):
    assert client.is_server_live()
    assert client.is_server_ready()
    for name in models:
        assert client.is_model_ready(name)
    assert client.is_model_ready("line", "1")
    assert not client.is_model_ready("line", "9")
    assert not client.is_model_ready("nope")


def test_metadata(client, models):
    server = client.get_server_metadata(as_json=True)
    assert server["name"] == "hourglass"
    assert set(server["extensions"]) == {"statistics", "model_configuration", "parameters", "schedule_policy"}
    line = client.get_model_metadata("line")
    assert list(line.versions) == ["1", "2"]
    assert (line.platform, line.inputs[0].datatype, list(line.inputs[0].shape)) == ("onnxruntime_onnx", "FP32", [-1, 4])
    assert [output.name for output in line.outputs] == ALL
    sampler = client.get_model_metadata("sampler")
    assert [output.name for output in sampler.outputs] == [*ALL, "embedding_stddev"]


def test_config(client, models):
    config = client.get_model_config("line", "1").config
    assert (config.name, config.backend, config.max_batch_size) == ("line", "onnxruntime", 1024)
    assert (config.input[0].name, list(config.input[0].dims)) == ("input", [4])
    outputs = {output.name: output for output in config.output}
    assert list(outputs) == ALL
    assert (list(outputs["score"].dims), list(outputs["score"].reshape.shape)) == ([1], [])
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"


@pytest.mark.parametrize("n", [1, 2, 1024])
def test_infer(client, models, n):
    for model in models.values():
        x = model.rows(n)
        answer = client.infer(model.name, inputs(x), request_id="one")
        assert answer.get_response().id == "one"
        assert answer.get_response().model_version == client.get_model_metadata(model.name).versions[-1]
        np.testing.assert_allclose(answer.as_numpy("embedding"), model.embedding(x), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(answer.as_numpy("score"), model.score(x), rtol=1e-3, atol=1e-5)
        assert answer.as_numpy("is_anomaly").dtype == bool
        assert answer.as_numpy("feature_error").shape == x.shape


def test_only_the_requested_outputs_in_the_requested_order(client, models):
    x = models["line"].rows(3)
    answer = client.infer("line", inputs(x), outputs=asked("score", "embedding"))
    assert [output.name for output in answer.get_response().outputs] == ["score", "embedding"]
    assert answer.as_numpy("reconstruction") is None


def test_options(client, models):
    x = models["line"].rows(100)
    options = {"false_alarm_rate": 0.5, "top_features": 2, "normalize": True}
    answer = client.infer("line", inputs(x), parameters=options, priority=1, timeout=10_000_000)
    assert answer.as_numpy("top_feature").shape == (100, 2)
    np.testing.assert_allclose(np.linalg.norm(answer.as_numpy("embedding"), axis=1), 1, rtol=1e-5)
    strict = client.infer("line", inputs(x), parameters={"false_alarm_rate": 0.01})
    assert answer.as_numpy("is_anomaly").sum() > strict.as_numpy("is_anomaly").sum()


@pytest.mark.parametrize("dtype", ["f2", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"])
def test_datatypes(client, models, dtype):
    model = models["line"]
    x = (np.arange(12).reshape(3, 4) % 2).astype(dtype)
    answer = client.infer("line", inputs(x), outputs=asked("embedding"))
    assert answer.as_numpy("embedding").dtype == np.float32
    np.testing.assert_allclose(answer.as_numpy("embedding"), model.embedding(x.astype("f4")), rtol=1e-4, atol=1e-6)


def test_typed_contents(address, models):
    x = models["line"].rows(3)
    request = service_pb2.ModelInferRequest(model_name="line")
    tensor = request.inputs.add(name="input", datatype="FP32", shape=x.shape)
    tensor.contents.fp32_contents.extend(x.ravel().tolist())
    with grpc.insecure_channel(address) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert not answer.raw_output_contents
    (score,) = (output for output in answer.outputs if output.name == "score")
    np.testing.assert_allclose(score.contents.fp32_contents, models["line"].score(x), rtol=1e-3)


def test_errors(client, models):
    x = models["line"].rows(2)
    assert status(client.infer, "nope", inputs(x)) == "StatusCode.NOT_FOUND"
    assert status(client.infer, "line", inputs(x), model_version="9") == "StatusCode.NOT_FOUND"
    assert status(client.infer, "line", inputs(x), outputs=asked("nope")) == "StatusCode.INVALID_ARGUMENT"
    assert status(client.infer, "line", inputs(x[:, :3].copy())) == "StatusCode.INVALID_ARGUMENT"
    assert status(client.infer, "line", inputs(x), parameters={"nope": 1}) == "StatusCode.INVALID_ARGUMENT"
    assert status(client.infer, "line", inputs(np.array([[2**24 + 1] * 4]))) == "StatusCode.INVALID_ARGUMENT"
    texts = triton.InferInput("input", [1, 4], "BYTES")
    texts.set_data_from_numpy(np.array([["a"] * 4], dtype=object))
    assert status(client.infer, "line", [texts]) == "StatusCode.INVALID_ARGUMENT"
    several = [triton.InferRequestedOutput("score", class_count=2)]
    assert status(client.infer, "line", inputs(x), outputs=several) == "StatusCode.INVALID_ARGUMENT"
    assert status(client.get_model_metadata, "nope") == "StatusCode.NOT_FOUND"
    assert status(client.get_model_config, "nope") == "StatusCode.NOT_FOUND"
    assert status(client.get_inference_statistics, "nope") == "StatusCode.NOT_FOUND"


def test_what_is_not_there(client):
    calls: list[Callable[[], Any]] = [
        lambda: client.load_model("line"),
        lambda: client.unload_model("line"),
        client.get_system_shared_memory_status,
        lambda: client.register_system_shared_memory("a", "/a", 8),
        client.unregister_system_shared_memory,
        client.get_cuda_shared_memory_status,
        lambda: client.register_cuda_shared_memory("a", b"aGFuZGxl", 0, 8),
        client.unregister_cuda_shared_memory,
        client.get_trace_settings,
        lambda: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}),
        client.get_log_settings,
        lambda: client.update_log_settings({"log_verbose_level": 1}),
    ]
    for call in calls:
        assert status(call) == "StatusCode.UNIMPLEMENTED"


def test_shared_memory_of_an_input_is_refused(client):
    made = triton.InferInput("input", [1, 4], "FP32")
    made.set_shared_memory("region", 16)
    assert status(client.infer, "line", [made]) == "StatusCode.INVALID_ARGUMENT"


def test_a_stream_is_refused(client):
    told: queue.Queue = queue.Queue()
    client.start_stream(callback=lambda result, error: told.put(error))
    error = told.get(timeout=30)  # before anything is sent
    client.stop_stream(cancel_requests=True)
    assert error.status() == "StatusCode.UNIMPLEMENTED"


def test_index_and_statistics(client, models):
    index = client.get_model_repository_index(as_json=True)["models"]
    assert {(one["name"], one["version"], one["state"]) for one in index} >= {("line", v, "READY") for v in "12"}
    before = client.get_inference_statistics("sampler").model_stats[0]
    client.infer("sampler", inputs(models["sampler"].rows(7)))
    after = client.get_inference_statistics("sampler", "1").model_stats[0]
    assert after.inference_count - before.inference_count == 7
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1


def test_async_infer(client, models):
    answers: queue.Queue = queue.Queue()
    model = models["line"]
    batches = [model.rows(1 + i % 5, seed=i) for i in range(200)]
    for i, x in enumerate(batches):
        client.async_infer("line", inputs(x), lambda result, error: answers.put((result, error)), request_id=str(i))
    seen = set()
    for _ in batches:
        result, error = answers.get(timeout=60)
        assert error is None
        i = int(result.get_response().id)
        seen.add(i)
        np.testing.assert_allclose(result.as_numpy("score"), model.score(batches[i]), rtol=1e-3, atol=1e-5)
    assert len(seen) == 200


def test_an_error_of_async_infer_comes_to_its_callback(client, models):
    told: queue.Queue = queue.Queue()
    client.async_infer("nope", inputs(models["line"].rows(1)), lambda result, error: told.put((result, error)))
    result, error = told.get(timeout=30)
    assert result is None
    assert error.status() == "StatusCode.NOT_FOUND"


def test_64_threads_get_each_their_own_answer(client, models):
    model, start = models["line"], threading.Barrier(64)

    def call(i: int) -> None:
        start.wait(30)
        for turn in range(5):
            x = model.rows(1 + i % 7, seed=i * 100 + turn)
            answer = client.infer("line", inputs(x), outputs=asked("score"), request_id=f"{i}-{turn}")
            assert answer.get_response().id == f"{i}-{turn}"
            np.testing.assert_allclose(answer.as_numpy("score"), model.score(x), rtol=1e-3, atol=1e-5)

    with ThreadPoolExecutor(64) as threads:
        list(threads.map(call, range(64)))


def test_deadlines_of_the_request_and_of_the_call(client, models):
    x = models["heavy"].rows(1024)
    assert status(client.infer, "heavy", inputs(x), client_timeout=0.001) == "StatusCode.DEADLINE_EXCEEDED"
    assert status(client.infer, "heavy", inputs(x), timeout=1) == "StatusCode.DEADLINE_EXCEEDED"
    # The sooner of both, whichever it is.
    both = {"timeout": 1, "client_timeout": 30}
    assert status(client.infer, "heavy", inputs(x), **both) == "StatusCode.DEADLINE_EXCEEDED"
    client.infer("heavy", inputs(x[:1]), timeout=30_000_000, client_timeout=30)


def test_a_cancelled_call_leaves_the_others_alone(client, models):
    model = models["heavy"]
    x = model.rows(1024)
    told: queue.Queue = queue.Queue()

    def call() -> Any:
        return client.async_infer("heavy", inputs(x), lambda result, error: told.put((result, error)))

    calls = [call() for _ in range(6)]
    for one in calls[::2]:
        one.cancel()
    ends = [told.get(timeout=60) for _ in calls]
    answered = [result for result, error in ends if error is None]
    assert 3 <= len(answered) <= 6  # an answer may be faster than its cancel
    for result in answered:
        np.testing.assert_allclose(result.as_numpy("score"), model.score(x), rtol=1e-3, atol=1e-4)
    for error in (error for _, error in ends if error is not None):
        assert "CANCELLED" in str(error.status()).upper()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client, models, algorithm):
    x = models["wide"].rows(500)
    answer = client.infer("wide", inputs(x), compression_algorithm=algorithm)
    np.testing.assert_allclose(answer.as_numpy("score"), models["wide"].score(x), rtol=1e-3, atol=1e-4)


def test_keepalive(address, models):
    options = triton.KeepAliveOptions(
        keepalive_time_ms=60_000, keepalive_timeout_ms=5_000, keepalive_permit_without_calls=True
    )
    x = models["line"].rows(1)
    with triton.InferenceServerClient(address, keepalive_options=options) as client:
        answer = client.infer("line", inputs(x))
    np.testing.assert_allclose(answer.as_numpy("score"), models["line"].score(x), rtol=1e-3)


def test_a_message_over_the_limit_is_resource_exhausted(client, models):
    x = np.zeros((1024, 4096 + 1024), dtype=np.float32)
    assert status(client.infer, "wide", inputs(x)) == "StatusCode.RESOURCE_EXHAUSTED"


async def scored(address: str, x: np.ndarray) -> Any:
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        return await client.infer("line", inputs(x, triton_aio))


def test_the_asyncio_client(address, models):
    x = models["line"].rows(3)
    answer = asyncio.run(scored(address, x))
    np.testing.assert_allclose(answer.as_numpy("score"), models["line"].score(x), rtol=1e-3)
