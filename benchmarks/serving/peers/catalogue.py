"""The peers, each as its documentation would have it for a model this small on a machine of few cores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from string import Template

from benchmarks.serving.peers.process import INSIDE, MODEL, Peer, Place, free_port
from benchmarks.serving.peers.wire import (
    INFER,
    bento_answer,
    bento_request,
    infer_answer,
    infer_request,
    octets_request,
    ray_answer,
    ray_request,
    rows_of,
    torchserve_answer,
    torchserve_request,
)

Started = tuple[list[str], Mapping[str, str]]
ONNXRUNTIME = "onnxruntime==1.32.*"


def _triton(place: Place) -> Started:
    server = place.packages / "pytriton" / "tritonserver"
    folder = place.folder / "models" / MODEL
    (folder / "1").mkdir(parents=True)
    shutil.copy(INSIDE / "triton_model.py", folder / "1" / "model.py")
    config = Template((INSIDE / "triton.pbtxt").read_text())
    (folder / "config.pbtxt").write_text(config.substitute(path=place.model_path))
    backends = place.folder / "backends" / "python"
    shutil.copytree(server / "backends" / "python", backends)
    stub = next(server.glob("python_backend_stubs/3.11/*"))
    # Linked, not copied: its libraries are found beside the real file.
    (backends / stub.name).symlink_to(stub)
    return [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={folder.parent}",
        f"--backend-directory={backends.parent}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={place.port}",
        "--allow-http=false",
        "--allow-metrics=false",
    ], {"PYTHONPATH": str(place.packages)}


TRITON = Peer(
    name="triton",
    requirements=("nvidia-pytriton==0.7.*", ONNXRUNTIME),
    protocol="grpc",
    method=INFER,
    content_type="",
    configuration="2 instances of a Python backend x 1 intra-op thread; dynamic batches of up to 1,024 rows, no delay",
    request=infer_request,
    answer=infer_answer,
    start=_triton,
)


def _kserve(place: Place) -> Started:
    return [
        place.python,
        str(INSIDE / "kserve_server.py"),
        str(place.model_path),
        str(place.port),
        str(free_port()),
    ], {}


KSERVE = Peer(
    name="kserve",
    requirements=("kserve==0.21.*", ONNXRUNTIME),
    protocol="grpc",
    method=INFER,
    content_type="",
    configuration="1 process, uvloop, predict in the event loop, 1 intra-op thread; it has no batching; no access log",
    request=infer_request,
    answer=infer_answer,
    start=_kserve,
)


def _mlserver(place: Place) -> Started:
    server = {
        "debug": False,  # else a log line a call
        "parallel_workers": 0,
        "host": "127.0.0.1",
        "grpc_port": place.port,
        "http_port": free_port(),
        "metrics_port": free_port(),
        "grpc_max_message_length": 64 << 20,
    }
    model = {
        "name": MODEL,
        "implementation": "mlserver_runtime.Autoencoder",
        "parameters": {"uri": str(place.model_path)},
    }
    (place.folder / "settings.json").write_text(json.dumps(server))
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    return [str(place.environment / "bin" / "mlserver"), "start", str(place.folder)], {"PYTHONPATH": str(INSIDE)}


MLSERVER = Peer(
    name="mlserver",
    requirements=("mlserver==1.7.1", ONNXRUNTIME),
    protocol="grpc",
    method=INFER,
    content_type="",
    configuration="parallel_workers 0, 1 intra-op thread; batching off, as it was slower with it; no access log",
    request=infer_request,
    answer=infer_answer,
    start=_mlserver,
)


def _torchserve(place: Place) -> Started:
    folder = place.folder / "models" / MODEL
    (folder / "MAR-INF").mkdir(parents=True)
    shutil.copy(INSIDE / "torchserve_handler.py", folder / "handler.py")
    about = {
        "modelName": MODEL,
        "modelVersion": "1",
        "handler": "handler.py:handle",
        "configFile": "model-config.yaml",
    }
    manifest = {"runtime": "python", "model": about, "archiverVersion": "0.12.0"}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    model = {
        "minWorkers": 2,
        "maxWorkers": 2,
        "batchSize": 32,
        "maxBatchDelay": 1,  # ms
        "handler": {"path": str(place.model_path), "threads": 1},
    }
    (folder / "model-config.yaml").write_text(json.dumps(model))  # JSON is YAML
    (place.folder / "log.xml").write_text(
        '<Configuration><Loggers><Root level="off"/></Loggers></Configuration>'  # else lines a call
    )
    addresses = ("inference_address", "management_address", "metrics_address")
    settings = {
        **{name: f"http://127.0.0.1:{free_port()}" for name in addresses},
        "grpc_inference_address": "127.0.0.1",
        "grpc_inference_port": place.port,
        "grpc_management_address": "127.0.0.1",
        "grpc_management_port": free_port(),
        "load_models": MODEL,
        "disable_token_authorization": "true",
        "disable_system_metrics": "true",
        "max_request_size": 64 << 20,
        "max_response_size": 64 << 20,
    }
    (place.folder / "config.properties").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    return [
        str(place.environment / "bin" / "torchserve"),
        "--start",
        "--foreground",
        "--no-config-snapshots",
        f"--model-store={folder.parent}",
        f"--ts-config={place.folder / 'config.properties'}",
        f"--log-config={place.folder / 'log.xml'}",
    ], {"TMPDIR": str(place.folder), "TEMP": str(place.folder)}  # it keeps its pid there


TORCHSERVE = Peer(
    name="torchserve",
    requirements=("torchserve==0.12.*", "torch==2.13.*", "setuptools", "pyyaml", ONNXRUNTIME),
    protocol="grpc",
    method="/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
    content_type="",
    configuration="2 workers x 1 intra-op thread; batches of up to 32 requests or 1 ms; no log, no system metrics",
    request=torchserve_request,
    answer=torchserve_answer,
    start=_torchserve,
)


def _litserve(place: Place) -> Started:
    return [place.python, str(INSIDE / "litserve_server.py"), str(place.model_path), str(place.port)], {}


LITSERVE = Peer(
    name="litserve",
    requirements=("litserve==0.2.19", ONNXRUNTIME),
    protocol="http",
    method="/predict",
    content_type="application/octet-stream",
    configuration="2 workers x 1 intra-op thread, 2 API servers, fast queue; batches of 64 requests or 1 ms; octets",
    request=octets_request,
    answer=rows_of,
    start=_litserve,
)


def _ray(place: Place) -> Started:
    return [
        place.python,
        str(INSIDE / "ray_server.py"),
        str(place.model_path),
        str(place.port),
        str(free_port()),
        str(place.folder / "ray"),
    ], {"PYTHONPATH": str(INSIDE), "RAY_USAGE_STATS_ENABLED": "0"}


RAY = Peer(
    name="rayserve",
    requirements=("ray[serve-grpc]==2.60.*", ONNXRUNTIME),
    protocol="grpc",
    method="/Autoencoder/Infer",
    content_type="",
    configuration="1 replica, 1 intra-op thread; batches of 64 requests or 1 ms; BytesValue messages; no access log",
    request=ray_request,
    answer=ray_answer,
    start=_ray,
)


def _bento(place: Place) -> Started:
    return [
        str(place.environment / "bin" / "bentoml"),
        "serve",
        "bento_service:Autoencoder",
        "--working-dir",
        str(INSIDE),
        "--host=127.0.0.1",
        f"--port={place.port}",
    ], {"BENTOML_HOME": str(place.folder), "BENTOML_DO_NOT_TRACK": "True", "PEER_MODEL": str(place.model_path)}


BENTO = Peer(
    name="bentoml",
    requirements=("bentoml==1.4.*", ONNXRUNTIME),
    protocol="http",
    method="/infer",
    content_type="application/json",
    configuration="1 worker, 1 intra-op thread; adaptive batches of up to 64 requests; base64 in JSON; no access log",
    request=bento_request,
    answer=bento_answer,
    start=_bento,
)

PEERS = {peer.name: peer for peer in (TRITON, KSERVE, MLSERVER, TORCHSERVE, LITSERVE, RAY, BENTO)}
