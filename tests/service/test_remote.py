"""Models from elsewhere: what is fetched, what is not believed, and what stays when the remote fails."""

from __future__ import annotations

import functools
import json
import os
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hourglass.contract import layout
from hourglass.contract.manifest import MODEL
from hourglass.v1 import autoencoder_pb2 as pb
from service.remote import Mirror
from service.scanning import Version
from tests import artefacts, wire
from tests.integration.test_credentials import certificate
from tests.processes import Serve, refusal

fsspec = pytest.importorskip("fsspec")
REQUEST = pb.ScoreRequest(model="line", tensor=wire.tensor(np.ones((2, 4), dtype=np.float32)))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def there(tmp_path: Path) -> Path:
    artefacts.publish(tmp_path / "there", "line")
    return tmp_path / "there"


@pytest.fixture
def failures() -> list[str]:
    return []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def mirror(there: Path, tmp_path: Path, failures: list[str], clock: Clock) -> Mirror:
    return Mirror(there.as_uri(), tmp_path / "cache", failures.append, clock)


def cached(tmp_path: Path) -> list[int]:
    return layout.versions(tmp_path / "cache", "line")


def test_the_newest_versions_are_fetched_whole(mirror: Mirror, there: Path, tmp_path: Path, clock: Clock) -> None:
    for _ in range(2):
        artefacts.publish(there, "line")
    mirror.refresh(2, ())
    assert cached(tmp_path) == [3, 2]
    assert layout.read(tmp_path / "cache", "line", 3).version == 3
    # In the place of one that cannot be served, an older one.
    mirror.refresh(2, {Version("line", 3)})
    assert cached(tmp_path) == [3, 2, 1]
    # Others may serve what is not wanted here any more.
    mirror.prune({Version("line", 1)})
    clock.now += 1800
    mirror.prune({Version("line", 1), Version("line", 2)})
    clock.now += 1800
    mirror.prune({Version("line", 1)})
    assert cached(tmp_path) == [2, 1]
    clock.now += 3600
    mirror.prune({Version("line", 1)})
    assert cached(tmp_path) == [1]
    assert list((tmp_path / "cache" / "line").iterdir()) == [tmp_path / "cache" / "line" / "1"]


def test_from_the_memory_file_system(there: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(there), "/models", recursive=True)
    mirror = Mirror("memory://models", tmp_path / "cache", lambda _: None)
    mirror.refresh(None, ())
    assert cached(tmp_path) == [1]
    memory.rm("/models", recursive=True)
    mirror.refresh(None, ())
    assert "FileNotFoundError" in mirror.unreachable
    assert cached(tmp_path) == [1]


def flip(folder: Path) -> None:
    data = bytearray((folder / MODEL).read_bytes())
    data[-1] ^= 1
    (folder / MODEL).write_bytes(data)


def grow(folder: Path) -> None:
    with (folder / MODEL).open("ab") as file:
        file.write(b"more")


def name_another_folder(folder: Path) -> None:
    content = json.loads((folder / layout.MANIFEST).read_text())
    content["files"]["../../../../stolen"] = {"sha256": "0" * 64, "bytes": 1}
    (folder / layout.MANIFEST).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (flip, "model.onnx: its sha256 is not the manifest's"),
        (lambda folder: (folder / MODEL).unlink(), "model.onnx is missing"),
        (lambda folder: (folder / layout.MANIFEST).unlink(), "manifest.json is missing"),
        (lambda folder: (folder / layout.MANIFEST).write_text("{"), "manifest.json: Invalid JSON"),
        (name_another_folder, "is not a file name"),
    ],
)
def test_what_does_not_match_its_manifest_never_gets_a_place(
    mirror: Mirror, there: Path, tmp_path: Path, failures: list[str], damage: Callable[[Path], object], why: str
) -> None:
    artefacts.publish(there, "line", damage=lambda folder: damage(folder) and None)
    for _ in range(2):  # and is not fetched again at once
        mirror.refresh(1, ())
    assert cached(tmp_path) == [1]
    assert why in mirror.failed[Version("line", 2)]
    assert failures == ["line"]
    assert [entry.name for entry in (tmp_path / "cache" / "line").iterdir()] == ["1"]
    assert not (tmp_path / "stolen").exists()


