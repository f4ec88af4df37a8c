"""From start to stop: what the server refuses to start with, and an end that loses no call."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hourglass.contract import layout
from hourglass.contract.manifest import MODEL, Array
from hourglass.v1 import autoencoder_pb2 as pb
from tests import artefacts, wire
from tests.load import REQUEST, Load, bare_caller, shipped_client
from tests.processes import Serve, refusal

Starter = Callable[..., Serve]
one_and_several = pytest.mark.parametrize("processes", ["1", "2"])


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    artefacts.publish(tmp_path / "exported", "line")
    return tmp_path / "exported"


@one_and_several
def test_a_start_without_models_is_refused(tmp_path: Path, processes: str) -> None:
    free = ("--grpc-port", "0", "--metrics-port", "0", "--processes", processes)
    assert "holds no models" in refusal("--exported", str(tmp_path), *free)
    assert "No such file" in refusal("--exported", str(tmp_path / "nowhere"), *free)
    artefacts.publish(tmp_path / "other", "line")
    assert "this is one model" in refusal("--exported", str(tmp_path / "other" / "line"), *free)
    artefacts.publish(tmp_path, "broken", damage=lambda folder: (folder / MODEL).unlink())
    artefacts.publish(tmp_path, "line")
    assert "no version of 'broken' can be served" in refusal("--exported", str(tmp_path), *free)


def test_bad_settings_are_refused_naming_the_setting(tmp_path: Path) -> None:
    exported = ("--exported", str(tmp_path))
    file = tmp_path / "settings.toml"
    assert refusal() == "--exported (HOURGLASS_EXPORTED): this setting is required"
    assert "--grpc-port (HOURGLASS_GRPC_PORT): Input should be" in refusal(*exported, "--grpc-port", "x")
    assert "--versions (HOURGLASS_VERSIONS): give latest:N" in refusal(*exported, "--versions", "newest")
    assert "--tls-cert and --tls-key come together" in refusal(*exported, "--tls-cert", "cert.pem")
    assert "not a file" in refusal(*exported, "--config", str(file))
    assert "HOURGLASS_REFLECTION" in refusal(*exported, HOURGLASS_REFLECTION="maybe")
    for never in ("inf", "nan", "1e10"):
        assert "--drain-seconds" in refusal(*exported, "--drain-seconds", never)
    artefacts.publish(tmp_path, "line")
    for host in ("..", "a" * 70):
        assert host in refusal(*exported, "--host", host, "--grpc-port", "0", "--metrics-port", "0")
    file.write_text("grpc_prot = 1")
    assert "there is no setting 'grpc_prot'" in refusal(*exported, "--config", str(file))
    file.write_text("grpc_port = ")
    assert str(file) in refusal(*exported, HOURGLASS_CONFIG=str(file))
    assert "--drain-seconds" in refusal(*exported, HOURGLASS_DRAIN_SECONDS="-1")


def test_flag_beats_environment_beats_file(tmp_path: Path, exported: Path, serve: Starter) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("max_batch_rows = 11\nmax_queue_rows = 111\nmax_message_bytes = 100000\n")
    server = serve(
        exported,
        "--max-batch-rows",
        "33",
        "--config",
        str(file),
        HOURGLASS_MAX_BATCH_ROWS="22",
        HOURGLASS_TYPO="1",
        HOURGLASS_TLS_CERT="",
    )
    with grpc.insecure_channel(server.address) as channel:
        limits = wire.stub(channel).ListModels(pb.ListModelsRequest()).limits
    assert (limits.max_rows, limits.max_message_bytes) == (33, 100_000)
    assert server.wait_logged("this environment variable is no setting")["variable"] == "HOURGLASS_TYPO"


def test_cuda_without_a_gpu_is_refused(exported: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("a GPU is present: this is about its absence")
    assert refusal("--exported", str(exported), "--device", "cuda").startswith("--device cuda: ")


def test_two_onnxruntimes_are_refused_naming_the_one_to_remove(tmp_path: Path, exported: Path) -> None:
    (tmp_path / "onnxruntime_gpu-1.31.0.dist-info").mkdir()
    (tmp_path / "onnxruntime_gpu-1.31.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.0\n"
    )
    assert "pip uninstall onnxruntime`" in refusal("--exported", str(exported), PYTHONPATH=str(tmp_path))


@one_and_several
def test_a_missing_extra_is_named_with_its_pip_line(tmp_path: Path, exported: Path, processes: str) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ModuleNotFoundError(name='onnxruntime')")
    flags = ("--grpc-port", "0", "--metrics-port", "0", "--processes", processes)
    said = refusal("--exported", str(exported), *flags, PYTHONPATH=str(tmp_path))
    assert said.startswith("onnxruntime is not installed: run `pip install 'hourglass-serving[serve]'`")


@one_and_several
def test_a_taken_port_is_refused(exported: Path, processes: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ("--exported", str(exported), "--processes", processes)
        assert f"--grpc-port {port}" in refusal(*flags, "--grpc-port", port, "--metrics-port", "0")
        assert f"--metrics-port {port}" in refusal(*flags, "--grpc-port", "0", "--metrics-port", port)


def rewrite_golden(folder: Path) -> None:
    content = json.loads((folder / layout.MANIFEST).read_text())
    score = Array.model_validate(content["golden"]["outputs"]["score"]).unpack() + 0.01
    content["golden"]["outputs"]["score"] = Array.pack(score).model_dump()
    (folder / layout.MANIFEST).write_text(json.dumps(content))


def publish_graph(exported: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """A version whose hashes are right and whose model.onnx is not."""

    class Changed(artefacts.Linear):
        def graphs(self, work: int = 0) -> dict[str, bytes]:
            graphs = super().graphs(work)
            model = onnx.load_from_string(graphs[MODEL])
            change(model)
            return {**graphs, MODEL: model.SerializeToString()}

    artefacts.publish(exported, "line", Changed(artefacts.Linear.random(seed=9).weights))


def rename_score(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[2].name = "anomaly"


def fix_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def use_external_data(model: onnx.ModelProto) -> None:
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("length", "32")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value


def fail_at_run_time(model: onnx.ModelProto) -> None:
    """Row 99 of a matrix of few rows: only a run finds out."""
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([99], dtype=np.int64), "row"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["w", "row"], ["beyond"], axis=0))
    model.graph.node.append(onnx.helper.make_node("ReduceSum", ["beyond"], ["total"], keepdims=0))
    rest = next(node for node in model.graph.node if "score" in node.output)
    model.graph.node.append(onnx.helper.make_node("Add", ["unused", "total"], ["score"]))
    rest.output[0] = "unused"


def scalar_score(model: onnx.ModelProto) -> None:
    model.graph.output[2].type.tensor_type.shape.ClearField("dim")
    last = model.graph.node[-1]
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["each"], [last.output[0]], keepdims=0))
    last.output[0] = "each"


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "golden rows that differ": (
        lambda exported: artefacts.publish(exported, "line", damage=rewrite_golden),
        "golden rows: score differs",
    ),
    "an output of another name": (lambda exported: publish_graph(exported, rename_score), "its outputs are"),
    "a fixed batch": (lambda exported: publish_graph(exported, fix_batch), "'input' is tensor(float) [4, 4]"),
    "no graph": (
        lambda exported: publish_graph(exported, lambda model: model.ClearField("graph")),
        "onnxruntime refuses the graph",
    ),
    "a graph that fails when it is run": (
        lambda exported: publish_graph(exported, fail_at_run_time),
        "InvalidArgument",
    ),
    "an output without rows": (lambda exported: publish_graph(exported, scalar_score), "'score' is tensor(float) []"),
    "external data": (lambda exported: publish_graph(exported, use_external_data), "onnxruntime refuses the graph"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_the_newest_version_that_proves_itself_is_served(exported: Path, serve: Starter, kind: str) -> None:
    break_it, why = BROKEN[kind]
    break_it(exported)
    # Where a careless server would find it: the folder it is started from.
    (exported.parent / "weights.bin").write_bytes(bytes(32))
    server = serve(exported)
    refused = server.wait_logged("model refused")
    assert (refused["model"], refused["version"]) == ("line", 2)
    assert why in refused["why"]
    with grpc.insecure_channel(server.address) as channel:
        assert wire.stub(channel).Score(REQUEST).model.version == 1
    assert server.metric("hourglass_model_load_failures_total", model="line") == 1


def test_folders_without_a_version_are_no_models_yet(exported: Path, serve: Starter) -> None:
    """As they are while a first model is being exported, or after an exporter was killed."""
    (exported / "fresh" / ".draft-1").mkdir(parents=True)
    (exported / "lost+found").mkdir()
    server = serve(exported)
    with grpc.insecure_channel(server.address) as channel:
        assert len(wire.stub(channel).ListModels(pb.ListModelsRequest()).models) == 1


def test_the_log_says_what_a_model_computes_in(exported: Path, serve: Starter) -> None:
    assert serve(exported).wait_logged("model loaded")["precision"] == "float32"


@one_and_several
def test_sigterm_is_heard_while_models_are_loaded(exported: Path, processes: str) -> None:
    for number in range(60):
        artefacts.publish(exported, f"model-{number}")
    server = Serve(exported, "--processes", processes)
    server.wait_logged("model loaded")
    server.terminate()
    assert server.wait() == 0
    messages = [entry["message"] for entry in server.log]
    assert "stopped while loading" in messages
    assert "ready" not in messages
    assert messages.count("model loaded") < 60


def test_a_slow_model_does_not_keep_others_waiting(exported: Path, serve: Starter) -> None:
    for name in ("slow", "slower", "slowest"):
        artefacts.publish(exported, name, work=400)
    server = serve(exported)
    many = wire.tensor(np.ones((1024, 4), dtype=np.float32))
    with grpc.insecure_channel(server.address) as channel:
        stub = wire.stub(channel)
        slow = [stub.Score.future(pb.ScoreRequest(model=name, tensor=many)) for name in ("slow", "slower", "slowest")]
        stub.Score(REQUEST)
        assert not any(call.done() for call in slow)
        for call in slow:
            call.result(timeout=120)


def test_the_policy_decides_how_many_versions_are_loaded(exported: Path, serve: Starter) -> None:
    for _ in range(3):
        artefacts.publish(exported, "line")
    for policy, versions in (("latest:1", [4]), ("latest:2", [4, 3]), ("all", [4, 3, 2, 1])):
        server = serve(exported, "--versions", policy)
        with grpc.insecure_channel(server.address) as channel:
            models = wire.stub(channel).ListModels(pb.ListModelsRequest()).models
        assert [model.model.version for model in models] == versions


def test_the_server_works_in_an_empty_directory_and_leaves_none_behind(exported: Path, serve: Starter) -> None:
    server = serve(exported)
    folder = Path(f"/proc/{server.process.pid}/cwd").readlink()
    assert list(folder.iterdir()) == []
    server.terminate()
    assert server.wait() == 0
    assert not folder.exists()


def logged_at(server: Serve, message: str) -> float:
    return datetime.fromisoformat(server.wait_logged(message)["time"]).timestamp()


ROUND_ROBIN_WATCHING_HEALTH = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "hourglass.v1.Autoencoder"},
}


@one_and_several
@pytest.mark.parametrize("caller", ["bare", "shipped"])
def test_one_of_two_servers_ends_under_load_and_no_call_fails(
    exported: Path, serve: Starter, caller: str, processes: str
) -> None:
    servers = [serve(exported, "--drain-seconds", "2", "--processes", processes) for _ in range(2)]
    target = "ipv4:" + ",".join(server.address for server in servers)
    if caller == "bare":
        load = Load(16, lambda: bare_caller(target, ROUND_ROBIN_WATCHING_HEALTH))
    else:
        load = Load(16, lambda: shipped_client(target))
    load.wait_calls(2_000)
    servers[0].terminate()
    assert servers[0].wait() == 0
    load.wait_calls(3_000)
    load.stop()
    assert load.failures == []
    assert sum(servers[1].values("hourglass_requests_total", method="Score", code="OK")) > 3_000


@one_and_several
def test_a_single_server_answers_every_call_begun_before_it_stops_listening(
    exported: Path, serve: Starter, processes: str
) -> None:
    """Callers who know nothing of health and do not retry, on a machine that is fully busy."""
    server = serve(exported, "--drain-seconds", "0.5", "--processes", processes)
    load = Load(32, lambda: bare_caller(server.address))
    load.wait_calls(1_000)
    server.terminate()
    assert server.wait() == 0
    load.stop()
    stopped_listening = logged_at(server, "stopping")
    assert [failure for begun, failure in load.failures if begun < stopped_listening] == []
    assert len(load.failures) == 32, "the callers were to notice the end"


@one_and_several
@pytest.mark.parametrize("ask", ["SIGINT", "Ctrl-C", "SIGTERM twice"])
def test_the_drain_can_be_skipped(exported: Path, serve: Starter, ask: str, processes: str) -> None:
    server = serve(exported, "--drain-seconds", "600", "--processes", processes)
    if ask == "SIGINT":
        server.process.send_signal(signal.SIGINT)
    elif ask == "Ctrl-C":
        os.killpg(server.process.pid, signal.SIGINT)
    else:
        server.terminate()
        server.wait_logged("draining")
        server.terminate()
    assert server.wait(30) == 0
    assert sum(entry["message"] == "stopped" for entry in server.log) == (1 if processes == "1" else 3)
    assert all(entry["level"] == "info" for entry in server.log)


def test_every_watcher_is_told_though_others_leave(exported: Path, serve: Starter) -> None:
    server = serve(exported, "--drain-seconds", "600")
    request = health_pb2.HealthCheckRequest(service="hourglass.v1.Autoencoder")
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        leaving, staying = health.Watch(request), health.Watch(request)
        assert next(leaving).status == next(staying).status == health_pb2.HealthCheckResponse.SERVING
        leaving.cancel()
        with pytest.raises(grpc.RpcError):
            next(leaving)
        health.Check(request)  # the server has seen the cancel before this
        server.terminate()
        assert next(staying).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_health_flips_at_once_while_calls_are_still_answered(exported: Path, serve: Starter) -> None:
    server = serve(exported, "--drain-seconds", "600")
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="hourglass.v1.Autoencoder"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        for name, status in (("", 2), ("model/line", 2), ("liveness", 1)):
            assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == status, name
        assert wire.stub(channel).Score(REQUEST).model.version == 1
        server.process.send_signal(signal.SIGINT)
        # The watch ends with the server instead of keeping it for its grace period.
        ended = wire.failure(lambda: list(watch))
        assert ended.code is grpc.StatusCode.UNAVAILABLE
        assert server.wait() == 0
    assert logged_at(server, "stopped") - logged_at(server, "stopping") < 5
