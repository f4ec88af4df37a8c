"""The shipped client and program against the real server: what the fake one cannot show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyarrow import csv

from hourglass import AsyncClient, Client, HourglassError, benjamini_hochberg
from hourglass.cli import run
from tests import artefacts
from tests.processes import Serve

PLAIN = artefacts.Linear.random()
SAMPLER = artefacts.Linear.random(seed=4, prior=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    exported = tmp_path_factory.mktemp("exported")
    artefacts.publish(exported, "plain", PLAIN, columns=["w", "x", "y", "z"])
    artefacts.publish(exported, "sampler", SAMPLER, columns=["a", "b", "c", "d"])
    server = Serve(exported, "--max-batch-rows", "100").wait_ready()
    yield server
    server.kill()


def test_large_calls_come_back_whole_and_in_order(server: Serve) -> None:
    rows = np.random.default_rng(0).standard_normal((1_234, 4)).astype(np.float32)
    expected = SAMPLER.answers(rows)
    with Client(server.address) as client:
        embeddings = client.embed("sampler", rows, with_stddev=True)
        decoded = client.decode("sampler", embeddings.values)
        assert client.embed("sampler", rows).stddev is None
    np.testing.assert_allclose(embeddings.values, expected["embedding"], atol=1e-5)
    np.testing.assert_allclose(embeddings.stddev, expected["embedding_stddev"], atol=1e-5)
    np.testing.assert_allclose(decoded.values, expected["reconstruction"], atol=1e-5)


async def test_false_discoveries_are_controlled_over_all_messages(server: Serve) -> None:
    rows = np.random.default_rng(1).standard_normal((1_000, 4)).astype(np.float32)
    rows[:100] *= 6  # all of the first message, and none of the others
    with Client(server.address) as client:
        scores = client.score("plain", rows, control_fdr=True, false_alarm_rate=0.1)
        alone = [client.score("plain", rows[i : i + 100], control_fdr=True, false_alarm_rate=0.1) for i in (0, 100)]
    async with AsyncClient(server.address) as client:
        awaited = await client.score("plain", rows, control_fdr=True, false_alarm_rate=0.1)
    np.testing.assert_array_equal(scores.is_anomaly, benjamini_hochberg(scores.p_value, 0.1))
    np.testing.assert_array_equal(scores.is_anomaly, awaited.is_anomaly)
    np.testing.assert_array_equal(scores.is_anomaly, scores.score > scores.threshold)
    # A message alone has other verdicts: of nothing but anomalies, more are called.
    assert alone[0].is_anomaly.sum() > scores.is_anomaly[:100].sum() > 50
    assert alone[1].is_anomaly.sum() == 0


def test_a_score_is_explained_by_column(server: Serve) -> None:
    rows = np.random.default_rng(2).standard_normal((250, 4)).astype(np.float32)
    expected = PLAIN.answers(rows)
    with Client(server.address) as client:
        scores = client.score("plain", rows, top_features=2, feature_errors=True)
        info = client.model("plain")
    assert scores.feature_errors is not None
    np.testing.assert_allclose(scores.feature_errors, expected["feature_error"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(scores.reconstruction_error, expected["reconstruction_error"], rtol=1e-4, atol=1e-5)
    assert scores.top_features is not None
    worst = np.argmax(scores.feature_errors, axis=1)
    assert scores.top_features.names(info)[:, 0].tolist() == ["wxyz"[i] for i in worst]


def test_the_program_explains_a_file(server: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(3).standard_normal((250, 4)).astype(np.float32)
    rows[7, 2] = 100
    np.save(tmp_path / "in.npy", rows)
    command = ["score", str(tmp_path / "in.npy"), "--model", "plain", "--server", server.address, "--top-features", "2"]
    assert run([*command, "--control-fdr", "--false-alarm-rate", "0.2", "--out", str(tmp_path / "out.csv")]) == 0
    with Client(server.address) as client:
        scores = client.score("plain", rows, control_fdr=True, false_alarm_rate=0.2)
    table = csv.read_csv(tmp_path / "out.csv")
    assert table["is_anomaly"].to_pylist() == scores.is_anomaly.tolist()
    np.testing.assert_allclose(table["reconstruction_error"].to_numpy(), scores.reconstruction_error, rtol=1e-6)
    assert run(command) == 0
    assert " 100 " in capsys.readouterr().out


async def test_generated_rows_repeat_by_seed_and_do_not_repeat_within(server: Serve) -> None:
    with Client(server.address) as client:
        generated = client.generate("sampler", 350, seed=5)
        again = client.generate("sampler", 350, seed=5)
        chosen = client.generate("sampler", 350)
        repeated = client.generate("sampler", 350, seed=chosen.seed)
    async with AsyncClient(server.address) as client:
        awaited = await client.generate("sampler", 350, seed=5)
    assert generated.values.shape == (350, 4)
    assert generated.seed == 5
    assert len(np.unique(generated.values, axis=0)) == 350
    for same in (again, awaited):
        np.testing.assert_array_equal(same.values, generated.values)
    np.testing.assert_array_equal(repeated.values, chosen.values)


def test_a_model_without_a_prior_generates_nothing(server: Serve) -> None:
    with Client(server.address) as client, pytest.raises(HourglassError) as refused:
        client.generate("plain", 3)
    assert refused.value.reason == "NO_PRIOR"


def test_the_program_generates_a_file(server: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "--model", "sampler", "--rows", "250", "--server", server.address]
    assert run([*command, "--seed", "5", "--out", str(tmp_path / "rows.csv")]) == 0
    assert "seed 5" in capsys.readouterr().out
    table = csv.read_csv(tmp_path / "rows.csv")
    assert table.column_names == ["a", "b", "c", "d"]
    with Client(server.address) as client:
        expected = client.generate("sampler", 250, seed=5).values
    np.testing.assert_allclose(np.column_stack([column.to_numpy() for column in table.columns]), expected, rtol=1e-6)
    assert run(command) == 0
    assert "the first rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "plain"], "without a prior"),
        (["--model", "sampler", "--rows", "0"], "no rows"),
        (["--model", "sampler", "--rows", "-1"], "not a whole number"),
        (["--model", "sampler", "--seed", "x"], "not a whole number"),
        (["--model", "sampler", "--out", "rows.txt"], ".parquet"),
    ],
)
def test_what_cannot_be_generated_is_one_line(
    server: Serve, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", "--server", server.address, *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