def test_what_is_gone_there_is_let_go_and_a_remote_that_fails_changes_nothing(
    mirror: Mirror, there: Path, tmp_path: Path
) -> None:
    artefacts.publish(there, "line")
    mirror.refresh(2, ())
    shutil.rmtree(there / "line" / "2")
    mirror.refresh(2, ())
    assert cached(tmp_path) == [1]
    there.rename(tmp_path / "away")
    mirror.refresh(2, ())
    assert mirror.unreachable
    assert cached(tmp_path) == [1]
    (tmp_path / "away").rename(there)
    mirror.refresh(2, ())
    assert not mirror.unreachable


def test_what_is_too_long_or_comes_too_slowly_is_given_up(
    mirror: Mirror, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(bytes_: int, seconds: int) -> str:
        def get(remote: str, local: str, callback: Any) -> None:
            clock.now += seconds
            callback.relative_update(bytes_)
            shutil.copyfile(remote, local)

        monkeypatch.setattr(mirror._files, "get_file", get)
        mirror.refresh(1, ())
        clock.now += 600  # past the pause
        return mirror.failed.get(Version("line", 1), "")

    assert fetched(100 * 2**20, 0) == "manifest.json has more than 67108864 bytes"
    assert fetched(1, 3600) == "it cannot be fetched: TimeoutError; the log says more"
    assert cached(tmp_path) == []
    assert fetched(1, 10) == ""
    assert cached(tmp_path) == [1]


def test_a_fetch_ends_at_the_next_piece_when_the_process_does(
    mirror: Mirror, tmp_path: Path, failures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = 0

    def get(_remote: str, _local: str, callback: Any) -> None:
        nonlocal pieces
        for _ in range(100):
            pieces += 1
            mirror.stop()
            callback.relative_update(1)

    monkeypatch.setattr(mirror._files, "get_file", get)
    for _ in range(2):
        mirror.refresh(1, ())
    assert pieces == 1
    assert list((tmp_path / "cache" / "line").iterdir()) == []
    assert (mirror.failed, failures) == ({}, [])


def test_what_is_damaged_here_stays_until_it_was_fetched_again(mirror: Mirror, there: Path, tmp_path: Path) -> None:
    mirror.refresh(1, ())
    flip(tmp_path / "cache" / "line" / "1")
    mirror.distrusted.add(Version("line", 1))
    there.rename(tmp_path / "away")
    mirror.refresh(1, ())
    assert cached(tmp_path) == [1]
    (tmp_path / "away").rename(there)
    mirror.refresh(1, ())
    assert layout.read(tmp_path / "cache", "line", 1).version == 1
    assert not mirror.distrusted
    assert [entry.name for entry in (tmp_path / "cache" / "line").iterdir()] == ["1"]


@pytest.mark.parametrize("damage", [flip, lambda folder: (folder / layout.MANIFEST).write_text("")])
def test_a_start_from_a_damaged_cache_fetches_it_again(
    mirror: Mirror,
    tmp_path: Path,
    pki: Path,
    https: FileServer,
    serve: Callable[..., Serve],
    damage: Callable[[Path], object],
) -> None:
    mirror.refresh(1, ())
    damage(tmp_path / "cache" / "line" / "1")
    server = serve(https.url, "--cache", str(tmp_path / "cache"), SSL_CERT_FILE=str(pki / "ca.pem"))
    with grpc.insecure_channel(server.address) as channel:
        assert wire.stub(channel).Score(REQUEST).model.version == 1


def test_of_models_that_are_not_wanted_nothing_is_fetched_or_let_go(
    mirror: Mirror, there: Path, tmp_path: Path
) -> None:
    artefacts.publish(there, "other")
    mirror.refresh(2, (), {"other"})
    assert layout.names(tmp_path / "cache") == ["other"]
    mirror.refresh(2, (), ())
    assert layout.names(tmp_path / "cache") == ["other"]
    assert not mirror.unreachable


def test_a_model_that_cannot_be_listed_keeps_no_other_from_coming(
    mirror: Mirror, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefacts.publish(there, "other")
    mirror.refresh(2, ())
    artefacts.publish(there, "other")
    shutil.rmtree(there / "line" / "1")
    artefacts.publish(there, "line")
    ls = mirror._files.ls

    def forbid(folder: str, **options: object) -> list[str]:
        if folder.endswith("/line"):
            raise PermissionError("403")
        names: list[str] = ls(folder, **options)
        return names

    monkeypatch.setattr(mirror._files, "ls", forbid)
    mirror.refresh(2, ())
    assert layout.versions(tmp_path / "cache", "other") == [2, 1]
    assert cached(tmp_path) == [1]
    assert mirror.unreachable == "PermissionError: 403"
    monkeypatch.undo()
    mirror.refresh(1, ())
    assert not mirror.unreachable


def test_leftovers_that_another_process_removes_are_no_obstacle(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache" / "line").mkdir(parents=True)
    gone, old = (tmp_path / "cache" / "line" / f".draft-{name}" for name in ("gone", "old"))
    old.mkdir()
    os.utime(old, (1, 1))
    monkeypatch.setattr(Path, "glob", lambda *_: [gone, old])
    Mirror(there.as_uri(), tmp_path / "cache", lambda _: None)
    assert not old.exists()


class FileServer:
    """A plain https server of a folder, as `python -m http.server` is."""

    def __init__(self, root: Path, pki: Path) -> None:
        handler = functools.partial(_Quiet, directory=str(root))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pki / "server.pem", pki / "server.key")
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"https://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    folder = tmp_path / "pki"
    folder.mkdir()
    certificate(folder, "ca", None)
    certificate(folder, "server", "ca")
    return folder


@pytest.fixture
def https(there: Path, pki: Path) -> Iterator[FileServer]:
    server = FileServer(there, pki)
    yield server
    server.close()


def test_a_server_follows_an_https_file_server_and_outlives_it(
    there: Path, tmp_path: Path, pki: Path, https: FileServer, serve: Callable[..., Serve]
) -> None:
    flags = ("--cache", str(tmp_path / "cache"), "--versions", "latest:1", "--poll-seconds", "0.1")
    environment = {"SSL_CERT_FILE": str(pki / "ca.pem")}
    server = serve(https.url, *flags, **environment)
    artefacts.publish(tmp_path / "elsewhere", "line", damage=grow)
    (tmp_path / "elsewhere" / "line" / "1").rename(there / "line" / "2")
    refused = server.wait_logged("model cannot be fetched")
    assert refused["version"] == 2
    assert refused["why"].startswith("model.onnx has more than")
    artefacts.publish(there, "line")
    assert server.wait_logged("model loaded", 2)
    server.wait_logged("model unloaded")
    https.close()
    server.wait_logged("the remote models cannot be listed")
    with grpc.insecure_channel(server.address) as channel:
        assert wire.stub(channel).Score(REQUEST).model.version == 3
    # And so does the next one, from what was fetched.
    again = serve(https.url, *flags, **environment)
    with grpc.insecure_channel(again.address) as channel:
        assert wire.stub(channel).Score(REQUEST).model.version == 3
    assert again.metric("hourglass_repository_unreadable") == 1


@pytest.mark.parametrize("elsewhere", ["http://127.0.0.1", "https://models.example"])
def test_redirects_to_other_places_are_not_followed(
    tmp_path: Path, pki: Path, https: FileServer, monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    def redirect(handler: _Quiet) -> None:
        handler.send_response(302)
        handler.send_header("Location", elsewhere)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    monkeypatch.setattr(_Quiet, "do_GET", redirect)
    flags = ("--exported", https.url, "--cache", str(tmp_path / "cache"), "--grpc-port", "0", "--metrics-port", "0")
    assert "redirects to another place" in refusal(*flags, SSL_CERT_FILE=str(pki / "ca.pem"))


def test_a_file_server_of_an_unknown_authority_is_not_believed(tmp_path: Path, https: FileServer) -> None:
    free = ("--grpc-port", "0", "--metrics-port", "0")
    assert "certificate verify failed" in refusal("--exported", https.url, "--cache", str(tmp_path / "cache"), *free)
    assert cached(tmp_path) == []


def test_urls_that_are_no_place_for_models_are_refused(tmp_path: Path) -> None:
    def said(url: str, *flags: str) -> str:
        return refusal("--exported", url, *flags)

    cache = ("--cache", str(tmp_path / "cache"))
    assert "--cache and a URL in --exported come together" in said("https://models.example/exported")
    assert "--cache and a URL in --exported come together" in said(str(tmp_path), *cache)
    several = ("--model-control", "explicit", "--processes", "2")
    assert "is one process's" in said("https://models.example/exported", *cache, *several)
    assert "use https://" in said("http://models.example/exported", *cache)
    assert "no credentials in the URL" in said("https://me:secret@models.example/exported", *cache)
    assert "secret" not in said("https://me:secret@models.example/exported", *cache)
    assert "URLs are not chained" in said("simplecache::https://models.example/exported", *cache)
    assert "remote-s3" in said("s3://bucket/models", *cache)
