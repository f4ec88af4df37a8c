"""Embeddings as vector search wants them, from a real server: normalised, encoded, of the required space."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hourglass import AsyncClient, Client, Embeddings, HourglassError
from hourglass.contract.quantization import DTYPES, Encoding, Quantization, float16, normalized
from hourglass.v1 import autoencoder_pb2 as pb
from tests import artefacts, wire
from tests.processes import Serve

LINE = artefacts.Linear.random(width=12, embedding_size=10, seed=1)
RETRAINED = artefacts.Linear.random(width=12, embedding_size=10, seed=2)
ENCODINGS: tuple[Encoding, ...] = ("float32", "float16", "int8", "binary")
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    exported = tmp_path_factory.mktemp("exported")
    artefacts.publish(exported, "line", LINE)
    artefacts.publish(exported, "line", RETRAINED)
    artefacts.publish(exported, "before", LINE, quantized=False)
    server = Serve(exported).wait_ready()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def client(server: Serve) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def stub(server: Serve) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield wire.stub(channel)


def rows(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 12)).astype(np.float32)


def quantization(model: artefacts.Linear, normalize: bool) -> Quantization:
    quantizations = artefacts.manifest(model, model.graphs()).quantization
    assert quantizations is not None
    return quantizations.normalized if normalize else quantizations.plain


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("n", [1, 1000])  # answered on the event loop, and beside it
def test_an_answer_is_the_float_embedding_encoded(client: Client, encoding: Encoding, normalize: bool, n: int) -> None:
    # Of the server's own numbers, so that no rounding decides.
    plain = client.embed("line", rows(n), version=1).values
    np.testing.assert_allclose(plain, LINE.answers(rows(n))["embedding"], rtol=1e-4, atol=1e-5)
    numbers = normalized(plain) if normalize else plain
    quantized = quantization(LINE, normalize)
    expected = {
        "float32": lambda: numbers,
        "float16": lambda: float16(numbers),
        "int8": lambda: quantized.int8(numbers),
        "binary": lambda: quantized.binary(numbers),
    }[encoding]()
    answer = client.embed("line", rows(n), version=1, encoding=encoding, normalize=normalize)
    np.testing.assert_array_equal(answer.values, expected)
    assert answer.values.dtype == DTYPES[encoding]
    assert answer.values.shape == (n, 2 if encoding == "binary" else 10)
    assert (answer.encoding, answer.normalized) == (encoding, normalize)
    assert answer.scale == (pytest.approx(quantized.scale) if encoding == "int8" else None)
    if encoding != "binary":
        assert answer.floats().dtype == np.float32
        # Rounded to the nearest, but for what is beyond 127.
        atol = quantized.scale * (0.5001 if np.abs(expected).max() < 127 else 20) if encoding == "int8" else 1e-3
        np.testing.assert_allclose(answer.floats(), numbers, rtol=1e-3, atol=atol)
    else:
        with pytest.raises(ValueError, match="only bits"):
            answer.floats()


def test_messages_of_an_answer_join_and_batches_are_encoded(client: Client) -> None:
    options: dict[str, Any] = {"version": 1, "encoding": "int8", "normalize": True}
    whole = client.embed("line", rows(3000), **options)
    parts = list(client.embed_batches("line", np.split(rows(3000), 3), **options))
    np.testing.assert_array_equal(whole.values, np.concatenate([part.values for part in parts]))
    assert {(part.scale, part.normalized) for part in parts} == {(whole.scale, True)}


async def test_single_rows_travel_together_by_encoding(server: Serve) -> None:
    async with AsyncClient(server.address) as client:
        asked = [(row, encoding) for row in rows(20)[:, None] for encoding in ENCODINGS]
        answers: list[Embeddings] = await asyncio.gather(
            *(client.embed("line", row, encoding=encoding, version=1) for row, encoding in asked)
        )
        assert [answer.encoding for answer in answers] == [encoding for _, encoding in asked]
        whole = await client.embed("line", rows(20), encoding="int8", version=1)
        alone = np.concatenate([answer.values for answer in answers if answer.encoding == "int8"])
        assert np.abs(whole.values.astype(int) - alone).max() <= 1  # a tie rounds either way
        decoded = await client.decode("line", whole, version=1)
        np.testing.assert_allclose(decoded.values, whole.floats() @ LINE.weights.T, atol=1e-5)


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8"])
def test_decode_takes_what_embed_gave(client: Client, encoding: Encoding) -> None:
    embeddings = client.embed("line", rows(50), version=1, encoding=encoding)
    expected = embeddings.floats() @ LINE.weights.T
    np.testing.assert_allclose(client.decode("line", embeddings, version=1).values, expected, atol=1e-5)
    # From an index, as an array.
    np.testing.assert_allclose(client.decode("line", embeddings.values, version=1).values, expected, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"encoding": "binary"}, {"normalize": True}, {"normalize": True, "encoding": "int8"}]
)
def test_what_has_lost_its_rows_is_not_decoded(client: Client, options: dict[str, Any]) -> None:
    embeddings = client.embed("line", rows(2), version=1, **options)
    with pytest.raises(HourglassError, match=r"(bits are left|lost their lengths).*: Decode takes") as refused:
        client.decode("line", embeddings, version=1)
    field = "embedding.data_type" if options.get("encoding") == "binary" else "normalized"
    assert (refused.value.code, refused.value.reason, refused.value.field) == (PRECONDITION, "NOT_INVERTIBLE", field)


def test_another_space_than_required_is_refused(client: Client) -> None:
    [old, new] = [client.model("line", version).model.embedding_space_id for version in (1, 2)]
    assert client.embed("line", rows(1), require_space_id=new).model.version == 2
    assert client.embed("line", rows(1), version=1, require_space_id=old).model.version == 1
    with pytest.raises(
        HourglassError, match=f"{new}, not the required '{old}'; version 1 has it: name that"
    ) as refused:
        client.embed("line", rows(1), require_space_id=old)
    assert (refused.value.code, refused.value.reason) == (PRECONDITION, "OTHER_SPACE")
    assert refused.value.field == "require_space_id"
    with pytest.raises(HourglassError, match="no loaded version has it"):
        client.embed("line", rows(1), require_space_id="0" * 16)
    # Embeddings know theirs.
    with pytest.raises(HourglassError, match="version 1 has it"):
        client.decode("line", client.embed("line", rows(1), version=1))


def test_a_version_made_without_int8_says_how_to_get_it(client: Client) -> None:
    assert client.embed("before", rows(1), encoding="float16", normalize=True).encoding == "float16"
    assert client.model("before").encodings == ("float32", "float16")
    assert client.model("line").encodings == ENCODINGS
    int8 = client.embed("line", rows(1), version=1, encoding="int8")  # of the same space
    for call in (
        lambda: client.embed("before", rows(1), encoding="int8"),
        lambda: client.embed("before", rows(1), encoding="binary"),
        lambda: client.decode("before", int8),
    ):
        with pytest.raises(HourglassError, match="hourglass-train calibrate makes a version that has them") as refused:
            call()
        assert (refused.value.code, refused.value.reason) == (PRECONDITION, "NO_QUANTIZATION")


def test_what_is_no_encoding_is_refused(client: Client, stub: Any) -> None:
    with pytest.raises(ValueError, match="'int4', none of float32, float16, int8, binary"):
        client.embed("line", rows(1), encoding="int4")  # type: ignore[arg-type]
    for number, name in ((pb.DATA_TYPE_BOOL, "DATA_TYPE_BOOL"), (99, "99")):
        request = pb.EmbedRequest(model="line", tensor=wire.tensor(rows(1)), encoding=number)
        refused = wire.failure(stub.Embed, request)
        assert (refused.reason, refused.metadata["field"]) == ("BAD_ENCODING", "encoding")
        assert name in refused.message
    double = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT64, shape=[1, 10], data=bytes(80))
    refused = wire.failure(stub.Decode, pb.DecodeRequest(model="line", embedding=double))
    assert (refused.reason, refused.metadata["field"]) == ("BAD_DTYPE", "embedding.data_type")
    assert "takes DATA_TYPE_FLOAT32, DATA_TYPE_FLOAT16, DATA_TYPE_INT8" in refused.message
    nan = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT16, shape=[1, 10], data=np.full(10, np.nan, "<f2").tobytes())
    refused = wire.failure(stub.Decode, pb.DecodeRequest(model="line", embedding=nan))
    assert (refused.reason, refused.metadata["row"]) == ("NON_FINITE", "0")


def test_the_standard_deviation_is_not_normalised(tmp_path: Path) -> None:
    sampler = artefacts.Linear.random(width=12, embedding_size=10, seed=1, prior=True)
    artefacts.publish(tmp_path, "sampler", sampler)
    server = Serve(tmp_path).wait_ready()
    try:
        with Client(server.address) as client:
            answer = client.embed("sampler", rows(3), with_stddev=True, normalize=True, encoding="int8")
            assert answer.stddev is not None
            np.testing.assert_allclose(answer.stddev, sampler.answers(rows(3))["embedding_stddev"], rtol=1e-4)
    finally:
        server.kill()
