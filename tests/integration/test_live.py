"""Models come and go while callers ask: a real server, and events instead of sleeps."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hourglass.contract import layout
from hourglass.contract.manifest import DECODER, ENCODER, MODEL, SCORE
from hourglass.v1 import autoencoder_pb2 as pb
from tests import artefacts, wire
from tests.artefacts import Linear
from tests.integration.test_life import (
    fail_at_run_time,
    fix_batch,
    publish_graph,
    rename_score,
    rewrite_golden,
    use_external_data,
)
from tests.processes import Serve

Starter = Callable[..., Serve]
FOLLOW = ("--poll-seconds", "0.1")
ROWS = np.random.default_rng(5).standard_normal((3, 4)).astype(np.float32)
# The answer tells the version, and the version which numbers are right.
MODELS = {version: Linear.random(seed=version) for version in range(1, 6)}
SCORES = {version: model.answers(ROWS)[SCORE] for version, model in MODELS.items()}
SERVING, SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    root = tmp_path / "exported"
    artefacts.publish(root, "line", MODELS[1])
    artefacts.publish(root, "other")
    return root


class Callers:
    """Ask for the newest version as soon as they are answered, and check every number."""

    def __init__(self, address: str, callers: int = 4) -> None:
        self.failures: list[str] = []
        self.versions: list[int] = []
        self._stop = threading.Event()
        self._answered = threading.Condition()
        self._threads = [threading.Thread(target=self._ask, args=(address,)) for _ in range(callers)]
        for thread in self._threads:
            thread.start()

    def _ask(self, address: str) -> None:
        request = pb.ScoreRequest(model="line", tensor=wire.tensor(ROWS))
        with grpc.insecure_channel(address, [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]) as to:
            score = wire.stub(to).Score
            while not self._stop.is_set():
                try:
                    answer = score(request, timeout=30)
                except grpc.RpcError as error:
                    self.failures.append(str(error))
                    return
                version = answer.model.version
                if not np.allclose(wire.values(answer.score), SCORES[version], rtol=1e-4, atol=1e-5):
                    self.failures.append(f"not what version {version} answers")
                with self._answered:
                    self.versions.append(version)
                    self._answered.notify_all()

    def wait_version(self, version: int, calls: int = 20) -> None:
        """So many answers more of it."""
        with self._answered:
            target = self.versions.count(version) + calls
            assert self._answered.wait_for(lambda: self.failures or self.versions.count(version) >= target, 60)
        assert self.failures == []

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.failures == []


@pytest.fixture
def callers() -> Iterator[Callable[[Serve], Callers]]:
    started: list[Callers] = []

    def start(server: Serve) -> Callers:
        started.append(Callers(server.address))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def loaded(server: Serve, name: str = "line") -> list[int]:
    with grpc.insecure_channel(server.address) as channel:
        models = wire.stub(channel).ListModels(pb.ListModelsRequest()).models
    return [model.model.version for model in models if model.model.name == name]


def wait_refused(server: Serve, version: int, times: int) -> str:
    """Why the version is refused, once so many were."""
    server.wait_logged("model refused", times)
    (why,) = {e["why"] for e in server.log if e["message"] == "model refused" and e["version"] == version}
    return why


def test_versions_come_and_go_under_load(exported: Path, serve: Starter, callers: Callable[[Serve], Callers]) -> None:
    server = serve(exported, *FOLLOW)
    load = callers(server)
    load.wait_version(1)
    for version in (2, 3):
        artefacts.publish(exported, "line", MODELS[version])
        load.wait_version(version)
    # Of three the oldest leaves, and takes its series with it.
    assert server.wait_logged("model unloaded")["version"] == 1
    assert loaded(server) == [3, 2]
    assert server.values("hourglass_model_info", model="line", version="1") == []
    assert {line for line in server.metrics().splitlines() if 'model="line",version="1"' in line} == set()
    # The newest is taken back, and the newest two are now two others.
    shutil.rmtree(exported / "line" / "3")
    load.wait_version(2)
    server.wait_logged("model unloaded", 2)
    assert loaded(server) == [2, 1]
    loads = [e["version"] for e in server.log if e["message"] == "model loaded" and e["model"] == "line"]
    assert loads == [1, 2, 3, 1]


def test_a_version_whose_files_were_replaced_is_loaded_anew(
    exported: Path, tmp_path: Path, serve: Starter, callers: Callable[[Serve], Callers]
) -> None:
    server = serve(exported, *FOLLOW)
    artefacts.publish(tmp_path / "elsewhere", "line", Linear(MODELS[1].weights, clip=1e20))
    shutil.rmtree(exported / "line" / "1")
    shutil.copytree(tmp_path / "elsewhere" / "line" / "1", exported / "line" / "1")
    load = callers(server)
    server.wait_logged("model unloaded")
    load.wait_version(1)
    assert server.metric("hourglass_model_info", model="line", version="1") == 1


def test_a_model_that_goes_leaves_and_others_stay(exported: Path, serve: Starter) -> None:
    server = serve(exported, *FOLLOW)
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="model/line"))
        assert next(watch).status == SERVING
        shutil.rmtree(exported / "line")
        assert next(watch).status == SERVICE_UNKNOWN
        gone = wire.failure(wire.stub(channel).Score, pb.ScoreRequest(model="line", tensor=wire.tensor(ROWS)))
        assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        unknown = wire.failure(health.Check, health_pb2.HealthCheckRequest(service="model/line"))
        assert unknown.code is grpc.StatusCode.NOT_FOUND
        assert health.Check(health_pb2.HealthCheckRequest(service="model/other")).status == SERVING
        server.wait_logged("model unloaded")
        assert "line" not in server.metrics()
        artefacts.publish(exported, "line", MODELS[1])
        assert next(watch).status == SERVING


@pytest.mark.parametrize("how", ["empty", "gone"])
def test_when_the_folder_is_not_there_what_is_loaded_is_served_on(
    exported: Path, serve: Starter, callers: Callable[[Serve], Callers], how: str
) -> None:
    server = serve(exported, *FOLLOW)
    load = callers(server)
    aside = exported.rename(exported.parent / "aside")
    if how == "empty":
        exported.mkdir()
    server.wait_logged("the folder of models cannot be read")
    assert server.metric("hourglass_repository_unreadable") == 1
    load.wait_version(1)
    assert loaded(server) == [1]
    artefacts.publish(aside, "line", MODELS[2])
    if how == "empty":
        exported.rmdir()
    aside.rename(exported)
    load.wait_version(2)
    assert server.metric("hourglass_repository_unreadable") == 0
    assert [e["message"] for e in server.log].count("model loaded") == 3


def test_a_version_that_is_being_copied_is_waited_for(
    exported: Path, tmp_path: Path, serve: Starter, callers: Callable[[Serve], Callers]
) -> None:
    artefacts.publish(tmp_path / "elsewhere", "line", MODELS[2])
    source, copy = tmp_path / "elsewhere" / "line" / "1", exported / "line" / "2"
    server = serve(exported, *FOLLOW)
    load = callers(server)
    copy.mkdir()
    assert "manifest.json is missing" in wait_refused(server, 2, 1)
    shutil.copy(source / layout.MANIFEST, copy)
    server.wait_logged("model refused", 2)
    for file in (ENCODER, DECODER):
        shutil.copy(source / file, copy)
    content = (source / MODEL).read_bytes()
    (copy / MODEL).write_bytes(content[:100])
    server.wait_logged("model refused", 3)
    # As tools do that make a file at its size first.
    (copy / MODEL).write_bytes(bytes(len(content)))
    server.wait_logged("model refused", 4)
    (copy / MODEL).write_bytes(content)
    load.wait_version(2)
    whys = [e["why"] for e in server.log if e["message"] == "model refused"]
    assert whys[-1] == "model.onnx: its sha256 is not the manifest's"
    assert len(whys) == len(set(whys))
    assert server.values("hourglass_model_versions_refused", model="line") == []


def test_a_server_without_models_waits_for_the_first(tmp_path: Path, serve: Starter) -> None:
    root = tmp_path / "exported"
    server = serve(root, *FOLLOW, "--allow-empty")
    assert server.metric("hourglass_repository_unreadable") == 1
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service="model/line"))
        assert next(watch).status == SERVICE_UNKNOWN
        artefacts.publish(root, "line", MODELS[1])
        assert next(watch).status == SERVING
    assert loaded(server) == [1]


def test_models_that_cannot_be_served_do_not_stop_a_server_that_may_be_empty(exported: Path, serve: Starter) -> None:
    artefacts.publish(exported, "broken", damage=lambda folder: (folder / MODEL).unlink())
    assert loaded(serve(exported, "--allow-empty")) == [1]


def test_nothing_is_followed_that_is_not_to_be(exported: Path, serve: Starter) -> None:
    server = serve(exported, "--poll-seconds", "0")
    artefacts.publish(exported, "line", MODELS[2])
    assert loaded(server) == [1]
    assert server.metric("hourglass_repository_scan_seconds") > 0


def manifest(folder: Path) -> Path:
    return folder / layout.MANIFEST


def change(folder: Path, key: str, value: object) -> None:
    content = json.loads(manifest(folder).read_text())
    manifest(folder).write_text(json.dumps({**content, key: value}))


def link_out(folder: Path) -> None:
    """To the very bytes that the manifest names: what is wrong is where they are."""
    outside = folder.parents[2] / "outside.onnx"
    (folder / MODEL).rename(outside)
    (folder / MODEL).symlink_to(outside)


def hard_link(folder: Path) -> None:
    (folder / MODEL).unlink()
    os.link(folder / ENCODER, folder / MODEL)


def as_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a version")


def graph_as_folder(folder: Path) -> None:
    (folder / MODEL).unlink()
    (folder / MODEL).mkdir()


def grow_manifest(folder: Path) -> None:
    with manifest(folder).open("r+b") as file:
        file.truncate(65 * 2**20)


def pipe(folder: Path) -> None:
    (folder / MODEL).unlink()
    os.mkfifo(folder / MODEL)


def other_graphs(folder: Path) -> None:
    """Hashes that are right, of graphs that answer something else."""
    content = json.loads(manifest(folder).read_text())
    for file, data in Linear.random(seed=77).graphs().items():
        (folder / file).write_bytes(data)
        content["files"][file] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    content["embedding_space_id"] = content["files"][ENCODER]["sha256"][:16]
    manifest(folder).write_text(json.dumps(content))


def damaged(damage: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda exported: artefacts.publish(
        exported, "line", MODELS[2], damage=lambda folder: damage(folder) and None
    )


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bad hash": (damaged(lambda f: (f / MODEL).write_bytes(bytes((f / MODEL).stat().st_size))), "its sha256 is not"),
    "a truncated file": (damaged(lambda f: os.truncate(f / MODEL, 100)), "model.onnx has 100 bytes, not"),
    "an input of a fixed size": (lambda exported: publish_graph(exported, fix_batch), "'input' is tensor(float) [4"),
    "an output of another name": (lambda exported: publish_graph(exported, rename_score), "its outputs are"),
    "a missing file": (damaged(lambda f: (f / DECODER).unlink()), "decoder.onnx is missing"),
    "a huge manifest": (damaged(grow_manifest), "manifest.json has 68157440 bytes"),
    "a link out of the folder": (damaged(link_out), "leads out of the folder"),
    "a link to nowhere": (damaged(lambda f: (f / MODEL).unlink() or (f / MODEL).symlink_to("nowhere")), "is missing"),
    "a hard link to another graph": (damaged(hard_link), "model.onnx has"),
    "external data": (lambda exported: publish_graph(exported, use_external_data), "onnxruntime refuses the graph"),
    "golden rows that differ": (damaged(rewrite_golden), "golden rows: score differs"),
    "graphs of another model": (damaged(other_graphs), "golden rows"),
    "a graph that fails when it is run": (lambda e: publish_graph(e, fail_at_run_time), "InvalidArgument"),
    "a manifest that is no JSON": (damaged(lambda f: manifest(f).write_text("{")), "manifest.json: Invalid JSON"),
    "a manifest of the future": (damaged(lambda f: change(f, "schema_version", 2)), "manifest.json: schema_version"),
    "a file in a version's place": (damaged(as_file), "manifest.json cannot be read: Not a directory"),
    "a folder in a file's place": (damaged(graph_as_folder), "model.onnx cannot be read: Is a directory"),
    "a pipe in a file's place": (damaged(pipe), "model.onnx is not a regular file"),
    "a name that leads out": (damaged(lambda f: change(f, "files", json.loads(manifest(f).read_text())["files"] | {
        "../../other/1/model.onnx": {"sha256": "0" * 64, "bytes": 1}})), "is not a file name"),
}  # fmt: skip


def test_broken_versions_dropped_in_under_load_disturb_nobody(
    exported: Path, tmp_path: Path, serve: Starter, callers: Callable[[Serve], Callers]
) -> None:
    server = serve(exported, *FOLLOW)
    load = callers(server)
    for version, (kind, (break_it, why)) in enumerate(BROKEN.items(), start=2):
        # Made elsewhere: the server sees it only as it is meant to be.
        break_it(tmp_path / str(version))
        (tmp_path / str(version) / "line" / "1").rename(exported / "line" / str(version))
        assert why in wait_refused(server, version, version - 1), kind
        load.wait_version(1, calls=5)
    for name in ("0", "007", "-1"):
        (exported / "line" / name).mkdir()
    artefacts.publish(exported, "other")
    server.wait_logged("model loaded", 3)  # at a later look: what the ones before found is told
    assert server.metric("hourglass_model_versions_refused", model="line") == len(BROKEN)
    assert server.metric("hourglass_model_load_failures_total", model="line") == len(BROKEN)
    assert loaded(server) == [1]
    # Each is said once, and one that is repaired is served.
    assert sum(e["message"] == "model refused" for e in server.log) == len(BROKEN)


def test_every_process_follows_by_itself(exported: Path, serve: Starter) -> None:
    server = serve(exported, *FOLLOW, "--processes", "2")
    artefacts.publish(exported, "line", MODELS[2])
    server.wait_logged("model loaded", 6)
    assert sorted(server.values("hourglass_model_info", model="line", version="2")) == [1, 1]
