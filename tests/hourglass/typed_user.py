"""A user's program, which `mypy --strict` checks against the package as it is installed (test_typing.py). Not run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import assert_type

import numpy as np
import polars as pl
from numpy.typing import NDArray

import hourglass
from hourglass import (
    AsyncClient,
    Calibration,
    Client,
    Embeddings,
    Encoding,
    Generated,
    Health,
    HourglassError,
    ModelDrift,
    ModelInfo,
    ModelVersion,
    Reconstructions,
    RowsLike,
    Scores,
    TopFeatures,
    benjamini_hochberg,
)

Floats = NDArray[np.float32]
columns = {"pressure": [7.1, None], "site": ["north", "south"], "open": [True, False]}
reading = np.zeros(2)
taken: list[RowsLike] = [
    [[1.0, 2.0]], [reading], np.zeros((2, 2)), columns, {"a": reading, "b": ["x", "y"]}, pl.DataFrame(columns),
]  # fmt: skip
encoding: Encoding = "int8"


def blocking() -> None:
    with Client(
        "models.example:8001", ca_file="ca.pem", cert_file=Path("c"), key_file=Path("k"), token_file="t", timeout=5
    ) as client:
        assert_type(client, Client)
        assert_type(client.models(), list[ModelInfo])
        assert_type(client.model("m", 3), ModelInfo)
        assert_type(client.drift("m", version=3), ModelDrift)
        assert_type(client.health(), Health)
        assert_type(client.rows_per_message("m", top_features=1, feature_errors=True), int)
        for rows in taken:
            assert_type(client.embed("m", rows, version=1, with_stddev=True, normalize=True), Embeddings)
            assert_type(client.denoise("m", rows), Reconstructions)
            assert_type(client.score("m", rows, false_alarm_rate=0.1, control_fdr=True, top_features=3), Scores)
        embeddings = client.embed("m", columns, encoding=encoding, require_space_id="0123456789abcdef")
        assert_type(client.decode("m", embeddings), Reconstructions)
        assert_type(client.decode("m", embeddings.floats()), Reconstructions)
        assert_type(client.generate("m", 3, seed=1), Generated)
        assert_type(client.generate_batches("m", 3, seed=None), Iterator[Generated])
        assert_type(client.embed_batches("m", taken, encoding="binary"), Iterator[Embeddings])
        assert_type(client.denoise_batches("m", iter(taken)), Iterator[Reconstructions])
        assert_type(client.score_batches("m", taken, threshold=1.5, feature_errors=True), Iterator[Scores])
    client.close()


async def awaited() -> None:
    async with AsyncClient("models.example:8001", timeout=5.0) as client:
        assert_type(client, AsyncClient)
        assert_type(await client.models(), list[ModelInfo])
        assert_type(await client.model("m"), ModelInfo)
        assert_type(await client.drift("m"), ModelDrift)
        assert_type(await client.health(), Health)
        assert_type(await client.rows_per_message("m"), int)
        assert_type(await client.embed("m", columns, encoding=encoding), Embeddings)
        assert_type(await client.denoise("m", [reading]), Reconstructions)
        assert_type(await client.score("m", pl.DataFrame(columns)), Scores)
        assert_type(await client.decode("m", [[1.0]]), Reconstructions)
        assert_type(await client.generate("m", 3), Generated)
        assert_type(client.embed_batches("m", taken), AsyncIterator[Embeddings])
        assert_type(client.denoise_batches("m", taken), AsyncIterator[Reconstructions])
        assert_type(client.score_batches("m", taken), AsyncIterator[Scores])
    await client.close()


def answers(
    embeddings: Embeddings, rows: Reconstructions, drawn: Generated, scores: Scores, info: ModelInfo, health: Health
) -> None:
    assert_type(embeddings.values, np.ndarray)
    assert_type(embeddings.floats(), Floats)
    assert_type(embeddings.encoding, Encoding)
    assert_type((embeddings.stddev, embeddings.scale), tuple[Floats | None, float | None])
    assert_type(embeddings.model, ModelVersion)
    assert_type((rows.values, drawn.values, drawn.seed), tuple[Floats, Floats, int])
    assert_type(rows.columns(info), dict[str, np.ndarray])
    assert_type((scores.score, scores.p_value, scores.reconstruction_error), tuple[Floats, Floats, Floats])
    assert_type(scores.is_anomaly, NDArray[np.bool_])
    for counts in (scores.clipped, scores.missing, scores.unknown):
        assert_type(counts, NDArray[np.int32])
    assert_type(scores.feature_errors, Floats | None)
    assert_type(scores.top_features, TopFeatures | None)
    if scores.top_features is not None:
        assert_type(scores.top_features.names(info), np.ndarray)
        assert_type(scores.top_features.cells(info), tuple[np.ndarray, np.ndarray])
    for answer in (embeddings, rows, drawn, scores):
        assert_type(answer.to_polars(info), pl.DataFrame)
        answer.to_pandas().head()
        answer.to_arrow(info).slice(0, 1)
    assert_type(benjamini_hochberg(scores.p_value, 0.1), np.ndarray)
    assert_type(info.calibration, Calibration)
    assert_type(info.feature_names, tuple[str, ...])
    assert_type((health.ok, health.ready, health.live, health.service), tuple[bool, bool, bool, bool])
    assert_type(health.models["m"], bool)


def failed() -> tuple[str, str | None, int | None, float | None]:
    try:
        blocking()
    except HourglassError as error:
        return error.reason, error.field, error.row, error.retry_after
    return "", None, None, None


def wrong(client: Client) -> None:
    Client("m:1", timeout="x")  # type: ignore[arg-type]
    Client("m:1", tls=True)  # type: ignore[call-arg]
    client.embed("m", [{"a": 1}])  # type: ignore[arg-type]
    client.embed("m", object())  # type: ignore[arg-type]
    client.embed("m", [[1.0, None]])  # type: ignore[arg-type]
    client.embed("m", columns, encoding="int9")  # type: ignore[arg-type]
    client.score_batches("m", taken, control_fdr=True)  # type: ignore[call-arg]
    print(hourglass.Nothing)  # type: ignore[attr-defined]
