"""Only the right people: TLS, client certificates, bearer tokens."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hourglass import Client, HourglassError
from hourglass.cli import run
from hourglass.v1 import autoencoder_pb2 as pb
from tests import artefacts, wire
from tests.processes import Serve

REQUEST = pb.ScoreRequest(model="line", tensor=wire.tensor(np.ones((2, 4), dtype=np.float32)))


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def certificate(folder: Path, name: str, authority: str | None) -> None:
    """folder/name.{key,pem}, signed by the authority, or an authority itself."""
    key, pem = str(folder / f"{name}.key"), str(folder / f"{name}.pem")
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    signer = ["-CA", str(folder / f"{authority}.pem"), "-CAkey", str(folder / f"{authority}.key")] if authority else []
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", key, "-out", pem,
            *subject, *signer)  # fmt: skip


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    for name, authority in (("ca", None), ("server", "ca"), ("caller", "ca"), ("other-ca", None), ("spy", "other-ca")):
        certificate(folder, name, authority)
    return folder


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    artefacts.publish(tmp_path / "exported", "line")
    return tmp_path / "exported"


def credentials(pki: Path, caller: str | None = None, authority: str = "ca") -> grpc.ChannelCredentials:
    own = [(pki / f"{caller}.{kind}").read_bytes() for kind in ("key", "pem")] if caller else [None, None]
    return grpc.ssl_channel_credentials((pki / f"{authority}.pem").read_bytes(), *own)


def test_tls_is_spoken_and_plaintext_is_not(pki: Path, exported: Path, serve: Callable[..., Serve]) -> None:
    server = serve(exported, "--tls-cert", str(pki / "server.pem"), "--tls-key", str(pki / "server.key"))
    assert server.ready["tls"] is True
    with grpc.secure_channel(server.address, credentials(pki)) as channel:
        assert wire.stub(channel).Score(REQUEST).model.version == 1
    with grpc.secure_channel(server.address, credentials(pki, authority="other-ca")) as channel:
        assert wire.failure(wire.stub(channel).Score, REQUEST).code is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(server.address) as channel:
        assert wire.failure(wire.stub(channel).Score, REQUEST).code is grpc.StatusCode.UNAVAILABLE


def test_client_certificates_are_asked_for(pki: Path, exported: Path, serve: Callable[..., Serve]) -> None:
    tls = ("--tls-cert", str(pki / "server.pem"), "--tls-key", str(pki / "server.key"))
    server = serve(exported, *tls, "--tls-client-ca", str(pki / "ca.pem"))
    with grpc.secure_channel(server.address, credentials(pki, "caller")) as channel:
        assert wire.stub(channel).Score(REQUEST).model.version == 1
    for stranger in (None, "spy"):
        with grpc.secure_channel(server.address, credentials(pki, stranger)) as channel:
            assert wire.failure(wire.stub(channel).Score, REQUEST).code is grpc.StatusCode.UNAVAILABLE


def test_a_bearer_token_is_asked_for(tmp_path: Path, exported: Path, serve: Callable[..., Serve]) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first-secret\n\nsecond-secret\n")
    server = serve(exported, "--auth-token-file", str(tokens))
    with grpc.insecure_channel(server.address) as channel:
        stub = wire.stub(channel)
        for token in ("first-secret", "second-secret"):
            assert stub.Score(REQUEST, metadata=[("authorization", f"Bearer {token}")]).model.version == 1
        for metadata in ([], [("authorization", "Bearer first")], [("authorization", "first-secret")]):
            refused = wire.failure(stub.Score, REQUEST, metadata=metadata)
            assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "BAD_CREDENTIAL")
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    assert "secret" not in "".join(server.lines) + server.metrics()


def test_the_shipped_client_shows_its_files(
    pki: Path, tmp_path: Path, exported: Path, serve: Callable[..., Serve], capsys: pytest.CaptureFixture[str]
) -> None:
    tokens, token = tmp_path / "tokens", tmp_path / "token"
    tokens.write_text("secret\n")
    token.write_text("secret\n")
    tls = ("--tls-cert", str(pki / "server.pem"), "--tls-key", str(pki / "server.key"))
    server = serve(exported, *tls, "--tls-client-ca", str(pki / "ca.pem"), "--auth-token-file", str(tokens))
    own = {"cert_file": pki / "caller.pem", "key_file": pki / "caller.key"}
    with Client(server.address, ca_file=pki / "ca.pem", token_file=token, **own) as client:
        assert client.score("line", np.ones((2, 4))).model.version == 1
        assert client.health().ok
    with Client(server.address, ca_file=pki / "ca.pem", **own) as client:
        with pytest.raises(HourglassError) as refused:
            client.score("line", np.ones((2, 4)))
        assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, "BAD_CREDENTIAL")
    for ca, files in ((pki / "other-ca.pem", own), (pki / "ca.pem", {}), (None, {})):
        with (
            Client(server.address, ca_file=ca, token_file=token, timeout=5, **files) as client,
            pytest.raises(HourglassError, match="TLS settings"),
        ):
            client.models()
    flags = ["--ca-file", pki / "ca.pem", "--cert-file", own["cert_file"], "--key-file", own["key_file"]]
    command = ["health", "--server", server.address, *map(str, flags)]
    assert run([*command, "--token-file", str(token)]) == 0
    assert run(command) == 1
    assert "secret" not in "".join((*capsys.readouterr(), *server.lines))


@pytest.mark.parametrize("kind", ["wrong key", "swapped", "garbage", "garbage authority", "missing"])
def test_tls_files_that_do_not_belong_together_are_refused(pki: Path, exported: Path, kind: str) -> None:
    (pki / "garbage").write_text("garbage")
    cert, key, authority = {
        "wrong key": ("server.pem", "spy.key", "ca.pem"),
        "swapped": ("server.key", "server.pem", "ca.pem"),
        "garbage": ("garbage", "garbage", "ca.pem"),
        "garbage authority": ("server.pem", "server.key", "garbage"),
        "missing": ("server.pem", "none", "ca.pem"),
    }[kind]
    files = ("--tls-cert", str(pki / cert), "--tls-key", str(pki / key), "--tls-client-ca", str(pki / authority))
    server = Serve(exported, *files)
    assert server.wait() == 2
    assert server.lines[-1].startswith("hourglass-serve: error: --tls-cert, --tls-key, --tls-client-ca: not a")


@pytest.mark.parametrize(("content", "what"), [(b"", "holds no token"), ("schlüssel".encode(), "not plain ASCII")])
def test_tokens_nobody_could_show_are_refused(tmp_path: Path, exported: Path, content: bytes, what: str) -> None:
    (tmp_path / "tokens").write_bytes(content)
    server = Serve(exported, "--auth-token-file", str(tmp_path / "tokens"))
    assert server.wait() == 2
    assert what in server.lines[-1]


def test_refused_callers_are_counted_and_cost_no_memory(
    tmp_path: Path, exported: Path, serve: Callable[..., Serve]
) -> None:
    (tmp_path / "tokens").write_bytes(b"\xef\xbb\xbfsecret\r\n")  # as a Windows editor writes it
    server = serve(exported, "--auth-token-file", str(tmp_path / "tokens"))
    big = pb.ScoreRequest(model="line", tensor=pb.Tensor(data_type=1, shape=[1, 4], data=bytes(15 * 2**20)))
    with grpc.insecure_channel(server.address) as channel:
        stub = wire.stub(channel)
        assert stub.Score(REQUEST, metadata=[("authorization", "Bearer secret")]).model.version == 1
        before = server.metric("process_resident_memory_bytes")
        calls = [stub.Score.future(big) for _ in range(30)]
        assert all(call.code() is grpc.StatusCode.UNAUTHENTICATED for call in calls)
    assert server.metric("process_resident_memory_bytes") - before < 100 * 2**20
    assert server.metric("hourglass_requests_total", method="Score", code="UNAUTHENTICATED") == 30
