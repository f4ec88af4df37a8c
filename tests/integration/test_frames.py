"""Rows in and answers out as DataFrames and tables, through the real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hourglass import AsyncClient, Client, HourglassError
from hourglass.cli import run
from hourglass.contract.schema import Column
from tests import artefacts
from tests.processes import Serve

COLUMNS = (
    Column(name="age"),
    Column(name="colour", type="categorical", categories=("red", "green")),
    Column(name="ok", type="boolean"),
    Column(name="flow"),
)
TABLE: dict[str, list[Any]] = {
    "flow": [1.5, None, 3.0, -2.0],
    "at": [pd.Timestamp(0)] * 4,  # no column of the model's, and none that could travel
    "ok": [True, False, None, True],
    "colour": ["red", None, "blue", "green"],
    "age": [20, 30, 40, 50],
}
FRAMES: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "pandas": pd.DataFrame,
    "pandas nullable": lambda columns: pd.DataFrame(columns).convert_dtypes(),
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
    "pyarrow batch": pa.RecordBatch.from_pydict,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    exported = tmp_path_factory.mktemp("exported")
    artefacts.publish(exported, "mixed", artefacts.Linear.random(seed=1, fill=True), columns=COLUMNS)
    artefacts.publish(exported, "named", artefacts.Linear.random(seed=2, prior=True), columns=["w", "x", "y", "z"])
    artefacts.publish(exported, "plain", artefacts.Linear.random(width=10, embedding_size=9, seed=3))
    server = Serve(exported, "--max-batch-rows", "100").wait_ready()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def client(server: Serve) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def dicts(frame: Any) -> list[dict[str, Any]]:
    """The rows of any frame, what is missing as None."""
    rows = frame.to_dict("records") if isinstance(frame, pd.DataFrame) else pa.table(frame).to_pylist()
    return [{name: None if cell is None or cell is pd.NA or cell != cell else cell for name, cell in row.items()}
            for row in rows]  # fmt: skip


def rows_of(count: int, width: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize("hold", [*FRAMES.values()], ids=[*FRAMES])
def test_a_frame_is_answered_as_a_dict_of_its_columns(client: Client, hold: Callable[..., Any]) -> None:
    columns = {name: values for name, values in TABLE.items() if name != "at"}
    expected, frame = client.score("mixed", columns), hold(TABLE)
    assert expected.missing.tolist() == [0, 2, 1, 0]
    assert expected.unknown.tolist() == [0, 0, 1, 0]
    for scores in (client.score("mixed", frame), *client.score_batches("mixed", [frame])):
        np.testing.assert_array_equal(scores.score, expected.score)
        np.testing.assert_array_equal(scores.missing, expected.missing)


async def test_frames_of_many_callers_share_messages(server: Serve, client: Client) -> None:
    frames = [FRAMES[name](TABLE) for name in ("pandas", "polars", "pyarrow")] * 5
    sent = server.metric("hourglass_requests_total", method="Score", code="OK")
    async with AsyncClient(server.address) as own:
        answers = await asyncio.gather(*(own.score("mixed", frame) for frame in frames))
        streamed = [answer async for answer in own.denoise_batches("mixed", frames[:3])]
    assert server.metric("hourglass_requests_total", method="Score", code="OK") < sent + len(frames)
    expected = client.score("mixed", frames[0]).score
    for answer in answers:
        np.testing.assert_array_equal(answer.score, expected)
    np.testing.assert_array_equal(streamed[0].values, streamed[2].values)


def test_a_frame_of_a_model_without_columns_is_an_array(client: Client) -> None:
    rows = rows_of(250, 10)  # of three messages
    for frame in (pd.DataFrame(rows), pl.DataFrame(rows), pa.table([*rows.T], names=[f"c{i}" for i in range(10)])):
        np.testing.assert_array_equal(client.embed("plain", frame).values, client.embed("plain", rows).values)
    with pytest.raises(HourglassError, match=r"\[2, 9\]"):
        client.embed("plain", pd.DataFrame(np.zeros((2, 9))))
    with pytest.raises(HourglassError) as refused:
        client.embed("plain", {"a": [1.0]})
    assert refused.value.reason == "NO_SCHEMA"


def test_a_parquet_file_streams_through(client: Client, tmp_path: Path) -> None:
    rows = rows_of(500, 4)
    pq.write_table(pa.table([*rows.T, pa.nulls(500)], names=["z", "y", "x", "w", "note"]), tmp_path / "rows.parquet")
    batches = pq.ParquetFile(tmp_path / "rows.parquet").iter_batches(100)
    answers = list(client.embed_batches("named", batches))
    assert len(answers) == 5
    expected = client.embed("named", rows[:, ::-1])
    np.testing.assert_array_equal(np.concatenate([answer.values for answer in answers]), expected.values)


def test_an_error_of_a_batch_says_where_it_begins(client: Client) -> None:
    good = pd.DataFrame(np.zeros((3, 4)), columns=["w", "x", "y", "z"])
    bad = good.assign(x=[1.0, "cold", 2.0])
    with pytest.raises(
        TypeError, match=r"row 1, column 'x': str after float: .* \(in the batch that begins with row 3\)"
    ):
        list(client.score_batches("named", [good, bad]))
    refused = [pl.DataFrame({**TABLE, "ok": ["yes", "no", "maybe", "no"]})]
    with pytest.raises(HourglassError, match="'maybe' is neither") as caught:
        list(client.score_batches("mixed", refused))
    assert (caught.value.field, caught.value.row) == ("table.columns.ok", 2)


# --- out ---


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8", "binary"])
def test_embeddings_are_one_column_of_lists(client: Client, encoding: Any) -> None:
    embeddings = client.embed("plain", rows_of(5, 10), encoding=encoding)
    width = 2 if encoding == "binary" else 9
    element = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "binary": pa.uint8()}[encoding]
    table, frame, polars = embeddings.to_arrow(), embeddings.to_pandas(), embeddings.to_polars()
    assert table.schema == pa.schema({"embedding": pa.list_(element, width)})
    assert polars.schema == pl.from_arrow(table.slice(0, 0)).schema  # type: ignore[union-attr]
    assert (list(frame), frame["embedding"][0].dtype) == (["embedding"], embeddings.values.dtype)
    for values in (
        np.stack(table["embedding"].to_numpy()),
        polars["embedding"].to_numpy(),
        np.stack(frame["embedding"]),
    ):
        np.testing.assert_array_equal(values, embeddings.values)
    if encoding != "binary":
        for held in (table, frame, polars, table["embedding"], frame["embedding"], polars["embedding"]):
            decoded = client.decode("plain", held).values
            np.testing.assert_array_equal(decoded, client.decode("plain", embeddings).values)


def test_how_sure_embeddings_are_is_a_column_too(client: Client) -> None:
    embeddings = client.embed("named", rows_of(5, 4), with_stddev=True)
    for frame in (embeddings.to_pandas(), embeddings.to_polars()):
        np.testing.assert_array_equal(np.stack([*frame["stddev"]]), embeddings.stddev)
    assert embeddings.to_arrow().column_names == ["embedding", "stddev"]


@pytest.mark.parametrize("model", ["mixed", "named"])
def test_scores_are_the_columns_of_the_programs_file(server: Serve, client: Client, tmp_path: Path, model: str) -> None:
    data, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    table = pa.table({n: TABLE[n] for n in TABLE if n != "at"} if model == "mixed" else [*rows_of(9, 4).T],
                     names=None if model == "mixed" else [*"wxyz"])  # fmt: skip
    pq.write_table(table, data)
    flags = ["--model", model, "--top-features", "2", "--server", server.address]
    assert run(["score", str(data), *flags, "--out", str(out)]) == 0
    expected = pq.read_table(out)
    scores = client.score(model, table, top_features=2)
    info = client.model(model)
    assert scores.to_arrow(info) == expected
    assert scores.to_polars(info).to_arrow().cast(expected.schema) == expected
    assert dicts(scores.to_pandas(info)) == dicts(expected)


def test_scores_without_the_model_go_by_places_and_codes(client: Client) -> None:
    scores = client.score("mixed", {n: TABLE[n] for n in TABLE if n != "at"}, top_features=1, feature_errors=True)
    assert scores.top_features is not None
    assert scores.feature_errors is not None
    for frame in (scores.to_pandas(), scores.to_polars(), scores.to_arrow()):
        named = dict(zip(getattr(frame, "column_names", None) or list(frame.columns), frame.columns, strict=True))
        assert list(named) == [
            "score", "p_value", "is_anomaly", "reconstruction_error", "clipped", "missing", "unknown",
            "top1_feature", "top1_share", "top1_observed", "top1_expected", "feature_errors",
        ]  # fmt: skip
        np.testing.assert_array_equal(np.asarray(frame["top1_feature"]), scores.top_features.feature[:, 0])
        np.testing.assert_array_equal(np.stack([*np.asarray(frame["feature_errors"])]), scores.feature_errors)


def test_rows_come_back_in_their_columns(client: Client) -> None:
    columns = {name: values for name, values in TABLE.items() if name != "at"}
    answer, info = client.denoise("mixed", columns), client.model("mixed")
    expected = answer.columns(info)
    table = answer.to_arrow(info)
    assert table.schema == pa.schema(
        {"age": pa.float32(), "colour": pa.string(), "ok": pa.bool_(), "flow": pa.float32()}
    )
    assert answer.to_polars(info).schema == {
        "age": pl.Float32,
        "colour": pl.String,
        "ok": pl.Boolean,
        "flow": pl.Float32,
    }
    for frame in (table, answer.to_polars(info), answer.to_pandas(info)):
        assert {name: [row[name] for row in dicts(frame)] for name in expected} == {
            name: values.tolist() for name, values in expected.items()
        }
    generated = client.generate("named", 3, seed=1)
    assert list(generated.to_pandas(client.model("named"))) == ["w", "x", "y", "z"]


def test_rows_without_columns_are_numbered(client: Client) -> None:
    answer, info = client.denoise("plain", rows_of(3, 10)), client.model("plain")
    for frame in (answer.to_pandas(), answer.to_pandas(info), answer.to_polars(info)):
        assert list(frame.columns) == [f"c{i}" for i in range(10)]
        np.testing.assert_array_equal(frame.to_numpy(), answer.values)
